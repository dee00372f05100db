"""Parameters times a basis: the equation, its derivatives to both, broadcasting, homogeneous coordinates."""

import itertools

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jacobians import assert_adjoint, assert_close, difference

import pystn

# Batch sizes of theta and basis, the axes K, those of the basis, whether there is a division.
CASES = [
    (batches, k, points, ndim, homogeneous)
    for batches, (k, points), (ndim, homogeneous) in itertools.product(
        [(2, 1), (1, 3), (2, 2), (1, 1)],
        [((), (4, 5)), ((3, 2), (7,)), ((2,), (1, 3, 1)), ((), ())],
        [(2, False), (3, False), (1, True), (2, True)],
    )
]


def drawn(rng, batches, k, points, ndim, homogeneous, q=4, dtype=np.float64):
    """Parameters and a basis; those of denominators keep these between 0.5 and 1.5."""
    theta = rng.standard_normal((batches[0], *k, ndim + homogeneous, q)).astype(dtype)
    basis = rng.standard_normal((batches[1], q, *points)).astype(dtype)
    if homogeneous:
        basis[:, -1] = 1
        theta[..., -1, :] = 0.0
        theta[..., -1, 0] = 0.05
        theta[..., -1, -1] = 1
        basis[:, 0] = np.clip(basis[:, 0], -2, 2)
    return theta, basis


def slow(theta, basis, homogeneous):
    """The equation, entry by entry."""
    (batch,) = np.broadcast_shapes(theta.shape[:1], basis.shape[:1])
    k, points, rows = theta.shape[1:-2], basis.shape[2:], theta.shape[-2]
    grid = np.empty((batch, *k, *points, rows - homogeneous))
    for n, at, point in itertools.product(range(batch), np.ndindex(k), np.ndindex(points)):
        matrix, column = theta[n % theta.shape[0]][at], basis[(n % basis.shape[0], slice(None), *point)]
        q = [sum(float(a) * float(b) for a, b in zip(row, column, strict=True)) for row in matrix]
        grid[(n, *at, *point)] = [a / q[-1] for a in q[:-1]] if homogeneous else q
    return grid


