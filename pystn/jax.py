"""The operations of pystn for JAX: functions of JAX's arrays, under all of its transformations.

Every operation of the table `pystn.ops.OPERATIONS` is a function of this module, with the arguments of its namesake in
`pystn`; `apply` calls an object of a family of grids, or any operation. All of them go through `jax.jit`, `jax.vmap`,
`jax.grad`, `jax.jvp`, `jax.jacfwd`, `jax.jacrev` and `jax.hessian`; derivatives end at the second order. The work is
done on the CPU, in a callback that XLA may run on a thread of its own: `pystn.set_num_threads` holds there, the context
`pystn.num_threads` does not.

>>> import jax
>>> import pystn.jax
>>> theta = jax.numpy.array([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]])
>>> image = jax.numpy.arange(16.0).reshape(1, 1, 4, 4)
>>> loss = lambda theta: pystn.jax.warp_affine(image, theta, (4, 4)).sum()
>>> jax.jit(jax.grad(loss))(theta).shape
(1, 2, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from pystn.calls import OUTPUT, Call, bind, functions_of
from pystn.ops import OPERATIONS, Operation, Spec, operation
from pystn.systems.adapted import SYSTEMS, systems_of
from pystn.typing import Array
from pystn.validation import tangent_dtype

try:
    import jax
except ImportError as error:
    raise ImportError('pystn.jax needs JAX: pip install "pystn[jax]"') from error

import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

__all__ = ["apply", *SYSTEMS, *OPERATIONS]

Mask = tuple[bool, ...]


@dataclass(frozen=True)
class Derivative:
    """A derivative of a call, of any order, as a function of a flat list of arrays.

    The derivatives of f at x are the forms ``<g, f(x)>``, ``<g, Df(x) t>``, ``<g, D²f(x) s t>``, ...: linear in the
    cotangent g and in each tangent, symmetric in the tangents. One vector of a form is left out, and what it would be
    multiplied by is returned: without g this is f, its JVP, ...; without a tangent it is the VJP, the product of the
    Hessian of ``<g, f>``, .... JAX's rules follow from that. To differentiate is to replace each vector by its tangent,
    in turn, and to have one tangent more; to transpose is to put in the vector that is left out, and to leave out
    another. The arrays are those of the vectors, then x.
    """

    call: Call
    vectors: tuple[Mask, ...]  # which arrays of each vector are there; the others are zero
    pulls: bool  # whether the first vector is g; all others are tangents
    wanted: Mask  # of the results, which are gradients where `pulls`, else outputs or tangents of outputs

    def __str__(self) -> str:
        order = len(self.vectors)
        suffix = f"_{'vjp' if self.pulls else 'jvp'}{order if order > 1 else ''}" if order else ""
        return f"{self.call.operation.name}{suffix}"

    @cached_property
    def roles(self) -> list[int]:
        """Of each array, as `Call.fold` has them."""
        kinds = [
            OUTPUT if self.pulls and which == 0 else k
            for which, mask in enumerate(self.vectors)
            for k, there in enumerate(mask)
            if there
        ]
        return [*kinds, *range(len(self.call.names))]

    @cached_property
    def targets(self) -> list[int]:
        """Of each result."""
        return [k if self.pulls else OUTPUT for k, is_wanted in enumerate(self.wanted) if is_wanted]

    def split(self, flat: Iterable[Any]) -> tuple[list[list[Any]], list[Any]]:
        """The vectors, with None where they are zero, and x."""
        rest = iter(flat)
        vectors = [[next(rest) if there else None for there in mask] for mask in self.vectors]
        return vectors, list(rest)

    def select(self, results: Iterable[Any]) -> list[Any]:
        return [result for result, is_wanted in zip(results, self.wanted, strict=True) if is_wanted]

    def specs(self, flat: Sequence[Any]) -> list[Spec]:
        """Shape and dtype of each result."""
        _, arrays = self.split(flat)
        if self.pulls:
            return self.select(Spec(a.shape, tangent_dtype(a.dtype)) for a in arrays)
        return self.select(self.call.tangents(arrays) if self.vectors else self.call.results(arrays))

    def check(self) -> None:
        """Raise where pystn has no such derivative."""
        order = len(self.vectors)
        if order > 2:
            raise NotImplementedError(f"{self.call.operation.name}: derivatives end at the second order")
        if order == 2 and not self.pulls:
            raise NotImplementedError(
                f"{self.call.operation.name} has no tangents of tangents: take one of the two in reverse mode, "
                "as jax.hessian does"
            )
        if order == 2:
            self.call.check_second_order(self.vectors[1], self.wanted)

    def __call__(self, *flat: Any) -> list[Array]:
        """The results, in NumPy."""
        self.check()
        call = self.call
        # Not jax.numpy: this may run on a thread that JAX's own computations wait for.
        vectors, arrays = self.split(map(np.asarray, flat))
        if not vectors:
            return self.select(call.forward(arrays))
        if not self.pulls:
            return self.select(call.jvp(arrays, vectors[0]))
        # JAX transposes complex matrices, pystn takes their adjoints.
        cotangents = [conjugate(g) for g in vectors[0]]
        if len(vectors) == 1:
            gradients = call.vjp(cotangents, arrays, self.wanted)
        else:
            wanted = [*[False] * call.outputs, *self.wanted]
            gradients = call.vjp2(vectors[1], cotangents, arrays, wanted)[call.outputs :]
        return [conjugate(gradient) for gradient in self.select(gradients)]


def conjugate(array: Any) -> Any:
    return array.conj() if array is not None and array.dtype.kind == "c" else array


derivative_p = Primitive("pystn")
derivative_p.multiple_results = True


def derivative(
    call: Call, vectors: Sequence[Sequence[Any]], pulls: bool, arrays: Sequence[Any], wanted: Sequence[bool]
) -> list[Any]:
    """What `Derivative` returns, with None where a result is zero or not wanted."""
    masks = tuple(tuple(array is not None for array in vector) for vector in vectors)
    flat = [array for array in chain(*vectors) if array is not None]
    if not all(map(any, masks)) or not any(wanted) or (call.operation.affine and len(vectors) > 1):
        return [None] * len(wanted)
    found = iter(derivative_p.bind(*flat, *arrays, of=Derivative(call, masks, pulls, tuple(wanted))))
    return [next(found) if is_wanted else None for is_wanted in wanted]


def present(vector: Any) -> Any:
    """None for JAX's zeros, among which are all tangents of integers; an array for a number."""
    if type(vector) is ad.Zero:
        return None
    return vector if isinstance(vector, jax.Array) else jnp.asarray(vector)


