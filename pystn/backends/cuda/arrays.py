"""How kernels are told of arrays: addresses, strides in elements, codes of types."""

from __future__ import annotations

import ctypes
from typing import Any

import cupy
import numpy as np

__all__ = ["DeviceArray", "argument", "element_of", "extent_of", "integer_for", "parts_of", "readable", "stride_of"]

DeviceArray = Any  # a cupy.ndarray, of which type checkers know nothing

# The codes of `Type` in src/core/elements.hpp; a complex number is two of its parts.
ELEMENTS = {"f": 0, "F": 0, "d": 1, "D": 1, "e": 2, "B": 4, "h": 5, "H": 6}
BFLOAT16 = 3  # the one type that is not NumPy's
INT_MAX = 2**31 - 2**16  # what is computed from indices may go somewhat beyond them


def element_of(dtype: np.dtype[Any]) -> int:
    return ELEMENTS.get(dtype.char, BFLOAT16)


def parts_of(dtype: np.dtype[Any]) -> int:
    return 2 if dtype.kind == "c" else 1


def stride_of(array: DeviceArray, axis: int, parts: int = 1) -> int:
    """In elements, or parts of them; 0 on axes of length 1, whatever they say."""
    return 0 if array.shape[axis] == 1 else array.strides[axis] // array.itemsize * parts


def extent_of(array: DeviceArray) -> int:
    """From the first element to the furthest, in parts of elements."""
    return sum(abs(stride_of(array, axis, 2)) * (length - 1) for axis, length in enumerate(array.shape))


def integer_for(*counts: int) -> str:
    """The type that indices up to `counts` are computed in."""
    return "int" if max(counts) <= INT_MAX else "long long"


def readable(array: DeviceArray) -> DeviceArray:
    """The array, or a copy if its elements are not at multiples of their size: none that is written is like that."""
    if array.data.ptr % array.itemsize == 0 and all(stride % array.itemsize == 0 for stride in array.strides):
        return array
    # By bytes: to read a number where it is not aligned is an error on a device, and ends the process' use of it.
    octets = cupy.ndarray((*array.shape, array.itemsize), np.uint8, array.data, (*array.strides, 1))
    return octets.copy().view(array.dtype)[..., 0]


def argument(job: ctypes.Structure) -> DeviceArray:
    """A struct as CuPy passes it by value: a NumPy array of one element."""
    return np.frombuffer(bytes(job), np.dtype((np.void, ctypes.sizeof(job))))
