"""Piecewise affine maps: triangles, who owns their edges, the outside, folds, gradients to control points."""

import itertools
from fractions import Fraction

import numpy as np
import oracle
import pytest
from families import CONTROL, parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn
from pystn.grids.delaunay import delaunay

OUTSIDE = ("nearest", "affine", "nan")


def target(size, align_corners=False):
    return oracle.affine_grid(np.eye(2, 3)[None], size, align_corners)[0].reshape(-1, 2)


def barycentric(corners, t):
    return np.linalg.solve(np.r_[corners.T, [[1, 1, 1]]], [*t, 1.0])


def distance(corners, t):
    """From a point to a triangle's edges."""
    best = np.inf
    for a, b in itertools.pairwise([*corners, corners[0]]):
        along = np.clip((t - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        best = min(best, np.linalg.norm(t - a - along * (b - a)))
    return best


def slow(points, triangles, theta, targets, outside):
    """The rule, pixel by pixel: each triangle is tried in turn."""
    grid = np.empty((len(targets), theta.shape[1]))
    for i, t in enumerate(targets):
        weights = [barycentric(points[corners], t) for corners in triangles]
        owners = [k for k, w in enumerate(weights) if w.min() >= -1e-10]
        if not owners and outside == "affine":
            fit = np.linalg.lstsq(np.c_[points, np.ones(len(points))], theta, rcond=None)[0]
            grid[i] = [*t, 1] @ fit
        elif not owners and outside == "nan":
            grid[i] = np.nan
        else:
            k = owners[0] if owners else int(np.argmin([round(distance(points[c], t), 10) for c in triangles]))
            grid[i] = weights[k] @ theta[triangles[k]]
    return grid


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("size", [(9, 8), (1, 5), (7, 1)], ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "points", [CONTROL, 0.5 * CONTROL, pystn.control_points((3, 4))], ids=["wide", "small", "grid"]
)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 3e-6)])
def test_equals_the_rule(backend, rng, outside, size, align_corners, points, dtype, tolerance):
    piecewise = pystn.PiecewiseAffine(points, size, align_corners, outside=outside)
    theta = parameters(piecewise, rng, (2, 2), dtype)
    grid = backend.numpy(piecewise(backend.array(theta)))
    for at in np.ndindex(2, 2):
        expected = slow(points, piecewise.triangles, theta[at].astype(float), target(size, align_corners), outside)
        np.testing.assert_allclose(grid[at].reshape(-1, 2), expected, atol=tolerance)


def test_equals_scikit_image(backend, rng):
    transform = pytest.importorskip("skimage.transform")
    if not hasattr(transform.PiecewiseAffineTransform, "from_estimate"):
        pytest.skip("of scikit-image 0.26 and later")
    piecewise = pystn.PiecewiseAffine(CONTROL, (12, 11), outside="nan")
    theta = parameters(piecewise, rng, (1,))
    grid = backend.numpy(piecewise(backend.array(theta))).reshape(-1, 2)
    peer = transform.PiecewiseAffineTransform.from_estimate(CONTROL, theta[0])(target((12, 11)))
    inside = ~np.isnan(grid[:, 0])
    assert 60 < inside.sum() < 132
    np.testing.assert_allclose(grid[inside], peer[inside], atol=1e-12)
    assert (peer[~inside] == -1).all()  # its mark of the outside


@pytest.mark.parametrize("outside", OUTSIDE)
def test_equals_the_linear_grid_of_a_dense_basis(backend, rng, outside):
    piecewise = pystn.PiecewiseAffine(0.8 * CONTROL, (6, 7), outside=outside)
    theta = parameters(piecewise, rng, (2, 3))
    basis = np.empty((len(CONTROL), 6 * 7))
    for k in range(len(CONTROL)):
        bump = np.zeros((len(CONTROL), 2))
        bump[k, 0] = 1
        basis[k] = slow(0.8 * CONTROL, piecewise.triangles, bump, target((6, 7)), outside)[:, 0]
    assert np.isnan(basis).any() == (outside == "nan")
    basis = basis.reshape(1, len(CONTROL), 6, 7)
    found = pystn.linear_grid(backend.array(theta.swapaxes(-1, -2)), backend.array(basis))
    np.testing.assert_allclose(backend.numpy(found), backend.numpy(piecewise(backend.array(theta))), atol=1e-12)


