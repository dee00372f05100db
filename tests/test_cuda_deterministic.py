"""deterministic=True on CUDA: what is added to images is the same in every run, whatever the order of the threads."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
from conftest import BACKENDS, KERNELS, Cpu, CudaHost, coordinates, kernel_for

import pystn

SEEDS = (0, 1, 2, 3)
SIZES = {1: (9,), 2: (6, 7), 3: (4, 5, 3)}
SHAPE = (2, 3)  # batch and channels


@pytest.fixture(params=[backend for backend in BACKENDS if backend is not Cpu], ids=lambda backend: backend.name)
def backend(request):
    return request.param


def numpy_of(backend, result):
    return tuple(backend.numpy(part) for part in (result if isinstance(result, tuple) else (result,)))


def orders(backend):
    """Contexts in which threads run in another order each: on a device those of one run after the other."""
    if backend is not CudaHost:
        return [nullcontext() for _ in SEEDS]
    import cuda_host

    return [cuda_host.order(seed) for seed in SEEDS]


def runs(backend, function, arrays, **options):
    """What a function returns in each order, as tuples of NumPy arrays."""
    given = [backend.array(array) for array in arrays]
    results = []
    for order in orders(backend):
        with order:
            results.append(numpy_of(backend, function(*given, **options)))
    return results


def same(results):
    return all(a.tobytes() == b.tobytes() for result in results for a, b in zip(result, results[0], strict=True))


def eps_of(dtype):
    """That of a type, which may be complex or of ml_dtypes; of its sums where it has 16 bits."""
    name = np.dtype(dtype).name
    return {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(name) or np.finfo(dtype).eps


def check(backend, function, arrays, rounding=30, **options):
    """The same in every order, and the CPU's up to rounding; returns the first of the results."""
    results = runs(backend, function, arrays, deterministic=True, **options)
    assert same(results)
    expected = numpy_of(Cpu, function(*arrays, **options))
    for ours, theirs in zip(results[0], expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        wide = np.complex128 if ours.dtype.kind == "c" else np.float64
        bound = rounding * eps_of(ours.dtype) * max(1.0, float(abs(theirs.astype(wide)).max(initial=0)))
        np.testing.assert_allclose(ours.astype(wide), theirs.astype(wide), rtol=0, atol=bound)
    return results[0]


def problem(rng, ndim=2, dtype=np.float32, grid_dtype=None, samples=(30, 20), batch=2, image_batch=2, grid_batch=2):
    """A cotangent, an image and a grid that sends many samples to every pixel."""
    size = SIZES[ndim]

    def normal(*shape):
        values = rng.standard_normal(shape)
        if np.dtype(dtype).kind == "c":
            values = values + 1j * rng.standard_normal(shape)
        return values.astype(dtype)

    grid_dtype = grid_dtype or (np.float64 if np.dtype(dtype) in (np.float64, np.complex128) else np.float32)
    grid = coordinates(rng, (grid_batch, *samples), size, "normalized", dtype=grid_dtype)
    return normal(batch, SHAPE[1], *samples), normal(image_batch, SHAPE[1], *size), grid


def to_input(cotangent, image, grid, **options):
    return pystn.grid_sample_vjp(cotangent, image, grid, wrt="input", **options)[0]


def push(size):
    return lambda values, grid, **options: pystn.grid_push(values, grid, size, **options)


# Everything that adds to an image, and the arrays that it takes from a problem.


def second_order(cotangent, image, grid, **options):
    return pystn.grid_sample_vjp2(None, grid, cotangent, image, grid, wrt="input", **options)[1]


def matrix(rng, image, rows):
    ndim = image.ndim - 2
    theta = np.eye(rows, ndim + 1)[None] + rng.uniform(-0.1, 0.1, (len(image), rows, ndim + 1))
    theta[:, ndim:, :ndim] *= 0.1
    return theta.astype(image.dtype)


LARGE = (30, 20)
FUNCTIONS = {
    "grid_sample_vjp": lambda rng, g, u, x: (to_input, (g, u, x)),
    "grid_sample_vjp2": lambda rng, g, u, x: (second_order, (g, u, x)),
    "grid_push": lambda rng, g, u, x: (push(u.shape[2:]), (g, x)),
    "grid_push_jvp": lambda rng, g, u, x: (
        lambda g, x, **options: pystn.grid_push_jvp(g, x, g, x, u.shape[2:], **options),
        (g, x),
    ),
    "grid_push_vjp2": lambda rng, g, u, x: (
        lambda u, g, x, **options: pystn.grid_push_vjp2(g, x, u, g, x, u.shape[2:], **options),
        (u, g, x),
    ),
    "grid_count": lambda rng, g, u, x: (lambda x, **options: pystn.grid_count(x, u.shape[2:], **options), (x,)),
    "grid_count_jvp": lambda rng, g, u, x: (
        lambda x, **options: pystn.grid_count_jvp(x, x, u.shape[2:], **options),
        (x,),
    ),
    "grid_gradient_vjp": lambda rng, g, u, x: (
        lambda *arrays, **options: pystn.grid_gradient_vjp(*arrays, wrt="input", **options)[0],
        (np.stack([g, -2 * g], -1), u, x),
    ),
    "forward_warp": lambda rng, g, u, x: (
        lambda g, x, **options: pystn.forward_warp(g, x, u.shape[2:], eps=0.5, **options),
        (g, x),
    ),
    "forward_warp_vjp": lambda rng, g, u, x: (
        lambda u, g, x, **options: pystn.forward_warp_vjp(u, g, x, u.shape[2:], eps=0.5, **options),
        (u, g, x),
    ),
    "forward_warp_jvp": lambda rng, g, u, x: (
        lambda g, x, **options: pystn.forward_warp_jvp(g, x, g, x, u.shape[2:], eps=0.5, **options),
        (g, x),
    ),
    "forward_warp_vjp2": lambda rng, g, u, x: (
        lambda u, g, x, **options: pystn.forward_warp_vjp2(g, x, u, g, x, u.shape[2:], eps=0.5, **options),
        (u, g, x),
    ),
    "warp_affine_vjp": lambda rng, g, u, x: (
        lambda *arrays, **options: pystn.warp_affine_vjp(*arrays, LARGE, **options),
        (g, u, matrix(rng, u, 2)),
    ),
    "warp_affine_vjp2": lambda rng, g, u, x: (
        lambda g, u, theta, **options: pystn.warp_affine_vjp2(u, theta, g, u, theta, LARGE, **options),
        (g, u, matrix(rng, u, 2)),
    ),
    "warp_projective_vjp": lambda rng, g, u, x: (
        lambda *arrays, **options: pystn.warp_projective_vjp(*arrays, LARGE, **options),
        (g, u, matrix(rng, u, 3)),
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function(backend, rng, name):
    function, arrays = FUNCTIONS[name](rng, *problem(rng))
    check(backend, function, arrays, rounding=200)


KINDS = [pystn.Supersampling(2), pystn.MipMap(), pystn.Scaled(), pystn.Elliptical()]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("name", ["grid_sample_vjp", "warp_affine_vjp"])
def test_every_antialiasing(backend, rng, name, kind):
    function, arrays = FUNCTIONS[name](rng, *problem(rng))
    check(backend, function, arrays, rounding=500, antialias=kind)


@pytest.mark.parametrize("name", ["grid_sample_vjp", "grid_push_jvp", "grid_gradient_vjp", "warp_affine_vjp"])
@pytest.mark.skipif(CudaHost not in BACKENDS, reason="without a device's luck orders must differ")
def test_without_it_the_order_matters(rng, name):
    function, arrays = FUNCTIONS[name](rng, *problem(rng))
    assert not same(runs(CudaHost, function, arrays, padding_mode="border"))


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_projections(backend, rng, reduce):
    _, image, _ = problem(rng, ndim=3)
    cotangent = rng.standard_normal((*SHAPE, 12, 14)).astype(np.float32)

    def function(*arrays, **options):
        return pystn.warp_project_vjp(*arrays, (8, 12, 14), reduce, wrt="input", **options)[0]

    check(backend, function, (cotangent, image, matrix(rng, image, 3)))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_every_kernel(backend, rng, kernel, ndim):
    cotangent, image, grid = problem(rng, ndim, samples=(200,))
    mode, _ = kernel_for(pystn, kernel, ndim)
    for padding_mode in ("zeros", "mirror", "wrap"):
        check(backend, to_input, (cotangent, image, grid), mode=mode, padding_mode=padding_mode)
    if ndim == 2:
        function, arrays = FUNCTIONS["grid_gradient_vjp"](rng, cotangent, image, grid)
        check(backend, function, arrays, mode=mode, rounding=200)


def type_of(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="bfloat16 is a type of ml_dtypes").bfloat16)
    return np.dtype(name)


TYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


@pytest.mark.parametrize("layout", [1, -1])
@pytest.mark.parametrize("name", TYPES)
def test_every_type(backend, rng, name, layout):
    cotangent, image, grid = problem(rng, dtype=type_of(name))
    cotangent, image = (np.moveaxis(array, 1, layout).copy() for array in (cotangent, image))
    size = image.shape[2:] if layout == 1 else image.shape[1:-1]
    rounding = 2 if image.dtype.itemsize == 2 else 30
    check(backend, to_input, (cotangent, image, grid), rounding, channel_axis=layout)
    check(backend, push(size), (cotangent, grid), rounding, channel_axis=layout)


@pytest.mark.parametrize("grid_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_and_grids_of_other_types(backend, rng, dtype, grid_dtype):
    check(backend, to_input, problem(rng, dtype=dtype, grid_dtype=grid_dtype))


@pytest.mark.parametrize("batches", [(4, 1, 4), (4, 4, 1), (1, 1, 1)])
def test_shared_by_the_batch(backend, rng, batches):
    batch, image_batch, grid_batch = batches
    cotangent, image, grid = problem(rng, batch=batch, image_batch=image_batch, grid_batch=grid_batch)
    check(backend, to_input, (cotangent, image, grid))
    size = (image_batch, SHAPE[1], *image.shape[2:])
    check(backend, push(size), (cotangent, grid))


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
@pytest.mark.parametrize("layout", [1, -1])
def test_into_any_strides(backend, rng, dtype, layout):
    cotangent, image, grid = problem(rng, ndim=3, dtype=dtype)
    cotangent, image = (np.moveaxis(array, 1, layout).copy() for array in (cotangent, image))
    expected = pystn.grid_sample_vjp(cotangent, image, grid, channel_axis=layout, wrt="input")[0]
    arrays = [backend.array(array) for array in (cotangent, image, grid)]
    shape = image.shape
    outs = [
        np.zeros(shape, dtype, order="F"),
        np.zeros((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2],
        np.zeros(shape[::-1], dtype).transpose()[:, ::-1],
        np.zeros((2 * shape[0], *shape[1:]), dtype)[::2, :, ::-1],
    ]
    results = []
    for out in outs:
        to = backend.array(out)
        (given,) = pystn.grid_sample_vjp(*arrays, channel_axis=layout, wrt="input", out=(to, None), deterministic=True)[
            :1
        ]
        assert given is to
        results.append((np.ascontiguousarray(backend.numpy(to)),))
    assert same(results)
    np.testing.assert_allclose(results[0][0], expected, rtol=0, atol=100 * eps_of(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_what_is_not_finite_reaches_the_same_pixels(backend, rng, dtype, mode):
    cotangent, image, grid = problem(rng, dtype=dtype, samples=(6, 5))
    cotangent[0, 0, 1, 1], cotangent[0, 1, 2, 3], cotangent[0, 2, 4, 4] = np.nan, np.inf, -np.inf
    cotangent[1, 0, 0, 0], cotangent[1, 0, 3, 0] = np.inf, -np.inf
    grid[1, 3, 0] = grid[1, 0, 0]  # both infinities in the same pixels
    grid[:, 0, 0] = 0.1
    ours = runs(backend, to_input, (cotangent, image, grid), deterministic=True, mode=mode)
    assert same(ours)
    theirs = to_input(cotangent, image, grid, mode=mode)
    strange = ~np.isfinite(theirs)
    assert strange.any()
    assert np.isnan(theirs).any()
    np.testing.assert_array_equal(ours[0][0][strange], theirs[strange])
    np.testing.assert_allclose(ours[0][0][~strange], theirs[~strange], rtol=0, atol=30 * eps_of(dtype))


# ---- Precision, on terms that are known: those of "nearest" are the cotangents


def sums(backend, terms, pixels, count):
    """Terms added to pixels of one row, in every order."""
    grid = np.asarray(pixels, np.float64 if terms.dtype == np.float64 else np.float32).reshape(1, -1, 1)

    def function(values, grid, **options):
        return pystn.grid_push(values, grid, (count,), mode="nearest", coords="pixel", **options)

    results = runs(backend, function, (terms.reshape(1, 1, -1), grid), deterministic=True)
    assert same(results)
    return results[0][0].reshape(-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_are_exact_but_for_their_rounding(backend, rng, dtype):
    """Every pixel has its own magnitude, and every term up to 2^9 less or, in float32, 2^30."""
    count = 40
    pixels = rng.integers(0, count, 3000)
    spread = 30 if dtype == np.float32 else 5
    magnitudes = rng.permutation(
        np.linspace(-120, 115, count) if dtype == np.float32 else np.linspace(-960, 960, count)
    )
    terms = rng.standard_normal(3000) * 2.0 ** (np.rint(magnitudes[pixels]) - rng.integers(0, spread, 3000))
    terms = terms.astype(dtype)
    ours = sums(backend, terms, pixels, count)
    for pixel in range(count):
        own = [float(term) for term in terms[pixels == pixel]]
        exact, most = math.fsum(own), max(map(abs, own))
        assert abs(float(ours[pixel]) - exact) <= np.finfo(dtype).eps * abs(exact) + len(own) * 2.0**-59 * most


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", ["plus", "minus", "both"])
def test_many_of_the_largest_terms(backend, rng, dtype, sign):
    """More than 64 bits hold."""
    terms = rng.uniform(1.5, 2, 5000) * {"plus": 1, "minus": -1, "both": rng.choice([-1, 1], 5000)}[sign]
    if sign == "both":
        terms = np.sort(terms)  # far down, and back
    terms = terms.astype(dtype)
    (ours,) = sums(backend, terms, np.zeros(5000), 1)
    exact = math.fsum(terms.astype(float))
    assert abs(float(ours) - exact) <= np.finfo(dtype).eps * abs(exact) + 1e-14


def test_what_cancels(backend):
    terms = np.array([2.0**40, 1, -(2.0**40), 3e-30], np.float32)
    assert sums(backend, terms, np.zeros(4), 1) == 1
    most = np.finfo(np.float64).max
    assert sums(backend, np.array([most, most, -most]), np.zeros(3), 1) == most
    assert sums(backend, np.array([most, most]), np.zeros(2), 1) == np.inf
    most = np.finfo(np.float32).max
    assert sums(backend, np.array([most, most, -most]), np.zeros(3), 1) == most


def test_ties_are_rounded_to_even(backend):
    unit = 2.0**-58  # of terms that stay below 1
    for terms, expected in (
        ((0.5, 0.5), 0),
        ((1.5, 0.5), 2),
        ((0.5, 1.5, 2.5), 4),
        ((0.75, 1.25), 2),
        ((-0.5, -1.5), -2),
    ):
        given = np.array([0.75, *(unit * np.array(terms)), -0.75])
        assert sums(backend, given, np.zeros(len(given)), 1) == expected * unit, terms


def test_subnormal_numbers(backend):
    least = np.finfo(np.float64).smallest_subnormal
    assert sums(backend, np.array([least, 3 * least, -least]), np.zeros(3), 1) == 3 * least
    tiny = np.finfo(np.float64).tiny
    assert sums(backend, np.array([tiny, -least]), np.zeros(2), 1) == tiny - least


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_and_tiny_cotangents_side_by_side(backend, rng, dtype):
    """The unit is the pixel's: what is small is not lost beside what is large elsewhere."""
    cotangent, image, grid = problem(rng, dtype=dtype, samples=(40, 30))
    cotangent[:, :, ::2] *= dtype(1e30)
    cotangent[:, :, 1::2] *= dtype(1e-30)
    grid[:, ::2, :, 0] = -abs(grid[:, ::2, :, 0]) - 0.2  # the left half, and the right one
    grid[:, 1::2, :, 0] = abs(grid[:, 1::2, :, 0]) + 0.3
    (ours,), *others = runs(backend, to_input, (cotangent, image, grid), deterministic=True)
    assert same([(ours,), *others])
    wide = to_input(*(array.astype(np.float64) for array in (cotangent, image, grid)))
    largest = to_input(
        *(
            abs(array.astype(np.float64)) if array is cotangent else array.astype(np.float64)
            for array in (cotangent, image, grid)
        )
    )
    assert (
        (abs(ours - wide) <= 1e-5 * largest).all()
        if dtype == np.float32
        else (abs(ours - wide) <= 1e-12 * largest).all()
    )
    assert 0 < abs(ours[..., -1]).max() < 1e-28
    assert abs(ours[..., 0]).max() > 1e29


# ---- Odds and ends


@pytest.mark.parametrize(
    "batch, channels, size, samples",
    [(0, 2, (4, 3), (5,)), (2, 0, (4, 3), (5,)), (2, 2, (4, 3), (0,)), (1, 1, (1, 1), (1,))],
)
def test_empty_and_single(backend, batch, channels, size, samples):
    image, grid = np.ones((batch, channels, *size), np.float32), np.zeros((batch, *samples, 2), np.float32)
    check(backend, to_input, (np.ones((batch, channels, *samples), np.float32), image, grid))
    check(backend, push(size), (np.ones((batch, channels, *samples), np.float32), grid))


@pytest.mark.skipif(CudaHost not in BACKENDS, reason="the stand-in knows what waits")
def test_nothing_waits_for_the_device(rng):
    import cuda_host

    arrays = [CudaHost.array(array) for array in problem(rng)]
    with cuda_host.no_synchronisation():
        to_input(*arrays, deterministic=True)


def test_both_gradients_in_one_call(backend, rng):
    def function(*arrays, **options):
        return pystn.grid_sample_vjp(*arrays, **options)

    check(backend, function, problem(rng), rounding=200, mode="cubic")


def test_prefilter_and_its_transpose(backend, rng):
    arrays = problem(rng, dtype=np.float64)
    check(backend, to_input, arrays, mode=pystn.BSpline(3, prefilter=True), padding_mode="mirror")


def test_large_strides_between_samples(backend, rng):
    """The cotangent of a view, and a grid that is broadcast."""
    cotangent, image, grid = problem(rng)
    check(backend, to_input, (cotangent[:, :, ::-1, ::2], image, np.broadcast_to(grid[:1, :, ::2], (2, 30, 10, 2))))


# ---- Without deterministic=True all but what is added to images has a fixed order all the same


def gradients(function, *more, **fixed):
    """A function's gradients that are wanted alone: those to its grid, matrix or options."""
    return lambda *arrays, **options: tuple(
        part for part in function(*arrays, *more, **fixed, **options) if part is not None
    )


TABLE_KERNEL = pystn.Tabulated((0.1, 0.6, 1.0, 0.6, 0.1), 1.5)
FIXED = {
    "grid": ("grid", {}),
    "grid-cubic": ("grid", {"mode": "cubic", "padding_mode": "border"}),
    "grid-last": ("grid", {"channel_axis": -1}),
    "fill_value": ("fill_value", {"padding_mode": "constant", "fill_value": np.array([1.0, 2.0, 3.0])}),
    "kernel-cubic": ("kernel", {"mode": pystn.Cubic()}),
    "kernel-gaussian": ("kernel", {"mode": pystn.Gaussian(0.8)}),
    "kernel-tabulated": ("kernel", {"mode": TABLE_KERNEL}),
    "supersample": ("grid", {"antialias": "supersample"}),
    "mipmap": ("grid", {"antialias": "mipmap"}),
    "scaled": ("grid", {"antialias": "scaled"}),
    "ewa": ("grid", {"antialias": "ewa"}),
}


@pytest.mark.parametrize("warped", [False, True], ids=["grid_sample_vjp", "warp_affine_vjp"])
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_order_of_other_gradients_is_fixed(backend, rng, dtype, name, warped):
    wrt, options = FIXED[name]
    cotangent, image, grid = problem(rng, dtype=dtype)
    if options.get("channel_axis") == -1:
        cotangent, image = (np.moveaxis(array, 1, -1).copy() for array in (cotangent, image))
    arrays, function, more = (cotangent, image, grid), pystn.grid_sample_vjp, ()
    if warped:
        arrays, function, more = (cotangent, image, matrix(rng, image, 2)), pystn.warp_affine_vjp, (LARGE,)
        wrt = "theta" if wrt == "grid" else wrt
    found = runs(backend, gradients(function, *more, wrt=wrt), arrays, **options)
    assert all(np.abs(part).max() > 0 for part in found[0])
    assert same(found)
    if backend.name == CudaHost.name:  # where orders differ for certain: those of sums into the image show it
        assert not same(runs(backend, gradients(function, *more, wrt="input"), arrays, **options))
