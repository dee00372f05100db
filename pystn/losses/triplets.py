"""Losses of encodings that are to be near each other, or far: triplets, and co-localisation.

All is computed in float64, whatever the dtype of what is given and returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.interpolation import number
from pystn.matrices.mapping import Curved
from pystn.typing import Array
from pystn.validation import check_length

__all__ = [
    "colocalization_loss",
    "colocalization_loss_jvp",
    "colocalization_loss_vjp",
    "colocalization_loss_vjp2",
    "triplet_hinge",
    "triplet_hinge_jvp",
    "triplet_hinge_vjp",
    "triplet_hinge_vjp2",
]


def hinge(xp: Any, anchor: Any, positive: Any, negative: Any, margin: float) -> tuple[Any, ...]:
    gap = ((anchor - positive) ** 2).sum(axis=-1) - ((anchor - negative) ** 2).sum(axis=-1) + margin
    active = 2.0 * (gap > 0)[..., None]
    slopes = active * (negative - positive), active * (positive - anchor), active * (anchor - negative)
    return xp.maximum(gap, 0.0), *slopes


def bent_hinge(xp: Any, along: Any, anchor: Any, positive: Any, negative: Any, margin: float) -> tuple[Any, ...]:
    gap = ((anchor - positive) ** 2).sum(axis=-1) - ((anchor - negative) ** 2).sum(axis=-1) + margin
    active = 2.0 * (gap > 0)[..., None]
    d_anchor, d_positive, d_negative = along
    return active * (d_negative - d_positive), active * (d_positive - d_anchor), active * (d_anchor - d_negative)


def check_triplet(anchor: Array, positive: Array, negative: Array, margin: float) -> None:
    number("margin", margin)
    if anchor.ndim < 1:
        raise ValueError(f"anchor must have shape (..., E): got {anchor.shape}")
    check_length("positive", positive, anchor.shape[-1:])
    check_length("negative", negative, anchor.shape[-1:])


def active_pairs(xp: Any, crops: Any, random: Any, margin: float) -> tuple[Any, Any]:
    """The hinges of all ordered pairs, (..., N, N), and which of them have a slope."""
    squares = (crops**2).sum(axis=-1)
    distances = squares[..., :, None] + squares[..., None, :] - 2 * crops @ xp.swapaxes(crops, -1, -2)
    gap = distances - ((crops - random) ** 2).sum(axis=-1)[..., None] + margin
    of_two = ~xp.eye(crops.shape[-2], dtype=bool)
    return xp.where(of_two, xp.maximum(gap, 0.0), 0.0), 1.0 * (of_two & (gap > 0))


def pulled_together(xp: Any, active: Any, crops: Any, random: Any) -> tuple[Any, Any]:
    """The slopes of the sum of active pairs, which are linear in the encodings."""
    as_anchor, as_other = active.sum(axis=-1)[..., None], active.sum(axis=-2)[..., None]
    to_crops = as_anchor * random + as_other * crops - (active + xp.swapaxes(active, -1, -2)) @ crops
    return 2 * to_crops, 2 * as_anchor * (crops - random)


def colocalization(xp: Any, crops: Any, random: Any, margin: float) -> tuple[Any, Any, Any]:
    hinges, active = active_pairs(xp, crops, random, margin)
    return hinges.sum(axis=(-2, -1)), *pulled_together(xp, active, crops, random)


def bent_colocalization(xp: Any, along: Any, crops: Any, random: Any, margin: float) -> tuple[Any, Any]:
    return pulled_together(xp, active_pairs(xp, crops, random, margin)[1], *along)


def check_encodings(crops: Array, random: Array, margin: float) -> None:
    number("margin", margin)
    if crops.ndim < 2:
        raise ValueError(f"crops must have shape (..., N, E): got {crops.shape}")
    if random.ndim < 2 or random.shape[-2:] != crops.shape[-2:]:
        count, length = crops.shape[-2:]
        raise ValueError(f"random must have shape (..., {count}, {length}), one for each of crops: got {random.shape}")


TRIPLET = Curved(hinge, check_triplet, ("anchor", "positive", "negative"), "grad_loss", core=1, bend=bent_hinge)
COLOCALIZATION = Curved(
    colocalization, check_encodings, ("crops", "random"), "grad_loss", core=2, bend=bent_colocalization
)


def triplet_hinge(anchor: Array, positive: Array, negative: Array, margin: float = 1.0) -> Array:
    r"""Hinge of triplets of encodings: the positive is to be nearer to the anchor than the negative, by a margin.

    .. math:: \max(0, |a - p|^2 - |a - n|^2 + \alpha)

    (Jaderberg et al., Spatial Transformer Networks, 2015, appendix A.2: distances are squared.)

    Parameters
    ----------
    anchor, positive, negative : ndarray, shape (..., E)
        Encodings: float32 or float64, of one dtype. Leading axes broadcast.
    margin : float, default 1.0
        By how much.

    Returns
    -------
    loss : ndarray, shape (...)
        One for each triplet; dtype of `anchor`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ.
    ValueError
        If shapes do not fit, or `margin` is not finite.

    See Also
    --------
    triplet_hinge_vjp, triplet_hinge_jvp, triplet_hinge_vjp2 : its derivatives.
    colocalization_loss : the sum over all pairs of images.

    Notes
    -----
    ``torch.nn.functional.triplet_margin_loss`` is of distances that are not squared.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> anchor, positive, negative = np.array([0.0, 0.0]), np.array([2.0, 0.0]), np.array([0.0, 1.0])
    >>> float(pystn.triplet_hinge(anchor, positive, negative))
    4.0
    """
    return TRIPLET.value(anchor, positive, negative, margin=margin)


def triplet_hinge_vjp(
    grad_loss: Array,
    anchor: Array,
    positive: Array,
    negative: Array,
    margin: float = 1.0,
    *,
    wrt: str | Sequence[str] = ("anchor", "positive", "negative"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Vector-Jacobian product of `triplet_hinge`.

    With :math:`\bar L` where the hinge is positive, and 0 where it is not, 0 itself among that,

    .. math:: \bar a = 2 (n - p) \, \bar L, \qquad \bar p = 2 (p - a) \, \bar L, \qquad \bar n = 2 (a - n) \, \bar L

    Parameters
    ----------
    grad_loss : ndarray
        Cotangent: shape and dtype of the loss.
    anchor, positive, negative, margin
        As given to `triplet_hinge`.
    wrt : sequence of {"anchor", "positive", "negative"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_anchor, grad_positive, grad_negative : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not in
        `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `triplet_hinge`, and if `grad_loss` or `wrt` does not fit.

    See Also
    --------
    triplet_hinge

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> anchor, positive, negative = np.array([0.0, 0.0]), np.array([2.0, 0.0]), np.array([0.0, 1.0])
    >>> grad_anchor, grad_positive, grad_negative = pystn.triplet_hinge_vjp(np.array(1.0), anchor, positive, negative)
    >>> grad_anchor
    array([-4.,  2.])
    """
    return TRIPLET.vjp(grad_loss, anchor, positive, negative, margin=margin, wrt=wrt)


