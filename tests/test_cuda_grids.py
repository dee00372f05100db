"""Grids and the spline filter by the CUDA backend's entry points, against the CPU's: their kernels run by g++."""

import cuda_host
import numpy as np
import pytest

from pystn.backends import _cpu

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")

DTYPES = [np.float32, np.float64]
# With axes of one pixel, rows of one, few and many pixels, and tiles that are cut off.
SIZES = [
    (1,),
    (5,),
    (3000,),
    (1, 1),
    (7, 1),
    (1, 70),
    (70, 37),
    (300, 9),
    (1, 1, 1),
    (3, 4, 5),
    (1, 2, 100),
    (40, 1, 9),
]
LAYOUTS = {
    "packed": lambda a: a,
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=-1), 2, axis=-2)[..., ::2, ::2],
}


@pytest.fixture(scope="module")
def cp():
    return cuda_host.install()


@pytest.fixture(params=["int", "long long"])
def grids(request, monkeypatch, cp):
    """With indices of 64 bits too, which else only large arrays have."""
    from pystn.backends.cuda import grids

    if request.param == "long long":
        monkeypatch.setattr(grids, "integer_for", lambda *counts: "long long")
    return grids


@pytest.fixture(scope="module")
def splines(cp):
    from pystn.backends.cuda import splines

    return splines


