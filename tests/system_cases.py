"""Systems with networks, away from kinks, in float64: what their derivatives and the adapters' are asked of."""

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from localizations import Linear, Tanh, rebuilt

import pystn
from pystn.transforms import TRANSFORMS, MatrixTransform, named

SIZES = {1: (9,), 2: (6, 7), 3: (4, 5, 4)}
BATCH, CHANNELS = 2, 2


class Wave:
    """A transform by a function: the lattice of a size, stretched by one parameter and bent by the other's square."""

    def __init__(self, size, array=np.asarray):
        lattice = pystn.affine_grid(np.eye(2, 3)[None], size)
        self.size, self.lattice = size, array(lattice)
        self.bend = array(np.sin(2 * lattice[..., ::-1]))

    def on(self, array):
        return Wave(self.size, array)

    def __call__(self, parameters):
        stretch, bend = (parameters[..., k][..., None, None, None] for k in (0, 1))
        return self.lattice * (1 + stretch) + self.bend * bend**2

    def vjp(self, grad_grid, parameters):
        bend = 2 * parameters[..., 1] * (grad_grid * self.bend).sum((-3, -2, -1))
        return np.stack([(grad_grid * self.lattice).sum((-3, -2, -1)), bend], -1)


class Shear:
    """A transform by a function of matrices: sheared along x by one parameter, along y by the other's square."""

    def __init__(self, array=np.asarray):
        self.still, self.x, self.y = array(np.eye(2, 3)), array(np.eye(2, 3, 1)), array(np.eye(2, 3, -1))

    def on(self, array):
        return Shear(array)

    def __call__(self, parameters):
        x, y = (parameters[..., k][..., None, None] for k in (0, 1))
        return self.still + self.x * x + self.y * y**2

    def vjp(self, grad, parameters):
        y = 2 * parameters[..., 1] * (grad * self.y).sum((-2, -1))
        return np.stack([(grad * self.x).sum((-2, -1)), y], -1)


SPLINE = pystn.ThinPlateSpline(pystn.control_points((3, 3)), (5, 6))
FREE_FORM = pystn.FreeFormDeformation((4, 4), SIZES[2])
WAVE = Wave((5, 6))
SHEAR = Shear()
STARTS = {id(WAVE): np.array([0.05, 0.3]), id(SHEAR): np.array([0.1, 0.4])}
WINDOW = MatrixTransform("attention", scale=0.5)
SIM2, SL3 = (MatrixTransform("exponential", group=group) for group in ("sim2", "sl3"))
WITH_OPTIONS = [
    MatrixTransform("attention", scale="anisotropic"),
    WINDOW,
    MatrixTransform("similarity", form="linear"),
    MatrixTransform("similarity", form="log2"),
    SIM2,
    SL3,
    *[MatrixTransform("exponential", group=group) for group in ("se2", "aff2", "se3", "sim3", "aff3")],
]
BY_MATRICES = [(transform, ndim) for transform in (*TRANSFORMS, *WITH_OPTIONS) for ndim in named(transform).counts]


def start(transform, ndim=2):
    """Parameters near which networks begin."""
    if id(transform) in STARTS:
        return STARTS[id(transform)]
    return pystn.identity_params(transform, ndim)


@dataclass(frozen=True)
class Case:
    """One system: its class by name, its transforms, and what else it is made with.

    `stages` has for each network its transform, the leading axes of its parameters and the size that it sees.
    """

    name: str
    system: str
    stages: list
    transform: Any
    options: dict = field(default_factory=dict)
    ndim: int = 2
    initial: Any = None
    single: bool = False  # whether the system takes one network, not a sequence

    def __str__(self):
        return self.name

    def image(self, seed=3):
        size = SIZES[self.ndim]
        last = self.options.get("channel_axis", 1) == -1
        shape = (BATCH, *size, CHANNELS) if last else (BATCH, CHANNELS, *size)
        return np.random.default_rng(seed).standard_normal(shape)

    def networks(self, kind=None):
        """Linear ones and such of two layers in turn, or all of one kind."""
        kinds = (Tanh, Linear) if kind is None else (kind,)
        return [
            kinds[k % len(kinds)](np.broadcast_to(begin, (*leading, len(begin))), CHANNELS * prod(size), seed=k)
            for k, (begin, leading, size) in enumerate(self.stages)
        ]

    def build(self, networks, module=pystn, array=np.asarray):
        """The system of a module, on arrays that `array` makes of NumPy's."""
        several = isinstance(self.transform, tuple)
        transforms = [t.on(array) if hasattr(t, "on") else t for t in (self.transform if several else [self.transform])]
        given = networks[0] if self.single else networks
        return getattr(module, self.system)(given, transforms if several else transforms[0], **self.options)

    def arguments(self):
        return () if self.initial is None else (self.initial,)

    def weights(self):
        return [network.weights for network in self.networks()]

    def with_weights(self, leaves):
        """Networks of other weights, in the order of `leaves`."""
        rest = iter(leaves)
        return [network.with_weights(rebuilt(network.weights, rest)) for network in self.networks()]