@pytest.mark.parametrize("batches, k, points, ndim, homogeneous", CASES, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_equals_the_equation(backend, rng, batches, k, points, ndim, homogeneous, dtype, tolerance):
    theta, basis = drawn(rng, batches, k, points, ndim, homogeneous, dtype=dtype)
    grid = backend.numpy(pystn.linear_grid(backend.array(theta), backend.array(basis), homogeneous=homogeneous))
    assert grid.dtype == dtype
    np.testing.assert_allclose(grid, slow(theta, basis, homogeneous), rtol=0, atol=20 * tolerance)


@pytest.mark.parametrize("batches, k, points, ndim, homogeneous", CASES, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_jvp_and_vjp_are_adjoint(backend, rng, batches, k, points, ndim, homogeneous, dtype):
    theta, basis = drawn(rng, batches, k, points, ndim, homogeneous, dtype=dtype)
    d_theta, d_basis = (rng.standard_normal(a.shape).astype(dtype) for a in (theta, basis))
    arrays = [backend.array(a) for a in (theta, basis)]
    for tangents in [(d_theta, d_basis), (d_theta, None), (None, d_basis)]:
        given = [None if d is None else backend.array(d) for d in tangents]
        pushed = backend.numpy(pystn.linear_grid_jvp(*arrays, *given, homogeneous=homogeneous))
        assert pushed.dtype == dtype
        u = rng.standard_normal(pushed.shape).astype(dtype)
        wrt = [name for name, d in zip(("theta", "basis"), tangents, strict=True) if d is not None]
        pulled = pystn.linear_grid_vjp(backend.array(u), *arrays, homogeneous=homogeneous, wrt=wrt)
        assert [g is None for g in pulled] == [d is None for d in tangents]
        kept = [(backend.numpy(g), d) for g, d in zip(pulled, tangents, strict=True) if d is not None]
        assert all(g.dtype == dtype for g, _ in kept)
        assert_adjoint(pushed, u, *zip(*kept, strict=True))
    assert not backend.numpy(pystn.linear_grid_jvp(*arrays, None, None, homogeneous=homogeneous)).any()


@pytest.mark.parametrize("batches, k, points, ndim, homogeneous", CASES[::3], ids=str)
def test_derivatives_equal_central_differences(backend, rng, batches, k, points, ndim, homogeneous):
    theta, basis = drawn(rng, batches, k, points, ndim, homogeneous)
    tangents = [rng.standard_normal(a.shape) for a in (theta, basis)]

    def grid(theta, basis):
        return backend.numpy(pystn.linear_grid(backend.array(theta), backend.array(basis), homogeneous=homogeneous))

    arrays = [backend.array(a) for a in (theta, basis)]
    pushed = pystn.linear_grid_jvp(*arrays, *map(backend.array, tangents), homogeneous=homogeneous)
    assert_close(backend.numpy(pushed), difference(grid, (theta, basis), tangents))
    slope = difference(lambda *a: (grid(*a) ** 3).sum(), (theta, basis), tangents)
    cotangent = backend.array(3 * grid(theta, basis) ** 2)
    gradients = pystn.linear_grid_vjp(cotangent, *arrays, homogeneous=homogeneous)
    found = sum((backend.numpy(g) * d).sum() for g, d in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(found, slope, rtol=1e-6)


@pytest.mark.parametrize("batches, k, points, ndim, homogeneous", CASES[::3], ids=str)
@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True), (False, False)], ids=str)
def test_second_order_equals_differences_of_the_vjp(backend, rng, batches, k, points, ndim, homogeneous, given):
    """The loss <gg, vjp(grad, theta, basis)> has the gradients that vjp2 says, to each of the three."""
    theta, basis = drawn(rng, batches, k, points, ndim, homogeneous)
    options = {"homogeneous": homogeneous}
    gg = [rng.standard_normal(a.shape) if g else None for a, g in zip((theta, basis), given, strict=True)]
    shape = pystn.linear_grid(backend.array(theta), backend.array(basis), **options).shape
    primals = [rng.standard_normal(shape), theta, basis]

    def loss(*primals):
        gradients = pystn.linear_grid_vjp(*map(backend.array, primals), **options)
        return sum((backend.numpy(g) * w).sum() for g, w in zip(gradients, gg, strict=True) if w is not None)

    weights = [None if w is None else backend.array(w) for w in gg]
    found = pystn.linear_grid_vjp2(*weights, *map(backend.array, primals), **options)
    for i, gradient in enumerate(found):
        direction = rng.standard_normal(primals[i].shape)
        tangents = [direction if j == i else None for j in range(3)]
        expected = difference(loss, primals, tangents)
        assert gradient.shape == primals[i].shape
        np.testing.assert_allclose((backend.numpy(gradient) * direction).sum(), expected, rtol=1e-6, atol=1e-7)
    (only,) = (
        g
        for g in pystn.linear_grid_vjp2(*weights, *map(backend.array, primals), **options, wrt="theta")
        if g is not None
    )
    np.testing.assert_array_equal(backend.numpy(only), backend.numpy(found[1]))


