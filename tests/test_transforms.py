"""Parameters by name: of the identity, and of tiles."""

import re
from itertools import product
from math import prod

import numpy as np
import pytest
from system_cases import BY_MATRICES, WINDOW

import pystn
from pystn import MatrixTransform
from pystn.transforms import TRANSFORMS, named, squarely

TILED = [(transform, ndim) for transform, ndim in BY_MATRICES if transform != "rotation"]
FAMILIES = [
    pystn.ThinPlateSpline(pystn.control_points((3, 4)), (5, 6)),
    pystn.FreeFormDeformation((4, 5), (5, 6)),
    pystn.CPAB((2, 2), (5, 6)),
    pystn.Polynomial((4,), 2),
]


def matrices(transform, params, ndim):
    """Matrices (K, ndim, ndim + 1) of parameters (K, p), or square ones."""
    name, options = getattr(transform, "name", transform), getattr(transform, "options", {})
    if name == "affine":
        return params.reshape(-1, ndim, ndim + 1)
    if name == "exponential":
        return pystn.expm(pystn.lie_generator(params, **options))
    return getattr(pystn, f"{name}_matrix")(params, **options)


@pytest.mark.parametrize("transform, ndim", BY_MATRICES, ids=str)
def test_the_identity(transform, ndim):
    params = pystn.identity_params(transform, ndim)
    assert params.dtype == np.float64
    assert params.shape == named(transform).counts[ndim][:1]
    theta = matrices(transform, params[None], ndim)[0]
    scale = 0.5 if transform is WINDOW else 1
    np.testing.assert_array_equal(theta, scale * np.eye(*theta.shape))


@pytest.mark.parametrize("name, ndim", [(name, 3) for name in ("rotation", "rigid", "similarity")])
def test_the_other_counts_are_quaternions(name, ndim):
    for count in TRANSFORMS[name].counts[ndim][1:]:
        params = np.zeros(count)
        params[0] = 1
        if name == "similarity":
            params[4] = 1
        np.testing.assert_array_equal(matrices(name, params[None], ndim)[0], np.eye(ndim, ndim + 1))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
def test_the_identity_of_a_family_is_its_own_but_flat(family):
    params = pystn.identity_params(family)
    assert params.shape == (prod(family.theta_shape),)
    np.testing.assert_array_equal(params.reshape(family.theta_shape), family.identity()[0])
    params[:] = 7  # a copy: the family's own is not touched
    assert (family.identity() != 7).all()


def test_dtypes():
    for make in (pystn.identity_params, lambda **options: pystn.tiled_params(4, **options)):
        assert make(dtype="float32").dtype == np.float32
        assert make(dtype=np.float16).dtype == np.float16
    assert pystn.identity_params(FAMILIES[0], dtype=np.float32).dtype == np.float32


def corners(matrix):
    """Where the corners of [-1, 1] go, (2 ** ndim, ndim)."""
    ndim = matrix.shape[1] - 1
    points = np.array([[*corner, 1] for corner in product((-1, 1), repeat=ndim)]) @ matrix.T
    return points[:, :ndim] / points[:, ndim:] if len(matrix) > ndim else points


OF_THEIR_SIZE = ["translation", "rigid", "group='se2'", "group='se3'"]
OF_ONE_SCALE = ["attention", "similarity", "form='linear'", "form='log2'", "group='sim2'", "group='sim3'"]


def is_one_of(transform, words):
    return any(transform == word or f", {word})" in str(transform) for word in words)


@pytest.mark.parametrize("transform, ndim", TILED, ids=str)
def test_tiles_cover_the_input_once(transform, ndim):
    count = {1: (3,), 2: (3, 2), 3: (3, 2, 1)}[ndim]
    params = pystn.tiled_params(count, transform, ndim)
    assert params.shape == (prod(count), named(transform).counts[ndim][0])
    found = matrices(transform, params, ndim)
    # By hand, x fastest: tile i along an axis of n is [-1 + 2 i / n, -1 + 2 (i + 1) / n].
    indices = [at[::-1] for at in np.ndindex(*count[::-1])]
    for at, matrix in zip(indices, found, strict=True):
        low = -1 + 2 * np.array(at) / count
        high = -1 + 2 * (np.array(at) + 1) / count
        points = corners(matrix)
        np.testing.assert_allclose((points.min(0) + points.max(0)) / 2, (low + high) / 2, rtol=0, atol=1e-14)
        half = (high - low) / 2
        if is_one_of(transform, OF_ONE_SCALE):
            half = np.full(ndim, half.max())  # a square that covers the tile
        if transform is WINDOW or is_one_of(transform, OF_THEIR_SIZE):
            half = np.full(ndim, 0.5 if transform is WINDOW else 1.0)
        np.testing.assert_allclose((points.max(0) - points.min(0)) / 2, half, rtol=0, atol=1e-14)
    if transform == "projective":
        np.testing.assert_array_equal(params[:, 6:], 0)


