"""Metrics: whether probabilities are calibrated, and whether features move with what they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pystn.backends import backend_of
from pystn.matrices.mapping import Curved, Mapping
from pystn.typing import Array
from pystn.validation import check_entries, check_float, check_like, count

__all__ = [
    "brier_score",
    "brier_score_jvp",
    "brier_score_vjp",
    "brier_score_vjp2",
    "equivariance_error",
    "equivariance_error_jvp",
    "equivariance_error_vjp",
    "expected_calibration_error",
    "expected_calibration_error_jvp",
    "expected_calibration_error_vjp",
    "reliability_curve",
]

Labels = Array | Sequence[Any]


def checked_labels(probabilities: Array, labels: Labels, **others: Array | None) -> Array:
    """Labels as an array, once they and the probabilities have been checked."""
    given = {"labels": labels} if hasattr(labels, "dtype") else {}
    xp = backend_of({"probabilities": probabilities}, {**given, **others}).xp
    check_float("probabilities", probabilities)
    if probabilities.ndim < 2 or probabilities.shape[-1] == 0:
        raise ValueError(f"probabilities must have shape (..., N, K) with K 1 or more: got {probabilities.shape}")
    array: Array = xp.asarray(labels)
    if array.dtype.kind not in "iu" and (given or array.size):
        raise TypeError(f"labels must be integers, got dtype {array.dtype}")
    samples = probabilities.shape[:-1]
    if array.ndim < 1 or array.shape != samples[-array.ndim :]:
        raise ValueError(
            f"labels must have the shape of probabilities without the last axis, {samples}, or without axes before "
            f"N too: got {array.shape}"
        )
    classes = probabilities.shape[-1]
    check_entries("labels", array, (array < 0) | (array >= classes), f"must be from 0 to {classes - 1}")
    return array


def one_hot(xp: Any, chosen: Array, classes: int) -> Array:
    marked: Array = xp.arange(classes) == chosen[..., None]
    return marked


def binned(xp: Any, probabilities: Any, labels: Any, bins: int) -> tuple[Any, Any, Any, Any]:
    """Of each sample: the class that is most probable, how probable it is, whether it is right, and its bin."""
    chosen, confidence = probabilities.argmax(axis=-1), probabilities.max(axis=-1)
    inner = xp.linspace(0.0, 1.0, bins + 1)[1:-1]
    return chosen, confidence, 1.0 * (chosen == labels), xp.searchsorted(inner, confidence, side="left")


def bin_sums(xp: Any, of_samples: Any, bin: Any, bins: int) -> Any:
    """Sums over the samples of each bin, (..., bins)."""
    return xp.stack([xp.where(bin == b, of_samples, 0.0).sum(axis=-1) for b in range(bins)], axis=-1)


def calibration(xp: Any, probabilities: Any, labels: Any, bins: int) -> tuple[Any, Any]:
    samples, classes = probabilities.shape[-2:]
    chosen, confidence, correct, bin = binned(xp, probabilities, labels, bins)
    gaps = bin_sums(xp, correct - confidence, bin, bins) / max(samples, 1)
    slopes = -xp.take_along_axis(xp.sign(gaps), bin, axis=-1) / max(samples, 1)
    return abs(gaps).sum(axis=-1), xp.where(one_hot(xp, chosen, classes), slopes[..., None], 0.0)


def brier(xp: Any, probabilities: Any, labels: Any) -> tuple[Any, Any]:
    samples, classes = probabilities.shape[-2:]
    away = (probabilities - one_hot(xp, labels, classes)) / max(samples, 1)
    return (away**2).sum(axis=(-2, -1)) * max(samples, 1), 2 * away


def bent_brier(xp: Any, along: Any, probabilities: Any, labels: Any) -> tuple[Any]:
    return (2 * along[0] / max(probabilities.shape[-2], 1),)


def no_check(probabilities: Array, **options: Any) -> None:
    """Labels have been checked with the probabilities."""


CALIBRATION = Mapping(calibration, no_check, ("probabilities",), "grad_error", core=2)
BRIER = Curved(brier, no_check, ("probabilities",), "grad_score", core=2, bend=bent_brier)


def expected_calibration_error(probabilities: Array, labels: Labels, bins: int = 15) -> Array:
    r"""How far the confidence of a classifier is from how often it is right.

    .. math:: \sum_b \frac{|B_b|}{N} \, \bigl| \mathrm{acc}(B_b) - \mathrm{conf}(B_b) \bigr|

    over bins of equal width of the confidence, the probability of the most probable class (Guo et al., On Calibration
    of Modern Neural Networks, 2017, equation 5).

    Parameters
    ----------
    probabilities : ndarray, shape (..., N, K)
        Of K classes, for N samples: float32 or float64.
    labels : ndarray or sequence of int, shape (..., N) or (N,)
        The classes, from 0 to K - 1.
    bins : int, default 15
        How many; bin b is from b / bins, which is not in it, to (b + 1) / bins, which is.

    Returns
    -------
    error : ndarray, shape (...)
        0 or more; dtype of `probabilities`, summed in float64.

    Raises
    ------
    TypeError
        If `probabilities` is no NumPy array of float32 or float64, or labels or `bins` are no integers.
    ValueError
        If shapes do not fit, a label is none of the classes, or `bins` is less than 1.

    See Also
    --------
    expected_calibration_error_vjp, expected_calibration_error_jvp : its derivatives; it is piecewise linear.
    reliability_curve : the bins.
    brier_score

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    >>> round(float(pystn.expected_calibration_error(probabilities, [0, 1, 1, 0], bins=2)), 4)
    0.0
    >>> round(float(pystn.expected_calibration_error(probabilities, [0, 1, 1, 0], bins=10)), 4)
    0.3
    """
    labels = checked_labels(probabilities, labels)
    return CALIBRATION.value(probabilities, labels=labels, bins=count("bins", bins, 1))


def expected_calibration_error_vjp(
    grad_error: Array, probabilities: Array, labels: Labels, bins: int = 15
) -> tuple[Array]:
    r"""Vector-Jacobian product of `expected_calibration_error`, through the confidences, with bins and classes held.

    .. math:: \bar p_{n \hat k} = \frac{1}{N} \, \mathrm{sign}(\mathrm{conf}(B) - \mathrm{acc}(B)) \, \bar L

    for the most probable class, the first of those that are, with B the bin of the sample; the sign of 0 is 0.

    Parameters
    ----------
    grad_error : ndarray, shape (...)
        Cotangent: shape and dtype of the error.
    probabilities, labels, bins
        As given to `expected_calibration_error`.

    Returns
    -------
    (grad_probabilities,) : tuple of one ndarray
        Shape and dtype of `probabilities`.

    Raises
    ------
    TypeError, ValueError
        As `expected_calibration_error`, and if `grad_error` does not fit.

    See Also
    --------
    expected_calibration_error

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> (grad,) = pystn.expected_calibration_error_vjp(np.array(1.0), probabilities, [1, 1], bins=10)
    >>> grad
    array([[ 0.5,  0. ],
           [ 0. , -0.5]])
    """
    labels = checked_labels(probabilities, labels, grad_error=grad_error)
    return (CALIBRATION.vjp(grad_error, probabilities, labels=labels, bins=count("bins", bins, 1))[0],)


def expected_calibration_error_jvp(
    probabilities: Array, d_probabilities: Array | None, labels: Labels, bins: int = 15
) -> Array:
    """Jacobian-vector product of `expected_calibration_error`, with bins and classes held.

    Parameters
    ----------
    probabilities, labels, bins
        As given to `expected_calibration_error`.
    d_probabilities : ndarray or None
        Tangent: shape and dtype of `probabilities`; None is zero.

    Returns
    -------
    d_error : ndarray, shape (...)

    Raises
    ------
    TypeError, ValueError
        As `expected_calibration_error`, and if `d_probabilities` does not fit.

    See Also
    --------
    expected_calibration_error

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> probabilities, change = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.1, -0.1], [0.0, 0.0]])
    >>> float(pystn.expected_calibration_error_jvp(probabilities, change, [1, 1], bins=10))
    0.05
    """
    labels = checked_labels(probabilities, labels, d_probabilities=d_probabilities)
    return CALIBRATION.jvp((probabilities,), (d_probabilities,), labels=labels, bins=count("bins", bins, 1))


def brier_score(probabilities: Array, labels: Labels) -> Array:
    r"""Mean squared error of probabilities.

    .. math:: \frac{1}{N} \sum_n \sum_k (p_{nk} - [k = y_n])^2

    (Brier, Verification of forecasts expressed in terms of probability, 1950.)

    Parameters
    ----------
    probabilities : ndarray, shape (..., N, K)
        Of K classes, for N samples: float32 or float64.
    labels : ndarray or sequence of int, shape (..., N) or (N,)
        The classes, from 0 to K - 1.

    Returns
    -------
    score : ndarray, shape (...)
        From 0 to 2, of two classes twice the score of one of them; dtype of `probabilities`, summed in float64.

    Raises
    ------
    TypeError
        If `probabilities` is no NumPy array of float32 or float64, or labels are no integers.
    ValueError
        If shapes do not fit, or a label is none of the classes.

    See Also
    --------
    brier_score_vjp, brier_score_jvp, brier_score_vjp2 : its derivatives.
    expected_calibration_error

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> float(pystn.brier_score(np.array([[0.5, 0.5], [0.0, 1.0]]), [0, 1]))
    0.25
    """
    return BRIER.value(probabilities, labels=checked_labels(probabilities, labels))


def brier_score_vjp(grad_score: Array, probabilities: Array, labels: Labels) -> tuple[Array]:
    r"""Vector-Jacobian product of `brier_score`.

    .. math:: \bar p_{nk} = \frac{2}{N} (p_{nk} - [k = y_n]) \, \bar L

    Parameters
    ----------
    grad_score : ndarray, shape (...)
        Cotangent: shape and dtype of the score.
    probabilities, labels
        As given to `brier_score`.

    Returns
    -------
    (grad_probabilities,) : tuple of one ndarray
        Shape and dtype of `probabilities`.

    Raises
    ------
    TypeError, ValueError
        As `brier_score`, and if `grad_score` does not fit.

    See Also
    --------
    brier_score

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> (grad,) = pystn.brier_score_vjp(np.array(1.0), np.array([[0.5, 0.5], [0.0, 1.0]]), [0, 1])
    >>> grad
    array([[-0.5,  0.5],
           [ 0. ,  0. ]])
    """
    labels = checked_labels(probabilities, labels, grad_score=grad_score)
    return (BRIER.vjp(grad_score, probabilities, labels=labels)[0],)


def brier_score_jvp(probabilities: Array, d_probabilities: Array | None, labels: Labels) -> Array:
    """Jacobian-vector product of `brier_score`.

    Parameters
    ----------
    probabilities, labels
        As given to `brier_score`.
    d_probabilities : ndarray or None
        Tangent: shape and dtype of `probabilities`; None is zero.

    Returns
    -------
    d_score : ndarray, shape (...)

    Raises
    ------
    TypeError, ValueError
        As `brier_score`, and if `d_probabilities` does not fit.

    See Also
    --------
    brier_score

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> probabilities, change = np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[1.0, -1.0], [0.0, 0.0]])
    >>> float(pystn.brier_score_jvp(probabilities, change, [0, 1]))
    -1.0
    """
    labels = checked_labels(probabilities, labels, d_probabilities=d_probabilities)
    return BRIER.jvp((probabilities,), (d_probabilities,), labels=labels)


def brier_score_vjp2(
    gg_probabilities: Array | None,
    grad_score: Array,
    probabilities: Array,
    labels: Labels,
    *,
    wrt: str | Sequence[str] = ("grad_score", "probabilities"),
) -> tuple[Array | None, Array | None]:
    """Second order: the vector-Jacobian product of `brier_score_vjp`.

    Parameters
    ----------
    gg_probabilities : ndarray or None
        Cotangent of grad_probabilities: its shape and dtype. None is zero.
    grad_score, probabilities, labels
        As given to `brier_score_vjp`.
    wrt : sequence of {"grad_score", "probabilities"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_score, grad_probabilities : ndarray or None
        Shapes and dtypes of `grad_score` and `probabilities`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `brier_score_vjp`, and if `gg_probabilities` or `wrt` does not fit.

    See Also
    --------
    brier_score_vjp, brier_score_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> probabilities, along = np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[1.0, -1.0], [0.0, 0.0]])
    >>> _, grad = pystn.brier_score_vjp2(along, np.array(1.0), probabilities, [0, 1])
    >>> grad
    array([[ 1., -1.],
           [ 0.,  0.]])
    """
    labels = checked_labels(probabilities, labels, grad_score=grad_score, gg_probabilities=gg_probabilities)
    to_score, to_probabilities = BRIER.vjp2((gg_probabilities,), grad_score, probabilities, labels=labels, wrt=wrt)
    return to_score, to_probabilities


class ReliabilityCurve(NamedTuple):
    """What `reliability_curve` returns."""

    confidence: Array
    accuracy: Array
    samples: Array


def reliability_curve(probabilities: Array, labels: Labels, bins: int = 15) -> ReliabilityCurve:
    """Accuracy against confidence, in bins of the confidence: a reliability diagram.

    Parameters
    ----------
    probabilities, labels, bins
        As given to `expected_calibration_error`, which is the mean distance of the two, weighted by the samples.

    Returns
    -------
    confidence, accuracy : ndarray, shape (..., bins)
        Their means over the samples of each bin, NaN in bins without any; dtype of `probabilities`.
    samples : ndarray, shape (..., bins)
        How many there are, int64.

    Raises
    ------
    TypeError, ValueError
        As `expected_calibration_error`.

    See Also
    --------
    expected_calibration_error

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    >>> curve = pystn.reliability_curve(probabilities, [0, 1, 1, 0], bins=4)
    >>> curve.confidence
    array([ nan,  nan, 0.65, 0.85])
    >>> curve.accuracy, curve.samples
    (array([nan, nan, 0.5, 1. ]), array([0, 0, 2, 2]))
    """
    labels = checked_labels(probabilities, labels)
    number = count("bins", bins, 1)
    xp, wide = backend_of({"probabilities": probabilities}).xp, probabilities.astype(np.float64)
    _, confidence, correct, bin = binned(xp, wide, labels, number)
    samples = bin_sums(xp, xp.ones_like(confidence), bin, number)
    some = xp.where(samples == 0, float("nan"), samples)
    means = [(bin_sums(xp, each, bin, number) / some).astype(probabilities.dtype) for each in (confidence, correct)]
    return ReliabilityCurve(means[0], means[1], samples.astype(np.int64))


def both_ways(
    f: Callable[[Array], Array], warp: Callable[[Array], Array], image: Array, after: Callable[[Array], Array]
) -> tuple[Any, tuple[Array, Array, Array, Array]]:
    """Features of what is warped and warped features, each after what they are made from; and the array module."""
    xp = backend_of({"image": image}).xp
    warped, features = warp(image), f(image)
    first, second = f(warped), after(features)
    backend_of({"f(warp(image))": first, "feature_warp(f(image))": second})
    check_float("f(warp(image))", first)
    check_like("feature_warp(f(image))", second, first.shape, first.dtype, "f(warp(image))")
    if first.ndim < 1:
        raise ValueError("f(warp(image)) must have the batch as its first axis: got shape ()")
    return xp, (warped, features, first, second)


def norm(xp: Any, array: Array) -> Array:
    """Of each entry of the batch, in float64."""
    length: Array = xp.sqrt((array.astype(np.float64) ** 2).reshape(array.shape[0], -1).sum(axis=1))
    return length


def ratio(xp: Any, first: Array, second: Array) -> tuple[Array, Array, Array]:
    """The error, and its slopes to features of what is warped and to warped features, all in float64."""
    away, size = norm(xp, first - second), norm(xp, first)

    def inverse(length: Array) -> Array:
        return xp.where(length == 0, 0.0, 1 / xp.where(length == 0, 1.0, length))

    def spread(scale: Array) -> Array:
        return scale.reshape(-1, *[1] * (first.ndim - 1))

    error = away * inverse(size)
    to_second = spread(-inverse(away) * inverse(size)) * (first - second)
    to_first = -to_second - spread(error * inverse(size) ** 2) * first
    return xp.where((size == 0) & (away != 0), float("inf"), error), to_first, to_second


def equivariance_error(
    f: Callable[[Array], Array],
    warp: Callable[[Array], Array],
    image: Array,
    feature_warp: Callable[[Array], Array] | None = None,
) -> Array:
    r"""How far features are from moving with the image.

    .. math:: \frac{\| f(g x) - g' f(x) \|}{\| f(g x) \|}

    with g a warp of images and g' that of their features (Lenc and Vedaldi, Understanding image representations by
    measuring their equivariance and equivalence, 2015). It is 0 where f is equivariant; for the identity as g' it says
    how far f is from invariant.

    Parameters
    ----------
    f : callable
        Features (N, ...) of images (N, ...): float32 or float64.
    warp : callable
        From images to images.
    image : ndarray, shape (N, ...)
        What the two are called with.
    feature_warp : callable, optional
        From features to features; `warp` by default, as of features that are images of normalized coordinates.

    Returns
    -------
    error : ndarray, shape (N,)
        One for each entry of the batch, norms being over all else; infinite where f(g x) alone is 0. dtype of the
        features, summed in float64.

    Raises
    ------
    TypeError, ValueError
        If features are no NumPy arrays of float32 or float64, or the two are not of one shape.

    See Also
    --------
    equivariance_error_vjp, equivariance_error_jvp : its derivatives, from those of the callables.

    Notes
    -----
    `pystn.ops`, and so the adapters, do not have it: its derivatives are those of callables, of which a framework has
    its own.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.random.default_rng(0).random((1, 1, 8, 8))
    >>> def turn(image):
    ...     return pystn.warp_affine(image, np.array([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]]), (8, 8))
    >>> def slope(image):
    ...     return np.diff(image, axis=3, append=0.0)
    >>> bool(pystn.equivariance_error(np.square, turn, image) < 1e-12)
    True
    >>> pystn.equivariance_error(slope, turn, image).round(2)
    array([0.95])
    """
    after = warp if feature_warp is None else feature_warp
    xp, (*_, first, second) = both_ways(f, warp, image, after)
    error: Array = ratio(xp, first, second)[0].astype(first.dtype)
    return error


def pulled(function: Any, name: str, cotangent: Array, array: Array) -> Array:
    """The gradient of a callable, by its own VJP."""
    if not hasattr(function, "vjp"):
        raise TypeError(f"{name} must have a method vjp(cotangent, array) for a gradient: got {function!r}")
    gradient = function.vjp(cotangent, array)
    first: Array = gradient[0] if isinstance(gradient, tuple) else gradient
    return first


def pushed(function: Any, name: str, array: Array, tangent: Array) -> Array:
    """The tangent of a callable, by its own JVP."""
    if not hasattr(function, "jvp"):
        raise TypeError(f"{name} must have a method jvp(array, tangent) for a tangent: got {function!r}")
    moved: Array = function.jvp(array, tangent)
    return moved


def equivariance_error_vjp(
    grad_error: Array,
    f: Callable[[Array], Array],
    warp: Callable[[Array], Array],
    image: Array,
    feature_warp: Callable[[Array], Array] | None = None,
) -> tuple[Array]:
    """Vector-Jacobian product of `equivariance_error`: the gradient to the image.

    Parameters
    ----------
    grad_error : ndarray, shape (N,)
        Cotangent: dtype of the error.
    f, warp, image, feature_warp
        As given to `equivariance_error`. The callables have methods ``vjp(cotangent, array)`` that return the gradient
        to the array, or a tuple with that first, as those of pystn's families of grids do.

    Returns
    -------
    (grad_image,) : tuple of one ndarray
        What the VJPs return, added up; zero where the error is 0 or infinite.

    Raises
    ------
    TypeError, ValueError
        As `equivariance_error`; TypeError if a callable has no VJP.

    See Also
    --------
    equivariance_error

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> class Scaling:
    ...     def __init__(self, factors):
    ...         self.factors = factors
    ...     def __call__(self, array):
    ...         return self.factors * array
    ...     def vjp(self, cotangent, array):
    ...         return (self.factors * cotangent,)
    >>> f, double, image = Scaling(np.array([1.0, 3.0])), Scaling(2.0), np.array([[1.0, 1.0]])
    >>> still = Scaling(np.array([2.0, 1.0]))
    >>> pystn.equivariance_error(f, double, image, still).round(4)
    array([0.4743])
    >>> (grad_image,) = pystn.equivariance_error_vjp(np.ones(1), f, double, image, still)
    >>> grad_image.round(4)
    array([[-0.0474,  0.0474]])
    """
    after = warp if feature_warp is None else feature_warp
    xp, (warped, features, first, second) = both_ways(f, warp, image, after)
    backend_of({"grad_error": grad_error, "image": image})
    check_like("grad_error", grad_error, first.shape[:1], first.dtype, "the result")
    _, to_first, to_second = ratio(xp, first, second)
    each = grad_error.reshape(-1, *[1] * (first.ndim - 1))
    to_warped = pulled(f, "f", (each * to_first).astype(first.dtype), warped)
    to_features = pulled(after, "feature_warp", (each * to_second).astype(first.dtype), features)
    return (pulled(warp, "warp", to_warped, image) + pulled(f, "f", to_features, image),)


def equivariance_error_jvp(
    f: Callable[[Array], Array],
    warp: Callable[[Array], Array],
    image: Array,
    d_image: Array,
    feature_warp: Callable[[Array], Array] | None = None,
) -> Array:
    """Jacobian-vector product of `equivariance_error` with the image.

    Parameters
    ----------
    f, warp, image, feature_warp
        As given to `equivariance_error`. The callables have methods ``jvp(array, tangent)``, as pystn's families of
        grids do.
    d_image : ndarray
        Tangent of `image`.

    Returns
    -------
    d_error : ndarray, shape (N,)

    Raises
    ------
    TypeError, ValueError
        As `equivariance_error`; TypeError if a callable has no JVP.

    See Also
    --------
    equivariance_error

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> class Scaling:
    ...     def __init__(self, factors):
    ...         self.factors = factors
    ...     def __call__(self, array):
    ...         return self.factors * array
    ...     def jvp(self, array, tangent):
    ...         return self.factors * tangent
    >>> f, double, image = Scaling(np.array([1.0, 3.0])), Scaling(2.0), np.array([[1.0, 1.0]])
    >>> still = Scaling(np.array([2.0, 1.0]))
    >>> pystn.equivariance_error_jvp(f, double, image, np.array([[0.0, 1.0]]), still).round(4)
    array([0.0474])
    """
    after = warp if feature_warp is None else feature_warp
    xp, (warped, features, first, second) = both_ways(f, warp, image, after)
    _, to_first, to_second = ratio(xp, first, second)
    d_first = pushed(f, "f", warped, pushed(warp, "warp", image, d_image))
    d_second = pushed(after, "feature_warp", features, pushed(f, "f", image, d_image))
    moved = (to_first * d_first + to_second * d_second).reshape(first.shape[0], -1).sum(axis=1)
    d_error: Array = moved.astype(first.dtype)
    return d_error
