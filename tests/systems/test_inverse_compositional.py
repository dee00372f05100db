"""One network that refines a warp: updates on both sides, inverted, in a frame; gradients summed over the steps."""

import re
from typing import NamedTuple

import numpy as np
import pytest
from localizations import Linear, Tanh, leaves
from system_cases import SPLINE, WAVE

import pystn
from pystn import CascadedSpatialTransformer, InverseCompositionalSpatialTransformer, SpatialTransformer
from pystn.systems.base import added

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 2, 6, 7))
LAST = np.array([[[0.0, 0.0, 1.0]]])


class Recording:
    """A network that keeps what it has seen and said."""

    def __init__(self, network):
        self.network, self.seen, self.said = network, [], []

    def __call__(self, image):
        self.seen.append(image)
        self.said.append(self.network(image))
        return self.said[-1]


def square(theta):
    """Homogeneous matrices (N, 3, 3)."""
    return theta if theta.shape[-2] == 3 else np.concatenate([theta, np.broadcast_to(LAST, (len(theta), 1, 3))], 1)


def matrices(name, parameters):
    return pystn.projective_matrix(parameters) if name == "projective" else square(parameters.reshape(-1, 2, 3))


def network(name="affine", size=(6, 7), kind=Linear):
    return kind(pystn.identity_params(name), 2 * size[0] * size[1], seed=4)


def through(image, matrix, size, **options):
    """An image through homogeneous matrices, (N, 3, 3)."""
    return pystn.warp_projective(image, matrix, size, **options)


@pytest.mark.parametrize("order", ["right", "left"])
@pytest.mark.parametrize("invert_update", [False, True])
@pytest.mark.parametrize("name", ["affine", "projective"])
@pytest.mark.parametrize("frame", [None, np.array([[0.6, 0.1, 0.2], [0.0, 0.7, -0.1]])], ids=["whole", "frame"])
def test_it_is_what_numpy_says(order, invert_update, name, frame):
    """Lin and Lucey: M <- dM M / (dM M)[2, 2], or M dM, each predicted from the image through R M."""
    recorded = Recording(network(name))
    options = {"mode": "cubic", "padding_mode": "border"}
    refine = InverseCompositionalSpatialTransformer(
        recorded, name, steps=3, order=order, invert_update=invert_update, frame=frame, **options
    )
    initial = square(np.eye(2, 3) + RNG.uniform(-0.1, 0.1, (2, 2, 3)))
    if name == "projective":
        initial[:, 2, :2] = 0.1
    output = refine(IMAGE, initial if name == "projective" else initial[:, :2])
    placing = np.eye(3) if frame is None else square(frame[None])[0]
    matrix = initial
    for view, said in zip(recorded.seen, recorded.said, strict=True):
        np.testing.assert_allclose(view, through(IMAGE, placing @ matrix, (6, 7), **options), rtol=0, atol=1e-11)
        update = matrices(name, said)
        if invert_update:
            update = np.linalg.inv(update)
        matrix = matrix @ update if order == "right" else update @ matrix
        matrix = matrix / matrix[:, 2:, 2:]
    np.testing.assert_allclose(output, through(IMAGE, placing @ matrix, (6, 7), **options), rtol=0, atol=1e-11)


@pytest.mark.parametrize("transform", ["rigid", SPLINE], ids=["rigid", "spline"])
def test_from_the_right_it_is_a_cascade_whose_gradients_are_summed(transform):
    spline = transform is SPLINE
    shared = network(transform, (5, 6) if spline else (6, 7), Tanh)
    options = {"padding_mode": "border", "mode": "cubic"}
    image = IMAGE[..., :5, :6] if spline else IMAGE
    refine = InverseCompositionalSpatialTransformer(shared, transform, steps=3, **options)
    cascade = CascadedSpatialTransformer([shared] * 3, transform, **options)
    output, pullback = refine.pull(image)
    np.testing.assert_allclose(output, cascade(image), rtol=0, atol=1e-12)
    grad_image, weights = pullback(output)
    expected, each = cascade.vjp(output, image)
    np.testing.assert_allclose(grad_image, expected, rtol=0, atol=1e-10)
    assert isinstance(weights, dict)
    for name, gradient in weights.items():
        np.testing.assert_allclose(gradient, sum(stage[name] for stage in each), rtol=0, atol=1e-10)


def test_one_step_from_the_identity_is_a_spatial_transformer():
    shared = network("similarity")
    refine = InverseCompositionalSpatialTransformer(shared, "similarity", (4, 5), steps=1, padding_mode="border")
    single = SpatialTransformer(shared, "similarity", (4, 5), padding_mode="border")
    shared.features = 2 * 4 * 5
    small = Linear(pystn.identity_params("similarity"), 2 * 4 * 5, seed=4)
    refine.localization = small
    view = pystn.warp_affine(IMAGE, np.eye(2, 3)[None], (4, 5), padding_mode="border")
    np.testing.assert_array_equal(refine(IMAGE), single.warp(IMAGE, small(view)))


