"""Exponentials and logarithms: SciPy's, PyTorch's gradients, and what undoes what."""

import warnings

import numpy as np
import pytest
from matrix_operations import theta
from warps import homogeneous

import pystn


def exact_exponential(x):
    """Its series, of x / 2^s, squared s times, in extended precision."""
    halvings = 8 + max(0, int(np.ceil(np.log2(np.abs(x).sum() + 1e-300))))
    y = x.astype(np.longdouble) / np.longdouble(2) ** halvings
    total = term = np.eye(len(x), dtype=np.longdouble)
    for k in range(1, 20):
        term = term @ y / k
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("size", [1e-10, 0.1, 1.0, 5.0, 30.0])
def test_exponential_equals_its_series(backend, rng, n, size):
    generators = rng.standard_normal((20, n, n)) * size
    matrices = backend.numpy(pystn.expm(backend.array(generators)))
    for x, m in zip(generators, matrices, strict=True):
        expected = exact_exponential(x)
        norm = np.abs(x).sum(0).max()
        np.testing.assert_allclose(m, expected, rtol=0, atol=float(np.abs(expected).max()) * 1e-15 * (8 + 8 * norm))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1e-10, 0.1, 1.0, 5.0])
def test_the_exponential_and_its_derivatives_equal_scipy(backend, rng, n, size):
    linalg = pytest.importorskip("scipy.linalg", reason="compares with SciPy")
    x, along = rng.standard_normal((2, 10, n, n))
    x = x * size
    matrices = backend.numpy(pystn.expm(backend.array(x)))
    pushed = backend.numpy(pystn.expm_jvp(backend.array(x), backend.array(along)))
    (pulled,) = map(backend.numpy, pystn.expm_vjp(backend.array(along), backend.array(x)))
    for k in range(10):
        expected, norm = linalg.expm(x[k]), np.abs(x[k]).sum(0).max()
        # SciPy's is this far from the series, a hundred times as far as ours.
        np.testing.assert_allclose(matrices[k], expected, rtol=0, atol=2e-13 * (1 + norm) * np.abs(expected).max())
        for ours, at in ((pushed[k], x[k]), (pulled[k], x[k].T)):
            expected = linalg.expm_frechet(at, along[k], compute_expm=False)
            np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-14 * (1 + size) * np.abs(expected).max())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 12, 16])
def test_exponentials_of_any_size_equal_scipy(backend, rng, n):
    """Of matrices that need no squaring and many, side by side."""
    linalg = pytest.importorskip("scipy.linalg", reason="compares with SciPy")
    x = rng.standard_normal((13, n, n)) * np.exp(rng.uniform(-5, 2, (13, 1, 1)))
    for ours, a in zip(backend.numpy(pystn.expm(backend.array(x))), x, strict=True):
        expected, size = linalg.expm(a), np.abs(a).sum(0).max()
        np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-13 * (1 + size) * np.abs(expected).max())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
def test_derivatives_of_the_exponential_are_blocks_of_larger_ones(backend, rng, n):
    """As the docstrings have it, of matrices that need no squaring and many."""
    x, along, then = rng.standard_normal((3, 20, n, n))
    x *= np.exp(rng.uniform(-3, 2, (20, 1, 1)))
    given = {"gg_generator": then, "grad_matrix": along, "generator": x}
    given = {name: backend.array(array) for name, array in given.items()}
    pushed = backend.numpy(pystn.expm_jvp(given["generator"], given["grad_matrix"]))
    moved = backend.numpy(pystn.expm_vjp2(**given)[1])
    zero = np.zeros((n, n))
    for k in range(20):
        whole = exact_exponential(np.block([[x[k], along[k]], [zero, x[k]]]))
        bound = 2e-15 * (8 + 8 * np.abs(x[k]).sum(0).max())
        expected = whole[:n, n:]
        np.testing.assert_allclose(pushed[k], expected, rtol=0, atol=float(np.abs(expected).max()) * bound)
        y, m, g = x[k].T, along[k], then[k].T
        rows = [[y, m, g, zero], [zero, y, zero, g], [zero, zero, y, m], [zero, zero, zero, y]]
        expected = exact_exponential(np.block(rows))[:n, 3 * n :]
        np.testing.assert_allclose(moved[k], expected, rtol=0, atol=float(np.abs(expected).max()) * bound)


