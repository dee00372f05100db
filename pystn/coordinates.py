"""What gives the sampler its coordinates: a grid, or matrices that they are made from on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pystn.typing import Array

__all__ = ["Coordinates", "MatrixCoordinates"]


@dataclass(frozen=True, eq=False)
class MatrixCoordinates:
    """The coordinates of a grid that is never stored: theta (x, y, z, 1) over the lattice of `size`."""

    theta: Array  # (N, *K, ndim, ndim + 1), or (N, *K, ndim + 1, ndim + 1) if projective
    size: tuple[int, ...]
    projective: bool = False
    min_denominator: float = 0.0
    cull_behind: bool = False
    shape: tuple[int, ...] = field(init=False)  # of the grid
    dtype: np.dtype[Any] = field(init=False)
    itemsize: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", (*self.theta.shape[:-2], *self.size, len(self.size)))
        object.__setattr__(self, "dtype", self.theta.dtype)
        object.__setattr__(self, "itemsize", self.theta.itemsize)


Coordinates = Array | MatrixCoordinates
