"""Every operation equals the oracle in every cell: dimension, kernel, boundary, convention, layout.

A cell is asked on several small images, some of axes narrower than the kernels, by points that leave
them by far; each image goes with another sharing of the batch, another fill value, another cutoff.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import oracle
import pytest
from conftest import (
    CONVENTIONS,
    EVERY_PADDING_MODE,
    KERNELS,
    SUBGRADIENTS,
    away_from_kinks,
    coordinates,
    kernel_for,
    parameters_for,
)
from warps import Layout

import pystn

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-4}


@dataclass(frozen=True)
class Case:
    size: tuple[int, ...]
    batch: tuple[int, int] = (2, 2)  # of images or values, and of grids
    fill: str | None = None  # one value for each channel, one for all, or not given
    cutoff: str | None = None
    reach: float = 1.5


CASES = {
    1: [
        Case((7,), fill="channels"),
        Case((2,), (1, 2), "scalar", "edge", reach=3),
        Case((1,), (2, 1), cutoff="center", reach=3),
    ],
    2: [Case((4, 5), (2, 1), "channels", "center"), Case((2, 1), (1, 2), "scalar", reach=3)],
    3: [Case((4, 5, 3), (1, 2), "scalar", "edge"), Case((1, 2, 3), fill="channels", reach=3)],
}
SHAPE = (3, 2)  # of the points


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}d")
def ndim(request):
    return request.param


@pytest.fixture(params=KERNELS)
def kernel(request):
    return request.param


class Asked:
    """What one case asks: arrays, channels first, and the options of both sides."""

    def __init__(self, rng, case, kernel, padding_mode, convention, dtype=np.float64):
        self.case, self.ndim, self.dtype, self.answers = case, len(case.size), dtype, {}
        self.parameters = parameters_for(kernel, self.ndim)
        align_corners, coords = convention
        grid = coordinates(rng, (case.batch[1], *SHAPE), case.size, coords, case.reach)
        if dtype == np.float32:  # which may put a position within rounding of a cell's edge on its other side
            grid = away_from_kinks(grid, case.size, align_corners, coords)
        grid[0, 0, 0, 0], grid[-1, 1, 1, -1] = np.nan, np.inf
        self.grid, n, shape = grid.astype(dtype), max(case.batch), (max(case.batch), 2, *SHAPE)
        self.d_grid = self.drawn(rng, grid.shape)
        self.input, self.d_input = (self.drawn(rng, (case.batch[0], 2, *case.size)) for _ in range(2))
        self.cotangent, self.slope_cotangent = self.drawn(rng, shape), self.drawn(rng, (*shape, self.ndim))
        self.mask_cotangent = self.drawn(rng, (n, *SHAPE))
        self.values, self.d_values = (self.drawn(rng, (case.batch[0], 2, *SHAPE)) for _ in range(2))
        self.image_cotangent = self.drawn(rng, (n, 2, *case.size))
        self.count_cotangent = self.drawn(rng, (case.batch[1], 1, *case.size))
        self.d_fill, self.d_kernel = rng.standard_normal(2 if case.fill == "channels" else ()), None
        if self.parameters is not None:
            shapes = self.parameters if isinstance(self.parameters, list) else [self.parameters]
            drawn = [None if shape is None else np.asarray(rng.standard_normal(shape)) for shape in shapes]
            self.d_kernel = drawn if isinstance(self.parameters, list) else drawn[0]
        fill = {None: 0.0, "scalar": -0.75, "channels": np.array([0.5, -1.25])}[case.fill]
        self.filled = {} if case.fill is None else {"fill_value": fill}
        ours, theirs = kernel_for(pystn, kernel, self.ndim)
        shared = {"padding_mode": padding_mode, "align_corners": align_corners, "coords": coords}
        if case.cutoff is not None:
            shared["cutoff"] = case.cutoff
        self.ours = {"mode": ours, **shared}
        self.theirs = {"mode": theirs, "epsilon": np.finfo(dtype).eps, **shared}

    def drawn(self, rng, shape):
        return rng.standard_normal(shape).astype(self.dtype)

    def expects(self, function, *arrays, **options):
        """What the oracle says, once for both layouts."""
        key = (function, *map(id, arrays))
        if key not in self.answers:
            self.answers[key] = function(*arrays, **options)
        return self.answers[key]

    def near(self, what, actual, expected, dtype=None):
        assert actual.shape == expected.shape, what
        assert actual.dtype == (dtype or self.dtype), what
        bound = TOLERANCE[self.dtype] * max(1.0, np.abs(expected).max(initial=0))
        assert np.abs(actual - expected).max(initial=0) <= bound, f"{what} of {self.case}"


def inner(*pairs):
    """Sum of inner products, and of their absolute terms, which bounds its rounding."""
    terms = [np.ravel(np.asarray(a, float) * np.asarray(b, float)) for a, b in pairs]
    return sum(t.sum() for t in terms), sum(np.abs(t).sum() for t in terms)


def adjoint(asked, what, left, right):
    (a, size), (b, other) = inner(*left), inner(*right)
    assert abs(a - b) <= TOLERANCE[asked.dtype] * max(1, size, other), f"dot test of {what} of {asked.case}"


def check_sampling(asked, backend, channel_axis):
    """Value and mask, their VJPs and JVPs with those to the fill value and the kernel, the dot test."""
    layout = Layout(backend, channel_axis)
    options = {**asked.ours, **asked.filled, "channel_axis": channel_axis}
    input, grid = layout.array(asked.input), backend.array(asked.grid)
    d_input, d_grid = layout.array(asked.d_input), backend.array(asked.d_grid)

    value, mask = pystn.grid_sample(input, grid, return_mask=True, **options)
    np.testing.assert_array_equal(backend.numpy(value), backend.numpy(pystn.grid_sample(input, grid, **options)))
    expected = asked.expects(oracle.grid_sample, asked.input, asked.grid, **asked.filled, **asked.theirs)
    asked.near("value", layout.numpy(value), expected)
    asked.near(
        "mask", backend.numpy(mask), asked.expects(oracle.grid_sample_mask, asked.input, asked.grid, **asked.theirs)
    )

    wrt = ("input", "grid", "fill_value") + (("kernel",) if asked.parameters is not None else ())
    masked = (layout.array(asked.cotangent), backend.array(asked.mask_cotangent))
    actual = pystn.grid_sample_vjp(masked, input, grid, return_mask=True, wrt=wrt, **options)
    wanted = asked.expects(
        oracle.grid_sample_vjp, asked.cotangent, asked.input, asked.grid, wrt=wrt, **asked.filled, **asked.theirs
    )
    through_mask = (asked.mask_cotangent, asked.input, asked.grid)
    by_mask, kernel_by_mask = asked.expects(oracle.grid_sample_mask_vjp, *through_mask, **asked.theirs)
    grad_input, grad_grid, grad_fill = layout.numpy(actual[0]), backend.numpy(actual[1]), backend.numpy(actual[2])
    asked.near("grad_input", grad_input, wanted[0])
    asked.near("grad_grid with the mask", grad_grid, wanted[1] + by_mask)
    expected = wanted[2] if asked.case.fill == "channels" else wanted[2].sum()
    assert np.shape(grad_fill) == np.shape(expected)
    bound = TOLERANCE[asked.dtype] * max(1, asked.cotangent.size)
    np.testing.assert_allclose(grad_fill, expected, rtol=0, atol=bound, err_msg="grad_fill_value")
    plain = pystn.grid_sample_vjp(masked[0], input, grid, **options)
    assert len(plain) == 2
    asked.near("grad_grid", backend.numpy(plain[1]), wanted[1])

    tangents = {"d_fill_value": asked.d_fill, "d_kernel": asked.d_kernel}
    expected = asked.expects(
        oracle.grid_sample_jvp,
        asked.input,
        asked.grid,
        asked.d_input,
        asked.d_grid,
        **tangents,
        **asked.filled,
        **asked.theirs,
    )
    d_mask = asked.expects(
        oracle.grid_sample_mask_jvp,
        asked.input,
        asked.grid,
        asked.d_grid,
        d_kernel=asked.d_kernel,
        **asked.theirs,
    )
    tangents["d_kernel"] = tuple(asked.d_kernel) if isinstance(asked.d_kernel, list) else asked.d_kernel
    moved = pystn.grid_sample_jvp(input, grid, d_input, d_grid, return_mask=True, **tangents, **options)
    asked.near("d_output", layout.numpy(moved[0]), expected)
    asked.near("d_mask", backend.numpy(moved[1]), d_mask)

    by_kernel = []
    if asked.parameters is not None:
        both = [a + b for a, b in zip(wanted[3], kernel_by_mask, strict=True)]
        by_kernel = check_kernel_gradient(asked, backend, actual[3], both)
    adjoint(
        asked,
        "grid_sample",
        [(asked.cotangent, layout.numpy(moved[0])), (asked.mask_cotangent, backend.numpy(moved[1]))],
        [(grad_input, asked.d_input), (grad_grid, asked.d_grid), (grad_fill, asked.d_fill), *by_kernel],
    )


def check_kernel_gradient(asked, backend, actual, expected):
    """One gradient for one kernel, the sum over the axes, or one for each axis; pairs with the tangents."""
    shapes = asked.parameters if isinstance(asked.parameters, list) else [asked.parameters]
    if isinstance(asked.parameters, list):
        assert isinstance(actual, tuple)
        assert len(actual) == asked.ndim
        tangents = asked.d_kernel
    else:
        actual, expected, tangents = [actual], [sum(expected)], [asked.d_kernel]
    pairs = []
    for shape, ours, theirs, tangent in zip(shapes, actual, expected, tangents, strict=True):
        if shape is None:
            assert ours is None
            continue
        ours = np.asarray(backend.numpy(ours))
        assert ours.shape == shape
        bound = TOLERANCE[asked.dtype] * max(1, asked.cotangent.size, np.abs(theirs).max())
        np.testing.assert_allclose(ours, np.reshape(theirs, shape), rtol=0, atol=bound, err_msg="grad_kernel")
        pairs.append((ours, tangent))
    return pairs


def check_second_order(asked, backend, channel_axis):
    """The VJP of the VJP; the derivatives of samples to their coordinates, and the derivatives of those."""
    layout = Layout(backend, channel_axis)
    options = {**asked.ours, **asked.filled, "channel_axis": channel_axis}
    theirs = {**asked.filled, **asked.theirs}
    input, grid = layout.array(asked.input), backend.array(asked.grid)
    d_input, d_grid = layout.array(asked.d_input), backend.array(asked.d_grid)

    arrays = (asked.d_input, asked.d_grid, asked.cotangent, asked.input, asked.grid)
    twice = pystn.grid_sample_vjp2(d_input, d_grid, layout.array(asked.cotangent), input, grid, **options)
    wanted = asked.expects(oracle.grid_sample_vjp2, *arrays, **theirs)
    asked.near("vjp2: grad_grad_output", layout.numpy(twice[0]), wanted[0])
    asked.near("vjp2: grad_input", layout.numpy(twice[1]), wanted[1])
    asked.near("vjp2: grad_grid", backend.numpy(twice[2]), wanted[2])
    # Either part alone: None is zero.
    for name, ours, parts in (("gg_input", (d_input, None), arrays[:1]), ("gg_grid", (None, d_grid), ())):
        alone = pystn.grid_sample_vjp2(*ours, layout.array(asked.cotangent), input, grid, **options)
        wanted = asked.expects(
            oracle.grid_sample_vjp2, *(parts or (None,)), None if parts else arrays[1], *arrays[2:], **theirs
        )
        asked.near(f"vjp2 of {name} alone: grad_grad_output", layout.numpy(alone[0]), wanted[0])
        asked.near(f"vjp2 of {name} alone: grad_input", layout.numpy(alone[1]), wanted[1])
        asked.near(f"vjp2 of {name} alone: grad_grid", backend.numpy(alone[2]), wanted[2])

    masked = (layout.array(asked.cotangent), backend.array(asked.mask_cotangent))
    with_mask = pystn.grid_sample_vjp2(d_input, d_grid, masked, input, grid, return_mask=True, **options)
    through_mask = (asked.d_grid, asked.mask_cotangent, asked.input, asked.grid)
    by_mask = asked.expects(oracle.grid_sample_mask_vjp2, *through_mask, **asked.theirs)
    asked.near("vjp2: grad_grad_mask", backend.numpy(with_mask[0][1]), by_mask[0])
    asked.near("vjp2: grad_grid with the mask", backend.numpy(with_mask[2]) - backend.numpy(twice[2]), by_mask[1])

    slopes = pystn.grid_gradient(input, grid, **options)
    expected = asked.expects(oracle.grid_gradient, asked.input, asked.grid, **theirs)
    asked.near("grid_gradient", layout.slopes_numpy(slopes), expected)
    cotangent = layout.slopes(asked.slope_cotangent)
    grad_input, grad_grid = pystn.grid_gradient_vjp(cotangent, input, grid, **options)
    wanted = asked.expects(oracle.grid_gradient_vjp, asked.slope_cotangent, asked.input, asked.grid, **theirs)
    grad_input, grad_grid = layout.numpy(grad_input), backend.numpy(grad_grid)
    asked.near("grid_gradient_vjp: grad_input", grad_input, wanted[0])
    asked.near("grid_gradient_vjp: grad_grid", grad_grid, wanted[1])
    moved = layout.slopes_numpy(pystn.grid_gradient_jvp(input, grid, d_input, d_grid, **options))
    expected = asked.expects(oracle.grid_gradient_jvp, asked.input, asked.grid, asked.d_input, asked.d_grid, **theirs)
    asked.near("grid_gradient_jvp", moved, expected)
    adjoint(
        asked,
        "grid_gradient",
        [(asked.slope_cotangent, moved)],
        [(grad_input, asked.d_input), (grad_grid, asked.d_grid)],
    )


def check_push_and_count(asked, backend, channel_axis):
    """The adjoint of sampling, the count, and their derivatives."""
    layout = Layout(backend, channel_axis)
    options = {**asked.ours, "channel_axis": channel_axis}
    size = asked.case.size
    values, grid = layout.array(asked.values), backend.array(asked.grid)
    d_values, d_grid = layout.array(asked.d_values), backend.array(asked.d_grid)

    image = layout.numpy(pystn.grid_push(values, grid, size, **options))
    asked.near("grid_push", image, asked.expects(oracle.grid_push, asked.values, asked.grid, size, **asked.theirs))
    cotangent = layout.array(asked.image_cotangent)
    grad_values, grad_grid = pystn.grid_push_vjp(cotangent, values, grid, size, **options)
    wanted = asked.expects(oracle.grid_push_vjp, asked.image_cotangent, asked.values, asked.grid, size, **asked.theirs)
    grad_values, grad_grid = layout.numpy(grad_values), backend.numpy(grad_grid)
    asked.near("grid_push_vjp: grad_values", grad_values, wanted[0])
    asked.near("grid_push_vjp: grad_grid", grad_grid, wanted[1])
    moved = layout.numpy(pystn.grid_push_jvp(values, grid, d_values, d_grid, size, **options))
    expected = asked.expects(
        oracle.grid_push_jvp, asked.values, asked.grid, asked.d_values, asked.d_grid, size, **asked.theirs
    )
    asked.near("grid_push_jvp", moved, expected)
    adjoint(
        asked,
        "grid_push",
        [(asked.image_cotangent, moved)],
        [(grad_values, asked.d_values), (grad_grid, asked.d_grid)],
    )
    # Push is the adjoint of sampling: <push(v), u> = <v, sample(u)>.
    samples = layout.numpy(pystn.grid_sample(cotangent, grid, **options))
    adjoint(
        asked,
        "grid_push and grid_sample",
        [(image, asked.image_cotangent)],
        [(np.broadcast_to(asked.values, samples.shape), samples)],
    )

    count = layout.numpy(pystn.grid_count(grid, size, **options))
    asked.near("grid_count", count, asked.expects(oracle.grid_count, asked.grid, size, **asked.theirs))
    cotangent = layout.array(asked.count_cotangent)
    (grad_grid,) = pystn.grid_count_vjp(cotangent, grid, size, **options)
    (wanted,) = asked.expects(oracle.grid_count_vjp, asked.count_cotangent, asked.grid, size, **asked.theirs)
    asked.near("grid_count_vjp", backend.numpy(grad_grid), wanted)
    moved = layout.numpy(pystn.grid_count_jvp(grid, d_grid, size, **options))
    asked.near(
        "grid_count_jvp", moved, asked.expects(oracle.grid_count_jvp, asked.grid, asked.d_grid, size, **asked.theirs)
    )
    adjoint(asked, "grid_count", [(asked.count_cotangent, moved)], [(backend.numpy(grad_grid), asked.d_grid)])


def check(asked, backend):
    """Everything, in both layouts."""
    for channel_axis in (1, -1):
        check_sampling(asked, backend, channel_axis)
        check_second_order(asked, backend, channel_axis)
        check_push_and_count(asked, backend, channel_axis)


# Two conventions in turn for every kernel and boundary.
COMBINED = [
    pytest.param(*cell, sum(place), id="-".join(map(str, (*cell[:2], *cell[2]))))
    for place, cell in zip(
        product(*map(range, map(len, (KERNELS, EVERY_PADDING_MODE, CONVENTIONS)))),
        product(KERNELS, EVERY_PADDING_MODE, CONVENTIONS),
        strict=True,
    )
    if (place[0] // 3 + place[1] + 2 * place[2]) % 3  # which leaves every pair of these, and of one and an image
]


@pytest.mark.parametrize("kernel, padding_mode, convention, turn", COMBINED)
def test_every_cell(backend, rng, ndim, kernel, padding_mode, convention, turn):
    """Each with one image, in turn: all of them with every kernel, and every boundary, and every convention."""
    case = CASES[ndim][turn % len(CASES[ndim])]
    check(Asked(rng, case, kernel, padding_mode, convention), backend)


def test_every_kernel_in_float32(backend, rng, ndim, kernel, padding_mode):
    """The same to the rounding of single precision, in one convention."""
    check(Asked(rng, CASES[ndim][0], kernel, padding_mode, (False, "normalized"), np.float32), backend)


PER_AXIS = [
    (("linear", "nearest", "linear"), ("wrap", "zeros", "constant")),
    (("linear", "linear", "linear"), ("constant", "zeros", "border")),
    (("cubic", "linear", "nearest"), ("constant", "constant", "zeros")),
    (("cubic", "cubic", "cubic"), ("wrap", "mirror", "symmetric")),
    (("nearest", "cubic", "linear"), ("reflection", "constant", "wrap")),
]


@pytest.mark.parametrize("modes, paddings", PER_AXIS, ids=lambda t: "-".join(t))
def test_kernels_and_boundaries_by_axis(backend, rng, ndim, convention, modes, paddings):
    """Tuples go with the spatial axes in the order of the array; what is outside depends on all of them."""
    modes, paddings = modes[:ndim], paddings[:ndim]
    for case in CASES[ndim]:
        asked = Asked(rng, case, "linear", "zeros", convention)
        asked.ours.update(mode=modes, padding_mode=paddings)
        asked.theirs.update(mode=list(modes), padding_mode=list(paddings))
        if "cubic" in modes:
            asked.parameters = [() if mode == "cubic" else None for mode in modes]
            asked.d_kernel = [np.asarray(0.5 + a) if mode == "cubic" else None for a, mode in enumerate(modes)]
        check(asked, backend)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_vjp2_is_the_slope_of_the_vjp(backend, rng, kernel, padding_mode, ndim):
    """Central differences of the VJP along random directions, no oracle involved."""
    size = (5, 4, 3)[:ndim]
    mode = kernel_for(pystn, kernel, ndim)[0]
    options = {"mode": mode, "padding_mode": padding_mode, "fill_value": 0.5}
    grid = away_from_kinks(coordinates(rng, (2, 6), size, "normalized", 1.5), size, False, "normalized")
    at = [rng.standard_normal((2, 2, 6)), rng.standard_normal((2, 2, *size)), grid]
    along = [rng.standard_normal(a.shape) for a in at]
    gg = [rng.standard_normal(a.shape) for a in at[1:]]
    h = 1e-6

    def paired(t):
        moved = [backend.array(a + t * d) for a, d in zip(at, along, strict=True)]
        gradients = [backend.numpy(g) for g in pystn.grid_sample_vjp(*moved, **options)]
        return sum((a * b).sum() for a, b in zip(gradients, gg, strict=True))

    results = pystn.grid_sample_vjp2(*map(backend.array, gg + at), **options)
    terms = [(backend.numpy(a) * b).sum() for a, b in zip(results, along, strict=True)]
    assert abs(sum(terms) - (paired(h) - paired(-h)) / (2 * h)) <= 1e-6 * max(1, *np.abs(terms)) * 10


@pytest.mark.parametrize("subgradient", SUBGRADIENTS)
def test_linear_on_the_lattice(backend, rng, ndim, padding_mode, convention, subgradient):
    """Half of the coordinates are pixel centres, where the slope is chosen: in all derivatives the same."""
    align_corners, coords = convention
    size = ((9, 5, 3) if align_corners else (8, 4, 2))[:ndim]  # whose centres have coordinates without rounding
    asked = Asked(rng, Case(size, fill="channels", reach=2.5), "linear", padding_mode, convention)
    position = coordinates(rng, asked.grid.shape[:-1], size, "pixel", 2.5)
    position = np.where(rng.random(position.shape) < 0.5, np.rint(position), position)
    if coords == "normalized":
        n = np.array(size[::-1], float)
        position = 2 * position / (n - 1) - 1 if align_corners else (2 * position + 1) / n - 1
    asked.grid = position
    asked.ours["subgradient"] = asked.theirs["subgradient"] = subgradient
    check(asked, backend)
