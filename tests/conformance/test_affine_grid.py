"""The affine grid: its equation, its derivatives, its lattice."""

import numpy as np
import oracle
import pytest

import pystn

SIZES = [(4, 5), (1, 7), (7, 1), (1, 1), (300, 9), (3, 700), (3, 4, 5), (1, 2, 300), (30, 1, 9)]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("leading", [(1,), (3,), (2, 3), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_equals_the_oracle(backend, rng, align_corners, size, leading, dtype, tolerance):
    ndim = len(size)
    theta = rng.standard_normal((*leading, ndim, ndim + 1)).astype(dtype)
    cotangent = rng.standard_normal((*leading, *size, ndim)).astype(dtype)
    grid = backend.numpy(pystn.affine_grid(backend.array(theta), size, align_corners))
    (grad,) = pystn.affine_grid_vjp(backend.array(cotangent), backend.array(theta), size, align_corners)
    assert grid.dtype == backend.numpy(grad).dtype == dtype
    np.testing.assert_allclose(grid, oracle.affine_grid(theta, size, align_corners), rtol=0, atol=8 * tolerance)
    expected = oracle.affine_grid_vjp(cotangent, theta, size, align_corners)
    np.testing.assert_allclose(backend.numpy(grad), expected, rtol=tolerance, atol=tolerance * np.prod(size) ** 0.5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity_is_the_lattice_bit_for_bit(backend, align_corners, size, dtype):
    """And the lattice is symmetric, with the middle of an odd axis at exactly 0."""
    ndim = len(size)
    theta = np.eye(ndim, ndim + 1, dtype=dtype)[None]
    grid = backend.numpy(pystn.affine_grid(backend.array(theta), size, align_corners))[0]
    for axis in range(ndim):
        m = size[ndim - 1 - axis]
        j = np.arange(m)
        if align_corners:
            expected = (2 * j - (m - 1)).astype(dtype) / dtype(m - 1) if m > 1 else np.zeros(1, dtype)
        else:
            expected = (2 * j + 1 - m).astype(dtype) / dtype(m)
        along = np.moveaxis(grid[..., axis], ndim - 1 - axis, -1)
        np.testing.assert_array_equal(along, np.broadcast_to(expected, along.shape))
        np.testing.assert_array_equal(expected, -expected[::-1])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_jvp_and_vjp_are_adjoint(backend, rng, size, align_corners):
    ndim = len(size)
    theta, d_theta = rng.standard_normal((2, 2, 3, ndim, ndim + 1))
    u = rng.standard_normal((2, 3, *size, ndim))
    arrays = [backend.array(a) for a in (theta, d_theta, u)]
    pushed = backend.numpy(pystn.affine_grid_jvp(*arrays[:2], size, align_corners))
    (pulled,) = pystn.affine_grid_vjp(arrays[2], arrays[0], size, align_corners)
    left, right = (pushed * u).sum(), (backend.numpy(pulled) * d_theta).sum()
    assert abs(left - right) <= 1e-12 * max(1.0, np.abs(pushed * u).sum())
    # Linear in theta: the tangent is the difference of grids, exactly up to rounding.
    moved = pystn.affine_grid(backend.array(theta + d_theta), size, align_corners)
    base = pystn.affine_grid(arrays[0], size, align_corners)
    np.testing.assert_allclose(backend.numpy(moved) - backend.numpy(base), pushed, atol=1e-13)
    assert not backend.numpy(pystn.affine_grid_jvp(arrays[0], None, size, align_corners)).any()


def test_sums_run_in_double(backend, rng):
    """The gradient of a large float32 grid is right to float32's last digits, not to its sums'."""
    cotangent = (rng.standard_normal((1, 700, 900, 2)) + 1).astype(np.float32)
    theta = np.zeros((1, 2, 3), np.float32)
    (grad,) = pystn.affine_grid_vjp(backend.array(cotangent), backend.array(theta), (700, 900))
    expected = oracle.affine_grid_vjp(cotangent, theta, (700, 900), False)
    scale = np.abs(cotangent).astype(np.float64).sum()
    np.testing.assert_allclose(backend.numpy(grad), expected, rtol=1e-6, atol=1e-8 * scale)


def test_size_may_be_the_full_one(backend, rng):
    theta = backend.array(rng.standard_normal((2, 2, 3)))
    spatial = pystn.affine_grid(theta, (4, 5))
    np.testing.assert_array_equal(spatial, pystn.affine_grid(theta, (2, 7, 4, 5)))
    np.testing.assert_array_equal(spatial, pystn.affine_grid(theta, np.array([4, 5])))


@pytest.mark.parametrize("leading", [(2, 3), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("size", [(4, 5), (0, 5), (4, 0)], ids=str)
def test_strides_out_and_empty(backend, rng, leading, size):
    theta = rng.standard_normal((*leading, 2, 3))
    cotangent = rng.standard_normal((*leading, *size, 2))
    expected = oracle.affine_grid(theta, size, False)
    gradient = oracle.affine_grid_vjp(cotangent, theta, size, False)
    for view in (np.asarray, lambda a: np.flip(np.flip(a).copy()), lambda a: np.ascontiguousarray(a.T).T):
        np.testing.assert_allclose(backend.numpy(pystn.affine_grid(backend.array(view(theta)), size)), expected)
        out = backend.array(view(np.full(expected.shape, np.nan)))
        assert pystn.affine_grid(backend.array(theta), size, out=out) is out
        np.testing.assert_allclose(backend.numpy(out), expected)
        grad_out = backend.array(view(np.full(theta.shape, np.nan)))
        (grad,) = pystn.affine_grid_vjp(
            backend.array(view(cotangent)), backend.array(view(theta)), size, out=(grad_out,)
        )
        assert grad is grad_out
        np.testing.assert_allclose(backend.numpy(grad), gradient, atol=1e-12)
