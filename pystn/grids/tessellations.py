"""Tessellations of [-1, 1]^ndim, and the flows of velocities that are affine in each of their cells.

Such a field is continuous and given by its values at the vertices: velocities are (M, vertices, ndim),
float64, in normalized units; points are (P, ndim), shared by the M fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pystn.grids.runs import labelled_sums
from pystn.kept import Keeper
from pystn.matrices import expm, expm_jvp, expm_vjp
from pystn.typing import Array

__all__ = ["Intervals", "Triangles"]

Pair = tuple[Array, Array]  # x and y

AT_ONCE = 16384  # points of all fields that are on their way in two dimensions

# (e^z - 1) / z = 1 + z / 2! + z^2 / 3! + ..., differentiated term by term, once and twice.
SLOPE_SERIES = tuple((k + 1) / math.factorial(k + 2) for k in range(20))
BEND_SERIES = tuple((k + 1) * (k + 2) / math.factorial(k + 3) for k in range(20))


def growth(xp: Any, z: Array) -> Any:
    """(e^z - 1) / z, 1 at 0."""
    return xp.where(z == 0, 1.0, xp.expm1(z) / xp.where(z == 0, 1.0, z))


def growth_slope(xp: Any, z: Array) -> Any:
    """The derivative of `growth`, which cancels near 0: there its series."""
    near, series, large = near_zero(xp, z, SLOPE_SERIES)
    return xp.where(near, series, ((large - 1) * xp.exp(large) + 1) / large**2)


def growth_bend(xp: Any, z: Array) -> Any:
    """The second derivative of `growth`, in the same way."""
    near, series, large = near_zero(xp, z, BEND_SERIES)
    return xp.where(near, series, ((large * (large - 2) + 2) * xp.exp(large) - 2) / large**3)


def near_zero(xp: Any, z: Array, coefficients: tuple[float, ...]) -> tuple[Array, Array, Array]:
    """Where |z| < 1, the series there, and what z is elsewhere."""
    near = abs(z) < 1
    small, series = xp.where(near, z, 0.0), xp.zeros_like(z)
    for coefficient in reversed(coefficients):
        series = series * small + coefficient
    return near, series, xp.where(near, 1.0, z)


def delay(xp: Any, z: Array) -> Any:
    """log(1 + z) / z, 1 at 0."""
    return xp.where(z == 0, 1.0, xp.log1p(z) / xp.where(z == 0, 1.0, z))


def cell_along(xp: Any, x: Array, count: int) -> tuple[Array, Array]:
    """The cell of each coordinate on an axis of so many, and the place in it, 0 to 1.

    Coordinates beyond the ends are in the outermost cells, at places beyond theirs, and NaN is in the first.
    """
    position = (x + 1) * (count / 2)
    cell = xp.fmin(xp.fmax(xp.floor(position), 0), count - 1)
    return cell.astype(np.int64), position - cell


@dataclass(frozen=True)
class Segment:
    """Points on their way through one cell each. Lengths are in cells."""

    which: Array  # of the points of all fields
    vertex: Array  # at the left of the cell, among the vertices of all fields
    place: Array  # in the cell, on entry
    time: Array  # spent in it
    here: Array  # velocity on entry
    slope: Array  # of the velocity
    before: Array | None  # that in the cell they come from, but for the first
    step: Array  # how far they go

    def derivatives(self, xp: Any) -> tuple[Array, Array, Array]:
        """Of the place at the end: to the place on entry, to the velocities at the left and the right vertex.

        The time is held: what enters one cell earlier leaves the other as much earlier, at the same velocity.
        """
        z = self.slope * self.time
        level = self.time * growth(xp, z)
        tilt = xp.where(self.here == 0, 0.0, self.here * self.time**2 * growth_slope(xp, z))
        return xp.exp(z), level * (1 - self.place) - tilt, level * self.place + tilt

    def derivatives_jvp(self, xp: Any, d_place: Array, d_left: Array, d_right: Array) -> tuple[Array, Array, Array]:
        """How `derivatives` move with the place on entry and the velocities, all in cells."""
        z, d_slope = self.slope * self.time, d_right - d_left
        d_here = (1 - self.place) * d_left + self.place * d_right + self.slope * d_place
        d_level = self.time**2 * growth_slope(xp, z) * d_slope
        bend = xp.where(self.here == 0, 0.0, self.here * self.time**3 * growth_bend(xp, z))
        d_tilt = d_here * self.time**2 * growth_slope(xp, z) + bend * d_slope
        turned = d_place * self.time * growth(xp, z)
        d_by_left = d_level * (1 - self.place) - turned - d_tilt
        return xp.exp(z) * self.time * d_slope, d_by_left, d_level * self.place + turned + d_tilt

    def add_up(self, xp: Any, velocities: Array, to_left: Array, to_right: Array) -> None:
        """Add cotangents of the velocities at the left and the right vertex to those of all vertices."""
        left, right = labelled_sums(xp, self.vertex, (to_left, to_right), len(velocities))
        velocities += left
        velocities[1:] += right[:-1]

    def kink(self, xp: Any) -> Any:
        """The second derivative of the place on entry to the one that the cell before would have led to.

        What arrives earlier by a distance spends as much of the time at the new slope.
        """
        if self.before is None:
            return 0.0
        return xp.where(self.here == 0, 0.0, (self.slope - self.before) / self.here)


class Intervals:
    """Equal intervals of [-1, 1]. Flows are exact.

    In a cell the velocity is a x + b, so that x moves by (a x + b) (e^{at} - 1) / a and arrives where the velocity is
    v' after log(v' / v) / a. Directions do not change on the way, hence a point crosses every cell at most once.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.vertices = ((2 * np.arange(self.count + 1) - self.count) / self.count)[:, None]

    def velocity(self, xp: Any, velocities: Array, points: Array) -> Any:
        cell, place = cell_along(xp, points[:, 0], self.count)
        left, right = velocities[:, cell], velocities[:, cell + 1]
        return left + (right - left) * place[:, None]

    def flow(self, xp: Any, velocities: Array, points: Array) -> Any:
        moved = xp.zeros(len(velocities) * len(points))
        for segment in self.segments(xp, velocities, points):
            moved[segment.which] += segment.step
        return points + (2 / self.count) * moved.reshape(len(velocities), len(points), 1)

    def flow_jvp(self, xp: Any, velocities: Array, d_velocities: Array, points: Array) -> Any:
        moved = xp.zeros(len(velocities) * len(points))
        for _ in self.tangents(xp, velocities, d_velocities, points, moved):
            pass
        return moved.reshape(len(velocities), len(points), 1)

    def flow_vjp(self, xp: Any, grad: Array, velocities: Array, points: Array) -> Any:
        adjoint = grad.reshape(-1).astype(np.float64)
        grad_velocities = xp.zeros(velocities.size)
        for segment in reversed(list(self.segments(xp, velocities, points))):
            by_place, by_left, by_right = segment.derivatives(xp)
            ahead = adjoint[segment.which]
            segment.add_up(xp, grad_velocities, by_left * ahead, by_right * ahead)
            adjoint[segment.which] = by_place * ahead
        return grad_velocities.reshape(velocities.shape)

    def flow_vjp2(self, xp: Any, grad: Array, velocities: Array, d_velocities: Array, points: Array) -> Any:
        """The derivative of `flow_vjp` along d_velocities."""
        adjoint = grad.reshape(-1).astype(np.float64)
        bent = xp.zeros_like(adjoint)  # the derivative of the adjoint
        to_velocities = xp.zeros(velocities.size)
        in_cells, moved = d_velocities * (self.count / 2), xp.zeros_like(adjoint)
        for segment, tangents in reversed(list(self.tangents(xp, velocities, in_cells, points, moved))):
            by_place, by_left, by_right = segment.derivatives(xp)
            d_by_place, d_by_left, d_by_right = segment.derivatives_jvp(xp, *tangents)
            ahead, bent_ahead = adjoint[segment.which], bent[segment.which]
            to_left, to_right = by_left * bent_ahead + d_by_left * ahead, by_right * bent_ahead + d_by_right * ahead
            segment.add_up(xp, to_velocities, to_left, to_right)
            adjoint[segment.which] = by_place * ahead
            turned = by_place * segment.kink(xp) * tangents[0] + d_by_place
            bent[segment.which] = by_place * bent_ahead + turned * ahead
        return to_velocities.reshape(velocities.shape)

    def tangents(
        self, xp: Any, velocities: Array, d_velocities: Array, points: Array, moved: Array
    ) -> Iterator[tuple[Segment, tuple[Array, Array, Array]]]:
        """The segments with the tangents of the place on entry and of both velocities; of all places to `moved`."""
        d = d_velocities.reshape(-1)
        for segment in self.segments(xp, velocities, points):
            by_place, by_left, by_right = segment.derivatives(xp)
            tangents = moved[segment.which], d[segment.vertex], d[segment.vertex + 1]
            moved[segment.which] = by_place * tangents[0] + by_left * tangents[1] + by_right * tangents[2]
            yield segment, tangents

    def segments(self, xp: Any, velocities: Array, points: Array) -> Iterator[Segment]:
        """The ways of all points through their first cell, of those that leave it through their second, and so on."""
        flat = velocities.reshape(-1) * (self.count / 2)
        cell, place = (xp.tile(a, len(velocities)) for a in cell_along(xp, points[:, 0], self.count))
        which = xp.arange(len(cell))
        vertex = which // max(1, len(points)) * (self.count + 1) + cell
        time, before = xp.ones(len(cell)), None
        while len(which):
            left, right = flat[vertex], flat[vertex + 1]
            slope = right - left
            here = left + slope * place
            forward = here > 0
            end = xp.where(forward, 1.0, 0.0)
            has_next = xp.where(forward, cell < self.count - 1, cell > 0)
            arrives = (here != 0) & (xp.sign(xp.where(forward, right, left)) == xp.sign(here))
            straight = (end - place) / here  # the time it would take at this velocity
            needed = straight * delay(xp, slope * straight)
            leaves = has_next & arrives & (needed < time)
            spent = xp.where(leaves, needed, time)
            inside = xp.where(here == 0, 0.0, here * spent * growth(xp, slope * spent))
            step = xp.where(leaves, end - place, inside)
            yield Segment(which, vertex, place, spent, here, slope, before, step)
            left_over = xp.flatnonzero(leaves)  # their number has to be known: this waits for the device
            onward = xp.where(forward, 1, -1)[left_over]
            which, cell, vertex = which[left_over], cell[left_over] + onward, vertex[left_over] + onward
            place, time, before = 1 - end[left_over], (time - spent)[left_over], slope[left_over]


