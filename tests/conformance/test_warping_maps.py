"""What matrices imply for warps: the identity, scale, the horizon, matrices not finite; and results by hand."""

import numpy as np
import oracle
import pytest
from conftest import assert_same_sums, kernel_for
from warps import AFFINE, NAMES_OF_UNREDUCED, PROJECTIVE, UNREDUCED, Layout, homogeneous, matrices, same

import pystn

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
        assert_same_sums(backend, backend.numpy(a), backend.numpy(b))
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
        assert_same_sums(backend, backend.numpy(a), backend.numpy(b))
        assert np.isfinite(backend.numpy(b)).all()
    assert not backend.numpy(found[1])[2].any()
    assert backend.numpy(found[1])[0].any()


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
