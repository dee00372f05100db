"""Images whose channels lie next to each other, pixel by pixel in vectors: what only that way of reading could get
wrong. The channels-first layout, and each channel alone, go other ways; of small types these are read by planes."""

import ctypes
import mmap

import numpy as np
import pytest

import pystn

PAGE = mmap.PAGESIZE
MODES = ["nearest", "linear", "cubic"]
SMALL = ["uint8", "int16", "uint16", "float16"]
MANY_TAPS = [pystn.BSpline(2), pystn.BSpline(3), pystn.Lanczos(3), pystn.Lanczos(4)]


def guarded(array, at_end=True):
    """A copy that ends where memory ends, or begins where it begins: the pages beside it may not be read."""
    size = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in (address, address + PAGE + size):
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
            pytest.skip("no page can be protected here")
    start = PAGE + (size - array.nbytes if at_end else 0)
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    return copy


def drawn(rng, shape, dtype):
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape, dtype)
    return rng.standard_normal(shape).astype(dtype)


def channels_first(array):
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


@pytest.mark.parametrize("dtype", [*SMALL, "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 19, 31])
@pytest.mark.parametrize("mode", [*MODES, *MANY_TAPS], ids=str)
def test_nothing_is_read_or_written_beside_an_image(rng, dtype, channels, mode):
    """Every pixel is read, the very first and the very last too; rows are flipped for the other end."""
    height, width = 9, 11
    y, x = np.mgrid[-2 : height + 1 : 0.7, -2 : width + 1 : 0.6]
    grid = np.stack([x, y], -1)[None].astype("float64" if dtype == "float64" else "float32")
    plain = drawn(rng, (1, height, width, channels), dtype)
    options = {"mode": mode, "coords": "pixel", "channel_axis": -1}
    for at_end in (True, False):
        for step in (1, -1):
            image = guarded(plain[:, ::step], at_end)[:, ::step]
            expected = np.concatenate(
                [pystn.grid_sample(plain[..., c][:, None], grid, mode, coords="pixel") for c in range(channels)], axis=1
            )
            out = guarded(np.zeros((1, *grid.shape[1:3], channels), dtype), at_end)
            pystn.grid_sample(image, grid, **options, out=out)
            np.testing.assert_array_equal(channels_first(out), expected)
            planes, written = guarded(channels_first(plain)[:, :, ::step], at_end), guarded(expected * 0, at_end)
            pystn.grid_sample(planes[:, :, ::step], grid, mode, coords="pixel", out=written)
            np.testing.assert_array_equal(written, expected)
            if dtype not in SMALL:
                cotangent = guarded(drawn(rng, out.shape, dtype), at_end)
                grads = guarded(np.zeros(plain.shape, dtype), at_end), guarded(np.zeros(grid.shape, grid.dtype), at_end)
                pystn.grid_sample_vjp(cotangent, image, grid, **options, out=grads)
                other = pystn.grid_sample_vjp(
                    channels_first(cotangent), channels_first(plain), grid, mode, coords="pixel"
                )
                tolerance = 1e-5 if dtype == "float32" else 1e-12
                np.testing.assert_allclose(channels_first(grads[0]), other[0], atol=tolerance)
                np.testing.assert_allclose(grads[1], other[1], atol=20 * tolerance)


@pytest.mark.parametrize("dtype", [*SMALL, "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("mode", [*MODES, "lanczos2"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection", "mirror", "wrap"])
def test_bits_of_the_other_layout(rng, dtype, channels, mode, padding_mode):
    """Widths beside those of vectors and runs; positions in the image, at its borders, far from it and nowhere."""
    kernel = pystn.Lanczos(2) if mode == "lanczos2" else mode
    image = drawn(rng, (2, 23, 17, channels), dtype)
    for columns in (1, 3, 66, 131):
        grid = rng.uniform(-1.2, 1.2, (2, 3, columns, 2)).astype("float64" if dtype == "float64" else "float32")
        grid[:, 0, ::5] *= 0.8
        grid[:, 1, ::7, 0], grid[:, 2, ::9] = np.nan, 1e9
        for options in ({}, {"fill_value": 3.0}, {"cutoff": "edge"}):
            options = {"mode": kernel, "padding_mode": padding_mode, **options}
            if "fill_value" in options:
                options["padding_mode"] = "constant" if padding_mode == "zeros" else padding_mode
            found = pystn.grid_sample(image, grid, channel_axis=-1, **options)
            expected = pystn.grid_sample(channels_first(image), grid, **options)
            np.testing.assert_array_equal(channels_first(found), expected)
            if dtype not in SMALL and mode != "nearest":
                found = pystn.grid_sample_jvp(image, grid, image[::-1], grid[::-1], channel_axis=-1, **options)
                first = channels_first(image)
                expected = pystn.grid_sample_jvp(first, grid, first[::-1], grid[::-1], **options)
                np.testing.assert_array_equal(channels_first(found), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "constant"])
def test_pixels_placed_together_have_the_bits_of_each_alone(rng, dtype, channels, mode, padding_mode):
    """Strips inside, across the borders and the corners, and outside; an image no wider than a kernel too."""
    for height, width in ((20, 30), (4, 4), (2, 5)):
        image = drawn(rng, (1, height, width, channels), dtype)
        for zoom in (0.6, 1.5, 4.0):
            y, x = np.mgrid[-1:1:11j, -1:1:150j] * zoom
            grid = np.stack([x + 0.1 * y, y - 0.3 * x], -1)[None].astype(np.float32)
            options = {"mode": mode, "padding_mode": padding_mode, "channel_axis": -1}
            if padding_mode == "constant":
                options["fill_value"] = 9.0
            found = pystn.grid_sample(image, grid, **options)
            alone = [
                pystn.grid_sample(image, grid.reshape(1, -1, 1, 2)[:, i : i + 1], **options) for i in range(0, 1650, 7)
            ]
            np.testing.assert_array_equal(found.reshape(1, -1, 1, channels)[:, ::7], np.concatenate(alone, axis=1))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["linear", "cubic", pystn.Cubic(-1e9)], ids=str)
