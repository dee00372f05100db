"""The arrays of a case, made when asked for and the same in every run.

Images are white noise, the steepest there are, so that no error of a coordinate stays hidden.
The grids are made here in NumPy, in float64, and belong to neither pystn nor a peer:

    jitter   near the identity: an affine transform per image and a slight smooth displacement
    rot30    a rotation by 30 degrees about the centre, true in pixels
    random   uniform in [-1, 1]: no two neighbours near each other
    down4    the identity read at a quarter of the points each way
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from bench.cases import Case

__all__ = ["Array", "Arrays"]

Array = np.ndarray[Any, Any]


def centres(n: int) -> Array:
    """Normalized coordinates of n pixels, -1 and 1 being the outer edges."""
    return (2 * np.arange(n) + 1) / n - 1


def noise(shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.dtype(dtype).type)


class Arrays:
    """What the operations read: image, transform, grid, and the cotangents of samples and grid."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def image(self, size: tuple[int, int], seed: int) -> Array:
        n, c, _, _ = self.case.shape
        last = self.case.channels == "last"
        return noise((n, *size, c) if last else (n, c, *size), self.case.dtype, seed)

    @cached_property
    def input(self) -> Array:
        return self.image(self.case.shape[2:], seed=1)

    @cached_property
    def grad_output(self) -> Array:
        return self.image(self.case.size, seed=2)

    @cached_property
    def grad_grid(self) -> Array:
        return noise((self.case.shape[0], *self.case.size, 2), self.case.dtype, seed=3)

    @cached_property
    def theta(self) -> Array:
        n, _, h, w = self.case.shape
        theta = np.tile(np.eye(2, 3), (n, 1, 1))
        if self.case.grid == "jitter":
            theta += np.random.default_rng(4).uniform(-0.05, 0.05, theta.shape)
        elif self.case.grid == "rot30":
            c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
            theta[:] = [[c, -s * h / w, 0], [s * w / h, c, 0]]
        return theta.astype(self.case.dtype)

    @cached_property
    def grid(self) -> Array:
        n, _, h, w = self.case.shape
        rows, columns = self.case.size
        if self.case.grid == "random":
            grid = np.random.default_rng(5).uniform(-1, 1, (n, rows, columns, 2))
        else:
            x, y = centres(columns)[None, None, :], centres(rows)[None, :, None]
            a = self.theta[:, :, :, None, None].astype(np.float64)
            grid = np.stack([a[:, i, 0] * x + a[:, i, 1] * y + a[:, i, 2] for i in range(2)], axis=-1)
        if self.case.grid == "jitter":
            grid[..., 0] += 0.01 * np.sin(7 * y)
            grid[..., 1] += 0.01 * np.sin(5 * x)
        if self.case.coords == "pixel":
            grid = ((grid + 1) * [w, h] - 1) / 2
        return grid.astype(self.case.dtype)

    @cached_property
    def matrix(self) -> Array:
        """The first transform as a matrix (3, 3) from pixels of the output to pixels of the input."""
        _, _, h, w = self.case.shape
        pixels = np.array([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]])
        theta = np.vstack([self.theta[0].astype(np.float64), [0, 0, 1]])
        matrix: Array = pixels @ theta @ np.linalg.inv(pixels)
        return matrix
