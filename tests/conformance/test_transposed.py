"""Batches of images of many channels, plane by plane in memory, which tasks rearrange before they read them. Each image
alone goes another way: samples have the same bits, and gradients are the same up to the order of their sums."""

import numpy as np
import pytest

import pystn

BATCH = 9
KINDS = [
    ("float32", "nearest", "zeros", 16, (9, 8)),
    ("float32", "linear", "zeros", 16, (56, 56)),
    ("float32", "linear", "zeros", 40, (23, 17)),
    ("float32", "linear", "border", 17, (12, 70)),
    ("float32", "linear", "reflection", 33, (5, 6)),
    ("float32", "linear", "wrap", 20, (8, 8)),
    ("float32", "cubic", "zeros", 19, (20, 31)),
    ("float32", "linear", "zeros", 21, (150,)),
    ("float32", "linear", "border", 18, (7, 6, 9)),
    ("float32", "cubic", "zeros", 16, (5, 6, 5)),
    ("float32", pystn.BSpline(2), "mirror", 16, (9, 8)),
    ("float32", pystn.Lanczos(3), "zeros", 16, (9, 8)),
    ("float64", "nearest", "border", 16, (9, 8)),
    ("float64", "linear", "zeros", 24, (31, 30)),
    ("float64", "cubic", "reflection", 17, (9, 11)),
    ("float64", "linear", "zeros", 16, (6, 7, 8)),
]
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-4}, "float64": {"rtol": 1e-12, "atol": 1e-12}}


def case(dtype, channels, size, shape=None):
    rng = np.random.default_rng(channels)
    shape = shape or tuple(s + 1 for s in size)
    image = rng.standard_normal((BATCH, channels, *size)).astype(dtype)
    grid = rng.uniform(-1.2, 1.2, (BATCH, *shape, len(size))).astype(dtype)
    grid[0].flat[:3] = np.nan, np.inf, -np.inf
    grad = rng.standard_normal((BATCH, channels, *shape)).astype(dtype)
    return image, grid, grad


def one_by_one(call, *arrays):
    results = [call(*(array[n : n + 1] for array in arrays)) for n in range(BATCH)]
    if isinstance(results[0], tuple):
        return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))
    return np.concatenate(results)


def spaced(array, gap=3):
    """The same in memory whose rows and planes are apart."""
    memory = np.full((*array.shape[:1], array.shape[1] + 1, *array.shape[2:-1], array.shape[-1] + gap), 7, array.dtype)
    view = memory[:, : array.shape[1], ..., : array.shape[-1]]
    view[...] = array
    return view


@pytest.mark.parametrize(("dtype", "mode", "padding_mode", "channels", "size"), KINDS)
class TestOneByOne:
    def test_samples(self, dtype, mode, padding_mode, channels, size):
        image, grid, _ = case(dtype, channels, size)
        options = {"mode": mode, "padding_mode": padding_mode}
        expected = one_by_one(lambda u, g: pystn.grid_sample(u, g, **options), image, grid)
        np.testing.assert_array_equal(pystn.grid_sample(image, grid, **options), expected)
        out = spaced(np.zeros_like(expected))
        pystn.grid_sample(spaced(image), grid, out=out, **options)
        np.testing.assert_array_equal(out, expected)
        assert (out.base[:, -1] == 7).all()
        assert (out.base[..., -3:] == 7).all()

    def test_gradients(self, dtype, mode, padding_mode, channels, size):
        image, grid, grad = case(dtype, channels, size)
        options = {"mode": mode, "padding_mode": padding_mode}
        expected = one_by_one(lambda g, u, x: pystn.grid_sample_vjp(g, u, x, **options), grad, image, grid)
        both = pystn.grid_sample_vjp(grad, image, grid, **options)
        for got, wanted in zip(both, expected, strict=True):
            np.testing.assert_allclose(got, wanted, **TOLERANCE[dtype])
        apart = pystn.grid_sample_vjp(spaced(grad), spaced(image), grid, **options)
        for name, got, wanted in zip(("input", "grid"), apart, both, strict=True):
            np.testing.assert_array_equal(got, wanted)
            alone = pystn.grid_sample_vjp(grad, image, grid, wrt=(name,), **options)
            np.testing.assert_array_equal(next(x for x in alone if x is not None), wanted)

    def test_any_number_of_threads(self, dtype, mode, padding_mode, channels, size):
        image, grid, grad = case(dtype, channels, size)
        options = {"mode": mode, "padding_mode": padding_mode}
        results = []
        for count in (1, 2, 3, 7, 40):
            with pystn.num_threads(count):
                results.append(
                    (
                        pystn.grid_sample(image, grid, **options),
                        *pystn.grid_sample_vjp(grad, image, grid, **options),
                        pystn.grid_sample_vjp(grad, image, grid, wrt=("input",), **options)[0],
                    )
                )
        for others in results[1:]:
            for got, wanted in zip(others, results[0], strict=True):
                np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(200,), (30, 28), (9, 10, 8)])
