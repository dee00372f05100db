"""What waits for the device: the calls that have to, to raise errors or to know when they are done, and no others."""

import contextlib
import inspect

import cuda_host
import numpy as np
import pytest
from families import FAMILIES, SIZES, parameters
from matrix_operations import OPERATIONS
from operations import CASES
from warps import WARPS

import pystn
from pystn.antialiasing import AntiAliasing
from pystn.interpolation import Interpolation

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")

# Why the calls wait that do, by how their names begin: of functions with all their derivatives, and of families.
WAITING = {
    "invert_displacement": "iterations end when they have converged",
    "brier_score": "labels are checked to be classes",
    "expected_calibration_error": "labels are checked to be classes",
    "reliability_curve": "labels are checked to be classes",
}

rng = np.random.default_rng(5)
IMAGE, GRID = rng.standard_normal((2, 3, 5, 6)), rng.uniform(-1.2, 1.2, (2, 4, 3, 2))
VALUES, SLOPES = rng.standard_normal((2, 3, 4, 3)), rng.standard_normal((2, 3, 4, 3, 2))
MASK = rng.standard_normal((2, 4, 3))
FIELD = 0.1 * rng.standard_normal((2, 5, 6, 2))
FILL = np.array([1.0, 2.0, 3.0])
THETA, HOMOGRAPHY = np.eye(2, 3) + 0.1 * rng.standard_normal((2, 2, 3)), np.eye(3) + 0.1 * rng.random((2, 3, 3))
COEFFICIENTS, BASIS = rng.standard_normal((2, 3, 4)), rng.standard_normal((1, 4, 5, 6))

SAMPLING = {
    "linear": {},
    "nearest": {"mode": "nearest", "deterministic": True},
    "prefiltered": {"mode": pystn.BSpline(3, prefilter=True), "padding_mode": "mirror", "cutoff": "edge"},
    "table": {"mode": pystn.Tabulated((0.1, 0.6, 1.0, 0.6, 0.1), 1.5), "subgradient": "central"},
}
ANTIALIASING = {
    "supersample": pystn.Supersampling(2),
    "mipmap": pystn.MipMap(),
    "mipmap_detached": pystn.MipMap(levels=1, detach=True),
    "scaled": pystn.Scaled(),
    "scaled_detached": pystn.Scaled(detach=True),
    "ewa": pystn.Elliptical(),
    "ewa_detached": pystn.Elliptical(detach=True),
}
FILLED = {"fill_value": FILL, "padding_mode": "constant"}


def samplers():
    """Name, function, its arguments (arrays or not) and options."""
    for key, options in SAMPLING.items():
        masked = {**options, "return_mask": True}
        yield f"grid_sample-{key}", pystn.grid_sample, (IMAGE, GRID), masked
        yield f"grid_sample_vjp-{key}", pystn.grid_sample_vjp, ((VALUES, MASK), IMAGE, GRID), masked
        yield f"grid_sample_jvp-{key}", pystn.grid_sample_jvp, (IMAGE, GRID, IMAGE, GRID), masked
        yield f"grid_sample_vjp2-{key}", pystn.grid_sample_vjp2, (IMAGE, GRID, (VALUES, MASK), IMAGE, GRID), masked
        yield f"grid_gradient-{key}", pystn.grid_gradient, (IMAGE, GRID), options
        yield f"grid_gradient_vjp-{key}", pystn.grid_gradient_vjp, (SLOPES, IMAGE, GRID), options
        yield f"grid_gradient_jvp-{key}", pystn.grid_gradient_jvp, (IMAGE, GRID, IMAGE, GRID), options
        yield f"grid_push-{key}", pystn.grid_push, (VALUES, GRID, (5, 6)), options
        yield f"grid_push_vjp-{key}", pystn.grid_push_vjp, (IMAGE, VALUES, GRID, (5, 6)), options
        yield f"grid_push_jvp-{key}", pystn.grid_push_jvp, (VALUES, GRID, VALUES, GRID, (5, 6)), options
        second = (VALUES, GRID, IMAGE, VALUES, GRID, (5, 6))
        yield f"grid_push_vjp2-{key}", pystn.grid_push_vjp2, second, options
        yield f"forward_warp_vjp2-{key}", pystn.forward_warp_vjp2, second, options
        yield f"grid_count_vjp2-{key}", pystn.grid_count_vjp2, (GRID, IMAGE[:, :1], GRID, (5, 6)), options
        yield f"forward_warp-{key}", pystn.forward_warp, (VALUES, GRID, (5, 6)), options
        yield f"forward_warp_vjp-{key}", pystn.forward_warp_vjp, (IMAGE, VALUES, GRID, (5, 6)), options
        yield f"forward_warp_jvp-{key}", pystn.forward_warp_jvp, (VALUES, GRID, VALUES, GRID, (5, 6)), options
        yield f"grid_count-{key}", pystn.grid_count, (GRID, (5, 6)), options
        yield f"grid_count_vjp-{key}", pystn.grid_count_vjp, (IMAGE[:, :1], GRID, (5, 6)), options
        yield f"grid_count_jvp-{key}", pystn.grid_count_jvp, (GRID, GRID, (5, 6)), options
    yield "grid_sample-filled", pystn.grid_sample, (IMAGE, GRID), FILLED
    everything = {**SAMPLING["table"], **FILLED, "wrt": ("input", "grid", "fill_value", "kernel")}
    yield "grid_sample_vjp-options", pystn.grid_sample_vjp, (VALUES, IMAGE, GRID), everything
    tangents = {"d_fill_value": np.ones(3), "d_kernel": np.ones(5)}
    yield (
        "grid_sample_jvp-options",
        pystn.grid_sample_jvp,
        (IMAGE, GRID, None, None),
        {**SAMPLING["table"], **FILLED, **tangents},
    )
    for dtype in (np.uint8, np.float16, np.complex64):
        yield f"grid_sample-{dtype.__name__}", pystn.grid_sample, (IMAGE.astype(dtype), GRID.astype(np.float32)), {}
    yield "spline_filter", pystn.spline_filter, (IMAGE, 3), {}
    yield "spline_filter_vjp", pystn.spline_filter_vjp, (IMAGE, IMAGE, 3), {}
    yield "spline_filter_jvp", pystn.spline_filter_jvp, (IMAGE, IMAGE, 3), {}


