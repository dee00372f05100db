"""Distorted MNIST, read without and with a spatial transformer (Jaderberg et al., 2015, table 1).

The paper trains 150 000 steps of plain SGD, batches of 256, rate 0.01 divided by 10 every 50 000 steps, with about
400 000 parameters a model. R, P and E are trained so here too, in 20 000 steps: momentum of 0.9, a tenfold rate in
effect, makes up for that. Where there is more to find, or steps take longer (RTS, TC, CNN), it is Adam at 0.003 along a
cosine, which gets further in few steps. Digits are distorted anew for every batch; the test set once, by a fixed seed.
All models of an experiment have the same number of parameters, as nearly as the width of their classifiers allows.

How much a transformer helps depends on how far both sides are trained: with Adam both come out better, and the ratio
of their errors is nearer to 1 (``--set optimizer=adam --set rate=0.003 --set schedule=cosine``). With SGD at 0.1 a
transformer loses the digits from sight at once, for good, unless its localisation network learns more slowly
(``localization_rate``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

import pystn
from bench.papers.distortions import CONTROL_POINTS, DISTORTIONS, distorted
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run, level_check, ratio_check
from bench.papers.networks import (
    Pool,
    convolutional,
    convolutional_localization,
    fully_connected,
    fully_connected_localization,
    transformed,
    widest,
)
from bench.papers.training import batches_of, classification_error, train

__all__ = ["EXPERIMENTS"]

TEST_SEED = 20150605


def transform_of(name: str, size: int) -> tuple[Any, int]:
    """What `SpatialTransformer` takes, and its number of parameters, for "Aff", "Proj" and "TPS"."""
    if name == "TPS":
        return pystn.ThinPlateSpline(CONTROL_POINTS, (size, size)), CONTROL_POINTS.size
    return {"Aff": ("affine", 6), "Proj": ("projective", 8)}[name]


def build(model: str, width: int, size: int, pool: int, classes: int) -> nn.Module:
    """ "FCN", "CNN", "ST-FCN Aff", "ST-CNN TPS", ...; `width` is that of the classifier's layers."""
    name, _, transform = model.removeprefix("ST-").partition(" ")
    seen = (1, size // pool, size // pool)
    make = {"FCN": fully_connected, "CNN": convolutional}[name]
    classifier = make(seen, width, classes)
    if pool > 1:
        classifier = nn.Sequential(Pool(pool), classifier)
    if not transform:
        return classifier
    locate = {"FCN": partial(fully_connected_localization, pool=pool), "CNN": convolutional_localization}[name]
    kind, parameters = transform_of(transform, size)
    return transformed(locate((1, size, size), parameters, transform=kind), classifier, kind)


def batches(context: Context, distortion: str, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Distorted digits and their classes: the same for every model of a seed."""
    examples, rng = context.data.mnist, np.random.default_rng(seed)
    for images, labels in batches_of(examples.train, examples.train_labels, context.settings.batch, rng):
        yield DISTORTIONS[distortion].apply(images, rng), labels


def run(context: Context, distortion: str, checks: Callable[[list[Run]], list[Check]]) -> Result:
    settings, examples = context.settings, context.data.mnist
    size = DISTORTIONS[distortion].size
    test, labels = examples.test[: settings.tests], examples.test_labels[: settings.tests]
    test = distorted(test, distortion, TEST_SEED)
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(examples.classes)]
    panels = [Panel("distorted", test[first, 0])]
    runs = []
    for model in context.models:
        make = partial(build, model, size=size, pool=settings.pool, classes=examples.classes)
        width = widest(settings.parameters, make)
        for seed in context.seeds:
            torch.manual_seed(seed)
            network = make(width)
            measure = partial(classification_error, network, test, labels)
            runs.append(train(model, seed, network, batches(context, distortion, seed), measure, settings))
        if "ST-" in model:
            with torch.no_grad():
                panels.append(
                    Panel(f"what {model} makes of it", network[0](torch.from_numpy(test[first]))[:, 0].numpy())
                )
    return Result(runs, checks(runs), panels)


def rotated(runs: list[Run]) -> list[Check]:
    levels = [*level_check(runs, "FCN", 0.06), *level_check(runs, "ST-FCN Aff", 0.04)]
    return [*ratio_check(runs, "ST-FCN Aff", "FCN", 0.75), *levels]


def rotated_convolutional(runs: list[Run]) -> list[Check]:
    return [*ratio_check(runs, "ST-CNN Aff", "CNN", 0.85), *level_check(runs, "CNN", 0.04)]


def rotated_scaled_translated(runs: list[Run]) -> list[Check]:
    return ratio_check(runs, "ST-FCN Aff", "FCN", 0.75)


def projected(runs: list[Run]) -> list[Check]:
    return [*ratio_check(runs, "ST-FCN Aff", "FCN", 0.75), *ratio_check(runs, "ST-FCN Proj", "FCN", 0.75)]


def elastic(runs: list[Run]) -> list[Check]:
    pairs = (("ST-FCN TPS", "ST-FCN Aff"), ("ST-FCN Aff", "FCN"), ("ST-FCN TPS", "FCN"))
    return [check for pair in pairs for check in ratio_check(runs, *pair, 1.0)]


def cluttered(runs: list[Run]) -> list[Check]:
    return [*ratio_check(runs, "ST-CNN Aff", "CNN", 0.6), *ratio_check(runs, "ST-FCN Aff", "FCN", 0.6)]


SETTINGS = {
    "steps": 20_000,
    "batch": 256,
    "optimizer": "sgd",
    "rate": 0.01,
    "localization_rate": 1.0,
    "schedule": "drops",
    "evaluations": 20,
    "parameters": 400_000,
    "pool": 1,
    "tests": 10_000,
}
FASTER = {**SETTINGS, "optimizer": "adam", "rate": 0.003, "schedule": "cosine"}
SMALL = {**FASTER, "steps": 8000, "batch": 128, "parameters": 100_000}  # convolutions take time
QUICK = {"steps": 12, "batch": 32, "evaluations": 3, "tests": 50, "parameters": 50_000}
DIGITS = {"steps": 3000, "batch": 64, "optimizer": "adam", "rate": 0.003, "schedule": "cosine"}


def experiment(
    name: str,
    distortion: str,
    shows: str,
    threshold: str,
    models: tuple[str, ...],
    settings: dict[str, Any],
    checks: Callable[[list[Run]], list[Check]],
) -> Experiment:
    disturbed = partial(run, distortion=distortion, checks=checks)
    return Experiment(name, shows, threshold, ("mnist",), models, settings, disturbed, QUICK, DIGITS)


EXPERIMENTS = (
    experiment(
        "stn-mnist-r",
        "R",
        "a spatial transformer helps a fully connected network to read rotated digits",
        "ST-FCN error <= 0.75 x FCN error; FCN <= 6 %, ST-FCN <= 4 %",
        ("FCN", "ST-FCN Aff"),
        SETTINGS,
        rotated,
    ),
    experiment(
        "stn-mnist-r-cnn",
        "R",
        "a spatial transformer helps a convolutional network to read rotated digits",
        "ST-CNN error <= 0.85 x CNN error; CNN <= 4 %",
        ("CNN", "ST-CNN Aff"),
        SMALL,
        rotated_convolutional,
    ),
    experiment(
        "stn-mnist-rts",
        "RTS",
        "a spatial transformer finds digits that lie anywhere, turned, of any size",
        "ST-FCN error <= 0.75 x FCN error",
        ("FCN", "ST-FCN Aff"),
        {**FASTER, "pool": 2},
        rotated_scaled_translated,
    ),
    experiment(
        "stn-mnist-p",
        "P",
        "a spatial transformer straightens digits seen in perspective",
        "errors of ST-FCN, affine and projective, <= 0.75 x FCN error",
        ("FCN", "ST-FCN Aff", "ST-FCN Proj"),
        SETTINGS,
        projected,
    ),
    experiment(
        "stn-mnist-e",
        "E",
        "the more freely a transformer warps, the better elastic digits are read",
        "ST-FCN TPS error <= ST-FCN affine error, both <= FCN error",
        ("FCN", "ST-FCN Aff", "ST-FCN TPS"),
        SETTINGS,
        elastic,
    ),
    experiment(
        "stn-mnist-tc",
        "TC",
        "a spatial transformer finds the digit among clutter",
        "ST-CNN error <= 0.6 x CNN error, ST-FCN error <= 0.6 x FCN error",
        ("FCN", "ST-FCN Aff", "CNN", "ST-CNN Aff"),
        {**SMALL, "steps": 5000, "pool": 2},
        cluttered,
    ),
)
