"""The thin plate spline: the smoothest map that takes control points where they are told."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import reduce
from types import ModuleType
from typing import Any

import numpy as np

from pystn.grids.family import Family
from pystn.grids.lattice import lattice
from pystn.grids.linear import combine, combine_vjp
from pystn.interpolation import number
from pystn.options import for_each_axis
from pystn.typing import Array
from pystn.validation import check_distinct, check_points, check_spanning, output_size, spatial_size

__all__ = ["ThinPlateSpline", "control_points"]

FLOAT64 = np.dtype(np.float64)
quiet = np.errstate(over="ignore", invalid="ignore")


def control_points(shape: Sequence[int]) -> Array:
    """Regular grid of control points from -1 to 1 along every axis.

    Parameters
    ----------
    shape : sequence of int
        How many along each axis, x last, of 1 to 3 axes: (4, 4) are the sixteen of the spatial
        transformer (Jaderberg et al., 2015). A single one is at 0.

    Returns
    -------
    points : ndarray of float64, shape (prod(shape), ndim)
        Coordinates (x[, y[, z]]), those along x next to each other.

    Raises
    ------
    TypeError, ValueError
        If `shape` is no sequence of 1 to 3 integers.

    See Also
    --------
    ThinPlateSpline, PiecewiseAffine : take control points.

    Examples
    --------
    >>> import pystn
    >>> pystn.control_points((2, 3))
    array([[-1., -1.],
           [ 0., -1.],
           [ 1., -1.],
           [-1.,  1.],
           [ 0.,  1.],
           [ 1.,  1.]])
    """
    lengths = spatial_size(shape, "shape")
    return lattice(lengths, align_corners=True).reshape(-1, len(lengths))


class ThinPlateSpline(Family):
    r"""Thin plate splines: control points sample where `theta` says, and the map between is the smoothest.

    .. math:: x_s(t) = \sum_k w_k \, \phi(|t - c_k|) + A \, (t, 1)

    with :math:`\phi(r) = r^2 \log r` in 2-D and :math:`-r` in 3-D, the fundamental solutions of the
    bending energy (Bookstein, Principal warps, 1989; Wahba, Spline Models for Observational Data,
    1990). The weights solve

    .. math::
        \begin{pmatrix} \Phi + \lambda I & C \\ C^T & 0 \end{pmatrix}
        \begin{pmatrix} w \\ A^T \end{pmatrix} = \begin{pmatrix} \theta \\ 0 \end{pmatrix}

    with the control points and a column of ones in `C`. So the grid is linear in `theta`, and its basis is made
    once, in float64.

    Parameters
    ----------
    points : array_like, shape (P, ndim)
        Control points in the target, normalized coordinates (x, y[, z]), ndim 2 or 3. They do not all lie on one
        line (plane), and no two are the same unless there is regularization.
    size : sequence of int, optional
        Spatial size of the output, or the full (N, C, *spatial). None with `targets`.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the output or their outer
        edges. Give the sampler the same value.
    regularization : float, default 0.0
        :math:`\lambda \ge 0`: above 0 the spline comes near the control points only, the
        smoother for it; towards infinity it is the affine map of least squares. For a
        :math:`\phi` of :math:`r^2 \log r^2`, as others have it, it is twice as large.
    aspect : sequence of float, optional
        Lengths of the sides of the target along (x, y[, z]), in which distances are measured: with (W, H) an image
        that is not square bends alike along both. Only their ratios count, the longest is the 2 of normalized
        coordinates. Default: all are.
    targets : array_like, shape (..., ndim), optional
        Points at which the spline is evaluated, instead of the pixels of an output.

    Attributes
    ----------
    theta_shape : tuple of int
        (P, ndim): where one transform's control points sample. ``spline(theta)`` takes (N, ..., P, ndim).
    basis : ndarray of float64, shape (1, P, *size)
        How much each control point counts at each pixel: ``linear_grid`` of it and of theta, its
        last two axes swapped, is the grid.
    size : tuple of int
        That of the output, or the axes of `targets`.

    Raises
    ------
    TypeError
        If `size` is no sequence of integers or an option of the wrong type.
    ValueError
        If points are not finite, coincide, lie on a line or plane, shapes do not fit, `regularization` is negative or
        an entry of `aspect` not positive.

    See Also
    --------
    control_points : a regular grid of them.
    linear_grid : the same for any basis.

    Notes
    -----
    An object holds its basis: P numbers of 8 bytes a pixel, and as many of 4 once it has been given float32. A
    gradient to `points` or `targets` takes three times as much on the way, and `vjp2` with either about ten times.
    Where a target is at a control point the second derivative of phi is infinite; it is left out there.

    The basis is solved for by LAPACK, and gradients to `points` and `targets` are products by BLAS: unlike the grid of
    a basis and the gradient to theta, their last digits may depend on the number of threads of those.

    Examples
    --------
    Sixteen control points, of which one samples further to the right:

    >>> import pystn
    >>> spline = pystn.ThinPlateSpline(pystn.control_points((4, 4)), (28, 28))
    >>> theta = spline.identity()
    >>> theta[0, 5] += [0.1, 0.0]
    >>> spline(theta).shape
    (1, 28, 28, 2)

    `vjp`, `jvp` and `vjp2` know the control points too:

    >>> grad_theta, grad_points = spline.vjp(spline(theta), theta, wrt=("theta", "points"))
    >>> grad_points.shape
    (16, 2)
    """

    points: Array
    targets: Array
    regularization: float
    aspect: tuple[float, ...] | None
    basis: Array
    _lengths: Array  # of the sides, in which distances are measured
    _inverse: Array  # of the system of equations

    def __init__(
        self,
        points: Any,
        size: Sequence[int] | None = None,
        align_corners: bool = False,
        *,
        regularization: float = 0.0,
        aspect: Sequence[float] | None = None,
        targets: Any = None,
    ) -> None:
        centres = check_points("points", points, (2, 3))
        if centres.ndim != 2:
            raise ValueError(f"points must have shape (P, ndim): got {centres.shape}")
        ndim = centres.shape[1]
        smoothing = number("regularization", regularization)
        if smoothing < 0:
            raise ValueError(f"regularization must not be negative: got {regularization!r}")
        check_spanning("points", centres)
        if smoothing == 0:
            check_distinct("points", centres)
        lengths = side_lengths(aspect, ndim)
        if (size is None) == (targets is None):
            raise ValueError(f"give either size or targets: got {'neither' if size is None else 'both'}")
        at = None if targets is None else check_points("targets", targets, (ndim,))
        super().__init__(output_size(size, ndim) if at is None else at.shape[:-1], align_corners, ndim, centres.shape)
        self._set(
            points=centres,
            targets=lattice(self.size, self.align_corners) if at is None else at,
            regularization=smoothing,
            aspect=None if aspect is None else tuple(aspect),
            _lengths=lengths,
            _state=("points",) if at is None else ("points", "targets"),
        )
        where = self._stretched(np, centres)
        among = features(np, where, where)
        among[:, : len(centres)] += smoothing * np.eye(len(centres))
        inverse = np.linalg.inv(bordered(np, among))
        values = inverse[: len(centres)] @ features(np, self._stretched(np, self.targets.reshape(-1, ndim)), where).T
        self._set(_inverse=inverse, basis=values.reshape(1, len(centres), *self.size))

    def __repr__(self) -> str:
        made = (
            f"{self.size}, align_corners={self.align_corners}" if len(self._state) == 1 else f"targets of {self.size}"
        )
        options = f"regularization={self.regularization}, aspect={self.aspect}"
        return f"ThinPlateSpline({len(self.points)} points, {made}, {options})"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the constructor was given."""
        unused = "size" if "targets" in self.state else "targets"
        return {**super().arguments, unused: None}

    def jvp(
        self,
        theta: Array,
        d_theta: Array | None,
        *,
        d_points: Array | None = None,
        d_targets: Array | None = None,
    ) -> Array:
        """How the grid moves with the parameters and, in float64, with control points and targets; None is zero."""
        return self._pushed(theta, d_theta, {"points": d_points, "targets": d_targets})

    def vjp2(
        self,
        gg_theta: Array | None,
        grad_grid: Array,
        theta: Array,
        *,
        gg_points: Array | None = None,
        gg_targets: Array | None = None,
        wrt: Any = ("grad_grid", "theta"),
    ) -> tuple[Array | None, ...]:
        """Second order, the vector-Jacobian product of `vjp`: gradients to grad_grid and theta (None if not in `wrt`).

        Then those to the state that `wrt` names, "points" and "targets". The cotangents of the gradients to theta and,
        in float64, to control points and targets have the shapes of these; None is zero.
        """
        return self._pulled_twice(gg_theta, {"points": gg_points, "targets": gg_targets}, grad_grid, theta, wrt)

    def _identity(self) -> Array:
        return self.points

    def _grid(self, xp: ModuleType, theta: Array, out: Array | None) -> Array:
        return combine(theta.swapaxes(-1, -2), self._cast(xp, "basis", theta.dtype), out)

    def _jvp(self, xp: ModuleType, theta: Array, d_theta: Array) -> Array:
        return self._grid(xp, d_theta, None)

    def _vjp(self, xp: ModuleType, grad_grid: Array, theta: Array, wanted: tuple[bool, ...]) -> tuple[Any, ...]:
        basis = self._cast(xp, "basis", theta.dtype)
        grad_theta, _ = combine_vjp(grad_grid, theta.swapaxes(-1, -2), basis, (wanted[0], False))
        if grad_theta is not None:
            grad_theta = xp.ascontiguousarray(grad_theta.swapaxes(-1, -2))
        if not any(wanted[1:]):
            return (grad_theta, *[None] * (len(wanted) - 1))
        return (grad_theta, *self._vjp_state(xp, grad_grid, theta)[: len(wanted) - 1])

    def _solved(self, xp: ModuleType, theta: Array) -> tuple[Array, Array, Array, Array]:
        """Control points, targets, inverse of the system, coefficients (M, P + 1 + ndim, ndim) of all splines."""
        points, targets, inverse = (self._cast(xp, name, FLOAT64) for name in ("points", "targets", "_inverse"))
        points, targets = self._stretched(xp, points), self._stretched(xp, targets.reshape(-1, self.ndim))
        where = theta.reshape(math.prod(theta.shape[:-2]), *self.theta_shape).astype(FLOAT64, copy=False)
        return points, targets, inverse, inverse[:, : len(points)] @ where

    def _stretched(self, xp: ModuleType, points: Array) -> Array:
        """Points, or cotangents of stretched ones, as the sides are long."""
        return points * self._cast(xp, "_lengths", FLOAT64)

    @quiet
    def _vjp_state(self, xp: ModuleType, grad_grid: Array, theta: Array) -> tuple[Array, Array]:
        """Gradients to the control points and to the targets."""
        points, targets, inverse, coefficients = self._solved(xp, theta)
        count = len(points)
        gradient = grad_grid.reshape(len(coefficients), len(targets), self.ndim).astype(FLOAT64, copy=False)
        to_values = inverse @ (features(xp, targets, points).T @ gradient)
        to_features, to_system = products(xp, gradient, coefficients), -both_ways(xp, to_values, coefficients)
        pull = to_features[:, :count] * slope(xp, squares(targets, points), self.ndim)
        among = to_system[:count, :count] * slope(xp, squares(points, points), self.ndim)
        to_points, to_targets = drawn(pull, among, targets, points)
        to_points += to_system[:count, count + 1 :]
        to_targets += to_features[:, count + 1 :]
        return self._stretched(xp, to_points), self._stretched(xp, to_targets).reshape(self.targets.shape)

    @quiet
    def _vjp2(
        self,
        xp: ModuleType,
        grad_grid: Array,
        theta: Array,
        gg_theta: Array | None,
        gg_state: dict[str, Array | None],
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, ...]:
        """`_vjp_state`, and the gradient to theta, differentiated line by line."""
        if not any(wanted[1:]) and all(gg is None for gg in gg_state.values()):
            return (None,) * len(wanted)  # linear in theta alone
        points, targets, inverse, coefficients = self._solved(xp, theta)
        d_points, d_targets = self._directions(xp, points, targets, gg_state["points"], gg_state["targets"])
        count = len(points)
        d_system = bordered(xp, d_features(xp, points, d_points, points, d_points))
        d_coefficients = -inverse @ (d_system @ coefficients)
        if gg_theta is not None:
            d_coefficients += self._solved(xp, gg_theta)[-1]
        gradient = grad_grid.reshape(len(coefficients), len(targets), self.ndim).astype(FLOAT64, copy=False)
        values = inverse @ (features(xp, targets, points).T @ gradient)
        d_values = d_features(xp, targets, d_targets, points, d_points).T @ gradient - d_system @ values
        d_values = inverse @ d_values
        to_theta = d_values[:, :count].reshape(theta.shape).astype(theta.dtype)
        if not any(wanted[1:]):
            return (to_theta, *[None] * (len(wanted) - 1))
        to_features, d_to_features = (products(xp, gradient, c) for c in (coefficients, d_coefficients))
        to_system = -both_ways(xp, values, coefficients)
        d_to_system = -both_ways(xp, d_values, coefficients) - both_ways(xp, values, d_coefficients)
        steep, bend = slope_jvp(xp, targets, d_targets, points, d_points)
        pull = to_features[:, :count] * steep
        d_pull = d_to_features[:, :count] * steep + to_features[:, :count] * bend
        steep, bend = slope_jvp(xp, points, d_points, points, d_points)
        among = to_system[:count, :count] * steep
        d_among = d_to_system[:count, :count] * steep + to_system[:count, :count] * bend
        terms = drawn(d_pull, d_among, targets, points), drawn(pull, among, d_targets, d_points)
        to_points, to_targets = (a + b for a, b in zip(*terms, strict=True))
        to_points += d_to_system[:count, count + 1 :]
        to_targets += d_to_features[:, count + 1 :]
        to_points, to_targets = self._stretched(xp, to_points), self._stretched(xp, to_targets)
        return (to_theta, to_points, to_targets.reshape(self.targets.shape))[: len(wanted)]

    def _directions(
        self, xp: ModuleType, points: Array, targets: Array, d_points: Array | None, d_targets: Array | None
    ) -> tuple[Array, Array]:
        return (
            xp.zeros_like(points) if d_points is None else self._stretched(xp, d_points),
            xp.zeros_like(targets) if d_targets is None else self._stretched(xp, d_targets.reshape(targets.shape)),
        )

    @quiet
    def _jvp_state(self, xp: ModuleType, theta: Array, **d_state: Array | None) -> Array:
        points, targets, inverse, coefficients = self._solved(xp, theta)
        d_points, d_targets = self._directions(xp, points, targets, d_state["points"], d_state["targets"])
        d_system = bordered(xp, d_features(xp, points, d_points, points, d_points))
        d_grid = d_features(xp, targets, d_targets, points, d_points) @ coefficients
        d_grid -= features(xp, targets, points) @ (inverse @ (d_system @ coefficients))
        return d_grid.reshape(*theta.shape[:-2], *self.targets.shape).astype(theta.dtype)


