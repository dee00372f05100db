"""How much memory of freed results the CPU backend keeps for the next ones.

The system fills new pages with zeros at their first touch, which can take longer than the kernel that
writes them. Memory of less than 32 MiB is recycled by C libraries, that of larger results by pystn.
"""

from __future__ import annotations

import operator
import sys

__all__ = ["get_kept_memory_limit", "set_kept_memory_limit"]


def set_kept_memory_limit(nbytes: int) -> None:
    """Set how much memory of freed results is kept at most, in this process.

    Parameters
    ----------
    nbytes : int
        256 MiB (``2**28``) at the start, 0 where nothing can be kept. 0 gives what is kept back to the system, and
        keeps nothing from then on. A result that is larger is not kept.

    Notes
    -----
    NumPy arrays of 32 MiB and more that kernels write, grids, samples and gradients, have memory of their own (`NEP 49
    <https://numpy.org/neps/nep-0049.html>`_). When such an array is freed, its pages are offered to the system
    (``MADV_FREE``), which takes them when it runs short; until then the next result of about that size has them. So a
    loop over large images touches no new pages. Up to then they count as memory of the process. Systems without
    ``MADV_FREE``, Windows among them, keep nothing. Where you have set a memory handler of NumPy, that one is used.
    Results in CuPy arrays come from CuPy's pool.

    Raises
    ------
    TypeError, ValueError
        If `nbytes` is no integer, or negative, or more than an address can count.

    Examples
    --------
    >>> import pystn
    >>> before = pystn.get_kept_memory_limit()
    >>> pystn.set_kept_memory_limit(2**30)
    >>> pystn.get_kept_memory_limit()
    1073741824
    >>> pystn.set_kept_memory_limit(before)
    """
    from pystn.backends import cpu

    try:
        count = operator.index(nbytes)
    except TypeError:
        raise TypeError(f"bytes of memory must be an integer, got {nbytes!r}") from None
    if not 0 <= count <= sys.maxsize:
        raise ValueError(f"bytes of memory must be from 0 to {sys.maxsize}, got {nbytes!r}")
    cpu.memory_limit(count)


def get_kept_memory_limit() -> int:
    """Return how many bytes of freed results are kept at most.

    Returns
    -------
    int
        As set by `set_kept_memory_limit`.

    Examples
    --------
    >>> import pystn
    >>> pystn.get_kept_memory_limit() // 2**20
    256
    """
    from pystn.backends import cpu

    return int(cpu.memory_limit())
