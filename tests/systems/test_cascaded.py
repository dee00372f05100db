"""Transforms in series: composed, or image after image; and from coarse to fine."""

import functools
import re

import numpy as np
import pytest
from localizations import Linear, Tanh, leaves
from system_cases import SHEAR, SPLINE, WAVE

import pystn
from pystn import CascadedSpatialTransformer, HierarchicalSpatialTransformer, SpatialTransformer

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((2, 2, 6, 7))
OPTIONS = {"mode": "cubic", "padding_mode": "border"}


def says(parameters):
    """A network that says the same of every image."""
    return lambda image: np.broadcast_to(parameters, (len(image), *np.shape(parameters)))


def smooth(size):
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    return (np.cos(2 * x + y) + 0.5 * np.sin(3 * y - x) + 2)[None, None]


def homogeneous(theta):
    return np.concatenate([theta, np.broadcast_to([[[0.0, 0, 1]]], (len(theta), 1, 3))], 1)[:, :3]


def test_matrices_are_multiplied_and_the_input_is_sampled_once():
    first, second, third = (Tanh(pystn.identity_params(), IMAGE[0].size, seed=k) for k in range(3))
    output = CascadedSpatialTransformer([first, second, third], **OPTIONS)(IMAGE)
    one = first(IMAGE).reshape(-1, 2, 3)
    two = pystn.compose(one, second(pystn.warp_affine(IMAGE, one, (6, 7), **OPTIONS)).reshape(-1, 2, 3))
    three = pystn.compose(two, third(pystn.warp_affine(IMAGE, two, (6, 7), **OPTIONS)).reshape(-1, 2, 3))
    np.testing.assert_array_equal(output, pystn.warp_affine(IMAGE, three, (6, 7), **OPTIONS))
    by_hand = homogeneous(two)
    by_hand = by_hand @ homogeneous(third(pystn.warp_affine(IMAGE, two, (6, 7), **OPTIONS)).reshape(-1, 2, 3))
    np.testing.assert_allclose(three, by_hand[:, :2], rtol=0, atol=1e-14)