def antialiased():
    smaller, shrunk = THETA * 3, (2, 3)
    samples, mask = rng.standard_normal((2, 3, *shrunk)), rng.standard_normal((2, *shrunk))
    for key, antialias in ANTIALIASING.items():
        options = {"antialias": antialias, "return_mask": True}
        yield f"grid_sample-{key}", pystn.grid_sample, (IMAGE, GRID), options
        yield f"grid_sample_vjp-{key}", pystn.grid_sample_vjp, ((VALUES, MASK), IMAGE, GRID), options
        yield f"grid_sample_jvp-{key}", pystn.grid_sample_jvp, (IMAGE, GRID, IMAGE, GRID), options
        second = (IMAGE, GRID, (VALUES, MASK), IMAGE, GRID)
        yield f"grid_sample_vjp2-{key}", pystn.grid_sample_vjp2, second, options
        yield f"warp_affine-{key}", pystn.warp_affine, (IMAGE, smaller, shrunk), options
        yield f"warp_affine_vjp-{key}", pystn.warp_affine_vjp, ((samples, mask), IMAGE, smaller, shrunk), options
        along = (IMAGE, smaller, IMAGE, smaller, shrunk)
        yield f"warp_affine_jvp-{key}", pystn.warp_affine_jvp, along, options
        second = (IMAGE, smaller, (samples, mask), IMAGE, smaller, shrunk)
        yield f"warp_affine_vjp2-{key}", pystn.warp_affine_vjp2, second, options
    fixed = {"antialias": "mipmap", "deterministic": True}
    yield "grid_sample_vjp-mipmap_deterministic", pystn.grid_sample_vjp, (VALUES, IMAGE, GRID), fixed


def warps():
    for name, warp in WARPS.items():
        size = (3, 4, 5)[: warp.ndim]
        input = rng.standard_normal((2, 3, *size))
        theta = np.eye(warp.rows, warp.ndim + 1) + 0.1 * rng.standard_normal((2, warp.rows, warp.ndim + 1))
        cotangent = rng.standard_normal((2, 3, *warp.spatial(size)))
        yield f"{warp.name}-{name}", warp.forward, (input, theta, size), {}
        yield f"{warp.name}_vjp-{name}", warp.vjp, (cotangent, input, theta, size), {}
        yield f"{warp.name}_jvp-{name}", warp.jvp, (input, theta, input, theta, size), {}
        yield f"{warp.name}_vjp2-{name}", warp.vjp2, (input, theta, cotangent, input, theta, size), {}


