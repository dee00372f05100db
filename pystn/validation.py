"""The one layer where arrays are checked, before any work is done.

Every message says what was wrong, what was expected and what was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pystn.interpolation import check_host, check_host_numbers, count
from pystn.options import CHANNEL_AXES, SamplingOptions, one_of

__all__ = [
    "addresses",
    "batch_of",
    "channels_of",
    "check_affine",
    "check_basis",
    "check_batch",
    "check_distinct",
    "check_entries",
    "check_fill",
    "check_float",
    "check_grid",
    "check_leading",
    "check_length",
    "check_like",
    "check_matrix",
    "check_out",
    "check_outs",
    "check_parameters",
    "check_parametric",
    "check_points",
    "check_sampling",
    "check_spanning",
    "check_splatting",
    "check_spline",
    "check_square_or_affine",
    "check_target",
    "check_warping",
    "check_wrt",
    "count",
    "image_shape",
    "mask_dtype",
    "output_size",
    "overlap",
    "projected_shape",
    "sample_shape",
    "spatial_of",
    "spatial_size",
    "sum_dtype",
    "tangent_dtype",
]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
# Of an image: the dtype of its gradients and tangents. Complex numbers are pairs of real ones;
# bfloat16 is ml_dtypes' and found by its name, so that the package is not imported for it.
TANGENTS = {
    np.dtype(image): np.dtype(tangent)
    for image, tangent in {
        "f2": "f2",
        "f4": "f4",
        "f8": "f8",
        "c8": "c8",
        "c16": "c16",
        "u1": "f4",
        "i2": "f4",
        "u2": "f4",
    }.items()
}
SPATIAL_NAMES = {1: "W", 2: "H, W", 3: "D, H, W"}


def check_float(name: str, array: Any) -> None:
    if array.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32 or float64 in native byte order, got dtype {array.dtype}")


def tangent_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Of an image's gradients and tangents: its own, but float32 for integers."""
    return TANGENTS.get(dtype, dtype)


def sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Of what is made of an image by adding up: its coefficients, its gradient on the way."""
    return np.dtype(np.float32) if dtype.itemsize <= 2 else dtype


def mask_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Of an image's coverage: the real type of its gradients."""
    tangent = tangent_dtype(dtype)
    return np.empty(0, tangent).real.dtype if tangent.kind == "c" else tangent


def check_image(name: str, array: Any, integers: bool = True) -> None:
    dtype = array.dtype
    known = dtype in TANGENTS or (dtype.name == "bfloat16" and dtype.itemsize == 2)
    if not known or (not integers and dtype.kind in "iu"):
        allowed = "float16, bfloat16, float32, float64, complex64, complex128" + ", uint8, int16, uint16" * integers
        raise TypeError(f"{name} must be one of {allowed} in native byte order, got dtype {dtype}")


def check_like(name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], of: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of {of}, {shape}: got {array.shape}")
    if array.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of {of}, {dtype}: got {array.dtype}")


def layout(options: SamplingOptions, ndim: int) -> str:
    spatial = SPATIAL_NAMES[ndim]
    return f"(N, C, {spatial})" if options.channel_axis == 1 else f"(N, {spatial}, C)"


def check_axes(name: str, array: Any, options: SamplingOptions) -> int:
    """Check the axes of an image, and options given per axis; returns how many are spatial."""
    ndim = int(array.ndim) - 2
    if ndim not in SPATIAL_NAMES:
        expected = ", ".join(layout(options, n) for n in SPATIAL_NAMES)
        raise ValueError(f"{name} must have 3 to 5 axes, {expected}: got {array.ndim} axes, shape {array.shape}")
    check_per_axis(options, ndim)
    return ndim


def check_per_axis(options: SamplingOptions, ndim: int) -> None:
    for option, value in (("mode", options.mode), ("padding_mode", options.padding_mode)):
        if isinstance(value, tuple) and len(value) != ndim:
            raise ValueError(
                f"{option} must be one value or one for each of the {ndim} spatial axes: got {len(value)}, {value}"
            )


