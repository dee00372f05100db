"""The spline filter: its equation as a dense matrix, its derivatives, its layouts, its errors."""

import re
from fractions import Fraction
from functools import cache
from math import comb, factorial

import numpy as np
import pytest

import pystn

PADDING_MODES = ("zeros", "border", "mirror", "symmetric", "wrap")
ORDERS = tuple(range(2, 8))
# Beyond 144 pixels the kernels keep the factors of a shorter axis.
LENGTHS = (*range(1, 25), 128, 131, 143, 144, 145, 147, 201)


def spline(order, distance):
    """The centred B-spline at an integer, exactly."""
    shifted = [Fraction(distance) + Fraction(order + 1, 2) - k for k in range(order + 2)]
    terms = [(-1) ** k * comb(order + 1, k) * max(x, Fraction(0)) ** order for k, x in enumerate(shifted)]
    return sum(terms) / factorial(order)


def pixel(padding_mode, k, n):
    """The pixel that a tap reads, one reflection at a time; None for none."""
    while not 0 <= k < n:
        if padding_mode == "zeros":
            return None
        if padding_mode == "border":
            k = 0 if k < 0 else n - 1
        elif padding_mode == "wrap":
            k = k + n if k < 0 else k - n
        elif padding_mode == "symmetric":
            k = -1 - k if k < 0 else 2 * n - 1 - k
        else:
            k = 0 if n == 1 else -k if k < 0 else 2 * (n - 1) - k
    return k


