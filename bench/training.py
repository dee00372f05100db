"""A step of training: a spatial transformer and a small network behind it, in PyTorch, whatever warps the images.

Both sides have the same networks with the same weights; they differ in the call that warps alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.arrays import Arrays
from bench.cases import Case

__all__ = ["training_step"]

CLASSES = 10


def training_step(case: Case, a: Arrays, warp: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Any]:
    """The call: forward, loss, backward, update. Returns the loss and a gradient of the localisation network.

    The update has a rate of zero, for every call to be the first.
    """
    torch.manual_seed(0)
    channels, height, _ = case.shape[1:]
    localization = nn.Sequential(
        nn.AvgPool2d(max(1, height // 7)),
        nn.Flatten(),
        nn.LazyLinear(32),
        nn.ReLU(),
        nn.Linear(32, 6),
    )
    classifier = nn.Sequential(
        nn.AvgPool2d(max(1, height // 28)),
        nn.Conv2d(channels, 8, 3, 2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(CLASSES),
    )
    images, labels = torch.from_numpy(a.input), torch.arange(case.shape[0]) % CLASSES
    last: Any = localization[-1]
    with torch.no_grad():
        localization(images), classifier(images)  # lazy layers learn their sizes
        last.weight.mul_(0.1)
        last.bias.copy_(torch.from_numpy(a.theta[0].ravel()))
    parameters = [*localization.parameters(), *classifier.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.0)

    def step() -> Any:
        optimizer.zero_grad()
        theta = localization(images).unflatten(-1, (2, 3))
        loss = nn.functional.cross_entropy(classifier(warp(images, theta)), labels)
        loss.backward()
        optimizer.step()
        return loss.detach().numpy(), last.bias.grad.numpy().copy()

    return step
