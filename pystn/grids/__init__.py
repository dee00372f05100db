"""Grid generators, one family a file: parameters in, coordinates out, derivatives beside them."""

from pystn.grids.affine import affine_grid, affine_grid_jvp, affine_grid_vjp

__all__ = ["affine_grid", "affine_grid_jvp", "affine_grid_vjp"]
