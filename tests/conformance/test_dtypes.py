"""Types of images and coordinates: what each result is made of, and how it is rounded.

Positions and weights are in float64 if image or coordinates are, sums if the image is, else in float32 at least; a
complex number is two real ones. Coordinates here are pixels, so that their positions are exact in both precisions.
"""

import numpy as np
import oracle
import pytest
from conftest import coordinates, kernel_for

import pystn

FLOATS = ("float16", "bfloat16", "float32", "float64")
COMPLEX = ("complex64", "complex128")
INTEGERS = ("uint8", "int16", "uint16")
NAMES = ("nearest", "linear", "cubic", "lanczos3", "bspline3", "prefiltered", "gaussian")
SIZES = {1: (7,), 2: (5, 6), 3: (4, 5, 3)}
# Unit roundoff, twice: what one rounding to the type may be off by, relative to the number.
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133}  # subnormal numbers
EPS.update(complex64=EPS["float32"], complex128=EPS["float64"])


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="bfloat16 is a type of ml_dtypes").bfloat16)
    return np.dtype(name)


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}d")
def ndim(request):
    return request.param


@pytest.fixture(params=["float32", "float64"], ids=lambda c: f"coordinates-{c}")
def coordinate(request):
    return request.param


def drawn(rng, shape, name):
    """Numbers of a type: all that an integer can be, normally distributed others."""
    dtype = dtype_of(name)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    numbers = rng.standard_normal(shape)
    return (numbers + 1j * rng.standard_normal(shape) if dtype.kind == "c" else numbers).astype(dtype)


def points_of(rng, shape, size, dtype):
    """Pixel coordinates beyond the image too, away from cells' edges, and two that are no numbers."""
    grid = coordinates(rng, shape, size, "pixel", 1.6)
    grid = np.where(np.abs(2 * grid - np.rint(2 * grid)) < 0.05, grid + 0.1, grid).astype(dtype)
    grid.reshape(-1)[[0, -1]] = np.nan, np.inf
    return grid


def parts(a):
    """The real arrays that an array is made of, in double."""
    return [a.real.astype(float), a.imag.astype(float)] if a.dtype.kind == "c" else [a.astype(float)]


def whole(found):
    return found[0] + 1j * found[1] if len(found) == 2 else found[0]


def tangent_of(name):
    return "float32" if name in INTEGERS else name


class Asked:
    """One image and grid with cotangents and tangents, and what the oracle says of them, part by part."""

    def __init__(self, rng, name, coordinate, kernel, ndim, channel_axis, **options):
        size, shape = SIZES[ndim], (2, 3, 4)
        self.name, self.channel_axis = name, channel_axis
        self.ours, self.theirs = kernel_for(pystn, kernel, ndim)
        self.options = {"coords": "pixel", "padding_mode": "mirror", **options}
        tangent = tangent_of(name)
        self.input, self.d_input = drawn(rng, (2, 2, *size), name), drawn(rng, (2, 2, *size), tangent)
        self.grid = points_of(rng, shape, size, coordinate)
        self.d_grid = rng.standard_normal(self.grid.shape).astype(coordinate)
        self.cotangent = drawn(rng, (2, 2, *shape[1:]), tangent)
        self.eps = EPS["float64" if name in ("float64", "complex128") else "float32"]
        self.scale = float(max(np.abs(part).max() for part in parts(self.input)))

    def given(self, backend, a):
        return backend.array(np.ascontiguousarray(np.moveaxis(a, 1, self.channel_axis)))

    def expects(self, function, *arrays):
        """The oracle's results part by part; arrays are images and samples, in the order it takes them."""
        theirs = {"mode": self.theirs, **self.options}
        return [function(*split, self.grid.astype(float), **theirs) for split in zip(*map(parts, arrays), strict=True)]

    def near(self, what, actual, expected, dtype, scale, eps):
        """To one rounding to the type, and 200 of those of the arithmetic at the size of its terms."""
        assert actual.dtype == dtype_of(dtype), what
        assert actual.shape == expected.shape, what
        actual = whole(parts(actual))
        for a, e in zip(parts(actual), parts(np.asarray(expected)), strict=True):
            tiniest = SMALLEST.get(dtype, 0.0)
            bound = 0.5 * np.maximum(EPS[dtype] * np.abs(e), tiniest) + 200 * eps * max(1.0, scale)
            worst = np.max(np.abs(a - e) - bound, initial=-1)
            assert worst <= 0, f"{what}: {worst} beyond {bound.min()}"


