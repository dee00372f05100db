"""One case measured: results compared, memory traced, then everyone timed in turns."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.agreement import Agreement, compare
from bench.arrays import Arrays
from bench.cases import Case
from bench.memory import peak_bytes
from bench.peers import Peer, Pystn
from bench.timing import Timing, interleaved

__all__ = ["Row", "measure", "with_peaks"]


@dataclass(frozen=True)
class Row:
    """A case against one peer on so many threads; without times where there is a problem."""

    case: Case
    peer: str
    threads: int
    extra_bytes: int = 0  # most that pystn holds during a call beyond its inputs, results included
    agreement: Agreement | None = None
    ours: Timing | None = None
    theirs: Timing | None = None
    problem: str | None = None
    our_peak: int | None = None  # bytes, see memory.py
    their_peak: int | None = None

    @property
    def ratio(self) -> float | None:
        """The peer's time over pystn's."""
        return self.theirs.median / self.ours.median if self.ours and self.theirs else None


def extra_bytes(call: Callable[[], Any]) -> int:
    """Peak of what Python and NumPy allocate in a call; what C++ takes for itself is not seen."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def measure(
    case: Case,
    arrays: Arrays,
    pystn: Peer,
    peers: Mapping[str, Peer],
    threads: int,
    rounds: int,
) -> list[Row]:
    """A row for each of the case's peers that is there."""
    present = [peers[name] for name in case.peers if name in peers]
    for library in (pystn, *present):
        library.set_threads(threads)
    try:
        call = pystn.prepare(case, arrays)
        extra = extra_bytes(call)
        ours = pystn.results(case, call())
    except Exception as error:
        return [Row(case, peer.name, threads, problem=failure(pystn, error)) for peer in present]

    calls, agreements, problems = {pystn.name: call}, {}, {}
    for peer in present:
        try:
            call = peer.prepare(case, arrays)
            agreement = agreements[peer.name] = compare(case, ours, peer.results(case, call()))
        except Exception as error:
            problems[peer.name] = failure(peer, error)
            continue
        if agreement.problem:
            problems[peer.name] = agreement.problem
        else:
            calls[peer.name] = call
    del ours

    timings = interleaved(calls, rounds) if len(calls) > 1 else {}
    return [
        Row(
            case,
            peer.name,
            threads,
            extra,
            agreements.get(peer.name),
            timings.get(pystn.name) if peer.name in calls else None,
            timings.get(peer.name),
            problems.get(peer.name),
        )
        for peer in present
    ]


def with_peaks(rows: Sequence[Row]) -> list[Row]:
    """The rows of a case with the peak memory of both libraries, on as many threads as any of them."""
    threads = max((row.threads for row in rows), default=1)
    libraries = dict.fromkeys(name for row in rows for name in (Pystn.name, row.peer))
    peaks = {name: peak_bytes(row.case, name, threads) for row in rows[:1] for name in libraries}
    return [replace(row, our_peak=peaks[Pystn.name], their_peak=peaks[row.peer]) for row in rows]


def failure(library: Peer, error: Exception) -> str:
    return f"{library.name} failed: {type(error).__name__}: {error}"
