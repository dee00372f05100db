"""Matrices between pixels and normalized coordinates: the warps of both, OpenCV's and scikit-image's."""

import numpy as np
import pytest
from warps import AFFINE, PROJECTIVE, WARPS, matrices, to_pixel_matrix

import pystn

IMAGE, SIZE = {1: (20,), 2: (17, 20), 3: (8, 9, 10)}, {1: (13,), 2: (12, 15), 3: (5, 6, 7)}
CASES = [WARPS[name] for name in ("affine-1d", "affine-2d", "affine-3d", "projective")]
every_case = pytest.mark.parametrize("warp", CASES, ids=lambda warp: f"{warp.name}-{warp.ndim}d")


@every_case
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_warp_is_the_same(backend, rng, warp, align_corners):
    image, size = IMAGE[warp.ndim], SIZE[warp.ndim]
    input = rng.standard_normal((2, 3, *image))
    theta = matrices(rng, warp, (2,), image, size, align_corners, tilt=0.25)
    pixel = pystn.normalized_to_pixel(backend.array(theta), image, size, align_corners)
    by_theta = warp.forward(backend.array(input), backend.array(theta), size, align_corners=align_corners)
    by_pixel = warp.forward(backend.array(input), pixel, size, coords="pixel")
    np.testing.assert_allclose(backend.numpy(by_pixel), backend.numpy(by_theta), rtol=0, atol=1e-11)
    if not align_corners:
        np.testing.assert_allclose(backend.numpy(pixel), to_pixel_matrix(theta, image, size), rtol=0, atol=1e-12)


@every_case
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-5)])
def test_there_and_back(backend, rng, warp, align_corners, dtype, tolerance):
    image, size = IMAGE[warp.ndim], SIZE[warp.ndim]
    theta = rng.standard_normal((2, 3, warp.rows, warp.ndim + 1)).astype(dtype)
    sizes = ((2, 9, *image), (2, 9, *size)) if align_corners else (image, list(size))
    there = pystn.normalized_to_pixel(backend.array(theta), *sizes, align_corners)
    assert backend.numpy(there).dtype == dtype
    back = pystn.pixel_to_normalized(there, *sizes, align_corners)
    np.testing.assert_allclose(backend.numpy(back), theta, rtol=0, atol=tolerance * 10)
    there = pystn.normalized_to_pixel(
        pystn.pixel_to_normalized(backend.array(theta), *sizes, align_corners), *sizes, align_corners
    )
    np.testing.assert_allclose(backend.numpy(there), theta, rtol=0, atol=tolerance * 100)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("image, size", [((9, 7), (1, 1)), ((1, 7), (1, 5)), ((1, 1), (1, 1))], ids=str)
def test_one_pixel(backend, rng, align_corners, image, size):
    """The one pixel of an output is at 0; that of an input has no extent with align_corners."""
    theta = rng.standard_normal((1, 2, 3))
    input = rng.standard_normal((1, 1, *image))
    pixel = pystn.normalized_to_pixel(backend.array(theta), image, size, align_corners)
    for axis, n in enumerate(size[::-1]):
        assert not align_corners or n > 1 or not backend.numpy(pixel)[..., axis].any()
    by_theta = pystn.warp_affine(
        backend.array(input), backend.array(theta), size, padding_mode="border", align_corners=align_corners
    )
    by_pixel = pystn.warp_affine(backend.array(input), pixel, size, padding_mode="border", coords="pixel")
    np.testing.assert_allclose(backend.numpy(by_pixel), backend.numpy(by_theta), rtol=0, atol=1e-12)
    if align_corners and 1 in image:
        with pytest.raises(ValueError, match=r"input_size must be 2 or more along every axis with align_corners=True"):
            pystn.pixel_to_normalized(pixel, image, size, True)
    else:
        again = pystn.normalized_to_pixel(
            pystn.pixel_to_normalized(pixel, image, size, align_corners), image, size, align_corners
        )
        moved = backend.numpy(again) - backend.numpy(pixel)
        for axis, n in enumerate(size[::-1]):  # what such an output's only pixel, 0, does not see is lost
            if align_corners and n == 1:
                moved[..., axis] = 0
        np.testing.assert_allclose(moved, 0, atol=1e-12)


