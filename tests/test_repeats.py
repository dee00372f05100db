"""Brief forward calls that are repeated without their checks give what the first call does, and only calls of the
same kind are taken for a repetition."""

import numpy as np
import pytest

import pystn
from pystn.backends import cpu
from pystn.options import resolve

THETA = np.array([[[0.9, -0.2, 0.1], [0.3, 0.8, -0.1]]])


@pytest.fixture
def options():
    """The options that calls with the defaults share, with no call remembered."""
    shared = resolve("linear", "zeros", False, "normalized", "right", 1, None, 0.0)
    shared.repeats.clear()
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
    assert all(by_warp(image, THETA, size) is None for size in (None, (6, 5), [5, 6], (5, 6, 1)))
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
    assert len(options.repeats) == cpu.REPEATS
    options.repeats.clear()
    pystn.grid_sample(drawn(rng, (1, 1, 9, 9)), drawn(rng, (1, 200, 200, 2)))
    assert not options.repeats


def test_fill_values_stay_with_their_options(rng):
    """The table of a remembered call lives as long as the call."""
    image, grid = drawn(rng, (1, 2, 4, 4)), np.full((1, 3, 2), np.nan, np.float32)
    for fill in (1.0, 2.0, 3.0) * 2:
        value = pystn.grid_sample(image, grid, padding_mode="constant", fill_value=fill)
        assert (value == fill).all()
