"""Images of more elements than 32 bits count, and sides longer than 16 bits do.

The memory of `np.zeros` is mapped when it is touched: a few pixels of 2 GB are a few pages.
"""

import numpy as np
import oracle
import pytest

import pystn

BEYOND = 2**31 + 2**20
KERNELS = {"nearest": 1, "linear": 2, "cubic": 4}


def zeros(shape):
    try:
        return np.zeros(shape, np.uint8)
    except MemoryError:
        pytest.skip(f"no address space for {np.prod(shape) / 2**30:.1f} GiB, which is not even used")


def filled_ends(line):
    """Writes 16 pixels at both ends of a line; returns them."""
    ends = np.random.default_rng(0).integers(0, 256, (2, 16), np.uint8)
    line[:16], line[-16:] = ends
    return ends


def layout(image, channel_axis):
    return image if channel_axis == 1 else np.moveaxis(image, 1, -1)


@pytest.mark.parametrize("mode", KERNELS)
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("direction", [1, -1], ids=["forward", "backward"])
@pytest.mark.parametrize("padding_mode", ["border", "wrap", "mirror"])
def test_a_signal_of_more_than_2_31_pixels(mode, channel_axis, direction, padding_mode):
    """Samples beside both ends, past them, and in the zeros between; slopes there; in float64 coordinates."""
    signal = zeros((1, 1, BEYOND))
    low, high = filled_ends(signal[0, 0, ::direction]).astype(float)
    signal = layout(signal[:, :, ::direction], channel_axis)
    offsets = np.array([-2.25, -0.5, 0.0, 0.75, 3.5, 9.375, 13.25])
    points = np.concatenate([offsets, BEYOND - 1 - offsets, [2.0**31 - 0.5, 2.0**31 + 0.25]])
    options = {"mode": mode, "padding_mode": padding_mode, "coords": "pixel"}
    # The same on a short line of the two ends with zeros between, whose taps are the same.
    short = np.concatenate([low, np.zeros(32), high])
    moved = np.where(points < 2**30, points, points - (BEYOND - len(short)))
    moved[-2:] = 32
    expected = oracle.grid_sample(short[None, None], moved[None, :, None], **options)[0, 0]
    slopes = oracle.grid_gradient(short[None, None], moved[None, :, None], **options)[0, 0, :, 0]

    value = pystn.grid_sample(signal, points[None, :, None], channel_axis=channel_axis, **options)
    np.testing.assert_array_equal(value.ravel(), np.rint(np.clip(expected, 0, 255)))
    tangent = pystn.grid_gradient(signal, points[None, :, None], channel_axis=channel_axis, **options)
    np.testing.assert_allclose(tangent.ravel(), slopes, rtol=0, atol=1e-4)
    ones = np.ones(value.shape, np.float32)
    _, grad_grid = pystn.grid_sample_vjp(
        ones, signal, points[None, :, None], wrt="grid", channel_axis=channel_axis, **options
    )
    np.testing.assert_allclose(grad_grid.ravel(), slopes, rtol=0, atol=1e-4)


@pytest.mark.parametrize("coordinate", [np.float32, np.float64])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("mode", KERNELS)
def test_an_image_of_more_than_2_31_pixels(coordinate, channel_axis, flipped, mode):
    """70000 rows of 32768: float32 coordinates reach every pixel, and offsets within a row pass 2^31."""
    shape = (70000, 32768)
    whole = zeros((1, 1, *shape))
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 256, (12, 12), np.uint8)
    view = whole[:, :, ::-1, ::-1] if flipped else whole
    view[0, 0, -12:, -12:] = corner
    crop = np.zeros((1, 1, 40, 40))
    crop[0, 0, -12:, -12:] = corner
    points = np.array([(27.5, 27.25), (39, 39), (38.5, 30.75), (29, 38.25), (39.75, 39.5), (41.5, 35)])
    options = {"mode": mode, "padding_mode": "constant", "fill_value": 3.0, "coords": "pixel"}
    expected = oracle.grid_sample(crop, points[None], **options)[0, 0]
    grid = (points + np.array(shape[::-1]) - 40)[None].astype(coordinate)
    np.testing.assert_array_equal(grid, (points + np.array(shape[::-1]) - 40)[None])  # which float32 holds
    value = pystn.grid_sample(layout(view, channel_axis), grid, channel_axis=channel_axis, **options)
    np.testing.assert_array_equal(value.ravel(), np.rint(np.clip(expected, 0, 255)))


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("mode", KERNELS)
def test_images_and_channels_beyond_2_31_pixels(mode, channel_axis):
    """Offsets of the batch and of channels pass 2^31, where those along the signal do not."""
    n = 2**30 + 2**19
    for shape in ((3, 1, n), (1, 3, n)):
        memory = zeros(shape)
        memory[-1, -1, -16:] = np.arange(16) * 10
        points = n - 16 + np.array([3.0, 4.25, 8.5])
        grid = np.broadcast_to(points[None, :, None], (shape[0], 3, 1))
        value = pystn.grid_sample(layout(memory, channel_axis), grid, mode, coords="pixel", channel_axis=channel_axis)
        expected = oracle.grid_sample(
            memory[-1:, -1:, -16:].astype(float), grid[:1] - (n - 16), mode=mode, coords="pixel"
        )
        value = np.moveaxis(value, channel_axis, 1)
        np.testing.assert_array_equal(value[-1, -1], np.rint(expected[0, 0]))
        assert not value.reshape(3, 3)[:2].any()


