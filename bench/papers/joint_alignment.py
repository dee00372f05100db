"""Joint alignment of series by CPAB warps (Weber et al., Diffeomorphic Temporal Alignment Nets, NeurIPS 2019).

A network reads a series and says how to warp its time; it is trained to make the series of each class alike:

    variance within the classes after the warp, as a share of that before  +  regularity * prior

The labels are asked for in training alone: a series of the test set is warped by what the network sees of it. Measured
on the test set is the share of the variance that is left, and the accuracy of the nearest class mean of the training
set, before and after. A warp that stretches what is flat lowers the variance too, and need not look at the series for
it: "..., one warp" learns one for all series, of the same loss; and variance "in the series' own time" weights every
value by how much of its series it stands for.

As in the paper, the prior is -2 log of the density of a Gaussian process over the velocities, whose covariance falls
with the squared distance, so that warps are small and smooth. Differences: the paper warps up to eight times in a row
by one recurrent network and chooses the prior's numbers for each data set by their accuracy; here there is one warp,
one set of numbers for both data sets, found in a few trials on these sets with two seeds, and the ends of a series stay
where they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pystn
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run, level_check, ratio_check
from bench.papers.training import train
from pystn.torch import SpatialTransformer, initialize_identity_

__all__ = ["EXPERIMENTS"]

SETS = ("GunPoint", "Coffee")
COMMON = ", one warp"  # for all series


class Constant(nn.Module):
    """A localisation network that does not look: the same parameters for every series."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(parameters))

    def forward(self, series: Tensor) -> Tensor:
        return self.theta.expand(len(series), -1)


