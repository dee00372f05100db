"""Cells of [-1, 1] and of its square: equal intervals, and equal rectangles of four triangles each."""

from __future__ import annotations

from typing import Any

import numpy as np

from pystn.typing import Array

__all__ = ["cell_along", "triangle_of"]


def cell_along(xp: Any, x: Array, count: int) -> tuple[Array, Array]:
    """The cell of each coordinate on an axis of so many, and the place in it, 0 to 1.

    Coordinates beyond the ends are in the outermost cells, at places beyond theirs, and NaN is in the first.
    """
    position = (x + 1) * (count / 2)
    cell = xp.fmin(xp.fmax(xp.floor(position), 0), count - 1)
    return cell.astype(np.int64), position - cell


def triangle_of(xp: Any, x: Array, y: Array, cells: tuple[int, ...]) -> Any:
    """The triangle of each point, of so many columns and rows; of one outside, of the rectangle that is nearest.

    Four for each rectangle, row by row: left, right, towards low y, towards high y.
    """
    columns, rows = cells
    column, across = cell_along(xp, x, columns)
    row, along = cell_along(xp, y, rows)
    across, along = across - 0.5, along - 0.5
    beside = abs(across) > abs(along)
    side = xp.where(beside, across > 0, 2 + (along > 0))
    return (row * columns + column) * 4 + side
