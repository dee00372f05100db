"""The gradient to the image of an affine warp with deterministic=True, on CUDA: threads gather it, a pixel each. It is
that of the CPU, which adds sample by sample, and the same in every order."""

import numpy as np
import pytest
from conftest import BACKENDS, Cpu
from test_cuda_deterministic import check

import pystn

SIZES = {1: (11,), 2: (9, 7), 3: (5, 4, 6)}
OUTPUTS = {1: (17,), 2: (8, 13), 3: (6, 5, 4)}
CONVENTIONS = [(False, "normalized"), (True, "normalized"), (False, "pixel")]


@pytest.fixture(params=[backend for backend in BACKENDS if backend is not Cpu], ids=lambda backend: backend.name)
def backend(request):
    return request.param


def gradient(cotangent, image, theta, **options):
    ndim = theta.shape[-1] - 1
    last = options.get("channel_axis", 1) == -1
    size = cotangent.shape[-1 - ndim : -1] if last else cotangent.shape[-ndim:]
    return pystn.warp_affine_vjp(cotangent, image, theta, size, wrt="input", **options)[0]


def problem(rng, theta, channels=3, batch=2, image_batch=None, dtype=np.float32, last=False, size=None, output=None):
    ndim = theta.shape[-1] - 1
    size, output = size or SIZES[ndim], output or OUTPUTS[ndim]
    output = (*theta.shape[1:-2], *output)

    def drawn(n, *shape):
        whole = (n, *shape, channels) if last else (n, channels, *shape)
        values = rng.standard_normal(whole)
        return (values + 1j * rng.standard_normal(whole) if np.dtype(dtype).kind == "c" else values).astype(dtype)

    return drawn(batch, *output), drawn(image_batch or batch, *size), theta


def turned(rng, ndim, batch=2, dtype=np.float32, spread=1.0, shift=0.3):
    """Matrices that turn, stretch and shear."""
    linear = np.eye(ndim) + spread * rng.uniform(-1, 1, (batch, ndim, ndim))
    return np.concatenate([linear, shift * rng.uniform(-1, 1, (batch, ndim, 1))], axis=-1).astype(dtype)


def in_pixels(theta, ndim):
    """The same warp of positions in pixels, nearly."""
    pixels = theta.copy()
    pixels[..., -1] += np.array(SIZES[ndim][::-1]) / 3
    return pixels


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("align_corners, convention", CONVENTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrices(backend, rng, ndim, mode, align_corners, convention, dtype):
    for _ in range(3):
        theta = turned(rng, ndim, dtype=dtype)
        theta = in_pixels(theta, ndim) if convention == "pixel" else theta
        options = {"align_corners": align_corners, "coords": convention}
        check(backend, gradient, problem(rng, theta, dtype=dtype), mode=mode, **options)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("align_corners, convention", CONVENTIONS)
def test_every_quarter_turn_and_flip(backend, rng, mode, align_corners, convention):
    """Positions on pixels, on their edges, and bounds of rows that are met exactly."""
    rows = [(1, 0), (-1, 0), (0, 1), (0, -1), (2, 0), (0, 0.5), (1, 1), (0, 0)]
    for x in rows:
        for y in rows:
            theta = np.array([[[*x, 0], [*y, 0]]], np.float32)
            arrays = problem(rng, theta, channels=1, batch=1, size=(6, 6), output=(6, 6))
            check(
                backend,
                gradient,
                arrays,
                mode=mode,
                align_corners=align_corners,
                coords=convention,
            )


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_matrices_that_have_no_inverse(backend, rng, ndim):
    near = turned(rng, ndim, 1)
    near[:, -1] = near[:, 0] * np.float32(1 + 1e-6)
    line, point = near.copy(), np.zeros_like(near)
    line[:, -1, :-1] = 0
    for theta in (near, line, point, point + 0.1, -near):
        check(backend, gradient, problem(rng, theta, batch=1, output=(9,) * ndim))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 0.02, 30.0, 1e6, 1e30, 1e38])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_near_and_far(backend, rng, scale, ndim):
    theta = (turned(rng, ndim, shift=0) * np.float32(scale)).astype(np.float32)
    theta[..., -1] = rng.uniform(-0.5, 0.5, theta.shape[:-1])
    for _ in range(3):
        check(backend, gradient, problem(rng, theta), rounding=60)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(backend, rng, value):
    for entry in range(6):
        theta = turned(rng, 2)
        theta[0].flat[entry] = value
        (found,) = check(backend, gradient, problem(rng, theta))
        assert not found[0].any()
        assert found[1].any()


