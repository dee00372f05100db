"""Projections: a volume sampled where a matrix says and reduced along its depth, and the derivatives of that.

Neither the grid nor the volume of samples is stored, in either direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.backends import backend_of
from pystn.coordinates import MatrixCoordinates
from pystn.derivatives import check_gradients, check_tangents
from pystn.options import FillValue, Mode, PaddingMode, SamplingOptions, one_of, resolve
from pystn.typing import Array
from pystn.validation import check_like, check_out, check_outs, check_warping, check_wrt, projected_shape, tangent_dtype

__all__ = [
    "warp_project",
    "warp_project_jvp",
    "warp_project_vjp",
    "warp_project_vjp2",
]

REDUCTIONS = ("sum", "mean", "max")


def volume(input: Array, theta: Array, size: Sequence[int], reduce: Any, options: SamplingOptions) -> MatrixCoordinates:
    coordinates = MatrixCoordinates(theta, check_warping(input, theta, size, options, projective=False))
    if len(coordinates.size) != 3:
        raise ValueError(f"input must have 3 spatial axes, of which the first is projected: got shape {input.shape}")
    one_of("reduce", reduce, REDUCTIONS)
    if coordinates.size[0] == 0 and reduce != "sum":
        raise ValueError(f"reduce={reduce!r} needs a depth of 1 or more: got size {coordinates.size}")
    if input.dtype.kind == "c" and reduce == "max":
        raise TypeError(f"reduce='max' needs numbers that have an order: got input of dtype {input.dtype}")
    return coordinates


def warp_project(
    input: Array,
    theta: Array,
    size: Sequence[int],
    reduce: str = "sum",
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
    r"""Warp a volume by an affine map and project it along its depth, without storing the volume.

    .. math:: W_{nchw} = \sum_d V_{ncdhw}

    with :math:`V` = ``warp_affine(input, theta, size)`` (Jaderberg et al., Spatial Transformer
    Networks, 2015, appendix A.3), or the mean or the maximum along the depth.

    Parameters
    ----------
    input : ndarray, shape (N, C, D, H, W), or (N, D, H, W, C) if ``channel_axis=-1``
        Volumes of any dtype of `grid_sample`, any strides.
    theta : ndarray, shape (N, ..., 3, 4)
        float32 or float64, any strides, from (x, y, z, 1) of the output to (x, y, z) of the input. Axes
        between N and the matrix make several projections of each volume.
    size : sequence of int
        Size (D', H', W') of the volume that is projected along D', or the full (N, C, D', H', W').
    reduce : {"sum", "mean", "max"}, default "sum"
        How: the mean is the sum over D', and of a maximum a NaN is one, as in NumPy.
    mode, padding_mode, align_corners, fill_value, cutoff, coords, subgradient, channel_axis, deterministic
        As in `warp_affine`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with what is
        read.

    Returns
    -------
    output : ndarray, shape (N, C, ..., H', W'), or (N, ..., H', W', C) if ``channel_axis=-1``
        dtype of `input`; integers are rounded half to even and saturate. Positions and weights are computed in float64
        if input or theta are of it, sums if `input` is, else in float32 at least.

    Raises
    ------
    TypeError
        If an array is no NumPy array of a supported dtype, or an option of the wrong type.
    ValueError
        If shapes do not fit, an option is unknown, or `out` overlaps an input.

    See Also
    --------
    warp_project_vjp, warp_project_jvp, warp_project_vjp2 : its derivatives.
    warp_affine : the volume itself.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
    >>> identity = np.eye(3, 4)[None]
    >>> pystn.warp_project(volume, identity, (2, 2, 2))
    array([[[[ 4.,  6.],
             [ 8., 10.]]]])
    """
    backend_of({"input": input, "theta": theta})
    options = resolve(
        mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    coordinates = volume(input, theta, size, reduce, options)
    backend = backend_of({"input": input}, {"out": out})
    if out is not None:
        check_out("out", out, projected_shape(input, coordinates, options), input.dtype, (input, theta))
    return backend.warp_project(input, coordinates, reduce, options, out)


def warp_project_vjp(
    grad_output: Array,
    input: Array,
    theta: Array,
    size: Sequence[int],
    reduce: str = "sum",
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
    wrt: str | Sequence[str] = ("input", "theta"),
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Any, ...]:
    r"""Vector-Jacobian product of `warp_project`: gradients to the volume and to the matrix.

    The cotangent of a projected pixel is that of every sample along its depth (a share of it for
    the mean); of a maximum it is that of the first sample which attains it.

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: the shape of ``warp_project(input, theta, size, ...)``, any strides, and its
        dtype; float32 for an integer input.
    input, theta, size, reduce, mode, padding_mode, align_corners, fill_value, cutoff, coords
        As given to `warp_project`.
    channel_axis, deterministic
        As given to `warp_project`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"input", "theta"}, default both
        The gradients that are wanted; the work for others is skipped.
    out : tuple of two ndarrays or None, optional
        Arrays to write the gradients into, of the shapes and dtypes of `input` and `theta`.

    Returns
    -------
    grad_input, grad_theta : ndarray or None
        Shapes of `input` and `theta`, dtype of each (float32 for an integer input); None where not
        in `wrt`. Bitwise the same for any number of threads.

    Raises
    ------
    TypeError, ValueError
        As `warp_project`.

    See Also
    --------
    warp_project

    Notes
    -----
    For ``reduce="max"`` the projection is made again, to know where each maximum is: one array of
    int32 and one of the result's shape.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
    >>> identity = np.eye(3, 4)[None]
    >>> grad_volume, _ = pystn.warp_project_vjp(np.ones((1, 1, 2, 2)), volume, identity, (2, 2, 2), "max")
    >>> grad_volume[0, 0, :, 0, 0]
    array([0., 1.])
    """
    backend_of({"grad_output": grad_output, "input": input, "theta": theta})
    options = resolve(
        mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    coordinates = volume(input, theta, size, reduce, options)
    wanted = check_wrt(wrt, ("input", "theta"))
    given = check_outs(out, ("grad_input", "grad_theta"))
    backend = backend_of({"input": input}, given)
    dtype = tangent_dtype(input.dtype)
    check_like("grad_output", grad_output, projected_shape(input, coordinates, options), dtype, "the output")
    check_gradients(given, (input, theta), (dtype, theta.dtype), (grad_output, input, theta))
    outs = tuple(given.values())
    return backend.warp_project_vjp(grad_output, input, coordinates, reduce, options, wanted, outs)


def warp_project_jvp(
    input: Array,
    theta: Array,
    d_input: Array | None,
    d_theta: Array | None,
    size: Sequence[int],
    reduce: str = "sum",
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
    r"""Jacobian-vector product of `warp_project`: how the projection changes with volume and matrix.

    The projection of ``warp_affine_jvp``: its sum or mean; of a maximum the derivative of the
    first sample which attains it.

    Parameters
    ----------
    input, theta, size, reduce, mode, padding_mode, align_corners, fill_value, cutoff, coords
        As given to `warp_project`.
    channel_axis, deterministic
        As given to `warp_project`.
    d_input, d_theta : ndarray or None
        Tangents: shapes and dtypes of `input` (float32 if it is of integers) and `theta`. None is
        zero, and saves the work.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    d_output : ndarray
        Shape and dtype of ``warp_project(input, theta, size, ...)``; float32 for an integer input.

    Raises
    ------
    TypeError, ValueError
        As `warp_project`.

    See Also
    --------
    warp_project

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
    >>> identity = np.eye(3, 4)[None]
    >>> pystn.warp_project_jvp(volume, identity, np.ones_like(volume), None, (2, 2, 2), "mean")
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    backend_of({"input": input, "theta": theta})
    options = resolve(
        mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    coordinates = volume(input, theta, size, reduce, options)
    backend = backend_of({"input": input}, {"d_input": d_input, "d_theta": d_theta, "out": out})
    check_tangents(d_input, d_theta, input, theta, "theta")
    if out is not None:
        shape, dtype = projected_shape(input, coordinates, options), tangent_dtype(input.dtype)
        check_out("out", out, shape, dtype, (input, theta, d_input, d_theta))
    return backend.warp_project_jvp(input, coordinates, d_input, d_theta, reduce, options, out)


def warp_project_vjp2(
    gg_input: Array | None,
    gg_theta: Array | None,
    grad_output: Array,
    input: Array,
    theta: Array,
    size: Sequence[int],
    reduce: str = "sum",
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
    wrt: str | Sequence[str] = ("grad_output", "input", "theta"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `warp_project_vjp`.

    That of `warp_affine_vjp`, with the cotangent of each sample that `warp_project_vjp` names: which sample attains a
    maximum does not change.

    Parameters
    ----------
    gg_input, gg_theta : ndarray or None
        Cotangents of grad_input and grad_theta: shapes and dtypes of these. None is zero.
    grad_output, input, theta, size
        As given to `warp_project_vjp`.
    reduce, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis, deterministic
        As given to `warp_project`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"grad_output", "input", "theta"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_input, grad_theta : ndarray or None
        Shapes and dtypes of `grad_output`, of the gradient to `input`,
        and of `theta`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `warp_project_vjp`.

    See Also
    --------
    warp_project_vjp, warp_project_jvp

    Notes
    -----
    As for `warp_affine_vjp2` of the volume; for ``reduce="max"`` the cotangent of every sample is stored too.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> volume, theta = np.arange(8.0).reshape(1, 1, 2, 2, 2) ** 2, np.eye(3, 4)[None]
    >>> shift = np.zeros_like(theta)
    >>> shift[..., 0, 3] = 1.0
    >>> *_, grad_theta = pystn.warp_project_vjp2(
    ...     None, shift, np.ones((1, 1, 1, 1)), volume, theta, (2, 1, 1), "max", coords="pixel"
    ... )
    >>> grad_theta
    array([[[ 0.,  0.,  0.,  0.],
            [ 0.,  0.,  4.,  4.],
            [ 0.,  0., -9., -9.]]])
    """
    arrays = {"grad_output": grad_output, "input": input, "theta": theta}
    backend = backend_of(arrays, {"gg_input": gg_input, "gg_theta": gg_theta})
    options = resolve(
        mode, padding_mode, align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    coordinates = volume(input, theta, size, reduce, options)
    wanted = check_wrt(wrt, ("grad_output", "input", "theta"))
    shape, dtype = projected_shape(input, coordinates, options), tangent_dtype(input.dtype)
    check_like("grad_output", grad_output, shape, dtype, "the output")
    check_tangents(gg_input, gg_theta, input, theta, "theta", "gg")
    return backend.warp_project_vjp2(gg_input, gg_theta, grad_output, input, coordinates, reduce, options, wanted)