@derivative_p.def_impl
def evaluate(*flat: Any, of: Derivative) -> list[Any]:
    return [jnp.asarray(result) for result in of(*flat)]


@derivative_p.def_abstract_eval
def abstract(*flat: Any, of: Derivative) -> list[Any]:
    if not of.vectors:
        of.call.check(flat)  # now, as JAX's own functions do, not in the callback
    return [jax.core.ShapedArray(*spec) for spec in of.specs(flat)]


def lower(context: mlir.LoweringRuleContext, *flat: Any, of: Derivative) -> Any:
    """As `jax.pure_callback` is lowered, without its copies into arrays of JAX: for small ones six times faster.

    XLA's foreign functions would save some 3 of the 16 us of a small call, and a copy of results, but they need
    jaxlib's headers where pystn is built, and would call the same Python.
    """
    of.check()
    inputs: Any = context.avals_in
    outputs: Any = context.avals_out
    return mlir.emit_python_callback(context, of, None, flat, inputs, outputs, has_side_effect=False)[0]


def differentiate(primals: Sequence[Any], tangents: Sequence[Any], *, of: Derivative) -> tuple[list[Any], list[Any]]:
    vectors, arrays = of.split(primals)
    moved, directions = of.split(map(present, tangents))
    results = derivative_p.bind(*primals, of=of)
    wanted = of.wanted
    if not vectors:
        wanted = tuple(jnp.issubdtype(result.dtype, jnp.inexact) for result in results)
    terms = [
        derivative(of.call, [*vectors[:k], d_vector, *vectors[k + 1 :]], of.pulls, arrays, wanted)
        for k, d_vector in enumerate(moved)
    ]
    terms.append(derivative(of.call, [*vectors, directions], of.pulls, arrays, wanted))
    sums = of.select(map(total, zip(*terms, strict=True)))
    zeros = [ad.Zero(jax.typeof(result).to_tangent_aval()) for result in results]
    return results, [zero if s is None else s for s, zero in zip(sums, zeros, strict=True)]


def total(terms: Iterable[Any]) -> Any:
    first, *rest = [term for term in terms if term is not None] or [None]
    for term in rest:
        first = first + term
    return first


def transpose(cotangents: Sequence[Any], *flat: Any, of: Derivative) -> list[Any]:
    vectors, arrays = of.split(flat)
    linear = [[ad.is_undefined_primal(array) for array in vector] for vector in vectors]
    out = next(k for k, mask in enumerate(linear) if any(mask))
    others = vectors[:out] + vectors[out + 1 :]
    given = iter(cotangents)
    put_in = [present(next(given)) if is_wanted else None for is_wanted in of.wanted]
    exchanged = [*others, put_in] if of.pulls else [put_in, *others]
    found = derivative(of.call, exchanged, not (of.pulls and out == 0), arrays, linear[out])
    return [
        *[
            found[k] if which == out else None
            for which, mask in enumerate(of.vectors)
            for k in range(len(mask))
            if mask[k]
        ],
        *[None] * len(arrays),
    ]


