"""Outputs so large that they go past the caches, in whole lines of memory that rows and strips only partly fill. The
same samples, made a few rows at a time, are small enough to go the usual way: both have the same bits."""

import numpy as np
import pytest

import pystn
from pystn.backends import _cpu

BYTES = 1 << 22  # from here on
KINDS = [
    *(("float32", mode, channels, 1) for mode in ("nearest", "linear", "cubic") for channels in (1, 3, 6)),
    *(("float64", mode, channels, 1) for mode in ("nearest", "linear", "cubic") for channels in (1, 3)),
    *(("float32", mode, channels, -1) for mode in ("linear", "cubic") for channels in (2, 3, 4, 16, 67, 130)),
    *(("float64", "linear", channels, -1) for channels in (3, 24)),
    *(("uint8", mode, channels, -1) for mode in ("linear", "cubic") for channels in (1, 3, 4)),
    ("float32", pystn.Lanczos(3), 2, 1),
]


@pytest.fixture(autouse=True)
def soon():
    """Whatever the caches of this processor are."""
    usual = _cpu.stream_from()
    _cpu.stream_from(BYTES)
    yield
    _cpu.stream_from(usual)


def drawn(rng, shape, dtype):
    return rng.integers(0, 256, shape, np.uint8) if dtype == "uint8" else rng.standard_normal(shape).astype(dtype)


def unaligned(shape, dtype, before):
    """An array that begins so many elements after the beginning of a line."""
    count = int(np.prod(shape))
    memory = np.full(count + 160, 77, dtype)
    start = -memory.ctypes.data // memory.itemsize % 64 + before
    array = memory[start : start + count].reshape(shape)
    return array, memory, start


def case(rng, dtype, channels, channel_axis, width, written=None):
    """An image, and a grid whose output has more bytes than need be."""
    itemsize = np.dtype(dtype).itemsize
    height = BYTES // (2 * width * (written or channels * itemsize)) + 3
    size = (97, 131)
    image = drawn(rng, (2, channels, *size) if channel_axis == 1 else (2, *size, channels), dtype)
    lattice = np.stack(np.meshgrid(np.linspace(-1.1, 1.0, width), np.linspace(-1.0, 1.1, height)), -1)
    turned = lattice @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + 0.001 * rng.standard_normal((2, height, width, 2))
    return image, turned.astype("float64" if dtype == "float64" else "float32")


