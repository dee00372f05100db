"""Projective transforms by where four points go."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.matrices.linear_algebra import inverse
from pystn.matrices.mapping import Curved
from pystn.typing import Array
from pystn.validation import check_entries

__all__ = [
    "homography_from_points",
    "homography_from_points_jvp",
    "homography_from_points_vjp",
    "homography_from_points_vjp2",
]


def homography(xp: Any, source: Any, target: Any) -> tuple[Any, Any, Any]:
    theta = through(xp, source, target)
    p, q = with_one(xp, source), with_one(xp, target)
    return theta, *moves(xp, solution(xp, p, q), of_source(theta, q), of_target(xp, theta, p))


def bent_homography(xp: Any, along: Any, source: Any, target: Any) -> list[Any]:
    """The equations stay true: what their slopes change by, moving with everything along, the entries make up for."""
    theta, *jacobians = homography(xp, source, target)
    p, q = with_one(xp, source), with_one(xp, target)
    d_p, d_q = (xp.concatenate([tangent, xp.zeros((*tangent.shape[:-1], 1))], axis=-1) for tangent in along)
    d_theta = sum(xp.einsum("...ijkc,...kc->...ij", *pair) for pair in zip(jacobians, along, strict=True))
    solving = solution(xp, p, q)
    by_points = moves(
        xp,
        solving,
        of_source(d_theta, q) + of_source(theta, d_q),
        of_target(xp, d_theta, p) + of_target(xp, theta, d_p),
    )
    entries = of_entries(xp, d_p, q) + of_entries(xp, p, d_q)
    leading = theta.shape[:-2]
    by_entries = solving.reshape(*leading, 9, 8) @ entries.reshape(*leading, 8, 9)
    return [
        (by_entries @ jacobian.reshape(*leading, 9, 8)).reshape(jacobian.shape) + bent
        for jacobian, bent in zip(jacobians, by_points, strict=True)
    ]


# Each point has two equations, for c = 0, 1: q_2 (theta p)_c = q_c (theta p)_2, p in the source, q in the target, both
# with a last coordinate of 1. They are linear in theta, p and q; their slopes to the nine entries, to p and to q_c:


def of_entries(xp: Any, p: Any, q: Any) -> Any:
    slopes = xp.zeros((*np.broadcast_shapes(p.shape[:-2], q.shape[:-2]), 4, 2, 9))
    slopes[..., 0, 0:3] = slopes[..., 1, 3:6] = q[..., 2:] * p
    slopes[..., 6:9] = -q[..., :2, None] * p[..., None, :]
    return slopes


def of_source(theta: Any, q: Any) -> Any:
    return q[..., 2:, None] * theta[..., None, :2, :2] - q[..., :2, None] * theta[..., None, 2:, :2]


def of_target(xp: Any, theta: Any, p: Any) -> Any:
    return -xp.einsum("...j,...kj->...k", theta[..., 2, :], p)


def solution(xp: Any, p: Any, q: Any) -> Any:
    """How the entries make up for each equation, (..., 9, 4, 2); the last of them is fixed."""
    slopes = of_entries(xp, p, q)
    leading = slopes.shape[:-3]
    solving = xp.zeros((*leading, 9, 4, 2))
    solving[..., :8, :, :] = -inverse(xp, slopes[..., :8].reshape(*leading, 8, 8)).reshape(*leading, 8, 4, 2)
    return solving


def moves(xp: Any, solving: Any, by_source: Any, by_target: Any) -> tuple[Any, Any]:
    """Of the matrix by the points, from the slopes of the equations."""
    shape = (*solving.shape[:-3], 3, 3, 4, 2)
    to_source = xp.einsum("...ekc,...kcj->...ekj", solving, by_source)
    return to_source.reshape(shape), (solving * by_target[..., None, :, None]).reshape(shape)


def through(xp: Any, source: Any, target: Any) -> Any:
    """The matrix with last entry 1.

    The line through two of the first three points vanishes at both, so that the sum over these three
    points of (target point) (line through the other two in the source), weighted so that the fourth fits
    too, sends each where it goes.
    """
    lines, weights = opposite_lines(xp, source)
    _, target_weights = opposite_lines(xp, target)
    weights = target_weights / weights
    theta = xp.einsum("...k,...ki,...kj->...ij", weights, with_one(xp, target)[..., :3, :], lines)
    terms = weights * lines[..., 2]
    lost = xp.abs(terms.sum(axis=-1)) <= 64 * np.finfo(np.float64).eps * xp.abs(terms).sum(axis=-1)
    what = "sends the origin to infinity, expected a last entry that can be 1"
    check_entries("homography", theta, lost, what)
    return theta / theta[..., 2:, 2:]


def opposite_lines(xp: Any, points: Any) -> tuple[Any, Any]:
    """Lines through two of the first three points, (..., 3, 3), and how far from each the fourth is."""
    p = with_one(xp, points)
    lines = xp.cross(p[..., [1, 2, 0], :], p[..., [2, 0, 1], :])
    return lines, (lines * p[..., 3:, :]).sum(axis=-1)


def with_one(xp: Any, points: Any) -> Any:
    return xp.concatenate([points, xp.ones((*points.shape[:-1], 1))], axis=-1)


TRIANGLES = [list(triangle) for triangle in combinations(range(4), 3)]


def check_points(from_points: Array, to_points: Array) -> None:
    for name, points in (("from_points", from_points), ("to_points", to_points)):
        if points.ndim < 2 or points.shape[-2:] != (4, 2):
            raise ValueError(f"{name} must have shape (..., 4, 2): got {points.shape}")
        check_entries(name, points, are_collinear(points), "has three points on a line, or two that coincide")


def are_collinear(points: Array) -> Any:
    """Whether a triangle of the points is no higher than the rounding of its coordinates."""
    xp = backend_of({"points": points}).xp
    with np.errstate(all="ignore"):
        triangles = points.astype(np.float64)[..., TRIANGLES, :]
        a, b = (triangles[..., i, :] - triangles[..., 0, :] for i in (1, 2))
        area = xp.abs(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])
        base = xp.abs(xp.stack([a, b, a - b])).max(axis=(0, -1))
        rounding = 4 * np.finfo(points.dtype).eps * xp.abs(triangles).max(axis=(-2, -1))
        return ((area <= rounding * base) & xp.isfinite(area)).any(axis=-1)


HOMOGRAPHY = Curved(
    homography,
    check_points,
    ("from_points", "to_points"),
    "grad_theta",
    core=2,
    alone=through,
    bend=bent_homography,
)


def homography_from_points(from_points: Array, to_points: Array) -> Array:
    r"""Projective matrices that send four points to four others.

    .. math:: \theta \, (x_k, y_k, 1)^T \propto (x'_k, y'_k, 1)^T, \qquad k = 1, ..., 4

    with a last entry of 1. Equal to ``cv2.getPerspectiveTransform``.

    Parameters
    ----------
    from_points, to_points : ndarray, shape (..., 4, 2)
        Points (x, y), float32 or float64, of one dtype. Leading axes broadcast. As `theta` of a warp the
        matrix takes points of the output, `from_points`, to points of the input, `to_points`.

    Returns
    -------
    theta : ndarray, shape (..., 3, 3)
        dtype of `from_points`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ.
    ValueError
        If a shape does not fit, three points of an entry, which is named, lie on a line or two coincide
        (a triangle of them is no higher than the rounding of its coordinates), or the transform sends
        the origin to infinity, so that its last entry is 0 and cannot be made 1.

    See Also
    --------
    homography_from_points_vjp, homography_from_points_jvp, homography_from_points_vjp2 : its derivatives.
    projective_matrix : from eight parameters.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    >>> pystn.homography_from_points(corners, corners / 2 + 0.25).round(6) + 0.0
    array([[0.5 , 0.  , 0.25],
           [0.  , 0.5 , 0.25],
           [0.  , 0.  , 1.  ]])
    """
    return HOMOGRAPHY.value(from_points, to_points)


def homography_from_points_vjp(
    grad_theta: Array,
    from_points: Array,
    to_points: Array,
    *,
    wrt: Sequence[str] = ("from_points", "to_points"),
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `homography_from_points`.

    Of the eight equations A h = b for the free entries,
    :math:`(\theta p_k)_c = q_{kc} (\theta p_k)_3`, by implicit differentiation.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., 3, 3)
        Cotangent: shape and dtype of the matrices. Its last entry makes no difference.
    from_points, to_points
        As given to `homography_from_points`.
    wrt : sequence of {"from_points", "to_points"}, default both
        Which gradients to compute.

    Returns
    -------
    grad_from_points, grad_to_points : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not
        asked for.

    Raises
    ------
    TypeError, ValueError
        As `homography_from_points`, and if `grad_theta` or `wrt` does not fit.

    See Also
    --------
    homography_from_points

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    >>> grad_theta = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # of the shift along x
    >>> _, grad_to_points = pystn.homography_from_points_vjp(grad_theta, corners, corners)
    >>> grad_to_points.round(6) + 0.0
    array([[ 0.25, -0.25],
           [ 0.25,  0.25],
           [ 0.25, -0.25],
           [ 0.25,  0.25]])
    """
    return HOMOGRAPHY.vjp(grad_theta, from_points, to_points, wrt=wrt)


