"""The training loop of all experiments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bench.papers.experiment import Run

__all__ = ["batches_of", "classification_error", "drops", "optimizer_of", "parameters_of", "train"]

Schedule = Callable[[float], float]


def drops(share: float) -> float:
    """The rate's factor after a share of the steps: 1, 0.1 after a third, 0.01 after two (Jaderberg et al., 2015)."""
    return 0.1 ** int(3 * share)


def cosine(share: float) -> float:
    """The rate's factor after a share of the steps: from 1 to 0 along half a cosine."""
    return float(0.5 + 0.5 * np.cos(np.pi * share))


def constant(share: float) -> float:
    return 1.0


SCHEDULES = {"drops": drops, "cosine": cosine, "constant": constant}


def parameters_of(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def optimizer_of(model: nn.Module, settings: Any) -> torch.optim.Optimizer:
    """``settings.optimizer``, "sgd" or "adam", with ``settings.rate``; sgd has a momentum of 0.9,
    adam ``settings.weight_decay`` where there is such a setting.

    Modules named ``localization`` learn at ``settings.localization_rate`` times that, where there is such a setting.
    """
    groups: dict[bool, list[Tensor]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        groups["localization" in name].append(parameter)
    factor = getattr(settings, "localization_rate", 1.0)
    rates = [(group, settings.rate * (factor if localization else 1.0)) for localization, group in groups.items()]
    parameters = [{"params": group, "lr": rate} for group, rate in rates if group]
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=settings.rate, weight_decay=getattr(settings, "weight_decay", 0.0))
    return torch.optim.SGD(parameters, lr=settings.rate, momentum=0.9)


def batches_of(
    images: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Batches without end, epoch after epoch, each in another order; images as float32 from 0 to 1 where bytes."""
    while True:
        order = rng.permutation(len(images))
        for start in range(0, max(len(order) - size, 0) + 1, size):
            chosen = order[start : start + size]
            yield as_float(images[chosen]), labels[chosen]


def as_float(images: np.ndarray) -> np.ndarray:
    """Bytes as float32 from 0 to 1; others as they are."""
    return images * np.float32(1 / 255) if images.dtype == np.uint8 else images


def classification_error(model: nn.Module, images: np.ndarray, labels: np.ndarray, size: int = 1000) -> float:
    """The share of images (N, C, H, W) that `model` does not give the class of `labels`."""
    wrong = 0
    with torch.no_grad():
        for start in range(0, len(images), size):
            scores = model(torch.from_numpy(images[start : start + size]))
            wrong += int((scores.argmax(1).numpy() != labels[start : start + size]).sum())
    return wrong / len(images)


def train(
    name: str,
    seed: int,
    model: nn.Module,
    batches: Iterable[Sequence[np.ndarray]],
    evaluate: Callable[[], float],
    settings: Any,
    loss: Callable[..., Tensor] | None = None,
) -> Run:
    """Train a model and measure it: the run, with its learning curve.

    Parameters
    ----------
    name, seed
        For the run and the progress bar. The caller has seeded torch before it made the model.
    model : torch.nn.Module
        Trained in place.
    batches : iterable of tuples of arrays
        One for each step, as many as there are steps. Arrays reach `loss` as tensors.
    evaluate : callable
        Measures the model as it is, in evaluation mode.
    settings
        ``steps``; ``schedule`` ("drops", "cosine", "constant"); ``evaluations``, how many along the way; and those of
        `optimizer_of`.
    loss : callable, optional
        A function of the batch's tensors that returns the scalar to descend. Default the cross-entropy of
        ``model(images)`` and ``labels``.
    """
    if loss is None:

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.cross_entropy(model(images), labels)

    optimizer = optimizer_of(model, settings)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: SCHEDULES[settings.schedule](step / settings.steps)
    )
    curve: list[dict[str, float]] = []
    start, every = perf_counter(), max(1, settings.steps // settings.evaluations)
    total, since = torch.zeros(()), 0
    model.train()
    with tqdm(total=settings.steps, desc=f"{name}, seed {seed}", mininterval=0.5, dynamic_ncols=True) as bar:
        for step, batch in enumerate(itertools.islice(batches, settings.steps), 1):
            optimizer.zero_grad()
            value = loss(*map(torch.from_numpy, batch))
            value.backward()
            optimizer.step()
            scheduler.step()
            total, since = total + value.detach(), since + 1
            bar.update()
            if step % every == 0 or step == settings.steps:
                model.eval()
                point = {"step": step, "loss": float(total) / since, "value": evaluate()}
                model.train()
                total, since = torch.zeros(()), 0
                if not np.isfinite(point["loss"]):
                    raise FloatingPointError(f"{name}, seed {seed}: the loss is {point['loss']} at step {step}")
                curve.append(point)
                bar.set_postfix(loss=f"{point['loss']:.4f}", measured=f"{point['value']:.2%}")
    model.eval()
    return Run(name, seed, curve[-1]["value"], parameters_of(model), perf_counter() - start, curve)
