"""Threads: results do not depend on how many, and how many is the caller's to say."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

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
    "options", [{}, {"mode": "nearest"}, {"padding_mode": "reflection", "subgradient": "central"}], ids=str
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


@pytest.mark.parametrize("operation", ["value", "jvp", "gradient to the image", "gradient to the grid"])
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
    }[operation]
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
