"""Brief calls that are repeated without their checks give what the first call does, and only calls of the
same kind are taken for a repetition."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import pystn
from pystn.backends import _cpu, cpu
from pystn.options import resolve

THETA = np.array([[[0.9, -0.2, 0.1], [0.3, 0.8, -0.1]]])


@pytest.fixture
def options():
    """The options that calls with the defaults share, with no call remembered."""
    shared = resolve("linear", "zeros", False, "normalized", "right", 1, False, None, 0.0)
    shared.repeats.clear()
    shared.repeated_gradients.clear()
    return shared


def drawn(rng, shape, dtype="float32"):
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_repeated_call_samples_the_arrays_that_it_is_given(rng, options, dtype):
    calls = [(drawn(rng, (2, 3, 9, 8), dtype), drawn(rng, (2, 5, 6, 2), dtype)) for _ in range(3)]
    found = [pystn.grid_sample(*call) for call in calls]
    assert len(options.repeats) == 1
    for call, value in zip(calls, found, strict=True):
        again = options.repeats[0](*call, None)
        assert again is not value
        np.testing.assert_array_equal(again, value)
        options.repeats.clear()
        np.testing.assert_array_equal(pystn.grid_sample(*call), value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_repeated_warp_takes_its_own_matrix(rng, options, dtype):
    image = drawn(rng, (2, 1, 9, 8), dtype)
    thetas = [np.repeat(scale * THETA, 2, 0).astype(dtype) for scale in (1.0, 0.5, -1.0)]
    found = [pystn.warp_affine(image, theta, (7, 6)) for theta in thetas]
    assert len(options.repeats) == 1
    for theta, value in zip(thetas, found, strict=True):
        options.repeats.clear()
        np.testing.assert_array_equal(pystn.warp_affine(image, theta, (7, 6)), value)


def test_a_repeated_call_fills_an_array_that_is_given(rng, options):
    """Also where the first one did; of an array that it could not fill, the checks say so."""
    image, grid = drawn(rng, (1, 2, 9, 8)), drawn(rng, (1, 5, 6, 2))
    out = np.empty((1, 2, 5, 6), "float32")
    assert pystn.grid_sample(image, grid, out=out) is out
    (repeat,) = options.repeats
    value = pystn.grid_sample(image, grid)
    np.testing.assert_array_equal(out, value)
    out.fill(np.nan)
    assert repeat(image, grid, None, out) is out
    np.testing.assert_array_equal(out, value)
    into = np.zeros((1, 2, 5, 6), "float32")
    assert pystn.warp_affine(image, THETA, (5, 6), out=into) is into
    assert options.repeats[0](image, THETA, (5, 6), out) is out
    np.testing.assert_array_equal(out, into)
    assert options.repeats == [options.repeats[0], repeat]


def test_a_repeated_call_leaves_arrays_to_the_checks_that_it_cannot_fill(rng, options):
    image, grid = drawn(rng, (1, 2, 9, 8)), drawn(rng, (1, 5, 6, 2))
    out = np.empty((1, 2, 5, 6), "float32")
    value = pystn.grid_sample(image, grid)
    (repeat,) = options.repeats
    read_only = np.empty_like(out)
    read_only.flags.writeable = False
    others = [
        (read_only, ValueError, "writeable"),
        (out.astype("float64"), TypeError, "dtype"),
        (out[..., :-1].copy(), ValueError, "shape"),
        (np.ma.masked_array(out), TypeError, "masked array"),
    ]
    for other, error, message in others:
        assert repeat(image, grid, None, other) is None
        with pytest.raises(error, match=message):
            pystn.grid_sample(image, grid, out=other)
    both = np.zeros(image.size + out.size - 1, "float32")
    in_front, behind = both[: out.size].reshape(out.shape), both[-out.size :].reshape(out.shape)
    for given, other in (
        (both[: image.size].reshape(image.shape), behind),
        (both[-image.size :].reshape(image.shape), in_front),
        (image, grid.reshape(-1)[: out.size].reshape(out.shape)),
    ):
        assert repeat(given, grid, None, other) is None
        with pytest.raises(ValueError, match="must not overlap"):
            pystn.grid_sample(given, grid, out=other)
    next_to_it = np.zeros(image.size + out.size, "float32")
    beside = next_to_it[image.size :].reshape(out.shape)
    assert repeat(next_to_it[: image.size].reshape(image.shape), grid, None, beside) is beside
    turned = np.empty((1, 2, 6, 5), "float32").swapaxes(2, 3)
    assert repeat(image, grid, None, turned) is None
    np.testing.assert_array_equal(pystn.grid_sample(image, grid, out=turned), value)


def test_other_kinds_of_calls_are_no_repetition(rng, options):
    image, grid = drawn(rng, (1, 2, 9, 8)), drawn(rng, (1, 5, 6, 2))
    pystn.grid_sample(image, grid)
    (repeat,) = options.repeats
    assert repeat(image, grid, None) is not None
    others = [
        (image.astype("float64"), grid, None),
        (image, grid.astype("float64"), None),
        (image[:, :, :-1].copy(), grid, None),
        (image, grid[:, 1:].copy(), None),
        (image[:, :, ::-1], grid, None),
        (image, grid[..., ::-1], None),
        (image[0], grid, None),
        (image.tolist(), grid, None),
        (np.ma.masked_array(image), grid, None),
        (image, None, None),
        (image, grid, (5, 6)),
    ]
    assert all(repeat(*other) is None for other in others)
    warp = pystn.warp_affine(image, THETA, (5, 6))
    assert warp.shape == (1, 2, 5, 6)
    by_warp = options.repeats[0]
    assert all(by_warp(image, THETA, size) is None for size in (None, (6, 5), [5, 6], (5, 6, 1), (np.ones(2), 6)))
    assert by_warp(image, THETA, (5, 6)) is not None


def test_errors_are_raised_after_a_call_that_passed(rng, options):
    image, grid = drawn(rng, (1, 2, 9, 8)), drawn(rng, (1, 5, 6, 2))
    pystn.grid_sample(image, grid)
    with pytest.raises(TypeError, match="masked array"):
        pystn.grid_sample(np.ma.masked_array(image), grid)
    with pytest.raises(ValueError, match="last axis"):
        pystn.grid_sample(image, grid[..., :1])
    with pytest.raises(TypeError, match="return_mask"):
        pystn.grid_sample(image, grid, return_mask=1)


def test_few_calls_are_remembered_and_long_ones_are_not(rng, options):
    for n in range(2, 12):
        pystn.grid_sample(drawn(rng, (1, 1, n, n)), drawn(rng, (1, 3, 2)))
    assert len(options.repeats) == cpu.backend.remembered
    options.repeats.clear()
    pystn.grid_sample(drawn(rng, (1, 1, 9, 9)), drawn(rng, (1, 1024, 1024, 2)))
    assert not options.repeats


def test_fill_values_stay_with_their_options(rng):
    """The table of a remembered call lives as long as the call."""
    image, grid = drawn(rng, (1, 2, 4, 4)), np.full((1, 3, 2), np.nan, np.float32)
    for fill in (1.0, 2.0, 3.0) * 2:
        value = pystn.grid_sample(image, grid, padding_mode="constant", fill_value=fill)
        assert (value == fill).all()


BOTH, TO_INPUT, TO_GRID = ("input", "grid"), ("input",), ("grid",)
# Of a key in `repeated_gradients`.
KEYS = {BOTH: (True, True, False, False), TO_INPUT: (True, False, False, False), TO_GRID: (False, True, False, False)}


def gradients_of(options, wrt=BOTH):
    """The gradient calls that are remembered."""
    return options.repeated_gradients.get(KEYS[wrt], [])


def assert_same(again, first):
    """Bitwise, None where None."""
    assert len(again) == len(first)
    for a, b in zip(again, first, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def vjp_arguments(rng, image, grid, dtype="float32", grid_dtype="float32"):
    grid = (1.5 * drawn(rng, grid)).astype(grid_dtype)
    samples = (max(image[0], grid.shape[0]), image[1], *grid.shape[1:-1])
    return drawn(rng, samples, dtype), drawn(rng, image, dtype), grid


@pytest.mark.parametrize("wrt", KEYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("grid_dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("image", "grid"),
    [
        ((1, 1, 28, 28), (1, 28, 28, 2)),
        ((2, 3, 9, 8), (2, 5, 6, 2)),
        ((1, 3, 9, 8), (4, 5, 6, 2)),  # an image that the batch shares
        ((4, 3, 9, 8), (1, 5, 6, 2)),  # a grid
        ((1, 2, 7), (1, 5, 1)),
        ((2, 2, 4, 5, 6), (2, 3, 4, 5, 3)),
        ((2, 3, 9, 8), (2, 2)),
    ],
)
def test_repeated_gradients_are_those_of_the_first_call(rng, options, wrt, dtype, grid_dtype, image, grid):
    calls = [vjp_arguments(rng, image, grid, dtype, grid_dtype) for _ in range(3)]
    calls[1][2].flat[0] = np.nan
    calls[2][0].flat[-1] = np.inf
    firsts = []
    for call in calls:
        options.repeated_gradients.clear()
        firsts.append(pystn.grid_sample_vjp(*call, wrt=wrt))
    (repeat,) = gradients_of(options, wrt)
    for call, first in zip(calls, firsts, strict=True):
        again = repeat(*call, None)
        assert_same(again, first)
        assert_same(pystn.grid_sample_vjp(*call, wrt=wrt), first)
        held = [array for array in (*first, *again) if array is not None]
        for i, array in enumerate(held):
            assert array.flags.carray
            assert not any(np.shares_memory(array, other) for other in (*held[:i], *call))
    assert gradients_of(options, wrt) == [repeat]


@pytest.mark.parametrize("given", [{"mode": "cubic"}, {"subgradient": "central"}, {"padding_mode": "reflection"}])
@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("wrt", KEYS)
def test_repeated_gradients_have_the_options(rng, given, channel_axis, wrt):
    grad, image, grid = vjp_arguments(rng, (2, 3, 9, 8), (2, 5, 6, 2))
    if channel_axis == -1:
        grad, image = (np.ascontiguousarray(np.moveaxis(array, 1, -1)) for array in (grad, image))
    names = {"mode": "linear", "padding_mode": "zeros", "align_corners": False, "coords": "normalized"}
    names |= {"subgradient": "right", "channel_axis": channel_axis, "deterministic": False} | given
    options = resolve(*names.values())
    options.repeated_gradients.clear()
    first = pystn.grid_sample_vjp(grad, image, grid, **names, wrt=wrt)
    (repeat,) = gradients_of(options, wrt)
    assert_same(repeat(grad, image, grid, None), first)


@pytest.mark.parametrize("wrt", [("input", "theta"), ("input",), ("theta",)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("theta_dtype", ["float32", "float64"])
@pytest.mark.parametrize(("images", "matrices"), [(1, 1), (2, 2), (1, 3), (3, 1)])
def test_repeated_warps_have_the_gradients_of_the_first(rng, options, wrt, dtype, theta_dtype, images, matrices):
    calls, firsts = [], []
    for _ in range(3):
        theta = (THETA + 0.1 * drawn(rng, (matrices, 2, 3))).astype(theta_dtype)
        calls.append((drawn(rng, (max(images, matrices), 2, 7, 6), dtype), drawn(rng, (images, 2, 9, 8), dtype), theta))
    calls[1][2].flat[0] = np.nan
    for call in calls:
        options.repeated_gradients.clear()
        firsts.append(pystn.warp_affine_vjp(*call, (7, 6), wrt=iter(wrt)))
        assert [gradient is None for gradient in firsts[-1]] == [name not in wrt for name in ("input", "theta")]
    ((repeat,),) = options.repeated_gradients.values()
    for call, first in zip(calls, firsts, strict=True):
        assert_same(repeat(*call, (7, 6)), first)
        assert_same(pystn.warp_affine_vjp(*call, (7, 6), wrt=iter(wrt)), first)
        assert all(repeat(*call, size) is None for size in (None, (6, 7), [7, 6]))


def test_gradients_with_sums_of_sums_are_not_remembered(rng, options):
    grad, image = drawn(rng, (1, 1, 120, 120)), drawn(rng, (1, 1, 9, 8))
    theta = THETA.astype(image.dtype)
    pystn.warp_affine_vjp(grad, image, theta, (120, 120))
    assert not any(options.repeated_gradients.values())
    pystn.warp_affine_vjp(grad, image, theta, (120, 120), wrt="input")
    assert len(gradients_of(options, TO_INPUT)) == 1


def test_other_kinds_of_gradients_are_no_repetition(rng, options):
    grad, image, grid = vjp_arguments(rng, (1, 2, 9, 8), (1, 5, 6, 2))
    pystn.grid_sample_vjp(grad, image, grid)
    assert list(options.repeated_gradients) == [KEYS[BOTH]]
    (repeat,) = gradients_of(options)
    assert repeat(grad, image, grid, None) is not None
    for array in (grad, image, grid):
        array.flags.writeable = False
    assert repeat(grad, image, grid, None) is not None
    others = [
        (grad.astype("float64"), image, grid, None),
        (grad, image.astype("float64"), grid, None),
        (grad, image, grid.astype("float64"), None),
        (grad.astype(">f4"), image, grid, None),
        (grad[:, :1].copy(), image, grid, None),
        (grad, image[:, :, :-1].copy(), grid, None),
        (grad, image, grid[:, 1:].copy(), None),
        (grad[..., ::-1], image, grid, None),
        (grad, image[:, :, ::-1], grid, None),
        (grad, image, grid[..., ::-1], None),
        (grad[0], image, grid, None),
        ((grad, None), image, grid, None),
        (None, image, grid, None),
        (grad, image.tolist(), grid, None),
        (np.ma.masked_array(grad), image, grid, None),
        (grad, image, np.ma.masked_array(grid), None),
        (grad, image, grid, (5, 6)),
    ]
    assert all(repeat(*other) is None for other in others)
    for wrt in (TO_INPUT, TO_GRID):
        found = pystn.grid_sample_vjp(grad, image, grid, wrt=wrt)
        assert [array is None for array in found] == [name not in wrt for name in BOTH]
    assert len(pystn.grid_sample_vjp(grad, image, grid, wrt=("input", "grid", "fill_value"))) == 3
    assert_same(pystn.grid_sample_vjp(grad, image, grid, wrt=["grid", "input"]), repeat(grad, image, grid, None))


@pytest.mark.parametrize("dtype", ["float16", "complex64", "complex128", "uint8"])
def test_gradients_of_few_types_are_remembered(rng, options, dtype):
    grid = drawn(rng, (1, 5, 6, 2))
    image = drawn(rng, (1, 2, 9, 8)).astype(dtype)
    grad = np.ones((1, 2, 5, 6), "float32" if dtype == "uint8" else dtype)
    for wrt in KEYS:
        pystn.grid_sample_vjp(grad, image, grid, wrt=wrt)
        assert not gradients_of(options, wrt)


def test_gradients_with_more_than_the_kernels_do_are_not_remembered(rng, options):
    grad, image, grid = vjp_arguments(rng, (1, 2, 9, 8), (1, 5, 6, 2))
    coverage = np.ones((1, 5, 6), "float32")
    pystn.grid_sample_vjp((grad, coverage), image, grid, return_mask=True)
    pystn.grid_sample_vjp(grad, image, grid, out=(np.empty_like(image), None))
    pystn.grid_sample_vjp(grad, image, grid, wrt=())
    pystn.grid_sample_vjp(grad[..., ::-1], image, grid)
    pystn.grid_sample_vjp(grad, np.asfortranarray(image), grid)
    pystn.grid_sample_vjp(grad, image.view(type("Image", (np.ndarray,), {})), grid)
    pystn.grid_sample_vjp(*vjp_arguments(rng, (1, 2, 9, 8), (1, 1024, 512, 2)))
    assert not any(options.repeated_gradients.values())
    mode = pystn.BSpline(3, prefilter=True)
    others = resolve(mode, "zeros", False, "normalized", "right", 1, False)
    others.repeated_gradients.clear()
    for _ in range(2):
        pystn.grid_sample_vjp(grad, image, grid, mode)
    assert not any(others.repeated_gradients.values())


def test_the_gradient_to_the_grid_of_nearest_pixels_is_0_again(rng):
    grad, image, grid = vjp_arguments(rng, (1, 2, 9, 8), (1, 5, 6, 2))
    options = resolve("nearest", "zeros", False, "normalized", "right", 1, False)
    options.repeated_gradients.clear()
    first = pystn.grid_sample_vjp(grad, image, grid, "nearest")
    (repeat,) = gradients_of(options)
    again = repeat(grad, image, grid, None)
    for ours, theirs in zip(again, first, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert not again[1].any()
    assert again[1].shape == grid.shape


def test_gradients_made_in_scratch_memory_are_not_remembered(rng, options):
    for wrt in KEYS:
        pystn.grid_sample_vjp(*vjp_arguments(rng, (8, 16, 9, 9), (8, 9, 9, 2)), wrt=wrt)
        assert not gradients_of(options, wrt)
        pystn.grid_sample_vjp(*vjp_arguments(rng, (7, 16, 9, 9), (7, 9, 9, 2)), wrt=wrt)
        assert len(gradients_of(options, wrt)) == 1


def test_errors_are_raised_after_gradients_that_passed(rng, options):
    grad, image, grid = vjp_arguments(rng, (1, 2, 9, 8), (1, 5, 6, 2))
    pystn.grid_sample_vjp(grad, image, grid)
    with pytest.raises(TypeError, match="masked array"):
        pystn.grid_sample_vjp(np.ma.masked_array(grad), image, grid)
    with pytest.raises(ValueError, match="grad_output must have the shape"):
        pystn.grid_sample_vjp(grad[:, :1].copy(), image, grid)
    with pytest.raises(TypeError, match="return_mask"):
        pystn.grid_sample_vjp(grad, image, grid, return_mask=1)
    for wrt in ("theta", ("input", "theta"), (["input"],)):
        with pytest.raises(ValueError, match="unknown entry of wrt"):
            pystn.grid_sample_vjp(grad, image, grid, wrt=wrt)


def test_few_gradients_are_remembered(rng, options):
    for n in range(2, 12):
        pystn.grid_sample_vjp(*vjp_arguments(rng, (1, 1, n, n), (1, 3, 2)))
    assert len(gradients_of(options)) == cpu.backend.remembered


def test_another_level_repeats_nothing(rng, options):
    levels, used = _cpu.levels(), _cpu.current_level()
    if len(levels) < 2:
        pytest.skip("one level was built")
    call = vjp_arguments(rng, (1, 2, 9, 8), (1, 5, 6, 2))
    pystn.grid_sample_vjp(*call)
    (repeat,) = gradients_of(options)
    try:
        _cpu.use_level(next(name for name in levels if name != used))
        assert repeat(*call, None) is None
        first = pystn.grid_sample_vjp(*call)
        assert_same(gradients_of(options)[0](*call, None), first)
    finally:
        _cpu.use_level(used)
    assert repeat(*call, None) is not None


# Of 16384 samples or more, which threads share.
PARALLEL = [
    ((64, 1, 28, 28), (64, 28, 28, 2)),
    ((64, 1, 28, 28), (1, 28, 28, 2)),
    ((16, 3, 40, 40), (16, 30, 30, 2)),
    ((1, 40, 30, 30), (1, 30, 30, 2)),  # shared by channels
]


@pytest.mark.parametrize("wrt", KEYS)
@pytest.mark.parametrize(("image", "grid"), PARALLEL)
def test_calls_that_threads_share_are_remembered(rng, options, wrt, image, grid):
    calls = [vjp_arguments(rng, image, grid) for _ in range(3)]
    calls[1][2].flat[0] = np.nan
    with pystn.num_threads(2):
        firsts = []
        for call in calls:
            options.repeats.clear()
            options.repeated_gradients.clear()
            firsts.append((pystn.grid_sample(*call[1:]), *pystn.grid_sample_vjp(*call, wrt=wrt)))
        (forward,), (backward,) = options.repeats, gradients_of(options, wrt)
        for call, first in zip(calls, firsts, strict=True):
            assert_same((forward(*call[1:], None), *backward(*call, None)), first)
        with pystn.num_threads(1):
            assert forward(*calls[0][1:], None) is None
            assert backward(*calls[0], None) is None
            alone = pystn.grid_sample(*calls[0][1:]), *pystn.grid_sample_vjp(*calls[0], wrt=wrt)
            assert options.repeats[0](*calls[0][1:], None) is not None
        assert_same(alone, firsts[0])
        assert options.repeats[0](*calls[0][1:], None) is None
        assert gradients_of(options, wrt)[0](*calls[0], None) is None


@pytest.mark.parametrize("wrt", [("input", "theta"), ("input",), ("theta",)])
@pytest.mark.parametrize(("images", "matrices"), [(64, 64), (64, 1)])
def test_warps_that_threads_share_are_remembered(rng, options, wrt, images, matrices):
    shape = (max(images, matrices), 1, 28, 28)
    calls = [
        (drawn(rng, shape), drawn(rng, (images, 1, 28, 28)), (THETA + 0.1 * drawn(rng, (matrices, 2, 3))).astype("f"))
        for _ in range(3)
    ]
    with pystn.num_threads(2):
        firsts = []
        for call in calls:
            options.repeats.clear()
            options.repeated_gradients.clear()
            firsts.append((pystn.warp_affine(*call[1:], (28, 28)), *pystn.warp_affine_vjp(*call, (28, 28), wrt=wrt)))
        (forward,) = options.repeats
        ((backward,),) = options.repeated_gradients.values()
        for call, first in zip(calls, firsts, strict=True):
            assert_same((forward(*call[1:], (28, 28)), *backward(*call, (28, 28))), first)


def test_gradients_shared_by_rows_are_not_remembered(rng, options):
    """How many rows each task has depends on where the coordinates are."""
    calls = [vjp_arguments(rng, image, (64, 28, 28, 2)) for image in ((1, 1, 28, 28), (1, 3, 200, 200))]
    with pystn.num_threads(2):
        for call in calls:
            pystn.grid_sample_vjp(*call, wrt=TO_INPUT)
            pystn.grid_sample_vjp(*call, wrt=BOTH)
    assert not any(options.repeated_gradients.values())
    with pystn.num_threads(1):
        pystn.grid_sample_vjp(*calls[0], wrt=TO_INPUT)
    assert len(gradients_of(options, TO_INPUT)) == 1


@pytest.mark.parametrize(("image", "grid"), [((2, 3, 9, 8), (2, 5, 6, 2)), PARALLEL[0]])
def test_threads_share_remembered_gradients(rng, options, image, grid):
    calls = [vjp_arguments(rng, image, grid) for _ in range(4)]
    firsts = [pystn.grid_sample_vjp(*call) for call in calls]
    assert len(gradients_of(options)) == 1

    def work(i):
        for _ in range(200):
            assert_same(pystn.grid_sample_vjp(*calls[i]), firsts[i])
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.fixture
def grids():
    """The calls of affine_grid that are done again: none yet."""
    from pystn.grids import affine

    affine.REPEATS.clear()
    yield affine.REPEATS
    affine.REPEATS.clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape, size", [((3, 2, 3), (9, 8)), ((2, 4, 3, 4), (3, 5, 7)), ((1, 1, 2), (3,))], ids=str)
def test_a_repeated_grid_is_of_its_own_matrices(rng, grids, shape, size, align_corners, dtype):
    thetas = [drawn(rng, shape, dtype) for _ in range(3)]
    found = [pystn.affine_grid(theta, size, align_corners) for theta in thetas]
    assert len(grids) == 1
    out = np.empty_like(found[0])
    for theta, grid in zip(thetas, found, strict=True):
        again = grids[0](theta, size, align_corners, None)
        assert again is not grid
        np.testing.assert_array_equal(again, grid)
        assert grids[0](theta, size, align_corners, out) is out
        np.testing.assert_array_equal(out, grid)
    grids.clear()
    np.testing.assert_array_equal(pystn.affine_grid(thetas[-1], size, align_corners), found[-1])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_grids_are_repeated_by_any_number_of_threads(rng, grids, threads):
    thetas = drawn(rng, (2, 40, 2, 3))
    expected = [pystn.affine_grid(theta, (60, 50)) for theta in thetas]
    with pystn.num_threads(threads):
        for theta, grid in zip(thetas, expected, strict=True):
            np.testing.assert_array_equal(grids[0](theta, (60, 50), False, None), grid)


def test_grids_of_another_kind_are_no_repetition(rng, grids):
    theta = drawn(rng, (2, 2, 3))
    grid = pystn.affine_grid(theta, (9, 8))
    (repeat,) = grids
    again = (theta, (9, 8), False, None)
    assert repeat(*again) is not None
    assert repeat(theta, (np.int64(9), 8), False, None) is not None
    shared = np.empty(theta.nbytes + grid.nbytes - 8, np.uint8)
    overlapping = shared[: theta.nbytes].view("f").reshape(theta.shape), shared[-grid.nbytes :].view("f")
    fixed = np.empty_like(grid)
    fixed.flags.writeable = False
    for other in (
        (theta.astype("float64"), *again[1:]),
        (theta[:1], *again[1:]),
        (np.concatenate([theta, theta])[::2], *again[1:]),
        (theta.astype(">f4"), *again[1:]),
        (theta.tolist(), *again[1:]),
        (theta, [9, 8], False, None),
        (theta, (8, 9), False, None),
        (theta, (2, 1, 9, 8), False, None),
        (theta, (True, 8), False, None),
        (theta, (9 + 0j, 8), False, None),
        (theta, (np.array([9, 9]), 8), False, None),
        (theta, (9, 8), True, None),
        (theta, (9, 8), 0, None),
        (theta, (9, 8), False, np.empty((2, 8, 9, 2), "f")),
        (theta, (9, 8), False, np.empty((2, 9, 8, 4), "f")[..., ::2]),
        (theta, (9, 8), False, fixed),
        (overlapping[0], (9, 8), False, overlapping[1].reshape(grid.shape)),
    ):
        assert repeat(*other) is None
    level = _cpu.current_level()
    if len(cpu.levels()) > 1:
        _cpu.use_level(cpu.levels()[-1])
        try:
            assert repeat(*again) is None
        finally:
            _cpu.use_level(level)
    for size in ((9, 8), (2, 1, 9, 8), [9, 8]):
        np.testing.assert_array_equal(pystn.affine_grid(theta, size), grid)
    assert len(grids) == 1
    with pytest.raises(TypeError, match="align_corners"):
        pystn.affine_grid(theta, (9, 8), 0)
    with pytest.raises(TypeError, match="size must be a tuple of integers"):
        pystn.affine_grid(theta, (np.array([9, 9]), 8))


def test_as_many_grids_are_kept_as_are_useful(rng, grids):
    theta = drawn(rng, (2, 2, 3))
    for n in range(1, 9):
        pystn.affine_grid(theta, (n, n))
    assert len(grids) == cpu.backend.remembered
    pystn.affine_grid(theta, (0, 3))
    assert len(grids) == cpu.backend.remembered
