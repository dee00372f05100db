"""Derivatives are derivatives: adjoint to each other, and equal to differences of the value."""

import numpy as np
import pytest
from conftest import SUBGRADIENTS, assert_same_sums, away_from_kinks, coordinates

import pystn


def case(rng, cell, size=(6, 7), shape=(4, 5)):
    input = rng.standard_normal((2, 3, *size))
    grid = away_from_kinks(
        coordinates(rng, (2, *shape), size, cell["coords"], 1.7), size, cell["align_corners"], cell["coords"]
    )
    return input, grid, rng.standard_normal((2, 3, *shape))


@pytest.mark.parametrize("subgradient", SUBGRADIENTS)
@pytest.mark.parametrize("size", [(6, 7), (1, 5), (4, 1), (1, 1)], ids=str)
def test_jvp_and_vjp_are_adjoint(backend, cell, rng, subgradient, size):
    """<J v, u> = <v, J^T u>"""
    input, grid, u = case(rng, cell, size)
    if cell["coords"] == "pixel":
        grid = np.where(rng.random(grid.shape) < 0.3, np.rint(grid), grid)
    d_input, d_grid = rng.standard_normal(input.shape), rng.standard_normal(grid.shape)
    options = {**cell, "subgradient": subgradient}
    arrays = [backend.array(a) for a in (input, grid)]
    pushed = backend.numpy(pystn.grid_sample_jvp(*arrays, backend.array(d_input), backend.array(d_grid), **options))
    pulled = [backend.numpy(g) for g in pystn.grid_sample_vjp(backend.array(u), *arrays, **options)]
    left, right = (pushed * u).sum(), (pulled[0] * d_input).sum() + (pulled[1] * d_grid).sum()
    assert abs(left - right) <= 1e-12 * max(1.0, np.abs(pushed * u).sum())


def test_a_tangent_of_none_is_zero(backend, cell, rng):
    input, grid, _ = case(rng, cell)
    d_input, d_grid = rng.standard_normal(input.shape), rng.standard_normal(grid.shape)
    arrays = [backend.array(a) for a in (input, grid)]

    def jvp(*tangents):
        tangents = [None if d is None else backend.array(d) for d in tangents]
        return backend.numpy(pystn.grid_sample_jvp(*arrays, *tangents, **cell))

    zero_input, zero_grid = np.zeros_like(input), np.zeros_like(grid)
    np.testing.assert_array_equal(jvp(d_input, None), jvp(d_input, zero_grid))
    np.testing.assert_array_equal(jvp(None, d_grid), jvp(zero_input, d_grid))
    assert not jvp(None, None).any()


def test_wrt_skips_and_changes_nothing(backend, cell, rng):
    arrays = [backend.array(a) for a in reversed(case(rng, cell))]
    arrays = [arrays[0], arrays[2], arrays[1]]
    both = pystn.grid_sample_vjp(*arrays, **cell)
    grad_input, nothing = pystn.grid_sample_vjp(*arrays, wrt="input", **cell)
    assert nothing is None
    assert_same_sums(backend, backend.numpy(grad_input), backend.numpy(both[0]))
    nothing, grad_grid = pystn.grid_sample_vjp(*arrays, wrt=("grid",), **cell)
    assert nothing is None
    np.testing.assert_array_equal(backend.numpy(grad_grid), backend.numpy(both[1]))
    assert pystn.grid_sample_vjp(*arrays, wrt=(), **cell) == (None, None)


def test_jvp_equals_central_differences(backend, cell, rng):
    input, grid, _ = case(rng, cell)
    d_input, d_grid = rng.standard_normal(input.shape), rng.standard_normal(grid.shape)
    h = 1e-6

    def value(sign):
        arrays = (input + sign * h * d_input, grid + sign * h * d_grid)
        return backend.numpy(pystn.grid_sample(*map(backend.array, arrays), **cell))

    difference = (value(1) - value(-1)) / (2 * h)
    arrays = [backend.array(a) for a in (input, grid, d_input, d_grid)]
    jvp = backend.numpy(pystn.grid_sample_jvp(*arrays, **cell))
    np.testing.assert_allclose(jvp, difference, rtol=1e-6, atol=1e-6)


def test_value_is_linear_in_the_image_and_separate_in_channels_and_batch(backend, cell, rng):
    input, grid, _ = case(rng, cell)
    other = rng.standard_normal(input.shape)

    def sample(image, points=grid):
        return backend.numpy(pystn.grid_sample(backend.array(image), backend.array(points), **cell))

    np.testing.assert_allclose(sample(2 * input - other), 2 * sample(input) - sample(other), atol=1e-13)
    for dtype in (np.float64, np.float32):
        image, points = input.astype(dtype), grid.astype(dtype)
        whole = sample(image, points)
        for n in range(2):
            np.testing.assert_array_equal(whole[n : n + 1], sample(image[n : n + 1], points[n : n + 1]))
        for c in range(3):
            np.testing.assert_array_equal(whole[:, c : c + 1], sample(image[:, c : c + 1].copy(), points))


def test_constant_image_is_constant_and_flat(backend, rng):
    """Under border and reflection: the weights sum to 1."""
    grid = rng.uniform(-3, 3, (1, 50, 2))
    image = np.full((1, 1, 5, 6), 2.5)
    for padding_mode in ("border", "reflection"):
        for align_corners in (False, True):
            options = {"padding_mode": padding_mode, "align_corners": align_corners}
            value = pystn.grid_sample(backend.array(image), backend.array(grid), **options)
            np.testing.assert_allclose(backend.numpy(value), 2.5, rtol=1e-15)
            _, slope = pystn.grid_sample_vjp(value, backend.array(image), backend.array(grid), **options)
            np.testing.assert_allclose(backend.numpy(slope), 0, atol=1e-13)
