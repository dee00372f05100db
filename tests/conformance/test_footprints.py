"""Samples whose kernel is stretched over a footprint: the backends' operations, against their equations."""

import math

import footprint_oracle as oracle
import numpy as np
import pytest
from conftest import EVERY_PADDING_MODE, assert_same_sums, coordinates, kernel_for

import pystn
from pystn.backends import backend_of
from pystn.options import resolve

IMAGES = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
SHAPES = {1: (9,), 2: (3, 4), 3: (2, 3, 2)}
# A kernel, a boundary, a convention and a number of axes: each of them with each kind of the others somewhere.
CELLS = [
    ("linear", "zeros", (False, "normalized"), 2),
    ("linear", "border", (True, "normalized"), 3),
    ("linear", "symmetric", (False, "pixel"), 1),
    ("nearest", "wrap", (False, "pixel"), 2),
    ("nearest-up", "constant", (True, "normalized"), 1),
    ("cubic", "constant", (False, "normalized"), 2),
    ("catmull-rom", "reflection", (True, "normalized"), 1),
    ("cubic", "zeros", (False, "pixel"), 3),
    ("bspline2", "mirror", (False, "pixel"), 2),
    ("bspline3", "border", (False, "normalized"), 2),
    ("lanczos3", "constant", (False, "pixel"), 2),
    ("lanczos2", "wrap", (True, "normalized"), 1),
    ("gaussian", "symmetric", (False, "normalized"), 2),
    ("tabulated", "constant", (False, "pixel"), 1),
    ("mixed", "zeros", (False, "normalized"), 3),
    ("mixed", "wrap", (False, "pixel"), 2),
]
KINDS = ("scales", "covariances")


def options_of(kernel="linear", padding_mode="zeros", convention=(False, "normalized"), ndim=2, **others):
    """Resolved options, and the oracle's."""
    ours, theirs = kernel_for(pystn, kernel, ndim)
    align_corners, coords = convention
    given = {"subgradient": "right", "cutoff": None} | {
        k: v for k, v in others.items() if k in ("subgradient", "cutoff")
    }
    fill = others.get("fill_value", 0.0)
    resolved = resolve(
        ours,
        padding_mode,
        align_corners,
        coords,
        given["subgradient"],
        others.get("channel_axis", 1),
        others.get("deterministic", False),
        given["cutoff"],
        fill,
    )
    options = {"mode": theirs, "padding_mode": padding_mode, "align_corners": align_corners, "coords": coords}
    return resolved, options | given


def footprints(rng, kind, leading, ndim, least=1.0, most=2.6):
    """Scales, or positive definite matrices."""
    if kind == "scales":
        return rng.uniform(least, most, (*leading, ndim))
    roots = rng.standard_normal((*leading, ndim, ndim)) * 0.5
    return roots @ np.swapaxes(roots, -1, -2) + 0.5 * np.eye(ndim)


def arrays_of(rng, kind, ndim, coords, batches=(2, 2, 2), channels=3, reach=1.4):
    """Input, grid, footprint, and cotangents of the output and of the mask."""
    image, shape = IMAGES[ndim], SHAPES[ndim]
    n = max(batches)
    grid = coordinates(rng, (batches[1], *shape), image, coords, reach)
    return (
        rng.standard_normal((batches[0], channels, *image)),
        grid,
        footprints(rng, kind, (batches[2], *shape), ndim),
        rng.standard_normal((n, channels, *shape)),
        rng.standard_normal((n, *shape)),
    )


class Run:
    """The operations of a backend on NumPy's arrays."""

    def __init__(self, backend, options):
        self.backend, self.options = backend, options

    def __getattr__(self, name):
        def call(*arrays):
            given = [self.backend.array(a) if isinstance(a, np.ndarray) else a for a in arrays]
            operations = backend_of({"input": next(a for a in given if a is not None)})
            results = getattr(operations, f"footprint_{name}")(*self.placed(name, given))
            return [None if r is None else self.backend.numpy(r) for r in results]

        return call

    def placed(self, name, given):
        if name == "sample":
            return *given, self.options, True, None
        if name == "sample_jvp":
            return *given, self.options, True, None
        return *given, self.options, (True,) * (4 if name.endswith("2") else 3)


