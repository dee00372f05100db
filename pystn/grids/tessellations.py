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

from pystn.kept import Keeper
from pystn.matrices import expm, expm_jvp, expm_vjp
from pystn.typing import Array

__all__ = ["Intervals", "Triangles"]

# (e^z - 1) / z = 1 + z / 2! + z^2 / 3! + ..., differentiated term by term.
SLOPE_SERIES = tuple((k + 1) / math.factorial(k + 2) for k in range(20))


def growth(xp: Any, z: Array) -> Any:
    """(e^z - 1) / z, 1 at 0."""
    return xp.where(z == 0, 1.0, xp.expm1(z) / xp.where(z == 0, 1.0, z))


def growth_slope(xp: Any, z: Array) -> Any:
    """The derivative of `growth`, which cancels near 0: there its series."""
    near = abs(z) < 1
    small, large = xp.where(near, z, 0.0), xp.where(near, 1.0, z)
    series = xp.zeros_like(z)
    for coefficient in reversed(SLOPE_SERIES):
        series = series * small + coefficient
    return xp.where(near, series, ((large - 1) * xp.exp(large) + 1) / large**2)


def delay(xp: Any, z: Array) -> Any:
    """log(1 + z) / z, 1 at 0."""
    return xp.where(z == 0, 1.0, xp.log1p(z) / xp.where(z == 0, 1.0, z))


def sums(xp: Any, keys: Array, weights: Array, count: int) -> Any:
    """Of each key from 0 to count - 1, the sum of its weights: in the order of the arrays, by NumPy."""
    keys, weights = keys.reshape(-1), weights.reshape(-1)
    if xp is np:
        return np.bincount(keys, weights, minlength=count)
    total = xp.zeros(count)
    xp.add.at(total, keys, weights)  # CuPy's bincount waits for the device
    return total