def check_grid(grid: Any, ndim: int, of: str) -> None:
    check_float("grid", grid)
    if grid.ndim < 2:
        raise ValueError(f"grid must have 2 axes or more, (N, ..., {ndim}): got {grid.ndim} axes, shape {grid.shape}")
    if grid.shape[-1] != ndim:
        raise ValueError(
            f"grid has last axis {grid.shape[-1]}, but {of} has {ndim} spatial axes: "
            f"expected grid of shape (N, ..., {ndim}), got {grid.shape}"
        )


def batch_of(array: Any, grid: Any) -> int:
    """The batch size of an image or values together with a grid, of which one may be shared."""
    return int(grid.shape[0] if array.shape[0] == 1 else array.shape[0])


def check_batch(name: str, array: Any, grid: Any, other: str = "grid") -> int:
    """Check that batch sizes agree or one of them is 1; returns the larger."""
    if array.shape[0] != grid.shape[0] and array.shape[0] != 1 and grid.shape[0] != 1:
        raise ValueError(
            f"batch sizes of {name} and {other} must agree or one of them be 1: "
            f"got {array.shape[0]} and {grid.shape[0]}, shapes {array.shape} and {grid.shape}"
        )
    return batch_of(array, grid)


def spatial_of(shape: tuple[int, ...], options: SamplingOptions) -> tuple[int, ...]:
    return shape[2:] if options.channel_axis == 1 else shape[1:-1]


def check_sampling(input: Any, grid: Any, options: SamplingOptions) -> None:
    """Check what every direction of the sampler is given: an input and a grid that fit."""
    check_image("input", input)
    ndim = check_axes("input", input, options)
    check_grid(grid, ndim, f"input {layout(options, ndim)}")
    check_batch("input", input, grid)
    if options.antialias is not None and grid.ndim < ndim + 2:
        raise ValueError(
            "antialias needs the neighbours of a sample: expected grid of shape "
            f"(N, ..., {SPATIAL_NAMES[ndim]}, {ndim}), got a list of points, {grid.shape}"
        )
    if 0 in spatial_of(input.shape, options) and grid.size:
        raise ValueError(
            f"input has an empty spatial axis, and grid asks for samples of it: expected {layout(options, ndim)} "
            f"with spatial axes of 1 or more, got {input.shape} with grid {grid.shape}"
        )
    if options.has_fill:
        check_fill("fill_value", options.fill_value, channels_of(input.shape, options), input.dtype)


def check_warping(input: Any, theta: Any, size: Any, options: SamplingOptions, projective: bool) -> tuple[int, ...]:
    """Check an input, the matrices that warp it and the size of the output; returns its spatial size."""
    check_image("input", input)
    ndim = check_axes("input", input, options)
    if projective and ndim != 2:
        raise ValueError(f"input must have 2 spatial axes, {layout(options, 2)}: got {ndim}, shape {input.shape}")
    check_float("theta", theta)
    matrix = (ndim + projective, ndim + 1)
    if theta.ndim < 3 or theta.shape[-2:] != matrix:
        raise ValueError(
            f"theta must have shape (N, ..., {matrix[0]}, {matrix[1]}) for input {layout(options, ndim)}: "
            f"got {theta.shape} with input {input.shape}"
        )
    spatial = output_size(size, ndim, check_batch("input", input, theta, "theta"))
    if 0 in spatial_of(input.shape, options) and theta.size and 0 not in spatial:
        raise ValueError(
            f"input has an empty spatial axis, and an output of size {spatial} samples it: expected "
            f"{layout(options, ndim)} with spatial axes of 1 or more, got {input.shape}"
        )
    if options.has_fill:
        check_fill("fill_value", options.fill_value, channels_of(input.shape, options), input.dtype)
    return spatial


def channels_of(shape: tuple[int, ...], options: SamplingOptions) -> int:
    return shape[1 if options.channel_axis == 1 else -1]


def shape_of(value: Any) -> tuple[int, ...]:
    """Of an array on any device, a number or a sequence."""
    return value.shape if hasattr(value, "shape") else np.shape(value)


def check_fill(name: str, fill: Any, channels: int, dtype: np.dtype[Any]) -> None:
    shape = shape_of(fill)
    if shape not in ((), (channels,)):
        raise ValueError(f"{name} must be a number or one for each of the {channels} channels, got shape {shape}")
    is_complex = fill.dtype.kind == "c" if hasattr(fill, "dtype") else np.iscomplexobj(fill)
    if is_complex and dtype.kind != "c":
        raise TypeError(f"{name} must be real for an input of dtype {dtype}, got {fill!r}")


