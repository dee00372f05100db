"""Samples that know where the image ends, and the penalty of grids that leave it."""

import re

import numpy as np
import oracle
import pytest
from conftest import KERNELS, away_from_kinks, coordinates
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn

LINE = np.array([[[2.0, 4.0, 6.0]]])


def points(*values):
    return np.array(values, float).reshape(1, -1, 1)


# ---- values


@pytest.mark.parametrize("size", [(5,), (4, 5), (3, 4, 3)], ids=str)
@pytest.mark.parametrize("name", ["linear", "nearest", "cubic", "prefiltered", "tabulated"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_a_ratio_of_samples(backend, rng, name, size, masked):
    ours, theirs = KERNELS[name][0](pystn), KERNELS[name][1]
    image, weights = rng.standard_normal((2, 3, *size)), np.ones((2, 1, *size))
    if masked:
        weights = rng.uniform(0.5, 2, weights.shape) * (rng.random(weights.shape) > 0.2)
    grid = coordinates(rng, (2, 12), size, "normalized", reach=2.0)
    total = oracle.grid_sample(weights * image, grid, mode=theirs, padding_mode="zeros")
    coverage = oracle.grid_sample(weights, grid, mode=theirs, padding_mode="zeros")
    covered = coverage >= 0.05
    expected = np.where(covered, total / np.where(covered, coverage, 1), -7.0)
    assert 0 < covered.sum() < covered.size
    mask = weights[:, 0] if masked else None
    given = [backend.array(a) for a in (image, grid, mask)]
    found, found_coverage = pystn.normalized_grid_sample(*given, ours, fill_value=-7.0, eps=0.05, return_mask=True)
    assert_close(backend.numpy(found), expected, 1e-11)
    assert_close(backend.numpy(found_coverage), coverage[:, 0], 1e-11)
    last = pystn.normalized_grid_sample(
        backend.array(np.moveaxis(image, 1, -1)), *given[1:], ours, fill_value=-7.0, eps=0.05, channel_axis=-1
    )
    assert_close(np.moveaxis(backend.numpy(last), -1, 1), expected, 1e-11)


def test_scipy_has_the_same_ratio(rng):
    ndimage = pytest.importorskip("scipy.ndimage")
    image, mask = rng.standard_normal((5, 6)), rng.uniform(0, 1, (5, 6))
    grid = rng.uniform(-1, 6, (20, 2))
    total, coverage = (
        ndimage.map_coordinates(array, grid[:, ::-1].T, order=1, mode="grid-constant") for array in (mask * image, mask)
    )
    found = pystn.normalized_grid_sample(image[None, None], grid[None], mask[None], coords="pixel", eps=0.01)[0, 0]
    expected = np.where(coverage >= 0.01, total / np.where(coverage >= 0.01, coverage, 1), 0)
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("mode", ["linear", "cubic", pystn.Gaussian(0.7)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 2e-3)])
def test_a_constant_image_is_constant_to_its_border_and_beyond(mode, dtype, tolerance):
    """With no gradient to the grid, where that of `grid_sample` draws it inwards."""
    image = np.full((1, 1, 4, 5), 3.0, dtype)
    x, y = np.meshgrid(np.linspace(-0.99, 4.99, 29), np.linspace(-0.9, 3.9, 11))
    grid = np.stack([x, y], axis=-1)[None].astype(dtype)
    options = {"mode": mode, "coords": "pixel", "fill_value": 3.0}
    found = pystn.normalized_grid_sample(image, grid, **options)
    np.testing.assert_allclose(found, 3, rtol=0, atol=10 * np.finfo(dtype).eps / 1e-3)
    _, to_grid = pystn.normalized_grid_sample_vjp(np.ones_like(found), image, grid, **options)
    np.testing.assert_allclose(to_grid, 0, atol=tolerance)
    _, drawn = pystn.grid_sample_vjp(np.ones_like(found), image, grid, mode, coords="pixel")
    assert abs(drawn).max() > 1


def test_the_coverage_of_half_a_pixel():
    at = points(-0.5, 0.0, 0.5, 1.5, 2.5, 3.0)
    values, coverage = pystn.normalized_grid_sample(LINE, at, coords="pixel", fill_value=-1.0, return_mask=True)
    np.testing.assert_array_equal(coverage, [[0.5, 1, 1, 1, 0.5, 0]])
    np.testing.assert_array_equal(values, [[[2, 2, 3, 5, 6, -1]]])


@pytest.mark.parametrize("hidden", [np.nan, np.inf, 1e300])
def test_what_is_masked_has_no_part(hidden):
    image, mask = LINE.copy(), np.array([[1.0, 0.0, 1.0]])
    image[0, 0, 1] = hidden
    at = points(0.25, 0.75, 1.0, 1.25)
    options = {"coords": "pixel", "fill_value": -1.0}
    one = np.ones((1, 1, 4))
    np.testing.assert_array_equal(pystn.normalized_grid_sample(image, at, mask, **options), [[[2, 2, -1, 6]]])
    to_image, to_grid = pystn.normalized_grid_sample_vjp(one, image, at, mask, **options)
    np.testing.assert_array_equal(to_image, [[[2, 0, 1]]])
    np.testing.assert_array_equal(to_grid, np.zeros((1, 4, 1)))
    np.testing.assert_array_equal(
        pystn.normalized_grid_sample_jvp(image, at, None, np.ones_like(at), mask, **options), np.zeros((1, 1, 4))
    )


def test_less_than_eps_is_the_fill_value_without_gradients():
    """At a coverage of exactly eps there is a quotient still."""
    at = points(-0.75, -0.8, -2.0, np.nan)
    options = {"coords": "pixel", "fill_value": np.array([9.0]), "eps": 0.25}
    one = np.ones((1, 1, 4))
    np.testing.assert_array_equal(pystn.normalized_grid_sample(LINE, at, **options), [[[2, 9, 9, 9]]])
    mask = np.ones((1, 3))
    to_image, to_grid, to_fill, to_mask = pystn.normalized_grid_sample_vjp(
        one, LINE, at, mask, **options, wrt=("input", "grid", "fill_value", "mask")
    )
    np.testing.assert_array_equal(to_image, [[[1, 0, 0]]])
    np.testing.assert_array_equal(to_grid, np.zeros((1, 4, 1)))
    np.testing.assert_array_equal(to_fill, [3])
    np.testing.assert_array_equal(to_mask, np.zeros((1, 3)))
    pushed = pystn.normalized_grid_sample_jvp(LINE, at, LINE, np.ones_like(at), **options, d_fill_value=0.5)
    np.testing.assert_array_equal(pushed, [[[2, 0.5, 0.5, 0.5]]])
    second = pystn.normalized_grid_sample_vjp2(LINE, np.ones_like(at), one, LINE, at, **options)
    np.testing.assert_array_equal(second[0], [[[2, 0, 0, 0]]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.complex64])
@pytest.mark.parametrize("masked", [False, True])
def test_other_images(rng, dtype, masked):
    image = rng.uniform(0, 255, (1, 2, 4, 5)).astype(dtype)
    image = image * np.complex64(1 - 0.5j) if dtype == np.complex64 else image
    mask = rng.uniform(0.5, 1, (1, 4, 5)) if masked else None
    grid = coordinates(rng, (1, 9), (4, 5), "normalized")
    wide = image.astype(np.result_type(dtype, np.float64))
    expected = pystn.normalized_grid_sample(wide, grid, mask, "cubic", eps=0.3)
    found, coverage = pystn.normalized_grid_sample(image, grid, mask, "cubic", eps=0.3, return_mask=True)
    assert found.dtype == dtype
    assert coverage.dtype == (np.float16 if dtype == np.float16 else np.float32)
    integer = np.dtype(dtype).kind in "iu"
    if integer:
        expected = np.clip(np.round(expected), np.iinfo(dtype).min, np.iinfo(dtype).max)
    assert_close(found, expected, 0 if integer else 1e-3 if dtype == np.float16 else 1e-5)
    tangent = np.float32 if integer else dtype
    cotangent = np.ones(found.shape, tangent)
    to_image, to_grid = pystn.normalized_grid_sample_vjp(cotangent, image, grid, mask, "cubic", eps=0.3)
    wide_image, wide_grid = pystn.normalized_grid_sample_vjp(
        cotangent.astype(wide.dtype), wide, grid, mask, "cubic", eps=0.3
    )
    assert (to_image.dtype, to_grid.dtype) == (tangent, grid.dtype)
    assert_close(to_image, wide_image, 1e-3 if dtype == np.float16 else 1e-5)
    assert_close(to_grid, wide_grid, 1e-3 if dtype == np.float16 else 1e-4)


def test_masks_of_bytes_are_weights(rng):
    image, grid = rng.standard_normal((2, 2, 4, 5)), coordinates(rng, (2, 9), (4, 5), "normalized")
    seen = rng.random((2, 4, 5)) > 0.3
    expected = pystn.normalized_grid_sample(image, grid, seen.astype(float))
    for mask in (seen, seen.astype(np.uint8), seen.astype(np.float32)):
        np.testing.assert_array_equal(pystn.normalized_grid_sample(image, grid, mask), expected)
        *_, to_mask = pystn.normalized_grid_sample_vjp(expected, image, grid, mask, wrt="mask")
        assert to_mask.dtype == np.float32
    assert np.abs(to_mask).max() > 0


# ---- the strict form


def test_the_gradient_of_the_border_is_left_out_by_a_mask_of_the_loss():
    """A ramp where it has to be: what reaches beyond its end pulls the warp back, if it counts."""
    ramp, theta = np.arange(1.0, 9.0).reshape(1, 1, 8), np.array([[[1.0, 0.2]]])  # by 0.8 pixels
    output, coverage = pystn.warp_affine(ramp, theta, (8,), return_mask=True)
    rest = output - (ramp + 0.8)
    _, slope = pystn.warp_affine_vjp(rest, ramp, theta, (8,))
    assert slope[0, 0, 1] > 1
    _, slope = pystn.warp_affine_vjp(rest * (coverage == 1), ramp, theta, (8,))
    np.testing.assert_allclose(slope, 0, rtol=0, atol=1e-12)


def test_the_strict_form_mixes_nothing_with_what_is_outside():
    """``cutoff="center"``: from the centres of the outermost pixels on there is the fill value, and no gradient."""
    at = points(-1e-9, 0.0, 0.5, 2.0, 2.0 + 1e-9, 2.4)
    options = {"coords": "pixel", "cutoff": "center", "fill_value": -1.0}
    one = np.ones((1, 1, 6))
    values, coverage = pystn.grid_sample(LINE, at, return_mask=True, **options)
    np.testing.assert_array_equal(values, [[[-1, 2, 3, 6, -1, -1]]])
    np.testing.assert_array_equal(coverage, [[0, 1, 1, 1, 0, 0]])
    to_image, to_grid = pystn.grid_sample_vjp(one, LINE, at, **options)
    np.testing.assert_array_equal(to_image, [[[1.5, 0.5, 1]]])
    np.testing.assert_array_equal(to_grid[0, [0, 4, 5], 0], 0)
    # What lies inside is the same whatever is outside.
    for padding in ("border", "mirror", "wrap"):
        np.testing.assert_array_equal(pystn.grid_sample(LINE, at, padding_mode=padding, **options), values)
    np.testing.assert_array_equal(pystn.normalized_grid_sample(LINE, at, **options), values)


# ---- derivatives


CONFIGURATIONS = {
    "plain": {},
    "cut": {"cutoff": "edge", "align_corners": True},
    "cubic": {"mode": "cubic", "eps": 0.2},
    "masked": {"mask": (2, 4, 5), "return_mask": True},
    "one mask": {"mask": (1, 4, 5), "batch": (1, 2), "mode": pystn.Gaussian(0.8), "eps": 0.2},
    "many masks": {"mask": (2, 4, 5), "batch": (1, 2), "channel_axis": -1},
    "one grid": {"mask": (2, 4, 5), "batch": (2, 1)},
    "one grid for all": {"batch": (2, 1), "return_mask": True},
    "one grid and mask": {"mask": (1, 4, 5), "batch": (2, 1), "return_mask": True},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_derivatives(rng, name):
    """The dot test of all directions, differences of the first order and of the second."""
    options = {"fill_value": np.array([0.5, -1.0]), "eps": 0.1, **CONFIGURATIONS[name]}
    of_image, of_grid = options.pop("batch", (2, 2))
    last = options.get("channel_axis") == -1
    image = rng.standard_normal((of_image, 4, 5, 2) if last else (of_image, 2, 4, 5))
    grid = coordinates(rng, (of_grid, 7), (4, 5), "normalized")
    grid = away_from_kinks(grid, (4, 5), options.get("align_corners", False), "normalized", 0.1)
    shape = options.pop("mask", None)
    arrays = [image, grid, options.pop("fill_value")]
    names = ["fill_value"]
    if isinstance(options.get("mode"), pystn.Gaussian):
        arrays, names = [*arrays, np.array(0.8)], [*names, "kernel"]
    if shape:
        arrays, names = [*arrays, rng.uniform(0.5, 1.5, shape)], [*names, "mask"]

    def forward(image, grid, *values):
        given = dict(zip(names, values, strict=True))
        kernel = given.pop("kernel", None)
        mode = {} if kernel is None else {"mode": pystn.Gaussian(float(kernel))}
        found = pystn.normalized_grid_sample(image, grid, **{**options, **given, **mode})
        return np.concatenate([np.ravel(each) for each in (found if isinstance(found, tuple) else (found,))])

    named = dict(zip(names, arrays[2:], strict=True))
    named.pop("kernel", None)
    found = pystn.normalized_grid_sample(*arrays[:2], **options, **named)
    cotangent = tuple(map(rng.standard_normal, map(np.shape, found))) if isinstance(found, tuple) else None
    cotangent = rng.standard_normal(found.shape) if cotangent is None else cotangent
    flat = np.concatenate([np.ravel(each) for each in cotangent]) if isinstance(cotangent, tuple) else cotangent.ravel()
    tangents = [rng.standard_normal(array.shape) for array in arrays]
    wanted = ("input", "grid", *names)
    gradients = pystn.normalized_grid_sample_vjp(cotangent, *arrays[:2], **options, **named, wrt=wanted)
    moved = {f"d_{n}": t for n, t in zip(names, tangents[2:], strict=True)}
    pushed = pystn.normalized_grid_sample_jvp(*arrays[:2], *tangents[:2], **options, **named, **moved)
    pushed = np.concatenate([np.ravel(each) for each in pushed]) if isinstance(pushed, tuple) else pushed.ravel()
    assert_adjoint(pushed, flat, gradients, tangents)
    assert_close(pushed, difference(forward, arrays, tangents, 1e-6), 1e-6)
    for one in wanted:
        alone = pystn.normalized_grid_sample_vjp(cotangent, *arrays[:2], **options, **named, wrt=one)
        present = [gradient for gradient in alone if gradient is not None]
        assert len(present) == 1
        assert_close(present[0], gradients[wanted.index(one)], 1e-14)
    if options.pop("return_mask", False):
        cotangent = cotangent[0]
    assert_second_order(
        lambda g, *primals: pystn.normalized_grid_sample_vjp(g, *primals, **options, **named),
        lambda *arrays: pystn.normalized_grid_sample_vjp2(*arrays, **options, **named),
        cotangent,
        arrays[:2],
        tangents[:2],
        [np.roll(tangent, 1) for tangent in tangents[:2]],
        tolerance=1e-5,
    )


def test_second_order_of_the_coverage(rng):
    image, grid = rng.standard_normal((1, 1, 4, 5)), rng.uniform(-0.9, 0.9, (1, 6, 2))
    along = rng.standard_normal(grid.shape)
    cotangents = rng.standard_normal((1, 1, 6)), rng.standard_normal((1, 6))
    mask = rng.uniform(0.5, 1.5, (1, 4, 5))

    def pulled(g, coverage, grid):
        return pystn.normalized_grid_sample_vjp((g, coverage), image, grid, mask, return_mask=True)

    (to_output, to_coverage), to_image, to_grid = pystn.normalized_grid_sample_vjp2(
        image, along, cotangents, image, grid, mask, return_mask=True
    )
    zero = np.zeros_like(cotangents[0])
    assert_adjoint(to_coverage, cotangents[1], pulled(zero, cotangents[1], grid), (image, along))
    assert to_output.shape == zero.shape

    def along_gradients(grid):
        return sum((a * b).sum() for a, b in zip(pulled(*cotangents, grid), (image, along), strict=True))

    expected = difference(along_gradients, [grid], [along], 1e-6)
    assert abs((to_grid * along).sum() - expected) < 1e-6 * abs(expected)
    assert to_image.shape == image.shape
    alone, *_ = pystn.normalized_grid_sample_vjp2(
        image, along, (cotangents[0], None), image, grid, mask, return_mask=True, wrt="grad_output"
    )
    assert_close(alone, to_output, 1e-14)


# ---- errors


IMAGE, GRID = np.zeros((2, 3, 4, 5)), np.zeros((2, 6, 2))


@pytest.mark.parametrize(
    "error, message, options",
    [
        (ValueError, "eps must be positive, got 0.0", {"eps": 0.0}),
        (TypeError, "eps must be a real number", {"eps": "1"}),
        (TypeError, "mask must be bool, uint8, float32 or float64, got dtype int64", {"mask": np.ones((2, 4, 5), int)}),
        (TypeError, "mask must be a numpy.ndarray, got builtins.list", {"mask": [1.0]}),
        (
            ValueError,
            "mask must have shape (2, 4, 5), or 1 for the batch, for input (2, 3, 4, 5) and grid (2, 6, 2): "
            "got (2, 1, 4, 5)",
            {"mask": np.ones((2, 1, 4, 5))},
        ),
        (ValueError, "mask must have shape (2, 4, 5)", {"mask": np.ones((3, 4, 5))}),
        (ValueError, "unknown mode", {"mode": "quintic"}),
        (ValueError, "fill_value must be a number or one for each of the 3 channels", {"fill_value": [1.0, 2.0]}),
        (TypeError, "return_mask must be True or False", {"return_mask": 1}),
    ],
)
def test_errors(error, message, options):
    with pytest.raises(error, match=re.escape(message)):
        pystn.normalized_grid_sample(IMAGE, GRID, **options)
    with pytest.raises(error, match=re.escape(message)):
        pystn.normalized_grid_sample_vjp(np.zeros((2, 3, 6)), IMAGE, GRID, **options)
    with pytest.raises(error, match=re.escape(message)):
        pystn.normalized_grid_sample_jvp(IMAGE, GRID, None, None, **options)


def test_errors_of_derivatives():
    one, mask = np.zeros((2, 3, 6)), np.ones((2, 4, 5))
    vjp, jvp = pystn.normalized_grid_sample_vjp, pystn.normalized_grid_sample_jvp
    with pytest.raises(ValueError, match="wrt names 'mask', but there is none"):
        vjp(one, IMAGE, GRID, wrt="mask")
    with pytest.raises(ValueError, match="wrt names 'kernel', but mode has no parameter"):
        vjp(one, IMAGE, GRID, wrt="kernel")
    with pytest.raises(ValueError, match="d_mask is the tangent of mask"):
        jvp(IMAGE, GRID, None, None, d_mask=mask)
    with pytest.raises(ValueError, match="d_mask must have the shape of mask"):
        jvp(IMAGE, GRID, None, None, mask, d_mask=mask[:1])
    with pytest.raises(ValueError, match="grad_output must have the shape"):
        vjp(one[:1], IMAGE, GRID)
    with pytest.raises(TypeError, match="with return_mask=True grad_output must be a tuple"):
        vjp(one, IMAGE, GRID, return_mask=True)
    with pytest.raises(ValueError, match="gg_grid must have the shape of grid"):
        pystn.normalized_grid_sample_vjp2(None, GRID[:1], one, IMAGE, GRID)


# ---- the penalty


def slow_penalty(grid):
    return np.array([np.mean([max(0.0, abs(x) - 1) ** 2 for x in entry.ravel()]) for entry in grid])


@pytest.mark.parametrize("shape", [(2, 3, 1), (1, 3, 4, 2), (2, 2, 1, 3, 3), (3, 2)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-14), (np.float32, 1e-6)])
def test_penalty(backend, rng, shape, dtype, tolerance):
    grid = (2 * rng.standard_normal(shape)).astype(dtype)
    found = pystn.out_of_bounds_penalty(backend.array(grid))
    assert (found.shape, found.dtype) == (shape[:1], dtype)
    assert_close(backend.numpy(found), slow_penalty(grid.astype(float)), tolerance)
    cotangent, tangent = rng.standard_normal(shape[:1]).astype(dtype), rng.standard_normal(shape).astype(dtype)
    (gradient,) = pystn.out_of_bounds_penalty_vjp(backend.array(cotangent), backend.array(grid))
    pushed = pystn.out_of_bounds_penalty_jvp(backend.array(grid), backend.array(tangent))
    assert gradient.dtype == pushed.dtype == dtype
    assert_adjoint(backend.numpy(pushed), cotangent, [backend.numpy(gradient)], [tangent])
    if dtype == np.float64:
        assert_close(backend.numpy(pushed), difference(slow_penalty, [grid], [tangent]), 1e-8)


def test_the_penalty_is_zero_inside_and_on_the_border():
    grid = np.array([[[-1.0, 1.0], [0.0, 0.5]]])
    np.testing.assert_array_equal(pystn.out_of_bounds_penalty(grid), [0])
    np.testing.assert_array_equal(pystn.out_of_bounds_penalty_vjp(np.ones(1), grid)[0], 0 * grid)
    np.testing.assert_array_equal(pystn.out_of_bounds_penalty_vjp2(grid, np.ones(1), grid)[1], 0 * grid)
    beyond = np.array([[[-1.5, 3.0], [0.0, 0.5]]])
    np.testing.assert_array_equal(pystn.out_of_bounds_penalty(beyond), [(0.25 + 4) / 4])
    np.testing.assert_array_equal(pystn.out_of_bounds_penalty_vjp(np.ones(1), beyond)[0], [[[-0.25, 1], [0, 0]]])


def test_the_penalty_is_summed_in_float64():
    grid = np.full((1, 100_000, 2), 1.5, np.float32)
    grid[0, 0] = 3001.0  # beside 9e6 a term of 0.25 is less than half a unit of float32
    assert pystn.out_of_bounds_penalty(grid)[0] == np.float32((2 * 9e6 + 199_998 * 0.25) / 200_000)


def test_second_order_of_the_penalty(rng):
    grid, along, across = (2 * rng.standard_normal((2, 3, 2)) for _ in range(3))
    assert_second_order(
        pystn.out_of_bounds_penalty_vjp,
        pystn.out_of_bounds_penalty_vjp2,
        rng.standard_normal(2),
        [grid],
        [along],
        [across],
    )
    first, second = pystn.out_of_bounds_penalty_vjp2(None, np.ones(2), grid)
    np.testing.assert_array_equal(first, [0, 0])
    np.testing.assert_array_equal(second, 0 * grid)
    assert pystn.out_of_bounds_penalty_vjp2(along, np.ones(2), grid, wrt="grid")[0] is None


def test_grids_without_points():
    grid = np.zeros((2, 0, 2))
    np.testing.assert_array_equal(pystn.out_of_bounds_penalty(grid), [0, 0])
    assert pystn.out_of_bounds_penalty_vjp(np.ones(2), grid)[0].shape == grid.shape
    np.testing.assert_array_equal(pystn.out_of_bounds_penalty_jvp(grid, grid), [0, 0])


def test_errors_of_the_penalty():
    with pytest.raises(TypeError, match="grid must be float32 or float64"):
        pystn.out_of_bounds_penalty(np.zeros((1, 2), int))
    with pytest.raises(ValueError, match="grid must have 2 axes or more"):
        pystn.out_of_bounds_penalty(np.zeros(2))
    with pytest.raises(ValueError, match=re.escape("grad_penalty must have the shape of the result, (2,): got (1,)")):
        pystn.out_of_bounds_penalty_vjp(np.ones(1), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="d_grid must have the shape of grid"):
        pystn.out_of_bounds_penalty_jvp(np.zeros((2, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="gg_grid must have the shape of grid"):
        pystn.out_of_bounds_penalty_vjp2(np.zeros((1, 2)), np.ones(2), np.zeros((2, 2)))
