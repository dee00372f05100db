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
    image, grid, cotangent, *_ = case
    for shape, call in (
        ((2, 3, 13, 22), lambda out: pystn.grid_sample(image, grid, out=out)),
        (image.shape, lambda out: pystn.grid_sample_vjp(cotangent, image, grid, wrt="input", out=(out, None))),
        (grid.shape, lambda out: pystn.grid_sample_vjp(cotangent, image, grid, wrt="grid", out=(None, out))),
    ):
        frame = np.full([n + 6 for n in shape], 7, image.dtype)
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
