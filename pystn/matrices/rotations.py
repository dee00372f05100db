"""Rotation matrices, their Jacobians and how these bend, of an angle, a rotation vector or a quaternion."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np

from pystn.kept import kept

__all__ = ["bent_rotation", "generators", "rotation"]


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


def bent_rotation(xp: Any, params: Any, along: Any) -> Any:
    """The derivative of the Jacobians along a direction of the parameters, (..., n, n, p)."""
    return {1: bent_of_angle, 3: bent_of_vector, 4: bent_of_quaternion}[params.shape[-1]](xp, params, along)


def of_angle(xp: Any, params: Any) -> tuple[Any, Any]:
    cosine, sine = xp.cos(params[..., None]), xp.sin(params[..., None])
    turn, identity = generators(xp, 2)[..., 0], xp.eye(2)
    return cosine * identity + sine * turn, (cosine * turn - sine * identity)[..., None]


def bent_of_angle(xp: Any, params: Any, along: Any) -> Any:
    return (-along[..., None] * of_angle(xp, params)[0])[..., None]


def of_vector(xp: Any, vector: Any) -> tuple[Any, Any]:
    r"""Rodrigues' formula, R = 1 + c1 K + c2 K^2 with K the cross product with the vector."""
    c1, c2, c3, c4 = (c[..., None, None] for c in stumpff(xp, (vector**2).sum(axis=-1)))
    turns, cross = generators(xp, 3), cross_product(xp, vector)
    square = cross @ cross
    # c1 and c2 move too: by v_k times twice their slopes to the squared angle.
    along = (c3 - c2) * cross + (2 * c4 - c3) * square
    across = c1[..., None] * turns + c2[..., None] * with_turns(xp, cross)
    return xp.eye(3) + c1 * cross + c2 * square, across + along[..., None] * vector[..., None, None, :]


def bent_of_vector(xp: Any, vector: Any, along: Any) -> Any:
    _, c2, c3, c4, c5, c6 = (c[..., None, None] for c in stumpff(xp, (vector**2).sum(axis=-1), 6))
    turns, cross, moved = generators(xp, 3), cross_product(xp, vector), cross_product(xp, along)
    square, d_square = cross @ cross, cross @ moved + moved @ cross
    # The slopes of c1 and c2 as in `of_vector`, and theirs in the direction.
    slope1, slope2 = c3 - c2, 2 * c4 - c3
    step = (vector * along).sum(axis=-1)[..., None, None]
    d_slope1, d_slope2 = step * (3 * c5 - 3 * c4 + c3), step * (8 * c6 - 5 * c5 + c4)
    across = (step * slope1)[..., None] * turns + (step * slope2)[..., None] * with_turns(xp, cross)
    across = across + c2[..., None] * with_turns(xp, moved)
    by_vector = d_slope1 * cross + d_slope2 * square + slope1 * moved + slope2 * d_square
    by_along = slope1 * cross + slope2 * square
    return across + by_vector[..., None] * vector[..., None, None, :] + by_along[..., None] * along[..., None, None, :]


def with_turns(xp: Any, cross: Any) -> Any:
    """K G + G K with each generator G: how the square of a cross product moves with its vector."""
    turns = generators(xp, 3)
    return xp.einsum("...ij,jlk->...ilk", cross, turns) + xp.einsum("ijk,...jl->...ilk", turns, cross)


def of_quaternion(xp: Any, quaternion: Any) -> tuple[Any, Any]:
    """R = (w^2 - v.v) 1 + 2 v v^T + 2 w K of the unit quaternion (w, v), K the cross product with v."""
    unit, norm = unit_quaternion(xp, quaternion)
    w, v = unit[..., 0, None, None], unit[..., 1:]
    outer = v[..., :, None] * v[..., None, :]
    matrix = (w**2 - (v**2).sum(axis=-1)[..., None, None]) * xp.eye(3) + 2 * outer + 2 * w * cross_product(xp, v)
    # Along the quaternion itself nothing changes.
    free = quaternion_slopes(xp, unit) - 2 * matrix[..., None] * unit[..., None, None, :]
    return matrix, free / norm[..., None, None]


def bent_of_quaternion(xp: Any, quaternion: Any, along: Any) -> Any:
    unit, norm = unit_quaternion(xp, quaternion)
    matrix, jacobian = of_quaternion(xp, quaternion)
    along = along / norm
    moved = (jacobian @ along[..., None, :, None]) * norm[..., None, None]
    free = quaternion_slopes(xp, along) - 2 * moved * unit[..., None, None, :]
    free = free - 2 * matrix[..., None] * along[..., None, None, :]
    return free / norm[..., None, None] - 2 * (unit * along).sum(axis=-1)[..., None, None, None] * jacobian


def unit_quaternion(xp: Any, quaternion: Any) -> tuple[Any, Any]:
    """And the norm, (..., 1); no square overflows or vanishes."""
    largest = xp.abs(quaternion).max(axis=-1, keepdims=True)
    unit = quaternion / largest
    norm = xp.sqrt((unit**2).sum(axis=-1, keepdims=True))
    return unit / norm, largest * norm


def quaternion_slopes(xp: Any, quaternion: Any) -> Any:
    """Of the quadratic form that a matrix is of its quaternion, linear in that, (..., 3, 3, 4)."""
    w, v = quaternion[..., 0, None, None], quaternion[..., 1:]
    identity = xp.eye(3)
    of_w = 2 * w * identity + 2 * cross_product(xp, v)
    of_v = (
        2 * (identity[:, None, :] * v[..., None, :, None] + identity[None, :, :] * v[..., :, None, None])
        - 2 * identity[:, :, None] * v[..., None, None, :]
        + 2 * w[..., None] * generators(xp, 3)
    )
    return xp.concatenate([of_w[..., None], of_v], axis=-1)


# Of c_k(q) = sum_j (-q)^j / (2 j + k)!, k = 1 to 6, highest power first: 10 terms are exact for q <= 1.
STUMPFF = np.array([[(-1) ** j / factorial(2 * j + k) for k in range(1, 7)] for j in reversed(range(10))])


def stumpff(xp: Any, q: Any, count: int = 4) -> list[Any]:
    """Stumpff's functions c1 = sin(t)/t, c2 = (1 - cos t)/q and c_{k+2} = (1/k! - c_k)/q of q = t^2.

    Their slopes to q are (k c_{k+2} - c_{k+1})/2.
    """
    small = q <= 1
    near = xp.where(small, q, 0.0)
    series = [xp.zeros_like(q)] * count
    for row in STUMPFF[:, :count].tolist():
        series = [near * c + coefficient for c, coefficient in zip(series, row, strict=True)]
    far = xp.where(small, 1.0, q)
    t = xp.sqrt(far)
    closed = [xp.sin(t) / t, 2 * (xp.sin(t / 2) / t) ** 2]
    for k in range(1, count - 1):
        closed.append((1 / factorial(k) - closed[k - 1]) / far)
    return [xp.where(small, a, b) for a, b in zip(series, closed, strict=True)]
