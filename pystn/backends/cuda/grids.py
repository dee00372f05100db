"""Entry points of grids that matrices make."""

from __future__ import annotations

from itertools import product

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray, integer_for, readable, stride_of
from pystn.backends.cuda.source import launch

__all__ = [
    "affine_grid",
    "affine_grid_vjp",
    "lattice_row_chunks",
    "linear_grid",
    "linear_grid_vjp",
    "projective_grid",
    "projective_grid_vjp",
]

C_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
INTEGERS = ("int", "long long")

# As in grids.cuh.
BLOCK_PIXELS = {1: 256, 2: 128, 3: 64, 4: 64}
MOST_TILE_ROWS = 256
LINEAR_STEPS, LINEAR_POINTS = 4, 2048

TOGETHER = (1, 4)  # matrices that share what is read of a basis
THREAD_PIXELS = 16  # of a lattice, so that what a row and a block's sum cost is shared by many

LATTICE_JOB = np.dtype(
    [
        ("theta", np.uintp),
        ("d_theta", np.uintp),
        ("grid", np.uintp),
        ("partial", np.uintp),
        ("count", np.int64),
        ("size", np.int64, 3),
        ("rows", np.int64),
        ("grid_matrix", np.int64),
        ("grid_axis", np.int64, 3),
        ("grid_component", np.int64),
        ("tile_columns", np.int64),
        ("tile_rows", np.int64),
        ("least_denominator", np.float64),
        *((name, np.int32) for name in ("lanes", "align_corners", "cull_behind", "unused")),
    ],
    align=True,
)

LINEAR_JOB = np.dtype(
    [
        ("theta", np.uintp),
        ("basis", np.uintp),
        ("grid", np.uintp),
        ("partial", np.uintp),
        ("bases", np.int64),
        ("per_basis", np.int64),
        ("functions", np.int64),
        ("points", np.int64),
    ],
    align=True,
)


