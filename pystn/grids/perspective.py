"""The division that ends a projective map, with its derivatives and its rule for the horizon.

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

    def denominators(self, homogeneous: Array, hidden: float) -> tuple[Array, Array]:
        """The denominators (..., 1), `hidden` where they are left out; and where."""
        hides = self.hides(homogeneous[..., -1:])
        denominator = homogeneous[..., -1:].copy()
        denominator[hides] = hidden
        return denominator, hides[..., 0]


def inner(a: Array, b: Array) -> Array:
    """Sums of products along the last, short axis, which is kept."""
    total = a[..., :1] * b[..., :1]
    for i in range(1, a.shape[-1]):
        total += a[..., i : i + 1] * b[..., i : i + 1]
    return total


@quiet
def divide(xp: ModuleType, homogeneous: Array, horizon: Horizon, out: Array | None = None) -> Array:
    denominator, _ = horizon.denominators(homogeneous, np.nan)
    return xp.divide(homogeneous[..., :-1], denominator, out=out)  # type: ignore[no-any-return]


@quiet
def divide_vjp(xp: ModuleType, grad_grid: Array, homogeneous: Array, horizon: Horizon) -> Array:
    denominator, hidden = horizon.denominators(homogeneous, 1.0)
    gradient = xp.empty_like(homogeneous)
    xp.divide(grad_grid, denominator, out=gradient[..., :-1])
    gradient[..., -1:] = -inner(gradient[..., :-1], homogeneous[..., :-1] / denominator)
    gradient[hidden] = 0
    return gradient  # type: ignore[no-any-return]


@quiet
def divide_jvp(xp: ModuleType, homogeneous: Array, d_homogeneous: Array, horizon: Horizon) -> Array:
    denominator, hidden = horizon.denominators(homogeneous, 1.0)
    d_grid = (d_homogeneous[..., :-1] - homogeneous[..., :-1] / denominator * d_homogeneous[..., -1:]) / denominator
    d_grid[hidden] = 0
    return d_grid


@quiet
def divide_vjp2(
    xp: ModuleType, gg_homogeneous: Array, grad_grid: Array, homogeneous: Array, horizon: Horizon
) -> tuple[Array, Array]:
    """Gradients to grad_grid and to the homogeneous coordinates of a loss of `divide_vjp`."""
    denominator, hidden = horizon.denominators(homogeneous, 1.0)
    rate = gg_homogeneous[..., -1:] / denominator
    to_grad = divide_jvp(xp, homogeneous, gg_homogeneous, horizon)
    to_homogeneous = xp.empty_like(homogeneous)
    share = grad_grid / denominator
    to_homogeneous[..., :-1] = -rate * share
    # Of (gg_a - gg_w y_a) g_a / w, both the denominator and y_a hold a w.
    moved = rate * (homogeneous[..., :-1] / denominator) - to_grad
    to_homogeneous[..., -1:] = inner(share, moved)
    to_homogeneous[hidden] = 0
    return to_grad, to_homogeneous
