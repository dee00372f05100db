"""The CUDA backend: CuPy arrays, kernels compiled when first needed and launched on CuPy's current stream."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import cupy

from pystn.backends.cuda import flows, footprints, grids, matrices, piecewise, repeats, sampling, splines
from pystn.backends.operations import Operations

__all__ = ["backend"]


class Cuda(Operations):
    """The operations on CuPy arrays."""

    xp: ModuleType = cupy
    kernels = SimpleNamespace(
        **{
            name: getattr(module, name)
            for module in (sampling, repeats, footprints, grids, flows, piecewise, matrices, splines)
            for name in module.__all__
        }
    )
    remembered = 16

    def run(self, kernel: Callable[..., Any], *arguments: Any) -> Any:
        return kernel(*arguments)

    def groups(self, samples: int) -> int:
        return max(1, min(4096, samples // 64))


backend = Cuda()
