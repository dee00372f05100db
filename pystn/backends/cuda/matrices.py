"""The entry point of exponentials of matrices.

The structure is ExponentialJob of src/cuda/matrices.cuh, field by field.
"""

from __future__ import annotations

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray
from pystn.backends.cuda.source import launch

__all__ = ["exponential"]

MOST_KNOWN_ROWS = 4  # of matrices whose kernels know how many they have, and need no memory
MATRICES = 6  # of scratch memory for each thread, as in matrices.cuh
SCRATCH_BYTES = 64 << 20  # beyond this a thread has matrices one after the other
BLOCK = 64

EXPONENTIAL_JOB = np.dtype(
    [*((name, np.uintp) for name in ("generator", "matrix", "scratch")), ("count", np.int64), ("rows", np.int64)],
    align=True,
)


def names() -> list[str]:
    """The name expression of every kernel of this module."""
    return [f"exponential<{rows}>" for rows in range(MOST_KNOWN_ROWS + 1)]


def exponential(generators: DeviceArray, matrices: DeviceArray) -> None:
    """Fills matrices with the exponentials of generators: both (M, n, n), contiguous and in double, and not empty."""
    count, rows, _ = matrices.shape
    job = np.zeros(1, EXPONENTIAL_JOB)
    job["generator"], job["matrix"] = generators.data.ptr, matrices.data.ptr
    job["count"], job["rows"] = count, rows
    if rows <= MOST_KNOWN_ROWS:
        launch(f"exponential<{rows}>", count, job, BLOCK)
        return
    of_block = 8 * MATRICES * rows**2 * BLOCK
    blocks = max(1, min(-(-count // BLOCK), SCRATCH_BYTES // of_block))
    scratch = cupy.empty(blocks * of_block // 8, np.float64)
    job["scratch"] = scratch.data.ptr
    launch("exponential<0>", blocks * BLOCK, job, BLOCK)
