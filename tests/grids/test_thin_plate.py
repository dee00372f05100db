"""The thin plate spline: what it is told and what it keeps, its peers, the gradients to its control points."""

import itertools

import numpy as np
import oracle
import pytest
from families import CONTROL, CONTROL_3D, parameters
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn

POINTS = {2: CONTROL, 3: CONTROL_3D}


def slow(points, theta, targets, regularization):
    """The equations, solved directly for one transform."""
    count, ndim = points.shape

    def phi(a, b):
        r = np.linalg.norm(a - b)
        return -r if ndim == 3 else r * r * np.log(r) if r > 0 else 0.0

    system = np.zeros((count + 1 + ndim,) * 2)
    for i, j in itertools.product(range(count), repeat=2):
        system[i, j] = phi(points[i], points[j]) + regularization * (i == j)
    system[:count, count:] = np.c_[np.ones(count), points]
    system[count:, :count] = system[:count, count:].T
    solution = np.linalg.solve(system, np.concatenate([theta, np.zeros((ndim + 1, ndim))]))
    return np.array([[*(phi(t, c) for c in points), 1.0, *t] @ solution for t in targets])


@pytest.mark.parametrize("ndim, size", [(2, (4, 5)), (2, (1, 3)), (3, (3, 2, 4))], ids=str)
@pytest.mark.parametrize("regularization", [0.0, 0.3])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_equals_the_equations(backend, rng, ndim, size, regularization, align_corners, dtype, tolerance):
    points = POINTS[ndim]
    spline = pystn.ThinPlateSpline(points, size, align_corners, regularization=regularization)
    theta = parameters(spline, rng, (2, 3), dtype)
    target = oracle.affine_grid(np.eye(ndim, ndim + 1)[None], size, align_corners)[0].reshape(-1, ndim)
    grid = backend.numpy(spline(backend.array(theta)))
    for at in np.ndindex(2, 3):
        expected = slow(points, theta[at].astype(float), target, regularization)
        np.testing.assert_allclose(grid[at].reshape(-1, ndim), expected, atol=tolerance)


@pytest.mark.parametrize("ndim, kernel", [(2, "thin_plate_spline"), (3, "linear")])
@pytest.mark.parametrize("regularization", [0.0, 0.5])
@pytest.mark.parametrize("aspect", [None, (6.0, 2.0, 3.0)])
def test_equals_scipy(backend, rng, ndim, kernel, regularization, aspect):
    interpolate = pytest.importorskip("scipy.interpolate")
    targets, aspect = rng.uniform(-1.5, 1.5, (20, ndim)), aspect and aspect[:ndim]
    options = {"regularization": regularization, "aspect": aspect}
    spline = pystn.ThinPlateSpline(POINTS[ndim], targets=targets, **options)
    theta = parameters(spline, rng, (1,))
    sides = 1.0 if aspect is None else np.array(aspect) / 6
    peer = interpolate.RBFInterpolator(
        sides * POINTS[ndim], theta[0], kernel=kernel, degree=1, smoothing=regularization
    )
    np.testing.assert_allclose(backend.numpy(spline(backend.array(theta)))[0], peer(sides * targets), atol=1e-12)