@pytest.mark.parametrize("n", [1, 3, 5])
def test_a_matrix_has_the_exponential_that_it_has_alone(backend, rng, n):
    x = rng.standard_normal((37, n, n)) * np.exp(rng.uniform(-3, 3, (37, 1, 1)))
    together = backend.numpy(pystn.expm(backend.array(x)))
    for k in (0, 1, 7, 8, 35, 36):
        np.testing.assert_array_equal(backend.numpy(pystn.expm(backend.array(x[k]))), together[k])
    apart = x[2:32].reshape(5, 6, n, n)[:, ::-1]
    np.testing.assert_array_equal(
        backend.numpy(pystn.expm(backend.array(apart))), together[2:32].reshape(apart.shape)[:, ::-1]
    )


def test_no_matrices_have_no_exponentials(backend):
    for shape in ((0, 3, 3), (2, 0, 2, 3), (0, 6, 6)):
        empty = backend.array(np.zeros(shape))
        assert pystn.expm(empty).shape == pystn.expm_jvp(empty, empty).shape == shape


def test_gradient_of_the_exponential_equals_pytorch(backend, rng):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    x, cotangent = rng.standard_normal((2, 5, 2, 3))
    whole = homogeneous(x)
    whole[:, 2] = 0
    given = torch.tensor(whole, requires_grad=True)
    (torch.linalg.matrix_exp(given)[:, :2] * torch.tensor(cotangent)).sum().backward()
    (grad,) = pystn.expm_vjp(backend.array(cotangent), backend.array(x))
    np.testing.assert_allclose(backend.numpy(grad), given.grad.numpy()[:, :2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 2), (2, 3), (3, 4)], ids=str)
def test_affine_is_square_with_its_last_row(backend, rng, shape):
    x, m = rng.standard_normal((4, *shape)), theta(rng, (4,), *shape)
    zeros = np.concatenate([x, np.zeros((4, 1, shape[1]))], axis=1)
    for function, short, whole in ((pystn.expm, x, zeros), (pystn.logm, m, homogeneous(m))):
        expected = backend.numpy(function(backend.array(whole)))
        np.testing.assert_allclose(backend.numpy(function(backend.array(short))), expected[:, :-1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(2, 3), (3, 4), (3, 3), (1, 1), (2, 2), (4, 4)], ids=str)
def test_each_undoes_the_other(backend, rng, shape, dtype, tolerance):
    x = rng.uniform(-0.7, 0.7, (30, *shape)).astype(dtype)
    back = backend.numpy(pystn.logm(pystn.expm(backend.array(x))))
    np.testing.assert_allclose(back, x, rtol=0, atol=tolerance)
    m = theta(rng, (30,), *shape).astype(dtype)
    back = backend.numpy(pystn.expm(pystn.logm(backend.array(m))))
    np.testing.assert_allclose(back, m, rtol=0, atol=tolerance)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_derivative_of_the_logarithm_undoes_that_of_the_exponential(backend, rng, n):
    """SciPy's derivative of the one, then ours of the other, is the direction that one began with."""
    linalg = pytest.importorskip("scipy.linalg", reason="compares with SciPy")
    x, along = rng.uniform(-1, 1, (2, 10, n, n))
    pairs = [linalg.expm_frechet(a, d) for a, d in zip(x, along, strict=True)]
    matrices, moved = (backend.array(np.stack(arrays)) for arrays in zip(*pairs, strict=True))
    np.testing.assert_allclose(backend.numpy(pystn.logm_jvp(matrices, moved)), along, rtol=0, atol=1e-12)
    (grad,) = pystn.logm_vjp(
        pystn.expm_vjp(backend.array(along), backend.array(x))[0], backend.array(backend.numpy(matrices))
    )
    np.testing.assert_allclose(backend.numpy(grad), along, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3])
def test_logarithm_equals_scipy(backend, rng, n):
    """Of matrices of all sizes, turned by up to nearly half a turn."""
    linalg = pytest.importorskip("scipy.linalg", reason="compares with SciPy")
    turns = rng.uniform(-3.1, 3.1, (40, 1 if n == 2 else 3)) / (1 if n == 2 else 3**0.5)
    linear = backend.numpy(pystn.rotation_matrix(backend.array(turns)))[..., :n]
    matrices = linear * np.exp(rng.uniform(-8, 8, (40, 1, 1))) + 0.0
    logarithms = backend.numpy(pystn.logm(backend.array(matrices)))
    for ours, m in zip(logarithms, matrices, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own accuracy
            expected = linalg.logm(m)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-11)


