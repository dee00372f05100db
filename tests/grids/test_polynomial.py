"""Polynomials: the order of their monomials, their values, what they contain."""

import math

import numpy as np
import oracle
import pytest
from families import parameters

import pystn


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(7,), (4, 5), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_the_sum_of_its_monomials(backend, rng, degree, size, align_corners):
    ndim = len(size)
    family = pystn.Polynomial(size, degree, align_corners)
    assert family.theta_shape == (ndim, math.comb(degree + ndim, ndim))
    theta = rng.standard_normal((2, *family.theta_shape))
    grid = backend.numpy(family(backend.array(theta)))
    target = oracle.affine_grid(np.eye(ndim, ndim + 1)[None], size, align_corners)[0]
    # Every monomial once, whatever their order.
    assert {tuple(powers) for powers in family.exponents} == {
        powers for powers in np.ndindex(*[degree + 1] * ndim) if sum(powers) <= degree
    }
    for n, pixel, axis in [(n, p, a) for n in range(2) for p in np.ndindex(*size) for a in range(ndim)]:
        expected = 0.0
        for coefficient, powers in zip(theta[n, axis], family.exponents, strict=True):
            expected += coefficient * math.prod(x**e for x, e in zip(target[pixel], powers, strict=True))
        assert abs(grid[(n, *pixel, axis)] - expected) < 1e-13


def test_the_order_of_the_monomials():
    exponents = pystn.Polynomial((1, 1), 3).exponents
    names = ["".join(name * e for name, e in zip("xy", powers, strict=True)) for powers in exponents]
    assert names == ["", "x", "y", "xx", "xy", "yy", "xxx", "xxy", "xyy", "yyy"]
    exponents = pystn.Polynomial((1, 1, 1), 2).exponents
    names = ["".join(name * e for name, e in zip("xyz", powers, strict=True)) for powers in exponents]
    assert names == ["", "x", "y", "z", "xx", "xy", "xz", "yy", "yz", "zz"]


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_equals_scikit_image(backend, rng, degree):
    transform = pytest.importorskip("skimage.transform")
    family = pystn.Polynomial((5, 6), degree)
    theta = parameters(family, rng, (1,))
    target = oracle.affine_grid(np.eye(2, 3)[None], (5, 6), False)[0].reshape(-1, 2)
    found = backend.numpy(family(backend.array(theta))).reshape(-1, 2)
    np.testing.assert_allclose(found, transform.PolynomialTransform(theta[0])(target), atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(4, 5), (1, 300), (3, 4, 5)], ids=str)
def test_identity_and_degree_one_are_the_affine_grid(backend, rng, dtype, size):
    ndim = len(size)
    family = pystn.Polynomial(size, 1)
    expected = pystn.affine_grid(backend.array(np.eye(ndim, ndim + 1, dtype=dtype)[None]), size)
    found = family(backend.array(family.identity(dtype=dtype)))
    np.testing.assert_array_equal(backend.numpy(found), backend.numpy(expected))
    theta = rng.standard_normal((2, ndim, ndim + 1)).astype(dtype)
    found = backend.numpy(family(backend.array(np.roll(theta, 1, axis=-1))))
    expected = backend.numpy(pystn.affine_grid(backend.array(theta), size))
    np.testing.assert_allclose(found, expected, atol=1e-14 if dtype == np.float64 else 2e-6)


def test_equals_the_linear_grid_of_its_basis(backend, rng):
    family = pystn.Polynomial((5, 6), 3)
    theta = backend.array(parameters(family, rng, (2, 3)))
    found = pystn.linear_grid(theta, backend.array(family.basis))
    np.testing.assert_allclose(backend.numpy(found), backend.numpy(family(theta)), atol=1e-12)


def test_errors_of_the_constructor():
    with pytest.raises(ValueError, match="degree must be 1 or more: got 0"):
        pystn.Polynomial((4, 4), 0)
    with pytest.raises(TypeError, match=r"degree must be an integer, got 2\.0"):
        pystn.Polynomial((4, 4), 2.0)
    with pytest.raises(ValueError, match=r"size must have 1 to 3 entries \(spatial\)"):
        pystn.Polynomial((1, 3, 4, 4), 2)
    with pytest.raises(TypeError, match="size must be a tuple of integers"):
        pystn.Polynomial(4, 2)