@pytest.mark.filterwarnings("ignore:`distance_matrix` is deprecated:DeprecationWarning")  # which scikit-image calls
def test_equals_scikit_image(backend, rng):
    transform = pytest.importorskip("skimage.transform")
    if not hasattr(getattr(transform, "ThinPlateSplineTransform", None), "from_estimate"):
        pytest.skip("of scikit-image 0.26 and later")
    targets = rng.uniform(-1, 1, (20, 2))
    spline = pystn.ThinPlateSpline(CONTROL, targets=targets)
    theta = parameters(spline, rng, (1,))
    peer = transform.ThinPlateSplineTransform.from_estimate(CONTROL, theta[0])
    # It adds 1e-8 to the squared distances and keeps its system in float32.
    np.testing.assert_allclose(backend.numpy(spline(backend.array(theta)))[0], peer(targets), atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_control_points_go_where_they_are_told(backend, rng, ndim):
    spline = pystn.ThinPlateSpline(POINTS[ndim], targets=POINTS[ndim])
    theta = rng.standard_normal((3, *spline.theta_shape))
    np.testing.assert_allclose(backend.numpy(spline(backend.array(theta))), theta, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("regularization", [0.0, 1.0])
def test_affine_maps_are_reproduced(backend, rng, ndim, regularization):
    matrix = rng.standard_normal((2, ndim, ndim + 1))
    spline = pystn.ThinPlateSpline(POINTS[ndim], (4, 3, 5)[:ndim], regularization=regularization)
    moved = POINTS[ndim] @ matrix[..., :ndim].swapaxes(1, 2) + matrix[:, None, :, ndim]
    expected = pystn.affine_grid(backend.array(matrix), spline.size)
    np.testing.assert_allclose(backend.numpy(spline(backend.array(moved))), backend.numpy(expected), atol=1e-12)
    np.testing.assert_allclose(spline.basis.sum(axis=1), 1, atol=1e-12)


def test_only_the_ratios_of_an_aspect_count(rng):
    """And of a square there is none."""
    theta = CONTROL[None] + 0.1 * rng.standard_normal((1, *CONTROL.shape))

    def grid(*aspect):
        return pystn.ThinPlateSpline(CONTROL, (4, 5), regularization=0.1, aspect=aspect or None)(theta)

    np.testing.assert_array_equal(grid(4.0, 2.0), grid(2.0, 1.0))
    np.testing.assert_array_equal(grid(5, 5), grid())
    assert np.abs(grid(2.0, 1.0) - grid()).max() > 1e-3


def test_much_regularization_is_least_squares(backend, rng):
    targets = rng.uniform(-1, 1, (20, 2))
    theta = CONTROL + rng.standard_normal(CONTROL.shape)
    fit = np.linalg.lstsq(np.c_[CONTROL, np.ones(len(CONTROL))], theta, rcond=None)[0]
    distances = []
    for regularization in (1e2, 1e4, 1e6):
        spline = pystn.ThinPlateSpline(CONTROL, targets=targets, regularization=regularization)
        grid = backend.numpy(spline(backend.array(theta[None])))[0]
        distances.append(np.abs(grid - np.c_[targets, np.ones(20)] @ fit).max())
    assert distances[1] < 0.02 * distances[0]
    assert distances[2] < 0.02 * distances[1]


@pytest.mark.parametrize("ndim", [2, 3])
def test_regularization_smooths(backend, rng, ndim):
    """The residuals at the control points grow with it, and their sum of squares never exceeds that of the fit."""
    theta = POINTS[ndim] + 0.3 * rng.standard_normal(POINTS[ndim].shape)
    residuals = []
    for regularization in (0.0, 0.01, 0.1, 1.0, 1e6):
        spline = pystn.ThinPlateSpline(POINTS[ndim], targets=POINTS[ndim], regularization=regularization)
        residuals.append(((backend.numpy(spline(backend.array(theta[None])))[0] - theta) ** 2).sum())
    assert residuals[0] < 1e-20
    assert all(a < b for a, b in itertools.pairwise(residuals))


def test_equals_the_linear_grid_of_its_basis(backend, rng):
    spline = pystn.ThinPlateSpline(CONTROL, (5, 6))
    theta = parameters(spline, rng, (2, 3))
    assert spline.basis.shape == (1, len(CONTROL), 5, 6)
    found = pystn.linear_grid(backend.array(theta.swapaxes(-1, -2)), backend.array(spline.basis))
    np.testing.assert_allclose(backend.numpy(found), backend.numpy(spline(backend.array(theta))), atol=1e-12)


# Regularized ones have an aspect too.
CELLS = [(2, (4, 5), 0.0), (2, (2, 3), 0.2), (2, (), 0.0), (2, (3,), 0.1), (3, (2, 3, 2), 0.0), (3, (4,), 0.1)]


def options_of(ndim, regularization):
    return {"regularization": regularization, "aspect": (2.0, 1.5, 3.0)[:ndim] if regularization else None}


def splines(rng, ndim, shape, regularization):
    """Of pixels where there is a size, of random targets and of one on a control point otherwise."""
    if len(shape) == ndim:
        return pystn.ThinPlateSpline(POINTS[ndim], shape, **options_of(ndim, regularization)), ("points",)
    targets = rng.uniform(-1, 1, (*shape, 1, ndim))
    if shape:
        targets[0, 0] = POINTS[ndim][2]
    spline = pystn.ThinPlateSpline(POINTS[ndim], targets=targets, **options_of(ndim, regularization))
    return spline, ("points", "targets")


@pytest.mark.parametrize("ndim, shape, regularization", CELLS, ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_all_derivatives_are_adjoint(backend, rng, ndim, shape, regularization, dtype):
    spline, state = splines(rng, ndim, shape, regularization)
    theta = parameters(spline, rng, (2, 3), dtype)
    directions = [rng.standard_normal(theta.shape).astype(dtype)]
    directions += [rng.standard_normal(getattr(spline, name).shape) for name in state]
    u = rng.standard_normal((2, 3, *spline.size, ndim)).astype(dtype)
    for wrt in (("theta", *state), state, state[-1:]):
        given = [d if name in wrt else None for name, d in zip(("theta", *state), directions, strict=True)]
        d_theta, *_ = given = [None if d is None else backend.array(d) for d in given]
        tangents = {f"d_{name}": d for name, d in zip(state, given[1:], strict=True) if d is not None}
        pushed = backend.numpy(spline.jvp(backend.array(theta), d_theta, **tangents))
        assert pushed.dtype == dtype
        pulled = [
            backend.numpy(g) for g in spline.vjp(backend.array(u), backend.array(theta), wrt=wrt) if g is not None
        ]
        assert [g.dtype for g in pulled] == [dtype if name == "theta" else np.float64 for name in wrt]
        assert_adjoint(pushed, u, pulled, [backend.numpy(d) for d in given if d is not None])


@pytest.mark.parametrize("ndim, shape, regularization", CELLS, ids=str)
def test_all_second_derivatives(backend, rng, ndim, shape, regularization):
    spline, state = splines(rng, ndim, shape, regularization)
    wrt = ("theta", *state)
    primals = [parameters(spline, rng, (2, 3)), *(getattr(spline, name) for name in state)]
    directions = [[rng.standard_normal(p.shape) for p in primals] for _ in range(2)]
    if "targets" in state and shape:  # a target stays at a control point, where there are no second derivatives
        for _, points, targets in directions:
            points[2], targets[0, 0] = 0, 0
    u = rng.standard_normal((2, 3, *spline.size, ndim))

    def made(points, targets=None):
        where = {"size": spline.size} if targets is None else {"targets": targets}
        return pystn.ThinPlateSpline(points, **where, **options_of(ndim, regularization))

    def vjp(u, theta, *moved):
        return [backend.numpy(g) for g in made(*moved).vjp(backend.array(u), backend.array(theta), wrt=wrt)]

    def vjp2(gg_theta, *arrays):
        given = [None if a is None else backend.array(a) for a in (gg_theta, *arrays[: len(state)])]
        u, theta, *moved = arrays[len(state) :]
        gg = {f"gg_{name}": direction for name, direction in zip(state, given[1:], strict=True)}
        found = made(*moved).vjp2(given[0], backend.array(u), backend.array(theta), **gg, wrt=("grad_grid", *wrt))
        return [backend.numpy(g) for g in found]

    along, across = directions
    assert_second_order(vjp, vjp2, u, primals, along, across)
    for k in range(len(wrt)):
        alone = [d if k == i else None for i, d in enumerate(along)]
        assert_second_order(vjp, vjp2, u, primals, alone, across)


@pytest.mark.parametrize("ndim, shape, regularization", CELLS, ids=str)
def test_all_derivatives_equal_central_differences(backend, rng, ndim, shape, regularization):
    spline, state = splines(rng, ndim, shape, regularization)
    theta = parameters(spline, rng, (2,))
    h = 1e-5

    def grid(points, targets):
        where = {"size": spline.size} if targets is None else {"targets": targets}
        made = pystn.ThinPlateSpline(points, **where, **options_of(ndim, regularization))
        return backend.numpy(made(backend.array(theta)))

    primals = [spline.points, spline.targets if "targets" in state else None]
    for name in state:
        direction = rng.standard_normal(getattr(spline, name).shape)
        if name == "targets" and shape:  # phi has a kink of its second derivative, and -r of its first, at a point
            direction[0, 0] = 0
        tangents = [direction if name == n else None for n in ("points", "targets")]
        if ndim == 3 and "targets" in state and name == "points":
            direction[2] = 0
        expected = (
            difference(grid, primals, tangents, h)
            if len(state) == 2
            else (grid(spline.points + h * direction, None) - grid(spline.points - h * direction, None)) / (2 * h)
        )
        pushed = backend.numpy(spline.jvp(backend.array(theta), None, **{f"d_{name}": backend.array(direction)}))
        assert_close(pushed, expected)
        u = rng.standard_normal(expected.shape)
        _, gradient = spline.vjp(backend.array(u), backend.array(theta), wrt=name)
        np.testing.assert_allclose((backend.numpy(gradient) * direction).sum(), (expected * u).sum(), rtol=1e-6)


def test_gradients_equal_those_of_pytorch(rng, backend):
    """The same equations under automatic differentiation, in all three inputs, once and twice."""
    torch = pytest.importorskip("torch")
    targets = rng.uniform(-1, 1, (11, 2))
    spline = pystn.ThinPlateSpline(CONTROL, targets=targets, regularization=0.05)
    theta, u = parameters(spline, rng, (2,)), rng.standard_normal((2, 11, 2))
    c, t, y, g = (torch.tensor(a, requires_grad=True) for a in (CONTROL, targets, theta, u))

    def phi(a, b):
        squared = ((a[:, None] - b[None]) ** 2).sum(-1)
        return 0.5 * squared * torch.log(torch.where(squared > 0, squared, 1.0))

    count, ones = len(CONTROL), torch.ones(len(CONTROL), 1, dtype=torch.float64)
    top = torch.cat([phi(c, c) + 0.05 * torch.eye(count, dtype=torch.float64), ones, c], 1)
    system = torch.cat([top, torch.cat([top[:, count:].T, torch.zeros(3, 3, dtype=torch.float64)], 1)])
    weights = torch.linalg.solve(system, torch.cat([y, torch.zeros(2, 3, 2, dtype=torch.float64)], 1))
    grid = torch.cat([phi(t, c), torch.ones(11, 1, dtype=torch.float64), t], 1) @ weights
    gradients = torch.autograd.grad(grid, (y, c, t), g, create_graph=True)
    np.testing.assert_allclose(backend.numpy(spline(backend.array(theta))), grid.detach().numpy(), atol=1e-12)
    found = spline.vjp(backend.array(u), backend.array(theta), wrt=("targets", "points", "theta"))
    for gradient, peer in zip(found, gradients, strict=True):
        np.testing.assert_allclose(backend.numpy(gradient), peer.detach().numpy(), atol=1e-11)
    gg = [rng.standard_normal(peer.shape) for peer in gradients]
    expected = torch.autograd.grad(gradients, (g, y, c, t), [torch.tensor(a) for a in gg])
    gg_theta, gg_points, gg_targets = (backend.array(a) for a in gg)
    found = spline.vjp2(
        gg_theta,
        backend.array(u),
        backend.array(theta),
        gg_points=gg_points,
        gg_targets=gg_targets,
        wrt=("grad_grid", "theta", "points", "targets"),
    )
    for gradient, peer in zip(found, expected, strict=True):
        assert_close(backend.numpy(gradient), peer.numpy(), 1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_second_derivatives_that_are_wanted(backend, rng, dtype):
    spline = pystn.ThinPlateSpline(CONTROL, targets=rng.uniform(-1, 1, (5, 2)))
    theta, gg = parameters(spline, rng, (2,), dtype), rng.standard_normal((2, *CONTROL.shape)).astype(dtype)
    arrays = [backend.array(a) for a in (gg, rng.standard_normal((2, 5, 2)).astype(dtype), theta)]
    points, targets = (backend.array(rng.standard_normal(a.shape)) for a in (CONTROL, spline.targets))
    state = {"gg_points": points, "gg_targets": targets}
    names = ("grad_grid", "theta", "points", "targets")
    found = spline.vjp2(*arrays, **state, wrt=names)
    assert [g.dtype for g in found] == [dtype, dtype, np.float64, np.float64]
    for k, name in enumerate(names):
        alone = [g for g in spline.vjp2(*arrays, **state, wrt=name) if g is not None]
        assert len(alone) == 1
        np.testing.assert_array_equal(backend.numpy(alone[0]), backend.numpy(found[k]))
    with pytest.raises(ValueError, match="gg_points must have the shape of points"):
        spline.vjp2(*arrays, gg_points=points[1:])
    with pytest.raises(TypeError, match="gg_targets must have the dtype of targets"):
        spline.vjp2(*arrays, gg_targets=targets.astype(np.float32))


def test_a_gradient_to_the_points_alone(backend, rng):
    spline = pystn.ThinPlateSpline(CONTROL, (4, 5))
    theta, u = parameters(spline, rng, (2,)), rng.standard_normal((2, 4, 5, 2))
    both = spline.vjp(backend.array(u), backend.array(theta), wrt=("points", "theta"))
    none, points = spline.vjp(backend.array(u), backend.array(theta), wrt="points")
    assert none is None
    np.testing.assert_array_equal(backend.numpy(points), backend.numpy(both[1]))
    with pytest.raises(ValueError, match="unknown entry of wrt"):  # the pixels of an output do not move
        spline.vjp(backend.array(u), backend.array(theta), wrt="targets")


def test_control_points_are_a_grid():
    np.testing.assert_array_equal(pystn.control_points((3,)), [[-1], [0], [1]])
    points = pystn.control_points((2, 3, 4)).reshape(2, 3, 4, 3)
    np.testing.assert_array_equal(points[0, :, 0, 1], [-1, 0, 1])
    np.testing.assert_allclose(points[1, 1, :, 0], [-1, -1 / 3, 1 / 3, 1])
    with pytest.raises(ValueError, match="shape must have 1 to 3 entries"):
        pystn.control_points(())


@pytest.mark.parametrize("count", [4, 12])
def test_many_control_points_stay_accurate(backend, count):
    spline = pystn.ThinPlateSpline(pystn.control_points((count, count)), (40, 50))
    grid = backend.numpy(spline(backend.array(spline.identity())))
    expected = backend.numpy(pystn.affine_grid(backend.array(np.eye(2, 3)[None]), (40, 50)))
    np.testing.assert_allclose(grid, expected, atol=1e-12)


def test_errors_of_the_constructor():
    points = np.array(CONTROL)
    points[5] = points[1]
    with pytest.raises(ValueError, match="points must not coincide: points 1 and 5 are both at"):
        pystn.ThinPlateSpline(points, (4, 4))
    pystn.ThinPlateSpline(points, (4, 4), regularization=0.1)
    line = np.outer(np.linspace(-1, 1, 5), [0.3, 0.7]) + 0.1
    for regularization in (0.0, 0.1):
        with pytest.raises(ValueError, match="points must not all lie on one line: got points 0 to 4 on one"):
            pystn.ThinPlateSpline(line, (4, 4), regularization=regularization)
    with pytest.raises(ValueError, match="points must not all lie on one plane: got points 0 to 8 on one"):
        pystn.ThinPlateSpline(CONTROL_3D * [1, 1, 0], (4, 4, 4))
    with pytest.raises(ValueError, match="points must not all lie on one line"):
        pystn.ThinPlateSpline(CONTROL[:2], (4, 4))
    with pytest.raises(ValueError, match=r"points must have last axis 2 or 3 .* got \(7, 1\)"):
        pystn.ThinPlateSpline(CONTROL[:, :1], (4,))
    with pytest.raises(ValueError, match=r"points must have shape \(P, ndim\): got \(1, 7, 2\)"):
        pystn.ThinPlateSpline(CONTROL[None], (4, 4))
    with pytest.raises(ValueError, match="points must be finite"):
        pystn.ThinPlateSpline(CONTROL * np.inf, (4, 4))
    with pytest.raises(ValueError, match="aspect must be one value or one per spatial axis, 2: got 3"):
        pystn.ThinPlateSpline(CONTROL, (4, 4), aspect=(1, 1, 1))
    with pytest.raises(ValueError, match="aspect must be above 0 along every axis"):
        pystn.ThinPlateSpline(CONTROL, (4, 4), aspect=(1, 0))
    with pytest.raises(TypeError, match=r"aspect must be a sequence of one number for each axis, got 1\.5"):
        pystn.ThinPlateSpline(CONTROL, (4, 4), aspect=1.5)
    with pytest.raises(ValueError, match="regularization must not be negative"):
        pystn.ThinPlateSpline(CONTROL, (4, 4), regularization=-1)
    with pytest.raises(ValueError, match="give either size or targets: got neither"):
        pystn.ThinPlateSpline(CONTROL)
    with pytest.raises(ValueError, match="give either size or targets: got both"):
        pystn.ThinPlateSpline(CONTROL, (4, 4), targets=CONTROL)
    with pytest.raises(ValueError, match="targets must have last axis 2"):
        pystn.ThinPlateSpline(CONTROL, targets=CONTROL_3D)
    spline = pystn.ThinPlateSpline(CONTROL, (4, 4))
    with pytest.raises(ValueError, match="d_points must have the shape of points"):
        spline.jvp(spline.identity(), None, d_points=CONTROL[1:])
