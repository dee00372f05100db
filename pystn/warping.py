"""Fused warps: an image sampled where a matrix says, and the derivatives of that.

The grid is never stored, in either direction: coordinates are made from the matrix a few pixels
at a time, and their gradient is added up to the matrix' in the same pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.backends import backend_of
from pystn.coordinates import MatrixCoordinates
from pystn.derivatives import (
    check_cotangents,
    check_gradients,
    check_tangents,
    check_wanted_options,
    cotangents,
    option_tangents,
    sampler_gradients,
)
from pystn.options import AntiAlias, FillValue, Mode, PaddingMode, SamplingOptions, flag, least_denominator, resolve
from pystn.typing import Array
from pystn.validation import check_out, check_outs, check_warping, check_wrt, sample_shape, tangent_dtype

__all__ = [
    "warp_affine",
    "warp_affine_jvp",
    "warp_affine_vjp",
    "warp_affine_vjp2",
    "warp_projective",
    "warp_projective_jvp",
    "warp_projective_vjp",
    "warp_projective_vjp2",
]

WARP_GRADIENTS = ("input", "theta", "fill_value", "kernel")


def affine(input: Array, theta: Array, size: Sequence[int], options: SamplingOptions) -> MatrixCoordinates:
    return MatrixCoordinates(theta, check_warping(input, theta, size, options, projective=False))


def projective(
    input: Array, theta: Array, size: Sequence[int], options: SamplingOptions, min_denominator: Any, cull_behind: Any
) -> MatrixCoordinates:
    spatial = check_warping(input, theta, size, options, projective=True)
    least = least_denominator(min_denominator, theta.dtype)
    return MatrixCoordinates(theta, spatial, True, least, flag("cull_behind", cull_behind))


def warp(
    input: Array, coordinates: MatrixCoordinates, options: SamplingOptions, return_mask: Any, out: Array | None
) -> Any:
    backend = backend_of({"input": input}, {"out": out})
    if out is not None:
        check_out("out", out, sample_shape(input, coordinates, options), input.dtype, (input, coordinates.theta))
    output, mask = backend.grid_sample(input, coordinates, options, flag("return_mask", return_mask), out)
    return output if mask is None else (output, mask)


def warp_vjp(
    grad_output: Any,
    input: Array,
    coordinates: MatrixCoordinates,
    options: SamplingOptions,
    return_mask: Any,
    wanted: tuple[bool, ...],
    out: Any,
) -> tuple[Any, ...]:
    given = check_outs(out, ("grad_input", "grad_theta"))
    grad_output, grad_mask = cotangents(grad_output, return_mask)
    backend = backend_of({"grad_output": grad_output, "input": input}, {"grad_mask": grad_mask, **given})
    theta = coordinates.theta
    check_cotangents(grad_output, grad_mask, input, coordinates, options)
    read = (grad_output, grad_mask, input, theta)
    check_gradients(given, (input, theta), (tangent_dtype(input.dtype), theta.dtype), read)
    check_wanted_options(wanted, input, options)
    outs = tuple(given.values())
    return sampler_gradients(backend, grad_output, grad_mask, input, coordinates, options, wanted, outs)


def warp_jvp(
    input: Array,
    coordinates: MatrixCoordinates,
    d_input: Array | None,
    d_theta: Array | None,
    options: SamplingOptions,
    return_mask: Any,
    d_fill_value: Any,
    d_kernel: Any,
    out: Array | None,
) -> Any:
    backend = backend_of({"input": input}, {"d_input": d_input, "d_theta": d_theta, "out": out})
    theta = coordinates.theta
    check_tangents(d_input, d_theta, input, theta, "theta")
    tangents = option_tangents(d_fill_value, d_kernel, input, options)
    if out is not None:
        shape, dtype = sample_shape(input, coordinates, options), tangent_dtype(input.dtype)
        check_out("out", out, shape, dtype, (input, theta, d_input, d_theta))
    d_output, d_mask = backend.grid_sample_jvp(
        input, coordinates, d_input, d_theta, d_fill_value, tangents, options, flag("return_mask", return_mask), out
    )
    return d_output if d_mask is None else (d_output, d_mask)


def warp_vjp2(
    gg_input: Array | None,
    gg_theta: Array | None,
    grad_output: Any,
    input: Array,
    coordinates: MatrixCoordinates,
    options: SamplingOptions,
    return_mask: Any,
    wrt: Any,
) -> tuple[Any, Any, Any]:
    wanted = check_wrt(wrt, ("grad_output", "input", "theta"))
    grad_output, grad_mask = cotangents(grad_output, return_mask)
    others = {"grad_mask": grad_mask, "gg_input": gg_input, "gg_theta": gg_theta}
    backend = backend_of({"grad_output": grad_output, "input": input}, others)
    check_cotangents(grad_output, grad_mask, input, coordinates, options)
    check_tangents(gg_input, gg_theta, input, coordinates.theta, "theta", "gg")
    to_output, to_mask, to_input, to_theta = backend.grid_sample_vjp2(
        gg_input, gg_theta, grad_output, grad_mask, input, coordinates, options, wanted
    )
    return (to_output if to_mask is None else (to_output, to_mask)), to_input, to_theta


def warp_affine(
    input: Array,
    theta: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    antialias: AntiAlias = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    return_mask: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Warp an image by an affine map, without storing the grid of its coordinates.

    .. math::
        V_{nci} = \sum_{h,w} U_{nchw} \, k(p^x_{ni} - w) \, k(p^y_{ni} - h), \qquad
        \begin{pmatrix} x_s \\ y_s \end{pmatrix} = A_n \begin{pmatrix} x_t \\ y_t \\ 1 \end{pmatrix}

    (Jaderberg et al., Spatial Transformer Networks, 2015, equations 1 and 3), and likewise in one
    and three dimensions: `affine_grid` and `grid_sample` in one pass. The matrix maps from the
    output to the input: it is the inverse of the motion that one sees.

    Parameters
    ----------
    input : ndarray, shape (N, C, *spatial), or (N, *spatial, C) if ``channel_axis=-1``
        A signal (W,), image (H, W) or volume (D, H, W) of any dtype of `grid_sample`, any strides.
    theta : ndarray, shape (N, ..., ndim, ndim + 1)
        float32 or float64, any strides. Axes between N and the matrix make several warps of each
        image. N of input and theta agree, or one of them is 1.
    size : sequence of int
        Spatial size of the output, or its full (N, C, *spatial).
    mode, padding_mode, align_corners, fill_value, cutoff, subgradient, channel_axis, deterministic
        As in `grid_sample`; `align_corners` is the convention of the output's coordinates too.
    coords : {"normalized", "pixel"}, default "normalized"
        Unit of both source and target: with "pixel" the matrix maps the indices (x, y[, z], 1) of
        an output pixel to a position in pixels, the first being 0, as in OpenCV and SciPy.
    antialias : str or object, optional
        As in `grid_sample`, by the Jacobian of the map itself. All but "supersample" store the grid.
    return_mask : bool, default False
        Whether to return the coverage too, from the same pass.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with what is
        read.

    Returns
    -------
    output : ndarray, shape (N, C, ..., *size), or (N, ..., *size, C) if ``channel_axis=-1``
        dtype of `input`. Positions and weights are computed in float64 if input or theta are of it, sums
        if `input` is, else in float32 at least.
    mask : ndarray, shape (N, ..., *size), only if `return_mask`
        As in `grid_sample`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of a supported dtype, or an option of the wrong type.
    ValueError
        If shapes do not fit, an option is unknown, or `out` overlaps an input.

    See Also
    --------
    warp_affine_vjp, warp_affine_jvp, warp_affine_vjp2 : its derivatives.
    grid_sample, affine_grid : the same in two steps.
    warp_projective : the same for homographies.

    Notes
    -----
    A matrix that is NaN or infinite puts its samples outside the image.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> transposed = np.array([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    >>> pystn.warp_affine(image, transposed, (2, 2))
    array([[[[0., 2.],
             [1., 3.]]]])
    >>> half_a_pixel = np.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]])
    >>> pystn.warp_affine(image, half_a_pixel, (2, 1), coords="pixel")
    array([[[[0.5],
             [2.5]]]])
    """
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    if return_mask is False:
        for repeat in options.repeats:
            if (again := repeat(input, theta, size, out)) is not None:
                return again
    backend_of({"input": input, "theta": theta})
    return warp(input, affine(input, theta, size, options), options, return_mask, out)


