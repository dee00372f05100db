"""Gradients of linear sampling on CUDA where neighbours read the same pixels: lanes of a warp join what they add there,
and the sums are those of the CPU."""

import numpy as np
import pytest
from conftest import BACKENDS, Cpu
from test_cuda_deterministic import eps_of

import pystn

# Of an image; of the samples, whose tiles of 8 by 4 are whole or not.
SIZES = {2: (13, 18), 3: (5, 7, 9)}
OUTPUTS = {2: [(8, 16), (9, 19), (30, 7), (33, 1)], 3: [(4, 4, 8), (3, 5, 11)]}
CASES = [(ndim, output) for ndim, outputs in OUTPUTS.items() for output in outputs]
SCALES = [1.0, -1.0, 0.3, 0.01, 1.7]
PADDINGS = ["zeros", "border", "mirror", "reflection", "wrap"]


@pytest.fixture(params=[backend for backend in BACKENDS if backend is not Cpu], ids=lambda backend: backend.name)
def backend(request):
    return request.param


def matrix(rng, ndim, batch, scale, turn=0.2):
    """Nearly that of the identity, or of a flip, a zoom: whose samples read what their neighbours read."""
    linear = scale * (np.eye(ndim) + turn * rng.uniform(-1, 1, (batch, ndim, ndim)))
    return np.concatenate([linear, rng.uniform(-0.3, 0.3, (batch, ndim, 1))], axis=-1)


def arrays(rng, ndim, output, theta, channels=3, dtype=np.float32, batch=2, image_batch=None, last=False):
    shapes = [(batch, *output), (image_batch or batch, *SIZES[ndim])]
    shapes = [(n, *space, channels) if last else (n, channels, *space) for n, *space in shapes]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes] + [theta.astype(dtype)]


def grid_of(theta, output):
    return pystn.affine_grid(theta, output)


def check(backend, function, given, rounding=40):
    ours = function(*map(backend.array, given))
    theirs = function(*(array.astype(np.float64) for array in given))
    for a, b in zip(ours, theirs, strict=True):
        bound = rounding * eps_of(given[0].dtype) * max(1.0, abs(b).max(initial=0))
        np.testing.assert_allclose(backend.numpy(a), b, rtol=0, atol=bound)


def to_grid(**options):
    return lambda cotangent, image, grid: pystn.grid_sample_vjp(cotangent, image, grid, **options)


def to_input(**options):
    return lambda *given: pystn.grid_sample_vjp(*given, wrt="input", **options)[:1]


def to_matrix(output, **options):
    return lambda cotangent, image, theta: pystn.warp_affine_vjp(cotangent, image, theta, output, **options)