def test_inverted_updates_of_an_inverse_are_updates():
    steps = np.array([[0.1, 1.1, 0.05, -0.2]])
    inverse = pystn.invert(pystn.similarity_matrix(steps)).reshape(1, 6)
    plain = InverseCompositionalSpatialTransformer(lambda image: steps, "similarity")(IMAGE)
    inverted = InverseCompositionalSpatialTransformer(lambda image: inverse, "affine", invert_update=True)(IMAGE)
    np.testing.assert_allclose(inverted, plain, rtol=0, atol=1e-12)


def test_projective_warps_end_in_one_from_the_first_step():
    """Also that of an inverse, whose last entry is another: `min_denominator` is in units of it."""
    tilt = np.array([[1.0, 0, 0.5, 0, 1, 0, 0.8, 0]])
    inverse = np.linalg.inv(pystn.projective_matrix(tilt))
    assert inverse[0, 2, 2] > 1.5
    options = {"min_denominator": 1.0, "padding_mode": "border"}
    refine = InverseCompositionalSpatialTransformer(
        lambda image: tilt, "projective", steps=1, invert_update=True, **options
    )
    expected = pystn.warp_projective(IMAGE, inverse / inverse[:, 2:, 2:], (6, 7), **options)
    assert np.abs(expected - pystn.warp_projective(IMAGE, inverse, (6, 7), **options)).max() > 0.1
    np.testing.assert_allclose(refine(IMAGE), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform", ["affine", SPLINE], ids=["affine", "spline"])
def test_a_frame_is_the_crop_that_it_says(transform):
    """36 of 50 pixels as Lin and Lucey have it, here 6 x 6 of 10 x 12, and what the crop left out comes in."""
    large = RNG.standard_normal((1, 1, 10, 12))
    spline = pystn.ThinPlateSpline(pystn.control_points((3, 3)), (6, 6))
    transform = spline if transform is SPLINE else transform
    still = Recording(lambda image: pystn.identity_params(transform)[None])
    frame = np.array([[6 / 12, 0, 0], [0, 6 / 10, 0]])
    output = InverseCompositionalSpatialTransformer(still, transform, (6, 6), steps=2, frame=frame)(large)
    for view in (*still.seen, output):
        np.testing.assert_allclose(view, large[..., 2:8, 3:9], rtol=0, atol=1e-12)

    def shift(image):
        """A pixel of the frame to the right, of three to its border."""
        return np.array([[1.0, 0, 1 / 3, 0, 1, 0]]) if transform == "affine" else moved

    moved = (spline.identity() + np.array([1 / 3, 0])).reshape(1, 18)
    output = InverseCompositionalSpatialTransformer(shift, transform, (6, 6), steps=3, frame=frame)(large)
    np.testing.assert_allclose(output, large[..., 2:8, 6:12], rtol=0, atol=1e-12)
    with_start = InverseCompositionalSpatialTransformer(shift, transform, (6, 6), steps=1, frame=frame)
    start = np.array([[[1, 0, -2 / 3], [0, 1, 1 / 3]]])
    np.testing.assert_allclose(with_start(large, start), large[..., 3:9, 2:8], rtol=0, atol=1e-12)
    assert (
        with_start(large, None)
        == InverseCompositionalSpatialTransformer(shift, transform, (6, 6), steps=1, frame=frame)(large)
    ).all()


def test_the_parameters_are_a_warp_of_the_whole_input():
    frame, start = np.array([[0.5, 0, 0.25], [0, 0.5, 0]]), np.tile([[1, 0, 0.5], [0, 1, 0]], (2, 1, 1))
    refine = InverseCompositionalSpatialTransformer(
        lambda image: np.full((2, 2), -0.25), "translation", steps=2, frame=frame, return_parameters=True
    )
    output, theta = refine(IMAGE, start)
    np.testing.assert_array_equal(theta, np.tile([[0.5, 0, 0.25], [0, 0.5, -0.25]], (2, 1, 1)))
    np.testing.assert_array_equal(output, pystn.warp_affine(IMAGE, theta, (6, 7)))


def test_a_frame_of_lists_and_in_single_precision():
    single = IMAGE.astype("f4")
    refine = InverseCompositionalSpatialTransformer(
        lambda image: np.tile(pystn.identity_params(dtype="f4"), (2, 1)), frame=[[0.5, 0, 0], [0, 0.5, 0]]
    )
    output = refine(single)
    assert output.dtype == np.float32
    theta = np.array([[[0.5, 0, 0], [0, 0.5, 0]]], "f4")
    np.testing.assert_array_equal(output, pystn.warp_affine(single, theta, (6, 7)))


def test_the_network_is_called_at_every_step():
    recorded = Recording(lambda image: np.zeros((len(image), 2)))
    InverseCompositionalSpatialTransformer(recorded, "translation")(IMAGE)
    assert len(recorded.seen) == 4


def test_the_mask_is_that_of_the_output():
    shift = InverseCompositionalSpatialTransformer(
        lambda image: np.array([[0.5, 0.0]]), "translation", steps=2, return_mask=True
    )
    output, mask = shift(np.ones((1, 1, 2, 8)))
    np.testing.assert_array_equal(mask[0], output[0, 0])
    np.testing.assert_array_equal(mask[0, 0], [1, 1, 1, 1, 0, 0, 0, 0])


class Pair(NamedTuple):
    weight: object
    bias: object


ONE, TWO = np.ones(2), np.full(2, 2.0)


@pytest.mark.parametrize(
    "first, second, expected",
    [
        (ONE, TWO, ONE + TWO),
        (None, None, None),
        (None, TWO, TWO),
        ((ONE, None), (TWO, None), (ONE + TWO, None)),
        ([ONE], [None], [ONE]),
        (Pair(ONE, None), Pair(TWO, TWO), Pair(ONE + TWO, TWO)),
        ({"b": ONE, "a": (ONE,)}, {"a": (TWO,), "c": TWO}, {"b": ONE, "a": (ONE + TWO,), "c": TWO}),
        (1.5, 2.0, 3.5),
    ],
)
def test_gradients_of_the_same_weights_are_added(first, second, expected):
    found = added(first, second)
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)  # in an order that does not change from run to run
    assert len(leaves(found)) == len(leaves(expected)) if not isinstance(found, float) else found == expected
    for one, other in zip(leaves(found), leaves(expected), strict=True) if not isinstance(found, float) else ():
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "first, second, given",
    [
        ((ONE, ONE), (ONE,), "a tuple of 2 and a tuple of 1"),
        ((ONE,), [ONE], "a tuple of 1 and a list of 1"),
        (ONE, {"a": ONE}, "shape (2,) and a dict of 1"),
        ({"a": ONE}, ONE, "a dict of 1 and shape (2,)"),
        ([{"a": ONE}], [{"a": np.ones(3)}], "shape (2,) and shape (3,)"),
        (np.ones((2, 1)), np.ones(2), "shape (2, 1) and shape (2,)"),
    ],
)
def test_gradients_of_other_structure_are_not_of_the_same_weights(first, second, given):
    message = f"gradients to the same image or weights must have one structure each time: got {given}"
    with pytest.raises(ValueError, match=re.escape(message)):
        added(first, second)