class Triangles(Keeper):
    """Equal rectangles of [-1, 1]^2, each cut by its diagonals into four triangles. Flows are made of equal steps.

    In a step a point follows the affine velocity of the cell that it starts in, exactly: p <- exp(A / steps) p.
    Vertices are the corners of the rectangles, row by row, then their centers.
    """

    def __init__(self, rows: int, columns: int, steps: int) -> None:
        self.rows, self.columns = rows, columns
        self.steps = steps
        ny, nx = rows, columns
        x, y = ((2 * np.arange(n + 1) - n) / n for n in (nx, ny))
        x_center, y_center = ((2 * np.arange(n) + 1 - n) / n for n in (nx, ny))
        corners = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        centers = np.stack(np.meshgrid(x_center, y_center), axis=-1).reshape(-1, 2)
        self.vertices = np.concatenate([corners, centers])

        row, column = (a.reshape(-1) for a in np.indices((ny, nx)))
        low = row * (nx + 1) + column  # the rectangle's corner of least x and y
        low_x, low_y, high = low + 1, low + nx + 1, low + nx + 2
        center = len(corners) + np.arange(len(centers))
        # Left, right, towards low y, towards high y.
        sides = [(low, low_y), (low_x, high), (low, low_x), (low_y, high)]
        # (rectangles, 4, 3), flat
        self.triangles = np.stack([np.stack([*side, center], axis=-1) for side in sides], axis=1).reshape(-1, 3)
        ones = np.ones((len(self.triangles), 3, 1))
        # With the vertices (x, y, 1) as rows: (x, y, 1) times this are barycentric coordinates.
        self.barycentric = np.linalg.inv(np.concatenate([self.vertices[self.triangles], ones], axis=-1))

    def cell_of(self, xp: Any, x: Array, y: Array) -> Any:
        """The triangle of each point; of one outside the domain, of the rectangle that is nearest."""
        column, across = cell_along(xp, x, self.columns)
        row, along = cell_along(xp, y, self.rows)
        across, along = across - 0.5, along - 0.5
        beside = abs(across) > abs(along)
        side = xp.where(beside, across > 0, 2 + (along > 0))
        return (row * self.columns + column) * 4 + side

    def matrices(self, xp: Any, velocities: Array) -> Any:
        """(M, triangles, 2, 3), which times (x, y, 1) are the velocities in each triangle."""
        at_vertices = velocities[:, self._cast(xp, "triangles")]  # (M, triangles, 3, 2)
        return xp.swapaxes(self._cast(xp, "barycentric") @ at_vertices, -1, -2)

    def matrices_vjp(self, xp: Any, grad: Array, count: int) -> Any:
        """The transpose of `matrices`: (M, triangles, 2, 3) to the velocities of so many vertices."""
        at_vertices = xp.swapaxes(grad @ self._cast(xp, "barycentric"), -1, -2)
        fields = xp.arange(len(grad))[:, None, None]
        keys = fields * count + self._cast(xp, "triangles")
        total = labelled_sums(xp, keys, (at_vertices[..., 0], at_vertices[..., 1]), len(grad) * count)
        return total.T.reshape(len(grad), count, 2)

    def generators(self, xp: Any, velocities: Array) -> Any:
        """(M, triangles, 3, 3): their exponentials are a step."""
        matrices = self.matrices(xp, velocities) / self.steps
        return xp.concatenate([matrices, xp.zeros_like(matrices[..., :1, :])], axis=-2)

    def velocity(self, xp: Any, velocities: Array, points: Array) -> Any:
        x, y = points[:, 0], points[:, 1]
        matrices = self.matrices(xp, velocities)[:, self.cell_of(xp, x, y)]  # (M, P, 2, 3)
        return matrices[..., 0] * x[:, None] + matrices[..., 1] * y[:, None] + matrices[..., 2]

    def keys(self, xp: Any, x: Array, y: Array) -> Any:
        """The triangle of each point (M, P) among those of all fields."""
        return xp.arange(len(x))[:, None] * len(self.triangles) + self.cell_of(xp, x, y)

    def flow(self, xp: Any, velocities: Array, points: Array) -> Any:
        steps = flat_steps(xp, expm(self.generators(xp, velocities)))
        flowed = xp.empty((len(velocities), len(points), 2))
        for piece in pieces(xp, velocities, points):
            x, y = start(xp, velocities, points[piece])
            for _ in range(self.steps):
                x, y = moved(self.step_of(xp, steps, x, y), x, y)
            flowed[:, piece] = xp.stack([x, y], axis=-1)
        return flowed

    def flow_jvp(self, xp: Any, velocities: Array, d_velocities: Array, points: Array) -> Any:
        generators, tangents = (self.generators(xp, v) for v in (velocities, d_velocities))
        steps, d_steps = flat_steps(xp, expm(generators)), flat_steps(xp, expm_jvp(generators, tangents))
        flowed = xp.empty((len(velocities), len(points), 2))
        for piece in pieces(xp, velocities, points):
            for _, tangent in self.tangents(xp, steps, d_steps, start(xp, velocities, points[piece])):  # noqa: B007
                pass
            flowed[:, piece] = xp.stack(tangent, axis=-1)
        return flowed

    def flow_vjp(self, xp: Any, grad: Array, velocities: Array, points: Array) -> Any:
        generators = self.generators(xp, velocities)
        steps = flat_steps(xp, expm(generators))
        grad_steps = xp.zeros((3, 3, steps.shape[-1]))
        for piece in pieces(xp, velocities, points):
            x, y = start(xp, velocities, points[piece])
            way = []
            for _ in range(self.steps):
                way.append((x, y))
                x, y = moved(self.step_of(xp, steps, x, y), x, y)
            adjoint = grad[:, piece, 0].astype(np.float64), grad[:, piece, 1].astype(np.float64)
            for x, y in reversed(way):
                key = self.keys(xp, x, y)
                add_products(xp, grad_steps, key, adjoint, (x, y))
                adjoint = moved_vjp(steps.take(key, axis=-1), *adjoint)
        grad_steps = xp.moveaxis(grad_steps, -1, 0).reshape(generators.shape)
        (grad_generators,) = expm_vjp(grad_steps, generators)
        return self.matrices_vjp(xp, grad_generators[..., :2, :] / self.steps, velocities.shape[1])

    def flow_vjp2(self, xp: Any, grad: Array, velocities: Array, d_velocities: Array, points: Array) -> Any:
        """The derivative of `flow_vjp` along d_velocities.

        A matrix X and its derivative are the blocks of [[X, dX], [0, X]], of which a function f makes f(X) and its
        derivative (Higham, Functions of Matrices, 2008); here of [[X, 0], [dX, X]], as the adjoint is at the transpose.
        """
        generators, tangents = (self.generators(xp, v) for v in (velocities, d_velocities))
        steps, d_steps = flat_steps(xp, expm(generators)), flat_steps(xp, expm_jvp(generators, tangents))
        grad_steps, d_grad_steps = xp.zeros((2, 3, 3, steps.shape[-1]))
        for piece in pieces(xp, velocities, points):
            way = list(self.tangents(xp, steps, d_steps, start(xp, velocities, points[piece])))[:-1]
            adjoint = grad[:, piece, 0].astype(np.float64), grad[:, piece, 1].astype(np.float64)
            bent = xp.zeros_like(adjoint[0]), xp.zeros_like(adjoint[1])  # the derivative of the adjoint
            for (x, y), tangent in reversed(way):
                key = self.keys(xp, x, y)
                add_products(xp, grad_steps, key, adjoint, (x, y))
                add_products(xp, d_grad_steps, key, bent, (x, y))
                add_products(xp, d_grad_steps, key, adjoint, tangent, 0.0)
                step = steps.take(key, axis=-1)
                bent = plus(moved_vjp(step, *bent), moved_vjp(d_steps.take(key, axis=-1), *adjoint))
                adjoint = moved_vjp(step, *adjoint)
        cotangents = [xp.moveaxis(a, -1, 0).reshape(generators.shape) for a in (grad_steps, d_grad_steps)]
        none = xp.zeros_like(generators)
        (both,) = expm_vjp(
            blocks(xp, [[cotangents[0], cotangents[1]], [none, cotangents[0]]]),
            blocks(xp, [[generators, none], [tangents, generators]]),
        )
        return self.matrices_vjp(xp, both[..., :2, 3:] / self.steps, velocities.shape[1])

    def step_of(self, xp: Any, steps: Array, x: Array, y: Array) -> Any:
        """The matrix of each point, (2, 3, M, P)."""
        return steps.take(self.keys(xp, x, y), axis=-1)

    def tangents(self, xp: Any, steps: Array, d_steps: Array, at: Pair) -> Iterator[tuple[Pair, Pair]]:
        """The points and their tangents, before each step and after the last."""
        along = xp.zeros_like(at[0]), xp.zeros_like(at[1])
        yield at, along
        for _ in range(self.steps):
            key = self.keys(xp, *at)
            step, d_step = (matrices.take(key, axis=-1) for matrices in (steps, d_steps))
            along, at = plus(moved(d_step, *at), moved(step, *along, 0.0)), moved(step, *at)
            yield at, along


