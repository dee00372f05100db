"""Tessellations of [-1, 1]^ndim, and the flows of velocities that are affine in each of their cells.

Such a field is continuous and given by its values at the vertices: velocities are (M, vertices, ndim),
float64, in normalized units; points are (P, ndim), shared by the M fields.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pystn.backends import Operations
from pystn.backends.cells import cell_along, triangle_of
from pystn.backends.runs import LabelledSums
from pystn.kept import Keeper
from pystn.matrices import expm, expm_jvp, expm_vjp
from pystn.typing import Array

__all__ = ["Intervals", "Triangles"]


class Intervals:
    """Equal intervals of [-1, 1]. Flows are exact."""

    cells: tuple[int, ...]
    steps: int
    vertices: Array

    def __init__(self, count: int) -> None:
        self.cells, self.steps = (count,), 1
        self.vertices = ((2 * np.arange(count + 1) - count) / count)[:, None]

    def velocity(self, xp: Any, velocities: Array, points: Array) -> Any:
        cell, place = cell_along(xp, points[:, 0], self.cells[0])
        left, right = velocities[:, cell], velocities[:, cell + 1]
        return left + (right - left) * place[:, None]

    def in_cells(self, velocities: Array) -> Array:
        """(M, vertices), in cells per unit of time."""
        scaled: Array = velocities[..., 0] * (self.cells[0] / 2)
        return scaled

    def flow(self, backend: Operations, velocities: Array, points: Array, dtype: Any) -> Array:
        return backend.flow(points, self.in_cells(velocities), None, self.cells, self.steps, dtype)

    def flow_jvp(self, backend: Operations, velocities: Array, d_velocities: Array, points: Array, dtype: Any) -> Array:
        field, d_field = self.in_cells(velocities), self.in_cells(d_velocities)
        return backend.flow(points, field, d_field, self.cells, self.steps, dtype)

    def flow_vjp(self, backend: Operations, grad: Array, velocities: Array, points: Array) -> Array:
        (gradient,) = backend.flow_vjp(grad, points, self.in_cells(velocities), None, self.cells, self.steps)
        return gradient[..., None] * (self.cells[0] / 2)

    def flow_vjp2(
        self, backend: Operations, grad: Array, velocities: Array, d_velocities: Array, points: Array
    ) -> Array:
        """The derivative of `flow_vjp` along d_velocities."""
        field, d_field = self.in_cells(velocities), self.in_cells(d_velocities)
        _, d_gradient = backend.flow_vjp(grad, points, field, d_field, self.cells, self.steps)
        return d_gradient[..., None] * (self.cells[0] / 2)


class Triangles(Keeper):
    """Equal rectangles of [-1, 1]^2, each cut by its diagonals into four triangles. Flows are made of equal steps.

    In a step a point follows the affine velocity of the cell that it starts in, exactly: p <- exp(A / steps) p.
    Vertices are the corners of the rectangles, row by row, then their centers.
    """

    cells: tuple[int, ...]
    steps: int
    vertices: Array

    def __init__(self, rows: int, columns: int, steps: int) -> None:
        self.cells, self.steps = (columns, rows), steps
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
        self.by_vertex = LabelledSums(self.triangles.reshape(-1), len(self.vertices))
        ones = np.ones((len(self.triangles), 3, 1))
        # With the vertices (x, y, 1) as rows: (x, y, 1) times this are barycentric coordinates.
        self.barycentric = np.linalg.inv(np.concatenate([self.vertices[self.triangles], ones], axis=-1))

    def matrices(self, xp: Any, velocities: Array) -> Any:
        """(M, triangles, 2, 3), which times (x, y, 1) are the velocities in each triangle."""
        at_vertices = velocities[:, self._cast(xp, "triangles")]  # (M, triangles, 3, 2)
        return xp.swapaxes(self._cast(xp, "barycentric") @ at_vertices, -1, -2)

    def matrices_vjp(self, xp: Any, grad: Array) -> Any:
        """The transpose of `matrices`: (M, triangles, 2, 3) to the velocities at the vertices."""
        at_vertices = xp.swapaxes(grad @ self._cast(xp, "barycentric"), 1, 2)  # (M, 2, triangles, 3)
        flat = at_vertices.reshape(len(grad), 2, self.triangles.size)
        return xp.swapaxes(self.by_vertex(xp, flat), 1, 2)

    def generators(self, xp: Any, velocities: Array) -> Any:
        """(M, triangles, 3, 3): their exponentials are a step."""
        matrices = self.matrices(xp, velocities) / self.steps
        return xp.concatenate([matrices, xp.zeros_like(matrices[..., :1, :])], axis=-2)

    def velocity(self, xp: Any, velocities: Array, points: Array) -> Any:
        x, y = points[:, 0], points[:, 1]
        matrices = self.matrices(xp, velocities)[:, triangle_of(xp, x, y, self.cells)]  # (M, P, 2, 3)
        return matrices[..., 0] * x[:, None] + matrices[..., 1] * y[:, None] + matrices[..., 2]

    def flow(self, backend: Operations, velocities: Array, points: Array, dtype: Any) -> Array:
        steps = expm(self.generators(backend.xp, velocities))
        return backend.flow(points, steps, None, self.cells, self.steps, dtype)

    def flow_jvp(self, backend: Operations, velocities: Array, d_velocities: Array, points: Array, dtype: Any) -> Array:
        generators, tangents = (self.generators(backend.xp, v) for v in (velocities, d_velocities))
        steps, d_steps = expm(generators), expm_jvp(generators, tangents)
        return backend.flow(points, steps, d_steps, self.cells, self.steps, dtype)

    def flow_vjp(self, backend: Operations, grad: Array, velocities: Array, points: Array) -> Any:
        generators = self.generators(backend.xp, velocities)
        (grad_steps,) = backend.flow_vjp(grad, points, expm(generators), None, self.cells, self.steps)
        (grad_generators,) = expm_vjp(grad_steps, generators)
        return self.matrices_vjp(backend.xp, grad_generators[..., :2, :] / self.steps)

    def flow_vjp2(self, backend: Operations, grad: Array, velocities: Array, d_velocities: Array, points: Array) -> Any:
        """The derivative of `flow_vjp` along d_velocities.

        A matrix X and its derivative are the blocks of [[X, dX], [0, X]], of which a function f makes f(X) and its
        derivative (Higham, Functions of Matrices, 2008); here of [[X, 0], [dX, X]], as the adjoint is at the transpose.
        """
        xp = backend.xp
        generators, tangents = (self.generators(xp, v) for v in (velocities, d_velocities))
        steps, d_steps = expm(generators), expm_jvp(generators, tangents)
        grad_steps, d_grad_steps = backend.flow_vjp(grad, points, steps, d_steps, self.cells, self.steps)
        none = xp.zeros_like(generators)
        (both,) = expm_vjp(
            blocks(xp, [[grad_steps, d_grad_steps], [none, grad_steps]]),
            blocks(xp, [[generators, none], [tangents, generators]]),
        )
        return self.matrices_vjp(xp, both[..., :2, 3:] / self.steps)


def blocks(xp: Any, rows: list[list[Array]]) -> Any:
    """One matrix of blocks (..., n, n)."""
    return xp.concatenate([xp.concatenate(row, axis=-1) for row in rows], axis=-2)
