"""Cotangents and tangents, checked on their way in; gradients of options, shaped on their way out.

What the derivatives of every sampler share, whatever its coordinates come from.
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np

from pystn.backends import Operations
from pystn.coordinates import Coordinates
from pystn.interpolation import number
from pystn.options import SamplingOptions, flag
from pystn.typing import Array
from pystn.validation import (
    channels_of,
    check_fill,
    check_like,
    check_out,
    check_parametric,
    mask_dtype,
    sample_shape,
    shape_of,
    tangent_dtype,
)

__all__ = [
    "check_cotangents",
    "check_eps",
    "check_gradients",
    "check_tangents",
    "check_wanted_options",
    "cotangents",
    "grad_fill_value",
    "option_tangents",
    "rounded",
    "sampler_gradients",
    "widened",
]


def cotangents(grad_output: Any, return_mask: bool) -> tuple[Array, Array | None]:
    """The cotangent of the samples, and of the mask where there is one."""
    if not flag("return_mask", return_mask):
        return grad_output, None
    if not isinstance(grad_output, tuple) or len(grad_output) != 2:
        raise TypeError(
            "with return_mask=True grad_output must be a tuple of the cotangents of output and mask, "
            f"got {type(grad_output).__name__}"
        )
    return grad_output


def check_cotangents(
    grad_output: Array, grad_mask: Array | None, input: Array, grid: Coordinates, options: SamplingOptions
) -> None:
    shape = sample_shape(input, grid, options)
    check_like("grad_output", grad_output, shape, tangent_dtype(input.dtype), "the output")
    if grad_mask is not None:
        shape = (shape[0], *grid.shape[1:-1])
        check_like("grad_mask", grad_mask, shape, mask_dtype(input.dtype), "the mask")


def grad_fill_value(sums: Array, options: SamplingOptions) -> Array:
    """The gradient to the fill value, from that of each channel."""
    fill = options.fill_value if hasattr(options.fill_value, "dtype") else np.asarray(options.fill_value)
    if fill.dtype.kind != "c" and sums.dtype.kind == "c":
        sums = sums.real
    if fill.ndim == 0:
        sums = sums.sum(keepdims=True).reshape(())
    return sums.astype(fill.dtype) if fill.dtype.kind in "fc" else sums


def grad_kernel(found: list[Array | None], options: SamplingOptions) -> Any:
    """The gradient to the kernel's parameters from that of each axis: their sum, if the axes share it."""
    modes = options.modes(len(found))
    shaped: list[Any] = [
        None if grad is None else grad.reshape(mode.parameter_shape) for grad, mode in zip(found, modes, strict=True)
    ]
    if isinstance(options.mode, tuple):
        return tuple(shaped)
    return reduce(operator.add, shaped).reshape(options.mode.parameter_shape)


def kernel_tangents(d_kernel: Any, options: SamplingOptions, ndim: int) -> list[Array | None]:
    """The tangent of each axis' kernel, checked."""
    modes = options.modes(ndim)
    given = d_kernel if isinstance(options.mode, tuple) else (d_kernel,) * ndim
    if d_kernel is None:
        return [None] * ndim
    if not isinstance(given, tuple) or len(given) != ndim:
        raise TypeError(f"d_kernel must be a tuple of one tangent or None for each axis' mode, got {d_kernel!r}")
    tangents: list[Array | None] = []
    for d, mode in zip(given, modes, strict=True):
        if d is None:
            tangents.append(None)
            continue
        shape = mode.parameter_shape
        if shape is None or shape_of(d) != shape:
            raise ValueError(f"d_kernel must have the shape of the parameters of {mode}, {shape}: got {shape_of(d)}")
        array = d if hasattr(d, "astype") else np.asarray(d)
        tangents.append(array.astype(np.float64).reshape(-1))
    return tangents


def option_tangents(d_fill: Any, d_kernel: Any, input: Array, options: SamplingOptions) -> list[Array | None]:
    """Check the tangents of fill value and kernels; returns that of each axis' kernel."""
    if d_fill is not None:
        check_fill("d_fill_value", d_fill, channels_of(input.shape, options), input.dtype)
    return kernel_tangents(d_kernel, options, input.ndim - 2)


def check_wanted_options(wanted: tuple[bool, ...], input: Array, options: SamplingOptions) -> None:
    """Check that there are the options whose gradients are wanted: (..., fill_value, kernel)."""
    if wanted[2]:
        check_fill("fill_value", options.fill_value, channels_of(input.shape, options), input.dtype)
    if wanted[3]:
        check_parametric(options, input.ndim - 2)


def sampler_gradients(
    backend: Operations,
    grad_output: Array,
    grad_mask: Array | None,
    input: Array,
    coordinates: Coordinates,
    options: SamplingOptions,
    wanted: tuple[bool, ...],
    outs: tuple[Array | None, ...],
) -> tuple[Any, ...]:
    """Gradients to input and coordinates, None where not wanted, then those of the options that are."""
    gradients: tuple[Any, ...] = backend.grid_sample_vjp(
        grad_output, grad_mask, input, coordinates, options, wanted[:2], outs
    )
    if wanted[2] or wanted[3]:
        fill, kernel = backend.grid_sample_vjp_options(grad_output, grad_mask, input, coordinates, options)
        if wanted[2]:
            gradients += (grad_fill_value(fill, options),)
        if wanted[3]:
            gradients += (grad_kernel(kernel, options),)
    return gradients


def check_gradients(
    given: dict[str, Array | None],
    primals: tuple[Array, ...],
    dtypes: tuple[np.dtype[Any], ...],
    read: tuple[Array | None, ...],
) -> None:
    """Check arrays that gradients are to be written into."""
    for (name, array), primal, dtype in zip(given.items(), primals, dtypes, strict=True):
        if array is not None:
            others = [other for other in given.values() if other is not array]
            check_out(f"out: {name}", array, primal.shape, dtype, (*read, *others))


def check_tangents(
    d_input: Array | None, d_other: Array | None, input: Array, other: Array, name: str = "grid", prefix: str = "d"
) -> None:
    """Check the tangents of an image and of what its coordinates come from, or the cotangents of their gradients."""
    if d_input is not None:
        check_like(f"{prefix}_input", d_input, input.shape, tangent_dtype(input.dtype), "input")
    if d_other is not None:
        check_like(f"{prefix}_{name}", d_other, other.shape, other.dtype, name)


def check_eps(eps: float) -> float:
    if number("eps", eps) <= 0:
        raise ValueError(f"eps must be positive, got {eps!r}")
    return float(eps)


def widened(array: Any) -> Any:
    """What quotients are made of: float16 and bfloat16 as float32."""
    narrow = array is not None and array.dtype.itemsize == 2 and array.dtype.kind not in "iu"
    return array.astype(np.float32) if narrow else array


def rounded(result: Any, primal: Array) -> Any:
    """A result in the dtype of its primal; beyond the range of 16 bits it is infinite."""
    if result is None:
        return None
    with np.errstate(over="ignore"):
        return result.astype(primal.dtype, copy=False)
