"""What piecewise affine maps are made of: for every point a triangle, and the weights of its corners."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from pystn.backends.runs import changes
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
        # Points side by side that are of one triangle: where each run of them starts, and where the last ends.
        starts = changes(self.labels)
        self.starts = np.append(starts, len(labels)).astype(np.int64)
        self.followed = self.labels[starts]
        for array in (self.labels, self.weights, self.corners, self.starts, self.followed):
            array.flags.writeable = False

    def separate(self) -> Pieces:
        """The same if every triangle has corners of its own."""
        other = copy(self)
        other.count = self.corners.size
        other.corners = np.arange(other.count, dtype=np.int64).reshape(self.corners.shape)
        other.corners.flags.writeable = False
        return other

    def weights_as(self, xp: Any, dtype: Any) -> Array:
        return self._cast(xp, "weights", np.dtype(dtype))

    def on_device(self, xp: Any) -> tuple[Any, Any]:
        """The triangle of every point, and the corners of every triangle."""
        return self._cast(xp, "labels"), self._cast(xp, "corners")