def test_pixels_of_tiles_are_those_of_the_input():
    image = np.arange(4 * 9.0).reshape(1, 1, 4, 9)
    theta = pystn.tiled_params((3, 2), "affine").reshape(1, 6, 2, 3)
    tiles = pystn.warp_affine(image, theta, (2, 3))[0, 0]
    expected = [image[0, 0, y : y + 2, x : x + 3] for y in (0, 2) for x in (0, 3, 6)]
    np.testing.assert_allclose(tiles, expected, rtol=0, atol=1e-12)


def test_two_and_four_tiles():
    """Of Jaderberg et al., section 4.3, and the code of Schwöbel et al.: half the scale, the four quadrants."""
    np.testing.assert_array_equal(pystn.tiled_params(2, "translation"), [[-0.5, 0], [0.5, 0]])
    quadrants = [[0.5, x, y] for y in (-0.5, 0.5) for x in (-0.5, 0.5)]
    np.testing.assert_array_equal(pystn.tiled_params(4), quadrants)
    np.testing.assert_array_equal(pystn.tiled_params(1, "affine")[0], pystn.identity_params("affine"))


@pytest.mark.parametrize(
    "count, ndim, tiles",
    [
        (1, 2, [1, 1]),
        (2, 2, [2, 1]),
        (3, 2, [3, 1]),
        (4, 2, [2, 2]),
        (6, 2, [3, 2]),
        (12, 2, [4, 3]),
        (36, 2, [6, 6]),
        (7, 1, [7]),
        (8, 3, [2, 2, 2]),
        (12, 3, [3, 2, 2]),
        (27, 3, [3, 3, 3]),
        (30, 3, [5, 3, 2]),
        (16, 3, [4, 2, 2]),
        (18, 3, [3, 3, 2]),
        (64, 3, [4, 4, 4]),
        (5, 3, [5, 1, 1]),
        (1000, 3, [10, 10, 10]),
    ],
)
def test_numbers_are_laid_out_squarely(count, ndim, tiles):
    assert squarely(count, ndim) == tiles
    np.testing.assert_array_equal(
        pystn.tiled_params(count, "attention", ndim), pystn.tiled_params(tiles, "attention", ndim)
    )


def test_layouts_are_the_squarest_there_are():
    """Of all factorizations the one whose longest side is shortest, by trying them all."""
    for count in range(1, 65):
        for ndim in (2, 3):
            every = [f for f in product(range(1, count + 1), repeat=ndim - 1) if count % prod(f) == 0]
            longest = min(max(*f, count // prod(f)) for f in every)
            found = squarely(count, ndim)
            assert prod(found) == count
            assert found == sorted(found, reverse=True)
            assert found[0] == longest


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, "unknown transform: expected one of 'translation'", lambda: pystn.identity_params("shear")),
        (
            ValueError,
            "'projective', a MatrixTransform or a family's object, got None",
            lambda: pystn.identity_params(None),
        ),
        (ValueError, "got <", lambda: pystn.identity_params(lambda p: p)),
        (
            ValueError,
            "there is no transform 'projective' in 3 dimensions",
            lambda: pystn.identity_params("projective", 3),
        ),
        (ValueError, "there is no transform 'affine' in 4 dimensions", lambda: pystn.identity_params("affine", 4)),
        (ValueError, "a rotation moves no window", lambda: pystn.tiled_params(4, "rotation")),
        (ValueError, "a rotation moves no window", lambda: pystn.tiled_params(4, MatrixTransform("rotation"))),
        (ValueError, "unknown transform: expected one of 'translation'", lambda: MatrixTransform("shear")),
        (
            TypeError,
            "'exponential': missing a required argument: 'group'",
            lambda: MatrixTransform("exponential"),
        ),
        (TypeError, "transform 'rigid': got an unexpected keyword", lambda: MatrixTransform("rigid", form="log2")),
        (ValueError, "unknown group: expected one of 'se2'", lambda: MatrixTransform("exponential", group="so2")),
        (ValueError, "unknown scale: expected one of", lambda: MatrixTransform("attention", scale="fixed")),
        (ValueError, "scale must be finite, got nan", lambda: MatrixTransform("attention", scale=float("nan"))),
        (ValueError, "unknown form: expected one of", lambda: MatrixTransform("similarity", form="polar")),
        (
            ValueError,
            "there is no transform MatrixTransform('exponential', group='sl3') in 3 dimensions",
            lambda: pystn.identity_params(MatrixTransform("exponential", group="sl3"), 3),
        ),
        (
            ValueError,
            "'affine', 'projective' or a MatrixTransform, got ThinPlateSpline",
            lambda: pystn.tiled_params(4, FAMILIES[0]),
        ),
        (ValueError, "count must be 1 or more: got 0", lambda: pystn.tiled_params(0)),
        (TypeError, "count must be an integer", lambda: pystn.tiled_params(2.0)),
        (TypeError, "count must be an integer", lambda: pystn.tiled_params("4")),
        (ValueError, "an entry of count must be 1 or more: got 0", lambda: pystn.tiled_params((2, 0))),
        (TypeError, "an entry of count must be an integer", lambda: pystn.tiled_params((2, 1.5))),
        (
            ValueError,
            "count must be a number or one for each of 2 axes: got (2, 2, 2)",
            lambda: pystn.tiled_params((2, 2, 2)),
        ),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