def sample_shape(input: Any, grid: Any, options: SamplingOptions) -> tuple[int, ...]:
    """Shape of the samples of `input` at `grid`."""
    return image_shape(batch_of(input, grid), channels_of(input.shape, options), grid.shape[1:-1], options)


def projected_shape(input: Any, coordinates: Any, options: SamplingOptions) -> tuple[int, ...]:
    """Shape of samples that are reduced along the depth of their lattice."""
    depth = len(coordinates.shape) - 4  # the axis
    size = (*coordinates.shape[1:depth], *coordinates.shape[depth + 1 : -1])
    return image_shape(batch_of(input, coordinates), channels_of(input.shape, options), size, options)


def image_shape(batch: int, channels: int, size: tuple[int, ...], options: SamplingOptions) -> tuple[int, ...]:
    """Shape of an image, or of samples, in the layout of the options."""
    return (batch, channels, *size) if options.channel_axis == 1 else (batch, *size, channels)


def check_splatting(values: Any, grid: Any, size: Any, options: SamplingOptions) -> tuple[int, ...]:
    """Check values, the grid that says where they go and the size they go to; returns the image's shape."""
    check_image("values", values, integers=False)
    spatial = check_target(grid, size, options)
    if values.ndim != grid.ndim or spatial_of(values.shape, options) != grid.shape[1:-1]:
        expected = "(N, C, *shape)" if options.channel_axis == 1 else "(N, *shape, C)"
        raise ValueError(
            f"values must have shape {expected} for a grid (N, *shape, {len(spatial)}): "
            f"got {values.shape} with grid {grid.shape}"
        )
    batch = check_batch("values", values, grid)
    return image_shape(batch, channels_of(values.shape, options), spatial, options)


def check_target(grid: Any, size: Any, options: SamplingOptions) -> tuple[int, ...]:
    """Check a grid and the size of the image that it points into; returns the spatial size."""
    check_float("grid", grid)
    if grid.ndim < 2 or grid.shape[-1] not in SPATIAL_NAMES:
        raise ValueError(f"grid must have shape (N, ..., ndim) with ndim 1 to 3: got {grid.shape}")
    ndim = int(grid.shape[-1])
    check_per_axis(options, ndim)
    spatial = output_size(size, ndim)
    if 0 in spatial and grid.size:
        raise ValueError(f"size must be 1 or more along every axis for a grid that points into it: got {spatial}")
    return spatial


def check_parametric(options: SamplingOptions, ndim: int) -> None:
    """Check that there is a kernel parameter to have a gradient of."""
    if all(mode.parameter_shape is None for mode in options.modes(ndim)):
        raise ValueError(f"wrt names 'kernel', but mode has no parameter: got {options.mode}")


def check_wrt(wrt: Any, allowed: tuple[str, ...]) -> tuple[bool, ...]:
    """For each of `allowed`, whether its gradient is asked for."""
    try:
        names = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    except TypeError:
        raise TypeError(f"wrt must be a sequence of some of {allowed}, got {wrt!r}") from None
    try:
        return among(names, allowed)
    except TypeError:  # a list cannot be looked up
        return among.__wrapped__(names, allowed)


@lru_cache(maxsize=64)
def among(names: tuple[Any, ...], allowed: tuple[str, ...]) -> tuple[bool, ...]:
    for name in names:
        if name not in allowed:
            raise ValueError(f"unknown entry of wrt: expected some of {allowed}, got {name!r}")
    return tuple(name in names for name in allowed)


class Interface:
    """What NumPy makes an array from, at the addresses of one that lies on a device."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {
            "data": (array.data.ptr, False),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"<{'c' if array.dtype.kind == 'c' else 'u'}{array.itemsize}",
            "version": 3,
        }


def addresses(array: Any) -> np.ndarray[Any, Any]:
    """The array, or one of NumPy's at the same addresses, whose elements must not be looked at."""
    return array if isinstance(array, np.ndarray) else np.asarray(Interface(array))


