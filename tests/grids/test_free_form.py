"""Free-form deformations: B-splines between control points, what they reproduce, where they fold."""

import itertools

import numpy as np
import pytest
from families import parameters

import pystn

CELLS = [
    ((6,), (9,), 3),
    ((4,), (5,), 1),
    ((5, 4), (6, 7), 3),
    ((3, 5), (1, 8), 2),
    ((2, 3), (5, 4), 1),
    ((4, 5, 6), (3, 4, 5), 3),
    ((3, 4, 3), (2, 1, 4), 2),
]
cells = pytest.mark.parametrize("control_shape, size, order", CELLS, ids=str)


def bspline(t, n):
    """The centred B-spline of order n, by convolution's recursion."""
    if n == 0:
        return float(-0.5 <= t < 0.5)
    half = (n + 1) / 2
    return ((half + t) * bspline(t + 0.5, n - 1) + (half - t) * bspline(t - 0.5, n - 1)) / n


def slow(theta, t, order):
    """Where one transform takes a point: the triple product, control point by control point."""
    moved = np.array(t, float)
    for at in np.ndindex(theta.shape[:-1]):
        weight = 1.0
        for axis, k in enumerate(at):
            count = theta.shape[axis]
            cell = 2 / (count - order)
            where = -1 + (k - (order - 1) / 2) * cell
            x = t[theta.ndim - 2 - axis]
            weight *= bspline(min((x - where) / cell, (order + 1) / 2 - 1e-300), order)
        moved += weight * theta[at]
    return moved


