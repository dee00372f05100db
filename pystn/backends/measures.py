"""What anti-aliasing takes from a local Jacobian (..., ndim, ndim), and the derivatives of that to it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any

from pystn.typing import Array

__all__ = ["Covariances", "LevelOfDetail", "Measure", "Scales"]


class Measure(ABC):
    """A function of Jacobians."""

    value: Array

    def __init__(self, xp: ModuleType, jacobian: Array) -> None:
        self.xp, self.jacobian = xp, jacobian

    @abstractmethod
    def jvp(self, d_jacobian: Array) -> Array: ...

    @abstractmethod
    def vjp(self, grad: Array) -> Array: ...

    @abstractmethod
    def vjp2(self, gg_jacobian: Array, grad: Array) -> Array:
        """The gradient to the Jacobian of <grad, jvp(gg_jacobian)>."""


class LevelOfDetail(Measure):
    """log2 of the norm of the longest column, (...): the first of equal ones, clamped to [0, top]."""

    def __init__(self, xp: ModuleType, jacobian: Array, top: int) -> None:
        super().__init__(xp, jacobian)
        squares = (jacobian * jacobian).sum(axis=-2)
        longest = squares.argmax(axis=-1)
        largest = squares.max(axis=-1)
        inside = (largest > 1) & (largest < 4.0**top)
        chosen = xp.arange(jacobian.shape[-1]) == longest[..., None]
        self.of_columns = (chosen & inside[..., None])[..., None, :]
        self.square = xp.where(inside, largest, 1)
        self.value = xp.log2(xp.clip(largest, 1, 4.0**top)) / 2

    def _along(self, d_jacobian: Array) -> Any:
        return (self.jacobian * d_jacobian * self.of_columns).sum(axis=(-2, -1)) / self.square

    def jvp(self, d_jacobian: Array) -> Any:
        return self._along(d_jacobian) / math.log(2)

    def vjp(self, grad: Array) -> Any:
        return (grad / (self.square * math.log(2)))[..., None, None] * self.jacobian * self.of_columns

    def vjp2(self, gg_jacobian: Array, grad: Array) -> Any:
        turned = gg_jacobian - 2 * self._along(gg_jacobian)[..., None, None] * self.jacobian
        return (grad / (self.square * math.log(2)))[..., None, None] * turned * self.of_columns


class Scales(Measure):
    """The norms of the rows, at least 1, (..., ndim)."""

    def __init__(self, xp: ModuleType, jacobian: Array) -> None:
        super().__init__(xp, jacobian)
        squares = (jacobian * jacobian).sum(axis=-1)
        self.wider = squares > 1
        self.value = xp.sqrt(xp.where(self.wider, squares, 1))

    def _share(self, grad: Array) -> Any:
        return (grad * self.wider / self.value)[..., None]

    def _along(self, d_jacobian: Array) -> Any:
        return (self.jacobian * d_jacobian).sum(axis=-1)

    def jvp(self, d_jacobian: Array) -> Any:
        return self._along(d_jacobian) * self.wider / self.value

    def vjp(self, grad: Array) -> Any:
        return self._share(grad) * self.jacobian

    def vjp2(self, gg_jacobian: Array, grad: Array) -> Any:
        along = (self._along(gg_jacobian) / (self.value * self.value))[..., None]
        return self._share(grad) * (gg_jacobian - along * self.jacobian)


class Covariances(Measure):
    """(J J^T + I) / 4, (..., ndim, ndim)."""

    def __init__(self, xp: ModuleType, jacobian: Array) -> None:
        super().__init__(xp, jacobian)
        unit = xp.eye(jacobian.shape[-1], dtype=jacobian.dtype)
        self.value = (jacobian @ jacobian.swapaxes(-1, -2) + unit) / 4

    def jvp(self, d_jacobian: Array) -> Any:
        half = d_jacobian @ self.jacobian.swapaxes(-1, -2)
        return (half + half.swapaxes(-1, -2)) / 4

    def vjp(self, grad: Array) -> Array:
        return self.vjp2(self.jacobian, grad)

    def vjp2(self, gg_jacobian: Array, grad: Array) -> Array:
        product: Array = (grad + grad.swapaxes(-1, -2)) @ gg_jacobian / 4
        return product
