"""The entry point of the spline filter."""

from __future__ import annotations

from math import prod

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray, parts_of, readable, stride_of
from pystn.backends.cuda.source import launch

__all__ = ["spline_filter"]

C_TYPES = {"f": "float", "d": "double", "F": "float", "D": "double"}

SCRATCH_BYTES = 64 << 20  # beyond this the lines are filtered one part after the other

# As in splines.cuh.
MOST_LINE_AXES = 6
MOST_FACTORS = (128 + 16) * 7 + 2 * 3 * 128

SPLINE_JOB = np.dtype(
    [
        ("source", np.uintp),
        ("target", np.uintp),
        ("factors", np.uintp),
        ("scratch", np.uintp),
        ("length", np.int64),
        ("source_step", np.int64),
        ("target_step", np.int64),
        ("shape", np.int64, MOST_LINE_AXES),
        ("source_stride", np.int64, MOST_LINE_AXES),
        ("target_stride", np.int64, MOST_LINE_AXES),
        ("first", np.int64),
        ("count", np.int64),
        ("rank", np.int32),
        ("order", np.int32),
        ("boundary", np.int32),
        ("unused", np.int32),
    ],
    align=True,
)


def names() -> list[str]:
    """The name expression of every kernel of this module."""
    filters = [f"spline_filter<{real}, {reach}>" for real in ("float", "double") for reach in (1, 2, 3)]
    return [*filters, "spline_factors<false>", "spline_factors<true>"]


def line_axes(source: DeviceArray, target: DeviceArray, axis: int) -> list[tuple[int, int, int]]:
    """Length, stride in the source and in the target of the axes that the lines are counted along, least first.

    A complex number is two lines side by side.
    """
    parts = parts_of(target.dtype)
    axes = [(parts, 1, 1)] if parts > 1 else []
    for a, length in enumerate(target.shape):
        if a != axis and length > 1:
            axes.append((length, stride_of(source, a, parts), stride_of(target, a, parts)))
    return sorted(axes, key=lambda along: abs(along[2]))


def spline_filter(
    source: DeviceArray, target: DeviceArray, axis: int, order: int, boundary: int, transposed: bool
) -> None:
    """Fills `target`, which may be `source` and has its dtype; neither is empty, and the order is 2 to 7."""
    source, parts = readable(source), parts_of(target.dtype)
    real, length = C_TYPES[target.dtype.char], target.shape[axis]
    axes = line_axes(source, target, axis)
    lines = prod(along[0] for along in axes)
    # A warp's lines lie together in the scratch memory.
    most = max(1, SCRATCH_BYTES // (8 * length))
    part = lines if lines <= most else most - most % 32 or most
    factors, scratch = cupy.empty(MOST_FACTORS, np.float64), cupy.empty(length * part, np.float64)
    job = np.zeros(1, SPLINE_JOB)
    job["source"] = source.data.ptr
    job["target"] = target.data.ptr
    job["factors"] = factors.data.ptr
    job["scratch"] = scratch.data.ptr
    job["length"] = length
    job["source_step"] = stride_of(source, axis, parts)
    job["target_step"] = stride_of(target, axis, parts)
    job["rank"] = len(axes)
    for a, (count, from_stride, to_stride) in enumerate(axes):
        job["shape"][0, a], job["source_stride"][0, a], job["target_stride"][0, a] = count, from_stride, to_stride
    job["order"], job["boundary"] = order, boundary
    launch(f"spline_factors<{'true' if transposed else 'false'}>", 128, job, 128)
    for first in range(0, lines, part):
        count = min(part, lines - first)
        job["first"], job["count"] = first, count
        launch(f"spline_filter<{real}, {order // 2}>", count, job, 64)
