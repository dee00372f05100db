"""Calls of operations with their arrays taken out: what an adapter keeps between the directions of a derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import getdoc, signature
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.ops import OPERATIONS, Operation, Spec, dimensions
from pystn.options import interpolation
from pystn.typing import Array
from pystn.validation import tangent_dtype

__all__ = ["OUTPUT", "Call", "bind", "functions_of"]

KERNEL = "kernel"
PER_IMAGE = ("mask",)  # options with the batch of the images
OUTPUT = -1  # the role of outputs, cotangents of them and tangents of them; that of a primal's kin is its number


@dataclass(frozen=True)
class Call:
    """An operation with its options, as a function of a flat list of arrays and hashable.

    The arrays are the primals, then those options that are arrays. All results are tuples or lists.
    """

    operation: Operation
    options: tuple[tuple[str, Any], ...]
    given: tuple[str, ...] = ()  # options that are arrays; "kernel.1" is that of the second axis

    @property
    def names(self) -> tuple[str, ...]:
        """What each array is."""
        return (*self.operation.primals, *self.given)

    @property
    def outputs(self) -> int:
        return 1 + bool(dict(self.options).get("return_mask", False))

    def forward(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        primals, options = self._split(arrays)
        return listed(self.operation.forward(*primals, **options))

    def vjp(
        self, cotangents: Sequence[Array | None], arrays: Sequence[Array], wanted: Sequence[bool]
    ) -> list[Array | None]:
        """The gradient to each array, None where not wanted; a cotangent of None is zero."""
        primals, options = self._split(arrays)
        cotangent = self._cotangent(cotangents, arrays)
        gradients = self.operation.vjp(cotangent, *primals, wrt=self._wrt(wanted), **options)
        return self._gradients(gradients, arrays, wanted)

    def jvp(self, arrays: Sequence[Array], tangents: Sequence[Array | None]) -> tuple[Array, ...]:
        """The tangent of each output."""
        primals, options = self._split(arrays)
        of_primals, of_options = self._tangents(tangents)
        return listed(
            self.operation.jvp(*primals, *of_primals, **options, **{f"d_{k}": v for k, v in of_options.items()})
        )

    def vjp2(
        self,
        seconds: Sequence[Array | None],
        cotangents: Sequence[Array | None],
        arrays: Sequence[Array],
        wanted: Sequence[bool],
    ) -> list[Array | None]:
        """The VJP of `vjp`, from a cotangent of each of its results: to the cotangents, then to the arrays."""
        primals, options = self._split(arrays)
        of_primals, of_options = self._tangents(seconds)
        self.check_second_order([second is not None for second in seconds], wanted[self.outputs :])
        names = [self.operation.cotangent] if any(wanted[: self.outputs]) else []
        names += self._wrt(wanted[self.outputs :])
        cotangent = self._cotangent(cotangents, arrays)
        more = {f"gg_{name}": value for name, value in of_options.items()}
        first, *rest = self.operation.vjp2(*of_primals, cotangent, *primals, wrt=names, **options, **more)
        firsts = () if first is None else listed(first)  # without the mask's, if its cotangent is None
        return [
            *[*firsts, None, None][: self.outputs],
            *self._gradients(tuple(rest), arrays, wanted[self.outputs :]),
        ]

    def check_second_order(self, seconds: Sequence[bool], wanted: Sequence[bool]) -> None:
        """Raise unless there are second-order derivatives of the arrays with seconds to those that are wanted."""
        self.operation.check_second_order()
        for k, name in enumerate(self.names):
            if name in self.given and not self.operation.curved_parameters and (seconds[k] or wanted[k]):
                raise NotImplementedError(f"{self.operation.name} has no second-order derivatives to {name}")

    def results(self, specs: Sequence[Any]) -> tuple[Spec, ...]:
        """Shape and dtype of each output, of arrays of these shapes and dtypes."""
        count = len(self.operation.primals)
        return self.operation.results(dict(zip(self.operation.primals, specs[:count], strict=True)), dict(self.options))

    def tangents(self, specs: Sequence[Any]) -> tuple[Spec, ...]:
        """The same of each output's tangent and cotangent."""
        return tuple(Spec(shape, tangent_dtype(dtype)) for shape, dtype in self.results(specs))

    def check(self, specs: Sequence[Any]) -> None:
        """Raise what a call of arrays of these shapes and dtypes raises, whatever their values, without computing."""
        stand_ins = [np.broadcast_to(np.zeros((), spec.dtype), spec.shape) for spec in specs]
        count = len(self.operation.primals)
        data = [k for k, name in enumerate(self.names) if name in self.operation.data]
        plain = Call(self.operation, self.options, tuple(self.names[k] for k in data))
        arrays = [stand_ins[k] for k in (*range(count), *data)]
        roles, axes = range(len(arrays)), [None] * len(arrays)
        try:
            none, empty, _ = plain.fold(np, 0, arrays, axes, roles, roles[:count])  # a batch of no calls
            none.forward(empty)
        except Exception:
            plain.forward(arrays)  # the same error, with the shapes that were given

    def folds(self, axes: Sequence[int | None], roles: Sequence[int], targets: Sequence[int]) -> bool:
        """Whether `fold` can do it: options have no batch of calls, and none of images that would have to repeat."""
        count = len(self.operation.primals)
        batched = [role for role, axis in zip(roles, axes, strict=True) if axis is not None]
        repeats = any(name in PER_IMAGE for name in self.given)
        return not repeats and all(role < count for role in (*batched, *targets))

    def fold(
        self,
        xp: Any,
        batch: int,
        arrays: Sequence[Any],
        axes: Sequence[int | None],
        roles: Sequence[int],
        targets: Sequence[int],
    ) -> tuple[Call, list[Any], Callable[[Sequence[Any]], list[Any]]]:
        """A batch of calls as one call: vmap's rule.

        Parameters
        ----------
        xp : module
            With `moveaxis`, `broadcast_to` and `reshape`: torch, jax.numpy, numpy.
        batch : int
            How many calls.
        arrays : sequence of arrays
            What a direction takes; the role of each is in `roles`.
        axes : sequence of int or None
            The axis of each array along which the calls are; None where they share it.
        roles, targets : sequence of int
            Of arrays and of results: the number of the primal whose kin they are, or `OUTPUT`.

        Returns
        -------
        call, arrays
            What to call instead.
        unfold : callable
            Turns results of that into results with the batch in front.
        """
        count = len(self.operation.primals)
        first = [a if k is None else xp.moveaxis(a, k, 0) for a, k in zip(arrays, axes, strict=True)]
        shapes = [tuple(a.shape[k is not None :]) for a, k in zip(first, axes, strict=True)]  # of one call
        of_role = {role: shape for role, shape in zip(roles, shapes, strict=True) if role < count}
        batched = {role for role, axis in zip(roles, axes, strict=True) if axis is not None}
        fold = fold_leading if self.operation.leading else fold_first
        spread, unfold = fold(xp, batch, of_role, {OUTPUT, *batched, *targets})
        folded = [
            spread(array, shape, role) if role < count else array
            for array, shape, role in zip(first, shapes, roles, strict=True)
        ]
        call = self._spatial(dict(zip(roles, first, strict=True)))._from_the_end(of_role)
        return call, folded, lambda results: [unfold(r, role) for r, role in zip(results, targets, strict=True)]

    def replace(self, **options: Any) -> Call:
        """The same call with other options."""
        changed = {**dict(self.options), **options}
        return Call(self.operation, tuple((name, changed[name]) for name in sorted(changed)), self.given)

    def _spatial(self, arrays: dict[int, Any]) -> Call:
        """The same call with a size that does not tell the batch."""
        options = dict(self.options)
        if "size" not in options:
            return self
        ndim = dimensions({name: arrays[k] for k, name in enumerate(self.operation.primals)})
        return self.replace(size=options["size"][-ndim:])

    def _from_the_end(self, shapes: Shapes) -> Call:
        """The same call with an axis that does not count what is in front."""
        axis = dict(self.options).get("axis", -1)
        return self if axis < 0 else self.replace(axis=axis - len(shapes[0]))

    def _split(self, arrays: Sequence[Array]) -> tuple[Sequence[Array], dict[str, Any]]:
        """Primals, and options as the functions take them."""
        count = len(self.operation.primals)
        options = dict(self.options)
        kernels = []
        for name, array in zip(self.given, arrays[count:], strict=True):
            if name.partition(".")[0] == KERNEL:
                kernels.append((name, on_host(array)))
            else:
                options[name] = array if name in self.operation.options else on_host(array)
        for name, values in kernels:
            options["mode"] = with_parameters(options.get("mode", "linear"), name, values)
        return arrays[:count], options

    def _wrt(self, wanted: Sequence[bool]) -> list[str]:
        asked = [name for name, is_wanted in zip(self.names, wanted, strict=True) if is_wanted]
        return list(dict.fromkeys(name.partition(".")[0] for name in asked)) if self.given else asked

    def _cotangent(self, cotangents: Sequence[Array | None], arrays: Sequence[Array]) -> Any:
        first, *masks = cotangents
        if first is None:
            shape, dtype = self.tangents(arrays)[0]
            first = backend_of({self.names[0]: arrays[0]}).xp.zeros(shape, dtype)
        return (first, *masks) if masks else first

    def _tangents(self, tangents: Sequence[Array | None]) -> tuple[Sequence[Array | None], dict[str, Any]]:
        """Tangents of the primals, and those of options by name."""
        count = len(self.operation.primals)
        options: dict[str, Any] = {}
        for name, tangent in zip(self.given, tangents[count:], strict=True):
            base, _, axis = name.partition(".")
            if tangent is None:
                continue
            if axis:
                whole = options.setdefault(base, [None] * len(dict(self.options)["mode"]))
                whole[int(axis)] = tangent
            else:
                options[base] = tangent
        return tangents[:count], {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}

    def _gradients(self, found: tuple[Any, ...], arrays: Sequence[Array], wanted: Sequence[bool]) -> list[Array | None]:
        """The gradient to each array, from what the functions return."""
        count = len(self.operation.primals)
        gradients = list(found[:count])
        if not self.given:
            return gradients
        named = dict(zip(self._wrt([False] * count + list(wanted[count:])), found[count:], strict=True))
        for name, array, is_wanted in zip(self.given, arrays[count:], wanted[count:], strict=True):
            base, _, axis = name.partition(".")
            gradient = named[base] if is_wanted else None
            if gradient is not None:
                gradient = (gradient[int(axis)] if axis else gradient).reshape(array.shape)
                gradient = gradient if array.dtype.kind in "iu" else gradient.astype(array.dtype)
            gradients.append(gradient)
        return gradients


