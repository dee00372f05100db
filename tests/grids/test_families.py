"""What is asked of every family of grids: identity, derivatives, shapes, strides, numbers that are not nice, errors."""

import copy
import pickle

import numpy as np
import pytest
from conftest import assert_same_sums
from families import CELLS, FAMILIES, SIZES, parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn

cells = pytest.mark.parametrize("name, size", CELLS, ids=[f"{name}-{size}" for name, size in CELLS])
names = pytest.mark.parametrize("name", FAMILIES)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])

# All that are the image at its pixels: no Gaussian, no B-spline of order 2 or more that is not prefiltered.
INTERPOLATING = (
    "nearest",
    pystn.Nearest(ties="up"),
    "linear",
    pystn.Cubic(),
    pystn.Cubic(a=-0.5),
    pystn.BSpline(0),
    pystn.BSpline(1),
    *[pystn.BSpline(order, prefilter=True) for order in range(2, 8)],
    *[pystn.Lanczos(a) for a in (2, 3, 4)],
    pystn.Tabulated((0.0, 0.3, 1.0, 0.3, 0.0), 1.0),
)


def make(name, size=None, align_corners=False):
    ndim, maker = FAMILIES[name]
    return maker(pystn, SIZES[ndim][0] if size is None else size, align_corners)


@cells
@dtypes
@pytest.mark.parametrize("align_corners", [False, True])
def test_identity_moves_nothing(backend, name, size, dtype, align_corners):
    family = make(name, size, align_corners)
    theta = family.identity(2, dtype)
    assert theta.shape == (2, *family.theta_shape)
    assert theta.dtype == dtype
    assert theta.flags.c_contiguous
    theta[1] = theta[0]  # they are arrays of their own
    grid = backend.numpy(family(backend.array(theta)))
    assert grid.shape == (2, *size, len(size))
    assert grid.dtype == dtype
    matrix = np.repeat(np.eye(len(size), len(size) + 1, dtype=dtype)[None], 2, axis=0)
    lattice = backend.numpy(pystn.affine_grid(backend.array(matrix), size, align_corners))
    # Bit for bit, but for splines, whose weights of the points are rounded. Displacements, which are 0 whatever weighs
    # them, would need the lattice as further rows of the basis: of 16 points an eighth of the time of a grid.
    rounding = 32 * np.finfo(dtype).eps if isinstance(family, pystn.ThinPlateSpline) else 0
    np.testing.assert_allclose(grid, lattice, rtol=0, atol=rounding)


@cells
@pytest.mark.parametrize("align_corners", [False, True])
def test_an_image_sampled_at_the_identity_is_itself(backend, rng, name, size, align_corners):
    family = make(name, size, align_corners)
    image = rng.standard_normal((1, 2, *size))
    grid = family(backend.array(family.identity()))
    modes = INTERPOLATING if backend.name != "cuda-host" else ("nearest", "linear")  # each has to be compiled there
    for mode in modes:
        options = {"mode": mode, "padding_mode": "border", "align_corners": align_corners}
        sampled = backend.numpy(pystn.grid_sample(backend.array(image), grid, **options))
        copied = mode in ("nearest", pystn.Nearest("up"), pystn.BSpline(0))
        np.testing.assert_allclose(sampled, image, rtol=0, atol=0 if copied else 1e-13, err_msg=str(mode))


@cells
@dtypes
def test_jvp_and_vjp_are_adjoint(backend, rng, name, size, dtype):
    family = make(name, size)
    theta = parameters(family, rng, (2, 3), dtype)
    d_theta = rng.standard_normal(theta.shape).astype(dtype)
    u = rng.standard_normal((2, 3, *size, family.ndim)).astype(dtype)
    pushed = backend.numpy(family.jvp(backend.array(theta), backend.array(d_theta)))
    (pulled,) = family.vjp(backend.array(u), backend.array(theta))
    assert pushed.shape == u.shape
    assert backend.numpy(pulled).shape == theta.shape
    assert pushed.dtype == backend.numpy(pulled).dtype == dtype
    assert_adjoint(pushed, u, [backend.numpy(pulled)], [d_theta])
    assert not backend.numpy(family.jvp(backend.array(theta), None)).any()


