"""On the lattice: what is chosen where the interpolation has kinks, jumps or ties, by hand."""

import numpy as np
import pytest

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
    theta = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    grid = pystn.affine_grid(theta, (9, 9), align_corners)
    cotangent = rng.standard_normal((1, 1, 9, 9))
    for subgradient in ("right", "left", "central", "zero"):
        _, grad = pystn.grid_sample_vjp(
            backend.array(cotangent),
            backend.array(image),
            backend.array(grid),
            align_corners=align_corners,
            subgradient=subgradient,
        )
        (grad_theta,) = pystn.affine_grid_vjp(backend.numpy(grad), theta, (9, 9), align_corners)
        assert np.any(grad_theta) == (subgradient != "zero")


def test_a_mismatch_of_conventions_is_seen(backend, rng):
    image = rng.standard_normal((1, 1, 9, 9))
    grid = pystn.affine_grid(np.array([[[1.0, 0, 0], [0, 1.0, 0]]]), (9, 9), True)
    value = pystn.grid_sample(backend.array(image), backend.array(grid), align_corners=False)
    assert np.abs(backend.numpy(value) - image).max() > 0.1
