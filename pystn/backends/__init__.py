"""Which backend works on which arrays.

The compiled module is loaded at the first call, not by ``import pystn``: a process that imports
PyTorch too then has it first, and both share one OpenMP runtime.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import Any, cast

import numpy as np

from pystn.backends.operations import Operations

__all__ = ["Operations", "backend_of", "check_devices"]

HINTS = {
    "torch": "the functions of pystn.torch take tensors",
    "cupyx": "pass array.toarray()",
    "jax": "the functions of pystn.jax take JAX's arrays",
    "jaxlib": "the functions of pystn.jax take JAX's arrays",
    "autograd": "the functions of pystn.autograd take its boxes",
}


def backend_of(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Operations:
    """The backend for these arrays, given by name; optional ones may be None."""
    for array in required.values():
        if type(array) is not np.ndarray:
            return backend_of_kinds(required, optional or {})
    for array in (optional or {}).values():
        if array is not None and type(array) is not np.ndarray:
            return backend_of_kinds(required, optional or {})
    return loaded("cpu")


@cache
def loaded(name: str) -> Operations:
    """The backend of that name, of which calls ask often: import statements take longer."""
    return cast(Operations, import_module(f"pystn.backends.{name}").backend)


def backend_of_kinds(required: dict[str, Any], optional: dict[str, Any]) -> Operations:
    """The same where not all of them are plain NumPy arrays: CuPy's, or a kind that no backend takes."""
    arrays = {**required, **optional}
    cupy = sys.modules.get("cupy")  # who has an array of its has imported it
    kind = getattr(cupy, "ndarray", ())  # none of what is left of a CuPy that was removed
    on_device = [name for name, array in arrays.items() if isinstance(array, kind)]
    for name, array in arrays.items():
        if name in on_device or (array is None and name not in required):
            continue
        if on_device and isinstance(array, np.ndarray):
            raise TypeError(
                f"{on_device[0]} is a cupy.ndarray and {name} a numpy.ndarray: expected all arrays to be of one kind, "
                f"pass cupy.asarray({name})"
            )
        check_kind(name, array)
    if not on_device:
        return loaded("cpu")
    check_devices({name: arrays[name] for name in on_device}, cast(Any, cupy).cuda.runtime.getDevice())
    return loaded("cuda")


def check_devices(arrays: dict[str, Any], current: int) -> None:
    """Raise unless all are on the current device: kernels that run there may not reach others' memory."""
    for name, array in arrays.items():
        index = array.data.device_id
        if index != current:
            raise ValueError(
                f"{name} is on device {index}: expected all arrays to be on the current device, which is {current}; "
                f"call under `with cupy.cuda.Device({index})`"
            )


def check_kind(name: str, array: Any) -> None:
    """Raise unless an array is one that a backend works on."""
    if not isinstance(array, np.ndarray):
        kind = type(array)
        hint = HINTS.get(kind.__module__.partition(".")[0], "pass numpy.asarray(...)")
        raise TypeError(f"{name} must be a numpy.ndarray, got {kind.__module__}.{kind.__qualname__}: {hint}")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(value)")
