"""What matrices of few rows need: homogeneous form, inverse, when there is none."""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.validation import check_entries

__all__ = ["check_invertible", "homogeneous", "inverse", "where_finite"]


def homogeneous(xp: Any, theta: Any, corner: float = 1.0) -> Any:
    """Square matrices: affine ones (..., n, n + 1) get a last row (0, ..., 0, corner)."""
    rows, columns = theta.shape[-2:]
    if rows == columns:
        return theta
    square = xp.zeros((*theta.shape[:-2], columns, columns))
    square[..., :rows, :] = theta
    square[..., rows, rows] = corner
    return square


def where_finite(xp: Any, matrix: Any) -> tuple[Any, Any]:
    """Where all elements are finite, (..., 1, 1), and the matrices with an identity elsewhere."""
    finite = xp.isfinite(matrix).all(axis=(-2, -1), keepdims=True)
    return finite, xp.where(finite, matrix, xp.eye(matrix.shape[-1]))


def inverse(xp: Any, matrix: Any) -> Any:
    """The inverse; NaN of a matrix that is not finite or has none, for which NumPy would raise."""
    finite, matrix = where_finite(xp, matrix)
    regular = (xp.linalg.slogdet(matrix)[0] != 0)[..., None, None]
    return xp.where(finite & regular, xp.linalg.inv(xp.where(regular, matrix, xp.eye(matrix.shape[-1]))), np.nan)


def check_invertible(name: str, theta: Any) -> None:
    """Raise for the first matrix whose linear part, or the whole if it is projective, is singular.

    That is: its determinant is at most 2 n epsilon times the sum of its terms' magnitudes, n being how
    many rows it has and epsilon that of its dtype, so that changes of the entries in their last digits
    make it 0. Scaling rows or columns makes no difference.
    """
    xp = backend_of({name: theta}).xp
    n = theta.shape[-2]
    with np.errstate(all="ignore"):
        a = theta[..., :n].astype(np.float64)
        for axis in (-1, -2):  # so that no product overflows
            largest = xp.abs(a).max(axis=axis, keepdims=True)
            a = a / xp.where(largest == 0, 1.0, largest)
        terms = xp.stack([sign * a[..., list(range(n)), order].prod(axis=-1) for order, sign in signed_permutations(n)])
        # Never true of a matrix with a NaN or an infinity.
        singular = xp.abs(terms.sum(axis=0)) <= 2 * n * np.finfo(theta.dtype).eps * xp.abs(terms).sum(axis=0)
    check_entries(name, theta, singular, "is singular, expected a matrix with an inverse")


@lru_cache(maxsize=4)
def signed_permutations(n: int) -> tuple[tuple[list[int], float], ...]:
    orders = [list(order) for order in permutations(range(n))]
    return tuple((order, round(np.linalg.det(np.eye(n)[order]))) for order in orders)
