"""Perturbed MNIST, read by a network that refines its warp again and again (Lin and Lucey, 2017).

Digits are seen through a homography that moves each corner, and all of them together, at random; a perturbation that
folds the image is drawn again. A CNN reads what it sees; an STN warps that once more; an IC-STN has the original image
and the perturbation as the warp it starts from, and refines this 2 or 4 times with one network. Layers are those of the
published code: STN and IC-STN have 39 048 parameters, the CNN 39 079.

The published code trains 500 000 steps of SGD, and its sides differ in more than what is compared: its geometric
predictor learns at 1e-2 in an STN and at 1e-4 in an IC-STN. Here both learn at one rate, that of the classifier: 0.003,
at which both were better than at 0.001 in trials of up to 800 steps of Adam. The code also multiplies updates on the
left, ``--set order=left``; here they are on the right, as in a cascade of images. The warp that an IC-STN starts from
is the paper's, and a part of its advantage, for it sees again what the perturbation cut off:
``--set source=perturbed`` gives it only what the others see.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pystn
from bench.papers.distortions import CORNERS, SIDE, convex
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run
from bench.papers.training import as_float, batches_of, train
from pystn.torch import (
    InverseCompositionalSpatialTransformer,
    SpatialTransformer,
    initialize_identity_,
    warp_projective,
)

__all__ = ["EXPERIMENTS", "perturbations"]

TEST_SEED = 20170721
ORDER = ("IC-STN-4", "IC-STN-2", "STN", "CNN")  # from the least error to the most


def perturbations(count: int, settings: Any, rng: np.random.Generator) -> np.ndarray:
    """Homographies (N, 3, 3) that move corners by `settings.corners` and all four by `settings.shift`, deviations."""
    corners, again = np.zeros((count, 4, 2)), np.arange(count)
    while len(again):
        moved = rng.normal(0, settings.corners, (len(again), 4, 2)) + rng.normal(0, settings.shift, (len(again), 1, 2))
        corners[again] = CORNERS + moved
        again = again[~convex(corners[again])]
    return pystn.homography_from_points(np.broadcast_to(CORNERS, corners.shape), corners).astype(np.float32)


def full_classifier(classes: int) -> nn.Sequential:
    """What reads digits without a transformer."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 9, 3),
        nn.ReLU(),
        nn.Conv2d(9, 12, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, 48),
        nn.ReLU(),
        nn.Linear(48, classes),
    )


def small_classifier(classes: int) -> nn.Sequential:
    """What reads digits behind a transformer."""
    return nn.Sequential(nn.Conv2d(1, 3, 9), nn.ReLU(), nn.Flatten(), nn.Linear(1200, classes))


def predictor() -> nn.Sequential:
    """The localisation network: the identity at first."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 7),
        nn.ReLU(),
        nn.Conv2d(4, 8, 7),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 48),
        nn.ReLU(),
        initialize_identity_(nn.Linear(48, 8), "projective"),
    )


class Reader(nn.Module):
    """Scores of images (N, 1, 28, 28) seen through warps (N, 3, 3), by a model's name: "CNN", "STN", "IC-STN-4".

    With one seed the networks of STN and IC-STN begin alike.
    """

    def __init__(self, model: str, classes: int, order: str = "right", source: str = "original") -> None:
        super().__init__()
        self.transformer: Any = None
        self.refines = model.startswith("IC-STN-") and source == "original"
        if model == "CNN":
            self.classifier = full_classifier(classes)
            return
        self.classifier = small_classifier(classes)
        if model == "STN":
            self.transformer = SpatialTransformer(predictor(), "projective")
        else:
            steps = int(model.removeprefix("IC-STN-"))
            self.transformer = InverseCompositionalSpatialTransformer(
                predictor(), "projective", steps=steps, order=order
            )

    def seen(self, images: Tensor, warps: Tensor) -> Tensor:
        """What the classifier sees."""
        if self.refines:
            return self.transformer(images, warps)
        perturbed = warp_projective(images, warps, (SIDE, SIDE))
        return perturbed if self.transformer is None else self.transformer(perturbed)

    def forward(self, images: Tensor, warps: Tensor) -> Tensor:
        return self.classifier(self.seen(images, warps))


def batches(context: Context, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Digits, warps and classes: the same for every model of a seed."""
    examples, rng = context.data.mnist, np.random.default_rng(seed)
    for images, labels in batches_of(examples.train, examples.train_labels, context.settings.batch, rng):
        yield images, perturbations(len(images), context.settings, rng), labels


def error(reader: Reader, images: np.ndarray, warps: np.ndarray, labels: np.ndarray, size: int = 500) -> float:
    """The share of images read wrongly."""
    wrong = 0
    with torch.no_grad():
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            scores = reader(torch.from_numpy(images[part]), torch.from_numpy(warps[part]))
            wrong += int((scores.argmax(1).numpy() != labels[part]).sum())
    return wrong / len(images)


def ordered(runs: list[Run]) -> list[Check]:
    """In how many seeds errors fall from model to model."""
    seeds = sorted({run.seed for run in runs})
    of = {(run.model, run.seed): run.value for run in runs}
    if {model for model, _ in of} != set(ORDER):
        return []
    right = [all(of[a, s] < of[b, s] for a, b in pairwise(ORDER)) for s in seeds]
    return [Check("seeds with errors " + " < ".join(ORDER), sum(right), (2 * len(seeds) + 2) // 3, at_most=False)]


def run(context: Context) -> Result:
    settings, examples = context.settings, context.data.mnist
    images, labels = as_float(examples.test[: settings.tests]), examples.test_labels[: settings.tests]
    warps = perturbations(len(images), settings, np.random.default_rng(TEST_SEED))
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(examples.classes)]
    shown = [torch.from_numpy(array[first]) for array in (images, warps)]
    panels = [Panel("perturbed", warp_projective(*shown, (SIDE, SIDE))[:, 0].numpy())]
    runs = []
    for model in context.models:
        for seed in context.seeds:
            torch.manual_seed(seed)
            reader = Reader(model, examples.classes, settings.order, settings.source)
            reader.to(memory_format=torch.channels_last)  # the same numbers, a third faster

            def loss(images: Tensor, warps: Tensor, labels: Tensor, reader: Reader = reader) -> Tensor:
                return nn.functional.cross_entropy(reader(images, warps), labels)

            measure = partial(error, reader, images, warps, labels)
            runs.append(train(model, seed, reader, batches(context, seed), measure, settings, loss))
        if model != "CNN":
            with torch.no_grad():
                panels.append(Panel(f"what {model} makes of it", reader.seen(*shown)[:, 0].numpy()))
    return Result(runs, ordered(runs), panels)


EXPERIMENTS = (
    Experiment(
        "ic-stn",
        "a warp refined again and again reads perturbed digits better, with no more parameters",
        "error of IC-STN-4 < IC-STN-2 < STN < CNN in 2 of 3 seeds",
        ("mnist",),
        ("CNN", "STN", "IC-STN-2", "IC-STN-4"),
        {
            "steps": 1500,
            "batch": 100,
            "optimizer": "adam",
            "rate": 0.003,
            "localization_rate": 1.0,
            "schedule": "cosine",
            "evaluations": 6,
            "tests": 10_000,
            "corners": 0.25,
            "shift": 0.25,
            "order": "right",
            "source": "original",
        },
        run,
        {"steps": 8, "batch": 16, "evaluations": 2, "tests": 50},
        {"steps": 2000},
    ),
)
