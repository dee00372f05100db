"""On the lattice: what is chosen where the interpolation has kinks, jumps or ties, by hand."""

import numpy as np
import pytest
from conftest import assert_same_sums

import pystn

# U = [1, 4, 9, 16]: at centre k the left slope is 2 k + 1, the right 2 k + 3.
SQUARES = np.array([1.0, 4.0, 9.0, 16.0]).reshape(1, 1, 1, 4)


def slope(backend, x, **options):
    """dV/dx of SQUARES at pixel coordinate x."""
    point = backend.array(np.array([[[x, 0.0]]]))
    one = backend.array(np.ones((1, 1, 1)))
    _, grad = pystn.grid_sample_vjp(one, backend.array(SQUARES), point, coords="pixel", **options)
    pushed = pystn.grid_sample_jvp(
        backend.array(SQUARES), point, None, backend.array(np.array([[[1.0, 0.0]]])), coords="pixel", **options
    )
    grad, pushed = backend.numpy(grad)[0, 0, 0], backend.numpy(pushed)[0, 0, 0]
    assert grad == pushed
    return grad


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("subgradient, expected", [("right", 5), ("left", 3), ("central", 4), ("zero", 0)])
def test_interior_centre(backend, padding_mode, subgradient, expected):
    assert slope(backend, 1.0, padding_mode=padding_mode, subgradient=subgradient) == expected


@pytest.mark.parametrize(
    "x, right, left, central", [(0.0, 3, 1, 2), (3.0, -16, 7, -4.5), (-1.0, 1, 0, 0.5), (4.0, 0, -16, -8)]
)
def test_zeros_sees_the_fade_to_zero(backend, x, right, left, central):
    """The image goes on with zeros, so the outermost centres and the next ones out are kinks too."""
    assert slope(backend, x, subgradient="right") == right
    assert slope(backend, x, subgradient="left") == left
    assert slope(backend, x, subgradient="central") == central
    assert slope(backend, x, subgradient="zero") == 0


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
@pytest.mark.parametrize("subgradient", ["right", "left", "central", "zero"])
@pytest.mark.parametrize("x", [0.0, 3.0, -0.25, 3.25])
def test_flat_at_and_beyond_the_outermost_centres(backend, padding_mode, subgradient, x):
    assert slope(backend, x, padding_mode=padding_mode, subgradient=subgradient) == 0


def test_reflected_copies_run_backwards(backend):
    """At -2.5 the symmetric image repeats position 1.5, the other way round."""
    assert slope(backend, -2.5, padding_mode="reflection") == -slope(backend, 1.5)


def test_within_rounding_of_a_centre_counts_for_the_two_sided(backend):
    close = 1.0 + 4 * np.finfo(np.float64).eps
    assert slope(backend, close, subgradient="central") == 4
    assert slope(backend, close, subgradient="zero") == 0
    assert slope(backend, 1.0 + 1e-9, subgradient="central") == 5
    assert slope(backend, 1.0 - 1e-9, subgradient="zero") == 3


def test_corner_of_four_cells_takes_the_rule_axis_by_axis(backend, rng):
    image = rng.standard_normal((1, 1, 5, 5))
    point = np.array([[[2.0, 2.0]]])
    u = image[0, 0]
    expected = {
        "right": (u[2, 3] - u[2, 2], u[3, 2] - u[2, 2]),
        "left": (u[2, 2] - u[2, 1], u[2, 2] - u[1, 2]),
        "central": ((u[2, 3] - u[2, 1]) / 2, (u[3, 2] - u[1, 2]) / 2),
        "zero": (0, 0),
    }
    for subgradient, slopes in expected.items():
        _, grad = pystn.grid_sample_vjp(
            backend.array(np.ones((1, 1, 1))),
            backend.array(image),
            backend.array(point),
            coords="pixel",
            subgradient=subgradient,
        )
        np.testing.assert_allclose(backend.numpy(grad)[0, 0], slopes, rtol=1e-15)


