"""Grid generators, one family a file: parameters in, coordinates out, derivatives beside them."""

from pystn.grids.affine import affine_grid, affine_grid_jvp, affine_grid_vjp
from pystn.grids.free_form import FreeFormDeformation
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

__all__ = [
    "FreeFormDeformation",
    "PiecewiseAffine",
    "Polynomial",
    "ThinPlateSpline",
    "affine_grid",
    "affine_grid_jvp",
    "affine_grid_vjp",
    "control_points",
    "linear_grid",
    "linear_grid_jvp",
    "linear_grid_vjp",
    "linear_grid_vjp2",
    "projective_grid",
    "projective_grid_jvp",
    "projective_grid_vjp",
    "projective_grid_vjp2",
]
