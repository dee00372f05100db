"""What holds for every operation on small matrices, whatever it computes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrix_operations import OPERATIONS

import pystn
import pystn.matrices

LEADING = [(), (1,), (3,), (2, 1, 3)]
every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=str)


def of(backend, arrays):
    return [None if a is None else backend.array(a) for a in arrays]


def drawn(operation, rng, leading, dtype=np.float64):
    """Primals, tangents and a cotangent."""
    primals = [a.astype(dtype) for a in operation.draw(rng, leading)]
    tangents = [rng.standard_normal(a.shape).astype(dtype) for a in primals]
    shape = np.shape(operation.value(*primals))
    return primals, tangents, np.asarray(rng.standard_normal(shape), dtype)


def test_every_public_function_is_in_the_table():
    names = {operation.name for operation in OPERATIONS}
    derived = {name + suffix for name in names for suffix in ("", "_vjp", "_jvp")}
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
    for at in np.ndindex(3, 2):
        alone, moved = ([np.array(a[at]) for a in arrays] for arrays in (primals, tangents))
        finite = at not in ((1, 1), (2, 0))
        results = [
            (value[at], operation.value(*of(backend, alone))),
            (pushed[at], operation.jvp(*of(backend, alone + moved))),
            *zip([a[at] for a in pulled], operation.vjp(*of(backend, [np.array(cotangent[at]), *alone])), strict=True),
        ]
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
    ]
    for result in results:
        assert isinstance(result, type(given_arrays[0]))
        assert result.flags.c_contiguous
        assert result.flags.writeable
        result[...] = 7.0
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
    for call in (
        lambda: [operation.value(*primals)],
        lambda: [operation.jvp(*primals, *primals)],
        lambda: operation.vjp(backend.array(cotangent), *primals),
    ):
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
    for gradient, separate, leading in zip(pulled, each, shapes, strict=True):
        separate = backend.numpy(separate)
        padded = (1,) * (len(whole) - len(leading)) + leading
        for axis, n in enumerate(padded):
            if n == 1:
                separate = separate.sum(axis=axis, keepdims=True)
        expected = separate.reshape(backend.numpy(gradient).shape)
        np.testing.assert_allclose(backend.numpy(gradient), expected, rtol=0, atol=1e-12)
    tangents = [rng.standard_normal(a.shape) for a in primals]
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
    tolerance = 1e-14 if cotangent.dtype == np.float64 else 1e-6
    for ours, same in results:
        np.testing.assert_allclose(ours, same, rtol=tolerance, atol=tolerance)
