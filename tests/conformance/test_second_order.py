"""The second order of splatting and of the warps: the VJP of their VJPs."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from conftest import (
    CONVENTIONS,
    EVERY_PADDING_MODE,
    assert_same_sums,
    away_from_kinks,
    coordinates,
    kernel_for,
    skipped_if_torch_has_none,
)
from warps import WARPS, matrices

import pystn

KERNELS = ("nearest", "linear", "cubic", "bspline4", "prefiltered", "gaussian", "tabulated", "mixed")
# Kernels of no negative weight: with others the count of a forward warp passes through -eps.
POSITIVE = {"linear", "nearest", "gaussian"}
IMAGES = {1: (6,), 2: (5, 6), 3: (4, 3, 5)}
SHAPES = {1: (4,), 2: (4, 3), 3: (3, 2, 4)}  # of grids and outputs
# Batch of image, or values, and of what the coordinates come from; axes of several matrices.
BATCHES = [(2, 2, ()), (1, 2, (2,)), (2, 1, (1, 2))]


@dataclass
class Case:
    """Everything an operation reads: its cotangent and primals, the rest of the arguments, and what it is given."""

    vjp: callable
    vjp2: callable
    names: tuple  # the primals that have a gradient
    primals: list
    shape: tuple  # of its output, channels first
    rest: tuple = ()
    options: dict = field(default_factory=dict)
    images: tuple = ("grad_output", "input", "values")  # whose channels move


@dataclass(frozen=True)
class Operation:
    name: str
    ndim: int
    warp: object = None
    fixed: tuple = ()

    def case(self, rng, kernel="linear", padding_mode="zeros", convention=(False, "normalized"), batch=BATCHES[0]):
        align_corners, coords = convention
        image, shape, several = IMAGES[self.ndim], SHAPES[self.ndim], batch[2]
        options = {"mode": kernel_for(pystn, kernel, self.ndim)[0], "padding_mode": padding_mode}
        options |= {"align_corners": align_corners, "coords": coords}
        functions = getattr(pystn, f"{self.name}_vjp"), getattr(pystn, f"{self.name}_vjp2")
        samples = max(batch[:2])
        if self.warp is not None:
            leading = (batch[1], *several)
            theta = matrices(rng, self.warp, leading, image, shape, align_corners, coords, clear=0.002, tilt=0.2)
            primals = [rng.standard_normal((batch[0], 2, *image)), theta]
            output = (samples, 2, *several, *self.warp.spatial(shape))
            options |= {"fill_value": 0.5, **dict(self.fixed)}
            return Case(*functions, ("input", "theta"), primals, output, (shape,), options)
        grid = coordinates(rng, (batch[1], *shape), image, coords, 1.2)
        grid = away_from_kinks(grid, image, align_corners, coords)
        if self.name == "grid_count":
            return Case(*functions, ("grid",), [grid], (batch[1], 1, *image), (image,), options)
        if self.name == "forward_warp":
            options["eps"] = 0.1
        values = rng.standard_normal((batch[0], 2, *shape))
        return Case(*functions, ("values", "grid"), [values, grid], (samples, 2, *image), (image,), options)


OPERATIONS = {
    **{f"{name}-{n}d": Operation(name, n) for name in ("grid_push", "grid_count", "forward_warp") for n in IMAGES},
    **{key: Operation(w.name, w.ndim, w, tuple(w.given({}).items())) for key, w in WARPS.items()},
}


SPLATTING = [key for key, operation in OPERATIONS.items() if operation.warp is None]
COMPLEX = [key for key in OPERATIONS if not key.startswith(("grid_count", "project-max"))]  # no reals, no order
CELLS = [(key, k) for key in OPERATIONS for k in KERNELS if k in POSITIVE or not key.startswith("forward_warp")]


def inner(xs, ys):
    return sum((np.asarray(x) * y).sum() for x, y in zip(xs, ys, strict=True))


class Calls:
    """The two functions of a case on a backend, channels where `axis` says, of and to arrays of NumPy."""

    def __init__(self, backend, case, axis=1):
        self.backend, self.case, self.axis = backend, case, axis

    def array(self, a, name):
        if a is not None and name in self.case.images:
            a = np.ascontiguousarray(np.moveaxis(a, 1, self.axis))
        return None if a is None else self.backend.array(a)

    def numpy(self, a, name):
        if a is None:
            return None
        return np.moveaxis(self.backend.numpy(a), self.axis, 1) if name in self.case.images else self.backend.numpy(a)

    def run(self, function, arrays, names, returned, **more):
        given = [self.array(a, name) for a, name in zip(arrays, names, strict=True)]
        found = function(*given, *self.case.rest, **self.case.options, channel_axis=self.axis, **more)
        return [self.numpy(a, name) for a, name in zip(found, returned, strict=True)]

    def vjp(self, g, *primals):
        names = self.case.names
        return self.run(self.case.vjp, (g, *primals), ("grad_output", *names), names)

    def vjp2(self, gg, g, *primals, **more):
        names = self.case.names
        all_of = ("grad_output", *names)
        return self.run(self.case.vjp2, (*gg, g, *primals), (*names, *all_of), all_of, **more)


def drawn(rng, case, dtype=np.float64):
    """Cotangents of the gradients, and of the output, like what they are cotangents of."""
    gg = [rng.standard_normal(p.shape).astype(dtype) for p in case.primals]
    return gg, rng.standard_normal(case.shape).astype(dtype)


@pytest.fixture(params=OPERATIONS)
def operation(request):
    return OPERATIONS[request.param]


def check_slopes(backend, rng, case, axis=1):
    """<gg, vjp> has the slopes that vjp2 says: to the cotangent and to each primal, by central differences."""
    calls = Calls(backend, case, axis)
    gg, g = drawn(rng, case)
    at = [g, *case.primals]
    found, size = calls.vjp2(gg, *at), np.abs(inner(calls.vjp(*at), gg))
    h = 1e-6
    for which, gradient in enumerate(found):
        along = rng.standard_normal(at[which].shape)
        ahead, behind = (
            inner(calls.vjp(*[a + s * h * along if i == which else a for i, a in enumerate(at)]), gg) for s in (1, -1)
        )
        terms = np.abs(gradient * along).sum() + size
        assert abs(inner([gradient], [along]) - (ahead - behind) / (2 * h)) <= 2e-7 * max(1, terms), which


@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("name, kernel", CELLS)
def test_slopes_of_the_vjp(backend, rng, name, kernel, padding_mode):
    check_slopes(backend, rng, OPERATIONS[name].case(rng, kernel, padding_mode))


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("convention", CONVENTIONS, ids=str)
@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_slopes_of_any_batch_and_convention(backend, rng, operation, kernel, convention, batch, axis):
    case = operation.case(rng, kernel, "constant" if operation.warp else "border", convention, batch)
    check_slopes(backend, rng, case, axis)


@pytest.mark.parametrize("cutoff", ["center", "edge"])
def test_slopes_with_a_cutoff(backend, rng, operation, cutoff):
    case = operation.case(rng, "bspline4" if operation.name != "forward_warp" else "gaussian", "mirror")
    case.options["cutoff"] = cutoff
    check_slopes(backend, rng, case)


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_second_derivatives_are_symmetric_and_linear_in_the_cotangent(backend, rng, operation, kernel):
    """<a, H b> = <b, H a>, with H that of <cotangent, f>; and H of twice the cotangent is 2 H."""
    case = operation.case(rng, kernel, batch=BATCHES[1])
    calls = Calls(backend, case)
    (a, g), (b, _) = drawn(rng, case), drawn(rng, case)
    of_a, of_b = calls.vjp2(a, g, *case.primals)[1:], calls.vjp2(b, g, *case.primals)[1:]
    scale = sum(np.abs(x * y).sum() for x, y in zip(of_a, b, strict=True))
    assert abs(inner(of_a, b) - inner(of_b, a)) <= 1e-12 * scale
    for once, twice in zip(of_a, calls.vjp2(a, 2 * g, *case.primals)[1:], strict=True):
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-12, atol=1e-12 * np.abs(once).max())


def test_the_gradient_to_the_cotangent_is_the_tangent(backend, rng, operation):
    case = operation.case(rng, "linear", batch=BATCHES[1])
    gg, g = drawn(rng, case)
    found = Calls(backend, case).vjp2(gg, g, *case.primals, wrt="grad_output")
    assert found[1:] == [None] * len(case.names)
    arrays = map(backend.array, [*case.primals, *gg])
    expected = getattr(pystn, f"{operation.name}_jvp")(*arrays, *case.rest, **case.options)
    scale = np.abs(found[0]).max()
    np.testing.assert_allclose(found[0], backend.numpy(expected), rtol=0, atol=1e-13 * scale)


def test_wrt_skips_and_none_is_zero(backend, rng, operation):
    case = operation.case(rng, "gaussian", batch=BATCHES[1])
    calls = Calls(backend, case)
    gg, g = drawn(rng, case)
    every = calls.vjp2(gg, g, *case.primals)
    for which, name in enumerate(("grad_output", *case.names)):
        alone = calls.vjp2(gg, g, *case.primals, wrt=name)
        assert [a is None for a in alone] == [i != which for i in range(len(every))]
        assert_same_sums(backend, alone[which], every[which])
    parts = [[gg[i] if i == which else None for i in range(len(gg))] for which in range(len(gg))]
    for part in [*parts, [None] * len(gg)]:
        zeros = [np.zeros_like(p) if d is None else d for p, d in zip(case.primals, part, strict=True)]
        for found, expected in zip(
            calls.vjp2(part, g, *case.primals), calls.vjp2(zeros, g, *case.primals), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(1, np.abs(expected).max()))
    for found, like in zip(calls.vjp2([None] * len(gg), g, *case.primals), (g, *case.primals), strict=True):
        np.testing.assert_array_equal(found, np.zeros_like(like))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_float32_is_near_float64(backend, rng, operation, batch):
    case = operation.case(rng, "linear", batch=batch)
    gg, g = drawn(rng, case, np.float32)
    single = [p.astype(np.float32) for p in case.primals]
    calls = Calls(backend, case)
    found = calls.vjp2(gg, g, *single)
    expected = calls.vjp2(*([a.astype(np.float64) for a in group] for group in (gg,)), *map(np.float64, [g, *single]))
    for ours, exact in zip(found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-4 * max(1, np.abs(exact).max()))


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_is_two_real_ones(backend, rng, name):
    """Of everything that is complex: the parts apart, and their sum for the coordinates."""
    operation = OPERATIONS[name]
    case = operation.case(rng, "cubic" if operation.warp else "gaussian")
    case.options.pop("fill_value", None)
    calls = Calls(backend, case)
    (gg, g), (gg_imag, g_imag) = drawn(rng, case), drawn(rng, case)
    image, place = case.primals
    imag = rng.standard_normal(image.shape)
    whole = calls.vjp2([gg[0] + 1j * gg_imag[0], gg[1]], g + 1j * g_imag, image + 1j * imag, place)
    real = calls.vjp2(gg, g, image, place)
    other = calls.vjp2([gg_imag[0], gg[1]], g_imag, imag, place)
    expected = [real[0] + 1j * other[0], real[1] + 1j * other[1], real[2] + other[2]]
    for found, wanted in zip(whole, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("name", WARPS)
def test_an_integer_image_is_that_image(backend, rng, name):
    case = OPERATIONS[name].case(rng)
    image = rng.integers(0, 255, case.primals[0].shape, np.uint8)
    theta = case.primals[1].astype(np.float32)
    case.options["fill_value"] = 0.0
    gg, g = drawn(rng, case, np.float32)
    calls = Calls(backend, case)
    for found, expected in zip(
        calls.vjp2(gg, g, image, theta), calls.vjp2(gg, g, image.astype(np.float32), theta), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", WARPS)
def test_double_in_either_makes_positions_double(backend, rng, name):
    """Of float32 matrices and a float64 image: as of the matrices in float64, rounded."""
    case = OPERATIONS[name].case(rng)
    case.primals[1] = case.primals[1].astype(np.float32)
    gg, g = drawn(rng, case)
    gg[1] = gg[1].astype(np.float32)
    calls = Calls(backend, case)
    found = calls.vjp2(gg, g, *case.primals)
    exact = calls.vjp2([gg[0], gg[1].astype(float)], g, case.primals[0], case.primals[1].astype(float))
    for ours, wanted in zip(found[:2], exact[:2], strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
    assert found[2].dtype == np.float32
    np.testing.assert_array_equal(found[2], exact[2].astype(np.float32))


# ---------------------------------------------------------------------------------------------
# Independent witnesses


def near(found, expected, what=""):
    expected = np.zeros_like(found) if expected is None else expected.detach().numpy()
    bound = 1e-11 * max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=what)


def twice(torch, of, g, primals, gg):
    """The VJP of the VJP of a function of PyTorch's operations."""
    tensors = [torch.from_numpy(a).requires_grad_() for a in (g, *primals)]
    gradients = torch.autograd.grad(of(*tensors[1:]), tensors[1:], tensors[0], create_graph=True)
    with skipped_if_torch_has_none():
        return torch.autograd.grad(gradients, tensors, [torch.from_numpy(a) for a in gg], allow_unused=True)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", [key for key in WARPS if key != "affine-1d"])
