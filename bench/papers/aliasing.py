"""Shrinking images without aliasing, and how far gradients see then. Nothing is trained.

``aliasing``: a sheet of digits, shrunk by 4. The reference has no frequencies but those that the small image can hold,
an ideal low pass with mirrored borders: the sheet's cosine series, cut off and evaluated where the small pixels are.
Errors are shares of the range of grey levels; curves are over the factor of the shrink, where others have steps. A mean
over a box, a triangle or a Gaussian is no ideal low pass, and what it blurs counts; the Lanczos kernel comes nearer.

``basin``: a digit is moved, and moved back by gradient descent on the mean squared difference of small images, a
quarter in size. Where a sampler looks at few pixels its gradient sees no further. All walk alike: as many steps, of the
same falling lengths, against the gradient. "linearized" has the values of "linear", and slopes fitted to the
surroundings (Jiang et al., Linearized multi-sampling for differentiable image transformation, 2019). The measure is the
share of digits that come back to half a pixel. Curves are over the distance they start from, in pixels, where others
have steps.
"""

from __future__ import annotations

from itertools import takewhile
from time import perf_counter
from typing import Any

import numpy as np

import pystn
from bench.papers.boundary import mosaic
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run, mean, ratio_check
from bench.papers.training import as_float

__all__ = ["EXPERIMENTS"]

WAYS: dict[str, dict[str, Any]] = {
    "linear": {},
    "scaled": {"antialias": "scaled"},
    "ewa": {"antialias": "ewa"},
    "mipmap": {"antialias": "mipmap"},
    "supersample": {"antialias": "supersample"},
    "scaled Lanczos": {"antialias": "scaled", "mode": pystn.Lanczos(3)},
}


def shifted(pixels: np.ndarray, size: int) -> np.ndarray:
    """Matrices that move what is seen by so many pixels (N, 2) of an image of `size`."""
    return pystn.translation_matrix((2 / size * pixels).astype(np.float32))


def low_pass(length: int, small: int, shift: float) -> np.ndarray:
    """The matrix (small, length) that cuts off a cosine series and evaluates it at pixels moved by `shift`."""
    k = np.arange(small)
    series = np.cos(np.pi / length * k[:, None] * (np.arange(length) + 0.5)) * np.where(k, 2, 1)[:, None] / length
    place = (np.arange(small) + 0.5) / small + shift / length
    return np.cos(np.pi * place[:, None] * k) @ series


def shrunk(sheet: np.ndarray, small: int, shift: np.ndarray, model: str) -> np.ndarray:
    """The sheet (1, 1, L, L) moved by `shift` pixels, in `small` x `small`."""
    theta = shifted(shift[None], sheet.shape[-1])
    return pystn.warp_affine(sheet, theta, (small, small), padding_mode="reflection", **WAYS[model])[0, 0]


def ideally_shrunk(sheet: np.ndarray, small: int, shift: np.ndarray) -> np.ndarray:
    along_x, along_y = (low_pass(sheet.shape[-1], small, each) for each in shift)
    return along_y @ sheet[0, 0] @ along_x.T


def run_aliasing(context: Context) -> Result:
    settings, runs, results = context.settings, [], {}
    for model in context.models:
        for seed in context.seeds:
            rng, start, errors = np.random.default_rng(seed), perf_counter(), {}
            sheet = mosaic(context.data.mnist.test, rng, settings.tiles)
            offset = rng.uniform(-0.5, 0.5, 2)
            for by in sorted({*settings.compared, settings.shrink}):
                small, shift = sheet.shape[-1] // by, offset * by
                result, ideal = shrunk(sheet, small, shift, model), ideally_shrunk(sheet, small, shift)
                errors[by] = float(np.sqrt(((result - ideal) ** 2).mean()))
                if by == settings.shrink:
                    results[model], best = result, ideal
            curve = [{"step": by, "loss": error**2, "value": error} for by, error in errors.items()]
            runs.append(Run(model, seed, errors[settings.shrink], 0, perf_counter() - start, curve))
    checks = [
        check for model in context.models if model != "linear" for check in ratio_check(runs, model, "linear", 0.5)
    ]
    title = f"shrunk by {settings.shrink}: {', '.join(results)}, ideal low pass"
    return Result(runs, checks, [Panel(title, np.clip([*results.values(), best], 0, 1))])


