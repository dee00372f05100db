"""Peak memory of a call, as the system sees it: whoever allocates, Python, C++ or a framework.

``python -m bench --memory`` starts a fresh interpreter for every case and library. It makes the arrays,
calls once on small ones, so that modules, threads and pools are there, and tells by how much the
resident set grows at its peak during one call of full size: results and everything beside them.

On Linux the peak is reset before the call. Elsewhere it is that of the whole process: a call that
stays below what making the arrays took is seen as 0. Linux counts pages in batches: 0.2 MB are noise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.arrays import Arrays
from bench.cases import Case
from bench.peers import PEERS, Peer, Pystn

__all__ = ["peak_bytes"]

ROOT = Path(__file__).parents[1]
SMALLER = 4  # the first call has so much shorter sides

# What is freed goes back to the system at once (glibc), or the next call would find it there already.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}


def peak_bytes(case: Case, library: str, threads: int) -> int | None:
    """Growth of the resident set during a call in a process of its own; None where that fails."""
    order = json.dumps({"case": asdict(case), "library": library, "threads": threads})
    command = [sys.executable, "-m", "bench.memory", order]
    child = subprocess.run(command, cwd=ROOT, env=os.environ | ALLOCATOR, capture_output=True, text=True, check=False)
    return int(child.stdout) if child.returncode == 0 else None


def status(field: str) -> int:
    """A line of Linux's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def growth_since_reset(call: Callable[[], Any]) -> int:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what there is
    before = status("VmRSS")
    call()
    return max(0, status("VmHWM") - before)


def growth_of_highest(call: Callable[[], Any]) -> int:
    from resource import RUSAGE_SELF, getrusage

    before = getrusage(RUSAGE_SELF).ru_maxrss
    call()
    grown = getrusage(RUSAGE_SELF).ru_maxrss - before
    return grown * (1 if sys.platform == "darwin" else 1024)


def measure(case: Case, library: Peer) -> int:
    small = replace(case, shape=(*case.shape[:2], *(max(1, n // SMALLER) for n in case.spatial)))
    library.prepare(small, Arrays(small))()
    call = library.prepare(case, Arrays(case))
    try:
        return growth_since_reset(call)
    except OSError:
        return growth_of_highest(call)


def main(order: str) -> None:
    given = json.loads(order)
    lists = {key: tuple(value) for key, value in given["case"].items() if isinstance(value, list)}
    library = Pystn() if given["library"] == Pystn.name else PEERS[given["library"]]()
    library.set_threads(given["threads"])
    print(measure(Case(**given["case"] | lists), library))


if __name__ == "__main__":
    main(sys.argv[1])