def generators():
    horizon = {"min_denominator": 1e-3, "cull_behind": True}
    grid = rng.standard_normal((2, 5, 6, 2))
    affine = (THETA, (5, 6))
    yield "affine_grid", pystn.affine_grid, affine, {}
    yield "affine_grid_vjp", pystn.affine_grid_vjp, (grid, *affine), {}
    yield "affine_grid_jvp", pystn.affine_grid_jvp, (THETA, *affine), {}
    projective = (HOMOGRAPHY, (5, 6))
    yield "projective_grid", pystn.projective_grid, projective, horizon
    yield "projective_grid_vjp", pystn.projective_grid_vjp, (grid, *projective), horizon
    yield "projective_grid_jvp", pystn.projective_grid_jvp, (HOMOGRAPHY, *projective), horizon
    yield "projective_grid_vjp2", pystn.projective_grid_vjp2, (HOMOGRAPHY, grid, *projective), horizon
    for key, options in (("", {}), ("-homogeneous", {"homogeneous": True, **horizon})):
        theta = COEFFICIENTS if options else COEFFICIENTS[:, :2]
        yield f"linear_grid{key}", pystn.linear_grid, (theta, BASIS), options
        yield f"linear_grid_vjp{key}", pystn.linear_grid_vjp, (grid, theta, BASIS), options
        yield f"linear_grid_jvp{key}", pystn.linear_grid_jvp, (theta, BASIS, theta, BASIS), options
        yield f"linear_grid_vjp2{key}", pystn.linear_grid_vjp2, (theta, BASIS, grid, theta, BASIS), options
    yield "displacement_grid", pystn.displacement_grid, (FIELD,), {}
    yield "displacement_grid_vjp", pystn.displacement_grid_vjp, (FIELD, FIELD), {}
    yield "displacement_grid_jvp", pystn.displacement_grid_jvp, (FIELD, FIELD), {}
    yield "invert_displacement", pystn.invert_displacement, (FIELD,), {}
    yield "invert_displacement_vjp", pystn.invert_displacement_vjp, (FIELD, FIELD), {}
    yield "invert_displacement_jvp", pystn.invert_displacement_jvp, (FIELD, FIELD), {}
    yield "invert_displacement_vjp2", pystn.invert_displacement_vjp2, (FIELD, FIELD, FIELD), {}
    yield "compose_grids", pystn.compose_grids, (FIELD, GRID), {}
    yield "compose_grids_vjp", pystn.compose_grids_vjp, (GRID, FIELD, GRID), {}
    yield "compose_grids_jvp", pystn.compose_grids_jvp, (FIELD, GRID, FIELD, GRID), {}
    yield "compose_grids_vjp2", pystn.compose_grids_vjp2, (FIELD, GRID, GRID, FIELD, GRID), {}
    volume = rng.standard_normal((2, 3, 4, 2, 3))
    for key, field in (("", FIELD), ("-3d", volume)):
        yield f"jacobian_determinant{key}", pystn.jacobian_determinant, (field,), {}
        yield f"jacobian_determinant_vjp{key}", pystn.jacobian_determinant_vjp, (field[..., 0], field), {}
        yield f"jacobian_determinant_jvp{key}", pystn.jacobian_determinant_jvp, (field, field), {}
        yield f"jacobian_determinant_vjp2{key}", pystn.jacobian_determinant_vjp2, (field, field[..., 0], field), {}


def families():
    for name, (ndim, make) in FAMILIES.items():
        family = make(pystn, SIZES[ndim][0], False)
        theta = parameters(family, rng, (2, 3))
        u = rng.standard_normal((2, 3, *family.size, ndim))
        key = f"{type(family).__name__}-{name}"
        yield key, family, (theta,), {}
        yield f"{key}-vjp", family.vjp, (u, theta), {"wrt": ("theta", *family._state)}
        yield f"{key}-jvp", family.jvp, (theta, theta), {f"d_{n}": getattr(family, n) for n in family._state}
        along = {f"gg_{n}": getattr(family, n) for n in family._state}
        yield f"{key}-vjp2", family.vjp2, (theta, u, theta), {"wrt": ("grad_grid", "theta", *family._state), **along}
        for more in ("folded", "inverse", "jacobian_determinant"):
            # Without a method of that name there is none of its base class either, or it raises what it says.
            if more in vars(type(family)):
                yield f"{key}-{more}", getattr(family, more), (theta,), {}
        if isinstance(family, pystn.CPAB):
            yield f"velocity-{name}", family.velocity, (theta, rng.uniform(-1, 1, (7, ndim))), {}


def matrices():
    for operation in OPERATIONS:
        primals = operation.draw(rng, (2, 3))
        value = np.asarray(operation.value(*primals))
        key = f"{operation}-{'x'.join(map(str, primals[0].shape[2:]))}"
        # What is not defined everywhere says so.
        reason = {"raises": True} if operation.fallible else {}
        yield key, operation.value, primals, reason
        yield key.replace(operation.name, f"{operation.name}_vjp", 1), operation.vjp, (value, *primals), reason
        yield key.replace(operation.name, f"{operation.name}_jvp", 1), operation.jvp, (*primals, *primals), reason
        if operation.curved:
            twice = key.replace(operation.name, f"{operation.name}_vjp2", 1)
            yield twice, operation.vjp2, (*primals, value, *primals), reason


