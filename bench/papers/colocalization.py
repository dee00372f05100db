"""Co-localisation of digits (Jaderberg et al., Spatial Transformer Networks, 2015, appendix A.2)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pystn
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run
from bench.papers.networks import convolutional
from bench.papers.training import batches_of, classification_error, train
from pystn.torch import SpatialTransformer

__all__ = ["EXPERIMENTS"]

SIDE = 28  # of a digit's image
CANVAS = 84


class Encoder(nn.Module):
    """What the three layers of a classifier make of a crop, side by side."""

    def __init__(self, classifier: nn.Sequential, digits: Tensor) -> None:
        super().__init__()
        self.stages = nn.ModuleList([classifier[:3], classifier[3:6], classifier[6:]])
        self.requires_grad_(False)
        # Pairs of digits
        self.scales = [
            (1 / (layer - layer.flip(0)).square().sum(1).mean()).sqrt() for layer in self.layers(digits)
        ]

    def layers(self, crops: Tensor) -> Iterator[Tensor]:
        for stage in self.stages:
            crops = stage(crops)
            yield crops.flatten(1)

    def forward(self, crops: Tensor) -> Tensor:
        return torch.cat([layer * scale for layer, scale in zip(self.layers(crops), self.scales, strict=True)], 1)


def localization_network(scale: float) -> nn.Sequential:
    last = nn.Linear(8, 3)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([scale, 0.0, 0.0]))
    return nn.Sequential(
        nn.Conv2d(1, 8, 9, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 9 * 9, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), last,
    )


def placed(images: np.ndarray, others: np.ndarray, crops: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, 84, 84) with a digit anywhere and `crops` pieces of 6 x 6 of others, and the digits' boxes."""
    count, side = len(images), 6
    canvases = np.zeros((count, 1, CANVAS, CANVAS), np.float32)
    corners = rng.integers(0, CANVAS - SIDE + 1, (count, 2))
    for canvas, image, (x, y) in zip(canvases, images, corners, strict=True):
        canvas[:, y : y + SIDE, x : x + SIDE] = image
        for _ in range(crops):
            from_y, from_x = rng.integers(0, SIDE - side + 1, 2)
            to_y, to_x = rng.integers(0, CANVAS - side + 1, 2)
            piece = others[rng.integers(len(others)), :, from_y : from_y + side, from_x : from_x + side]
            there = canvas[:, to_y : to_y + side, to_x : to_x + side]
            np.maximum(there, piece, out=there)
    boxes = np.concatenate([corners, corners + SIDE], 1) * (2 / CANVAS) - 1
    return canvases, boxes.astype(np.float32)


def random_crops(count: int, smallest: float, largest: float, rng: np.random.Generator) -> np.ndarray:
    """Attention parameters (count, 3) that look at squares inside of the image."""
    scale = rng.uniform(smallest, largest, (count, 1))
    centre = rng.uniform(-1, 1, (count, 2)) * (1 - scale)
    return np.concatenate([scale, centre], 1).astype(np.float32)


def colocalization_loss(crops: Tensor, random: Tensor, margin: float = 1.0) -> Tensor:
    distances = torch.cdist(crops, crops).square()
    hinges = torch.relu(distances - (crops - random).square().sum(1)[:, None] + margin)
    return hinges.sum() - hinges.diagonal().sum()
