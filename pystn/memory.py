"""How much memory of freed results the CPU backend keeps for the next ones.

The system fills new pages with zeros at their first touch, which can take longer than the kernel that
writes them. Arrays of less than 32 MB are recycled by the C library; larger results are by pystn.
"""

from __future__ import annotations

import operator

__all__ = ["get_kept_memory", "set_kept_memory"]


def set_kept_memory(nbytes: int) -> None:
    """Set how much memory of freed results is kept at most, in this process.

    Parameters
    ----------
    nbytes : int
        256 MiB (``2**28``) at the start. 0 returns what is kept to the system, and keeps nothing from then on.

    Notes
    -----
    NumPy arrays of 32 MB and more that pystn returns are backed by memory of their own (`NEP 49
    <https://numpy.org/neps/nep-0049.html>`_). When such an array is freed, its memory is offered to the system
    (``MADV_FREE``), which takes it when it runs short; until then the next result of about that size has it. So a loop
    over large images touches no new pages. Systems without ``MADV_FREE``, Windows among them, keep nothing. Where
    you have set a memory handler of NumPy of your own, that one is used. Results in CuPy arrays come from CuPy's pool.

    Raises
    ------
    TypeError, ValueError
        If `nbytes` is no integer, or negative.

    Examples
    --------
    >>> import pystn
    >>> pystn.set_kept_memory(2**30)
    >>> pystn.get_kept_memory()
    1073741824
    >>> pystn.set_kept_memory(2**28)
    """
    from pystn.backends import cpu

    try:
        count = operator.index(nbytes)
    except TypeError:
        raise TypeError(f"bytes of memory must be an integer, got {nbytes!r}") from None
    if not 0 <= count < 2**63:
        raise ValueError(f"bytes of memory must be from 0 to 2**63 - 1, got {nbytes!r}")
    cpu.memory_limit(count)


def get_kept_memory() -> int:
    """Return how many bytes of freed results are kept at most.

    Returns
    -------
    int
        As set by `set_kept_memory`.

    Examples
    --------
    >>> import pystn
    >>> pystn.get_kept_memory()
    268435456
    """
    from pystn.backends import cpu

    return int(cpu.memory_limit())