def test_inverse_is_the_exponential_of_minus(backend, rng):
    x = rng.uniform(-1, 1, (10, 3, 4))
    inverse = pystn.invert(pystn.expm(backend.array(x)))
    np.testing.assert_allclose(backend.numpy(pystn.expm(backend.array(-x))), backend.numpy(inverse), rtol=0, atol=1e-12)


def test_cotangents_of_any_size(backend, rng):
    """A derivative is linear, however large the direction is beside the matrix."""
    for vjp, at in ((pystn.expm_vjp, rng.uniform(-1, 1, (3, 3))), (pystn.logm_vjp, theta(rng, (), 3, 3))):
        cotangent = rng.standard_normal((3, 3))
        (once,) = map(backend.numpy, vjp(backend.array(cotangent), backend.array(at)))
        for factor in (1e-250, 1e-20, 1e20, 1e250):
            (scaled,) = map(backend.numpy, vjp(backend.array(factor * cotangent), backend.array(at)))
            np.testing.assert_allclose(scaled / factor, once, rtol=1e-13, atol=1e-14)
        assert not backend.numpy(vjp(backend.array(0 * cotangent), backend.array(at))[0]).any()


def test_identity_bit_for_bit(backend):
    for shape in ((2, 3), (3, 4), (3, 3)):
        zeros = backend.array(np.zeros(shape))
        np.testing.assert_array_equal(backend.numpy(pystn.expm(zeros)), np.eye(*shape))
        np.testing.assert_array_equal(backend.numpy(pystn.logm(backend.array(np.eye(*shape)))), np.zeros(shape))


def test_what_overflows_is_not_a_number_and_ends(backend):
    for entry in (1e4, 1e300, 1.7e308):
        assert not np.isfinite(backend.numpy(pystn.expm(backend.array(np.full((2, 2), entry))))).any()
    vanishing = backend.numpy(pystn.expm(backend.array(np.diag([-1e5, 0.0]))))
    np.testing.assert_allclose(vanishing, np.diag([0.0, 1.0]), rtol=0, atol=1e-300)


def test_huge_generators(backend):
    for value in (1e20, 1.7e308):
        shear = np.array([[0.0, value], [0.0, 0.0]])
        np.testing.assert_array_equal(backend.numpy(pystn.expm(backend.array(shear))), np.eye(2) + shear)
    column = np.zeros((3, 3))
    column[:2, 2] = 1.7e308  # their sum overflows
    np.testing.assert_array_equal(backend.numpy(pystn.expm(backend.array(column))), np.eye(3) + column)
    vanishing = backend.numpy(pystn.expm(backend.array(np.diag([-1e25, -1e25, 0.0]))))
    np.testing.assert_array_equal(vanishing, np.diag([0.0, 0.0, 1.0]))
    assert not np.isfinite(backend.numpy(pystn.expm(backend.array(1e25 * np.eye(5)))).diagonal()).any()


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_alone_in_that(backend, rng, n, bad):
    x = rng.standard_normal((11, n, n))
    expected = backend.numpy(pystn.expm(backend.array(x)))
    x[[1, 9], [0, n - 1], [n - 1, 0]] = bad
    actual = backend.numpy(pystn.expm(backend.array(x)))
    assert np.isnan(actual[[1, 9]]).all()
    others = [k for k in range(11) if k not in (1, 9)]
    np.testing.assert_array_equal(actual[others], expected[others])
    tangent = np.ones_like(x)
    tangent[4, 0, 0] = bad
    derivative = backend.numpy(pystn.expm_jvp(backend.array(x), backend.array(tangent)))
    np.testing.assert_array_equal(np.isnan(derivative).all(axis=(1, 2)), np.isin(range(11), (1, 4, 9)))
    assert np.isfinite(derivative[[0, 2, 3, 5, 6, 7, 8, 10]]).all()


