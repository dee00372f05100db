"""Flows of stationary velocity fields, by scaling and squaring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from pystn.backends import Operations, backend_of
from pystn.grids.family import Family
from pystn.grids.fields import add_lattice, field_sampling, stacked
from pystn.grids.jacobian import jacobian_determinant
from pystn.typing import Array
from pystn.validation import count, spatial_size

__all__ = ["StationaryVelocity"]


class StationaryVelocity(Family):
    r"""Grids of flows: where the points of the lattice are after following a velocity field for a unit of time.

    .. math::
        u_0 = v / 2^n, \qquad u_{k+1}(x) = u_k(x) + u_k(x + u_k(x)), \qquad x_i = t_i + u_n(t_i)

    Scaling and squaring: a flow of twice the time is the flow after itself (Arsigny et al., A log-Euclidean framework
    for statistics on diffeomorphisms, MICCAI 2006). Fields are interpolated linearly and are constant beyond the
    centres of the outermost pixels. Smooth velocities give grids that do not fold, and the negative velocity gives
    the inverse, up to errors of the second order in the size of the pixels and of the first in :math:`2^{-n}`.

    Parameters
    ----------
    size : sequence of int
        Spatial size of the velocities and of the grid, (W,), (H, W) or (D, H, W).
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels or their outer edges.
    steps : int, default 7
        Number of squarings. With too few the first step is no small one, and large velocities may fold.

    Attributes
    ----------
    size, align_corners, steps
        As given.
    ndim : int
        Number of dimensions, 1 to 3.
    theta_shape : tuple of int
        (*size, ndim): the velocity at every pixel, (x[, y[, z]]) in normalized units.

    Raises
    ------
    TypeError
        If `size` is no sequence of integers, or an option of the wrong type.
    ValueError
        If `size` has none or more than three axes or is negative, or `steps` is negative.

    See Also
    --------
    displacement_grid : the grid of displacements, with no flow.
    jacobian_determinant : of a grid.
    CPAB : flows of velocities of few parameters.

    Notes
    -----
    Everything is computed in the dtype of theta: float32 positions are right to 6e-8 of the coordinates' range. `vjp`
    keeps the field before every squaring, `steps` arrays as large as the grid; the grid itself needs three.

    MONAI's ``DVF2DDF`` with border padding and seven steps is the same; VoxelMorph's ``VecInt`` reads zeros outside.
    Both take voxels, in the order of the array's axes.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> flow = pystn.StationaryVelocity((4, 5))
    >>> theta = flow.identity()
    >>> theta[..., 0] = 0.25
    >>> theta.shape
    (1, 4, 5, 2)
    >>> flow(theta)[0, 0, :, 0]
    array([-0.55, -0.15,  0.25,  0.65,  1.05])
    >>> there_and_back = pystn.compose_grids(flow(theta), flow(flow.inverse(theta)))
    >>> np.allclose(there_and_back, flow(flow.identity()))
    True
    """

    steps: int

    def __init__(self, size: Sequence[int], align_corners: bool = False, *, steps: int = 7) -> None:
        spatial = spatial_size(size)
        ndim = len(spatial)
        super().__init__(spatial, align_corners, ndim, (*spatial, ndim))
        self._set(steps=count("steps", steps, 0))

    def __repr__(self) -> str:
        return f"StationaryVelocity({self.size}, align_corners={self.align_corners}, steps={self.steps})"

    def inverse(self, theta: Array) -> Array:
        """Parameters of the flow back: the negative velocity."""
        backend_of({"theta": theta})
        self._check(theta)
        return -theta

    def folded(self, theta: Array) -> Array:
        """Whether the grid of each transform (N, ...) folds: somewhere its determinant is not positive."""
        determinants: Any = jacobian_determinant(self(theta), self.align_corners)
        return (~(determinants > 0)).any(axis=tuple(range(-self.ndim, 0)))

    def _identity(self) -> Array:
        return np.zeros(self.theta_shape)

    def _grid(self, xp: ModuleType, theta: Array, out: Array | None) -> Array:
        for u in self._fields(backend_of({"theta": theta}), theta):  # noqa: B007
            pass
        return add_lattice(xp, u.reshape(theta.shape), self.align_corners, out=out)

    def _vjp(self, xp: ModuleType, grad_grid: Array, theta: Array, wanted: tuple[bool, ...]) -> tuple[Array | None]:
        if not wanted[0]:
            return (None,)
        backend, adjoint = backend_of({"theta": theta}), stacked(grad_grid)
        *fields, _ = self._fields(backend, theta)
        for u in reversed(fields):
            adjoint = self._squared_vjp(backend, adjoint, u)
        return ((adjoint * 0.5**self.steps).reshape(theta.shape),)

    def _vjp2(
        self,
        xp: ModuleType,
        grad_grid: Array,
        theta: Array,
        gg_theta: Array | None,
        gg_state: dict[str, Array | None],
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None]:
        assert gg_theta is not None
        backend, options = backend_of({"theta": theta}), field_sampling("border", self.align_corners)
        adjoint = stacked(grad_grid)
        bent = xp.zeros_like(adjoint)  # the derivative of the adjoint
        *fields, _ = self._fields(backend, theta)
        for u, du in reversed(list(zip(fields, self._tangents(backend, fields, gg_theta), strict=False))):
            points = add_lattice(xp, u, self.align_corners)
            both: Any = backend.grid_sample_vjp2(du, du, adjoint, None, u, points, options, (False, True, True))
            with np.errstate(invalid="ignore"):
                bent = self._squared_vjp(backend, bent, u) + both[2] + both[3]
            adjoint = self._squared_vjp(backend, adjoint, u)
        return ((bent * 0.5**self.steps).reshape(theta.shape),)

    def _jvp(self, xp: ModuleType, theta: Array, d_theta: Array) -> Array:
        backend = backend_of({"theta": theta})
        *fields, _ = self._fields(backend, theta)
        for du in self._tangents(backend, fields, d_theta):  # noqa: B007
            pass
        return du.reshape(theta.shape)

    def _fields(self, backend: Operations, theta: Array) -> Iterator[Array]:
        """The displacements (M, *size, ndim) before each squaring, and after the last."""
        options, u = field_sampling("border", self.align_corners), stacked(theta) * 0.5**self.steps
        yield u
        for _ in range(self.steps):
            points = add_lattice(backend.xp, u, self.align_corners)
            pulled, _ = backend.grid_sample(u, points, options, False, None)
            with np.errstate(invalid="ignore"):
                pulled += u
            u = pulled
            yield u

    def _tangents(self, backend: Operations, fields: list[Array], d_theta: Array) -> Iterator[Array]:
        """The tangents of the fields before each squaring, and after the last."""
        options, du = field_sampling("border", self.align_corners), stacked(d_theta) * 0.5**self.steps
        none: list[Array | None] = [None] * self.ndim
        yield du
        for u in fields:
            points = add_lattice(backend.xp, u, self.align_corners)
            moved, _ = backend.grid_sample_jvp(u, points, du, du, None, none, options, False, None)
            with np.errstate(invalid="ignore"):
                moved += du
            du = moved
            yield du

    def _squared_vjp(self, backend: Operations, adjoint: Array, u: Array) -> Array:
        """The cotangent before a squaring of u, from that after it."""
        options, points = field_sampling("border", self.align_corners), add_lattice(backend.xp, u, self.align_corners)
        total, to_points = backend.grid_sample_vjp(adjoint, None, u, points, options, (True, True), (None, None))
        assert total is not None
        with np.errstate(invalid="ignore"):
            total += adjoint
            total += to_points
        return total
