"""The affine grid: its equation, its derivatives, its lattice."""

import numpy as np
import oracle
import pytest
from jacobians import assert_adjoint

import pystn

SIZES = [(6,), (1,), (700,), (4, 5), (1, 7), (7, 1), (1, 1), (300, 9), (3, 700), (3, 4, 5), (1, 2, 300), (30, 1, 9)]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("leading", [(1,), (3,), (2, 3), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_equals_the_oracle(backend, rng, align_corners, size, leading, dtype, tolerance):
    ndim = len(size)
    theta = rng.standard_normal((*leading, ndim, ndim + 1)).astype(dtype)
    cotangent = rng.standard_normal((*leading, *size, ndim)).astype(dtype)
    grid = backend.numpy(pystn.affine_grid(backend.array(theta), size, align_corners))
    (grad,) = pystn.affine_grid_vjp(backend.array(cotangent), backend.array(theta), size, align_corners)
    assert grid.dtype == backend.numpy(grad).dtype == dtype
    np.testing.assert_allclose(grid, oracle.affine_grid(theta, size, align_corners), rtol=0, atol=8 * tolerance)
    expected = oracle.affine_grid_vjp(cotangent, theta, size, align_corners)
    np.testing.assert_allclose(backend.numpy(grad), expected, rtol=tolerance, atol=tolerance * np.prod(size) ** 0.5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity_is_the_lattice_bit_for_bit(backend, align_corners, size, dtype):
    """And the lattice is symmetric, with the middle of an odd axis at exactly 0."""
    ndim = len(size)
    theta = np.eye(ndim, ndim + 1, dtype=dtype)[None]
    grid = backend.numpy(pystn.affine_grid(backend.array(theta), size, align_corners))[0]
    for axis in range(ndim):
        m = size[ndim - 1 - axis]
        j = np.arange(m)
        if align_corners:
            expected = (2 * j - (m - 1)).astype(dtype) / dtype(m - 1) if m > 1 else np.zeros(1, dtype)
        else:
            expected = (2 * j + 1 - m).astype(dtype) / dtype(m)
        along = np.moveaxis(grid[..., axis], ndim - 1 - axis, -1)
        np.testing.assert_array_equal(along, np.broadcast_to(expected, along.shape))
        np.testing.assert_array_equal(expected, -expected[::-1])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_jvp_and_vjp_are_adjoint(backend, rng, size, align_corners, dtype, tolerance):
    ndim = len(size)
    theta, d_theta = rng.standard_normal((2, 2, 3, ndim, ndim + 1)).astype(dtype)
    u = rng.standard_normal((2, 3, *size, ndim)).astype(dtype)
    arrays = [backend.array(a) for a in (theta, d_theta, u)]
    pushed = backend.numpy(pystn.affine_grid_jvp(*arrays[:2], size, align_corners))
    (pulled,) = pystn.affine_grid_vjp(arrays[2], arrays[0], size, align_corners)
    assert pushed.dtype == backend.numpy(pulled).dtype == dtype
    assert_adjoint(pushed, u, [backend.numpy(pulled)], [d_theta])
    # Linear in theta: the tangent is the difference of grids, exactly up to rounding.
    moved = pystn.affine_grid(backend.array(theta + d_theta), size, align_corners)
    base = pystn.affine_grid(arrays[0], size, align_corners)
    np.testing.assert_allclose(backend.numpy(moved) - backend.numpy(base), pushed, rtol=0, atol=tolerance)
    assert not backend.numpy(pystn.affine_grid_jvp(arrays[0], None, size, align_corners)).any()


def test_sums_run_in_double(backend, rng):
    """The gradient of a large float32 grid is right to float32's last digits, not to its sums'."""
    cotangent = (rng.standard_normal((1, 700, 900, 2)) + 1).astype(np.float32)
    theta = np.zeros((1, 2, 3), np.float32)
    (grad,) = pystn.affine_grid_vjp(backend.array(cotangent), backend.array(theta), (700, 900))
    expected = oracle.affine_grid_vjp(cotangent, theta, (700, 900), False)
    scale = np.abs(cotangent).astype(np.float64).sum()
    np.testing.assert_allclose(backend.numpy(grad), expected, rtol=1e-6, atol=1e-8 * scale)


def test_size_may_be_the_full_one(backend, rng):
    theta = backend.array(rng.standard_normal((2, 2, 3)))
    spatial = backend.numpy(pystn.affine_grid(theta, (4, 5)))
    for size in ((2, 7, 4, 5), [4, 5], np.array([4, 5])):
        np.testing.assert_array_equal(spatial, backend.numpy(pystn.affine_grid(theta, size)))


@pytest.mark.parametrize("leading", [(2, 3), (0,), (2, 0)], ids=str)
@pytest.mark.parametrize("size", [(4, 5), (0, 5), (4, 0)], ids=str)
def test_strides_out_and_empty(backend, rng, leading, size):
    theta = rng.standard_normal((*leading, 2, 3))
    cotangent = rng.standard_normal((*leading, *size, 2))
    expected = oracle.affine_grid(theta, size, False)
    gradient = oracle.affine_grid_vjp(cotangent, theta, size, False)
    for view in (np.asarray, lambda a: np.flip(np.flip(a).copy()), lambda a: np.ascontiguousarray(a.T).T):
        np.testing.assert_allclose(backend.numpy(pystn.affine_grid(backend.array(view(theta)), size)), expected)
        out = backend.array(view(np.full(expected.shape, np.nan)))
        assert pystn.affine_grid(backend.array(theta), size, out=out) is out
        np.testing.assert_allclose(backend.numpy(out), expected)
        grad_out = backend.array(view(np.full(theta.shape, np.nan)))
        (grad,) = pystn.affine_grid_vjp(
            backend.array(view(cotangent)), backend.array(view(theta)), size, out=(grad_out,)
        )
        assert grad is grad_out
        np.testing.assert_allclose(backend.numpy(grad), gradient, atol=1e-12)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(5, 6), (3, 4, 5)], ids=str)
def test_jvp_and_vjp_equal_central_differences(backend, rng, align_corners, size):
    """Of a loss that is not linear in the grid."""
    ndim = len(size)
    theta, direction = rng.standard_normal((2, 2, ndim, ndim + 1))
    h = 1e-5

    def grid(theta):
        return backend.numpy(pystn.affine_grid(backend.array(theta), size, align_corners))

    difference = (grid(theta + h * direction) - grid(theta - h * direction)) / (2 * h)
    tangent = pystn.affine_grid_jvp(backend.array(theta), backend.array(direction), size, align_corners)
    np.testing.assert_allclose(backend.numpy(tangent), difference, rtol=0, atol=1e-9)
    slope = ((grid(theta + h * direction) ** 3).sum() - (grid(theta - h * direction) ** 3).sum()) / (2 * h)
    cotangent = backend.array(3 * grid(theta) ** 2)
    (gradient,) = pystn.affine_grid_vjp(cotangent, backend.array(theta), size, align_corners)
    np.testing.assert_allclose((backend.numpy(gradient) * direction).sum(), slope, rtol=1e-6)


@pytest.mark.parametrize("size", [(4, 300), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_matrix_has_the_grid_that_it_has_alone(backend, rng, size, dtype):
    ndim = len(size)
    theta = rng.standard_normal((2, 3, ndim, ndim + 1)).astype(dtype)
    cotangent = rng.standard_normal((2, 3, *size, ndim)).astype(dtype)
    grid = backend.numpy(pystn.affine_grid(backend.array(theta), size))
    gradient = backend.numpy(pystn.affine_grid_vjp(backend.array(cotangent), backend.array(theta), size)[0])
    for n, k in np.ndindex(2, 3):
        one = backend.array(theta[n, k][None])
        np.testing.assert_array_equal(grid[n, k], backend.numpy(pystn.affine_grid(one, size))[0])
        (alone,) = pystn.affine_grid_vjp(backend.array(cotangent[n, k][None]), one, size)
        np.testing.assert_array_equal(gradient[n, k], backend.numpy(alone)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_misaligned_and_read_only_arrays_are_read(backend, rng, dtype):
    def misaligned(a):
        packed = np.zeros(a.shape, np.dtype([("pad", "i1"), ("value", dtype)]))
        packed["value"] = a
        assert not packed["value"].flags.aligned
        return packed["value"]

    def shifted(a):  # contiguous, and yet misaligned
        view = np.frombuffer(b"." + a.tobytes(), np.uint8)[1:].view(dtype).reshape(a.shape)
        assert view.flags.c_contiguous
        return view

    theta = rng.standard_normal((2, 3, 2, 3)).astype(dtype)
    cotangent = rng.standard_normal((2, 3, 5, 70, 2)).astype(dtype)
    expected = backend.numpy(pystn.affine_grid(backend.array(theta), (5, 70)))
    (gradient,) = pystn.affine_grid_vjp(backend.array(cotangent), backend.array(theta), (5, 70))
    for view in (misaligned, shifted):
        np.testing.assert_array_equal(backend.numpy(pystn.affine_grid(backend.array(view(theta)), (5, 70))), expected)
        tangent = pystn.affine_grid_jvp(backend.array(view(theta)), backend.array(view(theta)), (5, 70))
        np.testing.assert_array_equal(backend.numpy(tangent), expected)
        (grad,) = pystn.affine_grid_vjp(backend.array(view(cotangent)), backend.array(view(theta)), (5, 70))
        tolerance = 8 * np.finfo(dtype).eps * np.abs(backend.numpy(gradient)).max()
        np.testing.assert_allclose(backend.numpy(grad), backend.numpy(gradient), rtol=0, atol=tolerance)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_tangent_none_is_zero_whatever_theta_is(backend, bad):
    theta = backend.array(np.full((1, 2, 3), bad))
    assert not backend.numpy(pystn.affine_grid_jvp(theta, None, (2, 3))).any()


def test_out_writes_nothing_beside_it(backend, rng):
    theta = rng.standard_normal((2, 3, 2, 3))
    cotangent = rng.standard_normal((2, 3, 4, 5, 2))
    arrays = [backend.array(a) for a in (cotangent, theta)]
    for shape, call in (
        (cotangent.shape, lambda out: pystn.affine_grid(arrays[1], (4, 5), out=out)),
        (cotangent.shape, lambda out: pystn.affine_grid_jvp(arrays[1], arrays[1], (4, 5), out=out)),
        (cotangent.shape, lambda out: pystn.affine_grid_jvp(arrays[1], None, (4, 5), out=out)),
        (theta.shape, lambda out: pystn.affine_grid_vjp(*arrays, (4, 5), out=(out,))),
    ):
        frame = backend.array(np.full([n + 6 for n in shape], np.nan))
        inner = tuple(slice(3, -3) for _ in shape)
        call(frame[inner])
        assert np.isfinite(backend.numpy(frame)[inner]).all()
        frame[inner] = np.nan
        assert np.isnan(backend.numpy(frame)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_end_where_the_grid_does(backend, rng, dtype):
    """Rows without gaps are written by whole vectors, of any number of components."""
    for ndim in (1, 2, 3):
        for columns in (*range(1, 36), 257, 261):
            size = (2, 3, columns)[-ndim:]
            theta = rng.standard_normal((1, ndim, ndim + 1)).astype(dtype)
            expected = pystn.affine_grid(backend.array(theta), size)
            frame = backend.array(np.full(64 + expected.size, np.nan, dtype))
            pystn.affine_grid(backend.array(theta), size, out=frame[32:-32].reshape(expected.shape))
            found = backend.numpy(frame)
            np.testing.assert_array_equal(found[32:-32], backend.numpy(expected).ravel())
            np.testing.assert_allclose(found[32:-32], oracle.affine_grid(theta, size, False).ravel(), atol=1e-5)
            assert np.isnan(found[:32]).all()
            assert np.isnan(found[-32:]).all()


def test_gradient_of_a_warp_to_its_matrix(backend, rng):
    """The two operations composed: d loss / d theta against differences of the loss."""
    image = rng.standard_normal((2, 3, 20, 22))
    cotangent = rng.standard_normal((2, 3, 9, 8))
    theta = np.eye(2, 3) + 0.1 * rng.standard_normal((2, 2, 3))
    direction = rng.standard_normal(theta.shape)
    h = 1e-8  # so small that hardly a sample crosses a kink

    def loss(theta):
        grid = pystn.affine_grid(backend.array(theta), (9, 8))
        return (backend.numpy(pystn.grid_sample(backend.array(image), grid)) * cotangent).sum()

    grid = pystn.affine_grid(backend.array(theta), (9, 8))
    _, grad_grid = pystn.grid_sample_vjp(backend.array(cotangent), backend.array(image), grid, wrt="grid")
    (grad_theta,) = pystn.affine_grid_vjp(grad_grid, backend.array(theta), (9, 8))
    difference = (loss(theta + h * direction) - loss(theta - h * direction)) / (2 * h)
    np.testing.assert_allclose((backend.numpy(grad_theta) * direction).sum(), difference, rtol=1e-5)