NEGATIVE = {
    "negative": np.diag([-2.0, 1.0]),
    "half a turn": -np.eye(2),
    "half a turn in space": np.diag([-1.0, -1.0, 1.0]),
    "half a turn, rounded": np.array([[np.cos(np.pi), -np.sin(np.pi)], [np.sin(np.pi), np.cos(np.pi)]]),
    "reflection": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "negative, not diagonalizable": np.array([[-1.0, 1.0], [0.0, -1.0]]),
    "singular": np.array([[1.0, 2.0], [2.0, 4.0]]),
    "singular, rounded": np.array([[0.1, 0.3], [0.2, 0.6]]),
    "singular to rounding": np.diag([1.0, 1e-17]),
    "zero": np.zeros((3, 3)),
    "nilpotent": np.array([[0.0, 1.0], [0.0, 0.0]]),
    "reflection, affine": np.array([[-1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]),
}


@pytest.mark.parametrize("name", NEGATIVE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_principal_logarithm(backend, name, dtype):
    matrix = NEGATIVE[name].astype(dtype)
    if name == "half a turn, rounded" and dtype == np.float32:
        pytest.skip("an angle of float32 is some 1e-7 short of half a turn, and has a logarithm")
    stack = np.stack([np.eye(*matrix.shape, dtype=dtype), matrix])
    message = r"^matrix\[1\] has no principal logarithm, expected eigenvalues .*: got \[\["
    for call in (
        lambda: pystn.logm(backend.array(stack)),
        lambda: pystn.logm_vjp(backend.array(stack), backend.array(stack)),
        lambda: pystn.logm_jvp(backend.array(stack), backend.array(stack)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_double_negative_eigenvalues_that_rounding_moved(backend, rng):
    """They come as pairs near the axis, some beyond what counts as on it."""
    beyond = 0
    for _ in range(60):
        basis = rng.standard_normal((2, 2))
        matrix = basis @ np.array([[-1.0, 1.0], [0.0, -1.0]]) @ np.linalg.inv(basis)
        beyond += (np.abs(np.linalg.eigvals(matrix).imag) > 2e-8).all()
        with pytest.raises(ValueError, match="matrix has no principal logarithm"):
            pystn.logm(backend.array(matrix))
    assert beyond > 0


def test_a_logarithm_is_one_or_is_refused(backend, rng):
    """Of matrices beside those with multiple negative eigenvalues, where rounding decides."""
    found, count = 0, 300 if backend.name == "cpu" else 30
    for _ in range(count):
        basis, away = rng.standard_normal((2, 2)), 10.0 ** rng.uniform(-14, -2)
        matrix = basis @ np.array([[-1.0, 1.0], [-away, -1.0]]) @ np.linalg.inv(basis)
        try:
            generator = pystn.logm(backend.array(matrix))
        except ValueError:
            continue
        back = backend.numpy(pystn.expm(generator))
        np.testing.assert_allclose(back, matrix, rtol=0, atol=1e-5 * np.abs(matrix).max())
        found += 1
    assert 0 < found < count


@pytest.mark.parametrize("short", [1e-3, 1e-6])
def test_nearly_half_a_turn(backend, short):
    matrix = pystn.rotation_matrix(backend.array(np.array([np.pi - short])))
    generator = backend.numpy(pystn.logm(matrix))
    np.testing.assert_allclose(generator[1, 0], np.pi - short, rtol=0, atol=1e-14 / short)


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            r"generator must have shape \(..., n, n\) or \(..., n, n \+ 1\): got \(3, 2\)",
            lambda: pystn.expm(np.zeros((3, 2))),
        ),
        (ValueError, r"matrix must have shape .*: got \(2, 4\)", lambda: pystn.logm(np.zeros((2, 4)))),
        (ValueError, r"generator must have shape .*: got \(0, 0\)", lambda: pystn.expm(np.zeros((0, 0)))),
        (TypeError, "generator must be float32 or float64", lambda: pystn.expm(np.zeros((2, 2), np.complex128))),
        (
            ValueError,
            r"grad_matrix must have the shape of the matrices, \(2, 2\): got \(2, 3\)",
            lambda: pystn.expm_vjp(np.zeros((2, 3)), np.zeros((2, 2))),
        ),
        (
            TypeError,
            "d_matrix must have the dtype of matrix, float64: got float32",
            lambda: pystn.logm_jvp(np.eye(2), np.eye(2, dtype=np.float32)),
        ),
        (TypeError, "grad_generator must be a numpy.ndarray", lambda: pystn.logm_vjp([[1.0]], np.eye(1))),
    ],
)
def test_errors_say_what_was_expected_and_given(error, message, call):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
