"""The command line: one file a sub-command, each with `add(subparsers)` and `run(arguments)`.

Built on the public API alone. Data goes to stdout, progress to stderr; an error is one line and
exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pystn.cli import demo, info, register, warp
from pystn.cli.errors import CommandError

__all__ = ["main"]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    from pystn import __version__

    top = Parser(prog="pystn", description="Differentiable spatial resampling: warp and register images.")
    top.add_argument("--version", action="version", version=f"pystn {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in (warp, register, demo, info):
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    try:
        arguments = parser().parse_args(argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except CommandError as error:
        print(f"pystn: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read stdout has gone; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
