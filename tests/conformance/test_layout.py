"""Where numbers lie in memory changes nothing: layouts, strides, alignment, `out`, empty axes."""

import itertools

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


def second_order(backend, gg_image, gg_grid, cotangent, image, grid, **options):
    arrays = [backend.array(a) for a in (gg_image, gg_grid, cotangent, image, grid)]
    return [backend.numpy(a) for a in pystn.grid_sample_vjp2(*arrays, **options)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
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


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [(9,), (9, 10), (4, 5, 6)])
def test_second_order_of_channels_last(backend, rng, channels, mode, size):
    grid = coordinates(rng, (2, 6, 7), size, "normalized")
    for dtype in (np.float32, np.float64):
        images = rng.standard_normal((2, 2, channels, *size)).astype(dtype)
        cotangent = rng.standard_normal((2, channels, 6, 7)).astype(dtype)
        points, steps = grid.astype(dtype), rng.standard_normal(grid.shape).astype(dtype)
        first = second_order(backend, images[0], steps, cotangent, images[1], points, mode=mode)
        last = second_order(
            backend,
            *(np.moveaxis(a, 1, -1).copy() if a is not steps else a for a in (images[0], steps, cotangent, images[1])),
            points,
            mode=mode,
            channel_axis=-1,
        )
        np.testing.assert_array_equal(np.moveaxis(last[0], -1, 1), first[0])
        for actual, expected in ((np.moveaxis(last[1], -1, 1), first[1]), (last[2], first[2])):
            bound = 100 * np.finfo(dtype).eps * channels * max(1, np.abs(expected).max())
            np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


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
@pytest.mark.parametrize("image, grid", [("f8", "f8"), ("f8", "f4")])
def test_layouts_are_equal_in_double(backend, cell, rng, channels, image, grid):
    """The same sums in the same order, wherever the channels are: value and jvp, to the bit. Gradients
    add up in an order of their own, by channels or by pixels."""
    points = coordinates(rng, (2, 6, 7), (9, 10), cell["coords"], 1.7, grid)
    images = rng.standard_normal((2, 2, channels, 9, 10)).astype(image)
    arrays = (images[0], points, rng.standard_normal((2, channels, 6, 7)).astype(image), images[1], points[::-1].copy())
    first = everything(backend, *arrays, **cell)
    moved = [a if i in (1, 4) else np.moveaxis(a, 1, -1).copy() for i, a in enumerate(arrays)]
    last = everything(backend, *moved, channel_axis=-1, **cell)
    for i, (a, b) in enumerate(zip(last, first, strict=True)):
        bound = 1e-14 * max(1, np.abs(b).max()) * channels if i in (1, 2) else 0
        np.testing.assert_allclose(a if i == 2 else np.moveaxis(a, -1, 1), b, rtol=0, atol=bound)


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


# ---------------------------------------------------------------------------------------------
# Every operation: what it reads, what it is given to write into, and a call of it


def negative_step(a):
    return np.repeat(a, 2, axis=0)[::2][..., ::-1].copy()[..., ::-1]


