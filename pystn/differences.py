"""Central differences along one axis of an array, and their transpose."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pystn.typing import Array

__all__ = ["slope", "slope_vjp"]


def slope(xp: ModuleType, values: Array, axis: int, spacing: float) -> Any:
    """Central differences along an axis of two pixels or more, one-sided at its ends."""
    f = xp.moveaxis(values, axis, 0)
    d = xp.empty_like(f)
    d[1:-1] = (f[2:] - f[:-2]) / (2 * spacing)
    d[0], d[-1] = (f[1] - f[0]) / spacing, (f[-1] - f[-2]) / spacing
    return xp.moveaxis(d, 0, axis)


def slope_vjp(xp: ModuleType, grad: Array, axis: int, spacing: float) -> Any:
    g = xp.moveaxis(grad, axis, 0) / spacing
    f = xp.zeros_like(g)
    f[2:] += g[1:-1] / 2
    f[:-2] -= g[1:-1] / 2
    f[1] += g[0]
    f[0] -= g[0]
    f[-1] += g[-1]
    f[-2] -= g[-1]
    return xp.moveaxis(f, 0, axis)
