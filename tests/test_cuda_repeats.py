"""Calls on CUDA that are done again without their checks give what the first call does, and only calls on arrays of the
same kinds are taken for a repetition."""

import gc
import weakref

import numpy as np
import pytest
from conftest import BACKENDS, Cpu

import pystn
from pystn.options import resolve

THETA = np.array([[[0.9, -0.2, 0.1], [0.3, 0.8, -0.1]]])
GRADIENTS = [("input", "grid"), ("input",), ("grid",)]


@pytest.fixture(params=[backend for backend in BACKENDS if backend is not Cpu], ids=lambda backend: backend.name)
def backend(request):
    return request.param


@pytest.fixture
def options():
    """The options that calls with the defaults share, with no call remembered."""
    return forgetful()


def forgetful(**given):
    defaults = {"mode": "linear", "padding_mode": "zeros", "align_corners": False, "coords": "normalized"}
    defaults |= {"subgradient": "right", "channel_axis": 1, "deterministic": False, "cutoff": None, "fill_value": 0.0}
    shared = resolve(*(defaults | given).values())
    shared.repeats.clear()
    shared.repeated_gradients.clear()
    return shared


def drawn(rng, shape, dtype="float32"):
    if dtype == "uint8":
        return rng.integers(0, 256, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def kept(repeats):
    """Those of CUDA's: the CPU keeps its own beside them."""
    return [repeat for repeat in repeats if type(repeat).__module__.startswith("pystn.backends.cuda")]


def samples_of(options):
    return kept(options.repeats)


def gradients_of(options):
    return [repeat for repeats in options.repeated_gradients.values() for repeat in kept(repeats)]


def assert_close(backend, again, first):
    """None where None; sums by atomics come in any order."""
    assert len(again) == len(first)
    for a, b in zip(again, first, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(backend.numpy(a), backend.numpy(b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "complex64"])
@pytest.mark.parametrize("grid_dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("image", "grid"),
    [((2, 3, 9, 8), (2, 5, 6, 2)), ((1, 3, 9, 8), (4, 5, 6, 2)), ((4, 2, 7), (1, 5, 1)), ((1, 2, 4, 5, 6), (1, 7, 3))],
)
def test_a_repeated_call_samples_the_arrays_that_it_is_given(backend, rng, options, dtype, grid_dtype, image, grid):
    calls = [(drawn(rng, image, dtype), drawn(rng, grid, grid_dtype)) for _ in range(2)]
    for i, call in enumerate(calls):
        arrays = [backend.array(array) for array in call]
        found = pystn.grid_sample(*arrays)
        assert len(options.repeats) == 1
        again = options.repeats[0](*arrays, None)
        assert again.data.ptr != found.data.ptr
        options.repeats.clear()
        first = pystn.grid_sample(*arrays)
        for result in (found, again):
            assert (result.shape, result.dtype) == (first.shape, first.dtype)
            np.testing.assert_array_equal(backend.numpy(result), backend.numpy(first), err_msg=str(i))


def test_a_repeated_call_fills_an_array_that_is_given(backend, rng, options):
    image, grid = (backend.array(drawn(rng, shape)) for shape in ((1, 2, 9, 8), (1, 6, 5, 2)))
    out = backend.array(np.zeros((1, 2, 6, 5), "float32"))
    assert pystn.grid_sample(image, grid, out=out) is out
    (repeat,) = samples_of(options)
    value = backend.numpy(out)
    out[...] = 0
    assert repeat(image, grid, None, out) is out
    np.testing.assert_array_equal(backend.numpy(out), value)
    np.testing.assert_array_equal(backend.numpy(repeat(image, grid, None)), value)
    overlapping = grid.reshape(-1)[:60].reshape(1, 2, 6, 5)
    turned = out.reshape(1, 2, 5, 6).swapaxes(2, 3)
    for other in (overlapping, turned, out[..., :-1], out.astype("float64"), value):
        assert repeat(image, grid, None, other) is None
    np.testing.assert_array_equal(backend.numpy(pystn.grid_sample(image, grid, out=turned)), value)
    assert samples_of(options) == [repeat]  # other arrays than it would make are not what a call is remembered by


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("wrt", GRADIENTS)
def test_arrays_of_any_strides_are_repeated(backend, rng, axis, wrt):
    options = forgetful(channel_axis=axis)
    shapes = [(2, 6, 9, 8), (2, 3, 5, 6)] if axis == 1 else [(2, 9, 16, 3), (2, 5, 6, 3)]
    key = (slice(None), slice(None, None, 2)) if axis == 1 else (slice(None), slice(None), slice(None, None, -2))
    for _ in range(3):
        image, grad = backend.array(drawn(rng, shapes[0]))[key], backend.array(drawn(rng, shapes[1]))
        grid = backend.array(drawn(rng, (2, 2, 5, 6))).transpose(0, 2, 3, 1)
        found = pystn.grid_sample_vjp(grad, image, grid, channel_axis=axis, wrt=wrt)
        value = pystn.grid_sample(image, grid, channel_axis=axis)
        arrays = [backend.numpy(array) for array in (grad, image, grid)]
        assert_close(backend, found, pystn.grid_sample_vjp(*arrays, channel_axis=axis, wrt=wrt))
        assert_close(backend, [value], [pystn.grid_sample(*arrays[1:], channel_axis=axis)])
    assert len(samples_of(options)) == len(gradients_of(options)) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("images, matrices", [(2, 2), (1, 3), (3, 1)])
def test_repeated_warps_take_their_own_matrices(backend, rng, options, dtype, images, matrices):
    image = backend.array(drawn(rng, (images, 2, 9, 8), dtype))
    grad = backend.array(drawn(rng, (max(images, matrices), 2, 7, 6), "float64" if dtype == "float64" else "float32"))
    for scale in (1.0, 0.5, -1.0):
        theta = backend.array(np.repeat(scale * THETA, matrices, 0).astype(grad.dtype))
        arrays = [backend.numpy(array) for array in (grad, image, theta)]
        value = pystn.warp_affine(image, theta, (7, 6))
        found = pystn.warp_affine_vjp(grad, image, theta, (7, 6))
        expected = pystn.warp_affine(*arrays[1:], (7, 6)), *pystn.warp_affine_vjp(*arrays, (7, 6))
        for a, b in zip((value, *found), expected, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(backend.numpy(a), b, rtol=2e-4, atol=1e-4)
    assert len(samples_of(options)) == len(gradients_of(options)) == 1
    assert all(
        samples_of(options)[0](image, theta, size) is None
        for size in (None, (6, 7), [7, 6], (7, 6, 1), (np.ones(2), 6))
    )


def test_other_kinds_of_calls_are_no_repetition(backend, rng, options):
    image, grid, grad = (backend.array(drawn(rng, s)) for s in ((1, 2, 9, 8), (1, 5, 6, 2), (1, 2, 5, 6)))
    pystn.grid_sample(image, grid)
    pystn.grid_sample_vjp(grad, image, grid)
    (repeat,), (repeat_vjp,) = options.repeats, gradients_of(options)
    assert repeat(image, grid, None) is not None
    assert repeat_vjp(grad, image, grid, None) is not None
    others = [
        (image.astype("float64"), grid),
        (image, grid.astype("float64")),
        (image[:, :, :-1].copy(), grid),
        (image[:, :, ::-1], grid),
        (image, grid[:, 1:].copy()),
        (image, grid[..., ::-1]),
        (image[0], grid),
        (backend.numpy(image), grid),
        (image, backend.numpy(grid)),
        (None, grid),
        (image, None),
    ]
    assert all(repeat(*other, None) is None for other in others)
    assert all(repeat_vjp(grad, *other, None) is None for other in others)
    assert all(repeat_vjp(g, image, grid, None) is None for g in (None, grad[..., ::-1], grad[0], (grad, None)))
    assert repeat(image, grid, (5, 6)) is None
    with pytest.raises(ValueError, match="last axis"):
        pystn.grid_sample(image, grid[..., :1])


def test_arrays_that_are_copied_first_are_not_remembered(backend, rng, options):
    image, grid = drawn(rng, (1, 2, 9, 8)), backend.array(drawn(rng, (1, 5, 6, 2)))
    octets = backend.array(np.zeros(image.nbytes + 2, np.uint8))
    start = 1 if (octets.data.ptr + 1) % 4 else 2
    octets = octets[start : start + image.nbytes]
    octets[...] = backend.array(image.ravel().view(np.uint8))
    shifted = octets.view("float32").reshape(image.shape)
    assert shifted.data.ptr % 4
    found = pystn.grid_sample(shifted, grid)
    assert not options.repeats
    aligned = backend.array(image)
    np.testing.assert_array_equal(backend.numpy(pystn.grid_sample(aligned, grid)), backend.numpy(found))
    assert options.repeats[0](shifted, grid, None) is None


def test_what_is_added_up_elsewhere_is_not_remembered(backend, rng):
    grad, image, grid = (backend.array(drawn(rng, s)) for s in ((1, 2, 5, 6), (1, 2, 9, 8), (1, 5, 6, 2)))
    fixed = forgetful(deterministic=True)
    pystn.grid_sample_vjp(grad, image, grid, deterministic=True)
    assert not gradients_of(fixed)
    options = forgetful()
    pystn.grid_sample_vjp(grad.astype("float16"), image.astype("float16"), grid)
    assert not gradients_of(options)
    pystn.grid_sample(image, grid, return_mask=True)
    assert not options.repeats


def test_no_array_outlives_its_call(backend, rng, options):
    grad, image, grid = (backend.array(drawn(rng, s)) for s in ((1, 2, 5, 6), (1, 2, 9, 8), (1, 5, 6, 2)))
    theta = backend.array(THETA.astype("float32"))
    pystn.grid_sample(image, grid)
    pystn.grid_sample_vjp(grad, image, grid)
    pystn.warp_affine_vjp(grad, image, theta, (5, 6))
    assert len(gradients_of(options)) == 2
    held = [weakref.ref(array) for array in (grad, image, grid, theta)]
    del grad, image, grid, theta
    gc.collect()  # exceptions caught while a kernel is compiled may be in cycles with their frames
    assert all(reference() is None for reference in held)


def test_few_calls_are_remembered(backend, rng, options):
    from pystn.backends import cuda

    for n in range(2, cuda.backend.remembered + 4):
        pystn.grid_sample(backend.array(drawn(rng, (1, 1, n, n))), backend.array(drawn(rng, (1, 3, 2))))
    assert len(options.repeats) == cuda.backend.remembered


def test_fill_values_stay_with_their_options(backend, rng):
    image, grid = backend.array(drawn(rng, (1, 2, 4, 4))), backend.array(np.full((1, 3, 2), np.nan, np.float32))
    for fill in (1.0, 2.0, 3.0) * 2:
        value = pystn.grid_sample(image, grid, padding_mode="constant", fill_value=fill)
        assert (backend.numpy(value) == fill).all()
