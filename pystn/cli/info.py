"""``pystn info``: version, instruction set, threads, OpenMP, CUDA."""

from __future__ import annotations

import argparse
from typing import Any

import pystn

__all__ = ["add"]


def add(commands: Any) -> None:
    parser = commands.add_parser("info", help="show versions, instruction set, threads", description=__doc__)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    pystn.show_config()
    return 0