def side_lengths(aspect: Any, ndim: int) -> Array:
    """Relative to the longest."""
    if aspect is None:
        return np.ones(ndim)
    if not isinstance(aspect, (tuple, list)):
        raise TypeError(f"aspect must be a sequence of one number for each axis, got {aspect!r}")
    lengths = np.array([number("an entry of aspect", length) for length in for_each_axis("aspect", aspect, ndim)])
    if not (lengths > 0).all():
        raise ValueError(f"aspect must be above 0 along every axis: got {aspect!r}")
    return lengths / lengths.max()


def squares(a: Array, b: Array) -> Array:
    """Squared distances (A, B) of points (A, ndim) and (B, ndim)."""
    differences = (a[:, None, axis] - b[None, :, axis] for axis in range(a.shape[1]))
    return reduce(operator.add, (difference**2 for difference in differences))


def kernel(xp: ModuleType, squared: Array, ndim: int) -> Array:
    """phi of the distance whose square is given."""
    if ndim == 3:
        return -xp.sqrt(squared)
    return 0.5 * squared * xp.log(xp.where(squared > 0, squared, 1.0))


def slope(xp: ModuleType, squared: Array, ndim: int) -> Array:
    """What the difference of two points is multiplied by, to be the gradient of phi; 0 where they coincide."""
    apart = xp.where(squared > 0, squared, 1.0)
    value = -1 / xp.sqrt(apart) if ndim == 3 else xp.log(apart) + 1
    return xp.where(squared > 0, value, 0.0)


