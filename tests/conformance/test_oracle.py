"""Values and derivatives equal the oracle in every cell of the options, to rounding."""

import numpy as np
import oracle
import pytest
from conftest import SUBGRADIENTS, coordinates

import pystn

SIZES = [(5, 7), (1, 6), (6, 1), (1, 1), (9, 12)]
TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}


def case(rng, size, dtype, coords, batch=(2, 2), channels=3, shape=(4, 5), reach=1.6):
    """Input, grid and cotangent, first-channel layout."""
    input = rng.standard_normal((batch[0], channels, *size)).astype(dtype)
    grid = coordinates(rng, (batch[1], *shape), size, coords, reach, dtype)
    cotangent = rng.standard_normal((max(batch), channels, *shape)).astype(dtype)
    return input, grid, cotangent


def near(actual, expected, dtype):
    scale = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_value_and_gradients(backend, cell, rng, size, dtype):
    input, grid, cotangent = case(rng, size, dtype, cell["coords"])
    # In float32, positions within rounding of a kink or a tie belong to either side.
    grid = settled(grid, size, cell) if dtype == np.float32 else grid
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    value = backend.numpy(pystn.grid_sample(*arrays[1:], **cell))
    grad_input, grad_grid = map(backend.numpy, pystn.grid_sample_vjp(*arrays, **cell))
    epsilon = np.finfo(dtype).eps
    near(value, oracle.grid_sample(input, grid, **cell), dtype)
    expected = oracle.grid_sample_vjp(cotangent, input, grid, epsilon=epsilon, **cell)
    near(grad_input, expected[0], dtype)
    near(grad_grid, expected[1], dtype)
    assert value.dtype == grad_input.dtype == grad_grid.dtype == dtype


def settled(grid, size, cell):
    """The grid without the coordinates that float32 and float64 may put into different cells."""
    from conftest import away_from_kinks

    return away_from_kinks(grid, size, cell["align_corners"], cell["coords"]).astype(np.float32)


@pytest.mark.parametrize("subgradient", SUBGRADIENTS)
@pytest.mark.parametrize("layout", [1, -1])
def test_derivatives_on_the_lattice(backend, cell, rng, subgradient, layout):
    """Half of the coordinates are pixel centres, where the kinks are, near and far; all hit exactly."""
    # Sizes for which the coordinates of centres are binary fractions, so that no rounding moves them.
    size = (9, 5) if cell["align_corners"] else (8, 4)
    input, grid, cotangent = case(rng, size, np.float64, "pixel", shape=(9, 8), reach=2.5)
    on_lattice = rng.random(grid.shape) < 0.5
    grid = np.where(on_lattice, np.rint(grid), grid)
    if cell["coords"] == "normalized":
        n = np.array(size[::-1], float)
        grid = 2 * grid / (n - 1) - 1 if cell["align_corners"] else (2 * grid + 1) / n - 1
    d_input, d_grid = rng.standard_normal(input.shape), rng.standard_normal(grid.shape)
    options = {**cell, "subgradient": subgradient}
    expected = oracle.grid_sample_vjp(cotangent, input, grid, **options)
    tangent = oracle.grid_sample_jvp(input, grid, d_input, d_grid, **options)

    def move(a):
        return np.moveaxis(a, 1, -1) if layout == -1 else a

    inputs = [backend.array(move(a)) for a in (cotangent, input)]
    gradients = pystn.grid_sample_vjp(*inputs, backend.array(grid), channel_axis=layout, **options)
    near(backend.numpy(gradients[0]), move(expected[0]), np.float64)
    near(backend.numpy(gradients[1]), expected[1], np.float64)
    primals = [backend.array(a) for a in (move(input), grid, move(d_input), d_grid)]
    near(backend.numpy(pystn.grid_sample_jvp(*primals, channel_axis=layout, **options)), move(tangent), np.float64)


@pytest.mark.parametrize("batch", [(1, 3), (3, 1), (1, 1), (0, 1), (1, 0)], ids=str)
def test_shared_image_or_grid(backend, rng, batch):
    """A batch of 1 is read by all of the other and receives the sum of their gradients."""
    input, grid, _ = case(rng, (5, 6), np.float64, "normalized", batch)
    n = batch[1] if batch[0] == 1 else batch[0]
    cotangent = rng.standard_normal((n, 3, 4, 5))
    d_input, d_grid = rng.standard_normal(input.shape), rng.standard_normal(grid.shape)
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    value = backend.numpy(pystn.grid_sample(*arrays[1:]))
    gradients = [backend.numpy(g) for g in pystn.grid_sample_vjp(*arrays)]
    tangent = backend.numpy(pystn.grid_sample_jvp(*arrays[1:], backend.array(d_input), backend.array(d_grid)))
    assert value.shape == cotangent.shape
    assert tangent.shape == cotangent.shape
    if n:
        near(value, oracle.grid_sample(input, grid), np.float64)
        near(tangent, oracle.grid_sample_jvp(input, grid, d_input, d_grid), np.float64)
        expected = oracle.grid_sample_vjp(cotangent, input, grid)
    else:
        expected = np.zeros(input.shape), np.zeros(grid.shape)
    for actual, wanted in zip(gradients, expected, strict=True):
        near(actual, wanted, np.float64)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 4), (2, 1, 3, 2, 2)], ids=str)
def test_grids_of_any_rank(backend, rng, shape):
    input, grid, cotangent = case(rng, (5, 6), np.float64, "normalized", shape=shape)
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    value = backend.numpy(pystn.grid_sample(*arrays[1:]))
    assert value.shape == (2, 3, *shape)
    near(value, oracle.grid_sample(input, grid), np.float64)
    for actual, expected in zip(
        pystn.grid_sample_vjp(*arrays), oracle.grid_sample_vjp(cotangent, input, grid), strict=True
    ):
        near(backend.numpy(actual), expected, np.float64)


@pytest.mark.parametrize("image, coordinate", [(np.float32, np.float64), (np.float64, np.float32)])
def test_mixed_precision(backend, cell, rng, image, coordinate):
    """Positions are double if either is, sums if the image is; results have the dtype of what they belong to."""
    input, grid, cotangent = case(rng, (5, 6), np.float64, cell["coords"])
    input, cotangent, grid = input.astype(image), cotangent.astype(image), grid.astype(coordinate)
    arrays = [backend.array(a) for a in (cotangent, input, grid)]
    value = backend.numpy(pystn.grid_sample(*arrays[1:], **cell))
    gradients = [backend.numpy(g) for g in pystn.grid_sample_vjp(*arrays, **cell)]
    assert (value.dtype, gradients[0].dtype, gradients[1].dtype) == (image, image, coordinate)
    near(value, oracle.grid_sample(input, grid, **cell), np.float32 if image == np.float32 else np.float64)
    expected = oracle.grid_sample_vjp(cotangent, input, grid, **cell)
    near(gradients[0], expected[0], np.float32 if image == np.float32 else np.float64)
    near(gradients[1], expected[1], np.float32)
