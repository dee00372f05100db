"""The logarithm of the mean of exponentials: of likelihoods of samples, say.

All is computed in float64, whatever the dtype of what is given and returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.backends import backend_of
from pystn.matrices.mapping import Curved
from pystn.options import integer
from pystn.typing import Array
from pystn.validation import check_like

__all__ = [
    "log_mean_exp",
    "log_mean_exp_jvp",
    "log_mean_exp_vjp",
    "log_mean_exp_vjp2",
]


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


MEAN_EXP = Curved(mean_exp, check_array, ("array",), "grad_output", core=1, bend=bent_mean_exp)


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
