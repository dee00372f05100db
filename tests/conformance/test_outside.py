"""What is read outside the image: boundaries by hand, the fill value, the cutoff, the mask, far away."""

import numpy as np
import oracle
import pytest
from conftest import EVERY_PADDING_MODE, KERNELS, assert_same_sums, kernel_for

import pystn

# U = [1, 2, 4, 8], read at whole positions from -6 to 9.
RAMP = np.array([1.0, 2, 4, 8]).reshape(1, 1, 4)
READ = {
    "zeros": [0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 0, 0, 0, 0, 0, 0],
    "constant": [7, 7, 7, 7, 7, 7, 1, 2, 4, 8, 7, 7, 7, 7, 7, 7],
    "border": [1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 8, 8, 8, 8, 8, 8],
    "mirror": [1, 2, 4, 8, 4, 2, 1, 2, 4, 8, 4, 2, 1, 2, 4, 8],
    "symmetric": [4, 8, 8, 4, 2, 1, 1, 2, 4, 8, 8, 4, 2, 1, 1, 2],
    "wrap": [4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1, 2],
}


def points(backend, *coordinates, dtype=np.float64):
    """One grid of points, given as coordinates (x[, y[, z]])."""
    return backend.array(np.array([coordinates], dtype).reshape(1, len(coordinates), -1))


