"""The lattice of target coordinates, at whose points the grids of all families are evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pystn.typing import Array

__all__ = ["lattice", "lattice_axis"]


def lattice_axis(length: int, align_corners: bool) -> Array:
    """Normalized coordinates of the pixels of one axis, float64, exactly symmetric about 0."""
    j = np.arange(length, dtype=np.float64)
    if align_corners:
        return (2 * j - (length - 1)) / max(length - 1, 1)
    return (2 * j + 1 - length) / max(length, 1)


def lattice(size: Sequence[int], align_corners: bool) -> Array:
    """Normalized coordinates (x[, y[, z]]) of the pixels of an output, float64 (*size, ndim)."""
    axes = [lattice_axis(length, align_corners) for length in size]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