@pytest.mark.parametrize("x, pixel", [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (3.5, None)])
def test_nearest_ties_go_to_the_even_pixel(backend, x, pixel):
    value = pystn.grid_sample(backend.array(SQUARES), backend.array(np.array([[[x, 0.0]]])), "nearest", coords="pixel")
    assert backend.numpy(value)[0, 0, 0] == (0 if pixel is None else SQUARES[0, 0, 0, pixel])


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity_grid_is_the_identity(backend, rng, align_corners, mode, dtype):
    image = rng.standard_normal((1, 2, 11, 13)).astype(dtype)
    identity = backend.array(np.array([[[1, 0, 0], [0, 1, 0]]], dtype))
    grid = pystn.affine_grid(identity, (11, 13), align_corners)
    value = pystn.grid_sample(backend.array(image), grid, mode, align_corners=align_corners)
    tolerance = 0 if mode == "nearest" else 30 * np.finfo(dtype).eps
    np.testing.assert_allclose(backend.numpy(value), image, rtol=0, atol=tolerance * np.abs(image).max())


@pytest.mark.parametrize("align_corners", [False, True])
def test_gradient_at_the_identity_is_there_but_for_zero(backend, rng, align_corners):
    """Training starts at the identity: "zero" would never leave it."""
    image = rng.standard_normal((1, 1, 9, 9))
    theta = backend.array(np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]))
    grid = pystn.affine_grid(theta, (9, 9), align_corners)
    cotangent = rng.standard_normal((1, 1, 9, 9))
    for subgradient in ("right", "left", "central", "zero"):
        _, grad = pystn.grid_sample_vjp(
            backend.array(cotangent),
            backend.array(image),
            grid,
            align_corners=align_corners,
            subgradient=subgradient,
        )
        (grad_theta,) = pystn.affine_grid_vjp(grad, theta, (9, 9), align_corners)
        assert np.any(backend.numpy(grad_theta)) == (subgradient != "zero")


def test_a_mismatch_of_conventions_is_seen(backend, rng):
    image = rng.standard_normal((1, 1, 9, 9))
    grid = pystn.affine_grid(backend.array(np.array([[[1.0, 0, 0], [0, 1.0, 0]]])), (9, 9), True)
    value = pystn.grid_sample(backend.array(image), grid, align_corners=False)
    assert np.abs(backend.numpy(value) - image).max() > 0.1


# A ramp up, a step down, flat: [0, 1, 2, 3, 0, 0, 0, 0]. Slopes on either side of centre k:
STEPS = np.array([0.0, 1, 2, 3, 0, 0, 0, 0]).reshape(1, 1, 1, 8)
SLOPES = {
    k: (STEPS[0, 0, 0, k] - STEPS[0, 0, 0, k - 1], STEPS[0, 0, 0, k + 1] - STEPS[0, 0, 0, k]) for k in range(1, 7)
}


