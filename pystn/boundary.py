"""Sampling that knows where the image ends: no pixel is mixed with what is not there, no grid leaves unnoticed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from math import prod
from operator import add
from typing import Any

import numpy as np

from pystn.backends import backend_of, sums
from pystn.derivatives import (
    check_cotangents,
    check_eps,
    check_tangents,
    check_wanted_options,
    cotangents,
    grad_fill_value,
    option_tangents,
    rounded,
    widened,
)
from pystn.options import FillValue, Mode, SamplingOptions, flag, resolve
from pystn.sampling import grid_sample, grid_sample_jvp, grid_sample_vjp, grid_sample_vjp2
from pystn.typing import Array
from pystn.validation import (
    batch_of,
    check_float,
    check_like,
    check_sampling,
    check_wrt,
    image_shape,
    mask_dtype,
    spatial_of,
    tangent_dtype,
)

__all__ = [
    "normalized_grid_sample",
    "normalized_grid_sample_jvp",
    "normalized_grid_sample_vjp",
    "normalized_grid_sample_vjp2",
    "out_of_bounds_penalty",
    "out_of_bounds_penalty_jvp",
    "out_of_bounds_penalty_vjp",
    "out_of_bounds_penalty_vjp2",
]


@dataclass(frozen=True, eq=False)
class Quotient:
    """The samples of an image times its mask, and of the mask: numerator and denominator, with their derivatives."""

    xp: Any
    input: Array  # in a floating type that quotients are made of
    grid: Array
    mask: Array | None  # with a channel, of the real type of the input
    options: SamplingOptions
    eps: float
    image: Array = field(init=False)  # what is sampled: the input times the mask
    weights: Array = field(init=False)  # and the mask, or one of ones: one for each denominator

    def __post_init__(self) -> None:
        if self.mask is None:
            shape = image_shape(1, 1, spatial_of(self.input.shape, self.options), self.options)
            image, weights = self.input, self.xp.ones(shape, mask_dtype(self.input.dtype))
        else:
            image, weights = self.times(self.mask, self.input), self.mask
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "weights", self.for_all(weights))

    def for_all(self, weights: Array) -> Array:
        """Of a mask that all images share, one for each if they share the grid too: each has a denominator."""
        batch = self.input.shape[0] if self.grid.shape[0] == 1 else weights.shape[0]
        spread: Array = self.xp.broadcast_to(weights, (batch, *weights.shape[1:]))
        return spread

    @property
    def sampling(self) -> dict[str, Any]:
        """What the sampler is told: nothing of the fill value, which is for quotients."""
        names = ("mode", "padding_mode", "align_corners", "cutoff", "coords", "subgradient", "channel_axis")
        return {name: getattr(self.options, name) for name in (*names, "deterministic")}

    def on_channels(self, array: Array) -> Array:
        """Something of every sample as an array with channels."""
        spread: Array = self.xp.expand_dims(array, self.options.channel_axis)
        return spread

    def off_channels(self, array: Array) -> Array:
        """The only channel."""
        return array[:, 0] if self.options.channel_axis == 1 else array[..., 0]

    def times(self, weights: Array, image: Array) -> Array:
        """The product, 0 where the weights are whatever the pixel."""
        with np.errstate(invalid="ignore"):
            product: Array = self.xp.where(weights == 0, weights.dtype.type(0), weights * image)
        return product

    def sums(self) -> tuple[Array, Array]:
        """Numerator and denominator, of one channel."""
        return tuple(grid_sample(each, self.grid, **self.sampling) for each in (self.image, self.weights))

    def sums_vjp(self, to_sum: Array, to_coverage: Array, wanted: dict[str, bool]) -> dict[str, Any]:
        """The gradients that are wanted to input, grid, kernel and mask."""
        of_both = [name for name in ("grid", "kernel") if wanted[name]]
        of_image = ["input"] if wanted["input"] or wanted["mask"] else []
        of_weights = ["input"] if wanted["mask"] else []
        gradients: dict[str, Any] = {}
        if of_image or of_both:
            found = grid_sample_vjp(to_sum, self.image, self.grid, **self.sampling, wrt=[*of_image, *of_both])
            gradients = dict(zip(("input", "grid", "kernel"), found, strict=False))
        if of_weights or of_both:
            found = grid_sample_vjp(to_coverage, self.weights, self.grid, **self.sampling, wrt=[*of_weights, *of_both])
            gradients["mask"] = found[0] if found[0] is None else shared(found[0], self.mask)
            for name, more in zip(("grid", "kernel"), found[1:], strict=False):
                gradients[name] = added(gradients[name], more)
        if wanted["mask"]:
            assert self.mask is not None
            product = (self.input.conj() * gradients["input"]).real.sum(axis=self.options.channel_axis, keepdims=True)
            gradients["mask"] = gradients["mask"] + shared(product, self.mask)
        if wanted["input"] and self.mask is not None:
            gradients["input"] = shared(self.mask * gradients["input"], self.input)
        return gradients

    def sums_jvp(
        self, d_input: Array | None, d_grid: Array | None, d_mask: Array | None, d_kernel: Any
    ) -> tuple[Array, Array]:
        d_image = d_input
        if self.mask is not None:
            terms = [(self.mask, d_input), (d_mask, self.input)]
            products = [
                self.times(weights, image) for weights, image in terms if weights is not None and image is not None
            ]
            d_image = reduce(add, products) if products else None
        pairs = ((self.image, d_image), (self.weights, None if d_mask is None else self.for_all(d_mask)))
        return tuple(
            grid_sample_jvp(each, self.grid, d_each, d_grid, **self.sampling, d_kernel=d_kernel)
            for each, d_each in pairs
        )

    def sums_vjp2(
        self,
        gg_input: Array | None,
        gg_grid: Array | None,
        to_sum: Array,
        to_coverage: Array,
        wanted: Sequence[bool],
    ) -> tuple[Array, Array, Array | None, Array | None]:
        """The tangents of both sums, and the gradients to input and grid."""
        names = ["grad_output", *[name for name, asked in zip(("input", "grid"), wanted, strict=True) if asked]]
        of_weights = [name for name in names if name != "input"]
        gg_image = gg_input if self.mask is None or gg_input is None else self.times(self.mask, gg_input)
        d_sum, to_input, to_grid = grid_sample_vjp2(
            gg_image, gg_grid, to_sum, self.image, self.grid, **self.sampling, wrt=names
        )
        d_coverage, _, more = grid_sample_vjp2(
            None, gg_grid, to_coverage, self.weights, self.grid, **self.sampling, wrt=of_weights
        )
        if to_input is not None and self.mask is not None:
            to_input = shared(self.mask * to_input, self.input)
        return d_sum, d_coverage, to_input, added(to_grid, more)

    def parts(self) -> tuple[Array, Array, Array, Array]:
        """The quotient where it is defined, where that is, the denominator, 1 elsewhere, and the coverage."""
        total, coverage = self.sums()
        covered = coverage >= self.eps
        denominator = self.xp.where(covered, coverage, coverage.dtype.type(1))
        return self.kept(covered, total / denominator), covered, denominator, coverage

    def kept(self, covered: Array, values: Any, others: Any = 0) -> Array:
        """Values where there is a quotient, others elsewhere."""
        chosen: Array = self.xp.where(covered, values, others).astype(values.dtype, copy=False)
        return chosen

    def fill(self, value: Any) -> Array:
        """The fill value, or its tangent, against samples."""
        array: Array = self.xp.asarray(value)
        spread = self.options.channel_axis == 1 and array.ndim == 1
        return array.reshape(-1, *[1] * (self.grid.ndim - 2)) if spread else array

    def returned(self, coverage: Array, input: Array) -> Array:
        """The coverage, or its tangent, without the channel."""
        return delivered(self.xp, self.off_channels(coverage), mask_dtype(input.dtype))

    def to_coverage(self, to_sum: Array, quotient: Array, grad_mask: Array | None) -> Array:
        """The cotangent of the denominator, -sum_c to_sum_c quotient_c, and of the coverage where that is returned."""
        product = (to_sum.conj() * quotient).real.sum(axis=self.options.channel_axis, keepdims=True)
        cotangent = -product if grad_mask is None else self.on_channels(grad_mask) - product
        return cotangent.astype(self.weights.dtype, copy=False)


def shared(gradient: Array, primal: Array | None) -> Array:
    """A gradient, summed over the batch if that shares the primal."""
    return gradient if primal is None or gradient.shape[0] == primal.shape[0] else gradient.sum(axis=0, keepdims=True)


def added(first: Any, second: Any) -> Any:
    """The sum of gradients, which may be None, or tuples of one for each axis."""
    if isinstance(first, tuple):
        return tuple(map(added, first, second))
    return None if first is None else first + second


def quotient_of(
    input: Array, grid: Array, mask: Array | None, eps: float, options: SamplingOptions, others: dict[str, Any]
) -> Quotient:
    """What is to be divided, once all of it and the arrays beside it have been checked to be of one kind."""
    least = check_eps(eps)
    xp = backend_of({"input": input, "grid": grid}, {"mask": mask, **others}).xp
    check_sampling(input, grid, options)
    wide = input.astype(np.float32) if input.dtype.kind in "iu" else widened(input)
    quotient = Quotient(xp, wide, grid, None, options, least)
    if mask is None:
        return quotient
    check_mask(mask, input, grid, options)
    weights = mask.astype(mask_dtype(wide.dtype), copy=False)
    return replace(quotient, mask=quotient.on_channels(weights))


def check_mask(mask: Array, input: Array, grid: Array, options: SamplingOptions) -> None:
    if mask.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        try:
            check_float("mask", mask)
        except TypeError:
            raise TypeError(f"mask must be bool, uint8, float32 or float64, got dtype {mask.dtype}") from None
    spatial, batch = spatial_of(input.shape, options), batch_of(input, grid)
    if mask.shape not in ((1, *spatial), (batch, *spatial)):
        raise ValueError(
            f"mask must have shape {(batch, *spatial)}, or 1 for the batch, for input {input.shape} and grid "
            f"{grid.shape}: got {mask.shape}"
        )


def mask_tangent_dtype(mask: Array) -> np.dtype[Any]:
    """Of a mask's gradient and tangent."""
    return mask.dtype if mask.dtype.kind == "f" else np.dtype(np.float32)


