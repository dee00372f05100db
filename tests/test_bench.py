"""The bench as a program: its table, what it writes, and that a wrong result is an error. Nothing about time."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

import pystn

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch")

SMALL = ["--filter", "small call: grid_sample 1x1x28x28", "--threads", "1", "--rounds", "2"]


@pytest.fixture
def bench(monkeypatch):
    """The program's main(arguments); bench lies beside the package and is not installed."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    from bench.__main__ import main

    before = torch.get_num_threads()
    yield main
    torch.set_num_threads(before)
    pystn.set_num_threads(None)


@pytest.fixture
def wrong(bench, monkeypatch):
    """A torch adapter whose results are changed by `change` before they are compared."""
    from bench.peers import PEERS

    right = PEERS["torch"].results

    def install(change):
        def changed(*arguments):
            return [change(array) for array in right(*arguments)]

        monkeypatch.setattr(PEERS["torch"], "results", changed)

    return install


def test_table_and_json(bench, tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert bench([*SMALL, "--json", str(path)]) == 0
    output = capsys.readouterr().out
    assert "grid_sample 1x1x28x28 rot30" in output
    assert "Smallest ratio against torch" in output.splitlines()[-1]
    document = json.loads(path.read_text())
    assert {"date", "command", "machine", "versions"} <= document.keys()
    (row,) = document["rows"]
    assert row["peer"] == "torch"
    assert row["threads"] == 1
    assert row["extra_bytes"] >= 28 * 28 * 4
    assert row["difference"] <= row["tolerance"]
    assert len(row["peer_seconds"]["rounds"]) == len(row["pystn_seconds"]["rounds"]) == 2


def test_chart(bench, tmp_path):
    pytest.importorskip("matplotlib", reason="the chart needs Matplotlib")
    path = tmp_path / "bench.png"
    assert bench([*SMALL, "--chart", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "change",
    [lambda array: array + 0.1, lambda array: array * float("nan"), lambda array: array[..., 1:]],
    ids=["value", "nan", "shape"],
)
def test_wrong_result_is_an_error(bench, wrong, change, tmp_path, capsys):
    wrong(change)
    path = tmp_path / "bench.json"
    assert bench([*SMALL, "--json", str(path)]) == 1
    (row,) = json.loads(path.read_text())["rows"]
    assert row["problem"]
    assert row["ratio"] is None
    assert row["problem"] in capsys.readouterr().out


def test_failing_peer_is_an_error(bench, wrong, capsys):
    def fail(array):
        raise RuntimeError("no such kernel")

    wrong(fail)
    assert bench(SMALL) == 1
    assert "torch failed: RuntimeError: no such kernel" in capsys.readouterr().out


def test_list(bench, capsys):
    assert bench(["--list", "--quick"]) == 0
    quick = capsys.readouterr().out.splitlines()
    assert bench(["--list"]) == 0
    everything = capsys.readouterr().out.splitlines()
    names = [line.partition("  [")[0] for line in everything]
    assert len(set(names)) == len(names)
    assert {line.partition("  [")[0] for line in quick} < set(names)
    assert bench(["--filter", "no such case"]) == 2


def test_table():
    from bench import cases, peers

    everything = cases.select()
    assert {case.operation for case in everything} == set(cases.OPERATIONS)
    assert {case.grid for case in everything} == set(cases.GRIDS)
    for case in everything:
        assert re.fullmatch(r"[\w, +]+ \d+(x\d+)+( [\w=]+)*", case.label), case.label
        assert case.peers
        assert len(set(case.peers)) == len(case.peers)
        for peer in case.peers:
            assert hasattr(peers.PEERS[peer], case.operation), f"{peer} has nothing for {case.name}"
        assert hasattr(peers.Pystn, case.operation), case.name
    quick = cases.select(quick=True)
    assert {case.section for case in quick} >= {"whole transform", "image by a matrix, HWC"}
    assert {peer for case in quick for peer in case.peers} == set(peers.PEERS)


def tiny():
    """One case of every kind in the table, as small as shows anything."""
    from bench.cases import select

    kinds = {}
    for case in select():
        n, c, *sides = case.shape
        shape = (min(n, 2), min(c, 5), *(min(side, 12) + i for i, side in enumerate(sides)))
        small = replace(case, shape=shape)
        known = kinds.get(small, small)
        kinds[small] = replace(small, peers=tuple(dict.fromkeys(known.peers + small.peers)))
    return sorted(kinds.values(), key=lambda case: case.name)


@pytest.mark.parametrize("operation", dict.fromkeys(case.operation for case in tiny()))
def test_every_operation_agrees_with_its_peers(operation, bench, monkeypatch):
    from bench import peers, run
    from bench.arrays import Arrays

    monkeypatch.setattr(run, "interleaved", lambda calls, rounds: {})
    cases = [case for case in tiny() if case.operation == operation]
    present, _ = peers.load(dict.fromkeys(peer for case in cases for peer in case.peers))
    mine, compared = peers.Pystn(), 0
    for case in cases:
        for row in run.measure(case, Arrays(case), mine, present, threads=1, rounds=1):
            assert row.problem is None, f"{case.name}, {row.peer}: {row.problem}"
            compared += 1
    assert compared


def test_memory(bench, tmp_path, capsys):
    path = tmp_path / "bench.json"
    few = ["--filter", "linear, zeros: grid_sample 8x3x256x256 jitter", "--threads", "1", "--rounds", "1"]
    assert bench([*few, "--memory", "--json", str(path)]) == 0
    assert "peak MB" in capsys.readouterr().out
    (row,) = json.loads(path.read_text())["rows"]
    output = 8 * 3 * 256 * 256 * 4
    if Path("/proc/self/clear_refs").exists():
        assert 0.8 * output < row["pystn_peak_bytes"] < 2 * output
        assert 0.8 * output < row["peer_peak_bytes"]


def test_scaling(bench, tmp_path, capsys):
    path, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    few = ["--scaling", "--filter", "8x1x64x64", "--threads", "1,2", "--rounds", "1", "--json", str(path)]
    chart = ["--chart", str(picture)] if find_spec("matplotlib") else []
    assert bench([*few, *chart]) == 0
    assert "ns per pixel and channel" in capsys.readouterr().out
    rows = json.loads(path.read_text())["rows"]
    assert {row["channels"] for row in rows} == {"first", "last"}
    assert {row["threads"] for row in rows} == {1, 2}
    assert all(row["pixel_channels"] == 8 * 64 * 64 for row in rows)
    assert picture.exists() == bool(chart)


def test_scaling_over_threads(bench):
    from bench import scaling

    (case, *_) = (case for case in scaling.select("threads, a batch"))
    counts = scaling.thread_counts(case, [1])
    assert counts[0] == 1
    assert counts[-1] == scaling.processors()
    (case, *_) = scaling.select("pixels")
    assert scaling.thread_counts(case, [1, 5]) == [1, 5]
    with pytest.raises(SystemExit):
        bench(["--scaling", "--quick"])


def test_many_ratios_are_drawn_as_dots(tmp_path):
    pytest.importorskip("matplotlib", reason="the chart needs Matplotlib")
    from bench import chart
    from bench.cases import select
    from bench.run import Row
    from bench.timing import Timing

    rows = [
        Row(case, peer, threads, ours=Timing(1, [1.0]), theirs=Timing(1, [1.0 + number % 7]))
        for number, case in enumerate(select())
        for peer in case.peers
        for threads in (1, 2)
    ]
    machine = {"processor": "one", "instruction_set": "v0"}
    about = {"machine": machine, "versions": {}, "date": "2026-01-01", "command": "python -m bench"}
    chart.draw(tmp_path / "bench.png", rows, about)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    labels = [label for label, found in chart.lines_of(rows, lambda row: row.case.operation) if found]
    assert len(labels) < chart.BARS
