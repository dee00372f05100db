"""The fused warps: every cell against the oracle, the grid and sampler that they fuse, what matrices imply."""

from dataclasses import dataclass
from functools import reduce as reduce_in_order

import numpy as np
import oracle
import pytest
from conftest import CONVENTIONS, EVERY_PADDING_MODE, SUBGRADIENTS, kernel_for, parameters_for
from warps import AFFINE, PROJECTIONS, PROJECTIVE, WARPS, homogeneous, matrices, to_pixel_matrix

import pystn

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-4}
NAMES = ["nearest", "linear", "cubic", "bspline2", "prefiltered", "lanczos3", "gaussian", "tabulated", "mixed"]
NAMES_OF_UNREDUCED = [name for name, warp in WARPS.items() if warp.reduce is None]
UNREDUCED = [WARPS[name] for name in NAMES_OF_UNREDUCED]


@pytest.fixture(params=WARPS)
def warp(request):
    return WARPS[request.param]


@pytest.fixture(params=EVERY_PADDING_MODE)
def padding_mode(request):
    return request.param


@pytest.fixture(params=CONVENTIONS, ids=lambda c: "pixel" if c[1] == "pixel" else f"align={c[0]}")
def convention(request):
    return request.param


@pytest.fixture(params=[1, -1], ids=["channels-first", "channels-last"])
def channel_axis(request):
    return request.param


class Layout:
    """Arrays of the backend with the channels where `axis` says, and back."""

    def __init__(self, backend, axis):
        self.backend, self.axis = backend, axis

    def array(self, a):
        return self.backend.array(np.ascontiguousarray(np.moveaxis(a, 1, self.axis)))

    def numpy(self, a):
        return np.moveaxis(self.backend.numpy(a), self.axis, 1)


def same(actual, expected, tolerance=1e-12, what=""):
    assert actual.shape == expected.shape, what
    bound = tolerance * max(1.0, np.abs(expected).max(initial=0))
    assert np.abs(actual - expected).max(initial=0) <= bound, what


def paired(*pairs):
    """Sum of inner products, and of the sizes of their terms, which bounds its rounding."""
    terms = [np.ravel(np.asarray(a, float) * np.asarray(b, float)) for a, b in pairs]
    return sum(t.sum() for t in terms), sum(np.abs(t).sum() for t in terms)


# ---------------------------------------------------------------------------------------------
# Every cell


@dataclass(frozen=True)
class Case:
    image: tuple[int, ...]
    size: tuple[int, ...]
    several: tuple[int, ...] = ()  # the axes K of theta
    batch: tuple[int, int] = (2, 2)  # of input and theta
    fill: str | None = None  # one value for each channel, one for all, or not given
    cutoff: str | None = None
    lost: bool = False  # one of the matrices has a NaN


CASES = {
    1: [
        Case((7,), (5,), (2,), fill="channels"),
        Case((2,), (4,), (2, 1), (1, 2), "scalar", "edge", lost=True),
        Case((1,), (3,), (), (2, 1), cutoff="center"),
    ],
    2: [
        Case((4, 5), (3, 4), (2,), (2, 1), "channels", "center", lost=True),
        Case((2, 1), (3, 2), (), (1, 2), "scalar"),
    ],
    3: [
        Case((4, 5, 3), (2, 3, 2), (), (1, 2), "scalar", "edge"),
        Case((1, 2, 3), (3, 1, 2), (2,), (2, 2), "channels", lost=True),
    ],
}


class Asked:
    """What one case asks: arrays, channels first, and the options of both sides; what the oracle said."""

    def __init__(self, rng, warp, case, kernel, padding_mode, convention, dtype=np.float64):
        self.warp, self.case, self.dtype, self.answers = warp, case, dtype, {}
        self.parameters = parameters_for(kernel, warp.ndim)
        align_corners, coords = convention
        leading, clear = (case.batch[1], *case.several), 0.0 if dtype == np.float64 else 0.002
        theta = matrices(rng, warp, leading, case.image, case.size, align_corners, coords, clear=clear)
        if case.lost:
            theta[(-1,) * len(leading)][0, -1] = np.nan
        self.theta, self.d_theta = theta.astype(dtype), self.drawn(rng, theta.shape)
        self.input, self.d_input = (self.drawn(rng, (case.batch[0], 2, *case.image)) for _ in range(2))
        shape = (*case.several, *warp.spatial(case.size))
        self.cotangent = self.drawn(rng, (max(case.batch), 2, *shape))
        self.mask_cotangent = self.drawn(rng, (max(case.batch), *shape))
        self.d_fill, self.d_kernel = rng.standard_normal(2 if case.fill == "channels" else ()), None
        if self.parameters is not None:
            shapes = self.parameters if isinstance(self.parameters, list) else [self.parameters]
            drawn = [None if shape is None else np.asarray(rng.standard_normal(shape)) for shape in shapes]
            self.d_kernel = drawn if isinstance(self.parameters, list) else drawn[0]
        fill = {None: 0.0, "scalar": -0.75, "channels": np.array([0.5, -1.25])}[case.fill]
        self.filled = {} if case.fill is None else {"fill_value": fill}
        mode, theirs = kernel_for(pystn, kernel, warp.ndim)
        shared = {"padding_mode": padding_mode, "align_corners": align_corners, "coords": coords}
        if case.cutoff is not None:
            shared["cutoff"] = case.cutoff
        self.ours = {"mode": mode, **shared, **self.filled}
        self.without_fill = {"mode": theirs, "epsilon": np.finfo(dtype).eps, **shared}
        self.theirs = {**self.without_fill, **self.filled}

    def drawn(self, rng, shape):
        return rng.standard_normal(shape).astype(self.dtype)

    def expects(self, which, *arguments, **options):
        """What the oracle says, once for both layouts."""
        if which not in self.answers:
            self.answers[which] = self.warp.expected(which, *arguments, **options)
        return self.answers[which]

    def near(self, what, actual, expected):
        assert actual.dtype == self.dtype, what
        same(actual, expected, TOLERANCE[self.dtype], f"{what} of {self.case}")


def check_warp(asked, backend, channel_axis):
    """Value and mask, the VJP to everything, the JVP of everything, and that these two are adjoint."""
    layout, warp, size, case = Layout(backend, channel_axis), asked.warp, asked.case.size, asked.case
    options = {**asked.ours, "channel_axis": channel_axis}
    input, theta = layout.array(asked.input), backend.array(asked.theta)
    d_input, d_theta = layout.array(asked.d_input), backend.array(asked.d_theta)

    value, mask = warp.forward(input, theta, size, return_mask=True, **options)
    np.testing.assert_array_equal(backend.numpy(value), backend.numpy(warp.forward(input, theta, size, **options)))
    arrays = (asked.input, asked.theta)
    asked.near("value", layout.numpy(value), asked.expects("", *arrays, size, **asked.theirs))
    asked.near("mask", backend.numpy(mask), asked.expects("_mask", *arrays, size, **asked.without_fill))

    wrt = ("input", "theta", "fill_value") + ("kernel",) * (asked.parameters is not None)
    masked = (layout.array(asked.cotangent), backend.array(asked.mask_cotangent))
    found = warp.vjp(masked, input, theta, size, return_mask=True, wrt=wrt, **options)
    assert len(found) == len(wrt)
    wanted = asked.expects(
        "_vjp", asked.cotangent, *arrays, size, wrt=wrt, grad_mask=asked.mask_cotangent, **asked.theirs
    )
    grad_input, grad_theta, grad_fill = layout.numpy(found[0]), *map(backend.numpy, found[1:3])
    asked.near("grad_input", grad_input, wanted[0])
    asked.near("grad_theta with the mask", grad_theta, wanted[1])
    same(grad_fill, wanted[2] if case.fill == "channels" else np.asarray(wanted[2].sum()), TOLERANCE[asked.dtype] * 10)
    by_kernel = check_kernel_gradient(asked, backend, found[3], wanted[3]) if len(wrt) > 3 else []
    plain = warp.vjp(masked[0], input, theta, size, **options)
    assert len(plain) == 2
    unmasked = asked.answers.setdefault("plain", warp.expected("_vjp", asked.cotangent, *arrays, size, **asked.theirs))
    asked.near("grad_input", layout.numpy(plain[0]), unmasked[0])
    asked.near("grad_theta", backend.numpy(plain[1]), unmasked[1])

    tangents = {"d_fill_value": asked.d_fill, "d_kernel": asked.d_kernel}
    moving = (*arrays, asked.d_input, asked.d_theta, size)
    expected = asked.expects("_jvp", *moving, **tangents, **asked.theirs)
    d_mask = asked.expects("_mask_jvp", *arrays, asked.d_theta, size, d_kernel=asked.d_kernel, **asked.without_fill)
    tangents["d_kernel"] = tuple(asked.d_kernel) if isinstance(asked.d_kernel, list) else asked.d_kernel
    moved = warp.jvp(input, theta, d_input, d_theta, size, return_mask=True, **tangents, **options)
    asked.near("d_output", layout.numpy(moved[0]), expected)
    asked.near("d_mask", backend.numpy(moved[1]), d_mask)
    left, terms = paired((asked.cotangent, layout.numpy(moved[0])), (asked.mask_cotangent, backend.numpy(moved[1])))
    right, others = paired(
        (grad_input, asked.d_input), (grad_theta, asked.d_theta), (grad_fill, asked.d_fill), *by_kernel
    )
    assert abs(left - right) <= TOLERANCE[asked.dtype] * max(1, terms, others), f"dot test of {case}"


