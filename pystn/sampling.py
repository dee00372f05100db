"""The sampler: an image read at arbitrary coordinates, and its derivatives.

Each function is options resolved, arrays checked, backend called.
"""

from __future__ import annotations

from collections.abc import Sequence

from pystn.backends import backend_of
from pystn.interpolation import Interpolation
from pystn.options import resolve
from pystn.typing import Array
from pystn.validation import check_like, check_out, check_outs, check_sampling, check_wrt, sample_shape

__all__ = ["grid_sample", "grid_sample_jvp", "grid_sample_vjp"]


def grid_sample(
    input: Array,
    grid: Array,
    mode: str | Interpolation = "linear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    r"""Sample an image at the coordinates of a grid.

    .. math:: V_{nci} = \sum_{h,w} U_{nchw} \, k(p^x_{ni} - w) \, k(p^y_{ni} - h)

    with :math:`p` the grid's coordinates in pixels and :math:`k` the interpolation kernel
    (Jaderberg et al., Spatial Transformer Networks, 2015, equation 3).

    Parameters
    ----------
    input : ndarray, shape (N, C, H, W), or (N, H, W, C) if ``channel_axis=-1``
        float32 or float64, any strides. N may be 1 with a larger grid: all grids then sample the
        one image, which is not copied.
    grid : ndarray, shape (N, ..., 2)
        float32 or float64, any strides: coordinates (x, y), x along W. Any number of axes between:
        an image of coordinates, a list of points. N may be 1 with a larger input.
    mode : {"linear", "bilinear", "nearest"} or Interpolation, default "linear"
        Interpolation kernel. "nearest" takes the even pixel of two that are equally near.
    padding_mode : {"zeros", "border", "reflection"}, default "zeros"
        What a coordinate outside the image reads: zero (the image fades over the last pixel), the
        nearest pixel of the border, or the image reflected about its border: about the centres of
        the outermost pixels with `align_corners`, about their outer edges without.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels, p = (x + 1) (W - 1) / 2, or their
        outer edges, p = ((x + 1) W - 1) / 2.
    coords : {"normalized", "pixel"}, default "normalized"
        Unit of the grid: normalized by the rule above, or pixels with 0 the centre of the first
        one (and `align_corners` False, having no meaning there).
    subgradient : {"right", "left", "central", "zero"}, default "right"
        Slope taken at pixel centres, where linear interpolation has a kink; of no effect here, see
        `grid_sample_vjp`. Every option exists in every direction.
    channel_axis : {1, -1}, default 1
        Where the channels of input and output are. Neither layout is transposed into the other.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with what is
        read.

    Returns
    -------
    ndarray, shape (N, C, ...), or (N, ..., C) if ``channel_axis=-1``
        dtype of `input`. Arithmetic is in float64 if input or grid are, else in float32.

    Raises
    ------
    TypeError
        If an array is no NumPy array of a supported dtype, or an option of the wrong type.
    ValueError
        If shapes do not fit, an option is unknown, or `out` overlaps an input.

    See Also
    --------
    grid_sample_vjp, grid_sample_jvp : its derivatives.
    affine_grid : a grid from affine transforms.

    Notes
    -----
    Equal to ``torch.nn.functional.grid_sample`` to rounding, but for coordinates that are NaN or
    infinite: these are outside the image in every padding mode and yield 0. A NaN or infinite
    pixel reaches every sample whose cell of four pixels it belongs to, of weight 0 or not.

    Arrays are read where they lie; one that is not aligned to its itemsize is copied first.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> points = np.array([[0.5, 0.0], [0.5, 0.5], [1.0, 9.0]])
    >>> pystn.grid_sample(image, points[None], coords="pixel")
    array([[[0.5, 1.5, 0. ]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    backend = backend_of({"input": input, "grid": grid}, {"out": out})
    check_sampling(input, grid, options)
    if out is not None:
        check_out("out", out, sample_shape(input, grid, options), input.dtype, (input, grid))
    return backend.grid_sample(input, grid, options, out)


def grid_sample_vjp(
    grad_output: Array,
    input: Array,
    grid: Array,
    mode: str | Interpolation = "linear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    wrt: str | Sequence[str] = ("input", "grid"),
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `grid_sample`: gradients to the image and to the grid.

    .. math::
        \bar U_{nchw} &= \sum_i \bar V_{nci} \, k(p^x_{ni} - w) \, k(p^y_{ni} - h) \\
        \bar x_{ni} &= \frac{dp^x}{dx} \sum_c \bar V_{nci}
            \sum_{h,w} U_{nchw} \, k'(p^x_{ni} - w) \, k(p^y_{ni} - h)

    and likewise for y (Jaderberg et al., 2015, equations 6 and 7).

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of ``grid_sample(input, grid, ...)``, any strides.
    input, grid, mode, padding_mode, align_corners, coords, channel_axis
        As given to `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        Slope of linear interpolation where a coordinate falls on the centre of a pixel: towards
        the next pixel (as PyTorch), towards the previous, the mean of the two, or 0. The identity
        grid falls there everywhere, so it matters where training starts; "central" is symmetric.
        "central" and "zero" take coordinates within rounding of a centre, 8 eps W pixels, as on
        it. Under "border" and "reflection" the slope is 0 at and beyond the centres of the
        outermost pixels (as PyTorch), and in a reflected copy it is chosen in the image.
    wrt : sequence of {"input", "grid"}, default both
        The gradients that are wanted; the work for others is skipped.
    out : tuple of two ndarrays or None, optional
        Arrays to write the gradients into, each of the shape and dtype of its primal.

    Returns
    -------
    grad_input, grad_grid : ndarray or None
        Shapes and dtypes of `input` and `grid`; None where not in `wrt`. An image or grid shared
        by the batch receives the sum over it. Bitwise the same for any number of threads.

    Raises
    ------
    TypeError, ValueError
        As `grid_sample`.

    See Also
    --------
    grid_sample

    Notes
    -----
    NaN and infinite coordinates have zero gradient and give none to the image. The gradient to
    the grid is zero for ``mode="nearest"``.

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
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    wanted = check_wrt(wrt, ("input", "grid"))
    given = check_outs(out, ("grad_input", "grad_grid"))
    backend = backend_of({"grad_output": grad_output, "input": input, "grid": grid}, given)
    check_sampling(input, grid, options)
    check_like("grad_output", grad_output, sample_shape(input, grid, options), input.dtype, "the output")
    read = (grad_output, input, grid)
    outs = tuple(given.values())
    for (name, array), primal in zip(given.items(), (input, grid), strict=True):
        if array is not None:
            others = [other for other in outs if other is not array]
            check_out(f"out: {name}", array, primal.shape, primal.dtype, (*read, *others))
    return backend.grid_sample_vjp(grad_output, input, grid, options, wanted, outs)


def grid_sample_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
    mode: str | Interpolation = "linear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    out: Array | None = None,
) -> Array:
    r"""Jacobian-vector product of `grid_sample`: how the samples change with image and grid.

    .. math:: dV = \mathrm{sample}(dU) + \frac{\partial V}{\partial x} dx + \frac{\partial V}{\partial y} dy

    Parameters
    ----------
    input, grid, mode, padding_mode, align_corners, coords, channel_axis
        As given to `grid_sample`.
    d_input, d_grid : ndarray or None
        Tangents: shapes and dtypes of `input` and `grid`. None is zero, and saves the work.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    d_output : ndarray
        Shape and dtype of ``grid_sample(input, grid, ...)``.

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
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    backend = backend_of({"input": input, "grid": grid}, {"d_input": d_input, "d_grid": d_grid, "out": out})
    check_sampling(input, grid, options)
    if d_input is not None:
        check_like("d_input", d_input, input.shape, input.dtype, "input")
    if d_grid is not None:
        check_like("d_grid", d_grid, grid.shape, grid.dtype, "grid")
    if out is not None:
        shape = sample_shape(input, grid, options)
        check_out("out", out, shape, input.dtype, (input, grid, d_input, d_grid))
    return backend.grid_sample_jvp(input, grid, d_input, d_grid, options, out)
