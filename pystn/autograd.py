"""The operations of pystn for `autograd <https://github.com/HIPS/autograd>`_: functions of NumPy arrays that it traces.

Every operation is here under its name, with the arguments that it has there; `apply` calls any, and objects of the
families of grids. Both modes, `grad` and `make_jvp`, and derivatives of derivatives are those of pystn.

>>> import autograd.numpy as np
>>> from autograd import grad
>>> import pystn.autograd as stn
>>> image = np.arange(4.0).reshape(1, 1, 2, 2)
>>> theta = np.array([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]])
>>> def loss(theta):
...     return np.sum(stn.warp_affine(image, theta, (1, 1), coords="pixel") ** 2)
>>> grad(loss)(theta)
array([[[0. , 0. , 0.5],
        [0. , 0. , 1. ]]])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

try:
    import autograd.numpy as anp
    from autograd.extend import defjvp_argnums, defvjp_argnums, primitive, vspace
    from autograd.tracer import getval, isbox
except ImportError as error:
    raise ImportError('pystn.autograd needs autograd: pip install "pystn[autograd]"') from error

from pystn.calls import Call, bind, functions_of
from pystn.ops import OPERATIONS
from pystn.ops import operation as operation_of
from pystn.systems.adapted import SYSTEMS, systems_of
from pystn.typing import Array
from pystn.validation import tangent_dtype

__all__ = ["apply", *SYSTEMS, *OPERATIONS]

Mask = tuple[bool, ...]


def apply(f: Any, *args: Any, **options: Any) -> Any:
    """Call any operation of pystn, or an object of a family of grids, on arrays that autograd may trace.

    Parameters
    ----------
    f : callable or str
        ``pystn.grid_sample``, ``"grid_sample"``, ``pystn.ThinPlateSpline(...)``.
    *args, **options
        As `f` takes them, but `out`. Options that have gradients may be traced too: `fill_value`; `mask`; `kernel`, the
        parameters of `mode`, or a tuple of one array or None for each axis; what a family's object is made from, as
        `points`.

    Returns
    -------
    output : ndarray
        What `f` returns, traced if an argument is.

    Raises
    ------
    TypeError
        If `f` is no operation, an array is none of NumPy's, or an argument is traced and has no gradient.
    NotImplementedError
        From autograd's passes, where pystn lacks the derivative: of the third order, of the second to an option.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> from autograd import grad
    >>> from pystn.autograd import apply
    >>> spline = pystn.ThinPlateSpline(pystn.control_points((2, 2)), (3, 3))
    >>> grad(lambda where: apply(spline, where)[0, 1, 1, 0])(spline.identity())[0, :, 0]
    array([0.25, 0.25, 0.25, 0.25])
    """
    operation = operation_of(f)
    call, arrays = bind(operation, args, options, is_array)
    for name, value in call.options:
        if traced(value):
            differentiable = ", ".join((*operation.primals, *operation.parameters))
            raise TypeError(f"{operation.name} has no gradient to {name}, or it is no array: expected {differentiable}")
    for name, array in zip(call.names, arrays, strict=True):
        kinds = np.ndarray if name in operation.primals else (np.ndarray, np.generic, float, complex)
        value = getval(array)
        if not isinstance(value, kinds):
            kind = type(value)
            raise TypeError(
                f"{name} must be a numpy.ndarray, or what autograd traces one with: "
                f"got {kind.__module__}.{kind.__qualname__}"
            )
    return forward(call, *arrays)


def is_array(value: Any) -> bool:
    return isbox(value) or hasattr(value, "shape")


def traced(value: Any) -> bool:
    return any(map(traced, value)) if isinstance(value, tuple) else isbox(value)


# Four primitives, each of a call and arrays: the function, the products with its Jacobian and with the transpose of it,
# and the VJP of the latter. Tangents and cotangents that are zero may be None. All but the first return tuples.
# autograd's gradients are the conjugates of pystn's, d/d re + i d/d im.


def evaluate(call: Call, *arrays: Any) -> Any:
    outputs = call.forward(concrete(arrays))
    return outputs if call.outputs > 1 else outputs[0]


def evaluate_jvp(call: Call, *values: Any) -> tuple[Array, ...]:
    """From a tangent of each array, and the arrays, the tangents of the outputs."""
    arrays = concrete(values[len(call.names) :])
    return call.jvp(arrays, tangents_of(arrays, values))


def evaluate_vjp(call: Call, wanted: Mask, *values: Any) -> tuple[Array, ...]:
    """From cotangents of the outputs, and the arrays, the gradients that are wanted."""
    arrays = concrete(values[call.outputs :])
    gradients = call.vjp(cotangents_of(call, values, arrays), arrays, wanted)
    return tuple(conjugate(gradient) for gradient in gradients if gradient is not None)


def evaluate_vjp2(call: Call, wanted: Mask, *values: Any) -> tuple[Array, ...]:
    """From a cotangent for each array of its gradient, and what the VJP was given, the gradients to that."""
    count = len(call.names)
    arrays = concrete(values[count + call.outputs :])
    seconds = tangents_of(arrays, values)
    # autograd has zeros for a gradient that nothing was made of; to options there is no second order.
    options = len(call.operation.primals)
    seconds[options:] = [second if np.any(second) else None for second in seconds[options:]]
    gradients = call.vjp2(seconds, cotangents_of(call, values[count:], arrays), arrays, wanted)
    gradients[call.outputs :] = [None if g is None else conjugate(g) for g in gradients[call.outputs :]]
    return tuple(g for g, is_wanted in zip(gradients, wanted, strict=True) if is_wanted and g is not None)


forward, jvp, vjp, vjp2 = map(primitive, (evaluate, evaluate_jvp, evaluate_vjp, evaluate_vjp2))


def concrete(values: Iterable[Any]) -> list[Array]:
    """Numbers as arrays."""
    return [np.asarray(value) for value in values]


def conjugate(array: Array) -> Array:
    return array.conj() if array.dtype.kind == "c" else array


def tangents_of(arrays: Sequence[Array], values: Sequence[Any]) -> list[Array | None]:
    """The first values, in the dtype of tangents of the arrays: autograd's arithmetic may have changed it."""
    dtypes = [tangent_dtype(array.dtype) for array in arrays]
    return [None if v is None else np.asarray(v, dtype) for v, dtype in zip(values, dtypes, strict=False)]


