"""Digits learnt from a few, with transforms drawn from a posterior (Schwöbel et al., 2022).

A probabilistic transformer sees every training digit through another transform at every step, as if the data were
augmented by what suits them; in testing it averages what the classifier says of 10 draws. So it should read better
where there are few examples, and know better how sure it is.

Settings are the paper's, but for one: 600 epochs in batches of 8, Adam at 0.001, a tenth of that for the localisation
network; one draw in training. The published code starts its STN at another scale (0.5) than its P-STN (1) and lets
them learn at different rates. Here both start at the identity, from the same weights, and learn alike; transforms are
similarities, which those of the code's four parameters are not. Digits are as many of each class; a seed has its own.

Weights do not decay; the paper's do, by 0.01 (`--set weight_decay=0.01`). That keeps all classifiers from being sure,
those that see each digit through ten transforms most of all: as in the paper's own reliability diagram P-STN then says
too little, STN too much, and STN by less. Localisation networks say deviations from where they start, so that decay
pulls there and not to a scale of zero.

"student" is the paper's posterior; "normal" starts as broad, and has the prior of the authors' notebooks, which does
not ask it to widen.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import expm1, log
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pystn
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run, level_check, ratio_check
from bench.papers.networks import convolutional_localization, widest
from bench.papers.training import as_float, batches_of, train
from pystn.torch import ProbabilisticSpatialTransformer, SpatialTransformer, initialize_params_

__all__ = ["EXPERIMENTS"]

STUDENT, NORMAL = "P-STN student", "P-STN normal"
IDENTITY = torch.as_tensor(pystn.identity_params("similarity"), dtype=torch.float32)
NOISE_SEED = 20220801
BINS = 10


def classifier(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * width, 50),
        nn.ReLU(),
        nn.Linear(50, classes),
    )


class Deviations(nn.Module):
    """A localisation network that says how far from `start` parameters are."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.network = convolutional_localization((1, 28, 28), start.numel(), transform="similarity")
        initialize_params_(self.network[-1], 0.0)
        self.register_buffer("start", start)

    def forward(self, images: Tensor) -> Tensor:
        return self.start + self.network(images)