def warp_affine_vjp(
    grad_output: Array | tuple[Array, Array],
    input: Array,
    theta: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    antialias: AntiAlias = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    return_mask: bool = False,
    wrt: str | Sequence[str] = ("input", "theta"),
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Any, ...]:
    r"""Vector-Jacobian product of `warp_affine`: gradients to the image and to the matrix.

    .. math:: \bar A_n = \sum_i \bar g_{ni} \, (x_t, y_t, 1)_i

    with :math:`\bar g` the gradient to the coordinates, as in `grid_sample_vjp`; that to the image is
    the same as there.

    Parameters
    ----------
    grad_output : ndarray, or tuple of two if `return_mask`
        Cotangent: the shape of ``warp_affine(input, theta, size, ...)``, any strides, and its dtype;
        float32 for an integer input. With `return_mask` a tuple, the mask's cotangent second.
    input, theta, size, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis
        As given to `warp_affine`.
    antialias, deterministic, return_mask
        As given to `warp_affine`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`. The identity puts every sample on a kink.
    wrt : sequence of {"input", "theta", "fill_value", "kernel"}, default ("input", "theta")
        The gradients that are wanted; the work for others is skipped.
    out : tuple of two ndarrays or None, optional
        Arrays to write the gradients to input and theta into, of their shapes and dtypes.

    Returns
    -------
    grad_input, grad_theta : ndarray or None
        Shapes of `input` and `theta`, dtype of each (float32 for an integer input); None where not
        in `wrt`. That to theta is summed in float64 in a fixed order: both are bitwise the same for
        any number of threads.
    grad_fill_value, grad_kernel
        Only if in `wrt`, as of `grid_sample_vjp`.

    Raises
    ------
    TypeError, ValueError
        As `warp_affine`; ValueError if `wrt` names the kernel and it has no parameter.

    See Also
    --------
    warp_affine

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> theta = np.array([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]])
    >>> value = pystn.warp_affine(image, theta, (1, 1), coords="pixel")
    >>> grad_image, grad_theta = pystn.warp_affine_vjp(np.ones_like(value), image, theta, (1, 1), coords="pixel")
    >>> grad_image
    array([[[[0.75, 0.25],
             [0.  , 0.  ]]]])
    >>> grad_theta
    array([[[0., 0., 1.],
            [0., 0., 2.]]])
    """
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    wanted = check_wrt(wrt, WARP_GRADIENTS)
    if out is None and return_mask is False:
        for repeat in options.repeated_gradients.get(wanted, ()):
            if (again := repeat(grad_output, input, theta, size)) is not None:
                return again
    backend_of({"input": input, "theta": theta})
    coordinates = affine(input, theta, size, options)
    return warp_vjp(grad_output, input, coordinates, options, return_mask, wanted, out)


