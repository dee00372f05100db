"""Kernels of more than two taps under boundaries that move taps into the image: the bits of images whose pixels are
apart in memory, which are read tap by tap."""

from functools import partial

import numpy as np
import pytest
from conftest import kernel_for

import pystn

PADDINGS = ["border", "mirror", "symmetric", "wrap", ("wrap", "border"), ("mirror", "zeros"), "constant"]
SIZES = ((1, 4), (3, 3), (7, 9), (8, 8), (19, 23), (17, 300))
DTYPES = ["float32", "float16", "uint8", "int16", "uint16"]


def positions(rng, size, count, dtype):
    """In pixels: up to two images away, near the borders, at pixel centres, far away, and no numbers."""
    n = np.array(size[::-1])
    grid = np.concatenate(
        [
            rng.uniform(-2.2 * n, 3.2 * n, (count, 2)),
            rng.uniform(-3, n + 3, (count, 2)),
            np.rint(rng.uniform(-1.5 * n, 2.5 * n, (count, 2))),
            rng.choice([0, -1, n[0] - 1, 3.5, -1e30, 1e30, 1e9, np.nan, np.inf, -np.inf], (count, 2)),
        ]
    )
    return rng.permutation(grid).reshape(1, 4, count, 2).astype(dtype)


def drawn(rng, shape, dtype):
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape, dtype)
    image = rng.standard_normal(shape).astype(dtype)
    image[0, 0, shape[2] // 2, shape[3] // 2] = np.nan
    image[0, -1, 0, 0] = np.inf
    return image


def assert_as_apart(sample, image):
    apart = np.repeat(image, 2, axis=-1)[..., ::2]
    expected = sample(apart)
    np.testing.assert_array_equal(sample(image), expected)
    rows = np.zeros((*expected.shape, 2), expected.dtype)[..., 1]
    np.testing.assert_array_equal(sample(image, out=rows), expected)


@pytest.mark.parametrize("padding_mode", PADDINGS, ids=str)
@pytest.mark.parametrize("kernel", ["cubic", "bspline3", "lanczos2"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_stored_coordinates(rng, padding_mode, kernel, dtype):
    mode, _ = kernel_for(pystn, kernel, 2)
    options = {"mode": mode, "padding_mode": padding_mode, "coords": "pixel"}
    for size in SIZES:
        image = drawn(rng, (2, 3, *size), "float32")
        for count in (1, 5, 8, 64, 150):
            assert_as_apart(partial(pystn.grid_sample, grid=positions(rng, size, count, dtype), **options), image)


@pytest.mark.parametrize("padding_mode", PADDINGS, ids=str)
@pytest.mark.parametrize("kernel", ["cubic", "bspline2", "bspline5", "lanczos4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_of_few_numbers(rng, padding_mode, kernel, dtype):
    """Planes of small types, and up to four channels next to each other."""
    mode, _ = kernel_for(pystn, kernel, 2)
    options = {"mode": mode, "padding_mode": padding_mode, "coords": "pixel"}
    for size in SIZES[1:]:
        image = drawn(rng, (2, 4, *size), dtype)
        grid = positions(rng, size, 70, np.float32)
        assert_as_apart(partial(pystn.grid_sample, grid=grid, fill_value=3.0, **options), image[:, :2])
        assert_as_apart(partial(pystn.grid_sample, grid=grid, **options), image[:, :2])
        for channels in (1, 2, 3, 4):
            last = np.ascontiguousarray(np.moveaxis(image[:, :channels], 1, -1))
            assert_as_apart(partial(pystn.grid_sample, grid=grid, channel_axis=-1, **options), last)


@pytest.mark.parametrize("padding_mode", PADDINGS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_matrices(rng, padding_mode, dtype):
    """Turned, shrunk and moved, so that several copies are seen."""
    for size in SIZES:
        image = rng.standard_normal((1, 1, *size)).astype(np.float32)
        for scale in (1.2, 4.0):
            theta = (scale * np.array([[[0.8, -0.6, 0.3], [0.6, 0.8, -0.2]]])).astype(dtype)
            warp = partial(pystn.warp_affine, theta=theta, size=(33, 70), mode="cubic", padding_mode=padding_mode)
            assert_as_apart(warp, image)


@pytest.mark.parametrize("padding_mode", ["border", "mirror", "symmetric", "wrap"])
def test_a_copy_is_the_image_moved(rng, padding_mode):
    """Whatever the boundary puts outside, padded around the image by NumPy, is sampled there."""
    image = rng.standard_normal((1, 1, 20, 24)).astype(np.float32)
    how = {"border": "edge", "mirror": "reflect", "symmetric": "symmetric", "wrap": "wrap"}[padding_mode]
    padded = np.pad(image[0, 0], 18, how)[None, None]
    grid = rng.uniform(-14, [36, 32], (1, 40, 50, 2)).astype(np.float32)
    values = pystn.grid_sample(image, grid, "cubic", padding_mode, coords="pixel")
    # Positions in the padded image are rounded elsewhere.
    expected = pystn.grid_sample(padded, grid + np.float32(18), "cubic", coords="pixel")
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)
