"""What the operations on fields of vectors share: lattices in either unit, the sampler, small matrices.

A field (M, *size, ndim) has a vector (x[, y[, z]]) at every pixel of its lattice.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from pystn.grids.lattice import lattice_axis
from pystn.options import COORDS, SamplingOptions, flag, one_of, resolve
from pystn.typing import Array
from pystn.validation import check_float

__all__ = [
    "add_lattice",
    "check_convention",
    "check_field",
    "cofactors",
    "cofactors_jvp",
    "determinant",
    "entries",
    "field_sampling",
    "stacked",
    "subtract_lattice",
    "target_axis",
]


def check_field(name: str, field: Array) -> int:
    """Check a field (N, *K, *size, ndim); returns ndim."""
    check_float(name, field)
    ndim = int(field.shape[-1]) if field.ndim else 0
    if ndim not in (1, 2, 3) or field.ndim < ndim + 2:
        raise ValueError(f"{name} must have shape (N, ..., *size, ndim) with ndim 1 to 3: got {field.shape}")
    return ndim


def check_convention(align_corners: Any, coords: Any) -> bool:
    """Check the convention of a lattice; returns align_corners."""
    aligned = flag("align_corners", align_corners)
    one_of("coords", coords, COORDS)
    if coords == "pixel" and aligned:
        raise ValueError(
            "align_corners=True has no meaning with coords='pixel': "
            "it is the convention of normalized coordinates, got both"
        )
    return aligned


def field_sampling(
    padding_mode: str,
    align_corners: bool,
    coords: str = "normalized",
    subgradient: str = "right",
    fill_value: float = 0.0,
) -> SamplingOptions:
    """Linear interpolation of fields, which are images with their channels last; the same in every run."""
    return resolve("linear", padding_mode, align_corners, coords, subgradient, -1, True, None, fill_value)


def target_axis(length: int, align_corners: bool, coords: str) -> Any:
    """Coordinates of the pixels of one axis, float64."""
    return np.arange(length, dtype=np.float64) if coords == "pixel" else lattice_axis(length, align_corners)


def _axes(xp: ModuleType, field: Array, align_corners: bool, coords: str) -> list[Array]:
    """The coordinates of the lattice of a field, x first, each to be broadcast over it."""
    lengths = field.shape[-2 : -2 - field.shape[-1] : -1]
    axes = [target_axis(length, align_corners, coords) for length in lengths]
    return [xp.asarray(axis, field.dtype).reshape(-1, *[1] * a) for a, axis in enumerate(axes)]


def add_lattice(
    xp: ModuleType, field: Array, align_corners: bool, coords: str = "normalized", out: Array | None = None
) -> Any:
    """lattice + field (..., *size, ndim), in the dtype of the field."""
    grid = xp.empty(field.shape, field.dtype) if out is None else out
    for a, axis in enumerate(_axes(xp, field, align_corners, coords)):
        xp.add(axis, field[..., a], out=grid[..., a])
    return grid


def subtract_lattice(xp: ModuleType, grid: Array, align_corners: bool, coords: str = "normalized") -> Any:
    """grid - lattice: the displacements of a grid (..., *size, ndim)."""
    field = xp.empty(grid.shape, grid.dtype)
    for a, axis in enumerate(_axes(xp, grid, align_corners, coords)):
        xp.subtract(grid[..., a], axis, out=field[..., a])
    return field


def stacked(field: Array) -> Any:
    """A field (N, *K, *size, ndim) as (M, *size, ndim)."""
    leading = field.ndim - field.shape[-1] - 1
    return field.reshape(math.prod(field.shape[:leading]), *field.shape[leading:])


def cofactors(xp: ModuleType, matrices: Array) -> Any:
    """The derivatives of the determinants of (..., ndim, ndim), ndim 1 to 3: each times its inverse's transpose."""
    ndim = matrices.shape[-1]
    if ndim == 1:
        return xp.ones_like(matrices)
    return turned(xp, matrices) if ndim == 2 else crossed(xp, matrices, matrices)


def cofactors_jvp(xp: ModuleType, matrices: Array, d_matrices: Array) -> Any:
    """The tangents of `cofactors`, which are of degree ndim - 1 in the entries."""
    ndim = matrices.shape[-1]
    if ndim == 1:
        return xp.zeros_like(matrices)
    if ndim == 2:
        return turned(xp, d_matrices)
    return crossed(xp, d_matrices, matrices) + crossed(xp, matrices, d_matrices)


def turned(xp: ModuleType, matrices: Array) -> Any:
    """The cofactors of (..., 2, 2)."""
    return matrices[..., ::-1, ::-1] * xp.asarray([[1, -1], [-1, 1]], matrices.dtype)


def crossed(xp: ModuleType, a: Array, b: Array) -> Any:
    """Of (..., 3, 3), the cross products of the rows of a with the next ones of b: of one matrix, its cofactors."""
    return xp.stack([xp.cross(a[..., i - 2, :], b[..., i - 1, :]) for i in range(3)], axis=-2)


def entries(matrices: Array) -> list[list[Array]]:
    """The entries of (..., n, n), each an array (...)."""
    return [[matrices[..., i, j] for j in range(matrices.shape[-1])] for i in range(matrices.shape[-2])]


def determinant(matrix: list[list[Array]]) -> Any:
    """Of a matrix whose entries are arrays: Laplace's expansion along the first row."""
    first, *others = matrix
    if not others:
        return first[0]
    minors = [determinant([row[:j] + row[j + 1 :] for row in others]) for j in range(len(first))]
    return sum((-1) ** j * entry * minor for j, (entry, minor) in enumerate(zip(first, minors, strict=True)))
