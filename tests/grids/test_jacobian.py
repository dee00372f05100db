"""The determinant of a grid's derivative, by differences."""

import re

import numpy as np
import pytest
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn

CONVENTIONS = [
    {"align_corners": False, "coords": "normalized"},
    {"align_corners": True, "coords": "normalized"},
    {"align_corners": False, "coords": "pixel"},
]
SIZES = [(5,), (2, 6), (1, 7), (3, 4, 5), (2, 1, 3), (1, 1)]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 6), (1, 7), (1, 1), (3, 4, 5), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_of_an_affine_grid_it_is_that_of_its_matrix(backend, rng, align_corners, size, dtype, tolerance):
    ndim = len(size)
    theta = rng.standard_normal((2, 3, ndim, ndim + 1)).astype(dtype)
    for a in range(ndim):  # along an axis of one pixel the grid tells nothing of the matrix
        if size[ndim - 1 - a] == 1:
            theta[..., a] = np.eye(ndim)[a]
    grid = pystn.affine_grid(backend.array(theta), size, align_corners)
    found = backend.numpy(pystn.jacobian_determinant(grid, align_corners))
    assert found.dtype == dtype
    expected = np.linalg.det(theta[..., :ndim].astype(float)).reshape(2, 3, *[1] * ndim)
    np.testing.assert_allclose(found, np.broadcast_to(expected, (2, 3, *size)), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("size", [(5,), (4, 6), (3, 4, 5)], ids=str)
def test_equals_numpy_gradient(backend, rng, size):
    grid = rng.standard_normal((2, *size, len(size)))
    columns = [np.gradient(grid, axis=-2 - a) for a in range(len(size))]
    expected = np.linalg.det(np.stack(columns, axis=-1))
    found = pystn.jacobian_determinant(backend.array(grid), coords="pixel")
    np.testing.assert_allclose(backend.numpy(found), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives(backend, rng, options, size, dtype):
    grid, d_grid = rng.standard_normal((2, 2, 3, *size, len(size))).astype(dtype)
    primal, tangent = backend.array(grid), backend.array(d_grid)
    pushed = backend.numpy(pystn.jacobian_determinant_jvp(primal, tangent, **options))
    cotangent = rng.standard_normal(pushed.shape).astype(dtype)
    (pulled,) = pystn.jacobian_determinant_vjp(backend.array(cotangent), primal, **options)
    assert_adjoint(pushed, cotangent, [backend.numpy(pulled)], [d_grid])
    assert not backend.numpy(pystn.jacobian_determinant_jvp(primal, None, **options)).any()
    if dtype == np.float64:

        def determinant(grid):
            return backend.numpy(pystn.jacobian_determinant(backend.array(grid), **options))

        assert_close(pushed, difference(determinant, [grid], [d_grid]))


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_second_derivatives(backend, rng, options, size):
    grid, along, across = rng.standard_normal((3, 2, 3, *size, len(size)))
    u = rng.standard_normal((2, 3, *size))

    def vjp(*arrays):
        return [backend.numpy(g) for g in pystn.jacobian_determinant_vjp(*map(backend.array, arrays), **options)]

    def vjp2(*arrays):
        return [backend.numpy(g) for g in pystn.jacobian_determinant_vjp2(*map(backend.array, arrays), **options)]

    assert_second_order(vjp, vjp2, u, [grid], [along], [across])


@pytest.mark.parametrize("size", [(5,), (4, 6), (3, 4, 5)], ids=str)
def test_second_derivatives_equal_those_of_torch(backend, rng, size):
    torch = pytest.importorskip("torch")
    ndim = len(size)
    grid, along = rng.standard_normal((2, 2, *size, ndim))
    u = rng.standard_normal((2, *size))
    leaf, cotangent = torch.tensor(grid, requires_grad=True), torch.tensor(u, requires_grad=True)
    columns = [torch.gradient(leaf, dim=ndim - a)[0] for a in range(ndim)]
    determinant = torch.linalg.det(torch.stack(columns, -1))
    (gradient,) = torch.autograd.grad(determinant, leaf, cotangent, create_graph=True)
    expected = torch.autograd.grad(gradient, (cotangent, leaf), torch.tensor(along), materialize_grads=True)
    arrays = (backend.array(a) for a in (along, u, grid))
    found = pystn.jacobian_determinant_vjp2(*arrays, coords="pixel")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(backend.numpy(ours), theirs.numpy(), rtol=0, atol=1e-10)  # by its inverse


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_second_derivatives_that_are_wanted(backend, rng, dtype):
    grid, gg = (backend.array(a) for a in rng.standard_normal((2, 2, 3, 4, 5, 2)).astype(dtype))
    u = backend.array(rng.standard_normal((2, 3, 4, 5)).astype(dtype))
    found = pystn.jacobian_determinant_vjp2(gg, u, grid)
    for k, name in enumerate(("grad_determinant", "grid")):
        alone = pystn.jacobian_determinant_vjp2(gg, u, grid, wrt=name)
        assert alone[1 - k] is None
        assert alone[k].dtype == dtype
        np.testing.assert_array_equal(backend.numpy(alone[k]), backend.numpy(found[k]))
    for zero, like in zip(pystn.jacobian_determinant_vjp2(None, u, grid), (u, grid), strict=True):
        assert zero.shape == like.shape
        assert zero.dtype == dtype
        assert not backend.numpy(zero).any()


def test_a_fold_is_negative_and_a_zoom_below_one(backend):
    x, y = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9))
    turned = np.stack([np.where(x > 0, -x, x), y], axis=-1)[None]
    found = backend.numpy(pystn.jacobian_determinant(backend.array(turned), True))[0]
    assert (found[:, :4] > 0).all()
    assert (found[:, 5:] < 0).all()


def test_empty_grids_and_strides(backend, rng):
    assert pystn.jacobian_determinant(backend.array(np.zeros((0, 4, 5, 2)))).shape == (0, 4, 5)
    assert pystn.jacobian_determinant(backend.array(np.zeros((2, 0, 5, 2)))).shape == (2, 0, 5)
    grid = rng.standard_normal((2, 4, 5, 2))
    expected = backend.numpy(pystn.jacobian_determinant(backend.array(grid)))
    for view in (lambda a: np.ascontiguousarray(a.T).T, lambda a: np.flip(np.flip(a).copy())):
        found = backend.numpy(pystn.jacobian_determinant(backend.array(view(grid))))
        np.testing.assert_array_equal(found, expected)


def test_errors():
    grid = np.zeros((1, 4, 5, 2))
    with pytest.raises(ValueError, match=re.escape("grid must have shape (N, ..., *size, ndim)")):
        pystn.jacobian_determinant(grid[..., 0])
    with pytest.raises(ValueError, match="no meaning with coords='pixel'"):
        pystn.jacobian_determinant(grid, True, coords="pixel")
    with pytest.raises(ValueError, match="grad_determinant must have the shape of the determinant"):
        pystn.jacobian_determinant_vjp(grid, grid)
    with pytest.raises(TypeError, match="d_grid must have the dtype of grid"):
        pystn.jacobian_determinant_jvp(grid, grid.astype(np.float32))
    with pytest.raises(ValueError, match="grad_determinant must have the shape of the determinant"):
        pystn.jacobian_determinant_vjp2(None, grid, grid)
    with pytest.raises(ValueError, match="gg_grid must have the shape of grid"):
        pystn.jacobian_determinant_vjp2(grid[..., :1], grid[..., 0], grid)
    with pytest.raises(ValueError, match="unknown entry of wrt"):
        pystn.jacobian_determinant_vjp2(None, grid[..., 0], grid, wrt="phase")