def delivered(xp: Any, values: Array, dtype: np.dtype[Any]) -> Array:
    """Values in the dtype of the image: integers are rounded half to even and saturate."""
    with np.errstate(over="ignore"):
        return sums.delivered(sums.rounded(xp, values, dtype), dtype, None)


def normalized_grid_sample(
    input: Array,
    grid: Array,
    mask: Array | None = None,
    mode: Mode = "linear",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    eps: float = 1e-3,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    return_mask: bool = False,
) -> Array | tuple[Array, Array]:
    r"""Sample an image by those of its pixels alone that are there: the mean of them, by their weights.

    .. math:: V_{nci} = \frac{\sum_{h,w} m_{nhw} \, U_{nchw} \, k(p^x_{ni} - w) \, k(p^y_{ni} - h)}
        {\sum_{h,w} m_{nhw} \, k(p^x_{ni} - w) \, k(p^y_{ni} - h)}

    with :math:`m` a mask of the image, zero outside of it (normalized convolution: Knutsson and Westin, 1993). Under
    "zeros" `grid_sample` fades to black over the last pixel, and its gradient draws the grid along that edge; here an
    image that is constant is so up to its border, with no gradient. So is one whose masked pixels hold anything.

    Parameters
    ----------
    input, grid, mode, align_corners, cutoff, coords, channel_axis, deterministic
        As given to `grid_sample`, whose padding is "zeros". The batch sizes of all arrays agree or are 1.
    mask : ndarray, shape (N, *spatial) or (1, *spatial), optional
        How much each pixel counts, none of them negative: bool, uint8, float32 or float64. Where it is 0 the pixel has
        no part, NaN or not. None is 1 everywhere.
    fill_value : number or sequence of C numbers, default 0
        The value of samples whose coverage is less than `eps`, of those that are cut off, and of those whose
        coordinates are NaN or infinite.
    eps : float, default 1e-3
        The least coverage that is divided by. It is what rounding is multiplied by: at 1e-3 a gradient in float32 has
        four digits left.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`; of no effect here.
    return_mask : bool, default False
        Whether to return the coverage too.

    Returns
    -------
    output : ndarray, shape (N, C, ...), or (N, ..., C) if ``channel_axis=-1``
        dtype of `input`; integers are rounded half to even and saturate.
    coverage : ndarray, shape (N, ...), only if `return_mask`
        What was divided by, the mask's own sample: in [0, 1] for "linear" and "nearest" and a mask that is. The real
        type of `input`, float32 for integers.

    Raises
    ------
    TypeError, ValueError
        As `grid_sample`; if `mask` does not fit, or `eps` is not positive.

    See Also
    --------
    normalized_grid_sample_vjp, normalized_grid_sample_jvp, normalized_grid_sample_vjp2 : its derivatives.
    grid_sample : with ``cutoff="center"`` the strict form: samples beyond the centres of the outermost pixels are
        `fill_value` with no gradient, so that no pixel is mixed with what is outside. With ``padding_mode="border"`` or
        a reflection something is read there.
    out_of_bounds_penalty : a loss that keeps grids inside.

    Notes
    -----
    The coverage is a sample of one channel more. For "linear" and "nearest" it is the mask of `grid_sample`; other
    kernels' weights may sum to more than 1. Beyond the results it takes that channel, the product of image and mask if
    there is one, and two or three arrays of the samples' size; the derivatives up to eight.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image, points = np.array([[[2.0, 4.0, 6.0]]]), np.array([[[-0.5], [0.5], [2.75], [9.0]]])
    >>> pystn.grid_sample(image, points, coords="pixel")
    array([[[1. , 3. , 1.5, 0. ]]])
    >>> pystn.normalized_grid_sample(image, points, coords="pixel")
    array([[[2., 3., 6., 0.]]])
    >>> pystn.normalized_grid_sample(image, points, np.array([[True, False, True]]), coords="pixel")
    array([[[2., 2., 6., 0.]]])
    """
    options = resolve(
        mode, "zeros", align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    quotient = quotient_of(input, grid, mask, eps, options, {})
    returned = flag("return_mask", return_mask)
    values, covered, _, coverage = quotient.parts()
    filled = quotient.kept(covered, values, quotient.fill(options.fill_value)) if options.has_fill else values
    output = delivered(quotient.xp, filled, input.dtype)
    return (output, quotient.returned(coverage, input)) if returned else output


def normalized_grid_sample_vjp(
    grad_output: Array | tuple[Array, Array],
    input: Array,
    grid: Array,
    mask: Array | None = None,
    mode: Mode = "linear",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    eps: float = 1e-3,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    return_mask: bool = False,
    wrt: str | Sequence[str] = ("input", "grid"),
) -> tuple[Any, ...]:
    r"""Vector-Jacobian product of `normalized_grid_sample`.

    .. math:: \frac{\partial V}{\partial x} = \frac{\sum w' m U - V \sum w' m}{\sum w m}

    With M the coverage, :math:`\bar S = \bar V / M` and :math:`\bar M = -\sum_c \bar S_c V_c` go back through the
    sampler; both are zero where the coverage is less than `eps`.

    Parameters
    ----------
    grad_output : ndarray, or tuple of two if `return_mask`
        Cotangent: shape of the output, and its dtype; float32 for an integer input. With `return_mask` a tuple, the
        coverage's cotangent, or None, second.
    input, grid, mask, mode, align_corners, fill_value, eps, cutoff, coords, channel_axis, deterministic, return_mask
        As given to `normalized_grid_sample`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"input", "grid", "fill_value", "kernel", "mask"}, default ("input", "grid")
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_input, grad_grid : ndarray or None
        As `grid_sample_vjp`.
    grad_fill_value, grad_kernel : ndarray, only if in `wrt`
        As `grid_sample_vjp`.
    grad_mask : ndarray, only if in `wrt`
        Shape and dtype of `mask`, float32 for one of bool or uint8.

    Raises
    ------
    TypeError, ValueError
        As `normalized_grid_sample`; ValueError if `wrt` names the mask and there is none.

    See Also
    --------
    normalized_grid_sample

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image, points = np.array([[[2.0, 4.0, 6.0]]]), np.array([[[-0.5], [0.5], [2.75], [9.0]]])
    >>> one = np.ones((1, 1, 4))
    >>> grad_image, grad_points = pystn.normalized_grid_sample_vjp(one, image, points, coords="pixel")
    >>> grad_image
    array([[[1.5, 0.5, 1. ]]])
    >>> grad_points[0, :, 0]
    array([0., 2., 0., 0.])
    """
    wanted = check_wrt(wrt, ("input", "grid", "fill_value", "kernel", "mask"))
    grad_output, grad_coverage = cotangents(grad_output, return_mask)
    options = resolve(
        mode, "zeros", align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    quotient = quotient_of(input, grid, mask, eps, options, {"grad_output": grad_output, "grad_mask": grad_coverage})
    check_cotangents(grad_output, grad_coverage, input, grid, options)
    check_wanted_options(wanted, input, options)
    if wanted[4] and mask is None:
        raise ValueError("wrt names 'mask', but there is none: got None")
    values, covered, denominator, _ = quotient.parts()
    grad = grad_output.astype(values.dtype, copy=False)
    to_sum = quotient.kept(covered, grad / denominator)
    to_coverage = quotient.to_coverage(to_sum, values, grad_coverage)
    asked = dict(zip(("input", "grid", "fill_value", "kernel", "mask"), wanted, strict=True))
    found = quotient.sums_vjp(to_sum, to_coverage, asked) if any(wanted[k] for k in (0, 1, 3, 4)) else {}
    to_input = rounded(found["input"], quotient.input) if wanted[0] else None
    gradients: tuple[Any, ...] = (
        None if to_input is None else to_input.astype(tangent_dtype(input.dtype), copy=False),
        found["grid"] if wanted[1] else None,
    )
    if wanted[2]:
        channel = options.channel_axis % grad.ndim
        uncovered = quotient.xp.where(covered, grad.dtype.type(0), grad)
        axes = tuple(axis for axis in range(grad.ndim) if axis != channel)
        wide = np.dtype(np.complex128 if grad.dtype.kind == "c" else np.float64)
        gradients += (grad_fill_value(uncovered.sum(axis=axes, dtype=wide), options),)
    if wanted[3]:
        gradients += (found["kernel"],)
    if wanted[4]:
        assert mask is not None
        gradients += (quotient.off_channels(found["mask"]).astype(mask_tangent_dtype(mask), copy=False),)
    return gradients


def normalized_grid_sample_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
    mask: Array | None = None,
    mode: Mode = "linear",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    eps: float = 1e-3,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    return_mask: bool = False,
    d_fill_value: FillValue | None = None,
    d_kernel: Any = None,
    d_mask: Array | None = None,
) -> Array | tuple[Array, Array]:
    r"""Jacobian-vector product of `normalized_grid_sample`.

    .. math:: dV = \frac{dS - V \, dM}{M}

    with the tangents of numerator and coverage; where the coverage is less than `eps`, the fill value's.

    Parameters
    ----------
    input, grid, mask, mode, align_corners, fill_value, eps, cutoff, coords, channel_axis, deterministic, return_mask
        As given to `normalized_grid_sample`.
    d_input, d_grid : ndarray or None
        Tangents: shapes and dtypes of `input` (float32 if it is of integers) and `grid`. None is zero.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    d_fill_value, d_kernel
        Tangents of `fill_value` and of the kernel's parameters, as in `grid_sample_jvp`.
    d_mask : ndarray, optional
        Tangent of `mask`: its shape, and its dtype, float32 for one of bool or uint8.

    Returns
    -------
    d_output : ndarray
        Shape and dtype of the output; float32 for an integer input.
    d_coverage : ndarray, only if `return_mask`

    Raises
    ------
    TypeError, ValueError
        As `normalized_grid_sample`.

    See Also
    --------
    normalized_grid_sample

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image, points = np.array([[[2.0, 4.0, 6.0]]]), np.array([[[-0.5], [0.5], [2.75], [9.0]]])
    >>> pystn.normalized_grid_sample_jvp(image, points, None, np.ones((1, 4, 1)), coords="pixel")
    array([[[0., 2., 0., 0.]]])
    """
    others = {"d_input": d_input, "d_grid": d_grid, "d_mask": d_mask}
    options = resolve(
        mode, "zeros", align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    quotient = quotient_of(input, grid, mask, eps, options, others)
    check_tangents(d_input, d_grid, input, grid)
    option_tangents(d_fill_value, d_kernel, input, options)
    returned = flag("return_mask", return_mask)
    wide_mask = None
    if d_mask is not None:
        if mask is None:
            raise ValueError("d_mask is the tangent of mask, which must then be given too: got None")
        check_like("d_mask", d_mask, mask.shape, mask_tangent_dtype(mask), "mask")
        wide_mask = quotient.on_channels(d_mask.astype(quotient.weights.dtype, copy=False))
    values, covered, denominator, _ = quotient.parts()
    d_sum, d_coverage = quotient.sums_jvp(widened(d_input), d_grid, wide_mask, d_kernel)
    moved = (d_sum - values * d_coverage) / denominator
    others_moved = 0 if d_fill_value is None else quotient.fill(d_fill_value)
    dtype = tangent_dtype(input.dtype)
    d_output = delivered(quotient.xp, quotient.kept(covered, moved, others_moved), dtype)
    return (d_output, quotient.returned(d_coverage, input)) if returned else d_output


def normalized_grid_sample_vjp2(
    gg_input: Array | None,
    gg_grid: Array | None,
    grad_output: Array | tuple[Array, Array],
    input: Array,
    grid: Array,
    mask: Array | None = None,
    mode: Mode = "linear",
    align_corners: bool = False,
    *,
    fill_value: FillValue = 0.0,
    eps: float = 1e-3,
    cutoff: str | None = None,
    coords: str = "normalized",
    subgradient: str = "right",
    channel_axis: int = 1,
    deterministic: bool = False,
    return_mask: bool = False,
    wrt: str | Sequence[str] = ("grad_output", "input", "grid"),
) -> tuple[Any, Any, Any]:
    r"""Second order: the vector-Jacobian product of `normalized_grid_sample_vjp`.

    With the tangents :math:`dV` and :math:`dM` along the cotangents of the two gradients, and :math:`\bar S` and
    :math:`\bar M` of `normalized_grid_sample_vjp`, numerator and coverage get

    .. math::
        \bar{\bar S} = -\frac{dM}{M} \, \bar S, \qquad
        \bar{\bar M} = -\sum_c \bar S_c \Bigl( dV_c - \frac{dM}{M} \, V_c \Bigr)

    which go back through the sampler, beside its own second order at :math:`\bar S` and :math:`\bar M`. The mask is
    held.

    Parameters
    ----------
    gg_input, gg_grid : ndarray or None
        Cotangents of grad_input and grad_grid: shapes and dtypes of these. None is zero.
    grad_output, input, grid
        As given to `normalized_grid_sample_vjp`.
    mask, mode, align_corners, fill_value, eps, cutoff, coords, channel_axis, deterministic, return_mask
        As given to `normalized_grid_sample_vjp`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `grid_sample_vjp`.
    wrt : sequence of {"grad_output", "input", "grid"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_output, grad_input, grad_grid : ndarray or None
        Shapes and dtypes of `grad_output` (a tuple with `return_mask`), of the gradient to `input`, and of `grid`; None
        where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `normalized_grid_sample_vjp`.

    See Also
    --------
    normalized_grid_sample_vjp, normalized_grid_sample_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image, points = np.array([[[2.0, 4.0, 6.0]]]), np.array([[[0.5]]])
    >>> mask, one = np.array([[1.0, 3.0, 1.0]]), np.ones((1, 1, 1))
    >>> *_, grad_points = pystn.normalized_grid_sample_vjp2(
    ...     None, np.ones((1, 1, 1)), one, image, points, mask, coords="pixel"
    ... )
    >>> grad_points  # of (2 + 10 p) / (1 + 2 p)
    array([[[-3.]]])
    """
    wanted = check_wrt(wrt, ("grad_output", "input", "grid"))
    grad_output, grad_coverage = cotangents(grad_output, return_mask)
    others = {"grad_output": grad_output, "grad_mask": grad_coverage, "gg_input": gg_input, "gg_grid": gg_grid}
    options = resolve(
        mode, "zeros", align_corners, coords, subgradient, channel_axis, deterministic, cutoff, fill_value
    )
    quotient = quotient_of(input, grid, mask, eps, options, others)
    check_cotangents(grad_output, grad_coverage, input, grid, options)
    check_tangents(gg_input, gg_grid, input, grid, prefix="gg")
    values, covered, denominator, _ = quotient.parts()
    to_sum = quotient.kept(covered, grad_output.astype(values.dtype, copy=False) / denominator)
    to_coverage = quotient.to_coverage(to_sum, values, grad_coverage)
    d_sum, d_coverage, to_input, to_grid = quotient.sums_vjp2(
        widened(gg_input), gg_grid, to_sum, to_coverage, wanted[1:]
    )
    rate = d_coverage / denominator
    d_values = quotient.kept(covered, d_sum / denominator - values * rate)
    if any(wanted[1:]):
        bent = (-rate * to_sum).astype(to_sum.dtype, copy=False)
        bent_coverage = quotient.to_coverage(to_sum, d_values - values * rate, None)
        asked = {"input": wanted[1], "grid": wanted[2], "kernel": False, "mask": False}
        more = quotient.sums_vjp(bent, bent_coverage, asked)
        to_input = to_input + more["input"] if wanted[1] else None
        to_grid = to_grid + more["grid"] if wanted[2] else None
    xp, dtype = quotient.xp, tangent_dtype(input.dtype)
    to_output: Any = delivered(xp, d_values, dtype) if wanted[0] else None
    if wanted[0] and grad_coverage is not None:
        to_output = to_output, quotient.returned(d_coverage, input)
    return to_output, None if to_input is None else delivered(xp, to_input, dtype), to_grid


def check_penalty(grid: Array, others: dict[str, Array | None]) -> Any:
    """Check a grid and what is of its shape; returns the array module."""
    xp = backend_of({"grid": grid}, others).xp
    check_float("grid", grid)
    if grid.ndim < 2:
        raise ValueError(f"grid must have 2 axes or more, (N, ..., ndim): got {grid.ndim} axes, shape {grid.shape}")
    return xp


def excess(xp: Any, grid: Array) -> Array:
    """How far coordinates are beyond -1 and 1, with its sign."""
    beyond: Array = xp.sign(grid) * xp.maximum(abs(grid) - 1, 0)
    return beyond


def mean_of(array: Array) -> Array:
    """The mean of each entry of the batch, of none 0; summed in float64."""
    axes = tuple(range(1, array.ndim))
    return array.sum(axis=axes, dtype=np.float64) / max(prod(array.shape[1:]), 1)


def shares(grad_penalty: Array, grid: Array) -> Array:
    """The cotangent of the penalty for each of the coordinates that it is the mean of."""
    share: Array = grad_penalty.reshape(-1, *[1] * (grid.ndim - 1)) / max(prod(grid.shape[1:]), 1)
    return share


def out_of_bounds_penalty(grid: Array) -> Array:
    r"""How far a grid is outside of the image: a loss that keeps it inside.

    .. math:: \frac{1}{P} \sum_{i,a} \max(0, |x_{ia}| - 1)^2

    over the P coordinates of each entry of the batch. Where all of a grid is outside, samples under "zeros" have no
    gradient that would bring it back; this has.

    Parameters
    ----------
    grid : ndarray, shape (N, ..., ndim)
        Normalized coordinates, float32 or float64.

    Returns
    -------
    penalty : ndarray, shape (N,)
        One for each entry of the batch; dtype of `grid`, summed in float64.

    Raises
    ------
    TypeError
        If `grid` is no NumPy array of float32 or float64.
    ValueError
        If it has less than two axes.

    See Also
    --------
    out_of_bounds_penalty_vjp, out_of_bounds_penalty_jvp, out_of_bounds_penalty_vjp2 : its derivatives.
    identity_penalty : a loss that keeps transforms near the identity.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.out_of_bounds_penalty(np.array([[[0.0, 1.0], [-3.0, 2.0]]]))
    array([1.25])
    """
    xp = check_penalty(grid, {})
    penalty: Array = mean_of(excess(xp, grid) ** 2).astype(grid.dtype)
    return penalty


def out_of_bounds_penalty_vjp(grad_penalty: Array, grid: Array) -> tuple[Array]:
    r"""Vector-Jacobian product of `out_of_bounds_penalty`.

    .. math:: \bar x_{ia} = \frac{2}{P} \max(0, |x_{ia}| - 1) \, \mathrm{sign}(x_{ia}) \, \bar L

    Parameters
    ----------
    grad_penalty : ndarray, shape (N,)
        Cotangent: dtype of `grid`.
    grid : ndarray, shape (N, ..., ndim)
        As given to `out_of_bounds_penalty`.

    Returns
    -------
    (grad_grid,) : tuple of one ndarray
        Shape and dtype of `grid`.

    Raises
    ------
    TypeError, ValueError
        As `out_of_bounds_penalty`, and if `grad_penalty` does not fit.

    See Also
    --------
    out_of_bounds_penalty

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_grid, = pystn.out_of_bounds_penalty_vjp(np.ones(1), np.array([[[0.0, 1.0], [-3.0, 2.0]]]))
    >>> grad_grid
    array([[[ 0. ,  0. ],
            [-1. ,  0.5]]])
    """
    xp = check_penalty(grid, {"grad_penalty": grad_penalty})
    check_like("grad_penalty", grad_penalty, grid.shape[:1], grid.dtype, "the result")
    return (2 * excess(xp, grid) * shares(grad_penalty, grid),)


def out_of_bounds_penalty_jvp(grid: Array, d_grid: Array | None) -> Array:
    """Jacobian-vector product of `out_of_bounds_penalty`.

    Parameters
    ----------
    grid : ndarray, shape (N, ..., ndim)
        As given to `out_of_bounds_penalty`.
    d_grid : ndarray or None
        Tangent: shape and dtype of `grid`; None is zero.

    Returns
    -------
    d_penalty : ndarray, shape (N,)

    Raises
    ------
    TypeError, ValueError
        As `out_of_bounds_penalty`, and if `d_grid` does not fit.

    See Also
    --------
    out_of_bounds_penalty

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grid = np.array([[[0.0, 1.0], [-3.0, 2.0]]])
    >>> pystn.out_of_bounds_penalty_jvp(grid, np.ones_like(grid))
    array([-0.5])
    """
    xp = check_penalty(grid, {"d_grid": d_grid})
    if d_grid is None:
        zeros: Array = xp.zeros(grid.shape[:1], grid.dtype)
        return zeros
    check_like("d_grid", d_grid, grid.shape, grid.dtype, "grid")
    moved: Array = (2 * mean_of(excess(xp, grid) * d_grid)).astype(grid.dtype)
    return moved


def out_of_bounds_penalty_vjp2(
    gg_grid: Array | None, grad_penalty: Array, grid: Array, *, wrt: str | Sequence[str] = ("grad_penalty", "grid")
) -> tuple[Array | None, Array | None]:
    """Second order: the vector-Jacobian product of `out_of_bounds_penalty_vjp`.

    The second derivative is 2 / P beyond -1 and 1, and 0 from there inwards.

    Parameters
    ----------
    gg_grid : ndarray or None
        Cotangent of grad_grid: shape and dtype of `grid`. None is zero.
    grad_penalty, grid
        As given to `out_of_bounds_penalty_vjp`.
    wrt : sequence of {"grad_penalty", "grid"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_penalty, grad_grid : ndarray or None
        Shapes and dtypes of `grad_penalty` and `grid`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `out_of_bounds_penalty_vjp`, and if `gg_grid` or `wrt` does not fit.

    See Also
    --------
    out_of_bounds_penalty_vjp, out_of_bounds_penalty_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grid = np.array([[[0.0, 1.0], [-3.0, 2.0]]])
    >>> _, grad_grid = pystn.out_of_bounds_penalty_vjp2(np.ones_like(grid), np.ones(1), grid)
    >>> grad_grid
    array([[[0. , 0. ],
            [0.5, 0.5]]])
    """
    to_penalty, to_grid = check_wrt(wrt, ("grad_penalty", "grid"))
    xp = check_penalty(grid, {"grad_penalty": grad_penalty, "gg_grid": gg_grid})
    check_like("grad_penalty", grad_penalty, grid.shape[:1], grid.dtype, "the result")
    if gg_grid is not None:
        check_like("gg_grid", gg_grid, grid.shape, grid.dtype, "grid")
    moved = out_of_bounds_penalty_jvp(grid, gg_grid)
    bent = None
    if to_grid:
        along = xp.zeros(grid.shape, grid.dtype) if gg_grid is None else gg_grid
        bent = 2 * xp.where(abs(grid) > 1, along, 0) * shares(grad_penalty, grid)
    return moved if to_penalty else None, bent