@pytest.mark.parametrize("padding_mode", READ)
@pytest.mark.parametrize("mode", ["nearest", "nearest-up", "linear", "cubic", "catmull-rom", "lanczos3"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boundaries_by_hand(backend, padding_mode, mode, dtype):
    """Kernels that interpolate read, at whole positions, what the boundary puts there."""
    mode, _ = kernel_for(pystn, mode, 1)
    grid = points(backend, *range(-6, 10), dtype=dtype)
    options = {"padding_mode": padding_mode, "coords": "pixel"}
    if padding_mode == "constant":
        options["fill_value"] = 7.0
    value = pystn.grid_sample(backend.array(RAMP.astype(dtype)), grid, mode, **options)
    np.testing.assert_allclose(backend.numpy(value)[0, 0], READ[padding_mode], rtol=0, atol=60 * np.finfo(dtype).eps)


@pytest.mark.parametrize("align_corners", [False, True])
def test_reflection_is_mirror_or_symmetric(backend, rng, align_corners):
    """About what -1 and 1 stand for."""
    image, grid = rng.standard_normal((1, 2, 5, 6)), rng.uniform(-3, 3, (1, 40, 2))
    for mode in ("linear", pystn.BSpline(3)):
        values = [
            pystn.grid_sample(backend.array(image), backend.array(grid), mode, padding, align_corners)
            for padding in ("reflection", "mirror" if align_corners else "symmetric")
        ]
        np.testing.assert_array_equal(*map(backend.numpy, values))


def test_a_corner_outside_on_two_axes(backend):
    """Beyond a "zeros" axis a tap reads 0, whatever the other axes say."""
    image = backend.array(np.ones((1, 1, 2, 2)))
    grid = points(backend, (-0.25, -0.5), (-1, 0), (0, -1), (-1, -1))
    options = {"coords": "pixel", "fill_value": 10.0}
    expected = {
        # weights: inside 3/8, outside along x alone 1/8, along y alone 3/8, on both 1/8
        ("zeros", "zeros"): [0.375, 0, 0, 0],
        ("constant", "constant"): [0.375 + 6.25, 10, 10, 10],
        ("zeros", "constant"): [0.375 + 1.25, 10, 0, 0],
        ("constant", "zeros"): [0.375 + 3.75, 0, 10, 0],
        ("border", "constant"): [0.75 + 2.5, 10, 1, 10],
    }
    for paddings, values in expected.items():
        actual = pystn.grid_sample(image, grid, "linear", paddings, **options)
        np.testing.assert_allclose(backend.numpy(actual)[0, 0], values, rtol=0, atol=1e-14, err_msg=str(paddings))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
def test_cutoff_in_pixels_is_exact(backend, padding_mode, dtype):
    """On the line is inside; the next number beyond is not."""
    low, high = -np.finfo(dtype).tiny, np.nextafter(dtype(3), dtype(9))
    cases = {
        "center": [(0, True), (3, True), (low, False), (high, False), (-0.4, False), (np.nan, False)],
        "edge": [
            (-0.5, True),
            (3.5, True),
            (np.nextafter(dtype(-0.5), dtype(-9)), False),
            (np.nextafter(dtype(3.5), dtype(9)), False),
            (-np.inf, False),
        ],
    }
    for cutoff, positions in cases.items():
        grid = points(backend, *(p for p, _ in positions), dtype=dtype)
        ones, kept = backend.array(np.ones((1, 2, 4), dtype)), [inside for _, inside in positions]
        options = {"padding_mode": padding_mode, "coords": "pixel", "cutoff": cutoff}
        fill = backend.array(np.array([5, 6], dtype))
        value, mask = pystn.grid_sample(ones, grid, "nearest", fill_value=fill, return_mask=True, **options)
        value = backend.numpy(value)[0]
        # The even one of the pixels -1 and 0 is 0, of 3 and 4 it is 4, which is outside.
        outside = {"zeros": [0, 0], "constant": [5, 6]}.get(padding_mode, [1, 1])
        for (p, inside), read in zip(positions, value.T, strict=True):
            expected = (outside if p == 3.5 else [1, 1]) if inside else [5, 6]
            np.testing.assert_array_equal(read, expected, err_msg=f"{cutoff} at {p}")
        expected = [float(inside and p != 3.5) for p, inside in positions]
        np.testing.assert_array_equal(backend.numpy(mask)[0], expected)
        cotangent = backend.array(np.arange(1, 2 * len(kept) + 1, dtype=dtype).reshape(1, 2, -1))
        _, _, grad_fill = pystn.grid_sample_vjp(
            cotangent, ones, grid, fill_value=fill, wrt=("input", "grid", "fill_value"), **options
        )
        lost = backend.numpy(cotangent)[0][:, ~np.array(kept)].sum(axis=1)
        if padding_mode != "constant":
            np.testing.assert_array_equal(backend.numpy(grad_fill), lost)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cutoff_of_normalized_coordinates_forgives_rounding(backend, dtype):
    """The identity grid is inside whatever its rounding, at any size; a hundredth of a pixel beyond is not."""
    for n in (1, 2, 3, 7, 10, 100, 333, 1000):
        for align_corners, cutoff in ((True, "center"), (False, "center"), (False, "edge"), (True, "edge")):
            x = oracle.lattice(n, align_corners).astype(dtype)
            if cutoff == "edge" and not align_corners:
                x = np.append(x, np.array([-1, 1], dtype))
            options = {"align_corners": align_corners, "cutoff": cutoff, "fill_value": -1.0, "padding_mode": "border"}
            ones = backend.array(np.ones((1, 1, n), dtype))
            value = pystn.grid_sample(ones, backend.array(x.reshape(1, -1, 1)), **options)
            assert (backend.numpy(value) > 0).all(), (n, options)
            pixel = 2 / max(n - 1, 1) if align_corners else 2 / n
            out = (1.0 + pixel / 2 if align_corners else 1.0) if cutoff == "edge" else 1 - (not align_corners) / n
            if n == 1 and align_corners:
                continue  # all coordinates are the one pixel
            x = np.array([out + pixel / 100, -out - pixel / 100], dtype).reshape(1, 2, 1)
            value = pystn.grid_sample(ones, backend.array(x), **options)
            np.testing.assert_allclose(backend.numpy(value), -1, err_msg=f"{n} {options}")


# Ones under "zeros" have other coefficients than ones; the mask is of the weights.
@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "prefiltered"])
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("cutoff", [None, "center", "edge"])
def test_the_mask_is_what_ones_are_under_zeros(backend, rng, kernel, padding_mode, cutoff):
    """Whatever the padding: the weight of the pixels of the image, cut to [0, 1]."""
    mode, _ = kernel_for(pystn, kernel, 2)
    grid = backend.array(rng.uniform(-2, 2, (2, 30, 2)))
    options = {} if cutoff is None else {"cutoff": cutoff}
    image = backend.array(rng.standard_normal((2, 3, 4, 5)))
    _, mask = pystn.grid_sample(image, grid, mode, padding_mode, return_mask=True, fill_value=3.0, **options)
    ones = pystn.grid_sample(backend.array(np.ones((1, 1, 4, 5))), grid, mode, "zeros", **options)
    expected = np.clip(backend.numpy(ones)[:, 0], 0, 1)
    np.testing.assert_allclose(backend.numpy(mask), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_huge_coordinates_are_finite_work(backend, rng, kernel, padding_mode, ndim):
    """1e300 and whole numbers beyond any index: nothing, the fill value, the corner, or somewhere inside."""
    mode, described = kernel_for(pystn, kernel, ndim)
    size = (4, 5, 3)[:ndim]
    special = np.array([1e300, -1e300, 2.0**62, -(2.0**63), 1e18, -3e9, 0.25, 5e-324])
    grid = rng.choice(special, (1, 40, ndim))
    grid[0, 0], grid[0, 1] = 1e300, -1e300
    image = rng.uniform(1, 2, (1, 2, *size))
    options = {"padding_mode": padding_mode, "coords": "pixel", "fill_value": 4.0}
    arrays = [backend.array(a) for a in (image, grid)]
    value = backend.numpy(pystn.grid_sample(*arrays, mode, **options))
    assert np.isfinite(value).all()
    assert np.abs(value).max() < 100
    if padding_mode in ("zeros", "constant", "border"):
        expected = oracle.grid_sample(image, grid, mode=described, **options)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12 * 8)
    cotangent = backend.array(value)
    for gradient in pystn.grid_sample_vjp(cotangent, *arrays, mode, **options):
        assert np.isfinite(backend.numpy(gradient)).all()
    d_arrays = [backend.array(np.ones_like(a)) for a in (image, grid)]
    for result in pystn.grid_sample_vjp2(*d_arrays, cotangent, *arrays, mode, **options):
        assert np.isfinite(backend.numpy(result)).all()
    del options["fill_value"]
    for result in (
        pystn.grid_push(cotangent, arrays[1], size, mode, **options),
        pystn.grid_count(arrays[1], size, mode, **options),
        pystn.grid_gradient(*arrays, mode, **options),
    ):
        assert np.isfinite(backend.numpy(result)).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
