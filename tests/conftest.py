"""What the tests share: the backends under test, the cells of options, random data."""

import gc
import itertools
import os
import shutil
from contextlib import contextmanager
from zlib import crc32

import cuda_host
import numpy as np
import pytest
from cuda_host import has_device

# Helpers whose assertions show both sides where they fail, as those of test modules do.
pytest.register_assert_rewrite("torch_cases", "warps")


class Cpu:
    """A backend under test: arrays of its own kind from NumPy's, and back."""

    name = "cpu"

    @staticmethod
    def array(values):
        return values

    @staticmethod
    def numpy(array):
        return array


class CudaHost:
    """The CUDA backend, its kernels compiled by g++ and run on the CPU, with a stand-in for CuPy."""

    name = "cuda-host"

    @staticmethod
    def array(values):
        return cuda_host.laid_out(values) if isinstance(values, np.ndarray) else values

    @staticmethod
    def numpy(array):
        return cuda_host.install().asnumpy(array)


class Cuda:
    """The CUDA backend on a device."""

    name = "cuda"

    @staticmethod
    def array(values):
        return on_device(values) if isinstance(values, np.ndarray) else values

    @staticmethod
    def numpy(array):
        import cupy

        return cupy.asnumpy(array)


def on_device(values):
    """A NumPy array in CuPy's memory with the strides that it has, as a test of layouts wants.

    Not with those that are no multiples of its elements' size: where they lead nothing on a device can read.
    """
    import cupy

    if values.size == 0 or any(stride % values.itemsize for stride in values.strides):
        return cupy.asarray(values)
    low, high = np.lib.array_utils.byte_bounds(values)
    first, octets = values.ctypes.data - low, np.full(high - low, 0xFF, np.uint8)  # NaN in the gaps
    np.ndarray(values.shape, values.dtype, octets, first, values.strides)[...] = values
    return cupy.ndarray(values.shape, values.dtype, cupy.asarray(octets).data + first, values.strides)


def assert_same_sums(backend, actual, expected, what=""):
    """Bitwise what they are once more, but for rounding by CUDA's kernels: they make sums into an image by atomics, in
    the order of their blocks, which is any on a device and differs between kernels on the host."""
    if backend.name == Cpu.name:
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    finite = expected[np.isfinite(expected)]
    bound = 100 * np.finfo(expected.dtype).eps * np.abs(finite).max(initial=0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=what)


@contextmanager
def skipped_if_torch_has_none():
    """Second derivatives of grid_sample are missing in PyTorch 2.11."""
    try:
        yield
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        pytest.skip(f"PyTorch has no such derivative: {error}")


# Where there is a device the kernels run on it, and on the host where not: CuPy or, before anybody asks for it, its
# stand-in.
if has_device():
    BACKENDS = [Cpu, pytest.param(Cuda, marks=pytest.mark.gpu)]
elif shutil.which("g++"):
    cuda_host.install()
    BACKENDS = [Cpu, CudaHost]
else:
    BACKENDS = [Cpu]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request):
    return request.param


@pytest.fixture(params=BACKENDS[1:], ids=lambda backend: backend.name)
def cuda(request):
    """The backend that is not the CPU's, for tests of few cases, all of which run on the host too."""
    return request.param


# On the host, where each kernel has to be compiled and runs thread by thread, one case in so many of every test is
# enough for every day; PYSTN_CUDA_HOST_EVERY=1 runs them all. Tests of that backend alone are run in any case.
EVERY = int(os.environ.get("PYSTN_CUDA_HOST_EVERY", "8"))


