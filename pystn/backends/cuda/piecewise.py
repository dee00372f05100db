"""Entry points of maps that are affine in each of some cells, and of flows of such velocities: array code.

In one dimension fields are velocities at the vertices (M, cells + 1), in cells per unit of time, and flows are exact;
in two they are a step of each triangle (M, triangles, 3, 3), of which flows make so many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cupy
import numpy as np

from pystn.backends.cells import cell_along, triangle_of
from pystn.backends.cuda.arrays import DeviceArray
from pystn.backends.pieces import Pieces
from pystn.backends.runs import labelled_sums

__all__ = ["flow", "flow_vjp", "piecewise", "piecewise_vjp"]

Pair = tuple[DeviceArray, DeviceArray]  # x and y


def flow(
    start: DeviceArray,
    field: DeviceArray,
    d_field: DeviceArray | None,
    grid: DeviceArray,
    cells: Sequence[int],
    steps: int,
) -> None:
    """Fills the grid: where points arrive, or their tangents if d_field, that of the field, is not None."""
    flows = Line(cells, field, d_field) if len(cells) == 1 else Plane(cells, steps, field, d_field)
    grid[...] = flows.forward(start) if d_field is None else flows.jvp(start)


def flow_vjp(
    start: DeviceArray,
    field: DeviceArray,
    d_field: DeviceArray | None,
    grad_grid: DeviceArray,
    cells: Sequence[int],
    steps: int,
) -> DeviceArray:
    """The gradient to the field (1, *its shape), in double; if d_field is not None its derivative along that, too."""
    flows = Line(cells, field, d_field) if len(cells) == 1 else Plane(cells, steps, field, d_field)
    grad = grad_grid.astype(np.float64)
    return cupy.stack(flows.vjp(start, grad) if d_field is None else flows.vjp2(start, grad))


# (e^z - 1) / z = 1 + z / 2! + z^2 / 3! + ..., differentiated term by term, once and twice.
SLOPE_SERIES = tuple((k + 1) / math.factorial(k + 2) for k in range(20))
BEND_SERIES = tuple((k + 1) * (k + 2) / math.factorial(k + 3) for k in range(20))


def growth(z: DeviceArray) -> DeviceArray:
    """(e^z - 1) / z, 1 at 0."""
    return cupy.where(z == 0, 1.0, cupy.expm1(z) / cupy.where(z == 0, 1.0, z))


def growth_slope(z: DeviceArray) -> DeviceArray:
    """The derivative of `growth`, which cancels near 0: there its series."""
    near, series, large = near_zero(z, SLOPE_SERIES)
    return cupy.where(near, series, ((large - 1) * cupy.exp(large) + 1) / large**2)


def growth_bend(z: DeviceArray) -> DeviceArray:
    """The second derivative of `growth`, in the same way."""
    near, series, large = near_zero(z, BEND_SERIES)
    return cupy.where(near, series, ((large * (large - 2) + 2) * cupy.exp(large) - 2) / large**3)


def near_zero(z: DeviceArray, coefficients: tuple[float, ...]) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Where |z| < 1, the series there, and what z is elsewhere."""
    near = abs(z) < 1
    small, series = cupy.where(near, z, 0.0), cupy.zeros_like(z)
    for coefficient in reversed(coefficients):
        series = series * small + coefficient
    return near, series, cupy.where(near, 1.0, z)


def delay(z: DeviceArray) -> DeviceArray:
    """log(1 + z) / z, 1 at 0."""
    return cupy.where(z == 0, 1.0, cupy.log1p(z) / cupy.where(z == 0, 1.0, z))


