"""Instruction sets: every one that was built gives the same values, bit for bit."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pystn.backends import _cpu

CODE = """
import sys, numpy as np, pystn
rng = np.random.default_rng(0)
results = []
for dtype in (np.float32, np.float64):
    image = rng.standard_normal((2, 3, 33, 41)).astype(dtype)
    random = rng.uniform(-1.3, 1.3, (2, 30, 50, 2)).astype(dtype)
    theta = np.array([[[0.9, -0.4, 0.1], [0.4, 0.9, -0.1]]] * 2, dtype)
    smooth = pystn.affine_grid(theta, (30, 50))
    cotangent = rng.standard_normal((2, 3, 30, 50)).astype(dtype)
    for grid in (random, smooth):
        for mode in ("nearest", "linear"):
            for padding_mode in ("zeros", "border", "reflection"):
                options = {"mode": mode, "padding_mode": padding_mode}
                results.append(pystn.grid_sample(image, grid, **options))
                results.append(pystn.grid_sample_jvp(image, grid, image[::-1], random, **options))
                results.extend(pystn.grid_sample_vjp(cotangent, image, grid, **options))
    results.append(smooth)
    results.extend(pystn.affine_grid_vjp(random, theta, (30, 50)))
np.savez(sys.argv[1], *results)
"""


def run(level, path):
    subprocess.run(
        [sys.executable, "-c", CODE, str(path)], check=True, env={**os.environ, "PYSTN_CPU_LEVEL": level}, timeout=120
    )
    with np.load(path) as stored:
        return [stored[name] for name in stored.files]


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    return run("portable", tmp_path_factory.mktemp("levels") / "portable.npz")


@pytest.mark.parametrize("level", [name for name in _cpu.levels() if name != "portable"])
def test_levels_agree(level, portable, tmp_path):
    """Values and jvp bitwise; gradients of float32 to rounding, whose sums the tiles reorder."""
    results = run(level, tmp_path / "results.npz")
    for i, (actual, expected) in enumerate(zip(results, portable, strict=True)):
        # Every four results: value, jvp, gradient to the input, to the grid.
        gradient = expected.dtype == np.float32 and i < 50 and i % 4 >= 2
        if gradient:
            bound = 2e-6 * max(1, np.abs(expected).max())
            np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)
        else:
            np.testing.assert_array_equal(actual, expected)


def test_there_is_always_a_portable_level():
    assert _cpu.levels()[-1] == "portable"
    assert _cpu.current_level() in _cpu.levels()


def test_an_unknown_level_is_an_import_error():
    ran = subprocess.run(
        [sys.executable, "-c", "import pystn; pystn.get_num_threads(); import pystn.backends.cpu"],
        env={**os.environ, "PYSTN_CPU_LEVEL": "v9"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 1
    assert "ImportError: PYSTN_CPU_LEVEL: no CPU level 'v9' here: expected one of" in ran.stderr
