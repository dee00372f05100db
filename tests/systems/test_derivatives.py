"""The gradients of every system, from end to end, against differences."""

import numpy as np
import pytest
from jacobians import difference
from localizations import leaves, rebuilt
from system_cases import CASES, FEW


def random_like(output, rng):
    """Cotangents of an output, or of a tuple of them."""
    if isinstance(output, tuple):
        return tuple(random_like(part, rng) for part in output)
    return rng.standard_normal(output.shape)


def product(cotangents, outputs):
    return sum((g * o).sum() for g, o in zip(leaves(cotangents), leaves(outputs), strict=True))


@pytest.mark.parametrize("case", [case for case in CASES if case.options.get("return_parameters")], ids=str)
def test_cotangents_of_output_and_parameters_add_up(case, rng):
    output, pullback = case.build(case.networks()).pull(case.image(), *case.arguments())
    shown, parameters = random_like(output, rng)
    parts = leaves(pullback((shown, None))), leaves(pullback((None, parameters)))
    for first, second, both in zip(*parts, leaves(pullback((shown, parameters))), strict=True):
        np.testing.assert_allclose(first + second, both, rtol=0, atol=1e-9 * np.abs(both).max())


@pytest.mark.parametrize("case", [case for case in CASES if case.name in FEW], ids=str)
def test_cuda_has_the_same(cuda, case, rng):
    primals = case.image(), *case.arguments()
    output, pullback = case.build(case.networks()).pull(*primals)
    cotangent = random_like(output, rng)
    there = case.build(case.with_weights(map(cuda.array, leaves(case.weights()))), array=cuda.array)
    found, pullback_there = there.pull(*map(cuda.array, primals))
    gradients = pullback_there(rebuilt(cotangent, map(cuda.array, leaves(cotangent))))
    for one, other in zip(leaves([found, gradients]), leaves([output, pullback(cotangent)]), strict=True):
        np.testing.assert_allclose(cuda.numpy(one), other, rtol=0, atol=1e-11 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_differences(case, rng):
    image, weights, arguments = case.image(), leaves(case.weights()), case.arguments()
    output, pullback = case.build(case.networks()).pull(image, *arguments)
    cotangent = random_like(output, rng)

    def loss(image, *others):
        system = case.build(case.with_weights(others[: len(weights)]))
        return product(cotangent, system(image, *others[len(weights) :]))

    gradients, primals = leaves(pullback(cotangent)), [image, *weights, *arguments]
    assert [g.shape for g in gradients] == [p.shape for p in primals]
    assert {g.dtype for g in gradients} == {np.dtype("f8")}
    for k, (gradient, primal) in enumerate(zip(gradients, primals, strict=True)):
        tangent = rng.standard_normal(primal.shape)
        along = [tangent if j == k else None for j in range(len(primals))]
        assert np.abs(gradient).max() > 1e-6
        found, expected = (gradient * tangent).sum(), difference(loss, primals, along, 1e-6)
        assert abs(found - expected) <= 1e-7 * np.linalg.norm(gradient) * np.linalg.norm(tangent)
