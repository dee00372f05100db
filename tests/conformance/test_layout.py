"""Where numbers lie in memory changes nothing: layouts, strides, alignment, `out`, empty axes."""

import numpy as np
import pytest
from conftest import coordinates

import pystn


def reversed_memory(a):
    return np.flip(np.flip(a).copy())


def transposed_memory(a):
    return np.ascontiguousarray(a.T).T


def every_other(a):
    return np.repeat(a, 2, axis=-1)[..., ::2]


def misaligned(a):
    packed = np.zeros(a.shape, np.dtype([("pad", "i1"), ("value", a.dtype)]))
    packed["value"] = a
    assert not packed["value"].flags.aligned
    return packed["value"]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


VIEWS = [reversed_memory, transposed_memory, every_other, misaligned, read_only]


@pytest.fixture(params=[np.float32, np.float64])
def case(request, rng):
    """Image, grid, cotangent, tangents: large enough for whole and partial tiles."""
    image = rng.standard_normal((2, 3, 17, 19)).astype(request.param)
    grid = coordinates(rng, (2, 13, 22), (17, 19), "normalized", 1.2).astype(request.param)
    smooth = np.stack(np.meshgrid(np.linspace(-1.1, 0.9, 22), np.linspace(-0.9, 1.1, 13)), -1)
    grid[1] = smooth @ np.array([[0.8, 0.3], [-0.3, 0.8]])
    cotangent = rng.standard_normal((2, 3, 13, 22)).astype(request.param)
    return image, grid, cotangent, rng.standard_normal(image.shape).astype(request.param), np.roll(grid, 1, -2)


def everything(backend, image, grid, cotangent, d_image, d_grid, **options):
    arrays = [backend.array(a) for a in (image, grid, cotangent, d_image, d_grid)]
    image, grid, cotangent, d_image, d_grid = arrays
    return [
        backend.numpy(a)
        for a in (
            pystn.grid_sample(image, grid, **options),
            *pystn.grid_sample_vjp(cotangent, image, grid, **options),
            pystn.grid_sample_jvp(image, grid, d_image, d_grid, **options),
        )
    ]


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.__name__)
def test_strides_of_what_is_read(backend, case, view):
    """Equal to rounding: a stride may choose another kernel, with sums in another order."""
    plain = everything(backend, *case)
    for i in range(5):
        arrays = [view(a) if j == i else a for j, a in enumerate(case)]
        for actual, expected in zip(everything(backend, *arrays), plain, strict=True):
            tolerance = 40 * np.finfo(expected.dtype).eps * max(1, np.abs(expected).max())
            np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def test_zero_strides_are_read(backend, case):
    image, grid, cotangent, d_image, d_grid = case
    image, d_image = (np.broadcast_to(a[:1, :1], a.shape) for a in (image, d_image))
    grid, d_grid = (np.broadcast_to(a[:, :1], a.shape) for a in (grid, d_grid))
    cotangent = np.broadcast_to(cotangent[:, :, :1, :1], cotangent.shape)
    arrays = (image, grid, cotangent, d_image, d_grid)
    for actual, expected in zip(
        everything(backend, *arrays), everything(backend, *map(np.ascontiguousarray, arrays)), strict=True
    ):
        tolerance = 40 * np.finfo(expected.dtype).eps * max(1, np.abs(expected).max())
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("channels", [1, 3, 20])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_channels_last_equals_channels_first(backend, rng, channels, mode):
    grid = coordinates(rng, (2, 6, 7), (9, 10), "normalized")
    for dtype in (np.float32, np.float64):
        image = rng.standard_normal((2, channels, 9, 10)).astype(dtype)
        cotangent = rng.standard_normal((2, channels, 6, 7)).astype(dtype)
        points = grid.astype(dtype)
        arrays = (image, points, cotangent, image[::-1].copy(), points[::-1].copy())
        first = everything(backend, *arrays, mode=mode)
        moved = [a if i in (1, 4) else np.moveaxis(a, 1, -1).copy() for i, a in enumerate(arrays)]
        last = everything(backend, *moved, mode=mode, channel_axis=-1)
        np.testing.assert_array_equal(np.moveaxis(last[0], -1, 1), first[0])
        for i in (1, 2, 3):
            actual = last[i] if i == 2 else np.moveaxis(last[i], -1, 1)
            bound = 40 * np.finfo(dtype).eps * channels * max(1, np.abs(first[i]).max())
            np.testing.assert_allclose(actual, first[i], rtol=0, atol=bound)


