"""Free-form deformations: displacements that are B-splines of a lattice of control points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.polynomial.polynomial import polyder, polyval

from pystn.backends import backend_of
from pystn.grids.family import Family
from pystn.grids.fields import determinant
from pystn.grids.lattice import lattice, lattice_axis
from pystn.grids.linear import combine, combine_vjp, product
from pystn.options import for_each_axis, one_of
from pystn.typing import Array
from pystn.validation import count, spatial_size

__all__ = ["FreeFormDeformation"]

# Of each order, the n + 1 B-splines over an interval as polynomials of the position in it, from 0 to 1:
# a column each, constants first.
PIECES = {
    1: np.array([[1, 0], [-1, 1]]),
    2: np.array([[1, 1, 0], [-2, 2, 0], [1, -2, 1]]) / 2,
    3: np.array([[1, 4, 1, 0], [-3, 0, 3, 0], [3, -6, 3, 0], [-1, 3, -3, 1]]) / 6,
}

quiet = np.errstate(over="ignore", invalid="ignore")


class FreeFormDeformation(Family):
    r"""Free-form deformations: the lattice moved by uniform B-splines of displacements of control points.

    .. math::
        x_i = t_i + \sum_{k} \theta_k \prod_a \beta^n \! \left( \frac{t_{i,a} - p_{k,a}}{h_a} \right)

    with :math:`\beta^n` the centred B-spline of order (degree) n, p the control points and h their spacing (Rueckert et
    al., Nonrigid registration using free-form deformations: application to breast MR images, IEEE Transactions on
    Medical Imaging, 1999, with n = 3).

    Along an axis of c control points they are

    .. math:: p_k = -1 + h \left( k - \frac{n - 1}{2} \right), \quad k = 0 \ldots c - 1, \qquad h = \frac{2}{c - n}

    so that [-1, 1] has c - n intervals, and all the n + 1 splines over each of them. With order 1 the outermost control
    points are at -1 and 1, with order 2 half a spacing beyond them, with order 3 a whole one.

    Parameters
    ----------
    control_shape : int or sequence of int
        Number of control points along each axis, in the order of `size`: one for all, (W,), (H, W) or (D, H, W). Each
        is order + 1 or more.
    size : sequence of int
        Spatial size of the output, of 1 to 3 axes.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the output or their outer edges.
    order : {3, 1, 2}, default 3
        Of the B-splines. The displacements have order - 1 continuous derivatives.

    Attributes
    ----------
    control_shape, size, align_corners, order
        As given, `control_shape` one for each axis.
    ndim : int
        Number of dimensions, 1 to 3.
    theta_shape : tuple of int
        (*control_shape, ndim): the displacement of every control point, (x[, y[, z]]) in normalized units.
    control_points : ndarray of float64, shape (*control_shape, ndim)
        The control points p in normalized coordinates.

    Raises
    ------
    TypeError
        If `control_shape` or `size` is no sequence of integers, or an option of the wrong type.
    ValueError
        If `size` has none or more than three axes or is negative, `control_shape` has another number of axes or fewer
        than order + 1 points along one, or `order` is not 1, 2 or 3.

    See Also
    --------
    displacement_grid : a displacement at every pixel.
    StationaryVelocity : flows, which do not fold.
    jacobian_determinant : of any grid, by differences.

    Notes
    -----
    The displacement at a control point is no value of theta but for order 1: splines smooth. They reproduce linear
    functions: displacements that are linear in `control_points` make affine grids.

    The sum is made axis by axis, as a product with a small matrix each. The last one adds the lattice and writes the
    grid, in the dtype of theta. Sums of gradients along up to 1024 pixels of a row run in the dtype, all others in
    float64. A NaN or infinite displacement reaches the whole grid of its transform.

    A grid may fold: see `folded`. With order 3 it does not if no component of a displacement exceeds 0.40 h, h the
    spacing along its axis (0.48 h in 2-D); this is sufficient, not necessary (Choi and Lee, Injectivity conditions of
    2D and 3D uniform cubic B-spline functions, Graphical Models, 2000).

    Examples
    --------
    >>> import pystn
    >>> deformation = pystn.FreeFormDeformation((5,), (4,), order=3)
    >>> deformation.control_points[:, 0]
    array([-2., -1.,  0.,  1.,  2.])
    >>> theta = deformation.identity()
    >>> theta[:, 2] = 0.375
    >>> deformation(theta)[0, :, 0]
    array([-0.63183594, -0.02050781,  0.47949219,  0.86816406])
    >>> deformation.folded(theta)
    array([False])
    """

    control_shape: tuple[int, ...]
    order: int
    control_points: Array
    _first: Array  # (control_shape[0] + 2, size[0]): splines along the first axis, then 1 and the axis' lattice
    _lattice: Array  # (2, rest): the lattice of the other axes, then 1 for the component of the first one

    def __init__(
        self,
        control_shape: int | Sequence[int],
        size: Sequence[int],
        align_corners: bool = False,
        *,
        order: int = 3,
    ) -> None:
        spatial = spatial_size(size)
        ndim = len(spatial)
        one_of("order", order, tuple(PIECES))
        counts = for_each_axis("control_shape", control_shape, ndim)
        controls = tuple(count("an entry of control_shape", c, 1) for c in counts)
        if min(controls) <= order:
            raise ValueError(
                f"control_shape must be {order + 1} or more along every axis for order {order}: got {controls}"
            )
        super().__init__(spatial, align_corners, ndim, (*controls, ndim))
        axes = [control_axis(c, order) for c in controls]
        self._set(
            control_shape=controls,
            order=order,
            control_points=np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1),
        )
        for axis in range(ndim):
            target = lattice_axis(self.size[axis], self.align_corners)
            splines, slopes = splines_along(target, controls[axis], order)
            self._set(**{f"_splines{axis}": splines, f"_slopes{axis}": slopes})
            if axis == 0:
                self._set(_first=np.stack([*splines, np.ones_like(target), target]))
        rest = lattice((1, *self.size[1:]), self.align_corners)  # 0 along the first axis
        self._set(_lattice=np.stack([rest.ravel(), np.broadcast_to(np.eye(ndim)[-1], rest.shape).ravel()]))

    def __repr__(self) -> str:
        return (
            f"FreeFormDeformation({self.control_shape}, {self.size}, "
            f"align_corners={self.align_corners}, order={self.order})"
        )

    @quiet
    def jacobian_determinant(self, theta: Array) -> Array:
        """Determinants (N, ..., *size) of the derivative of the deformation at the points of the lattice.

        They are exact, of the derivatives of the splines; with order 1, which has kinks at its control points, of one
        side there. dtype of `theta`.
        """
        xp = backend_of({"theta": theta}).xp
        shape = self._check(theta)
        leading = math.prod(theta.shape[: -self.ndim - 1])
        planes = xp.moveaxis(theta, -1, 0).reshape(self.ndim * leading, *self.control_shape, 1)
        columns = [self._contract(xp, planes, slope_axis=axis) for axis in reversed(range(self.ndim))]
        jacobian = [[column.reshape(self.ndim, *shape[:-1])[i] for column in columns] for i in range(self.ndim)]
        for i in range(self.ndim):
            jacobian[i][i] += 1
        return determinant(jacobian)

    def folded(self, theta: Array) -> Array:
        """Whether each transform (N, ...) folds: at a point of the lattice its determinant is not positive."""
        determinants: Any = self.jacobian_determinant(theta)
        return (~(determinants > 0)).any(axis=tuple(range(-self.ndim, 0)))

    def _identity(self) -> Array:
        return np.zeros(self.theta_shape)

    def _grid(self, xp: ModuleType, theta: Array, out: Array | None) -> Array:
        sections = self._contract(xp, self._stacked(theta), last=1)
        batch, controls = sections.shape[:2]
        # The lattice enters the last product as two more rows: exactly, and without a pass of its own over the grid.
        rest = self._cast(xp, "_lattice", theta.dtype)
        rows = xp.empty((batch, controls + 2, rest.shape[1]), theta.dtype)
        rows[:, :controls] = sections.reshape(batch, controls, rest.shape[1])
        rows[:, controls:] = rest
        first, shape = self._cast(xp, "_first", theta.dtype), (batch, self.size[0], rest.shape[1])
        into = out.reshape(shape) if out is not None and out.flags.c_contiguous else None
        made = along(first, rows, into) if self.ndim == 1 else product(first.T[None], rows, into)
        if out is None:
            return made.reshape(self._check(theta))
        if into is None:
            out[...] = made.reshape(out.shape)
        return out

    @quiet
    def _vjp(self, xp: ModuleType, grad_grid: Array, theta: Array, wanted: tuple[bool, ...]) -> tuple[Array | None]:
        if not wanted[0]:
            return (None,)
        # What the last axis' splines are multiplied by, all other axes being those of the grid: sums in float64.
        rows = xp.empty((math.prod(theta.shape[: -self.ndim - 1]), *self.size[:-1], self.ndim, self.control_shape[-1]))
        last = self._cast(xp, f"_splines{self.ndim - 1}", theta.dtype)[None]
        gradient = grad_grid.reshape(*rows.shape[:-2], self.size[-1], self.ndim)
        to_rows, _ = combine_vjp(gradient, rows, last, (True, False))
        assert to_rows is not None
        sums = to_rows.swapaxes(-1, -2)
        for axis in range(self.ndim - 1):
            sums = across(self._cast(xp, f"_splines{axis}", np.dtype(np.float64)), sums, axis)
        return (sums.reshape(theta.shape).astype(theta.dtype, copy=False),)

    def _jvp(self, xp: ModuleType, theta: Array, d_theta: Array) -> Array:
        return self._contract(xp, self._stacked(d_theta)).reshape(self._check(theta))

    def _stacked(self, theta: Array) -> Array:
        return theta.reshape(math.prod(theta.shape[: -self.ndim - 1]), *self.theta_shape)

    def _contract(self, xp: ModuleType, values: Array, last: int = 0, slope_axis: int | None = None) -> Any:
        """Splines of values (M, *control_shape, components), over all axes down to `last`, or their slopes along one.

        The last axis comes first, of whose product the rest are copies.
        """
        for axis in reversed(range(last, self.ndim)):
            name = "_slopes" if axis == slope_axis else "_splines"
            splines = self._cast(xp, f"{name}{axis}", values.dtype)
            values = along(splines, values) if axis == self.ndim - 1 else across(splines.T, values, axis)
        return values


def control_axis(controls: int, order: int) -> Array:
    """Coordinates of the control points of one axis, exactly symmetric about 0."""
    return (2 * np.arange(controls) - (controls - 1.0)) / (controls - order)


def splines_along(points: Array, controls: int, order: int) -> tuple[Array, Array]:
    """The B-splines of an axis at points of [-1, 1], and their derivatives: (controls, points) each."""
    intervals = controls - order
    position = (points + 1) * intervals / 2
    interval = np.minimum(position.astype(int), intervals - 1)
    rows, columns = interval + np.arange(order + 1)[:, None], np.arange(len(points))
    splines, slopes = np.zeros((2, controls, len(points)))
    splines[rows, columns] = polyval(position - interval, PIECES[order])
    slopes[rows, columns] = polyval(position - interval, polyder(PIECES[order])) * intervals / 2
    return splines, slopes


def along(splines: Array, values: Array, out: Array | None = None) -> Array:
    """Splines (q, points) of values (M, *axes, q, components) along the last axis: (M, *axes, points, components)."""
    return combine(values.swapaxes(-1, -2), splines[None], out)


def across(matrix: Array, values: Array, axis: int) -> Array:
    """A matrix times a spatial axis of values (M, *axes, components)."""
    before, length, after = values.shape[: axis + 1], values.shape[axis + 1], values.shape[axis + 2 :]
    moved = product(matrix[None], values.reshape(math.prod(before), length, math.prod(after)))
    return moved.reshape(*before, len(matrix), *after)
