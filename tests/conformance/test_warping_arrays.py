"""Types and memory of what warps read and write: each result rounded once, wherever the numbers lie.

Matrices map pixels to pixels in steps of 1/64, so that the positions of affine maps are exact in single precision.
"""

import numpy as np
import oracle
import pytest
from conftest import kernel_for
from warps import AFFINE, PROJECTIONS, PROJECTIVE, WARPS, matrices

import pystn

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("uint8", "int16", "uint16")
# Unit roundoff, twice: what one rounding to the type may be off by, relative to the number.
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
EPS.update(complex64=EPS["float32"], complex128=EPS["float64"])
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133}  # subnormal numbers
ROUNDINGS = 8  # of single or double precision, of terms of the size of the largest
IMAGE, SIZE = {1: (7,), 2: (5, 6), 3: (4, 5, 3)}, {1: (35,), 2: (2, 17), 3: (2, 2, 17)}


def dtype_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="bfloat16 is a type of ml_dtypes").bfloat16)
    return np.dtype(name)


def drawn(rng, shape, name):
    """Numbers of a type: all that an integer can be, normally distributed others."""
    dtype = dtype_of(name)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    numbers = rng.standard_normal(shape)
    return (numbers + 1j * rng.standard_normal(shape) if dtype.kind == "c" else numbers).astype(dtype)


def parts(a):
    """The real arrays that an array is made of, in double."""
    return [a.real.astype(float), a.imag.astype(float)] if a.dtype.kind == "c" else [a.astype(float)]


def size_of(a):
    return max(1.0, max(np.abs(part).max(initial=0) for part in parts(a)))