def pieces(grid):
    """Indices of samples of the batch and of rows, for pieces of less than half of it."""
    rows = grid.shape[1]
    step = -(-rows // 12) * 4
    return [(slice(n, n + 1), slice(row, row + step)) for n in range(2) for row in range(0, rows, step)]


def assert_nothing_beside(memory, start, size):
    assert (memory[:start] == 77).all()
    assert (memory[start + size :] == 77).all()


@pytest.mark.parametrize("width", [317, 512, 1043])
@pytest.mark.parametrize(("dtype", "mode", "channels", "channel_axis"), KINDS)
def test_pieces_make_the_whole(dtype, mode, channels, channel_axis, width):
    rng = np.random.default_rng(width + channels)
    image, grid = case(rng, dtype, channels, channel_axis, width)
    options = {"mode": mode, "channel_axis": channel_axis}
    rows = grid.shape[1]
    shape = (2, channels, rows, width) if channel_axis == 1 else (2, rows, width, channels)
    parts = [(n, row, pystn.grid_sample(image[n], grid[n, row], **options)) for n, row in pieces(grid)]
    assert all(piece.nbytes < BYTES for *_, piece in parts)
    for before in (0, 1, 5):
        out, memory, start = unaligned(shape, dtype, before)
        assert out.nbytes >= BYTES
        assert pystn.grid_sample(image, grid, out=out, **options) is out
        for n, row, piece in parts:
            np.testing.assert_array_equal(out[n, :, row] if channel_axis == 1 else out[n, row], piece)
        assert_nothing_beside(memory, start, out.size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tangents(dtype):
    rng = np.random.default_rng(0)
    image, grid = case(rng, dtype, 3, 1, 333)
    d_image, d_grid = rng.standard_normal(image.shape).astype(dtype), rng.standard_normal(grid.shape).astype(dtype)
    whole = pystn.grid_sample_jvp(image, grid, d_image, d_grid)
    for n, row in pieces(grid):
        piece = pystn.grid_sample_jvp(image[n], grid[n, row], d_image[n], d_grid[n, row])
        np.testing.assert_array_equal(whole[n, :, row], piece)


@pytest.mark.parametrize("width", [256, 333])
@pytest.mark.parametrize("wrt", [(False, True), (True, True)])
def test_gradients(wrt, width):
    rng = np.random.default_rng(1)
    image, grid = case(rng, "float32", 3, 1, width, written=8)
    cotangent = rng.standard_normal((2, 3, *grid.shape[1:3]), dtype=np.float32)
    names = tuple(name for name, wanted in zip(("input", "grid"), wrt, strict=True) if wanted)
    for before in (0, 3):
        to_grid, memory, start = unaligned(grid.shape, "float32", before)
        assert to_grid.nbytes >= BYTES
        out = (np.empty_like(image), to_grid) if wrt[0] else (None, to_grid)
        pystn.grid_sample_vjp(cotangent, image, grid, wrt=names, out=out)
        for n, row in pieces(grid):
            _, piece = pystn.grid_sample_vjp(cotangent[n, :, row], image[n], grid[n, row], wrt=("grid",))
            np.testing.assert_array_equal(to_grid[n, row], piece)
        assert_nothing_beside(memory, start, to_grid.size)


def test_warps():
    rng = np.random.default_rng(2)
    image = rng.standard_normal((2, 3, 90, 110), dtype=np.float32)
    theta = np.array([[[0.9, -0.3, 0.05], [0.3, 0.9, -0.1]]] * 2, np.float32)
    size = (600, 317)
    whole = pystn.warp_affine(image, theta, size)
    assert whole.nbytes >= BYTES
    for n in range(2):
        for c in range(3):
            piece = pystn.warp_affine(image[n : n + 1, c : c + 1], theta[n : n + 1], size)
            assert piece.nbytes < BYTES
            np.testing.assert_array_equal(whole[n : n + 1, c : c + 1], piece)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("rows", [9, 700])
def test_scattered_samples_have_the_bits_of_narrow_pieces(rng, mode, rows):
    """Wide grids without order are walked row by row, narrow ones in squares; of 700 rows the samples are streamed."""
    image = rng.standard_normal((2, 3, 40, 50)).astype("float32")
    grid = rng.uniform(-1.2, 1.2, (2, rows, 333, 2)).astype("float32")
    whole = pystn.grid_sample(image, grid, mode)
    assert (whole.nbytes >= BYTES) == (rows == 700)
    grad_output = rng.standard_normal(whole.shape).astype("float32")
    _, gradient = pystn.grid_sample_vjp(grad_output, image, grid, mode, wrt="grid")
    for column in range(0, 333, 48):
        some = slice(column, column + 48)
        piece = np.ascontiguousarray(grid[:, :, some])
        np.testing.assert_array_equal(pystn.grid_sample(image, piece, mode), whole[..., some])
        _, found = pystn.grid_sample_vjp(grad_output[..., some], image, piece, mode, wrt="grid")
        np.testing.assert_array_equal(found, gradient[:, :, some])


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("kind", ["sparse", "scattered"])
def test_large_images_have_the_bits_of_their_channels(rng, mode, kind):
    """Beyond what addresses are translated for at once, channels are read together if samples are in order."""
    image = rng.standard_normal((1, 3, 1200, 1210), np.float32)
    assert image.size >= 4 << 20
    if kind == "sparse":
        grid = pystn.affine_grid(np.array([[[1.0, 0.03, 0.0], [-0.02, 1.01, 0.0]]], np.float32), (300, 303))
    else:
        grid = rng.uniform(-1.2, 1.2, (1, 300, 303, 2)).astype(np.float32)
    whole = pystn.grid_sample(image, grid, mode)
    for c in range(3):
        np.testing.assert_array_equal(pystn.grid_sample(image[:, c : c + 1], grid, mode), whole[:, c : c + 1])
