"""One grid after another."""

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
SIZES = [(5,), (4, 6), (1, 7), (3, 4, 5)]


def lattice(size, align_corners=False, coords="normalized"):
    return oracle.pixel_targets(size, align_corners, coords)[:, :-1].reshape(*size, len(size))


def composed(first, second, padding_mode="border", **options):
    """By the equation: the second, and the displacement of the first there."""
    displacement = np.moveaxis(first - lattice(first.shape[1:-1], **options), -1, 1)
    pulled = oracle.grid_sample(displacement, second, mode="linear", padding_mode=padding_mode, **options)
    return second + np.moveaxis(pulled, 1, -1)


def grids(rng, size, options, shape=(3, 4), batch=(2, 2), dtype=np.float64):
    """A first near the lattice, and a second that leaves the image, away from the centres of pixels."""
    unit = np.array(size[::-1]) / 2 if options["coords"] == "pixel" else 1.0
    first = lattice(size, **options) + 0.3 * unit * rng.uniform(-1, 1, (batch[0], *size, len(size)))
    second = rng.uniform(-1.3, 1.3, (batch[1], *shape, len(size))) * unit
    if options["coords"] == "pixel":
        second += (np.array(size[::-1]) - 1) / 2
    return first.astype(dtype), second.astype(dtype)


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("batch", [(2, 2), (1, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 5e-6)])
def test_equals_the_equation(backend, rng, options, size, batch, dtype, tolerance):
    first, second = grids(rng, size, options, batch=batch, dtype=dtype)
    grid = backend.numpy(pystn.compose_grids(backend.array(first), backend.array(second), **options))
    assert grid.dtype == dtype
    expected = composed(first.astype(float), second.astype(float), **options)
    np.testing.assert_allclose(grid, expected, rtol=0, atol=tolerance * max(size))


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "mirror", "symmetric", "reflection", "wrap"])
def test_boundaries_of_the_displacement(backend, rng, padding_mode):
    first, second = grids(rng, (4, 6), CONVENTIONS[0])
    grid = pystn.compose_grids(backend.array(first), backend.array(second), padding_mode=padding_mode)
    expected = composed(first, second, padding_mode, **CONVENTIONS[0])
    np.testing.assert_allclose(backend.numpy(grid), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("align_corners", [False, True])
def test_equals_torch(backend, rng, align_corners):
    torch = pytest.importorskip("torch")
    first, second = grids(rng, (6, 7), {"align_corners": align_corners, "coords": "normalized"})
    cotangent = rng.standard_normal(second.shape)
    f, s = torch.tensor(first, requires_grad=True), torch.tensor(second, requires_grad=True)
    displacement = (f - torch.tensor(lattice((6, 7), align_corners))).permute(0, 3, 1, 2)
    pulled = torch.nn.functional.grid_sample(
        displacement, s, mode="bilinear", padding_mode="border", align_corners=align_corners
    )
    expected = s + pulled.permute(0, 2, 3, 1)
    expected.backward(torch.tensor(cotangent))
    arrays = [backend.array(a) for a in (first, second)]
    grid = backend.numpy(pystn.compose_grids(*arrays, align_corners))
    np.testing.assert_allclose(grid, expected.detach().numpy(), rtol=0, atol=1e-13)
    gradients = pystn.compose_grids_vjp(backend.array(cotangent), *arrays, align_corners)
    for gradient, leaf in zip(gradients, (f, s), strict=True):
        np.testing.assert_allclose(backend.numpy(gradient), leaf.grad.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_identity_changes_nothing(backend, rng, options, size, dtype):
    first, second = grids(rng, size, options, dtype=dtype)
    identity = backend.numpy(pystn.displacement_grid(backend.array(np.zeros((1, *size, len(size)), dtype)), **options))
    before = pystn.compose_grids(backend.array(identity), backend.array(second), **options)
    np.testing.assert_array_equal(backend.numpy(before), second)
    after = pystn.compose_grids(backend.array(first), backend.array(identity), **options)
    tolerance = 8 * np.finfo(dtype).eps * max(size)
    np.testing.assert_allclose(backend.numpy(after), first, rtol=0, atol=tolerance)


def test_translations_add_up_outside_too(backend, rng):
    by = np.array([0.7, -0.4])
    shift = lattice((4, 6)) + by
    _, second = grids(rng, (4, 6), CONVENTIONS[0])
    grid = backend.numpy(pystn.compose_grids(backend.array(shift[None]), backend.array(second)))
    np.testing.assert_allclose(grid, second + by, rtol=0, atol=1e-14)


@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_grids_compose_as_their_matrices(backend, rng, align_corners):
    size = (7, 8)
    first, second = np.concatenate([rng.uniform(-0.4, 0.4, (2, 2, 3)), np.tile([0.0, 0.0, 1.0], (2, 1, 1))], axis=1)
    first[:2, :2] += 0.3 * np.eye(2)
    second[:2, :2] += 0.3 * np.eye(2)
    grid, inner, product = (
        backend.numpy(pystn.affine_grid(backend.array(m[None, :2].copy()), size, align_corners))
        for m in (first, second, first @ second)
    )
    result = backend.numpy(pystn.compose_grids(backend.array(grid), backend.array(inner), align_corners))
    end = lattice(size, align_corners)[-1, -1]
    inside = (np.abs(inner) <= end).all(axis=-1)
    assert inside.sum() > 30
    np.testing.assert_allclose(result[inside], product[inside], rtol=0, atol=1e-14)


def test_sampling_once_equals_sampling_twice_where_nothing_is_lost(backend, rng):
    """On an image that is linear, away from its border."""
    image = np.sum(lattice((8, 9)) * [2.0, -3.0], axis=-1)[None, None]
    first, second = (lattice((8, 9)) * 0.7 + 0.05 * rng.standard_normal((1, 8, 9, 2)) for _ in range(2))
    first, second, image = (backend.array(a) for a in (first, second, image))
    twice = pystn.grid_sample(pystn.grid_sample(image, first), second)
    once = pystn.grid_sample(image, pystn.compose_grids(first, second))
    np.testing.assert_allclose(backend.numpy(once), backend.numpy(twice), rtol=0, atol=1e-13)


def test_composition_is_associative_for_interpolated_maps(backend, rng):
    """(f o g) o h at the centres where h points to centres; there nothing is interpolated twice."""
    f, g = (lattice((6, 7), coords="pixel") + rng.uniform(-1, 1, (1, 6, 7, 2)) for _ in range(2))
    h = rng.permuted(lattice((6, 7), coords="pixel").reshape(-1, 2), axis=0).reshape(1, 6, 7, 2)
    f, g, h = (backend.array(a) for a in (f, g, h))
    left = pystn.compose_grids(pystn.compose_grids(f, g, coords="pixel"), h, coords="pixel")
    right = pystn.compose_grids(f, pystn.compose_grids(g, h, coords="pixel"), coords="pixel")
    np.testing.assert_allclose(backend.numpy(left), backend.numpy(right), rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("batch", [(2, 2), (1, 3), (3, 1)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives(backend, rng, options, size, batch, dtype):
    first, second = grids(rng, size, options, (2, 1, 5), batch, dtype)
    tangents = [rng.standard_normal(a.shape).astype(dtype) for a in (first, second)]
    primals = [backend.array(a) for a in (first, second)]
    given = [backend.array(t) for t in tangents]
    pushed = backend.numpy(pystn.compose_grids_jvp(*primals, *given, **options))
    cotangent = rng.standard_normal(pushed.shape).astype(dtype)
    pulled = [backend.numpy(g) for g in pystn.compose_grids_vjp(backend.array(cotangent), *primals, **options)]
    assert_adjoint(pushed, cotangent, pulled, tangents)
    for name, at in (("first", 0), ("second", 1)):
        alone = pystn.compose_grids_vjp(backend.array(cotangent), *primals, wrt=name, **options)
        assert alone[1 - at] is None
        assert_same_sums(backend, backend.numpy(alone[at]), pulled[at])
    parts = [
        pystn.compose_grids_jvp(*primals, *pair, **options)
        for pair in ((given[0], None), (None, given[1]), (None,) * 2)
    ]
    np.testing.assert_allclose(sum(backend.numpy(p) for p in parts), pushed, rtol=1e-4, atol=1e-5)
    if dtype == np.float64:

        def grid(first, second):
            return backend.numpy(pystn.compose_grids(backend.array(first), backend.array(second), **options))

        assert_close(pushed, difference(grid, [first, second], tangents, h=1e-8))


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("batch", [(2, 2), (1, 3), (3, 1)], ids=str)
def test_second_derivatives(backend, rng, options, size, batch):
    first, second = grids(rng, size, options, (2, 1, 5), batch)
    along, across = ([rng.standard_normal(a.shape) for a in (first, second)] for _ in range(2))
    u = rng.standard_normal((max(batch), *second.shape[1:]))

    def vjp(*arrays):
        return [backend.numpy(g) for g in pystn.compose_grids_vjp(*map(backend.array, arrays), **options)]

    def vjp2(*arrays):
        found = pystn.compose_grids_vjp2(*(None if a is None else backend.array(a) for a in arrays), **options)
        return [backend.numpy(g) for g in found]

    for these in (along, [along[0], None], [None, along[1]]):
        assert_second_order(vjp, vjp2, u, [first, second], these, across)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_second_derivatives_that_are_wanted(backend, rng, dtype):
    first, second = grids(rng, (4, 6), CONVENTIONS[0], dtype=dtype)
    gg = [backend.array(rng.standard_normal(a.shape).astype(dtype)) for a in (first, second)]
    arrays = [backend.array(a) for a in (rng.standard_normal(second.shape).astype(dtype), first, second)]
    found = pystn.compose_grids_vjp2(*gg, *arrays)
    for k, name in enumerate(("grad_grid", "first", "second")):
        alone = pystn.compose_grids_vjp2(*gg, *arrays, wrt=name)
        assert [g is None for g in alone] == [k != i for i in range(3)]
        assert alone[k].dtype == dtype
        assert_same_sums(backend, backend.numpy(alone[k]), backend.numpy(found[k]))
    for zero, like in zip(pystn.compose_grids_vjp2(None, None, *arrays), arrays, strict=True):
        assert zero.shape == like.shape
        assert zero.dtype == dtype
        assert not backend.numpy(zero).any()


@pytest.mark.parametrize("subgradient", ["right", "left", "central", "zero"])
def test_subgradients_at_the_centres_of_pixels(backend, rng, subgradient):
    first = lattice((9,), coords="pixel")[None] + rng.uniform(-1, 1, (1, 9, 1))
    second = np.arange(1.0, 8.0)[None, :, None]
    options = {"coords": "pixel", "subgradient": subgradient}
    one = backend.array(np.ones_like(second))
    slopes = backend.numpy(
        pystn.compose_grids_jvp(backend.array(first), backend.array(second), None, one, **options)
    ).reshape(-1)
    steps = np.diff(first[0, :, 0])
    right, left = steps[1:], steps[:-1]
    expected = {"right": right, "left": left, "central": (left + right) / 2, "zero": np.ones(7)}[subgradient]
    np.testing.assert_allclose(slopes, expected, rtol=0, atol=1e-13)
    _, pulled = pystn.compose_grids_vjp(one, backend.array(first), backend.array(second), **options)
    np.testing.assert_allclose(backend.numpy(pulled).reshape(-1), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(backend, rng, bad):
    first, second = grids(rng, (4, 6), CONVENTIONS[0])
    second[0, 1, 2, 0] = bad
    grid = backend.numpy(pystn.compose_grids(backend.array(first), backend.array(second)))
    assert not np.isfinite(grid[0, 1, 2, 0])
    assert np.isfinite(grid[1]).all()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.data())
def test_any_shape_and_strides(data):
    rng = np.random.default_rng(1)
    ndim = data.draw(st.integers(1, 3))
    size = data.draw(st.lists(st.integers(1, 4), min_size=ndim, max_size=ndim))
    shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))

    def strided(*shape):
        values = rng.uniform(-1, 1, (*shape[:-1], 2 * shape[-1])).astype(dtype)[..., ::2]
        return np.flip(values) if data.draw(st.booleans()) else values

    first = np.asfortranarray(strided(2, *size, ndim))
    second = strided(data.draw(st.sampled_from([1, 2])), *shape, ndim)
    out = np.full((2, *shape, ndim)[::-1], np.nan, dtype).T
    assert pystn.compose_grids(first, second, out=out) is out
    expected = composed(first.astype(float), second.astype(float), **CONVENTIONS[0])
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    grad_first, grad_second = pystn.compose_grids_vjp(out, first, second)
    assert grad_first.shape == first.shape
    assert grad_second.shape == second.shape


@pytest.mark.parametrize(
    "error, message, first, second, options",
    [
        (ValueError, "first must have shape (N, ..., *size, ndim)", (2, 2), (2, 5, 2), {}),
        (ValueError, "first must be an image of coordinates, (N, *spatial, 2): got (2, 3, 4, 5, 2)",
         (2, 3, 4, 5, 2), (2, 5, 2), {}),
        (ValueError, "second must have shape (N, ..., 2), as first has (2, 4, 5, 2): got (2, 5, 3)",
         (2, 4, 5, 2), (2, 5, 3), {}),
        (ValueError, "batch sizes of first and second must agree or one of them be 1: got 2 and 3",
         (2, 4, 5, 2), (3, 5, 2), {}),
        (ValueError, "first has an empty spatial axis", (2, 0, 5, 2), (2, 5, 2), {}),
        (ValueError, "unknown padding_mode", (2, 4, 5, 2), (2, 5, 2), {"padding_mode": "edge"}),
        (ValueError, "unknown coords", (2, 4, 5, 2), (2, 5, 2), {"coords": "voxel"}),
        (ValueError, "no meaning with coords='pixel'", (2, 4, 5, 2), (2, 5, 2),
         {"coords": "pixel", "align_corners": True}),
    ],
)  # fmt: skip
def test_errors(error, message, first, second, options):
    first, second = np.zeros(first), np.zeros(second)
    for call in (
        lambda: pystn.compose_grids(first, second, **options),
        lambda: pystn.compose_grids_vjp(second, first, second, **options),
        lambda: pystn.compose_grids_jvp(first, second, None, None, **options),
        lambda: pystn.compose_grids_vjp2(None, None, second, first, second, **options),
    ):
        with pytest.raises(error, match=re.escape(message)):
            call()


def test_errors_of_arrays():
    first, second = np.zeros((1, 4, 5, 2)), np.zeros((1, 4, 5, 2))
    with pytest.raises(TypeError, match="second must have the dtype of first, float64: got float32"):
        pystn.compose_grids(first, second.astype(np.float32))
    with pytest.raises(ValueError, match="out must not overlap"):
        pystn.compose_grids(first, second, out=second)
    with pytest.raises(ValueError, match="grad_grid must have the shape of the grid"):
        pystn.compose_grids_vjp(np.zeros((1, 2)), first, second)
    with pytest.raises(ValueError, match="d_second must have the shape of second"):
        pystn.compose_grids_jvp(first, second, None, np.zeros((1, 2)))
    with pytest.raises(ValueError, match="unknown entry of wrt"):
        pystn.compose_grids_vjp(second, first, second, wrt="third")
    with pytest.raises(ValueError, match="grad_grid must have the shape of the grid"):
        pystn.compose_grids_vjp2(None, None, np.zeros((1, 2)), first, second)
    with pytest.raises(ValueError, match="gg_first must have the shape of first"):
        pystn.compose_grids_vjp2(np.zeros((1, 2)), None, second, first, second)
    with pytest.raises(TypeError, match="gg_second must have the dtype of second"):
        pystn.compose_grids_vjp2(None, second.astype(np.float32), second, first, second)
    with pytest.raises(ValueError, match="unknown entry of wrt"):
        pystn.compose_grids_vjp2(None, None, second, first, second, wrt="third")
