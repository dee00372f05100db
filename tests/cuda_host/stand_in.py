"""The module that stands in for cupy. What is not named here is NumPy's, on arrays of the stand-in."""

import sys
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from time import perf_counter
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from .arrays import Device, called, ndarray, opened, operand, owned, synchronise
from .module import HostModule

__all__ = ["has_device", "install", "installed", "stand_in"]

# Names of numpy that cupy 14 has not, as far as array code may think of them.
ABSENT = {
    *("block", "einsum_path", "emath", "errstate", "frompyfunc", "geomspace", "insert", "longdouble", "ma", "matvec"),
    *("nanpercentile", "nanquantile", "ndenumerate", "nditer", "spacing", "testing", "unstack", "vecdot", "vecmat"),
}


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


def full(shape, fill_value, dtype=None, order="C"):
    value = opened(fill_value)
    array = ndarray(shape, np.asarray(value).dtype if dtype is None else dtype, order=order)
    array._host[...] = value
    return array


def zeros(shape, dtype=float, order="C"):
    return full(shape, 0, dtype, order)


def ones(shape, dtype=float, order="C"):
    return full(shape, 1, dtype, order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    host = np.empty_like(opened(prototype), dtype, order, shape=shape)
    fortran = host.flags.f_contiguous and not host.flags.c_contiguous
    return ndarray(host.shape, host.dtype, order="F" if fortran else "C")


def full_like(prototype, fill_value, dtype=None, order="K", subok=None, shape=None):
    array = empty_like(prototype, dtype, order, subok, shape)
    array._host[...] = opened(fill_value)
    return array


def zeros_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return full_like(prototype, 0, dtype, order, subok, shape)


def ones_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return full_like(prototype, 1, dtype, order, subok, shape)


def contents(values):
    """The NumPy array or nested lists of what may be copied to the device."""
    if isinstance(values, ndarray):
        return values._host
    return [contents(value) for value in values] if isinstance(values, (list, tuple)) else values


def array(values, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if blocking:
        synchronise("a blocking copy")
    if isinstance(values, ndarray) and not copy and ndmin <= values.ndim and dtype in (None, values.dtype):
        return values
    return owned(np.array(contents(values), dtype, order=order, ndmin=ndmin))


def asarray(values, dtype=None, order=None, *, blocking=False):
    if blocking and not isinstance(values, ndarray):
        synchronise("a blocking copy")
    if isinstance(values, ndarray):
        host = np.asarray(values._host, dtype, order)
        return values if host is values._host else owned(host)
    return owned(np.asarray(contents(values), dtype, order))


def ascontiguousarray(values, dtype=None):
    return asarray(values, dtype, "C")


def asnumpy(values, stream=None, order="C", out=None, blocking=True):
    return values.get(stream, order, out) if isinstance(values, ndarray) else np.asarray(values)


def created(function):
    """A function that makes an array from numbers."""
    return lambda *args, **options: owned(function(*opened(args), **opened(options)))


class Module(ModuleType):
    """A module of NumPy's, whose functions take and return arrays of the stand-in."""

    def __init__(self, name, numpy):
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self._numpy = numpy

    def __getattr__(self, name):
        if name.startswith("__") or name in ABSENT:
            raise AttributeError(f"{self.__name__} has no {name}")
        found = getattr(self._numpy, name)
        if isinstance(found, ModuleType):
            found = Module(f"{self.__name__}.{name}", found)
        elif isinstance(found, np.ufunc):
            found = Ufunc(found)
        elif callable(found) and not isinstance(found, type):
            found = function_of(found)
        setattr(self, name, found)
        return found


def function_of(function):
    def of_arrays(*args, **options):
        return called(function, args, options)

    of_arrays.__name__ = function.__name__
    return of_arrays


def lenient(function):
    """A function of linear algebra that raises for none of a stack of matrices; the values of those are anything."""

    def of_stack(a, *others):
        others = [np.broadcast_to(b, (*a.shape[:-2], *b.shape[-2:])) for b in others]
        found = np.full(others[0].shape if others else a.shape, np.nan, np.result_type(a, *others))
        for at in np.ndindex(a.shape[:-2]):
            with suppress(np.linalg.LinAlgError):
                found[at] = function(a[at], *[b[at] for b in others])
        return found

    return function_of(of_stack)


def reduceat(array, indices, axis=0, dtype=None, out=None):
    """As CuPy adds up: by differences of sums of all that is before, whose errors and NaNs they have."""
    array = np.moveaxis(array, axis, -1)
    sums = np.concatenate([np.zeros((*array.shape[:-1], 1)), array.cumsum(axis=-1)], axis=-1)
    ends = np.append(indices[1:], array.shape[-1])
    return np.moveaxis(np.where(indices >= ends, array[..., indices], sums[..., ends] - sums[..., indices]), -1, axis)


class Ufunc:
    """A ufunc that refuses arrays of the host, and lists, even where no array of the device is beside them."""

    def __init__(self, ufunc):
        self._ufunc, self.__name__ = ufunc, ufunc.__name__

    def __call__(self, *args, **options):
        for value in args:
            operand(value)
        return called(self._ufunc, args, options)

    def __getattr__(self, name):
        if name == "reduceat":
            if self._ufunc is not np.add:
                raise NotImplementedError(f"{self.__name__}.reduceat is not supported yet")
            return function_of(reduceat)
        method = getattr(self._ufunc, name)
        return function_of(method) if callable(method) else method


class Stream:
    """The one stream there is; everything has run before the call comes back."""

    ptr = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def synchronize(self):
        synchronise("Stream.synchronize")


Stream.null = Stream()


class Event:
    """A moment by the clock of the host."""

    def record(self, stream=None):
        self.seconds = perf_counter()

    def synchronize(self):
        synchronise("Event.synchronize")


class Generator:
    """Random numbers, as far as they are drawn; not those of CuPy."""

    def __init__(self, seed):
        self._host = np.random.default_rng(seed)

    def standard_normal(self, size=None, dtype=float):
        return owned(self._host.standard_normal(size, dtype))


def properties(device):
    """Of those that CuPy tells what pystn asks for."""
    return {"name": b"the host", "major": 9, "minor": 0, "totalGlobalMem": 8 << 30}


def stand_in():
    module = Module("cupy", np)
    module.__version__ = "0 (stand-in)"
    module.__path__ = []
    for function in (empty, full, zeros, ones, empty_like, full_like, zeros_like, ones_like):
        setattr(module, function.__name__, function)
    for function in (array, asarray, ascontiguousarray, asnumpy):
        setattr(module, function.__name__, function)
    for name in ("arange", "eye", "identity", "linspace"):
        setattr(module, name, created(getattr(np, name)))
    module.ndarray, module.asanyarray = ndarray, asarray
    module.linalg.inv, module.linalg.solve = lenient(np.linalg.inv), lenient(np.linalg.solve)
    module.random = SimpleNamespace(default_rng=Generator)
    module.RawModule = HostModule
    module.get_array_module = lambda *args: module if any(isinstance(value, ndarray) for value in args) else np
    module.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
    module.cuda = SimpleNamespace(
        Device=Device,
        Event=Event,
        Stream=Stream,
        get_current_stream=lambda: Stream.null,
        get_elapsed_time=lambda start, end: 1e3 * (end.seconds - start.seconds),
        is_available=lambda: True,
        runtime=SimpleNamespace(
            getDevice=lambda: Device().id,
            getDeviceCount=lambda: 1,
            getDeviceProperties=properties,
            driverGetVersion=lambda: 13020,
            runtimeGetVersion=lambda: 13000,
        ),
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
    )
    return module


def has_device():
    """Whether CuPy finds a device: the kernels run there, and the stand-in is not for that process."""
    if installed() or find_spec("cupy") is None:
        return False
    import cupy

    return cupy.cuda.is_available()


def install():
    """The stand-in, as cupy from now on.

    Tests that ask for it are skipped where there is a device: to those after them CuPy's arrays would be none.
    """
    if not installed():
        if has_device():
            pytest.skip("there is a device: the kernels run on it", allow_module_level=True)
        sys.modules["cupy"] = stand_in()
    return sys.modules["cupy"]


def installed():
    return isinstance(sys.modules.get("cupy"), Module)
