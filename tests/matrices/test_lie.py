"""Lie algebras: their generators written out, transforms of each group, and round trips."""

import numpy as np
import pytest
from matrix_operations import LIE

import pystn

WRITTEN = {
    "se2": lambda a, x, y: [[0, -a, x], [a, 0, y]],
    "sim2": lambda a, s, x, y: [[s, -a, x], [a, s, y]],
    "aff2": lambda a, b, c, d, e, f: [[a, b, c], [d, e, f]],
    "sl3": lambda a, b, c, d, e, f, g, h: [[c, b, a], [f, -c - g, e], [d, h, g]],
    "se3": lambda a, b, c, x, y, z: [[0, -c, b, x], [c, 0, -a, y], [-b, a, 0, z]],
    "sim3": lambda a, b, c, s, x, y, z: [[s, -c, b, x], [c, s, -a, y], [-b, a, s, z]],
    "aff3": lambda *p: [p[:4], p[4:8], p[8:]],
}
every_group = pytest.mark.parametrize("group", LIE)


@every_group
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_generators(backend, rng, group, dtype):
    params = rng.standard_normal((3, LIE[group])).astype(dtype)
    generator = backend.numpy(pystn.lie_generator(backend.array(params), group))
    expected = np.array([WRITTEN[group](*row) for row in params.astype(float)]).astype(dtype)
    np.testing.assert_array_equal(generator, expected)


@every_group
def test_transforms_are_of_the_group(backend, rng, group):
    params = rng.uniform(-1, 1, (20, LIE[group]))
    matrix = backend.numpy(pystn.expm(pystn.lie_generator(backend.array(params), group)))
    n = int(group[-1])
    linear = matrix[..., :n]
    if group == "sl3":
        np.testing.assert_allclose(np.linalg.det(matrix), 1, atol=1e-12)
    if group.startswith("s") and group != "sl3":
        scale = np.exp(params[:, 1 if n == 2 else 3]) if group.startswith("sim") else np.ones(20)
        gram = linear.swapaxes(-1, -2) @ linear
        np.testing.assert_allclose(gram, scale[:, None, None] ** 2 * np.eye(n), atol=1e-13)
        turns = params[:, : 1 if n == 2 else 3]
        rotation = backend.numpy(pystn.rotation_matrix(backend.array(turns)))[..., :n]
        np.testing.assert_allclose(linear, scale[:, None, None] * rotation, atol=1e-13)
    # The inverse is of the group too, and of minus the parameters.
    back = backend.numpy(pystn.expm(pystn.lie_generator(backend.array(-params), group)))
    np.testing.assert_allclose(back, backend.numpy(pystn.invert(backend.array(matrix))), rtol=0, atol=1e-12)


@every_group
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 2e-6)])
def test_round_trips(backend, rng, group, dtype, tolerance):
    params = rng.uniform(-0.6, 0.6, (20, LIE[group])).astype(dtype)
    generator = pystn.lie_generator(backend.array(params), group)
    np.testing.assert_allclose(
        backend.numpy(pystn.lie_parameters(generator, group)), params, rtol=0, atol=tolerance / 4
    )
    through = pystn.lie_parameters(pystn.logm(pystn.expm(generator)), group)
    np.testing.assert_allclose(backend.numpy(through), params, rtol=0, atol=tolerance)


@every_group
def test_what_is_not_in_the_algebra_is_projected_on_it(backend, rng, group):
    """The nearest generator: what is left is orthogonal to all of the algebra."""
    n = int(group[-1])
    given = rng.standard_normal((4, n, n + (group != "sl3")))
    params = pystn.lie_parameters(backend.array(given), group)
    left = given - backend.numpy(pystn.lie_generator(params, group))
    (orthogonal,) = pystn.lie_generator_vjp(backend.array(left), params, group)
    np.testing.assert_allclose(backend.numpy(orthogonal), 0, atol=1e-14)


def test_adding_parameters_is_not_composing(backend):
    """But is if they commute."""
    turn, shift = np.array([0.5, 0.0, 0.0]), np.array([0.0, 0.3, 0.0])

    def transform(params):
        return pystn.expm(pystn.lie_generator(backend.array(params), "se2"))

    apart = backend.numpy(pystn.compose(transform(turn), transform(shift)))
    assert np.abs(apart - backend.numpy(transform(turn + shift))).max() > 0.05
    same = backend.numpy(pystn.compose(transform(turn), transform(2 * turn)))
    np.testing.assert_allclose(same, backend.numpy(transform(3 * turn)), rtol=0, atol=1e-15)


def test_gradient_of_a_transform_to_its_parameters(backend, rng):
    """Through the exponential, against differences, at 0 as well."""
    for params in (np.zeros(8), rng.uniform(-1, 1, 8)):
        cotangent, direction = rng.standard_normal((3, 3)), rng.standard_normal(8)

        def transform(p):
            return backend.numpy(pystn.expm(pystn.lie_generator(backend.array(p), "sl3")))

        generator = pystn.lie_generator(backend.array(params), "sl3")
        (grad_generator,) = pystn.expm_vjp(backend.array(cotangent), generator)
        (grad,) = pystn.lie_generator_vjp(grad_generator, backend.array(params), "sl3")
        difference = (transform(params + 1e-6 * direction) - transform(params - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(backend.numpy(grad) @ direction, (difference * cotangent).sum(), rtol=1e-8)


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            "unknown group: expected one of 'se2', .* got 'so3'",
            lambda: pystn.lie_generator(np.zeros(3), "so3"),
        ),
        (TypeError, "unknown group: .* got 2", lambda: pystn.lie_parameters(np.zeros((2, 3)), 2)),
        (ValueError, r"params must have shape \(..., 8\): got \(9,\)", lambda: pystn.lie_generator(np.zeros(9), "sl3")),
        (
            ValueError,
            r"generator must have shape \(..., 3, 3\) for 'sl3': got \(2, 3\)",
            lambda: pystn.lie_parameters(np.zeros((2, 3)), "sl3"),
        ),
        (
            ValueError,
            r"grad_params must have the shape of the result, \(6,\): got \(3,\)",
            lambda: pystn.lie_parameters_vjp(np.zeros(3), np.zeros((2, 3)), "aff2"),
        ),
    ],
)
def test_errors_say_what_was_expected_and_given(error, message, call):
    with pytest.raises(error, match=message):
        call()
