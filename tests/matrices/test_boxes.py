"""Boxes: corners mapped one by one, and cells of a lattice counted."""

import itertools

import numpy as np
import pytest
from matrix_operations import boxes, theta

import pystn


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_box_holds_the_corners_tightly(backend, rng, ndim):
    matrices = theta(rng, (10,), ndim, ndim + 1) * rng.choice([-1, 1], (10, ndim, ndim + 1))
    found = backend.numpy(pystn.theta_to_box(backend.array(matrices)))
    for matrix, box in zip(matrices, found, strict=True):
        corners = [matrix @ [*corner, 1] for corner in itertools.product([-1, 1], repeat=ndim)]
        np.testing.assert_allclose(box, [*np.min(corners, 0), *np.max(corners, 0)], rtol=0, atol=1e-15)


def test_attention_looks_at_its_box(backend):
    params = np.array([[0.5, 0.25, -0.5], [-0.5, 0.0, 0.0]])
    found = pystn.theta_to_box(pystn.attention_matrix(backend.array(params)))
    np.testing.assert_array_equal(backend.numpy(found), [[-0.25, -1, 0.75, 0], [-0.5, -0.5, 0.5, 0.5]])


def test_slope_of_the_magnitude_of_zero_is_zero(backend):
    (grad,) = pystn.theta_to_box_vjp(backend.array(np.array([0.0, 0, 1, 0])), backend.array(np.eye(2, 3)))
    np.testing.assert_array_equal(backend.numpy(grad), [[1, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_iou_counts_cells(backend, rng, ndim):
    """Boxes with whole corners, some apart, some touching, some empty."""
    least = rng.integers(0, 5, (2, 60, ndim))
    both = np.concatenate([least, least + rng.integers(0, 5, least.shape)], -1)
    found = backend.numpy(pystn.box_iou(*(backend.array(b.astype(float)) for b in both)))
    cells = np.stack(np.meshgrid(*[np.arange(10)] * ndim, indexing="ij"), -1).reshape(-1, ndim)
    for k in range(60):
        inside = [((cells >= b[k, :ndim]) & (cells < b[k, ndim:])).all(-1) for b in both]
        shared, union = (inside[0] & inside[1]).sum(), (inside[0] | inside[1]).sum()
        np.testing.assert_allclose(found[k], shared / max(union, 1), rtol=0, atol=1e-15)
    assert 0 < (found > 0).sum() < 60


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_iou_of_a_box_with_itself_is_one(backend, rng, dtype):
    first = boxes(2)(rng, (10,))[0].astype(dtype)
    np.testing.assert_array_equal(backend.numpy(pystn.box_iou(backend.array(first), backend.array(first))), 1)
    # There a shift of one is as good as a shift of the other, and of both no shift at all.
    ones = np.ones(10, dtype)
    pulled = pystn.box_iou_vjp(*map(backend.array, (ones, first, first)))
    for gradient in map(backend.numpy, pulled):
        np.testing.assert_allclose(gradient, 0, atol=1e-6 if dtype == np.float32 else 1e-14)


def test_apart_there_is_no_slope(backend):
    first = np.array([[0.0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
    second = np.array([[2.0, 0, 3, 1], [1, 0, 2, 1], [0, 0, 0, 0], [1, 1, 0, 0]])  # apart, touching, empty, inverted
    arrays = backend.array(first), backend.array(second)
    assert not backend.numpy(pystn.box_iou(*arrays)).any()
    for gradient in pystn.box_iou_vjp(backend.array(np.ones(4)), *arrays):
        assert not backend.numpy(gradient).any()


def test_moving_towards_a_box_raises_the_iou(backend):
    """The slopes of a crop's parameters, through theta and its box."""
    params, target = np.array([[0.5, 0.3, 0.0]]), np.array([[-0.5, -0.5, 0.5, 0.5]])
    theta = pystn.attention_matrix(backend.array(params))
    box = pystn.theta_to_box(theta)
    grad_box, none = pystn.box_iou_vjp(backend.array(np.ones(1)), box, backend.array(target), wrt="first")
    (grad_theta,) = pystn.theta_to_box_vjp(grad_box, theta)
    (grad,) = map(backend.numpy, pystn.attention_matrix_vjp(grad_theta, backend.array(params)))
    assert none is None
    assert grad[0, 1] < -0.5
    np.testing.assert_allclose(grad[0, 2], 0, atol=1e-15)


def test_errors_say_what_was_expected_and_given():
    with pytest.raises(ValueError, match=r"theta must have shape \(..., ndim, ndim \+ 1\) .*: got \(3, 3\)"):
        pystn.theta_to_box(np.eye(3))
    with pytest.raises(ValueError, match=r"second must have shape \(..., 4\): got \(2,\)"):
        pystn.box_iou(np.zeros(4), np.zeros(2))
    with pytest.raises(ValueError, match=r"first must have shape \(..., 2\) or \(..., 4\) or \(..., 6\): got \(3,\)"):
        pystn.box_iou(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match=r"leading axes of first and second must broadcast"):
        pystn.box_iou(np.zeros((2, 4)), np.zeros((3, 4)))
