"""``pystn warp``: rotate, scale, shear, move or otherwise affinely transform a picture."""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

import pystn
from pystn.cli import images
from pystn.cli.errors import CommandError

__all__ = ["add", "warp"]

DESCRIPTION = """\
Warp an image. Shear, then scale, then rotation act about the image's centre, then translation.
What is moved is the picture as one sees it: --rotate 30 turns it counter-clockwise, --scale 2
enlarges it, --translate 10 0 moves it ten pixels to the right. --matrix gives the transform
directly, as a b c d e f: output pixel (x, y) shows input pixel (a x + b y + c, d x + e y + f),
with (0, 0) the centre of the first pixel. Colours are interpolated premultiplied by alpha.
"""

MODES: dict[str, Any] = {
    "nearest": "nearest",
    "linear": "linear",
    "cubic": "cubic",
    "spline": pystn.BSpline(3, prefilter=True),
    "lanczos": pystn.Lanczos(3),
}
PADDINGS = ("zeros", "border", "reflection", "mirror", "symmetric", "wrap")


def add(commands: Any) -> None:
    parser = commands.add_parser("warp", help="transform a picture", description=DESCRIPTION)
    parser.add_argument("input", metavar="INPUT", help="image file, anything that Pillow reads")
    parser.add_argument("output", metavar="OUTPUT", help="image file to write")
    parser.add_argument("--rotate", type=float, default=0.0, metavar="DEG", help="degrees, counter-clockwise")
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0], metavar="S", help="one factor, or x and y")
    parser.add_argument("--translate", type=float, nargs=2, default=(0.0, 0.0), metavar=("DX", "DY"), help="pixels")
    parser.add_argument("--shear", type=float, default=0.0, metavar="DEG", help="degrees: x moves with height")
    parser.add_argument("--matrix", type=float, nargs=6, metavar=tuple("ABCDEF"), help="output to input, instead")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the output; default the input's")
    parser.add_argument("--mode", default="linear", choices=tuple(MODES), help="default %(default)s")
    parser.add_argument("--padding", default="zeros", choices=PADDINGS, help="what is outside; default %(default)s")
    parser.set_defaults(run=run)


def output_to_input(arguments: argparse.Namespace, shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The (2, 3) matrix from output pixels to input pixels."""
    if arguments.matrix is not None:
        return np.array(arguments.matrix).reshape(2, 3)
    turn, shear = math.radians(arguments.rotate), math.tan(math.radians(arguments.shear))
    scale = arguments.scale * 2 if len(arguments.scale) == 1 else arguments.scale
    # y points down, so a turn that one sees as counter-clockwise has its sines the other way round.
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    seen = rotation @ np.diag(scale) @ np.array([[1.0, -shear], [0.0, 1.0]])
    if abs(np.linalg.det(seen)) < 1e-12:
        raise CommandError(f"a scale of {' '.join(map(str, arguments.scale))} leaves no picture")
    linear = np.linalg.inv(seen)
    centre_in = (np.array(shape[::-1]) - 1) / 2
    centre_out = (np.array(size[::-1]) - 1) / 2
    offset = centre_in - linear @ (centre_out + np.array(arguments.translate))
    return np.column_stack([linear, offset])


def warp(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int], mode: str, padding: str) -> np.ndarray:
    """Pixels (H, W, C) sampled where the matrix sends each pixel of an output of that size."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    grid = np.stack([x, y], axis=-1) @ matrix[:, :2].T + matrix[:, 2]
    sampled = pystn.grid_sample(pixels[None], grid[None], MODES[mode], padding, coords="pixel", channel_axis=-1)
    return np.asarray(sampled[0])


def run(arguments: argparse.Namespace) -> int:
    if len(arguments.scale) > 2:
        raise CommandError(f"--scale takes one factor or two, got {len(arguments.scale)}")
    numbers = [arguments.rotate, arguments.shear, *arguments.scale, *arguments.translate, *(arguments.matrix or ())]
    if not all(map(math.isfinite, numbers)):
        raise CommandError(f"expected finite numbers, got {' '.join(map(str, numbers))}")
    if arguments.size is not None and min(arguments.size) < 1:
        raise CommandError(f"--size must be 1 or more each way, got {arguments.size[0]} {arguments.size[1]}")
    images.check_writable(arguments.output)
    picture = images.read(arguments.input)
    shape = picture.pixels.shape[:2]
    size = tuple(arguments.size) if arguments.size else shape
    matrix = output_to_input(arguments, shape, size)
    pixels = warp(picture.pixels, matrix, size, arguments.mode, arguments.padding)
    images.write(images.Picture(pixels, picture.mode), arguments.output)
    return 0
