"""A stand-in for cupy.ndarray: a NumPy array in a box that opens where CuPy's would.

It is no subclass of numpy.ndarray, since a CuPy array is none: what asks with isinstance, converts or takes a
pointer must meet the same answers as on a device.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from . import memory

# Attributes of numpy.ndarray that CuPy's has not.
ABSENT = {"ctypes", "getfield", "newbyteorder", "resize", "setfield", "setflags", "to_device"}

_forbidden = False
_device = 0  # the current one


class SynchronisationError(AssertionError):
    """The host would have waited for the device."""


@contextmanager
def no_synchronisation():
    """Within it nothing may wait for the device: no bool, float, int, item, tolist, get, print of an array."""
    global _forbidden
    before, _forbidden = _forbidden, True
    try:
        yield
    finally:
        _forbidden = before


def synchronise(what):
    if _forbidden:
        raise SynchronisationError(f"{what} waits for the device")


class Device:
    """There are as many as one likes, which tells apart what is made on each."""

    def __init__(self, id=None):
        self.id = _device if id is None else int(id)

    def __enter__(self):
        global _device
        self.before, _device = _device, self.id
        return self

    def __exit__(self, *exception):
        global _device
        _device = self.before

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return hash(self.id)

    def use(self):
        return self

    def synchronize(self):
        synchronise("Device.synchronize")


class Memory:
    """A number at an address, as NumPy finds it."""

    def __init__(self, pointer, dtype):
        self.owner = pointer.owner
        data = (pointer.ptr, False)
        self.__array_interface__ = {"shape": (), "typestr": np.dtype(dtype).str, "data": data, "version": 3}


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        self._device = _device
        if memptr is None:
            self._host = memory.allocate(shape, dtype, order)
        else:
            self._host = np.lib.stride_tricks.as_strided(np.asarray(Memory(memptr, dtype)), shape, strides)

    # ---- What is the same as NumPy's

    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    # Those of an array without elements are 0, as CuPy has them.
    strides = property(lambda self: self._host.strides if self.size else (0,) * self.ndim)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    flags = property(lambda self: self._host.flags)

    @property
    def shape(self):
        return self._host.shape

    @shape.setter
    def shape(self, shape):
        self._host.shape = shape

    def __len__(self):
        return len(self._host)

    # ---- The device

    @property
    def data(self):
        pointer = self._host.ctypes.data if self.size else 0
        return SimpleNamespace(ptr=pointer, device=self.device, device_id=self._device, owner=self._host)

    device = property(lambda self: Device(self._device))

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "version": 3,
        }

    def set(self, values, stream=None):
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError("set takes an array of the same shape and dtype")
        self._host[...] = values

    # ---- Ways out, all of which wait

    def get(self, stream=None, order="C", out=None, blocking=True):
        synchronise("get")
        if out is None:
            return np.array(self._host, order=order)
        out[...] = self._host
        return out

    def item(self, *index):
        synchronise("item")
        return self._host.item(*index)

    def tolist(self):
        synchronise("tolist")
        return self._host.tolist()

    def __bool__(self):
        synchronise("bool")
        return bool(self._host)

    def __int__(self):
        synchronise("int")
        return int(self._host)

    def __float__(self):
        synchronise("float")
        return float(self._host)

    def __complex__(self):
        synchronise("complex")
        return complex(self._host)

    def __repr__(self):
        synchronise("repr")
        return repr(self._host)

    __str__ = __repr__

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    # ---- Elements

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        opened = opened_index(key)
        found = host_of(self)[opened]
        if isinstance(found, np.generic):  # an element is a view as well
            found = self._host[(*opened, ...)]
        return boxed(found)

    def __setitem__(self, key, value):
        host_of(self)[opened_index(key)] = opened_value(value)

    # ---- NumPy's functions and methods

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        given, options = [operand(value) for value in inputs], opened(options)
        if out is not None:
            if not all(isinstance(array, ndarray) or array is None for array in out):
                raise TypeError("the output is no array of the device")
            options["out"] = tuple(None if array is None else array._host for array in out)
        result = getattr(ufunc, method)(*given, **options)
        if out is not None and len(out) == 1:
            return out[0]
        return boxed(result)

    def __array_function__(self, function, types, args, options):
        return called(function, args, options)

    def __getattr__(self, name):
        if name.startswith("__") or name in ABSENT:
            raise AttributeError(f"cupy.ndarray has no {name}")
        attribute = getattr(self._host, name)
        if not callable(attribute):
            return boxed(attribute)
        return lambda *args, **options: called(attribute, args, options)

    def astype(self, dtype, order="K", casting="unsafe", copy=True):
        if not copy and self.dtype == dtype:
            return self
        return owned(self._host.astype(dtype, order=order, casting=casting))

    def copy(self, order="C"):
        return owned(self._host.copy(order=order))


ndarray.__module__ = "cupy"


def box(host):
    array = ndarray.__new__(ndarray)
    array._host, array._device = host, _device
    return array


def owned(values):
    """A NumPy array copied into the memory of the stand-in, in its order of axes."""
    fortran = values.flags.f_contiguous and not values.flags.c_contiguous
    array = ndarray(values.shape, values.dtype, order="F" if fortran else "C")
    array._host[...] = values
    return array


def laid_out(values):
    """A NumPy array on the device with the strides that it has, as a test of layouts wants; the gaps hold poison."""
    low, high = np.lib.array_utils.byte_bounds(values) if values.size else (0, 0)
    extent = memory.allocate((high - low,), np.uint8)
    offset = values.ctypes.data - low if values.size else 0
    host = np.ndarray(values.shape, values.dtype, extent.data, offset, values.strides if values.size else None)
    host[...] = values
    return box(host)


def boxed(result):
    """What a NumPy function returned, with arrays in boxes: elements too, as CuPy has no scalars. What it has made is
    brought into the memory of the stand-in, which kernels may be given."""
    if isinstance(result, (np.ndarray, np.generic)):
        array = np.asarray(result)
        return box(array) if memory.holds(array) else laid_out(array)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return type(result)(*map(boxed, result))
    if isinstance(result, (tuple, list)):
        return type(result)(map(boxed, result))
    return result


def opened(value):
    """Arguments of a function: boxes opened, and arrays of the host refused."""
    if isinstance(value, ndarray):
        return host_of(value)
    if isinstance(value, np.ndarray):
        return opened_value(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(opened, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(opened, value))
    if isinstance(value, dict):
        return {key: opened(entry) for key, entry in value.items()}
    return value


def opened_value(value):
    if isinstance(value, ndarray):
        return host_of(value)
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def operand(value):
    """An argument of a ufunc: arrays of the device and scalars."""
    if isinstance(value, (list, tuple)):
        raise TypeError(f"Unsupported type {type(value)}")
    return opened_value(value)


def host_of(array):
    """What is in the box, if it is on the current device: between two there is no arithmetic."""
    if array._device != _device:
        raise ValueError(f"Array device must be same as the current device: array device = {array._device}")
    return array._host


def opened_index(key):
    """An index; lists and arrays of the host are copied to the device."""
    parts = key if isinstance(key, tuple) else (key,)
    if any(isinstance(part, ndarray) and part.dtype == bool and part.ndim for part in parts):
        synchronise("a boolean mask")  # which is counted, to read and to write
    return tuple(host_of(part) if isinstance(part, ndarray) else part for part in parts)


WAITING = {"nonzero", "flatnonzero", "argwhere", "unique", "bincount", "extract", "compress", "repeat"}


def called(function, args, options):
    """A NumPy function or method on arrays of the device."""
    name = function.__name__
    if name in WAITING or (name == "where" and len(args) == 1):
        synchronise(name)  # the result's shape follows from the values
    result = function(*opened(args), **opened(options))
    out = options.get("out")
    if out is not None:
        return out[0] if isinstance(out, tuple) and len(out) == 1 else out
    if isinstance(result, bool) and name in ("array_equal", "allclose"):
        result = np.bool_(result)
    return boxed(result)
