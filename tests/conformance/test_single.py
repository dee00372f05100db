"""float32 arithmetic is double's to a few roundings, at sizes where kernels work in tiles and windows.

Double at these sizes is the general path, which test_oracle.py holds to the equations. Bounds are
those of the sums at hand, element by element, so that a small element has to be right as well.
"""

import itertools

import numpy as np
import pytest
from conftest import PADDING_MODES, SUBGRADIENTS, away_from_kinks

import pystn

EPS = 2.0**-23
SHAPES = [((40, 50), (37, 43)), ((9, 8), (70, 66)), ((64, 64), (3, 200)), ((33, 200), (530,)), ((8, 70), (2, 9, 21))]


def normalized_points(rng, kind, shape):
    """Coordinates (*shape, 2): neighbours near each other, a whole image on few pixels, or scattered."""
    if kind == "random":
        return rng.uniform(-1.2, 1.2, (*shape, 2))
    axes = [np.linspace(-1, 1, m) for m in (shape if len(shape) > 1 else (*shape, 1))[-2:]]
    y, x = np.meshgrid(*axes, indexing="ij")
    turn = np.array([[0.9, -0.35], [0.31, 1.05]]) * (1.1 if kind == "smooth" else 0.2)
    points = (np.stack([x, y], -1) @ turn.T).reshape(*shape[-2:], 2) + np.array([0.05, -0.03])
    return np.broadcast_to(points, (*shape, 2))


def results(backend, input, grid, cotangent, d_input, d_grid, **options):
    arrays = [backend.array(a) for a in (input, grid)]
    return [
        backend.numpy(a)
        for a in (
            pystn.grid_sample(*arrays, **options),
            *pystn.grid_sample_vjp(backend.array(cotangent), *arrays, **options),
            pystn.grid_sample_jvp(*arrays, backend.array(d_input), backend.array(d_grid), **options),
        )
    ]


def problem(rng, size, grid, batch=2, channels=3):
    """Image, grid, cotangent and tangents, all of them float32 numbers."""
    grid = np.repeat(grid[None], batch, axis=0).astype(np.float32)
    input, d_input = rng.standard_normal((2, batch, channels, *size)).astype(np.float32)
    cotangent = rng.standard_normal((batch, channels, *grid.shape[1:-1])).astype(np.float32)
    return input, grid, cotangent, d_input, rng.standard_normal(grid.shape).astype(np.float32)


def assert_close(backend, arrays, position_error, roundings, **options):
    """Each result in float32 against double, within roundings * eps of its terms' sizes.

    `position_error`, in pixels, is how far float32 may put a sample from where double puts it.
    """
    single = results(backend, *arrays, **options)
    double = [a.astype(np.float64) for a in arrays]
    exact = results(backend, *double, **options)
    input, _grid, cotangent, d_input, d_grid = map(np.abs, double)
    unsigned = results(backend, input, double[1], cotangent, d_input, d_grid, **options)
    # No slope is larger than the spread of the pixels, in the units of the grid.
    n = np.array(input.shape[:1:-1], float)
    per_unit = {"pixel": np.ones(2), "normalized": n / 2}[options["coords"]]
    spread, d_spread = 2 * input.max(), 2 * d_input.max()
    move = roundings * EPS + 2 * position_error
    along = cotangent.sum(axis=1)[..., None]  # sum over channels of |g|
    by_grid = (d_grid * per_unit).sum(axis=-1)[:, None]
    counts = results(backend, input, double[1], np.ones_like(cotangent), d_input, d_grid, **options)[1]
    ones = np.ones_like(cotangent) * cotangent.max()
    touched = results(backend, input, double[1], ones, d_input, d_grid, **options)[1]
    bounds = [
        move * (unsigned[0] + spread),
        # The terms of a pixel, each with its rounding and its shift of weight; sums of many drift.
        roundings * EPS * np.sqrt(1 + counts) * unsigned[1] + 2 * position_error * (touched + cotangent.max()),
        move * along * spread * per_unit,
        move * (unsigned[0] + d_spread + by_grid * spread),
    ]
    for name, a, b, bound in zip(("value", "input", "grid", "jvp"), single, exact, bounds, strict=True):
        assert a.dtype == np.float32
        excess = np.abs(a - b) - bound
        assert (excess <= 0).all(), f"{name}: {excess.max():.2e} over {bound.flat[excess.argmax()]:.2e}"


