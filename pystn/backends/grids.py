"""Grids that kernels make of matrices, of parameters and a basis, or of what is affine in cells; derivatives."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from pystn.backends.base import Base
from pystn.backends.pieces import Pieces
from pystn.typing import Array

__all__ = ["GridOperations"]


class GridOperations(Base):
    """Matrices are (N, *K, rows, columns), grids (N, *K, *size, ndim)."""

    def matrix_grid(
        self, theta: Array, size: tuple[int, ...], out: Array | None, fill: Callable[[Array], None]
    ) -> Array:
        """The grid of matrices, which `fill` writes as (M, *size, ndim)."""
        ndim = len(size)
        grid = self.empty((*theta.shape[:-2], *size, ndim), theta.dtype) if out is None else out
        if grid.size == 0:
            return grid
        flat = stacked(grid, ndim + 1)
        in_place = flat is grid or self.xp.may_share_memory(flat, grid)
        fill(flat)
        if not in_place:  # leading axes of `out` that are no single stride
            grid[...] = flat.reshape(grid.shape)
        return grid

    def matrix_gradient(
        self,
        grad_grid: Array,
        theta: Array,
        size: tuple[int, ...],
        out: Array | None,
        fill: Callable[[Array, Array], None],
    ) -> Array:
        """The gradient to matrices, of which `fill` writes partial sums."""
        grad_theta = self.empty(theta.shape, theta.dtype) if out is None else out
        if grad_grid.size == 0:
            grad_theta.fill(0)
            return grad_theta
        flat = stacked(grad_grid, len(size) + 1)
        chunks = self.kernels.lattice_row_chunks(flat)
        partial = self.empty((flat.shape[0], chunks, *theta.shape[-2:]), np.float64)
        fill(flat, partial)
        grad_theta[...] = partial.sum(axis=1).reshape(theta.shape)
        return grad_theta

    def matrices_of(self, theta: Array) -> Array:
        """Contiguous (M, rows, columns)."""
        return stacked(self.xp.ascontiguousarray(theta), 2)

    def affine_grid(
        self,
        theta: Array,
        size: tuple[int, ...],
        align_corners: bool,
        out: Array | None,
        repeats: list[Callable[..., Any]] | None = None,
    ) -> Array:
        """And puts the call first among the `repeats`, if it is of a kind that can be done again."""
        call = None

        def fill(grid: Array) -> None:
            nonlocal call
            call = self.run(self.kernels.affine_grid, self.matrices_of(theta), grid, align_corners)

        grid = self.matrix_grid(theta, size, out, fill)
        if repeats is not None:
            self.remember_grid(repeats, call, theta, size, align_corners, grid)
        return grid

    def remember_grid(self, repeats: list[Callable[..., Any]], call: Any, *arguments: Any) -> None:
        """Nothing, where calls are not done again."""

    def affine_grid_vjp(
        self, grad_grid: Array, theta: Array, size: tuple[int, ...], align_corners: bool, out: Array | None
    ) -> Array:
        def fill(grad_grid: Array, partial: Array) -> None:
            self.run(self.kernels.affine_grid_vjp, grad_grid, partial, align_corners)

        return self.matrix_gradient(grad_grid, theta, size, out, fill)

    def projective_grid(
        self,
        theta: Array,
        d_theta: Array | None,
        size: tuple[int, ...],
        align_corners: bool,
        least_denominator: float,
        cull_behind: bool,
        out: Array | None,
    ) -> Array:
        """The grid, or its tangent if there is one of theta."""

        def fill(grid: Array) -> None:
            tangents = None if d_theta is None else self.matrices_of(d_theta)
            horizon = (least_denominator, cull_behind)
            self.run(self.kernels.projective_grid, self.matrices_of(theta), tangents, grid, align_corners, *horizon)

        return self.matrix_grid(theta, size, out, fill)

    def projective_grid_vjp(
        self,
        grad_grid: Array,
        theta: Array,
        gg_theta: Array | None,
        size: tuple[int, ...],
        align_corners: bool,
        least_denominator: float,
        cull_behind: bool,
    ) -> Array:
        """The gradient to theta, or to the theta of what makes that gradient, with the cotangent gg_theta of it."""

        def fill(grad_grid: Array, partial: Array) -> None:
            cotangents = None if gg_theta is None else self.matrices_of(gg_theta)
            options = (partial, align_corners, least_denominator, cull_behind)
            self.run(self.kernels.projective_grid_vjp, grad_grid, self.matrices_of(theta), cotangents, *options)

        return self.matrix_gradient(grad_grid, theta, size, None, fill)

    def linear_grid(self, theta: Array, basis: Array, out: Array | None) -> Array:
        """theta (N, *K, rows, q) times basis (N, q, *points): a grid (N, *K, *points, rows)."""
        leading = grids_of(theta, basis)
        shape = (*leading, *basis.shape[2:], theta.shape[-2])
        grid = self.empty(shape, theta.dtype) if out is None or not out.flags.c_contiguous else out
        if grid.size:
            every = self.xp.broadcast_to(theta, (*leading, *theta.shape[-2:]))
            matrices = every.reshape(prod(leading), *theta.shape[-2:])
            flat = grid.reshape(len(matrices), -1, theta.shape[-2])
            self.run(self.kernels.linear_grid, matrices, self.functions_of(basis), flat)
        if out is None or out is grid:
            return grid
        out[...] = grid
        return out

    def linear_grid_vjp(self, grad_grid: Array, theta: Array, basis: Array) -> Array:
        """The gradient to theta, summed over the batch if that shares it; rows are the fastest axis in memory."""
        if grad_grid.size == 0 or theta.size == 0:
            return self.xp.zeros(theta.shape, theta.dtype)
        leading = grids_of(theta, basis)
        flat = self.xp.ascontiguousarray(grad_grid).reshape(prod(leading), -1, theta.shape[-2])
        partial = self.run(self.kernels.linear_grid_vjp, flat, self.functions_of(basis))
        sums = partial.sum(axis=1).reshape(*leading, theta.shape[-1], theta.shape[-2])
        if theta.shape[0] != leading[0]:
            sums = sums.sum(axis=0, keepdims=True)
        grad_theta: Array = sums.astype(theta.dtype, copy=False).swapaxes(-1, -2)
        return grad_theta

    def flow(
        self, start: Array, field: Array, d_field: Array | None, cells: tuple[int, ...], steps: int, dtype: Any
    ) -> Array:
        """Where points (P, ndim) arrive with each of M fields, or their tangents: (M, P, ndim), in that dtype.

        Cells are counted along x first. In one dimension fields are velocities at the vertices (M, cells + 1), in cells
        per unit of time; in two they are a step of each triangle (M, triangles, 3, 3).
        """
        check_way(cells, steps)
        grid = self.empty((len(field), *start.shape), dtype)
        if grid.size:
            read = (None if array is None else self.xp.ascontiguousarray(array) for array in (start, field, d_field))
            self.run(self.kernels.flow, *read, grid, cells, steps)
        return grid

    def flow_vjp(
        self, grad_grid: Array, start: Array, field: Array, d_field: Array | None, cells: tuple[int, ...], steps: int
    ) -> Array:
        """The gradient to the fields, float64, after a first axis; if d_field is given, its derivative along it too."""
        check_way(cells, steps)
        if grad_grid.size == 0:
            return self.xp.zeros((1 if d_field is None else 2, *field.shape))
        read = (None if array is None else self.xp.ascontiguousarray(array) for array in (start, field, d_field))
        flat = self.xp.ascontiguousarray(grad_grid).reshape(len(field), *start.shape)
        gradients: Array = self.run(self.kernels.flow_vjp, *read, flat, cells, steps)
        return gradients

    def piecewise(self, values: Array, pieces: Pieces, base: Array | None) -> Array:
        """Points (M, P, 2) of values (M, count, 2), to which `base` (P, 2) is added."""
        grid = self.empty((len(values), len(pieces.labels), 2), values.dtype)
        if grid.size:
            self.run(self.kernels.piecewise, self.xp.ascontiguousarray(values), pieces, base, grid)
        return grid

    def piecewise_vjp(self, grad_grid: Array, pieces: Pieces) -> Array:
        """The gradient (M, count, 2) to the values, float64."""
        if grad_grid.size == 0:
            return self.xp.zeros((len(grad_grid), pieces.count, 2))
        to_values: Array = self.run(self.kernels.piecewise_vjp, self.xp.ascontiguousarray(grad_grid), pieces)
        return to_values

    def functions_of(self, basis: Array) -> Array:
        """Contiguous (B, q, points)."""
        return self.xp.ascontiguousarray(basis).reshape(*basis.shape[:2], prod(basis.shape[2:]))


def check_way(cells: tuple[int, ...], steps: int) -> None:
    """Whether integers count the bytes of the steps that are kept of a way, and 32 bits its triangles."""
    if steps > 1 << 40 or (len(cells) == 2 and prod(cells) > 1 << 29):
        raise MemoryError(f"no memory for {steps} steps in {cells} cells")


def stacked(array: Array, trailing: int) -> Array:
    """(N, *K, trailing...) as (M, trailing...): itself without K, else a view where the strides allow it."""
    if array.ndim == trailing + 1:
        return array
    return array.reshape((-1 if array.size else 0, *array.shape[array.ndim - trailing :]))


def grids_of(theta: Array, basis: Array) -> tuple[int, ...]:
    """Leading axes of a linear grid."""
    return (theta.shape[0] if basis.shape[0] == 1 else basis.shape[0], *theta.shape[1:-2])
