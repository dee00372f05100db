"""Entry points of flows of velocities that are affine in each of some cells: CPAB.

The structure is FlowJob of src/cuda/flows.cuh, field by field.
"""

from __future__ import annotations

from collections.abc import Sequence

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray
from pystn.backends.cuda.parts import POINT_PARTS, WARP, point_parts
from pystn.backends.cuda.source import launch
from pystn.typing import Array

__all__ = ["flow", "flow_vjp"]

C_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
SPACES = {1: "line", 2: "plane"}

BLOCK = 128
WAY_BYTES = 128 << 20  # of the ways that warps keep, as far as one of a block has room

# Numbers of 8 bytes that are kept of a step in two dimensions, of a cell in one, by ndim: for the gradient, and for its
# derivative. As Stop and SegmentStop have them.
KEPT = {1: (7, 8), 2: (2, 4)}

FLOW_JOB = np.dtype(
    [
        *((name, np.uintp) for name in ("start", "field", "d_field", "grid", "partial", "d_partial", "way")),
        ("parts", POINT_PARTS),
        ("steps", np.int64),
        ("cells", np.int64, 2),
    ],
    align=True,
)


def names() -> list[str]:
    """The name expression of every kernel of this module."""
    return [
        f"{space}_{kernel}<{real}, {flag}>"
        for space in SPACES.values()
        for kernel in ("flow", "flow_vjp")
        for real in C_TYPES.values()
        for flag in ("false", "true")
    ]


class FlowCall:
    """All arrays contiguous: start (points, ndim), field and its tangent of each of M, grid (M, points, ndim)."""

    def __init__(
        self,
        start: DeviceArray,
        field: DeviceArray,
        d_field: DeviceArray | None,
        grid: DeviceArray,
        cells: Sequence[int],
        steps: int,
    ) -> None:
        self.ndim, self.flag = len(cells), "false" if d_field is None else "true"
        self.real = C_TYPES[grid.dtype]
        self.job = job = np.zeros(1, FLOW_JOB)
        for name, array in (("start", start), ("field", field), ("d_field", d_field), ("grid", grid)):
            job[name] = 0 if array is None else array.data.ptr
        job["steps"] = steps
        job["cells"][0, : self.ndim] = cells

    def run(self, kernel: str, parts: Array, threads: int) -> None:
        self.job["parts"] = parts
        launch(f"{SPACES[self.ndim]}_{kernel}<{self.real}, {self.flag}>", threads, self.job, BLOCK)


def flow(
    start: DeviceArray,
    field: DeviceArray,
    d_field: DeviceArray | None,
    grid: DeviceArray,
    cells: Sequence[int],
    steps: int,
) -> None:
    """Fills the grid: where points arrive, or their tangents if d_field, that of the field, is not None."""
    count, points, _ = grid.shape
    call = FlowCall(start, field, d_field, grid, cells, steps)
    call.run("flow", point_parts(count, points), count * points)


def flow_vjp(
    start: DeviceArray,
    field: DeviceArray,
    d_field: DeviceArray | None,
    grad_grid: DeviceArray,
    cells: Sequence[int],
    steps: int,
) -> DeviceArray:
    """The gradient to the field (1, *its shape), in double; if d_field is not None its derivative along that, too."""
    count, points, ndim = grad_grid.shape
    call, rows = FlowCall(start, field, d_field, grad_grid, cells, steps), 1 if d_field is None else 2
    parts = point_parts(count, points, rows * field[0].size)
    tasks, kept = count * int(parts["count"]), KEPT[ndim][rows - 1] * WARP * (steps if ndim == 2 else cells[0])
    of_block = BLOCK // WARP
    blocks = max(1, min(-(-tasks // of_block), WAY_BYTES // (8 * kept * of_block)))
    way = cupy.empty(blocks * of_block * kept, np.float64)
    partial = cupy.zeros((rows, count, int(parts["count"]), *field.shape[1:]), np.float64)
    call.job["way"] = way.data.ptr
    call.job["partial"] = partial.data.ptr
    call.job["d_partial"] = partial[-1].data.ptr
    call.run("flow_vjp", parts, blocks * BLOCK)
    return partial.sum(axis=2)
