"""pystn: differentiable spatial resampling for arrays.

Samplers and grid generators with explicit derivatives. Every operation ``f`` has ``f_vjp``, the
product with its Jacobian's transpose, and ``f_jvp``, the product with its Jacobian, beside it.
"""

from importlib.metadata import version

from pystn.config import show_config
from pystn.grids import (
    FreeFormDeformation,
    PiecewiseAffine,
    Polynomial,
    ThinPlateSpline,
    affine_grid,
    affine_grid_jvp,
    affine_grid_vjp,
    control_points,
    linear_grid,
    linear_grid_jvp,
    linear_grid_vjp,
    linear_grid_vjp2,
    projective_grid,
    projective_grid_jvp,
    projective_grid_vjp,
    projective_grid_vjp2,
)
from pystn.interpolation import BSpline, Cubic, Gaussian, Lanczos, Linear, Nearest, Tabulated
from pystn.sampling import (
    grid_gradient,
    grid_gradient_jvp,
    grid_gradient_vjp,
    grid_sample,
    grid_sample_jvp,
    grid_sample_vjp,
    grid_sample_vjp2,
)
from pystn.splatting import (
    forward_warp,
    forward_warp_jvp,
    forward_warp_vjp,
    grid_count,
    grid_count_jvp,
    grid_count_vjp,
    grid_push,
    grid_push_jvp,
    grid_push_vjp,
)
from pystn.splines import spline_filter, spline_filter_jvp, spline_filter_vjp
from pystn.threads import get_num_threads, num_threads, set_num_threads
from pystn.warping import (
    warp_affine,
    warp_affine_jvp,
    warp_affine_vjp,
    warp_project,
    warp_project_jvp,
    warp_project_vjp,
    warp_projective,
    warp_projective_jvp,
    warp_projective_vjp,
)

__version__ = version("pystn")

__all__ = [
    "BSpline",
    "Cubic",
    "FreeFormDeformation",
    "Gaussian",
    "Lanczos",
    "Linear",
    "Nearest",
    "PiecewiseAffine",
    "Polynomial",
    "Tabulated",
    "ThinPlateSpline",
    "affine_grid",
    "affine_grid_jvp",
    "affine_grid_vjp",
    "control_points",
    "forward_warp",
    "forward_warp_jvp",
    "forward_warp_vjp",
    "get_num_threads",
    "grid_count",
    "grid_count_jvp",
    "grid_count_vjp",
    "grid_gradient",
    "grid_gradient_jvp",
    "grid_gradient_vjp",
    "grid_push",
    "grid_push_jvp",
    "grid_push_vjp",
    "grid_sample",
    "grid_sample_jvp",
    "grid_sample_vjp",
    "grid_sample_vjp2",
    "linear_grid",
    "linear_grid_jvp",
    "linear_grid_vjp",
    "linear_grid_vjp2",
    "num_threads",
    "projective_grid",
    "projective_grid_jvp",
    "projective_grid_vjp",
    "projective_grid_vjp2",
    "set_num_threads",
    "show_config",
    "spline_filter",
    "spline_filter_jvp",
    "spline_filter_vjp",
    "warp_affine",
    "warp_affine_jvp",
    "warp_affine_vjp",
    "warp_project",
    "warp_project_jvp",
    "warp_project_vjp",
    "warp_projective",
    "warp_projective_jvp",
    "warp_projective_vjp",
]
