"""The bench for a device, with the kernels on the host where there is none: what it prepares, compares, prints.

Its times mean nothing there, and PyTorch's tensors stay where they are.
"""

from dataclasses import replace
from pathlib import Path

import pytest


@pytest.fixture
def gpu(cuda, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    from bench import gpu

    monkeypatch.setattr(gpu, "COPIED", 1 << 12)
    return gpu


@pytest.fixture
def torch(cuda, gpu, monkeypatch):
    """PyTorch, which finds a device."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if cuda.name == "cuda-host":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    elif not torch.cuda.is_available():
        pytest.skip("this PyTorch finds no device")
    return torch


@pytest.fixture
def libraries(gpu, torch):
    return [gpu.PystnCuda(), gpu.Deterministic(), gpu.TorchCuda()]


def case_of(gpu, operation="grid_sample_vjp", shape=(2, 3, 8, 9), **options):
    return gpu.Case("a section", operation, shape, "rot30", ("torch",), **options)


def adds(case):
    return case.operation in ("grid_sample_vjp", "warp_affine_fwd_bwd")


@pytest.mark.parametrize("operation", ["grid_sample", "grid_sample_vjp", "warp_affine", "warp_affine_fwd_bwd"])
@pytest.mark.parametrize("dtype, channels", [("float32", "first"), ("float32", "last"), ("float16", "first")])
def test_rows(gpu, operation, dtype, channels):
    case = case_of(gpu, operation, dtype=dtype, channels=channels)
    row = gpu.measure(case, [gpu.PystnCuda(), gpu.Deterministic()], gpu.bandwidth(), 2)
    assert not row.problems
    assert list(row.timings) == ["pystn", *["deterministic"] * adds(case)]
    assert row.floor > 0
    lines = list(gpu.table([row]))
    assert "a section" in lines[1]
    assert case.label in lines[2]
    assert len(lines) == 3 + adds(case)


def small(case):
    """The same of fewer, smaller images; what is compared says nothing of one."""
    n, c, *size = case.shape
    size = [min(side, 6 + k) for k, side in enumerate(size)]
    return replace(case, shape=(min(n, 2), min(c, 3), *size))


def test_every_case_is_measured_beside_torch(gpu, libraries):
    for case in dict.fromkeys(map(small, gpu.select(False, ""))):
        row = gpu.measure(case, libraries, 1e9, 1)
        assert not row.problems
        assert list(row.timings) == ["pystn", *["deterministic"] * adds(case), "torch"], case.name
        for line in list(gpu.table([row], 60))[2:]:
            *_, floor, fraction, _, _, ratio = line.split()
            assert min(map(float, (floor, fraction, ratio))) >= 0, line


@pytest.mark.parametrize("side, kind", [(8, "float16"), (12, "float32")])
def test_what_torch_is_given_of_halves(gpu, libraries, monkeypatch, side, kind):
    """Halves throughout, or an image that is float32 first."""
    monkeypatch.setattr(gpu, "FINE", 10)
    torch, given = libraries[2].lib.torch, []
    sample = torch.nn.functional.grid_sample

    def seen(image, grid, **options):
        given.extend((image, grid))
        return sample(image, grid, **options)

    monkeypatch.setattr(torch.nn.functional, "grid_sample", seen)
    case = case_of(gpu, "grid_sample", (1, 2, side, side), dtype="float16")
    assert not gpu.measure(case, libraries, 1e9, 1).problems
    assert {str(tensor.dtype) for tensor in given} == {f"torch.{kind}"}


@pytest.mark.parametrize("library", ["Deterministic", "TorchCuda"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_wrong_result_is_a_problem(gpu, libraries, monkeypatch, library, dtype):
    case, kind = case_of(gpu, dtype=dtype), getattr(gpu, library)
    right = kind.results
    monkeypatch.setattr(kind, "results", lambda *given: [array + 1 for array in right(*given)])
    row = gpu.measure(case, libraries, 1e9, 1)
    assert len(row.timings) == 2
    assert "disagree" in row.problems[0]
    assert any("disagree" in line for line in gpu.table([row]))


@pytest.mark.parametrize("wrong", ["nan", "shape", "axes"])
def test_wrong_halves(gpu, libraries, wrong):
    case = case_of(gpu, shape=(1, 2, 32, 32), dtype="float16")
    ours, torch = [array.get() for array in libraries[0].prepare(case, gpu.Arrays(case))()], libraries[2]
    theirs = {
        "nan": [array * float("nan") for array in ours],
        "shape": [array[:, 1:] for array in ours],
        "axes": [ours[0], ours[1][..., ::-1]],
    }[wrong]
    assert gpu.disagreement(case, torch, ours, ours) is None
    assert ("shapes" if wrong == "shape" else "disagree") in gpu.disagreement(case, torch, ours, theirs)


def test_what_fails_is_a_problem(gpu, libraries):
    row = gpu.measure(case_of(gpu, padding="mirror"), libraries, 1e9, 1)  # of which PyTorch has none
    assert list(row.timings) == ["pystn", "deterministic"]
    assert row.problems[0].startswith("torch failed: ")


def test_nothing_is_measured_where_all_fails(gpu, monkeypatch):
    monkeypatch.delattr(gpu.Pystn, "grid_sample")
    row = gpu.measure(case_of(gpu, "grid_sample"), [gpu.PystnCuda()], 1e9, 1)
    assert not row.timings
    pystn, _, fraction, torch, ratio = list(gpu.table([row]))[2].split()[-5:]
    assert {pystn, fraction, torch, ratio} == {"-"}


# ---- The program


@pytest.fixture
def program(gpu, monkeypatch):
    """The program's main(arguments), whose cases are few and small."""
    from bench.__main__ import main

    shapes, block = ((2, 3, 8, 9),), gpu.Block
    few = (
        block("linear, zeros", gpu.BOTH, shapes, gpu.TURNED, quick=True),
        block("whole transform", gpu.AFFINE, shapes, gpu.TURNED),
        block("affine grid", gpu.GRID, shapes, gpu.TURNED),
        block("float16", gpu.BOTH, shapes, gpu.TURNED, dtypes=("float16",)),
    )
    monkeypatch.setattr(gpu, "TABLE", few)
    return main


def test_program(program, torch, capsys):
    assert program(["--gpu", "--rounds", "1"]) == 0
    out, err = capsys.readouterr()
    assert "GB/s" in out
    assert "without torch" not in err
    assert "[8/8] float16: grid_sample_vjp 2x3x8x9 rot30 float16" in err
    assert sum(line.startswith("  deterministic") for line in out.splitlines()) == 3
    assert "failed" not in out
    assert program(["--gpu", "--rounds", "1", "--quick", "--filter", "VJP"]) == 0
    assert "[1/1]" in capsys.readouterr().err


def test_program_without_torch(program, gpu, monkeypatch, capsys):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert program(["--gpu", "--rounds", "1", "--quick"]) == 0
    out, err = capsys.readouterr()
    assert "without torch: this PyTorch finds no device" in err
    assert out.splitlines()[-1].endswith("-")  # no ratio


def test_program_without_a_device(program, monkeypatch, capsys):
    import cupy

    monkeypatch.setattr(cupy.cuda, "is_available", lambda: False)
    assert program(["--gpu"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_the_program_fails_where_results_disagree(program, gpu, torch, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "disagreement", lambda *given: "they disagree")
    assert program(["--gpu", "--rounds", "1", "--quick"]) == 1
    assert "torch: they disagree" in capsys.readouterr().out


def test_every_case_has_a_floor(gpu):
    cases = gpu.select(False, "")
    assert len(cases) > 40
    assert all(gpu.least_bytes(case) > 0 for case in cases)
    assert all("torch" in case.peers for case in cases)
    assert 0 < len(gpu.select(True, "")) < len(cases)
    assert {case.shape for case in gpu.select(False, "32x64x56x56")} == {(32, 64, 56, 56)}
