"""How many threads the CPU kernels use: with `pystn.memory` all of the package's state that a caller sets.

Asked at every call, in this order: the `num_threads` context, `set_num_threads`, what OpenMP says
(``OMP_NUM_THREADS``, the CPU affinity, threadpoolctl). Results do not depend on it.

After ``fork`` a child runs on one thread until it asks for more: the parent's thread pool does not
exist there, and a pool per child would fight for the same processors.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

__all__ = ["get_num_threads", "num_threads", "set_num_threads"]

_set: int | None = None
_in_context: ContextVar[int | None] = ContextVar("pystn_num_threads", default=None)


def _checked(n: int) -> int:
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"number of threads must be an integer, got {n!r}") from None
    if not 1 <= count <= 4096:
        raise ValueError(f"number of threads must be from 1 to 4096, got {n!r}")
    return count


def set_num_threads(n: int | None) -> None:
    """Set the number of threads of the CPU kernels for this process.

    Parameters
    ----------
    n : int or None
        At least 1. None, the initial state, leaves it to OpenMP: ``OMP_NUM_THREADS`` if set, else
        the processors that this process may run on.

    Examples
    --------
    >>> import pystn
    >>> pystn.set_num_threads(2)
    >>> pystn.get_num_threads()
    2
    >>> pystn.set_num_threads(None)
    """
    global _set
    _set = None if n is None else _checked(n)


def get_num_threads() -> int:
    """Return how many threads the CPU kernels would use now.

    Returns
    -------
    int
        At least 1; always 1 in a build without OpenMP, and in forked children until they set it.

    Examples
    --------
    >>> import pystn
    >>> pystn.get_num_threads() >= 1
    True
    """
    cpu = _compiled()
    if not cpu.openmp_version():
        return 1
    return _in_context.get() or _set or int(cpu.max_threads())


@cache
def _compiled() -> ModuleType:
    """What knows of OpenMP; loaded at the first call."""
    from pystn.backends import cpu

    return cpu


@contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Use `n` threads within a ``with`` block, in this thread or task only.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> import pystn
    >>> with pystn.num_threads(1):
    ...     pystn.get_num_threads()
    1
    """
    token = _in_context.set(_checked(n))
    try:
        yield
    finally:
        _in_context.reset(token)


def _before_fork() -> None:
    compiled = sys.modules.get("pystn.backends._cpu")
    if compiled is not None:
        compiled.release_threads()


def _after_fork_in_child() -> None:
    global _set
    _set = 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
