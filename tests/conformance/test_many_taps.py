"""Kernels of three taps and more, in vectors of pixels and of channels: what only those ways could get wrong. A mask
that is asked for goes the general way."""

import numpy as np
import pytest
from conftest import TABLE

import pystn

KERNELS = {
    "bspline2": pystn.BSpline(2),
    "bspline3": pystn.BSpline(3),
    "lanczos2": pystn.Lanczos(2),
    "tabulated": pystn.Tabulated(TABLE, 1.75),
    "bspline4": pystn.BSpline(4),
    "bspline5": pystn.BSpline(5),
    "lanczos3": pystn.Lanczos(3),
    "bspline7": pystn.BSpline(7),
    "lanczos4": pystn.Lanczos(4),
    "gaussian": pystn.Gaussian(0.9),
    "narrow": pystn.Gaussian(0.05, truncate=60.0),  # most of its weights are 0
    "mixed": (pystn.Cubic(), pystn.BSpline(3), pystn.Lanczos(2)),
}
PADDINGS = ["zeros", "border", "mirror", "wrap"]


def moved(array, axis):
    return np.ascontiguousarray(np.moveaxis(array, 1, axis))


def positions(rng, size, count, dtype):
    """In the image, on its pixels, at its borders, far from it and nowhere."""
    points = rng.uniform(-0.2, 1.2, (2, 3, count, len(size))) * (np.array(size[::-1]) - 1)
    points[0, 0, ::2] = np.rint(points[0, 0, ::2])
    points[1, 0] = 0.5 * points[1, 0] + 0.25 * np.array(size[::-1])
    points[:, 1, ::7, 0], points[:, 2, ::9], points[:, 2, 1::9] = np.nan, 1e9, -1e30
    return points.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_bits_of_the_general_way(rng, kernel, padding_mode, dtype):
    """Values bitwise, and gradients but for the order of their sums; images no wider than a kernel, and what is no
    number in them, which only those see that weigh it."""
    kinds = (1, 1), (2, -1), (3, -1), (3, 1), (4, -1), (9, -1)
    for k, size in enumerate(((19, 23), (7, 5), (1, 9), (140,), (3, 5, 8), (9, 10, 11))):
        mode = KERNELS[kernel][: len(size)] if kernel == "mixed" else KERNELS[kernel]
        for channels, axis in kinds if k in (0, 3) else kinds[k % 2 :: 2]:
            image = rng.standard_normal((2, channels, *size)).astype(dtype)
            grid = positions(rng, size, 70, dtype)
            cotangent = rng.standard_normal((2, channels, 3, 70)).astype(dtype)
            options = {"mode": mode, "padding_mode": padding_mode, "coords": "pixel", "channel_axis": axis}
            spoilt = image.copy()
            spoilt[0, -1].flat[::11] = np.nan
            spoilt[1, 0].flat[3::13] = np.inf
            for array in (image, spoilt):
                found = pystn.grid_sample(moved(array, axis), grid, **options)
                expected, _ = pystn.grid_sample(moved(array, axis), grid, return_mask=True, **options)
                np.testing.assert_array_equal(found, expected)
                tangents = moved(array[::-1], axis), grid[::-1]
                found = pystn.grid_sample_jvp(moved(array, axis), grid, *tangents, **options)
                expected, _ = pystn.grid_sample_jvp(moved(array, axis), grid, *tangents, return_mask=True, **options)
                np.testing.assert_array_equal(found, expected)
            arrays = moved(cotangent, axis), moved(image, axis), grid
            both = pystn.grid_sample_vjp(*arrays, **options)
            nothing = np.zeros((2, 3, 70), dtype)
            general = pystn.grid_sample_vjp((arrays[0], nothing), *arrays[1:], return_mask=True, **options)
            for wrt, ours, theirs in zip(("input", "grid"), both, general, strict=True):
                bound = 64 * np.finfo(dtype).eps * max(1, np.abs(theirs).max())
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)
                (alone,) = [g for g in pystn.grid_sample_vjp(*arrays, wrt=wrt, **options) if g is not None]
                np.testing.assert_array_equal(alone, ours)


@pytest.mark.parametrize("lobes", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lanczos_is_exact_on_pixels_and_accurate_beside_them(dtype, lobes):
    """The closed forms lose digits near a pixel's centre, and at the middle between two."""
    eps = np.finfo(dtype).eps
    units = np.eye(20, dtype=dtype)[None]
    shifts = np.array([0, 1e-30, 1e-8, 1e-4, 0.1, 0.4999, 0.5, 0.5001, 0.9, 0.9999, 1 - eps / 2]).astype(dtype)
    values = pystn.grid_sample(
        np.roll(units, -10, 2), shifts[None, :, None], pystn.Lanczos(lobes), "wrap", coords="pixel"
    )
    np.testing.assert_array_equal(values[0, :, 0], np.eye(20)[10])
    d = shifts.astype(np.longdouble) - np.arange(-10, 10)[:, None]
    exact = np.where(np.abs(d) < lobes, np.sinc(d) * np.sinc(d / lobes), 0)
    np.testing.assert_allclose(values[0], exact / exact.sum(0), rtol=0, atol=4 * eps)
