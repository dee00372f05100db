"""The projective grid: its equation, its gauge, its horizon, and the warp that never stores it."""

import numpy as np
import oracle
import pytest
from jacobians import assert_adjoint, assert_close, difference

import pystn

SIZES = [(4, 5), (1, 7), (7, 1), (1, 1), (30, 9), (2, 531)]


def homographies(rng, leading, dtype=np.float64, tilt=0.2):
    """Matrices whose denominators stay away from 0 on the target, of either sign."""
    theta = np.eye(3) + 0.3 * rng.standard_normal((*leading, 3, 3))
    theta[..., 2, :2] = rng.uniform(-tilt, tilt, (*leading, 2))
    theta[..., 2, 2] = 1
    return (theta * rng.choice([-2.0, 1.0, 0.5], (*leading, 1, 1))).astype(dtype)


def slow(theta, size, align_corners):
    grid = np.empty((*theta.shape[:-2], *size, 2))
    target = oracle.affine_grid(np.eye(2, 3)[None], size, align_corners)[0]
    for at in np.ndindex(*theta.shape[:-2]):
        for i, j in np.ndindex(*size):
            q = theta[at].astype(float) @ [*target[i, j], 1.0]
            grid[(*at, i, j)] = q[:2] / q[2]
    return grid


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("leading", [(1,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 5e-6)])
def test_equals_the_equation(backend, rng, align_corners, size, leading, dtype, tolerance):
    theta = homographies(rng, leading, dtype)
    grid = backend.numpy(pystn.projective_grid(backend.array(theta), size, align_corners))
    assert grid.dtype == dtype
    np.testing.assert_allclose(grid, slow(theta, size, align_corners), rtol=0, atol=tolerance)


def test_equals_opencv_and_scikit_image(backend, rng):
    cv2, transform = pytest.importorskip("cv2"), pytest.importorskip("skimage.transform")
    theta = homographies(rng, (1,))
    target = oracle.affine_grid(np.eye(2, 3)[None], (9, 7), False)[0].reshape(-1, 2)
    grid = backend.numpy(pystn.projective_grid(backend.array(theta), (9, 7))).reshape(-1, 2)
    np.testing.assert_allclose(grid, cv2.perspectiveTransform(target[None], theta[0])[0], atol=1e-13)
    np.testing.assert_allclose(grid, transform.ProjectiveTransform(theta[0])(target), atol=1e-13)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_matrices_make_the_affine_grid(backend, rng, size, align_corners):
    theta = rng.standard_normal((2, 3, 2, 3))
    last = np.broadcast_to([0.0, 0.0, 1.0], (2, 3, 1, 3))
    found = pystn.projective_grid(backend.array(np.concatenate([theta, last], axis=-2)), size, align_corners)
    expected = backend.numpy(pystn.affine_grid(backend.array(theta), size, align_corners))
    np.testing.assert_allclose(backend.numpy(found), expected, atol=1e-14)
    for dtype in (np.float32, np.float64):
        identity = pystn.projective_grid(backend.array(np.eye(3, dtype=dtype)[None]), size, align_corners)
        expected = pystn.affine_grid(backend.array(np.eye(2, 3, dtype=dtype)[None]), size, align_corners)
        np.testing.assert_array_equal(backend.numpy(identity), backend.numpy(expected))


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 3e-4)])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("cull_behind", [False, True])
@pytest.mark.parametrize("tilt", [0.2, 3.0], ids=["in front", "across the horizon"])
def test_sampled_it_is_the_warp(backend, rng, dtype, tolerance, align_corners, cull_behind, tilt):
    """Value and both gradients; what is hidden is outside in both, with no gradient."""
    image = rng.standard_normal((2, 3, 8, 9)).astype(dtype)
    theta = homographies(rng, (2,), dtype, tilt)
    size, horizon = (13, 12), {"cull_behind": cull_behind, "min_denominator": 0.3}
    arrays = [backend.array(a) for a in (image, theta)]
    options = {"padding_mode": "border", "align_corners": align_corners}
    warped = pystn.warp_projective(*arrays, size, **options, **horizon)
    grid = pystn.projective_grid(arrays[1], size, align_corners, **horizon)
    hidden = np.isnan(backend.numpy(grid)[..., 0])
    assert hidden.any() == (tilt > 1 or cull_behind)
    np.testing.assert_allclose(
        backend.numpy(pystn.grid_sample(arrays[0], grid, **options)), backend.numpy(warped), atol=tolerance
    )
    u = backend.array(rng.standard_normal(warped.shape).astype(dtype))
    to_image, grad_grid = pystn.grid_sample_vjp(u, arrays[0], grid, **options)
    (to_theta,) = pystn.projective_grid_vjp(grad_grid, arrays[1], size, align_corners, **horizon)
    expected = pystn.warp_projective_vjp(u, *arrays, size, **options, **horizon)
    assert_close(backend.numpy(to_image), backend.numpy(expected[0]), tolerance)
    assert_close(backend.numpy(to_theta), backend.numpy(expected[1]), tolerance)