def test_torch_warps(backend, rng, name, align_corners, batch):
    """A grid of PyTorch's operations and its sampler; autograd through both, twice."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    operation = OPERATIONS[name]
    case = operation.case(rng, "linear", "border", (align_corners, "normalized"), batch)
    gg, g = drawn(rng, case)
    image, size = case.primals[0].shape[2:], case.rest[0]
    identity = torch.eye(operation.ndim, operation.ndim + 1, dtype=torch.float64)[None]
    lattice = torch.nn.functional.affine_grid(identity, (1, 1, *size), align_corners)
    points = torch.cat([lattice, torch.ones(1, *size, 1)], -1).reshape(-1, operation.ndim + 1)

    def warp(input, theta):
        samples, several = len(g), theta.shape[1:-2]
        q = points @ theta.expand(samples, *theta.shape[1:]).reshape(-1, *theta.shape[-2:]).transpose(1, 2)
        grid = q[..., :2] / q[..., 2:] if operation.warp.projective else q
        grid = grid.reshape(-1, *size, operation.ndim)
        many = input.expand(samples, *input.shape[1:]).repeat_interleave(int(np.prod(several)), 0)
        output = torch.nn.functional.grid_sample(many, grid, "bilinear", "border", align_corners)
        output = output.reshape(samples, *several, 2, *size).movedim(1 + len(several), 1)
        reduce = dict(operation.fixed).get("reduce")
        if reduce is not None:
            depth = output.ndim - 3
            output = output.max(dim=depth).values if reduce == "max" else getattr(output, reduce)(dim=depth)
        return output

    assert len(image) == operation.ndim
    found = Calls(backend, case).vjp2(gg, g, *case.primals)
    for ours, theirs in zip(found, twice(torch, warp, g, case.primals, gg), strict=True):
        near(ours, theirs)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("name", SPLATTING)
def test_torch_splatting(backend, rng, name, batch):
    """The weights of every pixel for every value, as one matrix."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    operation = OPERATIONS[name]
    case = operation.case(rng, "linear", "zeros", (False, "pixel"), batch)
    gg, g = drawn(rng, case)
    size = case.rest[0]

    def weights(grid):
        flat = grid.reshape(len(grid), -1, operation.ndim)
        found = torch.ones(len(grid), flat.shape[1], 1, dtype=torch.float64)
        for a, n in enumerate(size):
            apart = torch.arange(n)[None, None] - flat[..., operation.ndim - 1 - a, None]
            found = (found[..., None] * (1 - apart.abs()).clamp(0)[..., None, :]).flatten(2)
        return found

    def splat(*primals):
        w = weights(primals[-1])
        count = w.sum(1)[:, None].reshape(len(w), 1, *size)
        if operation.name == "grid_count":
            return count
        image = primals[0].flatten(2) @ w
        image = image.reshape(*image.shape[:2], *size)
        return image if operation.name == "grid_push" else image / (count + case.options["eps"])

    found = Calls(backend, case).vjp2(gg, g, *case.primals)
    for ours, theirs in zip(found, twice(torch, splat, g, case.primals, gg), strict=True):
        near(ours, theirs)


