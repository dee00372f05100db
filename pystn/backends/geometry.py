"""The geometry of a sampling: where its samples are, how far apart, and the derivatives of both.

A geometry is made from its source, a grid or matrices. It is asked for the grid, in the source's unit, for its local
Jacobian in pixels of the source per pixel of the target, and for what a step along a target axis adds to the source.
Axes of the target are counted x first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.differences import slope, slope_vjp
from pystn.kept import kept
from pystn.options import SamplingOptions
from pystn.perspective import Horizon, divide, divide_jvp, divide_vjp, divide_vjp2, quiet
from pystn.typing import Array

if TYPE_CHECKING:
    from pystn.backends.operations import Operations

__all__ = ["Geometry", "Matrices", "Stored", "geometry_of"]


class Stored:
    """A grid (N, ..., *size, ndim); a step is its difference to the neighbours, 0 where that is not finite."""

    def __init__(self, backend: Operations, grid: Array, unit: Array, dtype: np.dtype[Any]) -> None:
        self.xp, self.source, self.unit, self.dtype = backend.xp, grid, unit, dtype
        self.ndim = grid.shape[-1]
        lengths = grid.shape[-2 : -2 - self.ndim : -1]
        self.axes = [grid.ndim - 2 - k if length > 1 else None for k, length in enumerate(lengths)]

    def _differences(self, grid: Array) -> list[Array]:
        xp = self.xp
        return [xp.zeros_like(grid) if axis is None else slope(xp, grid, axis, 1.0) for axis in self.axes]

    @cached_property
    def _known(self) -> list[Array]:
        return [self.xp.isfinite(step) for step in self._raw_steps]

    @cached_property
    @quiet
    def _raw_steps(self) -> list[Array]:
        return self._differences(self.source)

    @cached_property
    def steps(self) -> list[Array]:
        return [self.xp.where(known, step, 0) for known, step in zip(self._known, self._raw_steps, strict=True)]

    def steps_jvp(self, d_source: Array) -> list[Array]:
        return [d * known for d, known in zip(self._differences(d_source), self._known, strict=True)]

    def steps_vjp(self, grads: Sequence[Array | None]) -> Any:
        total = self.xp.zeros(self.source.shape, self.source.dtype)
        for grad, known, axis in zip(grads, self._known, self.axes, strict=True):
            if grad is not None and axis is not None:
                total += slope_vjp(self.xp, grad * known, axis, 1.0)
        return total

    @property
    def grid(self) -> Array:
        return self.source.astype(self.dtype, copy=False)

    def grid_jvp(self, d_source: Array) -> Array:
        return d_source.astype(self.dtype, copy=False)

    def grid_vjp(self, grad_grid: Array) -> Array:
        return grad_grid.astype(self.source.dtype, copy=False)

    def _columns(self, steps: list[Array]) -> Any:
        return self.xp.stack(steps, axis=-1).astype(self.dtype, copy=False) * self.unit[:, None]

    @cached_property
    def jacobian(self) -> Any:
        """(N, ..., *size, ndim, ndim), of source axis i along target axis j."""
        return self._columns(self.steps)

    def jacobian_jvp(self, d_source: Array) -> Any:
        return self._columns(self.steps_jvp(d_source))

    def jacobian_vjp(self, grad_jacobian: Array) -> Any:
        grads = (grad_jacobian * self.unit[:, None]).astype(self.source.dtype, copy=False)
        return self.steps_vjp([grads[..., k] for k in range(self.ndim)])

    is_curved = False

    def vjp2(self, gg_source: Array, grad_grid: Array | None, grad_jacobian: Array | None) -> Any:
        """What gradients to grid and Jacobian add to the second order: nothing, as both are linear in the source."""
        return None


class Matrices:
    """Matrices over the lattice of an output; a step moves the lattice, which is linear in them too."""

    def __init__(
        self,
        backend: Operations,
        coordinates: MatrixCoordinates,
        options: SamplingOptions,
        unit: Array,
        dtype: np.dtype[Any],
    ) -> None:
        self.backend, self.xp = backend, backend.xp
        self.coordinates, self.source, self.unit, self.dtype = coordinates, coordinates.theta, unit, dtype
        self.is_curved = coordinates.projective
        self.options, self.ndim = options, len(coordinates.size)
        self.spacings = [spacing(length, options) for length in coordinates.size[::-1]]

    def steps_jvp(self, d_source: Array) -> list[Array]:
        steps = []
        for k, length in enumerate(self.spacings):
            step = self.xp.zeros_like(d_source)
            step[..., -1] = d_source[..., k] * d_source.dtype.type(length)
            steps.append(step)
        return steps

    @property
    def steps(self) -> list[Array]:
        return self.steps_jvp(self.source)

    def steps_vjp(self, grads: Sequence[Array | None]) -> Any:
        total = self.xp.zeros(self.source.shape, self.source.dtype)
        for k, (grad, length) in enumerate(zip(grads, self.spacings, strict=True)):
            if grad is not None:
                total[..., k] += grad[..., -1] * length
        return total

    @cached_property
    def _theta(self) -> Array:
        return self.source.astype(self.dtype, copy=False)

    @cached_property
    def _points(self) -> Array:
        return self.backend.target_points(self.coordinates, self.dtype, self.options)

    @cached_property
    def _horizon(self) -> Horizon:
        return Horizon(self.coordinates.min_denominator, self.coordinates.cull_behind)

    def _applied(self, theta: Array) -> Array:
        return self.backend.linear_grid(theta.astype(self.dtype, copy=False), self._points, None)

    @cached_property
    def _homogeneous(self) -> Array:
        """The grid, or its homogeneous coordinates."""
        return self._applied(self._theta)

    @cached_property
    def grid(self) -> Array:
        q = self._homogeneous
        return divide(self.xp, q, self._horizon) if self.is_curved else q

    def grid_jvp(self, d_source: Array) -> Array:
        d = self._applied(d_source)
        return divide_jvp(self.xp, self._homogeneous, d, self._horizon) if self.is_curved else d

    def grid_vjp(self, grad_grid: Array) -> Array:
        if self.is_curved:
            grad_grid = divide_vjp(self.xp, grad_grid, self._homogeneous, self._horizon)
        return self._to_source(grad_grid)

    def _to_source(self, to_homogeneous: Array) -> Array:
        # Zero times infinity, where a coordinate is infinite.
        self.xp.copyto(to_homogeneous, 0, where=~self.xp.isfinite(self.grid).all(axis=-1, keepdims=True))
        theta = self.backend.linear_grid_vjp(to_homogeneous, self._theta, self._points)
        return theta.astype(self.source.dtype, copy=False)

    def _moves(self, theta: Array) -> list[Array]:
        """What a step along each target axis adds to the homogeneous coordinates, (N, *K, 1, ..., rows)."""
        shape = (*theta.shape[:-2], *[1] * self.ndim, theta.shape[-2])
        columns = theta.astype(self.dtype, copy=False)
        return [(columns[..., k] * self.dtype.type(length)).reshape(shape) for k, length in enumerate(self.spacings)]

    def _move_vjp(self, grads: list[Array]) -> Any:
        """The gradient to the matrices from that to each move, which is summed over the lattice."""
        total = self.xp.zeros(self.source.shape, self.dtype)
        over = tuple(range(total.ndim - 2, total.ndim - 2 + self.ndim))
        for k, (grad, length) in enumerate(zip(grads, self.spacings, strict=True)):
            total[..., k] = grad.sum(axis=over) * length
        return total.astype(self.source.dtype, copy=False)

    def _columns(self, columns: list[Array]) -> Any:
        return self.xp.stack(columns, axis=-1) * self.unit[:, None]

    @cached_property
    def jacobian(self) -> Any:
        """(N, *K, *size, ndim, ndim), of source axis i along target axis j; of affine maps with *size all 1."""
        moves = self._moves(self.source)
        if self.is_curved:
            moves = [divide_jvp(self.xp, self._homogeneous, move, self._horizon) for move in moves]
        found = self._columns(moves)
        return self.xp.where(self.xp.isfinite(found), found, 0)

    def jacobian_jvp(self, d_source: Array) -> Any:
        d_moves = self._moves(d_source)
        if self.is_curved:
            d_q = self._applied(d_source)
            d_moves = [
                self._divided_jvp(move, d_q, d_move)
                for move, d_move in zip(self._moves(self.source), d_moves, strict=True)
            ]
        found = self._columns(d_moves)
        return self.xp.where(self.xp.isfinite(found), found, 0)

    def jacobian_vjp(self, grad_jacobian: Array) -> Any:
        grads = grad_jacobian * self.unit[:, None]
        by_column = [grads[..., k] for k in range(self.ndim)]
        if not self.is_curved:
            return self._move_vjp(by_column)
        xp, q = self.xp, self._homogeneous
        to_moves = [divide_vjp(xp, grad, q, self._horizon) for grad in by_column]
        to_q: Any = sum(
            divide_vjp2(xp, move, grad, q, self._horizon)[1]
            for move, grad in zip(self._moves(self.source), by_column, strict=True)
        )
        return self._move_vjp(to_moves) + self._to_source(to_q)

    # Of a projective map the column of the Jacobian along a move e is the tangent of q / q_w along e,
    # c = (e - (q / q_w) e_w) / q_w. Its own tangent, along (dq, de), is
    # tangent(de) - (tangent(dq) e_w + c dq_w) / q_w.

    @quiet
    def _divided_jvp(self, move: Array, d_q: Array, d_move: Array) -> Any:
        xp, q, horizon = self.xp, self._homogeneous, self._horizon
        denominator, _ = horizon.denominators(xp, q, 1.0)
        column, moved = divide_jvp(xp, q, move, horizon), divide_jvp(xp, q, d_q, horizon)
        turned = (moved * move[..., -1:] + column * d_q[..., -1:]) / denominator[..., None]
        return divide_jvp(xp, q, d_move, horizon) - turned

    @quiet
    def vjp2(self, gg_source: Array, grad_grid: Array | None, grad_jacobian: Array | None) -> Any:
        """The gradient to the source of <gg_source, the gradient to it from these of grid and Jacobian>."""
        if not self.is_curved:
            return None
        xp, q, horizon = self.xp, self._homogeneous, self._horizon
        gg_q, to_q = self._applied(gg_source), xp.zeros(q.shape, q.dtype)
        if grad_grid is not None:
            to_q += divide_vjp2(xp, gg_q, grad_grid, q, horizon)[1]
        if grad_jacobian is None:
            return self._to_source(to_q)
        denominator, _ = horizon.denominators(xp, q, 1.0)
        moved, share = divide_jvp(xp, q, gg_q, horizon), gg_q[..., -1] / denominator
        to_moves, grads = [], grad_jacobian * self.unit[:, None]
        for k, (move, gg_move) in enumerate(zip(self._moves(self.source), self._moves(gg_source), strict=True)):
            grad, rate = grads[..., k], move[..., -1] / denominator
            along_moved = (grad * moved).sum(axis=-1)
            along_column = (grad * divide_jvp(xp, q, move, horizon)).sum(axis=-1)
            to_q += divide_vjp2(xp, gg_move, grad, q, horizon)[1]
            to_q -= divide_vjp2(xp, gg_q, grad * rate[..., None], q, horizon)[1]
            to_q -= divide_vjp2(xp, move, grad * share[..., None], q, horizon)[1]
            to_q[..., -1] += (along_moved * rate + along_column * share) / denominator
            to_move = -divide_vjp(xp, grad * share[..., None], q, horizon)
            to_move[..., -1] -= along_moved / denominator
            to_moves.append(to_move)
        return self._move_vjp(to_moves) + self._to_source(to_q)


Geometry = Stored | Matrices


def spacing(length: int, options: SamplingOptions) -> float:
    """Between neighbours of an axis of the target, in its unit."""
    if options.coords == "pixel":
        return 1.0
    if options.align_corners:
        return 2.0 / (length - 1) if length > 1 else 0.0
    return 2.0 / max(length, 1)


@kept
def pixels_per_unit(spatial: tuple[int, ...], options: tuple[str, bool], dtype: str) -> Any:
    """Of the axes of the source, x first."""
    coords, aligned = options
    return np.array([1.0 if coords == "pixel" else (length - aligned) / 2 for length in spatial[::-1]], dtype)


def geometry_of(
    backend: Operations,
    coordinates: Coordinates,
    spatial: tuple[int, ...],
    options: SamplingOptions,
    dtype: np.dtype[Any],
) -> Geometry:
    """The geometry of samples of an image of the size `spatial`, its grid and its Jacobian in `dtype`."""
    unit = pixels_per_unit(backend.xp, spatial, (options.coords, options.align_corners), dtype.str)
    if isinstance(coordinates, MatrixCoordinates):
        return Matrices(backend, coordinates, options, unit, dtype)
    return Stored(backend, coordinates, unit, dtype)
