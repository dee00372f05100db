"""Free-form deformations: their splines, where the control points lie, what they reproduce, how they fold."""

import itertools
import math

import numpy as np
import oracle
import pytest
from families import parameters
from jacobians import assert_close

import pystn


def cox_de_boor(knots, k, order, x):
    """The k-th B-spline of a knot sequence at x, by its recursion."""
    if order == 0:
        return float(knots[k] <= x < knots[k + 1])
    left = (x - knots[k]) / (knots[k + order] - knots[k])
    right = (knots[k + order + 1] - x) / (knots[k + order + 1] - knots[k + 1])
    return left * cox_de_boor(knots, k, order - 1, x) + right * cox_de_boor(knots, k + 1, order - 1, x)


def cox_de_boor_slope(knots, k, order, x):
    left = cox_de_boor(knots, k, order - 1, x) / (knots[k + order] - knots[k])
    return order * (left - cox_de_boor(knots, k + 1, order - 1, x) / (knots[k + order + 1] - knots[k + 1]))


def knots_of(controls, order):
    """Uniform, with -1 and 1 the ends of the intervals over which all splines are there."""
    return -1 + 2 / (controls - order) * np.arange(-order, controls + 1)


def spline_sums(theta, points, order, slope=None):
    """Sums over all control points of products of their splines, or of their derivatives to coordinate `slope`."""
    *control_shape, ndim = theta.shape
    axes = [knots_of(c, order) for c in control_shape[::-1]]  # x first
    sums = np.zeros((*points.shape[:-1], ndim))
    for pixel, k in itertools.product(np.ndindex(*points.shape[:-1]), np.ndindex(*control_shape)):
        product = 1.0
        for a, knots in enumerate(axes):
            function = cox_de_boor_slope if a == slope else cox_de_boor
            product *= function(knots, k[ndim - 1 - a], order, points[pixel][a])
        sums[pixel] += product * theta[k]
    return sums


CASES = [((6,), (7,)), ((4, 5), (5, 6)), ((5, 4), (1, 7)), ((4, 4, 5), (3, 4, 2))]
cases = pytest.mark.parametrize("control_shape, size", CASES, ids=str)
# No pixel is where slopes of order 1 jump, but for those at 0, which is there exactly.
SMOOTH = [((6,), (8,)), ((4, 5), (4, 8)), ((5, 4), (1, 8)), ((4, 4, 5), (4, 1, 4))]
orders = pytest.mark.parametrize("order", [1, 2, 3])


@cases
@orders
def test_equals_the_sum_over_all_control_points(backend, rng, control_shape, size, order):
    family = pystn.FreeFormDeformation(control_shape, size, order=order)
    theta = parameters(family, rng, (2,))
    target = oracle.affine_grid(np.eye(len(size), len(size) + 1)[None], size, False)[0]
    grid = backend.numpy(family(backend.array(theta)))
    for n in range(2):
        np.testing.assert_allclose(grid[n], target + spline_sums(theta[n], target, order), rtol=0, atol=1e-14)


@cases
@orders
@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_scipy(backend, rng, control_shape, size, order, align_corners):
    interpolate = pytest.importorskip("scipy.interpolate")
    family = pystn.FreeFormDeformation(control_shape, size, align_corners, order=order)
    theta = parameters(family, rng, (1,))
    target = oracle.affine_grid(np.eye(len(size), len(size) + 1)[None], size, align_corners)[0]
    spline = interpolate.NdBSpline(tuple(knots_of(c, order) for c in control_shape), theta[0], order)
    expected = target + spline(target[..., ::-1])
    np.testing.assert_allclose(backend.numpy(family(backend.array(theta)))[0], expected, rtol=0, atol=1e-14)


