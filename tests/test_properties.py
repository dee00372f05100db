"""Whatever the shapes, strides, types and numbers: the oracle's answer, and no harm done."""

import numpy as np
import oracle
from conftest import CELLS, SUBGRADIENTS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pystn

# The same examples at every run: a failure is then of the change at hand.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

ordinary = st.floats(-4, 4)
anything = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from(
    [-1.0, 1.0, 0.0, 0.5, 1e300, -1e300, 5e-324]
)
floats = st.sampled_from([np.float32, np.float64])


@st.composite
def strided(draw, shape, elements, dtype):
    """An array of a shape, with memory in any order, direction and step."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in shape]
    stored = [max(shape[a] * abs(steps[a]), 1) if shape[a] else 0 for a in order]
    memory = np.zeros(stored, dtype)
    view = memory.transpose(np.argsort(order))
    view = view[tuple(slice(None, None, step) for step in steps)]
    view = view[tuple(slice(0, n) for n in shape)]
    with np.errstate(over="ignore"):
        view[...] = draw(hnp.arrays(np.float64, shape, elements=elements)).astype(dtype)
    return view


@st.composite
def problems(draw, coordinates, image=floats, grid=floats):
    batch = draw(st.integers(1, 3))
    shared = draw(st.sampled_from(["none", "image", "grid"]))
    channels, height, width = draw(st.integers(0, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    image_dtype, grid_dtype = draw(image), draw(grid)
    options = dict(draw(st.sampled_from(CELLS)), subgradient=draw(st.sampled_from(SUBGRADIENTS)))
    layout = draw(st.sampled_from([1, -1]))
    n_image, n_grid = 1 if shared == "image" else batch, 1 if shared == "grid" else batch

    def laid_out(n, middle):
        return (n, channels, *middle) if layout == 1 else (n, *middle, channels)

    return (
        draw(strided(laid_out(n_image, (height, width)), ordinary, image_dtype)),
        draw(strided((n_grid, *shape, 2), coordinates, grid_dtype)),
        draw(strided(laid_out(batch, shape), ordinary, image_dtype)),
        layout,
        options,
    )


def channels_first(a, layout):
    return np.moveaxis(a, layout, 1)


@settings(max_examples=150)
@given(problems(ordinary, image=st.just(np.float64)))
def test_equals_the_oracle(problem):
    image, grid, cotangent, layout, options = problem
    first = channels_first(image, layout)
    value = channels_first(pystn.grid_sample(image, grid, channel_axis=layout, **options), layout)
    np.testing.assert_allclose(value, oracle.grid_sample(first, grid, **options), rtol=0, atol=1e-11)
    gradients = pystn.grid_sample_vjp(cotangent, image, grid, channel_axis=layout, **options)
    expected = oracle.grid_sample_vjp(channels_first(cotangent, layout), first, grid, **options)
    np.testing.assert_allclose(channels_first(gradients[0], layout), expected[0], rtol=0, atol=1e-10)
    tolerance = 1e-10 if grid.dtype == np.float64 else 1e-4
    np.testing.assert_allclose(gradients[1], expected[1], rtol=tolerance, atol=tolerance)


@settings(max_examples=150)
@given(problems(anything))
def test_any_coordinates_give_finite_results(problem):
    """Values within the image's range, gradients finite, jvp and vjp adjoint."""
    image, grid, cotangent, layout, options = problem
    value = pystn.grid_sample(image, grid, channel_axis=layout, **options)
    assert np.isfinite(value).all()
    largest = np.abs(image).max(initial=0)
    assert np.abs(value).max(initial=0) <= largest * (1 + 1e-5)
    grad_image, grad_grid = pystn.grid_sample_vjp(cotangent, image, grid, channel_axis=layout, **options)
    assert np.isfinite(grad_image).all()
    assert np.isfinite(grad_grid).all()
    tangents = np.ones_like(image), np.ones_like(grid)
    pushed = pystn.grid_sample_jvp(image, grid, *tangents, channel_axis=layout, **options)
    terms = (pushed * cotangent).astype(np.float64)
    left, right = terms.sum(), grad_image.astype(np.float64).sum() + grad_grid.astype(np.float64).sum()
    single = np.float32 in (image.dtype, grid.dtype)
    scale = 1 + np.abs(grad_image).sum(dtype=float) + np.abs(grad_grid).sum(dtype=float) + np.abs(terms).sum()
    assert abs(left - right) <= (1e-4 if single else 1e-11) * scale