class Reader(nn.Module):
    """Log-probabilities of a model: "CNN", "STN" or "P-STN ..."; with one seed classifiers begin alike."""

    def __init__(self, model: str, width: int, classes: int, settings: Any) -> None:
        super().__init__()
        self.classifier = classifier(width, classes)
        self.model, self.probabilistic = model, model.startswith("P-STN")
        self.transformer: Any = None
        if model == "STN":
            self.transformer = SpatialTransformer(Deviations(IDENTITY), "similarity")
        elif self.probabilistic:
            student = model == STUDENT
            spread = settings.spread**2 if student else settings.spread  # beta or sigma
            raw = torch.full_like(IDENTITY, log(expm1(spread)))
            self.transformer = ProbabilisticSpatialTransformer(
                Deviations(torch.cat([IDENTITY, raw])),
                "similarity",
                posterior="student" if student else "normal",
                prior_spread=1.0 if student else settings.normal_prior,
            )

    def seen(self, images: Tensor, samples: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """What the classifier sees, (N, S, 1, H, W), and the divergence from the prior, (N,)."""
        if self.probabilistic:
            noise = self.transformer.noise((len(images), samples, IDENTITY.numel()), rng, np.float32)
            output, divergence = self.transformer(images, noise)
            return output.movedim(2, 1), divergence
        output = images if self.transformer is None else self.transformer(images)
        return output[:, None], images.new_zeros(len(images))

    def forward(self, images: Tensor, samples: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, classes) of what S draws say together, and the divergence."""
        output, divergence = self.seen(images, samples, rng)
        each = nn.functional.log_softmax(self.classifier(output.flatten(0, 1)), -1).unflatten(0, output.shape[:2])
        return (self.transformer.marginal(each, self.training) if self.probabilistic else each[:, 0]), divergence


def probabilities(reader: Reader, images: np.ndarray, samples: int, size: int = 500) -> np.ndarray:
    rng = np.random.default_rng(NOISE_SEED)
    with torch.no_grad():
        parts = [
            reader(torch.from_numpy(images[start : start + size]), samples, rng)[0].exp().numpy()
            for start in range(0, len(images), size)
        ]
    return np.concatenate(parts)


def subset(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` examples, as many of each class."""
    classes = np.unique(labels)
    of_classes = (np.flatnonzero(labels == each) for each in classes)
    return np.concatenate([rng.choice(indices, count // len(classes), False) for indices in of_classes])


def calibrated(said: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How well probabilities say how often they are right."""
    curve = pystn.reliability_curve(said, labels, bins=BINS)
    return {
        "expected_calibration_error": float(pystn.expected_calibration_error(said, labels, bins=BINS)),
        "brier_score": float(pystn.brier_score(said, labels)),
        "negative_log_likelihood": float(-np.log(np.maximum(said[np.arange(len(said)), labels], 1e-12)).mean()),
        "reliability": {name: np.asarray(values).tolist() for name, values in curve._asdict().items()},
    }


def checks(runs: list[Run], calibration: dict[str, list[dict[str, Any]]], limit: float) -> list[Check]:
    """That P-STN reads better than the others, and is better calibrated than the STN."""
    result = [*level_check(runs, STUDENT, limit)]
    for other in ("STN", "CNN"):
        result += ratio_check(runs, STUDENT, other, 1.0)
    if {"STN", STUDENT} <= calibration.keys():
        for score in ("expected_calibration_error", "brier_score"):
            mine, others = (np.mean([each[score] for each in calibration[model]]) for model in (STUDENT, "STN"))
            result.append(Check(f"{score.replace('_', ' ')}, {STUDENT} / STN", float(mine / others), 1.0))
    return result


def run(context: Context) -> Result:
    settings, examples = context.settings, context.data.mnist
    test, labels = as_float(examples.test[: settings.tests]), examples.test_labels[: settings.tests]
    training = SimpleNamespace(**vars(settings), steps=settings.epochs * (settings.digits // settings.batch))
    panels, runs, calibration = [], [], {}
    for model in context.models:
        width = widest(settings.parameters, lambda width, model=model: Reader(model, width, examples.classes, settings))
        for seed in context.seeds:
            rng = np.random.default_rng(seed)
            chosen = subset(examples.train_labels, settings.digits, rng)
            batches: Iterator[Any] = iter(
                batches_of(examples.train[chosen], examples.train_labels[chosen], settings.batch, rng.spawn(1)[0])
            )
            torch.manual_seed(seed)
            reader = Reader(model, width, examples.classes, settings)

            def loss(images: Tensor, labels: Tensor, reader: Reader = reader, rng: Any = rng) -> Tensor:
                scores, divergence = reader(images, settings.samples, rng)
                return nn.functional.nll_loss(scores, labels) + settings.divergence * divergence.mean()

            said: list[np.ndarray] = []

            def measure(reader: Reader = reader, said: list[np.ndarray] = said) -> float:
                said[:] = [probabilities(reader, test, settings.test_samples)]
                return float((said[0].argmax(1) != labels).mean())

            runs.append(train(model, seed, reader, batches, measure, training, loss))
            calibration.setdefault(model, []).append(calibrated(said[0].astype(np.float64), labels))
        if model != "CNN":
            first = torch.from_numpy(test[:2]).repeat_interleave(1 if "P-STN" in model else 5, 0)
            with torch.no_grad():
                seen = reader.seen(first, 5, np.random.default_rng(NOISE_SEED))[0].flatten(0, 2).numpy()
            panels.append(Panel(f"what {model} makes of two digits", seen))
    return Result(runs, checks(runs, calibration, settings.limit), panels, calibration)


def experiment(digits: int, divergence: float, limit: float) -> Experiment:
    return Experiment(
        f"p-stn-{digits}",
        f"transforms drawn from a posterior help to learn digits from {digits}",
        f"P-STN error <= {100 * limit:g} %, below STN's and CNN's; calibration error and Brier score below STN's",
        ("mnist",),
        ("CNN", "STN", STUDENT, NORMAL),
        {
            "digits": digits,
            "epochs": 600,
            "batch": 8,
            "optimizer": "adam",
            "rate": 0.001,
            "localization_rate": 0.1,
            "weight_decay": 0.0,
            "schedule": "constant",
            "evaluations": 4,
            "parameters": 33_200,
            "tests": 5000,
            "spread": 0.08,
            "normal_prior": 0.05,
            "divergence": divergence,
            "samples": 1,
            "test_samples": 10,
            "limit": limit,
        },
        run,
        {"epochs": 2, "evaluations": 2, "tests": 50, "digits": 30},
        {},
    )


EXPERIMENTS = (experiment(30, 1e-3, 0.25), experiment(100, 3e-4, 0.11))
