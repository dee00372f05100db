"""Homographies from points: OpenCV's, PyTorch's gradients of the linear system, degenerate points."""

import numpy as np
import pytest
from matrix_operations import points

import pystn

SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def mapped(theta, points):
    q = np.einsum("...ij,...kj->...ki", theta, np.concatenate([points, np.ones((*points.shape[:-1], 1))], -1))
    return q[..., :2] / q[..., 2:]


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_points_go_where_they_should(backend, rng, dtype, tolerance):
    source, target = (p.astype(dtype) for p in points(rng, (20, 2)))
    theta = backend.numpy(pystn.homography_from_points(backend.array(source), backend.array(target)))
    assert theta.dtype == dtype
    np.testing.assert_array_equal(theta[..., 2, 2], 1)
    np.testing.assert_allclose(mapped(theta, source), target, rtol=0, atol=tolerance)


@pytest.mark.parametrize("reach, offset", [(1.0, 0.0), (400.0, 500.0), (10.0, 3000.0)])
def test_equals_opencv(backend, rng, reach, offset):
    """In normalized coordinates and in pixels; of few digits, for OpenCV has their products in float32."""
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV")
    for _ in range(20):
        source, target = (
            (np.rint(64 * p) / 64 if offset == 0 else np.rint(reach * p + offset)).astype(np.float32)
            for p in points(rng, ())
        )
        expected = cv2.getPerspectiveTransform(source, target)
        theta = backend.numpy(
            pystn.homography_from_points(backend.array(source.astype(float)), backend.array(target.astype(float)))
        )
        # Of what is far from the origin OpenCV's linear system knows less.
        tolerance = 1e-12 * max(1.0, offset / reach) ** 4
        np.testing.assert_allclose(theta, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
        np.testing.assert_allclose(mapped(theta, source.astype(float)), target, rtol=1e-10)


def test_gradients_equal_pytorch(backend, rng):
    """Of the direct linear transform, solved."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    source, target = points(rng, (5,))
    cotangent = rng.standard_normal((5, 3, 3))
    p, q = (torch.tensor(a, requires_grad=True) for a in (source, target))
    x, y, u, v = p[..., 0], p[..., 1], q[..., 0], q[..., 1]
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    system = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -x * u, -y * u], -1),
            torch.stack([zero, zero, zero, x, y, one, -x * v, -y * v], -1),
        ],
        dim=1,
    )
    entries = torch.linalg.solve(system, torch.cat([u, v], dim=1))
    theta = torch.cat([entries, torch.ones(5, 1, dtype=torch.float64)], dim=1).reshape(5, 3, 3)
    (theta * torch.tensor(cotangent)).sum().backward()
    ours = pystn.homography_from_points(backend.array(source), backend.array(target))
    np.testing.assert_allclose(backend.numpy(ours), theta.detach().numpy(), rtol=0, atol=1e-13)
    pulled = pystn.homography_from_points_vjp(*map(backend.array, (cotangent, source, target)))
    for gradient, expected in zip(pulled, (p.grad, q.grad), strict=True):
        np.testing.assert_allclose(backend.numpy(gradient), expected.numpy(), rtol=0, atol=1e-12)


def test_affine_maps_come_out_affine(backend, rng):
    theta = np.eye(2, 3) + rng.uniform(-0.3, 0.3, (10, 2, 3))
    target = np.einsum("nij,kj->nki", theta, np.column_stack([SQUARE, np.ones(4)]))
    found = backend.numpy(pystn.homography_from_points(backend.array(SQUARE), backend.array(target)))
    np.testing.assert_allclose(found[:, :2], theta, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found[:, 2], np.tile([0, 0, 1], (10, 1)), rtol=0, atol=1e-14)


def test_there_and_back(backend, rng):
    source, middle, target = (*points(rng, (10,)), points(rng, (10,))[0])
    first, second, both, back = (
        pystn.homography_from_points(backend.array(a), backend.array(b))
        for a, b in ((source, middle), (middle, target), (source, target), (middle, source))
    )
    composed = pystn.compose(second, first, normalize=True)
    np.testing.assert_allclose(backend.numpy(composed), backend.numpy(both), rtol=0, atol=1e-13)
    identity = backend.numpy(pystn.compose(back, first, normalize=True))
    np.testing.assert_allclose(identity, np.tile(np.eye(3), (10, 1, 1)), rtol=0, atol=1e-13)


def test_the_order_of_the_points_does_not_matter(backend, rng):
    source, target = points(rng, (6,))
    first, again = (
        backend.numpy(pystn.homography_from_points(backend.array(source[:, o]), backend.array(target[:, o])))
        for o in ([0, 1, 2, 3], [2, 0, 3, 1])
    )
    np.testing.assert_allclose(again, first, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (1000.0, 1.0), (0.0, 1e-20), (0.0, 1e20)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_points(backend, rng, dtype, shift, scale):
    good = (scale * points(rng, (2, 2))[0] + shift).astype(dtype)
    on_a_line, double, all_one = good[0, 0].copy(), good[0, 0].copy(), good[0, 0].copy()
    on_a_line[2] = on_a_line[0] + (on_a_line[3] - on_a_line[0]) * dtype(0.3)
    double[3] = double[1]
    all_one[:] = double[0]
    for wrong in (on_a_line, double, all_one):
        bad = good.copy()
        bad[1, 0] = wrong
        message = r"\[1, 0\] has three points on a line, or two that coincide: got \[\["
        for name, pair in (("from_points", (bad, good)), ("to_points", (good, bad))):
            with pytest.raises(ValueError, match=f"^{name}{message}"):
                pystn.homography_from_points(*map(backend.array, pair))
    pystn.homography_from_points(backend.array(good), backend.array(good))


def test_a_long_way_off_a_triangle_is_no_line(backend):
    """Whole pixels, exact in float32."""
    near = SQUARE.astype(np.float32)
    far = near + np.float32(5000)
    theta = backend.numpy(pystn.homography_from_points(backend.array(far), backend.array(near)))
    np.testing.assert_allclose(theta[:2, :2], np.eye(2), atol=1e-5)


def test_the_origin_sent_to_infinity(backend):
    """(x, y) to (1/x, y/x) has no form with last entry 1."""
    source = np.array([[1.0, 1.0], [2.0, 1.0], [2.0, -1.0], [1.0, -2.0]])
    target = np.stack([1 / source[:, 0], source[:, 1] / source[:, 0]], -1)
    with pytest.raises(ValueError, match=r"^homography sends the origin to infinity, expected a last entry"):
        pystn.homography_from_points(backend.array(source), backend.array(target))


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            r"to_points must have shape \(..., 4, 2\): got \(3, 2\)",
            lambda: pystn.homography_from_points(SQUARE, SQUARE[:3]),
        ),
        (
            TypeError,
            "to_points must have the dtype of from_points, float64: got float32",
            lambda: pystn.homography_from_points(SQUARE, SQUARE.astype(np.float32)),
        ),
        (
            ValueError,
            r"grad_theta must have the shape of the result, \(3, 3\): got \(8,\)",
            lambda: pystn.homography_from_points_vjp(np.zeros(8), SQUARE, SQUARE),
        ),
        (
            ValueError,
            r"d_to_points must have the shape of to_points, \(4, 2\): got \(1, 4, 2\)",
            lambda: pystn.homography_from_points_jvp(SQUARE, SQUARE, None, SQUARE[None]),
        ),
    ],
)
def test_errors_say_what_was_expected_and_given(error, message, call):
    with pytest.raises(error, match=message):
        call()
