"""Products and inverses of warps: the laws of a group, PyTorch's gradients, cascades of images."""

import numpy as np
import pytest
from matrix_operations import theta
from warps import homogeneous

import pystn

AFFINE, PROJECTIVE = [(1, 2), (2, 3), (3, 4)], (3, 3)
SHAPES = [*AFFINE, PROJECTIVE]


@pytest.mark.parametrize("first", SHAPES, ids=str)
@pytest.mark.parametrize("second", SHAPES, ids=str)
@pytest.mark.parametrize("order", ["right", "left"])
def test_product(backend, rng, first, second, order):
    a, b = theta(rng, (4,), *first), theta(rng, (4,), *second)
    if first[1] != second[1]:
        with pytest.raises(ValueError, match="first and second must have one dimension"):
            pystn.compose(backend.array(a), backend.array(b), order)
        return
    whole = np.zeros((4, first[1], first[1]))
    left, right = (a, b) if order == "right" else (b, a)
    left, right = (m if m.shape[-2] == m.shape[-1] else homogeneous(m) for m in (left, right))
    for n, i, j, k in np.ndindex(*whole.shape, first[1]):
        whole[n, i, j] += left[n, i, k] * right[n, k, j]
    rows = max(first[0], second[0])
    result = backend.numpy(pystn.compose(backend.array(a), backend.array(b), order))
    np.testing.assert_allclose(result, whole[:, :rows], rtol=0, atol=1e-15)
    normal = backend.numpy(pystn.compose(backend.array(a), backend.array(b), order, normalize=True))
    np.testing.assert_allclose(normal, whole[:, :rows] / whole[:, -1:, -1:], rtol=0, atol=2e-15)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_laws_of_a_group(backend, rng, shape):
    """Associative, with inverses on both sides, and (A B)^-1 = B^-1 A^-1."""
    a, b, c = (backend.array(theta(rng, (3, 2), *shape)) for _ in range(3))
    identity = np.broadcast_to(np.eye(*shape), a.shape)

    def near(x, y):
        np.testing.assert_allclose(backend.numpy(x), backend.numpy(y), rtol=0, atol=1e-14 * 8)

    near(pystn.compose(pystn.compose(a, b), c), pystn.compose(a, pystn.compose(b, c)))
    near(pystn.compose(a, pystn.invert(a)), identity)
    near(pystn.compose(pystn.invert(a), a), identity)
    near(pystn.invert(pystn.compose(a, b)), pystn.compose(pystn.invert(b), pystn.invert(a)))
    near(pystn.compose(a, b, "left"), pystn.compose(b, a))
    near(pystn.compose(a, backend.array(identity.copy())), a)
    near(pystn.invert(pystn.invert(a)), a)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_equal_pytorch(backend, rng, shape):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    a, b, cotangent = theta(rng, (3,), *shape), theta(rng, (3,), *shape), rng.standard_normal((3, *shape))

    def whole(m):
        if shape[0] == shape[1]:
            return m
        last = torch.zeros(3, 1, shape[1], dtype=torch.float64)
        last[..., -1] = 1
        return torch.cat([m, last], dim=1)

    for order, normalize in (("right", False), ("left", False), ("right", True)):
        first, second = (torch.tensor(m, requires_grad=True) for m in (a, b))
        product = whole(first) @ whole(second) if order == "right" else whole(second) @ whole(first)
        product = product / product[:, -1:, -1:] if normalize else product
        (product[:, : shape[0]] * torch.tensor(cotangent)).sum().backward()
        pulled = pystn.compose_vjp(*map(backend.array, (cotangent, a, b)), order, normalize)
        for ours, theirs in zip(pulled, (first.grad, second.grad), strict=True):
            np.testing.assert_allclose(backend.numpy(ours), theirs.numpy(), rtol=0, atol=1e-14)
    m = torch.tensor(a, requires_grad=True)
    inverse = torch.linalg.inv(whole(m))[:, : shape[0]]
    (inverse * torch.tensor(cotangent)).sum().backward()
    np.testing.assert_allclose(
        backend.numpy(pystn.invert(backend.array(a))), inverse.detach().numpy(), rtol=0, atol=1e-14
    )
    (grad,) = pystn.invert_vjp(backend.array(cotangent), backend.array(a))
    np.testing.assert_allclose(backend.numpy(grad), m.grad.numpy(), rtol=0, atol=1e-13)


