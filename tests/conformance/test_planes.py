"""Few channels, in planes or next to each other, sampled eight pixels at a time: the bits of the same planes among
more, which are sampled another way. Gradients of planes too: more of them, whose cotangents are 0."""

from functools import partial

import numpy as np
import pytest

import pystn

DTYPES = ["float32", "float16", "uint8", "int16", "uint16"]
MODES = ["nearest", "linear"]
PADDINGS = ["zeros", "border", "constant", "zeros and a fill", "border and a fill"]
PADDINGS += ["mirror", "symmetric", "wrap", "wrap and a fill"]
MANY = 5


def drawn(rng, shape, dtype):
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape, dtype)
    return rng.standard_normal(shape).astype(dtype)


def drawn_grid(rng, rows, columns):
    """The identity in the first row, and some that are no numbers, far away or on the border in the last."""
    grid = rng.uniform(-1.4, 1.4, (2, rows, columns, 2)).astype(np.float32)
    grid[:, 0] = pystn.affine_grid(np.eye(2, 3, dtype=np.float32)[None], (1, columns))[0, 0]
    grid[:, -1, ::5] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1.0, 1.0], (2, len(range(0, columns, 5)), 2))
    return grid


def options_for(mode, padding_mode):
    fill = {"fill_value": 3.0} if padding_mode == "constant" or "fill" in padding_mode else {}
    return {"mode": mode, "padding_mode": padding_mode.partition(" ")[0], **fill}


def assert_same(few, many):
    np.testing.assert_array_equal(few, many[:, : few.shape[1]])
    if few.dtype.kind == "f":  # zeros have signs
        np.testing.assert_array_equal(np.signbit(few), np.signbit(many[:, : few.shape[1]]))


def assert_same_next_to_each_other(sample, image, many, **options):
    """Of the planes of an image, as `sample` has them with channels last."""
    found = sample(np.ascontiguousarray(np.moveaxis(image, 1, -1)), channel_axis=-1, **options)
    assert_same(np.moveaxis(found, -1, 1), many)


def assert_few_are_as_many(sample, image, **options):
    """One to four planes of an image, in planes and next to each other."""
    many = sample(image, **options)
    for planes in range(1, 5):
        assert_same(sample(image[:, :planes], **options), many)
        assert_same_next_to_each_other(sample, image[:, :planes], many, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_stored_coordinates(rng, dtype, mode, padding_mode):
    """Rows of any length, joined or apart; images of any size; positions at pixels, between, outside and nowhere."""
    options = options_for(mode, padding_mode)
    for size in ((1, 1), (1, 5), (5, 1), (2, 2), (19, 23)):
        image = drawn(rng, (2, MANY, *size), dtype)
        for rows, columns in ((1, 1), (3, 7), (2, 8), (5, 9), (3, 28), (2, 250), (2, 300)):
            grid = drawn_grid(rng, rows, columns)
            for coordinates in (grid, np.ascontiguousarray(grid[:, :, ::-1])[:, :, ::-1], grid[:, ::-1]):
                assert_few_are_as_many(partial(pystn.grid_sample, grid=coordinates), image, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_matrices(rng, dtype, mode, padding_mode):
    image = drawn(rng, (2, MANY, 31, 40), dtype)
    for shape in ((1, 3), (4, 8), (28, 28), (3, 261)):
        theta = (np.eye(2, 3) + 0.4 * rng.standard_normal((2, 2, 3))).astype(np.float32)
        options = options_for(mode, padding_mode)
        assert_few_are_as_many(partial(pystn.warp_affine, theta=theta, size=shape), image, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"cull_behind": True}, {"min_denominator": 0.3}], ids=str)
