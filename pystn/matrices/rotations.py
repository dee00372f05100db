"""Rotation matrices and their Jacobians, of an angle, a rotation vector or a quaternion."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np

from pystn.kept import kept

__all__ = ["generators", "rotation"]


@kept
def generators(n: int) -> Any:
    """Of the rotations in 2-D, (2, 2, 1), and about each axis in 3-D, (3, 3, 3)."""
    if n == 2:
        return np.array([[[0.0], [-1.0]], [[1.0], [0.0]]])
    found = np.zeros((3, 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        found[i, j, k], found[j, i, k] = -1.0, 1.0
    return found


def cross_product(xp: Any, vector: Any) -> Any:
    """With a vector, as a matrix."""
    return xp.einsum("ijk,...k->...ij", generators(xp, 3), vector)


def rotation(xp: Any, params: Any) -> tuple[Any, Any]:
    """Matrices (..., n, n) of 1, 3 or 4 parameters, and their Jacobians (..., n, n, p)."""
    return {1: of_angle, 3: of_vector, 4: of_quaternion}[params.shape[-1]](xp, params)


def of_angle(xp: Any, params: Any) -> tuple[Any, Any]:
    cosine, sine = xp.cos(params[..., None]), xp.sin(params[..., None])
    turn, identity = generators(xp, 2)[..., 0], xp.eye(2)
    return cosine * identity + sine * turn, (cosine * turn - sine * identity)[..., None]


def of_vector(xp: Any, vector: Any) -> tuple[Any, Any]:
    r"""Rodrigues' formula, R = 1 + c1 K + c2 K^2 with K the cross product with the vector."""
    c1, c2, c3, c4 = (c[..., None, None] for c in stumpff(xp, (vector**2).sum(axis=-1)))
    turns, cross = generators(xp, 3), cross_product(xp, vector)
    square = cross @ cross
    # c1 and c2 move too: by v_k times twice their slopes to the squared angle.
    along = (c3 - c2) * cross + (2 * c4 - c3) * square
    d_square = xp.einsum("...ij,jlk->...ilk", cross, turns) + xp.einsum("ijk,...jl->...ilk", turns, cross)
    across = c1[..., None] * turns + c2[..., None] * d_square
    return xp.eye(3) + c1 * cross + c2 * square, across + along[..., None] * vector[..., None, None, :]


def of_quaternion(xp: Any, quaternion: Any) -> tuple[Any, Any]:
    """R = (w^2 - v.v) 1 + 2 v v^T + 2 w K of the unit quaternion (w, v), K the cross product with v."""
    largest = xp.abs(quaternion).max(axis=-1, keepdims=True)
    unit = quaternion / largest
    norm = xp.sqrt((unit**2).sum(axis=-1, keepdims=True))
    unit = unit / norm
    w, v = unit[..., 0, None, None], unit[..., 1:]
    identity, cross = xp.eye(3), cross_product(xp, v)
    outer = v[..., :, None] * v[..., None, :]
    matrix = (w**2 - (v**2).sum(axis=-1)[..., None, None]) * identity + 2 * outer + 2 * w * cross
    of_w = 2 * w * identity + 2 * cross
    of_v = (
        2 * (identity[:, None, :] * v[..., None, :, None] + identity[None, :, :] * v[..., :, None, None])
        - 2 * identity[:, :, None] * v[..., None, None, :]
        + 2 * w[..., None] * generators(xp, 3)
    )
    # Along the quaternion itself nothing changes.
    free = xp.concatenate([of_w[..., None], of_v], axis=-1) - 2 * matrix[..., None] * unit[..., None, None, :]
    return matrix, free / (largest * norm)[..., None, None]


# Of c_k(q) = sum_j (-q)^j / (2 j + k)!, k = 1 to 4, highest power first: 10 terms are exact for q <= 1.
STUMPFF = np.array([[(-1) ** j / factorial(2 * j + k) for k in range(1, 5)] for j in reversed(range(10))])


def stumpff(xp: Any, q: Any) -> list[Any]:
    """Stumpff's functions c1 = sin(t)/t, c2 = (1 - cos t)/q, c3 = (1 - c1)/q and c4 = (1/2 - c2)/q of q = t^2.

    Their slopes to q are (k c_{k+2} - c_{k+1})/2.
    """
    small = q <= 1
    near = xp.where(small, q, 0.0)
    series = [xp.zeros_like(q)] * 4
    for row in STUMPFF.tolist():
        series = [near * c + coefficient for c, coefficient in zip(series, row, strict=True)]
    far = xp.where(small, 1.0, q)
    t = xp.sqrt(far)
    c1, c2 = xp.sin(t) / t, 2 * (xp.sin(t / 2) / t) ** 2
    closed = [c1, c2, (1 - c1) / far, (0.5 - c2) / far]
    return [xp.where(small, a, b) for a, b in zip(series, closed, strict=True)]