@cases
@orders
@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_the_linear_grid_of_its_splines(backend, rng, control_shape, size, order, align_corners):
    """Of their products as rows of a basis, and of x[, y[, z]] with parameters of 1."""
    ndim = len(size)
    family = pystn.FreeFormDeformation(control_shape, size, align_corners, order=order)
    theta = parameters(family, rng, (2, 3))
    target = oracle.affine_grid(np.eye(ndim, ndim + 1)[None], size, align_corners)[0]
    splines = np.ones((1, 1, *size))
    for axis, controls in enumerate(control_shape):
        along = np.moveaxis(target[..., ndim - 1 - axis], axis, 0).reshape(size[axis], -1)[:, 0]
        values = [[cox_de_boor(knots_of(controls, order), k, order, x) for x in along] for k in range(controls)]
        values = np.reshape(values, (controls, *[n if a == axis else 1 for a, n in enumerate(size)]))
        splines = (splines[:, :, None] * values).reshape(1, -1, *size)
    basis = np.concatenate([splines, np.moveaxis(target, -1, 0)[None]], axis=1)
    moved = theta.reshape(2, 3, -1, ndim).swapaxes(-1, -2)
    matrices = np.concatenate([moved, np.broadcast_to(np.eye(ndim), (2, 3, ndim, ndim))], axis=-1)
    found = backend.numpy(pystn.linear_grid(backend.array(matrices), backend.array(basis)))
    np.testing.assert_allclose(found, backend.numpy(family(backend.array(theta))), rtol=0, atol=1e-12)


@orders
def test_the_control_points_are_the_centres_of_their_splines(order):
    family = pystn.FreeFormDeformation((order + 1, order + 4), (2, 3), order=order)
    assert family.control_points.shape == (order + 1, order + 4, 2)
    for controls, points in ((order + 4, family.control_points[0, :, 0]), (order + 1, family.control_points[:, 0, 1])):
        knots = knots_of(controls, order)
        centres = np.array([(knots[k] + knots[k + order + 1]) / 2 for k in range(controls)])
        np.testing.assert_allclose(points, centres, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(points, -points[::-1])
    outside = {1: 0, 2: 0.5, 3: 1}[order] * 2 / 4
    assert math.isclose(family.control_points[0, -1, 0], 1 + outside)


@cases
@orders
@pytest.mark.parametrize("align_corners", [False, True])
def test_displacements_linear_in_the_control_points_make_affine_grids(
    backend, rng, control_shape, size, order, align_corners
):
    ndim = len(size)
    family = pystn.FreeFormDeformation(control_shape, size, align_corners, order=order)
    matrix = rng.standard_normal((1, ndim, ndim + 1))
    theta = family.control_points @ (matrix[0, :, :-1] - np.eye(ndim)).T + matrix[0, :, -1]
    grid = backend.numpy(family(backend.array(theta[None])))
    np.testing.assert_allclose(grid, oracle.affine_grid(matrix, size, align_corners), rtol=0, atol=1e-13)
    determinants = backend.numpy(family.jacobian_determinant(backend.array(theta[None])))
    np.testing.assert_allclose(determinants, np.full((1, *size), np.linalg.det(matrix[0, :, :-1])), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(301,), (4, 57), (3, 4, 5), (2, 0), (0, 2)], ids=str)
def test_identity_is_bitwise_the_affine_grid(backend, dtype, align_corners, size):
    family = pystn.FreeFormDeformation(5, size, align_corners)
    matrix = np.eye(len(size), len(size) + 1, dtype=dtype)[None]
    expected = backend.numpy(pystn.affine_grid(backend.array(matrix), size, align_corners))
    grid = backend.numpy(family(backend.array(family.identity(dtype=dtype))))
    np.testing.assert_array_equal(grid, expected)
    out = backend.array(np.full((*grid.shape[:-1], 2 * len(size)), np.nan, dtype))[..., ::2]  # no view as a matrix
    np.testing.assert_array_equal(backend.numpy(family(backend.array(family.identity(dtype=dtype)), out=out)), expected)


@pytest.mark.parametrize("control_shape, size", SMOOTH, ids=str)
@orders
def test_determinants_equal_those_of_the_sums(backend, rng, control_shape, size, order):
    ndim = len(size)
    family = pystn.FreeFormDeformation(control_shape, size, order=order)
    theta = parameters(family, rng, (2, 1), scale=0.4)
    target = oracle.affine_grid(np.eye(ndim, ndim + 1)[None], size, False)[0]
    found = backend.numpy(family.jacobian_determinant(backend.array(theta)))
    assert found.shape == (2, 1, *size)
    for n in range(2):
        slopes = [spline_sums(theta[n, 0], target, order, slope=a) for a in range(ndim)]
        expected = np.linalg.det(np.stack(slopes, axis=-1) + np.eye(ndim))
        np.testing.assert_allclose(found[n, 0], expected, rtol=0, atol=1e-13)
    single = backend.numpy(family.jacobian_determinant(backend.array(theta.astype(np.float32))))
    assert single.dtype == np.float32
    assert_close(single, found, 1e-5)