def test_affine_and_projective_matrices_make_projective_ones():
    turn, tilt = np.array([0.2]), pystn.identity_params("projective") + 0.05
    output = CascadedSpatialTransformer([says(turn), says(tilt), says(-turn)], ("rotation", "projective", "rotation"))(
        IMAGE
    )
    matrices = [homogeneous(pystn.rotation_matrix(a[None])) for a in (turn, -turn)]
    whole = matrices[0] @ pystn.projective_matrix(tilt[None]) @ matrices[1]
    np.testing.assert_allclose(output, pystn.warp_projective(IMAGE, whole, (6, 7)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["affine", "projective"])
def test_a_matrix_moves_the_points_of_a_later_grid(name):
    start = pystn.identity_params(name) + RNG.uniform(-0.1, 0.1, pystn.identity_params(name).shape)
    theta = SPLINE.identity()[0] + RNG.uniform(-0.1, 0.1, (9, 2))
    cascade = CascadedSpatialTransformer([says(start), says(theta)], (name, SPLINE), **OPTIONS)
    grid = SPLINE(theta[None])
    matrix = pystn.projective_matrix(start[None])[0] if name == "projective" else homogeneous(start.reshape(1, 2, 3))[0]
    points = np.concatenate([grid, np.ones_like(grid[..., :1])], -1) @ matrix.T
    expected = pystn.grid_sample(IMAGE, points[..., :2] / points[..., 2:], **OPTIONS)
    np.testing.assert_allclose(cascade(IMAGE), expected, rtol=0, atol=1e-12)


def test_the_horizon_is_that_of_every_projective_map():
    """And of no other, as the identity through which a hierarchy looks first."""
    tilt = np.array([1.0, 0, 0.9, 0, 1, 0, 1.5, 0])
    theta = pystn.projective_matrix(tilt[None])
    options = {"cull_behind": True, "min_denominator": 0.1}
    grid = pystn.projective_grid(theta, (5, 6), **options)
    still = says(pystn.identity_params(SPLINE))
    expected = pystn.grid_sample(IMAGE, grid)
    assert np.abs(expected - pystn.grid_sample(IMAGE, pystn.projective_grid(theta, (5, 6)))).max() > 0.1
    for transforms in (("projective", SPLINE), ("projective", "rotation", SPLINE)):
        networks = [says(tilt), *[says(np.zeros(1))] * (len(transforms) - 2), still]
        found = CascadedSpatialTransformer(networks, transforms, **options)(IMAGE)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    composed = pystn.compose_grids(SPLINE(SPLINE.identity()), grid)
    found = CascadedSpatialTransformer([still, says(tilt)], (SPLINE, "projective"), **options)(IMAGE)
    np.testing.assert_array_equal(found, pystn.grid_sample(IMAGE, composed))
    coarse = HierarchicalSpatialTransformer([says(tilt)], "projective", (5, 6), **options)
    np.testing.assert_allclose(coarse(IMAGE), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["affine", "projective"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_a_grid_is_interpolated_where_a_later_matrix_says(name, align_corners):
    spline = pystn.ThinPlateSpline(pystn.control_points((3, 3)), (5, 6), align_corners)
    start = pystn.identity_params(name) + RNG.uniform(-0.1, 0.1, pystn.identity_params(name).shape)
    theta = spline.identity() + RNG.uniform(-0.1, 0.1, (1, 9, 2))
    cascade = CascadedSpatialTransformer([says(theta[0]), says(start)], (spline, name), **OPTIONS)
    if name == "projective":
        later = pystn.projective_grid(pystn.projective_matrix(start[None]), (5, 6), align_corners)
    else:
        later = pystn.affine_grid(start.reshape(1, 2, 3), (5, 6), align_corners)
    grid = pystn.compose_grids(spline(theta), later, align_corners)
    expected = pystn.grid_sample(IMAGE, grid, align_corners=align_corners, **OPTIONS)
    np.testing.assert_array_equal(cascade(IMAGE), expected)


def test_grids_of_an_affine_map_compose_as_its_matrix():
    """Whatever the units: interpolation of an affine field is exact."""
    image = smooth((9, 11))
    first, second = np.array([[0.8, 0.1, 0.05], [-0.1, 0.9, 0.0]]), np.array([[0.7, -0.2, 0.02], [0.1, 0.6, 0.1]])
    lattice = pystn.affine_grid(np.eye(2, 3)[None], (9, 11))

    def grid(parameters, coords):
        theta = parameters[0].reshape(2, 3)
        points = lattice if coords == "normalized" else (lattice * [11, 9] + [10, 8]) / 2
        return points @ theta[:, :2].T + theta[:, 2]

    for coords in ("normalized", "pixel"):
        scale = np.eye(3) if coords == "normalized" else np.array([[5.5, 0, 5], [0, 4.5, 4], [0, 0, 1]])
        one, two = ((scale @ homogeneous(m[None])[0] @ np.linalg.inv(scale))[:2] for m in (first, second))
        as_grid = functools.partial(grid, coords=coords)
        plain = CascadedSpatialTransformer([says(one.ravel()), says(two.ravel())], coords=coords)(image)
        for transforms in ((as_grid, "affine"), ("affine", as_grid), (as_grid, as_grid)):
            cascade = CascadedSpatialTransformer([says(one.ravel()), says(two.ravel())], transforms, coords=coords)
            np.testing.assert_allclose(cascade(image), plain, rtol=0, atol=1e-12)


def test_a_cascade_of_images_is_two_layers():
    networks = [
        Linear(pystn.identity_params("similarity"), IMAGE[0].size),
        Tanh(pystn.identity_params(SPLINE), 2 * 5 * 6),
    ]
    cascade = CascadedSpatialTransformer(networks, ("similarity", SPLINE), propagate="image", mode="cubic")
    first = SpatialTransformer(networks[0], "similarity", (5, 6), mode="cubic")
    second = SpatialTransformer(networks[1], SPLINE, mode="cubic")
    between = first(IMAGE)
    output, pullback = cascade.pull(IMAGE)
    np.testing.assert_array_equal(output, second(between))
    grad_between, second_weights = second.vjp(output, between)
    grad_image, first_weights = first.vjp(grad_between, IMAGE)
    found, weights = pullback(output)
    np.testing.assert_array_equal(found, grad_image)
    for one, other in zip(leaves(weights), leaves((first_weights, second_weights)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("system", [CascadedSpatialTransformer, HierarchicalSpatialTransformer])
def test_parameters_are_the_warp_of_all_stages(system):
    steps = [says([0.5, 0.25, -0.5]), says([0.5, 0.0, 0.5])]
    output, theta = system(steps, "attention", return_parameters=True)(IMAGE)
    np.testing.assert_array_equal(theta, np.broadcast_to([[0.25, 0, 0.25], [0, 0.25, -0.25]], (2, 2, 3)))
    np.testing.assert_array_equal(output, pystn.warp_affine(IMAGE, theta, (6, 7)))
    np.testing.assert_array_equal(pystn.theta_to_box(theta)[0], [0, -0.5, 0.5, 0])


def test_the_warp_of_all_stages_may_be_a_grid():
    theta = SPLINE.identity()[0] + RNG.uniform(-0.1, 0.1, (9, 2))
    cascade = CascadedSpatialTransformer([says([0.2]), says(theta)], ("rotation", SPLINE), return_parameters=True)
    output, grid = cascade(IMAGE)
    np.testing.assert_array_equal(output, pystn.grid_sample(IMAGE, grid))


def test_what_turns_out_of_sight_comes_back():
    """MATH 1.11: by 45 degrees and back; the image that is passed on has lost its corners."""
    image = smooth((16, 16))
    turn = np.array([np.pi / 4])
    networks = [says(turn), says(-turn)]
    once = CascadedSpatialTransformer(networks, "rotation")(image)
    twice = CascadedSpatialTransformer(networks, "rotation", propagate="image")(image)
    np.testing.assert_allclose(once, image, rtol=0, atol=1e-12)
    corners = (..., [0, 0, -1, -1], [0, -1, 0, -1])
    assert np.abs(twice[corners]).max() == 0
    assert image[corners].min() > 0.4
    middle = (..., slice(5, -5), slice(5, -5))
    assert 1e-4 < np.abs(twice - image)[middle].max() < 0.05  # and is blurred where it has not


def test_the_mask_is_that_of_what_is_sampled():
    shift = says([0.5, 0.0])
    for propagate in ("warp", "image"):
        cascade = CascadedSpatialTransformer(
            [shift, says([-0.5, 0.0])], "translation", propagate=propagate, return_mask=True
        )
        output, mask = cascade(np.ones((1, 1, 4, 8)))
        assert bool((mask == 1).all()) == (propagate == "warp")
        assert bool((output == 1).all()) == (propagate == "warp")


def test_every_network_sees_what_is_so_far():
    seen = []

    def shift(image):
        seen.append(image)
        return np.tile([0.25, 0.0], (len(image), 1))

    image = np.arange(8.0).reshape(1, 1, 1, 8)
    output = CascadedSpatialTransformer([shift] * 3, "translation", (1, 4), mode="nearest")(image)
    assert seen[0] is image
    for k, view in enumerate(seen[1:], start=1):
        expected = pystn.warp_affine(image, np.array([[[1, 0, k / 4], [0, 1, 0]]]), (1, 4), "nearest")
        np.testing.assert_array_equal(view, expected)
    assert output.shape == (1, 1, 1, 4)


def test_several_transforms_of_each_input_are_refined_alike():
    thetas = np.eye(2, 3) + RNG.uniform(-0.1, 0.1, (2, 3, 2, 3))
    cascade = CascadedSpatialTransformer([lambda image: thetas] * 2, size=(4, 5))
    expected = pystn.warp_affine(IMAGE, pystn.compose(thetas, thetas), (4, 5))
    np.testing.assert_array_equal(cascade(IMAGE), expected)


class TestHierarchical:
    def test_sizes_from_coarse_to_fine(self):
        seen = []

        def network(image):
            seen.append(image.shape[2:])
            return np.tile(pystn.identity_params(), (len(image), 1))

        HierarchicalSpatialTransformer([network] * 4, size=(9, 20))(IMAGE)
        assert seen == [(2, 3), (3, 5), (5, 10), (9, 20)]
        seen.clear()
        HierarchicalSpatialTransformer([network] * 2, scales=(3, 2))(IMAGE)
        assert seen == [(2, 3), (3, 4)]

    @pytest.mark.parametrize("antialias", ["mipmap", None])
    def test_views_are_those_of_the_input_through_the_warp(self, antialias):
        seen = []

        def network(image):
            seen.append(image)
            return np.tile(pystn.identity_params() + 0.1, (len(image), 1))

        output = HierarchicalSpatialTransformer([network] * 2, view_antialias=antialias, **OPTIONS)(IMAGE)
        step = (pystn.identity_params() + 0.1).reshape(1, 2, 3)
        for view, theta, size in zip(seen, (np.eye(2, 3)[None], step), ((3, 4), (6, 7)), strict=True):
            expected = pystn.warp_affine(IMAGE, theta, size, antialias=antialias, **OPTIONS)
            np.testing.assert_array_equal(view, expected)
        expected = pystn.warp_affine(IMAGE, pystn.compose(step, step), (6, 7), **OPTIONS)
        np.testing.assert_array_equal(output, expected)

    def test_parameters_mean_the_same_at_every_resolution(self):
        steps = [says(pystn.identity_params("similarity") + RNG.uniform(-0.1, 0.1, 4)) for _ in range(3)]
        plain = CascadedSpatialTransformer(steps, "similarity", (5, 8))(IMAGE)
        np.testing.assert_array_equal(HierarchicalSpatialTransformer(steps, "similarity", (5, 8))(IMAGE), plain)

    def test_images_of_other_layouts_and_dimensions(self):
        line = HierarchicalSpatialTransformer([says([1.0, 0.0])] * 2, padding_mode="border")
        values = RNG.standard_normal((2, 1, 9))
        np.testing.assert_allclose(line(values), values, rtol=0, atol=1e-12)
        last = HierarchicalSpatialTransformer([says([0.1])] * 2, "rotation", channel_axis=-1)(np.moveaxis(IMAGE, 1, -1))
        first = HierarchicalSpatialTransformer([says([0.1])] * 2, "rotation")(IMAGE)
        np.testing.assert_allclose(np.moveaxis(last, -1, 1), first, rtol=0, atol=1e-12)


class Fixed:
    def __init__(self, weights):
        self.weights = weights

    def __call__(self, image):
        return np.tile(pystn.identity_params(), (len(image), 1))

    def vjp(self, grad, image):
        return np.zeros_like(image), self.weights


def test_gradients_of_each_network_are_as_it_has_them():
    weights = [np.ones(2), {"a": None}, None, [(np.ones(1),)]]
    found = CascadedSpatialTransformer([Fixed(w) for w in weights]).vjp(IMAGE, IMAGE)[1]
    assert isinstance(found, tuple)
    assert list(found) == weights


CASCADES = [CascadedSpatialTransformer, HierarchicalSpatialTransformer]


@pytest.mark.parametrize("system", CASCADES)
@pytest.mark.parametrize(
    "error, message, arguments, options",
    [
        (TypeError, "localizations must be a tuple or list of networks, got builtin_function_or_method", (len,), {}),
        (ValueError, "localizations must be one network or more, got none", ([],), {}),
        (TypeError, "a localization must be callable, got NoneType", ([len, None],), {}),
        (ValueError, "unknown transform: expected one of", ([len], "affin"), {}),
        (ValueError, "unknown transform: expected one of", ([len], ["affin"]), {}),
        (
            ValueError,
            "there are 2 networks, and 1 entry of transform: expected one for each",
            ([len] * 2, ["affine"]),
            {},
        ),
        (ValueError, "there are 2 networks, and 3 entries of transform", ([len] * 2, ["affine"] * 3), {}),
    ],
)
def test_errors_of_both(system, error, message, arguments, options):
    with pytest.raises(error, match=re.escape(message)):
        system(*arguments, **options)


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            "unknown propagate: expected one of 'warp', 'image', got 'both'",
            lambda: CascadedSpatialTransformer([len], propagate="both"),
        ),
        (
            ValueError,
            "return_parameters=True is for propagate='warp': images are not sampled by one warp",
            lambda: CascadedSpatialTransformer([len], propagate="image", return_parameters=True),
        ),
        (
            ValueError,
            "size must be that of the family, (6, 7), or None: got (5, 6)",
            lambda: CascadedSpatialTransformer(
                [len] * 2, (SPLINE, pystn.ThinPlateSpline(pystn.control_points((3, 3)), (6, 7)))
            ),
        ),
        (
            ValueError,
            "parameters of 'rigid' in 2 dimensions must have shape (N, ..., 3): got (2, 6)",
            lambda: CascadedSpatialTransformer([says(np.ones(6))] * 2, ("affine", "rigid"))(IMAGE),
        ),
        (
            ValueError,
            "all stages must have as many axes of transforms: got parameters of 1 after 0",
            lambda: CascadedSpatialTransformer([says(np.ones(6)), says(np.ones((2, 6)))])(IMAGE),
        ),
        (
            ValueError,
            "transform must be by matrices, which have no size of their own: got ThinPlateSpline",
            lambda: HierarchicalSpatialTransformer([len], SPLINE),
        ),
        (
            ValueError,
            "transform must be by matrices, which have no size of their own: got <",
            lambda: HierarchicalSpatialTransformer([says(np.ones(2))] * 2, (SHEAR, WAVE))(IMAGE),
        ),
        (
            ValueError,
            "there are 2 networks, and 1 entry of scales: expected one for each",
            lambda: HierarchicalSpatialTransformer([len] * 2, scales=[1]),
        ),
        (
            TypeError,
            "scales must be a sequence of integers, got 2",
            lambda: HierarchicalSpatialTransformer([len], scales=2),
        ),
        (
            ValueError,
            "an entry of scales must be 1 or more: got 0",
            lambda: HierarchicalSpatialTransformer([len], scales=[0]),
        ),
        (
            TypeError,
            "an entry of scales must be an integer",
            lambda: HierarchicalSpatialTransformer([len], scales=[1.5]),
        ),
        (
            ValueError,
            "coords must be 'normalized', which every resolution has: got 'pixel'",
            lambda: HierarchicalSpatialTransformer([len], coords="pixel"),
        ),
        (
            ValueError,
            "unknown antialias",
            lambda: HierarchicalSpatialTransformer([says(np.ones(6))], view_antialias="blur")(IMAGE),
        ),
        (
            TypeError,
            "a localization must have a method vjp(grad_parameters, image)",
            lambda: CascadedSpatialTransformer([says(pystn.identity_params())]).vjp(IMAGE, IMAGE),
        ),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