def made(**options):
    return lambda: InverseCompositionalSpatialTransformer(lambda image: np.ones((2, 6)), **options)


def called(*others, **options):
    return lambda: made(**options)()(IMAGE, *others)


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, "unknown order: expected one of 'right', 'left', got 'both'", made(order="both")),
        (ValueError, "steps must be 1 or more: got 0", made(steps=0)),
        (TypeError, "steps must be an integer", made(steps=2.0)),
        (TypeError, "invert_update must be True or False, got 1", made(invert_update=1)),
        (
            ValueError,
            "order='left' and invert_update=True are for transforms by matrices: got ThinPlateSpline",
            made(transform=SPLINE, order="left"),
        ),
        (ValueError, "order='left' and invert_update=True are for", called(transform=WAVE, invert_update=True)),
        (ValueError, "a family's object or a callable, got ('affine',)", made(transform=("affine",))),
        (ValueError, "frame must be a matrix (ndim, ndim + 1), got shape (3, 3)", made(frame=np.eye(3))),
        (ValueError, "frame must be a matrix (ndim, ndim + 1), got shape (1, 2, 3)", made(frame=np.eye(2, 3)[None])),
        (ValueError, "frame must be a matrix (2, 3) for this input, got shape (3, 4)", called(frame=np.eye(3, 4))),
        (
            ValueError,
            "the warp to start from must have shape (N, ..., 2, 3) or (N, ..., 3, 3): got (2, 6)",
            called(np.ones((2, 6))),
        ),
        (ValueError, "(N, ..., 2, 3) or (N, ..., 3, 3): got (2, 3)", called(np.eye(2, 3))),
        (TypeError, "the warp to start from must be an array, got list", called([[1.0]])),
        (
            ValueError,
            "batch sizes of input and theta must agree or one of them be 1: got 2 and 3",
            called(np.ones((3, 2, 3))),
        ),
        (TypeError, "expected the input and the warp to start from, got 3 arguments", called(None, None)),
        (TypeError, "a localization must be callable, got int", lambda: InverseCompositionalSpatialTransformer(1)),
        (ValueError, "parameters of 'rigid' in 2 dimensions must have shape", called(transform="rigid")),
        (
            ValueError,
            "theta[0] is singular",
            lambda: InverseCompositionalSpatialTransformer(lambda image: np.zeros((2, 6)), invert_update=True)(IMAGE),
        ),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