def warp_affine_jvp(
    input: Array,
    theta: Array,
    d_input: Array | None,
    d_theta: Array | None,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    antialias: AntiAlias = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    return_mask: bool = False,
    d_fill_value: FillValue | None = None,
    d_kernel: Any = None,
    out: Array | None = None,
) -> Any:
    r"""Jacobian-vector product of `warp_affine`: how the output changes with image and matrix.

    .. math::
        dV = \mathrm{warp}(dU) + \frac{\partial V}{\partial x_s} dx_s + \frac{\partial V}{\partial y_s} dy_s,
        \qquad (dx_s, dy_s)^T = dA \, (x_t, y_t, 1)^T

    Parameters
    ----------
    input, theta, size, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis
        As given to `warp_affine`.
    antialias, deterministic, return_mask
        As given to `warp_affine`.
    d_input, d_theta : ndarray or None
        Tangents: shapes and dtypes of `input` (float32 if it is of integers) and `theta`. None is
        zero, and saves the work.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    d_fill_value, d_kernel
        Tangents of the options, as in `grid_sample_jvp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    d_output : ndarray
        Shape and dtype of ``warp_affine(input, theta, size, ...)``; float32 for an integer input.
    d_mask : ndarray, only if `return_mask`

    Raises
    ------
    TypeError, ValueError
        As `warp_affine`.

    See Also
    --------
    warp_affine

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> theta = np.array([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]])
    >>> shift = np.array([[[0.0, 0.0, 0.1], [0.0, 0.0, 0.1]]])
    >>> pystn.warp_affine_jvp(image, theta, None, shift, (1, 1), coords="pixel")
    array([[[[0.3]]]])
    """
    backend_of({"input": input, "theta": theta})
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    coordinates = affine(input, theta, size, options)
    return warp_jvp(input, coordinates, d_input, d_theta, options, return_mask, d_fill_value, d_kernel, out)


