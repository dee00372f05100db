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

    A subclass gives `theta_shape`, and `_identity`, `_grid`, `_vjp` and `_jvp`, which work on checked arrays; `_vjp2`
    too if it is not linear in all that it has derivatives to, and `_jvp_state` if `wrt` may name some of its state.
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
        return self._pushed(theta, d_theta, {})

    def vjp2(
        self, gg_theta: Array | None, grad_grid: Array, theta: Array, *, wrt: Any = ("grad_grid", "theta")
    ) -> tuple[Array | None, ...]:
        """Second order, the vector-Jacobian product of `vjp`: gradients to grad_grid and theta (None if not in `wrt`).

        `gg_theta` is the cotangent of the gradient to theta, of its shape and dtype; None is zero.
        """
        return self._pulled_twice(gg_theta, {}, grad_grid, theta, wrt)

    def _pushed(self, theta: Array, d_theta: Array | None, d_state: dict[str, Array | None]) -> Array:
        """The tangent of the grid, with those of the state by name."""
        xp = backend_of({"theta": theta}, prefixed("d_", d_theta, d_state)).xp
        shape = self._check(theta)
        self._check_directions("d_", theta, d_theta, d_state)
        d_grid = xp.zeros(shape, theta.dtype) if d_theta is None else self._jvp(xp, theta, d_theta)
        if all(tangent is None for tangent in d_state.values()):
            return d_grid
        return d_grid + self._jvp_state(xp, theta, **d_state)

    def _pulled_twice(
        self,
        gg_theta: Array | None,
        gg_state: dict[str, Array | None],
        grad_grid: Array,
        theta: Array,
        wrt: Any,
    ) -> tuple[Array | None, ...]:
        """Gradients to grad_grid, theta (None if `wrt` does not name them) and to the state that `wrt` names."""
        given = prefixed("gg_", gg_theta, gg_state)
        xp = backend_of({"grad_grid": grad_grid, "theta": theta}, given).xp
        check_like("grad_grid", grad_grid, self._check(theta), theta.dtype, "the grid")
        self._check_directions("gg_", theta, gg_theta, gg_state)
        wanted = check_wrt(wrt, ("grad_grid", "theta", *self._state))
        gradients: list[Array | None] = [None] * len(wanted)
        if wanted[0]:
            gradients[0] = self._pushed(theta, gg_theta, gg_state)
        if any(wanted[1:]) and any(array is not None for array in given.values()):
            gradients[1:] = self._vjp2(xp, grad_grid, theta, gg_theta, gg_state, wanted[1:])
        for k, primal in enumerate((theta, *(getattr(self, name) for name in self._state)), start=1):
            if not wanted[k]:
                gradients[k] = None
            elif gradients[k] is None:
                gradients[k] = xp.zeros(primal.shape, primal.dtype)
        return (*gradients[:2], *(g for g, named in zip(gradients[2:], wanted[2:], strict=True) if named))

    def _check_directions(
        self, prefix: str, theta: Array, of_theta: Array | None, of_state: dict[str, Array | None]
    ) -> None:
        """Check what has the shapes and dtypes of theta and the state, or is None."""
        for name, direction in {"theta": of_theta, **of_state}.items():
            if direction is not None:
                like = theta if name == "theta" else getattr(self, name)
                check_like(f"{prefix}{name}", direction, like.shape, like.dtype, name)

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

    def _jvp_state(self, xp: ModuleType, theta: Array, **d_state: Array | None) -> Array:
        """The tangent of the grid for those of the state, by name."""
        raise NotImplementedError

    def _vjp2(
        self,
        xp: ModuleType,
        grad_grid: Array,
        theta: Array,
        gg_theta: Array | None,
        gg_state: dict[str, Array | None],
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, ...]:
        """What `_vjp` returns, differentiated along gg_theta and gg_state, which are not all None; None is zero."""
        return (None,) * len(wanted)

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


def prefixed(prefix: str, of_theta: Array | None, of_state: dict[str, Array | None]) -> dict[str, Array | None]:
    """Directions of theta and of the state, by the names that they are given by."""
    return {f"{prefix}{name}": direction for name, direction in {"theta": of_theta, **of_state}.items()}