class Square:
    def __call__(self, array):
        return array**2

    def vjp(self, cotangent, array):
        return (2 * array * cotangent,)

    def jvp(self, array, tangent):
        return 2 * array * tangent


def others():
    """Operations of the table that are none of these."""
    known = {name.partition("-")[0] for name, *_ in (*samplers(), *warps(), *generators(), *matrices())}
    for case in CASES:
        name = case.operation.name
        if name in known or name not in pystn.ops.OPERATIONS:
            continue
        primals, options = case.primals(), {**case.options, **case.arrays}
        options.pop("kernel", None)  # is in the mode
        value, key = case.operation.forward(*primals, **options), f"-{case}"
        yield f"{name}{key}", getattr(pystn, name), primals, options
        yield f"{name}_vjp{key}", getattr(pystn, f"{name}_vjp"), (value, *primals), options
        yield f"{name}_jvp{key}", getattr(pystn, f"{name}_jvp"), (*primals, *primals), options
        if hasattr(pystn, f"{name}_vjp2"):
            yield f"{name}_vjp2{key}", getattr(pystn, f"{name}_vjp2"), (*primals, value, *primals), options
    yield "reliability_curve", pystn.reliability_curve, (np.full((4, 3), 0.5), [0, 1, 2, 0]), {}
    of = (Square(), Square(), IMAGE)
    yield "equivariance_error", pystn.equivariance_error, of, {}
    yield "equivariance_error_vjp", pystn.equivariance_error_vjp, (np.ones(2), *of), {}
    yield "equivariance_error_jvp", pystn.equivariance_error_jvp, (*of, IMAGE), {}


class Network:
    """Parameters from the first pixels."""

    def __init__(self, *shape):
        self.shape = shape

    def __call__(self, image):
        flat = image.reshape(len(image), -1)
        return flat[:, : np.prod(self.shape)].reshape(len(image), *self.shape)

    def vjp(self, grad, image):
        return 0 * image, grad.sum(0)


def systems():
    """Each with what pulls its output back."""
    one = Network(6)
    made = {
        "SpatialTransformer": (one,),
        "ParallelSpatialTransformer": ([one, one],),
        "CascadedSpatialTransformer": ([one, one],),
        "HierarchicalSpatialTransformer": ([one, one],),
        "InverseCompositionalSpatialTransformer": (one,),
        "ProbabilisticSpatialTransformer": (Network(2, 6),),
    }
    for name, networks in made.items():
        system = getattr(pystn, name)(*networks)

        def there_and_back(image, system=system):
            output, pullback = system.pull(image)
            return pullback(output)

        yield name, there_and_back, (IMAGE,), {}


CALLS = [*samplers(), *antialiased(), *warps(), *generators(), *families(), *matrices(), *others(), *systems()]


def on_device(value):
    if isinstance(value, tuple):
        return tuple(map(on_device, value))
    return cuda_host.laid_out(value) if isinstance(value, np.ndarray) else value


def waits(name, raises):
    return raises or name.startswith(tuple(WAITING))


@pytest.mark.parametrize("name, function, arguments, options", CALLS, ids=[call[0] for call in CALLS])
def test_only_what_has_to_waits(name, function, arguments, options):
    cuda_host.install()
    there = ("d_", "gg_", "mask")
    options = {key: on_device(value) if key.startswith(there) else value for key, value in options.items()}
    expected = waits(name, options.pop("raises", False))
    arguments = on_device(arguments)
    function(*arguments, **options)  # what is kept is copied to the device, once
    outcome = pytest.raises(cuda_host.SynchronisationError) if expected else contextlib.nullcontext()
    with cuda_host.no_synchronisation(), outcome:
        function(*arguments, **options)


def test_every_operation_is_among_them():
    called = {name.partition("-")[0] for name, *_ in CALLS}
    none = {"control_points", "get_num_threads", "num_threads", "set_num_threads", "show_config", "warmup"}
    none |= {"get_kept_memory_limit", "set_kept_memory_limit"}
    none |= {"vjp", "jvp"}  # which call them
    none |= {"identity_params", "tiled_params"}  # which make arrays of the host
    values = (Interpolation, AntiAliasing)
    none |= {"MatrixTransform"}  # which says what to call
    classes = {name for name in pystn.__all__ if inspect.isclass(getattr(pystn, name))}
    none |= {name for name in classes if issubclass(getattr(pystn, name), values)}
    assert set(pystn.__all__) - none <= called
