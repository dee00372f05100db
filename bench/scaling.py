"""How time grows with pixels, channels and threads: ``python -m bench --scaling``.

A sweep is a block of cases, as in cases.py, and what changes along it. Times are divided by the
samples: pixels times channels of the output, so that a level line is perfect scaling in the number of
pixels or channels, and one that halves from 1 thread to 2 is in that of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from bench.cases import Block, Case
from bench.machine import processors
from bench.run import Row

__all__ = ["SWEEPS", "Sweep", "nanoseconds", "select", "table", "thread_counts"]

BOTH, TURNED = ("grid_sample", "grid_sample_vjp"), ("rot30",)


@dataclass(frozen=True)
class Sweep:
    block: Block
    along: str  # what the horizontal axis is
    at: Callable[[Row], int]

    @property
    def name(self) -> str:
        return self.block.section

    @property
    def over_threads(self) -> bool:
        return self.at is threads_of


def squares(*sides: int) -> tuple[tuple[int, ...], ...]:
    return tuple((1, 3, side, side) for side in sides)


def stacks(*channels: int) -> tuple[tuple[int, ...], ...]:
    return tuple((8, c, 64, 64) for c in channels)


CHANNELS = stacks(1, 2, 3, 4, 8, 16, 32, 64, 128, 256)


def side_of(row: Row) -> int:
    return row.case.shape[-1]


def channels_of(row: Row) -> int:
    return row.case.shape[1]


def threads_of(row: Row) -> int:
    return row.threads


SWEEPS = (
    Sweep(Block("pixels", BOTH, squares(64, 128, 256, 512, 1024, 2048, 4096), TURNED), "side H, 1x3xHxH", side_of),
    Sweep(Block("channels first", BOTH, CHANNELS, TURNED), "channels, 8xCx64x64", channels_of),
    Sweep(Block("channels last", BOTH, CHANNELS, TURNED, channels="last"), "channels, 8x64x64xC", channels_of),
    Sweep(Block("threads, a batch", BOTH, ((8, 3, 512, 512),), TURNED), "threads, 8x3x512x512", threads_of),
    Sweep(Block("threads, one image", BOTH, ((1, 3, 1080, 1920),), TURNED), "threads, 1x3x1080x1920", threads_of),
)


def select(substring: str = "") -> list[Case]:
    cases = [case for sweep in SWEEPS for case in sweep.block.cases()]
    return [case for case in cases if substring.lower() in case.name.lower()]


def thread_counts(case: Case, usual: Sequence[int]) -> list[int]:
    """The usual ones, or where threads are what changes every number up to 8, then doubled, and all."""
    (sweep,) = (sweep for sweep in SWEEPS if sweep.name == case.section)
    if not sweep.over_threads:
        return list(usual)
    most = processors()
    return sorted({n for n in (*range(1, 9), *(2**k for k in range(4, 16))) if n < most} | {most})


def nanoseconds(row: Row) -> tuple[float, float]:
    """Per pixel and channel: the peer's and pystn's."""
    assert row.ours
    assert row.theirs
    scale = 1e9 / prod(row.case.output_shape)
    return scale * row.theirs.median, scale * row.ours.median


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: one for each case and number of threads, sweep by sweep."""
    width = max((len(row.case.label) for row in rows), default=0)
    yield f"{'ns per pixel and channel':<{width}}  threads   {'peer':<7}  {'peer ns':>9}  {'pystn ns':>9}  {'ratio':>6}"
    section = None
    for row in rows:
        if row.case.section != section:
            section = row.case.section
            yield f"-- {section} {'-' * (width + 45 - len(section))}"
        start = f"{row.case.label:<{width}}  {row.threads:>7}   {row.peer:<7}"
        if row.problem:
            yield f"{start}  {row.problem}"
        else:
            theirs, ours = nanoseconds(row)
            yield f"{start}  {theirs:>9.3f}  {ours:>9.3f}  {row.ratio or 0:>6.2f}"