@pytest.mark.parametrize("cull_behind", [False, True])
def test_the_horizon_is_nan_with_no_derivative(backend, rng, cull_behind):
    """The denominators are x: -0.75, -0.25, 0.25, 0.75."""
    theta = np.array([[[1.0, 0, 0], [0, 1, 0], [1, 0, 0]]])
    options = {"min_denominator": 0.5, "cull_behind": cull_behind}
    seen = [not cull_behind, False, False, True]
    grid = backend.numpy(pystn.projective_grid(backend.array(theta), (1, 4), **options))
    np.testing.assert_array_equal(np.isfinite(grid[0, 0, :, 0]), seen)
    u, d = rng.standard_normal((1, 1, 4, 2)), rng.standard_normal((1, 3, 3))
    pushed = backend.numpy(pystn.projective_grid_jvp(*map(backend.array, (theta, d)), (1, 4), **options))
    assert not pushed[0, 0, ~np.array(seen)].any()
    assert pushed[0, 0, seen].all()
    visible = np.where(np.array(seen)[:, None], u, 0)
    for cotangent in (u, np.where(visible == 0, np.nan, u)):  # even of what the sampler may leave there
        (gradient,) = pystn.projective_grid_vjp(*map(backend.array, (cotangent, theta)), (1, 4), **options)
        assert_adjoint(pushed, visible, [backend.numpy(gradient)], [d])
    to_grad, to_theta = pystn.projective_grid_vjp2(*map(backend.array, (d, u, theta)), (1, 4), **options)
    np.testing.assert_array_equal(backend.numpy(to_grad), pushed)
    again = pystn.projective_grid_vjp2(*map(backend.array, (d, visible, theta)), (1, 4), **options)[1]
    np.testing.assert_array_equal(backend.numpy(to_theta), backend.numpy(again))


@pytest.mark.parametrize("dtype, least", [(np.float64, 1e-8), (np.float32, 1e-6)])
def test_the_default_of_the_horizon_goes_by_dtype(backend, dtype, least):
    for factor, finite in [(1.1, True), (0.9, False)]:
        theta = np.diag([1.0, 1.0, factor * least]).astype(dtype)[None]
        grid = backend.numpy(pystn.projective_grid(backend.array(theta), (2, 2)))
        assert np.isfinite(grid).all() == finite


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_jvp_and_vjp_are_adjoint(backend, rng, dtype, size):
    theta = homographies(rng, (2, 3), dtype)
    d, u = rng.standard_normal(theta.shape).astype(dtype), rng.standard_normal((2, 3, *size, 2)).astype(dtype)
    pushed = backend.numpy(pystn.projective_grid_jvp(*map(backend.array, (theta, d)), size))
    (pulled,) = pystn.projective_grid_vjp(*map(backend.array, (u, theta)), size)
    assert pushed.dtype == backend.numpy(pulled).dtype == dtype
    assert_adjoint(pushed, u, [backend.numpy(pulled)], [d])
    assert not backend.numpy(pystn.projective_grid_jvp(backend.array(theta), None, size)).any()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_derivatives_equal_central_differences(backend, rng, size):
    theta, d = homographies(rng, (2, 3)), rng.standard_normal((2, 3, 3, 3))
    u, gg = rng.standard_normal((2, 3, *size, 2)), rng.standard_normal((2, 3, 3, 3))

    def grid(theta):
        return backend.numpy(pystn.projective_grid(backend.array(theta), size))

    def gradient(u, theta):
        return backend.numpy(pystn.projective_grid_vjp(*map(backend.array, (u, theta)), size)[0])

    pushed = backend.numpy(pystn.projective_grid_jvp(*map(backend.array, (theta, d)), size))
    assert_close(pushed, difference(grid, [theta], [d]))
    np.testing.assert_allclose(
        (gradient(u, theta) * d).sum(), difference(lambda t: (grid(t) * u).sum(), [theta], [d]), rtol=1e-6
    )
    to_grad, to_theta = pystn.projective_grid_vjp2(*map(backend.array, (gg, u, theta)), size)
    loss = lambda u, theta: (gradient(u, theta) * gg).sum()  # noqa: E731
    direction = rng.standard_normal(u.shape)
    np.testing.assert_allclose(
        (backend.numpy(to_grad) * direction).sum(), difference(loss, [u, theta], [direction, None]), rtol=1e-6
    )
    np.testing.assert_allclose((backend.numpy(to_theta) * d).sum(), difference(loss, [u, theta], [None, d]), rtol=1e-6)


