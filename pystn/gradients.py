"""Operations that change gradients and nothing else."""

from __future__ import annotations

from pystn.backends import backend_of
from pystn.interpolation import number
from pystn.typing import Array
from pystn.validation import check_float, check_like

__all__ = ["scale_gradient", "scale_gradient_jvp", "scale_gradient_vjp"]


def scaled(name: str, change: Array | None, array: Array, factor: float) -> Array:
    """A cotangent or a tangent times the factor, once both arrays have been checked."""
    xp = backend_of({"array": array}, {name: change}).xp
    check_float("array", array)
    times = number("factor", factor)
    if change is None:
        zeros: Array = xp.zeros(array.shape, array.dtype)
        return zeros
    check_like(name, change, array.shape, array.dtype, "array")
    product: Array = xp.array(change * array.dtype.type(times), order="C")
    return product


def scale_gradient(array: Array, factor: float) -> Array:
    """The array as it is, whose gradient is multiplied on its way back.

    A localisation network that learns more slowly than what follows it: put between the parameters of a transform and
    the sampler, it scales the learning rate of all that made them (Jaderberg et al., Spatial Transformer Networks,
    2015, take 0.1 for SVHN and 1e-4 for CUB). A factor of 0 stops the gradient, one of -1 turns it around.

    Parameters
    ----------
    array : ndarray
        float32 or float64, any shape.
    factor : float
        What gradients, and tangents, are multiplied by.

    Returns
    -------
    ndarray
        A copy of `array`.

    Raises
    ------
    TypeError
        If `array` is no NumPy array of float32 or float64, or `factor` no number.
    ValueError
        If `factor` is not finite.

    See Also
    --------
    scale_gradient_vjp, scale_gradient_jvp : its derivatives, by definition.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta, pullback = pystn.vjp(pystn.scale_gradient, np.array([1.0, 2.0]), factor=0.1)
    >>> theta, pullback(np.ones(2))[0]
    (array([1., 2.]), array([0.1, 0.1]))
    """
    xp = backend_of({"array": array}).xp
    check_float("array", array)
    number("factor", factor)
    copy: Array = xp.array(array, order="C")
    return copy


def scale_gradient_vjp(grad_output: Array, array: Array, factor: float) -> tuple[Array]:
    """What stands for the vector-Jacobian product of `scale_gradient`: the cotangent times the factor.

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of `array`.
    array, factor
        As given to `scale_gradient`.

    Returns
    -------
    (grad_array,) : tuple of one ndarray

    Raises
    ------
    TypeError, ValueError
        As `scale_gradient`, and if `grad_output` does not fit.

    See Also
    --------
    scale_gradient

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.scale_gradient_vjp(np.ones(2), np.array([1.0, 2.0]), 0.1)
    (array([0.1, 0.1]),)
    """
    backend_of({"grad_output": grad_output})
    return (scaled("grad_output", grad_output, array, factor),)


def scale_gradient_jvp(array: Array, d_array: Array | None, factor: float) -> Array:
    """What stands for the Jacobian-vector product of `scale_gradient`: the tangent times the factor.

    It is the transpose of `scale_gradient_vjp`, so that forward and reverse mode agree, and neither is the derivative
    of the values.

    Parameters
    ----------
    array, factor
        As given to `scale_gradient`.
    d_array : ndarray or None
        Tangent: shape and dtype of `array`; None is zero.

    Returns
    -------
    d_output : ndarray

    Raises
    ------
    TypeError, ValueError
        As `scale_gradient`, and if `d_array` does not fit.

    See Also
    --------
    scale_gradient

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.scale_gradient_jvp(np.array([1.0, 2.0]), np.ones(2), 0.1)
    array([0.1, 0.1])
    """
    return scaled("d_array", d_array, array, factor)