def test_warps(dtype, size):
    ndim = len(size)
    image, _, _ = case(dtype, 18, size)
    rng = np.random.default_rng(3)
    theta = np.tile(np.eye(ndim, ndim + 1), (BATCH, 1, 1)) + 0.2 * rng.standard_normal((BATCH, ndim, ndim + 1))
    theta = theta.astype(dtype)
    shape = tuple(s + 1 for s in size)
    expected = one_by_one(lambda u, t: pystn.warp_affine(u, t, shape), image, theta)
    np.testing.assert_array_equal(pystn.warp_affine(image, theta, shape), expected)
    grad = rng.standard_normal(expected.shape).astype(dtype)
    wanted = one_by_one(lambda g, u, t: pystn.warp_affine_vjp(g, u, t, shape), grad, image, theta)
    for got, one in zip(pystn.warp_affine_vjp(grad, image, theta, shape), wanted, strict=True):
        bound = 200 * np.finfo(dtype).eps * np.abs(one).max()
        np.testing.assert_allclose(got, one, rtol=0, atol=bound)


@pytest.mark.parametrize("before", [0, 1, 5])
def test_large_outputs(before):
    """Those that go past the caches begin anywhere in a line of memory."""
    image, grid, _ = case("float32", 32, (21, 23), (64, 64))
    count = BATCH * 32 * 64 * 64
    memory = np.full(count + 64, 7, np.float32)
    start = -memory.ctypes.data // 4 % 16 + before
    out = memory[start : start + count].reshape(BATCH, 32, 64, 64)
    pystn.grid_sample(image, grid, out=out)
    np.testing.assert_array_equal(out, one_by_one(pystn.grid_sample, image, grid))
    assert (memory[:start] == 7).all()
    assert (memory[start + count :] == 7).all()


def test_large_gradients():
    """The same of gradients to images."""
    image, grid, grad = case("float32", 32, (64, 65), (21, 23))
    expected = one_by_one(lambda g, u, x: pystn.grid_sample_vjp(g, u, x, wrt=("input",))[0], grad, image, grid)
    got = pystn.grid_sample_vjp(grad, image, grid, wrt=("input",))[0]
    np.testing.assert_allclose(got, expected, **TOLERANCE["float32"])


def broadcast(array, axes):
    """The array's first elements along some axes, repeated without being stored again."""
    first = array[tuple(slice(1) if a in axes else slice(None) for a in range(array.ndim))]
    return np.broadcast_to(first, array.shape)


@pytest.mark.parametrize("axes", [(1,), (2, 3), (3,), (1, 2, 3), (0, 1, 2, 3), (0,)])
def test_arrays_that_repeat_themselves(axes):
    image, grid, grad = case("float32", 17, (9, 8))
    for u, g in ((broadcast(image, axes), grad), (image, broadcast(grad, axes))):
        np.testing.assert_array_equal(pystn.grid_sample(u, grid), pystn.grid_sample(u.copy(), grid))
        results = []
        for count in (1, 7):
            with pystn.num_threads(count):
                results.append(pystn.grid_sample_vjp(g, u, grid))
        for got, again, wanted in zip(*results, pystn.grid_sample_vjp(g.copy(), u.copy(), grid), strict=True):
            np.testing.assert_array_equal(got, again)
            np.testing.assert_allclose(got, wanted, **TOLERANCE["float32"])


@pytest.mark.parametrize("size", [(9, 8), (5, 4, 6)])
def test_other_derivatives(size):
    """Those that do not go this way are cut into whole images too."""
    image, grid, grad = case("float64", 16, size)
    d_image, d_grid = image[::-1].copy(), np.nan_to_num(grid[::-1], posinf=1, neginf=-1)
    tangent = pystn.grid_sample_jvp(image, grid, d_image, d_grid)
    np.testing.assert_array_equal(tangent, one_by_one(pystn.grid_sample_jvp, image, grid, d_image, d_grid))
    second = pystn.grid_sample_vjp2(d_image, d_grid, grad, image, grid)
    wanted = one_by_one(pystn.grid_sample_vjp2, d_image, d_grid, grad, image, grid)
    for got, one in zip(second, wanted, strict=True):
        np.testing.assert_allclose(got, one, **TOLERANCE["float64"])


def test_projections():
    image, _, _ = case("float64", 16, (5, 6, 7))
    theta = np.tile(np.eye(3, 4), (BATCH, 1, 1)) + 0.1 * np.random.default_rng(1).standard_normal((BATCH, 3, 4))
    size = (4, 5, 6)
    value = pystn.warp_project(image, theta, size)
    np.testing.assert_array_equal(value, one_by_one(lambda u, t: pystn.warp_project(u, t, size), image, theta))
    grad = np.random.default_rng(2).standard_normal(value.shape)
    wanted = one_by_one(lambda g, u, t: pystn.warp_project_vjp(g, u, t, size), grad, image, theta)
    for got, one in zip(pystn.warp_project_vjp(grad, image, theta, size), wanted, strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-11, atol=1e-11)