Shapes = dict[int, tuple[Any, ...]]  # of one call's arrays, by their roles
Fold = tuple[Callable[[Any, Any, int], Any], Callable[[Any, int], Any]]


def fold_leading(xp: Any, batch: int, shapes: Shapes, own: set[int]) -> Fold:
    """How to spread arrays and to unfold results where leading axes are a batch already: it is one more in front."""
    rank = max(len(shape) for role, shape in shapes.items() if role != OUTPUT)

    def spread(array: Any, shape: tuple[Any, ...], role: int) -> Any:
        full = xp.broadcast_to(array, (batch, *shape))
        # Leading axes of primals broadcast against each other: the batch has to stay in front of all.
        return full if role == OUTPUT else xp.reshape(full, (batch, *[1] * (rank - len(shape)), *shape))

    def unfold(result: Any, role: int) -> Any:
        return result if role == OUTPUT else xp.reshape(result, (batch, *shapes[role]))

    return spread, unfold


def fold_first(xp: Any, batch: int, shapes: Shapes, own: set[int]) -> Fold:
    """The same with one batch axis: all calls are along it. An array of size 1 there that is not `own` stays shared."""
    size = next((shape[0] for shape in shapes.values() if shape[0] != 1), 1)

    def spread(array: Any, shape: tuple[Any, ...], role: int) -> Any:
        if role not in own and shape[0] == 1:
            return array
        full = xp.broadcast_to(array, (batch, size, *shape[1:]))
        return xp.reshape(full, (batch * size, *shape[1:]))

    def unfold(result: Any, role: int) -> Any:
        apart = xp.reshape(result, (batch, size, *result.shape[1:]))
        shared = role != OUTPUT and shapes[role][0] == 1 and size != 1
        return apart.sum(1)[:, None] if shared else apart

    return spread, unfold