def test_far_copies_are_the_near_ones(backend, rng, kernel, padding_mode):
    """Billions of pixels away, where the fraction of the position is still exact, and so the answer."""
    mode, described = kernel_for(pystn, kernel, 1)
    fractions = rng.integers(1, 16, 30) / 16 + 1 / 64
    grid = rng.choice([2.0**31, -(2.0**31), 2.0**33, -(2.0**35), 1e9, -1e9], 30) + rng.integers(-9, 9, 30) + fractions
    image, cotangent = rng.standard_normal((1, 2, 6)), rng.standard_normal((1, 2, 30))
    grid = grid.reshape(1, 30, 1)
    options = {"padding_mode": padding_mode, "coords": "pixel"}
    arrays = [backend.array(a) for a in (cotangent, image, grid)]
    theirs = {**options, "mode": described}
    value = pystn.grid_sample(*arrays[1:], mode, **options)
    np.testing.assert_allclose(backend.numpy(value), oracle.grid_sample(image, grid, **theirs), rtol=0, atol=1e-12)
    gradients = pystn.grid_sample_vjp(*arrays, mode, **options)
    for actual, expected in zip(gradients, oracle.grid_sample_vjp(cotangent, image, grid, **theirs), strict=True):
        np.testing.assert_allclose(backend.numpy(actual), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("padding_mode", EVERY_PADDING_MODE)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_coordinate_that_is_not_finite_is_cut(backend, rng, kernel, padding_mode, ndim):
    """It yields the fill value under every boundary; nothing else of it goes anywhere, be its cotangent NaN."""
    mode, _ = kernel_for(pystn, kernel, ndim)
    size = (4, 5, 3)[:ndim]
    grid = rng.uniform(-0.9, 0.9, (1, 24, ndim))
    lost = rng.random(24) < 0.3
    lost[0] = True
    grid[0, lost, rng.integers(0, ndim, lost.sum())] = rng.choice([np.nan, np.inf, -np.inf], lost.sum())
    image, cotangent = rng.standard_normal((1, 2, *size)), rng.standard_normal((1, 2, 24))
    fill = np.array([3.5, -2.0])
    options = {"mode": mode, "padding_mode": padding_mode, "fill_value": backend.array(fill)}
    arrays = [backend.array(a) for a in (image, grid)]
    value, mask = pystn.grid_sample(*arrays, return_mask=True, **options)
    np.testing.assert_array_equal(backend.numpy(value)[0][:, lost], np.repeat(fill[:, None], lost.sum(), 1))
    assert not backend.numpy(mask)[0, lost].any()
    silent, broken = cotangent.copy(), cotangent.copy()
    silent[..., lost], broken[..., lost] = 0, np.nan
    gradients = [pystn.grid_sample_vjp(backend.array(g), *arrays, **options) for g in (silent, broken)]
    to_image, to_grid = (tuple(map(backend.numpy, pair)) for pair in zip(*gradients, strict=True))
    assert_same_sums(backend, *to_image)
    np.testing.assert_array_equal(*to_grid)
    assert not backend.numpy(gradients[1][1])[0, lost].any()
    d_input, d_grid = rng.standard_normal(image.shape), np.ones(grid.shape)
    tangent = pystn.grid_sample_jvp(*arrays, backend.array(d_input), backend.array(d_grid), **options)
    assert not backend.numpy(tangent)[0][:, lost].any()
    twice = pystn.grid_sample_vjp2(
        backend.array(d_input), backend.array(d_grid), backend.array(broken), *arrays, **options
    )
    assert not backend.numpy(twice[0])[0][:, lost].any()
    assert np.isfinite(backend.numpy(twice[1])).all()
    assert not backend.numpy(twice[2])[0, lost].any()
    del options["fill_value"]
    pushed = [pystn.grid_push(backend.array(v), arrays[1], size, **options) for v in (silent, broken)]
    assert_same_sums(backend, *map(backend.numpy, pushed))
    assert not backend.numpy(pystn.grid_gradient(*arrays, **options))[0][:, lost].any()
