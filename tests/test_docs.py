"""The documentation is true: examples run, and every public function has its sections."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import pystn
import pystn.matrices
from pystn.grids.family import Family
from pystn.systems.adapted import SYSTEMS

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(pystn.__path__, "pystn.")
    if not module.name.startswith(("pystn.cli", "pystn.__main__", "pystn.backends._", "pystn.backends.cuda"))
)
ADAPTERS = ("torch", "jax", "autograd")


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    _, _, adapter = name.partition(".")
    if (framework := adapter.partition(".")[0]) in ADAPTERS:
        pytest.importorskip(framework, reason=f"{framework} is not installed")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_tape_of_the_readme_runs():
    text = (Path(__file__).parent.parent / "README.md").read_text()
    _, _, rest = text.partition("<!-- tape -->")
    blocks = [block.partition("```")[0] for block in rest.split("```python\n")[1:3]]
    image = np.random.default_rng(0).random((1, 3, 64, 64))
    names = {"np": np, "image": image}
    for block in blocks:
        exec(block, names)
    theta, warped = names["theta"], names["warped"]
    to_theta = pystn.warp_affine_vjp(2 * warped.value, image, theta.value, (64, 64), mode="cubic")[1]
    np.testing.assert_allclose(theta.grad, to_theta, rtol=1e-9)


FUNCTIONS = [name for name in pystn.__all__ if inspect.isfunction(getattr(pystn, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_are_documented(name):
    function = getattr(pystn, name)
    text = inspect.getdoc(function)
    assert "Examples\n--------" in text
    parameters = inspect.signature(function).parameters
    if parameters:
        section = text.split("Parameters\n----------")[1].split("\n\n")[0]
        for parameter in parameters:
            assert parameter in section, parameter
    if name.startswith(("grid", "affine", "spline", "forward")) or name in pystn.matrices.__all__:
        for title in ("Returns", "Raises", "See Also"):
            assert f"\n{title}\n{'-' * len(title)}\n" in text


CLASSES = [name for name in pystn.__all__ if inspect.isclass(getattr(pystn, name))]
FAMILIES = [name for name in CLASSES if issubclass(getattr(pystn, name), Family)]


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_documented(name):
    family = getattr(pystn, name)
    text = inspect.getdoc(family)
    for title in ("Parameters", "Attributes", "Raises", "See Also", "Examples"):
        assert f"\n{title}\n{'-' * len(title)}\n" in text
    for parameter in inspect.signature(family).parameters:
        assert f"\n{parameter} : " in text, parameter


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_are_documented(name):
    text = inspect.getdoc(SYSTEMS[name])
    for title in ("Parameters", "Raises", "See Also", "Examples"):
        assert f"\n{title}\n{'-' * len(title)}\n" in text
    section = text.split("Parameters\n----------")[1].split("\n\n")[0]
    for parameter in inspect.signature(SYSTEMS[name]).parameters:
        assert parameter in section, parameter
    assert getattr(pystn, name) is SYSTEMS[name]


def test_public_names_are_sorted_and_there():
    assert pystn.__all__ == sorted(pystn.__all__)
    assert all(hasattr(pystn, name) for name in pystn.__all__)
