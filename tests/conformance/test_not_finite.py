"""Coordinates and pixels that are no ordinary numbers."""

import itertools

import numpy as np
import pytest
from conftest import assert_same_sums

import pystn

STRANGE = [np.nan, np.inf, -np.inf]
SIZES = [(12, 10), (3, 4), (1, 1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("layout", [1, -1])
def test_a_coordinate_that_is_not_finite_is_outside(backend, cell, rng, dtype, size, layout):
    """Value 0, no gradient to it and none from it, under every boundary."""
    for strange, axis in itertools.product(STRANGE, (0, 1)):
        what = f"{strange} along axis {axis}"
        grid = rng.uniform(-0.9, 0.9, (1, 8, 8, 2)).astype(dtype)
        lost = rng.random((8, 8)) < 0.3
        grid[0, lost, axis] = strange
        image = rng.standard_normal((1, 2, *size)).astype(dtype) + 3
        cotangent = rng.standard_normal((1, 2, 8, 8)).astype(dtype)
        image, cotangent = (np.moveaxis(a, 1, layout).copy() for a in (image, cotangent))
        options = {**cell, "channel_axis": layout}
        arrays = [backend.array(a) for a in (cotangent, image, grid)]
        value = np.moveaxis(backend.numpy(pystn.grid_sample(*arrays[1:], **options)), layout, 1)
        assert not value[:, :, lost].any(), what
        grad_input, grad_grid = map(backend.numpy, pystn.grid_sample_vjp(*arrays, **options))
        assert not grad_grid[0, lost].any(), what
        assert np.isfinite(grad_grid).all(), what
        silent = np.moveaxis(cotangent, layout, 1).copy()
        silent[:, :, lost] = 0
        arrays[0] = backend.array(np.moveaxis(silent, 1, layout).copy())
        expected = backend.numpy(pystn.grid_sample_vjp(*arrays, **options)[0])
        assert_same_sums(backend, grad_input, expected, what)
        tangent = backend.numpy(
            pystn.grid_sample_jvp(*arrays[1:], arrays[1], backend.array(np.ones_like(grid)), **options)
        )
        assert not np.moveaxis(tangent, layout, 1)[:, :, lost].any(), what


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("mode", ["cubic", "lanczos3", "lanczos4"])
@pytest.mark.parametrize("padding_mode", ["zeros", "constant", "border", "mirror", "wrap"])
@pytest.mark.parametrize("channels, layout", [(1, 1), (3, 1), (3, -1), (5, -1)])
def test_taps_of_weight_zero_are_not_read(backend, rng, dtype, mode, padding_mode, channels, layout):
    """On the centres of pixels a sample is the pixel, whatever is beside it: moved by whole pixels, and in part by a
    half, where taps on one axis are idle."""
    kernel = mode if mode == "cubic" else pystn.Lanczos(int(mode[-1]))
    image = rng.standard_normal((1, channels, 70, 90)).astype(dtype)
    image[:, :, ::7, ::9], image[:, :, 3::11, 4::13], image[0, 0, 20] = np.nan, np.inf, -np.inf
    options = {"mode": kernel, "padding_mode": padding_mode, "coords": "pixel", "channel_axis": layout}
    given = backend.array(np.moveaxis(image, 1, layout).copy())

    def sampled(x, y):
        grid = np.stack(np.broadcast_arrays(x, y[:, None]), -1)[None].astype(np.float32)
        return np.moveaxis(backend.numpy(pystn.grid_sample(given, backend.array(grid), **options)), layout, 1)

    x, y = np.arange(80), np.arange(60)
    np.testing.assert_array_equal(sampled(x + 10, y + 10), image[:, :, 10:, 10:])
    # Between two columns, on rows: what other rows hold is not seen.
    between = sampled(x + 5.5, y + 5)
    alone = np.array(image)
    for row in range(5, 65):
        alone[:] = 0
        alone[:, :, row] = image[:, :, row]
        only = pystn.grid_sample(
            backend.array(np.moveaxis(alone, 1, layout).copy()),
            backend.array(np.stack([x + 5.5, np.full(80, row)], -1)[None, None].astype(np.float32)),
            **options,
        )
        np.testing.assert_array_equal(between[:, :, row - 5], np.moveaxis(backend.numpy(only), layout, 1)[:, :, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_huge_and_tiny_coordinates_are_finite_work(backend, cell, rng, dtype, size):
    limits = np.finfo(dtype)
    special = np.array([limits.max, -limits.max, limits.tiny, limits.smallest_subnormal, 1e30, -1e18, 2.0**31, 0, -0.0])
    grid = rng.choice(special.astype(dtype), (1, 20, 20, 2))
    image = rng.uniform(1, 2, (1, 2, *size)).astype(dtype)
    arrays = [backend.array(a) for a in (image, grid)]
    value = backend.numpy(pystn.grid_sample(*arrays, **cell))
    assert np.isfinite(value).all()
    if cell["padding_mode"] != "zeros":  # somewhere in the image
        assert value.min() >= 1 - 1e-6
        assert value.max() <= 2 + 1e-6
    for gradient in pystn.grid_sample_vjp(backend.array(value), *arrays, **cell):
        assert np.isfinite(backend.numpy(gradient)).all()


def test_far_outside_border_is_the_corner(backend, rng):
    image = rng.standard_normal((1, 1, 9, 11))
    corners = np.array([[-1e300, -1e300], [1e300, -1e300], [-1e300, 1e300], [1e300, 1e300]])[None]
    for dtype in (np.float32, np.float64):
        points = np.clip(corners, -np.finfo(dtype).max, np.finfo(dtype).max).astype(dtype)
        value = pystn.grid_sample(backend.array(image.astype(dtype)), backend.array(points), padding_mode="border")
        expected = image[0, 0][[0, 0, -1, -1], [0, -1, 0, -1]].astype(dtype)
        np.testing.assert_array_equal(backend.numpy(value)[0, 0], expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bad_pixel_reaches_the_samples_of_its_cells_alone(backend, bad, dtype):
    image = np.zeros((1, 1, 20, 20), dtype)
    image[0, 0, 9, 9] = bad
    y, x = np.mgrid[0:20:0.25, 0:20:0.25]
    grid = np.stack([x, y], -1)[None].astype(dtype)
    value = backend.numpy(pystn.grid_sample(backend.array(image), backend.array(grid), coords="pixel"))
    touched = (np.abs(np.floor(x) - 8.5) <= 0.5) & (np.abs(np.floor(y) - 8.5) <= 0.5)
    np.testing.assert_array_equal(~np.isfinite(value[0, 0]), touched)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_bad_cotangent_reaches_the_taps_of_its_sample_alone(backend, bad, dtype):
    cotangent = np.zeros((1, 2, 20, 20), dtype)
    cotangent[0, 1, 6, 7] = bad
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1)[None] * 0.9 + 0.3
    image = np.zeros((1, 2, 20, 20), dtype)
    arrays = [backend.array(a) for a in (cotangent, image, grid.astype(dtype))]
    gradient = backend.numpy(pystn.grid_sample_vjp(*arrays, coords="pixel", wrt="input")[0])
    expected = np.zeros((1, 2, 20, 20), bool)
    expected[0, 1, 5:7, 6:8] = True  # position (6.6, 5.7)
    np.testing.assert_array_equal(~np.isfinite(gradient), expected)


def cell_touches(p, pixel, on_lattice_both):
    """Whether the cells of positions p have the pixel as a corner; a centre may belong to both its cells."""
    cell = np.floor(p)
    touched = (cell == pixel) | (cell == pixel - 1)
    return touched | (on_lattice_both & (p == pixel + 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("subgradient", ["right", "left", "central", "zero"])
def test_a_bad_pixel_reaches_the_derivatives_of_its_cells_alone(backend, bad, dtype, subgradient):
    """At a pixel centre a sample lies in two cells along that axis, and either side's slope may be taken."""
    image = np.zeros((1, 1, 20, 20), dtype)
    image[0, 0, 9, 9] = bad
    y, x = np.mgrid[0:20:0.25, 0:20:0.25]
    grid = np.stack([x, y], -1)[None].astype(dtype)
    ones = np.ones((1, 1, *x.shape), dtype)
    arrays = [backend.array(a) for a in (image, grid)]
    options = {"coords": "pixel", "subgradient": subgradient}
    far = ~(cell_touches(x, 9, subgradient != "right") & cell_touches(y, 9, subgradient != "right"))
    _, grad_grid = pystn.grid_sample_vjp(backend.array(ones), *arrays, **options)
    assert not backend.numpy(grad_grid)[0][far].any()
    tangent = pystn.grid_sample_jvp(*arrays, arrays[0], backend.array(np.ones_like(grid)), **options)
    assert not backend.numpy(tangent)[0, 0][far].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_lost_sample_has_zero_gradient_whatever_its_cotangent(backend, rng, bad, padding_mode, mode):
    """A NaN that comes back to a sample that read nothing goes nowhere."""
    for dtype in (np.float32, np.float64):
        for shape in ((1, 1), (1, 16), (9, 40)):
            grid = rng.uniform(-0.9, 0.9, (1, *shape, 2)).astype(dtype)
            lost = rng.random(shape) < 0.5
            lost.flat[0] = True
            grid[0, lost, 0] = np.nan
            cotangent = np.ones((1, 2, *shape), dtype)
            cotangent[:, :, lost] = bad
            image = rng.standard_normal((1, 2, 12, 10)).astype(dtype)
            arrays = [backend.array(a) for a in (cotangent, image, grid)]
            grad_image, grad_grid = pystn.grid_sample_vjp(*arrays, mode, padding_mode)
            assert np.isfinite(backend.numpy(grad_image)).all()
            np.testing.assert_array_equal(backend.numpy(grad_grid)[0, lost], 0)


def cells(p, n, padding_mode):
    """Both pixels of the cells of positions on an axis, each with whether it is in the image."""
    if padding_mode == "reflection":
        p = np.mod(p + 0.5, 2 * n)
        p = np.minimum(p, 2 * n - p) - 0.5
    if padding_mode != "zeros":
        p = np.clip(p, 0, n - 1)
    first = np.floor(p).astype(int)
    return [(i, (i >= 0) & (i < n)) for i in (first, first + 1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("kind", ["scattered", "one cell in five", "beyond the borders"])
def test_bad_pixels_that_no_cell_touches(backend, rng, dtype, padding_mode, kind):
    """Whatever way taps are read, in windows or one by one: they reach no value and no slope."""
    size, shape = (24, 33), (21, 35)
    if kind == "scattered":
        grid = rng.uniform(2, 20, (*shape, 2))
    elif kind == "one cell in five":
        grid = np.stack(np.meshgrid(np.arange(35) % 7 * 5 + 0.3, np.arange(21) % 5 * 5 + 0.6), -1)
    else:
        grid = np.stack(np.meshgrid(np.linspace(-9, 60, 35), np.linspace(-11, 13, 21)), -1)
    grid = grid[None].astype(dtype)
    options = {"padding_mode": padding_mode, "coords": "pixel"}
    touched = np.zeros(size, bool)
    corners = [cells(grid[0, ..., a].astype(float), size[1 - a], padding_mode) for a in (0, 1)]
    for x, x_inside in corners[0]:
        for y, y_inside in corners[1]:
            touched[(y[x_inside & y_inside], x[x_inside & y_inside])] = True
    assert 0.05 < touched.mean() < 0.95
    image = np.where(touched, dtype(1), dtype(np.nan)) * np.ones((1, 3, 1, 1), dtype)
    arrays = [backend.array(a) for a in (np.ones((1, 3, *shape), dtype), image, grid)]
    assert np.isfinite(backend.numpy(pystn.grid_sample(*arrays[1:], **options))).all()
    assert np.isfinite(backend.numpy(pystn.grid_sample_vjp(*arrays, wrt="grid", **options)[1])).all()