@pytest.mark.parametrize("outside", OUTSIDE[:2])
def test_affine_maps_are_reproduced_everywhere(backend, rng, outside):
    matrix = rng.standard_normal((2, 2, 3))
    moved = 0.4 * CONTROL @ matrix[..., :2].swapaxes(1, 2) + matrix[:, None, :, 2]
    piecewise = pystn.PiecewiseAffine(0.4 * CONTROL, (7, 6), outside=outside)
    expected = backend.numpy(pystn.affine_grid(backend.array(matrix), (7, 6)))
    np.testing.assert_allclose(backend.numpy(piecewise(backend.array(moved))), expected, atol=1e-12)
    three = pystn.PiecewiseAffine(CONTROL[[0, 2, 5]], (7, 6), outside=outside)
    moved = CONTROL[[0, 2, 5]] @ matrix[..., :2].swapaxes(1, 2) + matrix[:, None, :, 2]
    np.testing.assert_allclose(backend.numpy(three(backend.array(moved))), expected, atol=1e-12)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[:4], ids=str)
def test_an_edge_belongs_to_the_first_triangle(order):
    """The pixels on the two diagonals of a square, and its middle, which is in all four triangles."""
    points = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
    sides = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    turned = np.array([t[[*order]] for t in sides])  # of any orientation
    for roll in range(4):
        triangles = np.roll(turned, roll, axis=0)
        labels = pystn.PiecewiseAffine(points, (5, 5), True, triangles=triangles).labels
        for (i, j), label in np.ndenumerate(labels):
            y, x = i - 2, j - 2
            owners = [k for k, inside in enumerate([-y >= abs(x), x >= abs(y), y >= abs(x), -x >= abs(y)]) if inside]
            assert label == min((k + roll) % 4 for k in owners)


def test_no_pixel_falls_between_triangles(rng):
    """A pixel on an edge up to rounding is inside, whichever side of it each triangle's rounding finds it on."""
    for flatness in (1.0, 1e-2, 1e-4):
        for _ in range(100):
            i, j = rng.integers(1, 8, 2)
            pixel = target((9, 9), True).reshape(9, 9, 2)[i, j]
            angle = rng.uniform(0, 2 * np.pi)
            along = np.array([np.cos(angle), np.sin(angle)])
            across = flatness * np.array([-along[1], along[0]])
            a, b = pixel - rng.uniform(0.1, 2) * along, pixel + rng.uniform(0.1, 2) * along
            points = np.array([a, b, pixel + across, pixel - across])
            piecewise = pystn.PiecewiseAffine(points, (9, 9), True, triangles=[[0, 1, 2], [1, 0, 3]], outside="nan")
            assert piecewise.labels[i, j] == 0


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=3, max_size=14, unique=True))
def test_the_triangulation_is_delaunay(where):
    """On integers, where circles and lines of many points abound: it covers the hull once, circles are empty."""
    spans = {
        (b[0] - where[0][0]) * (c[1] - where[0][1]) - (b[1] - where[0][1]) * (c[0] - where[0][0])
        for b in where
        for c in where
    }
    if spans == {0}:
        with pytest.raises(ValueError, match="must not all lie on one line"):
            pystn.PiecewiseAffine(np.array(where, float), (2, 2))
        return
    # Not exact in binary, and yet on lines and circles up to rounding; nor exact in decimal.
    for points in (np.array(where, float), np.array(where, float) / 3 + 0.1):
        triangles = delaunay(points)
        exact = [[Fraction(x) for x in p] for p in points.tolist()]
        area = Fraction(0)
        for corners in triangles.tolist():
            (ax, ay), (bx, by), (cx, cy) = (exact[k] for k in corners)
            twice = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            assert twice > 0
            area += twice
            for px, py in exact:
                a, b, c = ((x - px, y - py, (x - px) ** 2 + (y - py) ** 2) for x, y in (exact[k] for k in corners))
                minors = b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0]
                assert sum(x * minor for x, minor in zip(a, minors, strict=True)) <= 0
        spatial = pytest.importorskip("scipy.spatial")
        assert abs(float(area) / 2 - spatial.ConvexHull(points).volume) < 1e-9


