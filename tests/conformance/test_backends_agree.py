"""Values of every backend are those of the CPU to the bit, where its arithmetic is: not on a device, which flushes
denormals."""

import numpy as np
import pytest
from conftest import BACKENDS, KERNELS, coordinates, kernel_for

import pystn

# The backends whose arithmetic is that of the CPU, but not the CPU itself.
EXACT = [backend for backend in BACKENDS if getattr(backend, "name", None) == "cuda-host"]
of_the_exact = pytest.mark.parametrize("backend", EXACT, ids=lambda backend: backend.name)


@of_the_exact
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "mirror", "wrap", "constant"])
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_samples(backend, rng, name, padding_mode, ndim, dtype):
    mode, _ = kernel_for(pystn, name, ndim)
    size = (5, 7, 6)[:ndim]
    image = rng.standard_normal((2, 3, *size)).astype(dtype)
    grid = coordinates(rng, (2, 40), size, "normalized", 1.7, dtype)
    options = {"mode": mode, "padding_mode": padding_mode, "fill_value": 0.5, "return_mask": True}
    expected = pystn.grid_sample(image, grid, **options)
    found = pystn.grid_sample(backend.array(image), backend.array(grid), **options)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(backend.numpy(a), b)


@of_the_exact
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_integers(backend, rng, dtype):
    """Rounding and saturation."""
    image = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (1, 2, 9, 8), endpoint=True).astype(dtype)
    grid = rng.uniform(-1, 1, (1, 500, 2)).astype("float32")
    expected = pystn.grid_sample(image, grid, "cubic")
    found = pystn.grid_sample(backend.array(image), backend.array(grid), "cubic")
    np.testing.assert_array_equal(backend.numpy(found), expected)