@pytest.mark.parametrize("size", [(2000,), (400, 500), (60, 70, 80)], ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_determinants_are_near_those_of_differences(backend, rng, size, align_corners):
    family = pystn.FreeFormDeformation(6, size, align_corners)
    theta = backend.array(parameters(family, rng, (1,)))
    by_differences = backend.numpy(pystn.jacobian_determinant(family(theta), align_corners))
    inner = (slice(None), *[slice(1, -1)] * len(size))
    exact = backend.numpy(family.jacobian_determinant(theta))
    # Central differences err by a sixth of the squared pixel times third derivatives, which are a few theta / h^3.
    assert_close(exact[inner], by_differences[inner], 20 / min(size) ** 2)


def test_folded_tells_which_transforms_fold(backend, rng):
    family = pystn.FreeFormDeformation((7, 8), (40, 50))
    theta = family.identity(6).reshape(2, 3, *family.theta_shape)
    theta[0, 1] = -2 * family.control_points * [1, 0]  # a reflection
    theta[1, 2, 3, 4, 0] = 1.0
    found = backend.numpy(family.folded(backend.array(theta)))
    np.testing.assert_array_equal(found, [[False, True, False], [False, False, True]])
    differences = pystn.jacobian_determinant(family(backend.array(theta)))
    np.testing.assert_array_equal((backend.numpy(differences) <= 0).any(axis=(-2, -1)), found)


@pytest.mark.parametrize("ndim, bound", [(1, 0.48), (2, 0.48), (3, 0.40)])
def test_displacements_within_the_bound_do_not_fold(rng, ndim, bound):
    family = pystn.FreeFormDeformation(5, (23,) * ndim)
    signs = rng.choice([-1.0, 1.0], (200 if ndim < 3 else 20, *family.theta_shape))
    assert not family.folded(bound * signs).any()  # the spacing is 1
    assert family.folded(3 * signs).any()


def test_out_may_be_contiguous(rng):
    family = pystn.FreeFormDeformation((4, 5), (30, 40))
    theta = parameters(family, rng, (3, 2))
    out = np.empty((3, 2, 30, 40, 2))
    assert family(theta, out=out) is out
    np.testing.assert_array_equal(out, family(theta))


def test_the_shape_of_the_controls_may_be_one_number():
    family = pystn.FreeFormDeformation(5, (8, 9), order=2)
    assert family.control_shape == (5, 5)
    assert family.theta_shape == (5, 5, 2)
    assert repr(family) == "FreeFormDeformation((5, 5), (8, 9), align_corners=False, order=2)"


def test_errors_of_the_constructor():
    with pytest.raises(ValueError, match=r"control_shape must be 4 or more along every axis for order 3: got \(4, 3\)"):
        pystn.FreeFormDeformation((4, 3), (8, 8))
    with pytest.raises(ValueError, match=r"control_shape must be 2 or more along every axis for order 1: got \(1,\)"):
        pystn.FreeFormDeformation((1,), (8,), order=1)
    with pytest.raises(ValueError, match="control_shape must be one value or one per spatial axis, 2: got 1"):
        pystn.FreeFormDeformation((4,), (8, 8))
    with pytest.raises(TypeError, match=r"an entry of control_shape must be an integer, got 4\.0"):
        pystn.FreeFormDeformation((4.0, 4), (8, 8))
    with pytest.raises(ValueError, match="unknown order: expected one of 1, 2, 3, got 4"):
        pystn.FreeFormDeformation((8, 8), (8, 8), order=4)
    with pytest.raises(TypeError, match="unknown order"):
        pystn.FreeFormDeformation((8, 8), (8, 8), order=True)
    with pytest.raises(ValueError, match=r"size must have 1 to 3 entries \(spatial\)"):
        pystn.FreeFormDeformation(4, (1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"theta must have shape \(N, ..., 4, 4, 2\)"):
        pystn.FreeFormDeformation(4, (8, 8)).folded(np.zeros((4, 4, 2)))


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