@every_case
def test_the_identity_of_one_size_is_the_identity(backend, warp):
    identity = np.eye(warp.rows, warp.ndim + 1)
    for convert in (pystn.normalized_to_pixel, pystn.pixel_to_normalized):
        for align_corners in (False, True):
            found = convert(backend.array(identity), IMAGE[warp.ndim], IMAGE[warp.ndim], align_corners)
            np.testing.assert_allclose(backend.numpy(found), identity, rtol=0, atol=4e-15)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", ["warpAffine", "warpPerspective"])
def test_matrices_of_opencv(backend, rng, name, align_corners):
    """Those of WARP_INVERSE_MAP as they are, the others inverted."""
    cv2 = pytest.importorskip("cv2", reason="compares with OpenCV")
    if int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("before OpenCV 5 warps round coordinates to 1/32 pixel")
    warp = AFFINE[2] if name == "warpAffine" else PROJECTIVE
    image, size = (40, 50), (33, 61)
    matrix = matrices(rng, warp, (1,), image, size, coords="pixel", spread=0.5, tilt=0.25)
    input = rng.standard_normal(image).astype(np.float32)
    theta = pystn.pixel_to_normalized(backend.array(matrix), image, size, align_corners)
    value = backend.numpy(warp.forward(backend.array(input[None, None]), theta, size, align_corners=align_corners))[
        0, 0
    ]
    expected = getattr(cv2, name)(input, matrix[0], size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    # Positions in single precision there: some roundings of up to a hundred pixels, on slopes of up to 8.
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-3)
    forward = backend.numpy(pystn.invert(backend.array(matrix)))[0]
    expected = getattr(cv2, name)(input, forward, size[::-1], flags=cv2.INTER_LINEAR)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("warp", [AFFINE[2], PROJECTIVE], ids=["affine", "projective"])
def test_matrices_of_scikit_image(backend, rng, warp):
    transform = pytest.importorskip("skimage.transform", reason="compares with scikit-image")
    image, size = (25, 27), (30, 32)
    matrix = matrices(rng, warp, (1,), image, size, coords="pixel", tilt=0.25)
    input = rng.standard_normal(image)
    inverse_map = matrix[0] if warp.projective else np.vstack([matrix[0], [0, 0, 1]])
    expected = transform.warp(input, inverse_map, output_shape=size, order=1, mode="edge", clip=False)
    theta = pystn.pixel_to_normalized(backend.array(matrix), image, size)
    value = warp.forward(backend.array(input[None, None]), theta, size, padding_mode="border")
    np.testing.assert_allclose(backend.numpy(value)[0, 0], expected, rtol=0, atol=1e-11)


def test_a_turn_of_pixels_in_an_image_that_is_not_square(backend):
    """A turn of normalized coordinates shears pixels; one of pixels is made in pixels."""
    image = (30, 60)
    theta = pystn.rotation_matrix(backend.array(np.array([0.5])))
    sheared = backend.numpy(pystn.normalized_to_pixel(theta, image, image))[:, :2]
    assert np.abs(sheared.T @ sheared - np.eye(2)).max() > 0.5
    turn = np.array(backend.numpy(theta))
    turn[:, 2] = (np.eye(2) - turn[:, :2]) @ [29.5, 14.5]  # about the centre
    converted = backend.numpy(pystn.pixel_to_normalized(backend.array(turn), image, image))
    np.testing.assert_allclose(converted[:, 2], 0, atol=1e-15)


@pytest.mark.parametrize("convert", [pystn.normalized_to_pixel, pystn.pixel_to_normalized])
@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, r"must have shape \(..., ndim, ndim \+ 1\) .*: got \(2, 2\)", (np.eye(2), (4, 5), (4, 5))),
        (ValueError, r"input_size must have 2 entries .*: got \(4,\)", (np.eye(2, 3), (4,), (4, 5))),
        (ValueError, r"output_size must be 1 or more along every axis: got \(4, 0\)", (np.eye(3), (4, 5), (4, 0))),
        (ValueError, r"output_size must not be negative: got \(4, -1\)", (np.eye(2, 3), (4, 5), (4, -1))),
        (TypeError, "input_size must be a tuple of integers, got 4", (np.eye(1, 2), 4, (5,))),
        (TypeError, "align_corners must be True or False, got 'no'", (np.eye(1, 2), (4,), (5,), "no")),
    ],
)
def test_errors_say_what_was_expected_and_given(convert, error, message, arguments):
    with pytest.raises(error, match=message):
        convert(*arguments)
