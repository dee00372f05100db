"""Free-form deformations: a lattice of control points moves what is near to them, by B-splines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.grids.family import Family
from pystn.grids.lattice import lattice, lattice_axis
from pystn.options import one_of
from pystn.typing import Array
from pystn.validation import output_size, spatial_size

__all__ = ["FreeFormDeformation"]

BLOCK = 256  # pixels of an axis that are added up in the dtype of their gradient

quiet = np.errstate(over="ignore", invalid="ignore")


class FreeFormDeformation(Family):
    r"""Free-form deformations: displacements at a lattice of control points, and a B-spline between.

    .. math:: x_s(t) = t + \sum_k \theta_k \, \prod_a \beta^n\bigl((t_a - c_{k,a}) / h_a\bigr)

    (Rueckert et al., Nonrigid registration using free-form deformations, 1999), evaluated one axis after the other.

    Parameters
    ----------
    control_shape : sequence of int
        How many control points along each axis, x last, of 1 to 3 axes: `order` + 1 or more.
    size : sequence of int
        Spatial size of the output, or the full (N, C, *spatial).
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the output or their outer
        edges. Give the sampler the same value.
    order : {1, 2, 3}, default 3
        Of the B-splines: the grid has ``order - 1`` continuous derivatives.

    Attributes
    ----------
    theta_shape : tuple of int
        (*control_shape, ndim): displacements (x[, y[, z]]) in normalized coordinates, 0 for the
        identity. ``deformation(theta)`` takes (N, ..., *control_shape, ndim).
    control_points : ndarray of float64, shape (*control_shape, ndim)
        Where they are. An axis of m of them is cut into ``m - order`` equal cells from -1 to 1, and control points
        are a cell's length h apart, `order` - 1 half cells of them beyond either end: in every cell
        the spline is complete, so that control points which all move alike move every pixel so.

    Raises
    ------
    TypeError
        If `control_shape` or `size` are not of integers, or an option is of the wrong type.
    ValueError
        If there are too few control points, shapes do not fit or `order` is another one.

    See Also
    --------
    linear_grid : the same for any basis.
    ThinPlateSpline : smooth as well, of scattered control points, each of which moves everything.

    Notes
    -----
    The gradient to `theta` of a float32 grid is added up in float32 along runs of 256 pixels of the last
    axis and in float64 from there.

    Examples
    --------
    >>> import pystn
    >>> deformation = pystn.FreeFormDeformation((4, 4), (9, 9))
    >>> theta = deformation.identity()
    >>> theta[..., 0] = 0.25  # all control points to the right
    >>> deformation(theta)[0, 4, 4]
    array([0.25, 0.  ])
    >>> deformation.folded(theta)
    array([False])

    One that moves too far folds the space about it:

    >>> theta[0, 1, 1] = [9.0, 0.0]
    >>> deformation.folded(theta)
    array([ True])
    """

    control_shape: tuple[int, ...]
    order: int
    control_points: Array
    _lattice: Array

    def __init__(
        self, control_shape: Sequence[int], size: Sequence[int], align_corners: bool = False, *, order: int = 3
    ) -> None:
        counts = spatial_size(control_shape, "control_shape")
        one_of("order", order, (1, 2, 3))
        if min(counts) <= order:
            raise ValueError(
                f"control_shape must be {order + 1} or more along every axis for order {order}: got {counts}"
            )
        ndim = len(counts)
        super().__init__(output_size(size, ndim), align_corners, ndim, (*counts, ndim))
        axes = [control_axis(count, order) for count in counts]
        self._set(
            control_shape=counts,
            order=order,
            control_points=np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1),
            _lattice=lattice(self.size, self.align_corners),
        )
        for axis, (length, count) in enumerate(zip(self.size, counts, strict=True)):
            values, slopes = spline_matrices(lattice_axis(length, self.align_corners), count, order)
            self._set(**{f"_values{axis}": values, f"_slopes{axis}": slopes})

    def __repr__(self) -> str:
        made = f"{self.control_shape}, {self.size}, align_corners={self.align_corners}, order={self.order}"
        return f"FreeFormDeformation({made})"

    def jacobian_determinant(self, theta: Array) -> Array:
        """Determinant of the grid's derivative by its target, in normalized coordinates: (N, ..., *size).

        Exact at every pixel; at a kink of B-splines of order 1 it is that of the cell to the right. It is the
        factor by which areas (volumes) are scaled, and where it is 0 or less the deformation folds.
        """
        xp = backend_of({"theta": theta}).xp
        return self._determinant(xp, theta, self._check(theta)[:-1])

    def folded(self, theta: Array) -> Array:
        """Whether the determinant is 0 or less, or no number, at any pixel: bool, (N, ...)."""
        xp = backend_of({"theta": theta}).xp
        folds = ~(self.jacobian_determinant(theta) > 0)
        return xp.any(folds, axis=tuple(range(-self.ndim, 0)))  # type: ignore[no-any-return]

    def _identity(self) -> Array:
        return np.zeros(self.theta_shape)

    @quiet
    def _grid(self, xp: ModuleType, theta: Array, out: Array | None) -> Array:
        moved = self._displacements(xp, theta)
        return xp.add(moved, self._cast(xp, "_lattice", theta.dtype), out=out)  # type: ignore[no-any-return]

    def _jvp(self, xp: ModuleType, theta: Array, d_theta: Array) -> Array:
        return xp.ascontiguousarray(self._displacements(xp, d_theta))  # type: ignore[no-any-return]

    @quiet
    def _vjp(self, xp: ModuleType, grad_grid: Array, theta: Array, wanted: tuple[bool, ...]) -> tuple[Any, ...]:
        if not wanted[0]:
            return (None,)
        sums = self._stacked(grad_grid)
        for axis in reversed(range(self.ndim)):
            matrix = self._cast(xp, f"_values{axis}", sums.dtype)
            sums = reduced(xp, sums, matrix, axis + 1)
        return (sums.reshape(theta.shape).astype(theta.dtype, copy=False),)

    @quiet
    def _displacements(self, xp: ModuleType, theta: Array, along: int | None = None) -> Array:
        """Displacements (N, ..., *size, ndim) of control points, or their slopes along one spatial axis."""
        values = self._stacked(theta)
        for axis in range(self.ndim):
            matrix = self._cast(xp, f"_slopes{axis}" if axis == along else f"_values{axis}", theta.dtype)
            values = xp.moveaxis(xp.tensordot(values, matrix, axes=(axis + 1, 1)), -1, axis + 1)
        return values.reshape(*theta.shape[: -self.ndim - 1], *self.size, self.ndim)

    @quiet
    def _determinant(self, xp: ModuleType, theta: Array, shape: tuple[int, ...]) -> Array:
        # Rows are coordinates, columns the axes x, y, z, of which x is the last one of the output.
        columns = [self._displacements(xp, theta, self.ndim - 1 - axis) for axis in range(self.ndim)]
        matrix = [[columns[b][..., a] + float(a == b) for b in range(self.ndim)] for a in range(self.ndim)]
        return xp.ascontiguousarray(determinant(matrix)).reshape(shape)  # type: ignore[no-any-return]

    def _stacked(self, array: Array) -> Array:
        """(N, ..., *spatial, ndim) as (M, *spatial, ndim)."""
        leading = array.ndim - self.ndim - 1
        return array.reshape(math.prod(array.shape[:leading]), *array.shape[leading:])


def control_axis(count: int, order: int) -> Array:
    """Coordinates of the control points of one axis."""
    return (2 * np.arange(count) - (count - 1)) / (count - order)


def spline_matrices(x: Array, count: int, order: int) -> tuple[Array, Array]:
    """B-splines (X, count) of an axis of control points at coordinates x, and their slopes there."""
    cells = count - order
    position = (x + 1) / 2 * cells
    cell = np.clip(np.floor(position), 0, cells - 1).astype(int)
    lower, weights = spline_weights(position - cell, order)
    values, slopes = np.zeros((2, len(x), count))
    rows, zero = np.arange(len(x)), np.zeros((len(x), 1))
    steps = np.concatenate([zero, lower], axis=1) - np.concatenate([lower, zero], axis=1)
    for j in range(order + 1):
        values[rows, cell + j] = weights[:, j]
        slopes[rows, cell + j] = steps[:, j] * (cells / 2)
    return values, slopes


def spline_weights(fraction: Array, order: int) -> tuple[Array, Array]:
    """Weights (X, n + 1) of the B-splines of a cell at fractions of it, for n of order - 1 and of order."""
    lower, weights = np.zeros((len(fraction), 0)), np.ones((len(fraction), 1))
    f, zero = fraction[:, None], np.zeros((len(fraction), 1))
    for n in range(1, order + 1):
        j = np.arange(n + 1)
        lower = weights
        rising, falling = np.concatenate([zero, lower], axis=1), np.concatenate([lower, zero], axis=1)
        weights = ((f + n - j) * rising + (j + 1 - f) * falling) / n
    return lower, weights


def reduced(xp: ModuleType, values: Array, matrix: Array, axis: int) -> Array:
    """Sums over an axis (..., n, ...) times a matrix (n, k): (..., k, ...), added up in float64."""
    sums = 0
    for start in range(0, max(len(matrix), 1), BLOCK):
        block = slice(start, start + BLOCK)
        part = values[(slice(None),) * axis + (block,)]
        sums = sums + xp.tensordot(part, matrix[block], axes=(axis, 0)).astype(np.float64, copy=False)
    return xp.moveaxis(sums, -1, axis)  # type: ignore[no-any-return]


def determinant(matrix: list[list[Array]]) -> Array:
    """Of 1 to 3 rows of arrays, along the first one."""
    if len(matrix) == 1:
        return matrix[0][0]
    total = matrix[0][0] * determinant([row[1:] for row in matrix[1:]])
    for column in range(1, len(matrix)):
        minor = determinant([row[:column] + row[column + 1 :] for row in matrix[1:]])
        total = total + (-1) ** column * matrix[0][column] * minor
    return total
