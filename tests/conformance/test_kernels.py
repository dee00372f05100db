"""The kernels by hand and by their laws, and the filter that makes splines interpolate."""

import math

import numpy as np
import oracle
import pytest
from conftest import EVERY_PADDING_MODE, KERNELS, TABLE, assert_same_sums, coordinates, kernel_for

import pystn


def weights_at(backend, mode, t, taps=12, **options):
    """What each pixel of an axis weighs at position taps // 2 + t: the samples of unit images."""
    units = np.eye(taps).reshape(1, taps, taps)
    point = np.array([[[taps // 2 + t]]])
    value = pystn.grid_sample(backend.array(units), backend.array(point), mode, coords="pixel", **options)
    return backend.numpy(value)[0, :, 0]


@pytest.mark.parametrize(
    "kernel, t, expected",
    [
        ("nearest", 0.5, {0: 1}),  # of pixels 6 and 7 the even one
        ("nearest", -0.5, {0: 1}),
        ("nearest-up", 0.5, {1: 1}),
        ("nearest-up", -0.5, {0: 1}),
        ("bspline0", 0.5, {1: 1}),
        ("linear", 0.25, {0: 0.75, 1: 0.25}),
        ("bspline1", 0.25, {0: 0.75, 1: 0.25}),
        ("cubic", 0.5, {-1: -0.09375, 0: 0.59375, 1: 0.59375, 2: -0.09375}),
        ("catmull-rom", 0.5, {-1: -0.0625, 0: 0.5625, 1: 0.5625, 2: -0.0625}),
        ("bspline2", 0.0, {-1: 1 / 8, 0: 6 / 8, 1: 1 / 8}),
        ("bspline2", 0.5, {0: 1 / 2, 1: 1 / 2}),
        ("bspline3", 0.0, {-1: 1 / 6, 0: 4 / 6, 1: 1 / 6}),
        ("bspline3", 0.5, {-1: 1 / 48, 0: 23 / 48, 1: 23 / 48, 2: 1 / 48}),
        ("bspline4", 0.0, {-2: 1 / 384, -1: 76 / 384, 0: 230 / 384, 1: 76 / 384, 2: 1 / 384}),
        ("bspline5", 0.0, {-2: 1 / 120, -1: 26 / 120, 0: 66 / 120, 1: 26 / 120, 2: 1 / 120}),
        (
            "bspline7",
            0.0,
            {-3: 1 / 5040, -2: 120 / 5040, -1: 1191 / 5040, 0: 2416 / 5040, 1: 1191 / 5040, 2: 120 / 5040, 3: 1 / 5040},
        ),
        ("lanczos2", 0.0, {0: 1}),
        ("lanczos2", 0.5, {-1: -0.0625, 0: 0.5625, 1: 0.5625, 2: -0.0625}),
        ("tabulated", 0.0, {-1: None, 0: TABLE[4], 1: None}),
    ],
)
def test_weights_by_hand(backend, kernel, t, expected):
    actual = weights_at(backend, kernel_for(pystn, kernel, 1)[0], t)
    for i, weight in enumerate(actual):
        wanted = expected.get(i - 6, 0)
        assert wanted is None or abs(weight - wanted) < 1e-14, (i - 6, weight, wanted)


def test_gaussian_by_hand(backend):
    """Eight taps for 4 standard deviations of 0.8, which sum to one."""
    d = 0.3 - np.arange(-3, 5)
    expected = np.exp(-(d**2) / (2 * 0.8**2))
    actual = weights_at(backend, pystn.Gaussian(0.8), 0.3)
    np.testing.assert_allclose(actual[3:11], expected / expected.sum(), rtol=1e-14)
    assert not actual[:3].any()
    assert not actual[11:].any()
    assert np.count_nonzero(weights_at(backend, pystn.Gaussian(0.8, truncate=2.0), 0.3)) == 4


def test_a_table_of_the_hat_is_linear_but_for_its_slopes(backend, rng):
    """At the entries the table itself; a fine table of a smooth kernel is that kernel."""
    entries = np.linspace(-1.75, 1.75, len(TABLE))
    for at, value in list(zip(entries, TABLE, strict=True))[1:-1]:
        i = math.floor(at)
        assert abs(weights_at(backend, pystn.Tabulated(TABLE, 1.75), at - i)[6 - i] - value) < 1e-13
    x = np.linspace(-2, 2, 4001)
    fine = tuple(1 / 6 * np.maximum(0, 2 - np.abs(x)) ** 3 - 4 / 6 * np.maximum(0, 1 - np.abs(x)) ** 3)
    for t in rng.uniform(0, 1, 5):
        ours = weights_at(backend, pystn.Tabulated(fine, 2.0), t)
        np.testing.assert_allclose(ours, weights_at(backend, pystn.BSpline(3), t), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name not in ("tabulated", "prefiltered")])
@pytest.mark.parametrize("padding_mode", ["border", "mirror", "symmetric", "wrap", "constant"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_constant_image_stays_what_it_is(backend, rng, kernel, padding_mode, ndim):
    """Weights sum to one: no kernel but a table's changes a constant, and its slopes are zero."""
    mode, _ = kernel_for(pystn, kernel, ndim)
    size = (5, 4, 3)[:ndim]
    arrays = [backend.array(np.full((1, 1, *size), 3.0)), backend.array(coordinates(rng, (1, 50), size, "pixel", 2))]
    options = {"padding_mode": padding_mode, "coords": "pixel", "fill_value": 3.0}
    value = pystn.grid_sample(*arrays, mode, **options)
    np.testing.assert_allclose(backend.numpy(value), 3, rtol=0, atol=1e-13)
    slopes = pystn.grid_gradient(*arrays, mode, **options)
    np.testing.assert_allclose(backend.numpy(slopes), 0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", ["cubic", "catmull-rom", "bspline3", "bspline5", "bspline7"])
def test_derivatives_of_polynomials(backend, rng, kernel):
    """Kernels that reproduce linear images give their slopes, away from the borders, exactly."""
    mode, _ = kernel_for(pystn, kernel, 2)
    y, x = np.mgrid[0:16.0, 0:18.0]
    image = 2 * x - 3 * y + 5
    grid = rng.uniform(5, 10, (1, 30, 2))
    arrays = [backend.array(image[None, None]), backend.array(grid)]
    value = backend.numpy(pystn.grid_sample(*arrays, mode, coords="pixel"))
    slopes = backend.numpy(pystn.grid_gradient(*arrays, mode, coords="pixel"))
    if kernel != "cubic":  # of a = -0.75, which does not reproduce them
        np.testing.assert_allclose(value[0, 0], 2 * grid[0, :, 0] - 3 * grid[0, :, 1] + 5, rtol=0, atol=1e-12)
        np.testing.assert_allclose(slopes[0, 0], np.broadcast_to([2, -3], (30, 2)), rtol=0, atol=1e-12)
    else:
        assert np.abs(slopes[0, 0] - [2, -3]).max() > 0.01


@pytest.mark.parametrize("name, kernel", [("bicubic", "cubic"), ("cubic", "cubic"), ("linear", "bspline1")])
def test_other_names(backend, rng, name, kernel):
    image, grid = rng.standard_normal((1, 2, 5, 6)), rng.uniform(-1.3, 1.3, (1, 20, 2))
    values = [
        backend.numpy(pystn.grid_sample(backend.array(image), backend.array(grid), mode))
        for mode in (name, kernel_for(pystn, kernel, 2)[0])
    ]
    np.testing.assert_array_equal(*values)


def test_splines_of_order_0_and_1_are_nearest_and_linear_on_the_lattice(backend, rng):
    """In every respect: ties, slopes at kinks, the folding of the coordinate."""
    image = rng.standard_normal((1, 2, 4, 8))
    grid = np.round(coordinates(rng, (1, 60), (4, 8), "pixel", 3) * 2) / 2
    cotangent = rng.standard_normal((1, 2, 60))
    for padding_mode in EVERY_PADDING_MODE:
        for subgradient in ("right", "left", "central", "zero"):
            options = {"padding_mode": padding_mode, "subgradient": subgradient, "coords": "pixel"}
            arrays = [backend.array(a) for a in (cotangent, image, grid)]
            for spline, mode in ((pystn.BSpline(0), pystn.Nearest(ties="up")), (pystn.BSpline(1), pystn.Linear())):
                gradients = [map(backend.numpy, pystn.grid_sample_vjp(*arrays, m, **options)) for m in (spline, mode)]
                to_image, to_grid = zip(*gradients, strict=True)
                assert_same_sums(backend, *to_image)
                np.testing.assert_array_equal(*to_grid)


FILTER_PADDINGS = ("zeros", "border", "mirror", "symmetric", "wrap")
FILTER_SIZES = [(1,), (2,), (3,), (13,), (5, 4), (1, 6), (4, 2, 3), (70,)]


@pytest.mark.parametrize("order", range(8))
@pytest.mark.parametrize("padding_mode", FILTER_PADDINGS)
@pytest.mark.parametrize("size", FILTER_SIZES, ids=str)
def test_spline_filter(backend, rng, order, padding_mode, size):
    """Coefficients, and both derivatives, against the dense system; the dot test."""
    input, cotangent = rng.standard_normal((2, 2, 3, *size))
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-4)):
        for axis in (1, -1):
            u, g = (np.moveaxis(a, 1, axis).astype(dtype) for a in (input, cotangent))
            u, g = np.ascontiguousarray(u), np.ascontiguousarray(g)
            options = {"order": order, "padding_mode": padding_mode, "channel_axis": axis}
            results = [
                pystn.spline_filter(backend.array(u), **options),
                pystn.spline_filter_vjp(backend.array(g), backend.array(u), **options)[0],
                pystn.spline_filter_jvp(backend.array(u), backend.array(g), **options),
            ]
            expected = [
                oracle.spline_filter(input, order, padding_mode),
                oracle.spline_filter_vjp(cotangent, order, padding_mode),
                oracle.spline_filter_jvp(cotangent, order, padding_mode),
            ]
            results = [backend.numpy(a) for a in results]
            for actual, wanted in zip(results, expected, strict=True):
                assert actual.dtype == dtype
                bound = tolerance * max(1, np.abs(wanted).max())
                np.testing.assert_allclose(np.moveaxis(actual, axis, 1), wanted, rtol=0, atol=bound)
            left, right = (results[0] * g).sum(dtype=float), (results[1] * u).sum(dtype=float)
            assert abs(left - right) <= tolerance * max(1, np.abs(results[0] * g).sum())


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (1, 2), ()], ids=str)
def test_spline_filter_along_some_axes(backend, rng, axes):
    input = rng.standard_normal((2, 3, 5, 6, 4))
    actual = backend.numpy(pystn.spline_filter(backend.array(input), 3, axes=axes))
    np.testing.assert_allclose(actual, oracle.spline_filter(input, 3, axes=axes), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", range(2, 8))
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(7,), (5, 4), (2, 1, 3)], ids=str)
def test_prefiltered_splines_interpolate(backend, rng, order, padding_mode, align_corners, size):
    """At pixel centres they are the image, whatever is beyond its borders but a fill."""
    image = rng.standard_normal((1, 2, *size))
    axes = [oracle.lattice(n, align_corners) for n in size]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1)[None]
    mode = pystn.BSpline(order, prefilter=True)
    value = pystn.grid_sample(backend.array(image), backend.array(grid), mode, padding_mode, align_corners)
    np.testing.assert_allclose(backend.numpy(value), image, rtol=0, atol=1e-11)


