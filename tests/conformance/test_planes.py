"""Few planes, sampled eight pixels at a time: the bits of the same planes among more, which are sampled another way."""

import numpy as np
import pytest

import pystn

DTYPES = ["float32", "float16", "uint8", "int16", "uint16"]
MODES = ["nearest", "linear"]
PADDINGS = ["zeros", "border", "constant", "reflection"]
MANY = 5


def drawn(rng, shape, dtype):
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape, dtype)
    return rng.standard_normal(shape).astype(dtype)


def options_for(mode, padding_mode):
    fill = {"fill_value": 3.0} if padding_mode == "constant" else {}
    return {"mode": mode, "padding_mode": padding_mode, **fill}


def assert_same(few, many):
    np.testing.assert_array_equal(few, many[:, : few.shape[1]])
    if few.dtype.kind == "f":  # zeros have signs
        np.testing.assert_array_equal(np.signbit(few), np.signbit(many[:, : few.shape[1]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_stored_coordinates(rng, dtype, mode, padding_mode, planes):
    """Rows of any length, joined or apart; images of any size; positions at pixels, between, outside and nowhere."""
    options = options_for(mode, padding_mode)
    for size in ((1, 1), (1, 5), (5, 1), (2, 2), (19, 23)):
        image = drawn(rng, (2, MANY, *size), dtype)
        for rows, columns in ((1, 1), (3, 7), (2, 8), (5, 9), (3, 28), (2, 250), (2, 300)):
            grid = rng.uniform(-1.4, 1.4, (2, rows, columns, 2)).astype(np.float32)
            grid[:, 0] = pystn.affine_grid(np.eye(2, 3, dtype=np.float32)[None], (1, columns))[0, 0]
            grid[:, -1, ::5] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1.0, 1.0], (2, len(range(0, columns, 5)), 2))
            for coordinates in (grid, np.ascontiguousarray(grid[:, :, ::-1])[:, :, ::-1], grid[:, ::-1]):
                few = pystn.grid_sample(image[:, :planes], coordinates, **options)
                assert_same(few, pystn.grid_sample(image, coordinates, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("planes", [1, 3])
def test_matrices(rng, dtype, mode, padding_mode, planes):
    image = drawn(rng, (2, MANY, 31, 40), dtype)
    for shape in ((1, 3), (4, 8), (28, 28), (3, 261)):
        theta = (np.eye(2, 3) + 0.4 * rng.standard_normal((2, 2, 3))).astype(np.float32)
        few = pystn.warp_affine(image[:, :planes], theta, shape, **options_for(mode, padding_mode))
        assert_same(few, pystn.warp_affine(image, theta, shape, **options_for(mode, padding_mode)))


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
