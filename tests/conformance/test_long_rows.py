"""Outputs of long rows, and of short ones that follow each other in memory, which processors with narrower vectors walk
another way than others. Samples do not depend on what is sampled beside them: the same rows in short pieces have the
same bits."""

import numpy as np
import pytest
from conftest import EVERY_PADDING_MODE

import pystn

KINDS = [
    *(("float32", mode, channels, 1) for mode in ("nearest", "linear", "cubic") for channels in (1, 3, 5)),
    *(("float64", mode, 2, 1) for mode in ("nearest", "linear", "cubic", pystn.Lanczos(3))),
    ("float32", pystn.BSpline(3), 2, 1),
    *((dtype, mode, 3, -1) for dtype in ("float32", "uint8", "uint16") for mode in ("nearest", "linear")),
]
SIZE = (300, 310)  # as many bytes as are worth asking for ahead


def smooth_and_scattered(rng, dtype, rows, columns, size):
    """A turned lattice that leaves the image, with some samples anywhere, and some nowhere."""
    axes = [np.linspace(-1.2, 1.1, n) for n in (rows, columns)]
    lattice = np.stack(np.meshgrid(axes[1], axes[0]), -1) @ np.array([[0.97, 0.24], [-0.24, 0.97]])
    grid = np.stack([lattice, lattice * [0.3, -0.4] + 0.1])
    grid = np.where(rng.random((2, rows, columns, 1)) < 0.05, rng.uniform(-2, 2, grid.shape), grid)
    grid[rng.random(grid.shape) < 0.003] = np.nan
    return ((grid + 1) * np.array(size[::-1]) / 2).round(3).astype("float64" if dtype == "float64" else "float32")


def drawn(rng, shape, dtype):
    return rng.integers(0, 200, shape).astype(dtype) if "int" in dtype else rng.standard_normal(shape).astype(dtype)


def columns_of(array, piece, channel_axis):
    return array[:, :, :, piece] if channel_axis == 1 else array[:, :, piece]


@pytest.mark.parametrize("columns", [28, 65, 100, 256, 701])
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize(("dtype", "mode", "channels", "channel_axis"), KINDS)
def test_pieces_make_the_row(rng, dtype, mode, channels, channel_axis, padding_mode, columns):
    shape = (2, channels, *SIZE) if channel_axis == 1 else (2, *SIZE, channels)
    image, grid = drawn(rng, shape, dtype), smooth_and_scattered(rng, dtype, 6, columns, SIZE)
    options = {"padding_mode": padding_mode, "coords": "pixel", "channel_axis": channel_axis}
    if padding_mode == "constant":
        options["fill_value"] = 7.0
    whole = pystn.grid_sample(image, grid, mode, **options)
    for start in range(0, columns, length := min(48, columns // 2)):
        piece = slice(start, start + length)
        some = pystn.grid_sample(image, grid[:, :, piece], mode, **options)
        np.testing.assert_array_equal(columns_of(whole, piece, channel_axis), some)


@pytest.mark.parametrize("columns", [65, 256, 701])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_derivatives_of_pieces(rng, mode, padding_mode, columns):
    image, grid = drawn(rng, (2, 3, *SIZE), "float32"), smooth_and_scattered(rng, "float32", 6, columns, SIZE)
    d_image, d_grid = drawn(rng, image.shape, "float32"), drawn(rng, grid.shape, "float32")
    cotangent = drawn(rng, (2, 3, 6, columns), "float32")
    options = {"padding_mode": padding_mode, "coords": "pixel"}
    tangent = pystn.grid_sample_jvp(image, grid, d_image, d_grid, mode, **options)
    grad_image, grad_grid = pystn.grid_sample_vjp(cotangent, image, grid, mode, **options)
    total = np.zeros(image.shape)
    for start in range(0, columns, 48):
        at = (slice(None), slice(None), slice(start, start + 48))
        some = pystn.grid_sample_jvp(image, grid[at], d_image, d_grid[at], mode, **options)
        np.testing.assert_array_equal(tangent[..., at[2]], some)
        grads = pystn.grid_sample_vjp(np.ascontiguousarray(cotangent[..., at[2]]), image, grid[at], mode, **options)
        np.testing.assert_array_equal(grad_grid[at], grads[1])
        total += grads[0]
    np.testing.assert_allclose(grad_image, total, rtol=0, atol=1e-5)
