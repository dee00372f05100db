"""What the generators with precomputed state have in common: checks, leading axes, results."""

from __future__ import annotations

from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.kept import Keeper
from pystn.options import flag
from pystn.typing import Array
from pystn.validation import check_like, check_out, check_parameters, check_wrt

__all__ = ["Family"]


class Family(Keeper):
    """A generator with precomputed state: parameters in, coordinates out.

    A subclass gives `theta_shape`, and `_identity`, `_grid`, `_vjp` and `_jvp`, which work on checked arrays.
    An object is not changed after its construction, but for the casts of its state that it keeps.
    """

    size: tuple[int, ...]
    align_corners: bool
    ndim: int
    theta_shape: tuple[int, ...]
    _state: tuple[str, ...] = ()  # what `wrt` may name beside theta

    def __init__(self, size: tuple[int, ...], align_corners: bool, ndim: int, theta_shape: tuple[int, ...]) -> None:
        aligned = flag("align_corners", align_corners)
        self._set(size=size, align_corners=aligned, ndim=ndim, theta_shape=theta_shape)

    @property
    def state(self) -> tuple[str, ...]:
        """What the object is made from that has derivatives too: names that `wrt` may hold beside theta."""
        return self._state

    @property
    def arguments(self) -> dict[str, Any]:
        """What the constructor was given."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def replace(self, **arguments: Any) -> Family:
        """The same family, made from other arguments where they are given."""
        return type(self)(**{**self.arguments, **arguments})

    def identity(self, batch: int = 1, dtype: Any = np.float64) -> Array:
        """Parameters (batch, *theta_shape) of the transform that moves nothing."""
        return np.broadcast_to(self._identity(), (batch, *self.theta_shape)).astype(dtype, order="C")

    def __call__(self, theta: Array, *, out: Array | None = None) -> Array:
        """Grid (N, ..., *size, ndim) of parameters (N, ..., *theta_shape), in their dtype.

        `out` is written into if given: shape and dtype of the result, any strides, no overlap with `theta`.
        """
        xp = backend_of({"theta": theta}, {"out": out}).xp
        shape = self._check(theta)
        if out is not None:
            check_out("out", out, shape, theta.dtype, (theta,))
        return self._grid(xp, theta, out)

    def vjp(self, grad_grid: Array, theta: Array, *, wrt: Any = ("theta",)) -> tuple[Array | None, ...]:
        """Gradients to theta (None if `wrt` does not name it), then to the state that `wrt` names."""
        xp = backend_of({"grad_grid": grad_grid, "theta": theta}).xp
        check_like("grad_grid", grad_grid, self._check(theta), theta.dtype, "the grid")
        wanted = check_wrt(wrt, ("theta", *self._state))
        gradients = self._vjp(xp, grad_grid, theta, wanted)
        return (gradients[0], *(g for g, named in zip(gradients[1:], wanted[1:], strict=True) if named))

    def jvp(self, theta: Array, d_theta: Array | None) -> Array:
        """How the grid moves with the parameters; a tangent of None is zero."""
        xp = backend_of({"theta": theta}, {"d_theta": d_theta}).xp
        shape = self._check(theta)
        if d_theta is None:
            return xp.zeros(shape, theta.dtype)
        check_like("d_theta", d_theta, theta.shape, theta.dtype, "theta")
        return self._jvp(xp, theta, d_theta)

    def _identity(self) -> Array:
        """Parameters (*theta_shape) of the identity, float64."""
        raise NotImplementedError

    def _grid(self, xp: ModuleType, theta: Array, out: Array | None) -> Array:
        raise NotImplementedError

    def _vjp(self, xp: ModuleType, grad_grid: Array, theta: Array, wanted: tuple[bool, ...]) -> tuple[Any, ...]:
        """Gradients to theta and to each name of `_state`, None where not wanted."""
        raise NotImplementedError

    def _jvp(self, xp: ModuleType, theta: Array, d_theta: Array) -> Array:
        raise NotImplementedError

    def _check(self, theta: Array) -> tuple[int, ...]:
        """Check theta; returns the shape of its grid."""
        leading = check_parameters("theta", theta, self.theta_shape)
        return (*leading, *self.size, self.ndim)

    def _set(self, **attributes: Any) -> None:
        """Set attributes in a constructor; arrays among them become read-only."""
        for value in attributes.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        vars(self).update(attributes)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: cannot set {name}")
