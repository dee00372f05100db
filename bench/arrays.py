"""The arrays of a case, made when asked for and the same in every run.

Images are white noise, the steepest there are, so that no error of a coordinate stays hidden.
Transforms and grids are made here in NumPy, in float64, and belong to neither pystn nor a peer:

    jitter   near the identity: an affine transform per image and, in grids, a slight smooth displacement
    rot30    a rotation by 30 degrees about the centre, of volumes in xy and in yz, true in pixels
    random   uniform over the image: no two neighbours near each other
    down4    the identity read at a quarter of the points on each axis
    up2      the identity read at twice the points on each axis

Coordinates are x first. They are normalized, -1 and 1 being the outer edges, or pixels.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from bench.cases import Case, Shape

__all__ = ["Array", "Arrays", "centres"]

Array = np.ndarray[Any, Any]

VANISHING = (0.1, 0.05)  # last row of a projective transform, in normalized coordinates


def centres(n: int) -> Array:
    """Normalized coordinates of n pixels."""
    return (2 * np.arange(n) + 1) / n - 1


def noise(shape: Shape, dtype: str, seed: int) -> Array:
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":  # levels as images have them: 256 of them
        return generator.integers(0, 255, shape, dtype=np.dtype(dtype).type, endpoint=True)
    if dtype == "float16":  # which the generator does not make
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    return generator.standard_normal(shape, dtype=np.dtype(dtype).type)


def rotation(ndim: int, angle: float = np.pi / 6) -> Array:
    """Of the plane, or of two planes of space: no axis through pixels stays, where slopes have kinks."""
    c, s = np.cos(angle), np.sin(angle)
    if ndim == 2:
        return np.array([[c, -s], [s, c]])
    turned: Array = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return turned


def pixels(spatial: Shape) -> Array:
    """The matrix from normalized coordinates, x first, to pixels of an image of that size."""
    sides = np.array(spatial[::-1])
    matrix = np.diag([*sides / 2, 1])
    matrix[:-1, -1] = (sides - 1) / 2
    return matrix


class Arrays:
    """What the operations read: image, transform, grid, and tangents and cotangents of them."""

    def __init__(self, case: Case) -> None:
        self.case = case

    @cached_property
    def input(self) -> Array:
        return noise(self.case.input_shape, self.case.dtype, seed=1)

    @cached_property
    def grad_output(self) -> Array:
        return noise(self.case.output_shape, self.case.dtype, seed=2)

    @cached_property
    def grad_grid(self) -> Array:
        return noise((self.case.shape[0], *self.case.size, self.case.ndim), self.case.coordinates, seed=3)

    @cached_property
    def d_input(self) -> Array:
        return noise(self.case.input_shape, self.case.dtype, seed=6)

    @cached_property
    def d_grid(self) -> Array:
        """A tangent of about a pixel, so that neither it nor that of the image hides the other."""
        return self.grad_grid * (1 if self.case.coords == "pixel" else 2 / max(self.case.spatial))

    @cached_property
    def theta(self) -> Array:
        """Transforms from output to input: (N, ndim, ndim + 1), or square if they are projective."""
        case, n, d = self.case, self.case.shape[0], self.case.ndim
        matrix = np.tile(np.eye(d + 1), (n, 1, 1))
        if case.grid == "jitter":
            matrix[:, :d] += np.random.default_rng(4).uniform(-0.05, 0.05, (n, d, d + 1))
        elif case.grid == "rot30":
            sides = np.array(case.spatial[::-1])
            matrix[:, :d, :d] = rotation(d) * sides / sides[:, None]
        projective = "projective" in case.operation
        if projective:
            matrix[:, d, :d] = VANISHING
        if case.coords == "pixel":
            matrix = pixels(case.spatial) @ matrix @ np.linalg.inv(pixels(case.size))
        return (matrix if projective else matrix[:, :d]).astype(case.coordinates)

    @cached_property
    def control_points(self) -> Array:
        """A square lattice of control points, (K, 2)."""
        side = np.linspace(-1, 1, round(self.case.shape[1] ** 0.5))
        return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)

    @cached_property
    def moved_points(self) -> Array:
        """Where they sample, (N, K, 2)."""
        shift = np.random.default_rng(4).uniform(-0.1, 0.1, (self.case.shape[0], *self.control_points.shape))
        return (self.control_points + shift).astype(self.case.coordinates)

    @cached_property
    def triangles(self) -> Array:
        """Of the lattice of control points: its squares, each cut from the corner of least x and y, (T, 3)."""
        side = round(len(self.control_points) ** 0.5)
        low = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1)
        return np.stack([[low, low + 1, low + side + 1], [low, low + side, low + side + 1]], 1).reshape(3, -1).T

    @cached_property
    def weights(self) -> Any:
        """Those of the corners of each pixel's triangle, a sparse matrix (pixels, K)."""
        from scipy.sparse import csr_array

        side = round(len(self.control_points) ** 0.5)
        x, y = ((centres(n) + 1) / 2 * (side - 1) for n in self.case.size[::-1])
        column, row = (np.minimum(place.astype(int), side - 2) for place in (x, y))
        across, along = np.meshgrid(x - column, y - row)
        low = row[:, None] * side + column
        between = low + np.where(across > along, 1, side)
        corners = np.stack([low, between, low + side + 1], axis=-1)
        most, least = np.maximum(across, along), np.minimum(across, along)
        values = np.stack([1 - most, most - least, least], axis=-1).astype(self.case.coordinates)
        starts = np.arange(0, corners.size + 1, 3)
        return csr_array((values.reshape(-1), corners.reshape(-1), starts), (low.size, side * side))

    @cached_property
    def cell_triangles(self) -> Array:
        """The vertices of the triangles that a square lattice of cells is cut into by their diagonals, (T, 3).

        Of each cell the left one, the right one, those of low y and of high y. Corners come first, then centres.
        """
        side = round(self.case.shape[1] ** 0.5)
        low = (np.arange(side)[:, None] * (side + 1) + np.arange(side)).reshape(-1)
        corners = {"low": low, "low_x": low + 1, "low_y": low + side + 1, "high": low + side + 2}
        centre = (side + 1) ** 2 + np.arange(side**2)
        edges = [("low", "low_y"), ("low_x", "high"), ("low", "low_x"), ("low_y", "high")]
        return np.stack([[corners[a], corners[b], centre] for a, b in edges], axis=1).T.reshape(-1, 3)

    @cached_property
    def cell_vertices(self) -> Array:
        """(V, 2)"""
        side = round(self.case.shape[1] ** 0.5)
        lattices = np.linspace(-1, 1, side + 1), centres(side)
        return np.concatenate([np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2) for x in lattices])

    @cached_property
    def velocities(self) -> Array:
        """At the vertices of cells, 0 on the border: (N, V, 2)."""
        inside = (abs(self.cell_vertices) < 1).all(axis=1, keepdims=True)
        drawn = np.random.default_rng(4).uniform(-0.2, 0.2, (self.case.shape[0], *self.cell_vertices.shape))
        return (drawn * inside).astype(self.case.coordinates)

    @cached_property
    def spline_basis(self) -> Array:
        """What each control point moves: (pixels, K), from the equations of the thin plate spline."""
        height, width = self.case.size
        points = self.control_points
        pixels = np.stack(np.meshgrid(centres(width), centres(height)), axis=-1).reshape(-1, 2)

        def bending(at: Array) -> Array:
            squared = ((at[:, None] - points) ** 2).sum(axis=-1)
            return squared * np.log(np.where(squared == 0, 1, squared)) / 2

        def plane(at: Array) -> Array:
            return np.concatenate([np.ones((len(at), 1)), at], axis=1)

        k = len(points)
        system = np.zeros((k + 3, k + 3))
        system[:k, :k], system[:k, k:], system[k:, :k] = bending(points), plane(points), plane(points).T
        values = np.concatenate([bending(pixels), plane(pixels)], axis=1)
        return np.ascontiguousarray((values @ np.linalg.inv(system))[:, :k].astype(self.case.coordinates))

    @cached_property
    def homogeneous(self) -> Array:
        """The pixels of a plane in homogeneous coordinates, (pixels, 3)."""
        height, width = self.case.size
        x, y = np.meshgrid(centres(width), centres(height))
        return np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3).astype(self.case.coordinates)

    @property
    def matrix(self) -> Array:
        """The first transform as libraries for images take it: square, in float64."""
        matrix = np.eye(self.case.ndim + 1)
        matrix[: self.theta.shape[1]] = self.theta[0]
        return matrix

    @cached_property
    def grid(self) -> Array:
        """The affine transforms of a lattice, or random points: (N, *size, ndim)."""
        case, n, d = self.case, self.case.shape[0], self.case.ndim
        in_pixels = case.coords == "pixel"
        units = [(side / 2 if in_pixels else 1) for side in case.spatial[::-1]]  # of displacements
        grid = np.empty((n, *case.size, d), case.coordinates)
        if case.grid == "random":
            points = np.random.default_rng(5).uniform(-1, 1, grid.shape)
            grid[...] = points * units + [unit - 0.5 if in_pixels else 0 for unit in units]
            return grid

        def along(axis: int, values: Array) -> Array:
            return values.reshape([-1 if other == d - axis else 1 for other in range(d + 1)])

        sides = case.size[::-1]
        places = [along(i, np.arange(side) if in_pixels else centres(side)) for i, side in enumerate(sides)]
        theta = self.theta.astype(np.float64).reshape(n, d, d + 1, *[1] * d)
        for i in range(d):
            coordinate = theta[:, i, d] + sum(theta[:, i, j] * places[j] for j in range(d))
            if case.grid == "jitter":
                other = (i + 1) % d
                coordinate = coordinate + along(other, 0.01 * units[i] * np.sin((7 - 2 * i) * centres(sides[other])))
            grid[..., i] = coordinate
        return grid
