"""Losses of transformers, each with its derivatives: of encodings, of distributions, of transforms.

All are computed in float64, whatever the dtype of what is given and returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.backends import backend_of
from pystn.interpolation import number
from pystn.matrices.mapping import Curved
from pystn.options import integer
from pystn.typing import Array
from pystn.validation import check_length, check_like, check_matrix

__all__ = [
    "colocalization_loss",
    "colocalization_loss_jvp",
    "colocalization_loss_vjp",
    "colocalization_loss_vjp2",
    "gamma_kl",
    "gamma_kl_jvp",
    "gamma_kl_vjp",
    "gamma_kl_vjp2",
    "identity_penalty",
    "identity_penalty_jvp",
    "identity_penalty_vjp",
    "identity_penalty_vjp2",
    "log_mean_exp",
    "log_mean_exp_jvp",
    "log_mean_exp_vjp",
    "log_mean_exp_vjp2",
    "normal_kl",
    "normal_kl_jvp",
    "normal_kl_vjp",
    "normal_kl_vjp2",
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


def defined(xp: Any, *scales: Any) -> Any:
    """1 where all are positive, else NaN."""
    positive = scales[0] > 0
    for scale in scales[1:]:
        positive = positive & (scale > 0)
    return xp.where(positive, 1.0, float("nan"))


def normal(xp: Any, mean: Any, scale: Any, prior_mean: Any, prior_scale: Any) -> tuple[Any, ...]:
    known, away, precision = defined(xp, scale, prior_scale), mean - prior_mean, 1 / prior_scale**2
    spread = (scale**2 + away**2) * precision
    return (
        known * (xp.log(prior_scale / scale) + (spread - 1) / 2),
        known * away * precision,
        known * (scale * precision - 1 / scale),
        -known * away * precision,
        known * (1 - spread) / prior_scale,
    )


def bent_normal(xp: Any, along: Any, mean: Any, scale: Any, prior_mean: Any, prior_scale: Any) -> tuple[Any, ...]:
    known, away, precision = defined(xp, scale, prior_scale), mean - prior_mean, 1 / prior_scale**2
    d_mean, d_scale, d_prior_mean, d_prior_scale = along
    d_away, growth = d_mean - d_prior_mean, d_prior_scale / prior_scale
    spread = (scale**2 + away**2) * precision
    d_spread = 2 * (scale * d_scale + away * d_away) * precision - 2 * spread * growth
    to_mean = known * (d_away - 2 * away * growth) * precision
    return (
        to_mean,
        known * ((precision + 1 / scale**2) * d_scale - 2 * scale * precision * growth),
        -to_mean,
        known * (-d_spread - (1 - spread) * growth) / prior_scale,
    )


def no_check(*primals: Array) -> None:
    """All that there is to check is checked of every mapping."""


def gamma(xp: Any, beta: Any, prior_beta: Any, alpha: float) -> tuple[Any, Any, Any]:
    known, ratio = alpha * defined(xp, beta, prior_beta), prior_beta / beta
    return (
        known * (ratio - 1 - xp.log(ratio)),
        known * (1 - ratio) / beta,
        known * (1 / beta - 1 / prior_beta),
    )


def bent_gamma(xp: Any, along: Any, beta: Any, prior_beta: Any, alpha: float) -> tuple[Any, Any]:
    known, ratio = alpha * defined(xp, beta, prior_beta), prior_beta / beta
    d_beta, d_prior_beta = along
    return (
        known * ((2 * ratio - 1) * d_beta - d_prior_beta) / beta**2,
        known * (d_prior_beta / prior_beta**2 - d_beta / beta**2),
    )


def check_gamma(beta: Array, prior_beta: Array, alpha: float) -> None:
    if number("alpha", alpha) <= 0:
        raise ValueError(f"alpha must be positive, got {alpha!r}")


def mean_exp(xp: Any, array: Any) -> tuple[Any, Any]:
    most = array.max(axis=-1, keepdims=True)
    terms = xp.exp(xp.where(array == most, 0.0, array - most))  # of the largest 1, infinite or not
    total = terms.sum(axis=-1, keepdims=True)
    return (most + xp.log(total / array.shape[-1]))[..., 0], terms / total


def bent_mean_exp(xp: Any, along: Any, array: Any) -> tuple[Any]:
    _, weights = mean_exp(xp, array)
    return (weights * (along[0] - (weights * along[0]).sum(axis=-1, keepdims=True)),)


def check_array(array: Array) -> None:
    if array.shape[-1] == 0:
        raise ValueError("array must have an entry or more along axis, to have a mean of: got 0")


def of_axis(array: Array, axis: Any, **others: Array | None) -> tuple[Any, int]:
    """The array module of what is given, and the axis, checked."""
    xp = backend_of({"array": array}, others).xp
    chosen = integer("axis", axis)
    if not -array.ndim <= chosen < array.ndim:
        raise ValueError(f"axis must be one of the {array.ndim} of array: got {axis} with shape {array.shape}")
    return xp, chosen


def moved(xp: Any, array: Array, axis: int, tangent: Array | None, name: str) -> Array | None:
    """A tangent with the axis of the samples last."""
    if tangent is None:
        return None
    check_like(name, tangent, array.shape, array.dtype, "array")
    last: Array = xp.moveaxis(tangent, axis, -1)
    return last


def back(xp: Any, gradient: Array | None, axis: int) -> Any:
    """A gradient with that axis where it was."""
    return None if gradient is None else xp.ascontiguousarray(xp.moveaxis(gradient, -1, axis))


def distance(xp: Any, theta: Any) -> tuple[Any, Any]:
    away = theta - xp.eye(*theta.shape[-2:])
    return (away**2).sum(axis=(-2, -1)), 2 * away


def check_transform(theta: Array) -> None:
    check_matrix("theta", theta)


TRIPLET = Curved(hinge, check_triplet, ("anchor", "positive", "negative"), "grad_loss", core=1, bend=bent_hinge)
COLOCALIZATION = Curved(
    colocalization, check_encodings, ("crops", "random"), "grad_loss", core=2, bend=bent_colocalization
)
NORMAL = Curved(
    normal, no_check, ("mean", "scale", "prior_mean", "prior_scale"), "grad_divergence", core=0, bend=bent_normal
)
GAMMA = Curved(gamma, check_gamma, ("beta", "prior_beta"), "grad_divergence", core=0, bend=bent_gamma)
MEAN_EXP = Curved(mean_exp, check_array, ("array",), "grad_output", core=1, bend=bent_mean_exp)
DISTANCE = Curved(
    distance, check_transform, ("theta",), "grad_penalty", core=2, bend=lambda xp, along, theta: (2 * along[0],)
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


def normal_kl(mean: Array, scale: Array, prior_mean: Array, prior_scale: Array) -> Array:
    r"""Divergence of normal distributions from priors, entry by entry.

    .. math:: \mathrm{KL}(N(\mu, \sigma^2) \,\|\, N(\mu_0, \sigma_0^2)) =
        \log \frac{\sigma_0}{\sigma} + \frac{\sigma^2 + (\mu - \mu_0)^2}{2 \sigma_0^2} - \frac{1}{2}

    (Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B, for any prior.)

    Parameters
    ----------
    mean, scale, prior_mean, prior_scale : ndarray, shape (...)
        Means and standard deviations, float32 or float64, of one dtype; the shapes broadcast, and may be (). A prior
        that moves with the mean, ``prior_mean=mean``, leaves the scales alone in it.

    Returns
    -------
    divergence : ndarray, shape (...)
        0 or more, NaN where a scale is not positive; dtype of `mean`. Sum it over the parameters of a transform.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ.
    ValueError
        If shapes do not broadcast.

    See Also
    --------
    normal_kl_vjp, normal_kl_jvp, normal_kl_vjp2 : its derivatives.
    gamma_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> mean, scale = np.array([0.0, 0.5]), np.array([1.0, 1.0])
    >>> pystn.normal_kl(mean, scale, np.array(0.0), np.array(1.0))
    array([0.   , 0.125])
    """
    return NORMAL.value(mean, scale, prior_mean, prior_scale)


def normal_kl_vjp(
    grad_divergence: Array,
    mean: Array,
    scale: Array,
    prior_mean: Array,
    prior_scale: Array,
    *,
    wrt: str | Sequence[str] = ("mean", "scale", "prior_mean", "prior_scale"),
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    r"""Vector-Jacobian product of `normal_kl`.

    .. math::
        \bar \mu = \frac{\mu - \mu_0}{\sigma_0^2} \, \bar L, \qquad
        \bar \sigma = \Bigl( \frac{\sigma}{\sigma_0^2} - \frac{1}{\sigma} \Bigr) \bar L

    that to the prior's mean being the negative of the first, and that to its scale
    :math:`(1 - (\sigma^2 + (\mu - \mu_0)^2) / \sigma_0^2) \, \bar L / \sigma_0`.

    Parameters
    ----------
    grad_divergence : ndarray
        Cotangent: shape and dtype of the divergence.
    mean, scale, prior_mean, prior_scale
        As given to `normal_kl`.
    wrt : sequence of {"mean", "scale", "prior_mean", "prior_scale"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_mean, grad_scale, grad_prior_mean, grad_prior_scale : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not in
        `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `normal_kl`, and if `grad_divergence` or `wrt` does not fit.

    See Also
    --------
    normal_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> mean, scale, zero, one = np.array([0.5]), np.array([2.0]), np.array(0.0), np.array(1.0)
    >>> grad_mean, grad_scale, *_ = pystn.normal_kl_vjp(np.ones(1), mean, scale, zero, one)
    >>> grad_mean, grad_scale
    (array([0.5]), array([1.5]))
    """
    return NORMAL.vjp(grad_divergence, mean, scale, prior_mean, prior_scale, wrt=wrt)


def normal_kl_jvp(
    mean: Array,
    scale: Array,
    prior_mean: Array,
    prior_scale: Array,
    d_mean: Array | None,
    d_scale: Array | None,
    d_prior_mean: Array | None,
    d_prior_scale: Array | None,
) -> Array:
    """Jacobian-vector product of `normal_kl`, with the slopes of `normal_kl_vjp`.

    Parameters
    ----------
    mean, scale, prior_mean, prior_scale
        As given to `normal_kl`.
    d_mean, d_scale, d_prior_mean, d_prior_scale : ndarray or None
        Tangents, of the shapes and dtypes of the arrays; None is zero.

    Returns
    -------
    d_divergence : ndarray
        Shape and dtype of the divergence.

    Raises
    ------
    TypeError, ValueError
        As `normal_kl`, and if a tangent does not fit.

    See Also
    --------
    normal_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> mean, scale, zero, one = np.array([0.5]), np.array([2.0]), np.array(0.0), np.array(1.0)
    >>> pystn.normal_kl_jvp(mean, scale, zero, one, np.ones(1), None, None, None)
    array([0.5])
    """
    return NORMAL.jvp((mean, scale, prior_mean, prior_scale), (d_mean, d_scale, d_prior_mean, d_prior_scale))


def normal_kl_vjp2(
    gg_mean: Array | None,
    gg_scale: Array | None,
    gg_prior_mean: Array | None,
    gg_prior_scale: Array | None,
    grad_divergence: Array,
    mean: Array,
    scale: Array,
    prior_mean: Array,
    prior_scale: Array,
    *,
    wrt: str | Sequence[str] = ("grad_divergence", "mean", "scale", "prior_mean", "prior_scale"),
) -> tuple[Array | None, Array | None, Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `normal_kl_vjp`.

    Parameters
    ----------
    gg_mean, gg_scale, gg_prior_mean, gg_prior_scale : ndarray or None
        Cotangents of the gradients: their shapes and dtypes. None is zero.
    grad_divergence, mean, scale, prior_mean, prior_scale
        As given to `normal_kl_vjp`.
    wrt : sequence of {"grad_divergence", "mean", "scale", "prior_mean", "prior_scale"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_divergence, grad_mean, grad_scale, grad_prior_mean, grad_prior_scale : ndarray or None
        Shapes and dtypes of `grad_divergence` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `normal_kl_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    normal_kl_vjp, normal_kl_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> mean, scale, zero, one = np.array([0.5]), np.array([2.0]), np.array(0.0), np.array(1.0)
    >>> _, grad_mean, grad_scale, *_ = pystn.normal_kl_vjp2(
    ...     np.ones(1), np.ones(1), None, None, np.ones(1), mean, scale, zero, one
    ... )
    >>> grad_mean, grad_scale
    (array([1.]), array([1.25]))
    """
    return NORMAL.vjp2(
        (gg_mean, gg_scale, gg_prior_mean, gg_prior_scale),
        grad_divergence,
        mean,
        scale,
        prior_mean,
        prior_scale,
        wrt=wrt,
    )


def gamma_kl(beta: Array, prior_beta: Array, alpha: float = 1.0) -> Array:
    r"""Divergence of Gamma distributions from priors of the same shape, entry by entry.

    .. math:: \mathrm{KL}(\Gamma(\alpha, \beta) \,\|\, \Gamma(\alpha, \beta_0)) =
        \alpha \Bigl( \log \frac{\beta}{\beta_0} + \frac{\beta_0}{\beta} - 1 \Bigr)

    with :math:`\beta` the rates: of the precision in the Probabilistic Spatial Transformer (Schwöbel et al., 2022).

    Parameters
    ----------
    beta, prior_beta : ndarray, shape (...)
        Rates, float32 or float64, of one dtype; the shapes broadcast, and may be ().
    alpha : float, default 1.0
        Shape of both; has no derivative.

    Returns
    -------
    divergence : ndarray, shape (...)
        0 or more, NaN where a rate is not positive; dtype of `beta`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ.
    ValueError
        If shapes do not broadcast, or `alpha` is not positive.

    See Also
    --------
    gamma_kl_vjp, gamma_kl_jvp, gamma_kl_vjp2 : its derivatives.
    normal_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.gamma_kl(np.array([1.0, 2.0]), np.array(1.0)).round(4)
    array([0.    , 0.1931])
    """
    return GAMMA.value(beta, prior_beta, alpha=alpha)


def gamma_kl_vjp(
    grad_divergence: Array,
    beta: Array,
    prior_beta: Array,
    alpha: float = 1.0,
    *,
    wrt: str | Sequence[str] = ("beta", "prior_beta"),
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `gamma_kl`.

    .. math::
        \bar \beta = \alpha \Bigl( \frac{1}{\beta} - \frac{\beta_0}{\beta^2} \Bigr) \bar L, \qquad
        \bar \beta_0 = \alpha \Bigl( \frac{1}{\beta} - \frac{1}{\beta_0} \Bigr) \bar L

    Parameters
    ----------
    grad_divergence : ndarray
        Cotangent: shape and dtype of the divergence.
    beta, prior_beta, alpha
        As given to `gamma_kl`.
    wrt : sequence of {"beta", "prior_beta"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_beta, grad_prior_beta : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not in
        `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `gamma_kl`, and if `grad_divergence` or `wrt` does not fit.

    See Also
    --------
    gamma_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> beta, one = np.array([2.0]), np.array(1.0)
    >>> grad_beta, grad_prior = pystn.gamma_kl_vjp(np.ones(1), beta, one)
    >>> grad_beta, grad_prior
    (array([0.25]), array(-0.5))
    """
    return GAMMA.vjp(grad_divergence, beta, prior_beta, alpha=alpha, wrt=wrt)


def gamma_kl_jvp(
    beta: Array, prior_beta: Array, d_beta: Array | None, d_prior_beta: Array | None, alpha: float = 1.0
) -> Array:
    """Jacobian-vector product of `gamma_kl`, with the slopes of `gamma_kl_vjp`.

    Parameters
    ----------
    beta, prior_beta, alpha
        As given to `gamma_kl`.
    d_beta, d_prior_beta : ndarray or None
        Tangents, of the shapes and dtypes of the arrays; None is zero.

    Returns
    -------
    d_divergence : ndarray
        Shape and dtype of the divergence.

    Raises
    ------
    TypeError, ValueError
        As `gamma_kl`, and if a tangent does not fit.

    See Also
    --------
    gamma_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> beta, one = np.array([2.0]), np.array(1.0)
    >>> pystn.gamma_kl_jvp(beta, one, np.ones(1), None)
    array([0.25])
    """
    return GAMMA.jvp((beta, prior_beta), (d_beta, d_prior_beta), alpha=alpha)


def gamma_kl_vjp2(
    gg_beta: Array | None,
    gg_prior_beta: Array | None,
    grad_divergence: Array,
    beta: Array,
    prior_beta: Array,
    alpha: float = 1.0,
    *,
    wrt: str | Sequence[str] = ("grad_divergence", "beta", "prior_beta"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `gamma_kl_vjp`.

    Parameters
    ----------
    gg_beta, gg_prior_beta : ndarray or None
        Cotangents of grad_beta, grad_prior_beta: their shapes and dtypes. None is zero.
    grad_divergence, beta, prior_beta, alpha
        As given to `gamma_kl_vjp`.
    wrt : sequence of {"grad_divergence", "beta", "prior_beta"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_divergence, grad_beta, grad_prior_beta : ndarray or None
        Shapes and dtypes of `grad_divergence` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `gamma_kl_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    gamma_kl_vjp, gamma_kl_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> beta, one = np.array([2.0]), np.array(1.0)
    >>> _, grad_beta, _ = pystn.gamma_kl_vjp2(np.ones(1), None, np.ones(1), beta, one)
    >>> grad_beta
    array([0.])
    """
    return GAMMA.vjp2((gg_beta, gg_prior_beta), grad_divergence, beta, prior_beta, alpha=alpha, wrt=wrt)


def log_mean_exp(array: Array, axis: int = -1) -> Array:
    r"""Logarithm of the mean of exponentials, as of the probabilities that samples of a transform give.

    .. math:: -\log S + \log \sum_s \exp v_s

    Parameters
    ----------
    array : ndarray
        float32 or float64, -inf and inf among them: log p(y | sample).
    axis : int, default -1
        The axis of the samples.

    Returns
    -------
    ndarray
        Shape of `array` without the axis, and its dtype; -inf where all are.

    Raises
    ------
    TypeError
        If `array` is no NumPy array of float32 or float64, or `axis` no integer.
    ValueError
        If there is no such axis, or nothing along it.

    See Also
    --------
    log_mean_exp_vjp, log_mean_exp_jvp, log_mean_exp_vjp2 : its derivatives.

    Notes
    -----
    The mean of the logarithms, which bounds it from below, is what training may take instead (Schwöbel et al., 2022).

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.log_mean_exp(np.array([[np.log(0.2), np.log(0.4)], [-np.inf, 0.0]])).round(4)
    array([-1.204 , -0.6931])
    """
    xp, axis = of_axis(array, axis)
    return MEAN_EXP.value(xp.moveaxis(array, axis, -1))


def log_mean_exp_vjp(grad_output: Array, array: Array, axis: int = -1) -> tuple[Array]:
    r"""Vector-Jacobian product of `log_mean_exp`.

    .. math:: \bar v_s = w_s \, \bar L, \qquad w_s = \frac{\exp v_s}{\sum_r \exp v_r}

    The weights sum to 1 also where the largest array are infinite: these, -inf if all are, share them.

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of the result.
    array, axis
        As given to `log_mean_exp`.

    Returns
    -------
    (grad_array,) : tuple of one ndarray
        Shape and dtype of `array`.

    Raises
    ------
    TypeError, ValueError
        As `log_mean_exp`, and if `grad_output` does not fit.

    See Also
    --------
    log_mean_exp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> array = np.log(np.array([[0.2, 0.6], [0.5, 0.5]]))
    >>> (grad_array,) = pystn.log_mean_exp_vjp(np.ones(2), array)
    >>> grad_array.round(4)
    array([[0.25, 0.75],
           [0.5 , 0.5 ]])
    """
    xp, axis = of_axis(array, axis, grad_output=grad_output)
    (gradient,) = MEAN_EXP.vjp(grad_output, xp.moveaxis(array, axis, -1))
    return (back(xp, gradient, axis),)


def log_mean_exp_jvp(array: Array, d_array: Array | None, axis: int = -1) -> Array:
    """Jacobian-vector product of `log_mean_exp`, with the slopes of `log_mean_exp_vjp`.

    Parameters
    ----------
    array, axis
        As given to `log_mean_exp`.
    d_array : ndarray or None
        Tangent, of the shape and dtype of `array`; None is zero.

    Returns
    -------
    d_output : ndarray
        Shape and dtype of the result.

    Raises
    ------
    TypeError, ValueError
        As `log_mean_exp`, and if a tangent does not fit.

    See Also
    --------
    log_mean_exp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> array = np.log(np.array([[0.2, 0.6], [0.5, 0.5]]))
    >>> pystn.log_mean_exp_jvp(array, np.array([[1.0, 0.0], [1.0, 1.0]])).round(4)
    array([0.25, 1.  ])
    """
    xp, axis = of_axis(array, axis, d_array=d_array)
    along = moved(xp, array, axis, d_array, "d_array")
    return MEAN_EXP.jvp((xp.moveaxis(array, axis, -1),), (along,))


def log_mean_exp_vjp2(
    gg_array: Array | None,
    grad_output: Array,
    array: Array,
    axis: int = -1,
    *,
    wrt: str | Sequence[str] = ("grad_output", "array"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `log_mean_exp_vjp`.

    With :math:`t` the cotangent of the gradient, :math:`w_s (t_s - \sum_r w_r t_r) \bar L`.

    Parameters
    ----------
    gg_array : ndarray or None
        Cotangent of grad_array: its shape and dtype. None is zero.
    grad_output, array, axis
        As given to `log_mean_exp_vjp`.
    wrt : sequence of {"grad_output", "array"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_array : ndarray or None
        Shapes and dtypes of `grad_output` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `log_mean_exp_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    log_mean_exp_vjp, log_mean_exp_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> array = np.log(np.array([[0.2, 0.6], [0.5, 0.5]]))
    >>> _, grad_array = pystn.log_mean_exp_vjp2(np.array([[1.0, 0.0], [1.0, 1.0]]), np.ones(2), array)
    >>> grad_array.round(4) + 0.0
    array([[ 0.1875, -0.1875],
           [ 0.    ,  0.    ]])
    """
    xp, axis = of_axis(array, axis, grad_output=grad_output, gg_array=gg_array)
    along = moved(xp, array, axis, gg_array, "gg_array")
    to_output, gradient = MEAN_EXP.vjp2((along,), grad_output, xp.moveaxis(array, axis, -1), wrt=wrt)
    return to_output, back(xp, gradient, axis)


def identity_penalty(theta: Array) -> Array:
    r"""How far transforms are from the identity: a loss that keeps them near it.

    .. math:: \sum_{ij} (A_{ij} - \delta_{ij})^2

    Parameters
    ----------
    theta : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        Affine or projective matrices, float32 or float64; those of a projective map as they are, not up to scale.

    Returns
    -------
    penalty : ndarray, shape (...)
        The sum of squares, one for each matrix; dtype of `theta`.

    Raises
    ------
    TypeError
        If `theta` is no NumPy array of float32 or float64.
    ValueError
        If its shape does not fit.

    See Also
    --------
    identity_penalty_vjp, identity_penalty_jvp, identity_penalty_vjp2 : its derivatives.
    out_of_bounds_penalty : of a grid.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.identity_penalty(np.array([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]]))
    array([1.25])
    """
    return DISTANCE.value(theta)


def identity_penalty_vjp(grad_penalty: Array, theta: Array) -> tuple[Array]:
    r"""Vector-Jacobian product of `identity_penalty`.

    .. math:: \bar A_{ij} = 2 (A_{ij} - \delta_{ij}) \, \bar L

    Parameters
    ----------
    grad_penalty : ndarray
        Cotangent: shape and dtype of the penalty.
    theta
        As given to `identity_penalty`.

    Returns
    -------
    (grad_theta,) : tuple of one ndarray
        Shape and dtype of `theta`.

    Raises
    ------
    TypeError, ValueError
        As `identity_penalty`, and if `grad_penalty` does not fit.

    See Also
    --------
    identity_penalty

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]])
    >>> (grad_theta,) = pystn.identity_penalty_vjp(np.ones(1), theta)
    >>> grad_theta
    array([[[0., 0., 1.],
            [0., 2., 0.]]])
    """
    return DISTANCE.vjp(grad_penalty, theta)


def identity_penalty_jvp(theta: Array, d_theta: Array | None) -> Array:
    """Jacobian-vector product of `identity_penalty`, with the slopes of `identity_penalty_vjp`.

    Parameters
    ----------
    theta
        As given to `identity_penalty`.
    d_theta : ndarray or None
        Tangent, of the shape and dtype of `theta`; None is zero.

    Returns
    -------
    d_penalty : ndarray
        Shape and dtype of the penalty.

    Raises
    ------
    TypeError, ValueError
        As `identity_penalty`, and if a tangent does not fit.

    See Also
    --------
    identity_penalty

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]])
    >>> pystn.identity_penalty_jvp(theta, theta)
    array([4.5])
    """
    return DISTANCE.jvp((theta,), (d_theta,))


def identity_penalty_vjp2(
    gg_theta: Array | None, grad_penalty: Array, theta: Array, *, wrt: str | Sequence[str] = ("grad_penalty", "theta")
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `identity_penalty_vjp`.

    Parameters
    ----------
    gg_theta : ndarray or None
        Cotangent of grad_theta: its shape and dtype. None is zero.
    grad_penalty, theta
        As given to `identity_penalty_vjp`.
    wrt : sequence of {"grad_penalty", "theta"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_penalty, grad_theta : ndarray or None
        Shapes and dtypes of `grad_penalty` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `identity_penalty_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    identity_penalty_vjp, identity_penalty_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]])
    >>> _, grad_theta = pystn.identity_penalty_vjp2(np.ones_like(theta), np.ones(1), theta)
    >>> grad_theta
    array([[[2., 2., 2.],
            [2., 2., 2.]]])
    """
    return DISTANCE.vjp2((gg_theta,), grad_penalty, theta, wrt=wrt)
