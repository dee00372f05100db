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
results.extend(pystn.expm(3 * rng.standard_normal((13, n, n))) for n in range(1, 8))
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


WIDE = """
import itertools, sys, numpy as np, pystn
rng = np.random.default_rng(1)
results = {}
paddings, rules = ("zeros", "border", "reflection"), ("right", "left", "central", "zero")
conventions = ({}, {"align_corners": True}, {"coords": "pixel"})
for image_type, grid_type in itertools.product(("f4", "f8"), repeat=2):
    image = rng.standard_normal((2, 5, 37, 29)).astype(image_type)
    cotangent = rng.standard_normal((2, 5, 19, 23)).astype(image_type)
    points = rng.uniform(-1.3, 1.3, (2, 19, 23, 2))
    points[:, :, ::7, 0], points[:, ::5, :, 1] = np.nan, 1e30
    for padding, rule, convention, axis in itertools.product(paddings, rules, conventions, (1, -1)):
        grid = (np.rint(20 * points) if "coords" in convention else points).astype(grid_type)
        arrays = [np.moveaxis(a, 1, axis).copy() for a in (image, cotangent)]
        options = dict(convention, padding_mode=padding, subgradient=rule, channel_axis=axis)
        name = " ".join(map(str, (image_type, grid_type, padding, rule, convention, axis)))
        results["value " + name] = pystn.grid_sample(arrays[0], grid, **options)
        results["jvp " + name] = pystn.grid_sample_jvp(arrays[0], grid, arrays[0][::-1], grid[::-1], **options)
        names = ("input " + name, "grid " + name)
        results.update(zip(names, pystn.grid_sample_vjp(arrays[1], arrays[0], grid, **options)))
kernels = pystn.BSpline(2), pystn.BSpline(3), pystn.BSpline(7), pystn.Lanczos(3), pystn.Lanczos(4), pystn.Gaussian(0.9)
for dtype, kernel, padding, axis in itertools.product(("f4", "f8"), kernels, ("zeros", "mirror"), (1, -1)):
    image, cotangent = (rng.standard_normal((2, 3, *size)).astype(dtype) for size in ((37, 29), (19, 70)))
    grid = rng.uniform(-1.3, 1.3, (2, 19, 70, 2)).astype(dtype)
    arrays = [np.moveaxis(a, 1, axis).copy() for a in (image, cotangent)]
    options = dict(mode=kernel, padding_mode=padding, channel_axis=axis)
    name = f"{dtype} {dtype} {kernel} {padding} {axis}"
    results["value " + name] = pystn.grid_sample(arrays[0], grid, **options)
    results["jvp " + name] = pystn.grid_sample_jvp(arrays[0], grid, arrays[0][::-1], grid[::-1], **options)
    results["bent " + name] = pystn.grid_gradient(arrays[0], grid, **options)
    names = ("input " + name, "grid " + name)
    results.update(zip(names, pystn.grid_sample_vjp(arrays[1], arrays[0], grid, **options)))
for channels, grid_type, axis in itertools.product((1, 3), ("f4", "f8"), (1, -1)):
    image = np.moveaxis(rng.standard_normal((2, channels, 33, 41)).astype("f4"), 1, axis).copy()
    grid = rng.uniform(-1.6, 1.6, (2, 19, 70, 2)).astype(grid_type)
    grid[:, ::7, ::5] = np.inf
    smooth = pystn.affine_grid(np.array([[[1.4, -0.4, 0.1], [0.4, 1.3, -0.1]]] * 2, grid_type), (30, 70))
    for mode, (name, points) in itertools.product(("linear", "cubic"), {"random": grid, "smooth": smooth}.items()):
        options = dict(mode=mode, padding_mode="constant", fill_value=np.arange(channels) - 1.25, channel_axis=axis)
        results[f"filled {channels} {grid_type} {axis} {mode} {name}"] = pystn.grid_sample(image, points, **options)
for channels, image_type, grid_type in itertools.product((2, 3, 4), ("f4", "u1"), ("f4", "f8")):
    image = (100 * rng.random((2, 33, 41, channels))).astype(image_type)
    grid = rng.uniform(-1.6, 1.6, (2, 19, 70, 2)).astype(grid_type)
    grid[:, ::7, ::5] = np.nan
    theta = np.array([[[1.4, -0.4, 0.1], [0.4, 1.3, -0.1]]] * 2, grid_type)
    for mode, padding in itertools.product(("nearest", "linear"), ("zeros", "border", "constant")):
        fill = {"fill_value": np.arange(channels) + 7.25} if padding == "constant" else {}
        options = dict(mode=mode, padding_mode=padding, channel_axis=-1, **fill)
        name = f"{channels} {image_type} {grid_type} {mode} {padding}"
        results["packed " + name] = pystn.grid_sample(image, grid, **options)
        results["warped " + name] = pystn.warp_affine(image, theta, (30, 70), **options)
for size, dtype in itertools.product(((1, 1), (300, 7), (3, 4, 5), (2, 3, 300)), ("f4", "f8")):
    ndim = len(size)
    theta = rng.standard_normal((3, ndim, ndim + 1)).astype(dtype)
    for align_corners in (False, True):
        name = f"{size} {dtype} {align_corners}"
        results["lattice " + name] = grid = pystn.affine_grid(theta, size, align_corners)
        results["theta " + name], = pystn.affine_grid_vjp(grid, theta, size, align_corners)
        if ndim < 3:
            maps, tangent = rng.standard_normal((2, 3, 3, 3)).astype(dtype)
            results["homographies " + name] = pystn.projective_grid(maps, size, align_corners)
            results["pushed " + name] = pystn.projective_grid_jvp(maps, tangent, size, align_corners)
            results["pulled " + name], = pystn.projective_grid_vjp(grid, maps, size, align_corners)
            results["bent " + name] = pystn.projective_grid_vjp2(tangent, grid, maps, size, align_corners)[1]
            continue
        volume = rng.standard_normal((3, 2, 9, 8, 7)).astype(dtype)
        for reduce in ("sum", "max"):
            warp = volume, 0.5 * theta, size, reduce
            results[f"projection {reduce} {name}"] = pystn.warp_project(*warp, align_corners=align_corners)
            moved = pystn.warp_project_jvp(*warp[:2], volume[::-1], theta, *warp[2:], align_corners=align_corners)
            results[f"projected {reduce} {name}"] = moved
for dtype, matrices, q in itertools.product(("f4", "f8"), (3, 9), (5, 40)):
    theta, basis = rng.standard_normal((matrices, 2, q)).astype(dtype), rng.standard_normal((1, q, 300)).astype(dtype)
    name = f"{dtype} {matrices} {q}"
    results["linear " + name] = grid = pystn.linear_grid(theta, basis)
    results["parameters " + name], _ = pystn.linear_grid_vjp(grid, theta, basis, wrt="theta")
np.savez(sys.argv[1], **results)
"""