def test_a_scaled_projective_matrix_is_the_same_transform(backend, rng):
    """T(c H) = T(H), so that a normalized product has a gradient orthogonal to each factor."""
    a, b, cotangent = theta(rng, (5,), 3, 3), theta(rng, (5,), 3, 3), rng.standard_normal((5, 3, 3))
    arrays = [backend.array(m) for m in (cotangent, a, b)]
    once, scaled = (backend.numpy(pystn.compose(backend.array(c * a), arrays[2], normalize=True)) for c in (1.0, -7.0))
    np.testing.assert_allclose(once, scaled, rtol=0, atol=1e-14)
    pulled = pystn.compose_vjp(*arrays, normalize=True)
    for gradient, m in zip(pulled, (a, b), strict=True):
        np.testing.assert_allclose((backend.numpy(gradient) * m).sum((-2, -1)), 0, atol=1e-14)
        assert np.abs(backend.numpy(gradient)).max() > 0.1


@pytest.mark.parametrize("projective", [False, True])
def test_right_is_what_a_cascade_of_warps_does(backend, rng, projective):
    """Sampling once at the composed warp, and sampling a sampled image: equal for images that linear
    interpolation reproduces. The other order is not."""
    shape = (3, 3) if projective else (2, 3)
    first, second = (np.eye(*shape) + rng.uniform(-0.1, 0.1, (1, *shape)) for _ in range(2))
    if projective:
        first[:, 2, :2] = 0  # so that the first result is still a plane
    warp = pystn.warp_projective if projective else pystn.warp_affine
    image = np.add.outer(3 * np.arange(40.0), np.arange(40.0))[None, None]

    def warped(image, theta):
        value = warp(backend.array(image), backend.array(theta), (40, 40), padding_mode="border")
        return backend.numpy(value)

    cascade = warped(warped(image, first), second)[..., 12:28, 12:28]
    arrays = backend.array(first), backend.array(second)
    right, left = (
        warped(image, backend.numpy(pystn.compose(*arrays, order)))[..., 12:28, 12:28] for order in ("right", "left")
    )
    np.testing.assert_allclose(right, cascade, rtol=0, atol=1e-10)
    assert np.abs(left - cascade).max() > 0.1


def test_composed_there_and_back_nothing_is_cut_off(backend, rng):
    """A turn by 45 degrees and back: a cascade loses the corners, the composed warp loses nothing."""
    image = rng.standard_normal((1, 1, 16, 16))
    there, back = (pystn.rotation_matrix(backend.array(np.array([[a]]))) for a in (np.pi / 4, -np.pi / 4))
    once = pystn.warp_affine(backend.array(image), pystn.compose(there, back), (16, 16))
    np.testing.assert_allclose(backend.numpy(once), image, rtol=0, atol=1e-13)
    twice = pystn.warp_affine(pystn.warp_affine(backend.array(image), there, (16, 16)), back, (16, 16))
    assert np.abs(backend.numpy(twice) - image)[..., 0, 0].max() > 0.1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_that_is_the_identity_changes_nothing(backend, rng, shape):
    p = theta(rng, (3,), *shape)
    for order in ("right", "left"):
        after = pystn.compose(backend.array(p), backend.array(np.eye(*shape)), order)
        np.testing.assert_array_equal(backend.numpy(after), p)