def channels_moved(a):
    """Memory with the channels, or another axis, fastest."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


ALL_VIEWS = [*VIEWS, negative_step, channels_moved]


class Operation:
    """A call, the arrays that it reads, by name, and how many arrays its tuple `out` has: 0 where `out`
    is no tuple, None where there is none."""

    def __init__(self, function, reads, outs=None, before_size=0, fixed=(), **given):
        self.function, self.reads, self.outs, self.before_size, self.fixed = function, reads, outs, before_size, fixed
        self.given = given

    def run(self, arrays, options, size=None, **extra):
        """A tuple of results; those that splat are given the size after their first few arrays."""
        given = [arrays[name] for name in self.reads]
        if self.before_size:
            given.insert(self.before_size, SIZE if size is None else size)
        if self.fixed:  # the spline filter takes nothing that samplers do but the layout
            options = {k: v for k, v in options.items() if k == "channel_axis"}
        result = self.function(*given, *self.fixed, **options, **self.given, **extra)
        return result if isinstance(result, tuple) else (result,)

    def into(self, arrays, options, outs):
        return self.run(arrays, options, out=tuple(outs) if self.outs else outs[0])


SIZE = (9, 7)
SPLINE = (3, "border")
EPS = 4.0  # counts go down to -3.4, and a quotient by little hangs on the order of sums
OPERATIONS = {
    "grid_sample": Operation(pystn.grid_sample, ("input", "grid"), 0),
    "grid_sample_vjp": Operation(pystn.grid_sample_vjp, ("samples", "input", "grid"), 2),
    "grid_sample_jvp": Operation(pystn.grid_sample_jvp, ("input", "grid", "d_input", "d_grid"), 0),
    "grid_sample_vjp2": Operation(pystn.grid_sample_vjp2, ("d_input", "d_grid", "samples", "input", "grid")),
    "grid_gradient": Operation(pystn.grid_gradient, ("input", "grid"), 0),
    "grid_gradient_vjp": Operation(pystn.grid_gradient_vjp, ("slopes", "input", "grid"), 2),
    "grid_gradient_jvp": Operation(pystn.grid_gradient_jvp, ("input", "grid", "d_input", "d_grid"), 0),
    "grid_push": Operation(pystn.grid_push, ("samples", "grid"), 0, 2),
    "grid_push_vjp": Operation(pystn.grid_push_vjp, ("input", "samples", "grid"), 2, 3),
    "grid_push_jvp": Operation(pystn.grid_push_jvp, ("samples", "grid", "d_samples", "d_grid"), 0, 4),
    "grid_push_vjp2": Operation(pystn.grid_push_vjp2, ("d_samples", "d_grid", "input", "samples", "grid"), None, 5),
    "grid_count": Operation(pystn.grid_count, ("grid",), 0, 1),
    "grid_count_vjp": Operation(pystn.grid_count_vjp, ("count", "grid"), 1, 2),
    "grid_count_jvp": Operation(pystn.grid_count_jvp, ("grid", "d_grid"), 0, 2),
    "grid_count_vjp2": Operation(pystn.grid_count_vjp2, ("d_grid", "count", "grid"), None, 3),
    "forward_warp": Operation(pystn.forward_warp, ("samples", "grid"), None, 2, eps=EPS),
    "forward_warp_vjp": Operation(pystn.forward_warp_vjp, ("input", "samples", "grid"), None, 3, eps=EPS),
    "forward_warp_jvp": Operation(pystn.forward_warp_jvp, ("samples", "grid", "d_samples", "d_grid"), None, 4, eps=EPS),
    "forward_warp_vjp2": Operation(
        pystn.forward_warp_vjp2, ("d_samples", "d_grid", "input", "samples", "grid"), None, 5, eps=EPS
    ),
    "spline_filter": Operation(pystn.spline_filter, ("input",), 0, fixed=SPLINE),
    "spline_filter_vjp": Operation(pystn.spline_filter_vjp, ("coefficients", "input"), 1, fixed=SPLINE),
    "spline_filter_jvp": Operation(pystn.spline_filter_jvp, ("input", "d_input"), 0, fixed=SPLINE),
}
WITH_OUT = [name for name, operation in OPERATIONS.items() if operation.outs is not None]
MODES = {"linear": "linear", "cubic": "cubic", "prefiltered": pystn.BSpline(3, prefilter=True)}


@pytest.fixture(params=MODES)
def options(request):
    return {"mode": MODES[request.param], "padding_mode": "mirror"}


@pytest.fixture(params=["float32", "float64", "complex64", "float16"])
def arrays(request, rng):
    """Everything that any operation reads; the types of grids and counts are float32 or float64."""
    dtype = np.dtype(request.param)
    shape = (6, 11)

    def drawn(*lengths, dtype=dtype):
        a = rng.standard_normal(lengths)
        return (a + 1j * rng.standard_normal(lengths) if dtype.kind == "c" else a).astype(dtype)

    real = np.dtype("float64" if dtype == np.float64 else "float32")
    grid = coordinates(rng, (2, *shape), SIZE, "normalized", 1.3, real)
    return {
        "input": drawn(2, 3, *SIZE),
        "d_input": drawn(2, 3, *SIZE),
        "coefficients": drawn(2, 3, *SIZE, dtype=np.dtype(np.float32) if dtype == np.float16 else dtype),
        "grid": grid,
        "d_grid": drawn(2, *shape, 2, dtype=real),
        "samples": drawn(2, 3, *shape),
        "d_samples": drawn(2, 3, *shape),
        "slopes": drawn(2, 3, *shape, 2),
        "count": drawn(2, 1, *SIZE, dtype=real),
    }


def near(actual, expected, what):
    """Equal to the rounding of sums in another order; quotients of 16 bits may be infinite."""
    eps = 2.0**-10 if expected.dtype == np.float16 else np.finfo(expected.dtype).eps
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=what)
    bound = 200 * eps * max(1, np.abs(expected[finite]).max(initial=0))
    assert np.abs(actual[finite] - expected[finite]).max(initial=0) <= bound, what


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_strides_are_read_by_every_operation(backend, arrays, options, name):
    operation = OPERATIONS[name]
    plain = [backend.numpy(a) for a in operation.run({k: backend.array(a) for k, a in arrays.items()}, options)]
    for view, viewed in itertools.product(ALL_VIEWS, operation.reads):
        given = {k: backend.array(view(a) if k == viewed else a) for k, a in arrays.items()}
        for actual, expected in zip(operation.run(given, options), plain, strict=True):
            assert actual.dtype == expected.dtype
            near(backend.numpy(actual), expected, f"{name} of {view.__name__} {viewed}")


@pytest.mark.parametrize("name", OPERATIONS)
def test_zero_strides_are_read_by_every_operation(backend, arrays, options, name):
    """Of every axis in turn, as `np.broadcast_to` makes them."""
    operation = OPERATIONS[name]
    for axis in range(4):
        repeated = {k: np.broadcast_to(a[(slice(None),) * axis + (slice(0, 1),)], a.shape) for k, a in arrays.items()}
        plain = operation.run({k: backend.array(a.copy()) for k, a in repeated.items()}, options)
        found = operation.run({k: backend.array(a) for k, a in repeated.items()}, options)
        for actual, expected in zip(found, plain, strict=True):
            near(backend.numpy(actual), backend.numpy(expected), f"{name}, axis {axis}")


ORDERS = ("as it is", "reversed", "channels fastest")


@pytest.mark.parametrize("name", WITH_OUT)
def test_out_of_any_stride_of_every_operation(backend, arrays, options, name):
    """Written whole, returned itself, and nothing beside it in the memory that it is a view of."""
    operation = OPERATIONS[name]
    given = {k: backend.array(a) for k, a in arrays.items()}
    plain = [backend.numpy(a) for a in operation.run(given, options)]
    for order, step in itertools.product(ORDERS, (1, 2, -1, -2)):
        frames, windows = [], []
        for a in plain:
            axes = list(range(a.ndim))
            axes = {"as it is": axes, "reversed": axes[::-1], "channels fastest": [0, *axes[2:], 1]}[order]
            frames.append(np.full([a.shape[k] * abs(step) + 2 for k in axes], 7, a.dtype))
            inner = frames[-1][(slice(1, -1),) * a.ndim].transpose(np.argsort(axes))
            windows.append(inner[(slice(None, None, step),) * a.ndim])
            assert windows[-1].shape == a.shape
            windows[-1][...] = np.nan
        outs, what = [backend.array(window) for window in windows], f"{name}, {order}, step {step}"
        for result, out, expected in zip(operation.into(given, options, outs), outs, plain, strict=True):
            assert result is out, what
            near(backend.numpy(out), expected, what)
        for frame, window in zip(frames, windows, strict=True):
            window[...] = 7
            assert (frame == 7).all(), f"{what}: wrote beside its out"


@pytest.mark.parametrize("name", WITH_OUT)
def test_out_may_not_overlap_what_is_read_or_written(backend, arrays, name):
    """Wherever in `out` the array is, and however it overlaps; nothing has been written by then."""
    operation, options = OPERATIONS[name], {}
    given = {k: backend.array(a) for k, a in arrays.items()}
    expected = [backend.numpy(a) for a in operation.run(given, options)]
    for at, like in enumerate(expected):
        for viewed in operation.reads:
            a = arrays[viewed]
            if a.dtype != like.dtype:
                continue
            before = np.concatenate([a.ravel(), np.zeros(like.size, a.dtype)])
            memory = backend.array(before.copy())
            read = memory[: a.size].reshape(a.shape)
            # One element in common: the last of what is read, the first of what is written.
            written = memory[a.size - 1 : a.size - 1 + like.size].reshape(like.shape)
            outs = [None if k != at else written for k in range(len(expected))]
            with pytest.raises(ValueError, match="must not overlap an array that is read"):
                operation.into({**given, viewed: read}, options, outs)
            np.testing.assert_array_equal(backend.numpy(memory), before)
            beside = memory[a.size :].reshape(like.shape)  # next to each other is no overlap
            outs[at] = beside
            results = operation.into({**given, viewed: read}, options, outs)
            near(backend.numpy(results[at]), like, name)
        one = np.zeros_like(like[:1])
        writeable = np.lib.stride_tricks.as_strided(one, like.shape, (0, *one.strides[1:]))
        outs = [None if k != at else backend.array(writeable) for k in range(len(expected))]
        with pytest.raises(ValueError, match="must not overlap itself"):
            operation.into(given, options, outs)


def test_two_outs_may_not_overlap_each_other(backend, arrays):
    for name in WITH_OUT:
        operation = OPERATIONS[name]
        given = {k: backend.array(a) for k, a in arrays.items()}
        shapes = [(a.shape, a.dtype) for a in operation.run(given, {})]
        if len(shapes) < 2 or shapes[0][1] != shapes[1][1]:
            continue
        memory = backend.array(np.zeros(1 + sum(np.prod(shape) for shape, _ in shapes), shapes[0][1]))
        outs = [memory[: np.prod(shape)].reshape(shape) for shape, _ in shapes]
        with pytest.raises(ValueError, match="must not overlap an array that is read or another that is written"):
            operation.into(given, {}, outs)


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_none_gives_zeros_to_what_it_shares(backend, dtype, mode, channel_axis):
    """The empty sum, written over what was in the memory."""
    size, points = (4,), 3
    shared = np.ones((1, *(2, points)[::channel_axis]), dtype)
    image = np.ones((1, *(2, *size)[::channel_axis]), dtype)
    none, no_grid = shared[:0], np.zeros((0, points, 1))
    one_grid = np.zeros((1, points, 1))
    options = {"mode": MODES[mode], "padding_mode": "mirror", "channel_axis": channel_axis}
    likes = image, one_grid, image, shared, one_grid
    arrays = (none, image, no_grid, image[:0], one_grid, shared, none[..., None])
    none, image, no_grid, no_image, one_grid, shared, no_gradient = map(backend.array, arrays)
    calls = [
        lambda out: pystn.grid_sample_vjp(none, image, no_grid, out=(out, None), **options)[0],
        lambda out: pystn.grid_sample_vjp(none, no_image, one_grid, out=(None, out), **options)[1],
        lambda out: pystn.grid_gradient_vjp(no_gradient, image, no_grid, out=(out, None), **options)[0],
        lambda out: pystn.grid_push_vjp(no_image, shared, no_grid, size, out=(out, None), **options)[0],
        lambda out: pystn.grid_push_vjp(no_image, none, one_grid, size, out=(None, out), **options)[1],
    ]
    for call, like in zip(calls, likes, strict=True):
        found = call(backend.array(np.full_like(like, np.nan)))
        np.testing.assert_array_equal(backend.numpy(found), np.zeros_like(like))


EMPTY = [
    ((0, 2), (3,), (0, 6)),
    ((2, 0), (3,), (2, 6)),
    ((2, 2), (0,), (2, 0)),
    ((2, 2), (3,), (2, 0, 4)),
    ((1, 1), (2,), (1, 0)),
]


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("leading, size, points", EMPTY, ids=str)
def test_empty_arrays_in_every_operation(backend, rng, channel_axis, leading, size, points):
    """No samples, channels or batch: results are empty, or zero where they are not."""
    batch, channels = leading
    shape = points[1:]

    def drawn(channels, middle, *end):
        a = rng.standard_normal((batch, channels, *middle, *end))
        return backend.array(a if channel_axis == 1 else np.moveaxis(a, 1, 1 + len(middle)).copy())

    grid = rng.uniform(-1, 1, (batch, *shape, 1))
    given = {
        "input": drawn(channels, size),
        "d_input": drawn(channels, size),
        "coefficients": drawn(channels, size),
        "grid": backend.array(grid),
        "d_grid": backend.array(grid),
        "samples": drawn(channels, shape),
        "d_samples": drawn(channels, shape),
        "slopes": drawn(channels, shape, 1),
        "count": drawn(1, size),
    }
    for name, operation in OPERATIONS.items():
        for result in operation.run(given, {"channel_axis": channel_axis}, size):
            a = backend.numpy(result)
            if name.startswith("spline"):  # which has no points
                assert np.isfinite(a).all(), name
                assert a.shape == given["input"].shape, name
            elif channels or "count" not in name:  # there are as many counts without channels
                assert not a.any(), name
