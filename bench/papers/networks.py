"""The papers' networks, small: classifiers, localisation networks that start at the identity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from bench.papers.training import parameters_of
from pystn.torch import SpatialTransformer, initialize_identity_

__all__ = [
    "Pool",
    "convolutional",
    "convolutional_localization",
    "fully_connected",
    "fully_connected_localization",
    "transformed",
    "widest",
]


class Pool(nn.Module):
    """The mean over squares of `factor` pixels, as products with a matrix: half of the time of ``nn.AvgPool2d``.

    Rows and columns that fill no square are left out.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.matrices: dict[int, Tensor] = {}

    def matrix(self, length: int) -> Tensor:
        if length not in self.matrices:
            means = torch.eye(length // self.factor).repeat_interleave(self.factor, 0) / self.factor
            self.matrices[length] = nn.functional.pad(means, (0, 0, 0, length % self.factor))
        return self.matrices[length]

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        return self.matrix(height).T @ (images @ self.matrix(width))


def fully_connected(shape: Sequence[int], hidden: int, classes: int, layers: int = 2) -> nn.Sequential:
    """FCN: `layers` fully connected layers of `hidden` units with ReLU and a classifier, for images (C, H, W)."""
    sizes = [prod(shape), *[hidden] * layers]
    stack = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *stack, nn.Linear(hidden, classes))


def convolutional(shape: Sequence[int], filters: int, classes: int) -> nn.Sequential:
    """CNN: 9 x 9 convolution, pooling, 7 x 7 convolution, pooling, classifier (Jaderberg et al., 2015)."""
    channels, height, width = shape
    high, wide = (((n - 8) // 2 - 6) // 2 for n in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, filters, 9),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(filters, filters, 7),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(filters * high * wide, classes),
    )


def fully_connected_localization(
    shape: Sequence[int], parameters: int, hidden: int = 32, transform: Any = "affine", pool: int = 1
) -> nn.Sequential:
    """Three fully connected layers that answer with `parameters` numbers, those of the identity at first.

    They see images (C, H, W) pooled by `pool`.
    """
    channels, height, width = shape
    network = fully_connected((channels, height // pool, width // pool), hidden, parameters)
    initialize_identity_(network[-1], transform)
    return network if pool == 1 else nn.Sequential(Pool(pool), network)


def convolutional_localization(
    shape: Sequence[int], parameters: int, filters: int = 20, transform: Any = "affine"
) -> nn.Sequential:
    """Pooling by 2, two 5 x 5 convolutions, a pooling between, two fully connected layers; the identity at first."""
    channels, height, width = shape
    high, wide = ((n // 2 - 4) // 2 - 4 for n in (height, width))
    network = nn.Sequential(
        Pool(2),
        nn.Conv2d(channels, filters, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(filters, filters, 5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(filters * high * wide, 20),
        nn.ReLU(),
        nn.Linear(20, parameters),
    )
    initialize_identity_(network[-1], transform)
    return network


def transformed(localization: nn.Module, classifier: nn.Module, transform: Any = "affine", **options: Any) -> nn.Module:
    """A spatial transformer in front of a classifier; ``model[0]`` is the transformer."""
    return nn.Sequential(SpatialTransformer(localization, transform, **options), classifier)


def widest(parameters: int, build: Callable[[int], nn.Module]) -> int:
    """The largest width for which ``build(width)`` has at most `parameters` parameters."""
    low, high = 1, 2
    with torch.device("meta"):
        if parameters_of(build(low)) > parameters:
            raise ValueError(f"{parameters} parameters are too few, even for a width of 1")
        while parameters_of(build(high)) <= parameters:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if parameters_of(build(middle)) <= parameters else (low, middle)
    return low
