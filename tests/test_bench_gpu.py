"""The bench for a device, with the kernels on the host: what it prepares, compares, prints. Its times mean nothing."""

from pathlib import Path
from time import perf_counter

import cuda_host
import pytest

if cuda_host.COMPILER is None:
    pytest.skip("g++ is not installed", allow_module_level=True)


def seconds(call, calls=1):
    start = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - start) / calls


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    cuda_host.install()
    from bench import gpu

    return gpu


@pytest.mark.parametrize("operation", ["grid_sample", "grid_sample_vjp", "warp_affine", "warp_affine_fwd_bwd"])
@pytest.mark.parametrize("dtype, channels", [("float32", "first"), ("float32", "last"), ("float16", "first")])
def test_rows(gpu, monkeypatch, operation, dtype, channels):
    monkeypatch.setattr(gpu, "COPIED", 1 << 12)
    case = gpu.Case("a section", operation, (2, 3, 8, 9), "rot30", (), dtype=dtype, channels=channels)
    libraries = [gpu.PystnCuda(), gpu.Deterministic()]
    row = gpu.measure(case, libraries, gpu.bandwidth(seconds), 2, seconds)
    assert not row.problems
    adds = operation in ("grid_sample_vjp", "warp_affine_fwd_bwd")
    assert list(row.timings) == ["pystn", *["deterministic"] * adds]
    assert row.floor > 0
    lines = list(gpu.table([row]))
    assert "a section" in lines[1]
    assert case.label in lines[2]


def test_a_wrong_result_is_a_problem(gpu, monkeypatch):
    case = gpu.Case("a section", "grid_sample_vjp", (1, 1, 4, 4), "random", ())
    right = gpu.Deterministic.results
    monkeypatch.setattr(gpu.Deterministic, "results", lambda *given: [array + 1 for array in right(*given)])
    row = gpu.measure(case, [gpu.PystnCuda(), gpu.Deterministic()], 1e9, 2, seconds)
    assert "disagree" in row.problems[0]
    assert any("disagree" in line for line in gpu.table([row]))


def test_every_case_has_a_floor(gpu):
    cases = gpu.select(False, "")
    assert len(cases) > 40
    assert all(gpu.least_bytes(case) > 0 for case in cases)
    assert 0 < len(gpu.select(True, "")) < len(cases)
    assert {case.shape for case in gpu.select(False, "32x64x56x56")} == {(32, 64, 56, 56)}