@pytest.mark.parametrize(
    "warp, name",
    [
        (warp, name)
        for warp in WARPS
        for name in (*FLOATS, "complex64", "complex128", *INTEGERS)
        if warp != "project-mean" and (warp, name[:7]) != ("project-max", "complex")  # which have no maximum
    ],
)
@pytest.mark.parametrize("coordinate", ["float32", "float64"])
@pytest.mark.parametrize("kernel", ["nearest", "linear", "prefiltered"])
def test_types(backend, rng, warp, name, coordinate, kernel):
    """Value, mask, gradients and tangent: shape and type, and numbers to one rounding to that type.

    Positions are in double if input or theta are, sums if the input is; integers saturate, and their gradients are
    float32.
    """
    warp = WARPS[warp]
    channel_axis = 1 if EPS.get(name, 1) < 1e-4 else -1
    image, size = IMAGE[warp.ndim], SIZE[warp.ndim]
    clear = 0.0
    if warp.projective:  # whose positions are rounded: few samples, as of many some are near a kink
        size, clear = (2, 9), 0.01
    theta = matrices(rng, warp, (2, 2), image, size, coords="pixel", clear=clear, steps=64, tilt=0.2)
    theta = theta.astype(coordinate)
    real_tangent = "float32" if name in INTEGERS else name
    mask_type = {"complex64": "float32", "complex128": "float64"}.get(name, real_tangent)
    input, d_input = drawn(rng, (2, 2, *image), name), drawn(rng, (2, 2, *image), real_tangent)
    d_theta = rng.standard_normal(theta.shape).astype(coordinate)
    g = drawn(rng, (2, 2, 2, *warp.spatial(size)), real_tangent)
    mode, theirs = kernel_for(pystn, kernel, warp.ndim)
    options = {"padding_mode": "mirror", "coords": "pixel"}
    theirs = {"mode": theirs, **options}
    double = name in ("float64", "complex128")
    eps = EPS["float64" if double else "float32"]

    def array(a):
        return backend.array(np.ascontiguousarray(np.moveaxis(a, 1, channel_axis)))

    def numpy(a):
        return np.moveaxis(backend.numpy(a), channel_axis, 1)

    def near(what, actual, expected, dtype, terms, eps):
        assert actual.dtype == dtype_of(dtype), what
        for a, e in zip(parts(actual), expected, strict=True):
            assert a.shape == e.shape, what
            bound = 0.5 * np.maximum(EPS[dtype] * np.abs(e), SMALLEST.get(dtype, 0.0)) + ROUNDINGS * eps * terms
            worst = np.max(np.abs(a - e) - bound, initial=-1)
            assert worst <= 0, f"{what}: {worst} beyond {bound.min()}"

    options.update(mode=mode, channel_axis=channel_axis)
    given = array(input), backend.array(theta)
    # A position of a projective map is a quotient, rounded.
    far = 6 * max(image) if warp.projective else 1
    planes = size[0] if warp.reduce == "sum" else 1
    largest = size_of(input) * far * planes
    value = numpy(warp.forward(*given, size, **options))
    expected = [warp.expected("", part, theta, size, **theirs) for part in parts(input)]
    if name in INTEGERS:
        assert value.dtype == dtype_of(name)
        limits, error = np.iinfo(name), ROUNDINGS * eps * largest
        (expected,) = expected
        if error < 0.2:  # of two integers it can be one only
            settled = np.abs(expected - np.floor(expected) - 0.5) > error
            assert settled.mean() > 0.4
            nearest = np.clip(np.rint(expected), limits.min, limits.max)
            np.testing.assert_array_equal(value[settled], nearest[settled])
        assert np.all(np.abs(value - np.clip(expected, limits.min, limits.max)) <= 0.5 + error)
    else:
        near("value", value, expected, name, largest, eps)

    found = warp.vjp(array(g), *given, size, **options)
    # A complex image is two real ones, of which both cotangents are known.
    wanted = [warp.expected("_vjp", a, b, theta, size, **theirs) for a, b in zip(parts(g), parts(input), strict=True)]
    total = sum(np.abs(part).sum() for part in parts(g)) * planes
    near("grad_input", numpy(found[0]), [w[0] for w in wanted], real_tangent, total * far, eps)
    to_theta = backend.numpy(found[1])
    assert to_theta.dtype == dtype_of(coordinate)
    bound = EPS[coordinate] * np.abs(to_theta) + eps * ROUNDINGS * total * 2 * size_of(input) * max(size) * far
    assert (np.abs(to_theta - sum(w[1] for w in wanted)) <= bound).all()

    moved = numpy(warp.jvp(*given, array(d_input), backend.array(d_theta), size, **options))
    expected = [
        warp.expected("_jvp", a, theta, b, d_theta.astype(float), size, **theirs)
        for a, b in zip(parts(input), parts(d_input), strict=True)
    ]
    terms = largest * 4 * warp.ndim * max(size) * size_of(d_theta)
    near("tangent", moved, expected, real_tangent, terms, eps)
    if warp.reduce is None:
        _, mask = warp.forward(*given, size, return_mask=True, **options)
        expected = [warp.expected("_mask", input.real.astype(float), theta, size, **theirs)]
        single = EPS["float64" if double or coordinate == "float64" else "float32"]
        near("mask", backend.numpy(mask), expected, mask_type, far, single)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("reduce", PROJECTIONS)
def test_projections_of_integers_are_rounded_once(backend, reduce, name):
    """Not plane by plane: of halves each, whose sum is whole; sums saturate."""
    limits = np.iinfo(name)
    rows = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 3, 2, 1], [2, 3, 3, 2]])
    volume = np.repeat(rows[None, None, :, None, :], 1, axis=3)  # (1, 1, 4, 1, 4)
    volume = np.concatenate([volume, np.full_like(volume, limits.max)], axis=1).astype(name)
    theta = np.eye(3, 4)[None]
    theta[0, 0, 3] = 0.5
    arrays = [backend.array(a) for a in (volume, theta)]
    value = backend.numpy(pystn.warp_project(*arrays, (4, 1, 3), reduce, coords="pixel"))[0, :, 0]
    halves = (rows[:, :3] + rows[:, 1:]) / 2
    expected = {"sum": halves.sum(axis=0), "mean": halves.mean(axis=0), "max": np.max(halves, axis=0)}[reduce]
    np.testing.assert_array_equal(value[0], np.rint(expected))
    np.testing.assert_array_equal(value[1], limits.max)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_projections_of_16_bits_are_added_up_in_more(backend, name):
    """A large plane and many that are small beside it."""
    volume = np.full((1, 1, 257, 1, 4), 2.0**-8)
    volume[:, :, 0] = 1
    volume = volume.astype(dtype_of(name))
    arrays = [backend.array(a) for a in (volume, np.eye(3, 4, dtype=np.float32)[None])]
    value = backend.numpy(pystn.warp_project(*arrays, (257, 1, 4), coords="pixel"))
    assert value.dtype == volume.dtype
    np.testing.assert_array_equal(value.astype(float), 2)


