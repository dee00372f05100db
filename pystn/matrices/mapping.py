"""Functions of small arrays, one value for each entry of their leading axes, and the derivatives of those.

A value and its Jacobians are written once, in float64; the function and its two derivatives follow, and with how the
Jacobians bend the second order too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.typing import Array
from pystn.validation import check_float, check_leading, check_like, check_wrt

__all__ = ["Curved", "Mapping"]


@dataclass(frozen=True)
class Mapping:
    """A function of one or more arrays (*leading, *core) by its value and its Jacobians.

    ``check(*primals, **options)`` raises where the function is not defined. Then
    ``function(xp, *primals, **options)`` has the primals in float64 and returns the value,
    (*leading, *shape), and a Jacobian (*leading, *shape, *core) for each primal; leading axes may be
    absent where a Jacobian does not depend on its entry.
    """

    function: Callable[..., tuple[Any, ...]]
    check: Callable[..., None]
    primals: tuple[str, ...]
    cotangent: str
    core: int  # how many axes
    alone: Callable[..., Any] | None = None  # the value as `function` has it, where that is much less work

    def value(self, *primals: Array, **options: Any) -> Array:
        xp = self.checked(primals, {}, options)
        with np.errstate(all="ignore"):
            wide = [primal.astype(np.float64) for primal in primals]
            value = self.alone(xp, *wide, **options) if self.alone else self.function(xp, *wide, **options)[0]
        return rounded(xp, value, primals[0])

    def vjp(
        self, cotangent: Array, *primals: Array, wrt: Sequence[str] | None = None, **options: Any
    ) -> tuple[Any, ...]:
        wanted = check_wrt(self.primals if wrt is None else wrt, self.primals)
        xp = self.checked(primals, {self.cotangent: cotangent}, options)
        value, jacobians = self.evaluated(xp, primals, options)
        check_like(self.cotangent, cotangent, value.shape, primals[0].dtype, "the result")
        return self.pulled(xp, cotangent, jacobians, primals, wanted)

    def jvp(self, primals: tuple[Array, ...], tangents: tuple[Array | None, ...], **options: Any) -> Array:
        named = dict(zip([f"d_{name}" for name in self.primals], tangents, strict=True))
        xp = self.checked(primals, named, options)
        self.check_tangents(named, primals)
        value, jacobians = self.evaluated(xp, primals, options)
        return self.pushed(xp, tangents, value, jacobians, primals)

    def checked(self, primals: tuple[Array, ...], others: dict[str, Array | None], options: dict[str, Any]) -> Any:
        """The array module of what was given, once that has been checked."""
        named = dict(zip(self.primals, primals, strict=True))
        xp = backend_of(named, others).xp
        for name, primal in named.items():
            check_float(name, primal)
            if primal.dtype != primals[0].dtype:
                raise TypeError(
                    f"{name} must have the dtype of {self.primals[0]}, {primals[0].dtype}: got {primal.dtype}"
                )
        self.check(*primals, **options)
        check_leading(named, self.core)
        return xp

    def check_tangents(self, named: dict[str, Array | None], primals: tuple[Array, ...]) -> None:
        for (name, tangent), primal, of in zip(named.items(), primals, self.primals, strict=True):
            if tangent is not None:
                check_like(name, tangent, primal.shape, primal.dtype, of)

    def evaluated(self, xp: Any, primals: tuple[Array, ...], options: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The value, and the Jacobians as matrices."""
        with np.errstate(all="ignore"):
            value, *jacobians = self.function(xp, *[primal.astype(np.float64) for primal in primals], **options)
        return value, self.matrices(value, jacobians, primals)

    def matrices(self, value: Array, jacobians: Sequence[Any], primals: tuple[Array, ...]) -> list[Any]:
        """Jacobians with a row for each element of the value."""
        shape = value.shape[len(self.leading(primals)) :]
        matrices = []
        for jacobian, primal in zip(jacobians, primals, strict=True):
            leading = jacobian.shape[: jacobian.ndim - len(shape) - self.core]
            matrices.append(jacobian.reshape(*leading, prod(shape), prod(self.split(primal)[1])))
        return matrices

    def pulled(
        self, xp: Any, cotangent: Array, jacobians: list[Any], primals: tuple[Array, ...], wanted: Sequence[bool]
    ) -> tuple[Any, ...]:
        leading = self.leading(primals)
        row = cotangent.astype(np.float64).reshape(*leading, 1, prod(cotangent.shape[len(leading) :]))
        with np.errstate(all="ignore"):
            return tuple(
                rounded(xp, self.summed((row @ jacobian)[..., 0, :], primal), primal) if asked else None
                for asked, jacobian, primal in zip(wanted, jacobians, primals, strict=True)
            )

    def pushed(
        self,
        xp: Any,
        tangents: tuple[Array | None, ...],
        value: Array,
        jacobians: list[Any],
        primals: tuple[Array, ...],
    ) -> Array:
        leading = self.leading(primals)
        total = xp.zeros((*leading, prod(value.shape[len(leading) :]), 1))
        with np.errstate(all="ignore"):
            for jacobian, tangent in zip(jacobians, tangents, strict=True):
                if tangent is not None:
                    column = tangent.astype(np.float64).reshape(*self.split(tangent)[0], jacobian.shape[-1], 1)
                    total = total + jacobian @ column
        return rounded(xp, total.reshape(value.shape), primals[0])

    def split(self, array: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The leading axes of a primal, and its core."""
        return array.shape[: array.ndim - self.core], array.shape[array.ndim - self.core :]

    def leading(self, primals: tuple[Array, ...]) -> tuple[int, ...]:
        return np.broadcast_shapes(*[self.split(primal)[0] for primal in primals])

    def summed(self, gradient: Any, primal: Array) -> Any:
        """Gradients of all leading entries, (*leading, n), added up where they share the primal's."""
        shape = self.split(primal)[0]
        absent = gradient.ndim - 1 - len(shape)
        shared = [absent + axis for axis, n in enumerate(shape) if n != gradient.shape[absent + axis]]
        return gradient.sum(axis=(*range(absent), *shared)).reshape(primal.shape)


@dataclass(frozen=True)
class Curved(Mapping):
    """A mapping whose Jacobians move with its primals.

    ``bend(xp, along, *primals, **options)`` has a tangent for each primal, all in float64, and returns the derivatives
    of the Jacobians along these, of the shapes of the Jacobians.
    """

    bend: Callable[..., Sequence[Any]] = field(kw_only=True)

    def vjp2(
        self,
        along: tuple[Array | None, ...],
        cotangent: Array,
        *primals: Array,
        wrt: Sequence[str] | None = None,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Of <along, J^T g>, by g and by the primals: J along, and the cotangent pulled through how J bends along."""
        names = (self.cotangent, *self.primals)
        to_cotangent, *wanted = check_wrt(names if wrt is None else wrt, names)
        named = dict(zip([f"gg_{name}" for name in self.primals], along, strict=True))
        xp = self.checked(primals, {**named, self.cotangent: cotangent}, options)
        self.check_tangents(named, primals)
        value, jacobians = self.evaluated(xp, primals, options)
        check_like(self.cotangent, cotangent, value.shape, primals[0].dtype, "the result")
        pushed = self.pushed(xp, along, value, jacobians, primals) if to_cotangent else None
        if not any(wanted) or all(tangent is None for tangent in along):
            zeros = [xp.zeros(p.shape, p.dtype) if asked else None for asked, p in zip(wanted, primals, strict=True)]
            return pushed, *zeros
        with np.errstate(all="ignore"):
            wide = [primal.astype(np.float64) for primal in primals]
            moved = [
                xp.zeros_like(primal) if tangent is None else tangent.astype(np.float64)
                for tangent, primal in zip(along, wide, strict=True)
            ]
            bent = self.bend(xp, moved, *wide, **options)
        return pushed, *self.pulled(xp, cotangent, self.matrices(value, bent, primals), primals, wanted)


def rounded(xp: Any, array: Any, like: Array) -> Array:
    """A new array with the dtype of another."""
    with np.errstate(all="ignore"):
        result: Array = xp.array(array, dtype=like.dtype, order="C")
    return result
