"""Grid generators, one family a file: parameters in, coordinates out, derivatives beside them."""

from pystn.grids.affine import affine_grid, affine_grid_jvp, affine_grid_vjp
from pystn.grids.composition import compose_grids, compose_grids_jvp, compose_grids_vjp, compose_grids_vjp2
from pystn.grids.cpab import CPAB
from pystn.grids.displacement import (
    displacement_grid,
    displacement_grid_jvp,
    displacement_grid_vjp,
    invert_displacement,
    invert_displacement_jvp,
    invert_displacement_vjp,
    invert_displacement_vjp2,
)
from pystn.grids.free_form import FreeFormDeformation
from pystn.grids.jacobian import (
    jacobian_determinant,
    jacobian_determinant_jvp,
    jacobian_determinant_vjp,
    jacobian_determinant_vjp2,
)
from pystn.grids.linear import linear_grid, linear_grid_jvp, linear_grid_vjp, linear_grid_vjp2
from pystn.grids.piecewise import PiecewiseAffine
from pystn.grids.polynomial import Polynomial
from pystn.grids.projective import (
    projective_grid,
    projective_grid_jvp,
    projective_grid_vjp,
    projective_grid_vjp2,
)
from pystn.grids.thin_plate import ThinPlateSpline, control_points
from pystn.grids.velocity import StationaryVelocity

__all__ = [
    "CPAB",
    "FreeFormDeformation",
    "PiecewiseAffine",
    "Polynomial",
    "StationaryVelocity",
    "ThinPlateSpline",
    "affine_grid",
    "affine_grid_jvp",
    "affine_grid_vjp",
    "compose_grids",
    "compose_grids_jvp",
    "compose_grids_vjp",
    "compose_grids_vjp2",
    "control_points",
    "displacement_grid",
    "displacement_grid_jvp",
    "displacement_grid_vjp",
    "invert_displacement",
    "invert_displacement_jvp",
    "invert_displacement_vjp",
    "invert_displacement_vjp2",
    "jacobian_determinant",
    "jacobian_determinant_jvp",
    "jacobian_determinant_vjp",
    "jacobian_determinant_vjp2",
    "linear_grid",
    "linear_grid_jvp",
    "linear_grid_vjp",
    "linear_grid_vjp2",
    "projective_grid",
    "projective_grid_jvp",
    "projective_grid_vjp",
    "projective_grid_vjp2",
]
