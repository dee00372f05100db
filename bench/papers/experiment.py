"""The records an experiment is made of: what it is, what it is given, what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.papers.data import Data

__all__ = ["Check", "Context", "Experiment", "Panel", "Result", "Run", "level_check", "mean", "ratio_check"]


@dataclass(frozen=True)
class Experiment:
    """A row of the table."""

    name: str
    shows: str
    threshold: str  # in words; the run's checks say whether it is met
    needs: tuple[str, ...]
    models: tuple[str, ...]
    settings: Mapping[str, Any]
    run: Callable[[Context], Result]
    quick: Mapping[str, Any] = field(default_factory=dict)
    digits: Mapping[str, Any] = field(default_factory=dict)
    measure: str = "error"  # of a run; shares are shown in percent


@dataclass
class Run:
    """One model, trained with one seed."""

    model: str
    seed: int
    value: float  # the experiment's measure, a share
    parameters: int
    seconds: float
    curve: list[dict[str, float]] = field(default_factory=list)  # step, loss, value


@dataclass(frozen=True)
class Check:
    """A threshold and what was measured."""

    text: str
    measured: float
    limit: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


@dataclass(frozen=True)
class Panel:
    """A row of the picture: images (N, H, W) from left to right."""

    title: str
    images: np.ndarray


@dataclass
class Result:
    runs: Sequence[Run]
    checks: Sequence[Check] = ()
    panels: Sequence[Panel] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)  # further numbers, for the JSON file


@dataclass
class Context:
    """What an experiment is given."""

    settings: SimpleNamespace
    data: Data
    models: tuple[str, ...]
    seeds: range
    out: Path


def mean(runs: Sequence[Run], model: str) -> float | None:
    """A model's mean over the seeds; None where it did not run."""
    values = [run.value for run in runs if run.model == model]
    return float(np.mean(values)) if values else None


def ratio_check(runs: Sequence[Run], model: str, other: str, limit: float) -> list[Check]:
    """That a model's mean is at most `limit` times another's; no check where one of the two did not run."""
    mine, others = mean(runs, model), mean(runs, other)
    if mine is None or others is None:
        return []
    return [Check(f"{model} / {other}", mine / others if others else np.inf, limit)]


def level_check(runs: Sequence[Run], model: str, limit: float, at_most: bool = True) -> list[Check]:
    """That a model's mean is at most, or at least, `limit`; no check where it did not run."""
    value = mean(runs, model)
    return [] if value is None else [Check(model, value, limit, at_most)]