@pytest.mark.parametrize("image, theta", [("f4", "f8"), ("f8", "f4"), ("u1", "f8")])
def test_double_theta_makes_positions_double(backend, rng, image, theta):
    """A shift that single precision does not see moves the samples; so does one of a double image."""
    ramp = (100 * np.arange(2)).astype(image).reshape(1, 1, 2)
    matrix = np.array([[[0.0, 0.25 + 2.0**-20]]], theta)
    value = backend.numpy(pystn.warp_affine(backend.array(ramp), backend.array(matrix), (5,), coords="pixel"))
    expected = 100 * float(matrix[0, 0, 1])
    expected = np.rint(expected) if image == "u1" else np.dtype(image).type(expected)
    np.testing.assert_array_equal(value, np.full((1, 1, 5), expected))


# ---------------------------------------------------------------------------------------------
# Memory


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


def channels_moved(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)


VIEWS = [reversed_memory, transposed_memory, every_other, misaligned, read_only, channels_moved]
STRIDED = [AFFINE[1], AFFINE[2], AFFINE[3], PROJECTIVE, PROJECTIONS["sum"], PROJECTIONS["max"]]


@pytest.fixture(params=STRIDED, ids=lambda w: f"{w.name}-{w.ndim}d-{w.reduce}")
def warp(request):
    return request.param


@pytest.fixture(params=["float32", "float64", "float16"])
def arrays(request, rng, warp):
    """Everything that a warp and its derivatives read; of complex numbers in place of the narrow ones in 1-D."""
    name = "complex64" if warp.ndim == 1 and request.param == "float16" else request.param
    coordinate = np.float64 if name == "float64" else np.float32
    image, size = {1: ((19,), (150,)), 2: ((9, 11), (5, 35)), 3: ((4, 5, 6), (3, 4, 18))}[warp.ndim]
    theta = matrices(rng, warp, (2, 2), image, size, clear=0.0).astype(coordinate)
    return {
        "input": drawn(rng, (2, 3, *image), name),
        "theta": theta,
        "d_input": drawn(rng, (2, 3, *image), name),
        "d_theta": rng.standard_normal(theta.shape).astype(coordinate),
        "grad_output": drawn(rng, (2, 3, 2, *warp.spatial(size)), name),
        "grad_mask": drawn(rng, (2, 2, *size), {"complex64": "float32"}.get(name, name)),
        "size": size,
    }


def results(backend, warp, arrays, outs=(None,) * 4):
    """Value, both gradients, tangent, the second order, and where there is a mask the gradients with it."""
    a = {name: array if name == "size" else backend.array(array) for name, array in arrays.items()}
    size, options, read = a["size"], {"padding_mode": "mirror"}, (a["input"], a["theta"])
    out = None if outs[1] is None else outs[1:3]
    found = [
        warp.forward(*read, size, out=outs[0], **options),
        *warp.vjp(a["grad_output"], *read, size, out=out, **options),
        warp.jvp(*read, a["d_input"], a["d_theta"], size, out=outs[3], **options),
    ]
    if outs[0] is not None:
        return found
    found += warp.vjp2(a["d_input"], a["d_theta"], a["grad_output"], *read, size, **options)
    if warp.reduce is None:
        masked = (a["grad_output"], a["grad_mask"])
        found += warp.vjp(masked, *read, size, return_mask=True, **options)
    return found


