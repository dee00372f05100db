"""The CPU backend: NumPy arrays, and kernels compiled for several instruction sets.

An array that is not aligned to its own itemsize is copied first, by the compiled module.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from pystn import threads
from pystn.backends.operations import Operations
from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.options import SamplingOptions
from pystn.typing import Array

try:
    from pystn.backends import _cpu
except ImportError as error:
    raise ImportError(
        "pystn's compiled module is not beside its sources: run `pip install -e .` in the source tree, "
        "or leave it to use a pystn that is installed elsewhere"
    ) from error

__all__ = ["backend", "current_level", "levels", "max_threads", "openmp_version"]

# What was built and what is in use, for threads and for show_config.
current_level, levels = _cpu.current_level, _cpu.levels
max_threads, openmp_version = _cpu.max_threads, _cpu.openmp_version

REPEATS = 4  # calls that are remembered per set of options

LEVEL_VARIABLE = "PYSTN_CPU_LEVEL"
if os.environ.get(LEVEL_VARIABLE):
    try:
        _cpu.use_level(os.environ[LEVEL_VARIABLE])
    except ValueError as error:
        raise ImportError(f"{LEVEL_VARIABLE}: {error}") from None


class Cpu(Operations):
    """The operations on NumPy arrays."""

    xp: ModuleType = np
    kernels = _cpu

    def run(self, kernel: Callable[..., Any], *arguments: Any) -> Any:
        return kernel(*arguments, threads.get_num_threads())

    def delivered(self, sums: Array, dtype: np.dtype[Any], out: Array | None) -> Array:
        if sums.dtype != dtype:
            result = np.empty_like(sums, dtype) if out is None else out
            if self.run(_cpu.narrow, sums, result):
                return result
        return super().delivered(sums, dtype, out)

    def groups(self, samples: int) -> int:
        return max(1, min(64, samples // 8192))

    def remember_sample(
        self, options: SamplingOptions, call: Any, input: Array, grid: Coordinates, output: Array
    ) -> None:
        remember(options.repeats, _cpu.Repeat, call, input, grid, output)

    def remember_vjp(
        self,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        call: Any,
        input: Array,
        grid: Coordinates,
        grad_output: Array,
        grad_input: Array | None,
        grad_source: Array | None,
    ) -> None:
        repeats = options.repeated_gradients.setdefault((*wanted, False, False), [])
        remember(repeats, _cpu.RepeatVjp, call, input, grid, grad_output, grad_input, grad_source)


def remember(
    repeats: list[Callable[..., Any]], kind: Any, call: Any, input: Array, grid: Coordinates, *arrays: Array | None
) -> None:
    """Put a brief call first among those that are kept, if it is of a kind that can be repeated."""
    if isinstance(grid, MatrixCoordinates):
        repeat = None if grid.projective else kind.of(call, input, grid.theta, grid.size, *arrays)
    else:
        repeat = kind.of(call, input, grid, None, *arrays)
    if repeat is not None:
        repeats[:] = [repeat, *repeats[: REPEATS - 1]]


backend = Cpu()