@pytest.mark.parametrize("name", FLOATS + COMPLEX)
@pytest.mark.parametrize("kernel", NAMES)
def test_real_and_complex_images_equal_the_oracle(backend, rng, ndim, name, coordinate, kernel, channel_axis):
    """Value, mask, gradients, tangents, second order, slopes and push: type, shape and numbers."""
    asked = Asked(rng, name, coordinate, kernel, ndim, channel_axis)
    options = {"mode": asked.ours, "channel_axis": channel_axis, **asked.options}
    input, grid = asked.given(backend, asked.input), backend.array(asked.grid)
    d_input, d_grid = asked.given(backend, asked.d_input), backend.array(asked.d_grid)
    cotangent = asked.given(backend, asked.cotangent)
    placed = min(asked.eps, EPS[coordinate])  # of positions and weights

    def first(a):
        return np.moveaxis(backend.numpy(a), channel_axis, 1)

    value, mask = pystn.grid_sample(input, grid, return_mask=True, **options)
    expected = whole(asked.expects(oracle.grid_sample, asked.input))
    asked.near("value", first(value), expected, name, asked.scale, asked.eps)
    expected = asked.expects(oracle.grid_sample_mask, asked.input)[0]
    real = {"complex64": "float32", "complex128": "float64"}.get(name, name)
    asked.near("mask", backend.numpy(mask), expected, real, 1, placed)

    grad_input, grad_grid = pystn.grid_sample_vjp(cotangent, input, grid, **options)
    found = asked.expects(oracle.grid_sample_vjp, asked.cotangent, asked.input)
    scale = 4 * np.abs(asked.cotangent.astype(complex)).sum()
    asked.near("grad_input", first(grad_input), whole([g for g, _ in found]), name, scale, asked.eps)
    to_grid = sum(g for _, g in found)
    scale = 20 * asked.scale * np.abs(asked.cotangent.astype(complex)).max()
    asked.near("grad_grid", backend.numpy(grad_grid), to_grid, coordinate, scale, asked.eps)

    moved = pystn.grid_sample_jvp(input, grid, d_input, d_grid, **options)

    def jvp(image, tangent, grid, **theirs):
        return oracle.grid_sample_jvp(image, grid, tangent, asked.d_grid.astype(float), **theirs)

    scale = 10 * asked.scale * np.abs(asked.d_grid).max()
    asked.near("tangent", first(moved), whole(asked.expects(jvp, asked.input, asked.d_input)), name, scale, asked.eps)

    twice = pystn.grid_sample_vjp2(d_input, d_grid, cotangent, input, grid, **options)

    def vjp2(g, image, tangent, grid, **theirs):
        return oracle.grid_sample_vjp2(tangent, asked.d_grid.astype(float), g, image, grid, **theirs)

    found = asked.expects(vjp2, asked.cotangent, asked.input, asked.d_input)
    asked.near("vjp2: to grad_output", first(twice[0]), whole([f[0] for f in found]), name, scale, asked.eps)
    scale = 40 * np.abs(asked.d_grid).max() * np.abs(asked.cotangent.astype(complex)).sum()
    asked.near("vjp2: to input", first(twice[1]), whole([f[1] for f in found]), name, scale, asked.eps)
    scale *= asked.scale
    asked.near("vjp2: to grid", backend.numpy(twice[2]), sum(f[2] for f in found), coordinate, scale, asked.eps)

    slopes = np.moveaxis(backend.numpy(pystn.grid_gradient(input, grid, **options)), 1 if channel_axis == 1 else -2, 1)
    asked.near("slopes", slopes, whole(asked.expects(oracle.grid_gradient, asked.input)), name, asked.scale, asked.eps)

    pushed = first(pystn.grid_push(cotangent, grid, SIZES[ndim], **options))

    def push(values, grid, **theirs):
        return oracle.grid_push(values, grid, SIZES[ndim], **theirs)

    scale = 4 * np.abs(asked.cotangent.astype(complex)).sum()
    asked.near("push", pushed, whole(asked.expects(push, asked.cotangent)), name, scale, asked.eps)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("kernel", NAMES)