def close(actual, expected, tolerance=1e-12):
    scale = max(1.0, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kernel, padding_mode, convention, ndim", CELLS)
def test_scales_against_the_equations(backend, rng, kernel, padding_mode, convention, ndim):
    fill = [0.5, -1.0, 2.0] if padding_mode == "constant" else 0.0
    resolved, options = options_of(kernel, padding_mode, convention, ndim, fill_value=np.array(fill))
    input, grid, footprint, g, g_mask = arrays_of(rng, "scales", ndim, convention[1])
    run = Run(backend, resolved)
    for actual, expected in zip(
        run.sample(input, grid, footprint), oracle.sample(input, grid, footprint, fill, **options), strict=True
    ):
        close(actual, expected)
    actual = run.sample_vjp(g, g_mask, input, grid, footprint)
    for a, e in zip(actual, oracle.vjp(g, g_mask, input, grid, footprint, fill, **options), strict=True):
        close(a, e, 1e-11)


@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_covariances_against_the_equations(backend, rng, padding_mode, ndim):
    convention = [(False, "normalized"), (True, "normalized"), (False, "pixel")][ndim - 1]
    fill = [0.5, -1.0, 2.0] if padding_mode == "constant" else 0.0
    resolved, options = options_of("bspline3", padding_mode, convention, ndim, fill_value=np.array(fill))
    input, grid, footprint, g, g_mask = arrays_of(rng, "covariances", ndim, convention[1])
    run = Run(backend, resolved)
    for actual, expected in zip(
        run.sample(input, grid, footprint), oracle.sample(input, grid, footprint, fill, **options), strict=True
    ):
        close(actual, expected)
    actual = run.sample_vjp(g, g_mask, input, grid, footprint)
    for a, e in zip(actual, oracle.vjp(g, g_mask, input, grid, footprint, fill, **options), strict=True):
        close(a, e, 1e-10)
    np.testing.assert_array_equal(actual[2], np.swapaxes(actual[2], -1, -2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batches", [(1, 3, 1), (3, 1, 1), (1, 1, 3), (3, 3, 1), (1, 1, 1)])
def test_batches_that_are_shared(backend, rng, kind, batches):
    resolved, options = options_of("linear", "constant", fill_value=2.0)
    input, grid, footprint, g, g_mask = arrays_of(rng, kind, 2, "normalized", batches)
    run = Run(backend, resolved)
    close(run.sample(input, grid, footprint)[0], oracle.sample(input, grid, footprint, 2.0, **options)[0])
    actual = run.sample_vjp(g, g_mask, input, grid, footprint)
    for a, e in zip(actual, oracle.vjp(g, g_mask, input, grid, footprint, 2.0, **options), strict=True):
        close(a, e, 1e-11)


@pytest.mark.parametrize("subgradient", ["right", "left", "central", "zero"])
def test_slopes_at_pixel_centres(backend, rng, subgradient):
    """Where taps are at the middle and at the ends of the hat, the rule of the linear kernel holds for each."""
    resolved, options = options_of("linear", "border", (False, "pixel"), 1, subgradient=subgradient)
    input = rng.standard_normal((1, 2, 9))
    grid = np.array([2.0, 3.0, 4.5, 4.0, 5.0])[None, :, None]
    footprint = np.array([1.0, 2.0, 1.5, 1.5, 3.0])[None, :, None]
    g = rng.standard_normal((1, 2, 5))
    actual = Run(backend, resolved).sample_vjp(g, None, input, grid, footprint)
    for a, e in zip(actual, oracle.vjp(g, None, input, grid, footprint, **options), strict=True):
        close(a, e)


@pytest.mark.parametrize("kernel", ["nearest", "linear", "cubic", "bspline4", "lanczos2", "gaussian", "mixed"])
@pytest.mark.parametrize("padding_mode", ["constant", "border", "mirror", "wrap"])
def test_of_scale_one_it_is_grid_sample(backend, rng, kernel, padding_mode):
    input, grid, *_ = arrays_of(rng, "scales", 2, "pixel")
    grid[0, 0, :] = [[0.5, 1.5], [2.0, 3.0], [-0.5, 2.5], [5.5, 4.0]]  # ties and centres
    options = {"mode": kernel_for(pystn, kernel, 2)[0], "padding_mode": padding_mode, "coords": "pixel"}
    options |= {"fill_value": 0.7}
    resolved, _ = options_of(kernel, padding_mode, (False, "pixel"), 2, fill_value=0.7)
    arrays = [backend.array(a) for a in (input, grid)]
    expected, mask = pystn.grid_sample(*arrays, return_mask=True, **options)
    value, actual_mask = Run(backend, resolved).sample(input, grid, np.ones(grid.shape))
    close(value, backend.numpy(expected), 1e-14)
    close(actual_mask, backend.numpy(mask), 1e-14)


def test_coefficients_of_splines(backend, rng):
    """A prefilter belongs to the kernel of scales, and not to the Gaussian of covariances."""
    input, grid, footprint, g, _ = arrays_of(rng, "scales", 2, "pixel")
    plain, _ = options_of("bspline3", "mirror", (False, "pixel"))
    resolved, _ = options_of("prefiltered", "mirror", (False, "pixel"))
    filtered = backend.numpy(pystn.spline_filter(backend.array(input), 3, "mirror"))
    a, b = Run(backend, resolved).sample(input, grid, footprint), Run(backend, plain).sample(filtered, grid, footprint)
    close(a[0], b[0], 1e-14)
    to_input, to_grid, _ = Run(backend, resolved).sample_vjp(g, None, input, grid, footprint)
    expected = Run(backend, plain).sample_vjp(g, None, filtered, grid, footprint)
    close(to_grid, expected[1], 1e-13)
    (transposed,) = pystn.spline_filter_vjp(backend.array(expected[0]), backend.array(input), 3, "mirror")
    close(to_input, backend.numpy(transposed), 1e-13)
    S = footprints(rng, "covariances", grid.shape[:-1], 2)
    for ours in zip(
        Run(backend, resolved).sample_vjp(g, None, input, grid, S),
        Run(backend, plain).sample_vjp(g, None, input, grid, S),
        strict=True,
    ):
        np.testing.assert_array_equal(*ours)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding_mode", ["border", "mirror", "symmetric", "wrap", "constant"])
def test_constants_are_preserved(backend, rng, kind, padding_mode):
    input, grid, footprint, *_ = arrays_of(rng, kind, 2, "pixel", reach=2.0)
    input[...] = 3.0
    resolved, _ = options_of("cubic", padding_mode, (False, "pixel"), fill_value=3.0)
    close(Run(backend, resolved).sample(input, grid, footprint)[0], np.full((2, 3, 3, 4), 3.0), 1e-13)


@pytest.mark.parametrize("mode, torch_mode", [("linear", "bilinear"), ("catmull-rom", "bicubic")])
@pytest.mark.parametrize("factor", [2, 3])
def test_shrinking_as_torch_does(backend, rng, mode, torch_mode, factor):
    """In the interior, where no weight is dropped."""
    torch = pytest.importorskip("torch")
    input = rng.standard_normal((1, 2, 12 * factor, 13 * factor))
    centres = [np.arange(n) * factor + (factor - 1) / 2 for n in (12, 13)]
    grid = np.stack(np.meshgrid(*centres, indexing="ij")[::-1], axis=-1)[None]
    resolved, _ = options_of(mode, "border", (False, "pixel"))
    value, _ = Run(backend, resolved).sample(input, grid, np.full(grid.shape, float(factor)))
    expected = torch.nn.functional.interpolate(torch.tensor(input), (12, 13), mode=torch_mode, antialias=True).numpy()
    close(value[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_more_taps_than_a_table_holds(backend, rng, kind):
    """Long rows come in pieces: of 140 pixels along x, and the taps of a footprint that is at its limit."""
    input = rng.standard_normal((1, 1, 2, 140))
    grid = np.array([[[70.3, 1.2], [130.0, -0.7], [5.0, 1.05]]])
    if kind == "scales":
        footprint = np.array([[[100.5, 1.0], [70.0, 2.0], [5000.0, 20.0]]])
    else:
        footprint = np.array([[[[1600.0, 10], [10, 0.8]], [[900, 0], [0, 2]], [[1e6, 100], [100, 1]]]])
    for padding_mode in ("constant", "mirror"):
        resolved, options = options_of("linear", padding_mode, (False, "pixel"), fill_value=1.5)
        g, g_mask = rng.standard_normal((1, 1, 3)), rng.standard_normal((1, 3))
        run = Run(backend, resolved)
        value = run.sample(input, grid, footprint)
        for a, e in zip(value, oracle.sample(input, grid, footprint, 1.5, **options), strict=True):
            close(a, e, 1e-12)
        actual = run.sample_vjp(g, g_mask, input, grid, footprint)
        for a, e in zip(actual, oracle.vjp(g, g_mask, input, grid, footprint, 1.5, **options), strict=True):
            close(a, e, 1e-11)


# ---- Derivatives


DERIVED = [
    ("scales", "linear", "constant", 2),
    ("scales", "cubic", "zeros", 1),
    ("scales", "mixed", "border", 3),
    ("scales", "bspline3", "mirror", 2),
    ("scales", "lanczos2", "constant", 1),
    ("scales", "gaussian", "wrap", 2),
    ("scales", "tabulated", "constant", 1),
    ("scales", "nearest", "constant", 2),
    ("covariances", "linear", "constant", 1),
    ("covariances", "nearest", "border", 2),
    ("covariances", "linear", "zeros", 3),
]


def tangents_of(rng, kind, *primals):
    """Random tangents; of covariances symmetric ones."""
    tangents = [rng.standard_normal(array.shape) for array in primals]
    if kind == "covariances":
        tangents[2] = (tangents[2] + np.swapaxes(tangents[2], -1, -2)) / 2
    return tangents


@pytest.mark.parametrize("kind, kernel, padding_mode, ndim", DERIVED)
def test_the_jvp_is_dual_to_the_vjp_and_a_difference(backend, rng, kind, kernel, padding_mode, ndim):
    resolved, _ = options_of(kernel, padding_mode, (False, "pixel"), ndim, fill_value=0.7)
    *primals, g, g_mask = arrays_of(rng, kind, ndim, "pixel")
    tangents = tangents_of(rng, kind, *primals)
    run = Run(backend, resolved)
    input, grid, footprint = primals
    d_input, d_grid, d_footprint = tangents
    moved, d_mask = run.sample_jvp(input, grid, d_input, d_grid, footprint, d_footprint)
    gradients = run.sample_vjp(g, g_mask, *primals)
    pulled = sum(np.vdot(a, b) for a, b in zip(gradients, tangents, strict=True))
    assert math.isclose(np.vdot(moved, g) + np.vdot(d_mask, g_mask), pulled, rel_tol=1e-10, abs_tol=1e-10)
    # Each alone adds up to all.
    parts = [
        run.sample_jvp(input, grid, *pair, footprint, last)[0]
        for *pair, last in ((d_input, None, None), (None, d_grid, None), (None, None, d_footprint))
    ]
    close(sum(parts), moved, 1e-12)
    # Taps come in and go, with weight 0 (the Gaussian's window with little): a step that few of them are within.
    step = 1e-6
    ends = [run.sample(*[a + sign * step * d for a, d in zip(primals, tangents, strict=True)]) for sign in (1, -1)]
    for derivative, high, low in zip((moved, d_mask), *ends, strict=True):
        difference = (high - low) / (2 * step)
        off = np.abs(difference - derivative) > 2e-4 * max(1, np.abs(derivative).max())
        assert off.mean() < 0.02, (off.mean(), np.abs(difference - derivative).max())


@pytest.mark.parametrize("kind, kernel, padding_mode, ndim", [d for d in DERIVED if d[1] != "nearest"])
def test_second_order_is_the_derivative_of_the_vjp(backend, rng, kind, kernel, padding_mode, ndim):
    """<gg, vjp(g, x)>: its gradient to x along t is <gg, the difference of the vjp along t>; to g it is the JVP."""
    resolved, _ = options_of(kernel, padding_mode, (False, "pixel"), ndim, fill_value=0.7)
    *primals, g, g_mask = arrays_of(rng, kind, ndim, "pixel", (2, 2, 1))
    gg, tangents = tangents_of(rng, kind, *primals), tangents_of(rng, kind, *primals)
    run = Run(backend, resolved)
    to_g, to_mask, *to_primals = run.sample_vjp2(*gg, g, g_mask, *primals)
    moved, d_mask = run.sample_jvp(primals[0], primals[1], gg[0], gg[1], primals[2], gg[2])
    np.testing.assert_array_equal(to_g, moved)
    np.testing.assert_array_equal(to_mask, d_mask)
    step = 1e-5
    ends = [
        run.sample_vjp(g, g_mask, *[a + sign * step * d for a, d in zip(primals, tangents, strict=True)])
        for sign in (1, -1)
    ]
    # Slopes jump where taps come in, so that the differences of single samples may be off: most are not.
    expected = [
        (np.vdot(gg[k], high) - np.vdot(gg[k], low)) / (2 * step)
        for k, (high, low) in enumerate(zip(*ends, strict=True))
    ]
    pulled = sum(np.vdot(a, b) for a, b in zip(to_primals, tangents, strict=True))
    scale = sum(np.abs(a * b).sum() for a, b in zip(to_primals, tangents, strict=True))
    tolerance = 1e-6 if kernel in ("bspline3", "lanczos2", "gaussian") and kind == "scales" else 2e-2
    assert abs(sum(expected) - pulled) < tolerance * scale, (sum(expected), pulled, scale)


def test_second_order_of_single_cotangents(backend, rng):
    """What is not given counts as zero, and what is not wanted is not made."""
    resolved, _ = options_of("cubic", "constant", (False, "pixel"), fill_value=0.7)
    *primals, g, g_mask = arrays_of(rng, "scales", 2, "pixel")
    gg = tangents_of(rng, "scales", *primals)
    run = Run(backend, resolved)
    parts = [run.sample_vjp2(*[a if k == m else None for m, a in enumerate(gg)], g, g_mask, *primals) for k in range(3)]
    for k, together in enumerate(run.sample_vjp2(*gg, g, g_mask, *primals)):
        close(sum(part[k] for part in parts), together, 1e-12)
    operations = backend_of({"input": backend.array(g)})
    given = [backend.array(a) for a in (*gg, g, g_mask, *primals)]
    only = operations.footprint_sample_vjp2(*given, resolved, (False, False, True, False))
    assert [a is None for a in only] == [True, True, True, False, True]


# ---- Numbers that are not nice


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_number_is_the_fill_value(backend, rng, kind):
    resolved, _ = options_of("linear", "border", (False, "pixel"), fill_value=9.0)
    input = rng.standard_normal((1, 2, 4, 5))
    grid = np.full((1, 6, 2), 1.3)
    footprint = footprints(rng, kind, (1, 6), 2)
    grid[0, 0, 0], grid[0, 1, 1] = np.nan, np.inf
    footprint[0, 2].reshape(-1)[0], footprint[0, 3].reshape(-1)[-1] = np.nan, np.inf
    if kind == "covariances":
        footprint[0, 4] = [[1, 1], [1, 1]]
        footprint[0, 5] = [[1, 2], [2, 1]]
    else:
        grid[0, 4], grid[0, 5] = -np.inf, np.nan
    run = Run(backend, resolved)
    value, mask = run.sample(input, grid, footprint)
    np.testing.assert_array_equal(value, 9)
    np.testing.assert_array_equal(mask, 0)
    g, g_mask = rng.standard_normal((1, 2, 6)), rng.standard_normal((1, 6))
    for gradient in run.sample_vjp(g, g_mask, input, grid, footprint):
        np.testing.assert_array_equal(gradient, 0)
    tangents = [np.ones(a.shape) for a in (input, grid, footprint)]
    for tangent in run.sample_jvp(input, grid, *tangents[:2], footprint, tangents[2]):
        np.testing.assert_array_equal(tangent, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding_mode", ["border", "wrap", "mirror", "constant", "zeros"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_and_tiny(backend, rng, kind, padding_mode, dtype):
    """No number makes an endless loop or a read out of bounds; what is left is finite."""
    resolved, _ = options_of("linear", padding_mode, (False, "pixel"), fill_value=1.0)
    input = rng.standard_normal((1, 2, 4, 5)).astype(dtype)
    largest = np.finfo(dtype).max
    at = np.array([0.0, -3.7, 1e6, -1e9, 1e30, largest, -largest])
    sizes = np.array([1e-30, 0.5, 1.0, 50.0, 1e6, 1e30, largest])
    grid = np.stack(np.meshgrid(at, sizes, indexing="ij")[:1] * 2, axis=-1)[None].astype(dtype)
    sizes = np.broadcast_to(sizes, (1, 7, 7)).astype(dtype)
    footprint = (
        sizes[..., None] * np.ones(2, dtype) if kind == "scales" else sizes[..., None, None] * np.eye(2, dtype=dtype)
    )
    run = Run(backend, resolved)
    value, mask = run.sample(input, grid, footprint)
    assert np.isfinite(value).all()
    assert ((mask >= 0) & (mask <= 1)).all()
    # Where it is at its limit it is as wide as it would be there, and does not move.
    g = rng.standard_normal((1, 2, 7, 7)).astype(dtype)
    to_input, to_grid, to_footprint = run.sample_vjp(g, None, input, grid, footprint)
    for gradient in (to_input, to_grid, to_footprint):
        assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(to_footprint[:, :, 4:], 0)


def test_scales_below_one_count_as_one(backend, rng):
    resolved, _ = options_of("cubic", "border", (False, "pixel"))
    input, grid, footprint, g, _ = arrays_of(rng, "scales", 2, "pixel")
    run = Run(backend, resolved)
    small = np.where(rng.random(footprint.shape) < 0.5, -1.0, 0.25)
    np.testing.assert_array_equal(
        run.sample(input, grid, small)[0], run.sample(input, grid, np.ones(footprint.shape))[0]
    )
    assert not run.sample_vjp(g, None, input, grid, small)[2].any()


def test_an_ellipse_without_a_pixel_reads_the_nearest(backend, rng):
    resolved, _ = options_of("linear", "constant", (False, "pixel"), fill_value=4.0)
    input = rng.standard_normal((1, 1, 4, 5))
    grid = np.array([[[1.4, 2.3], [0.6, 0.6], [-0.6, 1.0]]])
    S = np.broadcast_to(1e-4 * np.eye(2), (1, 3, 2, 2)).copy()
    run = Run(backend, resolved)
    value, mask = run.sample(input, grid, S)
    np.testing.assert_array_equal(value[0, 0], [input[0, 0, 2, 1], input[0, 0, 1, 1], 4.0])
    np.testing.assert_array_equal(mask[0], [1, 1, 0])
    to_input, to_grid, to_S = run.sample_vjp(np.ones((1, 1, 3)), None, input, grid, S)
    assert to_input.sum() == 2
    assert not to_grid.any()
    assert not to_S.any()


def test_pixels_of_no_weight_are_not_read(backend):
    """A NaN beside the support is not seen, nor one that a cubic kernel weighs with 0."""
    input = np.full((1, 1, 9), np.nan)
    input[..., 3:6] = 1.0
    for kernel, at, scale in (("linear", 4.0, 2.0), ("nearest", 4.0, 3.0)):
        resolved, _ = options_of(kernel, "border", (False, "pixel"), 1)
        value, _ = Run(backend, resolved).sample(input, np.array([[[at]]]), np.array([[[scale]]]))
        close(value, np.ones((1, 1, 1)), 1e-15)
    resolved, _ = options_of("cubic", "border", (False, "pixel"), 1)
    input[..., 3::2] = np.nan
    value, _ = Run(backend, resolved).sample(input, np.array([[[4.0]]]), np.array([[[1.0]]]))
    close(value, np.ones((1, 1, 1)), 1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_cutoff(backend, rng, kind):
    resolved, options = options_of("linear", "border", (False, "pixel"), cutoff="edge", fill_value=2.0)
    input, grid, footprint, g, g_mask = arrays_of(rng, kind, 2, "pixel", reach=2.0)
    run = Run(backend, resolved)
    for a, e in zip(
        run.sample(input, grid, footprint), oracle.sample(input, grid, footprint, 2.0, **options), strict=True
    ):
        close(a, e)
    actual = run.sample_vjp(g, g_mask, input, grid, footprint)
    for a, e in zip(actual, oracle.vjp(g, g_mask, input, grid, footprint, 2.0, **options), strict=True):
        close(a, e, 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_one_pixel_and_none(backend, rng, kind):
    for padding_mode in EVERY_PADDING_MODE:
        resolved, options = options_of("cubic", padding_mode, (False, "pixel"), fill_value=2.0)
        input, grid = rng.standard_normal((1, 2, 1, 1)), rng.uniform(-3, 3, (1, 4, 2))
        footprint = footprints(rng, kind, (1, 4), 2)
        fill = 2.0
        run = Run(backend, resolved)
        for a, e in zip(
            run.sample(input, grid, footprint), oracle.sample(input, grid, footprint, fill, **options), strict=True
        ):
            close(a, e)
    for shape, channels in (((0,), 2), ((4,), 0)):
        input, grid = np.ones((2, channels, 3, 3)), np.zeros((1, *shape, 2))
        footprint = footprints(rng, kind, (1, *shape), 2)
        value, mask = run.sample(input, grid, footprint)
        assert value.shape == (2, channels, *shape)
        assert mask.shape == (2, *shape)
        to_input, to_grid, to_footprint = run.sample_vjp(value, mask * 0, input, grid, footprint)
        for gradient in (to_input, to_grid, to_footprint):
            assert not gradient.any()
    none = run.sample_vjp(np.ones((0, 2, 4)), None, np.ones((0, 2, 3, 3)), np.zeros((1, 4, 2)), np.ones((1, 4, 2)))
    assert not none[1].any()
    assert not none[2].any()
    single = run.sample(np.ones((1, 1, 3, 3)), np.ones((1, 2)), footprints(rng, kind, (1,), 2))
    close(single[0], np.ones((1, 1)), 1e-13)


# ---- Types, layouts, threads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "float16", "bfloat16", "float32", "complex64", "complex128"]
)
@pytest.mark.parametrize("grid_dtype", [np.float32, np.float64])
def test_types(backend, rng, kind, dtype, grid_dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    dtype = np.dtype(dtype)
    real, grid, footprint, g, _ = arrays_of(rng, kind, 2, "pixel", (2, 1, 2))
    grid, footprint = grid.astype(grid_dtype), footprint.astype(grid_dtype)
    if dtype.kind in "iu":
        real = np.abs(real) * 60
    input = (real + 1j * np.roll(real, 1)).astype(dtype) if dtype.kind == "c" else real.astype(dtype)
    resolved, options = options_of("linear", "border", (False, "pixel"))
    run = Run(backend, resolved)
    value, mask = run.sample(input, grid, footprint)
    parts = [input.real, input.imag] if dtype.kind == "c" else [input.astype(np.float64)]
    expected = [oracle.sample(p, grid, footprint, **options) for p in parts]
    wide = dtype.kind != "c" and dtype.itemsize <= 2
    epsilon = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype.name, 3e-6)
    tolerance = 0.51 if dtype.kind in "iu" else epsilon if wide or dtype != np.complex128 else 3e-6
    for part, (e, m) in zip([value.real, value.imag] if dtype.kind == "c" else [value], expected, strict=True):
        assert part.dtype == (input.real.dtype if dtype.kind == "c" else dtype)
        np.testing.assert_allclose(part.astype(np.float64), e, rtol=0, atol=tolerance * max(1, tolerance < 0.5 and 4))
        np.testing.assert_allclose(mask.astype(np.float64), m, rtol=0, atol=max(epsilon, 3e-6))
    if dtype.kind == "c" or dtype.itemsize > 2:
        return
    g = g.astype(np.float32 if dtype.kind in "iu" else dtype)
    to_input, to_grid, to_footprint = run.sample_vjp(g, None, input, grid, footprint)
    e_input, e_grid, e_footprint = oracle.vjp(g.astype(np.float64), None, parts[0], grid, footprint, **options)
    assert to_grid.dtype == to_footprint.dtype == grid_dtype
    close(to_input.astype(np.float64), e_input, 4 * max(epsilon, 1e-5))
    close(to_grid, e_grid, 1e-4)
    close(to_footprint, e_footprint, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [3, 70])
def test_layouts(backend, rng, kind, channels):
    """Channels last, and arrays whose axes are reversed or spread out in memory."""
    resolved, _ = options_of("cubic", "constant", fill_value=0.5)
    last, _ = options_of("cubic", "constant", fill_value=0.5, channel_axis=-1)
    *primals, g, g_mask = arrays_of(rng, kind, 2, "normalized", channels=channels)
    tangents = tangents_of(rng, kind, *primals)
    run, run_last = Run(backend, resolved), Run(backend, last)

    def moved(a):
        return np.ascontiguousarray(np.moveaxis(a, 1, -1))

    def spread(a):
        wide = np.empty((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)[..., ::-2]
        wide[...] = a
        return wide

    input, grid, footprint = primals
    value, _ = run.sample(*primals)
    gradients = run.sample_vjp(g, g_mask, *primals)
    jvp = run.sample_jvp(input, grid, *tangents[:2], footprint, tangents[2])
    close(np.moveaxis(run_last.sample(moved(input), grid, footprint)[0], -1, 1), value, 1e-13)
    by_last = run_last.sample_vjp(moved(g), g_mask, moved(input), grid, footprint)
    close(np.moveaxis(by_last[0], -1, 1), gradients[0], 1e-12)
    for a, b in zip(by_last[1:], gradients[1:], strict=True):
        close(a, b, 1e-12)
    by_last = run_last.sample_jvp(moved(input), grid, moved(tangents[0]), tangents[1], footprint, tangents[2])
    close(np.moveaxis(by_last[0], -1, 1), jvp[0], 1e-12)
    arrays = [spread(a) for a in primals]
    np.testing.assert_array_equal(run.sample(*arrays)[0], value)
    by_spread = run.sample_vjp(spread(g), spread(g_mask), *arrays)
    assert_same_sums(backend, by_spread[0], gradients[0])
    for a, b in zip(by_spread[1:], gradients[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_that_do_not_depend_on_their_order(backend, rng, kind):
    """On CUDA they are made in integers, of first and of second order."""
    arrays = arrays_of(rng, kind, 2, "pixel", (1, 2, 1))
    *primals, g, g_mask = arrays
    gg = tangents_of(rng, kind, *primals)
    plain, exact = (
        Run(backend, options_of("cubic", "border", (False, "pixel"), deterministic=deterministic)[0])
        for deterministic in (False, True)
    )
    close(exact.sample_vjp(g, g_mask, *primals)[0], plain.sample_vjp(g, g_mask, *primals)[0], 1e-13)
    close(exact.sample_vjp2(*gg, g, g_mask, *primals)[2], plain.sample_vjp2(*gg, g, g_mask, *primals)[2], 1e-12)


@pytest.mark.parametrize("cut", [np.s_[:, :-1], np.s_[..., :0]], ids=["shorter", "empty"])
def test_footprints_are_those_of_the_grid(backend, rng, cut):
    footprint = rng.random((1, 3, 4, 2))[cut]
    arrays = {"input": rng.random((1, 2, 5, 6)), "grid": rng.random((1, 3, 4, 2)), "footprint": footprint}
    given = {name: backend.array(array) for name, array in arrays.items()}
    with pytest.raises(ValueError, match="no kernel for grid and footprint"):
        backend_of(given).footprint_sample(*given.values(), options_of()[0], False, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding_mode", ["border", "wrap"])
def test_threads_do_not_change_a_bit(rng, kind, padding_mode):
    """One image of few channels, whose gradient is cut into bands."""
    resolved, _ = options_of("cubic", padding_mode)
    operations = backend_of({"input": np.zeros(0)})
    input = rng.standard_normal((1, 2, 70, 40)).astype(np.float32)
    grid = coordinates(rng, (1, 110, 90), (70, 40), "normalized", 1.1, np.float32)
    footprint = footprints(rng, kind, (1, 110, 90), 2).astype(np.float32)
    g, g_mask = rng.standard_normal((1, 2, 110, 90)).astype(np.float32), np.ones((1, 110, 90), np.float32)
    gg = [rng.standard_normal(a.shape).astype(np.float32) for a in (input, grid, footprint)]
    found = []
    before = pystn.get_num_threads()
    try:
        for threads in (1, 2, 7):
            pystn.set_num_threads(threads)
            results = [*operations.footprint_sample(input, grid, footprint, resolved, True, None)]
            results += operations.footprint_sample_vjp(g, g_mask, input, grid, footprint, resolved)
            results += operations.footprint_sample_vjp2(*gg, g, g_mask, input, grid, footprint, resolved, (True,) * 4)
            found.append([array.tobytes() for array in results])
    finally:
        pystn.set_num_threads(before)
    assert found[0] == found[1] == found[2]