@cells
@pytest.mark.parametrize("align_corners", [False, True])
def test_derivatives_equal_central_differences(backend, rng, name, size, align_corners):
    family = make(name, size, align_corners)
    theta = parameters(family, rng, (2, 2))
    d_theta = rng.standard_normal(theta.shape)

    def grid(theta):
        return backend.numpy(family(backend.array(theta)))

    pushed = backend.numpy(family.jvp(backend.array(theta), backend.array(d_theta)))
    assert_close(pushed, difference(grid, [theta], [d_theta]))
    (gradient,) = family.vjp(backend.array(3 * (grid(theta) + 1) ** 2), backend.array(theta))
    slope = difference(lambda theta: ((grid(theta) + 1) ** 3).sum(), [theta], [d_theta])
    np.testing.assert_allclose((backend.numpy(gradient) * d_theta).sum(), slope, rtol=1e-6)


@cells
@pytest.mark.parametrize("align_corners", [False, True])
def test_second_derivatives_to_the_parameters(backend, rng, name, size, align_corners):
    family = make(name, size, align_corners)
    theta = parameters(family, rng, (2, 2))
    along, across = rng.standard_normal((2, *theta.shape))
    u = rng.standard_normal((2, 2, *size, family.ndim))

    def vjp(*arrays):
        return [backend.numpy(g) for g in family.vjp(*map(backend.array, arrays))]

    def vjp2(*arrays):
        return [backend.numpy(g) for g in family.vjp2(*map(backend.array, arrays))]

    assert_second_order(vjp, vjp2, u, [theta], [along], [across])


@names
@dtypes
def test_second_derivatives_have_the_shapes_and_dtypes_of_what_they_are_to(backend, rng, name, dtype):
    family = make(name)
    theta, gg = parameters(family, rng, (2, 3), dtype), rng.standard_normal((2, 3, *family.theta_shape)).astype(dtype)
    u = rng.standard_normal((2, 3, *family.size, family.ndim)).astype(dtype)
    arrays = [backend.array(a) for a in (gg, u, theta)]
    found = [backend.numpy(g) for g in family.vjp2(*arrays)]
    for gradient, like in zip(found, (u, theta), strict=True):
        assert gradient.shape == like.shape
        assert gradient.dtype == dtype
    exact = [backend.numpy(g) for g in family.vjp2(*(backend.array(a.astype(float)) for a in (gg, u, theta)))]
    for gradient, expected in zip(found, exact, strict=True):
        assert_close(gradient, expected, 1e-3 if dtype == np.float32 else 1e-13)
    for wrt, at in (("grad_grid", 0), ("theta", 1)):
        alone = family.vjp2(*arrays, wrt=wrt)
        assert len(alone) == 2
        assert alone[1 - at] is None
        assert_same_sums(backend, backend.numpy(alone[at]), found[at])
    zero = family.vjp2(None, *arrays[1:], wrt=("theta", "grad_grid", *family._state))
    for gradient, like in zip(zero, (u, theta, *(getattr(family, n) for n in family._state)), strict=True):
        assert gradient.shape == like.shape
        assert gradient.dtype == like.dtype
        assert not backend.numpy(gradient).any()
    assert family.vjp2(*arrays, wrt=()) == (None, None)


@names
def test_each_entry_has_the_grid_that_it_has_alone(backend, rng, name):
    family = make(name)
    theta = parameters(family, rng, (2, 3))
    u = rng.standard_normal((2, 3, *family.size, family.ndim))
    grid = backend.numpy(family(backend.array(theta)))
    gradient = backend.numpy(family.vjp(backend.array(u), backend.array(theta))[0])
    for n, k in np.ndindex(2, 3):
        one = backend.array(theta[n, k][None])
        np.testing.assert_allclose(backend.numpy(family(one))[0], grid[n, k], rtol=0, atol=1e-14)
        (alone,) = family.vjp(backend.array(u[n, k][None]), one)
        assert_close(backend.numpy(alone)[0], gradient[n, k], 1e-13)


