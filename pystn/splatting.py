"""Splatting: values put into an image at the coordinates of a grid, the adjoint of sampling.

Sampling pulls, an output pixel reads where its coordinate points; splatting pushes, a value is added
to the pixels around where its coordinate points. Where a warp is known forwards, from source to
target, this is what applies it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pystn.backends import Operations, backend_of
from pystn.derivatives import check_eps, rounded, widened
from pystn.options import Mode, PaddingMode, SamplingOptions, resolve
from pystn.typing import Array
from pystn.validation import (
    check_like,
    check_out,
    check_outs,
    check_splatting,
    check_target,
    check_wrt,
    image_shape,
    spatial_of,
)

__all__ = [
    "forward_warp",
    "forward_warp_jvp",
    "forward_warp_vjp",
    "forward_warp_vjp2",
    "grid_count",
    "grid_count_jvp",
    "grid_count_vjp",
    "grid_count_vjp2",
    "grid_push",
    "grid_push_jvp",
    "grid_push_vjp",
    "grid_push_vjp2",
]


def grid_push(
    values: Array,
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Add values to an image at the coordinates of a grid: the adjoint of `grid_sample` in its image.

    .. math:: U_{nchw} = \sum_i V_{nci} \, k(p^x_{ni} - w) \, k(p^y_{ni} - h)

    Parameters
    ----------
    values : ndarray, shape (N, C, ...), or (N, ..., C) if ``channel_axis=-1``
        What is added: float16, bfloat16, float32, float64, complex64 or complex128, any strides.
        N may be 1 with a larger grid: the same values then go to several images.
    grid : ndarray, shape (N, ..., ndim)
        float32 or float64: where each value goes. N may be 1 with larger values.
    size : sequence of int
        Spatial size of the image, or its whole shape (N, C, *spatial).
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides.

    Returns
    -------
    ndarray, shape (N, C, *size), or (N, *size, C) if ``channel_axis=-1``
        dtype of `values`. Bitwise the same for any number of threads.

    Raises
    ------
    TypeError
        If an array is no NumPy array of a supported dtype, or an option of the wrong type.
    ValueError
        If shapes do not fit, an option is unknown, or `out` overlaps an input.

    See Also
    --------
    grid_push_vjp, grid_push_jvp, grid_push_vjp2 : its derivatives.
    grid_count : the weight that each pixel received.
    forward_warp : the one divided by the other.

    Notes
    -----
    What reads zero in sampling receives nothing here: taps outside under "zeros" and "constant",
    samples cut off, and coordinates that are NaN or infinite. float16 and bfloat16 are added up in a
    float32 image, one array beyond the result.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.grid_push(np.array([[[8.0]]]), np.array([[[0.25, 0.5]]]), (2, 2), coords="pixel")
    array([[[[3., 1.],
             [3., 1.]]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    backend = backend_of({"values": values, "grid": grid}, {"out": out})
    shape = check_splatting(values, grid, size, options)
    if out is not None:
        check_out("out", out, shape, values.dtype, (values, grid))
    return backend.grid_push(values, None, grid, None, shape, values.dtype, options, out)


def grid_push_vjp(
    grad_output: Array,
    values: Array,
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    wrt: str | Sequence[str] = ("values", "grid"),
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `grid_push`: sampling, of the cotangent.

    .. math::
        \bar V_{nci} &= \mathrm{sample}(\bar U)_{nci} \\
        \bar x_{ni} &= \sum_c V_{nci} \, \frac{\partial}{\partial x} \mathrm{sample}(\bar U)_{nci}

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of ``grid_push(values, grid, size, ...)``.
    values, grid, size
        As given to `grid_push`.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"values", "grid"}, default both
        The gradients that are wanted; the work for others is skipped.
    out : tuple of two ndarrays or None, optional
        Arrays to write the gradients into, each of the shape and dtype of its primal.

    Returns
    -------
    grad_values, grad_grid : ndarray or None
        Shapes and dtypes of `values` and `grid`; None where not in `wrt`. What the batch shares
        receives the sum over it.

    Raises
    ------
    TypeError, ValueError
        As `grid_push`.

    See Also
    --------
    grid_push

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> slope = np.array([[0.0, 1.0], [2.0, 3.0]]).reshape(1, 1, 2, 2)
    >>> pystn.grid_push_vjp(slope, np.array([[[8.0]]]), np.array([[[0.25, 0.5]]]), (2, 2), coords="pixel")
    (array([[[1.25]]]), array([[[ 8., 16.]]]))
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    wanted = check_wrt(wrt, ("values", "grid"))
    given = check_outs(out, ("grad_values", "grad_grid"))
    backend = backend_of({"grad_output": grad_output, "values": values, "grid": grid}, given)
    shape = check_splatting(values, grid, size, options)
    check_like("grad_output", grad_output, shape, values.dtype, "the output")
    for (name, array), primal in zip(given.items(), (values, grid), strict=True):
        if array is not None:
            others = [other for other in given.values() if other is not array]
            check_out(f"out: {name}", array, primal.shape, primal.dtype, (grad_output, values, grid, *others))
    return backend.grid_push_vjp(grad_output, values, grid, options, wanted, tuple(given.values()))


def check_alike(given: dict[str, Array | None], *primals: Array) -> None:
    """Check tangents or cotangents, named after their primals, that may each be None."""
    for (name, array), primal in zip(given.items(), primals, strict=True):
        if array is not None:
            check_like(name, array, primal.shape, primal.dtype, name.partition("_")[2])


def grid_push_jvp(
    values: Array,
    grid: Array,
    d_values: Array | None,
    d_grid: Array | None,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Jacobian-vector product of `grid_push`.

    .. math:: dU = \mathrm{push}(dV) + \sum_i V_i \sum_a dx_{ia} \, \partial_a w_i

    Parameters
    ----------
    values, grid, size
        As given to `grid_push`.
    d_values, d_grid : ndarray or None
        Tangents: shapes and dtypes of `values` and `grid`. None is zero, and saves the work.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    ndarray
        Shape and dtype of ``grid_push(values, grid, size, ...)``.

    Raises
    ------
    TypeError, ValueError
        As `grid_push`.

    See Also
    --------
    grid_push

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> values, point = np.array([[[8.0]]]), np.array([[[0.25]]])
    >>> pystn.grid_push_jvp(values, point, None, np.array([[[0.5]]]), (2,), coords="pixel")
    array([[[-4.,  4.]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    backend = backend_of({"values": values, "grid": grid}, {"d_values": d_values, "d_grid": d_grid, "out": out})
    shape = check_splatting(values, grid, size, options)
    check_alike({"d_values": d_values, "d_grid": d_grid}, values, grid)
    if out is not None:
        check_out("out", out, shape, values.dtype, (values, grid, d_values, d_grid))
    return backend.grid_push(d_values, values, grid, d_grid, shape, values.dtype, options, out)


def grid_push_vjp2(
    gg_values: Array | None,
    gg_grid: Array | None,
    grad_output: Array,
    values: Array,
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    wrt: str | Sequence[str] = ("grad_output", "values", "grid"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `grid_push_vjp`.

    With cotangents :math:`\bar{\bar V}`, :math:`\bar{\bar x}` of the two gradients, and :math:`S_i` the samples of the
    cotangent :math:`\bar U`,

    .. math::
        \bar g &= \mathrm{jvp}(\bar{\bar V}, \bar{\bar x}) \\
        \bar V_i &= \sum_a \bar{\bar x}_{ia} \, \partial_a S_i \\
        \bar x_{ia} &= \sum_c \Bigl( \bar{\bar V}_{ci} \, \partial_a S_{ci} +
            V_{ci} \sum_b \bar{\bar x}_{ib} \, \partial_a \partial_b S_{ci} \Bigr)

    Parameters
    ----------
    gg_values, gg_grid : ndarray or None
        Cotangents of grad_values and grad_grid: shapes and dtypes of `values` and `grid`. None is zero.
    grad_output, values, grid, size
        As given to `grid_push_vjp`.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"grad_output", "values", "grid"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_values, grad_grid : ndarray or None
        Shapes and dtypes of `grad_output`, `values` and `grid`; None where not in `wrt`. What the batch
        shares receives the sum over it.

    Raises
    ------
    TypeError, ValueError
        As `grid_push_vjp`.

    See Also
    --------
    grid_push_vjp, grid_push_jvp

    Notes
    -----
    The second derivative of linear interpolation is as in `grid_sample_vjp2`. The gradient to the grid is the
    sum of two arrays; for values that the batch shares the gradient to each is stored before they are added up.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> slope, values = np.array([[0.0, 1.0], [2.0, 5.0]]).reshape(1, 1, 2, 2), np.array([[[8.0]]])
    >>> point, direction = np.array([[[0.25, 0.5]]]), np.array([[[1.0, 0.0]]])
    >>> _, grad_values, grad_point = pystn.grid_push_vjp2(
    ...     None, direction, slope, values, point, (2, 2), coords="pixel"
    ... )
    >>> grad_values, grad_point
    (array([[[2.]]]), array([[[ 0., 16.]]]))
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    wanted = check_wrt(wrt, ("grad_output", "values", "grid"))
    arrays = {"grad_output": grad_output, "values": values, "grid": grid}
    backend = backend_of(arrays, {"gg_values": gg_values, "gg_grid": gg_grid})
    shape = check_splatting(values, grid, size, options)
    check_like("grad_output", grad_output, shape, values.dtype, "the output")
    check_alike({"gg_values": gg_values, "gg_grid": gg_grid}, values, grid)
    return backend.grid_push_vjp2(gg_values, gg_grid, grad_output, values, grid, options, wanted)


def ones_for(backend: Operations, grid: Array, options: SamplingOptions) -> Array:
    """One value of 1 for every point of a grid, in the memory of a single number."""
    xp = backend.xp
    ones: Array = xp.broadcast_to(xp.ones((), grid.dtype), image_shape(grid.shape[0], 1, grid.shape[1:-1], options))
    return ones


def grid_count(
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: Array | None = None,
) -> Array:
    r"""How much weight each pixel receives from a grid: `grid_push` of ones.

    .. math:: n_{hw} = \sum_i k(p^x_i - w) \, k(p^y_i - h)

    Parameters
    ----------
    grid : ndarray, shape (N, ..., ndim)
        float32 or float64.
    size : sequence of int
        Spatial size of the image, or its whole shape (N, C, *spatial).
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    ndarray, shape (N, 1, *size), or (N, *size, 1) if ``channel_axis=-1``
        dtype of `grid`. 0 where nothing arrives: the holes of a forward warp.

    Raises
    ------
    TypeError, ValueError
        As `grid_push`.

    See Also
    --------
    grid_count_vjp, grid_count_jvp, grid_count_vjp2 : its derivatives.
    grid_push, forward_warp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.grid_count(np.array([[[0.0], [2.0], [2.5]]]), (4,), coords="pixel")
    array([[[1. , 0. , 1.5, 0.5]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    backend = backend_of({"grid": grid}, {"out": out})
    shape = image_shape(grid.shape[0], 1, check_target(grid, size, options), options)
    if out is not None:
        check_out("out", out, shape, grid.dtype, (grid,))
    return backend.grid_push(ones_for(backend, grid, options), None, grid, None, shape, grid.dtype, options, out)


def grid_count_vjp(
    grad_output: Array,
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: tuple[Array | None] | None = None,
) -> tuple[Array]:
    r"""Vector-Jacobian product of `grid_count`: the gradient to the grid.

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of ``grid_count(grid, size, ...)``.
    grid, size
        As given to `grid_count`.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    out : tuple of one ndarray or None, optional
        Array to write the gradient into.

    Returns
    -------
    grad_grid : ndarray
        In a tuple of length one; shape and dtype of `grid`.

    Raises
    ------
    TypeError, ValueError
        As `grid_push`.

    See Also
    --------
    grid_count

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> cotangent = np.array([[[0.0, 1.0, 4.0, 9.0]]])
    >>> pystn.grid_count_vjp(cotangent, np.array([[[0.0], [2.0], [2.5]]]), (4,), coords="pixel")
    (array([[[1.],
            [5.],
            [5.]]]),)
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    given = check_outs(out, ("grad_grid",))
    backend = backend_of({"grad_output": grad_output, "grid": grid}, given)
    shape = image_shape(grid.shape[0], 1, check_target(grid, size, options), options)
    check_like("grad_output", grad_output, shape, grid.dtype, "the output")
    target = given["grad_grid"]
    if target is not None:
        check_out("out: grad_grid", target, grid.shape, grid.dtype, (grad_output, grid))
    ones = ones_for(backend, grid, options)
    _, grad_grid = backend.grid_push_vjp(grad_output, ones, grid, options, (False, True), (None, target))
    assert grad_grid is not None  # it was asked for
    return (grad_grid,)


def grid_count_jvp(
    grid: Array,
    d_grid: Array | None,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Jacobian-vector product of `grid_count`.

    Parameters
    ----------
    grid, size
        As given to `grid_count`.
    d_grid : ndarray or None
        Tangent: shape and dtype of `grid`. None is zero.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    ndarray
        Shape and dtype of ``grid_count(grid, size, ...)``.

    Raises
    ------
    TypeError, ValueError
        As `grid_push`.

    See Also
    --------
    grid_count

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.grid_count_jvp(np.array([[[0.5]]]), np.array([[[0.1]]]), (2,), coords="pixel")
    array([[[-0.1,  0.1]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    backend = backend_of({"grid": grid}, {"d_grid": d_grid, "out": out})
    shape = image_shape(grid.shape[0], 1, check_target(grid, size, options), options)
    check_alike({"d_grid": d_grid}, grid)
    if out is not None:
        check_out("out", out, shape, grid.dtype, (grid, d_grid))
    return backend.grid_push(None, ones_for(backend, grid, options), grid, d_grid, shape, grid.dtype, options, out)


def grid_count_vjp2(
    gg_grid: Array | None,
    grad_output: Array,
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    wrt: str | Sequence[str] = ("grad_output", "grid"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `grid_count_vjp`.

    That of `grid_push_vjp` for values of one.

    Parameters
    ----------
    gg_grid : ndarray or None
        Cotangent of grad_grid: shape and dtype of `grid`. None is zero.
    grad_output, grid, size
        As given to `grid_count_vjp`.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"grad_output", "grid"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_grid : ndarray or None
        Shapes and dtypes of `grad_output` and `grid`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `grid_count_vjp`.

    See Also
    --------
    grid_count_vjp, grid_count_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> slope = np.array([[0.0, 1.0], [2.0, 5.0]]).reshape(1, 1, 2, 2)
    >>> point, direction = np.array([[[0.25, 0.5]]]), np.array([[[1.0, 0.0]]])
    >>> _, grad_point = pystn.grid_count_vjp2(direction, slope, point, (2, 2), coords="pixel")
    >>> grad_point
    array([[[0., 2.]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    to_output, to_grid = check_wrt(wrt, ("grad_output", "grid"))
    backend = backend_of({"grad_output": grad_output, "grid": grid}, {"gg_grid": gg_grid})
    shape = image_shape(grid.shape[0], 1, check_target(grid, size, options), options)
    check_like("grad_output", grad_output, shape, grid.dtype, "the output")
    check_alike({"gg_grid": gg_grid}, grid)
    ones, wanted = ones_for(backend, grid, options), (to_output, False, to_grid)
    found = backend.grid_push_vjp2(None, gg_grid, grad_output, ones, grid, options, wanted)
    return found[0], found[2]


def count_shape(grid: Array, shape: tuple[int, ...], options: SamplingOptions) -> tuple[int, ...]:
    """Shape of the count of a grid that points into an image of this shape."""
    return image_shape(grid.shape[0], 1, spatial_of(shape, options), options)


def warp_and_count(
    backend: Operations, values: Array, grid: Array, shape: tuple[int, ...], options: SamplingOptions, eps: float
) -> tuple[Array, Array]:
    """push / (count + eps), and the denominator."""
    warped = backend.grid_push(values, None, grid, None, shape, values.dtype, options, None)
    of_count = count_shape(grid, shape, options)
    count = backend.grid_push(ones_for(backend, grid, options), None, grid, None, of_count, grid.dtype, options, None)
    count += count.dtype.type(eps)
    backend.xp.divide(warped, count, out=warped, casting="same_kind")
    return warped, count


def count_cotangent(to_sum: Array, warped: Array, grid: Array, options: SamplingOptions) -> Array:
    """The cotangent of the count, -sum_c to_sum_c warped_c; that of one grid is for all of the batch."""
    product = (to_sum.conj() * warped).real.sum(axis=1 if options.channel_axis == 1 else -1, keepdims=True)
    if warped.shape[0] != grid.shape[0]:
        product = product.sum(axis=0, keepdims=True)
    cotangent: Array = (-product).astype(grid.dtype, copy=False)
    return cotangent


def parts_vjp(
    backend: Operations,
    to_sum: Array,
    to_count: Array | None,
    values: Array,
    grid: Array,
    options: SamplingOptions,
    wanted: tuple[bool, ...],
) -> tuple[Array | None, Array | None]:
    """Gradients to values and grid of cotangents of sum and count; the latter's may be missing if the grid's is."""
    grad_values, grad_grid = backend.grid_push_vjp(to_sum, values, grid, options, wanted, (None, None))
    if grad_grid is not None and to_count is not None:
        ones = ones_for(backend, grid, options)
        grad_grid += backend.grid_push_vjp(to_count, ones, grid, options, (False, True), (None, None))[1]
    return grad_values, grad_grid


def forward_warp(
    values: Array,
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    eps: float = 1e-6,
) -> Array:
    r"""Warp forwards: the mean, in each pixel of the target, of the values that arrive there.

    .. math:: W = \frac{\mathrm{push}(V)}{\mathrm{count} + \epsilon}

    Parameters
    ----------
    values, grid, size
        As given to `grid_push`: where each value goes in an image of that size.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    eps : float, default 1e-6
        Keeps pixels that nothing reaches at 0, and fades those that little reaches.

    Returns
    -------
    ndarray, shape (N, C, *size), or (N, *size, C) if ``channel_axis=-1``
        dtype of `values`.

    Raises
    ------
    TypeError, ValueError
        As `grid_push`; ValueError if `eps` is not positive.

    See Also
    --------
    forward_warp_vjp, forward_warp_jvp, forward_warp_vjp2 : its derivatives.
    grid_push, grid_count

    Notes
    -----
    Beyond the result it takes the count, one channel; the derivatives take up to six arrays of the
    result's size, those of second order up to twelve.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> values, grid = np.array([[[2.0, 4.0]]]), np.array([[[1.0], [1.0]]])
    >>> pystn.forward_warp(values, grid, (3,), coords="pixel").round(3)
    array([[[0., 3., 0.]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    eps = check_eps(eps)
    backend = backend_of({"values": values, "grid": grid})
    shape = check_splatting(values, grid, size, options)
    warped, _ = warp_and_count(backend, widened(values), grid, shape, options, eps)
    result: Array = rounded(warped, values)
    return result


def forward_warp_vjp(
    grad_output: Array,
    values: Array,
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    eps: float = 1e-6,
    wrt: str | Sequence[str] = ("values", "grid"),
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `forward_warp`.

    .. math::
        \bar S = \frac{\bar W}{n + \epsilon}, \qquad
        \bar n = -\sum_c \frac{\bar W_c W_c}{n + \epsilon}

    go back through `grid_push` and `grid_count`.

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of ``forward_warp(values, grid, size, ...)``.
    values, grid, size, eps
        As given to `forward_warp`.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"values", "grid"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_values, grad_grid : ndarray or None
        Shapes and dtypes of `values` and `grid`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `forward_warp`.

    See Also
    --------
    forward_warp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> values, grid = np.array([[[2.0, 4.0]]]), np.array([[[1.0], [1.0]]])
    >>> grad, _ = pystn.forward_warp_vjp(np.ones((1, 1, 3)), values, grid, (3,), coords="pixel", wrt="values")
    >>> grad.round(3)
    array([[[0.5, 0.5]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    eps = check_eps(eps)
    wanted = check_wrt(wrt, ("values", "grid"))
    backend = backend_of({"grad_output": grad_output, "values": values, "grid": grid})
    shape = check_splatting(values, grid, size, options)
    check_like("grad_output", grad_output, shape, values.dtype, "the output")
    wide = widened(values)
    warped, count = warp_and_count(backend, wide, grid, shape, options, eps)
    to_sum = (widened(grad_output) / count).astype(wide.dtype, copy=False)
    to_count = count_cotangent(to_sum, warped, grid, options) if wanted[1] else None
    grad_values, grad_grid = parts_vjp(backend, to_sum, to_count, wide, grid, options, wanted)
    return rounded(grad_values, values), grad_grid


def forward_warp_jvp(
    values: Array,
    grid: Array,
    d_values: Array | None,
    d_grid: Array | None,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    eps: float = 1e-6,
) -> Array:
    r"""Jacobian-vector product of `forward_warp`.

    .. math:: dW = \frac{dS - W \, dn}{n + \epsilon}

    Parameters
    ----------
    values, grid, size, eps
        As given to `forward_warp`.
    d_values, d_grid : ndarray or None
        Tangents: shapes and dtypes of `values` and `grid`. None is zero.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.

    Returns
    -------
    ndarray
        Shape and dtype of ``forward_warp(values, grid, size, ...)``.

    Raises
    ------
    TypeError, ValueError
        As `forward_warp`.

    See Also
    --------
    forward_warp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> values, grid = np.array([[[2.0, 4.0]]]), np.array([[[1.0], [1.0]]])
    >>> pystn.forward_warp_jvp(values, grid, values, None, (3,), coords="pixel").round(3)
    array([[[0., 3., 0.]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    eps = check_eps(eps)
    backend = backend_of({"values": values, "grid": grid}, {"d_values": d_values, "d_grid": d_grid})
    shape = check_splatting(values, grid, size, options)
    check_alike({"d_values": d_values, "d_grid": d_grid}, values, grid)
    wide, ones = widened(values), ones_for(backend, grid, options)
    warped, count = warp_and_count(backend, wide, grid, shape, options, eps)
    change = backend.grid_push(widened(d_values), wide, grid, d_grid, shape, wide.dtype, options, None)
    of_count = count_shape(grid, shape, options)
    d_count = backend.grid_push(None, ones, grid, d_grid, of_count, grid.dtype, options, None)
    d_warped: Array = rounded((change - warped * d_count) / count, values)
    return d_warped


def forward_warp_vjp2(
    gg_values: Array | None,
    gg_grid: Array | None,
    grad_output: Array,
    values: Array,
    grid: Array,
    size: Sequence[int],
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    eps: float = 1e-6,
    wrt: str | Sequence[str] = ("grad_output", "values", "grid"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `forward_warp_vjp`.

    With the tangents :math:`dW` and :math:`dn` of warp and count along the cotangents of the two gradients, and
    :math:`\bar S` and :math:`\bar n` of `forward_warp_vjp`, what the sum and the count get is

    .. math::
        \bar{\bar S} = -\frac{dn}{n + \epsilon} \, \bar S, \qquad
        \bar{\bar n} = -\sum_c \bar S_c \Bigl( dW_c - \frac{dn}{n + \epsilon} \, W_c \Bigr)

    and goes back through `grid_push` and `grid_count`, beside their own second order at :math:`\bar S` and
    :math:`\bar n`.

    Parameters
    ----------
    gg_values, gg_grid : ndarray or None
        Cotangents of grad_values and grad_grid: shapes and dtypes of `values` and `grid`. None is zero.
    grad_output, values, grid, size, eps
        As given to `forward_warp_vjp`.
    mode, padding_mode, align_corners, cutoff, coords, channel_axis, deterministic
        As in `grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"grad_output", "values", "grid"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_values, grad_grid : ndarray or None
        Shapes and dtypes of `grad_output`, `values` and `grid`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `forward_warp_vjp`.

    See Also
    --------
    forward_warp_vjp, forward_warp_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> values, grid = np.array([[[2.0, 4.0]]]), np.array([[[0.5], [0.5]]])
    >>> cotangent, direction = np.array([[[1.0, 0.0]]]), np.array([[[1.0], [0.0]]])
    >>> _, _, grad_grid = pystn.forward_warp_vjp2(
    ...     None, direction, cotangent, values, grid, (2,), coords="pixel", eps=1e-9
    ... )
    >>> grad_grid.round(3) + 0.0
    array([[[2.],
            [0.]]])
    """
    options = resolve(mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff)
    eps = check_eps(eps)
    wanted = check_wrt(wrt, ("grad_output", "values", "grid"))
    arrays = {"grad_output": grad_output, "values": values, "grid": grid}
    backend = backend_of(arrays, {"gg_values": gg_values, "gg_grid": gg_grid})
    shape = check_splatting(values, grid, size, options)
    check_like("grad_output", grad_output, shape, values.dtype, "the output")
    check_alike({"gg_values": gg_values, "gg_grid": gg_grid}, values, grid)
    wide, gg_wide, ones = widened(values), widened(gg_values), ones_for(backend, grid, options)
    warped, count = warp_and_count(backend, wide, grid, shape, options, eps)
    to_sum = (widened(grad_output) / count).astype(wide.dtype, copy=False)
    to_count = count_cotangent(to_sum, warped, grid, options)
    # The sum and the count, each with its second order: grad_grad_output of theirs are their tangents.
    d_sum, to_values, to_grid = backend.grid_push_vjp2(
        gg_wide, gg_grid, to_sum, wide, grid, options, (True, *wanted[1:])
    )
    d_count, _, through_count = backend.grid_push_vjp2(
        None, gg_grid, to_count, ones, grid, options, (True, False, wanted[2])
    )
    rate = d_count / count
    d_warped = d_sum / count - warped * rate
    more_values, more_grid = None, None
    if any(wanted[1:]):
        bent = (-rate * to_sum).astype(wide.dtype, copy=False)
        bent_count = count_cotangent(to_sum, d_warped - warped * rate, grid, options)
        more_values, more_grid = parts_vjp(backend, bent, bent_count, wide, grid, options, wanted[1:])
    return (
        rounded(d_warped, values) if wanted[0] else None,
        rounded(to_values + more_values, values) if wanted[1] else None,
        to_grid + through_count + more_grid if wanted[2] else None,
    )
