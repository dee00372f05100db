"""The families of grids as a table, for what is asked of all of them, and parameters to try them with."""

import numpy as np

CONTROL = np.array([[-0.9, -0.8], [0.1, -1.0], [1.0, -0.7], [-0.6, 0.1], [0.3, 0.2], [-1.0, 0.9], [0.9, 1.0]])
CONTROL_3D = np.random.default_rng(7).uniform(-1, 1, (9, 3))

# By name: the number of dimensions, and how to make one of a size and a convention.
FAMILIES = {
    "polynomial-1d": (1, lambda pystn, size, align: pystn.Polynomial(size, 3, align)),
    "polynomial-2d": (2, lambda pystn, size, align: pystn.Polynomial(size, 2, align)),
    "polynomial-3d": (3, lambda pystn, size, align: pystn.Polynomial(size, 2, align)),
    "velocity-1d": (1, lambda pystn, size, align: pystn.StationaryVelocity(size, align)),
    "velocity-2d": (2, lambda pystn, size, align: pystn.StationaryVelocity(size, align)),
    "velocity-3d": (3, lambda pystn, size, align: pystn.StationaryVelocity(size, align, steps=4)),
    "cpab-1d": (1, lambda pystn, size, align: pystn.CPAB(5, size, align)),
    "cpab-2d": (2, lambda pystn, size, align: pystn.CPAB((2, 3), size, align, steps=6)),
    "free-cpab-1d": (1, lambda pystn, size, align: pystn.CPAB(4, size, align, zero_boundary=False)),
    "free-cpab-2d": (2, lambda pystn, size, align: pystn.CPAB(2, size, align, zero_boundary=False, steps=5)),
    "thin-plate-2d": (2, lambda pystn, size, align: pystn.ThinPlateSpline(CONTROL, size, align)),
    "thin-plate-3d": (3, lambda pystn, size, align: pystn.ThinPlateSpline(CONTROL_3D, size, align)),
    "smoothing-2d": (2, lambda pystn, size, align: pystn.ThinPlateSpline(CONTROL, size, align, regularization=0.1)),
    "piecewise-nearest": (2, lambda pystn, size, align: pystn.PiecewiseAffine(CONTROL, size, align)),
    "piecewise-affine": (2, lambda pystn, size, align: pystn.PiecewiseAffine(CONTROL, size, align, outside="affine")),
    "piecewise-nan": (2, lambda pystn, size, align: pystn.PiecewiseAffine(1.5 * CONTROL, size, align, outside="nan")),
    "free-form-1d": (1, lambda pystn, size, align: pystn.FreeFormDeformation((6,), size, align)),
    "free-form-2d": (2, lambda pystn, size, align: pystn.FreeFormDeformation((5, 4), size, align)),
    "free-form-linear": (2, lambda pystn, size, align: pystn.FreeFormDeformation((3, 2), size, align, order=1)),
    "free-form-3d": (3, lambda pystn, size, align: pystn.FreeFormDeformation((3, 4, 5), size, align, order=2)),
}

SIZES = {1: [(7,), (1,)], 2: [(5, 6), (1, 7), (6, 1), (1, 1)], 3: [(3, 4, 5), (1, 4, 1)]}
CELLS = [(name, size) for name, (ndim, _) in FAMILIES.items() for size in SIZES[ndim]]


def parameters(family, rng, leading, dtype=np.float64, scale=0.1):
    """Parameters (*leading, *theta_shape) near the identity."""
    noise = scale * rng.standard_normal((*leading, *family.theta_shape))
    return (family.identity()[0] + noise).astype(dtype)
