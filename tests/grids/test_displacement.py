"""Displacement grids, and the inverses of displacement fields."""

import re

import numpy as np
import oracle
import pytest
from conftest import assert_same_sums
from hypothesis import given, settings
from hypothesis import strategies as st
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn

CONVENTIONS = [
    {"align_corners": False, "coords": "normalized"},
    {"align_corners": True, "coords": "normalized"},
    {"align_corners": False, "coords": "pixel"},
]
SIZES = [(5,), (1,), (4, 6), (1, 7), (3, 4, 5), (2, 1, 3)]


def lattice(size, align_corners, coords):
    return oracle.pixel_targets(size, align_corners, coords)[:, :-1].reshape(*size, len(size))


def sampled(field, points, options):
    """A field (N, *size, ndim) at points, outside as at the border."""
    image = np.moveaxis(field, -1, 1)
    return np.moveaxis(oracle.grid_sample(image, points, mode="linear", padding_mode="border", **options), 1, -1)


def smooth(rng, shape, size, coords="normalized", amplitude=0.1):
    """Displacements (*shape, *size, ndim) of a few waves, in normalized units or as many pixels."""
    ndim = len(size)
    points = lattice(size, False, "normalized")
    frequency, phase = rng.uniform(-2, 2, (*shape, ndim, ndim)), rng.uniform(0, 6, (*shape, ndim))
    waves = np.sin(np.einsum("...ab,pb->...pa", frequency, points.reshape(-1, ndim)) + phase[..., None, :])
    unit = np.array(size[::-1]) / 2 if coords == "pixel" else 1.0
    return amplitude * waves.reshape(*shape, *size, ndim) * unit


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("leading", [(2,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_grid_is_the_lattice_and_the_flow(backend, rng, options, size, leading, dtype):
    flow = rng.standard_normal((*leading, *size, len(size))).astype(dtype)
    grid = backend.numpy(pystn.displacement_grid(backend.array(flow), **options))
    assert grid.dtype == dtype
    np.testing.assert_allclose(grid, lattice(size, **options) + flow, rtol=0, atol=16 * np.finfo(dtype).eps)
    if len(leading) == 1:
        first = np.moveaxis(flow, -1, 1)
        same = pystn.displacement_grid(backend.array(first), channel_axis=1, **options)
        np.testing.assert_array_equal(backend.numpy(same), grid)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (1, 7), (3, 4, 5), (300, 1)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_displacement_is_the_identity_bit_for_bit(backend, align_corners, size, dtype):
    ndim = len(size)
    grid = pystn.displacement_grid(backend.array(np.zeros((1, *size, ndim), dtype)), align_corners)
    expected = pystn.affine_grid(backend.array(np.eye(ndim, ndim + 1, dtype=dtype)[None]), size, align_corners)
    np.testing.assert_array_equal(backend.numpy(grid), backend.numpy(expected))


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives_of_the_grid(backend, rng, options, channel_axis, dtype):
    shape = (2, 2, 4, 5) if channel_axis == 1 else (2, 3, 4, 5, 2)
    flow, d_flow = rng.standard_normal((2, *shape)).astype(dtype)
    options = dict(options, channel_axis=channel_axis)
    pushed = backend.numpy(pystn.displacement_grid_jvp(backend.array(flow), backend.array(d_flow), **options))
    cotangent = rng.standard_normal(pushed.shape).astype(dtype)
    (pulled,) = pystn.displacement_grid_vjp(backend.array(cotangent), backend.array(flow), **options)
    assert_adjoint(pushed, cotangent, [backend.numpy(pulled)], [d_flow])
    assert not np.shares_memory(backend.numpy(pulled), cotangent)
    if dtype == np.float64:

        def grid(flow):
            return backend.numpy(pystn.displacement_grid(backend.array(flow), **options))

        assert_close(pushed, difference(grid, [flow], [d_flow]))
    none = backend.numpy(pystn.displacement_grid_jvp(backend.array(flow), None, **options))
    assert none.shape == pushed.shape
    assert not none.any()


def test_optical_flow_in_pixels_equals_opencv(backend, rng):
    cv2 = pytest.importorskip("cv2")
    image = rng.standard_normal((30, 40)).astype(np.float32)
    flow = rng.uniform(-6, 6, (2, 30, 40)).astype(np.float32)
    x, y = np.meshgrid(np.arange(40, dtype=np.float32), np.arange(30, dtype=np.float32))
    expected = cv2.remap(image, x + flow[0], y + flow[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    grid = pystn.displacement_grid(backend.array(flow[None]), coords="pixel", channel_axis=1)
    output = pystn.grid_sample(backend.array(image[None, None]), grid, padding_mode="border", coords="pixel")
    # OpenCV may round coordinates to 1/32 pixel.
    np.testing.assert_allclose(backend.numpy(output)[0, 0], expected, rtol=0, atol=2 / 32 * np.ptp(image))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.data())
def test_any_shape_and_strides(data):
    ndim = data.draw(st.integers(1, 3))
    leading = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    size = data.draw(st.lists(st.integers(0, 4), min_size=ndim, max_size=ndim))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    shape = (*leading, *size, ndim)
    flow = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    view = flow[tuple(slice(None, None, data.draw(st.sampled_from([1, -1, 2]))) for _ in shape[:-1])]
    out = np.full(view.shape[::-1], np.nan, dtype).T
    assert pystn.displacement_grid(view, out=out) is out
    expected = view + lattice(view.shape[len(leading) : -1], False, "normalized")
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6)
    inverse = pystn.invert_displacement(view * dtype(0.01))
    assert inverse.shape == view.shape
    assert inverse.dtype == dtype
    assert np.isfinite(inverse).all()


@pytest.mark.parametrize(
    "error, message, shape, options",
    [
        (ValueError, "flow must have shape (N, ..., *size, ndim) with ndim 1 to 3: got (2, 4)", (2, 4), {}),
        (ValueError, "with ndim 1 to 3: got (2, 5, 5, 4)", (2, 5, 5, 4), {}),
        (ValueError, "with channel_axis=1: got (2, 5, 5, 2)", (2, 5, 5, 2), {"channel_axis": 1}),
        (ValueError, "unknown channel_axis: expected one of 1, -1, got 0", (2, 5, 5, 2), {"channel_axis": 0}),
        (ValueError, "unknown coords", (2, 5, 5, 2), {"coords": "voxel"}),
        (ValueError, "no meaning with coords='pixel'", (2, 5, 5, 2), {"coords": "pixel", "align_corners": True}),
        (TypeError, "align_corners must be True or False, got 1", (2, 5, 5, 2), {"align_corners": 1}),
    ],
)
def test_errors(error, message, shape, options):
    flow = np.zeros(shape)
    for call in (
        lambda: pystn.displacement_grid(flow, **options),
        lambda: pystn.displacement_grid_vjp(flow, flow, **options),
        lambda: pystn.displacement_grid_jvp(flow, flow, **options),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()


def test_errors_of_arrays():
    flow = np.zeros((1, 4, 5, 2))
    with pytest.raises(TypeError, match="flow must be float32 or float64"):
        pystn.displacement_grid(flow.astype(np.float16))
    with pytest.raises(ValueError, match="out must not overlap"):
        pystn.displacement_grid(flow, out=flow)
    with pytest.raises(ValueError, match=re.escape("grad_grid must have the shape of the grid, (1, 4, 5, 2)")):
        pystn.displacement_grid_vjp(np.zeros((1, 2, 4, 5)), flow)
    with pytest.raises(TypeError, match="d_flow must have the dtype of flow, float64"):
        pystn.displacement_grid_jvp(flow, flow.astype(np.float32))


# Inverses.


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", [(9,), (8, 11), (1, 9), (5, 6, 7)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_inverse_solves_its_equation(backend, rng, options, size, dtype, tolerance):
    flow = smooth(rng, (2, 3), size, options["coords"]).astype(dtype)
    inverse = backend.numpy(pystn.invert_displacement(backend.array(flow), **options))
    assert inverse.dtype == dtype
    u, v = (a.reshape(-1, *size, len(size)).astype(np.float64) for a in (flow, inverse))
    points = lattice(size, **options) + v
    # In pixels for coords="pixel".
    np.testing.assert_allclose(v, -sampled(u, points, options), rtol=0, atol=tolerance * max(size))


def test_inverse_equals_that_of_a_piecewise_linear_function(backend, rng):
    """In one dimension x + u(x) is piecewise linear; numpy interpolates its inverse."""
    flow = np.cumsum(rng.uniform(-0.9, 0.9, (3, 40)), axis=1)
    x = np.arange(40.0)
    inverse = backend.numpy(pystn.invert_displacement(backend.array(flow[..., None]), coords="pixel"))[..., 0]
    for u, v in zip(flow, inverse, strict=True):
        reached = (x > (x + u)[0]) & (x < (x + u)[-1])
        assert reached.sum() > 10
        np.testing.assert_allclose(v[reached], np.interp(x, x + u, x)[reached] - x[reached], rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "matrix", [np.eye(2) / 2, 2 * np.eye(2), [[0.2, -0.98], [0.98, 0.2]], [[1, 1.5], [0, 1]], [[0.9, 0.2], [-0.3, 1.2]]]
)
def test_inverse_of_a_linear_map_is_its_matrix_inverse(backend, matrix):
    """Also where u is no contraction."""
    size = (21, 21)
    x = lattice(size, True, "normalized")
    flow = x @ np.transpose(matrix) - x
    inverse = backend.numpy(pystn.invert_displacement(backend.array(flow[None]), True))[0]
    expected = x @ np.linalg.inv(matrix).T
    inside = (np.abs(expected) <= 1).all(axis=-1)
    assert inside.sum() > 50
    np.testing.assert_allclose((x + inverse)[inside], expected[inside], rtol=0, atol=1e-12)


def test_inverse_of_a_translation_is_exact_everywhere(backend):
    flow = np.broadcast_to([0.75, -0.25], (1, 6, 7, 2))
    np.testing.assert_array_equal(backend.numpy(pystn.invert_displacement(backend.array(flow))), -flow)


@pytest.mark.parametrize("size", [(9,), (8, 11), (4, 5, 6)], ids=str)
def test_inverse_of_the_inverse(backend, rng, size):
    flow = smooth(rng, (2,), size, amplitude=0.02)
    there = pystn.displacement_grid(backend.array(flow))
    inverse = pystn.invert_displacement(backend.array(flow), tolerance=1e-13)
    back = pystn.displacement_grid(inverse)
    identity = lattice(size, False, "normalized")
    composed = backend.numpy(pystn.compose_grids(there, back))
    np.testing.assert_allclose(composed, np.broadcast_to(identity, composed.shape), rtol=0, atol=1e-12)
    # The other way round up to interpolation, which is small for fields of long waves.
    twice = backend.numpy(pystn.invert_displacement(inverse))
    np.testing.assert_allclose(twice, flow, rtol=0, atol=0.01)


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", [(9,), (6, 7), (1, 9), (4, 5, 3)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives_of_the_inverse(backend, rng, options, size, dtype):
    flow = smooth(rng, (2, 2), size, options["coords"], amplitude=0.15).astype(dtype)
    d_flow, cotangent = rng.standard_normal((2, *flow.shape)).astype(dtype)
    arrays = [backend.array(a) for a in (flow, d_flow, cotangent)]
    pushed = backend.numpy(pystn.invert_displacement_jvp(*arrays[:2], **options))
    (pulled,) = pystn.invert_displacement_vjp(arrays[2], arrays[0], **options)
    assert_adjoint(pushed, cotangent, [backend.numpy(pulled)], [d_flow])
    if dtype == np.float64:

        def inverse(flow):
            return backend.numpy(pystn.invert_displacement(backend.array(flow), **options))

        assert_close(pushed, difference(inverse, [flow], [d_flow], h=1e-6))
    assert not backend.numpy(pystn.invert_displacement_jvp(arrays[0], None, **options)).any()


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", [(9,), (6, 7), (1, 9), (4, 5, 3)], ids=str)
def test_second_derivatives_of_the_inverse(backend, rng, options, size):
    flow = smooth(rng, (2, 2), size, options["coords"], amplitude=0.15)
    along, across, u = rng.standard_normal((3, *flow.shape))

    def vjp(*arrays):
        return [backend.numpy(g) for g in pystn.invert_displacement_vjp(*map(backend.array, arrays), **options)]

    def vjp2(*arrays):
        return [backend.numpy(g) for g in pystn.invert_displacement_vjp2(*map(backend.array, arrays), **options)]

    assert_second_order(vjp, vjp2, u, [flow], [along], [across], h=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_second_derivatives_that_are_wanted(backend, rng, dtype):
    flow = smooth(rng, (2, 2), (6, 7)).astype(dtype)
    gg, u, flow = (backend.array(a) for a in (*rng.standard_normal((2, *flow.shape)).astype(dtype), flow))
    found = pystn.invert_displacement_vjp2(gg, u, flow)
    for k, name in enumerate(("grad_inverse", "flow")):
        alone = pystn.invert_displacement_vjp2(gg, u, flow, wrt=name)
        assert alone[1 - k] is None
        assert alone[k].dtype == dtype
        assert_same_sums(backend, backend.numpy(alone[k]), backend.numpy(found[k]))
    for zero in pystn.invert_displacement_vjp2(None, u, flow):
        assert zero.shape == flow.shape
        assert zero.dtype == dtype
        assert not backend.numpy(zero).any()
    for name, bad in (("gg_flow", (gg[..., :1], u)), ("grad_inverse", (None, u[..., :1]))):
        with pytest.raises(ValueError, match=f"{name} must have the shape of flow"):
            pystn.invert_displacement_vjp2(*bad, flow)
    with pytest.raises(ValueError, match="unknown entry of wrt"):
        pystn.invert_displacement_vjp2(None, flow, flow, wrt="inverse")


@pytest.mark.parametrize("subgradient", ["right", "left", "central", "zero"])
def test_subgradient_is_chosen_in_both_directions(backend, rng, subgradient):
    """Displacements by whole pixels put every point on a kink."""
    flow = np.array([2.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0])[None, :, None] / 2
    flow[0, ::2] = 0
    d_flow, cotangent = rng.standard_normal((2, *flow.shape))
    options = {"coords": "pixel", "subgradient": subgradient}
    pushed = pystn.invert_displacement_jvp(backend.array(flow), backend.array(d_flow), **options)
    (pulled,) = pystn.invert_displacement_vjp(backend.array(cotangent), backend.array(flow), **options)
    assert_adjoint(backend.numpy(pushed), cotangent, [backend.numpy(pulled)], [d_flow])


def test_tolerance_that_is_missed_names_the_entry(backend):
    flow = np.zeros((2, 3, 8, 1))
    flow[1, 2, :, 0] = np.linspace(-0.5, 0.5, 8)
    message = "the inverse of flow[1, 2] has not converged: expected a residual of 1e-06 or less after 0 iterations"
    with pytest.raises(ValueError, match=re.escape(message)):
        pystn.invert_displacement(backend.array(flow), tolerance=1e-6, iterations=0)
    pystn.invert_displacement(backend.array(flow), tolerance=1e-6)
    for call in (
        lambda u: pystn.invert_displacement_vjp(u, u, tolerance=1e-9, iterations=0),
        lambda u: pystn.invert_displacement_jvp(u, u, tolerance=1e-9, iterations=0),
        lambda u: pystn.invert_displacement_vjp2(u, u, u, tolerance=1e-9, iterations=0),
    ):
        with pytest.raises(ValueError, match=re.escape("the inverse of flow[1, 2] has not converged")):
            call(backend.array(flow))
    with pytest.raises(ValueError, match="iterations must be 0 or more: got -1"):
        pystn.invert_displacement(backend.array(flow), iterations=-1)
    with pytest.raises(ValueError, match="tolerance must be None or a number that is not negative: got nan"):
        pystn.invert_displacement(backend.array(flow), tolerance=np.nan)


def test_a_fold_has_no_derivative(backend):
    """u = -x maps everything to one point."""
    x = lattice((9,), True, "normalized")
    flow = backend.array(np.stack([0 * x, -x])[:, None])
    for call in (pystn.invert_displacement_vjp, pystn.invert_displacement_jvp):
        with pytest.raises(ValueError, match=re.escape("flow[1, 0] folds")):
            call(flow, flow, True)
    with pytest.raises(ValueError, match=re.escape("flow[1, 0] folds")):
        pystn.invert_displacement_vjp2(flow, flow, flow, True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_ends_and_stays_so(backend, rng, bad):
    flow = smooth(rng, (2,), (6, 7))
    alone = backend.numpy(pystn.invert_displacement(backend.array(flow[1:])))
    flow[0, 2, 3] = bad
    inverse = backend.numpy(pystn.invert_displacement(backend.array(flow)))
    assert not np.isfinite(inverse[0]).all() or bad == 1e300
    np.testing.assert_array_equal(inverse[1:], alone)
    (gradient,) = pystn.invert_displacement_vjp(backend.array(flow), backend.array(flow))
    assert np.isfinite(backend.numpy(gradient)[1]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_field_has_the_inverse_that_it_has_alone(backend, rng, dtype):
    flow = smooth(rng, (3, 2), (6, 7), amplitude=0.3).astype(dtype)
    together = backend.numpy(pystn.invert_displacement(backend.array(flow)))
    for n, k in np.ndindex(3, 2):
        alone = backend.numpy(pystn.invert_displacement(backend.array(flow[n, k][None])))[0]
        np.testing.assert_array_equal(together[n, k], alone)