@pytest.mark.parametrize("size, shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["smooth", "shrunk", "random"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
def test_in_pixels_nothing_is_rounded_but_the_sums(backend, rng, size, shape, kind, padding_mode):
    """float32 pixel coordinates are exact, and so are their cells: no sample changes sides of a kink."""
    grid = (normalized_points(rng, kind, shape) + 1) * np.array(size[::-1]) / 2 - 0.5
    grid = np.where(rng.random(grid.shape) < 0.1, np.rint(grid), grid)
    assert_close(backend, problem(rng, size, grid), 0.0, 3, coords="pixel", padding_mode=padding_mode)


@pytest.mark.parametrize("size, shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["smooth", "shrunk", "random"])
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_normalized(backend, rng, size, shape, kind, padding_mode, align_corners):
    """A position of up to 1.5 n pixels, found in three roundings, two more where it is reflected."""
    grid = normalized_points(rng, kind, shape)
    grid = away_from_kinks(grid, size, align_corners, "normalized", 1e-3)
    options = {"padding_mode": padding_mode, "align_corners": align_corners, "coords": "normalized"}
    assert_close(backend, problem(rng, size, grid), 3 * EPS * max(size), 3, **options)


@pytest.mark.parametrize("subgradient", SUBGRADIENTS)
@pytest.mark.parametrize("padding_mode", PADDING_MODES)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_on_the_lattice(backend, rng, subgradient, padding_mode, mode):
    """Centres and ties, near and far, are exact in both types; every rule decides them alike."""
    grid = rng.integers(-100, 160, (29, 31, 2)) / 2.0
    options = {"mode": mode, "padding_mode": padding_mode, "subgradient": subgradient, "coords": "pixel"}
    assert_close(backend, problem(rng, (16, 24), grid), 0.0, 3, **options)


@pytest.mark.parametrize("padding_mode", PADDING_MODES)
def test_nearest_of_any_width(backend, rng, padding_mode):
    """What vectors leave of a row, and of rows four at a time: the pixels that double finds, no roundings."""
    image = rng.standard_normal((2, 3, 11, 13)).astype(np.float32)
    for rows, columns in itertools.product((4, 5, 7), (1, 3, 4, 15, 16, 17, 30, 35, 48)):
        grid = rng.integers(-80, 240, (2, rows, columns, 2)) / np.float32(16) + np.float32(1 / 64)
        grid[rng.random(grid.shape) < 0.05] = np.nan
        options = {"mode": "nearest", "padding_mode": padding_mode, "coords": "pixel"}
        found, exact = (
            backend.numpy(pystn.grid_sample(backend.array(image.astype(t)), backend.array(grid.astype(t)), **options))
            for t in (np.float32, np.float64)
        )
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("batch", [(1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 33])
def test_shared_image_or_grid(backend, rng, batch, channels):
    """Equal to the repeated call, and the gradients to the sum of its gradients."""
    grid = (normalized_points(rng, "smooth", (21, 22)) + 1) * 10
    input, grid, cotangent, d_input, d_grid = problem(rng, (20, 20), grid, 2, channels)
    grid[1] += 0.3
    input, d_input, grid, d_grid = input[: batch[0]], d_input[: batch[0]], grid[: batch[1]], d_grid[: batch[1]]
    shared = results(backend, input, grid, cotangent, d_input, d_grid, coords="pixel")
    whole = [np.repeat(a, 2 // len(a), axis=0) for a in (input, grid, cotangent, d_input, d_grid)]
    repeated = results(backend, *whole, coords="pixel")
    np.testing.assert_array_equal(shared[0], repeated[0])
    np.testing.assert_array_equal(shared[3], repeated[3])
    for primal, a, b in ((input, shared[1], repeated[1]), (grid, shared[2], repeated[2])):
        assert a.shape == primal.shape
        if len(primal) == 1:
            b = b.sum(axis=0, keepdims=True, dtype=np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=16 * EPS * channels**0.5 * np.abs(b).max())
