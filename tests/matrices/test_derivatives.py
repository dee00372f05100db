"""What holds for every operation on small matrices, whatever it computes."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jacobians import assert_close, difference
from matrix_operations import OPERATIONS

import pystn
import pystn.matrices

LEADING = [(), (1,), (3,), (2, 1, 3)]
every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)
CURVED = [operation for operation in OPERATIONS if operation.curved]
curved_operations = pytest.mark.parametrize("operation", CURVED, ids=str)


def of(backend, arrays):
    return [None if a is None else backend.array(a) for a in arrays]


def drawn(operation, rng, leading, dtype=np.float64):
    """Primals, tangents and a cotangent."""
    primals = [a.astype(dtype) for a in operation.draw(rng, leading)]
    tangents = [rng.standard_normal(a.shape).astype(dtype) for a in primals]
    shape = np.shape(operation.value(*primals))
    return primals, tangents, np.asarray(rng.standard_normal(shape), dtype)


def test_every_public_function_is_in_the_table():
    suffixes = {False: ("", "_vjp", "_jvp"), True: ("", "_vjp", "_jvp", "_vjp2")}
    derived = {operation.name + suffix for operation in OPERATIONS for suffix in suffixes[operation.curved]}
    assert derived == set(pystn.matrices.__all__)


@every_operation
@pytest.mark.parametrize("leading", LEADING, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_jvp_and_vjp_are_adjoint(backend, rng, operation, leading, dtype, tolerance):
    primals, tangents, cotangent = drawn(operation, rng, leading, dtype)
    pushed = backend.numpy(operation.jvp(*of(backend, [*primals, *tangents])))
    pulled = [backend.numpy(a) for a in operation.vjp(*of(backend, [cotangent, *primals]))]
    assert pushed.dtype == dtype
    assert pushed.shape == cotangent.shape
    assert [(a.dtype, a.shape) for a in pulled] == [(a.dtype, a.shape) for a in primals]
    left = (pushed.astype(float) * cotangent).sum()
    right = sum((a.astype(float) * t).sum() for a, t in zip(pulled, tangents, strict=True))
    scale = np.abs(pushed.astype(float) * cotangent).sum() + sum(
        np.abs(a.astype(float) * t).sum() for a, t in zip(pulled, tangents, strict=True)
    )
    assert abs(left - right) <= tolerance * scale
    assert np.abs(pushed).max() > 1e-3  # or all of this says nothing


@every_operation
def test_jvp_equals_central_differences(backend, rng, operation):
    primals, tangents, _ = drawn(operation, rng, (2, 3))
    h = 1e-5
    forward, backward = (
        backend.numpy(operation.value(*of(backend, [a + s * h * t for a, t in zip(primals, tangents, strict=True)])))
        for s in (1, -1)
    )
    pushed = backend.numpy(operation.jvp(*of(backend, [*primals, *tangents])))
    difference = (forward - backward) / (2 * h)
    np.testing.assert_allclose(pushed, difference, rtol=1e-6, atol=1e-6 * np.abs(difference).max())


@curved_operations
def test_second_order_equals_central_differences(backend, rng, operation):
    """Of what is linear in the gradients, <v, J^T g>: by g and by each primal, entry by entry."""
    primals, tangents, cotangent = drawn(operation, rng, (2, 3))

    def loss(g, *x):
        pulled = operation.vjp(*of(backend, [g, *x]))
        return sum(entrywise(backend.numpy(a) * t, (2, 3)) for a, t in zip(pulled, tangents, strict=True))

    found = operation.vjp2(*of(backend, [*tangents, cotangent, *primals]))
    arguments = [cotangent, *primals]
    for k, (gradient, argument) in enumerate(zip(found, arguments, strict=True)):
        direction = rng.standard_normal(argument.shape)
        along = [direction if i == k else None for i in range(len(arguments))]
        assert_close(entrywise(backend.numpy(gradient) * direction, (2, 3)), difference(loss, arguments, along))


def entrywise(terms, leading):
    return terms.reshape(*leading, -1).sum(axis=-1)


@curved_operations
def test_second_order_is_symmetric_and_linear(backend, rng, operation):
    """<a, H b> = <b, H a> of the Hessian H of <g, f>, which is linear in g."""
    primals, a, cotangent = drawn(operation, rng, (4,))
    b = [rng.standard_normal(primal.shape) for primal in primals]

    def bent(tangents, g):
        return [backend.numpy(x) for x in operation.vjp2(*of(backend, [*tangents, g, *primals]))]

    (by_a, *of_a), (by_b, *of_b) = bent(a, cotangent), bent(b, cotangent)
    left = sum(entrywise(x * y, (4,)) for x, y in zip(of_b, a, strict=True))
    right = sum(entrywise(x * y, (4,)) for x, y in zip(of_a, b, strict=True))
    scale = sum(entrywise(np.abs(x * y), (4,)) for x, y in zip(of_b + of_a, a + b, strict=True)).max()
    assert scale > 1e-3 or operation.options.get("form") == "linear"  # or all of this says nothing
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-12 * scale)
    other = rng.standard_normal(cotangent.shape)
    mixed = [x + 0.5 * y for x, y in zip(a, b, strict=True)]
    by_mixed, *whole = bent(mixed, cotangent - 2 * other)
    assert_close(by_mixed, by_a + 0.5 * by_b, 1e-13)
    parts = [bent(t, g) for t in (a, b) for g in (cotangent, other)]
    for k, found in enumerate(whole, start=1):
        expected = sum(factor * part[k] for factor, part in zip((1, -2, 0.5, -1), parts, strict=True))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(np.abs(p[k]).max() for p in parts))


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if not o.curved], ids=str)
def test_without_second_order_there_is_no_curvature(backend, rng, operation):
    primals, tangents, cotangent = drawn(operation, rng, (4,))
    moved = [a + 0.1 * np.sign(a) * np.abs(t) for a, t in zip(primals, tangents, strict=True)]  # past no kink
    here, there = (operation.vjp(*of(backend, [cotangent, *at])) for at in (primals, moved))
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(backend.numpy(a), backend.numpy(b))


@every_operation
def test_single_precision_is_double_precision_rounded(backend, rng, operation):
    primals, tangents, cotangent = drawn(operation, rng, (4,), np.float32)
    wide = [[a.astype(float) for a in arrays] for arrays in (primals, tangents, [cotangent])]
    pairs = [
        (operation.value(*of(backend, primals)), operation.value(*of(backend, wide[0]))),
        (operation.jvp(*of(backend, primals + tangents)), operation.jvp(*of(backend, wide[0] + wide[1]))),
        *zip(
            operation.vjp(*of(backend, [cotangent, *primals])),
            operation.vjp(*of(backend, wide[2] + wide[0])),
            strict=True,
        ),
    ]
    if operation.curved:
        singles = operation.vjp2(*of(backend, [*tangents, cotangent, *primals]))
        pairs += zip(singles, operation.vjp2(*of(backend, wide[1] + wide[2] + wide[0])), strict=True)
    for single, double in pairs:
        assert backend.numpy(single).dtype == np.float32
        np.testing.assert_array_equal(backend.numpy(single), backend.numpy(double).astype(np.float32))


@every_operation
def test_each_entry_is_what_it_is_alone(backend, rng, operation):
    """Whatever is beside it: other entries need other numbers of steps, or are not finite."""
    primals, tangents, cotangent = drawn(operation, rng, (3, 2))
    for a in primals:
        a[1, 1].flat[0] = np.nan
        a[2, 0].flat[-1] = np.inf
    if operation.name in ("expm", "lie_generator"):
        primals[0][2, 1] *= 40
    value = backend.numpy(operation.value(*of(backend, primals)))
    pushed = backend.numpy(operation.jvp(*of(backend, [*primals, *tangents])))
    pulled = [backend.numpy(a) for a in operation.vjp(*of(backend, [cotangent, *primals]))]
    bent = operation.vjp2(*of(backend, [*tangents, cotangent, *primals])) if operation.curved else ()
    bent = [backend.numpy(a) for a in bent]
    for at in np.ndindex(3, 2):
        alone, moved = ([np.array(a[at]) for a in arrays] for arrays in (primals, tangents))
        finite = at not in ((1, 1), (2, 0))
        results = [
            (value[at], operation.value(*of(backend, alone))),
            (pushed[at], operation.jvp(*of(backend, alone + moved))),
            *zip([a[at] for a in pulled], operation.vjp(*of(backend, [np.array(cotangent[at]), *alone])), strict=True),
        ]
        if bent:
            again = operation.vjp2(*of(backend, [*moved, np.array(cotangent[at]), *alone]))
            results += zip([a[at] for a in bent], again, strict=True)
        for within, by_itself in results:
            assert np.isfinite(within).all() or not finite
            np.testing.assert_allclose(within, backend.numpy(by_itself), rtol=1e-13, atol=1e-13)
        assert np.isnan(value[1, 1]).any()
        assert not np.isfinite(value[2, 0]).all() or operation.name == "box_iou"


@every_operation
@pytest.mark.parametrize("leading", [(0,), (2, 0, 3)], ids=str)
def test_no_entries(backend, rng, operation, leading):
    primals, tangents, cotangent = drawn(operation, rng, leading)
    assert backend.numpy(operation.value(*of(backend, primals))).size == 0
    assert backend.numpy(operation.jvp(*of(backend, [*primals, *tangents]))).shape == cotangent.shape
    pulled = operation.vjp(*of(backend, [cotangent, *primals]))
    assert [a.shape for a in pulled] == [a.shape for a in primals]
    if operation.curved:
        bent = operation.vjp2(*of(backend, [*tangents, cotangent, *primals]))
        assert [a.shape for a in bent] == [cotangent.shape, *[a.shape for a in primals]]


@every_operation
def test_the_tangent_none_is_zero_whatever_the_arguments_are(backend, rng, operation):
    primals, tangents, cotangent = drawn(operation, rng, (2,))
    none = [None] * len(primals)
    assert not backend.numpy(operation.jvp(*of(backend, [*primals, *none]))).any()
    for k in range(len(primals)):
        only = [t if i == k else None for i, t in enumerate(tangents)]
        zeros = [np.zeros_like(t) if t_only is None else t for t, t_only in zip(tangents, only, strict=True)]
        pushed, same = (backend.numpy(operation.jvp(*of(backend, [*primals, *d]))) for d in (only, zeros))
        np.testing.assert_allclose(pushed, same, atol=1e-15)
    spoiled = [np.full_like(a, np.nan) for a in primals]
    pushed = backend.numpy(operation.jvp(*of(backend, [*spoiled, *none])))
    assert pushed.shape == cotangent.shape
    assert not pushed.any()


@curved_operations
def test_the_second_order_along_none_is_zero(backend, rng, operation):
    primals, tangents, cotangent = drawn(operation, rng, (2,))
    none = [None] * len(primals)
    for at in (primals, [np.full_like(a, np.nan) for a in primals]):
        bent = [backend.numpy(a) for a in operation.vjp2(*of(backend, [*none, cotangent, *at]))]
        assert [a.shape for a in bent] == [cotangent.shape, *[a.shape for a in primals]]
        assert not any(a.any() for a in bent)
    for k in range(len(primals)):
        only = [t if i == k else None for i, t in enumerate(tangents)]
        zeros = [np.zeros_like(t) if t_only is None else t for t, t_only in zip(tangents, only, strict=True)]
        found, same = (operation.vjp2(*of(backend, [*d, cotangent, *primals])) for d in (only, zeros))
        for a, b in zip(found, same, strict=True):
            np.testing.assert_allclose(backend.numpy(a), backend.numpy(b), rtol=0, atol=1e-14)


@curved_operations
def test_wrt_of_the_second_order_skips_work_and_changes_nothing(backend, rng, operation):
    primals, tangents, cotangent = drawn(operation, rng, (2,))
    arguments = of(backend, [*tangents, cotangent, *primals])
    parameters = inspect.signature(getattr(pystn, f"{operation.name}_vjp2")).parameters
    names = parameters["wrt"].default
    count = len(primals)
    assert names == tuple(inspect.signature(getattr(pystn, f"{operation.name}_vjp")).parameters)[: count + 1]
    assert tuple(parameters)[: 2 * count + 1] == (*[f"gg_{name}" for name in names[1:]], *names)
    every = operation.vjp2(*arguments)
    for k, name in enumerate(names):
        for wrt in (name, (name,), [name]):
            found = operation.vjp2(*arguments, wrt=wrt)
            assert [a is None for a in found] == [i != k for i in range(len(names))]
            np.testing.assert_array_equal(backend.numpy(found[k]), backend.numpy(every[k]))
    assert operation.vjp2(*arguments, wrt=()) == (None,) * len(names)


@curved_operations
def test_the_second_order_checks_what_it_is_given(rng, operation):
    primals, tangents, cotangent = drawn(operation, rng, (2,))
    names = list(inspect.signature(getattr(pystn, f"{operation.name}_vjp2")).parameters)
    gg, grad = names[0], names[len(primals)]
    wrong = np.concatenate([tangents[0]] * 2)
    with pytest.raises(ValueError, match=f"^{gg} must have the shape of {gg[3:]}, .*: got "):
        operation.vjp2(wrong, *tangents[1:], cotangent, *primals)
    with pytest.raises(TypeError, match=f"^{gg} must have the dtype of {gg[3:]}, float64: got float32"):
        operation.vjp2(tangents[0].astype(np.float32), *tangents[1:], cotangent, *primals)
    with pytest.raises(TypeError, match=f"^{gg} must be a numpy.ndarray"):
        operation.vjp2(tangents[0].tolist(), *tangents[1:], cotangent, *primals)
    for along in (tangents, [None] * len(tangents)):
        with pytest.raises(ValueError, match=f"^{grad} must have the shape of .*: got "):
            operation.vjp2(*along, cotangent[..., :0], *primals)
        with pytest.raises(TypeError, match=f"^{grad} must have the dtype of .*, float64: got float32"):
            operation.vjp2(*along, cotangent.astype(np.float32), *primals)
        with pytest.raises(ValueError, match=r"unknown entry of wrt: .*, got 'gg'"):
            operation.vjp2(*along, cotangent, *primals, wrt="gg")
    with pytest.raises(TypeError, match="must be float32 or float64"):
        operation.vjp2(*tangents, cotangent, *[a.astype(np.int64) for a in primals])


@every_operation
def test_results_are_new_arrays(backend, rng, operation):
    primals, tangents, cotangent = drawn(operation, rng, (2,))
    given_arrays = of(backend, [*primals, *tangents, cotangent])
    kept = [np.copy(backend.numpy(a)) for a in given_arrays]
    primals, tangents = given_arrays[: len(primals)], given_arrays[len(primals) : -1]
    results = [
        operation.value(*primals),
        operation.jvp(*primals, *tangents),
        *operation.vjp(given_arrays[-1], *primals),
        *(operation.vjp2(*tangents, given_arrays[-1], *primals) if operation.curved else ()),
    ]
    for result in results:
        assert isinstance(result, type(given_arrays[0]))
        assert result.flags.c_contiguous
        result[...] = 7.0  # none is read-only
    for array, before in zip(given_arrays, kept, strict=True):
        np.testing.assert_array_equal(backend.numpy(array), before)
    assert (backend.numpy(operation.value(*primals)) != 7.0).any()


@every_operation
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_are_an_answer_or_an_error_that_names_the_entry(backend, rng, operation, dtype):
    primals, _, cotangent = drawn(operation, rng, (2, 3), dtype)
    for a in primals:
        a[1, 0] = 0
        a[1, 2] = 0
    primals = of(backend, primals)
    g = backend.array(cotangent)
    calls = [
        lambda: [operation.value(*primals)],
        lambda: [operation.jvp(*primals, *primals)],
        lambda: operation.vjp(g, *primals),
    ]
    if operation.curved:
        calls.append(lambda: operation.vjp2(*primals, g, *primals))
    for call in calls:
        if operation.fallible:
            with pytest.raises(ValueError, match=r"^[a-z_ ]+\[1, 0\] \w+ .*: got \["):
                call()
        else:
            assert all(np.isfinite(backend.numpy(result)).all() for result in call())


binary_operations = pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.binary], ids=str)


@binary_operations
@pytest.mark.parametrize("shapes", [((3,), ()), ((2, 1), (3,)), ((1, 4), (2, 1, 1)), ((0, 2), (1, 1))], ids=str)
def test_leading_axes_broadcast_and_gradients_add_up(backend, rng, operation, shapes):
    whole = np.broadcast_shapes(*shapes)
    primals = [operation.draw(rng, leading)[k] for k, leading in enumerate(shapes)]
    repeated = [
        np.broadcast_to(a, (*whole, *a.shape[len(leading) :])) for a, leading in zip(primals, shapes, strict=True)
    ]
    value, same = (backend.numpy(operation.value(*of(backend, given))) for given in (primals, repeated))
    np.testing.assert_allclose(value, same, rtol=0, atol=1e-14)
    cotangent = rng.standard_normal(value.shape)
    pulled, each = (operation.vjp(*of(backend, [cotangent, *given])) for given in (primals, repeated))
    tangents = [rng.standard_normal(a.shape) for a in primals]
    repeated_tangents = [
        np.broadcast_to(t, (*whole, *t.shape[len(leading) :])) for t, leading in zip(tangents, shapes, strict=True)
    ]
    by_cotangent, *bent = operation.vjp2(*of(backend, [*tangents, cotangent, *primals]))
    same, *bent_each = operation.vjp2(*of(backend, [*repeated_tangents, cotangent, *repeated]))
    np.testing.assert_allclose(backend.numpy(by_cotangent), backend.numpy(same), rtol=0, atol=1e-13)
    for gradient, separate, leading in zip((*pulled, *bent), (*each, *bent_each), shapes * 2, strict=True):
        separate = backend.numpy(separate)
        padded = (1,) * (len(whole) - len(leading)) + leading
        for axis, n in enumerate(padded):
            if n == 1:
                separate = separate.sum(axis=axis, keepdims=True)
        expected = separate.reshape(backend.numpy(gradient).shape)
        np.testing.assert_allclose(backend.numpy(gradient), expected, rtol=0, atol=1e-12)
    pushed = backend.numpy(operation.jvp(*of(backend, [*primals, *tangents])))
    terms = sum((backend.numpy(a) * t).sum() for a, t in zip(pulled, tangents, strict=True))
    assert abs((pushed * cotangent).sum() - terms) <= 1e-11


@binary_operations
def test_wrt_skips_work_and_changes_nothing(backend, rng, operation):
    primals, _, cotangent = drawn(operation, rng, (2,))
    both = operation.vjp(*of(backend, [cotangent, *primals]))
    names = ("from_points", "to_points") if operation.name == "homography_from_points" else ("first", "second")
    for k in (0, 1):
        for wrt in (names[k], (names[k],), [names[k]]):
            pulled = operation.vjp(*of(backend, [cotangent, *primals]), wrt=wrt)
            assert pulled[1 - k] is None
            np.testing.assert_array_equal(backend.numpy(pulled[k]), backend.numpy(both[k]))
    assert operation.vjp(*of(backend, [cotangent, *primals]), wrt=()) == (None, None)


@st.composite
def calls(draw):
    operation = draw(st.sampled_from(OPERATIONS))
    leading = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    primals, tangents, cotangent = drawn(operation, rng, leading, dtype)

    def strided(a):
        order = draw(st.permutations(range(a.ndim)))
        steps = [draw(st.sampled_from([1, 2, -1, -3])) for _ in order]
        memory = np.full([n * abs(s) for n, s in zip(np.transpose(a, order).shape, steps, strict=True)], np.nan, dtype)
        view = memory[(*[slice(None, None, s) for s in steps], ...)].transpose(np.argsort(order))
        view[...] = a
        return view

    return operation, primals, tangents, cotangent, strided


@settings(max_examples=200, derandomize=True, deadline=None)
@given(calls())
def test_strides_make_no_difference(call):
    operation, primals, tangents, cotangent, strided = call
    views = [strided(a) for a in primals]
    results = [
        (operation.value(*views), operation.value(*primals)),
        (operation.jvp(*views, *map(strided, tangents)), operation.jvp(*primals, *tangents)),
        *zip(operation.vjp(strided(cotangent), *views), operation.vjp(cotangent, *primals), strict=True),
    ]
    if operation.curved:
        bent = operation.vjp2(*map(strided, tangents), strided(cotangent), *views)
        results += zip(bent, operation.vjp2(*tangents, cotangent, *primals), strict=True)
    tolerance = 1e-14 if cotangent.dtype == np.float64 else 1e-6
    for ours, same in results:
        np.testing.assert_allclose(ours, same, rtol=tolerance, atol=tolerance)