def overlaps_itself(array: np.ndarray[Any, Any]) -> bool:
    """Whether elements of an array may lie on each other; never so for slices and transposes."""
    if array.flags.c_contiguous:
        return False
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
    memory = addresses(out)
    if not memory.flags.writeable:
        raise ValueError(f"{name} must be writeable: got a read-only array")
    if not memory.flags.aligned or any(s % out.itemsize for s in out.strides):
        raise ValueError(f"{name} must be aligned to its itemsize, {out.itemsize}: got strides {out.strides}")
    if overlaps_itself(memory):
        raise ValueError(f"{name} must not overlap itself: got shape {out.shape} with strides {out.strides}")
    if any(array is not None and overlap(memory, addresses(array)) for array in read):
        raise ValueError(f"{name} must not overlap an array that is read or another that is written")


def check_outs(out: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The arrays of a tuple `out`, by name; each may be None."""
    if out is None:
        return dict.fromkeys(names)
    if not isinstance(out, tuple) or len(out) != len(names):
        raise TypeError(f"out must be a tuple ({', '.join(names)}) of arrays or None, got {type(out).__name__}")
    return dict(zip(names, out, strict=True))


def output_size(size: Any, ndim: int, batch: int | None = None, name: str = "size") -> tuple[int, ...]:
    """The spatial size of an output, given as such or as the full (N, C, *spatial)."""
    check_host(name, size)
    try:
        given = tuple(size)
        lengths = tuple(map(int, given))
        integral = lengths == given
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a tuple of integers, got {size!r}") from None
    if not integral:
        raise TypeError(f"{name} must be a tuple of integers, got {size!r}")
    if len(lengths) not in (ndim, ndim + 2):
        raise ValueError(
            f"{name} must have {ndim} entries (spatial) or {ndim + 2} (N, C, spatial) "
            f"for a transform in {ndim} dimensions: got {lengths}"
        )
    if min(lengths) < 0:
        raise ValueError(f"{name} must not be negative: got {lengths}")
    if len(lengths) == ndim + 2 and batch is not None and lengths[0] != batch:
        raise ValueError(f"{name} (N, C, spatial) must have the batch size, {batch}: got {lengths}")
    return lengths[-ndim:]


def spatial_size(size: Any, name: str = "size") -> tuple[int, ...]:
    """A spatial size that says itself how many dimensions there are."""
    try:
        ndim = len(size)
    except TypeError:
        raise TypeError(f"{name} must be a tuple of integers, got {size!r}") from None
    if ndim not in SPATIAL_NAMES:
        raise ValueError(f"{name} must have 1 to 3 entries (spatial): got {size!r}")
    return output_size(size, ndim, name=name)


def check_points(name: str, points: Any, dimensions: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A copy of points (..., ndim) in float64, ndim being one of `dimensions`."""
    check_host_numbers(name, points)
    copy = np.array(points, np.float64)
    if copy.ndim < 2 or copy.shape[-1] not in dimensions:
        expected = " or ".join(map(str, dimensions))
        raise ValueError(f"{name} must have last axis {expected} and one or more before it: got {copy.shape}")
    if not np.isfinite(copy).all():
        raise ValueError(f"{name} must be finite: got {copy[~np.isfinite(copy).all(axis=-1)][0]}")
    return copy


def check_distinct(name: str, points: np.ndarray[Any, Any]) -> None:
    """Check that no two points (P, ndim) are the same."""
    order = np.lexsort(points.T)
    same = np.flatnonzero((points[order[1:]] == points[order[:-1]]).all(axis=-1))
    if len(same):
        i, j = sorted(order[same[0] : same[0] + 2])
        raise ValueError(f"{name} must not coincide: {name} {i} and {j} are both at {points[i]}")


def check_spanning(name: str, points: np.ndarray[Any, Any]) -> None:
    """Check that points (P, ndim) do not all lie on one line, or plane in 3-D."""
    count, ndim = points.shape
    if count <= ndim or np.linalg.matrix_rank(points - points.mean(axis=0)) < ndim:
        flat = "line" if ndim == 2 else "plane"
        raise ValueError(f"{name} must not all lie on one {flat}: got {name} 0 to {count - 1} on one")


def check_affine(theta: Any) -> int:
    """Check theta (N, *K, ndim, ndim + 1); returns ndim."""
    check_float("theta", theta)
    if theta.ndim < 3 or theta.shape[-2:] not in ((1, 2), (2, 3), (3, 4)):
        raise ValueError(f"theta must have shape (N, ..., ndim, ndim + 1) with ndim 1 to 3: got {theta.shape}")
    return int(theta.shape[-2])


def check_matrix(name: str, array: Any) -> int:
    """Check matrices (..., ndim, ndim + 1), or projective ones (..., 3, 3); returns ndim."""
    check_float(name, array)
    if array.ndim < 2 or array.shape[-2:] not in ((1, 2), (2, 3), (3, 4), (3, 3)):
        raise ValueError(
            f"{name} must have shape (..., ndim, ndim + 1) with ndim 1 to 3, or (..., 3, 3): got {array.shape}"
        )
    return int(array.shape[-1]) - 1


def check_square_or_affine(name: str, array: Any) -> None:
    """Check matrices (..., n, n) or (..., n, n + 1)."""
    check_float(name, array)
    if array.ndim < 2 or array.shape[-1] - array.shape[-2] not in (0, 1) or array.shape[-2] == 0:
        raise ValueError(f"{name} must have shape (..., n, n) or (..., n, n + 1): got {array.shape}")


def check_length(name: str, array: Any, lengths: Sequence[int]) -> None:
    """Check vectors (..., n), n among the lengths."""
    if array.ndim < 1 or array.shape[-1] not in lengths:
        expected = " or ".join(f"(..., {length})" for length in lengths)
        raise ValueError(f"{name} must have shape {expected}: got {array.shape}")


def check_leading(arrays: dict[str, Any], core: int) -> None:
    """Check that the axes before the last `core` broadcast together."""
    try:
        np.broadcast_shapes(*[array.shape[: array.ndim - core] for array in arrays.values()])
    except ValueError:
        shapes = " and ".join(str(array.shape) for array in arrays.values())
        raise ValueError(f"leading axes of {' and '.join(arrays)} must broadcast: got shapes {shapes}") from None


def check_entries(name: str, array: Any, wrong: Any, what: str) -> None:
    """Raise for the first entry of `array`, (*leading, ...), that `wrong`, (*leading), marks."""
    if wrong.any():  # an error that depends on values: waits for the device
        index = tuple(map(int, np.unravel_index(int(wrong.argmax()), wrong.shape)))
        raise ValueError(f"{name}{list(index) if index else ''} {what}: got {array[index].tolist()}")


def check_basis(theta: Any, basis: Any, homogeneous: bool) -> tuple[int, ...]:
    """Check theta (N, *K, rows, q) and a basis (N, q, *points); returns the shape of their grid."""
    check_float("theta", theta)
    extra = " + 1" if homogeneous else ""
    if theta.ndim < 3 or theta.shape[-2] - homogeneous not in SPATIAL_NAMES:
        raise ValueError(f"theta must have shape (N, ..., ndim{extra}, q) with ndim 1 to 3: got {theta.shape}")
    q = theta.shape[-1]
    if basis.ndim < 2 or basis.shape[1] != q:
        raise ValueError(f"basis must have shape (N, {q}, ...) for theta (N, ..., {q}): got {basis.shape}")
    check_like("basis", basis, basis.shape, theta.dtype, "theta")
    batch = check_batch("theta", theta, basis, "basis")
    return (batch, *theta.shape[1:-2], *basis.shape[2:], theta.shape[-2] - homogeneous)


def check_parameters(name: str, array: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Check parameters (N, *K, *shape); returns (N, *K)."""
    check_float(name, array)
    leading = array.ndim - len(shape)
    if leading < 1 or array.shape[leading:] != shape:
        expected = ", ".join(map(str, ("N", "...", *shape)))
        raise ValueError(f"{name} must have shape ({expected}): got {array.shape}")
    return tuple(array.shape[:leading])


def check_spline(input: Any, channel_axis: Any) -> tuple[int, np.dtype[Any]]:
    """Check an image of 1 to 3 spatial axes; returns how many, and the dtype of its coefficients."""
    one_of("channel_axis", channel_axis, CHANNEL_AXES)
    check_image("input", input)
    if not 3 <= input.ndim <= 5:
        form = "(N, C, *spatial)" if channel_axis == 1 else "(N, *spatial, C)"
        raise ValueError(f"input must have 3 to 5 axes, {form}: got {input.ndim} axes, shape {input.shape}")
    return input.ndim - 2, sum_dtype(input.dtype)
