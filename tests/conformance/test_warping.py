"""The fused warps, projections too: every cell against the oracle, the grid and sampler that they fuse, axes and sizes.

Projections alone are in `test_warping_projections.py`, matrices that imply a result in `test_warping_maps.py`.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from conftest import CONVENTIONS, EVERY_PADDING_MODE, SUBGRADIENTS, assert_same_sums, kernel_for, parameters_for
from warps import AFFINE, NAMES_OF_UNREDUCED, UNREDUCED, WARPS, Layout, matrices, same, to_pixel_matrix

import pystn

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-4}
NAMES = ["nearest", "linear", "cubic", "bspline2", "prefiltered", "lanczos3", "gaussian", "tabulated", "mixed"]


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
        assert_same_sums(backend, backend.numpy(found[given]), both[given])
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
            assert_same_sums(backend, backend.numpy(a), b)


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
