"""Threads: results do not depend on how many, and how many is the caller's to say."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import EVERY_PADDING_MODE, KERNELS, kernel_for
from families import FAMILIES, parameters
from warps import WARPS

import pystn

COUNTS = (1, 2, 3, 7)


def smooth(size, turn=0.4, scale=1.1):
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    return pystn.affine_grid(np.array([[[c, -s, 0.1], [s, c, -0.05]]]), size)


def cases():
    """Image, grid: cut in every way that the work is cut."""
    rng = np.random.default_rng(7)
    one, few, many = (1, 2, 230, 210), (3, 2, 90, 100), (1, 70, 64, 64)
    yield "one image", rng.standard_normal(one), smooth((220, 240))
    yield "one image, random", rng.standard_normal(one), rng.uniform(-1.2, 1.2, (1, 220, 240, 2))
    yield "one image, shrunk", rng.standard_normal(one), smooth((220, 240), scale=0.1)
    yield "list of points", rng.standard_normal(one), rng.uniform(-1, 1, (1, 60000, 2))
    yield "few images", rng.standard_normal(few), np.repeat(smooth((120, 130)), 3, axis=0)
    yield "many channels", rng.standard_normal(many), smooth((60, 70))
    yield "shared image", rng.standard_normal(one), rng.uniform(-1, 1, (3, 150, 160, 2))
    yield "shared grid", rng.standard_normal(few), smooth((120, 130))
    yield "small images", rng.standard_normal((60, 1, 28, 28)), np.repeat(smooth((28, 28)), 60, axis=0)


CASES = list(cases())


@pytest.mark.parametrize("name, image, grid", CASES, ids=[name for name, *_ in CASES])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "nearest"}, {"padding_mode": "reflection", "subgradient": "central"}, {"padding_mode": "wrap"}],
    ids=str,
)
def test_bitwise_equal_for_any_number(name, image, grid, dtype, options):
    image, grid = image.astype(dtype), grid.astype(dtype)
    rng = np.random.default_rng(1)
    batch = max(len(image), len(grid))
    cotangent = rng.standard_normal((batch, image.shape[1], *grid.shape[1:-1])).astype(dtype)
    results = []
    for count in COUNTS:
        with pystn.num_threads(count):
            results.append(
                [
                    pystn.grid_sample(image, grid, **options),
                    *pystn.grid_sample_vjp(cotangent, image, grid, **options),
                    pystn.grid_sample_jvp(image, grid, image[::-1], grid[::-1], **options),
                ]
            )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [(300, 500), (40, 50, 60)], ids=str)
def test_affine_grid_bitwise_equal_for_any_number(size):
    rng = np.random.default_rng(2)
    ndim = len(size)
    theta = rng.standard_normal((2, ndim, ndim + 1))
    cotangent = rng.standard_normal((2, *size, ndim))
    results = []
    for count in COUNTS:
        with pystn.num_threads(count):
            results.append((pystn.affine_grid(theta, size), *pystn.affine_grid_vjp(cotangent, theta, size)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_projective_grid_bitwise_equal_for_any_number(dtype):
    rng = np.random.default_rng(3)
    theta, tangent = rng.standard_normal((2, 2, 3, 3)).astype(dtype)
    cotangent, size = rng.standard_normal((2, 300, 500, 2)).astype(dtype), (300, 500)
    bitwise_equal(
        {
            "grid": lambda: pystn.projective_grid(theta, size),
            "tangent": lambda: pystn.projective_grid_jvp(theta, tangent, size),
            "gradient": lambda: pystn.projective_grid_vjp(cotangent, theta, size)[0],
            "second order": lambda: pystn.projective_grid_vjp2(tangent, cotangent, theta, size, wrt="theta")[1],
        }
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bases", [1, 40])
def test_linear_grid_bitwise_equal_for_any_number(dtype, bases):
    rng = np.random.default_rng(4)
    theta = rng.standard_normal((40, 2, 9)).astype(dtype)
    basis = rng.standard_normal((bases, 9, 3000)).astype(dtype)
    cotangent = rng.standard_normal((40, 3000, 2)).astype(dtype)
    bitwise_equal(
        {
            "grid": lambda: pystn.linear_grid(theta, basis),
            "gradient": lambda: pystn.linear_grid_vjp(cotangent, theta, basis, wrt="theta")[0],
        }
    )


@pytest.mark.parametrize("rows", [3, 5])
def test_exponentials_are_bitwise_equal_for_any_number(rows):
    rng = np.random.default_rng(6)
    x, along = rng.standard_normal((2, 1001, rows, rows))
    x *= np.exp(rng.uniform(-3, 3, (1001, 1, 1)))
    bitwise_equal({"matrix": lambda: pystn.expm(x), "tangent": lambda: pystn.expm_jvp(x, along)})


def equal_on_all_threads_of_blas(calls):
    """As `bitwise_equal`, and with as many threads of BLAS, whose products differ in their last digits."""
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="asks threadpoolctl to limit BLAS")
    results = []
    for count in COUNTS:
        with pystn.num_threads(count), threadpoolctl.threadpool_limits(count, "blas"):
            results.append({name: call().tobytes() for name, call in calls.items()})
    for other in results[1:]:
        assert [name for name in calls if other[name] != results[0][name]] == []


SIZES = {1: (20_001,), 2: (90, 130), 3: (19, 17, 33)}  # above what one thread does


@pytest.mark.parametrize("at, name", [*enumerate(FAMILIES)])
def test_families_are_bitwise_equal_for_any_number(at, name):
    """Types take turns."""
    ndim, make = FAMILIES[name]
    family, dtype = make(pystn, SIZES[ndim], False), (np.float64, np.float32)[at % 2]
    rng = np.random.default_rng(at)
    theta = parameters(family, rng, (2,), dtype)
    cotangent = rng.standard_normal((2, *family.size, ndim)).astype(dtype)
    calls = {
        "grid": lambda: family(theta),
        "tangent": lambda: family.jvp(theta, theta),
        "gradient": lambda: family.vjp(cotangent, theta)[0],
        "second order": lambda: family.vjp2(theta, cotangent, theta, wrt="theta")[1],
    }
    if isinstance(family, pystn.PiecewiseAffine):  # those of a thin plate spline are products by BLAS
        along = rng.standard_normal(family.points.shape)
        calls["tangent of the points"] = lambda: family.jvp(theta, None, d_points=along)
        calls["gradient to the points"] = lambda: family.vjp(cotangent, theta, wrt="points")[1]
        calls["second order of the points"] = lambda: np.concatenate(
            [a.ravel() for a in family.vjp2(theta, cotangent, theta, gg_points=along, wrt=("theta", "points"))[1:]]
        )
    equal_on_all_threads_of_blas(calls)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_products_are_bitwise_equal_for_any_number(dtype):
    """Of sizes of which those of BLAS are not."""
    rng = np.random.default_rng(5)
    family = pystn.FreeFormDeformation((30, 31), (300, 500))
    theta = parameters(family, rng, (1,), dtype)
    cotangent = rng.standard_normal((1, 300, 500, 2)).astype(dtype)
    of_basis = [rng.standard_normal(shape).astype(dtype) for shape in ((15, 5000, 2), (15, 2, 21), (1, 21, 5000))]
    equal_on_all_threads_of_blas(
        {
            "grid": lambda: family(theta),
            "tangent": lambda: family.jvp(theta, theta),
            "gradient": lambda: family.vjp(cotangent, theta)[0],
            "determinant": lambda: family.jacobian_determinant(theta),
            "gradient to a basis": lambda: pystn.linear_grid_vjp(*of_basis, wrt="basis")[1],
        }
    )


def python(code, **environment):
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_openmp_variables_are_respected():
    assert python("import pystn; print(pystn.get_num_threads())", OMP_NUM_THREADS="3") == "3"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a settable CPU affinity")
def test_cpu_affinity_is_respected():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import pystn; print(pystn.get_num_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert ran.stdout.strip() == "1", ran.stderr


def test_threadpoolctl_limits_are_respected():
    pytest.importorskip("threadpoolctl", reason="asks threadpoolctl to limit OpenMP")
    code = (
        "import pystn, threadpoolctl; pystn.get_num_threads()\n"
        "with threadpoolctl.threadpool_limits(1, 'openmp'): print(pystn.get_num_threads())"
    )
    assert python(code, OMP_NUM_THREADS="4") == "1"


def test_set_context_and_nesting():
    before = pystn.get_num_threads()
    try:
        pystn.set_num_threads(3)
        assert pystn.get_num_threads() == 3
        with pystn.num_threads(1):
            assert pystn.get_num_threads() == 1
            with pystn.num_threads(2):
                assert pystn.get_num_threads() == 2
            assert pystn.get_num_threads() == 1
        assert pystn.get_num_threads() == 3
    finally:
        pystn.set_num_threads(None)
    assert pystn.get_num_threads() == before


def test_a_context_is_of_its_thread():
    seen = []
    with pystn.num_threads(5):
        worker = threading.Thread(target=lambda: seen.append(pystn.get_num_threads()))
        worker.start()
        worker.join()
    assert seen == [pystn.get_num_threads()] != [5]


@pytest.mark.parametrize("bad, error", [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("2", TypeError)])
def test_bad_numbers(bad, error):
    with pytest.raises(error, match=f"number of threads must be .*, got {bad!r}"):
        pystn.set_num_threads(bad)
    with pytest.raises(error, match="number of threads"), pystn.num_threads(bad):
        pass


def test_calls_from_many_threads_at_once():
    rng = np.random.default_rng(3)
    image, grid = rng.standard_normal((2, 3, 120, 130)), rng.uniform(-1, 1, (2, 150, 160, 2))
    expected = pystn.grid_sample(image, grid)
    failures = []

    def work():
        for _ in range(5):
            if not np.array_equal(pystn.grid_sample(image, grid), expected):
                failures.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.parametrize("image, grid", [("f4", "f4"), ("f8", "f8"), ("f4", "f8"), ("f8", "f4")])
@pytest.mark.parametrize("channels", [1, 3, 70])
def test_channels_last_bitwise_equal_for_any_number(image, grid, channels):
    rng = np.random.default_rng(4)
    shape = (1, 120, 110, channels)
    arrays = rng.standard_normal(shape).astype(image), rng.uniform(-1.2, 1.2, (1, 130, 60, 2)).astype(grid)
    cotangent = rng.standard_normal((1, 130, 60, channels)).astype(image)
    options = {"channel_axis": -1, "padding_mode": "border", "align_corners": True, "subgradient": "left"}
    results = []
    for count in COUNTS:
        with pystn.num_threads(count):
            results.append(
                [
                    pystn.grid_sample(*arrays, **options),
                    *pystn.grid_sample_vjp(cotangent, *arrays, **options),
                    pystn.grid_sample_jvp(*arrays, *arrays, **options),
                ]
            )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("wrt", ["input", "grid", ("input", "grid")], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_bitwise_equal_with_a_bad_cotangent(bad, wrt, batch):
    """A NaN in one channel leaves every other number what it is with one thread."""
    rng = np.random.default_rng(5)
    image = rng.standard_normal((batch, 64, 40, 48)).astype(np.float32)
    grid = np.repeat(smooth((50, 60)).astype(np.float32), batch, axis=0)
    cotangent = rng.standard_normal((batch, 64, 50, 60)).astype(np.float32)
    cotangent[:, 3, 30, 30] = bad
    results = []
    for count in COUNTS:
        with pystn.num_threads(count):
            results.append(pystn.grid_sample_vjp(cotangent, image, grid, wrt=wrt))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("operation", ["value", "jvp", "gradient to the image", "gradient to the grid", "again"])
def test_other_python_threads_run_meanwhile(operation):
    """The GIL is released: this thread takes steps in the middle of a call by another."""
    rng = np.random.default_rng(6)
    image, grid = rng.standard_normal((1, 8, 300, 300)), rng.uniform(-1, 1, (1, 400, 400, 2))
    cotangent = np.ones((1, 8, 400, 400))
    call = {
        "value": lambda: pystn.grid_sample(image, grid),
        "jvp": lambda: pystn.grid_sample_jvp(image, grid, image, grid),
        "gradient to the image": lambda: pystn.grid_sample_vjp(cotangent, image, grid, wrt="input"),
        "gradient to the grid": lambda: pystn.grid_sample_vjp(cotangent, image, grid, wrt="grid"),
        # Few enough samples for a call to be remembered.
        "again": lambda: pystn.grid_sample(image, grid[:, :300, :300].copy(), pystn.Lanczos(4)),
    }[operation]
    with pystn.num_threads(1):
        call()
    switch = sys.getswitchinterval()
    spans, steps = [], []

    def work():
        with pystn.num_threads(1):
            for _ in range(10):
                start = time.perf_counter()
                call()
                spans.append((start, time.perf_counter()))

    worker = threading.Thread(target=work)
    # Nothing but the call itself may hand the GIL over: Python would not take it away for 100 s.
    sys.setswitchinterval(100)
    try:
        worker.start()
        while worker.is_alive():
            steps.append(time.perf_counter())
            time.sleep(0)  # offers the GIL, and waits for it
    finally:
        sys.setswitchinterval(switch)
    worker.join()
    quarters = [((3 * start + end) / 4, (start + 3 * end) / 4) for start, end in spans]
    assert any(np.diff(np.searchsorted(steps, quarter)) > 0 for quarter in quarters)


# ---------------------------------------------------------------------------------------------
# Every operation, kernel and boundary


def bitwise_equal(calls):
    """Results of the calls, run with every number of threads, as bits."""
    results = []
    for count in COUNTS:
        with pystn.num_threads(count):
            results.append({name: np.asarray(call()) for name, call in calls.items()})
    for count, other in zip(COUNTS[1:], results[1:], strict=True):
        for name, expected in results[0].items():
            assert other[name].tobytes() == expected.tobytes(), f"{name} of {count} threads is not that of one"


def spread(rng, size, shape, kind):
    """One grid (1, *shape, ndim), normalized: neighbours near each other, or anywhere."""
    if kind == "scattered":
        return rng.uniform(-1.2, 1.2, (1, *shape, len(size)))
    axes = [np.linspace(-1.1, 1.1, m) for m in shape]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1)
    turn = np.eye(len(size)) + 0.15 * rng.standard_normal((len(size), len(size)))
    return (mesh @ turn)[None]


def calls_of(rng, size, shape, kind, dtype, channels, mode, **options):
    """Calls of every operation whose work is split, on one image shared by a batch of one or two."""
    dtype, ndim = np.dtype(dtype), len(size)
    coordinate = np.float64 if dtype in (np.float64, np.complex128) else np.float32
    grid = np.concatenate([spread(rng, size, shape, kind) for _ in range(options.pop("batch", 1))]).astype(coordinate)
    options = {"mode": mode, "fill_value": 0.5, **options}
    without_fill = {k: v for k, v in options.items() if k != "fill_value"}

    def drawn(*lengths, dtype=dtype):
        a = rng.standard_normal(lengths)
        return (a + 1j * rng.standard_normal(lengths) if dtype.kind == "c" else a).astype(dtype)

    image, d_image = drawn(1, channels, *size), drawn(1, channels, *size)
    samples, slopes = drawn(len(grid), channels, *shape), drawn(len(grid), channels, *shape, ndim)
    assert samples.size * (1 + (dtype.kind == "c")) >= 16384  # below which one thread does it
    d_grid = drawn(*grid.shape, dtype=np.dtype(coordinate))
    d_mask = drawn(len(grid), *shape, dtype=dtype if dtype.kind == "f" else np.dtype(coordinate))
    first = mode[0] if isinstance(mode, tuple) else mode
    parametric = getattr(first, "parameter_shape", None) is not None
    named = ("fill_value", "kernel") if parametric else ("fill_value",)
    vjp2 = (d_image, d_grid, (samples, d_mask), image, grid)
    masked = {**options, "return_mask": True}
    calls = {
        "value": lambda: pystn.grid_sample(image, grid, **options),
        "mask": lambda: pystn.grid_sample(image, grid, **masked)[1],
        "grad_input": lambda: pystn.grid_sample_vjp(samples, image, grid, wrt="input", **options)[0],
        "grad_grid": lambda: pystn.grid_sample_vjp((samples, d_mask), image, grid, wrt="grid", **masked)[1],
        "both, grad_input": lambda: pystn.grid_sample_vjp(samples, image, grid, **options)[0],
        "both, grad_grid": lambda: pystn.grid_sample_vjp(samples, image, grid, **options)[1],
        "grad_fill_value": lambda: pystn.grid_sample_vjp(samples, image, grid, wrt=named, **options)[2],
        "tangent": lambda: pystn.grid_sample_jvp(image, grid, d_image, d_grid, **options),
        "vjp2 to grad_output": lambda: pystn.grid_sample_vjp2(*vjp2, wrt="grad_output", **masked)[0][0],
        "vjp2 to input": lambda: pystn.grid_sample_vjp2(*vjp2, wrt="input", **masked)[1],
        "vjp2 to grid": lambda: pystn.grid_sample_vjp2(*vjp2, wrt="grid", **masked)[2],
        "slopes": lambda: pystn.grid_gradient(image, grid, **options),
        "slopes to input": lambda: pystn.grid_gradient_vjp(slopes, image, grid, wrt="input", **options)[0],
        "slopes to grid": lambda: pystn.grid_gradient_vjp(slopes, image, grid, wrt="grid", **options)[1],
        "tangent of slopes": lambda: pystn.grid_gradient_jvp(image, grid, d_image, d_grid, **options),
        "push": lambda: pystn.grid_push(samples, grid, size, **without_fill),
        "push to values": lambda: pystn.grid_push_vjp(
            d_image.repeat(len(grid), 0), samples, grid, size, wrt="values", **without_fill
        )[0],
        "push to grid": lambda: pystn.grid_push_vjp(
            d_image.repeat(len(grid), 0), samples, grid, size, wrt="grid", **without_fill
        )[1],
        "tangent of push": lambda: pystn.grid_push_jvp(samples, grid, samples, d_grid, size, **without_fill),
        "vjp2 of push to grid": lambda: pystn.grid_push_vjp2(
            samples, d_grid, d_image.repeat(len(grid), 0), samples, grid, size, wrt="grid", **without_fill
        )[2],
        "count": lambda: pystn.grid_count(grid, size, **without_fill),
        "tangent of count": lambda: pystn.grid_count_jvp(grid, d_grid, size, **without_fill),
    }
    if parametric:

        def grad_kernel():
            found = pystn.grid_sample_vjp(samples, image, grid, wrt=named, **options)[3]
            return np.hstack([g for g in found if g is not None]) if isinstance(found, tuple) else found

        calls["grad_kernel"] = grad_kernel
    return calls


DTYPES = ["float32", "float64", "float16", "complex64"]


# Operations that add to an image, which threads share by bands of its rows, and the others.
ADDING = ["grad_input", "push", "vjp2 to input", "slopes to input", "tangent of push", "both, grad_input", "count"]


def some(calls, turn):
    """One that adds to an image and two others; all of them after a dozen turns."""
    rest = [name for name in calls if name not in ADDING]
    names = [ADDING[turn % len(ADDING)], rest[2 * turn % len(rest)], rest[(2 * turn + 1) % len(rest)]]
    return {name: calls[name] for name in names}


@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "mixed"])
def test_every_kernel_and_boundary_is_bitwise_equal_for_any_number(kernel, padding_mode):
    """One image of one channel; types, operations and kinds of grids take turns."""
    at = list(KERNELS).index(kernel), EVERY_PADDING_MODE.index(padding_mode)
    turn = at[0] * len(EVERY_PADDING_MODE) + at[1]
    rng = np.random.default_rng(turn)
    mode = kernel_for(pystn, kernel, 2)[0]
    kind = ("smooth", "scattered")[turn // len(ADDING) % 2]
    calls = calls_of(rng, (90, 70), (130, 129), kind, DTYPES[sum(at) % 4], 1, mode, padding_mode=padding_mode)
    bitwise_equal(some(calls, turn + at[0]))


FEW = ["nearest", "linear", "cubic", "lanczos2", "bspline2", "prefiltered", "catmull-rom", "mixed"]


@pytest.mark.parametrize("size, shape", [((3000,), (17000,)), ((19, 18, 33), (25, 26, 28))], ids=["1d", "3d"])
@pytest.mark.parametrize("kernel", FEW)
def test_one_and_three_dimensions_are_bitwise_equal_for_any_number(size, shape, kernel):
    at = FEW.index(kernel)
    rng = np.random.default_rng(11)
    mode = kernel_for(pystn, kernel, len(size))[0]
    kind = "smooth" if at % 3 else "scattered"
    calls = calls_of(rng, size, shape, kind, DTYPES[at % 4], 1, mode, padding_mode="mirror", cutoff="edge")
    for turn in range(at, at + 3):
        bitwise_equal(some(calls, turn))


@pytest.mark.parametrize(
    "kernel, channels", [("linear", 1), ("cubic", 1), ("linear", 3), ("prefiltered", 3), ("linear", 40), ("cubic", 40)]
)
def test_an_image_shared_by_a_batch_is_bitwise_equal_for_any_number(channels, kernel):
    """Its gradient is a sum over the batch, with channels enough to share out and without."""
    rng = np.random.default_rng(12)
    mode = kernel_for(pystn, kernel, 2)[0]
    shape = (95, 96) if channels < 40 else (30, 32)
    dtype = DTYPES[(channels + len(kernel)) % 4]
    calls = calls_of(rng, (64, 50), shape, "smooth", dtype, channels, mode, padding_mode="wrap", batch=2)
    bitwise_equal(calls)


@pytest.mark.parametrize("padding_mode", ["mirror", "wrap", "zeros"])
@pytest.mark.parametrize("order, dtype", [(2, "float16"), (3, "float32"), (3, "complex64"), (7, "float64")])
def test_the_spline_filter_is_bitwise_equal_for_any_number(padding_mode, order, dtype):
    rng = np.random.default_rng(13)
    image = rng.standard_normal((2, 1, 131, 137)).astype(dtype)
    cotangent = image.astype(np.float32) if dtype == "float16" else image
    bitwise_equal(
        {
            "coefficients": lambda: pystn.spline_filter(image, order, padding_mode),
            "gradient": lambda: pystn.spline_filter_vjp(cotangent, image, order, padding_mode)[0],
        }
    )


# ---------------------------------------------------------------------------------------------
# Warps

# Image, matrices (of one image each, or of several), output: cut by rows, by matrices, by images and by channels.
WARPED = {
    "one image": ((1, 1), (170, 160), (1,), (129, 130)),
    "one image, wide output": ((1, 2), (40, 50), (1,), (7, 1200)),
    "several matrices": ((1, 2), (60, 50), (1, 5), (40, 42)),
    "shared image": ((1, 1), (130, 60), (3,), (75, 76)),
    "shared matrix": ((3, 2), (60, 50), (1,), (53, 54)),
    "many images": ((20, 1), (28, 28), (20,), (29, 30)),
    "many channels": ((1, 40), (30, 32), (1,), (20, 21)),
}
MAPS = {"turned": 0.9, "shrunk": 5.0, "enlarged": 0.1}  # into bands of the image that many, few or all samples reach


def warp_matrices(rng, warp, leading, scale):
    theta = 0.1 * rng.standard_normal((*leading, warp.rows, warp.ndim + 1))
    theta[..., : warp.ndim, : warp.ndim] += scale * np.linalg.qr(rng.standard_normal((warp.ndim, warp.ndim)))[0]
    if warp.projective:
        theta[..., -1, -1] += 1
    return theta


def warp_calls(rng, warp, batch, size, leading, shape, scale, dtype, mode, **options):
    """Calls of a warp and all its derivatives, with and without the mask."""
    dtype = np.dtype(dtype)
    coordinate = np.dtype("f8" if dtype in ("f8", "c16") else "f4")

    def drawn(*lengths):
        a = rng.standard_normal(lengths)
        return (a + 1j * rng.standard_normal(lengths) if dtype.kind == "c" else a).astype(dtype)

    theta = warp_matrices(rng, warp, leading, scale).astype(coordinate)
    (n, channels), options = batch, {"mode": mode, "fill_value": 0.5, **options}
    last = options.get("channel_axis") == -1

    def laid_out(n, middle):
        return drawn(n, *middle, channels) if last else drawn(n, channels, *middle)

    samples = laid_out(max(n, leading[0]), (*leading[1:], *warp.spatial(shape)))
    assert samples.size * (1 if warp.reduce is None else shape[0]) >= 16384  # below which one thread does it
    image, d_image = laid_out(n, size), laid_out(n, size)
    read, d_theta = (image, theta), rng.standard_normal(theta.shape).astype(coordinate)
    calls = {
        "value": lambda: warp.forward(*read, shape, **options),
        "grad_input": lambda: warp.vjp(samples, *read, shape, wrt="input", **options)[0],
        "grad_theta": lambda: warp.vjp(samples, *read, shape, wrt="theta", **options)[1],
        "both, grad_input": lambda: warp.vjp(samples, *read, shape, **options)[0],
        "both, grad_theta": lambda: warp.vjp(samples, *read, shape, **options)[1],
        "tangent": lambda: warp.jvp(*read, d_image, d_theta, shape, **options),
        "second order, to input": lambda: warp.vjp2(d_image, d_theta, samples, *read, shape, **options)[1],
        "second order, to theta": lambda: warp.vjp2(d_image, d_theta, samples, *read, shape, **options)[2],
    }
    if warp.reduce is not None:
        return calls
    masked = {**options, "return_mask": True}
    d_mask = samples[..., 0].real.copy() if last else samples[:, 0].real.copy()
    wrt = ("input", "theta", "fill_value") + ("kernel",) * (mode != "linear" and mode != "nearest")
    calls["mask"] = lambda: warp.forward(*read, shape, **masked)[1]
    calls["tangent of the mask"] = lambda: warp.jvp(*read, d_image, d_theta, shape, **masked)[1]
    for at, name in enumerate(wrt):
        calls[f"with the mask, grad_{name}"] = lambda at=at: warp.vjp(
            (samples, d_mask), *read, shape, wrt=wrt, **masked
        )[at]
    return calls


EVERY_WARPED = [("affine-2d", name, scale) for name in WARPED for scale in MAPS]
EVERY_WARPED += [("projective", name, list(MAPS)[at % 3]) for at, name in enumerate(WARPED)]


@pytest.mark.parametrize("kind, name, scale", EVERY_WARPED)
def test_warps_are_bitwise_equal_for_any_number(kind, name, scale):
    """Types, kernels and boundaries take turns."""
    batch, size, leading, shape = WARPED[name]
    turn = list(WARPED).index(name) + list(MAPS).index(scale) + (kind == "projective")
    mode, padding_mode = ("linear", "cubic", "nearest", "linear")[turn % 4], ("zeros", "wrap", "border")[turn % 3]
    dtype = ("float32", "float64", "float32", "float16", "complex64")[turn % 5]
    rng = np.random.default_rng(turn)
    calls = warp_calls(
        rng, WARPS[kind], batch, size, leading, shape, MAPS[scale], dtype, mode, padding_mode=padding_mode
    )
    bitwise_equal(calls)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels, channel_axis", [(1, 1), (3, 1), (3, -1), (1, -1)])
def test_a_large_linear_warp_is_bitwise_equal_for_any_number(dtype, channels, channel_axis):
    """The common case: one image, whose gradient is shared out by bands."""
    rng = np.random.default_rng(21)
    options = {"channel_axis": channel_axis}
    calls = warp_calls(
        rng, WARPS["affine-2d"], (1, channels), (110, 120), (1,), (128, 133), 0.9, dtype, "linear", **options
    )
    bitwise_equal(calls)


@pytest.mark.parametrize(
    "kind, batch, size, leading, shape",
    [
        ("affine-1d", (1, 1), (3000,), (1,), (17000,)),
        ("affine-1d", (2, 3), (300,), (2, 2), (1400,)),
        ("affine-3d", (1, 1), (19, 18, 33), (1,), (25, 26, 28)),
        ("affine-3d", (1, 2), (9, 18, 13), (2,), (9, 24, 20)),
        ("project-sum", (1, 1), (19, 18, 33), (1,), (25, 26, 28)),
        ("project-sum", (1, 1), (3, 100, 90), (1,), (2, 130, 129)),
        ("project-max", (1, 1), (3, 100, 90), (1,), (2, 130, 129)),
        ("project-mean", (2, 2), (9, 18, 13), (2, 2), (9, 15, 17)),
        ("project-max", (1, 1), (19, 18, 33), (1,), (25, 26, 28)),
        ("project-max", (1, 3), (9, 18, 13), (2,), (40, 7, 11)),
    ],
)
def test_signals_volumes_and_projections_are_bitwise_equal_for_any_number(kind, batch, size, leading, shape):
    turn = len(kind) + sum(batch)
    scale = list(MAPS.values())[turn % 2]
    dtype, mode = ("float32", "float64", "float16")[turn % 3], ("linear", "cubic", "linear", "nearest")[turn % 4]
    rng = np.random.default_rng(turn)
    bitwise_equal(warp_calls(rng, WARPS[kind], batch, size, leading, shape, scale, dtype, mode, padding_mode="mirror"))
