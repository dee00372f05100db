"""Turned digits, read through a spatial transformer in PyTorch: a module in front of another."""

import digits
import torch
from torch import nn

from pystn.torch import SpatialTransformer, initialize_identity_


def network(hidden, outputs):
    height, width = digits.CANVAS
    return nn.Sequential(nn.Flatten(), nn.Linear(height * width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def train(batches, transformer, seed):
    torch.manual_seed(seed)
    reader, warp = network(32, 10), nn.Identity()
    if transformer:
        warp = SpatialTransformer(network(128, 6), "affine")
        initialize_identity_(warp.localization[-1], "affine")
    optimizer = torch.optim.Adam([*reader.parameters(), *warp.parameters()], lr=1e-3)
    for canvases, labels in batches:
        optimizer.zero_grad()
        scores = reader(warp(torch.from_numpy(canvases)))
        nn.functional.cross_entropy(scores, torch.from_numpy(labels)).backward()
        optimizer.step()

    @torch.no_grad()
    def read(canvases):
        seen = warp(torch.from_numpy(canvases))
        return reader(seen).numpy(), seen.numpy()

    return read


if __name__ == "__main__":
    digits.main(train)