@pytest.mark.parametrize("view", [reversed_memory, transposed_memory, every_other], ids=lambda v: v.__name__)
def test_out_of_any_stride(backend, case, view):
    image, grid, cotangent, d_image, d_grid = case
    plain = everything(backend, *case)
    outs = [backend.array(view(np.full_like(a, np.nan))) for a in plain]
    arrays = [backend.array(a) for a in case]
    image, grid, cotangent, d_image, d_grid = arrays
    results = [
        pystn.grid_sample(image, grid, out=outs[0]),
        *pystn.grid_sample_vjp(cotangent, image, grid, out=(outs[1], outs[2])),
        pystn.grid_sample_jvp(image, grid, d_image, d_grid, out=outs[3]),
    ]
    for result, out, expected in zip(results, outs, plain, strict=True):
        assert result is out
        tolerance = 40 * np.finfo(expected.dtype).eps * max(1, np.abs(expected).max())
        np.testing.assert_allclose(backend.numpy(out), expected, rtol=0, atol=tolerance)


def test_out_writes_nothing_beside_it(backend, case):
    dtype, shapes = case[0].dtype, [a.shape for a in case[:3]]
    image, grid, cotangent, d_image, d_grid = [backend.array(a) for a in case]
    for shape, call in (
        (shapes[2], lambda out: pystn.grid_sample(image, grid, out=out)),
        (shapes[0], lambda out: pystn.grid_sample_vjp(cotangent, image, grid, wrt="input", out=(out, None))),
        (shapes[1], lambda out: pystn.grid_sample_vjp(cotangent, image, grid, wrt="grid", out=(None, out))),
        (shapes[2], lambda out: pystn.grid_sample_jvp(image, grid, d_image, d_grid, out=out)),
    ):
        frame = np.full([n + 6 for n in shape], 7, dtype)
        inner = tuple(slice(3, -3) for _ in shape)
        call(backend.array(frame[inner]))
        frame[inner] = 7
        assert (frame == 7).all()


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    "image_shape, grid_shape",
    [
        ((0, 3, 4, 5), (0, 6, 2)),
        ((2, 0, 4, 5), (2, 6, 2)),
        ((2, 3, 4, 5), (2, 0, 2)),
        ((2, 3, 4, 5), (2, 3, 0, 2)),
        ((2, 3, 4, 5), (2, 0, 3, 2)),
        ((2, 3, 0, 5), (2, 0, 2)),
        ((2, 3, 4, 0), (2, 0, 7, 2)),
    ],
    ids=str,
)
def test_empty(backend, rng, image_shape, grid_shape, mode):
    """Empty axes give empty samples, and zero gradients to what is not empty."""
    for dtype in (np.float32, np.float64):
        image = rng.standard_normal(image_shape).astype(dtype)
        grid = rng.uniform(-1, 1, grid_shape).astype(dtype)
        shape = (image_shape[0], image_shape[1], *grid_shape[1:-1])
        cotangent = rng.standard_normal(shape).astype(dtype)
        value, grad_image, grad_grid, tangent = everything(backend, image, grid, cotangent, image, grid, mode=mode)
        assert value.shape == tangent.shape == shape
        assert value.size == 0
        np.testing.assert_array_equal(grad_image, np.zeros(image_shape))
        np.testing.assert_array_equal(grad_grid, np.zeros(grid_shape))


