"""The box that an affine transform looks at, and how well two boxes agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from pystn.matrices.mapping import Curved, Mapping
from pystn.typing import Array
from pystn.validation import check_length

__all__ = [
    "box_iou",
    "box_iou_jvp",
    "box_iou_vjp",
    "box_iou_vjp2",
    "theta_to_box",
    "theta_to_box_jvp",
    "theta_to_box_vjp",
]


def box(xp: Any, theta: Any) -> tuple[Any, Any]:
    n = theta.shape[-2]
    linear, centre = theta[..., :n], theta[..., n]
    half = xp.abs(linear).sum(axis=-1)
    jacobian = xp.zeros((*theta.shape[:-2], 2, n, n, n + 1))
    for i in range(n):
        jacobian[..., 0, i, i, :n] = -xp.sign(linear[..., i, :])
        jacobian[..., 1, i, i, :n] = xp.sign(linear[..., i, :])
        jacobian[..., i, i, n] = 1.0
    return xp.concatenate([centre - half, centre + half], axis=-1), jacobian.reshape(*theta.shape[:-2], 2 * n, n, n + 1)


def overlap(xp: Any, first: Any, second: Any) -> tuple[Any, Any, Any]:
    corners, shares = intersection(xp, first, second)
    shared, slopes = volume(xp, corners)
    (of_first, first_slopes), (of_second, second_slopes) = (volume(xp, box) for box in (first, second))
    union = of_first + of_second - shared
    union = xp.where(union == 0, 1.0, union)[..., None]
    of_one, of_other = (
        (share * slopes * (union + shared[..., None]) - shared[..., None] * own) / union**2
        for own, share in zip((first_slopes, second_slopes), shares, strict=True)
    )
    return shared / union[..., 0], of_one, of_other


def bent_overlap(xp: Any, along: Any, first: Any, second: Any) -> list[Any]:
    value, *jacobians = overlap(xp, first, second)
    corners, shares = intersection(xp, first, second)
    moved = shares[0] * along[0] + shares[1] * along[1]
    boxes = ((corners, moved), (first, along[0]), (second, along[1]))
    volumes, slopes = zip(*[volume(xp, box) for box, _ in boxes], strict=True)
    bents = [bent_volume(xp, box, tangent) for box, tangent in boxes]
    shared_step, *steps = ((slope * tangent).sum(axis=-1) for slope, (_, tangent) in zip(slopes, boxes, strict=True))
    union, d_union = volumes[1] + volumes[2] - volumes[0], steps[0] + steps[1] - shared_step
    union = xp.where(union == 0, 1.0, union)
    d_value = (shared_step - value * d_union) / union
    value, d_value, union, d_union = (each[..., None] for each in (value, d_value, union, d_union))
    # Of J union = slopes of the intersection (1 + value) - slopes of the box value.
    return [
        (share * ((1 + value) * bents[0] + d_value * slopes[0]) - value * bent - d_value * slope - jacobian * d_union)
        / union
        for share, bent, slope, jacobian in zip(shares, bents[1:], slopes[1:], jacobians, strict=True)
    ]


def intersection(xp: Any, first: Any, second: Any) -> tuple[Any, tuple[Any, Any]]:
    """Its corners, and how much each of the two boxes moves them: half where they agree."""
    n = first.shape[-1] // 2
    lower, upper = xp.maximum(first[..., :n], second[..., :n]), xp.minimum(first[..., n:], second[..., n:])
    half = xp.sign(second - first) / 2
    share = xp.concatenate([0.5 - half[..., :n], 0.5 + half[..., n:]], axis=-1)
    return xp.concatenate([lower, upper], axis=-1), (share, 1 - share)


def sides(corners: Any) -> Any:
    n = corners.shape[-1] // 2
    return corners[..., n:] - corners[..., :n]


def volume(xp: Any, corners: Any) -> tuple[Any, Any]:
    """The product of sides, none of them negative, and its slopes to the corners: 0 by a side that is not positive."""
    lengths = sides(corners)
    n = lengths.shape[-1]
    positive = xp.maximum(lengths, 0.0)
    others = [positive[..., [j for j in range(n) if j != i]].prod(axis=-1) for i in range(n)]
    slopes = xp.where(lengths > 0, xp.stack(others, axis=-1), 0.0)
    return positive.prod(axis=-1), xp.concatenate([-slopes, slopes], axis=-1)


def bent_volume(xp: Any, corners: Any, along: Any) -> Any:
    """How the slopes move with the corners."""
    lengths = sides(corners)
    n = lengths.shape[-1]
    positive, moved = xp.maximum(lengths, 0.0), xp.where(lengths > 0, sides(along), 0.0)
    bent = xp.zeros(lengths.shape)
    for i, j in permutations(range(n), 2):
        bent[..., i] += moved[..., j] * positive[..., [k for k in range(n) if k not in (i, j)]].prod(axis=-1)
    bent = xp.where(lengths > 0, bent, 0.0)
    return xp.concatenate([-bent, bent], axis=-1)


def check_theta(theta: Array) -> None:
    if theta.ndim < 2 or theta.shape[-2:] not in ((1, 2), (2, 3), (3, 4)):
        raise ValueError(f"theta must have shape (..., ndim, ndim + 1) with ndim 1 to 3: got {theta.shape}")


def check_boxes(first: Array, second: Array) -> None:
    check_length("first", first, (2, 4, 6))
    check_length("second", second, (first.shape[-1],))


BOX = Mapping(box, check_theta, ("theta",), "grad_box", core=2)
OVERLAP = Curved(overlap, check_boxes, ("first", "second"), "grad_iou", core=1, bend=bent_overlap)


def theta_to_box(theta: Array) -> Array:
    r"""Boxes around what affine transforms look at: the image of the square from -1 to 1.

    .. math:: t_i \pm \sum_j |A_{ij}|

    Parameters
    ----------
    theta : ndarray, shape (..., ndim, ndim + 1)
        float32 or float64, ndim 1 to 3.

    Returns
    -------
    box : ndarray, shape (..., 2 ndim)
        (x0, y0, x1, y1) in 2-D: the least and then the largest corner, in normalized coordinates of the
        input; dtype of `theta`.

    Raises
    ------
    TypeError
        If `theta` is no NumPy array of float32 or float64.
    ValueError
        If its shape does not fit.

    See Also
    --------
    theta_to_box_vjp, theta_to_box_jvp : its derivatives.
    box_iou : how well two boxes agree.
    attention_matrix : the transform that looks at a box.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.theta_to_box(pystn.attention_matrix(np.array([0.5, 0.25, -0.5])))
    array([-0.25, -1.  ,  0.75,  0.  ])
    """
    return BOX.value(theta)


def theta_to_box_vjp(grad_box: Array, theta: Array) -> tuple[Array]:
    """Vector-Jacobian product of `theta_to_box`; of the magnitude of an entry that is 0 the slope is 0.

    Parameters
    ----------
    grad_box : ndarray, shape (..., 2 ndim)
        Cotangent: shape and dtype of the boxes.
    theta : ndarray, shape (..., ndim, ndim + 1)
        As given to `theta_to_box`.

    Returns
    -------
    (grad_theta,) : tuple of one ndarray
        Shape and dtype of `theta`.

    Raises
    ------
    TypeError, ValueError
        As `theta_to_box`, and if `grad_box` does not fit.

    See Also
    --------
    theta_to_box

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, = pystn.theta_to_box_vjp(np.arange(4.0), np.eye(2, 3))
    >>> grad_theta
    array([[2., 0., 2.],
           [0., 2., 4.]])
    """
    return BOX.vjp(grad_box, theta)


def theta_to_box_jvp(theta: Array, d_theta: Array | None) -> Array:
    """Jacobian-vector product of `theta_to_box`; of the magnitude of an entry that is 0 the slope is 0.

    Parameters
    ----------
    theta : ndarray, shape (..., ndim, ndim + 1)
        As given to `theta_to_box`.
    d_theta : ndarray or None
        Tangent, of the shape and dtype of `theta`; None is zero.

    Returns
    -------
    d_box : ndarray, shape (..., 2 ndim)

    Raises
    ------
    TypeError, ValueError
        As `theta_to_box`, and if `d_theta` does not fit.

    See Also
    --------
    theta_to_box

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.theta_to_box_jvp(np.eye(2, 3), np.arange(6.0).reshape(2, 3))
    array([2., 1., 2., 9.])
    """
    return BOX.jvp((theta,), (d_theta,))


def box_iou(first: Array, second: Array) -> Array:
    r"""Intersection over union of boxes (Jaccard index).

    .. math:: |B_1 \cap B_2| \,/\, |B_1 \cup B_2|

    Parameters
    ----------
    first, second : ndarray, shape (..., 2 ndim)
        The least and then the largest corner, (x0, y0, x1, y1) in 2-D; float32 or float64, of one dtype,
        ndim 1 to 3. Leading axes broadcast. A box whose largest corner is not beyond the least is empty.

    Returns
    -------
    iou : ndarray, shape (...)
        In [0, 1], 0 if both boxes are empty; dtype of `first`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ.
    ValueError
        If shapes do not fit.

    See Also
    --------
    box_iou_vjp, box_iou_jvp, box_iou_vjp2 : its derivatives.
    theta_to_box

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.box_iou(np.array([[0.0, 0.0, 2.0, 1.0]]), np.array([[1.0, 0.0, 3.0, 1.0]])).round(4)
    array([0.3333])
    """
    return OVERLAP.value(first, second)


def box_iou_vjp(
    grad_iou: Array, first: Array, second: Array, *, wrt: Sequence[str] = ("first", "second")
) -> tuple[Array | None, Array | None]:
    """Vector-Jacobian product of `box_iou`.

    Zero where the boxes do not overlap. Where both have the same side, each is taken to move it by half.

    Parameters
    ----------
    grad_iou : ndarray, shape (...)
        Cotangent: shape and dtype of the result.
    first, second
        As given to `box_iou`.
    wrt : sequence of {"first", "second"}, default both
        Which gradients to compute.

    Returns
    -------
    grad_first, grad_second : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not
        asked for.

    Raises
    ------
    TypeError, ValueError
        As `box_iou`, and if `grad_iou` or `wrt` does not fit.

    See Also
    --------
    box_iou

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> first, second = np.array([[0.0, 0.0, 2.0, 1.0]]), np.array([[1.0, 0.0, 3.0, 1.0]])
    >>> grad_first, _ = pystn.box_iou_vjp(np.ones(1), first, second)
    >>> grad_first.round(4)
    array([[0.1111, 0.    , 0.3333, 0.    ]])
    """
    return OVERLAP.vjp(grad_iou, first, second, wrt=wrt)


def box_iou_jvp(first: Array, second: Array, d_first: Array | None, d_second: Array | None) -> Array:
    """Jacobian-vector product of `box_iou`, with the slopes of `box_iou_vjp` at its kinks.

    Parameters
    ----------
    first, second
        As given to `box_iou`.
    d_first, d_second : ndarray or None
        Tangents, of the shapes and dtypes of `first` and `second`; None is zero.

    Returns
    -------
    d_iou : ndarray, shape (...)

    Raises
    ------
    TypeError, ValueError
        As `box_iou`, and if a tangent does not fit.

    See Also
    --------
    box_iou

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> first, second = np.array([[0.0, 0.0, 2.0, 1.0]]), np.array([[1.0, 0.0, 3.0, 1.0]])
    >>> pystn.box_iou_jvp(first, second, np.array([[1.0, 0.0, 1.0, 0.0]]), None).round(4)
    array([0.4444])
    """
    return OVERLAP.jvp((first, second), (d_first, d_second))


def box_iou_vjp2(
    gg_first: Array | None,
    gg_second: Array | None,
    grad_iou: Array,
    first: Array,
    second: Array,
    *,
    wrt: Sequence[str] = ("grad_iou", "first", "second"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `box_iou_vjp`.

    With V the union and J the slopes of the ratio, :math:`J V = S (1 + \mathrm{iou}) - T \, \mathrm{iou}` for slopes S
    of the intersection and T of a box. Along cotangents of its gradients all of these move; their kinks have no part.

    Parameters
    ----------
    gg_first, gg_second : ndarray or None
        Cotangents of grad_first and grad_second: shapes and dtypes of these. None is zero.
    grad_iou, first, second
        As given to `box_iou_vjp`.
    wrt : sequence of {"grad_iou", "first", "second"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_iou, grad_first, grad_second : ndarray or None
        Shapes and dtypes of `grad_iou`, `first` and `second`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `box_iou_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    box_iou_vjp, box_iou_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> first, second = np.array([[0.0, 2.0]]), np.array([[0.5, 1.0]])
    >>> _, grad_first, _ = pystn.box_iou_vjp2(np.array([[0.0, 1.0]]), None, np.ones(1), first, second)
    >>> grad_first  # of 0.5 / (x1 - x0)
    array([[-0.125,  0.125]])
    """
    return OVERLAP.vjp2((gg_first, gg_second), grad_iou, first, second, wrt=wrt)
