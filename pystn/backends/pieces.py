"""What piecewise affine maps are made of: for every point a triangle, and the weights of its corners."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from pystn.backends.runs import LabelledSums
from pystn.kept import Keeper
from pystn.typing import Array

__all__ = ["Pieces"]


class Pieces(Keeper):
    """Points that are sums of three values each, those at the corners of a triangle.

    Parameters: the triangle of every point, by number; the corners (T, 3) among the values; weights (3, points).
    """

    def __init__(self, labels: Array, corners: Array, weights: Array, count: int) -> None:
        self.labels, self.weights = labels.astype(np.int64, copy=False), np.ascontiguousarray(weights)
        self.corners = np.ascontiguousarray(corners, np.int64)
        self.count = count  # of values
        self.by_triangle = LabelledSums(self.labels, len(corners))
        self.by_corner = LabelledSums(self.corners.T.ravel(), count)
        # Points side by side that are of one triangle: where each run of them starts, and where the last ends.
        self.starts = np.append(self.by_triangle.starts, len(labels)).astype(np.int64)
        self.followed = self.labels[self.by_triangle.starts]
        for array in (self.labels, self.weights, self.corners, self.starts, self.followed):
            array.flags.writeable = False

    def separate(self) -> Pieces:
        """The same if every triangle has corners of its own."""
        other = copy(self)
        other.count = self.corners.size
        other.corners = np.arange(other.count, dtype=np.int64).reshape(self.corners.shape)
        other.corners.flags.writeable = False
        other.by_corner = LabelledSums(other.corners.T.ravel(), other.count)
        return other

    def weights_as(self, xp: Any, dtype: Any) -> Array:
        return self._cast(xp, "weights", np.dtype(dtype))

    def corners_of_points(self, xp: Any) -> Array:
        """(3, points), among the values."""
        corners: Array = self._keep(xp, "corners_of_points", lambda: self.corners[self.labels].T)
        return corners