def gradient(way: str, image: np.ndarray, at: np.ndarray, target: np.ndarray, small: int, seed: int) -> np.ndarray:
    """Of half the squared difference, to where images look (N, 2), in pixels."""
    length = image.shape[-1]
    theta = shifted(at, length)
    if way == "linearized":
        grid = pystn.affine_grid(theta, (small, small))
        options = {"seed": seed, "spread": length / small}
        rest = pystn.linearized_grid_sample(image, grid, **options) - target
        return pystn.linearized_grid_sample_vjp(rest, image, grid, wrt=("grid",), **options)[1].sum((1, 2))
    options = {"size": (small, small), **WAYS[way]}
    rest = pystn.warp_affine(image, theta, **options) - target
    return pystn.warp_affine_vjp(rest, image, theta, wrt=("theta",), **options)[1][..., 2]


def returned(way: str, image: np.ndarray, start: np.ndarray, settings: Any) -> np.ndarray:
    """Where descent ends, in pixels (N, 2), that began at `start` and looks for 0."""
    small, at = image.shape[-1] // settings.shrink, start
    target = pystn.warp_affine(image, shifted(0 * start, image.shape[-1]), (small, small), **WAYS.get(way, {}))
    for step in range(settings.steps):
        g = gradient(way, image, at, target, small, step)
        length = settings.first_step * (settings.last_step / settings.first_step) ** (step / (settings.steps - 1))
        at = at - length * g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12)
    return at


def width(run: Run) -> float:
    """The distance from which, and from all nearer ones, at least half of the digits come back."""
    near = takewhile(lambda point: point["value"] >= 0.5, run.curve)
    return max((point["step"] for point in near), default=0)


def run_basin(context: Context) -> Result:
    settings, runs, widths = context.settings, [], {}
    border, digits = (settings.size - 28) // 2, context.data.mnist.test
    for model in context.models:
        for seed in context.seeds:
            rng, start, curve = np.random.default_rng(seed), perf_counter(), []
            chosen = rng.choice(len(digits), settings.images, False)
            image = np.pad(as_float(digits[chosen]), ((0, 0), (0, 0), (border, border), (border, border)))
            angle = rng.uniform(0, 2 * np.pi, len(image))
            for distance in range(2, settings.farthest + 1, 2):
                begin = distance * np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
                left = np.linalg.norm(returned(model, image, begin, settings), axis=1)
                curve.append({"step": distance, "loss": float((left**2).mean()), "value": float((left <= 0.5).mean())})
            share = float(np.mean([point["value"] for point in curve]))
            runs.append(Run(model, seed, share, 0, perf_counter() - start, curve))
        widths[model] = float(np.mean([width(run) for run in runs if run.model == model]))
    checks = [
        Check(f"{model} / linear", (mean(runs, model) or 0) / (mean(runs, "linear") or np.inf), 1.2, at_most=False)
        for model in context.models
        if model != "linear" and "linear" in context.models
    ]
    small = (settings.size // settings.shrink,) * 2
    first = image[:6]
    panels = [Panel("digits", first[:, 0])]
    for model in context.models:
        if model != "linearized":
            there = shifted(np.zeros((len(first), 2)), settings.size)
            panels.append(Panel(f"as compared: {model}", pystn.warp_affine(first, there, small, **WAYS[model])[:, 0]))
    return Result(runs, checks, panels, {"basin_in_pixels": widths})


EXPERIMENTS = (
    Experiment(
        "aliasing",
        "shrunk images without false patterns",
        "error to the ideal low pass <= 0.5 x that of linear interpolation",
        ("mnist",),
        tuple(WAYS),
        {"shrink": 4, "compared": [2, 4, 5, 8], "tiles": 6},
        run_aliasing,
        {"tiles": 2},
        measure="rms error",
    ),
    Experiment(
        "basin",
        "gradients that look at more than the next pixels find their way from further off",
        "digits moved by up to 14 pixels come back 1.2 x as often as with gradients of linear interpolation",
        ("mnist",),
        ("linear", "linearized", "scaled", "ewa", "mipmap", "supersample"),
        {"images": 50, "size": 60, "shrink": 4, "farthest": 14, "steps": 60, "first_step": 1.0, "last_step": 0.1},
        run_basin,
        {"images": 8, "farthest": 4, "steps": 5},
        measure="come back",
    ),
)
