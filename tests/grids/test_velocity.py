"""Flows of stationary velocities."""

import re

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jacobians import assert_adjoint, assert_close, difference

import pystn

SIZES = [(9,), (1,), (6, 7), (1, 5), (4, 3, 5)]


def lattice(size, align_corners=False):
    return oracle.pixel_targets(size, align_corners)[:, :-1].reshape(*size, len(size))


def squared(theta, align_corners, steps):
    """By the equation: (N, *size, ndim) to the grid."""
    x = lattice(theta.shape[1:-1], align_corners)
    u = theta / 2.0**steps
    for _ in range(steps):
        options = {"mode": "linear", "padding_mode": "border", "align_corners": align_corners, "coords": "normalized"}
        pulled = oracle.grid_sample(np.moveaxis(u, -1, 1), x + u, **options)
        u = u + np.moveaxis(pulled, 1, -1)
    return x + u


def smooth(rng, shape, size, amplitude=0.3):
    """Velocities (*shape, *size, ndim) of a few waves."""
    ndim = len(size)
    points = lattice(size).reshape(-1, ndim)
    frequency, phase = rng.uniform(-2, 2, (*shape, ndim, ndim)), rng.uniform(0, 6, (*shape, ndim))
    waves = np.sin(np.einsum("...ab,pb->...pa", frequency, points) + phase[..., None, :])
    return amplitude * waves.reshape(*shape, *size, ndim)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 5e-6)])
def test_equals_the_equation(backend, rng, align_corners, size, dtype, tolerance):
    theta = rng.uniform(-1, 1, (2, 3, *size, len(size))).astype(dtype)
    flow = pystn.StationaryVelocity(size, align_corners, steps=5)
    grid = backend.numpy(flow(backend.array(theta)))
    assert grid.dtype == dtype
    assert grid.shape == theta.shape
    expected = squared(theta.reshape(6, *theta.shape[2:]).astype(float), align_corners, 5).reshape(theta.shape)
    np.testing.assert_allclose(grid, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(6, 7), (3, 4, 5)], ids=str)
def test_equals_torch(backend, rng, align_corners, size):
    torch = pytest.importorskip("torch")
    theta = smooth(rng, (2,), size)
    cotangent = rng.standard_normal(theta.shape)
    leaf = torch.tensor(theta, requires_grad=True)
    x = torch.tensor(lattice(size, align_corners))
    u = leaf / 2**7
    for _ in range(7):
        pulled = torch.nn.functional.grid_sample(
            u.movedim(-1, 1), x + u, padding_mode="border", align_corners=align_corners
        )
        u = u + pulled.movedim(1, -1)
    (x + u).backward(torch.tensor(cotangent))
    flow = pystn.StationaryVelocity(size, align_corners)
    np.testing.assert_allclose(backend.numpy(flow(backend.array(theta))), (x + u).detach().numpy(), atol=1e-13)
    (gradient,) = flow.vjp(backend.array(cotangent), backend.array(theta))
    np.testing.assert_allclose(backend.numpy(gradient), leaf.grad.numpy(), rtol=0, atol=1e-11)


