"""The table of operations: nothing is missing, every row is what it says, and calls without their arrays."""

import inspect

import numpy as np
import pytest
from jacobians import assert_adjoint, assert_close, difference
from operations import CASES

import pystn
from pystn.calls import OUTPUT, Call, bind


def bound(case, seed=0):
    """The case as a call, and its arrays."""
    options = {**case.options, **case.arrays}
    call, arrays = bind(case.operation, case.primals(seed), options, lambda value: isinstance(value, np.ndarray))
    return call, [np.asarray(array) for array in arrays]


def random_like(rng, arrays):
    return [np.asarray(rng.standard_normal(np.shape(array))) for array in arrays]


def test_every_function_with_a_vjp_is_in_the_table():
    functions = {name.removesuffix("_vjp") for name in pystn.__all__ if name.endswith("_vjp")}
    functions.remove("equivariance_error")  # takes callables
    assert set(pystn.ops.OPERATIONS) == functions
    assert {case.operation.name for case in CASES} >= functions


@pytest.mark.parametrize("operation", pystn.ops.OPERATIONS.values(), ids=str)
def test_derivatives_are_called_as_the_table_says(operation):
    primals = list(operation.primals)
    positional = list(inspect.signature(getattr(pystn, operation.name)).parameters)
    assert positional[: len(primals)] == primals
    vjp, jvp, vjp2 = operation.functions
    assert list(inspect.signature(vjp).parameters)[1 : 1 + len(primals)] == primals
    assert list(inspect.signature(jvp).parameters)[: 2 * len(primals)] == [*primals, *[f"d_{p}" for p in primals]]
    if vjp2 is not None:
        names = [*[f"gg_{p}" for p in primals], operation.cotangent, *primals]
        assert list(inspect.signature(vjp2).parameters)[: len(names)] == names
    for function in operation.functions:
        if function is not None:
            # No option in one direction only.
            assert set(operation.options) <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_have_the_shapes_and_dtypes_of_the_table(case):
    call, arrays = bound(case)
    for dtype in (np.float64, np.float32):
        cast = [array.astype(dtype) for array in arrays]
        outputs = call.forward(cast)
        assert [(o.shape, o.dtype) for o in outputs] == [tuple(spec) for spec in call.results(cast)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_vjp_and_jvp_of_a_call_are_adjoint(case):
    call, arrays = bound(case)
    rng = np.random.default_rng(1)
    outputs = call.forward(arrays)
    tangents, cotangents = random_like(rng, arrays), random_like(rng, outputs)
    pushed = call.jvp(arrays, tangents)
    gradients = call.vjp(cotangents, arrays, [True] * len(arrays))
    assert [g.shape for g in gradients] == [a.shape for a in arrays]
    flat = np.concatenate([p.ravel() for p in pushed]), np.concatenate([c.ravel() for c in cotangents])
    assert_adjoint(*flat, gradients, tangents)
    for k in range(len(arrays)):
        alone = call.vjp(cotangents, arrays, [i == k for i in range(len(arrays))])
        assert [g is not None for g in alone] == [i == k for i in range(len(arrays))]
        np.testing.assert_array_equal(alone[k], gradients[k])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_second_order_is_the_derivative_of_the_first(case):
    call, arrays = bound(case)
    count = len(arrays) if case.operation.curved_parameters else len(case.operation.primals)
    rng = np.random.default_rng(2)
    cotangents = random_like(rng, call.forward(arrays))
    seconds = random_like(rng, arrays[:count]) + [None] * (len(arrays) - count)
    wanted = [True] * (len(cotangents) + count) + [False] * (len(arrays) - count)
    assert case.operation.second_order == (case.operation.name not in ("grid_gradient", "linearized_grid_sample"))
    if not case.operation.second_order:
        with pytest.raises(NotImplementedError, match="no second-order derivatives"):
            call.vjp2(seconds, cotangents, arrays, wanted)
        return

    def pulled(*moved):
        cots, primals = moved[: len(cotangents)], [*moved[len(cotangents) :], *arrays[count:]]
        gradients = call.vjp(cots, primals, [True] * count + [False] * (len(arrays) - count))
        return sum((g * s).sum() for g, s in zip(gradients[:count], seconds[:count], strict=True))

    found = call.vjp2(seconds, cotangents, arrays, wanted)
    point = [*cotangents, *arrays[:count]]
    for k, value in enumerate(point):
        direction = [rng.standard_normal(np.shape(value)) if i == k else None for i in range(len(point))]
        expected = difference(pulled, point, direction)
        size = np.abs(found[k] * direction[k]).sum()
        assert abs((found[k] * direction[k]).sum() - expected) <= 1e-5 * max(size, 1), (k, expected)


def test_a_mask_without_a_cotangent_has_no_second_order():
    call, arrays = bound(next(case for case in CASES if case.name == "grid_sample-mask"))
    output, _ = call.forward(arrays)
    gradients = call.vjp2(arrays, [output, None], arrays, [True, False, True, True])
    assert [g is None for g in gradients] == [False, True, False, False]
    assert [g.shape for g in gradients if g is not None] == [a.shape for a in (output, *arrays)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_call_is_checked_without_values_and_without_work(case, monkeypatch):
    call, arrays = bound(case)
    specs = [pystn.ops.Spec(array.shape, array.dtype) for array in arrays]
    made, forward = [], Call.forward
    monkeypatch.setattr(Call, "forward", lambda self, arrays: made.append(forward(self, arrays)))
    call.check(specs)
    assert [output.size for output in made[0]] == [0] * call.outputs
    assert len(made) == 1
    wrong = [pystn.ops.Spec(spec.shape, np.dtype(np.int8)) for spec in specs]
    with pytest.raises(TypeError, match="dtype int8"):
        call.check(wrong)


def test_what_is_checked_has_the_shapes_that_were_given():
    call, _ = bind(pystn.ops.operation("grid_sample"), (1, 2), {}, lambda v: False)
    one = np.zeros((2, 1, 4, 4))
    for grid in (np.zeros((3, 5, 2)), np.zeros((2, 5, 3)), np.zeros((2, 5, 2), np.float16)):
        with pytest.raises((ValueError, TypeError)) as expected:
            pystn.grid_sample(one, grid)
        with pytest.raises((ValueError, TypeError)) as found:
            call.check((one, grid))
        assert str(found.value) == str(expected.value)


def batched(xp, call, arrays, axes, roles, targets, batch, run):
    changed, folded, unfold = call.fold(xp, batch, arrays, axes, roles, targets)
    return unfold(run(changed, folded))


PLAIN = [case for case in CASES if not case.arrays]
SHARED = [(case, shared) for case in PLAIN for shared in ((), (0,), (1,)) if not shared or len(case.primals()) > 1]


@pytest.mark.parametrize("case, shared", SHARED, ids=str)
def test_a_batch_of_calls_is_one_call(case, shared):
    """`fold` against one call after another: forward and vjp, with arrays that all calls share."""
    calls = [bound(case, seed) for seed in range(3)]
    call, first = calls[0]
    arrays = [first[k] if k in shared else np.stack([a[k] for _, a in calls], axis=-1) for k in range(len(first))]
    axes = [None if k in shared else a.ndim - 1 for k, a in enumerate(arrays)]
    each = [[first[k] if k in shared else a[k] for k in range(len(first))] for _, a in calls]
    roles = list(range(len(arrays)))
    outputs = call.outputs
    assert call.folds(axes, roles, [])

    found = batched(np, call, arrays, axes, roles, [OUTPUT] * outputs, 3, lambda c, a: c.forward(a))
    expected = [call.forward(a) for a in each]
    for k in range(outputs):
        assert_close(found[k], np.stack([e[k] for e in expected]), 1e-12)

    rng = np.random.default_rng(4)
    cotangents = [random_like(rng, expected[0]) for _ in range(3)]
    stacked = [np.stack([c[k] for c in cotangents]) for k in range(outputs)]
    found = batched(
        np,
        call,
        [*stacked, *arrays],
        [*[0] * outputs, *axes],
        [*[OUTPUT] * outputs, *roles],
        roles,
        3,
        lambda c, a: c.vjp(a[:outputs], a[outputs:], [True] * len(arrays)),
    )
    gradients = [call.vjp(c, a, [True] * len(a)) for c, a in zip(cotangents, each, strict=True)]
    for k in range(len(arrays)):
        assert_close(found[k], np.stack([g[k] for g in gradients]), 1e-10)


def test_calls_are_equal_and_hash_by_their_options():
    def call(mode, size=(3, 4)):
        return bind(pystn.ops.operation("warp_affine"), (1, 2, size), {"mode": mode}, lambda v: False)[0]

    assert call("linear") == call("linear", [3, 4])
    assert hash(call("linear")) == hash(call("linear"))
    assert call("linear") != call("cubic")
    assert isinstance(call("linear"), Call)
    spline = pystn.ThinPlateSpline(pystn.control_points((2, 2)), (3, 3))
    other = pystn.ThinPlateSpline(pystn.control_points((2, 2)), (3, 3))
    assert pystn.ops.operation(spline) == pystn.ops.operation(spline) != pystn.ops.operation(other)


def test_options_that_only_derivatives_have_are_arrays():
    image, beyond = np.ones((1, 2, 5, 6)), np.full((1, 3, 2), 5.0)
    options = {"mode": pystn.Gaussian(0.7), "kernel": 0.8, "fill_value": 0.5}
    call, arrays = bind(pystn.ops.operation("grid_sample"), (image, beyond), options, lambda v: False)
    assert call.given == ("kernel",)
    assert arrays[2] == 0.8
    assert dict(call.options)["fill_value"] == 0.5


def test_gradients_to_integers_are_not_rounded():
    image, beyond = np.ones((1, 2, 5, 6)), np.full((1, 3, 2), 5.0)
    fill = {"padding_mode": "constant", "fill_value": np.array([1, 2])}
    call, arrays = bind(pystn.ops.operation("grid_sample"), (image, beyond), fill, lambda v: isinstance(v, np.ndarray))
    gradients = call.vjp([np.full((1, 2, 3), 0.25)], arrays, [False, False, True])
    np.testing.assert_array_equal(gradients[2], [0.75, 0.75])


def test_arguments_are_checked():
    sample = pystn.ops.operation("grid_sample")
    for args, options, words in [
        ((1,), {}, "grid missing"),
        ((1, 2), {"input": 3}, "twice"),
        ((1, 2), {"modus": "linear"}, "no argument 'modus'"),
        ((1, 2), {"out": None}, "no argument 'out'"),
        (range(9), {}, "by position"),
    ]:
        with pytest.raises(TypeError, match=words):
            bind(sample, args, options, lambda v: False)
    for mode, kernel in [("cubic", (None, np.array(-0.5))), (("linear", "cubic"), (None, None, np.array(-0.5)))]:
        call, arrays = bind(
            sample, (np.zeros((1, 1, 4, 4)), np.zeros((1, 2, 2))), {"mode": mode, "kernel": kernel}, bool
        )
        with pytest.raises(TypeError, match="for each axis' mode: mode is"):
            call.forward(arrays)
    with pytest.raises(TypeError, match="expected a differentiable function"):
        pystn.ops.operation(np.sin)
    with pytest.raises(TypeError, match="one primal for each of input, grid"):
        pystn.vjp(pystn.grid_sample, np.zeros((1, 1, 2, 2)))
    with pytest.raises(TypeError, match="one tangent for each"):
        pystn.jvp(pystn.affine_grid, (np.zeros((1, 2, 3)),), (), size=(2, 2))


def test_vjp_and_jvp_call_the_operation():
    rng = np.random.default_rng(0)
    image, theta = rng.random((1, 2, 5, 5)), np.eye(2, 3)[None] + 0.1
    output, pullback = pystn.vjp(pystn.warp_affine, image, theta, size=(4, 4), padding_mode="constant")
    np.testing.assert_array_equal(output, pystn.warp_affine(image, theta, (4, 4), padding_mode="constant"))
    gradients = pullback(output, wrt=("theta", "fill_value"))
    expected = pystn.warp_affine_vjp(output, image, theta, (4, 4), padding_mode="constant", wrt=("theta", "fill_value"))
    assert gradients[0] is None
    for found, value in zip(gradients[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(found, value)
    output, d_output = pystn.jvp(
        "warp_affine", (image, theta), (None, theta), size=(4, 4), padding_mode="constant", d_fill_value=1.0
    )
    expected = pystn.warp_affine_jvp(image, theta, None, theta, (4, 4), padding_mode="constant", d_fill_value=1.0)
    np.testing.assert_array_equal(d_output, expected)