def slope_jvp(xp: ModuleType, targets: Array, d_targets: Array, points: Array, d_points: Array) -> tuple[Array, Array]:
    """`slope` of targets and points, and its tangent."""
    squared, ndim = squares(targets, points), points.shape[1]
    apart = xp.where(squared > 0, squared, 1.0)
    bend = 1 / xp.sqrt(apart) ** 3 if ndim == 3 else 2 / apart
    return slope(xp, squared, ndim), xp.where(squared > 0, bend, 0.0) * parting(targets, d_targets, points, d_points)


def parting(targets: Array, d_targets: Array, points: Array, d_points: Array) -> Array:
    """Half the tangent of `squares`."""
    along: Array = (targets * d_targets).sum(axis=1)[:, None] + (points * d_points).sum(axis=1)
    along -= d_targets @ points.T + targets @ d_points.T
    return along


def drawn(pull: Array, among: Array, targets: Array, points: Array) -> tuple[Array, Array]:
    """What acts on points and targets, of the weights of their differences and of those of the points' own."""
    to_targets = pull.sum(axis=1, keepdims=True) * targets - pull @ points
    to_points = (pull.sum(axis=0) + among.sum(axis=1))[:, None] * points - pull.T @ targets - among @ points
    return to_points, to_targets


def products(xp: ModuleType, a: Array, b: Array) -> Array:
    """Of (M, A, ndim) and (M, B, ndim), the sums (A, B) over all splines and components."""
    total: Array = xp.tensordot(a, b, axes=((0, 2), (0, 2)))
    return total


def both_ways(xp: ModuleType, a: Array, b: Array) -> Array:
    """Their products and the transposes of these, as the system is symmetric."""
    one_way = products(xp, a, b)
    return one_way + one_way.T


def features(xp: ModuleType, targets: Array, points: Array) -> Array:
    """What the coefficients of a spline count at each target, (T, P + 1 + ndim): phi, 1, x, y, z."""
    ones = xp.ones((len(targets), 1))
    return xp.concatenate([kernel(xp, squares(targets, points), points.shape[1]), ones, targets], axis=1)


def d_features(xp: ModuleType, targets: Array, d_targets: Array, points: Array, d_points: Array) -> Array:
    """Tangent of `features`."""
    along = parting(targets, d_targets, points, d_points) * slope(xp, squares(targets, points), points.shape[1])
    return xp.concatenate([along, xp.zeros((len(targets), 1)), d_targets], axis=1)


def bordered(xp: ModuleType, upper: Array) -> Array:
    """The symmetric system of equations whose upper rows are given."""
    count = len(upper)
    lower = xp.zeros((upper.shape[1] - count, upper.shape[1]))
    lower[:, :count] = upper[:, count:].T
    return xp.concatenate([upper, lower])