@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
@pytest.mark.parametrize("channels", [1, 4, 5, 13, 33])
def test_channels(backend, rng, last, channels):
    arrays = problem(rng, turned(rng, 2), channels, last=last)
    check(backend, gradient, arrays, channel_axis=-1 if last else 1)


@pytest.mark.parametrize("dtype", [np.float16, np.complex64, np.complex128])
@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
def test_types(backend, rng, dtype, last):
    theta = turned(rng, 2, dtype=np.float64 if dtype == np.complex128 else np.float32)
    check(backend, gradient, problem(rng, theta, dtype=dtype, last=last), channel_axis=-1 if last else 1)


def test_matrices_of_another_type(backend, rng):
    check(backend, gradient, problem(rng, turned(rng, 2, dtype=np.float64)))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_shared_by_the_batch(backend, rng, ndim):
    check(backend, gradient, problem(rng, turned(rng, ndim, 3), batch=3, image_batch=1))
    check(backend, gradient, problem(rng, turned(rng, ndim, 1).repeat(3, 0), batch=3, image_batch=1))
    check(backend, gradient, problem(rng, turned(rng, ndim, 1), batch=3))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_many_matrices_of_an_image(backend, rng, ndim):
    theta = turned(rng, ndim, 6).reshape(2, 3, ndim, ndim + 1)
    check(backend, gradient, problem(rng, theta))
    check(backend, gradient, problem(rng, theta, image_batch=1))
    check(backend, gradient, problem(rng, theta[:1], batch=2))


@pytest.mark.parametrize("cutoff", ["center", "edge"])
def test_samples_that_are_left_out(backend, rng, cutoff):
    check(backend, gradient, problem(rng, turned(rng, 2)), cutoff=cutoff, fill_value=3.0)


@pytest.mark.parametrize("padding_mode", ["constant", ("zeros", "constant")])
def test_fill_values_are_no_pixels(backend, rng, padding_mode):
    check(backend, gradient, problem(rng, turned(rng, 2)), padding_mode=padding_mode, fill_value=2.0)


@pytest.mark.parametrize("size, output", [((1, 1), (1, 1)), ((1, 5), (6, 1)), ((4, 1), (1, 7)), ((300, 2), (2, 400))])
def test_small_and_narrow(backend, rng, size, output):
    check(backend, gradient, problem(rng, turned(rng, 2), size=size, output=output))


@pytest.mark.parametrize("shape", [(0, 2, 5, 5), (2, 0, 5, 5)])
def test_empty(backend, rng, shape):
    check(backend, gradient, (np.ones(shape, "f"), np.ones(shape, "f"), turned(rng, 2, shape[0])))


def test_no_samples(backend, rng):
    (found,) = check(backend, gradient, (np.ones((2, 1, 0, 5), "f"), np.ones((2, 1, 4, 4), "f"), turned(rng, 2)))
    assert not found.any()
    (found,) = check(backend, gradient, problem(rng, turned(rng, 2, 0).reshape(2, 0, 2, 3)))
    assert not found.any()


def test_strides(backend, rng):
    cotangent, image, theta = problem(rng, turned(rng, 2), output=(16, 26))
    expected = gradient(cotangent[:, ::-1, ::2, ::-3], image, theta)
    given = backend.array(cotangent)[:, ::-1, ::2, ::-3], backend.array(image), backend.array(theta)
    np.testing.assert_allclose(backend.numpy(gradient(*given, deterministic=True)), expected, atol=1e-5)
    to = backend.array(np.full((2, 18, 3, 14), 7.0, "f"))
    view = to.transpose(0, 2, 1, 3)[:, :, ::2, ::-2]
    pystn.warp_affine_vjp(*given, (8, 9), wrt="input", out=(view, None), deterministic=True)
    np.testing.assert_allclose(backend.numpy(view), expected, atol=1e-5)
    assert (backend.numpy(to)[:, 1::2] == 7).all()


def test_infinite_cotangents(backend, rng):
    cotangent, image, theta = problem(rng, turned(rng, 2, spread=0.3))
    cotangent[0, 0, 4, 5], cotangent[0, 1, 3, 3], cotangent[1, 2, 2, 6] = np.inf, np.nan, -np.inf
    np.testing.assert_array_equal(
        np.isnan(backend.numpy(gradient(*map(backend.array, (cotangent, image, theta)), deterministic=True))),
        np.isnan(gradient(cotangent, image, theta)),
    )