@cells
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_equals_the_product_of_splines(backend, rng, control_shape, size, order, align_corners, dtype, tolerance):
    family = pystn.FreeFormDeformation(control_shape, size, align_corners, order=order)
    theta = parameters(family, rng, (2, 2), dtype)
    grid = backend.numpy(family(backend.array(theta)))
    axes = [[(2 * j - m + 1) / max(m - align_corners, 1) for j in range(m)] for m in size]
    target = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    for at, pixel in itertools.product(np.ndindex(2, 2), np.ndindex(*size)):
        expected = slow(theta[at].astype(float), target[pixel], order)
        np.testing.assert_allclose(grid[(*at, *pixel)], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_scipy(backend, rng, order):
    interpolate = pytest.importorskip("scipy.interpolate")
    counts, size = (5, 7), (12, 11)
    family = pystn.FreeFormDeformation(counts, size, True, order=order)
    theta = parameters(family, rng, (1,))
    knots = [-1 + 2 / (count - order) * (np.arange(count + order + 1) - order) for count in counts]
    y, x = (np.linspace(-1, 1, length) for length in size)
    columns = interpolate.BSpline(knots[0], theta[0], order)(y)  # (H, control, 2)
    moved = np.stack([interpolate.BSpline(knots[1], row, order)(x) for row in columns])
    grid = backend.numpy(family(backend.array(theta)))[0]
    np.testing.assert_allclose(grid, moved + np.stack(np.meshgrid(x, y), axis=-1), atol=1e-13)


def test_equals_a_transposed_convolution_of_pytorch(backend, rng):
    """Of pixels that are a whole number to the cell, as deep learning's registration makes it."""
    torch = pytest.importorskip("torch")
    step, count = 4, 6
    family = pystn.FreeFormDeformation((count, count), ((count - 3) * step,) * 2)
    theta = parameters(family, rng, (2,))
    taps = (np.arange(4 * step) + 0.5) / step - 2
    kernel = torch.tensor([bspline(t, 3) for t in taps])
    weight = (kernel[:, None] * kernel[None])[None, None].expand(2, 1, -1, -1)
    moved = torch.nn.functional.conv_transpose2d(
        torch.tensor(theta.transpose(0, 3, 1, 2)), weight, stride=step, groups=2
    )
    inner = moved[..., 3 * step : -3 * step, 3 * step : -3 * step].numpy().transpose(0, 2, 3, 1)
    grid = backend.numpy(family(backend.array(theta)))
    lattice = backend.numpy(pystn.affine_grid(backend.array(np.eye(2, 3)[None]), family.size))
    np.testing.assert_allclose(grid, lattice + inner, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
def test_identity_is_the_affine_grid_bit_for_bit(backend, dtype, align_corners):
    for counts, size in [((4, 5), (7, 300)), ((4, 5, 4), (3, 1, 6))]:
        family = pystn.FreeFormDeformation(counts, size, align_corners)
        ndim = len(size)
        expected = pystn.affine_grid(backend.array(np.eye(ndim, ndim + 1, dtype=dtype)[None]), size, align_corners)
        grid = family(backend.array(family.identity(dtype=dtype)))
        np.testing.assert_array_equal(backend.numpy(grid), backend.numpy(expected))


@cells
def test_affine_maps_are_reproduced(backend, rng, control_shape, size, order):
    """Control points that all follow one map take every pixel along, those at the ends included."""
    ndim = len(size)
    family = pystn.FreeFormDeformation(control_shape, size, True, order=order)
    matrix, shift = rng.standard_normal((ndim, ndim)), rng.standard_normal(ndim)
    theta = family.control_points @ matrix.T + shift - family.control_points
    identity = backend.numpy(family(backend.array(family.identity())))[0]
    grid = backend.numpy(family(backend.array(theta[None])))[0]
    np.testing.assert_allclose(grid, identity @ matrix.T + shift, atol=1e-13)
    found = backend.numpy(family.jacobian_determinant(backend.array(theta[None])))
    np.testing.assert_allclose(found, np.full((1, *size), np.linalg.det(matrix)), rtol=1e-12)


@cells
def test_equals_the_linear_grid_of_its_basis(backend, rng, control_shape, size, order):
    """The dense basis is the grid's response to each control point; the lattice has an entry of its own."""
    family = pystn.FreeFormDeformation(control_shape, size, order=order)
    ndim, count = len(size), int(np.prod(control_shape))
    identity = backend.numpy(family(backend.array(family.identity())))
    theta = parameters(family, rng, (2, 3))
    bumps = np.zeros((count, *family.theta_shape))
    bumps.reshape(count, count, ndim)[..., 0] = np.eye(count)
    basis = (backend.numpy(family(backend.array(bumps))) - identity)[..., 0]
    basis = np.concatenate([basis, np.moveaxis(identity[0], -1, 0)])[None]
    weights = np.moveaxis(theta.reshape(2, 3, count, ndim), -1, -2)
    weights = np.concatenate([weights, np.broadcast_to(np.eye(ndim), (2, 3, ndim, ndim))], axis=-1)
    found = pystn.linear_grid(backend.array(weights), backend.array(basis))
    np.testing.assert_allclose(backend.numpy(found), backend.numpy(family(backend.array(theta))), atol=1e-12)


@pytest.mark.parametrize(
    "counts, order", [((6,), 3), ((5, 4), 3), ((4, 6), 2), ((3, 4, 3), 2), ((4, 5, 4), 3)], ids=str
)
def test_the_determinant_is_that_of_the_map(backend, rng, counts, order):
    """Against differences of the map between points that are not all pixels."""
    ndim, h = len(counts), 1e-6
    family = pystn.FreeFormDeformation(counts, (3, 4, 2)[:ndim], order=order)
    theta = parameters(family, rng, (2, 1))
    found = backend.numpy(family.jacobian_determinant(backend.array(theta)))
    assert found.shape == (2, 1, *family.size)
    target = backend.numpy(family(backend.array(family.identity())))[0]
    for n, pixel in itertools.product(range(2), np.ndindex(*family.size)):
        slopes = []
        for step in h * np.eye(ndim):
            ahead, behind = (slow(theta[n, 0], target[pixel] + sign * step, order) for sign in (1, -1))
            slopes.append((ahead - behind) / (2 * h))
        np.testing.assert_allclose(found[(n, 0, *pixel)], np.linalg.det(slopes), atol=1e-7)


def test_folds_are_found(backend):
    family = pystn.FreeFormDeformation((5, 5), (20, 20))
    theta = np.zeros((4, 2, *family.theta_shape))
    theta[1, 0, 2, 2] = [3.0, 0.0]  # further than the slope of the spline allows
    theta[2, 1] = -family.control_points  # all to one point
    theta[3, 0, ..., 0] = -2 * family.control_points[..., 0]  # a reflection
    theta[3, 1, 2, 2] = np.nan
    expected = [[False, False], [True, False], [False, True], [True, True]]
    np.testing.assert_array_equal(backend.numpy(family.folded(backend.array(theta))), expected)
    # Of a grid that folds the pixels of a row are no longer in order.
    grid = backend.numpy(family(backend.array(theta)))
    assert (np.diff(grid[1, 0, ..., 0], axis=1) < 0).any()
    assert (np.diff(grid[1, 1, ..., 0], axis=1) > 0).all()


def test_a_determinant_of_no_pixels(backend):
    family = pystn.FreeFormDeformation((4, 4), (0, 3))
    theta = backend.array(family.identity(2, np.float32))
    assert family.jacobian_determinant(theta).shape == (2, 0, 3)
    assert not backend.numpy(family.folded(theta)).any()


def test_control_points_reach_beyond_the_target():
    np.testing.assert_allclose(pystn.FreeFormDeformation((5,), (1,)).control_points[:, 0], [-2, -1, 0, 1, 2])
    quadratic = pystn.FreeFormDeformation((4,), (1,), order=2)
    np.testing.assert_allclose(quadratic.control_points[:, 0], [-1.5, -0.5, 0.5, 1.5])
    np.testing.assert_allclose(pystn.FreeFormDeformation((3,), (1,), order=1).control_points[:, 0], [-1, 0, 1])
    points = pystn.FreeFormDeformation((4, 5), (1, 1)).control_points
    assert points.shape == (4, 5, 2)
    np.testing.assert_array_equal(points[1, :, 0], [-2, -1, 0, 1, 2])  # x along the last axis


def test_errors_of_the_constructor():
    with pytest.raises(ValueError, match=r"control_shape must be 4 or more along every axis for order 3: got \(4, 3\)"):
        pystn.FreeFormDeformation((4, 3), (8, 8))
    with pytest.raises(ValueError, match="unknown order: expected one of 1, 2, 3, got 4"):
        pystn.FreeFormDeformation((6, 6), (8, 8), order=4)
    with pytest.raises(ValueError, match="control_shape must have 1 to 3 entries"):
        pystn.FreeFormDeformation((6,) * 4, (8,) * 4)
    with pytest.raises(ValueError, match="size must have 2 entries"):
        pystn.FreeFormDeformation((6, 6), (8,))
    with pytest.raises(ValueError, match=r"theta must have shape \(N, ..., 4, 5, 2\)"):
        pystn.FreeFormDeformation((4, 5), (8, 8)).jacobian_determinant(np.zeros((1, 5, 4, 2)))
