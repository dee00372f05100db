"""The kernels' source as one string, and its kernels, each compiled when first asked for.

One string, because CuPy's cache of compiled kernels is keyed by what it is given and knows nothing of the headers
that the string includes.
"""

from __future__ import annotations

import re
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cupy

from pystn.typing import Array

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["OPTIONS", "Launch", "kernel", "launch", "program"]

# Without -fmad a value is that of the CPU's kernels, to the bit where it is no denormal. -default-device: before 13.1
# or so NVRTC takes a lambda within a device function for one of the host.
OPTIONS = ("-std=c++17", "-fmad=false", "-default-device")
MAX_BLOCKS = 2**31 - 1

INCLUDE = re.compile(r'^#include "(?:.*/)?(.+)"$', re.MULTILINE)
DROPPED = re.compile(r'^#(?:pragma once|include ".*")$', re.MULTILINE)


def folder() -> Traversable | Path:
    """Where core/ and cuda/ lie: in the source tree, if this is one, so that edits are live, or in the package."""
    tree = Path(__file__).parents[3] / "src"
    return tree if (tree / "cuda").is_dir() else files("pystn") / "include"


def headers() -> dict[str, str]:
    """The text of every header, by its name: after those that it includes."""
    texts = {
        entry.name: entry.read_text(encoding="utf-8")
        for part in ("core", "cuda")
        for entry in (folder() / part).iterdir()
        if entry.name.endswith((".hpp", ".cuh"))
    }
    included = {name: sorted(INCLUDE.findall(texts[name])) for name in sorted(texts)}
    return {name: texts[name] for name in TopologicalSorter(included).static_order()}


@cache
def program() -> str:
    """All headers in one string. The last line lets names of kernels, and of their arguments, do without namespace."""
    parts = [f'#line 1 "{name}"\n{DROPPED.sub("", text)}' for name, text in headers().items()]
    return "\n".join([*parts, "using namespace pystn::PYSTN_LEVEL;", ""])


@cache
def kernel(name: str) -> Any:
    """The kernel of a name expression like ``affine_grid<float, 2>``."""
    return cupy.RawModule(code=program(), options=OPTIONS, name_expressions=[name]).get_function(name)


class Launch(NamedTuple):
    """A kernel, its grid and block, and its argument, a NumPy array of its bytes."""

    kernel: Any
    grid: tuple[int, int]
    block: tuple[int]
    job: Array


def launch(name: str, threads: int, job: Array, block: int = 256, layers: int = 1) -> Launch | None:
    """Run a kernel on at least as many threads, unless those exceed the largest grid, in so many layers along y.

    It runs on CuPy's current device and stream. Returns what was launched, None if there was nothing to do.
    """
    if threads <= 0 or layers <= 0:
        return None
    launched = Launch(kernel(name), (min(-(-threads // block), MAX_BLOCKS), layers), (block,), job)
    launched.kernel(launched.grid, launched.block, (job,))
    return launched
