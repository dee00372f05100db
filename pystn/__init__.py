"""pystn: differentiable spatial resampling for arrays.

Samplers and grid generators with explicit derivatives. Every operation ``f`` has ``f_vjp``, the
product with its Jacobian's transpose, and ``f_jvp``, the product with its Jacobian, beside it.
"""

from importlib.metadata import version

from pystn.config import show_config
from pystn.grids import affine_grid, affine_grid_jvp, affine_grid_vjp
from pystn.interpolation import Linear, Nearest
from pystn.sampling import grid_sample, grid_sample_jvp, grid_sample_vjp
from pystn.threads import get_num_threads, num_threads, set_num_threads

__version__ = version("pystn")

__all__ = [
    "Linear",
    "Nearest",
    "affine_grid",
    "affine_grid_jvp",
    "affine_grid_vjp",
    "get_num_threads",
    "grid_sample",
    "grid_sample_jvp",
    "grid_sample_vjp",
    "num_threads",
    "set_num_threads",
    "show_config",
]