def series_localization(length: int, warp: pystn.CPAB, filters: int) -> nn.Sequential:
    """Three convolutions along the time, each with a pooling by 2, and a linear layer; the identity at first."""
    stack: list[nn.Module] = []
    for channels in (1, filters, filters):
        stack += [nn.Conv1d(channels, filters, 7, padding=3), nn.ReLU(), nn.AvgPool1d(2)]
    last = nn.Linear(filters * (length // 8), *warp.theta_shape)
    return nn.Sequential(*stack, nn.Flatten(), initialize_identity_(last, warp))


def transformer(model: str, length: int, settings: Any) -> SpatialTransformer:
    warp = pystn.CPAB(settings.cells, (length,), align_corners=True)
    locate = (
        Constant(*warp.theta_shape) if model.endswith(COMMON) else series_localization(length, warp, settings.filters)
    )
    return SpatialTransformer(locate, warp, padding_mode="border")


def precision(warp: pystn.CPAB, smoothness: float) -> Tensor:
    """Of the velocities at the vertices, the inverse of their covariance, exp(-distance^2 / smoothness^2 / 2)."""
    x = warp.vertices[warp.parameters[:, 0], 0]
    covariance = np.exp(-0.5 * ((x[:, None] - x) / smoothness) ** 2)
    return torch.from_numpy(np.linalg.inv(covariance + 1e-4 * np.eye(len(x))).astype(np.float32))


def squared_distances(series: Tensor, labels: Tensor) -> Tensor:
    """Of every value from the mean of its class at this time."""
    members = nn.functional.one_hot(labels).to(series.dtype)
    means = (members.T @ series[:, 0]) / members.sum(0)[:, None]
    return (series[:, 0] - means[labels]).square()


def nearest_mean_accuracy(train_series: Tensor, train_labels: Tensor, test: Tensor, labels: Tensor) -> float:
    """The share of the test series whose nearest class mean of the training series is that of their class."""
    members = nn.functional.one_hot(train_labels).to(test.dtype)
    means = (members.T @ train_series[:, 0]) / members.sum(0)[:, None]
    return float((torch.cdist(test[:, 0], means).argmin(1) == labels).double().mean())


def objective(network: SpatialTransformer, settings: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a batch of series and their classes."""
    prior = precision(network.transform, settings.smoothness)

    def loss(series: Tensor, labels: Tensor) -> Tensor:
        theta = network.localization(series)
        small = torch.einsum("ni,ij,nj->n", theta, prior, theta).mean()
        before, after = (squared_distances(each, labels).mean() for each in (series, network.warp(series, theta)))
        return after / before + settings.regularity * small

    return loss


def variance_left(network: nn.Module, test: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float(squared_distances(network(test), labels).mean() / squared_distances(test, labels).mean())


def variance_left_in_own_time(network: SpatialTransformer, test: Tensor, labels: Tensor) -> float:
    """As `variance_left`, every value weighted by how much of its series it stands for, the slope of the warp."""
    with torch.no_grad():
        grids = torch.from_numpy(network.transform(network.localization(test).numpy()))[..., 0]
        spacing = 2 / (grids.shape[1] - 1)
        slopes = torch.gradient(grids, spacing=spacing, dim=1)[0]
        after = (slopes * squared_distances(network(test), labels)).mean()
        return float(after / squared_distances(test, labels).mean())


def movement(network: SpatialTransformer, test: Tensor) -> float:
    """How far the warps move a point on average, as a share of the series' length."""
    warp = network.transform
    grids = warp(network.localization(test).numpy())
    return float(np.abs(grids - warp(warp.identity())).mean() / 2)


def stacked(series: Tensor, labels: Tensor) -> np.ndarray:
    """A square image for each class: its series below each other, their values as brightness."""
    side = series.shape[2]
    classes = [series[labels == each, 0].numpy() for each in range(int(labels.max()) + 1)]
    return np.stack([rows[np.arange(side) * len(rows) // side] for rows in classes])


def run(context: Context) -> Result:
    settings = context.settings
    runs: list[Run] = []
    gains: list[Check] = []
    panels: list[Panel] = []
    notes: dict[str, Any] = {}
    for model in context.models:
        examples = context.data.series(model.removesuffix(COMMON))
        arrays = examples.train, examples.train_labels, examples.test, examples.test_labels
        series, labels, test, test_labels = map(torch.from_numpy, arrays)
        accuracy = nearest_mean_accuracy(series, labels, test, test_labels)
        aligned, moves, own = [], [], []
        for seed in context.seeds:
            torch.manual_seed(seed)
            network = transformer(model, series.shape[2], settings)
            measure = partial(variance_left, network, test, test_labels)
            pairs = itertools.repeat((examples.train, examples.train_labels))
            runs.append(train(model, seed, network, pairs, measure, settings, objective(network, settings)))
            with torch.no_grad():
                warped = network(test)
                aligned.append(nearest_mean_accuracy(network(series), labels, warped, test_labels))
                own.append(variance_left_in_own_time(network, test, test_labels))
                moves.append(movement(network, test))
        notes[model] = {
            "variance_left_in_own_time": own,
            "accuracy_before": accuracy,
            "accuracy_after": aligned,
            "mean_movement": moves,
        }
        if not model.endswith(COMMON):
            text = f"{model}: accuracy of the nearest mean, after / before"
            gains.append(Check(f"{model}: variance left in the series' own time", float(np.mean(own)), 1.0))
            gains.append(Check(text, float(np.mean(aligned)) / accuracy, 1.0, at_most=False))
            panels += [
                Panel(f"{model}, the test series of each class", stacked(test, test_labels)),
                Panel("aligned", stacked(warped, test_labels)),
            ]
    checks = [
        check
        for name in SETS
        for check in (*level_check(runs, name, 0.7), *ratio_check(runs, name, name + COMMON, 0.7))
    ]
    return Result(runs, [*checks, *gains], panels, notes)


SETTINGS = {
    "steps": 500,
    "optimizer": "adam",
    "rate": 0.001,
    "schedule": "cosine",
    "evaluations": 20,
    "cells": 16,
    "filters": 16,
    "smoothness": 0.15,
    "regularity": 0.3,
}

EXPERIMENTS = (
    Experiment(
        "joint-alignment",
        "CPAB warps that a network reads off series make those of a class alike",
        "variance within classes on the test set falls by 30 %, the nearest class mean is right no less often",
        SETS,
        tuple(name + each for name in SETS for each in ("", COMMON)),
        SETTINGS,
        run,
        {"steps": 5, "evaluations": 2},
        measure="variance left",
    ),
)
