"""Grid generators, one family a file: parameters in, coordinates out, derivatives beside them."""

from pystn.grids.affine import affine_grid, affine_grid_jvp, affine_grid_vjp
from pystn.grids.composition import compose_grids, compose_grids_jvp, compose_grids_vjp
from pystn.grids.cpab import CPAB
from pystn.grids.displacement import (
    displacement_grid,
    displacement_grid_jvp,
    displacement_grid_vjp,
    invert_displacement,
    invert_displacement_jvp,
    invert_displacement_vjp,
)
from pystn.grids.jacobian import jacobian_determinant, jacobian_determinant_jvp, jacobian_determinant_vjp
from pystn.grids.velocity import StationaryVelocity

__all__ = [
    "CPAB",
    "StationaryVelocity",
    "affine_grid",
    "affine_grid_jvp",
    "affine_grid_vjp",
    "compose_grids",
    "compose_grids_jvp",
    "compose_grids_vjp",
    "displacement_grid",
    "displacement_grid_jvp",
    "displacement_grid_vjp",
    "invert_displacement",
    "invert_displacement_jvp",
    "invert_displacement_vjp",
    "jacobian_determinant",
    "jacobian_determinant_jvp",
    "jacobian_determinant_vjp",
]