@settings(max_examples=60)
@given(st.data(), st.sampled_from([2, 3]), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.booleans(), floats)
def test_affine_grid_equals_the_oracle(data, ndim, leading, align_corners, dtype):
    size = tuple(data.draw(st.lists(st.integers(0, 20), min_size=ndim, max_size=ndim)))
    theta = data.draw(strided((*leading, ndim, ndim + 1), ordinary, dtype))
    cotangent = data.draw(strided((*leading, *size, ndim), ordinary, dtype))
    assume(cotangent.size < 5000)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    grid = pystn.affine_grid(theta, size, align_corners)
    np.testing.assert_allclose(grid, oracle.affine_grid(theta, size, align_corners), rtol=0, atol=20 * tolerance)
    (grad,) = pystn.affine_grid_vjp(cotangent, theta, size, align_corners)
    expected = oracle.affine_grid_vjp(cotangent, theta, size, align_corners)
    np.testing.assert_allclose(grad, expected, rtol=tolerance, atol=tolerance * 100)


@st.composite
def warps(draw):
    """float32 images large enough for tiles, and pixel coordinates: smooth, scattered, or on the lattice."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(8, 20)), draw(st.integers(8, 20))
    shape = tuple(draw(st.lists(st.integers(1, 21), min_size=1, max_size=2)))
    batch, channels = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["smooth", "scattered", "lattice"]))
    if kind == "smooth":
        steps = np.stack(np.meshgrid(*map(np.arange, (*shape, 1)[:2]), indexing="ij"), -1).reshape(*shape, 2)
        grid = steps @ rng.normal(0, 0.7, (2, 2)) + rng.uniform(-5, 25, 2)
    else:
        grid = rng.uniform(-30, 50, (*shape, 2))
    if kind == "lattice":
        grid = np.rint(2 * grid) / 2
    spoiled = rng.random(grid.shape) < draw(st.sampled_from([0, 0, 0.1]))
    grid[spoiled] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0], spoiled.sum())
    grid = np.repeat(grid[None], batch, axis=0).astype(np.float32)
    image = rng.standard_normal((batch, channels, *size)).astype(np.float32)
    cotangent = rng.standard_normal((batch, channels, *shape)).astype(np.float32)
    if draw(st.booleans()):  # rows and channels in the other order, as views of larger arrays
        image = np.pad(image, ((0, 0), (0, 0), (0, 0), (3, 2)))[..., 3:-2][:, ::-1, ::-1]
        grid = np.pad(grid, [(0, 0)] * (grid.ndim - 1) + [(1, 0)])[..., 1:]
    options = {
        "padding_mode": draw(st.sampled_from(["zeros", "border"])),  # under which float32 positions are exact
        "subgradient": draw(st.sampled_from(SUBGRADIENTS)),
        "mode": draw(st.sampled_from(["linear", "linear", "nearest"])),
        "coords": "pixel",
    }
    return image, grid, cotangent, options


@settings(max_examples=150)
@given(warps())
def test_float32_equals_the_oracle_to_a_few_roundings(problem):
    image, grid, cotangent, options = problem
    eps = np.finfo(np.float32).eps
    value = pystn.grid_sample(image, grid, **options)
    grad_image, grad_grid = pystn.grid_sample_vjp(cotangent, image, grid, **options)
    weights = abs(image), abs(cotangent)
    bound = 4 * eps * oracle.grid_sample(weights[0], grid, **options)
    assert (np.abs(value - oracle.grid_sample(image, grid, **options)) <= bound).all()
    expected = oracle.grid_sample_vjp(cotangent, image, grid, epsilon=eps, **options)
    terms = np.maximum(1, oracle.grid_sample_vjp(np.ones_like(cotangent), image, grid, **options)[0])
    bound = 4 * eps * np.sqrt(terms) * oracle.grid_sample_vjp(weights[1], image, grid, **options)[0]
    assert (np.abs(grad_image - expected[0]) <= bound + 1e-38).all()
    bound = 8 * eps * 2 * np.abs(image).max() * weights[1].sum(axis=1)[..., None]
    assert (np.abs(grad_grid - expected[1]) <= bound).all()
