"""Affine matrices taken apart: NumPy's QR decomposition, and put together again."""

import numpy as np
import pytest
from matrix_operations import theta

import pystn


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-14), (np.float32, 1e-6)])
def test_there_and_back(backend, rng, dtype, tolerance):
    matrices = rng.standard_normal((40, 2, 3)).astype(dtype)  # reflections among them
    params = backend.numpy(pystn.decompose_affine(backend.array(matrices)))
    assert params.dtype == dtype
    assert (params[:, 3] > 0).all()
    assert ((params[:, 4] < 0) == (np.linalg.det(matrices[:, :, :2]) < 0)).all()
    again = backend.numpy(pystn.affine_matrix(backend.array(params)))
    np.testing.assert_allclose(again, matrices, rtol=0, atol=8 * tolerance)
    shift, angle, scales, shear = rng.uniform(-3, 3, (4, 40, 2))
    given = np.concatenate([shift, angle[:, :1], np.abs(scales) + 0.1, shear[:, :1]], -1).astype(dtype)
    back = pystn.decompose_affine(pystn.affine_matrix(backend.array(given)))
    np.testing.assert_allclose(backend.numpy(back), given, rtol=0, atol=300 * tolerance)


def test_equals_qr(backend, rng):
    for matrix in rng.standard_normal((20, 2, 3)):
        tx, ty, angle, sx, sy, shear = backend.numpy(pystn.decompose_affine(backend.array(matrix)))
        q, r = np.linalg.qr(matrix[:, :2])
        signs = np.sign([r[0, 0], r[0, 0] * np.linalg.det(q)])  # a rotation, with its first diagonal entry positive
        q, r = q * signs, signs[:, None] * r
        np.testing.assert_allclose([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], q, atol=1e-14)
        np.testing.assert_allclose([[sx, sx * shear], [0, sy]], r, atol=1e-13)
        np.testing.assert_array_equal([tx, ty], matrix[:, 2])


def test_special_cases(backend):
    half = np.pi / 2
    for matrix, expected in (
        (np.eye(2, 3), [0, 0, 0, 1, 1, 0]),
        ([[0.0, -2, 1], [3, 0, 0]], [1, 0, half, 3, 2, 0]),
        ([[-1.0, 0, 0], [0, 1, 0]], [0, 0, np.pi, 1, -1, 0]),
        ([[1.0, 0, 0], [0, -1, 0]], [0, 0, 0, 1, -1, 0]),
        ([[1.0, 0.5, 0], [0, 1, 0]], [0, 0, 0, 1, 1, 0.5]),
    ):
        params = pystn.decompose_affine(backend.array(np.array(matrix)))
        np.testing.assert_allclose(backend.numpy(params), expected, rtol=0, atol=1e-15)


def test_derivatives_are_each_other_s_inverse(backend, rng):
    matrices, moved = theta(rng, (10,), 2, 3), rng.standard_normal((10, 2, 3))
    params = pystn.decompose_affine(backend.array(matrices))
    pushed = pystn.decompose_affine_jvp(backend.array(matrices), backend.array(moved))
    back = pystn.affine_matrix_jvp(params, pushed)
    np.testing.assert_allclose(backend.numpy(back), moved, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "matrix", [np.zeros((2, 3)), [[0.0, 1, 0], [0, 2, 0]], [[1.0, 2, 5], [2, 4, 5]]], ids=["zero", "column", "rank"]
)
def test_singular(backend, matrix):
    stack = np.stack([np.eye(2, 3), np.array(matrix)])
    with pytest.raises(ValueError, match=r"theta\[1\] is singular, expected a matrix with an inverse: got \[\["):
        pystn.decompose_affine(backend.array(stack))


def test_errors_say_what_was_expected_and_given():
    with pytest.raises(ValueError, match=r"theta must have shape \(..., 2, 3\): got \(3, 4\)"):
        pystn.decompose_affine(np.eye(3, 4))
    with pytest.raises(ValueError, match=r"params must have shape \(..., 6\): got \(5,\)"):
        pystn.affine_matrix(np.zeros(5))