def triplet_hinge_jvp(
    anchor: Array,
    positive: Array,
    negative: Array,
    d_anchor: Array | None,
    d_positive: Array | None,
    d_negative: Array | None,
    margin: float = 1.0,
) -> Array:
    """Jacobian-vector product of `triplet_hinge`, with the slopes of `triplet_hinge_vjp`.

    Parameters
    ----------
    anchor, positive, negative, margin
        As given to `triplet_hinge`.
    d_anchor, d_positive, d_negative : ndarray or None
        Tangents, of the shapes and dtypes of the arrays; None is zero.

    Returns
    -------
    d_loss : ndarray
        Shape and dtype of the loss.

    Raises
    ------
    TypeError, ValueError
        As `triplet_hinge`, and if a tangent does not fit.

    See Also
    --------
    triplet_hinge

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> anchor, positive, negative = np.array([0.0, 0.0]), np.array([2.0, 0.0]), np.array([0.0, 1.0])
    >>> float(pystn.triplet_hinge_jvp(anchor, positive, negative, np.array([0.5, 0.0]), None, None))
    -2.0
    """
    return TRIPLET.jvp((anchor, positive, negative), (d_anchor, d_positive, d_negative), margin=margin)


def triplet_hinge_vjp2(
    gg_anchor: Array | None,
    gg_positive: Array | None,
    gg_negative: Array | None,
    grad_loss: Array,
    anchor: Array,
    positive: Array,
    negative: Array,
    margin: float = 1.0,
    *,
    wrt: str | Sequence[str] = ("grad_loss", "anchor", "positive", "negative"),
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `triplet_hinge_vjp`.

    The gradients are linear in the encodings while the same hinges are positive.

    Parameters
    ----------
    gg_anchor, gg_positive, gg_negative : ndarray or None
        Cotangents of grad_anchor, grad_positive, grad_negative: their shapes and dtypes. None is zero.
    grad_loss, anchor, positive, negative, margin
        As given to `triplet_hinge_vjp`.
    wrt : sequence of {"grad_loss", "anchor", "positive", "negative"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_loss, grad_anchor, grad_positive, grad_negative : ndarray or None
        Shapes and dtypes of `grad_loss` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `triplet_hinge_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    triplet_hinge_vjp, triplet_hinge_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> anchor, positive, negative = np.array([0.0, 0.0]), np.array([2.0, 0.0]), np.array([0.0, 1.0])
    >>> _, to_anchor, to_positive, to_negative = pystn.triplet_hinge_vjp2(
    ...     np.array([1.0, 0.0]), None, None, np.array(1.0), anchor, positive, negative
    ... )
    >>> to_positive, to_negative
    (array([-2.,  0.]), array([2., 0.]))
    """
    return TRIPLET.vjp2(
        (gg_anchor, gg_positive, gg_negative), grad_loss, anchor, positive, negative, margin=margin, wrt=wrt
    )


def colocalization_loss(crops: Array, random: Array, margin: float = 1.0) -> Array:
    r"""Co-localisation: crops of all images are to be alike, and unlike random crops.

    .. math:: \sum_n \sum_{m \neq n} \max(0, |e_n - e_m|^2 - |e_n - r_n|^2 + \alpha)

    over the ordered pairs of N images, with e the encodings of what the transformer crops of each and r those of random
    crops of the same images (Jaderberg et al., Spatial Transformer Networks, 2015, appendix A.2).

    Parameters
    ----------
    crops, random : ndarray, shape (..., N, E)
        Encodings of the crops and of the random ones: float32 or float64, of one dtype. Leading axes broadcast: each
        is a set of images.
    margin : float, default 1.0
        By how much nearer crops of other images are to be.

    Returns
    -------
    loss : ndarray, shape (...)
        One for each set of images, a sum of N (N - 1) hinges; dtype of `crops`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ.
    ValueError
        If shapes do not fit, or `margin` is not finite.

    See Also
    --------
    colocalization_loss_vjp, colocalization_loss_jvp, colocalization_loss_vjp2 : its derivatives.
    triplet_hinge : one of its terms.

    Notes
    -----
    It takes arrays of N N numbers in float64 for each set, and none of N N E.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> crops, random = np.array([[0.0], [0.5], [3.0]]), np.array([[2.0], [2.0], [3.0]])
    >>> float(pystn.colocalization_loss(crops, random))
    28.25
    """
    return COLOCALIZATION.value(crops, random, margin=margin)


def colocalization_loss_vjp(
    grad_loss: Array,
    crops: Array,
    random: Array,
    margin: float = 1.0,
    *,
    wrt: str | Sequence[str] = ("crops", "random"),
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `colocalization_loss`.

    Every pair whose hinge is positive has

    .. math:: \bar e_n = 2 (r_n - e_m), \qquad \bar e_m = 2 (e_m - e_n), \qquad \bar r_n = 2 (e_n - r_n)

    times the cotangent; where the hinge is 0 the slope is 0. Where random crops are drawn, not learned, their gradient
    is not asked for.

    Parameters
    ----------
    grad_loss : ndarray
        Cotangent: shape and dtype of the loss.
    crops, random, margin
        As given to `colocalization_loss`.
    wrt : sequence of {"crops", "random"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_crops, grad_random : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not in
        `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `colocalization_loss`, and if `grad_loss` or `wrt` does not fit.

    See Also
    --------
    colocalization_loss

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> crops, random = np.array([[0.0], [0.5], [3.0]]), np.array([[2.0], [2.0], [3.0]])
    >>> grad_crops, _ = pystn.colocalization_loss_vjp(np.array(1.0), crops, random, wrt="crops")
    >>> grad_crops[:, 0]
    array([-8., -7., 22.])
    """
    return COLOCALIZATION.vjp(grad_loss, crops, random, margin=margin, wrt=wrt)


def colocalization_loss_jvp(
    crops: Array, random: Array, d_crops: Array | None, d_random: Array | None, margin: float = 1.0
) -> Array:
    """Jacobian-vector product of `colocalization_loss`, with the slopes of `colocalization_loss_vjp`.

    Parameters
    ----------
    crops, random, margin
        As given to `colocalization_loss`.
    d_crops, d_random : ndarray or None
        Tangents, of the shapes and dtypes of the arrays; None is zero.

    Returns
    -------
    d_loss : ndarray
        Shape and dtype of the loss.

    Raises
    ------
    TypeError, ValueError
        As `colocalization_loss`, and if a tangent does not fit.

    See Also
    --------
    colocalization_loss

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> crops, random = np.array([[0.0], [0.5], [3.0]]), np.array([[2.0], [2.0], [3.0]])
    >>> float(pystn.colocalization_loss_jvp(crops, random, np.array([[0.0], [0.0], [0.5]]), None))
    11.0
    """
    return COLOCALIZATION.jvp((crops, random), (d_crops, d_random), margin=margin)


def colocalization_loss_vjp2(
    gg_crops: Array | None,
    gg_random: Array | None,
    grad_loss: Array,
    crops: Array,
    random: Array,
    margin: float = 1.0,
    *,
    wrt: str | Sequence[str] = ("grad_loss", "crops", "random"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `colocalization_loss_vjp`.

    The gradients are linear in the encodings while the same hinges are positive.

    Parameters
    ----------
    gg_crops, gg_random : ndarray or None
        Cotangents of grad_crops, grad_random: their shapes and dtypes. None is zero.
    grad_loss, crops, random, margin
        As given to `colocalization_loss_vjp`.
    wrt : sequence of {"grad_loss", "crops", "random"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_loss, grad_crops, grad_random : ndarray or None
        Shapes and dtypes of `grad_loss` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `colocalization_loss_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    colocalization_loss_vjp, colocalization_loss_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> crops, random = np.array([[0.0], [0.5], [3.0]]), np.array([[2.0], [2.0], [3.0]])
    >>> _, grad_crops, _ = pystn.colocalization_loss_vjp2(
    ...     np.array([[1.0], [0.0], [0.0]]), None, np.array(1.0), crops, random
    ... )
    >>> grad_crops[:, 0]
    array([ 2.,  0., -4.])
    """
    return COLOCALIZATION.vjp2((gg_crops, gg_random), grad_loss, crops, random, margin=margin, wrt=wrt)