@pytest.mark.parametrize("size", [(4, 5), (1, 3), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_and_attention_are_instances(backend, rng, size, align_corners):
    ndim = len(size)
    x = oracle.affine_grid(np.eye(ndim, ndim + 1)[None], size, align_corners)[0]
    basis = np.concatenate([np.moveaxis(x, -1, 0), np.ones((1, *size))])[None]
    theta = rng.standard_normal((2, 3, ndim, ndim + 1))
    expected = backend.numpy(pystn.affine_grid(backend.array(theta), size, align_corners))
    found = pystn.linear_grid(backend.array(theta), backend.array(basis))
    np.testing.assert_allclose(backend.numpy(found), expected, atol=1e-14)
    scale, shift = rng.standard_normal((2, 1)), rng.standard_normal((2, ndim))
    attention = np.concatenate([scale[..., None] * np.eye(ndim), shift[..., None]], axis=-1)
    found = pystn.linear_grid(backend.array(attention), backend.array(basis))
    at = (slice(None), *[None] * ndim)
    np.testing.assert_allclose(backend.numpy(found), scale[at] * x + shift[at], atol=1e-14)


def test_a_shared_basis_and_a_repeated_one_agree(backend, rng):
    theta, basis = drawn(rng, (3, 1), (2,), (5, 6), 2, False)
    repeated = np.repeat(basis, 3, axis=0)
    u = backend.array(rng.standard_normal((3, 2, 5, 6, 2)))
    theta = backend.array(theta)
    np.testing.assert_allclose(
        backend.numpy(pystn.linear_grid(theta, backend.array(basis))),
        backend.numpy(pystn.linear_grid(theta, backend.array(repeated))),
        atol=1e-14,
    )
    shared = pystn.linear_grid_vjp(u, theta, backend.array(basis))
    apart = pystn.linear_grid_vjp(u, theta, backend.array(repeated))
    np.testing.assert_allclose(backend.numpy(shared[0]), backend.numpy(apart[0]), atol=1e-13)
    np.testing.assert_allclose(backend.numpy(shared[1])[0], backend.numpy(apart[1]).sum(axis=0), atol=1e-13)


def test_sums_run_in_double(backend, rng):
    cotangent = (rng.standard_normal((1, 700, 900, 2)) + 1).astype(np.float32)
    basis = (rng.standard_normal((1, 3, 700, 900)) + 1).astype(np.float32)
    theta = np.zeros((1, 2, 3), np.float32)
    grad, _ = pystn.linear_grid_vjp(*map(backend.array, (cotangent, theta, basis)), wrt="theta")
    expected = np.einsum("nhwa,nkhw->nak", cotangent.astype(float), basis.astype(float))
    np.testing.assert_allclose(backend.numpy(grad), expected, rtol=2e-7)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_shape_and_strides(data):
    integers = st.integers
    n = data.draw(integers(0, 3))
    batches = data.draw(st.sampled_from([(n, n), (n, 1), (1, n)]))
    k = tuple(data.draw(st.lists(integers(0, 2), max_size=2)))
    points = tuple(data.draw(st.lists(integers(0, 3), max_size=3)))
    q, ndim = data.draw(integers(0, 3)), data.draw(integers(1, 3))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(data.draw(integers(0, 2**32 - 1)))
    views = [np.asarray, lambda a: np.flip(np.flip(a).copy()), lambda a: np.ascontiguousarray(a.T).T]
    theta = data.draw(st.sampled_from(views))(rng.standard_normal((batches[0], *k, ndim, q)).astype(dtype))
    basis = data.draw(st.sampled_from(views))(rng.standard_normal((batches[1], q, *points)).astype(dtype))
    expected = slow(theta, basis, False)
    grid = pystn.linear_grid(theta, basis)
    assert grid.shape == expected.shape
    np.testing.assert_allclose(grid, expected, rtol=1e-5, atol=1e-5)
    out = data.draw(st.sampled_from(views))(np.full(grid.shape, np.nan, dtype))
    assert pystn.linear_grid(theta, basis, out=out) is out
    np.testing.assert_array_equal(out, grid)
    u = data.draw(st.sampled_from(views))(rng.standard_normal(grid.shape).astype(dtype))
    gradients = pystn.linear_grid_vjp(u, theta, basis)
    assert [g.shape for g in gradients] == [theta.shape, basis.shape]
    pushed = pystn.linear_grid_jvp(theta, basis, theta, basis)
    assert_adjoint(pushed, u, gradients, (theta, basis))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("homogeneous", [False, True])
def test_bad_numbers_stay_with_their_entry(backend, rng, bad, homogeneous):
    theta, basis = drawn(rng, (3, 1), (), (4, 5), 2, homogeneous)
    expected = backend.numpy(pystn.linear_grid(backend.array(theta), backend.array(basis), homogeneous=homogeneous))
    theta[1] = bad
    grid = backend.numpy(pystn.linear_grid(backend.array(theta), backend.array(basis), homogeneous=homogeneous))
    assert not np.isfinite(grid[1]).any()
    np.testing.assert_array_equal(grid[::2], expected[::2])


ERRORS = [
    (TypeError, "theta must be a numpy.ndarray", [[1.0]], np.ones((1, 3, 4)), {}),
    (TypeError, "theta must be float32 or float64", np.ones((1, 2, 3), int), np.ones((1, 3, 4)), {}),
    (
        ValueError,
        r"theta must have shape \(N, ..., ndim, q\) with ndim 1 to 3: got \(1, 4, 3\)",
        np.ones((1, 4, 3)),
        np.ones((1, 3, 4)),
        {},
    ),
    (
        ValueError,
        r"theta must have shape \(N, ..., ndim \+ 1, q\)",
        np.ones((1, 1, 3)),
        np.ones((1, 3, 4)),
        {"homogeneous": True},
    ),
    (
        ValueError,
        r"basis must have shape \(N, 3, ...\) for theta \(N, ..., 3\): got \(1, 2, 4\)",
        np.ones((1, 2, 3)),
        np.ones((1, 2, 4)),
        {},
    ),
    (TypeError, "basis must have the dtype of theta, float32", np.ones((1, 2, 3), np.float32), np.ones((1, 3, 4)), {}),
    (
        ValueError,
        "batch sizes of theta and basis must agree or one of them be 1: got 2 and 3",
        np.ones((2, 2, 3)),
        np.ones((3, 3, 4)),
        {},
    ),
    (
        ValueError,
        "min_denominator must be positive",
        np.ones((1, 2, 3)),
        np.ones((1, 3, 4)),
        {"homogeneous": True, "min_denominator": 0.0},
    ),
    (TypeError, "homogeneous must be True or False", np.ones((1, 2, 3)), np.ones((1, 3, 4)), {"homogeneous": 1}),
    (
        ValueError,
        r"out must have shape \(1, 4, 2\)",
        np.ones((1, 2, 3)),
        np.ones((1, 3, 4)),
        {"out": np.ones((1, 4, 3))},
    ),
]


@pytest.mark.parametrize("error, message, theta, basis, options", ERRORS, ids=[e[1][:40] for e in ERRORS])
def test_errors_name_what_was_given(error, message, theta, basis, options):
    with pytest.raises(error, match=message):
        pystn.linear_grid(theta, basis, **options)


def test_errors_of_the_derivatives():
    theta, basis, grid = np.ones((1, 2, 3)), np.ones((1, 3, 4)), np.ones((1, 4, 2))
    with pytest.raises(ValueError, match="grad_grid must have the shape of the grid"):
        pystn.linear_grid_vjp(grid[:, 1:], theta, basis)
    with pytest.raises(ValueError, match="unknown entry of wrt"):
        pystn.linear_grid_vjp(grid, theta, basis, wrt="grid")
    with pytest.raises(ValueError, match="d_basis must have the shape of basis"):
        pystn.linear_grid_jvp(theta, basis, None, theta)
    with pytest.raises(TypeError, match="gg_theta must have the dtype of theta"):
        pystn.linear_grid_vjp2(theta.astype(np.float32), None, grid, theta, basis)


# Matrices few and many, of few and many functions, points that fill whole vectors and chunks and that do not.
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("points", [1, 15, 16, 1030])
@pytest.mark.parametrize("matrices, q", [(1, 1), (3, 2), (4, 9), (9, 33), (41, 7), (2, 600), (10, 520)])
def test_every_way_of_the_kernel(backend, rng, matrices, q, points, ndim, dtype, tolerance):
    theta, basis = (
        rng.standard_normal((matrices, ndim, q)).astype(dtype),
        rng.standard_normal((q, points)).astype(dtype),
    )
    cotangent = rng.standard_normal((matrices, points, ndim)).astype(dtype)
    arrays = [backend.array(a) for a in (theta, basis[None])]
    grid = backend.numpy(pystn.linear_grid(*arrays))
    wide = [a.astype(np.float64) for a in (theta, basis, cotangent)]
    expected = np.einsum("mak,kp->mpa", *wide[:2])
    np.testing.assert_allclose(grid, expected, rtol=0, atol=tolerance * max(q, 10) ** 0.5)
    (grad_theta, _) = pystn.linear_grid_vjp(backend.array(cotangent), *arrays, wrt="theta")
    expected = np.einsum("mpa,kp->mak", wide[2], wide[1])
    np.testing.assert_allclose(backend.numpy(grad_theta), expected, rtol=0, atol=tolerance * max(points, 10) ** 0.5)
    # Each matrix has the grid that it has alone.
    alone = pystn.linear_grid(backend.array(theta[-1:].copy()), arrays[1])
    np.testing.assert_array_equal(grid[-1:], backend.numpy(alone))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("q", [3, 9])
def test_a_basis_that_no_near_cache_holds(rng, dtype, ndim, q):
    """Of one matrix it is read function by function; the bits are those of a matrix among others."""
    theta, basis = rng.standard_normal((2, ndim, q)).astype(dtype), rng.standard_normal((1, q, 150_001)).astype(dtype)
    together = pystn.linear_grid(theta, basis)
    for m in range(2):
        np.testing.assert_array_equal(pystn.linear_grid(theta[m : m + 1], basis)[0], together[m])
    np.testing.assert_allclose(
        together[1], (theta[1].astype(float) @ basis[0]).T, rtol=0, atol=100 * np.finfo(dtype).eps
    )
