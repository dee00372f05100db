"""Entry points of affine grids and linear grids."""

from __future__ import annotations

from itertools import product
from typing import Any

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray, readable
from pystn.backends.cuda.source import launch

__all__ = ["affine_grid", "affine_grid_row_chunks", "affine_grid_vjp", "linear_grid", "linear_grid_vjp"]

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
        ("lanes", np.int32),
        ("align_corners", np.int32),
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
    return lattices + linear


def integer_for(*counts: int) -> str:
    """The type that indices up to `counts`, and somewhat beyond them, are computed in."""
    return "int" if max(counts) < 2**30 else "long long"


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
        self.integer = integer_for(count * rows * columns * self.ndim)
        self.real = C_TYPES[grid.dtype]
        self.job = job = np.zeros(1, LATTICE_JOB)
        strides = [stride // grid.itemsize for stride in grid.strides]
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
    call = LatticeCall(grid, align_corners, rows_of_all=True)
    matrices = readable(theta)
    call.job["theta"] = matrices.data.ptr
    call.run("affine_grid", call.tiles)


def affine_grid_row_chunks(grid: DeviceArray) -> int:
    """How many partial sums affine_grid_vjp makes per matrix."""
    return LatticeCall(grid, False, rows_of_all=False).tiles


def affine_grid_vjp(grad_grid: DeviceArray, partial: DeviceArray, align_corners: bool) -> None:
    """partial (M, chunks, ndim, ndim + 1), double and contiguous: to be summed over its second axis."""
    gradient = readable(grad_grid)
    call = LatticeCall(gradient, align_corners, rows_of_all=False)
    call.job["partial"] = partial.data.ptr
    call.run("affine_grid_vjp", call.tiles * grad_grid.shape[0])


class LinearCall:
    """theta (M, rows, functions), basis (B, functions, points), grid (M, points, rows), all contiguous."""

    def __init__(self, theta: DeviceArray, basis: DeviceArray, grid: DeviceArray) -> None:
        self.count, self.rows, self.functions = theta.shape
        self.bases, _, self.points = basis.shape
        self.per_basis = self.count // self.bases
        self.together = max(n for n in TOGETHER if n <= self.per_basis)
        self.groups = self.bases * ceil_div(self.per_basis, self.together)
        self.integer = integer_for(grid.size, theta.size, basis.size)
        self.real = C_TYPES[theta.dtype]
        self.held = theta, basis, grid = readable(theta), readable(basis), readable(grid)
        self.job = job = np.zeros(1, LINEAR_JOB)
        job["theta"] = theta.data.ptr
        job["basis"] = basis.data.ptr
        job["grid"] = grid.data.ptr
        job["bases"] = self.bases
        job["per_basis"] = self.per_basis
        job["functions"] = self.functions
        job["points"] = self.points

    def run(self, kernel: str, threads: int, block: int) -> None:
        launch(f"{kernel}<{self.real}, {self.rows}, {self.together}, {self.integer}>", threads, self.job, block)


def linear_grid(theta: DeviceArray, basis: DeviceArray, grid: DeviceArray) -> None:
    """Fills the grid, which is not empty."""
    call = LinearCall(theta, basis, grid)
    pixels = BLOCK_PIXELS[call.rows]
    blocks = call.groups * ceil_div(call.points, pixels * LINEAR_STEPS)
    call.run("linear_grid", blocks * pixels * call.rows, pixels * call.rows)


def linear_grid_vjp(grad_grid: DeviceArray, theta: DeviceArray, basis: DeviceArray) -> Any:
    """Partial sums (M, chunks, rows, functions), double, of the gradient to theta: to be summed over their second
    axis. Nothing is empty."""
    call = LinearCall(theta, basis, grad_grid)
    chunks = ceil_div(call.points, LINEAR_POINTS)
    partial = cupy.empty((call.count, chunks, call.rows, call.functions), np.float64)
    call.job["partial"] = partial.data.ptr
    functions = 8 if call.together == 1 else 4 if call.rows <= 2 else 2  # of a warp
    call.run("linear_grid_vjp", 32 * call.groups * chunks * ceil_div(call.functions, functions), 128)
    return partial
