"""The operations on small matrices as a table: arguments away from kinks and singularities, and their options."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

import pystn

# Affine in their primals, or piecewise: these have no second order.
FLAT = {
    "attention_matrix",
    "lie_generator",
    "lie_parameters",
    "normalized_to_pixel",
    "pixel_to_normalized",
    "projective_matrix",
    "theta_to_box",
    "translation_matrix",
}


@dataclass(frozen=True)
class Operation:
    """One operation with its options; ``draw(rng, leading)`` gives its primals in float64."""

    name: str
    draw: Callable
    options: dict = field(default_factory=dict)
    binary: bool = False  # two primals, whose leading axes broadcast, and `wrt`
    fallible: bool = False  # is not defined on zeros

    def __str__(self):
        return "-".join([self.name, *[str(value) for value in self.options.values()]])

    @property
    def curved(self):
        return self.name not in FLAT

    def value(self, *primals):
        return getattr(pystn, self.name)(*primals, **self.options)

    def vjp(self, cotangent, *primals, **more):
        return getattr(pystn, f"{self.name}_vjp")(cotangent, *primals, **self.options, **more)

    def jvp(self, *primals_and_tangents):
        return getattr(pystn, f"{self.name}_jvp")(*primals_and_tangents, **self.options)

    def vjp2(self, *tangents_cotangent_and_primals, **more):
        return getattr(pystn, f"{self.name}_vjp2")(*tangents_cotangent_and_primals, **self.options, **more)


def params(count):
    return lambda rng, leading: (rng.uniform(0.2, 1.2, (*leading, count)) * rng.choice([-1, 1], (*leading, count)),)


def theta(rng, leading, rows, columns):
    """Diagonally dominant: eigenvalues in the right half plane."""
    return np.eye(rows, columns) + rng.uniform(-0.3, 0.3, (*leading, rows, columns))


def matrix(rows, columns):
    return lambda rng, leading: (theta(rng, leading, rows, columns),)


def generator(rows, columns):
    return lambda rng, leading: (rng.uniform(-1, 1, (*leading, rows, columns)),)


def pair(first, second):
    return lambda rng, leading: (theta(rng, leading, *first), theta(rng, leading, *second))


def points(rng, leading):
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    return tuple(corners + rng.uniform(-0.4, 0.4, (*leading, 4, 2)) for _ in range(2))


def boxes(ndim):
    """That overlap."""

    def draw(rng, leading):
        return tuple(rng.uniform(0.1, 1, (*leading, 2 * ndim)) * ([-1] * ndim + [1] * ndim) for _ in range(2))

    return draw


def sizes(ndim, align_corners=False):
    return {"input_size": (7, 8, 9)[:ndim], "output_size": (4, 5, 6)[:ndim], "align_corners": align_corners}


AFFINE = [(1, 2), (2, 3), (3, 4)]
MATRICES = [*AFFINE, (3, 3)]
LIE = {"se2": 3, "sim2": 4, "aff2": 6, "sl3": 8, "se3": 6, "sim3": 7, "aff3": 12}

OPERATIONS = [
    *[Operation("translation_matrix", params(n)) for n in (1, 2, 3)],
    *[Operation("attention_matrix", params(n + 1)) for n in (1, 2, 3)],
    *[Operation("attention_matrix", params(2 * n), {"scale": "anisotropic"}) for n in (1, 2, 3)],
    *[Operation("attention_matrix", params(n), {"scale": 0.5}) for n in (1, 2, 3)],
    *[Operation("rotation_matrix", params(p), fallible=p == 4) for p in (1, 3, 4)],
    *[Operation("rigid_matrix", params(p), fallible=p == 7) for p in (3, 6, 7)],
    *[Operation("similarity_matrix", params(p), fallible=p == 8) for p in (4, 7, 8)],
    *[Operation("similarity_matrix", params(p), {"form": "log2"}, fallible=p == 8) for p in (4, 7, 8)],
    Operation("similarity_matrix", params(4), {"form": "linear"}),
    *[Operation("pstn_affine_matrix", params(p)) for p in (4, 5)],
    Operation("projective_matrix", params(8)),
    Operation("affine_matrix", params(6)),
    Operation("decompose_affine", matrix(2, 3), fallible=True),
    *[
        Operation("compose", pair(*shapes), {"order": order}, binary=True)
        for shapes in [*[(shape, shape) for shape in MATRICES], ((2, 3), (3, 3)), ((3, 3), (2, 3))]
        for order in ("right", "left")
    ],
    *[
        Operation("compose", pair(*shapes), {"order": order, "normalize": True}, binary=True, fallible=True)
        for shapes in [((3, 3), (3, 3)), ((2, 3), (3, 3))]
        for order in ("right", "left")
    ],
    *[Operation("invert", matrix(*shape), fallible=True) for shape in MATRICES],
    *[Operation("expm", generator(*shape)) for shape in [*MATRICES, (1, 1), (2, 2), (4, 4)]],
    *[Operation("logm", matrix(*shape), fallible=True) for shape in [*MATRICES, (1, 1), (2, 2), (4, 4)]],
    *[Operation("lie_generator", params(count), {"group": group}) for group, count in LIE.items()],
    *[Operation("lie_parameters", generator(int(g[-1]), int(g[-1]) + (g != "sl3")), {"group": g}) for g in LIE],
    Operation("homography_from_points", points, binary=True, fallible=True),
    *[Operation("theta_to_box", matrix(*shape)) for shape in AFFINE],
    *[Operation("box_iou", boxes(ndim), binary=True) for ndim in (1, 2, 3)],
    *[
        Operation(name, matrix(*shape), sizes(shape[1] - 1, aligned))
        for name in ("normalized_to_pixel", "pixel_to_normalized")
        for shape in MATRICES
        for aligned in (False, True)
    ],
]