@pytest.mark.parametrize("count", [10, 200])
def test_the_triangulation_equals_scipy(rng, count):
    spatial = pytest.importorskip("scipy.spatial")
    points = rng.uniform(-1, 1, (count, 2))
    ours = {tuple(sorted(t)) for t in delaunay(points).tolist()}
    assert ours == {tuple(sorted(t)) for t in spatial.Delaunay(points).simplices.tolist()}


def test_slivers_of_rounding_are_left_out():
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    piecewise = pystn.PiecewiseAffine(pystn.control_points((6, 6)) @ turn, (9, 9))
    assert len(piecewise.triangles) == 2 * 5 * 5
    assert not piecewise.folded(piecewise.identity()).any()


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_all_derivatives_are_adjoint(backend, rng, outside, dtype):
    piecewise = pystn.PiecewiseAffine(0.8 * CONTROL, (8, 9), outside=outside)
    theta = parameters(piecewise, rng, (2, 3), dtype)
    directions = rng.standard_normal(theta.shape).astype(dtype), rng.standard_normal(CONTROL.shape)
    u = rng.standard_normal((2, 3, 8, 9, 2)).astype(dtype)
    for wrt in (("theta", "points"), ("points",)):
        d_theta = backend.array(directions[0]) if "theta" in wrt else None
        pushed = backend.numpy(piecewise.jvp(backend.array(theta), d_theta, d_points=backend.array(directions[1])))
        gradients = piecewise.vjp(backend.array(u), backend.array(theta), wrt=wrt)
        assert (gradients[0] is None) == ("theta" not in wrt)
        pulled = [backend.numpy(g) for g in gradients if g is not None]
        assert pulled[-1].dtype == np.float64
        assert_adjoint(pushed, u, pulled, directions[-len(wrt) :])


@pytest.mark.parametrize("outside", OUTSIDE)
def test_the_gradient_to_the_points_equals_central_differences(backend, rng, outside):
    """Pixels stay in their triangles: none is within a step of an edge."""
    points = 0.8 * CONTROL + 1e-3
    piecewise = pystn.PiecewiseAffine(points, (8, 9), outside=outside)
    theta, direction = parameters(piecewise, rng, (2,)), rng.standard_normal(CONTROL.shape)

    def grid(points):
        made = pystn.PiecewiseAffine(points, (8, 9), outside=outside)
        np.testing.assert_array_equal(made.labels, piecewise.labels)
        return np.nan_to_num(backend.numpy(made(backend.array(theta))))

    pushed = backend.numpy(piecewise.jvp(backend.array(theta), None, d_points=backend.array(direction)))
    expected = difference(grid, [points], [direction])
    assert_close(pushed, expected)
    u = rng.standard_normal(expected.shape)
    _, gradient = piecewise.vjp(backend.array(u), backend.array(theta), wrt="points")
    np.testing.assert_allclose((backend.numpy(gradient) * direction).sum(), (expected * u).sum(), rtol=1e-6)


@pytest.mark.parametrize("outside", OUTSIDE)
def test_all_second_derivatives(backend, rng, outside):
    points = 0.8 * CONTROL + 1e-3
    labels = pystn.PiecewiseAffine(points, (8, 9), outside=outside).labels
    wrt = ("theta", "points")
    theta = CONTROL + 0.1 * rng.standard_normal((2, 3, *CONTROL.shape))
    along, across = ([rng.standard_normal(a.shape) for a in (theta, points)] for _ in range(2))
    u = rng.standard_normal((2, 3, 8, 9, 2))

    def made(points):
        piecewise = pystn.PiecewiseAffine(points, (8, 9), outside=outside)
        np.testing.assert_array_equal(piecewise.labels, labels)
        return piecewise

    def vjp(u, theta, points):
        return [backend.numpy(g) for g in made(points).vjp(backend.array(u), backend.array(theta), wrt=wrt)]

    def vjp2(gg_theta, gg_points, u, theta, points):
        gg_theta, gg_points = (None if gg is None else backend.array(gg) for gg in (gg_theta, gg_points))
        arrays = gg_theta, backend.array(u), backend.array(theta)
        found = made(points).vjp2(*arrays, gg_points=gg_points, wrt=("grad_grid", *wrt))
        return [backend.numpy(g) for g in found]

    for these in (along, [along[0], None], [None, along[1]]):
        assert_second_order(vjp, vjp2, u, [theta, points], these, across)