def test_the_hessian_is_symmetric(backend, rng):
    """<a, H b> = <b, H a> for the second derivative of <u, grid>."""
    theta, a, b = homographies(rng, (1,)), *rng.standard_normal((2, 1, 3, 3))
    u = backend.array(rng.standard_normal((1, 5, 6, 2)))
    to_a = pystn.projective_grid_vjp2(backend.array(a), u, backend.array(theta), (5, 6), wrt="theta")[1]
    to_b = pystn.projective_grid_vjp2(backend.array(b), u, backend.array(theta), (5, 6), wrt="theta")[1]
    np.testing.assert_allclose((backend.numpy(to_a) * b).sum(), (backend.numpy(to_b) * a).sum(), rtol=1e-12)


def test_the_scale_of_a_matrix_does_not_matter(backend, rng):
    theta, u = homographies(rng, (2, 3)), rng.standard_normal((2, 3, 5, 6, 2))
    grid = backend.numpy(pystn.projective_grid(backend.array(theta), (5, 6)))
    for scale in (-1.0, 2.0, 1e-3, -3e4):
        scaled = pystn.projective_grid(backend.array(scale * theta), (5, 6))
        np.testing.assert_allclose(backend.numpy(scaled), grid, atol=1e-12)
    (gradient,) = pystn.projective_grid_vjp(*map(backend.array, (u, theta)), (5, 6))
    products = backend.numpy(gradient) * theta
    assert np.all(np.abs(products.sum(axis=(-1, -2))) <= 1e-13 * np.abs(products).sum(axis=(-1, -2)))


def test_products_compose(backend, rng):
    """The grid of A B is A applied to that of B."""
    a, b = homographies(rng, (1,)), homographies(rng, (1,))
    inner = backend.numpy(pystn.projective_grid(backend.array(b), (5, 6)))
    q = np.einsum("ab,hwb->hwa", a[0], np.concatenate([inner[0], np.ones((5, 6, 1))], axis=-1))
    found = backend.numpy(pystn.projective_grid(backend.array(a @ b), (5, 6)))[0]
    np.testing.assert_allclose(found, q[..., :2] / q[..., 2:], atol=1e-11)


