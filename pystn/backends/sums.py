"""Sums on their way into a result."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from pystn.typing import Array

__all__ = ["delivered", "rounded"]


def delivered(sums: Array, dtype: np.dtype[Any], out: Array | None) -> Array:
    """Sums in the dtype of the result, or written into `out`: infinite where they are beyond it, as kernels have it."""
    with np.errstate(over="ignore", invalid="ignore"):
        if out is None:
            return sums.astype(dtype, copy=False)
        out[...] = sums
    return out


def rounded(xp: ModuleType, sums: Array, dtype: np.dtype[Any]) -> Array:
    """Sums as numbers of an image, in place: whole and in their range, if it is of integers; what is no number is 0."""
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if limits.min < 0:
            xp.copyto(sums, 0, where=xp.isnan(sums))
        xp.fmin(xp.fmax(xp.rint(sums, out=sums), limits.min, out=sums), limits.max, out=sums)
    return sums
