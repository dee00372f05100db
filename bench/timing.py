"""Calls timed in turns: round by round, everyone once, so that a slow moment strikes all alike.

A turn is as many calls as fill a few milliseconds. Short turns start with calls that are not
counted: these find the caches, the clock and the threads as the library before them left them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any

__all__ = ["Timing", "interleaved"]

TURN = 0.004  # seconds that a turn lasts at least
LONG = 0.05  # seconds from which a call needs none before it
SLOW = 0.5  # seconds from which a call is repeated less often


@dataclass
class Timing:
    """Seconds per call, one value a round."""

    calls: int
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / 2 / self.median


def seconds_of(call: Callable[[], Any], calls: int = 1) -> float:
    start = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - start) / calls


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int, seconds_of: Callable[..., float] = seconds_of
) -> dict[str, Timing]:
    """Time functions in turns, by some clock; the one who starts a round ends the next."""
    once = {name: min(seconds_of(call), seconds_of(call)) for name, call in functions.items()}
    timings = {name: Timing(max(1, round(TURN / once[name]))) for name in functions}
    if max(once.values()) > SLOW:
        rounds = min(rounds, max(3, rounds // 2))
    order = list(functions)
    for _ in range(rounds):
        for name in order:
            call, timing = functions[name], timings[name]
            if once[name] < LONG:
                seconds_of(call, 1 + timing.calls // 2)
            timing.seconds.append(seconds_of(call, timing.calls))
        order.reverse()
    return timings
