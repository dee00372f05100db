"""``pystn register``: find the affine transform between two pictures."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

import pystn
from pystn.cli import images, registration
from pystn.cli.comparison import comparison
from pystn.cli.errors import CommandError, needs_extra

__all__ = ["add", "find_transform", "to_pixels"]

DESCRIPTION = """\
Register two pictures: find the affine transform that takes FIXED to MOVING, by descent from coarse
to fine on explicit derivatives. Prints the matrix from pixels of FIXED to pixels of MOVING and the
root mean square difference before and after, and draws a comparison.
"""
SMALLEST = 32  # pixels a side below which there is nothing to descend on


def add(commands: Any) -> None:
    parser = commands.add_parser("register", help="find the transform between two pictures", description=DESCRIPTION)
    parser.add_argument("fixed", metavar="FIXED", help="image file")
    parser.add_argument("moving", metavar="MOVING", help="image file")
    parser.add_argument("-o", "--output", required=True, metavar="OUT.png", help="picture of before and after")
    parser.set_defaults(run=run)


def find_transform(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Registration with a progress bar on stderr; the normalized matrix (2, 3)."""
    with needs_extra():
        from tqdm import tqdm
    # disable=None: no bar where stderr is no terminal.
    with tqdm(desc="registering", unit=" steps", file=sys.stderr, leave=False, disable=None) as bar:

        def step(loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update()

        return registration.register(fixed, moving, step)


def to_pixels(theta: np.ndarray, fixed: tuple[int, ...], moving: tuple[int, ...]) -> np.ndarray:
    """A normalized matrix as one from pixels (x, y) of `fixed` to pixels of `moving`."""
    return np.asarray(pystn.normalized_to_pixel(theta, moving[:2], fixed[:2]))


def difference(fixed: np.ndarray, moving: np.ndarray, theta: np.ndarray) -> float:
    """Root mean square difference where the warped picture covers the fixed one."""
    warped = registration.Warped(fixed, moving, theta[None])
    seen = warped.difference[warped.inside]
    return float(np.sqrt((seen.astype(np.float64) ** 2).mean())) if seen.size else float("nan")


def report(fixed: np.ndarray, moving: np.ndarray, theta: np.ndarray, output: str) -> None:
    """Print the errors before and after, and draw them."""
    identity = registration.IDENTITY[0]
    print(f"rms difference before: {difference(fixed, moving, identity):.4f}")
    print(f"rms difference after:  {difference(fixed, moving, theta):.4f}")

    def through(matrix: np.ndarray) -> np.ndarray:
        return np.asarray(pystn.grid_sample(moving[None, None], pystn.affine_grid(matrix[None], fixed.shape))[0, 0])

    images.save(comparison(fixed, through(identity), through(theta)), output)
    print(f"wrote {output}")


def print_matrix(name: str, matrix: np.ndarray) -> None:
    rows = "\n".join("  " + " ".join(f"{value:11.5f}" for value in row) for row in matrix)
    print(f"{name}\n{rows}")


def run(arguments: argparse.Namespace) -> int:
    images.check_writable(arguments.output)
    fixed, moving = (images.grey(images.read(path)) for path in (arguments.fixed, arguments.moving))
    for path, picture in ((arguments.fixed, fixed), (arguments.moving, moving)):
        if min(picture.shape) < SMALLEST:
            raise CommandError(
                f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels: at least {SMALLEST} x {SMALLEST} are needed"
            )
    theta = find_transform(fixed, moving)
    print_matrix("matrix, pixels of FIXED to pixels of MOVING", to_pixels(theta, fixed.shape, moving.shape))
    report(fixed, moving, theta, arguments.output)
    return 0