def on_device(array):
    return cuda_host.laid_out(array)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_grid(grids, rng, dtype, size, align_corners, layout):
    ndim = len(size)
    theta = rng.standard_normal((3, ndim, ndim + 1)).astype(dtype)
    expected = np.empty((3, *size, ndim), dtype)
    _cpu.affine_grid(theta, expected, align_corners, 1)
    grid = on_device(LAYOUTS[layout](np.full_like(expected, np.nan)))
    with cuda_host.no_synchronisation():
        grids.affine_grid(on_device(theta), grid, align_corners)
    np.testing.assert_array_equal(grid.get(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_grid_vjp(grids, cp, rng, dtype, size, align_corners, layout):
    ndim = len(size)
    grad = rng.standard_normal((3, *size, ndim)).astype(dtype)
    expected = np.empty((3, _cpu.lattice_row_chunks(grad), ndim, ndim + 1))
    _cpu.affine_grid_vjp(grad, expected, align_corners, 1)
    given = on_device(LAYOUTS[layout](grad))
    results = []
    for seed in (0, 1):
        partial = cp.empty((3, grids.lattice_row_chunks(given), ndim, ndim + 1), np.float64)
        with cuda_host.no_synchronisation(), cuda_host.order(seed):
            grids.affine_grid_vjp(given, partial, align_corners)
        results.append(partial.get())
    np.testing.assert_array_equal(*results)
    tolerance = 1e-15 * np.abs(grad).astype(np.float64).sum()
    np.testing.assert_allclose(results[0].sum(axis=1), expected.sum(axis=1), rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [(3,), (8, 8), (2, 3, 2)], ids=str)
def test_affine_grid_of_many_matrices(grids, cp, rng, size):
    ndim, count = len(size), 2000
    theta = rng.standard_normal((count, ndim, ndim + 1)).astype(np.float32)
    expected = np.empty((count, *size, ndim), np.float32)
    _cpu.affine_grid(theta, expected, False, 1)
    grid = cp.empty(expected.shape, np.float32)
    grids.affine_grid(on_device(theta), grid, False)
    np.testing.assert_array_equal(grid.get(), expected)
    sums = np.empty((count, 1, ndim, ndim + 1))
    _cpu.affine_grid_vjp(expected, sums, False, 1)
    partial = cp.empty((count, grids.lattice_row_chunks(grid), ndim, ndim + 1), np.float64)
    grids.affine_grid_vjp(grid, partial, False)
    np.testing.assert_allclose(partial.get().sum(axis=1), sums.sum(axis=1), rtol=0, atol=1e-12)


def test_a_matrix_has_the_sums_that_it_has_alone(grids, cp, rng):
    grad = on_device(rng.standard_normal((5, 70, 37, 2)))
    chunks = grids.lattice_row_chunks(grad)
    assert grids.lattice_row_chunks(grad[:1]) == chunks
    together, alone = cp.empty((5, chunks, 2, 3)), cp.empty((1, chunks, 2, 3))
    grids.affine_grid_vjp(grad, together, False)
    for m in range(5):
        grids.affine_grid_vjp(grad[m : m + 1], alone, False)
        np.testing.assert_array_equal(together.get()[m], alone.get()[0])


@pytest.mark.parametrize("cull_behind", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 70)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_projective_grid(grids, cp, rng, dtype, size, layout, cull_behind):
    """Grid and tangent to the bit, both gradients to rounding; the horizon crosses some of the lattices."""
    theta = rng.standard_normal((3, 3, 3)).astype(dtype)
    theta[:, 2, 2] += 1
    other, grad = (rng.standard_normal(shape).astype(dtype) for shape in (theta.shape, (3, *size, 2)))
    options = (True, 0.05, cull_behind)
    for tangent in (None, other):
        expected = np.empty((3, *size, 2), dtype)
        _cpu.projective_grid(theta, tangent, expected, *options, 1)
        found = on_device(LAYOUTS[layout](np.zeros((3, *size, 2), dtype)))
        given = on_device(theta), None if tangent is None else on_device(tangent)
        partial = np.empty((3, _cpu.lattice_row_chunks(grad), 3, 3))
        _cpu.projective_grid_vjp(grad, theta, tangent, partial, *options, 1)
        sums = cp.empty((3, grids.lattice_row_chunks(found), 3, 3))
        with cuda_host.no_synchronisation():
            grids.projective_grid(*given, found, *options)
            grids.projective_grid_vjp(on_device(LAYOUTS[layout](grad)), *given, sums, *options)
        np.testing.assert_array_equal(found.get(), expected)
        bound = 100 * np.finfo(dtype).eps * max(1, np.abs(partial).max()) * grad[0].size ** 0.5
        np.testing.assert_allclose(sums.get().sum(axis=1), partial.sum(axis=1), rtol=0, atol=bound)


# Bases, matrices of each, functions, points.
LINEAR = [
    (1, 1, 1, 1),
    (2, 1, 7, 600),
    (1, 3, 33, 2049),
    (2, 5, 70, 50),
    (3, 4, 6, 1025),
    (1, 8, 32, 64),
    (1, 9, 3, 5000),
]


@pytest.mark.parametrize("bases, per_basis, functions, points", LINEAR)
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_grid(grids, cp, rng, dtype, rows, bases, per_basis, functions, points):
    theta = rng.standard_normal((bases * per_basis, rows, functions)).astype(dtype)
    basis = rng.standard_normal((bases, functions, points)).astype(dtype)
    expected = np.empty((bases * per_basis, points, rows), dtype)
    _cpu.linear_grid(theta, basis, expected, 1)
    grid = cp.full(expected.shape, np.nan, dtype)
    with cuda_host.no_synchronisation():
        grids.linear_grid(on_device(theta), on_device(basis), grid)
    np.testing.assert_array_equal(grid.get(), expected)


@pytest.mark.parametrize("bases, per_basis, functions, points", LINEAR)
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_grid_vjp(grids, rng, dtype, rows, bases, per_basis, functions, points):
    basis = rng.standard_normal((bases, functions, points)).astype(dtype)
    grad = rng.standard_normal((bases * per_basis, points, rows)).astype(dtype)
    given = [on_device(a) for a in (grad, basis)]
    results = []
    for seed in (0, 1):
        with cuda_host.no_synchronisation(), cuda_host.order(seed):
            results.append(grids.linear_grid_vjp(*given))
    results = [partial.get() for partial in results]
    np.testing.assert_array_equal(*results)
    assert results[0].dtype == np.float64
    wide = grad.reshape(bases, per_basis, points, rows).astype(np.float64)
    shape = (bases * per_basis, functions, rows)
    expected = np.einsum("bmpr,bkp->bmkr", wide, basis.astype(np.float64)).reshape(shape)
    bound = np.einsum("bmpr,bkp->bmkr", np.abs(wide), np.abs(basis).astype(np.float64)).reshape(shape)
    assert (np.abs(results[0].sum(axis=1) - expected) <= 8 * np.finfo(dtype).eps * bound).all()


@pytest.mark.parametrize("per_basis", [1, 5, 8])
def test_a_matrix_has_the_linear_grid_that_it_has_alone(grids, cp, rng, per_basis):
    """Whatever the number of matrices that share what is read of the basis."""
    theta, basis = rng.standard_normal((per_basis, 2, 11)), rng.standard_normal((1, 11, 3000))
    theta, basis = on_device(theta.astype(np.float32)), on_device(basis.astype(np.float32))
    together, alone = cp.empty((per_basis, 3000, 2), np.float32), cp.empty((1, 3000, 2), np.float32)
    grids.linear_grid(theta, basis, together)
    sums = grids.linear_grid_vjp(together, basis)
    for m in range(per_basis):
        grids.linear_grid(theta[m : m + 1], basis, alone)
        np.testing.assert_array_equal(together.get()[m], alone.get()[0])
        np.testing.assert_array_equal(sums.get()[m], grids.linear_grid_vjp(alone, basis).get()[0])


def test_a_linear_grid_without_functions_is_zero(grids, cp):
    grid = cp.full((2, 5, 3), np.nan)
    grids.linear_grid(cp.empty((2, 3, 0)), cp.empty((1, 0, 5)), grid)
    assert not grid.get().any()


LENGTHS = [1, 2, 3, 4, 5, 7, 15, 16, 17, 33, 128, 131, 143, 144, 145, 147, 201]


def filtered(splines, source, target, *options):
    with cuda_host.no_synchronisation():
        splines.spline_filter(source, target, *options)
    return target.get()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("boundary", range(6))
@pytest.mark.parametrize("order", range(2, 8))
def test_spline_filter(splines, cp, rng, order, boundary, transposed):
    """To the bits of the CPU: every length, then every axis and dtype, in place and not."""
    for length in LENGTHS:
        source = rng.standard_normal((1, length, 3))
        expected = np.empty_like(source)
        _cpu.spline_filter(source, expected, 1, order, boundary, transposed, 1)
        found = filtered(splines, on_device(source), cp.empty(source.shape), 1, order, boundary, transposed)
        np.testing.assert_array_equal(found, expected)
    for dtype in (np.float32, np.float64, np.complex64, np.complex128):
        source = rng.standard_normal((2, 3, 9, 10)).astype(dtype)
        if source.dtype.kind == "c":
            source += 1j * rng.standard_normal(source.shape)
        for axis in range(4):
            expected = np.empty_like(source)
            _cpu.spline_filter(source, expected, axis, order, boundary, transposed, 1)
            given = on_device(source)
            target = cp.empty(source.shape, dtype)
            for to in (target, given):
                found = filtered(splines, given, to, axis, order, boundary, transposed)
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_spline_filter_of_any_strides(splines, rng, dtype, layout, to):
    source = rng.standard_normal((2, 1, 9, 10)).astype(dtype)
    expected = np.empty_like(source)
    for axis in range(4):
        _cpu.spline_filter(source, expected, axis, 3, 4, False, 1)
        target = on_device(LAYOUTS[to](np.full_like(source, np.nan)))
        found = filtered(splines, on_device(LAYOUTS[layout](source)), target, axis, 3, 4, False)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("budget", [1, 8 * 20 * 5, 8 * 20 * 100])
def test_spline_filter_in_parts(splines, cp, rng, monkeypatch, budget):
    """Its scratch memory is bounded, and lines know nothing of each other."""
    monkeypatch.setattr(splines, "SCRATCH_BYTES", budget)
    source = rng.standard_normal((7, 20, 31))
    source[3, 4, 5] = np.nan
    expected = np.empty_like(source)
    _cpu.spline_filter(source, expected, 1, 5, 2, False, 1)
    allocated, empty = [], cp.empty

    def counted(shape, dtype):
        allocated.append(np.prod(shape) * np.dtype(dtype).itemsize)
        return empty(shape, dtype)

    monkeypatch.setattr(cp, "empty", counted)
    target = on_device(np.zeros_like(source))
    found = filtered(splines, on_device(source), target, 1, 5, 2, False)
    np.testing.assert_array_equal(found, expected)
    assert np.isnan(found).sum() == 20
    assert max(allocated) <= max(budget, 8 * 20, 8 * splines.MOST_FACTORS)


def test_structs_and_names(grids, splines):
    assert grids.LATTICE_JOB.itemsize == 8 * 19
    assert grids.LINEAR_JOB.itemsize == 8 * 8
    assert splines.SPLINE_JOB.itemsize == 8 * 29
    assert len(set(grids.names())) == len(grids.names()) == 24 + 8 + 64
    assert len(set(splines.names())) == len(splines.names()) == 8