def cell_along(xp: Any, x: Array, count: int) -> tuple[Array, Array]:
    """The cell of each coordinate on an axis of so many, and the place in it, 0 to 1.

    Coordinates beyond the ends are in the outermost cells, at places beyond theirs.
    """
    position = (x + 1) * (count / 2)
    cell = xp.clip(xp.nan_to_num(xp.floor(position)), 0, count - 1)
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
    step: Array  # how far they go

    def derivatives(self, xp: Any) -> tuple[Array, Array, Array]:
        """Of the place at the end: to the place on entry, to the velocities at the left and the right vertex.

        The time is held: what enters one cell earlier leaves the other as much earlier, at the same velocity.
        """
        z = self.slope * self.time
        level = self.time * growth(xp, z)
        tilt = xp.where(self.here == 0, 0.0, self.here * self.time**2 * growth_slope(xp, z))
        return xp.exp(z), level * (1 - self.place) - tilt, level * self.place + tilt


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
        d = d_velocities.reshape(-1)
        for segment in self.segments(xp, velocities, points):
            by_place, by_left, by_right = segment.derivatives(xp)
            earlier = by_place * moved[segment.which]
            moved[segment.which] = earlier + by_left * d[segment.vertex] + by_right * d[segment.vertex + 1]
        return moved.reshape(len(velocities), len(points), 1)

    def flow_vjp(self, xp: Any, grad: Array, velocities: Array, points: Array) -> Any:
        adjoint = grad.reshape(-1).astype(np.float64)
        grad_velocities = xp.zeros(velocities.size)
        for segment in reversed(list(self.segments(xp, velocities, points))):
            by_place, by_left, by_right = segment.derivatives(xp)
            ahead = adjoint[segment.which]
            grad_velocities += sums(xp, segment.vertex, by_left * ahead, velocities.size)
            grad_velocities += sums(xp, segment.vertex + 1, by_right * ahead, velocities.size)
            adjoint[segment.which] = by_place * ahead
        return grad_velocities.reshape(velocities.shape)

    def segments(self, xp: Any, velocities: Array, points: Array) -> Iterator[Segment]:
        """The ways of all points through their first cell, of those that leave it through their second, and so on."""
        flat = velocities.reshape(-1) * (self.count / 2)
        cell, place = (xp.tile(a, len(velocities)) for a in cell_along(xp, points[:, 0], self.count))
        which = xp.arange(len(cell))
        vertex = which // max(1, len(points)) * (self.count + 1) + cell
        time = xp.ones(len(cell))
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
            yield Segment(which, vertex, place, spent, here, slope, xp.where(leaves, end - place, inside))
            left_over = xp.flatnonzero(leaves)  # their number has to be known: this waits for the device
            onward = xp.where(forward, 1, -1)[left_over]
            which, cell, vertex = which[left_over], cell[left_over] + onward, vertex[left_over] + onward
            place, time = 1 - end[left_over], (time - spent)[left_over]


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
        side = xp.where(beside, xp.where(across > 0, 1, 0), xp.where(along > 0, 3, 2))
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
        total = [sums(xp, keys, at_vertices[..., a], len(grad) * count) for a in range(2)]
        return xp.stack(total, axis=-1).reshape(len(grad), count, 2)

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
        steps = expm(self.generators(xp, velocities))[..., :2, :].reshape(-1, 2, 3)
        x, y = start(xp, velocities, points)
        for _ in range(self.steps):
            x, y = moved(steps[self.keys(xp, x, y)], x, y)
        return xp.stack([x, y], axis=-1)

    def flow_jvp(self, xp: Any, velocities: Array, d_velocities: Array, points: Array) -> Any:
        generators, tangents = (self.generators(xp, v) for v in (velocities, d_velocities))
        steps = expm(generators)[..., :2, :].reshape(-1, 2, 3)
        d_steps = expm_jvp(generators, tangents)[..., :2, :].reshape(-1, 2, 3)
        x, y = start(xp, velocities, points)
        dx = dy = xp.zeros_like(x)
        for _ in range(self.steps):
            key = self.keys(xp, x, y)
            step, turned = steps[key], moved(d_steps[key], x, y)
            dx, dy = (a + b for a, b in zip(turned, moved(step, dx, dy, 0.0), strict=True))
            x, y = moved(step, x, y)
        return xp.stack([dx, dy], axis=-1)

    def flow_vjp(self, xp: Any, grad: Array, velocities: Array, points: Array) -> Any:
        generators = self.generators(xp, velocities)
        steps = expm(generators)[..., :2, :].reshape(-1, 2, 3)
        x, y = start(xp, velocities, points)
        way = []
        for _ in range(self.steps):
            way.append((x, y))
            x, y = moved(steps[self.keys(xp, x, y)], x, y)
        grad_x, grad_y = grad[..., 0].astype(np.float64), grad[..., 1].astype(np.float64)
        grad_steps = xp.zeros((3, 3, len(steps)))
        for x, y in reversed(way):
            key = self.keys(xp, x, y)
            for row, g in enumerate((grad_x, grad_y)):
                for column, weights in enumerate((g * x, g * y, g)):
                    grad_steps[row, column] += sums(xp, key, weights, len(steps))
            step = steps[key]
            grad_x, grad_y = (step[..., 0, a] * grad_x + step[..., 1, a] * grad_y for a in range(2))
        grad_steps = xp.moveaxis(grad_steps, -1, 0).reshape(generators.shape)
        (grad_generators,) = expm_vjp(grad_steps, generators)
        return self.matrices_vjp(xp, grad_generators[..., :2, :] / self.steps, velocities.shape[1])


def start(xp: Any, velocities: Array, points: Array) -> tuple[Array, Array]:
    """Coordinates (M, P) of the points for each field."""
    x, y = (xp.broadcast_to(points[:, a], (len(velocities), len(points))) for a in range(2))
    return x, y


def moved(steps: Array, x: Array, y: Array, one: float = 1.0) -> tuple[Array, Array]:
    """Points (x, y, one) under matrices (..., 2, 3)."""
    new_x, new_y = (steps[..., a, 0] * x + steps[..., a, 1] * y + steps[..., a, 2] * one for a in range(2))
    return new_x, new_y