def near(actual, expected, what=""):
    """Equal to the rounding of sums in another order."""
    eps = EPS[expected.dtype.name]
    bound = 200 * eps * max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound, err_msg=what)


@pytest.mark.parametrize("view", VIEWS, ids=lambda v: v.__name__)
def test_any_strides_are_read(backend, warp, arrays, view):
    plain = [backend.numpy(a) for a in results(backend, warp, arrays)]
    for viewed in arrays:
        if viewed == "size":
            continue
        given = {name: view(a) if name == viewed else a for name, a in arrays.items()}
        for actual, expected in zip(results(backend, warp, given), plain, strict=True):
            assert actual.dtype == expected.dtype
            near(backend.numpy(actual), expected, viewed)


def test_zero_strides_are_read(backend, warp, arrays):
    """Of every axis in turn, as `np.broadcast_to` makes them."""
    for axis in range(5):

        def first(a, axis=axis):
            return np.broadcast_to(a[(slice(None),) * axis + (slice(0, 1),)], a.shape) if axis < a.ndim else a

        repeated = {name: a if name == "size" else first(a) for name, a in arrays.items()}
        copied = {name: a if name == "size" else a.copy() for name, a in repeated.items()}
        expected = results(backend, warp, copied)
        for a, b in zip(results(backend, warp, repeated), expected, strict=True):
            near(backend.numpy(a), backend.numpy(b), f"axis {axis}")


@pytest.mark.parametrize("order, step", [("reversed", 1), ("channels fastest", 1), ("as it is", -1), ("reversed", -2)])
def test_out_of_any_stride(backend, warp, arrays, order, step):
    """Written whole, returned itself, and nothing beside it in the memory that it is a view of."""
    plain = [backend.numpy(a) for a in results(backend, warp, arrays)[:4]]
    frames, windows = [], []
    for a in plain:
        axes = list(range(a.ndim))
        axes = {"as it is": axes, "reversed": axes[::-1], "channels fastest": [0, *axes[2:], 1]}[order]
        frames.append(np.full([a.shape[k] * abs(step) + 2 for k in axes], 7, a.dtype))
        inner = frames[-1][(slice(1, -1),) * a.ndim].transpose(np.argsort(axes))
        windows.append(inner[(slice(None, None, step),) * a.ndim])
        windows[-1][...] = np.nan
    outs = [backend.array(window) for window in windows]
    found = results(backend, warp, arrays, tuple(outs))
    for result, out, expected in zip(found, outs, plain, strict=True):
        assert result is out
        near(backend.numpy(out), expected)
    for frame, window in zip(frames, windows, strict=True):
        window[...] = 7
        assert (frame == 7).all()


def test_what_is_read_is_not_written(backend, warp, arrays):
    kept = {name: a if name == "size" else a.copy() for name, a in arrays.items()}
    results(backend, warp, arrays)
    for name, a in arrays.items():
        np.testing.assert_array_equal(a, kept[name], err_msg=name)