@pytest.mark.parametrize("outside", OUTSIDE)
def test_a_large_grid_is_made_of_weights(backend, rng, outside):
    """The rule as matrices of all pixels; they go in parts, and gradients are sums over these."""
    size = (61, 67)
    piecewise = pystn.PiecewiseAffine(0.8 * CONTROL, size, outside=outside)
    theta, u = parameters(piecewise, rng, (3,)), rng.standard_normal((3, *size, 2))
    bumps = np.eye(len(CONTROL))
    basis = slow(0.8 * CONTROL, piecewise.triangles, bumps, target(size), outside).T.reshape(-1, *size)
    expected = np.einsum("nka,kij->nija", theta, basis)
    np.testing.assert_allclose(backend.numpy(piecewise(backend.array(theta))), expected, rtol=0, atol=1e-12)
    (gradient,) = piecewise.vjp(backend.array(u), backend.array(theta))
    known = np.nan_to_num(basis)
    np.testing.assert_allclose(backend.numpy(gradient), np.einsum("nija,kij->nka", u, known), rtol=0, atol=1e-10)
    # The points', which are sums over as many parts: the dot test, and the gradient beside it.
    direction = rng.standard_normal(CONTROL.shape)
    pushed = backend.numpy(piecewise.jvp(backend.array(theta), None, d_points=backend.array(direction)))
    both = piecewise.vjp(backend.array(u), backend.array(theta), wrt=("theta", "points"))
    to_theta, to_points = map(backend.numpy, both)
    np.testing.assert_allclose((to_points * direction).sum(), (pushed * u).sum(), rtol=1e-10)
    np.testing.assert_allclose(to_theta, backend.numpy(gradient), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_at_odd_addresses(rng, dtype):
    """Not at multiples of their itemsize."""

    def misaligned(array):
        raw = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        raw[...] = array
        assert not raw.flags.aligned
        return raw

    piecewise = pystn.PiecewiseAffine(CONTROL, (8, 9))
    flow = pystn.CPAB((2, 2), (8, 9), steps=3)
    for family in (piecewise, flow):
        theta = (family.identity(2) + 0.1 * rng.standard_normal((2, *family.theta_shape))).astype(dtype)
        u = rng.standard_normal((2, 8, 9, 2)).astype(dtype)
        odd_theta, odd_u = misaligned(theta), misaligned(u)
        np.testing.assert_array_equal(family(odd_theta), family(theta))
        np.testing.assert_array_equal(family.jvp(odd_theta, odd_theta), family.jvp(theta, theta))
        np.testing.assert_array_equal(family.vjp(odd_u, odd_theta)[0], family.vjp(u, theta)[0])


def test_second_derivatives_equal_those_of_torch(backend, rng):
    """Of the barycentric coordinates, by their equations."""
    torch = pytest.importorskip("torch")
    piecewise = pystn.PiecewiseAffine(0.8 * CONTROL, (8, 9))
    theta, u = parameters(piecewise, rng, (2,)), rng.standard_normal((2, 8, 9, 2))
    c, y, g = (torch.tensor(a, requires_grad=True) for a in (0.8 * CONTROL, theta, u))
    corners = torch.tensor(piecewise.triangles[piecewise.labels])  # (8, 9, 3)
    system = torch.cat([c[corners], torch.ones(8, 9, 3, 1, dtype=torch.float64)], -1).mT
    pixels = torch.tensor(np.c_[target((8, 9)), np.ones(72)].reshape(8, 9, 3))
    weights = torch.linalg.solve(system, pixels)
    grid = (weights[..., None] * y[:, corners]).sum(-2)
    gradients = torch.autograd.grad(grid, (y, c), g, create_graph=True)
    gg = [rng.standard_normal(gradient.shape) for gradient in gradients]
    expected = torch.autograd.grad(gradients, (g, y, c), [torch.tensor(a) for a in gg])
    gg_theta, gg_points = (backend.array(a) for a in gg)
    arrays = gg_theta, backend.array(u), backend.array(theta)
    found = piecewise.vjp2(*arrays, gg_points=gg_points, wrt=("grad_grid", "theta", "points"))
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(backend.numpy(ours), theirs.numpy(), 1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_second_derivatives_that_are_wanted(backend, rng, dtype):
    piecewise = pystn.PiecewiseAffine(0.8 * CONTROL, (8, 9), outside="affine")
    theta, gg = parameters(piecewise, rng, (2,), dtype), rng.standard_normal((2, *CONTROL.shape)).astype(dtype)
    arrays = [backend.array(a) for a in (gg, rng.standard_normal((2, 8, 9, 2)).astype(dtype), theta)]
    points = backend.array(rng.standard_normal(CONTROL.shape))
    names = ("grad_grid", "theta", "points")
    found = piecewise.vjp2(*arrays, gg_points=points, wrt=names)
    assert [g.dtype for g in found] == [dtype, dtype, np.float64]
    for k, name in enumerate(names):
        alone = [g for g in piecewise.vjp2(*arrays, gg_points=points, wrt=name) if g is not None]
        assert len(alone) == 1
        np.testing.assert_array_equal(backend.numpy(alone[0]), backend.numpy(found[k]))
    with pytest.raises(ValueError, match="gg_points must have the shape of points"):
        piecewise.vjp2(*arrays, gg_points=points[1:])


def test_what_has_no_coordinates_has_no_derivative(backend, rng):
    piecewise = pystn.PiecewiseAffine(0.5 * CONTROL, (6, 7), outside="nan")
    theta, u = parameters(piecewise, rng, (2,)), rng.standard_normal((2, 6, 7, 2))
    hidden = np.isnan(backend.numpy(piecewise(backend.array(theta))))
    np.testing.assert_array_equal(hidden[0, ..., 0], piecewise.labels < 0)
    assert 0 < hidden.mean() < 1
    wrt = ("theta", "points")
    found = piecewise.vjp(backend.array(u), backend.array(theta), wrt=wrt)
    same = piecewise.vjp(backend.array(np.where(hidden, np.nan, u)), backend.array(theta), wrt=wrt)
    gg, both = backend.array(rng.standard_normal(theta.shape)), {"gg_points": backend.array(CONTROL), "wrt": wrt}
    found += piecewise.vjp2(gg, backend.array(u), backend.array(theta), **both)[1:]
    same += piecewise.vjp2(gg, backend.array(np.where(hidden, np.nan, u)), backend.array(theta), **both)[1:]
    for a, b in zip(found, same, strict=True):
        np.testing.assert_array_equal(backend.numpy(a), backend.numpy(b))
    pushed = piecewise.jvp(backend.array(theta), backend.array(theta), d_points=backend.array(CONTROL))
    assert not backend.numpy(pushed)[hidden].any()


def test_nearest_is_continuous_at_the_border(backend, rng):
    """A pixel just outside an edge is where one just inside is."""
    points = np.array([[-1.0, -1.0], [1.0, -1.0], [0.0, 0.5]])
    theta = points[None] + 0.3 * rng.standard_normal((1, 3, 2))
    grid = backend.numpy(pystn.PiecewiseAffine(points, (1001, 1001))(backend.array(theta)))[0]
    assert np.abs(np.diff(grid, axis=0)).max() < 0.01
    assert np.abs(np.diff(grid, axis=1)).max() < 0.01


def test_folds_are_found(backend, rng):
    piecewise = pystn.PiecewiseAffine(CONTROL, (4, 4))
    theta = np.repeat(piecewise.identity(3), 2, axis=0).reshape(3, 2, *piecewise.theta_shape)
    theta[1, 0, 4] = [0.3, -3.0]  # an inner point, pulled out of the hull
    theta[2] = theta[2] * [1, 0]  # all on a line
    theta[0, 1] = theta[0, 1] * [-1, 1]
    folded = backend.numpy(piecewise.folded(backend.array(theta)))
    assert folded.shape == (3, 2, len(piecewise.triangles))
    assert folded.dtype == bool
    for at in np.ndindex(3, 2):
        for k, (a, b, c) in enumerate(piecewise.triangles):
            before, after = (np.linalg.det([p[b] - p[a], p[c] - p[a]]) for p in (CONTROL, theta[at]))
            assert folded[(*at, k)] == (before * after <= 0)
    assert folded[1, 0].any()
    assert not folded[1, 0].all()
    assert not folded[0, 0].any()


def test_the_ends_exchanged_are_the_inverse(backend, rng):
    piecewise = pystn.PiecewiseAffine(CONTROL, (9, 9), outside="nan")
    moved = parameters(piecewise, rng, (1,), scale=0.03)
    assert not backend.numpy(piecewise.folded(backend.array(moved))).any()
    there = backend.numpy(piecewise(backend.array(moved)))[0].reshape(-1, 2)
    inside = ~np.isnan(there[:, 0])
    back = slow(moved[0], piecewise.triangles, CONTROL, there[inside], "nan")
    np.testing.assert_allclose(back, target((9, 9))[inside], atol=1e-10)


def test_sums_by_label():
    """Of any labels, those that never occur among them."""
    from pystn.backends.runs import LabelledSums

    rng = np.random.default_rng(1)
    for length in (0, 1, 5, 400):
        labels, values = rng.integers(0, 7, length), rng.standard_normal((2, 3, length))
        expected = np.stack([values[..., labels == k].sum(axis=-1) for k in range(9)], axis=-1)
        np.testing.assert_allclose(LabelledSums(labels, 9)(np, values), expected, atol=1e-12)


def test_errors_of_the_constructor():
    points = np.array(CONTROL)
    points[5] = points[1]
    with pytest.raises(ValueError, match="points must not coincide: points 1 and 5 are both at"):
        pystn.PiecewiseAffine(points, (4, 4))
    with pytest.raises(ValueError, match="points must not all lie on one line: got points 0 to 3 on one"):
        pystn.PiecewiseAffine([[0, 0], [1, 1], [2, 2], [-1, -1]], (4, 4))
    with pytest.raises(ValueError, match=r"triangles must have an area, but these have none: \[1, 2\]"):
        pystn.PiecewiseAffine(points, (4, 4), triangles=[[0, 1, 2], [1, 5, 2], [3, 3, 0]])
    with pytest.raises(ValueError, match=r"triangles must be of points 0 to 6: triangle 1 is \[0, 1, 7\]"):
        pystn.PiecewiseAffine(points, (4, 4), triangles=[[0, 1, 2], [0, 1, 7]])
    with pytest.raises(ValueError, match=r"triangles must have shape \(T, 3\)"):
        pystn.PiecewiseAffine(points, (4, 4), triangles=np.zeros((0, 3), int))
    with pytest.raises(TypeError, match="triangles must be of integers, got dtype float64"):
        pystn.PiecewiseAffine(points, (4, 4), triangles=[[0.0, 1.0, 2.0]])
    with pytest.raises(ValueError, match="unknown outside: expected one of 'nearest', 'affine', 'nan', got 'wrap'"):
        pystn.PiecewiseAffine(CONTROL, (4, 4), outside="wrap")
    with pytest.raises(ValueError, match="points must have last axis 2"):
        pystn.PiecewiseAffine(CONTROL[:, :1], (4, 4))
    with pytest.raises(ValueError, match=r"points must have shape \(P, 2\)"):
        pystn.PiecewiseAffine(CONTROL[None], (4, 4))
    piecewise = pystn.PiecewiseAffine(CONTROL, (4, 4))
    with pytest.raises(ValueError, match="d_points must have the shape of points"):
        piecewise.jvp(piecewise.identity(), None, d_points=CONTROL[1:])
