"""What is done ahead on a device, and what is said of it."""

import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from itertools import product

import cuda_host
import numpy as np
import pytest

import pystn
from pystn.options import _resolve as options_of
from pystn.validation import mask_dtype, tangent_dtype

# Tiles, too few samples for one, lists of points.
SHAPES = {1: [(40,)], 2: [(9, 10), (2, 3), (50,)], 3: [(5, 4, 6), (1, 1, 2), (50,)]}
BATCHES = [(1, 5, 9), (3, 1, 2)]  # images, grids, channels


@pytest.fixture
def source(cuda, monkeypatch):
    """The module that compiles kernels, none of which it has yet; nor is a call kept, to be done again."""
    cuda.array(np.zeros(1))  # from here on there is a CuPy
    module = import_module("pystn.backends.cuda.source")
    monkeypatch.setattr(module, "kernel", cache(module.kernel.__wrapped__))
    options_of.cache_clear()
    yield module
    options_of.cache_clear()


@pytest.fixture
def compiled(source, monkeypatch):
    """How many kernels have been asked for. They do nothing, which is as good here and takes no time."""
    monkeypatch.setattr(source, "kernel", cache(lambda name: lambda grid, block, arguments: None))
    return lambda: source.kernel.cache_info().misses


def calls(
    mode="linear",
    padding_mode="zeros",
    *,
    ndim=2,
    dtype="float32",
    coordinates="float32",
    derivatives=True,
    **options,
):
    """Make all calls that compile nothing after `warmup` with the same arguments."""
    import cupy

    options |= {"mode": mode, "padding_mode": padding_mode}
    align = {"align_corners": options.get("align_corners", False)}
    for (images, grids, channels), shape in product(BATCHES, SHAPES[ndim]):

        def samples(batch, spatial, dtype, channels=channels):
            last = options.get("channel_axis") == -1
            return cupy.zeros((batch, *spatial, channels) if last else (batch, channels, *spatial), dtype)

        image = samples(images, (7, 6, 5)[:ndim], dtype)
        grid = cupy.zeros((grids, *shape, ndim), coordinates)
        theta = cupy.zeros((grids, ndim, ndim + 1), coordinates)
        tangent = samples(images, (7, 6, 5)[:ndim], tangent_dtype(image.dtype))
        cotangent = samples(max(images, grids), shape, tangent.dtype)
        if options.get("return_mask"):
            cotangent = cotangent, cupy.zeros((max(images, grids), *shape), mask_dtype(image.dtype))
        again = range(2)  # the second time without the checks
        warps = len(shape) == ndim
        for _ in again:
            pystn.grid_sample(image, grid, **options)
        if warps:
            for _ in again:
                pystn.warp_affine(image, theta, shape, **options)
            pystn.affine_grid(theta, shape, **align)
        if not derivatives:
            continue
        for wrt, _ in product((("input", "grid"), ("input",), ("grid",)), again):
            pystn.grid_sample_vjp(cotangent, image, grid, wrt=wrt, **options)
        for d_image, d_grid in ((tangent, grid), (tangent, None), (None, grid)):
            pystn.grid_sample_jvp(image, grid, d_image, d_grid, **options)
        pystn.grid_sample_vjp2(tangent, grid, cotangent, image, grid, **options)
        if warps:
            for wrt, _ in product((("input", "theta"), ("input",), ("theta",)), again):
                pystn.warp_affine_vjp(cotangent, image, theta, shape, wrt=wrt, **options)
            pystn.warp_affine_jvp(image, theta, tangent, theta, shape, **options)
            pystn.warp_affine_vjp2(tangent, theta, cotangent, image, theta, shape, **options)
            pystn.affine_grid_vjp(grid, theta, shape, **align)
            pystn.affine_grid_jvp(theta, theta, shape, **align)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_what_is_warm_compiles_no_more(source, ndim):
    pystn.warmup(ndim=ndim)
    before = source.kernel.cache_info().misses
    assert 0 < before <= 24
    calls(ndim=ndim)
    assert source.kernel.cache_info().misses == before


SETTINGS = [
    *[{"mode": mode} for mode in ("nearest", "cubic", pystn.BSpline(3, prefilter=True), pystn.Lanczos(3))],
    *[{"mode": mode} for mode in (pystn.Gaussian(0.8), pystn.Tabulated((0.5, 1, 0.5), 1.0))],
    *[{"padding_mode": padding_mode} for padding_mode in ("border", "constant", "reflection", "wrap")],
    *[{"dtype": dtype} for dtype in ("float16", "float64", "complex64", "uint8")],
    {"dtype": "uint8", "return_mask": True},
    {"coordinates": "float64"},
    {"channel_axis": -1},
    {"mode": "cubic", "deterministic": True, "return_mask": True},
]


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("given", [{}, *SETTINGS], ids=str)
def test_all_that_is_warm(compiled, given, ndim):
    pystn.warmup(ndim=ndim, **given)
    before = compiled()
    assert 0 < before <= 24
    calls(ndim=ndim, **given)
    assert compiled() == before


@pytest.mark.parametrize("dtype, kernels", [("float32", 3), ("uint8", 2)])
def test_values_alone_have_few_kernels(compiled, dtype, kernels):
    pystn.warmup(dtype=dtype, derivatives=False)
    assert compiled() == kernels
    calls(dtype=dtype, derivatives=False)
    assert compiled() == kernels


# What the docstring says of options: those that kernels are told, and those that they are compiled for.


