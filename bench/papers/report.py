"""What came out: the table, the JSON file, the picture."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.machine import model as processor
from bench.papers.experiment import Experiment, Result, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "table", "write_json"]

COLORS = ("#7f7f7f", "#2e75b6", "#d1543a", "#3a9a5b", "#8a5fbf", "#c99a2e")
LIBRARIES = ("numpy", "torch", "pystn")


def by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    models: dict[str, list[Run]] = {}
    for run in runs:
        models.setdefault(run.model, []).append(run)
    return models


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Of one model's seeds."""
    values = [run.value for run in runs]
    return {
        "mean": float(np.mean(values)),
        "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": values,
        "seeds": [run.seed for run in runs],
        "parameters": runs[0].parameters,
        "seconds": float(np.mean([run.seconds for run in runs])),
    }


def table(experiment: Experiment, result: Result) -> Iterator[str]:
    """Lines: each model's mean, each threshold."""
    models = by_model(result.runs)
    width = max(map(len, models), default=5)
    heads = f"{experiment.measure + ' %':>12}  {'±':>5}  {'parameters':>10}  {'s a seed':>8}"
    yield f"{'model':<{width}}  {heads}  each seed"
    for name, runs in models.items():
        s = summary(runs)
        spread = "" if s["deviation"] is None else f"{100 * s['deviation']:.2f}"
        seeds = " ".join(f"{100 * value:.2f}" for value in s["values"])
        numbers = f"{100 * s['mean']:>12.2f}  {spread:>5}  {s['parameters']:>10}  {s['seconds']:>8.0f}"
        yield f"{name:<{width}}  {numbers}  {seeds}"
    for check in result.checks:
        relation = "<=" if check.at_most else ">="
        verdict = "met" if check.met else "NOT MET"
        yield f"{check.text}: {check.measured:.4g}, threshold {relation} {check.limit:g}: {verdict}"


def machine() -> dict[str, Any]:
    from pystn.backends import cpu

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "instruction_set": cpu.current_level(),
    }


def finite(value: Any) -> Any:
    """Numbers that JSON has none for, as of an empty bin, as null."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def write_json(
    path: Path, experiment: Experiment, settings: Mapping[str, Any], result: Result, arguments: Sequence[str]
) -> None:
    """Everything: where it is from, what was set, what came out."""
    document = {
        "experiment": experiment.name,
        "shows": experiment.shows,
        "threshold": experiment.threshold,
        "measure": experiment.measure,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.papers", *arguments]),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "settings": dict(settings),
        "models": {name: summary(runs) for name, runs in by_model(result.runs).items()},
        "checks": [
            {
                "text": check.text,
                "measured": float(check.measured),
                "limit": check.limit,
                "at_most": check.at_most,
                "met": bool(check.met),
            }
            for check in result.checks
        ],
        "notes": dict(result.notes),
        "runs": [vars(run) for run in result.runs],
    }
    path.write_text(json.dumps(finite(document), indent=1, allow_nan=False) + "\n")


def draw_curves(axes: Axes, experiment: Experiment, models: Mapping[str, Sequence[Run]]) -> None:
    for color, (name, runs) in zip(COLORS, models.items(), strict=False):
        for run in runs:
            steps, values = ([point[key] for point in run.curve] for key in ("step", "value"))
            label = name if run is runs[0] else None
            axes.plot(steps, 100 * np.array(values), color=color, label=label, linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{experiment.measure} %")
    if experiment.measure == "error" and all(
        point["value"] > 0 for runs in models.values() for point in runs[-1].curve
    ):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_bars(axes: Axes, experiment: Experiment, models: Mapping[str, Sequence[Run]]) -> None:
    for row, (color, runs) in enumerate(zip(COLORS, models.values(), strict=False)):
        values = 100 * np.array([run.value for run in runs])
        axes.barh(row, values.mean(), 0.6, color=color, alpha=0.75)
        axes.plot(values, np.full(len(values), row), "|", color="black", markersize=10)
        axes.text(values.mean(), row, f"  {values.mean():.2f}", va="center")
    axes.set_yticks(range(len(models)), list(models))
    axes.invert_yaxis()
    axes.set_xlabel(f"{experiment.measure} %, mean and each seed")
    axes.spines[["top", "right"]].set_visible(False)


def strip(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W) beside each other, with a gap of the background's colour."""
    gap = max(1, images.shape[2] // 10)
    padded = np.pad(images.astype(float), ((0, 0), (0, 0), (0, gap)), constant_values=np.nan)
    return padded.transpose(1, 0, 2).reshape(images.shape[1], -1)[:, :-gap]


def draw(path: Path, experiment: Experiment, result: Result) -> None:
    """Learning curves, results, and the experiment's images below."""
    from matplotlib.figure import Figure

    models = by_model(result.runs)
    rows = len(result.panels)
    figure = Figure(figsize=(10, 3.6 + 0.95 * rows), layout="constrained")
    figure.suptitle(f"{experiment.name}: {experiment.shows}", fontsize=10, x=0.01, ha="left", weight="bold")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3.4, 0.95 * rows]) if rows else (figure, None)
    left, right = top.subplots(1, 2)
    draw_curves(left, experiment, models)
    draw_bars(right, experiment, models)
    if bottom is not None:
        for axes, panel in zip(bottom.subplots(rows, 1, squeeze=False).flat, result.panels, strict=True):
            axes.imshow(strip(panel.images), cmap="gray")
            axes.set_title(panel.title, loc="left", fontsize=8)
            axes.axis("off")
    figure.savefig(path, dpi=120, facecolor="white")
