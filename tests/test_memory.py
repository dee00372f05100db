"""Operations allocate their results and what their docstrings state, and copy no strided input.

NumPy reports its allocations to tracemalloc. What C++ allocates it does not see: the table of rows that
parts of the output reach and the spline filter's lines. A child process measures those by its resident
memory.
"""

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
        lambda a, **o: pystn.grid_push_jvp(a["samples"], a["grid"], a["samples"], a["d_grid"], SIZE, **o),
        1,
        0,
    ),
    "grid_count": (lambda a, **o: pystn.grid_count(a["grid"], SIZE, **o), 0, 0),
    "grid_count_vjp": (lambda a, **o: pystn.grid_count_vjp(a["count"], a["grid"], SIZE, **o), 0, 1 / CHANNELS),
    "grid_count_jvp": (lambda a, **o: pystn.grid_count_jvp(a["grid"], a["d_grid"], SIZE, **o), 0, 0),
    "spline_filter": (lambda a, **o: pystn.spline_filter(a["input"], 3), 0, 0),
    "spline_filter_vjp": (lambda a, **o: pystn.spline_filter_vjp(a["coefficients"], a["input"], 3), 0, 0),
    "spline_filter_jvp": (lambda a, **o: pystn.spline_filter_jvp(a["input"], a["d_input"], 3), 0, 0),
}
# Arrays in the arithmetic's type of those that are of another, of images and of samples.
COPIES = {
    "grid_sample": (0, 1),  # of coefficients, which are that themselves
    "grid_sample_vjp": (1, 1),
    "grid_sample_vjp, input": (1, 1),
    "grid_sample_vjp, mask": (1, 1),
    "grid_sample_jvp": (2, 1),
    "grid_sample_vjp2": (2, 1),
    "grid_gradient_vjp": (0, 2),  # slopes on two axes
    "grid_push": (0, 1),
    "grid_push_vjp": (1, 1),
    "grid_push_jvp": (0, 2),
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
    """Of float16 the sums of an image in float32; of all the coefficients, where there is a prefilter; and copies of
    what is of 8 or 16 bits."""
    if dtype == "uint8" and name.startswith("grid_push"):
        pytest.skip("integers are not pushed")
    call, sums, coefficients = OPERATIONS[name]
    arrays = arrays_of(dtype, plain)
    peak, results = peak_of(lambda: call(arrays, mode=MODES[mode], padding_mode="mirror"))
    images, samples = COPIES.get(name, (0, 0)) if dtype in ("float16", "uint8") else (0, 0)
    copies = 4 * CHANNELS * (images * np.prod(SIZE) + samples * np.prod(SHAPE))
    assert peak <= results + allowed(dtype, mode, sums, coefficients) + copies + SMALL


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


# ---------------------------------------------------------------------------------------------
# Warps, whose grid would be as large as their output

WARPED, VOLUME, DEEP = (700, 760), (40, 50, 60), (48, 70, 80)  # grids of 4 and 3 MB in float32, volumes of 1


@lru_cache(maxsize=1)
def warped_arrays(dtype, view, leading):
    """Images and volumes, matrices for `leading` (N, *K), cotangents: small images, and large outputs."""
    tangent = np.dtype("f4") if np.dtype(dtype).kind in "iu" else np.dtype(dtype)
    coordinate = np.dtype("f8" if tangent in ("f8", "c16") else "f4")
    rng = np.random.default_rng(0)
    flat = np.tile(0.7 * np.eye(2, 3) + 0.2, (*leading, 1, 1))
    deep = np.tile(0.7 * np.eye(3, 4) + 0.1, (*leading, 1, 1))
    image, volume = rng.integers(0, 99, (1, 1, *SIZE)), rng.integers(0, 99, (1, 1, *VOLUME))
    arrays = {
        "image": image.astype(dtype),
        "d_image": image.astype(tangent),
        "theta": flat.astype(coordinate),
        "homography": np.concatenate([flat, np.tile([[0.05, 0.05, 1]], (*leading, 1, 1))], -2).astype(coordinate),
        "samples": np.ones((1, 1, *leading[1:], *WARPED), tangent),
        "mask": np.ones((1, *leading[1:], *WARPED), np.empty(0, tangent).real.dtype),
        "volume": volume.astype(dtype),
        "d_volume": volume.astype(tangent),
        "deep_theta": deep.astype(coordinate),
        "projection": np.ones((1, 1, *leading[1:], *DEEP[1:]), tangent),
    }
    return {name: a if "theta" in name or name == "homography" else view(a) for name, a in arrays.items()}


def of_warp(name, theta):
    """Calls of a warp of images: all that are without copies of the output's size."""
    forward, vjp, jvp = (getattr(pystn, name + derivative) for derivative in ("", "_vjp", "_jvp"))
    return {
        name: lambda a, **o: forward(a["image"], a[theta], WARPED, return_mask=True, **o),
        f"{name}_vjp": lambda a, **o: vjp(a["samples"], a["image"], a[theta], WARPED, **o),
        f"{name}_vjp, theta": lambda a, **o: vjp(a["samples"], a["image"], a[theta], WARPED, wrt="theta", **o),
        f"{name}_vjp, mask": lambda a, **o: vjp(
            (a["samples"], a["mask"]), a["image"], a[theta], WARPED, return_mask=True, wrt="theta", **o
        ),
        f"{name}_vjp, options": lambda a, **o: vjp(
            a["samples"], a["image"], a[theta], WARPED, wrt=("input", "theta", "fill_value"), **o
        ),
        f"{name}_jvp": lambda a, **o: jvp(a["image"], a[theta], a["d_image"], a[theta], WARPED, **o),
    }


def of_projection(reduce):
    read = ("volume", "deep_theta")
    return {
        f"{reduce}": lambda a, **o: pystn.warp_project(*(a[n] for n in read), DEEP, reduce, **o),
        f"{reduce}, vjp": lambda a, **o: pystn.warp_project_vjp(
            a["projection"], *(a[n] for n in read), DEEP, reduce, **o
        ),
        f"{reduce}, jvp": lambda a, **o: pystn.warp_project_jvp(
            *(a[n] for n in read), a["d_volume"], a["deep_theta"], DEEP, reduce, **o
        ),
    }


WARPS = {
    **of_warp("warp_affine", "theta"),
    **of_warp("warp_projective", "homography"),
    **of_projection("sum"),
    **of_projection("mean"),
    **of_projection("max"),
}


@pytest.mark.parametrize(
    "dtype, view, leading, name",
    [
        (dtype, view, leading, name)
        for dtype, view, leading in (
            ("float32", plain, (1,)),
            ("float32", backwards, (1,)),
            ("float32", transposed, (1,)),
            ("float64", plain, (1,)),
            ("uint8", plain, (1,)),
            ("float32", plain, (1, 2)),
        )
        for name in WARPS
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_warps_allocate_nothing_but_results(dtype, view, leading, name):
    """No grid, no gradient to it and no warped volume, of any part of the output."""
    arrays = warped_arrays(dtype, view, leading)
    with pystn.num_threads(2 if view is plain else 1):
        peak, results = peak_of(lambda: WARPS[name](arrays, padding_mode="border"))
    copied = dtype == "uint8" and name.startswith(("warp_affine_", "warp_projective_"))
    assert results <= peak <= results + SMALL + (4 * np.prod(SIZE) + 4 * np.prod(WARPED) if copied else 0)


@pytest.mark.parametrize("name", ["warp_affine", "warp_affine_vjp", "warp_affine_jvp", "warp_projective"])
def test_float16_images_need_their_sums_alone(name):
    """A gradient to the image is added up in float32, and derivatives are of copies of image and samples in it."""
    arrays = warped_arrays("float16", plain, (1,))
    peak, results = peak_of(lambda: WARPS[name](arrays))
    images = {"vjp": 2, "jvp": 2}.get(name[-3:], 0)
    assert peak <= results + SMALL + 4 * images * np.prod(SIZE) + (4 * np.prod(WARPED) if images else 0)


def test_warps_allocate_nothing_with_out():
    arrays = warped_arrays("float32", plain, (1,))
    for name, read, size in (
        ("warp_affine", ("image", "theta"), WARPED),
        ("warp_projective", ("image", "homography"), WARPED),
        ("warp_project", ("volume", "deep_theta"), DEEP),
    ):
        forward, vjp, jvp = (getattr(pystn, name + derivative) for derivative in ("", "_vjp", "_jvp"))
        primals = [arrays[n] for n in read]
        value = forward(*primals, size)
        outs = tuple(map(np.empty_like, primals))
        tangents = arrays[f"d_{read[0]}"], primals[1]
        for call in (
            lambda forward=forward, primals=primals, size=size, value=value: forward(*primals, size, out=value),
            lambda vjp=vjp, primals=primals, size=size, value=value, outs=outs: vjp(value, *primals, size, out=outs),
            lambda jvp=jvp, primals=primals, size=size, value=value, tangents=tangents: jvp(
                *primals, *tangents, size, out=value
            ),
        ):
            peak, _ = peak_of(call)
            assert peak <= SMALL


WARPING_CHILD = """
import numpy as np
import pystn

def high():  # of this program
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

rng = np.random.default_rng(0)
size, deep = (1700, 1600), (110, 120, 130)
theta = np.array([[[0.9, 0.1, 0], [-0.1, 0.9, 0]]], np.float32)
matrix = np.eye(3, 4, dtype=np.float32)[None] * 0.9
image, volume = rng.standard_normal((1, 1, 400, 410), np.float32), rng.standard_normal((1, 1, 40, 50, 60), np.float32)
value, projection = np.ones((1, 1, *size), np.float32), np.ones((1, 1, *deep[1:]), np.float32)  # touched
grads = [np.ones_like(a) for a in (image, theta, volume, matrix)]

def work(size, deep, value, projection):
    pystn.warp_affine(image, theta, size, out=value)
    pystn.warp_affine_vjp(value, image, theta, size, out=tuple(grads[:2]))
    pystn.warp_affine_jvp(image, theta, image, theta, size, out=value)
    for reduce in ("sum", "max"):
        pystn.warp_project(volume, matrix, deep, reduce, out=projection)
        pystn.warp_project_vjp(projection, volume, matrix, deep, reduce, out=tuple(grads[2:]))
        pystn.warp_project_jvp(volume, matrix, volume, matrix, deep, reduce, out=projection)

with pystn.num_threads({threads}):
    work((300, 290), (20, 21, 22), value[..., :300, :290], projection[..., :21, :22])  # libraries and threads
    before = high()
    work(size, deep, value, projection)
    after = high()
    copy = value.copy()
    print(after - before, high() - after)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="resident memory is asked of /proc")
def test_resident_memory_of_large_warps(threads):
    """Grids of 22 and 20 MB, volumes of 7: none of them is there, in NumPy or beside it."""
    code = WARPING_CHILD.replace("{threads}", str(pystn.get_num_threads()))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    warped, copied = map(int, ran.stdout.split())
    assert copied >= 8 << 20  # which would have been seen
    assert warped <= 3 << 20
