"""Every operation of the table `pystn.ops.OPERATIONS`, and every family, with arguments away from kinks, in float64."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import matrix_operations
import numpy as np
from families import FAMILIES, SIZES, parameters

import pystn


@dataclass(frozen=True)
class Case:
    """One call: ``draw(rng)`` gives its primals, ``options`` all else; `arrays` are options that are arrays."""

    name: str
    f: Any
    draw: Callable
    options: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)

    def __str__(self):
        return self.name

    @property
    def operation(self):
        return pystn.ops.operation(self.f)

    def primals(self, seed=0):
        return tuple(np.ascontiguousarray(array) for array in self.draw(np.random.default_rng(seed)))


def normalized(points, size):
    """Pixels (..., ndim) as normalized coordinates, x first."""
    lengths = np.array(size[::-1])
    return (2 * points + 1) / lengths - 1


def between(rng, shape, size):
    """Coordinates (*shape, ndim) in an image and a little beyond it, in the middle of cells."""
    cells = np.stack([rng.integers(-2, n + 1, shape) for n in size[::-1]], axis=-1)
    return normalized(cells + rng.uniform(0.2, 0.8, cells.shape), size)


def sampling(size, shape, batch=(2, 2), channels=2, channel_axis=1):
    def draw(rng):
        image = (batch[0], channels, *size) if channel_axis == 1 else (batch[0], *size, channels)
        return rng.standard_normal(image), between(rng, (batch[1], *shape), size)

    return draw


def splatting(size, shape, batch=(2, 2), channels=2):
    return lambda rng: (rng.standard_normal((batch[0], channels, *shape)), between(rng, (batch[1], *shape), size))


def warping(size, rows, leading=(2,), batch=2):
    ndim = len(size)

    def draw(rng):
        theta = np.eye(rows, ndim + 1) + rng.uniform(-0.2, 0.2, (*leading, rows, ndim + 1))
        if rows > ndim:
            theta[..., ndim, :ndim] *= 0.3
        return rng.standard_normal((batch, 2, *size)), theta

    return draw


def thetas(rows, columns, leading=(2,)):
    def draw(rng):
        theta = np.eye(rows, columns) + rng.uniform(-0.2, 0.2, (*leading, rows, columns))
        if rows == columns:
            theta[..., -1, :-1] *= 0.3
        return (theta,)

    return draw


def flow(*shape, scale=0.05):
    return lambda rng: (scale * rng.standard_normal(shape),)


def family(name):
    ndim, make = FAMILIES[name]
    made = make(pystn, SIZES[ndim][0], False)
    arrays = {state: getattr(made, state) for state in made.state} if name in WITH_STATE else {}
    return Case(name, made, lambda rng: (parameters(made, rng, (2,)),), {}, arrays)


def ramps(size, shape):
    """Images whose slopes are the same everywhere, where fitted ones are derivatives of the value too."""

    def draw(rng):
        slopes = rng.uniform(0.5, 1.0, (2, 2, len(size)))
        axes = np.meshgrid(*map(np.arange, size), indexing="ij")
        return np.tensordot(slopes, np.stack(axes), 1), rng.uniform(-0.4, 0.4, (2, *shape, len(size)))

    return draw


def uniform(low, high, *shapes):
    """One array of each shape."""
    return lambda rng: tuple(rng.uniform(low, high, shape) for shape in shapes)


def confidences(*shape):
    """Probabilities that do not sum to one, in the middle of five bins, the most probable ones in different bins."""

    def draw(rng):
        probabilities = rng.uniform(0.02, 0.18, shape)
        most = (0.2 * rng.integers(1, 5, shape[:-1]) + rng.uniform(0.02, 0.18, shape[:-1]))[..., None]
        return (
            np.where(np.arange(shape[-1]) == rng.integers(0, shape[-1], shape[:-1])[..., None], most, probabilities),
        )

    return draw


WITH_STATE = ("thin-plate-2d", "thin-plate-3d", "piecewise-nearest", "piecewise-affine")
TARGETS = np.random.default_rng(3).uniform(-0.9, 0.9, (5, 2))
SPLINE = pystn.ThinPlateSpline(pystn.control_points((2, 3)), targets=TARGETS)

CASES = [
    Case("grid_sample-1d", "grid_sample", sampling((7,), (5,))),
    Case("grid_sample-2d", "grid_sample", sampling((5, 6), (3, 4))),
    Case("grid_sample-3d", "grid_sample", sampling((4, 5, 6), (2, 3), batch=(1, 2)), {"mode": "cubic"}),
    Case(
        "grid_sample-cubic",
        "grid_sample",
        sampling((5, 6), (4,), batch=(2, 1)),
        {"mode": "cubic", "padding_mode": "wrap"},
    ),
    Case("grid_sample-last", "grid_sample", sampling((5, 6), (3, 4), channel_axis=-1), {"channel_axis": -1}),
    Case("grid_sample-mask", "grid_sample", sampling((5, 6), (3, 4)), {"return_mask": True}),
    Case(
        "grid_sample-fill",
        "grid_sample",
        sampling((5, 6), (3, 4)),
        {"padding_mode": "constant"},
        {"fill_value": np.array([0.5, -1.0])},
    ),
    Case(
        "grid_sample-sigma",
        "grid_sample",
        sampling((5, 6), (3,)),
        {"mode": pystn.Gaussian(0.7)},
        {"kernel": np.array(0.7)},
    ),
    Case(
        "grid_sample-table",
        "grid_sample",
        sampling((5, 6), (3,)),
        {"mode": ("linear", pystn.Tabulated((0.0, 0.3, 0.8, 0.4, 0.0), 1.5))},
        {"kernel": (None, np.array([0.0, 0.3, 0.8, 0.4, 0.0]))},
    ),
    Case(
        "grid_sample-supersample",
        "grid_sample",
        sampling((5, 6), (3, 4), batch=(2, 1)),
        {"antialias": pystn.Supersampling(2), "mode": "cubic"},
    ),
    Case("grid_sample-mipmap", "grid_sample", sampling((5, 6), (3, 4)), {"antialias": "mipmap", "return_mask": True}),
    Case("warp_affine-ewa", "warp_affine", warping((5, 6), 2), {"size": (2, 3), "antialias": "ewa"}),
    Case("linearized", "linearized_grid_sample", ramps((8, 9), (3, 2)), {"seed": 1, "spread": 0.2}),
    Case("normalized_grid_sample", "normalized_grid_sample", sampling((5, 6), (3, 4)), {"eps": 0.1}),
    Case(
        "normalized_grid_sample-all",
        "normalized_grid_sample",
        sampling((5, 6), (3,), channel_axis=-1),
        {"mode": pystn.Gaussian(0.7), "channel_axis": -1, "eps": 0.1, "return_mask": True},
        {
            "fill_value": np.array([0.5, -1.0]),
            "kernel": np.array(0.7),
            "mask": np.random.default_rng(6).uniform(0.3, 1.5, (2, 5, 6)),
        },
    ),
    Case("out_of_bounds_penalty", "out_of_bounds_penalty", flow(2, 3, 2, scale=2.0)),
    Case("grid_gradient", "grid_gradient", sampling((5, 6), (3, 4)), {"mode": "cubic"}),
    Case("grid_push", "grid_push", splatting((5, 6), (3, 4)), {"size": (5, 6)}),
    Case(
        "grid_push-3d",
        "grid_push",
        splatting((4, 5, 6), (3,), batch=(1, 2)),
        {"size": (2, 2, 4, 5, 6), "mode": "cubic"},
    ),
    Case("grid_count", "grid_count", lambda rng: (between(rng, (2, 3, 4), (5, 6)),), {"size": (5, 6)}),
    Case("forward_warp", "forward_warp", splatting((5, 6), (6, 6)), {"size": (5, 6), "eps": 0.1}),
    Case("spline_filter", "spline_filter", lambda rng: (rng.standard_normal((2, 2, 5, 6)),), {"order": 3}),
    Case("warp_affine-1d", "warp_affine", warping((7,), 1), {"size": (5,)}),
    Case("warp_affine-2d", "warp_affine", warping((5, 6), 2, (2, 3)), {"size": (4, 3)}),
    Case("warp_affine-shared", "warp_affine", warping((5, 6), 2, (2,), 1), {"size": (2, 2, 4, 3), "return_mask": True}),
    Case("warp_affine-3d", "warp_affine", warping((4, 5, 6), 3, (1,)), {"size": (3, 4, 2), "mode": "cubic"}),
    Case(
        "warp_affine-fill",
        "warp_affine",
        warping((5, 6), 2),
        {"size": (4, 3), "padding_mode": "constant"},
        {"fill_value": np.array(0.5)},
    ),
    Case("warp_projective", "warp_projective", warping((5, 6), 3), {"size": (4, 3), "padding_mode": "border"}),
    *[
        Case(f"warp_project-{reduce}", "warp_project", warping((4, 5, 6), 3), {"size": (3, 4, 2), "reduce": reduce})
        for reduce in ("sum", "mean", "max")
    ],
    *[Case(f"affine_grid-{n}d", "affine_grid", thetas(n, n + 1, (2, 2)), {"size": (4, 5, 6)[:n]}) for n in (1, 2, 3)],
    Case("affine_grid-full", "affine_grid", thetas(2, 3), {"size": (2, 3, 4, 5), "align_corners": True}),
    Case("projective_grid", "projective_grid", thetas(3, 3), {"size": (4, 5)}),
    Case(
        "linear_grid", "linear_grid", lambda rng: (rng.standard_normal((2, 3, 2, 4)), rng.standard_normal((1, 4, 5, 6)))
    ),
    Case(
        "linear_grid-homogeneous",
        "linear_grid",
        lambda rng: (
            np.eye(3) + 0.1 * rng.standard_normal((2, 3, 3)),
            np.concatenate([rng.uniform(-1, 1, (2, 2, 5)), np.ones((2, 1, 5))], axis=1),
        ),
        {"homogeneous": True},
    ),
    Case("displacement_grid", "displacement_grid", flow(2, 4, 5, 2)),
    Case("displacement_grid-first", "displacement_grid", flow(2, 2, 4, 5), {"channel_axis": 1}),
    Case("invert_displacement", "invert_displacement", flow(2, 4, 5, 2)),
    Case(
        "compose_grids",
        "compose_grids",
        lambda rng: (between(rng, (2, 4, 5), (4, 5)), between(rng, (1, 3, 6), (4, 5))),
    ),
    Case("jacobian_determinant", "jacobian_determinant", flow(2, 4, 5, 2)),
    Case("triplet_hinge", "triplet_hinge", uniform(-1, 1, (4,), (3, 4), (2, 1, 4))),
    Case("colocalization_loss", "colocalization_loss", uniform(-1, 1, (2, 4, 3), (2, 4, 3)), {"margin": 0.5}),
    Case("normal_kl", "normal_kl", uniform(0.5, 1.5, (2, 3), (3,), (2, 1), ())),
    Case("gamma_kl", "gamma_kl", uniform(0.5, 1.5, (2, 3), (3,)), {"alpha": 1.5}),
    Case("log_mean_exp", "log_mean_exp", uniform(-3, 1, (2, 3))),
    Case("log_mean_exp-axis", "log_mean_exp", uniform(-3, 1, (2, 3, 2)), {"axis": 1}),
    Case("identity_penalty", "identity_penalty", thetas(2, 3, (2, 2))),
    Case(
        "expected_calibration_error",
        "expected_calibration_error",
        confidences(2, 6, 3),
        {"labels": (0, 1, 2, 1, 0, 2), "bins": 5},
    ),
    Case("brier_score", "brier_score", confidences(2, 4, 3), {"labels": (0, 1, 2, 1)}),
    Case("scale_gradient", "scale_gradient", uniform(-1, 1, (2, 3)), {"factor": 1.0}),  # else no derivative
    *[
        Case(str(row), row.name, lambda rng, row=row: row.draw(rng, (2,)), row.options)
        for row in matrix_operations.OPERATIONS
    ],
    *[family(name) for name in FAMILIES],
    Case(
        "thin-plate-targets",
        SPLINE,
        lambda rng: (parameters(SPLINE, rng, (2, 2)),),
        {},
        {"points": SPLINE.points, "targets": TARGETS},
    ),
]