def names() -> list[str]:
    """The name expression of every kernel of this module."""
    lattices = [
        f"{kernel}<{real}, {ndim}, {integer}>"
        for kernel, real, ndim, integer in product(
            ("affine_grid", "affine_grid_vjp"), C_TYPES.values(), (1, 2, 3), INTEGERS
        )
    ]
    linear = [
        f"{kernel}<{real}, {rows}, {together}, {integer}>"
        for kernel, real, rows, together, integer in product(
            ("linear_grid", "linear_grid_vjp"), C_TYPES.values(), (1, 2, 3, 4), TOGETHER, INTEGERS
        )
    ]
    projective = [
        f"{kernel}<{real}, {integer}>"
        for kernel, real, integer in product(("projective_grid", "projective_grid_vjp"), C_TYPES.values(), INTEGERS)
    ]
    return lattices + projective + linear


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def power_of_two_from(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


class LatticeCall:
    """A grid (M, *size, ndim) cut into tiles, for kernels that cut it at matrices and for those that do not."""

    def __init__(self, grid: DeviceArray, align_corners: bool, rows_of_all: bool) -> None:
        self.ndim = grid.ndim - 2
        count, columns = grid.shape[0], grid.shape[self.ndim]
        rows = int(np.prod(grid.shape[1 : self.ndim]))
        together = rows * count if rows_of_all else rows
        pixels = BLOCK_PIXELS[self.ndim]
        lanes = min(32, power_of_two_from(columns))
        if together < pixels // lanes:
            lanes = pixels // power_of_two_from(together)
        down = min(THREAD_PIXELS, ceil_div(together, pixels // lanes), MOST_TILE_ROWS * lanes // pixels)
        along = min(THREAD_PIXELS // down, ceil_div(columns, lanes))
        tile_rows, tile_columns = pixels // lanes * down, lanes * along
        self.tiles = ceil_div(together, tile_rows) * ceil_div(columns, tile_columns)
        self.block = pixels * self.ndim
        self.integer = integer_for(2 * count * rows * columns * self.ndim)  # tiles go beyond the grid
        self.real = C_TYPES[grid.dtype]
        self.job = job = np.zeros(1, LATTICE_JOB)
        strides = [stride_of(grid, axis) for axis in range(grid.ndim)]
        job["grid"] = grid.data.ptr
        job["count"] = count
        job["size"][0, : self.ndim] = grid.shape[self.ndim : 0 : -1]
        job["rows"] = rows
        job["grid_matrix"] = strides[0]
        job["grid_axis"][0, : self.ndim] = strides[self.ndim : 0 : -1]
        job["grid_component"] = strides[-1]
        job["tile_columns"] = tile_columns
        job["tile_rows"] = tile_rows
        job["lanes"] = lanes
        job["align_corners"] = align_corners

    def run(self, kernel: str, blocks: int) -> None:
        launch(f"{kernel}<{self.real}, {self.ndim}, {self.integer}>", blocks * self.block, self.job, self.block)


def affine_grid(theta: DeviceArray, grid: DeviceArray, align_corners: bool) -> None:
    """theta (M, ndim, ndim + 1) contiguous -> grid (M, *size, ndim), neither empty."""
    call, theta = LatticeCall(grid, align_corners, rows_of_all=True), readable(theta)
    call.job["theta"] = theta.data.ptr
    call.run("affine_grid", call.tiles)


def lattice_row_chunks(grid: DeviceArray) -> int:
    """How many partial sums the gradients to a matrix of a grid (M, *size, ndim) are."""
    return LatticeCall(grid, False, rows_of_all=False).tiles


def affine_grid_vjp(grad_grid: DeviceArray, partial: DeviceArray, align_corners: bool) -> None:
    """partial (M, chunks, ndim, ndim + 1), double and contiguous: to be summed over its second axis."""
    grad_grid = readable(grad_grid)
    call = LatticeCall(grad_grid, align_corners, rows_of_all=False)
    call.job["partial"] = partial.data.ptr
    call.run("affine_grid_vjp", call.tiles * grad_grid.shape[0])


class ProjectiveCall(LatticeCall):
    """The same under maps (M, 3, 3), and their tangents or cotangents, contiguous."""

    def __init__(
        self,
        grid: DeviceArray,
        theta: DeviceArray,
        d_theta: DeviceArray | None,
        align_corners: bool,
        least_denominator: float,
        cull_behind: bool,
    ) -> None:
        super().__init__(grid, align_corners, rows_of_all=False)
        self.arrays = [readable(array) for array in (theta, d_theta) if array is not None]
        for name, array in zip(("theta", "d_theta"), self.arrays, strict=False):
            self.job[name] = array.data.ptr
        self.job["least_denominator"] = least_denominator
        self.job["cull_behind"] = cull_behind

    def run(self, kernel: str, blocks: int) -> None:
        launch(f"{kernel}<{self.real}, {self.integer}>", blocks * self.block, self.job, self.block)


def projective_grid(
    theta: DeviceArray,
    d_theta: DeviceArray | None,
    grid: DeviceArray,
    align_corners: bool,
    least_denominator: float,
    cull_behind: bool,
) -> None:
    """theta (M, 3, 3) contiguous -> grid (M, *size, 2); its tangent if d_theta is not None."""
    call = ProjectiveCall(grid, theta, d_theta, align_corners, least_denominator, cull_behind)
    call.run("projective_grid", ceil_div(grid.size // 2, call.block))


def projective_grid_vjp(
    grad_grid: DeviceArray,
    theta: DeviceArray,
    gg_theta: DeviceArray | None,
    partial: DeviceArray,
    align_corners: bool,
    least_denominator: float,
    cull_behind: bool,
) -> None:
    """partial (M, chunks, 3, 3), double: to be summed over its second axis. The gradient to theta, or of what has the
    cotangent gg_theta if that is not None."""
    grad_grid = readable(grad_grid)
    call = ProjectiveCall(grad_grid, theta, gg_theta, align_corners, least_denominator, cull_behind)
    call.job["partial"] = partial.data.ptr
    call.run("projective_grid_vjp", call.tiles * grad_grid.shape[0])


class LinearCall:
    """basis (B, functions, points), grid (M, points, rows), and theta (M, rows, functions), all contiguous."""

    def __init__(self, basis: DeviceArray, grid: DeviceArray, theta: DeviceArray | None = None) -> None:
        self.count, _, self.rows = grid.shape
        self.bases, self.functions, self.points = basis.shape
        self.per_basis = self.count // self.bases
        self.together = max(n for n in TOGETHER if n <= self.per_basis)
        self.groups = self.bases * ceil_div(self.per_basis, self.together)
        self.integer = integer_for(2 * max(grid.size, self.count * self.rows * self.functions, basis.size))
        self.real = C_TYPES[grid.dtype]
        # Which live as long as the call.
        self.arrays = [readable(array) for array in (basis, grid, *([] if theta is None else [theta]))]
        self.job = job = np.zeros(1, LINEAR_JOB)
        for name, array in zip(("basis", "grid", "theta"), self.arrays, strict=False):
            job[name] = array.data.ptr
        job["bases"] = self.bases
        job["per_basis"] = self.per_basis
        job["functions"] = self.functions
        job["points"] = self.points

    def run(self, kernel: str, threads: int, block: int) -> None:
        launch(f"{kernel}<{self.real}, {self.rows}, {self.together}, {self.integer}>", threads, self.job, block)


def linear_grid(theta: DeviceArray, basis: DeviceArray, grid: DeviceArray) -> None:
    """theta (M, rows, functions) of any strides. Fills the grid, which is not empty."""
    call = LinearCall(basis, grid, cupy.ascontiguousarray(theta))
    pixels = BLOCK_PIXELS[call.rows]
    blocks = call.groups * ceil_div(call.points, pixels * LINEAR_STEPS)
    call.run("linear_grid", blocks * pixels * call.rows, pixels * call.rows)


def linear_grid_vjp(grad_grid: DeviceArray, basis: DeviceArray) -> DeviceArray:
    """Partial sums (M, chunks, functions, rows), double, of the gradient to theta: to be summed over their second
    axis. Nothing is empty."""
    call = LinearCall(basis, grad_grid)
    chunks = ceil_div(call.points, LINEAR_POINTS)
    partial = cupy.empty((call.count, chunks, call.rows, call.functions), np.float64)
    call.job["partial"] = partial.data.ptr
    functions = 8 if call.together == 1 else 4 if call.rows <= 2 else 2  # of a warp
    call.run("linear_grid_vjp", 32 * call.groups * chunks * ceil_div(call.functions, functions), 128)
    return partial.swapaxes(-1, -2)