@dataclass(frozen=True)
class Segment:
    """Points on their way through one cell each. Lengths are in cells."""

    which: DeviceArray  # of the points of all fields
    vertex: DeviceArray  # at the left of the cell, among the vertices of all fields
    place: DeviceArray  # in the cell, on entry
    time: DeviceArray  # spent in it
    here: DeviceArray  # velocity on entry
    slope: DeviceArray  # of the velocity
    before: DeviceArray | None  # that in the cell they come from, but for the first
    step: DeviceArray  # how far they go

    def derivatives(self) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """Of the place at the end: to the place on entry, to the velocities at the left and the right vertex.

        The time is held: what enters one cell earlier leaves the other as much earlier, at the same velocity.
        """
        z = self.slope * self.time
        level = self.time * growth(z)
        tilt = cupy.where(self.here == 0, 0.0, self.here * self.time**2 * growth_slope(z))
        return cupy.exp(z), level * (1 - self.place) - tilt, level * self.place + tilt

    def derivatives_jvp(
        self, d_place: DeviceArray, d_left: DeviceArray, d_right: DeviceArray
    ) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """How `derivatives` move with the place on entry and the velocities, all in cells."""
        z, d_slope = self.slope * self.time, d_right - d_left
        d_here = (1 - self.place) * d_left + self.place * d_right + self.slope * d_place
        d_level = self.time**2 * growth_slope(z) * d_slope
        bend = cupy.where(self.here == 0, 0.0, self.here * self.time**3 * growth_bend(z))
        d_tilt = d_here * self.time**2 * growth_slope(z) + bend * d_slope
        turned = d_place * self.time * growth(z)
        d_by_left = d_level * (1 - self.place) - turned - d_tilt
        return cupy.exp(z) * self.time * d_slope, d_by_left, d_level * self.place + turned + d_tilt

    def kink(self) -> DeviceArray | float:
        """The second derivative of the place on entry to the one that the cell before would have led to.

        What arrives earlier by a distance spends as much of the time at the new slope.
        """
        if self.before is None:
            return 0.0
        return cupy.where(self.here == 0, 0.0, (self.slope - self.before) / self.here)


