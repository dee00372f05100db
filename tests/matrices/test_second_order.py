"""Second orders equal those of PyTorch, differentiated twice, of the same operations in a few lines of its code."""

import numpy as np
import pytest
from matrix_operations import OPERATIONS

import pystn

torch = pytest.importorskip("torch", reason="compares with PyTorch")


def columns(*rows):
    """Matrices from entries (...)."""
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def turn(params):
    if params.shape[-1] == 1:
        c, s = params[..., 0].cos(), params[..., 0].sin()
        return columns((c, -s), (s, c))
    if params.shape[-1] == 3:
        x, y, z = params.unbind(-1)
        zero = torch.zeros_like(x)
        return torch.linalg.matrix_exp(columns((zero, -z, y), (z, zero, -x), (-y, x, zero)))
    w, x, y, z = (params / params.norm(dim=-1, keepdim=True)).unbind(-1)
    return columns(
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


def split(params, n):
    return params[..., :-n], params[..., -n:]


def placed(linear, shift):
    return torch.cat([linear, shift[..., None]], -1)


def rotation_matrix(params):
    linear = turn(params)
    return placed(linear, torch.zeros_like(linear[..., 0]))


def rigid_matrix(params):
    first, shift = split(params, 2 if params.shape[-1] == 3 else 3)
    return placed(turn(first), shift)


def similarity_matrix(params, form="angle"):
    first, shift = split(params, 2 if params.shape[-1] == 4 else 3)
    if form == "linear":
        a, b = first.unbind(-1)
        return placed(columns((1 + a, -b), (b, 1 + a)), shift)
    scale = first[..., -1, None, None]
    linear = (2**scale if form == "log2" else scale) * turn(first[..., :-1])
    return placed(linear, (linear @ shift[..., None])[..., 0] if form == "log2" else shift)


def pstn_affine_matrix(params):
    rotated, scales = turn(params[..., :1]), params[..., 1:-2].expand(*params.shape[:-1], 2)
    return placed(rotated * (1 - torch.eye(2, dtype=params.dtype) + torch.diag_embed(scales)), params[..., -2:])


def affine_matrix(params):
    x, y, angle, sx, sy, shear = params.unbind(-1)
    upper = columns((sx, sx * shear), (torch.zeros_like(sx), sy))
    return placed(turn(angle[..., None]) @ upper, torch.stack([x, y], -1))


def decompose_affine(theta):
    (a, b, x), (c, d, y) = theta[..., 0, :].unbind(-1), theta[..., 1, :].unbind(-1)
    sx = torch.sqrt(a * a + c * c)
    return torch.stack([x, y, torch.atan2(c, a), sx, (a * d - b * c) / sx, (a * b + c * d) / sx**2], -1)


def whole(matrix, corner=1.0):
    rows, n = matrix.shape[-2:]
    if rows == n:
        return matrix
    last = torch.zeros(*matrix.shape[:-2], 1, n, dtype=matrix.dtype)
    last[..., -1] = corner
    return torch.cat([matrix, last], -2)


def compose(first, second, order="right", normalize=False):
    product = whole(first) @ whole(second) if order == "right" else whole(second) @ whole(first)
    if normalize:
        product = product / product[..., -1:, -1:]
    return product[..., : max(first.shape[-2], second.shape[-2]), :]


def invert(theta):
    return torch.linalg.inv(whole(theta))[..., : theta.shape[-2], :]


def expm(generator):
    return torch.linalg.matrix_exp(whole(generator, 0.0))[..., : generator.shape[-2], :]


def logm(matrix):
    """The integral of (M - I) / (I + t (M - I)) for t from 0 to 1; no square roots as long as M is near I."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    off = whole(matrix) - identity
    terms = (w / 2 * torch.linalg.solve(identity + (t + 1) / 2 * off, off) for t, w in zip(nodes, weights, strict=True))
    return sum(terms)[..., : matrix.shape[-2], :]


def homography_from_points(source, target):
    (x, y), (u, v) = source.unbind(-1), target.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    of_u = torch.stack([x, y, one, zero, zero, zero, -x * u, -y * u], -1)
    of_v = torch.stack([zero, zero, zero, x, y, one, -x * v, -y * v], -1)
    entries = torch.linalg.solve(torch.cat([of_u, of_v], -2), torch.cat([u, v], -1))
    return torch.cat([entries, one[..., :1]], -1).reshape(*x.shape[:-1], 3, 3)


def box_iou(first, second):
    def volume(lower, upper):
        return (upper - lower).clamp(min=0).prod(-1)

    (a, b), (c, d) = first.chunk(2, -1), second.chunk(2, -1)
    shared = volume(torch.maximum(a, c), torch.minimum(b, d))
    return shared / (volume(a, b) + volume(c, d) - shared)


def twice(function, tangents, cotangent, primals, **options):
    """The gradients of <tangents, gradients of <cotangent, f>> to the cotangent and to the primals."""
    g, *x = (torch.tensor(a, requires_grad=True) for a in (cotangent, *primals))
    pulled = torch.autograd.grad((function(*x, **options) * g).sum(), x, create_graph=True)
    loss = sum((torch.tensor(t) * a).sum() for t, a in zip(tangents, pulled, strict=True))
    found = torch.autograd.grad(loss, [g, *x], materialize_grads=True)
    return [a.numpy() for a in found]


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.curved], ids=str)
def test_equals_pytorch(backend, rng, operation):
    primals = operation.draw(rng, (5,))
    tangents = [rng.standard_normal(a.shape) for a in primals]
    cotangent = rng.standard_normal(np.shape(operation.value(*primals)))
    found = operation.vjp2(*map(backend.array, [*tangents, cotangent, *primals]))
    expected = twice(globals()[operation.name], tangents, cotangent, primals, **operation.options)
    for ours, theirs in zip(found, expected, strict=True):
        atol = 1e-12 * max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(backend.numpy(ours), theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("length", [0.0, 1e-200, 1e-12, 1e-8, 1e-4, 1e-2, 0.5, 0.999999, 1.000001, 2.0, np.pi, 6.0])
def test_rotation_vectors_of_any_length(backend, rng, length):
    direction, along = rng.standard_normal((2, 3))
    vector, cotangent = length * direction / np.linalg.norm(direction), rng.standard_normal((3, 4))
    found = pystn.rotation_matrix_vjp2(*map(backend.array, (along, cotangent, vector)))
    for ours, theirs in zip(found, twice(rotation_matrix, [along], cotangent, [vector]), strict=True):
        np.testing.assert_allclose(backend.numpy(ours), theirs, rtol=0, atol=2e-13)


@pytest.mark.parametrize("norm", [1e-3, 1.0, 1e3])
def test_quaternions_of_any_norm(backend, rng, norm):
    quaternion, along = norm * rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
    cotangent = rng.standard_normal((5, 3, 4))
    found = pystn.rotation_matrix_vjp2(*map(backend.array, (along, cotangent, quaternion)))
    for ours, theirs in zip(found, twice(rotation_matrix, [along], cotangent, [quaternion]), strict=True):
        np.testing.assert_allclose(backend.numpy(ours), theirs, rtol=0, atol=1e-13 * np.abs(theirs).max())


@pytest.mark.parametrize("size", [1e-10, 0.1, 1.0, 5.0])
def test_generators_of_any_size(backend, rng, size):
    generator, along, cotangent = rng.standard_normal((3, 5, 3, 3))
    found = pystn.expm_vjp2(*map(backend.array, (along, cotangent, size * generator)))
    for ours, theirs in zip(found, twice(expm, [along], cotangent, [size * generator]), strict=True):
        np.testing.assert_allclose(backend.numpy(ours), theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("size", [0.1, 1.0, 2.0])
def test_logarithms_far_from_the_identity(backend, rng, size):
    """By the exponential, which they undo: of E(L(M)) = M once more differentiated, L bends by -L' (E bends) L'."""
    generator, along, cotangent = rng.standard_normal((3, 5, 3, 3))
    generator *= size / np.abs(np.linalg.eigvals(generator)).max(axis=-1)[:, None, None]
    along, cotangent, generator = map(backend.array, (along, cotangent, generator))
    matrix = pystn.expm(generator)
    (pulled,) = pystn.logm_vjp(cotangent, matrix)
    moved = pystn.logm_jvp(matrix, along)
    _, bent = pystn.expm_vjp2(moved, pulled, generator)
    (expected,) = pystn.logm_vjp(-bent, matrix)
    to_grad, to_matrix = pystn.logm_vjp2(along, cotangent, matrix)
    for ours, theirs in ((to_grad, moved), (to_matrix, expected)):
        theirs = backend.numpy(theirs)
        np.testing.assert_allclose(backend.numpy(ours), theirs, rtol=0, atol=1e-12 * np.abs(theirs).max())


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_boxes_apart_one_in_the_other_and_across(backend, rng, ndim):
    """Which corners are the intersection's differs by axis; apart there is neither slope nor curvature."""
    first, second = np.sort(rng.standard_normal((2, 200, 2, ndim)), axis=-2).reshape(2, 200, -1)
    first_along, second_along = rng.standard_normal((2, 200, 2 * ndim))
    cotangent = rng.standard_normal(200)
    given = map(backend.array, (first_along, second_along, cotangent, first, second))
    found = [backend.numpy(a) for a in pystn.box_iou_vjp2(*given)]
    expected = twice(box_iou, [first_along, second_along], cotangent, [first, second])
    apart = pystn.box_iou(first, second) == 0
    assert 0 < apart.sum() < 200
    for ours, theirs in zip(found, expected, strict=True):
        assert not ours[apart].any()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * np.abs(theirs).max())