def single(name, transform, ndim=2, leading=(), **options):
    stage = start(transform, ndim), leading, SIZES[ndim]
    return Case(name, "SpatialTransformer", [stage], transform, {"mode": "cubic", **options}, ndim, single=True)


def parallel(name, transform, leading=None, count=2, **options):
    tiled = transform in ("attention", WINDOW)
    starts = pystn.tiled_params(count, transform) if tiled else [start(transform)] * count
    if leading is None:
        stages = [(begin, (), SIZES[2]) for begin in starts]
    else:
        stages = [(start(transform), leading, SIZES[2])]
    options = {"mode": "cubic", **options}
    return Case(name, "ParallelSpatialTransformer", stages, transform, options, single=leading is not None)


def cascade(name, transform, count=3, ndim=2, **options):
    several = isinstance(transform, tuple)
    sizes = {t.size for t in (transform if several else [transform]) if hasattr(t, "size")}
    size = options.get("size", sizes.pop() if sizes else SIZES[ndim])
    starts = [start(t, ndim) for t in (transform if several else [transform] * count)]
    stages = [(begin, (), SIZES[ndim] if k == 0 else size) for k, begin in enumerate(starts)]
    return Case(name, "CascadedSpatialTransformer", stages, transform, {"mode": "cubic", **options}, ndim)


def hierarchical(name, transform, sizes, **options):
    several = isinstance(transform, tuple)
    stages = [(start(transform[k] if several else transform), (), size) for k, size in enumerate(sizes)]
    return Case(name, "HierarchicalSpatialTransformer", stages, transform, {"mode": "cubic", **options})


def refining(name, transform, steps=3, ndim=2, initial=None, **options):
    size = options.get("size", getattr(transform, "size", SIZES[ndim]))
    options = {"mode": "cubic", "steps": steps, **options}
    stages = [(start(transform, ndim), (), size)]
    return Case(name, "InverseCompositionalSpatialTransformer", stages, transform, options, ndim, initial, True)


FRAME = np.array([[0.7, 0.05, 0.1], [0.0, 0.75, -0.05]])
AFFINE = np.eye(2, 3) + np.random.default_rng(5).uniform(-0.15, 0.15, (BATCH, 2, 3))
PROJECTIVE = np.eye(3) + np.random.default_rng(6).uniform(-0.1, 0.1, (BATCH, 3, 3))