SIZES = [(2, 100_000), (100_000, 2), (1, 100_000), (70_000, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", KERNELS)
@pytest.mark.parametrize("flipped", [False, True])
def test_sides_of_more_than_32767_pixels(size, dtype, mode, flipped):
    """Value, gradients and push at both ends of a long side equal the oracle's on its last 24 pixels."""
    rng = np.random.default_rng(2)
    long, n = int(np.argmax(size)), max(size)
    image = rng.standard_normal((1, 2, *size)).astype(dtype)
    image = image[..., ::-1, ::-1] if flipped else image
    cotangent = rng.standard_normal((1, 2, 80)).astype(dtype)
    options = {"mode": mode, "padding_mode": "border", "coords": "pixel"}
    # Of each end's crop: points near the end and beyond it, whose taps stay clear of where it is cut off.
    ends = []
    for low in (-3, 7):
        points = rng.uniform(-3, min(size) + 2, (40, 2))
        points[:, 1 - long] = rng.uniform(low, low + 19, 40)
        ends.append(np.rint(points * 64) / 64 + 1 / 128)  # between pixels; float32 holds them beyond 2^16 too
    shift = np.array([0, n - 24] if long == 0 else [n - 24, 0])
    grid = np.concatenate([ends[0], ends[1] + shift])[None].astype(dtype)
    np.testing.assert_array_equal(grid[0, 40:], ends[1] + shift)

    value = pystn.grid_sample(image, grid, **options)
    grad_image, grad_grid = pystn.grid_sample_vjp(cotangent, image, grid, **options)
    pushed = pystn.grid_push(cotangent, grid, size, **options)
    bound = {np.float32: 2e-5, np.float64: 1e-12}[dtype]
    between = np.ones(grad_image.shape, bool)
    for points, half, part in zip(ends, (np.s_[:40], np.s_[40:]), (np.s_[:24], np.s_[n - 24 :]), strict=True):
        window = (..., part, slice(None)) if long == 0 else (..., part)
        crop, g = image[window].astype(float), cotangent[:, :, half].astype(float)
        expected = oracle.grid_sample(crop, points[None], **options)
        np.testing.assert_allclose(value[:, :, half], expected, rtol=0, atol=bound)
        to_crop, to_points = oracle.grid_sample_vjp(g, crop, points[None], **options)
        np.testing.assert_allclose(grad_image[window], to_crop, rtol=0, atol=10 * bound)
        np.testing.assert_allclose(grad_grid[:, half], to_points, rtol=0, atol=10 * bound)
        between[window] = False
    assert between.any()
    assert not grad_image[between].any()
    np.testing.assert_allclose(pushed, grad_image, rtol=0, atol=10 * bound)


@pytest.mark.parametrize("coordinates", ["float32", "float64"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("size", [2**22 - 1, 2**22, 2**22 + 3, 2**23 + 2])
def test_nearest_where_numbers_end_to_have_digits_behind_the_point(size, padding_mode, coordinates):
    image = np.arange(1, size + 1, dtype=np.float32).reshape(1, 1, size)
    at = np.concatenate([np.arange(-2, 3, 0.25), size - 1 + np.arange(-3, 3, 0.25)]).astype(coordinates)
    pixel = np.rint(at).astype(int)
    if padding_mode == "border":
        pixel = pixel.clip(0, size - 1)
    expected = np.where((pixel >= 0) & (pixel < size), pixel + 1, 0)
    options = {"mode": "nearest", "padding_mode": padding_mode, "coords": "pixel"}
    sampled = pystn.grid_sample(image, np.tile(at, 9).reshape(1, -1, 1), **options)
    np.testing.assert_array_equal(sampled[0, 0], np.tile(expected, 9).astype(np.float32))
