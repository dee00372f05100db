"""Projections: the planes of a warp that is never stored, added or compared, and which of them is the maximum.

Against the oracle, with every kernel and boundary, they are in `test_warping.py`.
"""

from functools import reduce as reduce_in_order

import numpy as np
import oracle
import pytest
from conftest import assert_same_sums, kernel_for
from warps import AFFINE, PROJECTIONS, Layout, matrices, same, to_pixel_matrix

import pystn

# ---------------------------------------------------------------------------------------------
# What they fuse


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
    for name, a, b in zip(("input", "theta"), found, expected, strict=True):
        assert (a is not None) == (b is not None) == (name in wrt)
        if a is not None:
            assert_same_sums(backend, a, b)
            assert np.isfinite(a).all()
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
    assert_same_sums(backend, found[~taps], expected[~taps])


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
