"""Digits disturbed as in the spatial transformer's paper, whole batches at once, by pystn's own warps.

Every function takes images (N, 1, 28, 28) of float32 and a generator of random numbers, and draws one distortion for
each image. Maps go from the output to the input, as everywhere in pystn: a digit that is to be smaller by a factor is
read over a range larger by it.

What the paper does not say, or not with numbers: the range of scales of P and E (0.75 to 1), the size of P's noise and
of TC's crops are from what is known of it at second hand. Corners of P are drawn again where they would fold the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import pystn

__all__ = ["DISTORTIONS", "Distortion", "distorted", "rotate_scale_translate"]

SIDE = 28  # of a digit's image
PIXEL = 2 / SIDE  # in normalized coordinates
CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
CONTROL_POINTS = pystn.control_points((4, 4))
SPLINE = pystn.ThinPlateSpline(CONTROL_POINTS, (SIDE, SIDE))


class Distortion(NamedTuple):
    """What it does, in words, the images' size afterwards, and the function."""

    text: str
    size: int
    apply: Callable[[np.ndarray, np.random.Generator], np.ndarray]


def similarity(angle: np.ndarray, scale: np.ndarray, centre: np.ndarray, size: int) -> np.ndarray:
    """Matrices that show digits turned, as large as `scale`, their centre at `centre` of an image of `size` pixels."""
    by = size / SIDE / scale
    matrix = by[:, None, None] * pystn.rotation_matrix(angle[:, None])
    matrix[:, :, 2] = -np.einsum("nij,nj->ni", matrix[:, :, :2], centre)
    return matrix.astype(np.float32)


def rotate(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(images))
    theta = similarity(angle, np.ones(len(images)), np.zeros((len(images), 2)), SIDE)
    return pystn.warp_affine(images, theta, (SIDE, SIDE))


def rotate_scale_translate(
    images: np.ndarray, rng: np.random.Generator, size: int = 42, amount: float = 1.0
) -> np.ndarray:
    """Ranges are `amount` times as wide: at 0 digits stay straight, in the middle and as large as they are."""
    angle = rng.uniform(-amount * np.pi / 4, amount * np.pi / 4, len(images))
    scale = rng.uniform(1 - 0.3 * amount, 1 + 0.2 * amount, len(images))
    room = amount * (1 - scale * SIDE / size)  # on either side of a digit in the middle
    centre = rng.uniform(-1, 1, (len(images), 2)) * room[:, None]
    return pystn.warp_affine(images, similarity(angle, scale, centre, size), (size, size))


def project(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    corners = np.zeros((len(images), 4, 2))
    again = np.arange(len(images))
    while len(again):  # a quadrilateral that is not convex shows the horizon
        scale = rng.uniform(0.75, 1, (len(again), 1, 1))
        corners[again] = scale * CORNERS + rng.normal(0, 5 * PIXEL, (len(again), 4, 2))
        again = again[~convex(corners[again])]
    theta = pystn.homography_from_points(corners, np.broadcast_to(CORNERS, corners.shape))
    return pystn.warp_projective(images, theta.astype(np.float32), (SIDE, SIDE), cull_behind=True)


def convex(corners: np.ndarray) -> np.ndarray:
    """Whether quadrilaterals (N, 4, 2) turn the same way as `CORNERS` at each corner."""
    edge = np.roll(corners, -1, 1) - corners
    following = np.roll(edge, -1, 1)
    return (edge[..., 0] * following[..., 1] > edge[..., 1] * following[..., 0]).all(1)


def deform(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scale = rng.uniform(0.75, 1, (len(images), 1, 1))
    points = CONTROL_POINTS / scale + rng.normal(0, 1.5 * PIXEL, (len(images), *CONTROL_POINTS.shape))
    return pystn.grid_sample(images, SPLINE(points.astype(np.float32)))


def translate_and_clutter(images: np.ndarray, rng: np.random.Generator, size: int = 60, crops: int = 6) -> np.ndarray:
    count, side = len(images), 6
    pixels = rng.integers(0, size - SIDE + 1, (count, 2))
    centre = (2 * pixels + SIDE) / size - 1
    theta = similarity(np.zeros(count), np.ones(count), centre, size)
    canvases = pystn.warp_affine(images, theta, (size, size))
    each, across = np.arange(count)[:, None, None], np.arange(side)
    for _ in range(crops):
        # From any digit of the batch, from anywhere in it, to anywhere.
        donors = rng.integers(0, count, count)[:, None, None]
        from_y, from_x = rng.integers(0, SIDE - side + 1, (2, count))[:, :, None] + across
        to_y, to_x = rng.integers(0, size - side + 1, (2, count))[:, :, None] + across
        there = each, 0, to_y[:, :, None], to_x[:, None, :]
        canvases[there] = np.maximum(canvases[there], images[donors, 0, from_y[:, :, None], from_x[:, None, :]])
    return canvases


DISTORTIONS = {
    "R": Distortion("rotated by up to 90 degrees", 28, rotate),
    "RTS": Distortion(
        "rotated by up to 45 degrees, scaled by 0.7 to 1.2, anywhere in 42 x 42", 42, rotate_scale_translate
    ),
    "P": Distortion("scaled by 0.75 to 1, corners moved by 5 pixels", 28, project),
    "E": Distortion("scaled by 0.75 to 1, 16 control points of a thin plate spline moved by 1.5 pixels", 28, deform),
    "TC": Distortion("anywhere in 60 x 60, with 6 crops of 6 x 6 pixels of other digits", 60, translate_and_clutter),
}


def distorted(images: np.ndarray, name: str, seed: int, size: int = 1000) -> np.ndarray:
    """All images (N, 1, 28, 28), bytes, distorted once, by this seed: float32."""
    rng = np.random.default_rng(seed)
    parts = (images[start : start + size] for start in range(0, len(images), size))
    return np.concatenate([DISTORTIONS[name].apply(part * np.float32(1 / 255), rng) for part in parts])
