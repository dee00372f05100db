"""Shrinking images without aliasing, and how far gradients see then. Nothing is trained.

``aliasing``: a sheet of digits, shrunk by 4. The reference is what has no frequencies but those that the small image can
hold, an ideal low pass with mirrored borders: the sheet's cosine series, cut off and evaluated where the small pixels
are. Errors are shares of the range of grey levels.

``basin``: a digit is moved, and moved back by gradient descent on the mean squared difference of small images, a quarter
in size. Where a sampler looks at few pixels its gradient sees no further. All walk alike: as many steps, of the same
falling lengths, against the gradient. "linearized" has the values of "linear", and slopes fitted to the surroundings
(Jiang et al., Linearized multi-sampling for differentiable image transformation, 2019). The measure is the share of
digits that come back to half a pixel, curves are over the distance they start from, in pixels, where others have steps.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

import pystn
from bench.papers.boundary import mosaic
from bench.papers.experiment import Check, Context, Experiment, Panel, Result, Run, mean, ratio_check
from bench.papers.training import as_float

__all__ = ["EXPERIMENTS"]

WAYS: dict[str, Any] = {
    "linear": None,
    "scaled": "scaled",
    "ewa": "ewa",
    "mipmap": "mipmap",
    "supersample": "supersample",
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


def run_aliasing(context: Context) -> Result:
    settings, runs, panels = context.settings, [], []
    for model in context.models:
        for seed in context.seeds:
            rng = np.random.default_rng(seed)
            sheet = mosaic(context.data.mnist.test, rng, settings.tiles)
            shift, length = rng.uniform(-0.5, 0.5, 2) * settings.shrink, sheet.shape[-1]
            small = length // settings.shrink
            ideal = low_pass(length, small, shift[1]) @ sheet[0, 0] @ low_pass(length, small, shift[0]).T
            start = perf_counter()
            options = {"padding_mode": "reflection", "antialias": WAYS[model]}
            shrunk = pystn.warp_affine(sheet, shifted(shift[None], length), (small, small), **options)[0, 0]
            seconds, error = perf_counter() - start, float(np.sqrt(((shrunk - ideal) ** 2).mean()))
            runs.append(Run(model, seed, error, 0, seconds, [{"step": 1, "loss": error**2, "value": error}]))
        panels.append(Panel(model, shrunk[None]))
    checks = [check for model in context.models[1:] for check in ratio_check(runs, model, "linear", 0.5)]
    return Result(runs, checks, [*panels, Panel("ideal low pass", ideal[None])])


def gradient(way: str, image: np.ndarray, at: np.ndarray, target: np.ndarray, small: int, seed: int) -> np.ndarray:
    """Of half the squared difference, to where images look (N, 2), in pixels."""
    length = image.shape[-1]
    theta = shifted(at, length)
    if way == "linearized":
        grid = pystn.affine_grid(theta, (small, small))
        options = {"seed": seed, "spread": length / small}
        rest = pystn.linearized_grid_sample(image, grid, **options) - target
        return pystn.linearized_grid_sample_vjp(rest, image, grid, wrt=("grid",), **options)[1].sum((1, 2))
    options = {"size": (small, small), "antialias": WAYS[way]}
    rest = pystn.warp_affine(image, theta, **options) - target
    return pystn.warp_affine_vjp(rest, image, theta, wrt=("theta",), **options)[1][..., 2]


def returned(way: str, image: np.ndarray, start: np.ndarray, settings: Any) -> np.ndarray:
    """Where descent ends, in pixels (N, 2), that began at `start` and looks for 0."""
    small, at = image.shape[-1] // settings.shrink, start
    options = {} if way == "linearized" else {"antialias": WAYS[way]}
    target = pystn.warp_affine(image, shifted(0 * start, image.shape[-1]), (small, small), **options)
    for step in range(settings.steps):
        g = gradient(way, image, at, target, small, step)
        length = settings.first_step * (settings.last_step / settings.first_step) ** (step / (settings.steps - 1))
        at = at - length * g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-12)
    return at


def width(run: Run) -> float:
    """The distance from which, and from all nearer ones, at least half of the digits come back."""
    return max((point["step"] for k, point in enumerate(run.curve) if all(p["value"] >= 0.5 for p in run.curve[: k + 1])), default=0)


def run_basin(context: Context) -> Result:
    settings, runs, widths = context.settings, [], {}
    border = (settings.size - 28) // 2
    for model in context.models:
        for seed in context.seeds:
            rng, start, curve = np.random.default_rng(seed), perf_counter(), []
            chosen = rng.choice(len(context.data.mnist.test), settings.images, False)
            image = np.pad(as_float(context.data.mnist.test[chosen]), ((0, 0), (0, 0), (border, border), (border, border)))
            angle = rng.uniform(0, 2 * np.pi, len(image))
            for distance in range(2, settings.farthest + 1, 2):
                begin = distance * np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
                left = np.linalg.norm(returned(model, image, begin, settings), axis=1)
                curve.append({"step": distance, "loss": float((left**2).mean()), "value": float((left <= 0.5).mean())})
            runs.append(Run(model, seed, float(np.mean([p["value"] for p in curve])), 0, perf_counter() - start, curve))
        widths[model] = float(np.mean([width(run) for run in runs if run.model == model]))
    checks = [
        Check(f"{model} / linear", (mean(runs, model) or 0) / (mean(runs, "linear") or np.inf), 1.2, at_most=False)
        for model in context.models
        if model != "linear" and "linear" in context.models
    ]
    small = (settings.size // settings.shrink,) * 2
    panels = [Panel("digits", image[:6, 0]), Panel("as compared", pystn.warp_affine(image[:6], shifted(np.zeros((6, 2)), settings.size), small)[:, 0])]
    return Result(runs, checks, panels, {"basin_in_pixels": widths})


EXPERIMENTS = (
    Experiment(
        "aliasing",
        "shrunk images without false patterns",
        "error of each way to the ideal low pass <= 0.5 x that of linear interpolation",
        ("mnist",),
        tuple(WAYS),
        {"shrink": 4, "tiles": 6},
        run_aliasing,
        {"tiles": 2},
        measure="rms error",
    ),
    Experiment(
        "basin",
        "gradients that look at more than the next pixels find their way from further off",
        "digits moved by up to 14 pixels come back 1.2 x as often as with gradients of linear interpolation",
        ("mnist",),
        ("linear", "linearized", *list(WAYS)[1:]),
        {"images": 200, "size": 60, "shrink": 4, "farthest": 14, "steps": 60, "first_step": 1.0, "last_step": 0.1},
        run_basin,
        {"images": 8, "farthest": 4, "steps": 5},
        measure="come back",
    ),
)