def listed(result: Any) -> tuple[Array, ...]:
    return result if isinstance(result, tuple) else (result,)


def on_host(array: Any) -> Any:
    """What a kernel or a family is made from is read on the host; a device is waited for."""
    return array.get() if hasattr(array, "get") else array


def with_parameters(mode: Any, name: str, values: Any) -> Any:
    """The mode with the parameters of its kernel, or of one axis' kernel, replaced."""
    axis = name.partition(".")[2]
    if not axis:
        if isinstance(mode, (tuple, list)):
            raise TypeError("kernel must be a tuple of one array or None for each axis, as mode is")
        return interpolation(mode).with_parameters(values)
    if not isinstance(mode, (tuple, list)) or int(axis) >= len(mode):
        raise TypeError(
            f"kernel must be one array, or a tuple of one array or None for each axis' mode: mode is {mode!r}"
        )
    modes = list(mode)
    modes[int(axis)] = interpolation(modes[int(axis)]).with_parameters(values)
    return tuple(modes)


def bind(
    operation: Operation, args: Sequence[Any], options: dict[str, Any], is_array: Callable[[Any], bool]
) -> tuple[Call, list[Any]]:
    """What a caller of an adapter gave, as a `Call` and its arrays.

    Options that `parameters` or `data` name may be arrays; those that only derivatives have always count as such.
    `kernel` gives the parameters of `mode`, one array, or a tuple of one array or None for each axis.
    """
    names = operation.arguments
    if len(args) > len(names):
        raise TypeError(f"{operation.name} takes {len(names)} arguments by position, {names}: got {len(args)}")
    given = dict(zip(names, args, strict=False))
    twice = sorted(given.keys() & options.keys())
    if twice:
        raise TypeError(f"{operation.name} got {', '.join(twice)} twice, by position and by name")
    given.update(options)
    missing = [name for name in operation.primals if name not in given]
    if missing:
        raise TypeError(
            f"{operation.name} takes the arrays {', '.join(operation.primals)}: {', '.join(missing)} missing"
        )
    arrays = [given.pop(name) for name in operation.primals]
    of_options = []
    for name in (*operation.parameters, *operation.data):
        value = given.get(name)
        if name == KERNEL and isinstance(value, (tuple, list)):
            per_axis = [(f"{KERNEL}.{axis}", array) for axis, array in enumerate(given.pop(name)) if array is not None]
            of_options += per_axis
        elif is_array(value) or (value is not None and name not in operation.options):
            of_options.append((name, given.pop(name)))
    for name in given:
        if name not in operation.options:
            expected = ", ".join((*operation.primals, *operation.options, *operation.parameters))
            raise TypeError(f"{operation.name} has no argument {name!r}: expected some of {expected}")
    call = Call(
        operation,
        tuple((name, hashable(given[name])) for name in sorted(given)),
        tuple(name for name, _ in of_options),
    )
    return call, arrays + [array for _, array in of_options]


def functions_of(apply: Callable[..., Any], arrays: str) -> dict[str, Callable[..., Any]]:
    """All operations as functions of an adapter that calls them by `apply`, on `arrays`, by their names."""

    def function(operation: Operation) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            return apply(operation, *args, **options)

        given = signature(operation.forward)
        summary = (getdoc(operation.forward) or "").partition("\n")[0]
        attributes = {
            "__module__": apply.__module__,
            "__name__": operation.name,
            "__qualname__": operation.name,
            "__doc__": f"{summary}\n\n`pystn.{operation.name}` on {arrays}: arguments and results are described there.",
            "__signature__": given.replace(
                parameters=[p for name, p in given.parameters.items() if name != "out"], return_annotation=Any
            ),
        }
        for name, value in attributes.items():
            setattr(call, name, value)
        return call

    return {name: function(operation) for name, operation in OPERATIONS.items()}


def hashable(value: Any) -> Any:
    """The option as a value that can be looked up."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return tuple(map(hashable, value)) if isinstance(value, (tuple, list)) else value