def warp_affine_vjp2(
    gg_input: Array | None,
    gg_theta: Array | None,
    grad_output: Array | tuple[Array, Array],
    input: Array,
    theta: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    antialias: AntiAlias = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    return_mask: bool = False,
    wrt: str | Sequence[str] = ("grad_output", "input", "theta"),
) -> tuple[Any, Any, Any]:
    r"""Second order: the vector-Jacobian product of `warp_affine_vjp`.

    That of `grid_sample_vjp` with the cotangent of the grid's gradient, :math:`\bar{\bar x} = \bar{\bar A} \,
    (x_t, y_t, 1)^T`, whose gradient to the grid goes back to the matrix as in `warp_affine_vjp`.

    Parameters
    ----------
    gg_input, gg_theta : ndarray or None
        Cotangents of grad_input and grad_theta: shapes and dtypes of these. None is zero.
    grad_output, input, theta, size
        As given to `warp_affine_vjp`.
    mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis, antialias, deterministic, return_mask
        As given to `warp_affine`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"grad_output", "input", "theta"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_input, grad_theta : ndarray or None
        Shapes and dtypes of `grad_output` (a tuple with `return_mask`), of the gradient to `input`,
        and of `theta`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `warp_affine_vjp`.

    See Also
    --------
    warp_affine_vjp, warp_affine_jvp

    Notes
    -----
    For the gradients to `input` and `theta` the grid, its cotangent and its gradient are stored, in the dtype of
    the arithmetic, and the target's coordinates. The second derivative of linear interpolation is as in
    `grid_sample_vjp2`.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 5.0]]).reshape(1, 1, 2, 2)
    >>> theta, shift = np.array([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.5]]]), np.array([[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    >>> _, _, grad_theta = pystn.warp_affine_vjp2(
    ...     None, shift, np.ones((1, 1, 1, 1)), image, theta, (1, 1), coords="pixel"
    ... )
    >>> grad_theta
    array([[[0., 0., 0.],
            [0., 0., 2.]]])
    """
    backend_of({"input": input, "theta": theta})
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    coordinates = affine(input, theta, size, options)
    return warp_vjp2(gg_input, gg_theta, grad_output, input, coordinates, options, return_mask, wrt)