@pytest.mark.parametrize(
    "warm, other",
    [
        ({}, {"align_corners": True}),
        ({"padding_mode": "mirror"}, {"padding_mode": "mirror", "align_corners": True}),
        ({}, {"coords": "pixel"}),
        ({}, {"channel_axis": -1}),
        ({"fill_value": 1}, {"fill_value": 2.5}),
        ({"padding_mode": "constant"}, {"padding_mode": "constant", "fill_value": 2.5}),
        ({"mode": "cubic"}, {"mode": pystn.Cubic(a=-0.5)}),
        ({"mode": pystn.Gaussian(0.8)}, {"mode": pystn.Gaussian(0.7)}),
    ],
    ids=str,
)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_options_that_are_arguments(compiled, warm, other, ndim):
    pystn.warmup(ndim=ndim, **warm)
    before = compiled()
    calls(ndim=ndim, **other)
    assert compiled() == before


OWN = [
    {"deterministic": True},
    {"return_mask": True},
    {"deterministic": True, "return_mask": True},
    {"fill_value": 2.5},
    {"cutoff": "edge"},
    {"subgradient": "central"},
    {"padding_mode": "reflection", "align_corners": True},
]


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("own", OWN, ids=str)
def test_options_with_kernels_of_their_own(compiled, source, own, ndim):
    pystn.warmup(padding_mode=own.get("padding_mode", "zeros"), ndim=ndim)
    before = compiled()
    pystn.warmup(ndim=ndim, **own)
    assert compiled() > before
    source.kernel.cache_clear()
    options_of.cache_clear()
    pystn.warmup(ndim=ndim, **own)
    before = compiled()
    calls(ndim=ndim, **own)
    assert compiled() == before


@pytest.mark.parametrize("antialias", ["supersample", "mipmap", "scaled", "ewa"])
def test_what_averages_may_be_warm(compiled, antialias):
    pystn.warmup(antialias=antialias)
    assert compiled() > 0


@pytest.mark.parametrize(
    "call",
    [
        lambda image, grid: pystn.grid_sample_vjp(image, image, grid, wrt="fill_value"),
        lambda image, grid: pystn.grid_sample(image, grid[:, 1:-1, 1:-1]),
        lambda image, grid: pystn.warp_affine(image, grid[:, :2, :6].reshape(1, 4, 2, 3), (8, 8)),
        lambda image, grid: pystn.grid_gradient(image, grid),
        lambda image, grid: pystn.warp_projective(image, grid[:, :3, :3, 0], (8, 8)),
    ],
    ids=["options", "crop", "matrices", "gradient", "projective"],
)
def test_what_compiles_more(cuda, compiled, call):
    pystn.warmup()
    before = compiled()
    call(cuda.array(np.zeros((1, 1, 8, 8), "float32")), cuda.array(np.zeros((1, 8, 8, 2), "float32")))
    assert compiled() > before


@pytest.mark.parametrize("options", [{"wrt": "input"}, {"channels_axis": -1}], ids=str)
def test_options_are_those_of_sampling(compiled, options):
    with pytest.raises(TypeError, match=next(iter(options))):
        pystn.warmup(**options)


@pytest.mark.parametrize("ndim", [0, 4, 2.0])
def test_dimensions_are_checked(ndim):
    with pytest.raises((ValueError, TypeError), match="ndim"):
        pystn.warmup(ndim=ndim)


def test_without_cupy_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"pystn\[cuda13\]"):
        pystn.warmup()
    assert configured(capsys) == ["CuPy is not installed: pip install pystn[cuda13], or [cuda12]"]


NO_DEVICE = "warmup compiles CUDA kernels, and CuPy finds no device for them, or no driver: "


@pytest.mark.skipif(PathFinder.find_spec("cupy") is None, reason="CuPy is not installed")
def test_without_a_device_the_error_says_so():
    check = """if True:
        import pystn
        try:
            pystn.warmup()
        except RuntimeError as error:
            print(type(error).__name__, type(error.__cause__).__name__, error)
    """
    run = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # none, even where there is one
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"RuntimeError CUDARuntimeError {NO_DEVICE}cudaError")


# ---- The configuration, as CuPy has it


@pytest.fixture
def runtime(monkeypatch):
    """That of a CuPy of its own, to be changed."""
    monkeypatch.setitem(sys.modules, "cupy", cuda_host.stand_in())
    return sys.modules["cupy"].cuda.runtime


def configured(capsys):
    """What the lines say that are CUDA's."""
    pystn.show_config()
    lines = [line.partition(" ") for line in capsys.readouterr().out.splitlines()]
    return [value.strip() for name, _, value in lines if name == "CUDA"]


def refused(*arguments):
    raise RuntimeError("cudaErrorInsufficientDriver: too old")


def test_the_configuration_names_each_device(runtime, capsys):
    versions = "CuPy 0 (stand-in), driver 13020, runtime 13000, NVRTC 13.0"
    device = {"name": b"NVIDIA H200", "major": 9, "minor": 0, "totalGlobalMem": 150 << 30}
    other = {"name": b"Tesla T4", "major": 7, "minor": 5, "totalGlobalMem": 15.6 * 2**30}
    assert configured(capsys) == [f"{versions}, 1 device", "the host, 9.0, 8 GiB"]
    runtime.getDeviceCount, runtime.getDeviceProperties = lambda: 2, [device, other].__getitem__
    assert configured(capsys) == [f"{versions}, 2 devices", "NVIDIA H200, 9.0, 150 GiB", "Tesla T4, 7.5, 16 GiB"]


def test_the_configuration_says_what_does_not_work(runtime, capsys):
    runtime.getDeviceCount = refused
    error = "RuntimeError: cudaErrorInsufficientDriver: too old"
    assert configured(capsys) == [f"CuPy is installed but does not work here: {error}"]


def test_what_cupy_says_is_passed_on(runtime):
    runtime.getDeviceCount = refused
    with pytest.raises(RuntimeError, match=f"^{NO_DEVICE}cudaErrorInsufficientDriver: too old$"):
        pystn.warmup()
