"""The entry point of exponentials of matrices and their derivatives.

The structure is ExponentialJob of src/cuda/matrices.cuh, field by field.
"""

from __future__ import annotations

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray
from pystn.backends.cuda.source import launch

__all__ = ["exponential"]

# Of matrices whose kernels know how many rows they have and need no memory, by the order of the derivative.
MOST_ROWS = (4, 0, 0)
MATRICES = 6  # of scratch memory for each thread, as in exponential.hpp
SCRATCH_BYTES = 64 << 20  # of more threads than one: beyond it each has matrices one after the other
BLOCK = 64

EXPONENTIAL_JOB = np.dtype(
    [
        *((name, np.uintp) for name in ("generator", "along", "then", "matrix", "scratch")),
        ("count", np.int64),
        ("rows", np.int64),
    ],
    align=True,
)


def names() -> list[str]:
    """The name expression of every kernel of this module."""
    return [f"exponential<{order}, {rows}>" for order, most in enumerate(MOST_ROWS) for rows in range(most + 1)]


def exponential(
    generators: DeviceArray, along: DeviceArray | None, then: DeviceArray | None, matrices: DeviceArray
) -> None:
    """Fills matrices (M, n, n): exponentials of generators, or their derivatives along a direction unless it is None.

    Or how these move with the generators, which move by `then`, unless that is None. All of them are contiguous, in
    double and not empty.
    """
    count, rows, _ = matrices.shape
    order = 0 if along is None else 1 if then is None else 2
    job = np.zeros(1, EXPONENTIAL_JOB)
    for name, array in (("generator", generators), ("along", along), ("then", then), ("matrix", matrices)):
        job[name] = 0 if array is None else array.data.ptr
    job["count"], job["rows"] = count, rows
    if rows <= MOST_ROWS[order]:
        launch(f"exponential<{order}, {rows}>", count, job, BLOCK)
        return
    of_thread = MATRICES * rows**2 * 2**order
    threads = max(1, min(count, SCRATCH_BYTES // (8 * of_thread)))
    block = min(BLOCK, threads)
    threads -= threads % block  # none is beyond the scratch memory
    scratch = cupy.empty(threads * of_thread, np.float64)
    job["scratch"] = scratch.data.ptr
    launch(f"exponential<{order}, 0>", threads, job, block)
