"""Which backend works on which arrays.

The compiled module is loaded at the first call, not by ``import pystn``: a process that imports
PyTorch too then has it first, and both share one OpenMP runtime.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["backend_of"]

HINTS = {
    "torch": "pass tensor.detach().cpu().numpy(), which shares its memory",
    "jax": "pass numpy.asarray(array)",
    "jaxlib": "pass numpy.asarray(array)",
    "cupy": "pass cupy.asnumpy(array)",
}


def backend_of(**arrays: Any) -> ModuleType:
    """The backend for these arrays, by name; None stands for an array that was not given."""
    for name, array in arrays.items():
        if type(array) is np.ndarray or array is None:
            continue
        if not isinstance(array, np.ndarray):
            kind = type(array)
            hint = HINTS.get(kind.__module__.partition(".")[0], "pass numpy.asarray(...)")
            raise TypeError(
                f"{name} must be a numpy.ndarray, got {kind.__module__}.{kind.__qualname__}: {hint}"
            )
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(value)")
    return import_module("pystn.backends.cpu")
