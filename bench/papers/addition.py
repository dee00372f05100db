"""MNIST addition: the sum of two digits, each in a channel of its own (Jaderberg et al., 2015, appendix).

Each digit is rotated, scaled and put somewhere in 42 x 42 pixels by itself, so no single transform is right for both.
Every transformer sees and warps both channels; two of them in parallel can make the classifier four channels, of which
it uses two. Their matrices (N, 2, 2, 3) go into one call, and the input is never copied.

Steps are fewer than the paper's, and Adam's: 4000 at 0.003 along a cosine. All models classify images pooled by 2, and
all have the same number of parameters, as nearly as the width of their classifiers allows.

Distortions grow from none to all over the first half of the steps, for all models; tests are of all. Of digits anywhere
at once little is learnt for thousands of steps. To see them smaller, and so nearer to each other, is all that helps
meanwhile: a transformer zooms out until it has lost them, for good (seed 2: by 3 in width after 200 steps, by 7 and
lost after 600). A localisation network that learns more slowly keeps them in sight, and learns no sooner.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from bench.papers.distortions import DISTORTIONS, rotate_scale_translate
from bench.papers.experiment import Context, Experiment, Panel, Result, ratio_check
from bench.papers.networks import Pool, fully_connected, fully_connected_localization, widest
from bench.papers.stn_mnist import FASTER, QUICK, TEST_SEED
from bench.papers.training import batches_of, classification_error, train
from pystn.torch import ParallelSpatialTransformer

__all__ = ["EXPERIMENTS"]

RTS = DISTORTIONS["RTS"]
CLASSES = 19
POOL = 2


class Parallel(nn.Module):
    """Several localisation networks side by side, which see the input pooled: parameters (N, K, p)."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.pool = Pool(POOL)
        self.networks = nn.ModuleList(networks)

    def forward(self, input: Tensor) -> Tensor:
        pooled = self.pool(input)
        return torch.stack([network(pooled) for network in self.networks], 1)


def build(model: str, width: int) -> nn.Module:
    """ "FCN", or "1xST", "2xST": as many transformers in parallel, in front of the same kind of classifier."""
    count = 0 if model == "FCN" else int(model[0])
    side = RTS.size // POOL
    classify = nn.Sequential(Pool(POOL), fully_connected((2 * max(1, count), side, side), width, CLASSES))
    if not count:
        return classify
    locate = Parallel([fully_connected_localization((2, side, side), 6) for _ in range(count)])
    return nn.Sequential(ParallelSpatialTransformer(locate, "affine", merge=True), classify)


def added(
    images: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
    their_labels: np.ndarray,
    rng: np.random.Generator,
    amount: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 2, 42, 42) of two digits, each distorted, by an `amount` of it all, and what their sum is."""
    channels = [rotate_scale_translate(digits, rng, amount=amount) for digits in (images, others)]
    return np.concatenate(channels, 1), labels + their_labels


def batches(context: Context, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of training digits and their sums: the same for every model of a seed.

    Distortions grow over the first `settings.growth` of the steps.
    """
    settings, examples, rng = context.settings, context.data.mnist, np.random.default_rng(seed)
    digits = (
        batches_of(examples.train, examples.train_labels, settings.batch, each) for each in (rng, rng.spawn(1)[0])
    )
    growing = max(1.0, settings.growth * settings.steps)
    for step, (one, other) in enumerate(zip(*digits, strict=True), 1):
        yield added(*one, *other, rng, min(1.0, step / growing))


def run(context: Context) -> Result:
    settings, examples = context.settings, context.data.mnist
    rng, tests = np.random.default_rng(TEST_SEED), examples.test[: settings.tests]
    labels = examples.test_labels[: settings.tests]
    second = rng.permutation(len(tests))
    digits = tests * np.float32(1 / 255)
    test, sums = added(digits, labels, digits[second], labels[second], rng)
    panels = [Panel(f"channel {channel + 1}", test[:10, channel]) for channel in range(2)]
    runs = []
    for model in context.models:
        width = widest(settings.parameters, partial(build, model))
        for seed in context.seeds:
            torch.manual_seed(seed)
            network = build(model, width)
            measure = partial(classification_error, network, test, sums)
            runs.append(train(model, seed, network, batches(context, seed), measure, settings))
        if model != "FCN":
            with torch.no_grad():
                seen = network[0](torch.from_numpy(test[:10])).numpy()
            panels += [
                Panel(f"{model}: transformer {n // 2 + 1}, channel {n % 2 + 1}", seen[:, n])
                for n in range(seen.shape[1])
            ]
    checks = [*ratio_check(runs, "2xST", "1xST", 0.6), *ratio_check(runs, "2xST", "FCN", 0.5)]
    return Result(runs, checks, panels)


SETTINGS = {
    **{name: value for name, value in FASTER.items() if name != "pool"},
    "steps": 4000,
    "localization_rate": 0.3,
    "growth": 0.5,
}

EXPERIMENTS = (
    Experiment(
        "mnist-addition",
        "two transformers in parallel find two digits, one cannot",
        "2xST error <= 0.6 x 1xST error and <= 0.5 x FCN error",
        ("mnist",),
        ("FCN", "1xST", "2xST"),
        SETTINGS,
        run,
        {**QUICK, "parameters": 100_000},
        {"steps": 3000, "batch": 64},
    ),
)
