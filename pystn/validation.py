"""The one layer where arrays are checked, before any work is done.

Every message says what was wrong, what was expected and what was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pystn.options import SamplingOptions

__all__ = [
    "check_affine",
    "check_like",
    "check_out",
    "check_outs",
    "check_sampling",
    "check_wrt",
    "output_size",
    "sample_shape",
]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
SPATIAL_NAMES = {2: "H, W"}


def check_float(name: str, array: Any) -> None:
    if array.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64 in native byte order, got dtype {array.dtype}")


def check_like(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], of: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of {of}, {shape}: got {array.shape}")
    if array.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of {of}, {dtype}: got {array.dtype}")


def layout(options: SamplingOptions, ndim: int) -> str:
    spatial = SPATIAL_NAMES[ndim]
    return f"(N, C, {spatial})" if options.channel_axis == 1 else f"(N, {spatial}, C)"


def check_sampling(input: Any, grid: Any, options: SamplingOptions) -> None:
    """Check what every direction of the sampler is given: an input and a grid that fit."""
    check_float("input", input)
    check_float("grid", grid)
    if input.ndim != 4:
        raise ValueError(f"input must have 4 axes, {layout(options, 2)}: got {input.ndim} axes, shape {input.shape}")
    ndim = 2
    if grid.ndim < 2:
        raise ValueError(f"grid must have 2 axes or more, (N, ..., {ndim}): got {grid.ndim} axes, shape {grid.shape}")
    if grid.shape[-1] != ndim:
        raise ValueError(
            f"grid has last axis {grid.shape[-1]}, but input {layout(options, ndim)} has {ndim} spatial axes: "
            f"expected grid of shape (N, ..., {ndim}), got {grid.shape}"
        )
    if input.shape[0] != grid.shape[0] and input.shape[0] != 1 and grid.shape[0] != 1:
        raise ValueError(
            f"batch sizes of input and grid must agree or one of them be 1: "
            f"got {input.shape[0]} and {grid.shape[0]}, shapes {input.shape} and {grid.shape}"
        )
    spatial = input.shape[2:] if options.channel_axis == 1 else input.shape[1:-1]
    if 0 in spatial and grid.size:
        raise ValueError(
            f"input has an empty spatial axis, and grid asks for samples of it: expected {layout(options, ndim)} "
            f"with spatial axes of 1 or more, got {input.shape} with grid {grid.shape}"
        )


def sample_shape(input: Any, grid: Any, options: SamplingOptions) -> tuple[int, ...]:
    """Shape of the samples of `input` at `grid`."""
    batch = grid.shape[0] if input.shape[0] == 1 else input.shape[0]
    shape = grid.shape[1:-1]
    if options.channel_axis == 1:
        return (batch, input.shape[1], *shape)
    return (batch, *shape, input.shape[-1])


def check_wrt(wrt: Any, allowed: tuple[str, ...]) -> tuple[bool, ...]:
    """For each of `allowed`, whether its gradient is asked for."""
    try:
        names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    except TypeError:
        raise TypeError(f"wrt must be a sequence of some of {allowed}, got {wrt!r}") from None
    for name in names:
        if name not in allowed:
            raise ValueError(f"unknown entry of wrt: expected some of {allowed}, got {name!r}")
    return tuple(name in names for name in allowed)


def overlaps_itself(array: np.ndarray[Any, Any]) -> bool:
    """Whether elements of an array may lie on each other; never so for slices and transposes."""
    reach = 0
    for stride, length in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < array.itemsize or stride <= reach - array.itemsize:
            return array.size > 0
        reach = reach + stride * (length - 1) if reach else array.itemsize + stride * (length - 1)
    return False


def overlap(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    if not np.may_share_memory(a, b):
        return False
    work: Any = 100_000  # an exact answer can take exponentially long
    try:
        return np.shares_memory(a, b, max_work=work)
    except np.exceptions.TooHardError:
        return True


def check_out(name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], read: Sequence[Any]) -> None:
    """Check an array that a result is to be written into, against the arrays that are read."""
    if out.shape != shape:
        raise ValueError(f"{name} must have shape {shape}: got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}: got {out.dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{name} must be writeable: got a read-only array")
    if not out.flags.aligned or any(s % out.itemsize for s in out.strides):
        raise ValueError(f"{name} must be aligned to its itemsize, {out.itemsize}: got strides {out.strides}")
    if overlaps_itself(out):
        raise ValueError(f"{name} must not overlap itself: got shape {out.shape} with strides {out.strides}")
    if any(array is not None and overlap(out, array) for array in read):
        raise ValueError(f"{name} must not overlap an array that is read or another that is written")


def check_outs(out: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The arrays of a tuple `out`, by name; each may be None."""
    if out is None:
        return dict.fromkeys(names)
    if not isinstance(out, tuple) or len(out) != len(names):
        raise TypeError(f"out must be a tuple ({', '.join(names)}) of arrays or None, got {type(out).__name__}")
    return dict(zip(names, out, strict=True))


def output_size(size: Any, ndim: int, batch: int | None = None) -> tuple[int, ...]:
    """The spatial size of an output, given as such or as the full (N, C, *spatial)."""
    try:
        lengths = tuple(int(length) for length in size)
        integral = all(length == given for length, given in zip(lengths, size, strict=True))
    except (TypeError, ValueError):
        raise TypeError(f"size must be a tuple of integers, got {size!r}") from None
    if not integral:
        raise TypeError(f"size must be a tuple of integers, got {size!r}")
    if len(lengths) not in (ndim, ndim + 2):
        raise ValueError(
            f"size must have {ndim} entries (spatial) or {ndim + 2} (N, C, spatial) "
            f"for a transform in {ndim} dimensions: got {lengths}"
        )
    if any(length < 0 for length in lengths):
        raise ValueError(f"size must not be negative: got {lengths}")
    if len(lengths) == ndim + 2 and batch is not None and lengths[0] != batch:
        raise ValueError(f"size (N, C, spatial) must have the batch size of theta, {batch}: got {lengths}")
    return lengths[-ndim:]


def check_affine(theta: Any) -> int:
    """Check theta (N, *K, ndim, ndim + 1); returns ndim."""
    check_float("theta", theta)
    if theta.ndim < 3 or theta.shape[-2:] not in ((2, 3), (3, 4)):
        raise ValueError(f"theta must have shape (N, ..., 2, 3) or (N, ..., 3, 4): got {theta.shape}")
    return int(theta.shape[-2])