def pytest_collection_modifyitems(config, items):
    kept, left, seen = [], [], set()
    for item in items:
        parameters = getattr(item, "callspec", None)
        test = (item.path, getattr(item, "originalname", None))
        on_host = parameters is not None and getattr(parameters.params.get("backend"), "name", None) == CudaHost.name
        alone = item.path.name.startswith("test_cuda_")
        chosen = not on_host or alone or test not in seen or crc32(item.nodeid.encode()) % EVERY == 0
        seen.update([test] if on_host else [])
        (kept if chosen else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def pytest_collection_finish():
    """What is there now, tests by the ten thousand and whole frameworks, stays to the end: a collection of garbage need
    not walk over it, for a second each time."""
    gc.collect()
    gc.freeze()


# The cells of the older tests: two dimensions, one kernel and one boundary for all axes.
MODES = ("nearest", "linear")
PADDING_MODES = ("zeros", "border", "reflection")
SUBGRADIENTS = ("right", "left", "central", "zero")
# (align_corners, coords): the conventions of coordinates.
CONVENTIONS = ((False, "normalized"), (True, "normalized"), (False, "pixel"))

EVERY_PADDING_MODE = ("zeros", "constant", "border", "mirror", "symmetric", "wrap", "reflection")

# Lopsided, with jumps at its ends and a support that is no whole number of pixels.
TABLE = (0.1, -0.2, 0.35, 0.9, 1.1, 0.7, 0.2, -0.15, 0.05)

# Kernels by name: how pystn is given them and how the oracle is; "mixed" has one for each axis.
KERNELS = {
    "nearest": (lambda pystn: "nearest", "nearest"),
    "nearest-up": (lambda pystn: pystn.Nearest(ties="up"), ("nearest", "up")),
    "linear": (lambda pystn: "linear", "linear"),
    "cubic": (lambda pystn: pystn.Cubic(), "cubic"),
    "catmull-rom": (lambda pystn: pystn.Cubic(a=-0.5), ("cubic", -0.5)),
    "bspline0": (lambda pystn: pystn.BSpline(0), ("bspline", 0)),
    "bspline1": (lambda pystn: pystn.BSpline(1), ("bspline", 1)),
    "bspline2": (lambda pystn: pystn.BSpline(2), ("bspline", 2)),
    "bspline3": (lambda pystn: pystn.BSpline(3), ("bspline", 3)),
    "bspline4": (lambda pystn: pystn.BSpline(4), ("bspline", 4)),
    "bspline5": (lambda pystn: pystn.BSpline(5), ("bspline", 5)),
    "bspline6": (lambda pystn: pystn.BSpline(6), ("bspline", 6)),
    "bspline7": (lambda pystn: pystn.BSpline(7), ("bspline", 7)),
    "prefiltered": (lambda pystn: pystn.BSpline(3, prefilter=True), ("bspline", 3, True)),
    "lanczos2": (lambda pystn: pystn.Lanczos(2), ("lanczos", 2)),
    "lanczos3": (lambda pystn: pystn.Lanczos(3), ("lanczos", 3)),
    "lanczos4": (lambda pystn: pystn.Lanczos(4), ("lanczos", 4)),
    "gaussian": (lambda pystn: pystn.Gaussian(0.8), ("gaussian", 0.8, 4.0)),
    "tabulated": (lambda pystn: pystn.Tabulated(TABLE, 1.75), ("tabulated", TABLE, 1.75)),
    "mixed": (
        lambda pystn: (pystn.Cubic(a=-0.6), "linear", pystn.Gaussian(0.5)),
        [("cubic", -0.6), "linear", ("gaussian", 0.5, 4.0)],
    ),
}
# Number of parameters of each kernel, for each axis in turn.
PARAMETERS = {"cubic": (), "catmull-rom": (), "gaussian": (), "tabulated": (len(TABLE),), "mixed": [(), None, ()]}


def kernel_for(pystn, name, ndim):
    """A kernel as pystn takes it and as the oracle does."""
    ours, theirs = KERNELS[name][0](pystn), KERNELS[name][1]
    return (ours[:ndim], theirs[:ndim]) if isinstance(theirs, list) else (ours, theirs)


def parameters_for(name, ndim):
    """Shape of the parameters of a kernel, a list of them for one kernel per axis, or None."""
    shapes = PARAMETERS.get(name)
    return shapes[:ndim] if isinstance(shapes, list) else shapes


CELLS = [
    {"mode": mode, "padding_mode": padding, "align_corners": align, "coords": coords}
    for mode, padding, (align, coords) in itertools.product(MODES, PADDING_MODES, CONVENTIONS)
]


@pytest.fixture(params=CELLS, ids=lambda c: "-".join(map(str, c.values())))
def cell(request):
    """One combination of mode, padding and convention."""
    return dict(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


def coordinates(rng, shape, size, coords, reach=1.3, dtype=np.float64):
    """Random coordinates (*shape, ndim) that leave an image of spatial size `size` by the factor `reach`."""
    normalized = rng.uniform(-reach, reach, (*shape, len(size)))
    if coords == "pixel":
        normalized = ((normalized + 1) * np.array(size[::-1]) - 1) / 2
    return normalized.astype(dtype)


def away_from_kinks(grid, size, align_corners, coords, margin=0.02):
    """The grid with every coordinate kept `margin` pixels from pixel centres, edges and ties."""
    n = np.array(size[::-1], float)
    if coords == "pixel":
        p = grid
    else:
        p = (grid + 1) / 2 * (n - 1) if align_corners else ((grid + 1) * n - 1) / 2
    half = np.round(2 * p)  # kinks are at multiples of 1/2
    close = np.abs(2 * p - half) < 2 * margin
    p = np.where(close, half / 2 + margin, p)
    if coords == "pixel":
        return p
    return np.where(n > 1, 2 * p / np.maximum(n - 1, 1) - 1, grid) if align_corners else (2 * p + 1) / n - 1
