"""Indices of 64 bits: used where arrays are so large that 32 do not suffice, and with the same results."""

from types import SimpleNamespace

import cuda_host
import numpy as np
import pytest
from conftest import coordinates

import pystn
from pystn.options import _resolve as options_of

if cuda_host.COMPILER is None:
    pytest.skip("g++ is not installed", allow_module_level=True)

INT_MAX = 2**31 - 2**16

OPTIONS = [
    {},
    {"padding_mode": "border", "channel_axis": -1},
    {"mode": "cubic", "deterministic": True, "return_mask": True},
    {"mode": pystn.Lanczos(3), "padding_mode": "mirror", "subgradient": "central"},
    {"mode": "nearest", "fill_value": 2.0, "padding_mode": "constant"},
]


@pytest.fixture(scope="module")
def cp():
    return cuda_host.install()


@pytest.fixture
def limit(cp, monkeypatch):
    """Sets what indices of 32 bits are used up to."""
    from pystn.backends.cuda import arrays

    def set_to(most):
        monkeypatch.setattr(arrays, "INT_MAX", most)
        options_of.cache_clear()  # and with them what has been found out for calls that are done again

    yield set_to
    options_of.cache_clear()


@pytest.fixture
def asked(cp, monkeypatch):
    """The names of the kernels that are launched."""
    from pystn.backends.cuda import source

    names, kernel = [], source.kernel

    def noted(name):
        names.append(name)
        return kernel(name)

    monkeypatch.setattr(source, "kernel", noted)
    return names


def functions(rng, options, ndim=2, dtype=np.float32):
    """Calls by name, of all kinds of kernels of the sampler, on arrays of the host."""
    last = options.get("channel_axis") == -1
    size, shape = (5, 6, 4)[:ndim], (9, 8, 3)[:ndim]

    def values(*spatial):
        found = rng.standard_normal((2, 3, *spatial)).astype(dtype)
        return np.moveaxis(found, 1, -1).copy() if last else found

    image, samples, grid = values(*size), values(*shape), coordinates(rng, (2, *shape), size, "normalized", dtype=dtype)
    mask = rng.random((2, *shape)).astype(dtype)
    grad = (samples, mask) if options.get("return_mask") else samples
    slopes = rng.standard_normal((*samples.shape, ndim)).astype(dtype)
    theta = (np.eye(ndim, ndim + 1) + 0.1 * rng.standard_normal((2, ndim, ndim + 1))).astype(dtype)
    bare = {key: value for key, value in options.items() if key not in ("return_mask", "fill_value")}
    yield "forward", pystn.grid_sample, (image, grid), options
    yield "jvp", pystn.grid_sample_jvp, (image, grid, image, grid), options
    yield "vjp-both", pystn.grid_sample_vjp, (grad, image, grid), options
    yield "vjp-input", pystn.grid_sample_vjp, (grad, image, grid), {**options, "wrt": "input"}
    if "fill_value" in options:
        yield "vjp-options", pystn.grid_sample_vjp, (grad, image, grid), {**options, "wrt": "fill_value"}
    yield "vjp2", pystn.grid_sample_vjp2, (image, grid, grad, image, grid), options
    yield "warp", pystn.warp_affine, (image, theta, shape), options
    yield "warp_vjp", pystn.warp_affine_vjp, (grad, image, theta, shape), options
    yield "warp_jvp", pystn.warp_affine_jvp, (image, theta, image, theta, shape), options
    yield "push", pystn.grid_push, (samples, grid, size), bare
    if options.get("mode") == "nearest":
        return  # without slopes nothing is left to do
    yield "vjp-grid", pystn.grid_sample_vjp, (grad, image, grid), {**options, "wrt": "grid"}
    yield "gradient", pystn.grid_gradient, (image, grid), bare
    yield "gradient_vjp", pystn.grid_gradient_vjp, (slopes, image, grid), bare
    yield "gradient_jvp", pystn.grid_gradient_jvp, (image, grid, image, grid), bare
    yield "push_jvp", pystn.grid_push_jvp, (samples, grid, samples, grid, size), bare


def sampled_from_footprints(rng):
    image, grid = rng.standard_normal((2, 3, 12, 11)), coordinates(rng, (2, 5, 6), (12, 11), "normalized", dtype=float)
    samples = rng.standard_normal((2, 3, 5, 6))
    for kind in (pystn.Scaled(), pystn.Elliptical()):
        options = {"antialias": kind}
        yield f"{kind}", pystn.grid_sample, (image, grid), options
        yield f"{kind}-jvp", pystn.grid_sample_jvp, (image, grid, image, grid), options
        yield f"{kind}-vjp", pystn.grid_sample_vjp, (samples, image, grid), options


def on_device(cp, arrays):
    return tuple(
        on_device(cp, array)
        if isinstance(array, tuple)
        else cp.asarray(array)
        if isinstance(array, np.ndarray)
        else array
        for array in arrays
    )


def flat(found):
    return [array for part in found for array in flat(part)] if isinstance(found, tuple) else [found]


def results(cp, function, arrays, options):
    found = function(*on_device(cp, arrays), **options)
    return [array.get() for array in flat(found) if array is not None]


def check(cp, limit, asked, function, arrays, options):
    limit(INT_MAX)
    expected = results(cp, function, arrays, options)
    assert asked
    assert not any("long long" in name for name in asked)
    asked.clear()
    limit(-1)
    found = results(cp, function, arrays, options)
    asked = [name for name in asked if not name.startswith("sum_chunks")]  # which has 64 bits in any case
    assert asked
    assert all("long long" in name for name in asked)
    for ours, theirs in zip(found, expected, strict=True):
        # What is added to an image is added in another order.
        scale = 100 * np.finfo(theirs.dtype).eps * np.abs(theirs).max(initial=0)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=scale)