@pytest.mark.parametrize("centre", SLOPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("copy", ["the image", "its reflection", "a period on", "far away"])
def test_ramp_and_step(backend, centre, dtype, copy):
    """The side is chosen in the image: a reflected copy has minus the slope of what it repeats.

    Of 8 pixels the symmetric copies repeat every 16, so that all these coordinates are exact.
    """
    left, right = SLOPES[centre]
    x = {"the image": centre, "its reflection": -1 - centre, "a period on": centre + 16, "far away": centre - 1600}[
        copy
    ]
    sign = -1 if copy == "its reflection" else 1
    arrays = [backend.array(a) for a in (np.ones((1, 1, 1), dtype), STEPS.astype(dtype), np.array([[[x, 0]]], dtype))]
    expected = {"left": left, "right": right, "central": (left + right) / 2, "zero": 0}
    for subgradient, slope in expected.items():
        _, grad = pystn.grid_sample_vjp(
            *arrays, padding_mode="reflection", coords="pixel", subgradient=subgradient, wrt="grid"
        )
        assert backend.numpy(grad).tolist() == [[[sign * slope, 0]]]


SMALL = [*range(1, 34), 63, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 500]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_two_sided_slopes_at_the_identity_of_any_size(backend, rng, align_corners, dtype, padding_mode):
    """Rounding moves the identity's coordinates off the centres; within 8 eps n they count as on them."""
    identity = backend.array(np.array([[[1, 0, 0], [0, 1, 0]]], dtype))
    for n in SMALL:
        image = rng.integers(-8, 9, (1, 1, 1, n)).astype(dtype)
        grid = pystn.affine_grid(identity, (1, n), align_corners)
        ones = np.ones((1, 1, 1, n), dtype)
        slopes = {}
        for subgradient in ("central", "zero"):
            options = {"padding_mode": padding_mode, "align_corners": align_corners, "subgradient": subgradient}
            _, grad = pystn.grid_sample_vjp(backend.array(ones), backend.array(image), grid, **options)
            slopes[subgradient] = backend.numpy(grad)[0, 0, :, 0]
        assert not slopes["zero"].any(), n
        padded = np.pad(image[0, 0, 0].astype(float), 1)
        central = (padded[2:] - padded[:-2]) / 2
        if padding_mode != "zeros":
            central[[0, -1]] = 0  # flat at the outermost centres, where the coordinate is clipped
        scale = (n - 1 if align_corners else n) / 2
        np.testing.assert_array_equal(slopes["central"], central * scale)


@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_the_tolerance_widens_the_clip(backend, padding_mode):
    """Within 8 eps n inside the outermost centres the two-sided slopes are flat, the one-sided not."""
    eps = np.finfo(np.float64).eps
    for inside, two_sided in ((4 * 4 * eps, 0.0), (64 * 4 * eps, None)):
        for x, inner in ((inside, 3), (3 - inside, 7)):
            for subgradient in ("central", "zero"):
                expected = inner if two_sided is None else two_sided
                assert slope(backend, x, padding_mode=padding_mode, subgradient=subgradient) == expected
            assert slope(backend, x, padding_mode=padding_mode, subgradient="right") == inner
            assert slope(backend, x, padding_mode=padding_mode, subgradient="left") == inner


@pytest.mark.parametrize("image, grid", [("f4", "f4"), ("f4", "f8"), ("f8", "f4"), ("f8", "f8")])
def test_the_tolerance_is_that_of_the_arithmetic(backend, image, grid):
    """Half of 8 eps n from a centre, in eps of float32: on it only if both are float32."""
    x = 1 + 4 * 4 * np.finfo(np.float32).eps
    arrays = [np.ones((1, 1, 1), image), SQUARES.astype(image), np.array([[[x, 0]]], grid)]
    _, grad = pystn.grid_sample_vjp(*map(backend.array, arrays), coords="pixel", subgradient="central")
    assert backend.numpy(grad)[0, 0, 0] == (4 if (image, grid) == ("f4", "f4") else 5)


def test_zero_is_flat_at_a_corner_of_cells_only_along_the_axis_that_is_on_it(backend, rng):
    image = rng.standard_normal((1, 1, 4, 4))
    point = backend.array(np.array([[[1.0, 1.25]]]))
    one = backend.array(np.ones((1, 1, 1)))
    _, grad = pystn.grid_sample_vjp(one, backend.array(image), point, coords="pixel", subgradient="zero")
    along_x, along_y = backend.numpy(grad)[0, 0]
    assert along_x == 0
    np.testing.assert_allclose(along_y, image[0, 0, 2, 1] - image[0, 0, 1, 1], rtol=1e-14)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_value_and_gradient_to_the_image_do_not_depend_on_the_subgradient(backend, rng, mode, padding_mode):
    grid = rng.integers(-20, 30, (1, 17, 18, 2)) / 2.0
    cotangent, image = rng.standard_normal((1, 2, 17, 18)), rng.standard_normal((1, 2, 9, 10))
    seen = []
    for subgradient in ("right", "left", "central", "zero"):
        options = {"mode": mode, "padding_mode": padding_mode, "coords": "pixel", "subgradient": subgradient}
        arrays = [backend.array(a) for a in (cotangent, image, grid)]
        value = backend.numpy(pystn.grid_sample(*arrays[1:], **options))
        grad_image = backend.numpy(pystn.grid_sample_vjp(*arrays, **options)[0])
        tangent = backend.numpy(pystn.grid_sample_jvp(*arrays[1:], arrays[1], None, **options))
        # Linear in the image: its tangent is sampled as it is.
        np.testing.assert_allclose(tangent, value, rtol=0, atol=1e-14)
        seen.append((value, grad_image))
    for value, grad_image in seen[1:]:
        np.testing.assert_array_equal(value, seen[0][0])
        assert_same_sums(backend, grad_image, seen[0][1])
