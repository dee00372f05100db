"""One spatial transformer: what it shows, what else it returns, what it says of wrong arguments."""

import re

import numpy as np
import pytest
from localizations import Linear
from system_cases import SIM2, SL3, SPLINE, WAVE, WINDOW

import pystn
from pystn import SpatialTransformer

IMAGE = np.random.default_rng(0).standard_normal((2, 3, 6, 7))


def says(parameters):
    """A network that says the same of every image."""
    return lambda image: np.broadcast_to(parameters, (len(image), *np.shape(parameters)))


def near(transform, leading=(), ndim=2, seed=0):
    start = pystn.identity_params(transform, ndim)
    return start + np.random.default_rng(seed).uniform(-0.2, 0.2, (*leading, len(start)))


class Recorded(SpatialTransformer):
    """One that keeps which operations it calls."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.called = []

    def _pull(self, f, *arrays, **options):
        self.called.append(f)
        return super()._pull(f, *arrays, **options)


@pytest.mark.parametrize(
    "transform, build",
    [
        ("translation", pystn.translation_matrix),
        ("attention", pystn.attention_matrix),
        ("rotation", pystn.rotation_matrix),
        ("rigid", pystn.rigid_matrix),
        ("similarity", pystn.similarity_matrix),
        ("affine", lambda parameters: parameters.reshape(-1, 2, 3)),
        ("projective", pystn.projective_matrix),
        (pystn.MatrixTransform("rigid"), pystn.rigid_matrix),
        (WINDOW, lambda parameters: pystn.attention_matrix(parameters, 0.5)),
        (pystn.MatrixTransform("similarity", form="log2"), lambda p: pystn.similarity_matrix(p, "log2")),
        (SIM2, lambda parameters: pystn.expm(pystn.lie_generator(parameters, "sim2"))),
        (SL3, lambda parameters: pystn.expm(pystn.lie_generator(parameters, "sl3"))),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_matrices_are_warped_by_as_they_are(transform, build):
    parameters = near(transform, (2,))
    theta = build(parameters)
    warp = pystn.warp_projective if theta.shape[1] == 3 else pystn.warp_affine
    expected = warp(IMAGE, theta, (4, 5), "cubic", "border")
    options = {"mode": "cubic", "padding_mode": "border"}
    found = SpatialTransformer(lambda image: parameters, transform, (4, 5), **options)(IMAGE)
    np.testing.assert_array_equal(found, expected)
    by_function = Recorded(lambda image: parameters, build, (4, 5), **options)
    np.testing.assert_array_equal(by_function(IMAGE), expected)
    assert by_function.called == [warp.__name__]  # which stores no grid


@pytest.mark.parametrize("name, count", [("rotation", 4), ("rigid", 7), ("similarity", 8)])
def test_quaternions(name, count):
    volume = np.random.default_rng(1).standard_normal((2, 1, 3, 4, 5))
    start = np.r_[1.0, 0, 0, 0, np.ones(int(count == 8)), np.zeros(3 * (count > 4))]
    output = SpatialTransformer(says(start), name, padding_mode="border")(volume)
    np.testing.assert_allclose(output, volume, rtol=0, atol=1e-12)


def test_functions_may_be_projective():
    tilt = np.array([1.0, 0, 0.9, 0, 1, 0, 1.5, 0])
    options = {"min_denominator": 0.1, "cull_behind": True}
    found = SpatialTransformer(says(tilt), pystn.projective_matrix, **options)(IMAGE)
    np.testing.assert_array_equal(found, SpatialTransformer(says(tilt), "projective", **options)(IMAGE))


def test_families_and_functions_are_grids():
    theta = near(SPLINE, (2,))
    expected = pystn.grid_sample(IMAGE, SPLINE(theta.reshape(2, 9, 2)))
    np.testing.assert_array_equal(SpatialTransformer(lambda image: theta, SPLINE)(IMAGE), expected)
    np.testing.assert_array_equal(SpatialTransformer(lambda image: theta.reshape(2, 9, 2), SPLINE)(IMAGE), expected)
    assert SpatialTransformer(says(theta[0]), SPLINE).size == (5, 6)
    bent = np.array([[0.1, 0.2], [-0.1, 0.3]])
    expected = pystn.grid_sample(IMAGE, WAVE(bent))
    np.testing.assert_array_equal(SpatialTransformer(lambda image: bent, WAVE)(IMAGE), expected)


def test_the_convention_of_a_family_is_that_of_the_sampler():
    spline = pystn.ThinPlateSpline(pystn.control_points((3, 3)), (6, 7), True)
    output = SpatialTransformer(says(pystn.identity_params(spline)), spline)(IMAGE)
    np.testing.assert_allclose(output, IMAGE, rtol=0, atol=1e-12)


def test_matrices_need_not_be_flat():
    theta = near("affine").reshape(2, 3)
    found = SpatialTransformer(says(theta), size=(3, 3))(IMAGE)
    np.testing.assert_array_equal(found, SpatialTransformer(says(theta.ravel()), size=(3, 3))(IMAGE))


@pytest.mark.parametrize("leading", [(1,), (3,), (2, 4)])
@pytest.mark.parametrize("transform", ["affine", "projective", SPLINE], ids=["affine", "projective", "spline"])
def test_several_transforms_are_each_of_them(transform, leading):
    parameters = near(transform, (2, *leading))
    size = (5, 6)
    output, mask = SpatialTransformer(lambda image: parameters, transform, size, return_mask=True)(IMAGE)
    assert output.shape == (2, 3, *leading, *size)
    for at in np.ndindex(*leading):
        here = (slice(None), *at)
        alone = SpatialTransformer(lambda image, here=here: parameters[here], transform, size, return_mask=True)
        image, covered = alone(IMAGE)
        np.testing.assert_array_equal(output[(slice(None), slice(None), *at)], image)
        np.testing.assert_array_equal(mask[here], covered)


def test_parameters_are_returned_as_they_are():
    parameters = near("rigid", (2,))
    transformer = SpatialTransformer(lambda image: parameters, "rigid", return_parameters=True, return_mask=True)
    (output, mask), found = transformer(IMAGE)
    assert found is parameters
    assert output.shape == IMAGE.shape
    assert mask.shape == (2, 6, 7)
    np.testing.assert_array_equal(transformer.warp(IMAGE, parameters)[0], output)


def test_the_input_has_a_gradient_through_both_ways():
    network = Linear(pystn.identity_params(), IMAGE[0].size)
    output, pullback = SpatialTransformer(network, mode="cubic").pull(IMAGE)
    theta = network(IMAGE).reshape(2, 2, 3)
    sampled, to_theta = pystn.warp_affine_vjp(output, IMAGE, theta, (6, 7), "cubic")
    read, weights = network.vjp(to_theta.reshape(2, 6), IMAGE)
    grad_image, grad_weights = pullback(output)
    np.testing.assert_array_equal(grad_image, sampled + read)
    np.testing.assert_array_equal(grad_weights[0], weights[0])
    again, _ = pullback(output)  # any number of times
    np.testing.assert_array_equal(again, grad_image)


def test_networks_without_gradients_to_the_image_or_weights():
    class Fixed:
        def __call__(self, image):
            return np.tile(pystn.identity_params() + 0.01, (len(image), 1))

        def vjp(self, grad, image):
            return None, None

    grad_image, weights = SpatialTransformer(Fixed()).vjp(IMAGE, IMAGE)
    theta = Fixed()(IMAGE).reshape(2, 2, 3)
    np.testing.assert_array_equal(grad_image, pystn.warp_affine_vjp(IMAGE, IMAGE, theta, (6, 7))[0])
    assert weights is None


def test_single_precision_and_integers():
    network = Linear(pystn.identity_params(), IMAGE[0].size)
    network.weights = tuple(weight.astype("f4") for weight in network.weights)
    transformer = SpatialTransformer(network)
    image = IMAGE.astype("f4")
    grad_image, grad_weights = transformer.vjp(transformer(image), image)
    assert {grad_image.dtype, *(g.dtype for g in grad_weights)} == {np.dtype("f4")}
    levels = (50 * np.abs(IMAGE)).astype("u1")
    output = SpatialTransformer(says(pystn.identity_params(dtype="f4")))(levels)
    np.testing.assert_array_equal(output, levels)


def test_coordinates_in_pixels():
    shift = SpatialTransformer(says([1.0, 0, 2, 0, 1, 1]), size=(2, 3), coords="pixel")
    np.testing.assert_array_equal(shift(IMAGE), IMAGE[..., 1:3, 2:5])


def given(parameters, transform="affine", **options):
    return lambda: SpatialTransformer(lambda image: parameters, transform, **options)(IMAGE)


def pulled(network):
    return lambda: SpatialTransformer(network).vjp(IMAGE, IMAGE)


class Returns:
    """A network whose gradients are what they should not be."""

    def __init__(self, gradients):
        self.gradients = gradients

    def __call__(self, image):
        return np.tile(pystn.identity_params(), (len(image), 1))

    def vjp(self, grad, image):
        return self.gradients


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            "unknown transform: expected one of 'translation', 'attention', 'rotation', 'rigid', 'similarity', "
            "'affine', 'projective', a MatrixTransform, a family's object or a callable, got 'affin'",
            given(None, "affin"),
        ),
        (ValueError, "a family's object or a callable, got ['affine']", given(None, ["affine"])),
        (ValueError, "a family's object or a callable, got None", given(None, None)),
        (TypeError, "a localization must be callable, got float", lambda: SpatialTransformer(1.0)),
        (TypeError, "return_parameters must be True or False, got 1", given(None, return_parameters=1)),
        (
            ValueError,
            "parameters of 'affine' in 2 dimensions must have shape (N, ..., 2, 3) or (N, ..., 6): got (2, 5)",
            given(np.ones((2, 5))),
        ),
        (ValueError, "(N, ..., 2, 3) or (N, ..., 6): got (6,)", given(np.ones(6))),
        (ValueError, "(N, ..., 2, 3) or (N, ..., 6): got (2, 3)", given(np.ones((2, 3)))),
        (TypeError, "parameters of 'affine' in 2 dimensions must be an array, got list", given([[1.0] * 6])),
        (TypeError, "parameters of 'rigid' in 2 dimensions must be an array, got NoneType", given(None, "rigid")),
        (
            ValueError,
            "parameters of 'rigid' in 2 dimensions must have shape (N, ..., 3): got (2, 6)",
            given(np.ones((2, 6)), "rigid"),
        ),
        (
            ValueError,
            "parameters of 'rotation' in 3 dimensions must have shape (N, ..., 3) or (N, ..., 4): got (2, 1)",
            lambda: SpatialTransformer(says([0.0]), "rotation")(np.ones((2, 1, 3, 3, 3))),
        ),
        (
            ValueError,
            "of MatrixTransform('attention', scale=0.5) in 2 dimensions must have shape (N, ..., 2): got (2, 3)",
            given(np.ones((2, 3)), WINDOW),
        ),
        (
            ValueError,
            "must have shape (N, ..., 2, 3) or (N, ..., 3, 3): got (2, 4, 3)",
            given(np.ones((2, 4, 3)), lambda parameters: parameters),
        ),
        (
            ValueError,
            "there is no transform MatrixTransform('exponential', group='sim2') in 1 dimensions",
            lambda: SpatialTransformer(says([0.0]), SIM2)(IMAGE[0]),
        ),
        (
            ValueError,
            "parameters of a ThinPlateSpline must have shape (N, ..., 9, 2) or (N, ..., 18): got (2, 17)",
            given(np.ones((2, 17)), SPLINE),
        ),
        (
            ValueError,
            "there is no transform 'rigid' in 1 dimensions",
            lambda: SpatialTransformer(says([0.0]), "rigid")(IMAGE[0]),
        ),
        (
            ValueError,
            "batch sizes of input and theta must agree or one of them be 1: got 2 and 3",
            given(np.ones((3, 6))),
        ),
        (
            TypeError,
            "theta must be float32 or float64 in native byte order, got dtype int64",
            given(np.ones((2, 6), "i8")),
        ),
        (ValueError, "size must be that of the family, (5, 6), or None: got (6, 5)", given(None, SPLINE, size=(6, 5))),
        (
            ValueError,
            "align_corners must be that of the family, False: got True",
            given(None, SPLINE, align_corners=True),
        ),
        (
            ValueError,
            "coords must be 'normalized' as those of a family: got 'pixel'",
            given(None, SPLINE, coords="pixel"),
        ),
        (ValueError, "size must not be negative: got (-1, 3)", given(None, size=(-1, 3))),
        (
            TypeError,
            "has no option 'paddding': expected some of mode, padding_mode",
            given(np.ones((2, 6)), paddding="border"),
        ),
        (
            TypeError,
            "cull_behind is an option of projective transforms: got 'affine'",
            given(np.ones((2, 6)), cull_behind=True),
        ),
        (
            TypeError,
            "cull_behind is an option of projective transforms: got MatrixTransform('attention', scale=0.5)",
            given(np.ones((2, 2)), WINDOW, cull_behind=True),
        ),
        (ValueError, "unknown padding_mode", given(np.ones((2, 6)), padding_mode="none")),
        (
            TypeError,
            "a localization must have a method vjp(grad_parameters, image), which returns the gradients to the image "
            "and to its weights: function has none",
            pulled(says(pystn.identity_params())),
        ),
        (
            TypeError,
            "a transform that is a function must have a method vjp(grad, parameters), which returns the gradient "
            "to the parameters: function has none",
            lambda: SpatialTransformer(Returns(None), lambda p: pystn.affine_grid(p.reshape(-1, 2, 3), (6, 7))).vjp(
                IMAGE, IMAGE
            ),
        ),
        (
            TypeError,
            "vjp of a localization must return a pair, the gradients to the image and to its weights: that of Returns "
            "returned ndarray",
            pulled(Returns(IMAGE)),
        ),
        (
            ValueError,
            "vjp of a localization must return a gradient to the image of its shape, (2, 3, 6, 7), or None: that of "
            "Returns returned (2, 126)",
            pulled(Returns((IMAGE.reshape(2, -1), None))),
        ),
        (
            ValueError,
            "grad_output must have the shape of the output, (2, 3, 4, 4): got (2, 3, 6, 7)",
            lambda: SpatialTransformer(Returns(None), size=(4, 4)).vjp(IMAGE, IMAGE),
        ),
        (
            TypeError,
            "the cotangent must be a tuple (output, parameters), as what is returned: got shape (2, 3, 6, 7)",
            lambda: SpatialTransformer(Returns(None), return_parameters=True).vjp(IMAGE, IMAGE),
        ),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