@pytest.mark.parametrize("size", [(4, 5), (30, 9), (2, 531)], ids=str)
@pytest.mark.parametrize("cull_behind", [False, True])
@pytest.mark.parametrize("tilt", [0.2, 3.0], ids=["in front", "across the horizon"])
def test_equals_the_homogeneous_linear_grid(backend, rng, size, cull_behind, tilt):
    """And its derivatives; array code divides there."""
    theta, d = homographies(rng, (2, 3), tilt=tilt), rng.standard_normal((2, 3, 3, 3))
    x, u = oracle.affine_grid(np.eye(2, 3)[None], size, True)[0], rng.standard_normal((2, 3, *size, 2))
    basis = backend.array(np.stack([x[..., 0], x[..., 1], np.ones(size)])[None])
    theta, d, u = map(backend.array, (theta, d, u))
    horizon = {"cull_behind": cull_behind, "min_denominator": 0.3}
    line = {**horizon, "homogeneous": True}
    projective = (
        pystn.projective_grid(theta, size, True, **horizon),
        *pystn.projective_grid_vjp(u, theta, size, True, **horizon),
        pystn.projective_grid_jvp(theta, d, size, True, **horizon),
        *pystn.projective_grid_vjp2(d, u, theta, size, True, **horizon),
    )
    linear = (
        pystn.linear_grid(theta, basis, **line),
        pystn.linear_grid_vjp(u, theta, basis, wrt="theta", **line)[0],
        pystn.linear_grid_jvp(theta, basis, d, None, **line),
        *pystn.linear_grid_vjp2(d, None, u, theta, basis, wrt=("grad_grid", "theta"), **line)[:2],
    )
    hidden = np.isnan(backend.numpy(projective[0]))
    assert hidden.any() == (tilt > 1 or cull_behind)
    for found, expected in zip(projective, linear, strict=True):
        np.testing.assert_allclose(backend.numpy(found), backend.numpy(expected), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("leading", [(2, 3), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("size", [(4, 5), (0, 5), (4, 0)], ids=str)
def test_strides_out_and_empty(backend, rng, leading, size):
    theta = homographies(rng, leading)
    u = rng.standard_normal((*leading, *size, 2))
    expected = pystn.projective_grid(theta, size)
    (gradient,) = pystn.projective_grid_vjp(u, theta, size)
    assert expected.shape == u.shape
    assert gradient.shape == theta.shape
    for view in (lambda a: np.flip(np.flip(a).copy()), lambda a: np.ascontiguousarray(a.T).T):
        out = backend.array(view(np.full(expected.shape, np.nan)))
        assert pystn.projective_grid(backend.array(view(theta)), size, out=out) is out
        np.testing.assert_allclose(backend.numpy(out), expected, atol=1e-14)
        (found,) = pystn.projective_grid_vjp(backend.array(view(u)), backend.array(view(theta)), size)
        np.testing.assert_allclose(backend.numpy(found), gradient, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_stay_with_their_entry(backend, rng, bad):
    theta = homographies(rng, (3,))
    expected = backend.numpy(pystn.projective_grid(backend.array(theta), (4, 5)))
    theta[1] = bad
    grid = backend.numpy(pystn.projective_grid(backend.array(theta), (4, 5)))
    assert np.isnan(grid[1]).all()
    np.testing.assert_array_equal(grid[::2], expected[::2])


def test_errors_name_what_was_given():
    theta, grid = np.eye(3)[None], np.ones((1, 2, 2, 2))
    with pytest.raises(ValueError, match=r"theta must have shape \(N, ..., 3, 3\): got \(1, 2, 3\)"):
        pystn.projective_grid(theta[:, :2], (2, 2))
    with pytest.raises(ValueError, match="size must have 2 entries"):
        pystn.projective_grid(theta, (2, 2, 2))
    with pytest.raises(ValueError, match="min_denominator must be positive"):
        pystn.projective_grid(theta, (2, 2), min_denominator=-1.0)
    with pytest.raises(TypeError, match="cull_behind must be True or False"):
        pystn.projective_grid_jvp(theta, None, (2, 2), cull_behind=0)
    with pytest.raises(ValueError, match="grad_grid must have the shape of the grid"):
        pystn.projective_grid_vjp(grid[:, 1:], theta, (2, 2))
    with pytest.raises(ValueError, match="gg_theta must have the shape of theta"):
        pystn.projective_grid_vjp2(theta[:, :2], grid, theta, (2, 2))
    buffer = np.zeros((1, 2, 2, 2))
    with pytest.raises(ValueError, match="must not overlap"):
        pystn.projective_grid(np.broadcast_to(buffer.reshape(1, 8)[:, :3], (1, 3, 3)), (2, 2), out=buffer)
