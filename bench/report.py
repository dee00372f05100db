"""What came out, for people and for programs: the table, the summary line, the JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from bench.cases import Case
from bench.run import Row
from bench.timing import Timing

__all__ = ["summary", "table", "write_json"]

CELL = 34  # width of what a thread count gets


def milliseconds(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:.0f}" if ms >= 1000 else f"{ms:#.3g}".rstrip(".")


def timed(timing: Timing) -> str:
    return f"{milliseconds(timing.median):>7} ±{100 * timing.spread:<3.0f}"


def cell(row: Row | None) -> str:
    if row is None:
        return " " * CELL
    if row.problem:
        return f"{row.problem:<{CELL}}"
    assert row.ours
    assert row.theirs
    return f"{timed(row.theirs)}  {timed(row.ours)}  {row.ratio or 0:>6.2f}"


def megabytes(size: int | None) -> str:
    return f"{'-' if size is None else f'{size / 1e6:.2f}':>8}"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: one for each case and peer, thread counts beside each other, section by section."""
    counts = sorted({row.threads for row in rows})
    peaks = any(row.our_peak is not None or row.their_peak is not None for row in rows)
    lines: dict[tuple[Case, str], dict[int, Row]] = {}
    for row in rows:
        lines.setdefault((row.case, row.peer), {})[row.threads] = row
    width = max((len(case.label) for case, _ in lines), default=0)
    titles = "   ".join(f"{f'{n} thread' + 's' * (n > 1):^{CELL}}" for n in counts)
    heads = "   ".join(f"{'peer ms ±%':>12}  {'pystn ms ±%':>12}  {'ratio':>6}" for _ in counts)
    yield f"{'':<{width}}           {titles}      extra" + "           peak MB" * peaks
    yield f"{'':<{width}}  {'peer':<7}  {heads}         MB" + "      peer     pystn" * peaks
    section = None
    for (case, peer), by_threads in lines.items():
        if case.section != section:
            section = case.section
            yield f"-- {section} {'-' * max(0, len(titles) + width + 18 + 20 * peaks - len(section))}"
        problems = dict.fromkeys(row.problem for row in by_threads.values())
        if len(problems) == 1 and None not in problems:
            yield f"{case.label:<{width}}  {peer:<7}  {next(iter(problems))}"
            continue
        cells = "   ".join(cell(by_threads.get(n)) for n in counts)
        extra = max(row.extra_bytes for row in by_threads.values())
        row = next(iter(by_threads.values()))
        both = f"  {megabytes(row.their_peak)}  {megabytes(row.our_peak)}" if peaks else ""
        yield f"{case.label:<{width}}  {peer:<7}  {cells}   {megabytes(extra)}{both}"


def summary(rows: Iterable[Row], against: str = "torch") -> str:
    """The last line: how bad the worst ratio is, and how often pystn is slower."""
    rows = [row for row in rows if row.peer == against]
    ratios = [(row.ratio, row) for row in rows if row.ratio is not None]
    problems = sum(row.problem is not None for row in rows)
    failed = f"; {problems} could not be timed" if problems else ""
    if not ratios:
        return f"Nothing was timed against {against}{failed}."
    worst, row = min(ratios, key=lambda pair: pair[0])
    below = sum(ratio < 1 for ratio, _ in ratios)
    where = f"{row.case.name}, {row.threads} thread{'s' * (row.threads > 1)}"
    slower = f"{below} of {len(ratios)} rows below 1"
    return f"Smallest ratio against {against}: {worst:.2f} ({where}); {slower}{failed}."


def seconds(timing: Timing | None) -> dict[str, Any] | None:
    if timing is None:
        return None
    return {
        "median": timing.median,
        "spread": timing.spread,
        "rounds": timing.seconds,
        "calls_a_round": timing.calls,
    }


def as_json(row: Row) -> dict[str, Any]:
    case = row.case
    return {
        "case": case.name,
        "section": case.section,
        "operation": case.operation,
        "shape": case.shape,
        "grid": case.grid,
        "mode": case.mode,
        "padding_mode": case.padding,
        "dtype": case.dtype,
        "channels": case.channels,
        "coords": case.coords,
        "out": case.out,
        "peer": row.peer,
        "threads": row.threads,
        "ratio": row.ratio,
        "peer_seconds": seconds(row.theirs),
        "pystn_seconds": seconds(row.ours),
        "pixel_channels": prod(case.output_shape),
        "extra_bytes": row.extra_bytes,
        "peer_peak_bytes": row.their_peak,
        "pystn_peak_bytes": row.our_peak,
        "difference": row.agreement and row.agreement.difference,
        "tolerance": row.agreement and row.agreement.tolerance,
        "strays": row.agreement and row.agreement.strays,
        "problem": row.problem,
    }


def write_json(path: Path, about: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """One object: the context, and under "rows" every row with the seconds of each round."""
    document = {**about, "rows": [as_json(row) for row in rows]}
    path.write_text(json.dumps(document, indent=1, default=float) + "\n")
