"""Operations allocate their results and what their docstrings state, and copy no strided input.

NumPy reports its allocations to tracemalloc. What C++ allocates it does not see: the table of rows that
parts of the output reach and the spline filter's lines. A child process measures those by its resident
memory.
"""

import gc
import os
import subprocess
import sys
import tracemalloc
from functools import lru_cache

import numpy as np
import pytest

import pystn

SMALL = 256 * 1024
SIZE, SHAPE, CHANNELS = (512, 520), (480, 500), 2  # 2 MB of image in float32, each


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request):
    with pystn.num_threads(request.param):
        yield


def peak_of(call):
    """Bytes allocated at most during a call, its results included, and the results' own."""
    gc.collect()
    tracemalloc.start()
    try:
        results = call()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    flat = (
        [results]
        if isinstance(results, np.ndarray)
        else [a for r in results for a in (r if isinstance(r, tuple) else (r,))]
    )
    return peak, sum(a.nbytes for a in flat if a is not None)


def plain(a):
    return a


def transposed(a):
    return np.ascontiguousarray(a.T).T


def backwards(a):
    return np.flip(np.flip(a).copy())


def every_other(a):
    return np.repeat(a, 2, axis=-1)[..., ::2]


def repeated(a):
    return np.broadcast_to(a[:, :1], a.shape)


VIEWS = [plain, transposed, backwards, every_other, repeated]


@lru_cache(maxsize=1)
def arrays_of(dtype, view):
    """Everything that any operation reads."""
    rng = np.random.default_rng(0)
    tangent = np.dtype("f4") if np.dtype(dtype).kind in "iu" else np.dtype(dtype)
    coordinate = np.dtype("f8" if tangent in ("f8", "c16") else "f4")
    y, x = np.meshgrid(*(np.linspace(-1, 1, m) for m in SHAPE), indexing="ij")
    grid = (np.stack([x, y], -1) @ np.array([[0.9, -0.2], [0.2, 0.9]]))[None].astype(coordinate)
    image = rng.integers(0, 255, (1, CHANNELS, *SIZE))
    samples = rng.integers(-9, 9, (1, CHANNELS, *SHAPE))
    arrays = {
        "input": image.astype(dtype),
        "d_input": image.astype(tangent),
        "coefficients": image.astype("f4" if np.dtype(dtype).itemsize <= 2 else dtype),
        "grid": grid,
        "d_grid": np.ones_like(grid),
        "samples": samples.astype(tangent),
        "mask": samples[:, 0].astype(np.empty(0, tangent).real.dtype),
        "slopes": np.stack([samples, samples], -1).astype(tangent),
        "count": image[:, :1].astype(coordinate),
    }
    return {name: view(a) for name, a in arrays.items()}


# Name: the call of an operation, and how many arrays it states beyond its results, as a number of
# float32 images for images of 16 bits, and of arrays of coefficients if it prefilters.
OPERATIONS = {
    "grid_sample": (lambda a, **o: pystn.grid_sample(a["input"], a["grid"], return_mask=True, **o), 0, 1),
    "grid_sample_vjp": (lambda a, **o: pystn.grid_sample_vjp(a["samples"], a["input"], a["grid"], **o), 1, 1),
    "grid_sample_vjp, input": (
        lambda a, **o: pystn.grid_sample_vjp(a["samples"], a["input"], a["grid"], wrt="input", **o),
        1,
        0,
    ),
    "grid_sample_vjp, mask": (
        lambda a, **o: pystn.grid_sample_vjp(
            (a["samples"], a["mask"]), a["input"], a["grid"], return_mask=True, wrt="grid", **o
        ),
        0,
        1,
    ),
    "grid_sample_jvp": (
        lambda a, **o: pystn.grid_sample_jvp(a["input"], a["grid"], a["d_input"], a["d_grid"], **o),
        0,
        2,
    ),
    "grid_sample_vjp2": (
        lambda a, **o: pystn.grid_sample_vjp2(a["d_input"], a["d_grid"], a["samples"], a["input"], a["grid"], **o),
        1,
        2,
    ),
    "grid_gradient": (lambda a, **o: pystn.grid_gradient(a["input"], a["grid"], **o), 0, 1),
    "grid_gradient_vjp": (lambda a, **o: pystn.grid_gradient_vjp(a["slopes"], a["input"], a["grid"], **o), 1, 1),
    "grid_gradient_jvp": (
        lambda a, **o: pystn.grid_gradient_jvp(a["input"], a["grid"], a["d_input"], a["d_grid"], **o),
        0,
        2,
    ),
    "grid_push": (lambda a, **o: pystn.grid_push(a["samples"], a["grid"], SIZE, **o), 1, 0),
    "grid_push_vjp": (lambda a, **o: pystn.grid_push_vjp(a["d_input"], a["samples"], a["grid"], SIZE, **o), 0, 1),
    "grid_push_jvp": (
        lambda a, **o: pystn.grid_push_jvp(a["samples"], a["grid"], SIZE, a["samples"], a["d_grid"], **o),
        1,
        0,
    ),
    "grid_count": (lambda a, **o: pystn.grid_count(a["grid"], SIZE, **o), 0, 0),
    "grid_count_vjp": (lambda a, **o: pystn.grid_count_vjp(a["count"], a["grid"], SIZE, **o), 0, 1 / CHANNELS),
    "grid_count_jvp": (lambda a, **o: pystn.grid_count_jvp(a["grid"], SIZE, a["d_grid"], **o), 0, 0),
    "spline_filter": (lambda a, **o: pystn.spline_filter(a["input"], 3), 0, 0),
    "spline_filter_vjp": (lambda a, **o: pystn.spline_filter_vjp(a["coefficients"], a["input"], 3), 0, 0),
    "spline_filter_jvp": (lambda a, **o: pystn.spline_filter_jvp(a["input"], a["d_input"], 3), 0, 0),
}
MODES = {"linear": "linear", "prefiltered": pystn.BSpline(3, prefilter=True)}