def test_gradient_of_a_chain(backend, rng):
    """Five factors, backwards one by one, against differences."""
    factors = [theta(rng, (2,), 3, 3) for _ in range(5)]
    cotangent, directions = rng.standard_normal((2, 3, 3)), rng.standard_normal((5, 2, 3, 3))

    def chain(factors):
        products = [backend.array(factors[0])]
        for m in factors[1:]:
            products.append(pystn.compose(products[-1], backend.array(m), normalize=True))
        return products

    products = chain(factors)
    slope, g = 0.0, backend.array(cotangent)
    for k in range(4, 0, -1):
        g, grad = pystn.compose_vjp(g, products[k - 1], backend.array(factors[k]), normalize=True)
        slope += (backend.numpy(grad) * directions[k]).sum()
    slope += (backend.numpy(g) * directions[0]).sum()
    h = 1e-6
    ends = [
        (backend.numpy(chain([m + s * h * d for m, d in zip(factors, directions, strict=True)])[-1]) * cotangent).sum()
        for s in (1, -1)
    ]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * h), rtol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_singular_does_not_depend_on_scale(backend, dtype):
    """Rows and columns of any size have an inverse; rows that agree to their last digits have none."""
    eps = np.finfo(dtype).eps
    small, large = (1e-30, 1e30) if dtype == np.float32 else (1e-200, 1e200)
    for diagonal in ((small, large), (small, small), (large, large)):
        given = np.array([[diagonal[0], 0, 0], [0, diagonal[1], 0]], dtype)
        inverse = backend.numpy(pystn.invert(backend.array(given)))
        np.testing.assert_allclose(np.diag(inverse[:, :2]), 1 / np.diag(given[:, :2]), rtol=2 * eps)
    columns = np.array([[2, 1, 3], [0, 3, 1], [1, 0, 2]], dtype) * np.array([small, small, 1], dtype)
    inverse = backend.numpy(pystn.invert(backend.array(columns)))
    np.testing.assert_allclose(columns @ inverse, np.eye(3), rtol=0, atol=8 * eps)
    third = np.array([[0.1, 0.3, 1.0], [0.2, 0.6, 0.0]], dtype)
    with pytest.raises(ValueError, match="theta is singular"):
        pystn.invert(backend.array(third))
    third[1, 1] *= 1 + 40 * eps
    pystn.invert(backend.array(third))
    turned = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype)
    with pytest.raises(ValueError, match=r"theta\[1\] is singular.*: got \[\[1.0, 2.0, 3.0\]"):
        pystn.invert(backend.array(np.stack([np.eye(3, dtype=dtype), turned])))
    reflection = np.array([[-1, 0, 0], [0, 1, 0]], dtype)
    np.testing.assert_array_equal(backend.numpy(pystn.invert(backend.array(reflection))), reflection)


def test_a_product_that_cannot_be_normalized(backend):
    swap = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    with pytest.raises(ValueError, match=r"^the product\[1\] has a last entry of 0, which cannot be made 1: got"):
        pystn.compose(backend.array(np.stack([np.eye(3), swap])), backend.array(np.eye(3)), normalize=True)
    pystn.compose(backend.array(swap), backend.array(np.eye(3)))


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            "unknown order: expected one of 'right', 'left', got 'up'",
            lambda: pystn.compose(np.eye(2, 3), np.eye(2, 3), "up"),
        ),
        (
            TypeError,
            "normalize must be True or False, got 1",
            lambda: pystn.compose(np.eye(2, 3), np.eye(2, 3), normalize=1),
        ),
        (
            ValueError,
            r"second must have shape \(..., ndim, ndim \+ 1\) .* or \(..., 3, 3\): got \(2, 2\)",
            lambda: pystn.compose(np.eye(2, 3), np.eye(2)),
        ),
        (
            TypeError,
            "second must have the dtype of first, float64: got float32",
            lambda: pystn.compose(np.eye(2, 3), np.eye(2, 3, dtype=np.float32)),
        ),
        (
            ValueError,
            r"leading axes of first and second must broadcast: got shapes \(2, 2, 3\) and \(3, 3, 3\)",
            lambda: pystn.compose(np.ones((2, 2, 3)), np.ones((3, 3, 3))),
        ),
        (
            ValueError,
            r"unknown entry of wrt: expected some of \('first', 'second'\), got 'third'",
            lambda: pystn.compose_vjp(np.eye(2, 3), np.eye(2, 3), np.eye(2, 3), wrt="third"),
        ),
        (ValueError, r"theta must have shape .*: got \(3,\)", lambda: pystn.invert(np.ones(3))),
        (TypeError, "theta must be a numpy.ndarray", lambda: pystn.invert([[1.0, 0.0]])),
    ],
)
def test_errors_say_what_was_expected_and_given(error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