def cotangents_of(call: Call, values: Sequence[Any], arrays: Sequence[Array]) -> list[Array | None]:
    """The first values, as pystn has the cotangents of outputs."""
    specs = call.tangents(arrays)
    return [None if v is None else conjugate(np.asarray(v, spec.dtype)) for v, spec in zip(values, specs, strict=False)]


# Their derivatives. autograd says by number which arguments are traced.


def among(argnums: Iterable[int], start: int, stop: int) -> Mask:
    return tuple(k in argnums for k in range(start, stop))


def spread(argnums: Iterable[int], values: Iterable[Any], start: int, stop: int) -> list[Any]:
    """The value for each of some consecutive arguments, None for those without one."""
    given = dict(zip(argnums, values, strict=True))
    return [given.get(k) for k in range(start, stop)]


def constants(call: Call, arrays: Sequence[Any]) -> Sequence[Any]:
    """What derivatives are taken at; nothing to trace where they are the same everywhere."""
    return [getval(array) for array in arrays] if call.operation.affine else arrays


def forward_vjp(argnums: Sequence[int], ans: Any, args: Any, kwargs: Any) -> Callable[[Any], Any]:
    call, *arrays = args
    wanted = among(argnums, 1, len(args))
    return lambda g: vjp(call, wanted, *(g if call.outputs > 1 else (g,)), *constants(call, arrays))


def forward_jvp(argnums: Sequence[int], gs: Sequence[Any], ans: Any, args: Any, kwargs: Any) -> Any:
    call, *arrays = args
    tangents = jvp(call, *spread(argnums, gs, 1, len(args)), *constants(call, arrays))
    return tangents if call.outputs > 1 else tangents[0]


def vjp_vjp(argnums: Sequence[int], ans: Any, args: Any, kwargs: Any) -> Callable[[Any], Any]:
    call, wanted, *values = args
    asked = among(argnums, 2, len(args))

    def pullback(g: Any) -> Any:
        seconds = spread([k for k, is_wanted in enumerate(wanted) if is_wanted], g, 0, len(wanted))
        if any(asked[call.outputs :]):
            return vjp2(call, asked, *seconds, *values)
        tangents = jvp(call, *seconds, *values[call.outputs :])
        return [tangents[k] for k in range(call.outputs) if asked[k]]

    return pullback


def vjp_jvp(argnums: Sequence[int], gs: Sequence[Any], ans: Any, args: Any, kwargs: Any) -> Any:
    call, wanted, *values = args
    tangents = spread(argnums, gs, 2, len(args))
    of_cotangents, of_arrays = tangents[: call.outputs], tangents[call.outputs :]
    terms = []
    if any(tangent is not None for tangent in of_cotangents):
        terms.append(vjp(call, wanted, *of_cotangents, *values[call.outputs :]))
    if any(tangent is not None for tangent in of_arrays):
        # The Hessian of <cotangents, outputs> is symmetric.
        terms.append(vjp2(call, (False,) * call.outputs + wanted, *of_arrays, *values))
    return terms[0] if len(terms) == 1 else vspace(ans).add(*terms)


def jvp_vjp(argnums: Sequence[int], ans: Any, args: Any, kwargs: Any) -> Callable[[Any], Any]:
    call, *values = args
    count = len(call.names)
    tangents, arrays = values[:count], values[count:]
    to_tangents, to_arrays = among(argnums, 1, count + 1), among(argnums, count + 1, len(args))

    def pullback(g: Any) -> Any:
        gradients: list[Any] = []
        if any(to_tangents):
            gradients += vjp(call, to_tangents, *g, *arrays)
        if any(to_arrays):
            gradients += vjp2(call, (False,) * call.outputs + to_arrays, *tangents, *g, *arrays)
        return gradients

    return pullback


def jvp_jvp(argnums: Sequence[int], gs: Sequence[Any], ans: Any, args: Any, kwargs: Any) -> Any:
    call, *values = args
    count = len(call.names)
    if argnums[-1] > count:
        raise NotImplementedError(
            f"{call.operation.name} has no second derivatives in forward mode alone: take one of the two in reverse"
        )
    return jvp(call, *spread(argnums, gs, 1, count + 1), *values[count:])


def third_order(*rule: Any) -> NoReturn:
    call = rule[-2][0]
    raise NotImplementedError(f"{call.operation.name} has derivatives of first and second order: asked for the third")


for function, vjp_rule, jvp_rule in (
    (forward, forward_vjp, forward_jvp),
    (vjp, vjp_vjp, vjp_jvp),
    (jvp, jvp_vjp, jvp_jvp),
    (vjp2, third_order, third_order),
):
    defvjp_argnums(function, vjp_rule)
    defjvp_argnums(function, jvp_rule)


TRACED = "arrays that autograd may trace"
globals().update(functions_of(apply, TRACED), **systems_of(apply, anp, __name__, f"on {TRACED}"))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Any]: ...
