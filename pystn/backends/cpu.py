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
from pystn.typing import Array

try:
    from pystn.backends import _cpu
except ImportError as error:
    raise ImportError(
        "pystn's compiled module is not beside its sources: run `pip install -e .` in the source tree, "
        "or leave it to use a pystn that is installed elsewhere"
    ) from error

__all__ = ["backend", "current_level", "levels", "max_threads", "memory_limit", "openmp_version"]

# What was built and what is in use, for threads, memory and show_config.
current_level, levels = _cpu.current_level, _cpu.levels
max_threads, openmp_version = _cpu.max_threads, _cpu.openmp_version
memory_limit = _cpu.memory_limit

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
    remembered = 4

    def run(self, kernel: Callable[..., Any], *arguments: Any) -> Any:
        return kernel(*arguments, threads.get_num_threads())

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return _cpu.empty(shape, dtype)

    def remember_grid(self, repeats: list[Callable[..., Any]], call: Any, *arguments: Any) -> None:
        if call is not None and (repeat := _cpu.RepeatGrid.of(call, *arguments)) is not None:
            self.put_first(repeats, repeat)

    def delivered(self, sums: Array, dtype: np.dtype[Any], out: Array | None) -> Array:
        if sums.dtype != dtype:
            result = _cpu.empty_like(sums, dtype) if out is None else out
            if self.run(_cpu.narrow, sums, result):
                return result
        return super().delivered(sums, dtype, out)

    def groups(self, samples: int) -> int:
        return max(1, min(64, samples // 8192))


backend = Cpu()