def check_kernel_gradient(asked, backend, actual, expected):
    """One gradient for one kernel, the sum over the axes, or one for each axis; pairs with the tangents."""
    if isinstance(asked.parameters, list):
        assert isinstance(actual, tuple)
        shapes, tangents = asked.parameters, asked.d_kernel
    else:
        shapes, tangents, actual, expected = [asked.parameters], [asked.d_kernel], [actual], [sum(expected)]
    pairs = []
    for shape, ours, theirs, tangent in zip(shapes, actual, expected, tangents, strict=True):
        if shape is None:
            assert ours is None
            continue
        ours = np.asarray(backend.numpy(ours))
        same(ours, np.reshape(theirs, shape), 10 * TOLERANCE[asked.dtype], "grad_kernel")
        pairs.append((ours, tangent))
    return pairs


def check_projection(asked, backend, channel_axis):
    """The same of projections, which have no mask and whose options have no derivatives."""
    layout, warp, size = Layout(backend, channel_axis), asked.warp, asked.case.size
    options = {**asked.ours, "channel_axis": channel_axis}
    input, theta = layout.array(asked.input), backend.array(asked.theta)
    d_input, d_theta = layout.array(asked.d_input), backend.array(asked.d_theta)
    arrays = (asked.input, asked.theta)

    value = layout.numpy(warp.forward(input, theta, size, **options))
    asked.near("value", value, asked.expects("", *arrays, size, **asked.theirs))
    found = warp.vjp(layout.array(asked.cotangent), input, theta, size, **options)
    assert len(found) == 2
    wanted = asked.expects("_vjp", asked.cotangent, *arrays, size, **asked.theirs)
    grad_input, grad_theta = layout.numpy(found[0]), backend.numpy(found[1])
    asked.near("grad_input", grad_input, wanted[0])
    asked.near("grad_theta", grad_theta, wanted[1])
    moved = layout.numpy(warp.jvp(input, theta, d_input, d_theta, size, **options))
    asked.near("d_output", moved, asked.expects("_jvp", *arrays, asked.d_input, asked.d_theta, size, **asked.theirs))
    left, terms = paired((asked.cotangent, moved))
    right, others = paired((grad_input, asked.d_input), (grad_theta, asked.d_theta))
    assert abs(left - right) <= TOLERANCE[asked.dtype] * max(1, terms, others), f"dot test of {asked.case}"


def check(asked, backend):
    for channel_axis in (1, -1):
        (check_warp if asked.warp.reduce is None else check_projection)(asked, backend, channel_axis)


@pytest.mark.parametrize(
    "warp, kernel",
    # A mean is a sum but for a factor.
    [(WARPS[w], k) for w in WARPS for k in NAMES if w != "project-mean" or k in ("nearest", "linear", "prefiltered")],
    ids=[f"{w}-{k}" for w in WARPS for k in NAMES if w != "project-mean" or k in ("nearest", "linear", "prefiltered")],
)
def test_every_cell(backend, rng, warp, kernel, padding_mode, convention):
    """Each with one case, in turn: all of them with every kernel and boundary, and with every convention."""
    place = NAMES.index(kernel), EVERY_PADDING_MODE.index(padding_mode), CONVENTIONS.index(convention)
    case = CASES[warp.ndim][sum(place) % len(CASES[warp.ndim])]
    check(Asked(rng, warp, case, kernel, padding_mode, convention), backend)


@pytest.mark.parametrize("kernel", ["nearest", "linear", "cubic", "gaussian"])
def test_every_warp_in_float32(backend, rng, warp, kernel, padding_mode):
    """The same to the rounding of single precision, in one convention."""
    check(Asked(rng, warp, CASES[warp.ndim][0], kernel, padding_mode, CONVENTIONS[0], np.float32), backend)


@pytest.mark.parametrize(
    "modes, paddings",
    [
        (("linear", "nearest", "cubic"), ("wrap", "zeros", "constant")),
        (("linear", "linear", "linear"), ("constant", "border", "zeros")),
        (("cubic", "linear", "nearest"), ("mirror", "reflection", "symmetric")),
    ],
    ids=lambda t: "-".join(t),
)
def test_kernels_and_boundaries_by_axis(backend, rng, warp, convention, modes, paddings):
    """Tuples go with the spatial axes in the order of the array, as in the sampler."""
    modes, paddings = modes[: warp.ndim], paddings[: warp.ndim]
    for case in CASES[warp.ndim]:
        asked = Asked(rng, warp, case, "linear", "zeros", convention)
        asked.ours.update(mode=modes, padding_mode=paddings)
        for options in (asked.theirs, asked.without_fill):
            options.update(mode=list(modes), padding_mode=list(paddings))
        if "cubic" in modes:
            asked.parameters = [() if mode == "cubic" else None for mode in modes]
            asked.d_kernel = [np.asarray(0.5 + a) if mode == "cubic" else None for a, mode in enumerate(modes)]
        check(asked, backend)


@pytest.mark.parametrize("warp", [WARPS[w] for w in WARPS if w != "project-mean"], ids=lambda w: f"{w.name}-{w.ndim}d")
@pytest.mark.parametrize("subgradient", SUBGRADIENTS)
def test_linear_on_the_lattice(backend, rng, warp, padding_mode, convention, subgradient):
    """Matrices of quarters, which put many samples on pixel centres: the slope there is that of the sampler."""
    align_corners, coords = convention
    size = {1: (9,), 2: (5, 5), 3: (3, 3, 5)} if align_corners else {1: (8,), 2: (4, 8), 3: (2, 4, 4)}
    size = size[warp.ndim]  # whose coordinates are binary fractions
    asked = Asked(rng, warp, Case(size, size, fill="channels"), "linear", padding_mode, convention)
    theta = np.eye(warp.rows, warp.ndim + 1) * np.ones((2, 1, 1))
    theta[1, : warp.ndim] = rng.choice([-1, -0.5, 0, 0.5, 1], (warp.ndim, warp.ndim + 1))
    if warp.projective:
        theta[1] *= -2
    asked.theta = to_pixel_matrix(theta, size, size) if coords == "pixel" else theta
    points = warp.map(asked.theta, size, align_corners, coords).grid()
    assert (points * 64 == np.rint(points * 64)).all()
    asked.ours["subgradient"] = asked.theirs["subgradient"] = asked.without_fill["subgradient"] = subgradient
    if warp.reduce == "max":  # whose planes may tie but for rounding, far outside
        asked.theta[1] = asked.theta[0]
    check(asked, backend)


# ---------------------------------------------------------------------------------------------
# What they fuse


def chained(backend, warp, cotangents, input, theta, d_input, d_theta, size, align_corners, **options):
    """Value, mask, the gradients and tangents, of a grid that is stored: made here where pystn makes none."""
    points = warp.map(backend.numpy(theta), size, align_corners, options["coords"])
    if warp in (AFFINE[2], AFFINE[3]) and options["coords"] == "normalized":
        grid = pystn.affine_grid(theta, size, align_corners)
        d_grid = pystn.affine_grid_jvp(theta, d_theta, size, align_corners)

        def to_theta(g):
            return backend.numpy(pystn.affine_grid_vjp(g, theta, size, align_corners)[0])
    else:
        grid, d_grid = backend.array(points.grid()), backend.array(points.jvp(backend.numpy(d_theta)))

        def to_theta(g):
            return points.vjp(backend.numpy(g))

    options = {**options, "align_corners": align_corners, "return_mask": True}
    grad_input, grad_grid, *others = pystn.grid_sample_vjp(
        cotangents, input, grid, wrt=("input", "grid", "fill_value"), **options
    )
    return [
        *pystn.grid_sample(input, grid, **options),
        grad_input,
        to_theta(grad_grid),
        *others,
        *pystn.grid_sample_jvp(input, grid, d_input, d_grid, d_fill_value=0.5, **options),
    ]


