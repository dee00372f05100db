"""The kernels' source under NVRTC, which needs no GPU, and the names that array code asks of CuPy."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from itertools import combinations
from pathlib import Path

import cuda_host
import numpy as np
import pytest

import pystn

ARCHITECTURES = (75, 80, 90, 120)
PER_PROGRAM = 16
EVERYTHING = bool(os.environ.get("PYSTN_ALL_KERNELS"))
# All kernels are compiled for one of them, and for the others where all else of CUDA is tried on the host too.
CHECKED = ARCHITECTURES if os.environ.get("PYSTN_CUDA_HOST_EVERY") == "1" else ARCHITECTURES[:1]

PROBE = """
namespace pystn::PYSTN_LEVEL {
struct ProbeJob {
  const float* positions;
  double* sum;
  Index count;
};
template <class R, int n>
__global__ void probe(ProbeJob job) {
  for (Index i = blockIdx.x * Index(blockDim.x) + threadIdx.x; i < job.count; i += Index(gridDim.x) * blockDim.x)
    atomicAdd(job.sum, n * floor_of(R(job.positions[i])));
}
}  // namespace pystn::PYSTN_LEVEL
"""
PROBES = ["probe<float, 2>", "probe<double, 3>"]


def source():
    """The module, with the CuPy that this run uses: the stand-in unless it has begun with another."""
    if "cupy" not in sys.modules:
        cuda_host.install()
    return import_module("pystn.backends.cuda.source")


def kernels():
    source()
    return cuda_host.kernels()


def compile(names, architecture, code=None, *, options=()):
    """PTX of kernels, compiled as CuPy does but for further options; a refusal raises with the compiler's log.

    With `-dlto` NVRTC stops at what links later, before optimizing, in a twentieth of the time: nothing is returned.
    """
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC (cuda-bindings) is not installed")
    loader = source()

    def checked(result):
        status, *values = result
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{status.name}\n{log()}")
        return values[0] if values else None

    def log():
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        text = bytearray(size)
        nvrtc.nvrtcGetProgramLog(program, text)
        return text.decode().rstrip("\0")

    text = (loader.program() if code is None else code).encode()
    program = None
    program = checked(nvrtc.nvrtcCreateProgram(text, b"pystn.cu", 0, [], []))
    try:
        for name in names:
            checked(nvrtc.nvrtcAddNameExpression(program, name.encode()))
        options = [*loader.OPTIONS, f"-arch=compute_{architecture}", "-ftz=true", *options]
        checked(nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options]))
        lowered = [checked(nvrtc.nvrtcGetLoweredName(program, name.encode())) for name in names]
        if "-dlto" in options:
            assert checked(nvrtc.nvrtcGetLTOIRSize(program)) > 0
            return None
        ptx = bytearray(checked(nvrtc.nvrtcGetPTXSize(program)))
        checked(nvrtc.nvrtcGetPTX(program, ptx))
        assert all(b".entry " + name in ptx for name in lowered)
        return ptx.decode()
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def parts_of(name):
    """A kernel and its arguments, each with its place."""
    return list(enumerate(re.split(r"[<,>] ?", name)[:-1]))


def some_of(names):
    """As few names as hold every pair of arguments, and of a kernel and an argument, that some name holds."""
    pairs = {name: set(combinations(parts_of(name), 2)) for name in names}
    missing = set().union(*pairs.values())
    chosen = []
    while missing:
        name = max(pairs, key=lambda name: len(pairs[name] & missing))
        chosen.append(name)
        missing -= pairs[name]
    return chosen


@pytest.mark.parametrize("architecture", CHECKED)
@pytest.mark.parametrize("part", kernels())
def test_all_kernels_compile(part, architecture):
    compile(kernels()[part], architecture, options=["-dlto"])


def exported():
    """Kernels and an architecture for which there is PTX of them, in lists of as many as compile fast together.

    All kernels for all architectures take an hour or two of processor time: that is for PYSTN_ALL_KERNELS=1. Without it
    some, of each module, are compiled for one of the architectures in turn, and but for the first not optimized.
    """
    for part, names in kernels().items():
        chosen = names if EVERYTHING else some_of(names)
        for turn, architecture in enumerate(ARCHITECTURES):
            mine = chosen if EVERYTHING else chosen[turn :: len(ARCHITECTURES)]
            for first in range(0, len(mine), PER_PROGRAM):
                identity = f"{part}-{architecture}-{first // PER_PROGRAM}"
                quickly = not EVERYTHING and (turn > 0 or first > 0)
                yield pytest.param(mine[first : first + PER_PROGRAM], architecture, quickly, id=identity)


@pytest.mark.parametrize("names, architecture, quickly", list(exported()))
def test_kernels_become_ptx(names, architecture, quickly):
    compile(names, architecture, options=["-G"] * quickly)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_probe_compiles(architecture):
    ptx = compile(PROBES, architecture, source().program() + PROBE)
    assert f".target sm_{architecture}" in ptx


def test_a_mistake_is_reported_by_file_and_line():
    code = source().program() + '\n#line 7 "probe.cuh"\n__global__ void f() { nothing(); }'
    with pytest.raises(RuntimeError, match=r"probe\.cuh\(7\): error"):
        compile(["f"], 90, code)


def test_headers_come_after_those_that_they_include():
    loader = source()
    seen = []
    for name, text in loader.headers().items():
        assert set(loader.INCLUDE.findall(text)) <= set(seen), name
        seen.append(name)
    assert '#include "' not in loader.program()
    assert "#pragma once" not in loader.program()


@pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")
def test_launch(monkeypatch):
    loader, cupy = source(), cuda_host.stand_in()
    code = loader.program() + PROBE
    monkeypatch.setattr(loader, "cupy", cupy)
    monkeypatch.setattr(loader, "program", lambda: code)
    loader.kernel.cache_clear()
    positions, total = cupy.arange(1000, dtype=np.float32) + 0.5, cupy.zeros(())
    job = np.zeros(1, [("positions", "u8"), ("sum", "u8"), ("count", "i8")])
    job["positions"], job["sum"], job["count"] = positions.data.ptr, total.data.ptr, 1000
    with cuda_host.no_synchronisation():
        for name, threads in (("probe<float, 2>", 0), ("probe<float, 2>", 1000), ("probe<double, 3>", 10)):
            loader.launch(name, threads, job, block=64)
    loader.kernel.cache_clear()
    assert float(total) == 5 * 999 * 500


def names_of_xp():
    """All dotted names that are taken from `xp` or `cupy` in the package, with a place of each."""
    found = {}
    for path in sorted(Path(pystn.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
                is_module = (
                    node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
                )
                if is_module in ("xp", "cupy"):
                    found[".".join(reversed(parts))] = f"{path.name}:{node.lineno}"
                    break
    return found


def test_array_code_asks_for_what_cupy_has():
    check = """if True:
        import functools, json, sys
        try:
            import cupy
        except Exception as error:  # an unwritable home among them
            sys.exit(f"CuPy does not work here: {error}")
        def has(name):
            try:
                functools.reduce(getattr, name.split("."), cupy)
            except AttributeError:
                return False
            return True
        print(json.dumps([name for name in json.load(sys.stdin) if not has(name)]))
    """
    names = names_of_xp()
    assert "einsum" in names
    run = subprocess.run([sys.executable, "-c", check], input=json.dumps(list(names)), capture_output=True, text=True)
    if run.returncode:
        pytest.skip(run.stderr.strip().splitlines()[-1])
    missing = json.loads(run.stdout)
    assert not missing, {name: names[name] for name in missing}