def test_integers_round_half_to_even_and_saturate(dtype, channels, mode):
    """Between pixels that differ by an odd number; a cubic kernel overshoots at an edge, on both sides, and a steep one
    far beyond all integers that processors convert."""
    limits = np.iinfo(dtype)
    row = np.zeros((8, 256), dtype)
    row[:, ::2], row[:, 1::2] = np.arange(128), np.arange(128) + 1
    edge = np.full((8, 256), limits.min, dtype)
    edge[:, 128:] = limits.max
    for image in (row, edge):
        pixels = np.repeat(image[None, :, :, None], channels, axis=3)
        y, x = np.mgrid[2:6, 2:253]
        for shift in (0.0, 0.5, 0.25):
            grid = np.stack([x + shift, y], -1)[None].astype(np.float32)
            exact = pystn.grid_sample(pixels.astype(np.float32), grid, mode, coords="pixel", channel_axis=-1)
            expected = np.clip(np.rint(exact), limits.min, limits.max).astype(dtype)
            found = pystn.grid_sample(pixels, grid, mode, coords="pixel", channel_axis=-1)
            np.testing.assert_array_equal(found, expected)
            planes = pystn.grid_sample(channels_first(pixels), grid, mode, coords="pixel")
            np.testing.assert_array_equal(planes, channels_first(expected))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "constant", "wrap"])
