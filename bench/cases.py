"""What is measured: one table of blocks, each a product of operations, shapes and grids.

To add a case is to add a line to `TABLE`; nothing else in the bench names a case.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

__all__ = ["OPERATIONS", "TABLE", "Block", "Case", "Shape", "select"]

Shape = tuple[int, int, int, int]  # (N, C, H, W), of the input

# The methods of an adapter in peers.py. "stn" is a whole transform: affine_grid, then grid_sample.
OPERATIONS = {
    "grid_sample": "grid_sample",
    "grid_sample_vjp": "grid_sample_vjp",
    "grid_sample_vjp_grid": "grid_sample_vjp, grid only",
    "affine_grid": "affine_grid",
    "affine_grid_vjp": "affine_grid_vjp",
    "stn": "affine_grid + grid_sample",
    "stn_fwd_bwd": "affine_grid + grid_sample, fwd + vjp",
}


@dataclass(frozen=True)
class Case:
    """One thing to time: an operation on arrays of one shape, read along one kind of grid."""

    section: str
    operation: str
    shape: Shape
    grid: str
    peers: tuple[str, ...]
    mode: str = "linear"
    padding: str = "zeros"
    dtype: str = "float32"
    channels: str = "first"
    coords: str = "normalized"
    out: bool = False

    @property
    def label(self) -> str:
        """The case within its section."""
        n, c, h, w = self.shape
        generator = self.operation.startswith("affine")
        size = f"{n}x{h}x{w}" if generator else f"{n}x{c}x{h}x{w}"
        unusual = [self.grid] * (not generator)
        if (self.mode, self.padding) != ("linear", "zeros"):
            unusual.append(f"{self.mode}-{self.padding}")
        if self.out:
            unusual.append("out=")
        return " ".join((OPERATIONS[self.operation], size, *unusual))

    @property
    def name(self) -> str:
        """The case among all: what ``--filter`` looks in and ``--list`` prints."""
        return f"{self.section}: {self.label}"

    @property
    def size(self) -> tuple[int, int]:
        """Spatial size of the output."""
        _, _, h, w = self.shape
        return (h // 4, w // 4) if self.grid == "down4" else (h, w)


@dataclass(frozen=True)
class Block:
    """A line of the table: every combination of its entries is a case."""

    section: str
    operations: tuple[str, ...]
    shapes: tuple[Shape, ...]
    grids: tuple[str, ...]
    peers: tuple[str, ...] = ("torch",)
    modes: tuple[str, ...] = ("linear-zeros",)
    dtype: str = "float32"
    channels: str = "first"
    coords: str = "normalized"
    out: bool = False
    quick: bool = False

    def cases(self) -> list[Case]:
        found = []
        for shape, kernel, grid, operation in product(self.shapes, self.modes, self.grids, self.operations):
            mode, padding = kernel.split("-")
            options = (mode, padding, self.dtype, self.channels, self.coords, self.out)
            found.append(Case(self.section, operation, shape, grid, self.peers, *options))
        return found


FORWARD, VJP, VJP_GRID = "grid_sample", "grid_sample_vjp", "grid_sample_vjp_grid"
BOTH, ALL = (FORWARD, VJP), (FORWARD, VJP, VJP_GRID)
AFFINE, STN = ("affine_grid", "affine_grid_vjp"), ("stn", "stn_fwd_bwd")

RGB, FEATURES, DIGITS = (8, 3, 256, 256), (32, 64, 56, 56), (128, 1, 28, 28)
FULL_HD, ULTRA_HD, ONE_DIGIT = (1, 3, 1080, 1920), (1, 3, 2160, 3840), (1, 1, 28, 28)
GREY, COLOUR = ((1, 1, 512, 512), (1, 1, 1080, 1920)), ((1, 3, 512, 512), (1, 3, 1080, 1920))
USUAL = (RGB, FEATURES, DIGITS, FULL_HD)

SMOOTH, WILD, SPARSE = ("jitter", "rot30"), ("random",), ("down4",)  # the grids: see arrays.py
OTHER_MODES = ("nearest-zeros", "linear-border", "linear-reflection")
LINEAR, OTHERS, LAST = "linear, zeros", "other modes, paddings", "channels last"
MAP = "image by a stored map, HWC"
PIXELS: dict[str, Any] = {"channels": "last", "coords": "pixel"}

TABLE = (
    Block(LINEAR, BOTH, USUAL, SMOOTH + WILD, quick=True),
    Block(LINEAR, (VJP_GRID,), USUAL, SMOOTH + WILD),
    Block(LINEAR, ALL, USUAL, SPARSE),
    Block(LINEAR, ALL, (ULTRA_HD,), SMOOTH + WILD + SPARSE),
    Block("into arrays given", BOTH, (RGB,), ("rot30",), out=True),
    Block(OTHERS, ALL, (RGB, FEATURES), ("rot30",), modes=OTHER_MODES),
    Block("float64", ALL, (RGB,), SMOOTH + WILD, dtype="float64"),
    Block(LAST, ALL, (FEATURES,), SMOOTH + WILD, channels="last"),
    Block("affine grid", AFFINE, (DIGITS, RGB, ULTRA_HD), ("rot30",), quick=True),
    Block("whole transform", STN, (DIGITS, RGB, FEATURES, ULTRA_HD), SMOOTH),
    Block("small call", (FORWARD, "stn"), (ONE_DIGIT,), ("rot30",)),
    Block(MAP, (FORWARD,), (GREY[1],), ("rot30",), ("opencv", "scipy"), **PIXELS, quick=True),
    Block(MAP, (FORWARD,), (GREY[1],), ("jitter",), ("opencv", "scipy"), **PIXELS),
    Block(MAP, (FORWARD,), (GREY[0],), SMOOTH, ("opencv", "scipy"), **PIXELS),
    Block(MAP, (FORWARD,), COLOUR, SMOOTH, ("opencv",), **PIXELS),
    Block("image by a matrix, HWC", ("stn",), GREY, SMOOTH, ("skimage",), channels="last"),
)


def select(quick: bool = False, substring: str = "") -> list[Case]:
    """The cases of the table, or the quick ones, whose name or peers contain `substring`.

    Section by section, and within one by shape, mode and grid, whichever block they come from.
    """
    cases = [case for block in TABLE if block.quick or not quick for case in block.cases()]
    sections = list(dict.fromkeys(case.section for case in cases))
    shapes = list(dict.fromkeys(case.shape for case in cases))
    grids = SMOOTH + WILD + SPARSE
    cases.sort(key=lambda c: (sections.index(c.section), shapes.index(c.shape), grids.index(c.grid)))
    return [case for case in cases if substring.lower() in f"{case.name} {' '.join(case.peers)}".lower()]
