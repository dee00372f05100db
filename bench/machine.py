"""Where the numbers are made: processor, versions, and what else the machine did meanwhile."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import Peer

__all__ = ["Meter", "context", "processors"]


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model() -> str:
    """Name of the processor, which only Linux's file tells in full."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def context(pystn: Peer, peers: Mapping[str, Peer], arguments: Sequence[str]) -> dict[str, Any]:
    """Date, command, machine and versions, as the JSON file has them."""
    from pystn.backends import cpu

    versions = {library.name: library.version for library in (pystn, *peers.values())}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench", *arguments]),
        "machine": {
            "processor": model(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "instruction_set": cpu.current_level(),
        },
        "versions": {"python": platform.python_version(), "numpy": np.__version__, **versions},
    }


class Meter:
    """What other processes took of the processors since it was made: they disturb what is timed.

    A thread that waits for another, which has lost its processor, waits for whole time slices.
    """

    def __init__(self) -> None:
        self.start = self.read()

    @staticmethod
    def read() -> tuple[float, float, float] | None:
        """Seconds so far of all processors, of them busy, and of this process; Linux only."""
        try:
            fields = Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
        except OSError:
            return None
        user, nice, system, idle, waiting, *interrupts = (int(n) / os.sysconf("SC_CLK_TCK") for n in fields)
        busy = user + nice + system + sum(interrupts)
        own = os.times()
        return busy + idle + waiting, busy, own.user + own.system

    def others(self) -> float | None:
        """Their share of all processors' time, from 0 to 1; None where it cannot be told."""
        now = self.read()
        if now is None or self.start is None:
            return None
        total, busy, own = (b - a for a, b in zip(self.start, now, strict=True))
        return max(0.0, (busy - own) / total) if total else 0.0
