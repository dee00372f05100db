"""What a cascade loses when it hands on images, and keeps when it hands on warps (Lin and Lucey, 2017).

Nothing is trained. A sheet of digits, which reaches into its corners, is turned by 45 degrees and back, again and
again. Where images go from step to step, each turn interpolates once more, and what it moves out of sight stays lost;
warps are multiplied, and the sheet is sampled once. A better kernel blurs less and brings no corner back.

Errors are those of the last image, which should be the sheet, as a share of the range of grey levels; curves are
taken after every turn back. A seed is a sheet.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

import pystn
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run, mean

__all__ = ["EXPERIMENTS", "mosaic"]

MARGIN = 4  # of a digit's image, black
MODELS = {
    "images, linear": {"propagate": "image"},
    "images, cubic": {"propagate": "image", "mode": "cubic"},
    "warps, linear": {"propagate": "warp"},
}


def mosaic(digits: np.ndarray, rng: np.random.Generator, tiles: int) -> np.ndarray:
    """A sheet (1, 1, H, W) of `tiles` x `tiles` digits without their margins, from 0 to 1."""
    chosen = digits[rng.integers(len(digits), size=tiles**2), 0, MARGIN:-MARGIN, MARGIN:-MARGIN]
    side = chosen.shape[-1]
    rows = chosen.reshape(tiles, tiles, side, side).transpose(0, 2, 1, 3)
    return rows.reshape(1, 1, tiles * side, tiles * side) * np.float32(1 / 255)


def turned(sheet: np.ndarray, model: str, steps: int, degrees: float) -> np.ndarray:
    """The sheet after `steps` turns, to and fro."""
    angles = np.deg2rad([degrees, -degrees]).astype(np.float32)
    networks = [lambda image, angle=angles[step % 2]: np.full((len(image), 1), angle) for step in range(steps)]
    return pystn.CascadedSpatialTransformer(networks, "rotation", **MODELS[model])(sheet)


def decibels(error: float | np.ndarray) -> float:
    """The ratio of peak to noise of a root mean square error."""
    return float(-20 * np.log10(error))


def run(context: Context) -> Result:
    settings = context.settings
    runs, sheets, last = [], [], {}
    for seed in context.seeds:
        sheets.append(mosaic(context.data.mnist.test, np.random.default_rng(seed), settings.tiles))
    size = sheets[0].shape[-1]
    beyond = np.hypot(*np.meshgrid(*[2 * np.arange(size) + 1 - size] * 2)) > size  # what a turn can move out of sight
    notes: dict[str, dict[str, float]] = {}
    for model in context.models:
        corners, inside = [], []
        for seed, sheet in zip(context.seeds, sheets, strict=True):
            start, curve = perf_counter(), []
            for step in range(2, settings.steps + 1, 2):
                last[model] = turned(sheet, model, step, settings.degrees)
                squared = (last[model] - sheet)[0, 0].astype(float) ** 2
                curve.append({"step": step, "loss": squared.mean(), "value": np.sqrt(squared.mean())})
            corners.append(squared[beyond].mean())
            inside.append(squared[~beyond].mean())
            runs.append(Run(model, seed, curve[-1]["value"], 0, perf_counter() - start, curve))
        notes[model] = {
            "psnr": decibels(mean(runs, model) or 0.0),
            "psnr_in_corners": decibels(np.sqrt(np.mean(corners))),
            "psnr_inside": decibels(np.sqrt(np.mean(inside))),
        }
    checks = []
    if "warps, linear" in notes:
        for model in [name for name in notes if name != "warps, linear"]:
            for key, where in (("psnr", ""), ("psnr_in_corners", " in the corners")):
                gain = notes["warps, linear"][key] - notes[model][key]
                checks.append(Check(f"PSNR{where}, dB, more than that of {model}", gain, 10, at_most=False))
        corner = notes["warps, linear"]["psnr_in_corners"]
        checks.append(Check("warps, linear: PSNR in the corners, dB", corner, 60, at_most=False))
    title = f"the sheet, and after {settings.steps} turns: {'; '.join(last)}"
    panels = [Panel(title, np.clip(np.concatenate([sheets[-1][0], *(image[0] for image in last.values())]), 0, 1))]
    return Result(runs, checks, panels, notes)


EXPERIMENTS = (
    Experiment(
        "boundary",
        "a cascade that hands on images loses their corners, one that hands on warps loses nothing",
        "PSNR of warps 10 dB above that of images, everywhere and in the corners; there at least 60 dB",
        ("mnist",),
        tuple(MODELS),
        {"steps": 10, "degrees": 45, "tiles": 6},
        run,
        {"steps": 4, "tiles": 2},
        measure="rms error",
    ),
)