class Line:
    """Flows in one dimension, exact.

    In a cell the velocity is a x + b, so that x moves by (a x + b) (e^{at} - 1) / a and arrives where the velocity is
    v' after log(v' / v) / a. Directions do not change on the way, hence a point crosses every cell at most once.
    """

    def __init__(self, cells: Sequence[int], field: DeviceArray, d_field: DeviceArray | None) -> None:
        self.count, self.field, self.d_field = cells[0], field, d_field

    def forward(self, points: DeviceArray) -> DeviceArray:
        moved = cupy.zeros(len(self.field) * len(points))
        for segment in self.segments(points):
            moved[segment.which] += segment.step
        return points + (2 / self.count) * moved.reshape(len(self.field), len(points), 1)

    def jvp(self, points: DeviceArray) -> DeviceArray:
        moved = cupy.zeros(len(self.field) * len(points))
        for _ in self.tangents(points, moved):
            pass
        return (2 / self.count) * moved.reshape(len(self.field), len(points), 1)

    def vjp(self, points: DeviceArray, grad: DeviceArray) -> tuple[DeviceArray]:
        adjoint = grad.reshape(-1) * (2 / self.count)
        to_field = cupy.zeros((1, self.field.size))
        for segment in reversed(list(self.segments(points))):
            by_place, by_left, by_right = segment.derivatives()
            ahead = adjoint[segment.which]
            add_ends(segment, to_field, (by_left * ahead,), (by_right * ahead,))
            adjoint[segment.which] = by_place * ahead
        return (to_field[0].reshape(self.field.shape),)

    def vjp2(self, points: DeviceArray, grad: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        adjoint = grad.reshape(-1) * (2 / self.count)
        bent = cupy.zeros_like(adjoint)  # the derivative of the adjoint
        to_field, moved = cupy.zeros((2, self.field.size)), cupy.zeros_like(adjoint)
        for segment, tangents in reversed(list(self.tangents(points, moved))):
            by_place, by_left, by_right = segment.derivatives()
            d_by_place, d_by_left, d_by_right = segment.derivatives_jvp(*tangents)
            ahead, bent_ahead = adjoint[segment.which], bent[segment.which]
            to_left, to_right = by_left * bent_ahead + d_by_left * ahead, by_right * bent_ahead + d_by_right * ahead
            add_ends(segment, to_field, (by_left * ahead, to_left), (by_right * ahead, to_right))
            adjoint[segment.which] = by_place * ahead
            turned = by_place * segment.kink() * tangents[0] + d_by_place
            bent[segment.which] = by_place * bent_ahead + turned * ahead
        return to_field[0].reshape(self.field.shape), to_field[1].reshape(self.field.shape)

    def tangents(
        self, points: DeviceArray, moved: DeviceArray
    ) -> Iterator[tuple[Segment, tuple[DeviceArray, DeviceArray, DeviceArray]]]:
        """The segments with the tangents of the place on entry and of both velocities; of all places to `moved`."""
        assert self.d_field is not None
        d = self.d_field.reshape(-1)
        for segment in self.segments(points):
            by_place, by_left, by_right = segment.derivatives()
            tangents = moved[segment.which], d[segment.vertex], d[segment.vertex + 1]
            moved[segment.which] = by_place * tangents[0] + by_left * tangents[1] + by_right * tangents[2]
            yield segment, tangents

    def segments(self, points: DeviceArray) -> Iterator[Segment]:
        """The ways of all points through their first cell, of those that leave it through their second, and so on."""
        flat = self.field.reshape(-1)
        cell, place = (cupy.tile(a, len(self.field)) for a in cell_along(cupy, points[:, 0], self.count))
        which = cupy.arange(len(cell))
        vertex = which // max(1, len(points)) * (self.count + 1) + cell
        time, before = cupy.ones(len(cell)), None
        while len(which):
            left, right = flat[vertex], flat[vertex + 1]
            slope = right - left
            here = left + slope * place
            forward = here > 0
            end = cupy.where(forward, 1.0, 0.0)
            has_next = cupy.where(forward, cell < self.count - 1, cell > 0)
            arrives = (here != 0) & (cupy.sign(cupy.where(forward, right, left)) == cupy.sign(here))
            straight = (end - place) / here  # the time it would take at this velocity
            needed = straight * delay(slope * straight)
            leaves = has_next & arrives & (needed < time)
            spent = cupy.where(leaves, needed, time)
            inside = cupy.where(here == 0, 0.0, here * spent * growth(slope * spent))
            step = cupy.where(leaves, end - place, inside)
            yield Segment(which, vertex, place, spent, here, slope, before, step)
            left_over = cupy.flatnonzero(leaves)  # their number has to be known: this waits for the device
            onward = cupy.where(forward, 1, -1)[left_over]
            which, cell, vertex = which[left_over], cell[left_over] + onward, vertex[left_over] + onward
            place, time, before = 1 - end[left_over], (time - spent)[left_over], slope[left_over]


def add_ends(
    segment: Segment, total: DeviceArray, to_left: tuple[DeviceArray, ...], to_right: tuple[DeviceArray, ...]
) -> None:
    """Add cotangents of the velocities at the left and the right vertex to those of all vertices, a row for each."""
    left, right = labelled_sums(cupy, segment.vertex, (*to_left, *to_right), total.shape[1]).reshape(2, *total.shape)
    total += left
    total[:, 1:] += right[:, :-1]


class Plane:
    """Flows in two dimensions: in a step p <- exp(A / steps) p with the A of the triangle that it starts in."""

    def __init__(self, cells: Sequence[int], steps: int, field: DeviceArray, d_field: DeviceArray | None) -> None:
        self.cells, self.count = tuple(cells), steps
        self.shape = field.shape
        self.steps = flat_steps(field)
        self.d_steps = None if d_field is None else flat_steps(d_field)

    def forward(self, points: DeviceArray) -> DeviceArray:
        at = self.start(points)
        for _ in range(self.count):
            at = moved(self.step_of(at), *at)
        return cupy.stack(at, axis=-1)

    def jvp(self, points: DeviceArray) -> DeviceArray:
        for _, tangent in self.tangents(self.start(points)):  # noqa: B007
            pass
        return cupy.stack(tangent, axis=-1)

    def vjp(self, points: DeviceArray, grad: DeviceArray) -> tuple[DeviceArray]:
        at, way = self.start(points), []
        for _ in range(self.count):
            way.append(at)
            at = moved(self.step_of(at), *at)
        grad_steps, adjoint = cupy.zeros((3, 3, self.steps.shape[-1])), (grad[..., 0], grad[..., 1])
        for at in reversed(way):
            key = self.keys(at)
            add_products(grad_steps, key, adjoint, at)
            adjoint = moved_vjp(self.steps.take(key, axis=-1), *adjoint)
        return (self.of_fields(grad_steps),)

    def vjp2(self, points: DeviceArray, grad: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
        assert self.d_steps is not None
        way = list(self.tangents(self.start(points)))[:-1]
        grad_steps, d_grad_steps = cupy.zeros((2, 3, 3, self.steps.shape[-1]))
        adjoint = grad[..., 0], grad[..., 1]
        bent = cupy.zeros_like(adjoint[0]), cupy.zeros_like(adjoint[1])  # the derivative of the adjoint
        for at, tangent in reversed(way):
            key = self.keys(at)
            add_products(grad_steps, key, adjoint, at)
            add_products(d_grad_steps, key, bent, at)
            add_products(d_grad_steps, key, adjoint, tangent, 0.0)
            step = self.steps.take(key, axis=-1)
            bent = plus(moved_vjp(step, *bent), moved_vjp(self.d_steps.take(key, axis=-1), *adjoint))
            adjoint = moved_vjp(step, *adjoint)
        return self.of_fields(grad_steps), self.of_fields(d_grad_steps)

    def start(self, points: DeviceArray) -> Pair:
        """Coordinates (M, P) of the points for each field."""
        x, y = (cupy.broadcast_to(points[:, a], (self.shape[0], len(points))) for a in range(2))
        return x, y

    def keys(self, at: Pair) -> DeviceArray:
        """The triangle of each point (M, P) among those of all fields."""
        return cupy.arange(self.shape[0])[:, None] * self.shape[1] + triangle_of(cupy, *at, self.cells)

    def step_of(self, at: Pair) -> DeviceArray:
        """The matrix of each point, (2, 3, M, P)."""
        return self.steps.take(self.keys(at), axis=-1)

    def tangents(self, at: Pair) -> Iterator[tuple[Pair, Pair]]:
        """The points and their tangents, before each step and after the last."""
        assert self.d_steps is not None
        along = cupy.zeros_like(at[0]), cupy.zeros_like(at[1])
        yield at, along
        for _ in range(self.count):
            key = self.keys(at)
            step, d_step = (matrices.take(key, axis=-1) for matrices in (self.steps, self.d_steps))
            along, at = plus(moved(d_step, *at), moved(step, *along, 0.0)), moved(step, *at)
            yield at, along

    def of_fields(self, matrices: DeviceArray) -> DeviceArray:
        """Matrices (3, 3, count) of all fields' triangles, as the field."""
        return cupy.moveaxis(matrices, -1, 0).reshape(self.shape)


def flat_steps(matrices: DeviceArray) -> DeviceArray:
    """The two rows that count of matrices (M, triangles, 3, 3), as (2, 3, M triangles)."""
    return cupy.ascontiguousarray(cupy.moveaxis(matrices[..., :2, :].reshape(-1, 2, 3), 0, -1))


def moved(steps: DeviceArray, x: DeviceArray, y: DeviceArray, one: float = 1.0) -> Pair:
    """Points (x, y, one) under matrices (2, 3, ...)."""
    new_x, new_y = (steps[a, 0] * x + steps[a, 1] * y + steps[a, 2] * one for a in range(2))
    return new_x, new_y


def moved_vjp(steps: DeviceArray, x: DeviceArray, y: DeviceArray) -> Pair:
    """The transpose of `moved`, as far as it concerns the points."""
    to_x, to_y = (steps[0, a] * x + steps[1, a] * y for a in range(2))
    return to_x, to_y


def plus(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def add_products(total: DeviceArray, key: DeviceArray, adjoint: Pair, at: Pair, one: float = 1.0) -> None:
    """Add to matrices (3, 3, count), by key, the products of cotangents with points (x, y, one)."""
    columns = 3 if one else 2
    products = (g * factor for g in adjoint for factor in (*at, one)[:columns])
    sums = labelled_sums(cupy, key, products, total.shape[-1])
    total[:2, :columns] += sums.reshape(2, columns, total.shape[-1])


def piecewise(values: DeviceArray, pieces: Pieces, base: DeviceArray | None, grid: DeviceArray) -> None:
    """values (M, count, 2), base (points, 2) or None: in the dtype of the grid, which it fills."""
    weights, corners = pieces.weights_as(cupy, grid.dtype), pieces.corners_of_points(cupy)
    for axis in range(2):
        first, second, third = (values[..., axis].take(corners[v], axis=-1) * weights[v] for v in range(3))
        grid[..., axis] = first + second + third
    if base is not None:
        grid += base


def piecewise_vjp(grad_grid: DeviceArray, pieces: Pieces) -> DeviceArray:
    """The gradient (M, count, 2) to the values, in double."""
    weights = pieces.weights_as(cupy, np.float64)
    to_corners = cupy.empty((len(grad_grid), 2, 3, len(pieces.corners)))
    for axis in range(2):
        along = grad_grid[..., axis].astype(np.float64)
        for v in range(3):
            to_corners[:, axis, v] = pieces.by_triangle(cupy, along * weights[v])
    flat = to_corners.reshape(len(grad_grid), 2, to_corners.shape[2] * to_corners.shape[3])
    return pieces.by_corner(cupy, flat).swapaxes(1, 2)