def test_projective_matrices(rng, dtype, mode, options):
    """Some with the horizon in the image."""
    image = drawn(rng, (2, MANY, 31, 40), dtype)
    for tilt in (0.3, 1.5):
        theta = (np.eye(3) + tilt * rng.standard_normal((2, 3, 3))).astype(np.float32)
        for shape in ((1, 3), (9, 28), (3, 261)):
            for planes in (1, 3):
                few = pystn.warp_projective(image[:, :planes], theta, shape, mode, **options)
                many = pystn.warp_projective(image, theta, shape, mode, **options)
                assert_same(few, many)
                warp = partial(pystn.warp_projective, theta=theta, size=shape, mode=mode)
                assert_same_next_to_each_other(warp, image[:, :planes], many, **options)
                if dtype == "float32" and mode == "linear":
                    cotangent = drawn(rng, (2, MANY, *shape), dtype)
                    cotangent[:, planes:] = 0
                    few = pystn.warp_projective_vjp(cotangent[:, :planes], image[:, :planes], theta, shape, **options)
                    many = pystn.warp_projective_vjp(cotangent, image, theta, shape, **options)
                    np.testing.assert_array_equal(few[0], many[0][:, :planes])
                    np.testing.assert_array_equal(few[1], many[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", PADDINGS)
def test_coordinates_of_float64(rng, dtype, mode, padding_mode):
    options = options_for(mode, padding_mode)
    for size in ((1, 1), (1, 5), (5, 1), (2, 2), (19, 23)):
        image = drawn(rng, (2, MANY, *size), dtype)
        for rows, columns in ((1, 1), (3, 7), (2, 8), (5, 9), (3, 28), (2, 300)):
            grid = drawn_grid(rng, rows, columns).astype(np.float64)
            grid += 1e-9 * rng.standard_normal(grid.shape)  # of which float32 knows nothing
            assert_few_are_as_many(partial(pystn.grid_sample, grid=grid), image, **options)
            theta = np.eye(3) + 0.4 * rng.standard_normal((2, 3, 3))
            for warp, matrix in ((pystn.warp_affine, theta[:, :2]), (pystn.warp_projective, theta)):
                assert_few_are_as_many(partial(warp, theta=matrix, size=(rows, columns)), image, **options)


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int16"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", ["constant", "border"])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_each_channel_has_its_fill_value(rng, dtype, mode, padding_mode, channels):
    fill = 3.25 * np.arange(1, MANY + 1)
    options = {"mode": mode, "padding_mode": padding_mode}
    image, grid = drawn(rng, (2, MANY, 19, 23), dtype), drawn_grid(rng, 5, 60)
    many = pystn.grid_sample(image, grid, fill_value=fill, **options)
    options["fill_value"] = fill[:channels]
    assert_same(pystn.grid_sample(image[:, :channels], grid, **options), many)
    assert_same_next_to_each_other(partial(pystn.grid_sample, grid=grid), image[:, :channels], many, **options)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("mode", MODES)
def test_positions_of_float64_are_not_rounded(mode, dtype):
    """On an axis where float32 counts in 1/64 of a pixel: a ramp has the fraction that positions have."""
    width, columns = 300_000, 40
    image = np.zeros((1, 1, 2, width), dtype)
    at = np.linspace(width - 3, width - 2, columns)
    image[..., -2:] = 100
    grid = np.stack([at, np.zeros(columns)], -1)[None, None]
    expected = (at - (width - 3)) * 100
    expected = np.round(expected / 100) * 100 if mode == "nearest" else expected
    values = pystn.grid_sample(image, grid, mode, coords="pixel")[0, 0, 0]
    np.testing.assert_allclose(values.astype(float), expected, rtol=0, atol=0.51 if dtype == "uint8" else 1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_strides_and_other_pixels_that_are_no_numbers(rng, mode):
    """Images and outputs of any strides; a NaN beside the taps of a pixel is none of its own."""
    plain = rng.standard_normal((1, MANY, 30, 34)).astype(np.float32)
    plain[..., 12:14, 9] = np.nan
    grid = rng.uniform(-1.1, 1.1, (1, 40, 37, 2)).astype(np.float32)
    expected = pystn.grid_sample(plain, grid, mode)
    for flip in (np.s_[..., ::-1, :], np.s_[..., ::-1], np.s_[..., ::-1, ::-1]):
        image = np.ascontiguousarray(plain[flip])[flip]
        for planes in (1, 3):
            assert_same(pystn.grid_sample(image[:, :planes], grid, mode), expected)
            out = np.zeros((1, planes, 40, 2, 37), np.float32)[..., 1, :]
            assert_same(pystn.grid_sample(image[:, :planes], grid, mode, out=out), expected)
            packed = np.ascontiguousarray(np.moveaxis(plain[flip][:, :planes], 1, -1))
            packed = np.moveaxis(np.moveaxis(packed, -1, 1)[flip], 1, -1)
            rows = np.zeros((1, 40, 2, 37, planes), np.float32)[:, :, 1]
            for given in ({}, {"out": rows}):
                found = pystn.grid_sample(packed, grid, mode, channel_axis=-1, **given)
                assert_same(np.moveaxis(found, -1, 1), expected)
    shared = np.broadcast_to(plain[:, :1, :1], (1, 3, 30, 34))
    assert_same(
        pystn.grid_sample(shared, grid, mode),
        pystn.grid_sample(np.broadcast_to(plain[:, :1, :1], plain.shape), grid, mode),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_large_images(rng, dtype, mode):
    """Beyond what nearer caches hold, past the caches, and in pieces of threads."""
    image = drawn(rng, (1, MANY, 700, 900), dtype)
    theta = np.array([[[0.9, -0.3, 0.1], [0.3, 0.9, 0.0]]], np.float32)
    grid = pystn.affine_grid(theta, (300, 1100))
    expected = pystn.grid_sample(image, grid, mode)
    for planes in (1, 3):
        assert_same(pystn.grid_sample(image[:, :planes], grid, mode), expected)
        assert_same(pystn.warp_affine(image[:, :planes], theta, (300, 1100), mode=mode), expected)
    for channels in (2, 3, 4):
        sample = partial(pystn.grid_sample, grid=grid, mode=mode)
        assert_same_next_to_each_other(sample, image[:, :channels], expected)
        warp = partial(pystn.warp_affine, theta=theta, size=(300, 1100), mode=mode)
        assert_same_next_to_each_other(warp, image[:, :channels], expected)


@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@pytest.mark.parametrize("wrt", [("input", "grid"), ("grid",)])
@pytest.mark.parametrize("coordinates", ["float32", "float64"])
def test_gradients(rng, padding_mode, planes, wrt, coordinates):
    options = {**options_for("linear", padding_mode), "wrt": wrt}
    for size in ((1, 1), (1, 5), (5, 1), (2, 2), (19, 23), (300, 310)):
        image = drawn(rng, (2, MANY, *size), "float32")
        for rows, columns in ((1, 1), (3, 7), (2, 8), (5, 9), (9, 28), (2, 64), (6, 150)):
            grid = drawn_grid(rng, rows, columns).astype(coordinates)
            cotangent = drawn(rng, (2, MANY, rows, columns), "float32")
            cotangent[:, planes:] = 0
            few = pystn.grid_sample_vjp(cotangent[:, :planes], image[:, :planes], grid, **options)
            many = pystn.grid_sample_vjp(cotangent, image, grid, **options)
            np.testing.assert_array_equal(few[1], many[1])
            if "input" in wrt:
                np.testing.assert_array_equal(few[0], many[0][:, :planes])


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("planes", [1, 3])
@pytest.mark.parametrize("coordinates", ["float32", "float64"])
def test_gradients_of_matrices(rng, padding_mode, planes, coordinates):
    image = drawn(rng, (3, MANY, 31, 40), "float32")
    for shape in ((1, 3), (4, 8), (28, 28), (9, 71)):
        theta = (np.eye(2, 3) + 0.4 * rng.standard_normal((3, 2, 3))).astype(coordinates)
        cotangent = drawn(rng, (3, MANY, *shape), "float32")
        cotangent[:, planes:] = 0
        few = pystn.warp_affine_vjp(cotangent[:, :planes], image[:, :planes], theta, shape, padding_mode=padding_mode)
        many = pystn.warp_affine_vjp(cotangent, image, theta, shape, padding_mode=padding_mode)
        np.testing.assert_array_equal(few[0], many[0][:, :planes])
        np.testing.assert_array_equal(few[1], many[1])


def test_gradients_of_what_is_no_number(rng):
    """A NaN beside the taps of a pixel, and the cotangents of pixels that read nothing."""
    image = drawn(rng, (1, 3, 20, 24), "float32")
    grid = rng.uniform(-1.3, 1.3, (1, 11, 29, 2)).astype(np.float32)
    cotangent = drawn(rng, (1, 3, 11, 29), "float32")
    exact = pystn.grid_sample_vjp(*(x.astype(float) for x in (cotangent, image, grid)))
    cells = (grid + 1) * [12, 10] - 0.5
    outside = ((cells < -1.01) | (cells > [24.01, 20.01])).any(-1)
    cotangent[:, :, outside[0]] = np.nan
    found = pystn.grid_sample_vjp(cotangent, image, grid)
    for actual, expected in zip(found, exact, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-3)
    image[..., 7, 9] = np.nan
    near = (abs(cells - [9, 7]) < 1.01).all(-1)
    of_grid = pystn.grid_sample_vjp(cotangent, image, grid)[1]
    assert np.isfinite(of_grid[~near]).all()
    assert np.isnan(of_grid[near]).any()
