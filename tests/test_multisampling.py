"""Linearized multi-sampling: the value of the sampler, and slopes that are fits."""

import numpy as np
import pytest
from jacobians import assert_adjoint, assert_close

import pystn
from pystn import linearized_grid_sample, linearized_grid_sample_jvp, linearized_grid_sample_vjp

SIZES = {1: (9,), 2: (8, 9), 3: (7, 8, 9)}


def fitted(image, grid, num_samples, spread, seed, **options):
    """The slopes (N, C, *shape, ndim) in pixels, by NumPy's least squares, sample by sample; grids in pixels."""
    around = np.random.default_rng(seed).standard_normal((num_samples - 1, 1, *grid.shape[1:])) * spread
    around = np.concatenate([np.zeros((1, *around.shape[1:])), around])
    values = np.stack([pystn.grid_sample(image, grid + d, coords="pixel", **options) for d in around])
    slopes = np.empty((*values.shape[1:], grid.shape[-1]))
    for n, c, *at in np.ndindex(*values.shape[1:]):
        points = around[(slice(None), 0, *at)]
        columns = np.concatenate([points, np.ones((num_samples, 1))], axis=1)
        slopes[(n, c, *at)] = np.linalg.lstsq(columns, values[(slice(None), n, c, *at)], rcond=None)[0][:-1]
    return slopes


@pytest.mark.parametrize("ndim", SIZES)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_values_are_those_of_the_sampler(ndim, mode, rng):
    image, grid = rng.random((2, 3, *SIZES[ndim])), rng.uniform(-1.2, 1.2, (2, 4, ndim))
    for dtype in (np.float32, np.float64, np.uint8):
        cast = (100 * image).astype(dtype)
        out = np.empty((2, 3, 4), dtype)
        assert linearized_grid_sample(cast, grid, mode, "border", True, seed=3, out=out) is out
        np.testing.assert_array_equal(out, pystn.grid_sample(cast, grid, mode, "border", True))
    last = np.moveaxis(image, 1, -1)
    np.testing.assert_array_equal(
        linearized_grid_sample(last, grid, mode, seed=0, channel_axis=-1),
        pystn.grid_sample(last, grid, mode, channel_axis=-1),
    )


@pytest.mark.parametrize("ndim", SIZES)
@pytest.mark.parametrize("align, coords", [(False, "normalized"), (True, "normalized"), (False, "pixel")])
def test_slopes_of_ramps_are_exact(ndim, align, coords, rng):
    size, ramp = SIZES[ndim], rng.uniform(0.5, 1.5, ndim)  # x first
    image = np.tensordot(ramp[::-1], np.indices(size), 1)[None, None]
    pixels = np.array(size[::-1])
    grid = rng.uniform(-0.3, 0.3, (2, 3, 2, ndim))
    if coords == "pixel":
        grid = (grid + 1) * pixels / 2
    unit = 1.0 if coords == "pixel" else (pixels - align) / 2
    options = {"align_corners": align, "coords": coords, "seed": 5, "spread": 0.3}
    u = rng.standard_normal((2, 1, 3, 2))
    _, found = linearized_grid_sample_vjp(u, image, grid, **options)
    np.testing.assert_allclose(found, u[:, 0, ..., None] * ramp * unit, rtol=1e-11)


@pytest.mark.parametrize("ndim", SIZES)
@pytest.mark.parametrize("channel_axis", [1, -1])
def test_slopes_are_least_squares(ndim, channel_axis, rng):
    size = SIZES[ndim]
    image, grid = rng.standard_normal((2, 2, *size)), rng.uniform(0, 7, (1, 3, ndim))
    slopes = fitted(image, grid, 6, 1.5, 9, padding_mode="mirror")
    u, d = rng.standard_normal((2, 2, 3)), rng.standard_normal(grid.shape)
    to_grid, pushed = np.einsum("ncpa,ncp->pa", slopes, u)[None], np.einsum("ncpa,pa->ncp", slopes, d[0])
    if channel_axis == -1:
        image, u, pushed = (np.moveaxis(a, 1, -1) for a in (image, u, pushed))
    options = {"seed": 9, "num_samples": 6, "spread": 1.5, "padding_mode": "mirror", "coords": "pixel"}
    options["channel_axis"] = channel_axis
    assert_close(linearized_grid_sample_vjp(u, image, grid, **options)[1], to_grid, 1e-10)
    assert_close(linearized_grid_sample_jvp(image, grid, None, d, **options), pushed, 1e-10)
    out = np.empty_like(grid)
    _, found = linearized_grid_sample_vjp(u, image, grid, wrt="grid", out=(None, out), **options)
    assert found is out
    assert_close(out, to_grid, 1e-10)


