"""Piecewise affine maps: triangles between control points, each with the affine map that moves its corners."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.backends.pieces import Pieces
from pystn.backends.runs import LabelledSums
from pystn.grids.delaunay import delaunay
from pystn.grids.family import Family
from pystn.grids.fields import determinant, entries
from pystn.grids.lattice import lattice_axis
from pystn.interpolation import check_host_numbers
from pystn.options import one_of
from pystn.typing import Array
from pystn.validation import check_distinct, check_points, check_spanning, output_size

__all__ = ["PiecewiseAffine"]

FLOAT64, INDEX = np.dtype(np.float64), np.dtype(np.intp)
EPSILON = np.finfo(np.float64).eps
OUTSIDE = ("nearest", "affine", "nan")

quiet = np.errstate(over="ignore", invalid="ignore")


class PiecewiseAffine(Family):
    r"""Piecewise affine maps: the corners of triangles sample where `theta` says, and the map is affine in each.

    .. math:: x_s(t) = \lambda_a \theta_a + \lambda_b \theta_b + \lambda_c \theta_c

    with the barycentric coordinates :math:`\lambda` of a pixel `t` in its triangle (a, b, c), which depend on
    neither `theta` nor the image and are made once (Goshtasby, Piecewise linear mapping functions for image
    registration, 1986).

    Parameters
    ----------
    points : array_like, shape (P, 2)
        Control points in the target, normalized coordinates (x, y).
    size : sequence of int
        Spatial size of the output, (H, W), or the full (N, C, H, W).
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the output or their outer
        edges. Give the sampler the same value.
    triangles : array_like of int, shape (T, 3), optional
        Corners of the triangles, as indices of `points`, in either orientation. Where they overlap, the
        first one counts. Default: the Delaunay triangulation of the points.
    outside : {"nearest", "affine", "nan"}, default "nearest"
        What a pixel in no triangle does. "nearest": it follows the affine map of the triangle that is
        nearest to it, continued, of several equally near the first. "affine": it follows the one affine map
        which is, by least squares, nearest to what all control points do. "nan": it has no coordinates, which is
        outside of every image, and no derivative. With the first two the identity is the identity everywhere,
        bit for bit; only "nearest" is continuous across the border, and it too jumps between what follows one
        triangle and what follows another.

    Attributes
    ----------
    theta_shape : tuple of int
        (P, 2): where one transform's control points sample. ``piecewise(theta)`` takes (N, ..., P, 2).
    points : ndarray of float64, shape (P, 2)
    triangles : ndarray of int, shape (T, 3)
        As given, or those found, sorted by their corners.
    labels : ndarray of int, shape (H, W)
        For each pixel the triangle that it follows; -1 for those outside if they follow none. A pixel
        on an edge is in the first of the triangles that meet there.

    Raises
    ------
    TypeError
        If `size` or `triangles` are not of integers, or an option is of the wrong type.
    ValueError
        If points are not finite, shapes do not fit, or triangles have no area or unknown corners; without
        `triangles` also if points coincide or all lie on one line.

    See Also
    --------
    control_points : a regular grid of them.
    ThinPlateSpline : a smooth map of the same parameters.

    Notes
    -----
    The triangles make the inverse too, unless it folds: where `moved` are the parameters,
    ``PiecewiseAffine(moved, size, triangles=piecewise.triangles)`` with ``theta = piecewise.points``, as this exchanges
    the two ends of the map. It is no method, for other pixels lie in other triangles then.

    Gradients are added up in parts, in float64, each of the size of theta or, to control points, of three corners for
    every triangle: one, or so many that they have no more numbers than there are pixels, on a device four times as
    many.

    The triangulation is the package's own, exact in its decisions. It leaves out triangles at the border which
    are as thin as rounding makes them.

    Examples
    --------
    >>> import pystn
    >>> piecewise = pystn.PiecewiseAffine(pystn.control_points((2, 2)), (2, 2))
    >>> theta = piecewise.identity()
    >>> theta[0, 3] = [0.5, 0.5]  # the last corner
    >>> piecewise(theta)[0, 1, 1]
    array([0.25, 0.25])
    >>> piecewise.folded(-2.0 * theta)
    array([[False, False]])

    A corner that is moved across the opposite edge turns its triangle over:

    >>> theta[0, 3] = [-1.0, -1.5]
    >>> piecewise.folded(theta)
    array([[False,  True]])
    """

    points: Array
    triangles: Array
    labels: Array
    outside: str
    _lattice: Array  # (pixels, 2)
    _pieces: Pieces  # of the control points, and of an affine map
    _separate: Pieces  # the same if every triangle has corners of its own
    _inverses: Array  # (T, 2, 2), from a difference to the first corner to the weights of the other two
    _homogeneous: Array  # (x, y, 1) of the control points
    _normal: Array  # inverse of the normal equations of least squares
    _by_point: LabelledSums
    _state = ("points",)

    def __init__(
        self,
        points: Any,
        size: Sequence[int],
        align_corners: bool = False,
        *,
        triangles: Any = None,
        outside: str = "nearest",
    ) -> None:
        at = check_points("points", points, (2,))
        if at.ndim != 2:
            raise ValueError(f"points must have shape (P, 2): got {at.shape}")
        one_of("outside", outside, OUTSIDE)
        super().__init__(output_size(size, 2), align_corners, 2, at.shape)
        corners = triangulation(at) if triangles is None else given_triangles(triangles, at)
        edges = at[corners[:, 1:]] - at[corners[:, :1]]  # (T, 2, 2), a row for each of the other two
        inverses = np.linalg.inv(edges.swapaxes(1, 2))
        y, x = (lattice_axis(length, self.align_corners) for length in self.size)
        labels = located(x, y, at, corners, inverses)
        if outside == "nearest":
            follow_nearest(labels, x, y, at, corners)
        flat = labels.ravel()
        target = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        others = np.matmul(inverses[flat], (target - at[corners[flat, 0]])[..., None])[..., 0].T
        weights = np.concatenate([1 - others.sum(axis=0, keepdims=True), others])
        # Pixels in no triangle are (x, y, 1) times an affine map, as if its columns were corners of one more.
        stray, count = flat < 0, len(at)
        weights[:2, stray], weights[2, stray] = target[stray].T, 1
        one_more = [[count, count + 1, count + 2]]
        followed, every = np.where(stray, len(corners), flat), np.concatenate([corners, one_more])
        pieces = Pieces(followed, every, weights, count + 3)
        homogeneous = np.concatenate([at, np.ones((len(at), 1))], axis=1)
        self._set(
            points=at,
            triangles=corners,
            labels=labels,
            outside=outside,
            _lattice=target,
            _pieces=pieces,
            _separate=pieces.separate(),
            _inverses=inverses,
            _homogeneous=homogeneous,
            _normal=np.linalg.inv(homogeneous.T @ homogeneous),
            _by_point=LabelledSums(corners.T.ravel(), count),
        )

    def __repr__(self) -> str:
        made = f"{len(self.points)} points, {self.size}, align_corners={self.align_corners}"
        return f"PiecewiseAffine({made}, {len(self.triangles)} triangles, outside={self.outside!r})"

    def jvp(self, theta: Array, d_theta: Array | None, *, d_points: Array | None = None) -> Array:
        """How the grid moves with the parameters and, in float64, with the control points; None is zero."""
        return self._pushed(theta, d_theta, {"points": d_points})

    def vjp2(
        self,
        gg_theta: Array | None,
        grad_grid: Array,
        theta: Array,
        *,
        gg_points: Array | None = None,
        wrt: Any = ("grad_grid", "theta"),
    ) -> tuple[Array | None, ...]:
        """Second order, the vector-Jacobian product of `vjp`: gradients to grad_grid and theta (None if not in `wrt`).

        Then, if `wrt` names "points", that to the control points. The cotangents of the gradients to theta and, in
        float64, to the control points have the shapes of these; None is zero.
        """
        return self._pulled_twice(gg_theta, {"points": gg_points}, grad_grid, theta, wrt)

    def folded(self, theta: Array) -> Array:
        """Whether each triangle is turned over, or loses its area: bool, (N, ..., *theta_shape) to (N, ..., T)."""
        xp = backend_of({"theta": theta}).xp
        self._check(theta)
        slopes = self._slopes(xp, self._stacked(theta))
        areas = determinant(entries(slopes))
        turned: Array = ~(areas > 0)
        return turned.reshape(*theta.shape[:-2], len(self.triangles))

    def _identity(self) -> Array:
        return self.points

    @quiet
    def _grid(self, xp: ModuleType, theta: Array, out: Array | None) -> Array:
        # Displacements, and the lattice: the identity is exact then, and no sum of weights that are rounded.
        moved = self._stacked(theta) - self._cast(xp, "points", theta.dtype)
        base = self._cast(xp, "_lattice", theta.dtype)
        grid = backend_of({"theta": theta}).piecewise(self._values(xp, moved, np.nan), self._pieces, base)
        grid = grid.reshape(*theta.shape[:-2], *self.size, 2)
        if out is None:
            return grid
        out[...] = grid
        return out

    @quiet
    def _jvp(self, xp: ModuleType, theta: Array, d_theta: Array) -> Array:
        where = self._stacked(d_theta)
        d_grid = backend_of({"theta": theta}).piecewise(self._values(xp, where, 0.0), self._pieces, None)
        return d_grid.reshape(*theta.shape[:-2], *self.size, 2)

    @quiet
    def _jvp_state(self, xp: ModuleType, theta: Array, **d_state: Array | None) -> Array:
        """A control point that moves by dc is one that stays and samples J dc less, in each of its triangles."""
        where, d_points = self._stacked(theta).astype(FLOAT64, copy=False), d_state["points"]
        assert d_points is not None
        moved = self._corners(xp, d_points[None])[0]
        values = xp.zeros((len(where), len(self.triangles) + 1, 3, 2))
        values[:, :-1] = -xp.einsum("mtab,bvt->mtva", self._slopes(xp, where), moved)
        if self.outside == "affine":
            values[:, -1] = fit_jvp(*self._least_squares(xp), where, along_points(xp, d_points))
        flat = values.reshape(len(where), self._separate.count, 2)
        d_grid = backend_of({"theta": theta}).piecewise(flat, self._separate, None).astype(theta.dtype, copy=False)
        return d_grid.reshape(*theta.shape[:-2], *self.size, 2)

    @quiet
    def _vjp(self, xp: ModuleType, grad_grid: Array, theta: Array, wanted: tuple[bool, ...]) -> tuple[Any, ...]:
        where = self._stacked(theta).astype(FLOAT64, copy=False)
        gradient = grad_grid.reshape(len(where), math.prod(self.size), 2)
        to_values, to_points = backend_of({"theta": theta}).piecewise_vjp(gradient, self._pieces), None
        to_theta, to_fit = to_values[:, :-3], to_values[:, -3:]
        if wanted[1]:
            moments, _ = self._moments(xp, gradient)
            to_corners = -xp.einsum("mtab,mavt->bvt", self._slopes(xp, where), moments)
            to_points = self._at_points(xp, to_corners).T
        if self.outside == "affine":
            by_theta, by_points = fit_vjp(*self._least_squares(xp), where, to_fit)
            to_theta = to_theta + by_theta
            to_points = None if to_points is None else to_points + by_points
        return (to_theta.reshape(theta.shape).astype(theta.dtype, copy=False) if wanted[0] else None, to_points)

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
        """The slopes J and the moments differentiated, and what `_vjp` makes of them.

        The weights of a pixel move as the coordinates of one that samples their slopes: by less, of where dc takes it.
        """
        d_points = gg_state["points"]
        if d_points is None and not wanted[1]:
            return None, None  # linear in theta alone
        where = self._stacked(theta).astype(FLOAT64, copy=False)
        d_points = xp.zeros(self.points.shape) if d_points is None else d_points
        d_where = xp.zeros_like(where) if gg_theta is None else self._stacked(gg_theta).astype(FLOAT64, copy=False)
        gradient = grad_grid.reshape(len(where), math.prod(self.size), 2)
        slopes, (moments, to_fit) = self._slopes(xp, where), self._moments(xp, gradient)
        d_slopes = self._slopes(xp, d_where) - slopes @ self._slopes(xp, d_points[None])
        others = self._cast(xp, "_inverses", FLOAT64)
        of_weights = xp.concatenate([-others.sum(axis=1, keepdims=True), others], axis=1)  # their slopes (T, 3, 2)
        carried = xp.einsum("mawt,bwt->matb", moments, self._corners(xp, d_points[None])[0])
        d_moments = -xp.einsum("matb,tvb->mavt", carried, of_weights)
        to_theta, to_points = self._at_points(xp, d_moments).swapaxes(1, 2), None
        if wanted[1]:
            to_corners = xp.einsum("mtab,mavt->bvt", d_slopes, moments)
            to_corners = to_corners + xp.einsum("mtab,mavt->bvt", slopes, d_moments)
            to_points = -self._at_points(xp, to_corners).T
        if self.outside == "affine":
            along = along_points(xp, d_points)
            by_theta, by_points = fit_vjp2(*self._least_squares(xp), where, d_where, along, to_fit)
            to_theta = to_theta + by_theta
            to_points = None if to_points is None else to_points + by_points
        return to_theta.reshape(theta.shape).astype(theta.dtype, copy=False), to_points

    def _stacked(self, theta: Array) -> Array:
        return theta.reshape(math.prod(theta.shape[:-2]), *self.theta_shape)

    def _corners(self, xp: ModuleType, where: Array) -> Array:
        """Of points (M, P, 2), those of each triangle, (M, 2, 3, T)."""
        return where.swapaxes(1, 2).take(self._cast(xp, "triangles", INDEX).T, axis=-1)

    def _slopes(self, xp: ModuleType, where: Array) -> Array:
        """Jacobian of the map in each triangle, (M, T, 2, 2), in float64."""
        a, b, c = self._corners(xp, where).astype(FLOAT64, copy=False).transpose(2, 0, 3, 1)
        return xp.stack([b - a, c - a], axis=-1) @ self._cast(xp, "_inverses", FLOAT64)

    def _least_squares(self, xp: ModuleType) -> tuple[Array, Array]:
        return self._cast(xp, "_homogeneous", FLOAT64), self._cast(xp, "_normal", FLOAT64)

    def _values(self, xp: ModuleType, where: Array, hidden: float) -> Array:
        """What `_pieces` are made of: (M, P, 2) and, for pixels in no triangle, an affine map or what hides them."""
        if self.outside == "nearest":
            return where
        values = xp.empty((len(where), self._pieces.count, 2), where.dtype)
        values[:, :-3] = where
        values[:, -3:] = fit(*self._least_squares(xp), where) if self.outside == "affine" else hidden
        return values

    def _at_points(self, xp: ModuleType, corners: Array) -> Array:
        """Sums (..., P) over the corners (..., 3, T) that are at each control point."""
        return self._by_point(xp, corners.reshape(*corners.shape[:-2], corners.shape[-2] * corners.shape[-1]))

    def _moments(self, xp: ModuleType, gradient: Array) -> tuple[Array, Array]:
        """Cotangents (M, 2, 3, T) of the corners of all triangles and (M, 3, 2) of the affine maps."""
        to_values = backend_of({"gradient": gradient}).piecewise_vjp(gradient, self._separate)
        to_corners = to_values.reshape(len(gradient), len(self.triangles) + 1, 3, 2)
        return to_corners[:, :-1].transpose(0, 3, 2, 1), to_corners[:, -1]


def fit(homogeneous: Array, normal: Array, where: Array) -> Array:
    """The affine maps (M, 3, 2) of (x, y, 1) nearest to what takes the control points to (M, P, 2)."""
    solution: Array = normal @ (homogeneous.T @ where)
    return solution


def along_points(xp: ModuleType, d_points: Array) -> Array:
    """The tangent (P, 3) of (x, y, 1)."""
    along: Array = xp.concatenate([d_points, xp.zeros((len(d_points), 1))], axis=1)
    return along


def fit_jvp(homogeneous: Array, normal: Array, where: Array, along: Array) -> Array:
    solution = fit(homogeneous, normal, where)
    residual = where - homogeneous @ solution
    tangent: Array = normal @ (along.T @ residual - homogeneous.T @ (along @ solution))
    return tangent


def fit_vjp(homogeneous: Array, normal: Array, where: Array, gradient: Array) -> tuple[Array, Array]:
    """Gradients to where the control points go, and to themselves."""
    solution, pulled = fit(homogeneous, normal, where), normal @ gradient
    to_where = homogeneous @ pulled
    residual = where - homogeneous @ solution
    to_homogeneous = residual @ pulled.swapaxes(1, 2) - to_where @ solution.swapaxes(1, 2)
    return to_where, to_homogeneous.sum(axis=0)[:, :2]


def fit_vjp2(
    homogeneous: Array, normal: Array, where: Array, d_where: Array, along: Array, gradient: Array
) -> tuple[Array, Array]:
    """`fit_vjp`, differentiated along d_where and the tangent of (x, y, 1)."""
    solution, pulled = fit(homogeneous, normal, where), normal @ gradient
    d_solution = fit(homogeneous, normal, d_where) + fit_jvp(homogeneous, normal, where, along)
    d_pulled = -normal @ (along.T @ (homogeneous @ pulled) + homogeneous.T @ (along @ pulled))
    to_where, d_to_where = homogeneous @ pulled, along @ pulled + homogeneous @ d_pulled
    residual = where - homogeneous @ solution
    d_residual = d_where - along @ solution - homogeneous @ d_solution
    to_homogeneous = d_residual @ pulled.swapaxes(1, 2) + residual @ d_pulled.swapaxes(1, 2)
    to_homogeneous -= d_to_where @ solution.swapaxes(1, 2) + to_where @ d_solution.swapaxes(1, 2)
    return d_to_where, to_homogeneous.sum(axis=0)[:, :2]


def triangulation(points: Array) -> Array:
    """The Delaunay triangles, without those whose area is rounding."""
    check_distinct("points", points)
    check_spanning("points", points)
    triangles = delaunay(points)
    return triangles[~flat_triangles(points, triangles)]


def given_triangles(triangles: Any, points: Array) -> Array:
    check_host_numbers("triangles", triangles)
    corners = np.array(triangles)
    if corners.dtype.kind not in "iu":
        raise TypeError(f"triangles must be of integers, got dtype {corners.dtype}")
    if corners.ndim != 2 or corners.shape[1] != 3 or len(corners) == 0:
        raise ValueError(f"triangles must have shape (T, 3), T 1 or more: got {corners.shape}")
    unknown = ((corners < 0) | (corners >= len(points))).any(axis=1)
    if unknown.any():
        k = int(np.flatnonzero(unknown)[0])
        raise ValueError(f"triangles must be of points 0 to {len(points) - 1}: triangle {k} is {corners[k].tolist()}")
    flat = np.flatnonzero(flat_triangles(points, corners))
    if len(flat):
        raise ValueError(f"triangles must have an area, but these have none: {flat.tolist()}")
    return corners.astype(INDEX)


def flat_triangles(points: Array, triangles: Array) -> Array:
    """Whether the height of each triangle is rounding, next to its longest edge."""
    a, b, c = points[triangles].swapaxes(0, 1)
    longest = np.max([((p - q) ** 2).sum(axis=-1) for p, q in ((a, b), (b, c), (c, a))], axis=0)
    (bx, by), (cx, cy) = (b - a).T, (c - a).T
    return abs(bx * cy - by * cx) <= 1e-12 * longest


def located(x: Array, y: Array, points: Array, triangles: Array, inverses: Array) -> Array:
    """The first triangle (H, W) that contains each pixel, -1 where there is none."""
    labels = np.full((len(y), len(x)), -1, INDEX)
    for k, (corners, inverse) in enumerate(zip(points[triangles], inverses, strict=True)):
        # What lies on an edge is inside, whatever rounding makes of it.
        slack = max(1e-12, 16 * EPSILON * (1 + abs(corners).max()) * abs(inverse).max())
        (left, top), (right, bottom) = corners.min(axis=0) - 1e-12, corners.max(axis=0) + 1e-12
        columns = slice(*np.searchsorted(x, [left, right]))
        rows = slice(*np.searchsorted(y, [top, bottom]))
        along, across = x[columns] - corners[0, 0], y[rows, None] - corners[0, 1]
        second, third = (row[0] * along + row[1] * across for row in inverse)
        inside = (second >= -slack) & (third >= -slack) & (second + third <= 1 + slack)
        box = labels[rows, columns]
        box[inside & (box < 0)] = k
    return labels


def follow_nearest(labels: Array, x: Array, y: Array, points: Array, triangles: Array) -> None:
    """Label pixels that are in no triangle with the one whose border is nearest to them."""
    rows, columns = np.nonzero(labels < 0)
    pixels = np.stack([x[columns], y[rows]], axis=-1)
    nearest, least = np.zeros(len(pixels), INDEX), np.full(len(pixels), np.inf)
    for k, a, b in border(triangles):
        edge = points[b] - points[a]
        along = np.clip((pixels - points[a]) @ edge / (edge @ edge), 0, 1)
        squared = ((pixels - points[a] - along[:, None] * edge) ** 2).sum(axis=-1)
        nearer = squared < least * (1 - 1e-12)  # equally near ones stay with the first
        nearest[nearer], least[nearer] = k, squared[nearer]
    labels[rows, columns] = nearest


def border(triangles: Array) -> list[tuple[int, int, int]]:
    """Edges of one triangle only: that triangle and the two corners."""
    owners: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for k, corners in enumerate(triangles.tolist()):
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
            owners.setdefault((min(a, b), max(a, b)), []).append((k, a, b))
    return sorted(edges[0] for edges in owners.values() if len(edges) == 1)