CALLS = [
    pytest.param(*call, id=f"{call[0]}-{number}")
    for number, options in enumerate(OPTIONS)
    for call in functions(np.random.default_rng(number), options)
]
CALLS += [
    pytest.param(*call, id=f"{call[0]}-{ndim}d")
    for ndim in (1, 3)
    for call in functions(np.random.default_rng(ndim), {}, ndim, np.float64)
]
CALLS += [pytest.param(*call, id=call[0]) for call in sampled_from_footprints(np.random.default_rng(0))]


@pytest.mark.parametrize("name, function, arrays, options", CALLS)
def test_results_are_the_same(cp, limit, asked, name, function, arrays, options):
    check(cp, limit, asked, function, arrays, options)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_projections(cp, limit, asked, rng, reduce):
    image, theta = rng.standard_normal((2, 3, 4, 5, 6)), np.eye(3, 4)[None] + 0.1 * rng.standard_normal((2, 3, 4))
    samples = rng.standard_normal((2, 3, 5, 6))
    check(cp, limit, asked, pystn.warp_project, (image, theta, (4, 5, 6), reduce), {})
    asked.clear()
    check(cp, limit, asked, pystn.warp_project_vjp, (samples, image, theta, (4, 5, 6), reduce), {})


def test_the_image_decides(cp, asked):
    image, grid = cp.ones((1, 1, 1, 1)), cp.zeros((1, 1, 1, 2))
    for size, index in ((30_000, "int"), (50_000, "long long")):
        asked.clear()
        assert pystn.grid_sample(cp.broadcast_to(image, (1, 1, size, size)), grid).get() == 1
        assert [name.split(", ")[-3] for name in asked] == [index]


@pytest.mark.parametrize(
    "shape, strides, dtype, index",
    [
        ((2, 2), (2**31, 4), "float32", "int"),
        ((2, 2), (2**32, 4), "float32", "long long"),
        ((2, 2), (-(2**32), 4), "float32", "long long"),
        ((1, 2), (2**40, 4), "float32", "int"),
        ((1 << 15, 1 << 15), (0, 0), "float64", "int"),
        ((3, 3), (2**32, 8), "complex64", "long long"),
    ],
)
def test_memory_decides(cp, shape, strides, dtype, index):
    from pystn.backends.cuda.arrays import extent_of, integer_for

    array = SimpleNamespace(shape=shape, strides=strides, itemsize=np.dtype(dtype).itemsize)
    assert integer_for(extent_of(array)) == index


def test_threads_that_share_samples_decide(cp, limit, asked, rng):
    """Not after tiles were chosen, for which there are no kernels with indices of 64 bits."""
    image, size = rng.standard_normal((1, 64, 40, 40)), (40, 40)
    grid, samples = coordinates(rng, (16, 8, 16), size, "normalized", dtype=float), rng.standard_normal((16, 64, 8, 16))
    problem, options = (samples, image, grid), {"wrt": "input"}
    limit(INT_MAX)
    expected = results(cp, pystn.grid_sample_vjp, problem, options)
    assert ["tiles" in name for name in asked] == [True]
    asked.clear()
    limit(300_000)  # the arrays do not reach as far, but 16 threads that share each pixel do
    found = results(cp, pystn.grid_sample_vjp, problem, options)
    assert ["tiles" in name for name in asked] == [False]
    assert "long long" in asked[0]
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-12)


def test_axes_that_do_not_merge(cp, rng):
    """Eight at most between batch and coordinates, counted after those that follow each other in memory are one."""
    image, shape = rng.standard_normal((1, 2, 4, 4)), (2,) * 9
    grid = coordinates(rng, (1, *shape), (4, 4), "normalized", dtype=float)
    expected = pystn.grid_sample(image, grid)
    reversed_axes = (0, *range(9, 0, -1), 10)
    apart = np.ascontiguousarray(grid.transpose(reversed_axes)).transpose(reversed_axes)
    np.testing.assert_array_equal(pystn.grid_sample(cp.asarray(image), cp.asarray(grid)).get(), expected)
    with pytest.raises(ValueError, match=r"too many axes: expected 8 at most, pass cupy.ascontiguousarray"):
        pystn.grid_sample(cp.asarray(image), cuda_host.laid_out(apart))
    np.testing.assert_array_equal(
        pystn.grid_sample(cp.asarray(image), cp.ascontiguousarray(cuda_host.laid_out(apart))).get(), expected
    )


def test_one_thread_for_all_channels_of_a_sample(cp, rng, monkeypatch):
    """Where there are samples enough to keep a device busy."""
    from pystn.backends.cuda import jobs

    image, grid = rng.standard_normal((2, 9, 4, 4)), coordinates(rng, (2, 6, 5), (4, 4), "normalized", dtype=float)
    samples = rng.standard_normal((2, 9, 6, 5))
    monkeypatch.setattr(jobs, "ENOUGH_THREADS", 60)
    options_of.cache_clear()
    np.testing.assert_array_equal(
        pystn.grid_sample(cp.asarray(image), cp.asarray(grid)).get(), pystn.grid_sample(image, grid)
    )
    for ours, theirs in zip(
        results(cp, pystn.grid_sample_vjp, (samples, image, grid), {}),
        pystn.grid_sample_vjp(samples, image, grid),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    options_of.cache_clear()
