"""What is measured: one table of blocks, each a product of operations, shapes, kernels and grids.

To add a case is to add a line to `TABLE`; nothing else in the bench names a case. A case that two
blocks have is one case, with the peers of both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

__all__ = ["GRIDS", "OPERATIONS", "TABLE", "Block", "Case", "Kernel", "Shape", "select"]

# (N, C, *spatial) of the input, wherever its channels are; of a spline C are its points, of CPAB its cells.
Shape = tuple[int, ...]
Kernel = tuple[str, str]  # mode and padding; the modes: see Pystn in peers.py

# The methods of an adapter in peers.py. A warp is a whole transform: the grid of theta, and its samples.
OPERATIONS = {
    "grid_sample": "grid_sample",
    "grid_sample_vjp": "grid_sample_vjp",
    "grid_sample_vjp_grid": "grid_sample_vjp, grid only",
    "grid_sample_jvp": "grid_sample_jvp",
    "grid_sample_vjp2": "grid_sample_vjp2",
    "affine_grid": "affine_grid",
    "affine_grid_vjp": "affine_grid_vjp",
    "projective_grid": "projective_grid",
    "projective_grid_vjp": "projective_grid_vjp",
    "thin_plate": "ThinPlateSpline",
    "thin_plate_vjp": "ThinPlateSpline, vjp",
    "piecewise": "PiecewiseAffine",
    "piecewise_vjp": "PiecewiseAffine, vjp",
    "flow": "CPAB",
    "flow_vjp": "CPAB, vjp",
    "warp_affine": "warp_affine",
    "warp_affine_fwd_bwd": "warp_affine, fwd + vjp",
    "warp_projective": "warp_projective",
    "warp_project": "warp_project, sum",
    "warp_project_fwd_bwd": "warp_project, sum, fwd + vjp",
    "training_step": "training step",
}

# Where the samples lie, see arrays.py, and how many there are on each axis for one pixel of the input.
GRIDS = {"jitter": 1.0, "rot30": 1.0, "random": 1.0, "down4": 0.25, "up2": 2.0}


@dataclass(frozen=True)
class Case:
    """One thing to time: an operation on arrays of one shape, read along one kind of grid."""

    section: str
    operation: str
    shape: Shape
    grid: str
    peers: tuple[str, ...] = field(default=(), compare=False)
    mode: str = "linear"
    padding: str = "zeros"
    dtype: str = "float32"
    channels: str = "first"
    coords: str = "normalized"
    out: bool = False
    wide_grid: bool = False  # of float64, whatever the image is of

    @property
    def label(self) -> str:
        """The case within its section."""
        generator, family = self.operation.startswith((*GRID, *HOMOGRAPHY)), self.operation in (*PLATE, *PIECES, *FLOW)
        shape = (self.shape[0], *self.spatial) if generator or family else self.shape
        words = [OPERATIONS[self.operation], "x".join(map(str, shape))]
        made_of = "cells" if self.operation in FLOW else "points"
        words += [f"{self.shape[1]} {made_of}"] * family + [self.grid] * (not generator and not family)
        words += [word for word, usual in ((self.mode, "linear"), (self.padding, "zeros")) if word != usual]
        words += [self.dtype] * (self.dtype != "float32") + ["out="] * self.out + ["float64 grid"] * self.wide_grid
        return " ".join(words)

    @property
    def name(self) -> str:
        """The case among all: what ``--filter`` looks in and ``--list`` prints."""
        return f"{self.section}: {self.label}"

    @property
    def spatial(self) -> Shape:
        """Spatial size of the input."""
        return self.shape[2:]

    @property
    def ndim(self) -> int:
        return len(self.spatial)

    @property
    def size(self) -> Shape:
        """Spatial size of the grid: where the input is read."""
        return tuple(max(1, int(n * GRIDS[self.grid])) for n in self.spatial)

    @property
    def input_shape(self) -> Shape:
        return self.laid_out(self.spatial)

    @property
    def output_shape(self) -> Shape:
        projected = self.operation.startswith("warp_project_") or self.operation == "warp_project"
        return self.laid_out(self.size[1:] if projected else self.size)

    def laid_out(self, spatial: Shape) -> Shape:
        n, c = self.shape[:2]
        return (n, *spatial, c) if self.channels == "last" else (n, c, *spatial)

    @property
    def coordinates(self) -> str:
        """dtype of grids and transforms."""
        return "float64" if self.dtype == "float64" or self.wide_grid else "float32"


@dataclass(frozen=True)
class Block:
    """A line of the table: every combination of its entries is a case."""

    section: str
    operations: tuple[str, ...]
    shapes: tuple[Shape, ...]
    grids: tuple[str, ...]
    peers: tuple[str, ...] = ("torch",)
    kernels: tuple[Kernel, ...] = (("linear", "zeros"),)
    dtypes: tuple[str, ...] = ("float32",)
    channels: str = "first"
    coords: str = "normalized"
    out: bool = False
    wide_grid: bool = False
    quick: bool = False

    def cases(self) -> list[Case]:
        found = []
        entries = (self.shapes, self.dtypes, self.kernels, self.grids, self.operations)
        for shape, dtype, (mode, padding), grid, operation in product(*entries):
            options = (mode, padding, dtype, self.channels, self.coords, self.out, self.wide_grid)
            found.append(Case(self.section, operation, shape, grid, self.peers, *options))
        return found


FORWARD, VJP, VJP_GRID = "grid_sample", "grid_sample_vjp", "grid_sample_vjp_grid"
BOTH, ALL = (FORWARD, VJP), (FORWARD, VJP, VJP_GRID)
SECOND = ("grid_sample_jvp", "grid_sample_vjp2")
GRID, AFFINE = ("affine_grid", "affine_grid_vjp"), ("warp_affine", "warp_affine_fwd_bwd")
HOMOGRAPHY = ("projective_grid", "projective_grid_vjp")
PLATE, PIECES = ("thin_plate", "thin_plate_vjp"), ("piecewise", "piecewise_vjp")
FLOW = ("flow", "flow_vjp")
STEP = ("training_step",)
PROJECT = ("warp_project", "warp_project_fwd_bwd")
REMAP, BY_MATRIX, BY_PROJECTION = (FORWARD,), ("warp_affine",), ("warp_projective",)

RGB, FEATURES, DIGITS = (8, 3, 256, 256), (32, 64, 56, 56), (128, 1, 28, 28)
FULL_HD, ULTRA_HD = (1, 3, 1080, 1920), (1, 3, 2160, 3840)
USUAL = (RGB, FEATURES, DIGITS, FULL_HD)
DIGIT, FOUR_PIXELS = (1, 1, 28, 28), (1, 1, 2, 2)
VOLUME, VOLUMES = (1, 1, 128, 128, 128), (1, 32, 64, 64, 64)
SIGNAL, SIGNALS = (64, 1, 16384), (32, 64, 1024)
PLATES = ((8, 16, 256, 256), (8, 64, 256, 256), (128, 16, 28, 28), (128, 64, 28, 28), (1, 16, 1080, 1920))
FLOWS = ((64, 9, 29, 31), (1, 16, 512, 512))  # no pixel on a diagonal of a cell that rounding puts to either side
GREY, COLOUR = ((1, 1, 512, 512), (1, 1, 1080, 1920)), ((1, 3, 512, 512), FULL_HD)
IMAGES = tuple((1, c, h, w) for h, w in ((512, 512), (1080, 1920), (2160, 3840)) for c in (1, 3, 4))

SMOOTH, TURNED, EVERY = ("jitter", "rot30"), ("rot30",), ("jitter", "rot30", "random")  # grids

LINEAR, CUBIC, KEYS, SPLINE = ("linear", "zeros"), ("cubic", "zeros"), ("keys", "zeros"), ("spline3", "mirror")
OTHERS = (("nearest", "zeros"), CUBIC, ("linear", "border"), ("linear", "reflection"))

FILLED = (("linear", "constant"), ("nearest", "constant"))
WIDE = (("lanczos4", "zeros"),)
BORDERS = (("linear", "border"), ("linear", "mirror"), ("linear", "wrap"), ("cubic", "border"), ("cubic", "mirror"))

# What the libraries for images are asked for. scikit-image has cubics of its own, SciPy only splines.
PIXELS: dict[str, Any] = {"channels": "last", "coords": "pixel"}
OPENCV = {**PIXELS, "peers": ("opencv",), "dtypes": ("uint8", "float32")}
SCIPY: dict[str, Any] = {"coords": "pixel", "peers": ("scipy",), "kernels": (LINEAR, SPLINE)}
SKIMAGE = {**PIXELS, "peers": ("skimage",), "kernels": (LINEAR, KEYS)}
SIXTEEN = {**OPENCV, "dtypes": ("int16", "uint16")}
BY_MAP, BY_THETA = "image by a stored map, HWC", "image by a matrix, HWC"

TABLE = (
    Block("linear, zeros", BOTH, (RGB, FEATURES), EVERY, quick=True),
    Block("linear, zeros", BOTH, (DIGITS, FULL_HD), TURNED, quick=True),
    Block("linear, zeros", ALL, (*USUAL, ULTRA_HD), tuple(GRIDS)),
    Block("into arrays given", BOTH, (RGB,), TURNED, out=True),
    Block("into arrays given", GRID[:1], (RGB, DIGITS, ULTRA_HD), TURNED, out=True),
    Block("whole transform", AFFINE, (RGB, FEATURES, DIGITS), TURNED, quick=True),
    Block("whole transform", AFFINE[:1], (ULTRA_HD,), TURNED, quick=True),
    Block("whole transform", AFFINE, (*USUAL, ULTRA_HD, VOLUME, VOLUMES), SMOOTH),
    Block("in a network", STEP, ((64, 1, 28, 28), (64, 3, 96, 96)), TURNED, quick=True),
    Block("affine grid", GRID, (RGB,), TURNED, quick=True),
    Block("affine grid", GRID, (RGB, FEATURES, DIGITS, ULTRA_HD, VOLUME), TURNED),
    Block("projective grid", HOMOGRAPHY, (RGB, DIGITS, ULTRA_HD), TURNED),
    Block("thin plate spline", PLATE, PLATES[:2], SMOOTH[:1], ("torch", "numpy"), quick=True),
    Block("thin plate spline", PLATE, PLATES, SMOOTH[:1], ("torch", "numpy")),
    Block("piecewise affine", PIECES, PLATES, SMOOTH[:1], ("torch", "scipy")),
    Block("flow of cells", FLOW, FLOWS, SMOOTH[:1]),
    Block("other modes, paddings", BOTH, (RGB,), TURNED, kernels=OTHERS, quick=True),
    Block("other modes, paddings", BOTH, (RGB, FEATURES), TURNED, kernels=OTHERS),
    Block("channels last", BOTH, (RGB, FEATURES), TURNED, channels="last", quick=True),
    Block("channels last", ALL, (FEATURES,), EVERY, channels="last"),
    Block("channels last", AFFINE, (FEATURES,), SMOOTH, channels="last"),
    Block("volumes", BOTH, (VOLUME,), TURNED, quick=True),
    Block("volumes", BOTH, (VOLUME, VOLUMES), SMOOTH),
    Block("volumes, projected", PROJECT[:1], (VOLUME,), TURNED, quick=True),
    Block("volumes, projected", PROJECT, (VOLUME, VOLUMES), TURNED),
    Block("signals", BOTH, (SIGNAL,), ("jitter",), quick=True),
    Block("signals", BOTH, (SIGNAL, SIGNALS), ("jitter", "random")),
    Block("jvp, second order", SECOND[:1], (RGB,), TURNED, quick=True),
    Block("jvp, second order", SECOND, (RGB, FEATURES), TURNED, kernels=(LINEAR, CUBIC)),
    Block("float64", BOTH, (RGB,), TURNED, dtypes=("float64",), quick=True),
    Block("float64", BOTH, USUAL, SMOOTH, dtypes=("float64",)),
    Block("float64", GRID + AFFINE, (RGB,), TURNED, dtypes=("float64",)),
    Block("small call", (FORWARD, *BY_MATRIX), (DIGIT,), TURNED, quick=True),
    Block("small call", (*BOTH, *GRID, *AFFINE), (DIGIT, FOUR_PIXELS), TURNED),
    Block(BY_MAP, REMAP, (FULL_HD,), TURNED, **OPENCV, quick=True),
    Block(BY_MAP, REMAP, GREY[1:], TURNED, ("opencv", "scipy"), **PIXELS, quick=True),
    Block(BY_MAP, REMAP, IMAGES, SMOOTH, kernels=(LINEAR, CUBIC), **OPENCV),
    Block(BY_MAP, REMAP, GREY, TURNED, channels="last", **SCIPY),
    Block(BY_THETA, BY_MATRIX, (FULL_HD,), TURNED, **OPENCV, quick=True),
    Block(BY_THETA, BY_MATRIX, GREY[1:], TURNED, ("opencv", "scipy", "skimage"), **PIXELS, quick=True),
    Block(BY_THETA, BY_MATRIX, (GREY[0], FULL_HD), TURNED, kernels=(CUBIC,), **OPENCV, quick=True),
    Block(BY_THETA, BY_MATRIX, IMAGES, SMOOTH, kernels=(LINEAR, CUBIC), **OPENCV),
    Block(BY_THETA, BY_MATRIX, GREY, TURNED, channels="last", **SCIPY),
    Block(BY_THETA, BY_MATRIX, GREY + COLOUR, TURNED, **SKIMAGE),
    Block(BY_THETA, BY_PROJECTION, GREY[1:], TURNED, ("opencv", "skimage"), **PIXELS, quick=True),
    Block(BY_THETA, BY_PROJECTION, GREY + COLOUR, SMOOTH, kernels=(LINEAR, CUBIC), **OPENCV),
    Block("volume by map or matrix", REMAP + BY_MATRIX, (VOLUME,), TURNED, **SCIPY),
    Block("volume by map or matrix", REMAP, (VOLUME,), TURNED, **{**SCIPY, "kernels": (LINEAR,), "dtypes": ("int16",)}),
    Block(BY_MAP, REMAP, GREY, TURNED, channels="last", wide_grid=True, **{**SCIPY, "kernels": (LINEAR,)}),
    Block("other types, HWC", BY_MATRIX, (FULL_HD,), TURNED, **SIXTEEN, quick=True),
    Block("other types, HWC", BY_MATRIX, GREY + COLOUR, TURNED, kernels=(LINEAR, CUBIC), **SIXTEEN),
    Block("labels, HWC", REMAP, GREY, TURNED, kernels=OTHERS[:1], **OPENCV, quick=True),
    Block("labels, HWC", REMAP, GREY + COLOUR, TURNED, kernels=OTHERS[:1], **OPENCV),
    Block("labels, HWC", REMAP, GREY + COLOUR, TURNED, kernels=OTHERS[:1], **SIXTEEN),
    Block("other borders, HWC", BY_MATRIX, (FULL_HD,), TURNED, kernels=FILLED[:1], **OPENCV, quick=True),
    Block("other borders, HWC", BY_MATRIX, GREY + COLOUR, TURNED, kernels=FILLED[:1] + BORDERS, **OPENCV),
    Block("matrix of float64, HWC", BY_MATRIX, (GREY[0], FULL_HD), TURNED, wide_grid=True, **OPENCV, quick=True),
    Block(
        "matrix of float64, HWC", BY_MATRIX, GREY + COLOUR, TURNED, kernels=(LINEAR, CUBIC), wide_grid=True, **OPENCV
    ),
    Block("wide kernels, HWC", BY_MATRIX, GREY + COLOUR, TURNED, kernels=WIDE, **OPENCV),
    Block("halves", BOTH, (RGB, FEATURES), TURNED, dtypes=("float16",)),
)


def select(quick: bool = False, substring: str = "") -> list[Case]:
    """The cases of the table, or the quick ones, whose name or peers contain `substring`.

    Section by section, and within one in order of shape, whichever block they come from.
    """
    found: dict[Case, Case] = {}
    for case in (case for block in TABLE if block.quick or not quick for case in block.cases()):
        known = found.get(case, case)
        found[case] = replace(known, peers=tuple(dict.fromkeys(known.peers + case.peers)))
    sections, grids, operations = list(dict.fromkeys(case.section for case in found)), [*GRIDS], [*OPERATIONS]

    def order(case: Case) -> tuple[Any, ...]:
        kernel = (case.mode != "linear", case.padding != "zeros", case.mode, case.padding)
        grid, operation = grids.index(case.grid), operations.index(case.operation)
        return sections.index(case.section), case.shape, case.dtype, kernel, grid, operation

    cases = sorted(found.values(), key=order)
    return [case for case in cases if substring.lower() in f"{case.name} {' '.join(case.peers)}".lower()]