def test_out_may_not_overlap_what_is_read_or_written(backend, warp, arrays):
    """Nothing has been written by the time of the error."""
    if arrays["input"].dtype != arrays["theta"].dtype:
        arrays["theta"], arrays["d_theta"] = (arrays[n].astype(np.float32) for n in ("theta", "d_theta"))
    shapes = [(a.shape, a.dtype) for a in map(backend.numpy, results(backend, warp, arrays)[:4])]
    writers = {0: ("input", "theta"), 1: ("grad_output", "input", "theta"), 2: ("grad_output", "input", "theta")}
    writers[3] = ("input", "theta", "d_input", "d_theta")
    size = arrays["size"]

    def call(at, given, out):
        a = {name: backend.array(array) for name, array in given.items() if name != "size"}
        read, out = (a["input"], a["theta"]), backend.array(out)
        if at == 0:
            return warp.forward(*read, size, out=out)
        if at == 3:
            return warp.jvp(*read, a["d_input"], a["d_theta"], size, out=out)
        return warp.vjp(a["grad_output"], *read, size, out=(out, None) if at == 1 else (None, out))

    for at, names in writers.items():
        shape, dtype = shapes[at]
        for name in names:
            a = arrays[name]
            if a.dtype != dtype:
                continue
            before = np.concatenate([a.ravel(), np.zeros(int(np.prod(shape)), dtype)])
            memory = backend.array(before.copy())
            read = memory[: a.size].reshape(a.shape)
            # One element in common: the last of what is read, the first of what is written.
            out = memory[a.size - 1 : -1].reshape(shape)
            with pytest.raises(ValueError, match="must not overlap an array that is read"):
                call(at, {**arrays, name: read}, out)
            np.testing.assert_array_equal(backend.numpy(memory), before)
            call(at, {**arrays, name: read}, memory[a.size :].reshape(shape))  # next to it is no overlap
        repeated = np.zeros(shape, dtype)[:1]
        itself = np.lib.stride_tricks.as_strided(repeated, shape, (0, *repeated.strides[1:]))
        with pytest.raises(ValueError, match="must not overlap itself"):
            call(at, arrays, itself)
    if shapes[1][1] == shapes[2][1]:
        memory = backend.array(np.zeros(arrays["input"].size + arrays["theta"].size, shapes[1][1]))
        first = memory[: arrays["input"].size].reshape(shapes[1][0])
        second = memory[arrays["input"].size - 1 :][: arrays["theta"].size].reshape(shapes[2][0])
        with pytest.raises(ValueError, match="must not overlap an array that is read or another that is written"):
            warp.vjp(
                *(backend.array(arrays[n]) for n in ("grad_output", "input", "theta")),
                size,
                out=(backend.array(first), backend.array(second)),
            )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 20])
def test_channels_last_equals_channels_first(backend, rng, warp, channels, dtype):
    image, size = {1: ((19,), (150,)), 2: ((9, 11), (5, 35)), 3: ((4, 5, 6), (3, 4, 18))}[warp.ndim]
    theta = matrices(rng, warp, (2, 2), image, size).astype(dtype)
    input, d_input = rng.standard_normal((2, 2, channels, *image)).astype(dtype)
    u = rng.standard_normal((2, channels, 2, *warp.spatial(size))).astype(dtype)
    theta, d_theta = backend.array(theta), backend.array(rng.standard_normal(theta.shape).astype(dtype))

    def everything(axis):
        def array(a):
            return backend.array(np.ascontiguousarray(np.moveaxis(a, 1, axis)))

        read = array(input), theta
        found = [
            warp.forward(*read, size, channel_axis=axis),
            *warp.vjp(array(u), *read, size, channel_axis=axis),
            warp.jvp(*read, array(d_input), d_theta, size, channel_axis=axis),
        ]
        return [backend.numpy(a) if i == 2 else np.moveaxis(backend.numpy(a), axis, 1) for i, a in enumerate(found)]

    for i, (a, b) in enumerate(zip(everything(-1), everything(1), strict=True)):
        assert a.shape == b.shape
        if i == 0:
            np.testing.assert_array_equal(a, b)
        bound = 40 * EPS[dtype] * channels * max(1, np.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)


def test_bits_of_the_sampler_in_pixels(backend, rng):
    """Where positions are exact the fused warp is bitwise the sampler, in single precision too."""
    for dtype in (np.float32, np.float64):
        image = rng.standard_normal((1, 2, 30, 31)).astype(dtype)
        theta = (np.rint(rng.uniform(-2, 2, (1, 4, 2, 3)) * 16) / 16).astype(dtype)
        grid = oracle.Map(theta, (21, 37), coords="pixel").grid().astype(dtype)
        for mode in ("nearest", "linear", "cubic"):
            for padding_mode in ("zeros", "border", "mirror"):
                options = {"mode": mode, "padding_mode": padding_mode, "coords": "pixel"}
                arrays = [backend.array(a) for a in (image, theta)]
                value = pystn.warp_affine(*arrays, (21, 37), **options)
                expected = pystn.grid_sample(arrays[0], backend.array(grid), **options)
                np.testing.assert_array_equal(backend.numpy(value), backend.numpy(expected))