@cache
def matrix(order, padding_mode, n):
    weights = {d: float(spline(order, d)) for d in range(-(order // 2), order // 2 + 1)}
    a = np.zeros((n, n))
    for i in range(n):
        for d, weight in weights.items():
            j = pixel(padding_mode, i + d, n)
            if j is not None:
                a[i, j] += weight
    return a


def solved(values, orders, modes, transposed=False):
    """(N, C, *spatial) by dense matrices, axis after axis."""
    values = np.asarray(values, complex if np.iscomplexobj(values) else float)
    for axis, (order, mode) in enumerate(zip(orders, modes, strict=True), start=2):
        a = matrix(order, mode, values.shape[axis])
        moved = np.moveaxis(values, axis, 0)
        lines = np.linalg.solve(a.T if transposed else a, moved.reshape(len(moved), -1))
        values = np.moveaxis(lines.reshape(moved.shape), 0, axis)
    return values


def close(actual, expected, tolerance=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_equals_the_dense_solution(backend, rng, order, padding_mode):
    for n in LENGTHS:
        every_line = rng.standard_normal((1, 21, n))
        expected = solved(every_line, [order], [padding_mode])
        transposed = solved(every_line, [order], [padding_mode], transposed=True)
        for lines in (1, 3, 21):  # one, a few, and more than one full block
            u = every_line[:, :lines]
            c = backend.numpy(pystn.spline_filter(backend.array(u), order, padding_mode))
            close(c, expected[:, :lines])
            (g,) = pystn.spline_filter_vjp(backend.array(u), backend.array(u), order, padding_mode)
            close(backend.numpy(g), transposed[:, :lines])


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_no_system_is_near_singular(order, padding_mode):
    """Why the factors are found without pivots, and why no length is refused."""
    for n in range(1, 41):
        a = matrix(order, padding_mode, n)
        assert np.linalg.cond(a) < 21
        for k in range(n - 1):
            assert a[k, k] > 0.1
            a = a - np.outer(a[:, k] / a[k, k], a[k]) * (np.arange(n) > k)[:, None]


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_the_spline_of_the_coefficients_passes_through_the_pixels(backend, rng, order, padding_mode):
    u = rng.standard_normal((1, 2, 30))
    c = backend.numpy(pystn.spline_filter(backend.array(u), order, padding_mode))
    np.testing.assert_allclose(c @ matrix(order, padding_mode, 30).T, u, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode, peer", [("mirror", "mirror"), ("symmetric", "reflect"), ("wrap", "grid-wrap")])
@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_equals_scipy(backend, rng, order, mode, peer):
    ndimage = pytest.importorskip("scipy.ndimage")
    for shape in ((40,), (33, 50), (17, 18, 20)):
        u = rng.standard_normal(shape)
        c = backend.numpy(pystn.spline_filter(backend.array(u[None, None]), order, mode))
        close(c[0, 0], ndimage.spline_filter(u, order, output=np.float64, mode=peer))


SHAPES = [(7,), (6, 5), (20, 3), (3, 20), (1, 9), (4, 5, 6), (2, 1, 7), (18, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [1, -1])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_axes_orders_and_boundaries_each_by_itself(backend, rng, shape, layout, dtype):
    u, v = rng.standard_normal((2, 2, 3, *shape))
    if dtype == np.complex128:
        u, v = u + 1j * v, v - 2j * u
    orders = (3, 5, 2)[: len(shape)]
    modes = ("border", "mirror", "wrap")[: len(shape)]
    moved = [backend.array(np.moveaxis(a, 1, layout).copy()) for a in (u, v)]
    c = pystn.spline_filter(moved[0], orders, modes, channel_axis=layout)
    close(np.moveaxis(backend.numpy(c), layout, 1), solved(u, orders, modes))
    (g,) = pystn.spline_filter_vjp(moved[1], moved[0], orders, modes, channel_axis=layout)
    close(np.moveaxis(backend.numpy(g), layout, 1), solved(v, orders, modes, transposed=True))
    for axis in range(len(shape)):
        once = pystn.spline_filter(moved[0], orders, modes, axes=[axis], channel_axis=layout)
        alone = np.moveaxis(u, axis + 2, 2).reshape(2, 3, shape[axis], -1)
        a = matrix(orders[axis], modes[axis], shape[axis])
        expected = np.linalg.solve(a, alone).reshape(np.moveaxis(u, axis + 2, 2).shape)
        close(np.moveaxis(backend.numpy(once), layout, 1), np.moveaxis(expected, 2, axis + 2))
    none = pystn.spline_filter(moved[0], orders, modes, axes=(), channel_axis=layout)
    np.testing.assert_array_equal(backend.numpy(none), backend.numpy(moved[0]))


@pytest.mark.parametrize("order", [0, 1, (0, 1), (1, 0)], ids=str)
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_orders_0_and_1_copy(backend, rng, order, padding_mode):
    u = backend.array(rng.standard_normal((2, 3, 4, 5)))
    for result in (
        pystn.spline_filter(u, order, padding_mode),
        pystn.spline_filter_jvp(u, u, order, padding_mode),
        *pystn.spline_filter_vjp(u, u, order, padding_mode),
    ):
        np.testing.assert_array_equal(backend.numpy(result), backend.numpy(u))
        assert result is not u


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(12,), (6, 9), (4, 5, 6)], ids=str)
def test_jvp_and_vjp_are_adjoint(backend, rng, shape, order, padding_mode):
    u, d_u, g = rng.standard_normal((3, 2, 2, *shape))
    pushed = pystn.spline_filter_jvp(backend.array(u), backend.array(d_u), order, padding_mode)
    (pulled,) = pystn.spline_filter_vjp(backend.array(g), backend.array(u), order, padding_mode)
    left, right = (backend.numpy(pushed) * g).sum(), (backend.numpy(pulled) * d_u).sum()
    assert abs(left - right) <= 1e-13 * np.linalg.norm(backend.numpy(pushed)) * np.linalg.norm(g)
    # Linear: the tangent is the filter of the tangent, bit for bit; None is zero.
    filtered = pystn.spline_filter(backend.array(d_u), order, padding_mode)
    np.testing.assert_array_equal(backend.numpy(pushed), backend.numpy(filtered))
    zero = backend.numpy(pystn.spline_filter_jvp(backend.array(u), None, order, padding_mode))
    assert zero.shape == u.shape
    assert not zero.any()


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_mirror_and_border_alone_are_not_self_adjoint(backend, rng, padding_mode):
    u = backend.array(rng.standard_normal((1, 1, 12)))
    c = backend.numpy(pystn.spline_filter(u, 5, padding_mode))
    (g,) = pystn.spline_filter_vjp(u, u, 5, padding_mode)
    difference = np.abs(backend.numpy(g) - c).max()
    assert difference > 1e-3 if padding_mode in ("mirror", "border") else difference < 1e-13


VIEWS = {
    "reversed": lambda a: a[::-1, ::-1, ::-1, ::-1],
    "transposed": lambda a: a.transpose(1, 0, 3, 2),
    "channels moved": lambda a: np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1),
    "every other": lambda a: np.repeat(np.repeat(a, 2, axis=-1), 3, axis=2)[:, :, ::3, ::2],
    "one pixel": lambda a: np.broadcast_to(a[..., :1, :1], a.shape),
    "one row": lambda a: np.broadcast_to(a[..., :1, :], a.shape),
    "one image": lambda a: np.broadcast_to(a[:1, :1], a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "misaligned": lambda a: np.frombuffer(b"." + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_strides_change_no_bit(backend, rng, name, dtype):
    u = (rng.standard_normal((3, 4, 18, 21)) + 1j * rng.standard_normal((3, 4, 18, 21))).astype(np.complex128)
    u = u.astype(dtype) if np.dtype(dtype).kind == "c" else u.real.astype(dtype)
    view = VIEWS[name](u)
    kept = view.copy()
    plain = np.ascontiguousarray(view)
    expected = backend.numpy(pystn.spline_filter(backend.array(plain), 3, "border"))
    np.testing.assert_array_equal(backend.numpy(pystn.spline_filter(backend.array(view), 3, "border")), expected)
    (g,) = pystn.spline_filter_vjp(backend.array(view), backend.array(view), 3, "border")
    (h,) = pystn.spline_filter_vjp(backend.array(plain), backend.array(plain), 3, "border")
    np.testing.assert_array_equal(backend.numpy(g), backend.numpy(h))
    np.testing.assert_array_equal(view, kept)


@pytest.mark.parametrize("name", ["reversed", "transposed", "channels moved", "every other"])
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_out_of_any_stride(backend, rng, name, dtype):
    u = rng.standard_normal((2, 3, 18, 21)).astype(dtype)
    plain = pystn.spline_filter(backend.array(u), 4)
    (gradient,) = pystn.spline_filter_vjp(backend.array(u), backend.array(u), 4)
    shape = (3, 2, 21, 18) if name == "transposed" else u.shape
    out = backend.array(VIEWS[name](np.full(shape, 7, dtype)))
    for call, expected in (
        (lambda: pystn.spline_filter(backend.array(u), 4, out=out), plain),
        (lambda: pystn.spline_filter_vjp(backend.array(u), backend.array(u), 4, out=(out,))[0], gradient),
        (lambda: pystn.spline_filter_jvp(backend.array(u), backend.array(u), 4, out=out), plain),
    ):
        assert call() is out
        np.testing.assert_array_equal(backend.numpy(out), backend.numpy(expected))
    pystn.spline_filter_jvp(backend.array(u), None, 4, out=out)
    assert not backend.numpy(out).any()


def test_out_writes_nothing_beside_it(backend, rng):
    for dtype in (np.float32, np.complex64):
        u = backend.array(rng.standard_normal((2, 3, 9, 20)).astype(dtype))
        frame = backend.array(np.full([n + 6 for n in u.shape], 7, dtype))
        inner = tuple(slice(3, -3) for _ in u.shape)
        pystn.spline_filter(u, 3, out=frame[inner])
        assert (backend.numpy(frame)[inner] != 7).all()
        frame[inner] = 7
        assert (backend.numpy(frame) == 7).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_dtypes_that_are_kept(backend, rng, dtype):
    u = rng.standard_normal((2, 3, 30, 40)).astype(dtype)
    if np.dtype(dtype).kind == "c":
        u += 1j * u[::-1]
    c = backend.numpy(pystn.spline_filter(backend.array(u), 5))
    (g,) = pystn.spline_filter_vjp(backend.array(u), backend.array(u), 5)
    t = pystn.spline_filter_jvp(backend.array(u), backend.array(u), 5)
    assert c.dtype == backend.numpy(g).dtype == backend.numpy(t).dtype == dtype
    tolerance = 4 * np.finfo(dtype).eps if np.finfo(dtype).bits == 32 else 1e-14
    close(c, solved(u, (5, 5), ("mirror",) * 2), tolerance)
    close(backend.numpy(g), solved(u, (5, 5), ("mirror",) * 2, transposed=True), tolerance)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_float32_is_right_to_a_few_roundings(backend, rng, order, padding_mode):
    """One rounding per axis: the recurrences run in float64."""
    u = (rng.standard_normal((1, 2, 100, 120)) + 3).astype(np.float32)
    c = backend.numpy(pystn.spline_filter(backend.array(u), order, padding_mode))
    expected = solved(u, (order,) * 2, (padding_mode,) * 2)
    # The first rounding grows with the condition of the second axis.
    bound = (1 + np.linalg.cond(matrix(order, padding_mode, 120))) * np.finfo(np.float32).eps / 2
    close(c, expected, bound)
    one = backend.numpy(pystn.spline_filter(backend.array(u), order, padding_mode, axes=[1]))
    moved = np.moveaxis(u, 3, 0).astype(np.float64)
    alone = np.linalg.solve(matrix(order, padding_mode, 120), moved.reshape(120, -1)).reshape(moved.shape)
    np.testing.assert_array_max_ulp(one, np.moveaxis(alone, 0, 3).astype(np.float32), maxulp=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("layout", [1, -1])
def test_dtypes_that_are_widened(backend, rng, dtype, layout):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    u = np.moveaxis(rng.integers(0, 255, (2, 3, 19, 20)).astype(dtype), 1, layout)
    wide = u.astype(np.float32)
    for order in (1, 4):
        c = backend.numpy(pystn.spline_filter(backend.array(u), order, channel_axis=layout))
        assert c.dtype == np.float32
        expected = pystn.spline_filter(backend.array(wide), order, channel_axis=layout)
        np.testing.assert_array_equal(c, backend.numpy(expected))
        for tangent in (u, wide):
            t = pystn.spline_filter_jvp(backend.array(u), backend.array(tangent), order, channel_axis=layout)
            np.testing.assert_array_equal(backend.numpy(t), c)
        (g,) = pystn.spline_filter_vjp(backend.array(wide), backend.array(u), order, channel_axis=layout)
        (h,) = pystn.spline_filter_vjp(backend.array(wide), backend.array(wide), order, channel_axis=layout)
        assert backend.numpy(g).dtype == np.float32
        np.testing.assert_array_equal(backend.numpy(g), backend.numpy(h))
    with pytest.raises(TypeError, match="grad_output must have the dtype of the coefficients, float32"):
        pystn.spline_filter_vjp(backend.array(u), backend.array(u), 3, channel_axis=layout)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("layout", [1, -1])
@pytest.mark.parametrize("padding_mode", ["mirror", "wrap"])
def test_bitwise_equal_for_any_number_of_threads(backend, rng, dtype, layout, padding_mode):
    u = rng.standard_normal((1, 5, 30, 29, 31)).astype(dtype)
    u = backend.array(np.moveaxis(u, 1, layout).copy())
    results = []
    for count in (1, 2, 3, 7):
        with pystn.num_threads(count):
            results.append(
                (
                    pystn.spline_filter(u, 3, padding_mode, channel_axis=layout),
                    *pystn.spline_filter_vjp(u, u, 3, padding_mode, channel_axis=layout),
                )
            )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(backend.numpy(a), backend.numpy(b))


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_lines_do_not_know_each_other(backend, rng, padding_mode):
    """A line's coefficients are bitwise what it has alone; NaN fills its own and no other."""
    u = rng.standard_normal((1, 37, 50))
    u[0, 20, 7] = np.nan
    together = backend.numpy(pystn.spline_filter(backend.array(u), 3, padding_mode))
    for c in (0, 15, 16, 20, 36):
        alone = backend.numpy(pystn.spline_filter(backend.array(u[:, c : c + 1].copy()), 3, padding_mode))
        np.testing.assert_array_equal(together[:, c : c + 1], alone)
    assert np.isnan(together[0, 20]).all()
    assert np.isfinite(np.delete(together[0], 20, axis=0)).all()


def test_a_line_longer_than_a_block_of_sixteen_takes(backend, rng):
    u = rng.standard_normal((1, 18, 40_000))
    c = backend.numpy(pystn.spline_filter(backend.array(u), 3, "wrap"))
    again = (4 * c + np.roll(c, 1, axis=-1) + np.roll(c, -1, axis=-1)) / 6
    np.testing.assert_allclose(again, u, rtol=0, atol=1e-14)
    short = backend.numpy(pystn.spline_filter(backend.array(u[:, 9:10].copy()), 3, "wrap"))
    np.testing.assert_array_equal(c[:, 9:10], short)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 3, 0, 5), (2, 3, 5, 0)], ids=str)
def test_empty(backend, shape):
    for dtype in ("f4", "u1", "c16"):
        u = backend.array(np.zeros(shape, dtype))
        c = pystn.spline_filter(u, 3)
        assert c.shape == shape
        assert pystn.spline_filter_vjp(c, u, 3)[0].shape == shape
        assert pystn.spline_filter_jvp(u, u, 3).shape == shape


IMAGE = np.zeros((2, 3, 8, 9))


@pytest.mark.parametrize(
    "error, message, image, options",
    [
        (TypeError, "input must be a numpy.ndarray, got builtins.list", IMAGE.tolist(), {}),
        (TypeError, "input must be one of float16, bfloat16, float32, float64", IMAGE.astype("i8"), {}),
        (TypeError, "in native byte order, got dtype >f8", IMAGE.astype(">f8"), {}),
        (TypeError, "got dtype bool", IMAGE.astype(bool), {}),
        (ValueError, "input must have 3 to 5 axes, (N, C, *spatial): got 2 axes, shape (8, 9)", IMAGE[0, 0], {}),
        (ValueError, "(N, *spatial, C): got 6 axes", IMAGE[None, None], {"channel_axis": -1}),
        (ValueError, "unknown channel_axis: expected one of 1, -1, got 2", IMAGE, {"channel_axis": 2}),
        (ValueError, "unknown order: expected one of 0, 1, 2, 3, 4, 5, 6, 7, got 8", IMAGE, {"order": 8}),
        (ValueError, "unknown order: expected one of 0, 1, 2, 3, 4, 5, 6, 7, got -1", IMAGE, {"order": -1}),
        (ValueError, "order must be one value or one per spatial axis, 2: got 3", IMAGE, {"order": (3, 3, 3)}),
        (TypeError, "order must be an integer, got 3.0", IMAGE, {"order": 3.0}),
        (TypeError, "order must be an integer, got True", IMAGE, {"order": (3, True)}),
        (ValueError, "unknown padding_mode: expected one of 'zeros'", IMAGE, {"padding_mode": "reflect"}),
        (TypeError, "unknown padding_mode: expected one of 'zeros'", IMAGE, {"padding_mode": None}),
        (ValueError, "expected 'mirror' (align_corners=True) or 'symm", IMAGE, {"padding_mode": "reflection"}),
        (ValueError, "padding_mode must be one value or one per", IMAGE, {"padding_mode": ("wrap",)}),
        (ValueError, "axes must name spatial axes once each, 0 to 1 here: got (2,)", IMAGE, {"axes": (2,)}),
        (ValueError, "axes must name spatial axes once each, 0 to 1 here: got [-1]", IMAGE, {"axes": [-1]}),
        (ValueError, "axes must name spatial axes once each, 0 to 1 here: got (1, 1)", IMAGE, {"axes": (1, 1)}),
        (TypeError, "axes must be a sequence of integers or None, got 1", IMAGE, {"axes": 1}),
        (TypeError, "axes must be a sequence of integers or None, got (0.5,)", IMAGE, {"axes": (0.5,)}),
    ],
)
def test_errors(error, message, image, options):
    options = {"order": 3, **options}
    for call, before, after in (
        (pystn.spline_filter, (), ()),
        (pystn.spline_filter_vjp, (IMAGE,), ()),
        (pystn.spline_filter_jvp, (), (None,)),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call(*before, image, *after, **options)


def test_errors_of_arrays_beside_the_image():
    for call, error, message in (
        (lambda: pystn.spline_filter_vjp(IMAGE[:1], IMAGE, 3), ValueError, "grad_output must have the shape of"),
        (lambda: pystn.spline_filter_vjp(IMAGE.astype("f4"), IMAGE, 3), TypeError, "grad_output must have the dtype"),
        (lambda: pystn.spline_filter_jvp(IMAGE, IMAGE[:1], 3), ValueError, "d_input must have the shape of input"),
        (lambda: pystn.spline_filter_jvp(IMAGE, IMAGE.astype("f4"), 3), TypeError, "d_input must have the dtype"),
        (lambda: pystn.spline_filter(IMAGE, 3, out=IMAGE), ValueError, "out must not overlap an array that is read"),
        (lambda: pystn.spline_filter(IMAGE, 3, out=np.zeros(3)), ValueError, "out must have shape (2, 3, 8, 9)"),
        (lambda: pystn.spline_filter(IMAGE, 3, out=IMAGE.astype("f4")), TypeError, "out must have dtype float64"),
        (lambda: pystn.spline_filter(IMAGE.astype("u1"), 3, out=IMAGE), TypeError, "out must have dtype float32"),
        (lambda: pystn.spline_filter_vjp(IMAGE, IMAGE, 3, out=IMAGE), TypeError, "out must be a tuple (grad_input)"),
        (lambda: pystn.spline_filter_vjp(IMAGE, IMAGE + 1, 3, out=(IMAGE,)), ValueError, "out: grad_input must not"),
        (lambda: pystn.spline_filter_jvp(IMAGE + 1, IMAGE, 3, out=IMAGE), ValueError, "out must not overlap"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()
