"""Flows of continuous piecewise affine velocities."""

import itertools
import math
import re

import numpy as np
import oracle
import pytest
from conftest import assert_same_sums
from hypothesis import given, settings
from hypothesis import strategies as st
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn
from pystn.backends import backend_of
from pystn.grids.tessellations import Intervals, Triangles

LINES = [{"cells": 1, "size": (5,)}, {"cells": 4, "size": (9,)}, {"cells": (7,), "size": (1,)}]
PLANES = [{"cells": 1, "size": (4, 5)}, {"cells": (2, 3), "size": (5, 6)}, {"cells": (3, 1), "size": (1, 4)}]


def lattice(size, align_corners=False):
    return oracle.pixel_targets(size, align_corners)[:, :-1]


def velocity_on_line(warp, theta, x):
    """numpy's interpolation of the velocities at the vertices."""
    values = np.pad(theta, 1) if warp.zero_boundary else theta
    return np.interp(x, np.linspace(-1, 1, warp.cells[0] + 1), values)


def matrix_in_plane(warp, theta, point):
    """The matrix (2, 3) of the velocity in the triangle of a point, found by a search of them all."""
    rows, columns = warp.cells
    at_corner = np.zeros((rows + 1, columns + 1, 2))
    position = 0
    for j, i in np.ndindex(rows + 1, columns + 1):
        for a, on_border in ((0, i in (0, columns)), (1, j in (0, rows))):
            if not (warp.zero_boundary and on_border):
                at_corner[j, i, a] = theta[position]
                position += 1
    at_center = np.reshape(theta[position:], (rows, columns, 2))
    for j, i in np.ndindex(rows, columns):
        corners = [(j, i), (j, i + 1), (j + 1, i + 1), (j + 1, i)]
        for first, second in zip(corners, corners[1:] + corners[:1], strict=True):
            places = (first, second, (j + 0.5, i + 0.5))
            vertices = np.array([(2 * c / columns - 1, 2 * r / rows - 1, 1.0) for r, c in places])
            if np.linalg.solve(vertices.T, [*point, 1.0]).min() > -1e-12:
                return np.linalg.solve(vertices, [at_corner[first], at_corner[second], at_center[j, i]]).T
    raise AssertionError(point)


def stepped(velocity, points, steps):
    """Runge-Kutta of the fourth order with small steps."""
    x = points
    for _ in range(steps):
        a = velocity(x)
        b = velocity(x + a / (2 * steps))
        c = velocity(x + b / (2 * steps))
        d = velocity(x + c / steps)
        x = x + (a + 2 * b + 2 * c + d) / (6 * steps)
    return x


def parameters(rng, warp, *leading, scale=0.5):
    return scale * rng.standard_normal((*leading, *warp.theta_shape))


def flowed(warp, theta, points):
    """Points (P, ndim) after the flow."""
    cells = (*warp.cells, warp.steps) if warp.ndim == 2 else warp.cells
    tessellation = {1: Intervals, 2: Triangles}[warp.ndim](*cells)
    velocities = np.zeros((1, *warp.vertices.shape))
    velocities[0, warp.parameters[:, 0], warp.parameters[:, 1]] = theta[0]
    with np.errstate(all="ignore"):
        return tessellation.flow(backend_of({"points": points}), velocities, points, np.float64)


@pytest.mark.parametrize("cells, closed, free", [((1, 1), 2, 10), ((2, 2), 14, 26), ((3, 3), 34, 50), ((6,), 5, 7)])
def test_number_of_parameters(cells, closed, free):
    """As of the bases of Freifeld et al.'s libcpab."""
    size = (4,) * len(cells)
    assert pystn.CPAB(cells, size).theta_shape == (closed,)
    assert pystn.CPAB(cells, size, zero_boundary=False).theta_shape == (free,)


