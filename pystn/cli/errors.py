"""Errors of the command line, and the extra that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["CommandError", "needs_extra"]


class CommandError(Exception):
    """Something the user can mend; its message is one line."""


@contextmanager
def needs_extra() -> Iterator[None]:
    """Turn a missing package into a line that says how to install it."""
    try:
        yield
    except ImportError as error:
        name = error.name or str(error)
        raise CommandError(f'{name} is needed for this: pip install "pystn[cli]"') from None
