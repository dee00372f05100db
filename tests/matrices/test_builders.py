"""Matrices from parameters: their equations, SciPy's rotations, PyTorch's gradients, and small angles."""

import math

import numpy as np
import pytest

import pystn


def loops(params, form):
    """Each matrix written out, entry by entry."""
    if form == "rotation":
        (phi,) = params
        return [[math.cos(phi), -math.sin(phi), 0.0], [math.sin(phi), math.cos(phi), 0.0]]
    if form == "rigid":
        phi, x, y = params
        return [[math.cos(phi), -math.sin(phi), x], [math.sin(phi), math.cos(phi), y]]
    if form == "angle":
        phi, s, x, y = params
        return [[s * math.cos(phi), -s * math.sin(phi), x], [s * math.sin(phi), s * math.cos(phi), y]]
    if form == "log2":
        phi, p, x, y = params
        c, s = 2**p * math.cos(phi), 2**p * math.sin(phi)
        return [[c, -s, c * x - s * y], [s, c, s * x + c * y]]
    if form.startswith("pstn"):
        phi, sx, sy, x, y = params if len(params) == 5 else (*params[:2], *params[1:])
        return [[sx * math.cos(phi), -math.sin(phi), x], [math.sin(phi), sy * math.cos(phi), y]]
    if form == "linear":
        a, b, x, y = params
        return [[1 + a, -b, x], [b, 1 + a, y]]
    if form == "projective":
        a, b, c, d, e, f, g, h = params
        return [[a, b, c], [d, e, f], [g, h, 1.0]]
    tx, ty, phi, sx, sy, m = params
    c, s = math.cos(phi), math.sin(phi)
    return [[c * sx, c * sx * m - s * sy, tx], [s * sx, s * sx * m + c * sy, ty]]


PLANE = {
    "rotation": (pystn.rotation_matrix, 1, {}),
    "rigid": (pystn.rigid_matrix, 3, {}),
    "angle": (pystn.similarity_matrix, 4, {}),
    "log2": (pystn.similarity_matrix, 4, {"form": "log2"}),
    "linear": (pystn.similarity_matrix, 4, {"form": "linear"}),
    "projective": (pystn.projective_matrix, 8, {}),
    "affine": (pystn.affine_matrix, 6, {}),
    "pstn": (pystn.pstn_affine_matrix, 4, {}),
    "pstn, two scales": (pystn.pstn_affine_matrix, 5, {}),
}


@pytest.mark.parametrize("form", PLANE)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-14), (np.float32, 1e-6)])
def test_equations_in_the_plane(backend, rng, form, dtype, tolerance):
    function, count, options = PLANE[form]
    params = rng.uniform(-2, 2, (3, 2, count)).astype(dtype)
    theta = backend.numpy(function(backend.array(params), **options))
    expected = [[loops(row, form) for row in rows] for rows in params.astype(float).tolist()]
    np.testing.assert_allclose(theta, expected, rtol=0, atol=4 * tolerance)
    np.testing.assert_array_equal(backend.numpy(function(backend.array(params[1, 1]), **options)), theta[1, 1])


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_translation_and_attention(backend, rng, ndim):
    shift, one, each = rng.standard_normal((3, 5, ndim))
    one = one[:, :1]
    for params, options, diagonal in (
        (shift, {"scale": 0.5}, np.full((5, ndim), 0.5)),
        (shift, {"scale": np.float32(2)}, np.full((5, ndim), 2.0)),
        (np.concatenate([one, shift], -1), {}, np.repeat(one, ndim, axis=1)),
        (np.concatenate([each, shift], -1), {"scale": "anisotropic"}, each),
    ):
        theta = backend.numpy(pystn.attention_matrix(backend.array(params), **options))
        expected = np.zeros((5, ndim, ndim + 1))
        for n, i in np.ndindex(5, ndim):
            expected[n, i, i], expected[n, i, ndim] = diagonal[n, i], shift[n, i]
        np.testing.assert_array_equal(theta, expected)
    theta = backend.numpy(pystn.translation_matrix(backend.array(shift)))
    np.testing.assert_array_equal(theta[..., :ndim], np.broadcast_to(np.eye(ndim), (5, ndim, ndim)))
    np.testing.assert_array_equal(theta[..., ndim], shift)


