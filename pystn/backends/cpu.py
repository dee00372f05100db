"""The CPU backend: NumPy arrays in, memory allocated, kernels chosen and run.

Arguments have been checked. Arrays are read where they lie, whatever their strides; only one that
is not aligned to its own itemsize is copied first.
"""

from __future__ import annotations

import os

import numpy as np

from pystn import threads
from pystn.interpolation import Nearest
from pystn.options import SamplingOptions
from pystn.typing import Array
from pystn.validation import sample_shape

try:
    from pystn.backends import _cpu
except ImportError as error:
    raise ImportError(
        "pystn's compiled module is not beside its sources: run `pip install -e .` in the source tree, "
        "or leave it to use a pystn that is installed elsewhere"
    ) from error

__all__ = [
    "affine_grid",
    "affine_grid_vjp",
    "current_level",
    "grid_sample",
    "grid_sample_jvp",
    "grid_sample_vjp",
    "levels",
    "max_threads",
    "openmp_version",
]

# What was built and what is in use, for threads and for show_config.
current_level, levels = _cpu.current_level, _cpu.levels
max_threads, openmp_version = _cpu.max_threads, _cpu.openmp_version

LEVEL_VARIABLE = "PYSTN_CPU_LEVEL"
if os.environ.get(LEVEL_VARIABLE):
    try:
        _cpu.use_level(os.environ[LEVEL_VARIABLE])
    except ValueError as error:
        raise ImportError(f"{LEVEL_VARIABLE}: {error}") from None


def readable(array: Array) -> Array:
    flags = array.flags
    if flags.aligned and (flags.c_contiguous or not any(s % array.itemsize for s in array.strides)):
        return array
    return array.copy()


def optional(array: Array | None) -> Array | None:
    return None if array is None else readable(array)


def grid_sample(input: Array, grid: Array, options: SamplingOptions, out: Array | None) -> Array:
    output = np.empty(sample_shape(input, grid, options), input.dtype) if out is None else out
    _cpu.grid_sample(readable(input), readable(grid), output, options, threads.get_num_threads())
    return output


def grid_sample_vjp(
    grad_output: Array,
    input: Array,
    grid: Array,
    options: SamplingOptions,
    wanted: tuple[bool, ...],
    out: tuple[Array | None, ...],
) -> tuple[Array | None, Array | None]:
    gradients = [
        (np.empty(primal.shape, primal.dtype) if given is None else given) if want else None
        for primal, given, want in zip((input, grid), out, wanted, strict=True)
    ]
    grad_input, grad_grid = gradients
    written = grad_grid
    if isinstance(options.mode, Nearest) and grad_grid is not None:
        grad_grid.fill(0)  # piecewise constant in the coordinates
        written = None
    if grad_input is not None or written is not None:
        _cpu.grid_sample_vjp(
            readable(grad_output),
            readable(input),
            readable(grid),
            grad_input,
            written,
            options,
            threads.get_num_threads(),
        )
    return grad_input, grad_grid


def grid_sample_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
    options: SamplingOptions,
    out: Array | None,
) -> Array:
    output = np.empty(sample_shape(input, grid, options), input.dtype) if out is None else out
    if isinstance(options.mode, Nearest):
        d_grid = None
    if d_input is None and d_grid is None:
        output.fill(0)
    else:
        _cpu.grid_sample_jvp(
            readable(input),
            readable(grid),
            optional(d_input),
            optional(d_grid),
            output,
            options,
            threads.get_num_threads(),
        )
    return output


def stacked(array: Array, trailing: int) -> Array:
    """(N, *K, trailing...) as (M, trailing...), a view where the strides allow it."""
    return array.reshape((-1 if array.size else 0, *array.shape[array.ndim - trailing :]))


def affine_grid(theta: Array, size: tuple[int, ...], align_corners: bool, out: Array | None) -> Array:
    ndim = len(size)
    leading = theta.shape[:-2]
    grid = np.empty((*leading, *size, ndim), theta.dtype) if out is None else out
    if grid.size == 0:
        return grid
    matrices = np.ascontiguousarray(theta).reshape(-1, ndim, ndim + 1)
    flat = stacked(grid, ndim + 1)
    in_place = np.may_share_memory(flat, grid)
    _cpu.affine_grid(matrices, flat, align_corners, threads.get_num_threads())
    if not in_place:  # leading axes of `out` that are no single stride
        grid[...] = flat.reshape(grid.shape)
    return grid


def affine_grid_vjp(
    grad_grid: Array, theta: Array, size: tuple[int, ...], align_corners: bool, out: Array | None
) -> Array:
    grad_theta = np.empty(theta.shape, theta.dtype) if out is None else out
    if grad_grid.size == 0:
        grad_theta.fill(0)
        return grad_theta
    flat = readable(stacked(grad_grid, len(size) + 1))
    chunks = _cpu.affine_grid_row_chunks(flat)
    partial = np.empty((flat.shape[0], chunks, *theta.shape[-2:]), np.float64)
    _cpu.affine_grid_vjp(flat, partial, align_corners, threads.get_num_threads())
    grad_theta[...] = partial.sum(axis=1).reshape(theta.shape)
    return grad_theta