@pytest.mark.parametrize("level", [name for name in _cpu.levels() if name != "portable"])
def test_levels_agree_in_every_option(level, tmp_path):
    """Bitwise, but for the gradients of float32 that test_levels_agree names and of linear grids: these to rounding."""
    found = []
    for name in (level, "portable"):
        path = tmp_path / f"{name}.npz"
        environment = {**os.environ, "PYSTN_CPU_LEVEL": name}
        subprocess.run([sys.executable, "-c", WIDE, str(path)], check=True, env=environment, timeout=120)
        with np.load(path) as stored:
            found.append({key: stored[key] for key in stored.files})
    assert found[0].keys() == found[1].keys()
    for key, expected in found[1].items():
        if key.startswith(("input f4", "grid f4")):
            scale = max(1, np.abs(expected).max())
            np.testing.assert_allclose(found[0][key], expected, rtol=0, atol=4e-6 * scale, err_msg=key)
        elif key.startswith("parameters"):  # multiplications and additions are one operation on some
            eps = np.finfo(expected.dtype).eps
            np.testing.assert_allclose(
                found[0][key], expected, rtol=0, atol=8 * eps * np.abs(expected).max(), err_msg=key
            )
        else:
            np.testing.assert_array_equal(found[0][key], expected, err_msg=key)


def test_the_level_asked_for_is_the_one_in_use():
    for name in _cpu.levels():
        ran = subprocess.run(
            [sys.executable, "-c", "import pystn; pystn.show_config()"],
            env={**os.environ, "PYSTN_CPU_LEVEL": name},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        (line,) = [line for line in ran.stdout.splitlines() if line.startswith("instruction set")]
        assert line.split()[2] == name