def batch(flat: Sequence[Any], axes: Sequence[int | None], *, of: Derivative) -> tuple[Sequence[Any], list[int]]:
    size = next(array.shape[axis] for array, axis in zip(flat, axes, strict=True) if axis is not None)
    if of.call.folds(axes, of.roles, of.targets):
        call, folded, unfold = of.call.fold(jnp, size, flat, axes, of.roles, of.targets)
        results = unfold(derivative_p.bind(*folded, of=replace(of, call=call)))
        return results, [0] * len(results)

    def one(batched: Sequence[Any]) -> Any:
        rest = iter(batched)
        each = [array if axis is None else next(rest) for array, axis in zip(flat, axes, strict=True)]
        return derivative_p.bind(*each, of=of)

    first = [jnp.moveaxis(array, axis, 0) for array, axis in zip(flat, axes, strict=True) if axis is not None]
    results = jax.lax.map(one, first)
    return results, [0] * len(results)


mlir.register_lowering(derivative_p, lower)
ad.primitive_jvps[derivative_p] = differentiate
ad.primitive_transposes[derivative_p] = transpose
batching.primitive_batchers[derivative_p] = batch


KINDS = (jax.Array, np.ndarray)


def is_array(value: Any) -> bool:
    return isinstance(value, KINDS)


def apply(f: Any, *arrays: Any, **options: Any) -> Any:
    """Call an operation of pystn on JAX's arrays.

    Parameters
    ----------
    f : callable or str
        An object of a family of grids, as ``pystn.ThinPlateSpline(...)``, a differentiable function of `pystn`, or its
        name.
    *arrays : jax.Array or ndarray
        What it is called with.
    **options
        All other arguments, by name. They are static, but for those that may be arrays: `fill_value`, `mask`,
        `kernel`, the parameters of `mode`, or a tuple of those of each axis or None; of a family, what it is made
        from, as `points`; and `labels`. Arrays among them have derivatives too, but for `labels`: `fill_value`, `mask`
        and `kernel` of the first order.

    Returns
    -------
    jax.Array
        Or a tuple of two, with ``return_mask=True``.

    Raises
    ------
    TypeError
        If `f` is no operation, an argument is missing or unknown, or an array is not JAX's or NumPy's.
    NotImplementedError
        When a derivative is evaluated that pystn does not have: of the third order, in forward mode twice, or of the
        second order to `fill_value` or `kernel`.

    See Also
    --------
    pystn.ops.OPERATIONS : the functions, all of which are in this module too.

    Examples
    --------
    >>> import jax
    >>> import pystn
    >>> spline = pystn.ThinPlateSpline(pystn.control_points((3, 3)), (5, 5))
    >>> theta = jax.numpy.asarray(spline.identity(), "float32")
    >>> grids = jax.vmap(lambda theta: pystn.jax.apply(spline, theta))(theta[None])
    >>> grids.shape
    (1, 1, 5, 5, 2)
    """
    called = operation(f)
    names = chain(called.arguments, repeat(""))
    given = [static(called, name, value) for name, value in zip(names, arrays, strict=False)]
    options = {name: static(called, name, value) for name, value in options.items()}
    call, values = bind(called, given, options, is_array)
    for name, value in zip(call.names, values, strict=True):
        if not is_array(value) and (name in called.primals or not isinstance(value, (int, float, complex, np.generic))):
            raise foreign(name, value)
    values = [value if isinstance(value, jax.Array) else jnp.asarray(value) for value in values]
    results = derivative_p.bind(*values, of=Derivative(call, (), False, (True,) * call.outputs))
    return tuple(results) if len(results) > 1 else results[0]


def static(called: Operation, name: str, value: Any) -> Any:
    """An option as a Python value, but as it is if it may be an array."""
    if hasattr(value, "__array__") and not isinstance(value, (*KINDS, np.generic)):
        raise foreign(name, value)
    if name in (*called.primals, *called.parameters, *called.data) or not isinstance(value, jax.Array):
        return value
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} of {called.name} must be a Python value, known before the call is traced: got {value}")
    return np.asarray(value)


def foreign(name: str, value: Any) -> TypeError:
    kind = type(value)
    return TypeError(f"{name} must be a jax.Array or numpy.ndarray, got {kind.__module__}.{kind.__qualname__}")


globals().update(functions_of(apply, "arrays of JAX"), **systems_of(apply, jnp, __name__, "on arrays of JAX"))

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Any]: ...
