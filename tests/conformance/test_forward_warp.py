"""Forward warping: push / (count + eps) of the oracle, and its derivatives."""

import numpy as np
import oracle
import pytest
from conftest import away_from_kinks, coordinates

import pystn

EPS = 1e-2  # large enough for the quotient to be tame where little arrives
# Kernels of no negative weight: the count of others passes through -eps, where the quotient has poles.
MODES = {"linear": "linear", "bspline3": ("bspline", 3), "gaussian": ("gaussian", 0.8, 4.0)}
OURS = {"linear": "linear", "bspline3": pystn.BSpline(3), "gaussian": pystn.Gaussian(0.8)}
BATCHES = [(2, 2), (1, 2), (2, 1)]


def case(rng, size, batch, dtype=np.float64):
    shape = (3, 4)
    grid = away_from_kinks(coordinates(rng, (batch[1], *shape), size, "normalized", 1.2), size, False, "normalized")
    values = rng.standard_normal((batch[0], 2, *shape))
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.standard_normal(values.shape)
    return values.astype(dtype), grid


def expected(values, grid, size, mode, padding_mode):
    options = {"mode": MODES[mode], "padding_mode": padding_mode}
    return oracle.grid_push(values, grid, size, **options) / (oracle.grid_count(grid, size, **options) + EPS)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "mirror", "wrap"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(7,), (5, 6), (4, 3, 5)], ids=str)
def test_value_and_derivatives(backend, rng, size, mode, padding_mode, batch, axis):
    """The oracle's quotient; the dot test; differences of the value along random directions."""
    values, grid = case(rng, size, batch)
    d_values, d_grid = rng.standard_normal(values.shape), rng.standard_normal(grid.shape)
    wanted = expected(values, grid, size, mode, padding_mode)
    cotangent = rng.standard_normal(wanted.shape)
    options = {"mode": OURS[mode], "padding_mode": padding_mode, "channel_axis": axis, "eps": EPS}

    def moved(a):
        return backend.array(np.ascontiguousarray(np.moveaxis(a, 1, axis)))

    value = pystn.forward_warp(moved(values), backend.array(grid), size, **options)
    np.testing.assert_allclose(np.moveaxis(backend.numpy(value), axis, 1), wanted, rtol=0, atol=1e-10)
    arrays = (moved(values), backend.array(grid), size)
    pushed = pystn.forward_warp_jvp(*arrays[:2], moved(d_values), backend.array(d_grid), size, **options)
    pushed = np.moveaxis(backend.numpy(pushed), axis, 1)
    grad_values, grad_grid = pystn.forward_warp_vjp(moved(cotangent), *arrays, **options)
    grad_values, grad_grid = np.moveaxis(backend.numpy(grad_values), axis, 1), backend.numpy(grad_grid)
    left = (pushed * cotangent).sum()
    right = (grad_values * d_values).sum() + (grad_grid * d_grid).sum()
    assert abs(left - right) <= 1e-10 * max(1, np.abs(pushed * cotangent).sum())
    h = 1e-6
    ahead, behind = (expected(values + s * d_values, grid + s * d_grid, size, mode, padding_mode) for s in (h, -h))
    slope = (ahead - behind) / (2 * h)
    np.testing.assert_allclose(pushed, slope, rtol=0, atol=1e-5 * max(1, np.abs(slope).max()))


@pytest.mark.parametrize("wrt", ["values", "grid"])
def test_what_is_not_asked_for_is_none(backend, rng, wrt):
    values, grid = map(backend.array, case(rng, (5, 6), (2, 2)))
    value = pystn.forward_warp(values, grid, (5, 6))
    options = {"deterministic": True}  # or quotients of little hang on the order of their sums
    both = pystn.forward_warp_vjp(value, values, grid, (5, 6), **options)
    one = pystn.forward_warp_vjp(value, values, grid, (5, 6), wrt=wrt, **options)
    asked = ("values", "grid").index(wrt)
    assert one[1 - asked] is None
    np.testing.assert_array_equal(backend.numpy(one[asked]), backend.numpy(both[asked]))


def test_complex_values_are_two_real_ones(backend, rng):
    values, grid = case(rng, (5, 6), (2, 2), np.complex128)
    value = pystn.forward_warp(backend.array(values), backend.array(grid), (5, 6))
    cotangent = backend.array(backend.numpy(value) * 1j)
    gradients = pystn.forward_warp_vjp(cotangent, backend.array(values), backend.array(grid), (5, 6))
    parts = []
    for part in (np.real, np.imag):
        alone, g = (backend.array(np.ascontiguousarray(part(a))) for a in (values, backend.numpy(cotangent)))
        whole = pystn.forward_warp(alone, backend.array(grid), (5, 6))
        np.testing.assert_allclose(backend.numpy(whole), part(backend.numpy(value)), rtol=1e-14)
        parts.append([backend.numpy(a) for a in pystn.forward_warp_vjp(g, alone, backend.array(grid), (5, 6))])
    scale = np.abs(parts[0][1]).max()
    np.testing.assert_allclose(backend.numpy(gradients[0]), parts[0][0] + 1j * parts[1][0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(backend.numpy(gradients[1]), parts[0][1] + parts[1][1], rtol=0, atol=1e-11 * scale)


def test_a_mean_where_values_arrive_and_zero_in_the_holes(backend):
    """Twofold enlargement leaves holes; two values on one pixel make their mean."""
    values = backend.array(np.array([[[1.0, 3.0, 5.0, 9.0]]]))
    grid = backend.array(np.array([[[0.0], [2.0], [4.0], [4.0]]]))
    value = backend.numpy(pystn.forward_warp(values, grid, (5,), coords="pixel", eps=1e-12))
    np.testing.assert_allclose(value, [[[1, 0, 3, 0, 7]]], rtol=1e-11)
