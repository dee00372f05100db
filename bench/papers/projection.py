"""Digits in volumes, projected, without and with a spatial transformer in 3-D (Jaderberg et al., 2015, appendix A.3).

A volume holds a digit extruded along its depth and turned about any axis. The transformer reads the volume, maps it and
sums it along its depth, in one go (`pystn.warp_project`); what classifies sees nothing but that 2-D image. It is held
against the same network, made as large as both together, on the sum of the volume as it is.

The paper shows a figure of 60 x 60 x 60 voxels, digits moved and turned, and no numbers; volumes here are smaller, and
digits are turned alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pystn
import pystn.torch as stn
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run, mean
from bench.papers.networks import convolutional, widest
from bench.papers.training import as_float, batches_of, classification_error, train

__all__ = ["EXPERIMENTS"]

TEST_SEED = 20150605
SLICES = 8  # of an extruded digit
EXTENT = np.array([0.9, 0.9, 0.25])  # of a digit's image in the volume, half its width, height and depth


class Projection(nn.Module):
    """The sum along the depth of volumes (N, C, D, H, W), mapped as a network says where there is one."""

    def __init__(self, localization: nn.Module | None = None) -> None:
        super().__init__()
        self.localization = localization

    def forward(self, volumes: Tensor) -> Tensor:
        size = volumes.shape[2:]
        if self.localization is None:
            return volumes.sum(2) / size[0]
        theta = self.localization(volumes).unflatten(-1, (3, 4))
        return stn.warp_project(volumes, theta, size, reduce="mean")


def volume_localization(size: int, filters: int = 8) -> nn.Sequential:
    """Pooling by 2, two convolutions, a pooling between, two fully connected layers; the identity at first."""
    side = (size // 2 - 4) // 2 - 2
    last = nn.Linear(32, 12)
    return nn.Sequential(
        nn.AvgPool3d(2),
        nn.Conv3d(1, filters, 5),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(filters, 2 * filters, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * filters * side**3, 32),
        nn.ReLU(),
        stn.initialize_identity_(last, "affine", 3),
    )


def build(model: str, width: int, size: int, classes: int) -> nn.Module:
    locate = volume_localization(size) if model.startswith("ST-3D") else None
    return nn.Sequential(Projection(locate), convolutional((1, size, size), width, classes))


def turned(images: np.ndarray, size: int, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Digits (N, 1, H, W) extruded, and turned about an axis of any direction by up to so many degrees."""
    axis = rng.normal(size=(len(images), 3))
    angle = np.deg2rad(degrees) * rng.uniform(0, 1, (len(images), 1))
    turn = pystn.rotation_matrix(angle * axis / np.linalg.norm(axis, axis=1, keepdims=True))
    turn[:, :, :3] /= EXTENT[:, None]
    extruded = np.broadcast_to(images[:, :, None], (len(images), 1, SLICES, *images.shape[2:]))
    return pystn.warp_affine(extruded, turn.astype(np.float32), (size, size, size))


def batches(context: Context, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Volumes and their classes: the same for every model of a seed."""
    settings, examples, rng = context.settings, context.data.mnist, np.random.default_rng(seed)
    for images, labels in batches_of(examples.train, examples.train_labels, settings.batch, rng):
        yield turned(images, settings.size, settings.degrees, rng), labels


def run(context: Context) -> Result:
    settings, examples = context.settings, context.data.mnist
    size, labels = settings.size, examples.test_labels[: settings.tests]
    rng = np.random.default_rng(TEST_SEED)
    test = turned(as_float(examples.test[: settings.tests]), size, settings.degrees, rng)
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(examples.classes)]
    runs, panels = [], []
    for model in context.models:
        make = partial(build, model, size=size, classes=examples.classes)
        width = widest(settings.parameters, make)
        for seed in context.seeds:
            torch.manual_seed(seed)
            network = make(width)
            measure = partial(classification_error, network, test, labels, size=250)
            runs.append(train(model, seed, network, batches(context, seed), measure, settings))
        with torch.no_grad():
            panels.append(Panel(f"what {model} sees", network[0](torch.from_numpy(test[first]))[:, 0].numpy()))
    return Result(runs, checks(runs), panels)


def checks(runs: list[Run]) -> list[Check]:
    without, transformed = (mean(runs, model) for model in MODELS)
    if without is None or transformed is None:
        return []
    return [Check("points of error less", without - transformed, 0.1, at_most=False)]


MODELS = ("sum", "ST-3D, sum")
SETTINGS: dict[str, Any] = {
    "steps": 2000,
    "batch": 64,
    "optimizer": "adam",
    "rate": 0.001,
    "localization_rate": 1.0,
    "schedule": "cosine",
    "evaluations": 10,
    "parameters": 40_000,
    "size": 24,
    "degrees": 90,
    "tests": 2000,
}

EXPERIMENTS = (
    Experiment(
        "projection-3d",
        "a spatial transformer turns volumes so that their projection can be read",
        "10 points of error less than without it",
        ("mnist",),
        MODELS,
        SETTINGS,
        run,
        {"steps": 4, "batch": 16, "evaluations": 2, "tests": 50},
        {"steps": 1500},
    ),
)