@names
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_any_shape_and_strides(name, data):
    leading = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    ndim = FAMILIES[name][0]
    size = tuple(data.draw(st.lists(st.integers(0, 4), min_size=ndim, max_size=ndim)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    views = st.sampled_from([np.asarray, lambda a: np.flip(np.flip(a).copy()), lambda a: np.ascontiguousarray(a.T).T])
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    family = make(name, size)
    theta = parameters(family, rng, leading, dtype)
    u = rng.standard_normal((*leading, *size, ndim)).astype(dtype)
    grid, (gradient,) = family(theta), family.vjp(u, theta)
    assert grid.shape == u.shape
    assert gradient.shape == theta.shape
    out = data.draw(views)(np.full(grid.shape, np.nan, dtype))
    viewed = data.draw(views)(theta)
    assert family(viewed, out=out) is out
    tolerance = 1e-13 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(out, grid, rtol=tolerance, atol=tolerance)
    (found,) = family.vjp(data.draw(views)(u), viewed)
    np.testing.assert_allclose(found, gradient, rtol=tolerance, atol=100 * tolerance)


@names
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_numbers_stay_with_their_entry(backend, rng, name, bad):
    family = make(name)
    theta = parameters(family, rng, (3,))
    expected = backend.numpy(family(backend.array(theta)))
    theta[1] = bad
    grid = backend.numpy(family(backend.array(theta)))
    assert not np.isfinite(grid[1]).any()
    np.testing.assert_allclose(grid[::2], expected[::2], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("velocity")])
def test_sums_run_in_double(backend, rng, name):
    """The gradient of a large float32 grid is right to float32's last digits, not to its sums'.

    A flow of velocities at every pixel has no such sums; it interpolates at positions that are float32.
    """
    ndim = FAMILIES[name][0]
    family = make(name, {1: (200_000,), 2: (400, 500), 3: (20, 90, 110)}[ndim])
    theta = family.identity(1, np.float32)
    u = (rng.standard_normal((1, *family.size, ndim)) + 1).astype(np.float32)
    (gradient,) = family.vjp(backend.array(u), backend.array(theta))
    (expected,) = family.vjp(backend.array(u.astype(float)), backend.array(theta.astype(float)))
    assert_close(backend.numpy(gradient), backend.numpy(expected), 5e-7)


@names
def test_objects_are_immutable_and_say_how_they_were_made(rng, name):
    family = make(name)
    assert repr(family).startswith(f"{type(family).__name__}(")
    assert str(family.size) in repr(family)
    with pytest.raises(AttributeError, match="is immutable: cannot set size"):
        family.size = (1,)
    for value in vars(family).values():
        assert not isinstance(value, np.ndarray) or not value.flags.writeable
    theta = parameters(family, rng, (2,))
    for twin in (copy.deepcopy(family), pickle.loads(pickle.dumps(family))):
        np.testing.assert_array_equal(twin(theta), family(theta))


@names
def test_errors_name_what_was_given(name):
    family = make(name)
    theta = family.identity()
    shape = ", ".join(map(str, family.theta_shape))
    grid = family(theta)
    for call in (family, lambda t: family.vjp(grid, t), lambda t: family.jvp(t, None)):
        with pytest.raises(ValueError, match=rf"theta must have shape \(N, ..., {shape}\): got"):
            call(theta[..., 1:])
        with pytest.raises(ValueError, match=rf"theta must have shape \(N, ..., {shape}\): got"):
            call(theta[0])
        with pytest.raises(TypeError, match="theta must be float32 or float64"):
            call(theta.astype(int))
        with pytest.raises(TypeError, match=r"theta must be a numpy.ndarray"):
            call(theta.tolist())
    with pytest.raises(ValueError, match="grad_grid must have the shape of the grid"):
        family.vjp(grid[..., :0], theta)
    with pytest.raises(ValueError, match="unknown entry of wrt"):
        family.vjp(grid, theta, wrt="phase")
    with pytest.raises(ValueError, match="grad_grid must have the shape of the grid"):
        family.vjp2(None, grid[..., :0], theta)
    with pytest.raises(ValueError, match="gg_theta must have the shape of theta"):
        family.vjp2(theta[..., :0], grid, theta)
    with pytest.raises(TypeError, match="gg_theta must have the dtype of theta"):
        family.vjp2(theta.astype(np.float32), grid, theta)
    with pytest.raises(ValueError, match="unknown entry of wrt"):
        family.vjp2(theta, grid, theta, wrt="phase")
    with pytest.raises(ValueError, match=rf"theta must have shape \(N, ..., {shape}\): got"):
        family.vjp2(None, grid, theta[0])
    with pytest.raises(TypeError, match="d_theta must have the dtype of theta"):
        family.jvp(theta, theta.astype(np.float32))
    with pytest.raises(TypeError, match="out must have dtype float64"):
        family(theta, out=grid.astype(np.float32))
    with pytest.raises(TypeError, match="align_corners must be True or False"):
        make(name, align_corners=0)
    assert family.vjp(grid, theta, wrt=()) == (None,)
