"""The sampler: an image read at arbitrary coordinates, and its derivatives.

Each function is options resolved, arrays checked, backend called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, overload

from pystn.backends import backend_of
from pystn.derivatives import (
    check_cotangents,
    check_gradients,
    check_tangents,
    check_wanted_options,
    cotangents,
    option_tangents,
    sampler_gradients,
)
from pystn.options import AntiAlias, FillValue, Mode, PaddingMode, flag, resolve
from pystn.typing import Array
from pystn.validation import (
    check_like,
    check_out,
    check_outs,
    check_sampling,
    check_wrt,
    sample_shape,
    tangent_dtype,
)

__all__ = [
    "grid_gradient",
    "grid_gradient_jvp",
    "grid_gradient_vjp",
    "grid_sample",
    "grid_sample_jvp",
    "grid_sample_vjp",
    "grid_sample_vjp2",
]


@overload
def grid_sample(
    input: Array,
    grid: Array,
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
    return_mask: Literal[False] = False,
    out: Array | None = None,
) -> Array: ...


@overload
def grid_sample(
    input: Array,
    grid: Array,
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
    return_mask: Literal[True],
    out: Array | None = None,
) -> tuple[Array, Array]: ...


def grid_sample(
    input: Array,
    grid: Array,
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
) -> Array | tuple[Array, Array]:
    r"""Sample an image at the coordinates of a grid.

    .. math:: V_{nci} = \sum_{h,w} U_{nchw} \, k(p^x_{ni} - w) \, k(p^y_{ni} - h)

    with :math:`p` the grid's coordinates in pixels and :math:`k` the interpolation kernel
    (Jaderberg et al., Spatial Transformer Networks, 2015, equation 3); likewise in one and three
    dimensions.

    Parameters
    ----------
    input : ndarray, shape (N, C, *spatial), or (N, *spatial, C) if ``channel_axis=-1``
        A signal (W,), image (H, W) or volume (D, H, W): float16, bfloat16 (of ml_dtypes), float32,
        float64, complex64, complex128, uint8, int16 or uint16, any strides. N may be 1 with a
        larger grid: all grids then sample the one image, which is not copied.
    grid : ndarray, shape (N, ..., ndim)
        float32 or float64, any strides: coordinates (x[, y[, z]]), x along W. Any number of axes
        between: an image of coordinates, a list of points. N may be 1 with a larger input.
    mode : str or Interpolation, or a tuple of them, default "linear"
        Interpolation kernel: "linear" (or "bilinear", "trilinear"), "nearest" (of two pixels that
        are equally near the even one), "cubic" (or "bicubic"; Keys, a = -0.75), or an object:
        `Nearest`, `Linear`, `Cubic`, `BSpline`, `Lanczos`, `Gaussian`, `Tabulated`. A tuple has one
        for each spatial axis, in the order of the array's axes.
    padding_mode : str or tuple of str, default "zeros"
        What is read outside the image: "zeros" (the image fades over its last pixel), "constant"
        (likewise to `fill_value`), "border" (the nearest pixel), "mirror" (reflected about the
        centres of the outermost pixels, which are not repeated), "symmetric" (reflected about the
        edges), "reflection" (PyTorch's: "mirror" with `align_corners`, else "symmetric") or "wrap"
        (repeated, period the number of pixels). A tuple has one for each spatial axis.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels, p = (x + 1) (W - 1) / 2, or their
        outer edges, p = ((x + 1) W - 1) / 2.
    fill_value : number or sequence of C numbers, default 0
        What taps outside read under "constant", and the whole value of samples that are cut off or
        whose coordinates are NaN or infinite. Complex only for a complex input.
    cutoff : {None, "center", "edge"}, default None
        Samples beyond the centres or beyond the edges of the outermost pixels are `fill_value`,
        whatever the padding. Normalized coordinates have a margin of 8 eps W pixels for rounding.
    antialias : str or object, optional
        How samples that are further apart than pixels average what is between them: "supersample", "mipmap",
        "scaled" or "ewa", or an object: `Supersampling`, `MipMap`, `Scaled`, `Elliptical`. The grid is then an image
        of coordinates, (N, ..., *shape, ndim), whose differences say how far apart they are, and part of its gradient.
    coords : {"normalized", "pixel"}, default "normalized"
        Unit of the grid: normalized by the rule above, or pixels with 0 the centre of the first
        one (and `align_corners` False, having no meaning there).
    subgradient : {"right", "left", "central", "zero"}, default "right"
        Slope taken at pixel centres, where linear interpolation has a kink; of no effect here, see
        `grid_sample_vjp`. Every option exists in every direction.
    channel_axis : {1, -1}, default 1
        Where the channels of input and output are. Neither layout is transposed into the other.
    deterministic : bool, default False
        Whether what is added to an image on CUDA, in derivatives and by `grid_push`, is bitwise the same in every
        run. It takes longer, and 16 bytes of memory for each number of the image, 32 for a complex one, while it
        runs; it is at least as precise. All else that these functions return is the same in every run anyway, and
        on the CPU so is this.
    return_mask : bool, default False
        Whether to return the coverage too, from the same pass.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with what is
        read.

    Returns
    -------
    output : ndarray, shape (N, C, ...), or (N, ..., C) if ``channel_axis=-1``
        dtype of `input`. Positions and weights are computed in float64 if input or grid are of it,
        else in float32; sums are in float64 if `input` is of it, else in float32 at least, of weights
        that are rounded last. Integers are rounded half to even and saturate.
    mask : ndarray, shape (N, ...), only if `return_mask`
        How much of the sample's weight is on pixels inside the image, in [0, 1], whatever the
        padding; 0 where it is cut off. The real type of `input`, float32 for integers.

    Raises
    ------
    TypeError
        If an array is no NumPy array of a supported dtype, or an option of the wrong type.
    ValueError
        If shapes do not fit, an option is unknown, or `out` overlaps an input.

    See Also
    --------
    grid_sample_vjp, grid_sample_jvp, grid_sample_vjp2 : its derivatives.
    grid_push : its adjoint in the image.
    grid_gradient : the slopes of the samples.
    Supersampling, MipMap, Scaled, Elliptical : what `antialias` can be.
    affine_grid : a grid from affine transforms.
    warp_affine, warp_projective : the same where a matrix gives the grid, which is then not stored.

    Notes
    -----
    Equal to ``torch.nn.functional.grid_sample`` to rounding, but for coordinates that are NaN or
    infinite: these are outside the image in every padding mode and yield `fill_value`. A NaN or
    infinite pixel reaches every sample whose taps include it, of weight 0 or not, in "linear";
    with wider kernels only those to which it gives some weight or slope.

    "nearest" and "linear" fold the coordinate into the image, as PyTorch does; wider kernels fold
    the index of every tap, so that border and reflection have no kink in the coordinate.

    Arrays are read where they lie; one that is not aligned to its itemsize is copied first. On the CPU
    those of fewer bits than their sums are copied in the type of these, result included, unless the image
    is more than four times as large as what is sampled; an image of 8 or 16 bits in two dimensions is not
    where it is sampled linearly, by four taps or by the nearest pixel. With ``BSpline(order,
    prefilter=True)`` the image's coefficients are one array more, of its dtype or, for integers and 16
    bits, of float32.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> points = np.array([[0.5, 0.0], [0.5, 0.5], [1.0, 9.0]])
    >>> pystn.grid_sample(image, points[None], coords="pixel")
    array([[[0.5, 1.5, 0. ]]])
    >>> value, mask = pystn.grid_sample(
    ...     image, points[None], pystn.BSpline(3), "mirror", coords="pixel", return_mask=True
    ... )
    >>> value.round(3)
    array([[[1.167, 1.5  , 2.   ]]])
    """
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    if return_mask is False:
        for repeat in options.repeats:
            if (again := repeat(input, grid, None, out)) is not None:
                return cast(Array, again)
    backend = backend_of({"input": input, "grid": grid}, {"out": out})
    check_sampling(input, grid, options)
    if out is not None:
        check_out("out", out, sample_shape(input, grid, options), input.dtype, (input, grid))
    output, mask = backend.grid_sample(input, grid, options, flag("return_mask", return_mask), out)
    return output if mask is None else (output, mask)


def grid_sample_vjp(
    grad_output: Array | tuple[Array, Array],
    input: Array,
    grid: Array,
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
    wrt: str | Sequence[str] = ("input", "grid"),
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Any, ...]:
    r"""Vector-Jacobian product of `grid_sample`: gradients to the image and to the grid.

    .. math::
        \bar U_{nchw} &= \sum_i \bar V_{nci} \, k(p^x_{ni} - w) \, k(p^y_{ni} - h) \\
        \bar x_{ni} &= \frac{dp^x}{dx} \sum_c \bar V_{nci}
            \sum_{h,w} U_{nchw} \, k'(p^x_{ni} - w) \, k(p^y_{ni} - h)

    and likewise for y (Jaderberg et al., 2015, equations 6 and 7); to a kernel's parameters the same
    sum with :math:`dk/d\Phi`.

    Parameters
    ----------
    grad_output : ndarray, or tuple of two if `return_mask`
        Cotangent: the shape of ``grid_sample(input, grid, ...)``, any strides, and its dtype; float32
        for an integer input. With `return_mask` a tuple, the mask's cotangent second.
    input, grid, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis
        As given to `grid_sample`.
    antialias, deterministic, return_mask
        As given to `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        Slope of linear interpolation where a coordinate falls on the centre of a pixel: towards
        the next pixel (as PyTorch), towards the previous, the mean of the two, or 0. The identity
        grid falls there everywhere, so it matters where training starts; "central" is symmetric.
        "central" and "zero" take coordinates within rounding of a centre, 8 eps W pixels, as on
        it. Under "border" and the reflections the slope is 0 at and beyond the centres of the
        outermost pixels (as PyTorch), and in a reflected copy it is chosen in the image. Wider
        kernels have no kinks.
    wrt : sequence of {"input", "grid", "fill_value", "kernel"}, default ("input", "grid")
        The gradients that are wanted; the work for others is skipped.
    out : tuple of two ndarrays or None, optional
        Arrays to write the gradients to input and grid into, of their shapes and dtypes.

    Returns
    -------
    grad_input, grad_grid : ndarray or None
        Shapes of `input` and `grid`, dtype of each (float32 for an integer input); None where not
        in `wrt`. An image or grid shared by the batch receives the sum over it. Bitwise the same
        for any number of threads.
    grad_fill_value : ndarray, only if in `wrt`
        Shape of `fill_value`; summed in float64.
    grad_kernel : ndarray or tuple, only if in `wrt`
        Of the shape of the kernel's parameters: () for ``Cubic.a`` and ``Gaussian.sigma``, that of
        the table for `Tabulated`; summed in float64. A tuple, None for kernels without parameters,
        if `mode` is one.

    Raises
    ------
    TypeError, ValueError
        As `grid_sample`; ValueError if `wrt` names the kernel and it has no parameter.

    See Also
    --------
    grid_sample

    Notes
    -----
    NaN and infinite coordinates have zero gradient and give none to the image. The gradient to
    the grid is zero for ``mode="nearest"``. For a float16 or bfloat16 input the gradient to it is
    added up in a float32 image, one array beyond the results.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> point = np.array([[[0.25, 0.0]]])
    >>> value = pystn.grid_sample(image, point, coords="pixel")
    >>> grad_image, grad_point = pystn.grid_sample_vjp(np.ones_like(value), image, point, coords="pixel")
    >>> grad_image
    array([[[[0.75, 0.25],
             [0.  , 0.  ]]]])
    >>> grad_point
    array([[[1., 2.]]])
    """
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    wanted = check_wrt(wrt, ("input", "grid", "fill_value", "kernel"))
    if out is None and return_mask is False:
        for repeat in options.repeated_gradients.get(wanted, ()):
            if (again := repeat(grad_output, input, grid, None)) is not None:
                return again
    given = check_outs(out, ("grad_input", "grad_grid"))
    grad_output, grad_mask = cotangents(grad_output, return_mask)
    backend = backend_of({"grad_output": grad_output, "input": input, "grid": grid}, {"grad_mask": grad_mask, **given})
    check_sampling(input, grid, options)
    check_cotangents(grad_output, grad_mask, input, grid, options)
    read = (grad_output, grad_mask, input, grid)
    check_gradients(given, (input, grid), (tangent_dtype(input.dtype), grid.dtype), read)
    check_wanted_options(wanted, input, options)
    outs = tuple(given.values())
    return sampler_gradients(backend, grad_output, grad_mask, input, grid, options, wanted, outs)


@overload
def grid_sample_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
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
    return_mask: Literal[False] = False,
    d_fill_value: FillValue | None = None,
    d_kernel: Any = None,
    out: Array | None = None,
) -> Array: ...


@overload
def grid_sample_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
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
    return_mask: Literal[True],
    d_fill_value: FillValue | None = None,
    d_kernel: Any = None,
    out: Array | None = None,
) -> tuple[Array, Array]: ...


def grid_sample_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
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
) -> Array | tuple[Array, Array]:
    r"""Jacobian-vector product of `grid_sample`: how the samples change with image and grid.

    .. math:: dV = \mathrm{sample}(dU) + \frac{\partial V}{\partial x} dx + \frac{\partial V}{\partial y} dy

    Parameters
    ----------
    input, grid, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis
        As given to `grid_sample`.
    antialias, deterministic, return_mask
        As given to `grid_sample`.
    d_input, d_grid : ndarray or None
        Tangents: shapes and dtypes of `input` (float32 if it is of integers) and `grid`. None is
        zero, and saves the work.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    d_fill_value : number or sequence of C numbers, optional
        Tangent of `fill_value`.
    d_kernel : number, array, or tuple with None, optional
        Tangent of the kernel's parameters, shaped as `grid_sample_vjp` returns their gradient.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    d_output : ndarray
        Shape and dtype of ``grid_sample(input, grid, ...)``; float32 for an integer input.
    d_mask : ndarray, only if `return_mask`

    Raises
    ------
    TypeError, ValueError
        As `grid_sample`.

    See Also
    --------
    grid_sample

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> point = np.array([[[0.25, 0.0]]])
    >>> pystn.grid_sample_jvp(image, point, None, np.array([[[0.1, 0.1]]]), coords="pixel")
    array([[[0.3]]])
    """
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    backend = backend_of({"input": input, "grid": grid}, {"d_input": d_input, "d_grid": d_grid, "out": out})
    check_sampling(input, grid, options)
    check_tangents(d_input, d_grid, input, grid)
    tangents = option_tangents(d_fill_value, d_kernel, input, options)
    if out is not None:
        shape, dtype = sample_shape(input, grid, options), tangent_dtype(input.dtype)
        check_out("out", out, shape, dtype, (input, grid, d_input, d_grid))
    d_output, d_mask = backend.grid_sample_jvp(
        input, grid, d_input, d_grid, d_fill_value, tangents, options, flag("return_mask", return_mask), out
    )
    return d_output if d_mask is None else (d_output, d_mask)


def grid_sample_vjp2(
    gg_input: Array | None,
    gg_grid: Array | None,
    grad_output: Array | tuple[Array, Array],
    input: Array,
    grid: Array,
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
    wrt: str | Sequence[str] = ("grad_output", "input", "grid"),
) -> tuple[Any, Any, Any]:
    r"""Second order: the vector-Jacobian product of `grid_sample_vjp`.

    With cotangents :math:`\bar{\bar U}`, :math:`\bar{\bar x}` of the two gradients,

    .. math::
        \bar g &= \mathrm{jvp}(\bar{\bar U}, \bar{\bar x}) \\
        \bar U &= \sum_i g_i \sum_a \bar{\bar x}_{ia} \, \partial_a w_i \\
        \bar x_{ia} &= \sum_c g_{ci} \Bigl( \partial_a V_i(\bar{\bar U}) +
            \sum_b \bar{\bar x}_{ib} \, \partial_a \partial_b V_i(U) \Bigr)

    so that, with `grid_sample_jvp`, every product of second order can be had: the JVP of the VJP is
    the VJP of the tangent of grad_output plus this.

    Parameters
    ----------
    gg_input, gg_grid : ndarray or None
        Cotangents of grad_input and grad_grid: shapes and dtypes of these. None is zero.
    grad_output, input, grid
        As given to `grid_sample_vjp`.
    mode, padding_mode, align_corners, fill_value, cutoff, coords, subgradient, channel_axis
        As given to `grid_sample_vjp`.
    antialias, deterministic, return_mask
        As given to `grid_sample_vjp`.
    wrt : sequence of {"grad_output", "input", "grid"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_input, grad_grid : ndarray or None
        Shapes and dtypes of `grad_output` (a tuple with `return_mask`), of the gradient to `input`,
        and of `grid`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `grid_sample_vjp`.

    See Also
    --------
    grid_sample_vjp, grid_sample_jvp

    Notes
    -----
    The second derivative of linear interpolation is 0 along an axis (its kinks are left out) and the
    mixed ones are not.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 5.0]]).reshape(1, 1, 2, 2)
    >>> point, one = np.array([[[0.25, 0.5]]]), np.ones((1, 1, 1))
    >>> direction = np.array([[[1.0, 0.0]]])
    >>> *_, grad_point = pystn.grid_sample_vjp2(None, direction, one, image, point, coords="pixel")
    >>> grad_point
    array([[[0., 2.]]])
    """
    conventions = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    options = resolve(*conventions, deterministic, cutoff, fill_value, antialias)
    wanted = check_wrt(wrt, ("grad_output", "input", "grid"))
    grad_output, grad_mask = cotangents(grad_output, return_mask)
    backend = backend_of(
        {"grad_output": grad_output, "input": input, "grid": grid},
        {"grad_mask": grad_mask, "gg_input": gg_input, "gg_grid": gg_grid},
    )
    check_sampling(input, grid, options)
    check_cotangents(grad_output, grad_mask, input, grid, options)
    check_tangents(gg_input, gg_grid, input, grid, prefix="gg")
    to_output, to_mask, to_input, to_grid = backend.grid_sample_vjp2(
        gg_input, gg_grid, grad_output, grad_mask, input, grid, options, wanted
    )
    return (to_output if to_mask is None else (to_output, to_mask)), to_input, to_grid


def grid_gradient(
    input: Array,
    grid: Array,
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Derivatives of the samples of an image to their coordinates.

    .. math:: G_{ncia} = \frac{\partial V_{nci}}{\partial x_{nia}}

    in the units of the grid: ``grid_sample_jvp(input, grid, None, d_grid)`` is the sum of
    ``grid_gradient(input, grid)`` times `d_grid` over the last axis.

    Parameters
    ----------
    input, grid, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis, deterministic
        As given to `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    ndarray, shape (N, C, ..., ndim), or (N, ..., C, ndim) if ``channel_axis=-1``
        Last axis (x[, y[, z]]); dtype of `input`, float32 if it is of integers.

    Raises
    ------
    TypeError, ValueError
        As `grid_sample`.

    See Also
    --------
    grid_sample, grid_gradient_vjp, grid_gradient_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> pystn.grid_gradient(image, np.array([[[0.25, 0.0]]]), coords="pixel")
    array([[[[1., 2.]]]])
    """
    options = resolve(
        mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    backend = backend_of({"input": input, "grid": grid}, {"out": out})
    check_sampling(input, grid, options)
    if out is not None:
        shape = (*sample_shape(input, grid, options), grid.shape[-1])
        check_out("out", out, shape, tangent_dtype(input.dtype), (input, grid))
    return backend.grid_gradient(input, grid, options, out)


def grid_gradient_vjp(
    grad_output: Array,
    input: Array,
    grid: Array,
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    wrt: str | Sequence[str] = ("input", "grid"),
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `grid_gradient`: gradients to the image and to the grid.

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of ``grid_gradient(input, grid, ...)``.
    input, grid, mode, padding_mode, align_corners, fill_value, cutoff, coords, subgradient, channel_axis, deterministic
        As given to `grid_gradient`.
    wrt : sequence of {"input", "grid"}, default both
        The gradients that are wanted; the work for others is skipped.
    out : tuple of two ndarrays or None, optional
        Arrays to write the gradients into.

    Returns
    -------
    grad_input, grad_grid : ndarray or None
        As `grid_sample_vjp`. The gradient to the grid holds second derivatives of the kernel.

    Raises
    ------
    TypeError, ValueError
        As `grid_sample`.

    See Also
    --------
    grid_gradient

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> point = np.array([[[0.25, 0.0]]])
    >>> grad_image, _ = pystn.grid_gradient_vjp(np.ones((1, 1, 1, 2)), image, point, coords="pixel")
    >>> grad_image
    array([[[[-1.75,  0.75],
             [ 0.75,  0.25]]]])
    """
    options = resolve(
        mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    wanted = check_wrt(wrt, ("input", "grid"))
    given = check_outs(out, ("grad_input", "grad_grid"))
    backend = backend_of({"grad_output": grad_output, "input": input, "grid": grid}, given)
    check_sampling(input, grid, options)
    shape = (*sample_shape(input, grid, options), grid.shape[-1])
    check_like("grad_output", grad_output, shape, tangent_dtype(input.dtype), "the output")
    check_gradients(given, (input, grid), (tangent_dtype(input.dtype), grid.dtype), (grad_output, input, grid))
    return backend.grid_gradient_vjp(grad_output, input, grid, options, wanted, tuple(given.values()))


def grid_gradient_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Jacobian-vector product of `grid_gradient`.

    Parameters
    ----------
    input, grid, mode, padding_mode, align_corners, fill_value, cutoff, coords, subgradient, channel_axis, deterministic
        As given to `grid_gradient`.
    d_input, d_grid : ndarray or None
        Tangents: shapes and dtypes of `input` (float32 if it is of integers) and `grid`. None is zero.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    ndarray
        Shape and dtype of ``grid_gradient(input, grid, ...)``.

    Raises
    ------
    TypeError, ValueError
        As `grid_sample`.

    See Also
    --------
    grid_gradient

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 5.0]]).reshape(1, 1, 2, 2)
    >>> point = np.array([[[0.25, 0.0]]])
    >>> pystn.grid_gradient_jvp(image, point, None, np.array([[[0.0, 0.1]]]), coords="pixel")
    array([[[[0.2, 0. ]]]])
    """
    options = resolve(
        mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    backend = backend_of({"input": input, "grid": grid}, {"d_input": d_input, "d_grid": d_grid, "out": out})
    check_sampling(input, grid, options)
    check_tangents(d_input, d_grid, input, grid)
    if out is not None:
        shape = (*sample_shape(input, grid, options), grid.shape[-1])
        check_out("out", out, shape, tangent_dtype(input.dtype), (input, grid, d_input, d_grid))
    return backend.grid_gradient_jvp(input, grid, d_input, d_grid, options, out)