@pytest.mark.parametrize("zero_boundary", [True, False])
@pytest.mark.parametrize("cells", [4, 1, (2, 3), (3, 1)], ids=str)
def test_parameters_are_the_velocities_at_the_vertices(backend, rng, cells, zero_boundary):
    size = (5,) if np.ndim(cells) == 0 else (5, 6)
    warp = pystn.CPAB(cells, size, zero_boundary=zero_boundary)
    theta = parameters(rng, warp, 2, 3)
    velocities = backend.numpy(warp.velocity(backend.array(theta), backend.array(warp.vertices.copy())))
    assert velocities.shape == (2, 3, *warp.vertices.shape)
    found = velocities[..., warp.parameters[:, 0], warp.parameters[:, 1]]
    np.testing.assert_allclose(found, theta, rtol=0, atol=1e-13)
    velocities[..., warp.parameters[:, 0], warp.parameters[:, 1]] = 0
    np.testing.assert_allclose(velocities, 0, rtol=0, atol=1e-13)


@pytest.mark.parametrize("zero_boundary", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_velocity_equals_its_definition(backend, rng, zero_boundary, dtype):
    line = pystn.CPAB(5, (4,), zero_boundary=zero_boundary)
    theta, x = parameters(rng, line, 2).astype(dtype), rng.uniform(-1, 1, (3, 4, 1))
    found = backend.numpy(line.velocity(backend.array(theta), backend.array(x)))
    assert found.dtype == dtype
    expected = [velocity_on_line(line, t, x) for t in theta]
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * np.finfo(dtype).eps)
    plane = pystn.CPAB((2, 3), (4, 4), zero_boundary=zero_boundary)
    theta, points = parameters(rng, plane, 2).astype(dtype), rng.uniform(-1, 1, (60, 2))
    found = backend.numpy(plane.velocity(backend.array(theta), backend.array(points)))
    expected = [[matrix_in_plane(plane, t, p) @ [*p, 1] for p in points] for t in theta]
    np.testing.assert_allclose(found, expected, rtol=0, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("given", LINES + PLANES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity_is_the_affine_identity_bit_for_bit(backend, given, align_corners, dtype):
    warp = pystn.CPAB(**given, align_corners=align_corners)
    theta = warp.identity(2, dtype)
    grid = backend.numpy(warp(backend.array(theta)))
    assert grid.dtype == dtype
    if warp.ndim == 1:
        expected = pystn.displacement_grid(backend.array(np.zeros((2, *warp.size, 1), dtype)), align_corners)
    else:
        matrix = np.broadcast_to(np.eye(2, 3, dtype=dtype), (2, 2, 3))
        expected = pystn.affine_grid(backend.array(matrix), warp.size, align_corners)
    np.testing.assert_array_equal(grid, backend.numpy(expected))


@pytest.mark.parametrize("zero_boundary", [True, False])
@pytest.mark.parametrize("cells", [1, 2, 7])
def test_on_the_line_the_flow_takes_a_unit_of_time(backend, rng, cells, zero_boundary):
    """The integral of dx / v from where a point starts to where it arrives, by quadrature."""
    integrate = pytest.importorskip("scipy.integrate")
    warp = pystn.CPAB(cells, (9,), zero_boundary=zero_boundary)
    theta = parameters(rng, warp, 4, scale=0.3)
    grid = backend.numpy(warp(backend.array(theta)))
    seen = 0
    for t, arrived in zip(theta, grid[..., 0], strict=True):
        for start, end in zip(lattice((9,))[:, 0], arrived, strict=True):
            if cells == 1 and zero_boundary:
                assert abs(start - end) < 1e-15
                continue
            if abs(end) > 1:
                continue  # of the velocity outside numpy's interpolation knows nothing
            edges = [v for v in warp.vertices[:, 0] if min(start, end) < v < max(start, end)]
            points = [start, *sorted(edges, reverse=bool(end < start)), end]
            time = sum(
                integrate.quad(lambda x, t=t: 1 / velocity_on_line(warp, t, x), *piece, epsabs=1e-13, epsrel=1e-13)[0]
                for piece in itertools.pairwise(points)
            )
            assert abs(time - 1) < 1e-11
            seen += len(edges) > 0
    assert seen > 0 or cells == 1


@pytest.mark.parametrize("zero_boundary", [True, False])
def test_on_the_line_the_flow_solves_the_equation(backend, rng, zero_boundary):
    integrate = pytest.importorskip("scipy.integrate")
    warp = pystn.CPAB(5, (9,), zero_boundary=zero_boundary)
    theta = parameters(rng, warp, 1)

    def velocity(_, x):
        return warp.velocity(theta, x[:, None])[0, :, 0]

    start = lattice((9,))[:, 0]
    solved = integrate.solve_ivp(velocity, (0, 1), start, "DOP853", rtol=1e-10, atol=1e-12, max_step=0.01)
    grid = backend.numpy(warp(backend.array(theta)))
    # At the edges of cells a solver loses its order.
    np.testing.assert_allclose(grid[0, :, 0], solved.y[:, -1], rtol=0, atol=1e-6)


def test_one_cell_on_the_line_is_the_exponential(backend):
    """v = a x + b everywhere, also beyond the domain."""
    warp = pystn.CPAB(1, (5,), zero_boundary=False)
    for left, right in ((0.3, 0.3), (0.3, 0.3 + 1e-14), (-0.2, 0.5), (0.4, -1.5), (0.0, 1e-300)):
        a, b = (right - left) / 2, (right + left) / 2
        grid = backend.numpy(warp(backend.array(np.array([[left, right]]))))[0, :, 0]
        x = lattice((5,))[:, 0]
        expected = x + (a * x + b) * (np.expm1(a) / a if a else 1.0)
        np.testing.assert_allclose(grid, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("zero_boundary", [True, False])
@pytest.mark.parametrize("cells", [(1, 1), (2, 3)], ids=str)
def test_a_step_in_the_plane_is_the_exponential_of_a_cell(backend, rng, cells, zero_boundary):
    linalg = pytest.importorskip("scipy.linalg")
    warp = pystn.CPAB(cells, (4, 5), zero_boundary=zero_boundary, steps=3)
    theta = parameters(rng, warp, 2, scale=0.1)
    expected = np.zeros((2, 20, 2))
    for n, point in np.ndindex(2, 20):
        p = lattice((4, 5))[point]
        for _ in range(3):
            generator = np.vstack([matrix_in_plane(warp, theta[n], p), np.zeros(3)])
            p = (linalg.expm(generator / 3) @ [*p, 1.0])[:2]
        expected[n, point] = p
    grid = backend.numpy(warp(backend.array(theta)))
    np.testing.assert_allclose(grid.reshape(2, 20, 2), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("given", PLANES, ids=str)
@pytest.mark.parametrize("zero_boundary", [True, False])
def test_in_the_plane_the_flow_is_right_up_to_the_steps(backend, rng, given, zero_boundary):
    errors = []
    for steps in (25, 100):
        warp = pystn.CPAB(**given, zero_boundary=zero_boundary, steps=steps)
        theta = parameters(np.random.default_rng(5), warp, 1, scale=0.15)
        expected = stepped(lambda x, warp=warp, theta=theta: warp.velocity(theta, x)[0], lattice(warp.size), 500)
        grid = backend.numpy(warp(backend.array(theta)))
        assert np.abs(grid).max() < 1  # beyond, a cell's velocity ends at no edge
        errors.append(np.abs(grid.reshape(expected.shape) - expected).max())
    assert errors[0] < 1e-3
    assert errors[1] < 0.4 * errors[0]


def test_a_field_of_x_alone_flows_as_on_the_line(backend, rng):
    """Steps against the exact flow; the cells of both have the same edges in x."""
    line = pystn.CPAB(3, (8,))
    theta = parameters(rng, line, 2)
    values = np.pad(theta, ((0, 0), (1, 1)))
    expected = backend.numpy(line(backend.array(theta)))[:, None, :, 0]
    for steps, tolerance in ((50, 1e-2), (1000, 5e-4)):
        plane = pystn.CPAB((2, 3), (4, 8), steps=steps)
        of_plane = np.zeros((2, *plane.theta_shape))
        for at, (vertex, component) in enumerate(plane.parameters):
            if component == 0:
                x = plane.vertices[vertex, 0]
                of_plane[:, at] = [np.interp(x, np.linspace(-1, 1, 4), v) for v in values]
        grid = backend.numpy(plane(backend.array(of_plane)))
        np.testing.assert_allclose(grid[..., 0], np.broadcast_to(expected, (2, 4, 8)), rtol=0, atol=tolerance)
        y = lattice((4, 8))[:, 1].reshape(4, 8)
        np.testing.assert_allclose(grid[..., 1], np.broadcast_to(y, (2, 4, 8)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_on_the_line_it_is_monotone_and_keeps_the_ends(backend, rng, scale):
    warp = pystn.CPAB(6, (200,), True)
    grid = backend.numpy(warp(backend.array(parameters(rng, warp, 20, scale=scale))))[..., 0]
    steps = np.diff(grid, axis=-1)
    assert steps.min() > (0 if scale < 5 else -1e-15)  # that large it leaves no room between points
    np.testing.assert_array_equal(grid[:, [0, -1]], np.broadcast_to([-1, 1], (20, 2)))


def test_in_the_plane_it_does_not_fold_and_keeps_the_border(backend, rng):
    warp = pystn.CPAB((3, 2), (24, 25), True)
    grid = warp(backend.array(parameters(rng, warp, 4, scale=0.3)))
    assert (backend.numpy(pystn.jacobian_determinant(grid, True)) > 0).all()
    grid = backend.numpy(grid)
    for a, first, last in ((0, grid[:, :, 0], grid[:, :, -1]), (1, grid[:, 0], grid[:, -1])):
        np.testing.assert_allclose(first[..., a], -1, rtol=0, atol=1e-13)
        np.testing.assert_allclose(last[..., a], 1, rtol=0, atol=1e-13)
    assert np.abs(grid[:, 0, 1:-1, 0] - lattice((25,), True)[1:-1, 0]).max() > 0.01  # moves along it


@pytest.mark.parametrize("zero_boundary", [True, False])
@pytest.mark.parametrize("cells", [1, 3, 10])
def test_on_the_line_the_inverse_is_exact(backend, rng, cells, zero_boundary):
    warp = pystn.CPAB(cells, (7,), True, zero_boundary=zero_boundary)
    theta = parameters(rng, warp, 3)
    back = backend.numpy(warp.inverse(backend.array(theta)))
    np.testing.assert_array_equal(back, -theta)
    there = backend.numpy(warp(backend.array(theta)))
    for n in range(3):
        returned = flowed(warp, back[n][None], there[n])
        np.testing.assert_allclose(returned[0], lattice((7,), True), rtol=0, atol=1e-12)


def test_in_the_plane_the_inverse_is_right_up_to_the_steps(backend, rng):
    errors = []
    for steps in (25, 100):
        warp = pystn.CPAB((2, 2), (6, 7), steps=steps)
        theta = parameters(np.random.default_rng(6), warp, 1, scale=0.3)
        there = backend.numpy(warp(backend.array(theta))).reshape(-1, 2)
        returned = flowed(warp, -theta, there)[0]
        errors.append(np.abs(returned - lattice((6, 7))).max())
    assert errors[0] < 2e-3
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize("zero_boundary", [True, False])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("given", LINES + PLANES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives(backend, rng, given, align_corners, zero_boundary, dtype):
    warp = pystn.CPAB(**given, align_corners=align_corners, zero_boundary=zero_boundary, steps=7)
    theta = parameters(rng, warp, 2, 3, scale=0.3).astype(dtype)
    d_theta = rng.standard_normal(theta.shape).astype(dtype)
    cotangent = rng.standard_normal((2, 3, *warp.size, warp.ndim)).astype(dtype)
    pushed = backend.numpy(warp.jvp(backend.array(theta), backend.array(d_theta)))
    (pulled,) = warp.vjp(backend.array(cotangent), backend.array(theta))
    assert_adjoint(pushed, cotangent, [backend.numpy(pulled)], [d_theta])
    if dtype == np.float64:
        assert_close(pushed, difference(lambda t: backend.numpy(warp(backend.array(t))), [theta], [d_theta], h=1e-7))
    assert not backend.numpy(warp.jvp(backend.array(theta), None)).any()
    assert warp.vjp(backend.array(cotangent), backend.array(theta), wrt=()) == (None,)


@pytest.mark.parametrize("zero_boundary", [True, False])
@pytest.mark.parametrize("given", LINES + PLANES, ids=str)
def test_second_derivatives(backend, rng, given, zero_boundary):
    """Of ways through many cells, in both directions."""
    warp = pystn.CPAB(**given, zero_boundary=zero_boundary, steps=7)
    theta = parameters(rng, warp, 2, 3, scale=1.0)
    along, across = rng.standard_normal((2, *theta.shape))
    u = rng.standard_normal((2, 3, *warp.size, warp.ndim))

    def vjp(*arrays):
        return [backend.numpy(g) for g in warp.vjp(*map(backend.array, arrays))]

    def vjp2(*arrays):
        return [backend.numpy(g) for g in warp.vjp2(*map(backend.array, arrays))]

    assert_second_order(vjp, vjp2, u, [theta], [along], [across], h=1e-7)


@pytest.mark.parametrize("slope", [0.0, 5e-324, 1e-300, 1e-16, 1e-9, 1e-4, 0.99999, 1.00001, -1.5, 30.0])
def test_second_derivatives_on_the_line_for_every_slope(backend, slope):
    """As the first ones below, to a twice; each point alone has a cotangent."""
    warp = pystn.CPAB(1, (4,), zero_boundary=False)
    b = 0.3
    theta = np.repeat([[b - slope, b + slope]], 4, axis=0)
    a = float((theta[0, 1] - theta[0, 0]) / 2)
    along = np.repeat([[-1.0, 1.0]], 4, axis=0)
    _, found = warp.vjp2(*(backend.array(array) for array in (along, np.eye(4)[..., None], theta)))
    series = math.fsum(k * (k - 1) * a ** (k - 2) / math.factorial(k + 1) for k in range(2, 160))
    expected = math.exp(a) * lattice((4,))[:, 0] + b * series
    np.testing.assert_allclose((backend.numpy(found) * along).sum(axis=1), expected, rtol=1e-12)


@pytest.mark.parametrize("slope", [0.0, 5e-324, 1e-300, 1e-16, 1e-9, 1e-4, 0.99999, 1.00001, -1.5, 30.0])
def test_derivatives_on_the_line_for_every_slope(backend, slope):
    """x(1) = e^a x + b (e^a - 1) / a in one cell, and its derivative to a as a sum of positive terms or few."""
    warp = pystn.CPAB(1, (4,), zero_boundary=False)
    b = 0.3
    theta = np.array([[b - slope, b + slope]])  # v = a x + b with a = slope, if b does not swallow it
    pushed = backend.numpy(warp.jvp(backend.array(theta), backend.array(np.array([[-1.0, 1.0]]))))[0, :, 0]
    a = float((theta[0, 1] - theta[0, 0]) / 2)
    # The derivative of sum over k of a^k / (k + 1)!.
    series = math.fsum(k * a ** (k - 1) / math.factorial(k + 1) for k in range(1, 160))
    expected = math.exp(a) * lattice((4,))[:, 0] + b * series
    np.testing.assert_allclose(pushed, expected, rtol=1e-13)


@pytest.mark.parametrize("cells", [6, (2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_transform_is_what_it_is_alone(backend, rng, cells, dtype):
    warp = pystn.CPAB(cells, (9,) if cells == 6 else (5, 6), steps=5)
    theta = parameters(rng, warp, 2, 3).astype(dtype)
    theta[1, 2] *= 40  # needs more squarings, more cells, than the others
    cotangent = rng.standard_normal((2, 3, *warp.size, warp.ndim)).astype(dtype)
    grid = backend.numpy(warp(backend.array(theta)))
    gradient = backend.numpy(warp.vjp(backend.array(cotangent), backend.array(theta))[0])
    for n, k in np.ndindex(2, 3):
        alone = backend.array(theta[n, k][None])
        np.testing.assert_array_equal(backend.numpy(warp(alone))[0], grid[n, k])
        (of_one,) = warp.vjp(backend.array(cotangent[n, k][None]), alone)
        assert_same_sums(backend, backend.numpy(of_one)[0], gradient[n, k])


@np.errstate(all="ignore")  # of points that stay in their cell
@pytest.mark.parametrize(
    "cells, size", [(9, (2500,)), ((2, 3), (50, 51)), ((7, 6), (50, 51)), ((1, 2), (1, 65))], ids=str
)
def test_points_of_a_large_grid_flow_as_few_do(backend, rng, cells, size):
    """They go in parts, and gradients are sums over these."""
    ndim = len(size)
    warp = pystn.CPAB(cells, size, steps=6)
    theta, along = parameters(rng, warp, 2), parameters(rng, warp, 2)
    cotangent = rng.standard_normal((2, *size, ndim))
    at = warp(warp.identity()).reshape(-1, ndim)
    tessellation = Intervals(cells) if ndim == 1 else Triangles(*cells, 6)
    fields = np.zeros((2, 2, *warp.vertices.shape))
    fields[..., warp.parameters[:, 0], warp.parameters[:, 1]] = theta, along
    velocities, d_velocities = (backend.array(field) for field in fields)
    of = backend_of({"velocities": velocities})
    parts = [slice(first, first + 311) for first in range(0, len(at), 311)]

    def total(derivative, *fields):
        """Over all parts, of the parameters."""
        flat = cotangent.reshape(2, -1, ndim)
        found = (derivative(of, backend.array(flat[:, p].copy()), *fields, backend.array(at[p].copy())) for p in parts)
        return sum(map(backend.numpy, found))[:, warp.parameters[:, 0], warp.parameters[:, 1]]

    def joined(flow, *fields):
        found = [backend.numpy(flow(of, *fields, backend.array(at[p].copy()), np.float64)) for p in parts]
        return np.concatenate(found, axis=1).reshape(cotangent.shape)

    given = backend.array(cotangent), backend.array(theta)
    grid, tangent = warp(given[1]), warp.jvp(given[1], backend.array(along))
    np.testing.assert_array_equal(backend.numpy(grid), joined(tessellation.flow, velocities))
    np.testing.assert_array_equal(backend.numpy(tangent), joined(tessellation.flow_jvp, velocities, d_velocities))
    (gradient,) = warp.vjp(*given)
    np.testing.assert_allclose(
        backend.numpy(gradient), total(tessellation.flow_vjp, velocities), rtol=1e-11, atol=1e-11
    )
    _, second = warp.vjp2(backend.array(along), *given)
    expected = total(tessellation.flow_vjp2, velocities, d_velocities)
    np.testing.assert_allclose(backend.numpy(second), expected, rtol=1e-11, atol=1e-11)


def test_sums_run_in_double(backend, rng):
    for warp in (pystn.CPAB(2, (300_000,)), pystn.CPAB(1, (300, 400), steps=2)):
        theta = np.full((1, *warp.theta_shape), 0.1, np.float32)
        cotangent = np.ones((1, *warp.size, warp.ndim), np.float32)
        (single,) = warp.vjp(backend.array(cotangent), backend.array(theta))
        (double,) = warp.vjp(backend.array(cotangent.astype(float)), backend.array(theta.astype(float)))
        np.testing.assert_allclose(backend.numpy(single), backend.numpy(double), rtol=2e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("cells", [4, (2, 2)], ids=str)
@pytest.mark.parametrize("zero_boundary", [True, False])
def test_what_is_not_finite_ends_and_stays_in_its_entry(backend, rng, bad, cells, zero_boundary):
    warp = pystn.CPAB(cells, (9,) if cells == 4 else (5, 6), zero_boundary=zero_boundary)
    theta = parameters(rng, warp, 2)
    alone = backend.numpy(warp(backend.array(theta[1:])))
    theta[0] = bad
    grid = backend.numpy(warp(backend.array(theta)))
    if np.isnan(bad):
        assert np.isnan(grid[0]).all()
    np.testing.assert_array_equal(grid[1:], alone)
    (gradient,) = warp.vjp(backend.array(np.ones_like(grid)), backend.array(theta))
    assert np.isfinite(backend.numpy(gradient)[1]).all()
    warp.jvp(backend.array(theta), backend.array(theta))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.data())
def test_any_shape_and_strides(data):
    ndim = data.draw(st.integers(1, 2))
    cells = tuple(data.draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim)))
    size = tuple(data.draw(st.lists(st.integers(0, 5), min_size=ndim, max_size=ndim)))
    leading = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    warp = pystn.CPAB(cells, size, data.draw(st.booleans()), zero_boundary=data.draw(st.booleans()), steps=2)
    values = np.random.default_rng(4).uniform(-0.5, 0.5, (*leading, 2 * warp.theta_shape[0])).astype(dtype)
    theta = np.flip(values[..., ::2])
    out = np.full((*leading, *size, ndim)[::-1], np.nan, dtype).T
    assert warp(theta, out=out) is out
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(warp(theta.copy()), out)
    (gradient,) = warp.vjp(out, theta)
    assert (gradient.shape, gradient.dtype) == (theta.shape, dtype)
    assert warp.jvp(theta, theta).shape == out.shape


def test_how_it_is_shown_and_made():
    warp = pystn.CPAB((2, 3), (4, 5), True, zero_boundary=False, steps=9)
    assert repr(warp) == "CPAB((2, 3), (4, 5), align_corners=True, zero_boundary=False, steps=9)"
    assert (warp.cells, warp.size, warp.ndim, warp.steps) == ((2, 3), (4, 5), 2, 9)
    with pytest.raises(AttributeError, match="CPAB is immutable"):
        warp.cells = (1, 1)
    with pytest.raises(ValueError, match="read-only"):
        warp.vertices[0] = 0


@pytest.mark.parametrize(
    "error, message, arguments, options",
    [
        (ValueError, "size must have 1 or 2 entries (spatial): got (2, 3, 4)", (2, (2, 3, 4)), {}),
        (ValueError, "an entry of cells must be 1 or more: got 0", ((2, 0), (4, 5)), {}),
        (ValueError, "cells must be one value or one per spatial axis, 2: got 3", ((2, 2, 2), (4, 5)), {}),
        (TypeError, "an entry of cells must be an integer, got 2.5", (2.5, (4, 5)), {}),
        (ValueError, "steps must be 1 or more: got 0", (2, (4, 5)), {"steps": 0}),
        (TypeError, "zero_boundary must be True or False, got 1", (2, (4, 5)), {"zero_boundary": 1}),
        (TypeError, "align_corners must be True or False", (2, (4, 5), 1), {}),
    ],
)
def test_errors_of_construction(error, message, arguments, options):
    with pytest.raises(error, match=re.escape(message)):
        pystn.CPAB(*arguments, **options)


def test_a_way_that_no_memory_holds():
    """Not one whose size in bytes is beyond what integers hold, and looks small."""
    for steps in (1 << 56, (1 << 40) + 1):
        warp = pystn.CPAB(2, (4, 4), steps=steps)
        theta = np.zeros((1, *warp.theta_shape))
        with pytest.raises(MemoryError, match=r"no memory for .* steps"):
            warp.vjp(np.ones((1, 4, 4, 2)), theta)


def test_errors_of_arrays():
    warp = pystn.CPAB(4, (5,))
    with pytest.raises(ValueError, match=re.escape("theta must have shape (N, ..., 3): got (1, 4)")):
        warp(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="theta must have shape"):
        warp.inverse(np.zeros(3))
    with pytest.raises(ValueError, match=re.escape("points must have shape (..., 1): got (5, 2)")):
        warp.velocity(np.zeros((1, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="grad_grid must have the shape of the grid"):
        warp.vjp(np.zeros((1, 5)), np.zeros((1, 3)))
