"""A stand-in for cupy.RawModule: the same source, compiled by g++ and run by device.hpp."""

import ctypes
import fcntl
import functools
import hashlib
import os
import pkgutil
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import numpy as np

from . import memory
from .arrays import ndarray

COMPILER = shutil.which("g++")
DEVICE = Path(__file__).with_name("device.hpp")
FLAGS = (
    *("-O0", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-DPYSTN_LEVEL=device"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Winvalid-pch"),
    *("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=0"),  # which takes fibers for a broken stack
)
LAUNCHER = """
extern "C" __attribute__((visibility("default"))) const char* launch_{number}(
    const unsigned* grid, const unsigned* block, void** arguments, const size_t* sizes, int count, host::Seed seed) {{
  return host::launch(&({name}), grid, block, arguments, sizes, count, seed);
}}
"""

_seed = 0


@contextmanager
def order(seed):
    """Within it blocks, and the threads of each, run in another order than elsewhere."""
    global _seed
    before, _seed = _seed, seed
    try:
        yield
    finally:
        _seed = before


class HostModule:
    """What pystn uses of cupy.RawModule. All name expressions are compiled together."""

    def __init__(self, *, code, options=(), name_expressions):
        self.code, self.options, self.names = code, tuple(options), tuple(name_expressions)
        # That is the package's program, and no test's.
        if code.endswith("using namespace pystn::PYSTN_LEVEL;\n"):
            unknown = set(self.names) - {name for names in kernels().values() for name in names}
            assert not unknown, f"no names() has {unknown}: NVRTC compiles them in no test"

    def get_function(self, name):
        return HostKernel(name, getattr(self.library, f"launch_{self.names.index(name)}"))

    @functools.cached_property
    def library(self):
        loaded = ctypes.PyDLL(str(shared_object(self.code, self.options, self.names)))  # one launch at a time
        for number in range(len(self.names)):
            launcher = getattr(loaded, f"launch_{number}")
            launcher.restype = ctypes.c_char_p
            launcher.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int, ctypes.c_ulonglong]
        return loaded


class HostKernel:
    def __init__(self, name, launcher):
        self.name, self.launcher = name, launcher

    def __call__(self, grid, block, args, *, shared_mem=0):
        if shared_mem:
            raise NotImplementedError("__shared__ arrays have a fixed size here")
        values = [as_parameter(value) for value in args]
        count = len(values)
        message = self.launcher(
            (ctypes.c_uint * 3)(*extents(grid)),
            (ctypes.c_uint * 3)(*extents(block)),
            (ctypes.c_void_p * (count + 1))(*(value.ctypes.data for value in values)),
            (ctypes.c_size_t * (count + 1))(*(value.nbytes for value in values)),
            count,
            _seed,
        )
        if message:
            raise RuntimeError(f"{self.name}: {message.decode()}")
        memory.check(self.name)


@functools.cache
def kernels():
    """The name expressions of all kernels that the modules of the CUDA backend can ask for, by module."""
    package = import_module("pystn.backends.cuda")
    names = [found.name for found in pkgutil.iter_modules(package.__path__)]
    modules = {name: import_module(f"{package.__name__}.{name}") for name in names}
    return {name: sorted(module.names()) for name, module in modules.items() if hasattr(module, "names")}


def extents(sizes):
    """Three numbers, checked here where they would not fit; the launch knows CUDA's limits."""
    if not all(isinstance(size, int) for size in sizes) or not 1 <= len(sizes) <= 3:
        raise TypeError(f"the grid and the block are tuples of up to three ints, got {sizes!r}")
    return [min(max(size, 0), 2**32 - 1) for size in (*sizes, 1, 1)[:3]]


def as_parameter(value):
    """An argument's bytes as CuPy passes them: arrays of the device as pointers, all else by value."""
    if isinstance(value, ndarray):
        return np.array([value.data.ptr], np.uint64)
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise TypeError(f"arrays are passed by value, and have one element, got shape {value.shape}")
        return np.ascontiguousarray(value)
    if isinstance(value, np.generic):
        return np.array(value)
    for kind, dtype in ((bool, np.bool_), (int, np.int64), (float, np.float64)):
        if isinstance(value, kind):
            return np.array([value], dtype)
    raise TypeError(f"CuPy passes no {type(value).__name__}")


# ---- Compilation: one precompiled header for each source, one shared object for each set of names


def shared_object(code, options, names):
    """Path of the shared object, compiled unless an earlier run has."""
    flags = [option for option in options if option.startswith(("-std=", "-D"))] + [*FLAGS]
    header = compiled_header(code, tuple(flags))
    text = f'#include "{header}"\n' + "".join(
        LAUNCHER.format(number=number, name=name) for number, name in enumerate(names)
    )
    unit = header.with_name(f"{digest(text)}.cpp")

    def build(target):
        unit.write_text(text)
        compile(*flags, "-shared", "-Wl,-z,defs", "-o", target, unit, names=names)

    return built(unit.with_suffix(".so"), build)


@functools.cache
def compiled_header(code, flags):
    key = digest(code, DEVICE.read_text(), compiler_version(), *flags)
    cache = Path(tempfile.gettempdir()) / f"pystn-cuda-host-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    folder = cache / key
    if not folder.exists():
        forget_old(cache)
    folder.mkdir(exist_ok=True)
    os.utime(folder)
    header = folder / "source.hpp"

    def build(target):
        header.write_text(f'#include "{DEVICE}"\n{code}')
        compile(*flags, "-x", "c++-header", "-o", target, header)

    built(folder / "source.hpp.gch", build)
    return header


def forget_old(cache, days=2):
    """Remove what sources that nobody has used for days have left, 20 MB and more each."""
    for folder in cache.iterdir():
        with suppress(FileNotFoundError):  # another process removes it too
            if folder.stat().st_mtime < time.time() - days * 86400:
                shutil.rmtree(folder, ignore_errors=True)


def built(path, build):
    """A file that one of several processes makes and all wait for; it has its name only once it is whole."""
    if not path.exists():
        with open(path.with_suffix(path.suffix + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                unfinished = path.with_suffix(path.suffix + ".part")
                build(unfinished)
                unfinished.rename(path)
    return path


def compile(*arguments, names=()):
    if COMPILER is None:
        raise RuntimeError("g++ is not installed")
    run = subprocess.run([COMPILER, *map(str, arguments)], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"g++ refused {', '.join(names) or 'the source'}:\n{run.stderr}")


@functools.cache
def compiler_version():
    return subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout


def digest(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