def flat_steps(xp: Any, matrices: Array) -> Any:
    """The two rows that count of matrices (M, triangles, 3, 3), as (2, 3, M triangles)."""
    rows = xp.moveaxis(matrices[..., :2, :].reshape(-1, 2, 3), 0, -1)
    return xp.ascontiguousarray(rows)


def pieces(xp: Any, velocities: Array, points: Array) -> Iterator[slice]:
    """The points in turn, so many that what NumPy makes of them stays in a cache; for a device all of them."""
    size = max(1, len(points) if xp is not np else AT_ONCE // max(1, len(velocities)))
    for first in range(0, len(points), size):
        yield slice(first, first + size)


def start(xp: Any, velocities: Array, points: Array) -> Pair:
    """Coordinates (M, P) of the points for each field."""
    x, y = (xp.broadcast_to(points[:, a], (len(velocities), len(points))) for a in range(2))
    return x, y


def moved(steps: Array, x: Array, y: Array, one: float = 1.0) -> Pair:
    """Points (x, y, one) under matrices (2, 3, ...)."""
    new_x, new_y = (steps[a, 0] * x + steps[a, 1] * y + steps[a, 2] * one for a in range(2))
    return new_x, new_y


def moved_vjp(steps: Array, x: Array, y: Array) -> Pair:
    """The transpose of `moved`, as far as it concerns the points."""
    to_x, to_y = (steps[0, a] * x + steps[1, a] * y for a in range(2))
    return to_x, to_y


def plus(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def add_products(xp: Any, total: Array, key: Array, adjoint: Pair, at: Pair, one: float = 1.0) -> None:
    """Add to matrices (3, 3, count), by key, the products of cotangents with points (x, y, one)."""
    columns = 3 if one else 2
    products = (g * factor for g in adjoint for factor in (*at, one)[:columns])
    sums = labelled_sums(xp, key, products, total.shape[-1])
    total[:2, :columns] += sums.reshape(2, columns, total.shape[-1])


def blocks(xp: Any, rows: list[list[Array]]) -> Any:
    """One matrix of blocks (..., n, n)."""
    return xp.concatenate([xp.concatenate(row, axis=-1) for row in rows], axis=-2)
