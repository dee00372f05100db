"""``pystn demo``: a photograph, warped by a transform drawn at random, registered with itself."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

import pystn
from pystn.cli import images
from pystn.cli.errors import needs_extra
from pystn.cli.register import find_transform, print_matrix, report, to_pixels

__all__ = ["add", "corner_error", "random_transform"]

DESCRIPTION = """\
Warp a photograph by an affine transform drawn at random (up to 25 degrees of rotation, 15 % of scale
and shear, 10 % of translation), recover the transform from the two pictures alone, and say how far
apart the true and the recovered one are at the corners. Exit code 1 if that is 0.1 pixel or more.
"""
GOOD = 0.1  # pixels
NOISE = 0.005  # standard deviation, of a picture in [0, 1]


def add(commands: Any) -> None:
    parser = commands.add_parser("demo", help="register a photograph with a warped copy", description=DESCRIPTION)
    parser.add_argument("--seed", type=int, default=0, help="of the random transform; default %(default)s")
    parser.add_argument("-o", "--output", default="pystn-demo.png", metavar="OUT.png", help="default %(default)s")
    parser.set_defaults(run=run)


def random_transform(rng: np.random.Generator) -> np.ndarray:
    """A matrix (2, 3) in normalized coordinates of a square picture."""
    angle = math.radians(rng.uniform(-25, 25))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scale = np.diag(rng.uniform(0.85, 1.15, 2))
    shear = np.array([[1.0, rng.uniform(-0.15, 0.15)], [0.0, 1.0]])
    # 10 % of the width, which is 2 in normalized coordinates.
    return np.column_stack([rotation @ shear @ scale, rng.uniform(-0.2, 0.2, 2)])


def corner_error(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance between the images of a picture's corners under two pixel matrices."""
    height, width = shape[:2]
    corners = np.array([[x, y, 1.0] for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)])
    return float(np.linalg.norm(corners @ (a - b).T, axis=1).max())


def run(arguments: argparse.Namespace) -> int:
    images.check_writable(arguments.output)
    with needs_extra():
        from skimage import data
    rng = np.random.default_rng(arguments.seed % 2**32)
    fixed = images.grey(images.Picture(data.astronaut().astype(np.float64), "RGB"))
    true = random_transform(rng)
    # Pixel t of the moving picture shows the photograph at inverse(t): points of the photograph go
    # to `true` of themselves.
    square = np.vstack([true, [0.0, 0.0, 1.0]])
    inverse = np.linalg.inv(square)[None, :2].astype(np.float32)
    moving = pystn.grid_sample(fixed[None, None], pystn.affine_grid(inverse, fixed.shape))[0, 0]
    moving += rng.normal(0, NOISE, moving.shape).astype(np.float32)
    theta = find_transform(fixed, moving)
    recovered, truth = (to_pixels(matrix, fixed.shape, moving.shape) for matrix in (theta, true))
    print_matrix("true matrix, pixels", truth)
    print_matrix("recovered matrix, pixels", recovered)
    report(fixed, moving, theta, arguments.output)
    error = corner_error(recovered, truth, fixed.shape)
    print(f"corner error: {error:.4f} px")
    return 0 if error < GOOD else 1