# ---------------------------------------------------------------------------------------------
# Warps against the grid and the sampler that they fuse


@pytest.mark.parametrize("kernel", ["linear", "bspline4"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("hidden", [{}, {"min_denominator": 0.4}, {"cull_behind": True}], ids=str)
@pytest.mark.parametrize("lost", [None, np.nan, np.inf])
def test_a_projective_warp_is_a_grid_and_the_sampler(backend, rng, kernel, batch, hidden, lost):
    """With the mask; horizons that cross the output, and a matrix that is not finite."""
    image, size = (5, 6), (7, 4)
    theta = matrices(rng, WARPS["projective"], (batch[1], *batch[2]), image, size)
    last = (-1,) * (theta.ndim - 2)
    if lost is not None:
        theta[last][0, 1] = lost
    input, gg_input = (rng.standard_normal((batch[0], 2, *image)) for _ in range(2))
    gg_theta = rng.standard_normal(theta.shape)
    samples = max(batch[:2])
    cotangent = rng.standard_normal((samples, 2, *batch[2], *size)), rng.standard_normal((samples, *batch[2], *size))
    options = {"mode": kernel_for(pystn, kernel, 2)[0], "padding_mode": "constant", "fill_value": [0.5, -1.0]}
    options["return_mask"] = True
    input, gg_input, theta, gg_theta = map(backend.array, (input, gg_input, theta, gg_theta))
    g = tuple(map(backend.array, cotangent))
    found = pystn.warp_projective_vjp2(gg_input, gg_theta, g, input, theta, size, **options, **hidden)

    grid = pystn.projective_grid(theta, size, **hidden)
    gg_grid = pystn.projective_grid_jvp(theta, gg_theta, size, **hidden)
    expected = pystn.grid_sample_vjp2(gg_input, gg_grid, g, input, grid, **options)
    _, first = pystn.grid_sample_vjp(g, input, grid, **options)
    (through,) = pystn.projective_grid_vjp(expected[2], theta, size, **hidden)
    _, bent = pystn.projective_grid_vjp2(gg_theta, first, theta, size, **hidden)
    to_theta = backend.numpy(through + bent)
    if lost is not None:
        to_theta[last] = 0  # NaN of a grid alone; a warp puts it outside
    pairs = [*zip(found[0], expected[0], strict=True), (found[1], expected[1]), (found[2], to_theta)]
    for ours, wanted in pairs:
        ours, wanted = map(backend.numpy, (ours, wanted))
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-10 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", WARPS)
def test_matrices_that_are_not_finite_have_no_second_order(backend, rng, name, bad):
    case = OPERATIONS[name].case(rng)
    case.primals[1][..., 0, -1] = bad
    gg, g = drawn(rng, case)
    to_output, *rest = Calls(backend, case).vjp2(gg, g, *case.primals)
    assert np.isfinite(to_output).all()
    for found in rest:
        np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("warp", ["warp_affine", "warp_projective"])
@pytest.mark.parametrize("rule", ["right", "left"])
def test_subgradients_of_the_identity_in_pixels(backend, rng, warp, rule):
    """Positions are on pixel centres to the bit, and a rule takes its cell for all: mixed derivatives say which."""
    image, g = rng.standard_normal((1, 1, 7, 9)), np.ones((1, 1, 5, 7))
    rows = 2 if warp == "warp_affine" else 3
    theta, shift = np.eye(rows, 3)[None], np.zeros((1, rows, 3))
    theta[0, :2, 2] = shift[0, 0, 2] = 1
    arrays = map(backend.array, (shift, g, image, theta))
    options = {"coords": "pixel", "subgradient": rule, "wrt": "theta"}
    _, _, found = getattr(pystn, f"{warp}_vjp2")(None, *arrays, (5, 7), **options)
    mixed = np.diff(np.diff(image[0, 0], axis=0), axis=1)  # of the cell below and right of each pixel
    first = 1 if rule == "right" else 0
    expected = mixed[first : first + 5, first : first + 7].sum()
    np.testing.assert_allclose(backend.numpy(found)[0, 1, 2], expected, rtol=1e-12)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_a_projection_is_of_the_volume(backend, rng, reduce):
    """The cotangent of each sample, spread by hand; with ties, the first of them has it."""
    case = OPERATIONS[f"project-{reduce}"].case(rng, batch=BATCHES[1])
    input, theta = case.primals
    input[:, 0] = np.round(input[:, 0])  # and flat in places
    gg, g = drawn(rng, case)
    found = Calls(backend, case).vjp2(gg, g, *case.primals)
    options = {k: v for k, v in case.options.items() if k != "reduce"}
    volume = backend.numpy(pystn.warp_affine(*map(backend.array, (input, theta)), *case.rest, **options))
    depth = volume.shape[-3]
    spread = np.repeat(g[..., None, :, :], depth, axis=-3) / (depth if reduce == "mean" else 1)
    if reduce == "max":
        spread *= np.arange(depth)[:, None, None] == volume.argmax(axis=-3, keepdims=True)
    arrays = map(backend.array, (*gg, spread, input, theta))
    expected = pystn.warp_affine_vjp2(*arrays, *case.rest, **options, wrt=("input", "theta"))
    for ours, wanted in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(ours, backend.numpy(wanted), rtol=0, atol=1e-12 * np.abs(found[2]).max())


# ---------------------------------------------------------------------------------------------
# What they refuse, and nothing at all


def test_what_does_not_fit_is_refused(rng, operation):
    case = operation.case(rng)
    gg, g = drawn(rng, case)
    arrays = [*gg, g, *case.primals]
    names = [f"gg_{name}" for name in case.names] + ["grad_output"]
    for at, name in enumerate(names):
        for wrong, error in ((arrays[at][..., :-1], ValueError), (arrays[at].astype(np.float32), TypeError)):
            given = [*arrays[:at], wrong, *arrays[at + 1 :]]
            with pytest.raises(error, match=f"^{name} must have"):
                case.vjp2(*given, *case.rest, **case.options)
        given = [*arrays[:at], arrays[at].tolist(), *arrays[at + 1 :]]
        with pytest.raises(TypeError, match=f"^{name} must be a numpy.ndarray"):
            case.vjp2(*given, *case.rest, **case.options)
    with pytest.raises(ValueError, match="unknown entry of wrt"):
        case.vjp2(*arrays, *case.rest, **case.options, wrt="kernel")


@pytest.mark.parametrize("which", ["batch", "output"])
def test_nothing_has_no_gradient(backend, rng, operation, which):
    """An empty batch, or no samples at all."""
    case = operation.case(rng)
    if which == "batch":
        case.primals = [p[:0] for p in case.primals]
        case.shape = (0, *case.shape[1:])
    elif operation.warp is not None:
        case.rest, case.shape = ((*SHAPES[operation.ndim][:-1], 0),), (*case.shape[:-1], 0)
    else:
        case.primals = [*(p[..., :0] for p in case.primals[:-1]), case.primals[-1][..., :0, :]]
    gg, g = drawn(rng, case)
    for found, like in zip(Calls(backend, case).vjp2(gg, g, *case.primals), (g, *case.primals), strict=True):
        np.testing.assert_array_equal(found, np.zeros_like(like))