@pytest.mark.parametrize("warp", UNREDUCED, ids=NAMES_OF_UNREDUCED)
@pytest.mark.parametrize("name", ["nearest", "linear", "cubic", "prefiltered"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_equals_a_grid_and_the_sampler(backend, rng, warp, name, padding_mode, convention):
    """At sizes with whole strips of samples and parts of them."""
    align_corners, coords = convention
    image, size = {1: ((70,), (301,)), 2: ((23, 31), (3, 101)), 3: ((7, 9, 11), (2, 3, 50))}[warp.ndim]
    theta = matrices(rng, warp, (2, 2), image, size, align_corners, coords)
    d_theta, (input, d_input) = rng.standard_normal(theta.shape), rng.standard_normal((2, 2, 3, *image))
    cotangents = rng.standard_normal((2, 3, 2, *size)), rng.standard_normal((2, 2, *size))
    options = {"mode": kernel_for(pystn, name, warp.ndim)[0], "padding_mode": padding_mode, "coords": coords}
    options["fill_value"] = -0.5
    cotangents, arrays = tuple(map(backend.array, cotangents)), [backend.array(a) for a in (input, theta)]
    tangents = [backend.array(a) for a in (d_input, d_theta)]
    expected = chained(backend, warp, cotangents, *arrays, *tangents, size, align_corners, **options)
    options.update(return_mask=True, align_corners=align_corners)
    found = [
        *warp.forward(*arrays, size, **options),
        *warp.vjp(cotangents, *arrays, size, wrt=("input", "theta", "fill_value"), **options),
        *warp.jvp(*arrays, *tangents, size, d_fill_value=0.5, **options),
    ]
    names = ("value", "mask", "grad_input", "grad_theta", "grad_fill_value", "d_output", "d_mask")
    for what, a, b in zip(names, found, expected, strict=True):
        same(backend.numpy(a), backend.numpy(b), 1e-11 if "grad" in what else 1e-12, what)


@pytest.mark.parametrize("reduce", PROJECTIONS)
@pytest.mark.parametrize("name", ["nearest", "linear", "cubic", "prefiltered"])
def test_a_projection_is_that_of_the_warp(backend, rng, reduce, name, convention, channel_axis):
    """The volume that is never stored, stored: with several matrices, and ragged runs of samples."""
    align_corners, coords = convention
    warp, image, size = PROJECTIONS[reduce], (6, 7, 9), (5, 3, 70)
    theta = matrices(rng, warp, (2, 2), image, size, align_corners, coords)
    arrays = [rng.standard_normal((2, 3, *image)), theta, rng.standard_normal((2, 3, *image))]
    layout, g = Layout(backend, channel_axis), rng.standard_normal((2, 3, 2, *size[1:]))
    input, theta, d_input = layout.array(arrays[0]), backend.array(theta), layout.array(arrays[2])
    d_theta = backend.array(rng.standard_normal(theta.shape))
    options = {"mode": kernel_for(pystn, name, 3)[0], "padding_mode": "mirror", "channel_axis": channel_axis}
    options.update(align_corners=align_corners, coords=coords)
    volume = layout.numpy(pystn.warp_affine(input, theta, size, **options))
    weights = np.stack(oracle.shares(volume, reduce), axis=-3)
    value = layout.numpy(warp.forward(input, theta, size, **options))
    same(value, {"sum": np.sum, "mean": np.mean, "max": np.max}[reduce](volume, axis=-3), 1e-13)
    moved = layout.numpy(pystn.warp_affine_jvp(input, theta, d_input, d_theta, size, **options))
    found = layout.numpy(warp.jvp(input, theta, d_input, d_theta, size, **options))
    same(found, (weights * moved).sum(axis=-3), 1e-12)
    spread = layout.array(weights * g[..., None, :, :])
    expected = pystn.warp_affine_vjp(spread, input, theta, size, **options)
    gradients = warp.vjp(layout.array(g), input, theta, size, **options)
    for what, a, b in zip(("grad_input", "grad_theta"), gradients, expected, strict=True):
        same(backend.numpy(a), backend.numpy(b), 1e-12, what)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["nearest", "linear", "cubic"])
def test_a_projection_has_the_bits_of_its_planes(backend, rng, padding_mode, channel_axis, name, channels, dtype):
    """Added or compared one by one, from the first: in runs of any length, inside the volume, beyond it and at
    coordinates that are no numbers."""
    layout, options = Layout(backend, channel_axis), {"padding_mode": padding_mode, "channel_axis": channel_axis}
    options["mode"] = kernel_for(pystn, name, 3)[0]
    for image, size in (((6, 7, 9), (5, 3, 70)), ((3, 20, 18), (4, 17, 5)), ((9, 40, 40), (1, 9, 130))):
        theta = matrices(rng, PROJECTIONS["sum"], (2, 3), image, size)
        theta[1, 1] = np.eye(3, 4)
        theta = theta.astype(dtype)
        theta[0, 1, 0, [0, 3]] = np.finfo(dtype).max  # infinite from the middle on
        theta[1, 2, 1, 3] = np.nan
        arrays = layout.array(rng.standard_normal((2, channels, *image)).astype(dtype)), backend.array(theta)
        tangents = [rng.standard_normal(shape).astype(dtype) for shape in ((2, channels, *image), theta.shape)]
        tangents = layout.array(tangents[0]), backend.array(tangents[1])
        planes = layout.numpy(pystn.warp_affine(*arrays, size, **options))
        moved = layout.numpy(pystn.warp_affine_jvp(*arrays, *tangents, size, **options))
        chosen = np.expand_dims(planes.argmax(axis=-3), -3)
        expected = {
            "sum": (sequential_sum(planes), sequential_sum(moved)),
            "max": [np.take_along_axis(a, chosen, -3).squeeze(-3) for a in (planes, moved)],
        }
        for reduce, (value, d_value) in expected.items():
            found = layout.numpy(pystn.warp_project(*arrays, size, reduce, **options))
            np.testing.assert_array_equal(found, value, err_msg=f"{reduce} of {size}")
            found = layout.numpy(pystn.warp_project_jvp(*arrays, *tangents, size, reduce, **options))
            np.testing.assert_array_equal(found, d_value, err_msg=f"tangent of {reduce} of {size}")


def sequential_sum(planes):
    return reduce_in_order(np.add, np.moveaxis(planes, -3, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrt", [("input", "theta"), ("input",), ("theta",)], ids="-".join)
def test_what_was_not_chosen_passes_nothing_on(backend, rng, channel_axis, wrt, dtype):
    """Not even infinity times 0: neither a plane's slopes, nor a cotangent to other planes."""
    layout, shape = Layout(backend, channel_axis), (1, 2, 6, 5, 40)
    volume = rng.uniform(-1, 1, shape).astype(dtype)
    theta = np.eye(3, 4, dtype=dtype)[None]
    theta[..., 3] = 0.5  # between two planes, rows and columns
    theta = backend.array(theta)
    u = rng.standard_normal((1, 2, 5, 40)).astype(dtype)
    options = {"coords": "pixel", "channel_axis": channel_axis, "wrt": wrt}

    def gradients(first, u):
        volume[:, :, 0] = first
        found = pystn.warp_project_vjp(layout.array(u), layout.array(volume), theta, shape[2:], "max", **options)
        return [None if g is None else layout.numpy(g) if g.ndim == 5 else backend.numpy(g) for g in found]

    expected, found = gradients(-1000, u), gradients(-np.inf, u)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a is None or np.isfinite(a).all()
    if "input" not in wrt:
        return
    broken, silent = u.copy(), u.copy()
    broken[0, 1, 2, 7], silent[0, 1, 2, 7] = np.nan, 0
    plane = volume[0, 1, 1:, 2:4, 7:9].sum(axis=(1, 2))
    plane = 1 + (plane + np.append(plane[1:], 0)).argmax()  # of the two that are averaged the first
    taps = np.zeros(shape, bool)
    taps[0, 1, plane : plane + 2, 2:4, 7:9] = True
    found, expected = gradients(-1000, broken)[0], gradients(-1000, silent)[0]
    np.testing.assert_array_equal(np.isnan(found), taps)
    np.testing.assert_array_equal(found[~taps], expected[~taps])


@pytest.mark.parametrize("name", ["nearest", "linear", "cubic"])
def test_equals_central_differences(backend, rng, warp, name, convention):
    """Of the value along random directions, with samples away from kinks, and of its pairing with a cotangent."""
    align_corners, coords = convention
    image, size = {1: ((9,), (7,)), 2: ((5, 6), (3, 4)), 3: ((4, 5, 6), (2, 3, 2))}[warp.ndim]
    theta = matrices(rng, warp, (2,), image, size, align_corners, coords, clear=0.002)
    options = {"mode": name, "padding_mode": "reflection", "align_corners": align_corners, "coords": coords}
    at = [rng.standard_normal((2, 2, *image)), theta]
    along = [rng.standard_normal(a.shape) for a in at]
    u = rng.standard_normal((2, 2, *warp.spatial(size)))
    h = 1e-6

    def value(t):
        moved = [backend.array(a + t * d) for a, d in zip(at, along, strict=True)]
        return backend.numpy(warp.forward(*moved, size, **options))

    difference = (value(h) - value(-h)) / (2 * h)
    arrays, tangents = [backend.array(a) for a in at], [backend.array(a) for a in along]
    moved = backend.numpy(warp.jvp(*arrays, *tangents, size, **options))
    np.testing.assert_allclose(moved, difference, rtol=0, atol=2e-7 * max(1, np.abs(difference).max()))
    gradients = warp.vjp(backend.array(u), *arrays, size, **options)
    terms = [(backend.numpy(g) * d).sum() for g, d in zip(gradients, along, strict=True)]
    slope = (u * difference).sum()
    assert abs(sum(terms) - slope) <= 1e-6 * max(1, np.abs(u * difference).sum())


def test_a_tangent_of_none_is_zero_and_wrt_skips(backend, rng, warp):
    image, size = (5, 6, 7)[: warp.ndim], (4, 3, 5)[: warp.ndim]
    theta = backend.array(matrices(rng, warp, (2,), image, size))
    input, d_input = (backend.array(rng.standard_normal((2, 2, *image))) for _ in range(2))
    d_theta, u = backend.array(rng.standard_normal(theta.shape)), rng.standard_normal((2, 2, *warp.spatial(size)))

    def jvp(*tangents, **options):
        return backend.numpy(warp.jvp(input, theta, *tangents, size, **options))

    zeros = backend.array(np.zeros(input.shape)), backend.array(np.zeros(theta.shape))
    np.testing.assert_array_equal(jvp(d_input, None), jvp(d_input, zeros[1]))
    np.testing.assert_array_equal(jvp(None, d_theta), jvp(zeros[0], d_theta))
    assert jvp(None, d_theta).any()
    assert not jvp(None, None).any()
    both = [backend.numpy(g) for g in warp.vjp(backend.array(u), input, theta, size)]
    for wrt, given in ((("input",), 0), ("input", 0), (("theta",), 1), ("theta", 1)):
        found = warp.vjp(backend.array(u), input, theta, size, wrt=wrt)
        assert len(found) == 2
        assert found[1 - given] is None
        np.testing.assert_array_equal(backend.numpy(found[given]), both[given])
    assert warp.vjp(backend.array(u), input, theta, size, wrt=()) == (None, None)
    if warp.reduce is None:  # entries beyond the first two, in their own order
        options = {"mode": "cubic", "padding_mode": "constant", "fill_value": 0.5}
        found = warp.vjp(backend.array(u), input, theta, size, wrt=("kernel", "fill_value"), **options)
        assert found[:2] == (None, None)
        whole = warp.vjp(
            backend.array(u), input, theta, size, wrt=("input", "theta", "fill_value", "kernel"), **options
        )
        for a, b in zip(found[2:], whole[2:], strict=True):
            assert a.shape == ()
            np.testing.assert_array_equal(backend.numpy(a), backend.numpy(b))


# ---------------------------------------------------------------------------------------------
# Axes and sizes


@pytest.mark.parametrize("several", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("batch", [(2, 2), (1, 2), (2, 1), (1, 1)], ids=str)
def test_several_matrices_are_each_its_own(backend, rng, warp, several, batch, channel_axis):
    """Of each image and matrix the warp that it has alone; shared arrays have the sum of the gradients."""
    image, size, n = (4, 5, 3)[: warp.ndim], (3, 4, 2)[: warp.ndim], max(batch)
    theta = matrices(rng, warp, (batch[1], *several), image, size)
    d_theta, (input, d_input) = rng.standard_normal(theta.shape), rng.standard_normal((2, batch[0], 2, *image))
    u = rng.standard_normal((n, 2, *several, *warp.spatial(size)))
    layout, options = Layout(backend, channel_axis), {"padding_mode": "border", "channel_axis": channel_axis}
    arrays = layout.array(input), backend.array(theta)
    value = layout.numpy(warp.forward(*arrays, size, **options))
    moved = layout.numpy(warp.jvp(*arrays, layout.array(d_input), backend.array(d_theta), size, **options))
    grad_input, grad_theta = warp.vjp(layout.array(u), *arrays, size, **options)
    assert value.shape == moved.shape == u.shape
    sums = np.zeros(input.shape), np.zeros(theta.shape)
    for i, *at in np.ndindex(n, *several):
        k = tuple(at)
        a, b = min(i, batch[0] - 1), (min(i, batch[1] - 1), *k)
        one = layout.array(input[a : a + 1]), backend.array(theta[b][None])
        tangents = layout.array(d_input[a : a + 1]), backend.array(d_theta[b][None])
        which = (i, slice(None), *k)
        same(value[which], layout.numpy(warp.forward(*one, size, **options))[0], 1e-14)
        same(moved[which], layout.numpy(warp.jvp(*one, *tangents, size, **options))[0], 1e-13)
        gradients = warp.vjp(layout.array(u[which][None]), *one, size, **options)
        sums[0][a] += layout.numpy(gradients[0])[0]
        sums[1][b] += backend.numpy(gradients[1])[0]
    same(layout.numpy(grad_input), sums[0], 1e-13)
    same(backend.numpy(grad_theta), sums[1], 1e-13)


def test_size_is_spatial_or_full(backend, rng, warp):
    image, size = (5, 6, 7)[: warp.ndim], (3, 4, 2)[: warp.ndim]
    theta, input = matrices(rng, warp, (2, 2), image, size), rng.standard_normal((2, 3, *image))
    arrays = [backend.array(a) for a in (input, theta)]
    u = backend.array(rng.standard_normal((2, 3, 2, *warp.spatial(size))))
    expected = [
        backend.numpy(a)
        for a in (warp.forward(*arrays, size), *warp.vjp(u, *arrays, size), warp.jvp(*arrays, *arrays, size))
    ]
    for given in ((2, 3, *size), list(size), np.array(size), [2, 3, *size]):
        found = (warp.forward(*arrays, given), *warp.vjp(u, *arrays, given), warp.jvp(*arrays, *arrays, given))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(backend.numpy(a), b)


EMPTY = [  # batches of input and theta, channels, axes K, image, size
    ((0, 0), 2, (), (5, 4, 3), (3, 2, 4)),
    ((1, 0), 2, (), (5, 4, 3), (3, 2, 4)),
    ((0, 1), 2, (2,), (5, 4, 3), (3, 2, 4)),
    ((2, 2), 0, (2,), (5, 4, 3), (3, 2, 4)),
    ((2, 2), 2, (0,), (5, 4, 3), (3, 2, 4)),
    ((2, 1), 2, (3, 0), (5, 4, 3), (3, 2, 4)),
    ((2, 2), 2, (), (5, 4, 3), (3, 2, 0)),
    ((2, 2), 2, (2,), (5, 4, 0), (3, 2, 0)),
]


@pytest.mark.parametrize("batch, channels, several, image, size", EMPTY, ids=str)
@pytest.mark.parametrize("mode", ["linear", "prefiltered"])
def test_empty(backend, rng, warp, batch, channels, several, image, size, mode, channel_axis):
    """Results are empty, or zeros where they are not: of what the empty rest has no part in."""
    image, size = image[3 - warp.ndim :], size[3 - warp.ndim :]
    theta = rng.standard_normal((batch[1], *several, warp.rows, warp.ndim + 1))
    input = rng.standard_normal((batch[0], channels, *image))
    shape = (min(batch) if 0 in batch else max(batch), channels, *several, *warp.spatial(size))
    u = np.zeros(shape)
    layout = Layout(backend, channel_axis)
    options = {"mode": kernel_for(pystn, mode, warp.ndim)[0], "padding_mode": "mirror", "channel_axis": channel_axis}
    arrays = layout.array(input), backend.array(theta)
    value = layout.numpy(warp.forward(*arrays, size, **options))
    moved = layout.numpy(warp.jvp(*arrays, *arrays, size, **options))
    assert value.shape == moved.shape == shape
    assert value.size == 0
    outs = layout.array(np.full(input.shape, np.nan)), backend.array(np.full(theta.shape, np.nan))
    gradients = warp.vjp(layout.array(u), *arrays, size, out=outs, **options)
    np.testing.assert_array_equal(layout.numpy(gradients[0]), np.zeros(input.shape))
    np.testing.assert_array_equal(backend.numpy(gradients[1]), np.zeros(theta.shape))
    if warp.reduce is None:
        mask = backend.numpy(warp.forward(*arrays, size, return_mask=True, **options)[1])
        assert mask.shape == (shape[0], *shape[2:])
        found = warp.vjp(layout.array(u), *arrays, size, wrt="fill_value", **options)
        assert found[2] == 0


@pytest.mark.parametrize("reduce", PROJECTIONS)
def test_a_projection_along_no_planes(backend, rng, reduce, channel_axis):
    """The empty sum is 0; there is no mean or maximum of nothing."""
    layout, warp = Layout(backend, channel_axis), PROJECTIONS[reduce]
    input, theta = rng.standard_normal((2, 3, 4, 5, 6)), backend.array(rng.standard_normal((2, 3, 4)))
    given, size, u = layout.array(input), (0, 7, 8), layout.array(np.ones((2, 3, 7, 8)))
    options = {"channel_axis": channel_axis, "fill_value": 3.0}
    if reduce != "sum":
        for call in (
            lambda: warp.forward(given, theta, size, **options),
            lambda: warp.vjp(u, given, theta, size, **options),
            lambda: warp.jvp(given, theta, given, theta, size, **options),
        ):
            with pytest.raises(ValueError, match=reduce):
                call()
        return
    out = layout.array(np.full((2, 3, 7, 8), np.nan))
    np.testing.assert_array_equal(layout.numpy(warp.forward(given, theta, size, out=out, **options)), 0)
    np.testing.assert_array_equal(layout.numpy(warp.forward(given, theta, size, **options)), np.zeros((2, 3, 7, 8)))
    np.testing.assert_array_equal(layout.numpy(warp.jvp(given, theta, given, theta, size, **options)), 0)
    grad_input, grad_theta = warp.vjp(u, given, theta, size, **options)
    np.testing.assert_array_equal(layout.numpy(grad_input), np.zeros(input.shape))
    np.testing.assert_array_equal(backend.numpy(grad_theta), np.zeros((2, 3, 4)))


# ---------------------------------------------------------------------------------------------
# What matrices imply


@pytest.mark.parametrize("warp", UNREDUCED, ids=NAMES_OF_UNREDUCED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_identity_is_the_image(backend, rng, warp, convention, dtype):
    """Nearest bit for bit; linear to the rounding of positions, and all of it on a lattice of binary fractions."""
    align_corners, coords = convention
    options = {"align_corners": align_corners, "coords": coords}
    for size in ((9, 5, 17), (8, 16, 4), (7, 13, 10), (1, 3, 1)):
        image = size[: warp.ndim]
        input = rng.standard_normal((1, 2, *image)).astype(dtype)
        theta = np.eye(warp.rows, warp.ndim + 1, dtype=dtype)[None]
        arrays = [backend.array(a) for a in (input, theta)]
        value, mask = warp.forward(*arrays, image, mode="nearest", return_mask=True, **options)
        np.testing.assert_array_equal(backend.numpy(value), input)
        np.testing.assert_array_equal(backend.numpy(mask), np.ones((1, *image)))
        for padding_mode in ("zeros", "border", "mirror"):
            value = backend.numpy(warp.forward(*arrays, image, padding_mode=padding_mode, **options))
            exact = coords == "pixel" or size == ((9, 5, 17) if align_corners else (8, 16, 4))
            bound = 0 if exact else 8 * np.finfo(dtype).eps * max(image) * warp.ndim * np.abs(input).max()
            np.testing.assert_allclose(value, input, rtol=0, atol=bound)


@pytest.mark.parametrize("subgradient", ["central", "zero"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_at_the_identity_do_not_hang_on_rounding(backend, rng, subgradient, dtype):
    """Where training starts every sample is on a kink, but for rounding, which these two forgive."""
    for size in ((7, 13), (10, 11), (33, 70)):
        input, u = rng.standard_normal((2, 1, 2, *size))
        theta = np.eye(2, 3)[None]
        options = {"subgradient": subgradient, "padding_mode": "border"}
        arrays = [backend.array(a.astype(dtype)) for a in (u, input, theta)]
        found = backend.numpy(pystn.warp_affine_vjp(*arrays, size, wrt="theta", **options)[1])
        # Differences along each axis, 0 at the outermost centres, and their pairing with the lattice.
        slopes = np.zeros((2, *u.shape))
        if subgradient == "central":
            slopes[0][..., 1:-1] = (input[..., 2:] - input[..., :-2]) / 2 * size[1] / 2
            slopes[1][..., 1:-1, :] = (input[..., 2:, :] - input[..., :-2, :]) / 2 * size[0] / 2
        points = oracle.pixel_targets(size).reshape(*size, 3)
        expected = np.einsum("anchw,nchw,hwb->nab", slopes, u, points)
        scale = 16 * np.finfo(dtype).eps * np.abs(u).sum() * max(size) * np.abs(input).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=scale)
        assert found.any() == (subgradient == "central")


@pytest.mark.parametrize("reduce", PROJECTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_projection_of_the_identity(backend, rng, reduce, dtype, convention):
    align_corners, coords = convention
    size = (5, 9, 17) if align_corners else (8, 4, 16)  # whose lattices are exact
    volume = rng.standard_normal((2, 3, *size)).astype(dtype)
    theta = np.eye(3, 4, dtype=dtype)[None]
    arrays = [backend.array(a) for a in (volume, theta)]
    value = PROJECTIONS[reduce].forward(*arrays, size, align_corners=align_corners, coords=coords)
    expected = getattr(volume, reduce)(axis=2, **({} if reduce == "max" else {"dtype": np.float64}))
    bound = 0 if reduce == "max" else np.finfo(dtype).eps * np.abs(volume).sum(axis=2).max()
    np.testing.assert_allclose(backend.numpy(value), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("reduce", PROJECTIONS)
def test_a_quarter_turn_permutes_projections(backend, rng, reduce, convention):
    """About y: x looks along z and z against x, exactly on the lattice; the gradient is the permuted one."""
    align_corners, coords = convention
    n = 5 if align_corners else 8
    volume, u = rng.standard_normal((1, 2, n, n, n)), rng.standard_normal((1, 2, n, n))
    theta = np.array([[[0.0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0]]])
    if coords == "pixel":
        theta = to_pixel_matrix(theta, (n, n, n), (n, n, n))
    arrays = [backend.array(a) for a in (volume, theta)]
    options = {"align_corners": align_corners, "coords": coords}
    warp = PROJECTIONS[reduce]
    value = backend.numpy(warp.forward(*arrays, (n, n, n), **options))
    turned = volume.transpose(0, 1, 4, 3, 2)[..., ::-1]  # planes along x, columns against z
    same(value, getattr(turned, reduce)(axis=2), 0 if reduce == "max" else 1e-15)
    (found, _) = warp.vjp(backend.array(u), *arrays, (n, n, n), **options)
    weights = np.stack(oracle.shares(turned, reduce), axis=2) * u[:, :, None]
    same(backend.numpy(found), weights[..., ::-1].transpose(0, 1, 4, 3, 2), 1e-15)


@pytest.mark.parametrize("reduce", PROJECTIONS)
def test_the_order_of_the_planes_does_not_matter(backend, rng, reduce, padding_mode):
    """Neither that of the output's nor, turned with the matrix, that of the volume's."""
    image, size, warp = (6, 5, 7), (4, 3, 5), PROJECTIONS[reduce]
    theta, volume = matrices(rng, warp, (2,), image, size), rng.standard_normal((2, 2, *image))
    u = backend.array(rng.standard_normal((2, 2, *size[1:])))
    flip = np.array([1.0, 1, -1])
    options = {"padding_mode": padding_mode, "fill_value": 0.5}

    def results(volume, theta):
        arrays = [backend.array(np.ascontiguousarray(a)) for a in (volume, theta)]
        return [
            backend.numpy(a) for a in (warp.forward(*arrays, size, **options), *warp.vjp(u, *arrays, size, **options))
        ]

    value, grad_volume, grad_theta = results(volume, theta)
    other = results(volume, theta * [*flip, 1])
    same(other[0], value)
    same(other[1], grad_volume)
    same(other[2], grad_theta * [*flip, 1])
    other = results(volume[:, :, ::-1], theta * flip[:, None])
    same(other[0], value)
    same(other[1], grad_volume[:, :, ::-1])
    same(other[2], grad_theta * flip[:, None])


@pytest.mark.parametrize("reduce", PROJECTIONS)
@pytest.mark.parametrize("name", ["nearest", "linear", "cubic"])
def test_one_plane_is_two_dimensions(backend, rng, reduce, name, padding_mode):
    """A volume of one plane, projected along one, is the image warped by the plane's matrix."""
    image, size = (5, 6), (4, 70)
    theta = matrices(rng, AFFINE[2], (2, 3), image, size)
    volume_theta = np.zeros((2, 3, 3, 4))
    volume_theta[..., :2, :2], volume_theta[..., :2, 3] = theta[..., :2], theta[..., 2]
    volume_theta[..., 2, 2] = 1
    input, u = rng.standard_normal((2, 2, *image)), rng.standard_normal((2, 2, 3, *size))
    options = {"mode": name, "padding_mode": padding_mode, "fill_value": -0.5}
    arrays = [backend.array(a) for a in (input, theta)]
    expected = (
        pystn.warp_affine(*arrays, size, **options),
        *pystn.warp_affine_vjp(backend.array(u), *arrays, size, **options),
    )
    if name == "cubic" and padding_mode in ("zeros", "constant"):  # whose other taps along z are outside, of weight 0
        options["mode"] = ("linear", name, name)
    arrays = [backend.array(a) for a in (input[:, :, None], volume_theta)]
    warp = PROJECTIONS[reduce]
    value = backend.numpy(warp.forward(*arrays, (1, *size), **options))
    same(value, backend.numpy(expected[0]))
    grad_input, grad_theta = warp.vjp(backend.array(u), *arrays, (1, *size), **options)
    same(backend.numpy(grad_input)[:, :, 0], backend.numpy(expected[1]))
    same(backend.numpy(grad_theta)[..., :2, [0, 1, 3]], backend.numpy(expected[2]))


@pytest.mark.parametrize("name", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("scale", [1.0, -4.0, 0.3])
def test_projective_of_affine_matrices(backend, rng, name, scale, padding_mode, convention):
    """A last row (0, 0, c): value, mask, gradients to the first two rows, tangents."""
    align_corners, coords = convention
    image, size = (6, 7), (5, 70)
    theta = matrices(rng, AFFINE[2], (2, 2), image, size, align_corners, coords)
    whole, d_theta = homogeneous(theta) * scale, rng.standard_normal(theta.shape)
    d_whole = np.concatenate([d_theta * scale, np.zeros((2, 2, 1, 3))], axis=-2)
    (input, d_input), u = rng.standard_normal((2, 2, 3, *image)), rng.standard_normal((2, 3, 2, *size))
    options = {"mode": name, "padding_mode": padding_mode, "align_corners": align_corners, "coords": coords}
    arrays, wholes = ([backend.array(a) for a in (input, t)] for t in (theta, whole))
    u, d_input = backend.array(u), backend.array(d_input)
    value, mask = pystn.warp_affine(*arrays, size, return_mask=True, **options)
    found = pystn.warp_projective(*wholes, size, return_mask=True, **options)
    same(backend.numpy(found[0]), backend.numpy(value))
    same(backend.numpy(found[1]), backend.numpy(mask))
    grad_input, grad_theta = pystn.warp_affine_vjp(u, *arrays, size, **options)
    found = pystn.warp_projective_vjp(u, *wholes, size, **options)
    same(backend.numpy(found[0]), backend.numpy(grad_input))
    same(backend.numpy(found[1])[..., :2, :] * scale, backend.numpy(grad_theta))
    moved = pystn.warp_affine_jvp(*arrays, d_input, backend.array(d_theta), size, **options)
    found = pystn.warp_projective_jvp(*wholes, d_input, backend.array(d_whole), size, **options)
    same(backend.numpy(found), backend.numpy(moved))


@pytest.mark.parametrize("name", ["nearest", "linear", "cubic", "lanczos3"])
def test_projective_matrices_have_no_scale(backend, rng, name, padding_mode, convention):
    """T(c H) = T(H), and so <grad_theta, theta> = 0 (Euler) and a tangent along theta moves nothing."""
    align_corners, coords = convention
    image, size = (6, 7), (5, 70)
    theta = matrices(rng, PROJECTIVE, (2, 2), image, size, align_corners, coords)
    input = rng.standard_normal((2, 3, *image))
    cotangents = backend.array(rng.standard_normal((2, 3, 2, *size))), backend.array(rng.standard_normal((2, 2, *size)))
    options = {"mode": kernel_for(pystn, name, 2)[0], "padding_mode": padding_mode, "return_mask": True}
    options.update(align_corners=align_corners, coords=coords)
    input, value, gradient = backend.array(input), None, None
    for scale in (1, -2.5, 0.3):
        scaled = backend.array(theta * scale)
        found = backend.numpy(pystn.warp_projective(input, scaled, size, **options)[0])
        grad_theta = backend.numpy(pystn.warp_projective_vjp(cotangents, input, scaled, size, **options)[1]) * scale
        value, gradient = (found, grad_theta) if value is None else (value, gradient)
        same(found, value, 1e-11)
        same(grad_theta, gradient, 1e-11)
        terms = grad_theta * theta
        assert np.abs(terms.sum(axis=(-2, -1))).max() <= 1e-12 * max(1, np.abs(terms).max()) * 10
        moved = pystn.warp_projective_jvp(input, scaled, None, scaled, size, **options)
        slopes = pystn.warp_projective_jvp(input, scaled, None, backend.array(np.abs(theta * scale)), size, **options)
        for a, b in zip(moved, slopes, strict=True):
            assert np.abs(backend.numpy(a)).max() <= 1e-11 * max(1, np.abs(backend.numpy(b)).max())
    assert name == "nearest" or np.abs(gradient).max() > 0.1


# ---------------------------------------------------------------------------------------------
# The horizon, and matrices that are no numbers


HORIZON = np.array([[[1.0, 0, 0], [0, 1, 0], [0, 1, -2]]])  # in pixels, of rows 0 to 4: -2, -1, 0, 1, 2
HIDDEN = [
    ({}, [2]),
    ({"min_denominator": 1.0}, [2]),
    ({"min_denominator": np.nextafter(1.0, 2)}, [1, 2, 3]),
    ({"min_denominator": 1.5}, [1, 2, 3]),
    ({"min_denominator": 3}, [0, 1, 2, 3, 4]),
    ({"cull_behind": True}, [0, 1, 2]),
    ({"cull_behind": True, "min_denominator": 1.5}, [0, 1, 2, 3]),
    ({"cull_behind": False, "min_denominator": 1e-300}, [2]),
]


@pytest.mark.parametrize("of_map, hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("name", ["nearest", "linear", "cubic"])
def test_the_horizon_crosses_the_output(backend, rng, of_map, hidden, name, padding_mode, channel_axis):
    """What is near it or behind is the fill value, of mask 0, with no derivatives, whatever its cotangent."""
    layout, size = Layout(backend, channel_axis), (5, 35)
    input, d_input = rng.standard_normal((2, 1, 2, 6, 7))
    d_theta, fill = rng.standard_normal((1, 3, 3)), np.array([5.0, -3])
    options = {"mode": name, "padding_mode": padding_mode, "coords": "pixel", "fill_value": fill}
    theirs = {**options, **of_map, "projective": True}
    u, g = rng.standard_normal((1, 2, *size)), rng.standard_normal((1, *size))
    expected = oracle.warp(input, HORIZON, size, **theirs)
    wanted = oracle.warp_vjp(u, input, HORIZON, size, wrt=("input", "theta", "fill_value"), grad_mask=g, **theirs)
    d_expected = oracle.warp_jvp(input, HORIZON, d_input, d_theta, size, d_fill_value=0.25, **theirs)
    options.update(of_map, channel_axis=channel_axis)
    arrays = layout.array(input), backend.array(HORIZON)
    value, mask = pystn.warp_projective(*arrays, size, return_mask=True, **options)
    value, mask = layout.numpy(value), backend.numpy(mask)
    same(value, expected)
    np.testing.assert_array_equal(value[0][:, hidden], np.broadcast_to(fill[:, None, None], (2, len(hidden), 35)))
    assert not mask[:, hidden].any()
    del theirs["fill_value"]
    same(mask, oracle.warp_mask(input, HORIZON, size, **theirs))
    wrt, masked = ("input", "theta", "fill_value"), {**options, "return_mask": True}
    found = pystn.warp_projective_vjp((layout.array(u), backend.array(g)), *arrays, size, wrt=wrt, **masked)
    same(layout.numpy(found[0]), wanted[0])
    same(backend.numpy(found[1]), wanted[1])
    same(backend.numpy(found[2]), wanted[2], 1e-11)
    tangents = layout.array(d_input), backend.array(d_theta)
    moved, d_mask = pystn.warp_projective_jvp(*arrays, *tangents, size, d_fill_value=0.25, **masked)
    same(layout.numpy(moved), d_expected)
    np.testing.assert_array_equal(layout.numpy(moved)[:, :, hidden], 0.25)
    assert not backend.numpy(d_mask)[:, hidden].any()
    u[:, :, hidden], g[:, hidden] = np.nan, np.nan
    broken = pystn.warp_projective_vjp((layout.array(u), backend.array(g)), *arrays, size, **masked)
    for a, b in zip(broken, found, strict=False):
        np.testing.assert_array_equal(backend.numpy(a), backend.numpy(b))
    if len(hidden) == 5:
        assert not any(backend.numpy(a).any() for a in broken)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("image_dtype", [np.float32, np.float64])
def test_the_smallest_denominator_goes_with_the_type_of_theta(backend, dtype, image_dtype):
    """1e-6 or 1e-8: of a denominator between them the sample is far outside, or nowhere."""
    theta = HORIZON.astype(dtype)
    theta[0, 2, 2] = np.nextafter(dtype(-2), dtype(0)) if dtype == np.float32 else -2 + 2.0**-22
    near = 2 + theta[0, 2, 2]
    assert 1e-8 < near < 1e-6
    image = backend.array(np.arange(1, 13, dtype=image_dtype).reshape(1, 1, 3, 4))
    options = {"coords": "pixel", "padding_mode": "border", "fill_value": -1.0}
    bottom = [9.0, 12, 12, 12]  # its corners, of which x = 0 is the left one
    for least, row in ((None, [-1.0] * 4 if dtype == np.float32 else bottom), (1e-8, bottom), (1e-6, [-1.0] * 4)):
        given = {} if least is None else {"min_denominator": least}
        value = pystn.warp_projective(image, backend.array(theta), (5, 4), **options, **given)
        np.testing.assert_array_equal(backend.numpy(value)[0, 0, 2], row)
    # Nearer than either: nowhere by default.
    theta = HORIZON.astype(np.float64)
    theta[0, 2, 2] += 5e-9
    value = pystn.warp_projective(image, backend.array(theta), (5, 4), **options)
    np.testing.assert_array_equal(backend.numpy(value)[0, 0, 2], -1)
    value = pystn.warp_projective(image, backend.array(theta), (5, 4), min_denominator=1e-9, **options)
    np.testing.assert_array_equal(backend.numpy(value)[0, 0, 2], bottom)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_matrix_that_is_not_finite_warps_nothing(backend, rng, warp, bad, dtype, padding_mode):
    """Fill value, mask 0, no derivatives; the other matrices are as without it. (A last row of infinities
    sends its points to 0.)"""
    image, size = (5, 4, 6)[: warp.ndim], (3, 4, 35)[-warp.ndim :]
    good = matrices(rng, warp, (2, 2), image, size).astype(dtype)
    input, d_input = rng.standard_normal((2, 2, 2, *image)).astype(dtype)
    u = rng.standard_normal((2, 2, 2, *warp.spatial(size))).astype(dtype)
    options = {"padding_mode": padding_mode, "fill_value": 2.5}
    row = rng.integers(warp.rows if np.isnan(bad) else warp.ndim)
    theta = good.copy()
    theta[1, 0, row, rng.integers(warp.ndim + 1)] = bad
    arrays, others = ([backend.array(a) for a in (input, t)] for t in (theta, good))
    tangents = [backend.array(a) for a in (d_input, np.ones_like(theta))]
    lost, kept = (1, slice(None), 0), np.ones((2, 2), bool)
    kept[1, 0] = False
    value, expected = (backend.numpy(warp.forward(*a, size, **options)) for a in (arrays, others))
    fill = dtype(2.5 * size[0]) if warp.reduce == "sum" else dtype(2.5)
    np.testing.assert_array_equal(value[lost], np.full_like(value[lost], fill))
    np.testing.assert_array_equal(value[:, :, 1], expected[:, :, 1])
    np.testing.assert_array_equal(value[0, :, 0], expected[0, :, 0])
    moved = backend.numpy(warp.jvp(*arrays, *tangents, size, **options))
    assert not moved[lost].any()
    assert np.isfinite(moved).all()
    silent, broken = u.copy(), u.copy()
    silent[lost], broken[lost] = 0, np.nan
    expected = warp.vjp(backend.array(silent), *others, size, **options)
    found = warp.vjp(backend.array(broken), *arrays, size, **options)
    bound = 16 * np.finfo(dtype).eps * max(1, np.abs(backend.numpy(expected[0])).max())
    np.testing.assert_allclose(backend.numpy(found[0]), backend.numpy(expected[0]), rtol=0, atol=bound)
    np.testing.assert_array_equal(backend.numpy(found[1])[kept], backend.numpy(expected[1])[kept])
    assert not backend.numpy(found[1])[1, 0].any()
    if warp.reduce is None:
        _, mask = warp.forward(*arrays, size, return_mask=True, **options)
        assert not backend.numpy(mask)[1, 0].any()
        assert backend.numpy(mask)[kept].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_quotient_that_overflows_is_outside(backend, rng, dtype, padding_mode):
    """Of finite matrices: infinitely far, with zero gradient to all nine entries, and no tangent."""
    largest = np.finfo(dtype).max
    far = np.array([[1, 0, 0], [0, largest, 0], [0, 0, 1e-3]])  # but for y = 0
    theta = np.array([np.eye(3), far, far[[1, 0, 2]]]).astype(dtype)
    theta[2, 0] = largest / 2  # along both axes of the output
    input, d_input = rng.standard_normal((2, 1, 2, 4, 5)).astype(dtype)
    u, d_theta = rng.standard_normal((3, 2, 3, 20)).astype(dtype), np.ones((3, 3, 3), dtype)
    options = {"coords": "pixel", "padding_mode": padding_mode, "fill_value": 5.0}
    arrays, size = [backend.array(a) for a in (input, theta)], (3, 20)
    value, mask = pystn.warp_projective(*arrays, size, return_mask=True, **options)
    hidden = np.zeros((3, 1, *size), bool)
    hidden[1, :, 1:], hidden[2] = True, True
    assert (backend.numpy(value)[np.broadcast_to(hidden, u.shape)] == 5).all()
    assert not backend.numpy(mask)[hidden[:, 0]].any()
    assert backend.numpy(mask)[0].any()
    moved = pystn.warp_projective_jvp(*arrays, backend.array(d_input), backend.array(d_theta), size, **options)
    assert not backend.numpy(moved)[np.broadcast_to(hidden, u.shape)].any()
    broken, silent = np.where(hidden, np.nan, u).astype(dtype), np.where(hidden, 0, u).astype(dtype)
    found, expected = (pystn.warp_projective_vjp(backend.array(g), *arrays, size, **options) for g in (broken, silent))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(backend.numpy(a), backend.numpy(b))
        assert np.isfinite(backend.numpy(b)).all()
    assert not backend.numpy(found[1])[2].any()
    assert backend.numpy(found[1])[0].any()


# ---------------------------------------------------------------------------------------------
# The maximum


def test_the_maximum_is_of_the_first_plane_that_attains_it(backend, rng, channel_axis):
    """Ties give their gradient and take their tangent from one plane; NaN is a maximum."""
    nan = np.nan
    columns = [  # values along the depth, and the plane that is chosen
        ([1, 3, 3, 2], 1),
        ([2, 2, 2, 2], 0),
        ([0.0, -0.0, 0.0, -0.0], 0),
        ([-0.0, 0.0, -1, 0.0], 0),
        ([-5, -4, -4, -3], 3),
        ([1, nan, 9, nan], 1),
        ([nan, nan, 1, 2], 0),
        ([1, 2, 3, nan], 3),
        ([1, np.inf, np.inf, 5], 1),
        ([-np.inf, -np.inf, -np.inf, -np.inf], 0),
        ([np.inf, nan, np.inf, nan], 1),
    ]
    layout, planes = Layout(backend, channel_axis), np.array([at for _, at in columns])
    for repeats in (1, 8):  # of the columns, for runs of samples of any length
        chosen = np.tile(planes, repeats)
        for dtype in (np.float32, np.float64):
            volume = np.tile(np.array([c for c, _ in columns], dtype).T, repeats)[None, None, :, None]
            volume = np.repeat(volume, 3, axis=1)  # (1, 3, 4, 1, W)
            width = volume.shape[-1]
            d_volume = rng.standard_normal(volume.shape).astype(dtype)
            u = rng.standard_normal((1, 3, 1, width)).astype(dtype)
            theta = backend.array(np.eye(3, 4, dtype=dtype)[None])
            options = {"mode": "nearest", "coords": "pixel", "channel_axis": channel_axis}
            size = (4, 1, width)
            value = pystn.warp_project(layout.array(volume), theta, size, "max", **options)
            np.testing.assert_array_equal(layout.numpy(value)[0, :, 0], np.max(volume[0, :, :, 0], axis=1))
            given = layout.array(volume)
            found = pystn.warp_project_vjp(layout.array(u), given, theta, size, "max", wrt="input", **options)[0]
            expected = np.zeros_like(volume)
            expected[:, :, chosen, :, np.arange(width)] = u.transpose(3, 0, 1, 2)
            np.testing.assert_array_equal(layout.numpy(found), expected)
            moved = pystn.warp_project_jvp(given, theta, layout.array(d_volume), None, size, "max", **options)
            np.testing.assert_array_equal(
                layout.numpy(moved)[..., 0, :], d_volume[:, :, chosen, 0, np.arange(width)].transpose(0, 1, 2)
            )


@pytest.mark.parametrize("name", ["nearest", "linear", "cubic"])
def test_a_plane_outside_may_be_the_maximum(backend, name):
    """Of a volume of negative numbers under "zeros" it is, and passes nothing on."""
    volume = backend.array(np.full((1, 2, 5, 4, 4), -1.0))
    theta = np.eye(3, 4)[None]
    theta[0, 2, 3] = -9.0  # planes -9 to 10 of 20: the first ones outside
    arrays, options = (volume, backend.array(theta), (20, 4, 4), "max"), {"mode": name, "coords": "pixel"}
    np.testing.assert_array_equal(backend.numpy(pystn.warp_project(*arrays, **options)), np.zeros((1, 2, 4, 4)))
    for gradient in pystn.warp_project_vjp(backend.array(np.ones((1, 2, 4, 4))), *arrays, **options):
        assert not backend.numpy(gradient).any()
    tangents = volume, backend.array(np.ones_like(theta))
    moved = pystn.warp_project_jvp(*arrays[:2], *tangents, *arrays[2:], **options)
    assert not backend.numpy(moved).any()


def test_the_maximum_is_chosen_channel_by_channel(backend, channel_axis):
    """Channels have their own planes, and the matrix the sum of their slopes."""
    layout = Layout(backend, channel_axis)
    depth = np.arange(6.0)
    volume = np.stack([np.where(depth == 1, 7.0, depth), np.where(depth == 4, 9.0, -depth)])  # (C, D)
    volume = np.tile(volume[None, :, :, None, None], (1, 1, 1, 1, 40)) * np.linspace(1, 2, 40)
    theta = np.eye(3, 4)[None]
    u = np.ones((1, 2, 1, 40)) * np.array([1.0, 10])[:, None, None]
    options = {"coords": "pixel", "channel_axis": channel_axis}
    arrays = layout.array(volume), backend.array(theta), (6, 1, 40), "max"
    found, grad_theta = pystn.warp_project_vjp(layout.array(u), *arrays, **options)
    expected = np.zeros_like(volume)
    expected[:, 0, 1], expected[:, 1, 4] = 1, 10
    np.testing.assert_array_equal(layout.numpy(found), expected)
    # To the right of plane 1: 2 - 7; of plane 4: -5 - 9; each pixel brighter than the one before.
    along = np.linspace(1, 2, 40)
    slopes = (2 - 7) * 1.0 * along + (-5 - 9) * 10.0 * along
    weights = (2 - 7) * 1.0 * 1 * along + (-5 - 9) * 10.0 * 4 * along
    x = np.arange(40)
    expected_row = [(slopes * x).sum(), 0, weights.sum(), slopes.sum()]
    np.testing.assert_allclose(backend.numpy(grad_theta)[0, 2], expected_row, rtol=1e-12)


# ---------------------------------------------------------------------------------------------
# By hand


def test_a_matrix_maps_pixels_to_pixels(backend):
    """coords="pixel": x first, from the output to the input."""
    image = np.arange(20.0).reshape(1, 1, 4, 5)
    theta = np.array([[[1.0, 0, 2], [0, 1, -1]]])  # two to the right of, one above
    value, mask = pystn.warp_affine(
        backend.array(image), backend.array(theta), (4, 5), coords="pixel", fill_value=9.0, return_mask=True
    )
    expected = np.zeros((4, 5))
    expected[1:, :3] = image[0, 0, :3, 2:]
    np.testing.assert_array_equal(backend.numpy(value)[0, 0], expected)
    np.testing.assert_array_equal(backend.numpy(mask)[0], expected > 0)
    theta = np.array([[[0.0, 1, 0.5], [1, 0, 0]]])  # transposed, half a pixel to the right
    value = pystn.warp_affine(backend.array(image), backend.array(theta), (5, 4), coords="pixel")
    np.testing.assert_array_equal(backend.numpy(value)[0, 0, :4], (image[0, 0, :, :4] + 0.5).T[:4])


def test_a_signal_and_a_volume_by_hand(backend):
    signal, volume = np.array([[[1.0, 2, 4, 8]]]), np.arange(24.0).reshape(1, 1, 2, 3, 4)
    value = pystn.warp_affine(backend.array(signal), backend.array(np.array([[[-1.0, 0.25]]])), (4,), coords="pixel")
    np.testing.assert_array_equal(backend.numpy(value)[0, 0], [1.25, 0.25, 0, 0])
    (grad, grad_theta) = pystn.warp_affine_vjp(
        backend.array(np.ones((1, 1, 4))),
        backend.array(signal),
        backend.array(np.array([[[-1.0, 0.25]]])),
        (4,),
        coords="pixel",
    )
    np.testing.assert_array_equal(backend.numpy(grad)[0, 0], [1, 0.25, 0, 0])
    np.testing.assert_array_equal(backend.numpy(grad_theta), [[[1, 2]]])  # slopes 1 at 0 and 1 at 1
    theta = np.array([[[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]])  # x, y, z of the source are y, z, x
    value = pystn.warp_affine(backend.array(volume), backend.array(theta), (3, 4, 2), coords="pixel")
    np.testing.assert_array_equal(backend.numpy(value)[0, 0], volume[0, 0].transpose(1, 2, 0))


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_flip_in_normalized_coordinates(backend, rng, align_corners):
    image = rng.standard_normal((1, 2, 9, 5)) if align_corners else rng.standard_normal((1, 2, 8, 4))
    theta = np.array([[[-1.0, 0, 0], [0, 1, 0]]])
    value = pystn.warp_affine(backend.array(image), backend.array(theta), image.shape[2:], align_corners=align_corners)
    np.testing.assert_array_equal(backend.numpy(value), image[..., ::-1])