@pytest.mark.parametrize("channels", [1, 2, 5, 20])
@pytest.mark.parametrize("image, grid", [("f8", "f8"), ("f4", "f8"), ("f8", "f4")])
def test_layouts_are_bitwise_equal_in_double(backend, cell, rng, channels, image, grid):
    """The same sums in the same order, wherever the channels are: value, both gradients, jvp."""
    points = coordinates(rng, (2, 6, 7), (9, 10), cell["coords"], 1.7, grid)
    images = rng.standard_normal((2, 2, channels, 9, 10)).astype(image)
    arrays = (images[0], points, rng.standard_normal((2, channels, 6, 7)).astype(image), images[1], points[::-1].copy())
    first = everything(backend, *arrays, **cell)
    moved = [a if i in (1, 4) else np.moveaxis(a, 1, -1).copy() for i, a in enumerate(arrays)]
    last = everything(backend, *moved, channel_axis=-1, **cell)
    for i, (a, b) in enumerate(zip(last, first, strict=True)):
        np.testing.assert_array_equal(a if i == 2 else np.moveaxis(a, -1, 1), b)


@pytest.mark.parametrize("layout", [1, -1])
@pytest.mark.parametrize("shape", [(), (6,), (2, 3, 4), (2, 1, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_grids_of_any_rank_are_lists_of_points(backend, rng, layout, shape, dtype):
    """Bitwise: what the axes between batch and coordinates are changes no sample."""
    image = rng.standard_normal((2, 3, 9, 10)).astype(dtype)
    grid = coordinates(rng, (2, *shape), (9, 10), "normalized", 1.2, dtype)
    points = grid.reshape(2, -1, 2)
    image = np.moveaxis(image, 1, layout).copy()

    def sample(points):
        value = pystn.grid_sample(backend.array(image), backend.array(points), channel_axis=layout)
        return np.moveaxis(backend.numpy(value), layout, 1)

    assert sample(grid).shape == (2, 3, *shape)
    np.testing.assert_array_equal(sample(grid).reshape(2, 3, -1), sample(points))


@pytest.mark.parametrize("shared", ["image", "grid"])
@pytest.mark.parametrize("layout", [1, -1])
def test_sharing_equals_repeating(backend, cell, rng, shared, layout):
    """A batch of one, read by all, is bitwise the repeated array; its gradient is the sum of theirs."""
    n = 4
    image = rng.standard_normal((1 if shared == "image" else n, 3, 7, 6))
    grid = coordinates(rng, (1 if shared == "grid" else n, 5, 4), (7, 6), cell["coords"])
    cotangent = rng.standard_normal((n, 3, 5, 4))
    d_image, d_grid = rng.standard_normal(image.shape), rng.standard_normal(grid.shape)
    image, cotangent, d_image = (np.moveaxis(a, 1, layout).copy() for a in (image, cotangent, d_image))
    arrays = (image, grid, cotangent, d_image, d_grid)
    once = everything(backend, *arrays, channel_axis=layout, **cell)
    repeated = everything(backend, *(np.repeat(a, n // len(a), 0) for a in arrays), channel_axis=layout, **cell)
    np.testing.assert_array_equal(once[0], repeated[0])
    np.testing.assert_array_equal(once[3], repeated[3])
    for a, b, primal in ((once[1], repeated[1], image), (once[2], repeated[2], grid)):
        assert a.shape == primal.shape
        b = b.sum(axis=0, keepdims=True) if len(primal) == 1 else b
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14 * max(1, np.abs(b).max()) * n)


def test_what_is_read_is_not_written(backend, cell, case):
    kept = [a.copy() for a in case]
    everything(backend, *case, **cell)
    for a, b in zip(case, kept, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_an_axis_of_one_pixel_is_constant_under_border_and_reflection(backend, rng, size, padding_mode, align_corners):
    """Wherever along it a sample is, and so with no slope; under zeros it fades, or cannot be left."""
    image = rng.standard_normal((1, 2, *size))
    grid = coordinates(rng, (1, 30), size, "normalized", 4)
    axis = [a for a in (0, 1) if size[1 - a] == 1]
    moved = grid.copy()
    moved[..., axis] = rng.uniform(-9, 9, (1, 30, len(axis)))
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    ones = backend.array(np.ones((1, 2, 30)))
    values = [
        backend.numpy(pystn.grid_sample(backend.array(image), backend.array(g), **options)) for g in (grid, moved)
    ]
    np.testing.assert_allclose(values[1], values[0], rtol=0, atol=1e-15)
    _, slope = pystn.grid_sample_vjp(ones, backend.array(image), backend.array(grid), **options)
    assert not backend.numpy(slope)[..., axis].any()
