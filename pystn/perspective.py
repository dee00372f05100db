"""The division that ends a grid of homogeneous coordinates, with its derivatives.

Its rule for the horizon is that of projective grids and warps, whose kernels have it in ``src/core/coordinates.hpp``.
Homogeneous coordinates (..., ndim + 1) become coordinates (..., ndim). What is at the horizon, or behind it if that
is culled, becomes NaN, and its derivatives are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from pystn.typing import Array

__all__ = ["Horizon", "divide", "divide_jvp", "divide_vjp", "divide_vjp2"]

quiet = np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True)
class Horizon:
    """Which denominators are left out: those below `least`, and with `cull_behind` those that are not positive."""

    least: float
    cull_behind: bool

    def hides(self, denominator: Array) -> Array:
        seen = abs(denominator) >= self.least  # false for NaN
        return ~(seen & (denominator > 0)) if self.cull_behind else ~seen

    def denominators(self, xp: ModuleType, homogeneous: Array, hidden: float) -> tuple[Array, Array]:
        """The denominators, `hidden` where they are left out; and where that is."""
        hides = self.hides(homogeneous[..., -1])
        denominator = homogeneous[..., -1].copy()
        xp.copyto(denominator, hidden, where=hides)  # a masked assignment would wait for the device
        return denominator, hides


# Coordinates are taken one by one: array code is slow along an axis of two or three.


@quiet
def divide(xp: ModuleType, homogeneous: Array, horizon: Horizon, out: Array | None = None) -> Array:
    denominator, _ = horizon.denominators(xp, homogeneous, np.nan)
    grid = xp.empty((*denominator.shape, homogeneous.shape[-1] - 1), homogeneous.dtype) if out is None else out
    for a in range(grid.shape[-1]):
        grid[..., a] = homogeneous[..., a] / denominator
    return grid


@quiet
def divide_vjp(xp: ModuleType, grad_grid: Array, homogeneous: Array, horizon: Horizon) -> Array:
    denominator, hidden = horizon.denominators(xp, homogeneous, 1.0)
    gradient, along = xp.empty_like(homogeneous), xp.zeros_like(denominator)
    for a in range(grad_grid.shape[-1]):
        share = grad_grid[..., a] / denominator
        gradient[..., a] = share
        along += share * homogeneous[..., a]
    gradient[..., -1] = -along / denominator
    xp.copyto(gradient, 0.0, where=hidden[..., None])
    return gradient


@quiet
def divide_jvp(xp: ModuleType, homogeneous: Array, d_homogeneous: Array, horizon: Horizon) -> Array:
    denominator, hidden = horizon.denominators(xp, homogeneous, 1.0)
    d_grid = xp.empty((*denominator.shape, homogeneous.shape[-1] - 1), homogeneous.dtype)
    rate = d_homogeneous[..., -1] / denominator
    for a in range(d_grid.shape[-1]):
        d_grid[..., a] = (d_homogeneous[..., a] - homogeneous[..., a] * rate) / denominator
    xp.copyto(d_grid, 0.0, where=hidden[..., None])
    return d_grid


@quiet
def divide_vjp2(
    xp: ModuleType, gg_homogeneous: Array, grad_grid: Array, homogeneous: Array, horizon: Horizon
) -> tuple[Array, Array]:
    """Gradients to grad_grid and to the homogeneous coordinates of a loss of `divide_vjp`."""
    denominator, hidden = horizon.denominators(xp, homogeneous, 1.0)
    to_grad = divide_jvp(xp, homogeneous, gg_homogeneous, horizon)
    to_homogeneous, along = xp.empty_like(homogeneous), xp.zeros_like(denominator)
    rate = gg_homogeneous[..., -1] / denominator
    for a in range(grad_grid.shape[-1]):
        share = grad_grid[..., a] / denominator
        to_homogeneous[..., a] = -rate * share
        # Both the denominator of the tangent and the coordinate in it hold the last of q.
        along += share * (rate * (homogeneous[..., a] / denominator) - to_grad[..., a])
    to_homogeneous[..., -1] = along
    xp.copyto(to_homogeneous, 0.0, where=hidden[..., None])
    return to_grad, to_homogeneous