def test_second_derivatives_equal_those_of_torch(backend, rng):
    """On a line, with its linear interpolation written out, which torch can differentiate twice."""
    torch = pytest.importorskip("torch")
    count = 9
    theta, along, cotangent = *rng.standard_normal((2, 3, count, 1)), rng.standard_normal((3, count, 1))
    leaf, u = (torch.tensor(a, requires_grad=True) for a in (0.3 * theta, cotangent))
    x = torch.tensor(lattice((count,)))
    field = leaf / 2**7
    for _ in range(7):
        position = (((x + field + 1) * count - 1) / 2).clamp(0, count - 1)
        left = position.detach().floor().clamp(0, count - 2).long()
        before, after = (torch.gather(field, 1, left + k) for k in range(2))
        field = field + before + (after - before) * (position - left)
    (gradient,) = torch.autograd.grad(field, leaf, u, create_graph=True)
    expected = torch.autograd.grad(gradient, (u, leaf), torch.tensor(along))
    flow = pystn.StationaryVelocity((count,))
    found = flow.vjp2(*(backend.array(a) for a in (along, cotangent, 0.3 * theta)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(backend.numpy(ours), theirs.numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES[2:], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity_is_the_affine_identity_bit_for_bit(backend, align_corners, size, dtype):
    flow = pystn.StationaryVelocity(size, align_corners)
    theta = flow.identity(2, dtype)
    assert theta.dtype == dtype
    ndim = len(size)
    matrix = np.broadcast_to(np.eye(ndim, ndim + 1, dtype=dtype), (2, ndim, ndim + 1))
    expected = pystn.affine_grid(backend.array(matrix), size, align_corners)
    np.testing.assert_array_equal(backend.numpy(flow(backend.array(theta))), backend.numpy(expected))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives(backend, rng, align_corners, size, dtype):
    theta = smooth(rng, (2, 3), size).astype(dtype)
    d_theta, cotangent = rng.standard_normal((2, *theta.shape)).astype(dtype)
    flow = pystn.StationaryVelocity(size, align_corners, steps=6)
    pushed = backend.numpy(flow.jvp(backend.array(theta), backend.array(d_theta)))
    (pulled,) = flow.vjp(backend.array(cotangent), backend.array(theta))
    assert_adjoint(pushed, cotangent, [backend.numpy(pulled)], [d_theta])
    if dtype == np.float64:
        assert_close(pushed, difference(lambda v: backend.numpy(flow(backend.array(v))), [theta], [d_theta], h=1e-8))
    assert not backend.numpy(flow.jvp(backend.array(theta), None)).any()
    assert flow.vjp(backend.array(cotangent), backend.array(theta), wrt=()) == (None,)


def test_the_gradient_at_the_identity_is_the_cotangent(backend, rng):
    flow = pystn.StationaryVelocity((5, 6))
    cotangent = rng.standard_normal((2, 5, 6, 2))
    (gradient,) = flow.vjp(backend.array(cotangent), backend.array(flow.identity(2)))
    # Every u_k is 0 and interpolation at the centres is that of the pixel.
    np.testing.assert_allclose(backend.numpy(gradient), cotangent, rtol=0, atol=1e-12)


def test_flow_for_twice_the_time_is_the_flow_after_itself(backend, rng):
    theta = smooth(rng, (2,), (8, 9))
    once = pystn.StationaryVelocity((8, 9), steps=4)(backend.array(theta))
    twice = pystn.StationaryVelocity((8, 9), steps=5)(backend.array(2 * theta))
    composed = pystn.compose_grids(once, once)
    np.testing.assert_allclose(backend.numpy(composed), backend.numpy(twice), rtol=0, atol=1e-13)


def test_linear_velocities_flow_by_the_matrix_exponential(backend):
    linalg = pytest.importorskip("scipy.linalg")
    generator = np.array([[-0.3, 0.5], [-0.4, -0.2]])
    x = lattice((31, 31), True)
    grid = backend.numpy(pystn.StationaryVelocity((31, 31), True, steps=20)(backend.array((x @ generator.T)[None])))[0]
    inside = (np.abs(x) < 0.6).all(axis=-1)
    np.testing.assert_allclose(grid[inside], (x @ linalg.expm(generator).T)[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_inverse_leads_back(backend, ndim):
    """Up to the error of interpolation, which is of the second order in the size of pixels."""
    errors = []
    for n in (12, 24):
        size = (n,) * ndim
        flow = pystn.StationaryVelocity(size, steps=11)
        theta = backend.array(smooth(np.random.default_rng(3), (2,), size, 0.2))
        back = flow.inverse(theta)
        np.testing.assert_array_equal(backend.numpy(back), -backend.numpy(theta))
        both = backend.numpy(pystn.compose_grids(flow(theta), flow(back)))
        inside = (np.abs(lattice(size)) < 0.6).all(axis=-1)
        errors.append(np.abs(both - lattice(size))[:, inside].max())
    assert errors[0] < 0.02  # of 0.2
    assert errors[1] < 0.35 * errors[0]


def test_folding_is_found(backend, rng):
    flow = pystn.StationaryVelocity((16, 17), steps=8)
    theta = smooth(rng, (2, 3), (16, 17), 0.4)
    assert not backend.numpy(flow.folded(backend.array(theta))).any()
    rough = pystn.StationaryVelocity((16, 17), steps=0)
    noise = np.where(np.arange(6).reshape(2, 3, 1, 1, 1) == 4, rng.standard_normal(theta.shape), 0)
    folded = backend.numpy(rough.folded(backend.array(noise)))
    np.testing.assert_array_equal(folded, np.arange(6).reshape(2, 3) == 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_entry(backend, rng, bad):
    flow = pystn.StationaryVelocity((6, 7))
    theta = smooth(rng, (2,), (6, 7))
    alone = backend.numpy(flow(backend.array(theta[1:])))
    theta[0, 2, 3, 1] = bad
    grid = backend.numpy(flow(backend.array(theta)))
    assert not np.isfinite(grid[0, 2, 3, 1])
    np.testing.assert_array_equal(grid[1:], alone)
    (gradient,) = flow.vjp(backend.array(theta), backend.array(theta))
    assert np.isfinite(backend.numpy(gradient)[1]).all()


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.data())
def test_any_shape_and_strides(data):
    rng = np.random.default_rng(2)
    size = tuple(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=3)))
    leading = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    flow = pystn.StationaryVelocity(size, data.draw(st.booleans()), steps=2)
    theta = np.flip(rng.uniform(-1, 1, (*leading, *size, len(size)))[::-1].astype(dtype))
    out = np.full(theta.shape[::-1], np.nan, dtype).T
    assert flow(theta, out=out) is out
    assert np.isfinite(out).all()
    (gradient,) = flow.vjp(out, theta)
    assert gradient.shape == theta.shape
    assert flow.jvp(theta, theta).dtype == dtype
    for entry in np.ndindex(*leading):
        np.testing.assert_array_equal(flow(theta[entry][None])[0], out[entry])


def test_how_it_is_shown_and_made():
    flow = pystn.StationaryVelocity((4, 5), True, steps=3)
    assert repr(flow) == "StationaryVelocity((4, 5), align_corners=True, steps=3)"
    assert (flow.size, flow.ndim, flow.theta_shape, flow.steps) == ((4, 5), 2, (4, 5, 2), 3)
    with pytest.raises(AttributeError, match="StationaryVelocity is immutable"):
        flow.steps = 4


@pytest.mark.parametrize(
    "error, message, arguments, options",
    [
        (ValueError, "size must have 1 to 3 entries (spatial): got (2, 3, 4, 5)", ((2, 3, 4, 5),), {}),
        (TypeError, "size must be a tuple of integers, got 4", (4,), {}),
        (ValueError, "size must not be negative", ((-1, 4),), {}),
        (ValueError, "steps must be 0 or more: got -1", ((4, 5),), {"steps": -1}),
        (TypeError, "steps must be an integer, got 1.5", ((4, 5),), {"steps": 1.5}),
        (TypeError, "align_corners must be True or False", ((4, 5), 1), {}),
    ],
)
def test_errors_of_construction(error, message, arguments, options):
    with pytest.raises(error, match=re.escape(message)):
        pystn.StationaryVelocity(*arguments, **options)


def test_errors_of_arrays():
    flow = pystn.StationaryVelocity((4, 5))
    with pytest.raises(ValueError, match=re.escape("theta must have shape (N, ..., 4, 5, 2): got (4, 5, 2)")):
        flow(np.zeros((4, 5, 2)))
    with pytest.raises(ValueError, match="theta must have shape"):
        flow.inverse(np.zeros((1, 5, 4, 2)))
    with pytest.raises(ValueError, match="grad_grid must have the shape of the grid"):
        flow.vjp(np.zeros((2, 4, 5, 2)), np.zeros((1, 4, 5, 2)))
