"""Memory of the stand-in's arrays.

An array ends where a page begins that no one may touch, so that a kernel that reads or writes beyond it crashes.
In front of it, down to the beginning of its first page, bytes of 0xff are checked after each launch; as floats they
are NaN, which a kernel that reads there spreads. The page before that no one may touch either. New memory is full of
such bytes too, where no zeros are asked for.
"""

import ctypes
import mmap
import weakref

import numpy as np

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PROT_NONE = 0
PAGE = mmap.PAGESIZE
POISON = 0xFF
WHOLE_PAGE = bytes([POISON]) * PAGE

_live = weakref.WeakSet()


class Memory(mmap.mmap):
    """An anonymous mapping; the array that looks into it keeps it alive."""

    front = None


def allocate(shape, dtype, order="C"):
    """A NumPy array in memory of its own, full of poison."""
    dtype = np.dtype(dtype)
    probe = np.broadcast_to(np.empty((), np.bool_), shape)  # checks the shape
    size = probe.size * dtype.itemsize
    end = PAGE + max(1, -(-size // PAGE)) * PAGE
    region = Memory(-1, end + PAGE)
    octets = np.frombuffer(region, np.uint8)
    octets[PAGE:end] = POISON
    for guard in (0, end):
        if LIBC.mprotect(octets.ctypes.data + guard, PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    region.front = end - size
    _live.add(region)
    return np.ndarray(probe.shape, dtype, buffer=region, offset=region.front, order=order)


def holds(array):
    """Whether a NumPy array is one of these, or looks into one."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array.obj if isinstance(array, memoryview) else array, Memory)


def check(kernel):
    """Raise if a kernel has written in front of an array."""
    for region in list(_live):
        front, whole = region[PAGE : region.front], WHOLE_PAGE[: region.front - PAGE]
        if front != whole:
            region[PAGE : region.front] = whole
            written = len(front.lstrip(WHOLE_PAGE))
            raise RuntimeError(f"{kernel}: wrote {written} bytes in front of an array")