def homography_from_points_jvp(
    from_points: Array, to_points: Array, d_from_points: Array | None, d_to_points: Array | None
) -> Array:
    """Jacobian-vector product of `homography_from_points`.

    Parameters
    ----------
    from_points, to_points
        As given to `homography_from_points`.
    d_from_points, d_to_points : ndarray or None
        Tangents, of the shapes and dtypes of the points; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., 3, 3)
        Its last entry is 0.

    Raises
    ------
    TypeError, ValueError
        As `homography_from_points`, and if a tangent does not fit.

    See Also
    --------
    homography_from_points

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    >>> shift = np.tile([0.5, 0.25], (4, 1))
    >>> pystn.homography_from_points_jvp(corners, corners, None, shift).round(6) + 0.0
    array([[0.  , 0.  , 0.5 ],
           [0.  , 0.  , 0.25],
           [0.  , 0.  , 0.  ]])
    """
    return HOMOGRAPHY.jvp((from_points, to_points), (d_from_points, d_to_points))


def homography_from_points_vjp2(
    gg_from_points: Array | None,
    gg_to_points: Array | None,
    grad_theta: Array,
    from_points: Array,
    to_points: Array,
    *,
    wrt: Sequence[str] = ("grad_theta", "from_points", "to_points"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `homography_from_points_vjp`.

    The eight equations of `homography_from_points_vjp`, differentiated once more. With J the derivatives of the free
    entries h, where :math:`A J + B = 0` for slopes A to these and B to the points,

    .. math:: dJ = -A^{-1} (dA \, J + dB)

    along cotangents of its gradients.

    Parameters
    ----------
    gg_from_points, gg_to_points : ndarray or None
        Cotangents of grad_from_points and grad_to_points: shapes and dtypes of these. None is zero.
    grad_theta, from_points, to_points
        As given to `homography_from_points_vjp`.
    wrt : sequence of {"grad_theta", "from_points", "to_points"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_theta, grad_from_points, grad_to_points : ndarray or None
        Shapes and dtypes of `grad_theta`, `from_points` and `to_points`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `homography_from_points_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    homography_from_points_vjp, homography_from_points_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    >>> grad_theta, step = np.zeros((3, 3)), np.zeros((4, 2))
    >>> grad_theta[0, 2] = step[0, 0] = 1.0  # of the shift along x, as the first corner moves along x
    >>> _, _, grad_to_points = pystn.homography_from_points_vjp2(None, step, grad_theta, corners, corners)
    >>> grad_to_points.round(6) + 0.0
    array([[ 0.125,  0.   ],
           [ 0.   ,  0.   ],
           [ 0.   ,  0.125],
           [-0.125, -0.125]])
    """
    return HOMOGRAPHY.vjp2((gg_from_points, gg_to_points), grad_theta, from_points, to_points, wrt=wrt)
