"""``python -m bench``: the command line, and the loop over cases and thread counts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench import scaling
from bench.arrays import Arrays
from bench.cases import select
from bench.machine import Meter, context, processors
from bench.peers import Pystn, load
from bench.report import summary, table, write_json
from bench.run import Row, measure, with_peaks


def thread_counts(text: str) -> list[int]:
    counts = {processors() if part.strip() == "all" else int(part) for part in text.split(",")}
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("a thread count is at least 1")
    return sorted(counts)


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least one round")
    return int(text)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time pystn beside its peers, in turns, in one process. Results are compared first: "
        "what disagrees is not timed, and the exit code is 1.",
    )
    result.add_argument("--quick", action="store_true", help="the cases that matter most: about a minute")
    result.add_argument("--gpu", action="store_true", help="on a CUDA device, beside PyTorch there and beside a copy")
    result.add_argument("--scaling", action="store_true", help="how time grows with pixels, channels and threads")
    result.add_argument("--filter", default="", metavar="TEXT", help="only cases or peers of such a name")
    result.add_argument("--list", action="store_true", help="print the cases and their peers, and stop")
    result.add_argument(
        "--threads", type=thread_counts, default="1,all", metavar="N,M", help="thread counts (default: 1,all)"
    )
    result.add_argument("--rounds", type=positive, metavar="N", help="rounds (default: 7, with --quick or --scaling 5)")
    result.add_argument(
        "--memory", action="store_true", help="the peak memory of every call too, each in a process of its own"
    )
    result.add_argument("--json", type=Path, metavar="FILE", help="write every number, and where it is from")
    result.add_argument("--chart", type=Path, metavar="FILE", help="draw the ratios, or the scaling, as a PNG")
    return result


def progress(text: str) -> None:
    """Say on stderr what is going on, on one line where that is a terminal."""
    start, end = ("\r\x1b[K", "") if sys.stderr.isatty() else ("", "\n")
    print(f"{start}{text}", end=end, file=sys.stderr, flush=True)


def on_gpu(given: argparse.Namespace) -> int:
    if given.scaling or given.memory or given.json or given.chart:
        parser().error("--gpu prints a table, and goes with --quick, --filter and --rounds alone")
    if find_spec("cupy") is None:
        print("--gpu needs CuPy: pip install pystn[cuda13], or [cuda12]", file=sys.stderr)
        return 2
    from bench import gpu

    return gpu.main(given.quick, given.filter, given.rounds or 7, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given = parser().parse_args(arguments)
    if given.scaling and given.quick:
        parser().error("--scaling has no --quick; --filter shortens it")
    if given.gpu:
        return on_gpu(given)
    cases = scaling.select(given.filter) if given.scaling else select(given.quick, given.filter)
    if not cases:
        print(f"no case has {given.filter!r} in its name; see --list", file=sys.stderr)
        return 2
    if given.list:
        for case in cases:
            print(f"{case.name}  [{', '.join(case.peers)}]")
        return 0
    if given.chart and find_spec("matplotlib") is None:
        print("--chart needs matplotlib, which is not installed", file=sys.stderr)
        return 2

    # Peers before pystn: it then shares the OpenMP runtime that torch brought.
    peers, missing = load(dict.fromkeys(peer for case in cases for peer in case.peers))
    for name, why in missing.items():
        print(f"without {name}: {why}", file=sys.stderr)
    pystn = Pystn()
    about = context(pystn, peers, arguments)

    meter, rounds = Meter(), given.rounds or (5 if given.quick or given.scaling else 7)
    rows: list[Row] = []
    for number, case in enumerate(cases, 1):
        progress(f"[{number}/{len(cases)}] {case.name}")
        arrays, measured = Arrays(case), []
        for threads in scaling.thread_counts(case, given.threads) if given.scaling else given.threads:
            measured += measure(case, arrays, pystn, peers, threads, rounds)
        rows += with_peaks(measured) if given.memory else measured
    progress(f"{len(cases)} cases done")
    if sys.stderr.isatty():
        print(file=sys.stderr)

    others = about["others_busy"] = meter.others()
    machine, versions = about["machine"], about["versions"]
    print(f"{machine['processor']}, {machine['cores']} cores, pystn at level {machine['instruction_set']}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    if others is not None:
        doubt = ": rows of several threads are in doubt" if others > 0.05 else ""
        print(f"Other processes took {100 * others:.0f} % of the processors meanwhile{doubt}.")
    print("Ratio: time of the peer / time of pystn. Medians; ± half the distance between quartiles, in %.\n")
    print("\n".join((scaling.table if given.scaling else table)(rows)))
    if given.json:
        write_json(given.json, about, rows)
    if given.chart:
        from bench import chart

        (chart.draw_scaling if given.scaling else chart.draw)(given.chart, rows, about)
    print(f"\n{summary(rows)}")
    return 1 if any(row.problem for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