@pytest.mark.parametrize("batches", [(2, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("mode", ["linear", pystn.BSpline(3, prefilter=True)])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_derivatives_are_adjoint(batches, mode, dtype, rng):
    image = rng.standard_normal((batches[0], 2, 6, 7)).astype(dtype)
    if dtype is np.complex128:
        image = image + 1j * rng.standard_normal(image.shape)
    grid = rng.uniform(-1.1, 1.1, (batches[1], 3, 4, 2))
    options = {"mode": mode, "seed": 2, "padding_mode": "mirror"}
    d_image, d_grid = image[..., ::-1, :].copy(), rng.standard_normal(grid.shape)
    pushed = linearized_grid_sample_jvp(image, grid, d_image, d_grid, **options)
    u = pushed[:, ::-1] * 0.5 + 1
    gradients = linearized_grid_sample_vjp(u, image, grid, **options)
    np.testing.assert_array_equal(gradients[0], pystn.grid_sample_vjp(u, image, grid, mode, "mirror")[0])
    if dtype is np.complex128:  # pairs of real numbers
        pushed, u, d_image = (a.view(np.float64) for a in (pushed, u, d_image))
        gradients = gradients[0].view(np.float64), gradients[1]
    assert_adjoint(pushed, u, gradients, (d_image, d_grid))


def test_bytes_have_slopes_that_are_not_rounded(rng):
    image, grid = rng.integers(0, 9, (1, 1, 6, 7)), rng.uniform(-0.9, 0.9, (1, 4, 2))
    u = rng.standard_normal((1, 1, 4)).astype(np.float32)
    found = linearized_grid_sample_vjp(u, image.astype(np.uint8), grid, seed=0)
    exact = linearized_grid_sample_vjp(u.astype(float), image.astype(float), grid, seed=0)
    assert [g.dtype for g in found] == [np.float32, np.float64]
    for a, b in zip(found, exact, strict=True):
        assert_close(a, b, 1e-5)


def test_the_seed_says_it_all(rng):
    image, grid = rng.standard_normal((3, 1, 6, 7)), rng.uniform(-0.9, 0.9, (3, 4, 2))
    u = rng.standard_normal((3, 1, 4))
    _, found = linearized_grid_sample_vjp(u, image, grid, seed=1)
    np.testing.assert_array_equal(linearized_grid_sample_vjp(u, image, grid, seed=1)[1], found)
    assert (linearized_grid_sample_vjp(u, image, grid, seed=2)[1] != found).all()
    for n in range(3):  # whatever else is in the batch
        one = linearized_grid_sample_vjp(u[n : n + 1], image[n : n + 1], grid[n : n + 1], seed=1)[1]
        np.testing.assert_array_equal(one[0], found[n])


def test_it_sees_further_than_the_next_pixels():
    """A blob, two pixels away from points that are on a flat part of the image."""
    image = np.zeros((1, 1, 9, 9))
    image[0, 0, 3:6, 3:6] = 1.0
    corners = np.array([[[1.5, 1.5], [6.5, 1.5], [1.5, 6.5], [6.5, 6.5]]])
    u, options = np.ones((1, 1, 4)), {"coords": "pixel"}
    np.testing.assert_array_equal(pystn.grid_sample_vjp(u, image, corners, **options)[1], 0.0)
    _, uphill = linearized_grid_sample_vjp(u, image, corners, seed=0, num_samples=64, spread=2.0, **options)
    assert (uphill * (4.0 - corners) > 0).all()


def test_coordinates_without_an_effect_have_no_slope(rng):
    # One pixel, whose centre is both -1 and 1; and points that are no numbers.
    image, grid = rng.standard_normal((1, 1, 5, 1)), rng.uniform(-0.5, 0.5, (1, 4, 2))
    u = rng.standard_normal((1, 1, 4))
    _, found = linearized_grid_sample_vjp(u, image, grid, align_corners=True, seed=0)
    assert (found[..., 0] == 0).all()
    assert (found[..., 1] != 0).all()
    grid[0, 1] = np.nan
    grid[0, 2, 0] = np.inf
    _, found = linearized_grid_sample_vjp(u, image, grid, fill_value=3.0, seed=0)
    assert (found[0, 1:3] == 0).all()
    assert np.isfinite(found).all()


def test_backends_agree(backend, rng):
    image, grid = rng.standard_normal((2, 1, 6, 7)), rng.uniform(-0.9, 0.9, (1, 4, 2))
    if backend.name == "cuda":
        pytest.skip("CuPy draws other points")
    u = rng.standard_normal((2, 1, 4))
    found = linearized_grid_sample_vjp(*map(backend.array, (u, image, grid)), seed=1)
    for a, b in zip(found, linearized_grid_sample_vjp(u, image, grid, seed=1), strict=True):
        assert_close(backend.numpy(a), b, 1e-12)
    found = linearized_grid_sample_jvp(*map(backend.array, (image, grid, image, grid)), seed=1)
    assert_close(backend.numpy(found), linearized_grid_sample_jvp(image, grid, image, grid, seed=1), 1e-12)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"seed": 1.0}, TypeError, "seed must be an integer"),
        ({"seed": -1}, ValueError, "seed must be 0 or more"),
        ({"seed": 0, "num_samples": 2}, ValueError, "num_samples must be 3 or more"),
        ({"seed": 0, "spread": 0.0}, ValueError, "spread must be positive"),
        ({"seed": 0, "spread": "wide"}, TypeError, "spread must be a real number"),
    ],
)
def test_what_is_refused(options, error, message, rng):
    image, grid = rng.standard_normal((1, 1, 6, 7)), rng.uniform(-0.9, 0.9, (1, 4, 2))
    for call in (
        lambda: linearized_grid_sample(image, grid, **options),
        lambda: linearized_grid_sample_vjp(np.ones((1, 1, 4)), image, grid, **options),
        lambda: linearized_grid_sample_jvp(image, grid, image, grid, **options),
    ):
        with pytest.raises(error, match=message):
            call()
