"""Entry points of maps that are affine in each of some triangles.

The structure is PiecewiseJob of src/cuda/piecewise.cuh, field by field.
"""

from __future__ import annotations

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray
from pystn.backends.cuda.parts import POINT_PARTS, WARP, point_parts
from pystn.backends.cuda.source import launch
from pystn.backends.pieces import Pieces
from pystn.typing import Array

__all__ = ["piecewise", "piecewise_vjp"]

C_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}

MAPS_TOGETHER = 8  # as in piecewise.cuh

PIECEWISE_JOB = np.dtype(
    [
        *((name, np.uintp) for name in ("triangle", "corner", "weight", "base", "value", "grid", "partial")),
        ("parts", POINT_PARTS),
        ("values", np.int64),
    ],
    align=True,
)


def names() -> list[str]:
    """The name expression of every kernel of this module."""
    return [f"{kernel}<{real}>" for kernel in ("piecewise", "piecewise_vjp") for real in C_TYPES.values()]


def described(pieces: Pieces, weights: DeviceArray, grid: DeviceArray, values: int, parts: Array) -> Array:
    """The job on weights (3, points) and a grid (M, points, 2), both contiguous, of so many values."""
    job, triangles = np.zeros(1, PIECEWISE_JOB), pieces.on_device(cupy)
    for name, array in zip(("triangle", "corner", "weight", "grid"), (*triangles, weights, grid), strict=True):
        job[name] = array.data.ptr
    job["parts"], job["values"] = parts, values
    return job


def piecewise(values: DeviceArray, pieces: Pieces, base: DeviceArray | None, grid: DeviceArray) -> None:
    """values (M, count, 2), base (points, 2) or None, all contiguous and in the dtype of the grid, which it fills."""
    count, points, _ = grid.shape
    weights = pieces.weights_as(cupy, grid.dtype)
    job = described(pieces, weights, grid, values.shape[1], point_parts(count, points))
    job["value"] = values.data.ptr
    job["base"] = 0 if base is None else base.data.ptr
    launch(f"piecewise<{C_TYPES[grid.dtype]}>", -(-count // MAPS_TOGETHER) * points, job)


def piecewise_vjp(grad_grid: DeviceArray, pieces: Pieces) -> DeviceArray:
    """The gradient (M, count, 2) to the values, in double."""
    count, points, _ = grad_grid.shape
    parts = point_parts(count, points, 2 * pieces.count)
    job = described(pieces, pieces.weights_as(cupy, np.float64), grad_grid, pieces.count, parts)
    partial = cupy.zeros((count, int(parts["count"]), pieces.count, 2), np.float64)
    job["partial"] = partial.data.ptr
    launch(f"piecewise_vjp<{C_TYPES[grad_grid.dtype]}>", WARP * count * int(parts["count"]), job, 128)
    return partial.sum(axis=1)
