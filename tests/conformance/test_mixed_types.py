"""Arrays of other types than the arithmetic's, enough samples that the CPU copies them in it: values are those of
arrays converted by hand, rounded once. And masks, which are made beside the samples."""

import numpy as np
import pytest

import pystn

SMALL = ["uint8", "int16", "uint16", "float16"]
SIZES = {1: (300,), 2: (40, 50), 3: (9, 11, 13)}


def drawn(rng, shape, dtype):
    if "int" in dtype:
        return rng.integers(0, 200, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def points(rng, ndim, dtype="float32", count=3000):
    """Some of them outside, and one nowhere."""
    grid = rng.uniform(-1.1, 1.1, (2, count, ndim)).astype(dtype)
    grid[0, 5] = np.nan
    return grid


def rounded(array, dtype):
    if "int" in dtype:
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    return array.astype(dtype)


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic", "spline3", ("linear", "nearest", "cubic")])
def test_small_types_are_float32_rounded_once(rng, dtype, ndim, mode):
    kernel = pystn.BSpline(3) if mode == "spline3" else mode[-ndim:] if isinstance(mode, tuple) else mode
    for channel_axis in (1, -1):
        shape = (2, 3, *SIZES[ndim]) if channel_axis == 1 else (2, *SIZES[ndim], 3)
        image, grid = drawn(rng, shape, dtype), points(rng, ndim)
        options = {"mode": kernel, "padding_mode": "constant", "fill_value": 7.25, "channel_axis": channel_axis}
        expected = pystn.grid_sample(image.astype(np.float32), grid, **options)
        np.testing.assert_array_equal(pystn.grid_sample(image, grid, **options), rounded(expected, dtype))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_float64_coordinates_of_a_float32_image(rng, mode, ndim):
    """All derivatives, as those of the image in float64 but for the roundings of sums; of an axis so long that
    positions of float32 are wrong by a hundredth of a pixel."""
    size = (100_000,) + (3,) * (ndim - 1)
    image, grid = drawn(rng, (2, 3, *size), "float32"), points(rng, ndim, "float64", 500)
    grid[..., -1] = 1 - np.abs(grid[..., -1]) * 1e-3  # at the far end of the long axis
    grid[0, 5] = np.nan
    if mode == "linear":  # whose slopes jump at centres of pixels
        at = (grid + 1) * np.array(size[::-1]) / 2 - 0.5
        grid = np.where(np.abs(at - np.rint(at)) < 0.05, grid + 0.2 / np.array(size[::-1]), grid)
    tangents = drawn(rng, image.shape, "float32"), drawn(rng, grid.shape, "float64")
    cotangent = drawn(rng, (2, 3, grid.shape[1]), "float32")

    def derivatives(dtype, grid):
        given, d_image, g = (a.astype(dtype) for a in (image, tangents[0], cotangent))
        d_grid = tangents[1].astype(grid.dtype)
        return [
            pystn.grid_sample(given, grid, mode),
            pystn.grid_sample_jvp(given, grid, d_image, d_grid, mode),
            *pystn.grid_sample_vjp(g, given, grid, mode),
            *pystn.grid_sample_vjp2(d_image, d_grid, g, given, grid, mode),
            pystn.grid_push(g, grid, size, mode),
        ]

    found, expected, coarse = (
        derivatives(dtype, grid.astype(of)) for dtype, of in (("f4", "f8"), ("f8", "f8"), ("f4", "f4"))
    )
    assert [a.dtype for a in found] == [np.float32] * 3 + [np.float64] + [np.float32] * 2 + [np.float64, np.float32]
    for i, (ours, exact, rough) in enumerate(zip(found, expected, coarse, strict=True)):
        bound = 1e-6 * np.abs(exact).max()
        assert np.abs(ours - exact).max() <= bound
        if mode == "cubic" or i in (0, 2, 7):  # slopes of linear are the same at all positions of a cell
            assert np.abs(rough - exact).max() > 100 * bound


@pytest.mark.parametrize("warp", ["affine", "projective"])
@pytest.mark.parametrize("channels, channel_axis", [(1, 1), (3, 1), (3, -1), (20, 1), (20, -1)])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "mirror", "wrap"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_matrices_of_float64_warp_float32_images(rng, warp, channels, channel_axis, padding_mode, mode):
    """Of a size that rows and tiles of pixels fit in, and some left over: as an image in float64, to rounding."""
    forward, vjp, jvp = (getattr(pystn, f"warp_{warp}{suffix}") for suffix in ("", "_vjp", "_jvp"))
    theta = np.array([[[0.913, -0.324, 0.1], [0.321, 0.887, -0.1], [0.04, -0.07, 1.0]]] * 2)
    theta = (theta + rng.uniform(-0.02, 0.02, theta.shape))[:, : 3 if warp == "projective" else 2]
    d_theta = rng.standard_normal(theta.shape)
    shape, size = (2, channels, 37, 45), (34, 69)
    image, d_image = drawn(rng, shape, "float32"), drawn(rng, shape, "float32")
    cotangent = drawn(rng, (2, channels, *size), "float32")
    image, d_image, cotangent = (np.moveaxis(a, 1, channel_axis).copy() for a in (image, d_image, cotangent))
    options = {"mode": mode, "padding_mode": padding_mode, "channel_axis": channel_axis}

    def results(dtype):
        x, d_x, g = (a.astype(dtype) for a in (image, d_image, cotangent))
        return [
            forward(x, theta, size, **options),
            *vjp(g, x, theta, size, **options),
            jvp(x, theta, d_x, d_theta, size, **options),
        ]

    found = results("float32")
    assert [a.dtype for a in found] == ["float32", "float32", "float64", "float32"]
    for ours, exact in zip(found, results("float64"), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=3e-6 * np.abs(exact).max())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic", "lanczos3", "lanczos4"])
def test_float64_coordinates_are_not_rounded(rng, dtype, channels, channel_axis, mode):
    """In an image so wide that float32 has a 256th of a pixel left at its end: by map and by matrix."""
    kernel = pystn.Lanczos(int(mode[-1])) if mode.startswith("lanczos") else mode
    width, columns = 60_000, 2000
    shape = (1, channels, 9, width) if channel_axis == 1 else (1, 9, width, channels)
    image = drawn(rng, shape, dtype)
    theta = np.array([[[0.00137, 0.0113, width - 300.3], [0.0001, 0.7, 0.2]]])
    options = {"mode": kernel, "coords": "pixel", "channel_axis": channel_axis}
    exact = pystn.warp_affine(image.astype(np.float64), theta, (9, columns), **options)
    expected = rounded(exact, dtype)
    coarse = pystn.warp_affine(image, theta.astype(np.float32), (9, columns), **options)
    y, x = np.mgrid[:9, :columns]
    grid = np.stack([x, y, np.ones_like(x)], -1) @ theta[0].T
    for found in (
        pystn.warp_affine(image, theta, (9, columns), **options),
        pystn.grid_sample(image, grid[None], **options),
    ):
        if dtype == "float32":
            assert np.abs(found - exact).max() < 2e-6
        else:
            assert np.mean(found != expected) < 0.01  # sums in float32 may round to the other side
    if mode != "nearest":
        assert np.mean(np.abs(coarse - exact) > 1e-3 if dtype == "float32" else coarse != expected) > 0.05


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_derivatives_of_halves(rng, mode, ndim):
    """The tangents and cotangents are halves too; sums are made in float32, and rounded once."""
    image, grid = drawn(rng, (2, 3, *SIZES[ndim]), "float16"), points(rng, ndim)
    half, d_grid = drawn(rng, (2, 3, 3000), "float16"), drawn(rng, grid.shape, "float32") / 10
    wide, wide_half = image.astype(np.float32), half.astype(np.float32)
    grads = pystn.grid_sample_vjp(half, image, grid, mode)
    expected = pystn.grid_sample_vjp(wide_half, wide, grid, mode)
    np.testing.assert_array_equal(grads[0], expected[0].astype(np.float16))
    np.testing.assert_array_equal(grads[1], expected[1])
    moved = pystn.grid_sample_jvp(image, grid, image, d_grid, mode)
    expected = pystn.grid_sample_jvp(wide, grid, wide, d_grid, mode)
    np.testing.assert_array_equal(moved, expected.astype(np.float16))
    second = pystn.grid_sample_vjp2(image, d_grid, half, image, grid, mode)
    expected = pystn.grid_sample_vjp2(wide, d_grid, wide_half, wide, grid, mode)
    for found, wanted in zip(second, expected, strict=True):
        np.testing.assert_array_equal(found, wanted.astype(found.dtype))
    pushed = pystn.grid_push(half, grid, image.shape[2:], mode)
    np.testing.assert_array_equal(pushed, pystn.grid_push(wide_half, grid, image.shape[2:], mode).astype(np.float16))


@pytest.mark.parametrize("dtype", SMALL)
def test_results_of_any_strides_are_rounded_alike(rng, dtype):
    """Dense in the order of the sums, in another, and with gaps; numbers beyond the type's and none."""
    image, grid = drawn(rng, (2, 3, *SIZES[3]), dtype), points(rng, 3)
    image[0, 0, 4:6, 5:7, 6:8] = 60000 if dtype == "float16" else image[0, 0, 4:6, 5:7, 6:8]
    options = {"mode": "cubic", "padding_mode": "constant", "fill_value": np.nan}
    expected = pystn.grid_sample(image.astype(np.float32), grid, **options)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = rounded(np.nan_to_num(expected) if "int" in dtype else expected, dtype)
    assert dtype != "float16" or (np.isnan(expected).any() and np.isinf(expected).any())
    outputs = (
        np.empty(expected.shape, dtype),
        np.empty(expected.shape[::-1], dtype).T,
        np.empty((*expected.shape, 2), dtype)[..., 1],
        np.empty(expected.shape, dtype)[..., ::-1],
    )
    for out in outputs:
        assert pystn.grid_sample(image, grid, **options, out=out) is out
        np.testing.assert_array_equal(out, expected)


def test_an_image_far_larger_than_its_samples_is_not_copied(rng):
    """Types are looked up for every element then: values are the same."""
    image, grid = drawn(rng, (1, 1, 60, 70, 80), "int16"), points(rng, 3, count=2500)[:1]
    few = pystn.grid_sample(image, grid)
    many = pystn.grid_sample(image, np.tile(grid, (1, 40, 1)))
    np.testing.assert_array_equal(np.tile(few, (1, 1, 40)), many)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic", "spline3"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "wrap", "constant"])
def test_a_mask_leaves_samples_and_gradients_alone(rng, dtype, channel_axis, mode, padding_mode):
    kernel = pystn.BSpline(3) if mode == "spline3" else mode
    shape = (2, 3, 33, 41) if channel_axis == 1 else (2, 33, 41, 3)
    image = drawn(rng, shape, dtype)
    grid = rng.uniform(-1.2, 1.2, (2, 35, 70, 2)).astype("float64" if dtype == "float64" else "float32")
    options = {"mode": kernel, "padding_mode": padding_mode, "channel_axis": channel_axis, "cutoff": None}
    if padding_mode == "constant":
        options["fill_value"] = 2.0
    plain = pystn.grid_sample(image, grid, **options)
    value, mask = pystn.grid_sample(image, grid, **options, return_mask=True)
    np.testing.assert_array_equal(value, plain)
    ones = np.ones((1, 1, 33, 41), mask.dtype)
    covered = np.clip(pystn.grid_sample(ones, grid, kernel, "zeros")[:, 0], 0, 1)
    np.testing.assert_allclose(
        mask, covered, atol=1e-12 if dtype == "float64" else 2e-3 if dtype == "float16" else 1e-6
    )
    cotangent = plain.astype("float32" if dtype == "uint8" else dtype)
    grads = pystn.grid_sample_vjp(cotangent, image, grid, **options)
    rounding = {"float64": 1e-12, "float16": 1e-3}.get(dtype, 1e-5)
    with_mask = pystn.grid_sample_vjp((cotangent, np.zeros_like(mask)), image, grid, **options, return_mask=True)
    for found, expected in zip(with_mask, grads, strict=True):
        np.testing.assert_allclose(found, expected, atol=rounding * np.abs(expected).max())