@pytest.mark.parametrize("order", range(2, 8))
@pytest.mark.parametrize("padding_mode", FILTER_PADDINGS)
def test_prefilter_is_the_filter_and_then_the_sampler(backend, rng, order, padding_mode):
    """Also in the gradient to the image, which goes back through the filter."""
    image, grid = rng.standard_normal((2, 3, 6, 5)), rng.uniform(-1.7, 1.7, (2, 9, 2))
    cotangent = backend.array(rng.standard_normal((2, 3, 9)))
    arrays = [backend.array(a) for a in (image, grid)]
    options = {"padding_mode": padding_mode}
    whole = [
        pystn.grid_sample(*arrays, pystn.BSpline(order, prefilter=True), **options),
        *pystn.grid_sample_vjp(cotangent, *arrays, pystn.BSpline(order, prefilter=True), **options),
    ]
    coefficients = pystn.spline_filter(arrays[0], order, padding_mode)
    value = pystn.grid_sample(coefficients, arrays[1], pystn.BSpline(order), **options)
    gradients = pystn.grid_sample_vjp(cotangent, coefficients, arrays[1], pystn.BSpline(order), **options)
    steps = [value, pystn.spline_filter_vjp(gradients[0], arrays[0], order, padding_mode)[0], gradients[1]]
    for a, b in zip(whole, steps, strict=True):
        b = backend.numpy(b)
        np.testing.assert_allclose(backend.numpy(a), b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("size", [(4,), (1,), (2, 1), (1, 1), (2, 3, 1), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("kernel", KERNELS)
def test_images_narrower_than_the_kernel(backend, rng, size, padding_mode, kernel):
    """Every tap that wraps or reflects lands on one of few pixels, often many times around."""
    mode, described = kernel_for(pystn, kernel, len(size))
    input, cotangent = rng.standard_normal((1, 2, *size)), rng.standard_normal((1, 2, 12))
    grid = coordinates(rng, (1, 12), size, "pixel", 5)
    options = {"padding_mode": padding_mode, "coords": "pixel"}
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    value = backend.numpy(pystn.grid_sample(*arrays[1:], mode, **options))
    expected = oracle.grid_sample(input, grid, mode=described, **options)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12)
    expected = oracle.grid_sample_vjp(cotangent, input, grid, mode=described, **options)
    for actual, wanted in zip(pystn.grid_sample_vjp(*arrays, mode, **options), expected, strict=True):
        bound = 1e-12 * max(1, np.abs(wanted).max())
        np.testing.assert_allclose(backend.numpy(actual), wanted, rtol=0, atol=bound)
