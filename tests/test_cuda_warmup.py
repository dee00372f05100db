"""What is done ahead on a device, and what is said of it."""

import sys

import cuda_host
import numpy as np
import pytest

import pystn

if cuda_host.COMPILER is None:
    pytest.skip("g++ is not installed", allow_module_level=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "complex64", "float16"])
@pytest.mark.parametrize("mode", ["linear", "nearest", pystn.BSpline(3, prefilter=True)], ids=str)
def test_what_is_warm_compiles_no_more(backend, rng, mode, dtype):
    if backend.name == "cpu":
        pytest.skip("there is nothing to compile")
    backend.array(np.zeros(1))  # from here on there is a CuPy
    import cupy

    from pystn.backends.cuda import source

    options = {"ndim": 2, "dtype": dtype, "derivatives": dtype != "uint8"}
    if dtype == "uint8" and mode not in ("linear", "nearest"):
        pytest.skip("no prefilter of integers")
    pystn.warmup(mode, "border", **options)
    before = source.kernel.cache_info().misses
    image = cupy.asarray(rng.standard_normal((2, 3, 9, 8)).astype(dtype))
    grid = cupy.asarray(rng.uniform(-1, 1, (2, 50, 40, 2)).astype("float32"))
    theta = cupy.asarray(rng.standard_normal((2, 2, 3)).astype("float32"))
    samples = pystn.grid_sample(image, grid, mode, "border")
    pystn.warp_affine(image, theta, (30, 20), mode, "border")
    if options["derivatives"]:
        pystn.grid_sample_vjp(samples, image, grid, mode, "border")
        pystn.grid_sample_jvp(image, grid, image, grid, mode, "border")
        pystn.warp_affine_vjp(samples[:, :, :30, :20], image, theta, (30, 20), mode, "border")
    assert source.kernel.cache_info().misses == before


def test_without_cupy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"pystn\[cuda13\]"):
        pystn.warmup()


@pytest.mark.parametrize("ndim", [0, 4, 2.0])
def test_dimensions_are_checked(ndim):
    with pytest.raises((ValueError, TypeError), match="ndim"):
        pystn.warmup(ndim=ndim)


def test_the_configuration_says_what_there_is_of_cuda(capsys):
    pystn.show_config()
    assert any(line.startswith("CUDA") and "CuPy" in line for line in capsys.readouterr().out.splitlines())