IDENTITIES = {
    "translation": (pystn.translation_matrix, np.zeros(3), {}),
    "attention": (pystn.attention_matrix, np.array([1.0, 0, 0]), {}),
    "anisotropic": (pystn.attention_matrix, np.array([1.0, 1, 1, 0, 0, 0]), {"scale": "anisotropic"}),
    "angle": (pystn.rotation_matrix, np.zeros(1), {}),
    "vector": (pystn.rotation_matrix, np.zeros(3), {}),
    "quaternion": (pystn.rotation_matrix, np.array([2.0, 0, 0, 0]), {}),
    "rigid-2d": (pystn.rigid_matrix, np.zeros(3), {}),
    "rigid-3d": (pystn.rigid_matrix, np.zeros(6), {}),
    "similarity": (pystn.similarity_matrix, np.array([0, 1.0, 0, 0]), {}),
    "similarity-3d": (pystn.similarity_matrix, np.array([0, 0, 0, 1.0, 0, 0, 0]), {}),
    "log2": (pystn.similarity_matrix, np.zeros(4), {"form": "log2"}),
    "linear": (pystn.similarity_matrix, np.zeros(4), {"form": "linear"}),
    "projective": (pystn.projective_matrix, np.array([1.0, 0, 0, 0, 1, 0, 0, 0]), {}),
    "affine": (pystn.affine_matrix, np.array([0, 0, 0, 1.0, 1, 0]), {}),
    "pstn": (pystn.pstn_affine_matrix, np.array([0, 1.0, 0, 0]), {}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", IDENTITIES)
def test_identity_bit_for_bit(backend, name, dtype):
    function, params, options = IDENTITIES[name]
    theta = backend.numpy(function(backend.array(params.astype(dtype)), **options))
    np.testing.assert_array_equal(theta, np.eye(*theta.shape, dtype=dtype))


def test_rotations_equal_scipy(backend, rng):
    transform = pytest.importorskip("scipy.spatial.transform", reason="compares with SciPy")
    for scale in (1e-9, 1e-3, 0.3, 1.0, 3.0, 30.0):
        vectors = rng.standard_normal((20, 3)) * scale
        theta = backend.numpy(pystn.rotation_matrix(backend.array(vectors)))
        expected = transform.Rotation.from_rotvec(vectors).as_matrix()
        np.testing.assert_allclose(theta[..., :3], expected, rtol=0, atol=2e-14)
        assert not theta[..., 3].any()
        quaternions = rng.standard_normal((20, 4)) * scale
        theta = backend.numpy(pystn.rotation_matrix(backend.array(quaternions)))
        expected = transform.Rotation.from_quat(quaternions[:, [1, 2, 3, 0]]).as_matrix()  # SciPy has w last
        np.testing.assert_allclose(theta[..., :3], expected, rtol=0, atol=2e-15)


@pytest.mark.parametrize("rotation", [3, 4])
@pytest.mark.parametrize("form", ["rigid", "angle", "log2"])
def test_rotated_scaled_and_shifted_in_space(backend, rng, rotation, form):
    turn, scale, shift = rng.standard_normal((6, rotation)), rng.uniform(0.5, 2, (6, 1)), rng.standard_normal((6, 3))
    linear = backend.numpy(pystn.rotation_matrix(backend.array(turn)))[..., :3]
    if form == "rigid":
        theta = pystn.rigid_matrix(backend.array(np.concatenate([turn, shift], -1)))
    else:
        linear = linear * scale[..., None]
        given = scale if form == "angle" else np.log2(scale)
        theta = pystn.similarity_matrix(backend.array(np.concatenate([turn, given, shift], -1)), form)
    column = np.einsum("nij,nj->ni", linear, shift) if form == "log2" else shift
    np.testing.assert_allclose(backend.numpy(theta), np.concatenate([linear, column[..., None]], -1), atol=1e-14)


@pytest.mark.parametrize("length", [0.0, 1e-200, 1e-12, 1e-8, 1e-4, 1e-2, 0.5, 0.999999, 1.000001, 2.0, np.pi, 6.0])
def test_gradient_of_a_rotation_vector_equals_pytorch(backend, rng, length):
    """Through its matrix exponential, which knows no small angles and is good to 1e-13."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    direction = rng.standard_normal(3)
    vector = length * direction / np.linalg.norm(direction)
    cotangent = rng.standard_normal((3, 4))
    v = torch.tensor(vector, requires_grad=True)
    zero = torch.zeros((), dtype=torch.float64)
    cross = torch.stack([zero, -v[2], v[1], v[2], zero, -v[0], -v[1], v[0], zero]).reshape(3, 3)
    matrix = torch.linalg.matrix_exp(cross)
    (matrix * torch.tensor(cotangent[:, :3])).sum().backward()
    theta = backend.numpy(pystn.rotation_matrix(backend.array(vector)))
    np.testing.assert_allclose(theta[:, :3], matrix.detach().numpy(), rtol=0, atol=1e-13)
    (grad,) = pystn.rotation_matrix_vjp(backend.array(cotangent), backend.array(vector))
    np.testing.assert_allclose(backend.numpy(grad), v.grad.numpy(), rtol=0, atol=1e-13)


def test_series_and_closed_form_meet(backend):
    """Just below and above an angle of 1, where one takes over from the other."""
    vector = np.array([[0.6, 0.0, 0.8]])
    below, above = vector * (1 - 1e-15), vector * (1 + 1e-15)
    for function in (
        pystn.rotation_matrix,
        lambda v: pystn.rotation_matrix_jvp(v, backend.array(np.array([[0.3, -0.2, 0.5]]))),
    ):
        a, b = (backend.numpy(function(backend.array(v))) for v in (below, above))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-6)])
def test_derivatives_at_the_angle_zero(backend, rng, dtype, tolerance):
    """Against differences, and the first order: dR = [dv] x."""
    zero, direction = np.zeros(3), rng.standard_normal(3)
    pushed = backend.numpy(
        pystn.rotation_matrix_jvp(backend.array(zero.astype(dtype)), backend.array(direction.astype(dtype)))
    )
    x, y, z = direction
    np.testing.assert_allclose(pushed[:, :3], [[0, -z, y], [z, 0, -x], [-y, x, 0]], rtol=0, atol=tolerance)
    h = 1e-5
    forward, backward = (backend.numpy(pystn.rotation_matrix(backend.array(s * h * direction))) for s in (1, -1))
    np.testing.assert_allclose(pushed, (forward - backward) / (2 * h), rtol=0, atol=max(tolerance, 1e-9))


def test_a_quaternion_has_any_norm(backend, rng):
    """T(c q) = T(q), so that the gradient is orthogonal to q; also where squares would overflow or vanish."""
    quaternion, cotangent = rng.standard_normal((5, 4)), rng.standard_normal((5, 3, 4))
    theta = backend.numpy(pystn.rotation_matrix(backend.array(quaternion)))
    (grad,) = map(backend.numpy, pystn.rotation_matrix_vjp(backend.array(cotangent), backend.array(quaternion)))
    np.testing.assert_allclose((grad * quaternion).sum(-1), 0, atol=1e-14)
    for factor in (-1.0, 3.0, 1e200, 1e-200):
        scaled = backend.array(factor * quaternion)
        np.testing.assert_allclose(backend.numpy(pystn.rotation_matrix(scaled)), theta, rtol=0, atol=1e-15)
        (pulled,) = map(backend.numpy, pystn.rotation_matrix_vjp(backend.array(cotangent), scaled))
        np.testing.assert_allclose(pulled * factor, grad, rtol=1e-12, atol=1e-14)


def test_rotations_are_rotations(backend, rng):
    for count in (1, 3, 4):
        theta = backend.numpy(pystn.rotation_matrix(backend.array(rng.standard_normal((50, count)) * 4)))
        turn = theta[..., :-1]
        np.testing.assert_allclose(
            turn @ turn.swapaxes(-1, -2), np.broadcast_to(np.eye(turn.shape[-1]), turn.shape), atol=3e-15
        )
        np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-14)


def test_crops_with_a_turn_stay_inside(backend, rng):
    """Turned and scaled by 1/sqrt(2) or less, every sample is inside the image (Jaderberg et al., 2015)."""
    params = np.stack([rng.uniform(-4, 4, 20), rng.uniform(0, 2**-0.5, 20), np.zeros(20), np.zeros(20)], -1)
    grid = pystn.affine_grid(pystn.similarity_matrix(backend.array(params)), (9, 9), align_corners=True)
    assert np.abs(backend.numpy(grid)).max() <= 1


def test_training_starts_at_the_identity(backend):
    """The gradient to the parameters goes through the warp: theta is used as it comes."""
    image = np.add.outer(np.arange(8.0), 2 * np.arange(8.0))[None, None]
    params = np.array([[1.0, 0.0, 0.0]])
    theta = pystn.attention_matrix(backend.array(params))
    _, grad_theta = pystn.warp_affine_vjp(
        backend.array(np.ones((1, 1, 8, 8))),
        backend.array(image),
        theta,
        (8, 8),
        padding_mode="border",
        subgradient="central",
    )
    (grad,) = map(backend.numpy, pystn.attention_matrix_vjp(grad_theta, backend.array(params)))
    assert grad[0, 1] > 0
    assert grad[0, 2] > 0
    np.testing.assert_allclose(grad[0, 1], 2 * grad[0, 2])


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            r"params must have shape \(..., 1\) or \(..., 2\) or \(..., 3\): got \(2, 4\)",
            lambda: pystn.translation_matrix(np.zeros((2, 4))),
        ),
        (ValueError, r"params must have shape .*: got \(\)", lambda: pystn.translation_matrix(np.zeros(()))),
        (
            ValueError,
            r"\(..., 2\) or \(..., 4\) or \(..., 6\): got \(3,\)",
            lambda: pystn.attention_matrix(np.zeros(3), "anisotropic"),
        ),
        (
            ValueError,
            "unknown scale: expected one of 'isotropic', 'anisotropic', got 'both'",
            lambda: pystn.attention_matrix(np.zeros(3), "both"),
        ),
        (TypeError, "unknown scale: .* got True", lambda: pystn.attention_matrix(np.zeros(3), True)),
        (TypeError, "unknown scale: .* got None", lambda: pystn.attention_matrix(np.zeros(3), None)),
        (ValueError, "scale must be finite, got nan", lambda: pystn.attention_matrix(np.zeros(3), np.nan)),
        (ValueError, r"\(..., 1\) or \(..., 3\) or \(..., 4\): got \(2,\)", lambda: pystn.rotation_matrix(np.zeros(2))),
        (
            ValueError,
            r"params\[1, 0\] has a quaternion of norm 0: got \[0.0, 0.0, 0.0, 0.0\]",
            lambda: pystn.rotation_matrix(np.array([[[1.0, 0, 0, 0]], [[0.0, 0, 0, 0]]])),
        ),
        (
            ValueError,
            r"params has a quaternion of norm 0",
            lambda: pystn.rigid_matrix(np.array([0.0, 0, 0, 0, 1, 1, 1])),
        ),
        (ValueError, r"\(..., 3\) or \(..., 6\) or \(..., 7\): got \(4,\)", lambda: pystn.rigid_matrix(np.ones(4))),
        (ValueError, r"\(..., 4\): got \(7,\)", lambda: pystn.similarity_matrix(np.ones(7), "linear")),
        (
            ValueError,
            "unknown form: expected one of 'angle', 'linear', 'log2', got 'polar'",
            lambda: pystn.similarity_matrix(np.ones(4), "polar"),
        ),
        (ValueError, r"params must have shape \(..., 8\): got \(9,\)", lambda: pystn.projective_matrix(np.ones(9))),
        (TypeError, "params must be float32 or float64 .* int64", lambda: pystn.rotation_matrix(np.ones(3, np.int64))),
        (TypeError, "params must be a numpy.ndarray, got builtins.list", lambda: pystn.rotation_matrix([1.0])),
        (
            ValueError,
            r"grad_theta must have the shape of the result, \(2, 3\): got \(3, 2\)",
            lambda: pystn.rotation_matrix_vjp(np.ones((3, 2)), np.ones(1)),
        ),
        (
            TypeError,
            "grad_theta must have the dtype of the result, float64: got float32",
            lambda: pystn.rotation_matrix_vjp(np.ones((2, 3), np.float32), np.ones(1)),
        ),
        (
            ValueError,
            r"d_params must have the shape of params, \(1,\): got \(2,\)",
            lambda: pystn.rotation_matrix_jvp(np.ones(1), np.ones(2)),
        ),
        (TypeError, "d_params must be a numpy.ndarray", lambda: pystn.rotation_matrix_jvp(np.ones(1), [1.0])),
    ],
)
def test_errors_say_what_was_expected_and_given(error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