def test_integer_images_equal_the_oracle_rounded(backend, rng, ndim, name, coordinate, kernel, channel_axis):
    """Samples are the nearest integer that the type has; gradients, tangents and slopes are float32."""
    asked = Asked(rng, name, coordinate, kernel, ndim, channel_axis)
    options = {"mode": asked.ours, "channel_axis": channel_axis, **asked.options}
    input, grid = asked.given(backend, asked.input), backend.array(asked.grid)
    d_input, d_grid = asked.given(backend, asked.d_input), backend.array(asked.d_grid)
    cotangent = asked.given(backend, asked.cotangent)

    def first(a):
        return np.moveaxis(backend.numpy(a), channel_axis, 1)

    value, mask = pystn.grid_sample(input, grid, return_mask=True, **options)
    assert value.dtype == dtype_of(name)
    assert mask.dtype == np.float32
    (expected,) = asked.expects(oracle.grid_sample, asked.input)
    limits = np.iinfo(name)
    error = 20 * asked.eps * asked.scale
    clear = np.abs(expected - np.floor(expected) - 0.5) > error  # of halves
    assert clear.mean() > 0.4
    nearest = np.clip(np.rint(expected), limits.min, limits.max)
    np.testing.assert_array_equal(first(value)[clear], nearest[clear])
    assert np.all(np.abs(first(value) - np.clip(expected, limits.min, limits.max)) <= 0.5 + error)

    grad_input, grad_grid = pystn.grid_sample_vjp(cotangent, input, grid, **options)
    ((to_input, to_grid),) = asked.expects(oracle.grid_sample_vjp, asked.cotangent, asked.input)
    scale = 4 * np.abs(asked.cotangent).sum()
    asked.near("grad_input", first(grad_input), to_input, "float32", scale, EPS["float32"])
    scale = 20 * asked.scale * np.abs(asked.cotangent).max()
    asked.near("grad_grid", backend.numpy(grad_grid), to_grid, coordinate, scale, asked.eps)

    def jvp(image, tangent, grid, **theirs):
        return oracle.grid_sample_jvp(image, grid, tangent, asked.d_grid.astype(float), **theirs)

    moved = first(pystn.grid_sample_jvp(input, grid, d_input, d_grid, **options))
    (expected,) = asked.expects(jvp, asked.input, asked.d_input)
    asked.near("tangent", moved, expected, "float32", 10 * asked.scale * np.abs(asked.d_grid).max(), asked.eps)
    slopes = np.moveaxis(backend.numpy(pystn.grid_gradient(input, grid, **options)), 1 if channel_axis == 1 else -2, 1)
    (expected,) = asked.expects(oracle.grid_gradient, asked.input)
    asked.near("slopes", slopes, expected, "float32", 10 * asked.scale, asked.eps)
    twice = pystn.grid_sample_vjp2(d_input, d_grid, cotangent, input, grid, **options)
    assert [a.dtype for a in twice] == [np.float32, np.float32, dtype_of(coordinate)]


# ---------------------------------------------------------------------------------------------
# Rounding of integers, by hand

