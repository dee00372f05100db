"""The spline filter: from pixels to the coefficients of the spline that passes through them."""

from __future__ import annotations

from collections.abc import Sequence

from pystn.backends import backend_of
from pystn.options import spline_axes
from pystn.typing import Array
from pystn.validation import check_like, check_out, check_outs, check_spline

__all__ = ["spline_filter", "spline_filter_jvp", "spline_filter_vjp"]


def spline_filter(
    input: Array,
    order: int | Sequence[int],
    padding_mode: str | Sequence[str] = "mirror",
    axes: Sequence[int] | None = None,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    r"""B-spline coefficients of an image, axis by axis.

    .. math:: \sum_k \beta^m(i - k) \, c_{b(k)} = u_i, \qquad i = 0 \ldots n - 1

    with :math:`\beta^m` the centred B-spline of order m and :math:`b` the map of taps outside the
    axis to pixels on it (Unser, Splines: a perfect fit for signal and image processing, IEEE Signal
    Processing Magazine, 1999; Thévenaz, Blu and Unser, Interpolation revisited, IEEE Transactions on
    Medical Imaging, 2000): sampled at pixel centres, the spline of these coefficients is the image.

    Parameters
    ----------
    input : ndarray, shape (N, C, *spatial), or (N, *spatial, C) if ``channel_axis=-1``
        One to three spatial axes, any strides. float32, float64, complex64 or complex128; or
        float16, bfloat16 (of ml_dtypes), uint8, int16 or uint16.
    order : int or sequence of int
        0 to 7, one for all spatial axes or one for each. Orders 0 and 1 are their own coefficients.
    padding_mode : str or sequence of str, default "mirror"
        What taps outside the image read, one for all spatial axes or one for each: "zeros" (or
        "constant", the same here), "border", "mirror" (about the centres of the outermost pixels),
        "symmetric" (about their outer edges) or "wrap". Sample the coefficients under the same.
    axes : sequence of int, optional
        Spatial axes to filter, numbered from 0 without batch and channels; all by default.
    channel_axis : {1, -1}, default 1
        Where the channels are.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with `input`.

    Returns
    -------
    ndarray
        Shape of `input`; dtype of `input` if that is float32, float64, complex64 or complex128, else
        float32.

    Raises
    ------
    TypeError
        If `input` is no NumPy array of a supported dtype, or an option of the wrong type.
    ValueError
        If the shape does not fit, an option is unknown, or `out` overlaps `input`. "reflection" is
        not known here: it stands for "mirror" or "symmetric".

    See Also
    --------
    spline_filter_vjp, spline_filter_jvp : its derivatives.
    grid_sample : samples images, and coefficients.

    Notes
    -----
    The systems are solved directly, in float64, not by recursions over an infinite signal: exact to
    rounding on axes of any length. None is singular: their conditions are below 21 per axis for
    every order and boundary. The result is computed in place; memory beyond it is up to 16 lines
    in float64 for each thread. A NaN or infinite pixel reaches its whole line along every axis that
    is filtered. Each part of a complex number is filtered by itself.

    Bitwise the same for any number of threads. Arithmetic is in float64 along an axis, and results
    are rounded to their dtype after each.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 5)
    >>> coefficients = pystn.spline_filter(image, 3)
    >>> coefficients.round(12)
    array([[[ 0.25, -0.5 ,  1.75, -0.5 ,  0.25]]])
    >>> abs(np.convolve(coefficients[0, 0], [1 / 6, 4 / 6, 1 / 6], "valid")).round(12)
    array([0., 1., 0.])
    """
    backend = backend_of({"input": input}, {"out": out})
    ndim, dtype = check_spline(input, channel_axis)
    along = spline_axes(order, padding_mode, axes, ndim)
    if out is not None:
        check_out("out", out, input.shape, dtype, (input,))
    return backend.spline_filter(input, along, dtype, channel_axis, False, out)


def spline_filter_vjp(
    grad_output: Array,
    input: Array,
    order: int | Sequence[int],
    padding_mode: str | Sequence[str] = "mirror",
    axes: Sequence[int] | None = None,
    *,
    channel_axis: int = 1,
    out: tuple[Array | None] | None = None,
) -> tuple[Array]:
    r"""Vector-Jacobian product of `spline_filter`: the gradient to the image.

    .. math:: \bar u = A^{-T} \, \bar c

    along every axis, with A the matrix of the equation there. It is not symmetric under "border"
    and "mirror": this is another filter.

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of ``spline_filter(input, order, ...)``, any strides.
    input : ndarray
        As given to `spline_filter`. Its shape and dtype matter; the filter is linear, and its
        values do not.
    order, padding_mode, axes, channel_axis
        As given to `spline_filter`.
    out : tuple of one ndarray or None, optional
        Array to write the gradient into, of the shape and dtype of `grad_output`.

    Returns
    -------
    (grad_input,) : tuple of one ndarray
        Shape and dtype of `grad_output`: float32 for an input of integers or of 16 bits. Real and
        imaginary parts are filtered each by itself, nothing is conjugated.

    Raises
    ------
    TypeError, ValueError
        As `spline_filter`.

    See Also
    --------
    spline_filter

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> cotangent = np.array([0.0, 0.0, 1.0, 0.0, 0.0]).reshape(1, 1, 5)
    >>> gradient, = pystn.spline_filter_vjp(cotangent, np.zeros((1, 1, 5)), 3)
    >>> gradient.round(12)
    array([[[ 0.125, -0.5  ,  1.75 , -0.5  ,  0.125]]])
    """
    given = check_outs(out, ("grad_input",))
    backend = backend_of({"grad_output": grad_output, "input": input}, given)
    ndim, dtype = check_spline(input, channel_axis)
    along = spline_axes(order, padding_mode, axes, ndim)
    check_like("grad_output", grad_output, input.shape, dtype, "the coefficients")
    grad_input = given["grad_input"]
    if grad_input is not None:
        check_out("out: grad_input", grad_input, input.shape, dtype, (grad_output, input))
    return (backend.spline_filter(grad_output, along, dtype, channel_axis, True, grad_input),)


def spline_filter_jvp(
    input: Array,
    d_input: Array | None,
    order: int | Sequence[int],
    padding_mode: str | Sequence[str] = "mirror",
    axes: Sequence[int] | None = None,
    *,
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    r"""Jacobian-vector product of `spline_filter`: the filter is linear, so that of the tangent.

    .. math:: dc = A^{-1} \, du

    Parameters
    ----------
    input : ndarray
        As given to `spline_filter`. Its shape and dtype matter, its values do not.
    d_input : ndarray or None
        Tangent: shape of `input`, dtype of `input` or of the coefficients. None is zero.
    order, padding_mode, axes, channel_axis
        As given to `spline_filter`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    ndarray
        Shape and dtype of ``spline_filter(input, order, ...)``.

    Raises
    ------
    TypeError, ValueError
        As `spline_filter`.

    See Also
    --------
    spline_filter

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image, tangent = np.zeros((1, 1, 4)), np.full((1, 1, 4), 0.5)
    >>> pystn.spline_filter_jvp(image, tangent, 2, "wrap").round(12)
    array([[[0.5, 0.5, 0.5, 0.5]]])
    """
    backend = backend_of({"input": input}, {"d_input": d_input, "out": out})
    ndim, dtype = check_spline(input, channel_axis)
    along = spline_axes(order, padding_mode, axes, ndim)
    if d_input is not None:
        tangent = input.dtype if d_input.dtype == input.dtype else dtype
        check_like("d_input", d_input, input.shape, tangent, "input" if tangent == dtype else "the coefficients")
    if out is not None:
        check_out("out", out, input.shape, dtype, (input, d_input))
    if d_input is None:
        zero: Array = backend.xp.empty(input.shape, dtype) if out is None else out
        zero.fill(0)
        return zero
    return backend.spline_filter(d_input, along, dtype, channel_axis, False, out)
