"""The points of maps or fields, cut into parts for warps that add up what these give.

The structure is PointParts of src/cuda/threads.cuh, field by field.
"""

from __future__ import annotations

import numpy as np

from pystn.typing import Array

__all__ = ["POINT_PARTS", "WARP", "point_parts"]

WARP = 32
MOST_PARTS = 1024  # of a map
SUMS_OF_POINT = 4  # entries of all parts' sums, for each point of the map at most, as far as it has several parts

POINT_PARTS = np.dtype([(name, np.int64) for name in ("maps", "points", "size", "count")])


def point_parts(maps: int, points: int, entries: int = 0) -> Array:
    """Of maps of so many points, where the sums of a part have so many entries: the same whatever `maps` is."""
    warps = -(-points // WARP)
    of_part = max(1, -(-warps // MOST_PARTS), -(-entries // (SUMS_OF_POINT * WARP)))
    return np.array((maps, points, of_part * WARP, -(-warps // of_part)), POINT_PARTS)