CASES = [
    *[single(f"{name}-{ndim}d", name, ndim) for name, kind in TRANSFORMS.items() for ndim in kind.counts],
    single("attention-anisotropic", WITH_OPTIONS[0]),
    single("attention-fixed", WINDOW, ndim=3),
    single("similarity-linear", WITH_OPTIONS[2]),
    single("similarity-log2", WITH_OPTIONS[3], ndim=3),
    single("exponential", SIM2, leading=(2,)),
    single("exponential-projective", SL3, min_denominator=0.1),
    single("matrices", SHEAR, size=(4, 5)),
    single("spline", SPLINE),
    single("free-form", FREE_FORM),
    single("function", WAVE, size=(5, 6)),
    single("several", "affine", leading=(3,), size=(4, 5)),
    single("several-axes", "rigid", leading=(2, 2), size=(4, 5)),
    single("several-splines", SPLINE, leading=(2,)),
    single("several-functions", WAVE, leading=(2,)),
    single("last", "affine", channel_axis=-1, size=(4, 5)),
    single("parameters", "similarity", return_parameters=True),
    single("mask", "affine", return_mask=True, size=(4, 5)),
    single("mask-parameters", SPLINE, return_mask=True, return_parameters=True),
    single("linear", "affine", mode="linear", padding_mode="border"),
    single("aligned", "projective", align_corners=True),
    parallel("parallel-one", "affine", leading=(3,)),
    parallel("parallel-each", "attention", count=4, size=(3, 4)),
    parallel("parallel-windows", WINDOW, count=4, size=(3, 4)),
    parallel("parallel-matrices", SHEAR, count=2, size=(3, 4)),
    parallel("parallel-merged", "attention", count=3, size=(3, 4), merge=True),
    parallel("parallel-merged-last", "affine", (3,), size=(3, 4), merge=True, channel_axis=-1, return_parameters=True),
    parallel("parallel-last", "affine", count=2, channel_axis=-1),
    parallel("parallel-mask", "projective", count=2, merge=True, return_mask=True, return_parameters=True),
    parallel("parallel-spline", SPLINE, count=2, merge=True),
    parallel("parallel-function", WAVE, count=2),
    cascade("cascade", "affine"),
    cascade("cascade-1d", "affine", ndim=1, count=2),
    cascade("cascade-3d", "rigid", ndim=3, count=2),
    cascade("cascade-projective", "projective", size=(4, 5), return_mask=True, return_parameters=True),
    cascade("cascade-last", "rigid", size=(4, 5), channel_axis=-1, align_corners=True),
    cascade("cascade-names", ("rotation", "projective", "translation")),
    cascade("cascade-affine-spline", ("affine", SPLINE), return_mask=True),
    cascade("cascade-projective-spline", ("projective", SPLINE), min_denominator=0.5, cull_behind=True),
    cascade("cascade-spline-affine", (SPLINE, "affine")),
    cascade("cascade-spline-projective", (SPLINE, "projective"), min_denominator=0.5),
    cascade("cascade-families", (SPLINE, "rigid", WAVE, SPLINE), return_parameters=True),
    cascade("images", "affine", propagate="image", size=(5, 6)),
    cascade("images-mixed", ("similarity", SPLINE, WAVE), propagate="image", return_mask=True),
    hierarchical("hierarchical", "affine", [(2, 2), (3, 4), (6, 7)]),
    hierarchical("hierarchical-mixed", ("affine", "projective"), [(3, 2), (5, 4)], size=(5, 4), scales=(2, 1)),
    hierarchical("hierarchical-matrices", (SHEAR, SL3), [(3, 4), (6, 7)]),
    hierarchical("hierarchical-plain", "affine", [(2, 3), (6, 7)], scales=(3, 1), view_antialias=None),
    hierarchical("hierarchical-parameters", "affine", [(3, 4), (6, 7)], antialias="mipmap", return_parameters=True),
    refining("refining", "affine"),
    refining("refining-left", "affine", order="left", size=(4, 5)),
    refining("refining-inverse", "affine", invert_update=True),
    refining("refining-inverse-left", "projective", invert_update=True, order="left"),
    refining("refining-exponential", SIM2, invert_update=True, steps=2),
    refining("refining-matrices", SHEAR, order="left", invert_update=True, steps=2),
    refining(
        "refining-projective",
        "projective",
        initial=PROJECTIVE,
        frame=FRAME,
        order="left",
        return_mask=True,
        return_parameters=True,
    ),
    refining("refining-frame", "similarity", frame=FRAME, size=(4, 5), align_corners=True),
    refining("refining-initial", "affine", initial=AFFINE, channel_axis=-1),
    refining("refining-shared-initial", "affine", initial=AFFINE[:1], frame=FRAME, invert_update=True),
    refining("refining-spline", SPLINE, steps=2),
    refining("refining-spline-frame", SPLINE, steps=2, frame=FRAME, initial=AFFINE, return_parameters=True),
    refining("refining-spline-projective", SPLINE, steps=2, frame=FRAME, initial=PROJECTIVE),
    refining("refining-3d", "rigid", steps=2, ndim=3),
    refining("refining-one", "projective", steps=1, invert_update=True),
]

# One of every way that a system is put together.
FEW = [
    "several-functions",
    "mask-parameters",
    "parallel-merged-last",
    "parallel-mask",
    "cascade-families",
    "images-mixed",
    "hierarchical-matrices",
    "refining-projective",
    "refining-spline-frame",
]