def allowed(dtype, mode, sums, coefficients):
    """Bytes beyond the results that docstrings state."""
    size = np.dtype(dtype).itemsize
    of_sums = CHANNELS * np.prod(SIZE) * max(4, size)
    return (sums * of_sums if size == 2 and np.dtype(dtype).kind not in "iu" else 0) + (
        coefficients * of_sums if mode == "prefiltered" else 0
    )


def pairs(first, second):
    """Every pair, the first going slowest: its arrays are made once."""
    return [(a, b) for a in first for b in second]


@pytest.mark.parametrize(
    "view, mode, name",
    [
        (view, mode, name)
        for view in VIEWS
        for mode in MODES
        for name in OPERATIONS
        if mode == "linear" or view in (plain, backwards)
    ],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_nothing_but_results_is_allocated(name, view, mode):
    """Whatever the strides: a transposed or reversed input is read where it lies."""
    call, sums, coefficients = OPERATIONS[name]
    arrays = arrays_of("float32", view)
    with pystn.num_threads(1 if view in (transposed, backwards) else 2):
        peak, results = peak_of(lambda: call(arrays, mode=MODES[mode], padding_mode="mirror"))
    assert peak <= results + allowed("float32", mode, sums, coefficients) + SMALL
    assert peak >= results  # so that it was seen at all


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype, name", pairs(["float16", "float64", "complex64", "uint8"], OPERATIONS))
def test_other_types_allocate_what_is_stated(name, dtype, mode):
    """Of float16 the sums of an image in float32; of all the coefficients, where there is a prefilter."""
    if dtype == "uint8" and name.startswith("grid_push"):
        pytest.skip("integers are not pushed")
    call, sums, coefficients = OPERATIONS[name]
    arrays = arrays_of(dtype, plain)
    peak, results = peak_of(lambda: call(arrays, mode=MODES[mode], padding_mode="mirror"))
    assert peak <= results + allowed(dtype, mode, sums, coefficients) + SMALL


@pytest.mark.parametrize("mode", ["linear", pystn.Cubic()], ids=str)
def test_gradients_to_options_are_a_few_numbers(mode):
    """Sums of each group of chunks, of which there are 64 at most."""
    arrays = arrays_of("float32", transposed)
    wrt = ("fill_value",) if mode == "linear" else ("fill_value", "kernel")
    read = arrays["samples"], arrays["input"], arrays["grid"]
    peak, results = peak_of(lambda: pystn.grid_sample_vjp(*read, mode, wrt=wrt))
    assert peak <= results + SMALL


@pytest.mark.parametrize("name", ["grid_sample", "grid_gradient", "grid_push", "grid_count", "spline_filter"])
def test_nothing_is_allocated_with_out(name):
    arrays = arrays_of("float32", transposed)
    call = {
        "grid_sample": lambda **o: pystn.grid_sample(arrays["input"], arrays["grid"], **o),
        "grid_gradient": lambda **o: pystn.grid_gradient(arrays["input"], arrays["grid"], **o),
        "grid_push": lambda **o: pystn.grid_push(arrays["samples"], arrays["grid"], SIZE, **o),
        "grid_count": lambda **o: pystn.grid_count(arrays["grid"], SIZE, **o),
        "spline_filter": lambda **o: pystn.spline_filter(arrays["input"], 3, **o),
    }[name]
    out = transposed(call())
    peak, _ = peak_of(lambda: call(out=out))
    assert peak <= SMALL


def test_a_misaligned_input_is_copied():
    """What the docstring says, and the proof that a copy is seen."""
    arrays = arrays_of("float32", plain)
    packed = np.zeros(arrays["input"].shape, np.dtype([("pad", "i1"), ("value", "f4")]))
    packed["value"] = arrays["input"]
    peak, results = peak_of(lambda: pystn.grid_sample(packed["value"], arrays["grid"]))
    assert peak >= results + arrays["input"].nbytes


CHILD = """
import numpy as np
import pystn

def high():  # of this program; what getrusage tells may be of the one that started it
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

rng = np.random.default_rng(0)
image = rng.standard_normal((1, 1, 3000, 3001), np.float32)
axis = np.linspace(-1, 1, 3000, dtype=np.float32)
grid = np.stack(np.meshgrid(axis, axis), -1)[None]
cotangent = np.ones((1, 1, 3000, 3000), np.float32)
outs = np.full_like(image, 1), np.full_like(grid, 1)  # touched
small = [a[:, :, :200, :200].copy() for a in (cotangent, image)]
with pystn.num_threads({threads}):
    pystn.grid_sample_vjp(*small, grid[:, :200, :200].copy())  # libraries and threads
    pystn.spline_filter(small[1], 3)
    before = high()
    pystn.grid_sample_vjp(cotangent, image, grid, out=outs)
    between = high()
    pystn.spline_filter(image, 3, out=outs[0])
    after = high()
    copy = image.copy()
    print(between - before, after - between, high() - after)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="resident memory is asked of /proc")
def test_resident_memory_of_a_large_gradient_and_filter(threads):
    """36 MB of image: neither the table of rows nor the lines of the filter is of that order."""
    code = CHILD.replace("{threads}", str(pystn.get_num_threads()))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    gradient, filtered, copied = map(int, ran.stdout.split())
    assert copied >= 30 << 20  # which would have been seen
    assert gradient <= 2 << 20
    assert filtered <= 4 << 20