# Cubic, a = -0.75, halfway between pixels: -3/32, 19/32, 19/32, -3/32 of the four around.
OVERSHOOT = {
    "uint8": ([0, 255, 255, 0], 255, [255, 0, 0, 255], 0),  # 302.8125 and -47.8125
    "uint16": ([0, 65535, 65535, 0], 65535, [65535, 0, 0, 65535], 0),
    "int16": ([-32768, 32767, 32767, -32768], 32767, [32767, -32768, -32768, 32767], -32768),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_overshoot_saturates(backend, coordinate, channel_axis, name):
    """A cubic kernel leaves the range of the pixels; integers do not wrap round."""
    over, top, under, bottom = OVERSHOOT[name]
    image = np.moveaxis(np.array([[over, under]], name), 1, channel_axis).copy()
    grid = backend.array(np.full((1, 1, 1), 1.5, coordinate))
    value = pystn.grid_sample(backend.array(image), grid, "cubic", coords="pixel", channel_axis=channel_axis)
    np.testing.assert_array_equal(backend.numpy(value).ravel(), [top, bottom])


@pytest.mark.parametrize("name", INTEGERS)
def test_halves_go_to_the_even_integer(backend, coordinate, channel_axis, name):
    """0.5, 1.5, 2.5 to 0, 2, 2; negative ones likewise."""
    expected = np.array([0, 2, 2, 4, 4, 6, 6])
    for sign in (1, -1) if name == "int16" else (1,):
        image = np.moveaxis(sign * np.arange(8).reshape(1, 1, 8), 1, channel_axis).astype(name)
        grid = backend.array(np.arange(0.5, 7).reshape(1, 7, 1).astype(coordinate))
        value = pystn.grid_sample(backend.array(image), grid, coords="pixel", channel_axis=channel_axis)
        np.testing.assert_array_equal(backend.numpy(value).ravel(), sign * expected)


FILLS = [(300, 255), (-5, 0), (0.5, 0), (1.5, 2), (254.5, 254), (255.5, 255), (np.nan, 0), (np.inf, 255), (-np.inf, 0)]


@pytest.mark.parametrize("fill, expected", FILLS, ids=str)
@pytest.mark.parametrize("mode", NAMES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_fill_values_are_rounded_as_samples_are(backend, coordinate, channel_axis, fill, expected, mode, per_channel):
    """Of a sample that is cut off, and of one all of whose taps are outside; NaN becomes 0."""
    image = np.moveaxis(np.full((1, 2, 4), 9), 1, channel_axis).astype(np.uint8)
    grid = backend.array(np.array([np.nan, -60, 60, np.inf]).reshape(1, 4, 1).astype(coordinate))
    value = pystn.grid_sample(
        backend.array(image),
        grid,
        kernel_for(pystn, mode, 1)[0],
        "constant",
        coords="pixel",
        fill_value=[fill, 7] if per_channel else fill,
        channel_axis=channel_axis,
    )
    value = np.moveaxis(backend.numpy(value), channel_axis, 1)[0]
    if per_channel:
        np.testing.assert_array_equal(value[1], [7] * 4)
    for channel in value[: 1 if per_channel else 2].astype(float):
        np.testing.assert_array_equal(channel[[0, 3]], [expected] * 2)
        if np.isfinite(fill) and fill % 1:  # weights whose sum is 1 to rounding may fall short of a half
            assert np.abs(channel[1:3] - np.clip(fill, 0, 255)).max() <= 0.5
        else:
            np.testing.assert_array_equal(channel[1:3], [expected] * 2)


# ---------------------------------------------------------------------------------------------
# Rounding of 16-bit floats

SPECIAL = {"none": 1.0, "subnormal": None, "overflow": None, "inf": np.inf, "nan": np.nan}


def narrow_image(rng, shape, name, special):
    """Pixels near the smallest or the largest numbers, or some that are not finite."""
    dtype = dtype_of(name)
    if special == "subnormal":
        return (rng.integers(-40, 41, shape) * SMALLEST[name]).astype(dtype)
    if special == "overflow":
        largest = {"float16": 65504.0, "bfloat16": float.fromhex("0x1.fep127")}[name]
        return rng.choice([-largest, largest, 0.5 * largest], shape).astype(dtype)
    image = rng.standard_normal(shape)
    if special in ("inf", "nan"):
        image.flat[rng.integers(0, image.size, 4)] = SPECIAL[special]
    return image.astype(dtype)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("special", SPECIAL)
def test_16_bits_are_the_wide_result_rounded_once(backend, rng, ndim, name, coordinate, kernel, special, channel_axis):
    """Bitwise the sample of the float32 image, converted by NumPy or ml_dtypes, by float32 coordinates.

    By those of float64 to the roundings of sums, which are of float64 on CUDA.
    """
    size = SIZES[ndim]
    image = narrow_image(rng, (2, 2, *size), name, special)
    grid = points_of(rng, (2, 400), size, coordinate)
    mode = kernel_for(pystn, kernel, ndim)[0]
    options = {"padding_mode": "mirror", "coords": "pixel", "fill_value": -0.75}
    wide = image.astype(np.float32)
    wide_mode = mode
    if kernel == "prefiltered":  # coefficients are float32 whatever the coordinates
        wide, wide_mode = pystn.spline_filter(wide, 3, "mirror"), pystn.BSpline(3)
    sums = np.float32 if backend.name == "cpu" else coordinate
    wide = pystn.grid_sample(wide.astype(sums), grid, wide_mode, **options)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = wide.astype(image.dtype)
    value = pystn.grid_sample(
        backend.array(np.moveaxis(image, 1, channel_axis).copy()),
        backend.array(grid),
        mode,
        channel_axis=channel_axis,
        **options,
    )
    value = np.moveaxis(backend.numpy(value), channel_axis, 1)
    assert value.dtype == image.dtype
    if special == "subnormal" and name == "bfloat16" and backend.name == "cuda":
        # As floats they are subnormal too, all of them, and CuPy compiles with -ftz=true, which makes that 0.
        np.testing.assert_array_equal(value.astype(float), np.where(expected == -0.75, -0.75, 0.0))
        return
    numbers = ~np.isnan(expected.astype(float))
    np.testing.assert_array_equal(np.isnan(value.astype(float)), ~numbers)
    if coordinate == "float64" or (kernel == "linear" and ndim > 1):
        # The terms of linear are added in another order than float32's: equal if those roundings change nothing.
        sizes = np.abs(image.astype(float))
        near = 4 * EPS["float32"] * sizes[np.isfinite(sizes)].max()
        with np.errstate(over="ignore"):
            low, high = ((wide + d).astype(image.dtype).astype(float) for d in (-near, near))
        inside = (low <= value.astype(float)) & (value.astype(float) <= high)
        assert inside[numbers].all()
        assert np.mean(value[numbers] == expected[numbers]) > 0.99
    else:
        bits = [np.ascontiguousarray(a).view(np.uint16)[numbers] for a in (value, expected)]
        np.testing.assert_array_equal(*bits)
    if special == "overflow" and (kernel in ("cubic", "lanczos3") or (kernel, name) == ("prefiltered", "float16")):
        assert np.isinf(expected.astype(float)).any()
    if special == "subnormal":
        tiny = {"float16": 2.0**-14, "bfloat16": 2.0**-126}[name]
        read = np.abs(value.astype(float)[value.astype(float) != -0.75])
        assert (read < tiny).all()
        assert read.any()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("operation", ["vjp", "push"])
def test_16_bits_are_added_up_in_float32(backend, name, operation):
    """4096 ones on one pixel: in the narrow type the sum would stop at 2048 or 256."""
    dtype, shape = dtype_of(name), (1, 1, 4096)
    grid = backend.array(np.ones((1, 4096, 1), np.float32))
    ones = backend.array(np.ones(shape, dtype))
    if operation == "push":
        total = pystn.grid_push(ones, grid, (3,), coords="pixel")
    else:
        total, _ = pystn.grid_sample_vjp(ones, backend.array(np.ones((1, 1, 3), dtype)), grid, coords="pixel")
    np.testing.assert_array_equal(backend.numpy(total).astype(float), [[[0, 4096, 0]]])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("channel_axis", [1, -1])
def test_16_bit_values_shared_by_a_batch_are_added_up_in_float32(backend, name, channel_axis):
    """The gradient to values that 4096 grids share is a sum over the batch, rounded once."""
    dtype, n = dtype_of(name), 4096
    grid = backend.array(np.ones((n, 1, 1), np.float32))
    values = backend.array(np.ones((1, 1, 1), dtype))
    image = backend.array(np.ones((n, *(1, 3)[::channel_axis]), dtype))
    options = {"coords": "pixel", "wrt": "values", "channel_axis": channel_axis}
    total, _ = pystn.grid_push_vjp(image, values, grid, (3,), **options)
    assert backend.numpy(total).astype(float).item() == n


# ---------------------------------------------------------------------------------------------
# Complex numbers are two real ones


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("padding_mode", ["constant", "wrap"])
def test_parts_of_complex_numbers_are_sampled_by_themselves(
    backend, rng, ndim, name, coordinate, kernel, padding_mode, channel_axis
):
    """Bitwise, with a fill value for each part; only gradients to the grid and the kernel add the two."""
    asked = Asked(rng, name, coordinate, kernel, ndim, channel_axis, padding_mode=padding_mode, cutoff="edge")
    fill = np.array([0.5 - 0.25j, -1.0 + 2.0j])
    options = {"mode": asked.ours, "channel_axis": channel_axis, **asked.options}
    grid, d_grid = backend.array(asked.grid), backend.array(asked.d_grid)
    wrt = ("input", "grid", "fill_value") + (("kernel",) if kernel in ("cubic", "gaussian") else ())
    size = SIZES[ndim]

    def run(part):
        input, d_input, cotangent = (
            asked.given(backend, part(a)) for a in (asked.input, asked.d_input, asked.cotangent)
        )
        filled = {"fill_value": part(fill), **options}
        gradients = pystn.grid_sample_vjp(cotangent, input, grid, wrt=wrt, **filled)
        tangent = pystn.grid_sample_jvp(input, grid, d_input, d_grid, d_fill_value=part(fill[::-1]), **filled)
        twice = pystn.grid_sample_vjp2(d_input, d_grid, cotangent, input, grid, **filled)
        slopes = pystn.grid_gradient(input, grid, **filled)
        by_slopes = pystn.grid_gradient_vjp(slopes, input, grid, **filled)
        pushed = pystn.grid_push(cotangent, grid, size, **options)
        by_push = pystn.grid_push_vjp(pushed, cotangent, grid, size, **options)
        boundary = "zeros" if padding_mode == "constant" else padding_mode
        separate = {
            "value": pystn.grid_sample(input, grid, **filled),
            "grad_input": gradients[0],
            "grad_fill_value": gradients[2],
            "tangent": tangent,
            "vjp2 to grad_output": twice[0],
            "vjp2 to input": twice[1],
            "slopes": slopes,
            "tangents of slopes": pystn.grid_gradient_jvp(input, grid, d_input, d_grid, **filled),
            "slopes back to input": by_slopes[0],
            "push": pushed,
            "push back to values": by_push[0],
            "tangent of push": pystn.grid_push_jvp(cotangent, grid, cotangent, d_grid, size, **options),
            "coefficients": pystn.spline_filter(input, 3, boundary, channel_axis=channel_axis),
        }
        added = {
            "grad_grid": gradients[1],
            "vjp2 to grid": twice[2],
            "slopes to grid": by_slopes[1],
            "push to grid": by_push[1],
        }
        if "kernel" in wrt:
            added["grad_kernel"] = gradients[3]
        return {k: backend.numpy(a) for k, a in separate.items()}, {k: backend.numpy(a) for k, a in added.items()}

    separate, added = run(lambda a: a)
    real, real_added = run(lambda a: np.ascontiguousarray(a.real))
    imaginary, imaginary_added = run(lambda a: np.ascontiguousarray(a.imag))
    for what, both in separate.items():
        assert both.dtype == (np.complex128 if what == "grad_fill_value" else dtype_of(name)), what
        for actual, expected in ((both.real, real[what]), (both.imag, imaginary[what])):
            # Vectors of one channel add up what goes to an image in another order.
            summed = what in ("grad_input", "push", "push back to values", "tangent of push") or "to input" in what
            eps = EPS["float64" if name == "complex128" else "float32"]
            bound = 100 * eps * max(1, np.abs(expected).max()) if summed else 0
            np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=what)
    for what, both in added.items():
        expected = real_added[what] + imaginary_added[what]
        assert both.dtype == (np.float64 if what == "grad_kernel" else dtype_of(coordinate)), what
        size_of_terms = np.abs(real_added[what]).max() + np.abs(imaginary_added[what]).max()
        eps = asked.eps if what == "grad_kernel" else max(asked.eps, EPS[coordinate])
        bound = 1000 * eps * max(1, size_of_terms)
        np.testing.assert_allclose(both, expected, rtol=0, atol=bound, err_msg=what)


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("fill", [0.5, np.float32(0.5), 0.5 + 0.25j, [0.5, 1.0], [0.5, 1j]], ids=str)
def test_gradients_to_fill_values_are_of_their_type(backend, name, fill):
    """Complex of a complex fill value, conjugated nowhere; real, the real part's, of a real one."""
    image = backend.array(np.zeros((1, 2, 3), name))
    grid = backend.array(np.full((1, 2, 1), np.nan))
    cotangent = np.array([[[1 + 2j, 3 + 4j], [5 + 6j, 7 + 8j]]], name)
    *_, grad = pystn.grid_sample_vjp(
        backend.array(cotangent), image, grid, fill_value=fill, wrt=("input", "grid", "fill_value")
    )
    expected = np.array([4 + 6j, 12 + 14j])
    expected = expected if np.ndim(fill) else expected.sum()
    grad = np.asarray(backend.numpy(grad))
    assert np.iscomplexobj(grad) == np.iscomplexobj(fill)
    np.testing.assert_array_equal(grad, expected if np.iscomplexobj(fill) else expected.real)


@pytest.mark.parametrize("name", FLOATS + INTEGERS)
@pytest.mark.parametrize("fill", [1j, [0, 1j]], ids=str)
def test_a_complex_fill_value_is_for_complex_images(backend, name, fill):
    image, grid = np.zeros((1, 2, 3), dtype_of(name)), backend.array(np.zeros((1, 4, 1)))
    with pytest.raises(TypeError, match="fill_value must be real for an input of dtype"):
        pystn.grid_sample(backend.array(image), grid, fill_value=fill)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_not_pushed(backend, name):
    values, grid = backend.array(np.zeros((1, 2, 3), name)), backend.array(np.zeros((1, 3, 1)))
    image = backend.array(np.zeros((1, 2, 5), name))
    for call in (
        lambda: pystn.grid_push(values, grid, (5,)),
        lambda: pystn.grid_push_vjp(image, values, grid, (5,)),
        lambda: pystn.grid_push_jvp(values, grid, values, grid, (5,)),
        lambda: pystn.forward_warp(values, grid, (5,)),
    ):
        with pytest.raises(TypeError, match="values must be one of float16, bfloat16, float32, float64, complex"):
            call()