@pytest.mark.parametrize("ndim, output", CASES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("function", [to_grid, to_input])
def test_grids(backend, rng, ndim, output, scale, function):
    cotangent, image, theta = arrays(rng, ndim, output, matrix(rng, ndim, 2, scale))
    check(backend, function(), (cotangent, image, grid_of(theta, output)))


@pytest.mark.parametrize("ndim, output", CASES)
@pytest.mark.parametrize("scale", SCALES)
def test_matrices(backend, rng, ndim, output, scale):
    given = arrays(rng, ndim, output, matrix(rng, ndim, 2, scale))
    check(backend, to_matrix(output), given, rounding=400)
    check(backend, lambda *a: to_matrix(output, wrt="input")(*a)[:1], given)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("scale", [1.0, 3.0, 0.01])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boundaries(backend, rng, padding, scale, dtype):
    """Folded neighbours may read one pixel, or each other's, in either order."""
    output = (12, 21)
    theta = matrix(rng, 2, 2, scale, turn=0.02)
    cotangent, image, theta = arrays(rng, 2, output, theta, dtype=dtype)
    grid = grid_of(theta, output)
    for function in (to_grid, to_input):
        check(backend, function(padding_mode=padding), (cotangent, image, grid))
    check(backend, to_matrix(output, padding_mode=padding), (cotangent, image, theta), rounding=400)


@pytest.mark.parametrize("turn", [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, 1, 1, 0)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_whole_pixels(backend, rng, turn, align_corners):
    """Taps of weight 0, and quarter turns, whose neighbours along x are those along y."""
    theta = np.concatenate([np.array(turn, float).reshape(2, 2), np.zeros((2, 1))], axis=1)[None].repeat(2, 0)
    cotangent, _, theta = arrays(rng, 2, (16, 16), theta)
    image = rng.standard_normal((2, 3, 16, 16)).astype(np.float32)
    grid = pystn.affine_grid(theta, (16, 16), align_corners=align_corners)
    check(backend, to_input(align_corners=align_corners), (cotangent, image, grid))


@pytest.mark.parametrize("channels", [1, 2, 5, 9])
@pytest.mark.parametrize("last", [False, True], ids=["channels-first", "channels-last"])
def test_channels(backend, rng, channels, last):
    cotangent, image, theta = arrays(rng, 2, (9, 20), matrix(rng, 2, 2, 1.0), channels, last=last)
    axis = -1 if last else 1
    for function in (to_grid, to_input):
        check(backend, function(channel_axis=axis), (cotangent, image, grid_of(theta, (9, 20))))
    check(backend, to_matrix((9, 20), channel_axis=axis), (cotangent, image, theta), rounding=400)


def test_shared_by_the_batch(backend, rng):
    theta = matrix(rng, 2, 3, 1.0)
    given = arrays(rng, 2, (9, 20), theta, batch=3, image_batch=1)
    for function in (to_grid, to_input):
        check(backend, function(), (*given[:2], grid_of(given[2], (9, 20))))
    check(backend, to_matrix((9, 20)), given, rounding=400)
    given = arrays(rng, 2, (9, 20), theta[:1], batch=3)
    for function in (to_grid, to_input):
        check(backend, function(), (*given[:2], grid_of(given[2], (9, 20))))
    check(backend, to_matrix((9, 20)), given, rounding=400)


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_16_bits(backend, rng, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    cotangent, image, theta = arrays(rng, 2, (16, 24), matrix(rng, 2, 2, 1.0))
    grid = grid_of(theta, (16, 24))
    cotangent, image = cotangent.astype(dtype), image.astype(dtype)
    for function in (to_grid, to_input):
        ours = function()(*map(backend.array, (cotangent, image, grid)))
        theirs = function()(cotangent, image, grid)
        for a, b in zip(ours, theirs, strict=True):
            a = backend.numpy(a)
            assert a.dtype == b.dtype
            a, b = a.astype(np.float64), b.astype(np.float64)
            np.testing.assert_allclose(a, b, rtol=0, atol=2 * eps_of(dtype) * abs(b).max())


def test_numbers_that_are_none(backend, rng):
    """Where the cotangent is no number so is the gradient, and nowhere else; samples that are nowhere add nothing."""
    cotangent, image, theta = arrays(rng, 2, (12, 24), matrix(rng, 2, 2, 0.8))
    grid = grid_of(theta, (12, 24))
    cotangent[0, 1, 5, 6], cotangent[1, 0, 3, 3], cotangent[1, 2, 11, 23] = np.nan, np.inf, -np.inf
    grid[0, 2, 9] = np.nan
    grid[1, 7, 8] = np.inf, 0
    grid[1, 8, 20] = 5, 5
    cotangent[0, :, 2, 9] = cotangent[1, :, 7, 8] = cotangent[1, :, 8, 20] = np.inf
    for function in (to_grid, to_input):
        ours = function()(*map(backend.array, (cotangent, image, grid)))
        theirs = function()(cotangent, image, grid)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(backend.numpy(a), b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, -1.0])
@pytest.mark.parametrize("turned", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_out_of_any_strides(backend, rng, scale, turned):
    """Offsets may be negative; what lies outside has none."""
    cotangent, image, theta = arrays(rng, 2, (24, 32), matrix(rng, 2, 2, 1.5 * scale, turn=0.02), channels=1)
    y, x = turned
    to = backend.array(np.zeros(image.shape, np.float32))[:, :, ::y, ::x]
    given = cotangent, image, grid_of(theta, (24, 32))
    pystn.grid_sample_vjp(*map(backend.array, given), wrt="input", out=(to, None))
    expected, _ = pystn.grid_sample_vjp(*given)
    np.testing.assert_allclose(backend.numpy(to), expected, rtol=0, atol=1e-5)