def test_sixteen_bits_are_float32_rounded_once(rng, channels, mode, padding_mode):
    """Of all halves and bfloats, NaN, infinity and what is subnormal among them, at borders too."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    y, x = np.mgrid[-2:30:0.7, -2:20:0.8]
    grid = np.stack([x, y], -1)[None].astype(np.float32)
    bits = rng.integers(0, 1 << 16, (1, 28, 18, channels), np.uint16)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        image = bits.view(dtype)
        image[:, 2::7, ::5], image[:, ::9, 3::7] = np.inf, -np.inf
        options = {"mode": mode, "padding_mode": padding_mode, "coords": "pixel", "channel_axis": -1}
        if padding_mode == "constant":
            options["fill_value"] = 0.3
        with np.errstate(over="ignore", invalid="ignore"):
            expected = pystn.grid_sample(image.astype(np.float32), grid, **options).astype(dtype)
        found = pystn.grid_sample(image, grid, **options)
        for some in (np.isnan, np.isinf, np.isfinite):
            assert some(expected).any()
        np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))
        options["channel_axis"] = 1
        planes = pystn.grid_sample(channels_first(image), grid, **options)
        np.testing.assert_array_equal(planes.astype(np.float32), channels_first(expected).astype(np.float32))


@pytest.mark.parametrize("channels", [2, 3, 4, 16])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_numbers_beside_the_taps_are_not_read(rng, channels, mode):
    """NaN everywhere but under the taps of one pixel, and in the channel that no view shows."""
    reach = {"linear": (0, 2), "cubic": (-1, 3)}[mode]
    for step in (1, 2):
        image = np.full((1, 12, 13, channels * step), np.nan, np.float32)
        image[:, 5 + reach[0] : 5 + reach[1], 6 + reach[0] : 6 + reach[1], :channels] = 1
        grid = np.full((1, 2, 5, 2), (6.3, 5.4), np.float32)
        found = pystn.grid_sample(image[..., :channels], grid, mode, coords="pixel", channel_axis=-1)
        np.testing.assert_allclose(found, 1, rtol=1e-6)


@pytest.mark.parametrize("channels", [3, 4, 32])
def test_taps_of_no_weight_are_not_read(channels):
    """A cubic kernel at a pixel centre reads that pixel alone."""
    image = np.full((1, 12, 13, channels), np.nan, np.float32)
    image[:, 5, 6] = 2
    found = pystn.grid_sample(image, np.array([[[6, 5]]], np.float32), "cubic", coords="pixel", channel_axis=-1)
    np.testing.assert_array_equal(found, 2)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [3, 4])
def test_strides_of_input_and_output(rng, dtype, channels):
    """Views with pixels apart, with rows flipped; and written into pixels that lie apart."""
    frame = drawn(rng, (1, 40, 60, channels + 2), dtype)
    grid = rng.uniform(-1.1, 1.1, (1, 21, 67, 2)).astype(np.float32)
    for view in (frame[..., :channels], frame[:, ::-1, ::2, 1 : channels + 1]):
        expected = pystn.grid_sample(np.ascontiguousarray(view), grid, channel_axis=-1)
        np.testing.assert_array_equal(pystn.grid_sample(view, grid, channel_axis=-1), expected)
        wide = np.full((1, 21, 67, channels + 1), 9, dtype)
        pystn.grid_sample(view, grid, channel_axis=-1, out=wide[..., :channels])
        np.testing.assert_array_equal(wide[..., :channels], expected)
        assert (wide[..., channels] == 9).all()


def framed(rng, shape, gap, dtype="float32", fill=np.nan):
    """A view of (N, *, channels) whose pixels and rows lie `gap` apart, and what lies between them and around."""
    batch, height, width, channels = shape
    frame = np.full((batch + 2, height + 2, width + 2, channels + gap), fill, dtype)
    view = frame[1:-1, 1:-1, 1:-1, gap // 2 : gap // 2 + channels]
    view[...] = rng.standard_normal(shape)
    return frame, view


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("gap, between", [(0, 0), (1, 0), (2, 0), (4, 0), (0, 1), (2, 5)])
@pytest.mark.parametrize("step", [1, -1])
def test_gradients_of_pixels_apart(rng, channels, mode, gap, between, step):
    """To the bits of arrays without gaps; what lies in the gaps is NaN, and stays what it is in what is written."""
    _, image = framed(rng, (2, 14, 19, channels), gap)
    _, cotangent = framed(rng, (2, 9, 71, channels), between)
    grid = rng.uniform(-1.15, 1.15, (2, 9, 71, 2)).astype(np.float32)
    image, cotangent = image[:, :, ::step], cotangent[:, ::step]
    options = {"mode": mode, "channel_axis": -1}
    plain = np.ascontiguousarray(cotangent), np.ascontiguousarray(image), grid
    expected = pystn.grid_sample_vjp(*plain, **options)
    written, out = framed(rng, image.shape, gap)
    pystn.grid_sample_vjp(cotangent, image, grid, **options, out=(out[:, :, ::step], np.empty_like(grid)))
    np.testing.assert_array_equal(out[:, :, ::step], expected[0])
    out[...] = np.nan
    assert np.isnan(written).all()
    for wrt in ("input", "grid", ("input", "grid")):
        found = pystn.grid_sample_vjp(cotangent, image, grid, wrt=wrt, **options)
        for actual, other in zip(found, expected, strict=True):
            if actual is not None:
                np.testing.assert_array_equal(actual, other)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("where", ["cotangent", "image"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_number_reaches_its_own_pixels(rng, channels, where, bad):
    """In every channel and at every place of a vector; positions keep off pixel centres, where a weight is 0."""
    y, x = np.mgrid[0:6, 0:37]
    grid = np.stack([x * 0.9 + rng.uniform(0.1, 0.2, x.shape), y + rng.uniform(0.1, 0.9, x.shape)], -1)
    grid = grid[None].astype(np.float32)
    image = rng.standard_normal((1, 8, 36, channels)).astype(np.float32)
    cotangent = rng.standard_normal((1, 6, 37, channels)).astype(np.float32)
    for column in range(16, 21):
        for c in range(channels):
            numbers = {"cotangent": cotangent.copy(), "image": image.copy()}
            numbers[where][0, 3, column, c] = bad
            arrays = numbers["cotangent"], numbers["image"], grid
            found = pystn.grid_sample_vjp(*arrays, coords="pixel", channel_axis=-1)
            cells = np.floor(grid[0]).astype(int)
            taps = cells[..., None, :] + [(0, 0), (1, 0), (0, 1), (1, 1)]
            poisoned = np.zeros(image.shape, bool)
            if where == "cotangent":
                poisoned[0, taps[3, column, :, 1], taps[3, column, :, 0], c] = True
                moved = np.zeros(grid.shape[:3], bool)
                moved[0, 3, column] = True
            else:
                moved = (taps == (column, 3)).all(-1).any(-1)[None]
            np.testing.assert_array_equal(~np.isfinite(found[0]), poisoned)
            np.testing.assert_array_equal(~np.isfinite(found[1]).all(-1), moved)
            first = channels_first(arrays[0]), channels_first(arrays[1])
            other = pystn.grid_sample_vjp(*first, grid, coords="pixel", wrt="grid")[1]
            np.testing.assert_allclose(found[1], other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("size, shape", [((1500,), (9000,)), ((61, 83), (150, 131)), ((9, 20, 21), (40, 30, 33))])
def test_gradients_of_one_image_in_bands(rng, channels, size, shape):
    """One image, cut among threads: the bits of one thread; and the sums of the other layout."""
    image = rng.standard_normal((1, *size, channels)).astype(np.float32)
    cotangent = rng.standard_normal((1, *shape, channels)).astype(np.float32)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    smooth = np.stack(axes[::-1], -1) @ (np.eye(len(size)) * 0.95 + 0.2 * rng.standard_normal((len(size), len(size))))
    for grid in (smooth[None].astype(np.float32), rng.uniform(-1.1, 1.1, (1, *shape, len(size))).astype(np.float32)):
        results = []
        for threads in (1, 2, 3, 5):
            with pystn.num_threads(threads):
                results.append(pystn.grid_sample_vjp(cotangent, image, grid, channel_axis=-1))
                for wrt, k in (("input", 0), ("grid", 1)):
                    alone = pystn.grid_sample_vjp(cotangent, image, grid, channel_axis=-1, wrt=wrt)[k]
                    np.testing.assert_array_equal(alone, results[0][k])
        for found in results[1:]:
            for actual, expected in zip(found, results[0], strict=True):
                np.testing.assert_array_equal(actual, expected)
        other = pystn.grid_sample_vjp(channels_first(cotangent), channels_first(image), grid)
        grads = channels_first(results[0][0]), results[0][1]
        for actual, expected in zip(grads, other, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
