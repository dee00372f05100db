"""CPAB: flows of velocities that are continuous and affine in each cell of a tessellation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.grids.family import Family
from pystn.grids.lattice import lattice
from pystn.grids.tessellations import Intervals, Triangles
from pystn.options import flag, for_each_axis
from pystn.typing import Array
from pystn.validation import check_float, count, spatial_size

__all__ = ["CPAB"]


class CPAB(Family):
    r"""Grids of flows of continuous piecewise affine velocities (CPA-based), in one and two dimensions.

    .. math:: \frac{dx}{d\tau} = v_\theta(x), \qquad x(0) = t_i, \qquad x_i = x(1)

    with v continuous on [-1, 1] or its square and affine in every cell of a tessellation (Freifeld et al., Highly
    expressive spaces of well-behaved transformations: keeping it simple, ICCV 2015; Transformations based on continuous
    piecewise-affine velocity fields, PAMI 2017). Whatever theta is, the flow is continuous, invertible and preserves
    orientation; its inverse is the flow of -theta.

    In one dimension the cells are intervals and the flow is exact (Martinez et al., Closed-form diffeomorphic
    transformations for time series alignment, ICML 2022). In two they are rectangles, each cut by its diagonals into
    four triangles, and the flow is made of `steps` steps, each exact for the velocity of the triangle that it starts
    in; its error, and that of the inverse, is of the order of 1 / steps.

    Parameters
    ----------
    cells : int or sequence of int
        Number of cells along each axis, in the order of `size`: one for all, (rows, columns).
    size : sequence of int
        Spatial size of the output, (W,) or (H, W).
    align_corners : bool, default False
        Whether -1 and 1, the ends of the domain, are the centres of the outermost pixels of the output or their outer
        edges.
    zero_boundary : bool, default True
        Whether nothing crosses the border of the domain: there the velocity across it is 0. The one along it is free.
    steps : int, default 50
        Steps of the flow in two dimensions; of no effect in one.

    Attributes
    ----------
    cells, size, align_corners, zero_boundary, steps
        As given, `cells` one for each axis.
    ndim : int
        Number of dimensions.
    theta_shape : tuple of int
        (d,): the velocities at the vertices, see Notes.
    parameters : ndarray of int, shape (d, 2)
        Of each parameter, which vertex's velocity it is and which component, 0 for x and 1 for y.
    vertices : ndarray, shape (V, ndim)
        The vertices of the cells in normalized coordinates.

    Raises
    ------
    TypeError
        If `cells` or `steps` are no integers, `size` no sequence of them, or an option is of the wrong type.
    ValueError
        If `size` has not one or two axes, or `cells` or `steps` are not positive.

    See Also
    --------
    StationaryVelocity : flows of a velocity at every pixel.
    jacobian_determinant : of a grid.

    Notes
    -----
    A field that is continuous and affine in each cell is given by its values at the vertices, any values, and these are
    its parameters: velocities in normalized units per unit of time. In one dimension vertices are ordered from left
    to right; in two, the corners of the rectangles come first, row by row, then their centres, row by row, and of a
    vertex x comes before y. With `zero_boundary` the components that are 0 are left out: with n cells n - 1 parameters
    are left of n + 1, with 1 x 1, 2 x 2 and 3 x 3 cells 2, 14 and 34 are left of 10, 26 and 50. These are the
    dimensions of the spaces of libcpab, whose parameters are coordinates in an orthonormal basis of the same spaces.

    Without `zero_boundary` points may leave the domain; there they follow the velocity of the nearest cell, or in two
    dimensions of a triangle of the nearest rectangle, continued. Grids are computed in float64 and cast to the dtype of
    theta. The derivatives are those of what is computed; in two dimensions a step that ends on an edge has a kink (of
    measure zero), which is left out. For `vjp` the CPU keeps the way of one point for every thread, a few numbers for
    every cell, or in two dimensions of 64, their position before each step; a device those of 128 points, or of as many
    as 128 MB hold. Beside that there are sums in float64, each of the size of a field: one, or so many that they have
    no more numbers than there are points, on a device four times as many. For `vjp2` it is twice as much, the tangents
    too.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> warp = pystn.CPAB(4, (5,), align_corners=True)
    >>> warp.theta_shape
    (3,)
    >>> theta = np.array([[0.0, 0.5, 0.0]])
    >>> warp(theta)[0, :, 0].round(3)
    array([-1.   , -0.5  ,  0.316,  0.5  ,  1.   ])
    >>> warp.velocity(theta, np.array([[-0.25], [0.0]]))[0, :, 0]
    array([0.25, 0.5 ])
    >>> pystn.CPAB((3, 3), (28, 28))
    CPAB((3, 3), (28, 28), align_corners=False, zero_boundary=True, steps=50)
    """

    cells: tuple[int, ...]
    zero_boundary: bool
    steps: int
    parameters: Array
    vertices: Array
    _tessellation: Intervals | Triangles
    _free: Array  # of the components of all vertices, those that are parameters
    _points: Array

    def __init__(
        self,
        cells: int | Sequence[int],
        size: Sequence[int],
        align_corners: bool = False,
        *,
        zero_boundary: bool = True,
        steps: int = 50,
    ) -> None:
        spatial = spatial_size(size)
        ndim = len(spatial)
        if ndim > 2:
            raise ValueError(f"size must have 1 or 2 entries (spatial): got {spatial}")
        counts = tuple(count("an entry of cells", cell_count, 1) for cell_count in for_each_axis("cells", cells, ndim))
        step_count = count("steps", steps, 1)
        tessellation = Intervals(counts[0]) if ndim == 1 else Triangles(counts[0], counts[1], step_count)
        vertices = tessellation.vertices
        free = np.abs(vertices) < 1 if flag("zero_boundary", zero_boundary) else np.full(vertices.shape, True)
        parameters = np.argwhere(free)
        super().__init__(spatial, align_corners, ndim, (len(parameters),))
        self._set(
            cells=counts,
            zero_boundary=bool(zero_boundary),
            steps=step_count,
            parameters=parameters,
            vertices=vertices,
            _tessellation=tessellation,
            _free=np.flatnonzero(free),
            _points=lattice(spatial, self.align_corners).reshape(-1, ndim),
        )

    def __repr__(self) -> str:
        return (
            f"CPAB({self.cells}, {self.size}, align_corners={self.align_corners}, "
            f"zero_boundary={self.zero_boundary}, steps={self.steps})"
        )

    def inverse(self, theta: Array) -> Array:
        """Parameters of the flow back: the negative velocity."""
        backend_of({"theta": theta})
        self._check(theta)
        return -theta

    def velocity(self, theta: Array, points: Array) -> Array:
        """Velocities (N, ..., *points.shape) of the fields of parameters (N, ..., d) at points (..., ndim).

        Points and velocities are in normalized coordinates; the result has the dtype of `theta`.
        """
        xp = backend_of({"theta": theta, "points": points}).xp
        self._check(theta)
        check_float("points", points)
        if points.ndim < 1 or points.shape[-1] != self.ndim:
            raise ValueError(f"points must have shape (..., {self.ndim}): got {points.shape}")
        flat = points.reshape(math.prod(points.shape[:-1]), self.ndim).astype(np.float64)
        with np.errstate(all="ignore"):  # of parameters that are not finite
            velocity = self._tessellation.velocity(xp, self._velocities(xp, theta), flat)
            return velocity.reshape(*theta.shape[:-1], *points.shape).astype(theta.dtype)

    def _identity(self) -> Array:
        return np.zeros(self.theta_shape)

    def _velocities(self, xp: ModuleType, theta: Array) -> Array:
        """At all vertices, (M, V, ndim) in float64."""
        parameters = theta.reshape(math.prod(theta.shape[:-1]), theta.shape[-1])
        velocities: Array = xp.zeros((len(parameters), self.vertices.size), np.float64)
        velocities[:, self._cast(xp, "_free", np.dtype(np.int64))] = parameters
        return velocities.reshape(len(parameters), *self.vertices.shape)

    def _grid(self, xp: ModuleType, theta: Array, out: Array | None) -> Array:
        backend, points = backend_of({"theta": theta}), self._cast(xp, "_points", np.dtype(np.float64))
        with np.errstate(all="ignore"):
            flowed = self._tessellation.flow(backend, self._velocities(xp, theta), points, theta.dtype)
            grid = flowed.reshape(*theta.shape[:-1], *self.size, self.ndim)
            if out is None:
                return grid
            out[...] = grid
            return out

    def _jvp(self, xp: ModuleType, theta: Array, d_theta: Array) -> Array:
        backend, points = backend_of({"theta": theta}), self._cast(xp, "_points", np.dtype(np.float64))
        velocities, tangents = self._velocities(xp, theta), self._velocities(xp, d_theta)
        with np.errstate(all="ignore"):
            moved = self._tessellation.flow_jvp(backend, velocities, tangents, points, theta.dtype)
            return moved.reshape(*theta.shape[:-1], *self.size, self.ndim)

    def _vjp(self, xp: ModuleType, grad_grid: Array, theta: Array, wanted: tuple[bool, ...]) -> tuple[Array | None]:
        if not wanted[0]:
            return (None,)
        return (self._pulled(xp, self._tessellation.flow_vjp, grad_grid, theta, self._velocities(xp, theta)),)

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
        fields = self._velocities(xp, theta), self._velocities(xp, gg_theta)
        return (self._pulled(xp, self._tessellation.flow_vjp2, grad_grid, theta, *fields),)

    def _pulled(self, xp: ModuleType, function: Any, grad_grid: Array, theta: Array, *fields: Array) -> Array:
        """A cotangent of theta, of what a function of the tessellation makes of that of the grid."""
        points, free = self._cast(xp, "_points", np.dtype(np.float64)), self._cast(xp, "_free", np.dtype(np.int64))
        backend, count = backend_of({"theta": theta}), len(fields[0])
        with np.errstate(all="ignore"):
            gradient = function(backend, grad_grid.reshape(count, len(points), self.ndim), *fields, points)
            flat: Array = gradient.reshape(count, self.vertices.size)
            return flat[:, free].reshape(theta.shape).astype(theta.dtype)