def warp_projective(
    input: Array,
    theta: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    antialias: AntiAlias = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    return_mask: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Warp an image by a projective map (homography), without storing the grid of its coordinates.

    .. math:: q = H_n (x_t, y_t, 1)^T, \qquad x_s = q_1 / q_3, \quad y_s = q_2 / q_3

    sampled as by `grid_sample`. The matrix maps from the output to the input, and only up to scale:
    `H` and `cH` are the same warp.

    Parameters
    ----------
    input : ndarray, shape (N, C, H, W), or (N, H, W, C) if ``channel_axis=-1``
        Images of any dtype of `grid_sample`, any strides.
    theta : ndarray, shape (N, ..., 3, 3)
        float32 or float64, any strides. Axes between N and the matrix make several warps of each
        image. N of input and theta agree, or one of them is 1.
    size : sequence of int
        Spatial size of the output, (H, W), or its full (N, C, H, W).
    mode, padding_mode, align_corners, fill_value, cutoff, subgradient, channel_axis, deterministic
        As in `grid_sample`; `align_corners` is the convention of the output's coordinates too.
    coords : {"normalized", "pixel"}, default "normalized"
        Unit of both source and target: with "pixel" the matrix maps the indices (x, y, 1) of an
        output pixel to a position in pixels, the first being 0, as in OpenCV.
    min_denominator : float, optional
        Points with :math:`|q_3|` below it are at the horizon, and outside: `fill_value`, mask 0, no
        gradient. Default 1e-8 for float64, 1e-6 for float32.
    cull_behind : bool, default False
        Whether points behind the horizon, :math:`q_3 \le 0`, are outside too.
    antialias : str or object, optional
        As in `grid_sample`, by the Jacobian of the map itself. All but "supersample" store the grid.
    return_mask : bool, default False
        Whether to return the coverage too, from the same pass.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with what is
        read.

    Returns
    -------
    output : ndarray, shape (N, C, ..., H', W'), or (N, ..., H', W', C) if ``channel_axis=-1``
        dtype of `input`. Positions and weights are computed in float64 if input or theta are of it, sums
        if `input` is, else in float32 at least.
    mask : ndarray, shape (N, ..., H', W'), only if `return_mask`
        As in `grid_sample`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of a supported dtype, or an option of the wrong type.
    ValueError
        If shapes do not fit, an option is unknown, or `out` overlaps an input.

    See Also
    --------
    warp_projective_vjp, warp_projective_jvp, warp_projective_vjp2 : its derivatives.
    warp_affine : the same for affine maps.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> theta = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]])
    >>> pystn.warp_projective(image, theta, (1, 2), coords="pixel")
    array([[[[0. , 0.5]]]])
    """
    backend_of({"input": input, "theta": theta})
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    coordinates = projective(input, theta, size, options, min_denominator, cull_behind)
    return warp(input, coordinates, options, return_mask, out)


def warp_projective_vjp(
    grad_output: Array | tuple[Array, Array],
    input: Array,
    theta: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    antialias: AntiAlias = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    return_mask: bool = False,
    wrt: str | Sequence[str] = ("input", "theta"),
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Any, ...]:
    r"""Vector-Jacobian product of `warp_projective`: gradients to the image and to the matrix.

    .. math::
        \bar H = \sum_i r_i \, (x_t, y_t, 1)_i, \qquad
        r_i = \frac{1}{q_3} \left( \bar g^x_i, \; \bar g^y_i, \; -(\bar g^x_i x_s + \bar g^y_i y_s) \right)

    with :math:`\bar g` the gradient to the coordinates, as in `grid_sample_vjp`. As the warp does not
    depend on the scale of its matrix, :math:`\langle \bar H, H \rangle = 0`; for the form with
    :math:`h_{33} = 1` leave out that entry.

    Parameters
    ----------
    grad_output : ndarray, or tuple of two if `return_mask`
        Cotangent: the shape of ``warp_projective(input, theta, size, ...)``, any strides, and its
        dtype; float32 for an integer input. With `return_mask` a tuple, the mask's cotangent second.
    input, theta, size, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis
        As given to `warp_projective`.
    antialias, deterministic, min_denominator, cull_behind, return_mask
        As given to `warp_projective`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"input", "theta", "fill_value", "kernel"}, default ("input", "theta")
        The gradients that are wanted; the work for others is skipped.
    out : tuple of two ndarrays or None, optional
        Arrays to write the gradients to input and theta into, of their shapes and dtypes.

    Returns
    -------
    grad_input, grad_theta : ndarray or None
        Shapes of `input` and `theta`, dtype of each (float32 for an integer input); None where not
        in `wrt`. That to theta is summed in float64 in a fixed order: both are bitwise the same for
        any number of threads.
    grad_fill_value, grad_kernel
        Only if in `wrt`, as of `grid_sample_vjp`.

    Raises
    ------
    TypeError, ValueError
        As `warp_projective`; ValueError if `wrt` names the kernel and it has no parameter.

    See Also
    --------
    warp_projective

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
    >>> value = pystn.warp_projective(image, theta, (1, 1), coords="pixel")
    >>> _, grad_theta = pystn.warp_projective_vjp(np.ones_like(value), image, theta, (1, 1), coords="pixel")
    >>> grad_theta + 0.0
    array([[[ 0.   ,  0.   ,  0.5  ],
            [ 0.   ,  0.   ,  1.   ],
            [ 0.   ,  0.   , -0.125]]])
    """
    backend_of({"input": input, "theta": theta})
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    coordinates = projective(input, theta, size, options, min_denominator, cull_behind)
    return warp_vjp(grad_output, input, coordinates, options, return_mask, check_wrt(wrt, WARP_GRADIENTS), out)


def warp_projective_jvp(
    input: Array,
    theta: Array,
    d_input: Array | None,
    d_theta: Array | None,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    antialias: AntiAlias = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    return_mask: bool = False,
    d_fill_value: FillValue | None = None,
    d_kernel: Any = None,
    out: Array | None = None,
) -> Any:
    r"""Jacobian-vector product of `warp_projective`: how the output changes with image and matrix.

    .. math::
        dq = dH \, (x_t, y_t, 1)^T, \qquad
        dx_s = (dq_1 - x_s \, dq_3) / q_3, \quad dy_s = (dq_2 - y_s \, dq_3) / q_3

    Parameters
    ----------
    input, theta, size, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis
        As given to `warp_projective`.
    antialias, deterministic, min_denominator, cull_behind, return_mask
        As given to `warp_projective`.
    d_input, d_theta : ndarray or None
        Tangents: shapes and dtypes of `input` (float32 if it is of integers) and `theta`. None is
        zero, and saves the work.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    d_fill_value, d_kernel
        Tangents of the options, as in `grid_sample_jvp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    d_output : ndarray
        Shape and dtype of ``warp_projective(input, theta, size, ...)``; float32 for an integer input.
    d_mask : ndarray, only if `return_mask`

    Raises
    ------
    TypeError, ValueError
        As `warp_projective`.

    See Also
    --------
    warp_projective

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
    >>> pystn.warp_projective_jvp(image, theta, None, np.ones_like(theta), (1, 1), coords="pixel")
    array([[[[1.375]]]])
    """
    backend_of({"input": input, "theta": theta})
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    coordinates = projective(input, theta, size, options, min_denominator, cull_behind)
    return warp_jvp(input, coordinates, d_input, d_theta, options, return_mask, d_fill_value, d_kernel, out)


def warp_projective_vjp2(
    gg_input: Array | None,
    gg_theta: Array | None,
    grad_output: Array | tuple[Array, Array],
    input: Array,
    theta: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    antialias: AntiAlias = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    return_mask: bool = False,
    wrt: str | Sequence[str] = ("grad_output", "input", "theta"),
) -> tuple[Any, Any, Any]:
    r"""Second order: the vector-Jacobian product of `warp_projective_vjp`.

    That of `grid_sample_vjp` with the cotangent of the grid's gradient, :math:`\bar{\bar x} = d(q_1, q_2) / q_3` along
    :math:`dq = \bar{\bar H} \, (x_t, y_t, 1)^T`; its gradient to the grid goes back to the matrix as in
    `warp_projective_vjp`, and beside it the first gradient to the grid as in `projective_grid_vjp2`.

    Parameters
    ----------
    gg_input, gg_theta : ndarray or None
        Cotangents of grad_input and grad_theta: shapes and dtypes of these. None is zero.
    grad_output, input, theta, size
        As given to `warp_projective_vjp`.
    mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis, antialias, deterministic
        As given to `warp_projective`.
    min_denominator, cull_behind, return_mask
        As given to `warp_projective`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"grad_output", "input", "theta"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_input, grad_theta : ndarray or None
        Shapes and dtypes of `grad_output` (a tuple with `return_mask`), of the gradient to `input`,
        and of `theta`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `warp_projective_vjp`.

    See Also
    --------
    warp_projective_vjp, warp_projective_jvp

    Notes
    -----
    As for `warp_affine_vjp2`; of homogeneous coordinates there are as many arrays again.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.arange(4.0).reshape(1, 1, 2, 2)
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 2.0]]])
    >>> _, _, grad_theta = pystn.warp_projective_vjp2(
    ...     None, theta, np.ones((1, 1, 1, 1)), image, theta, (1, 1), coords="pixel"
    ... )
    >>> grad_theta + 0.0  # minus the gradient itself, as that is of degree -1 in theta
    array([[[ 0.   ,  0.   , -0.5  ],
            [ 0.   ,  0.   , -1.   ],
            [ 0.   ,  0.   ,  0.375]]])
    """
    backend_of({"input": input, "theta": theta})
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    coordinates = projective(input, theta, size, options, min_denominator, cull_behind)
    return warp_vjp2(gg_input, gg_theta, grad_output, input, coordinates, options, return_mask, wrt)
