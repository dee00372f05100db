"""Digits that lie anywhere, turned: what a spatial transformer is good for. The examples beside this file share it.

Scikit-learn's digits have 8 x 8 pixels. Here each lies on a canvas of 16 x 16, up to 3 pixels from the middle and
turned by up to 60 degrees, and a small network is to read it. A spatial transformer is another network in front of that
one: it looks at the canvas and answers with an affine map, and what is read is the canvas, warped by this map. Nobody
says where the digits are or which way is up. The transformer finds out from the labels alone, through the derivatives
of the warp.

    pip install "pystn[torch,examples]"
    python docs/examples/digits_torch.py
"""

import argparse
from time import perf_counter

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import pystn

CANVAS = (16, 16)


def scattered(digits, rng):
    """Each digit somewhere on a canvas of its own."""
    count = len(digits)
    angle = rng.uniform(-np.pi / 3, np.pi / 3, count)
    scale = np.full(count, 2.0)  # a canvas is two digits wide
    shift = rng.uniform(-0.75, 0.75, (2, count))  # a digit reaches from -1 to 1, over 8 pixels
    theta = pystn.similarity_matrix(np.stack([angle, scale, *shift], axis=1))  # canvas -> digit
    return pystn.warp_affine(digits, theta.astype(np.float32), CANVAS)


def batches(digits, labels, epochs, rng, size=64):
    """Canvases and labels to learn from; the digits lie elsewhere in every epoch."""
    for _ in range(epochs):
        canvases = scattered(digits, rng)
        order = rng.permutation(len(labels))
        for start in range(0, len(labels) - size + 1, size):
            batch = order[start : start + size]
            yield canvases[batch], labels[batch]


def draw(path, canvases, seen):
    """A row of canvases, and below each what was read."""
    figure = Figure(figsize=(len(canvases), 2.4), layout="constrained")
    rows = figure.subplots(2, len(canvases))
    for row, images, title in zip(rows, (canvases, seen), ("on the canvas", "as it is read"), strict=True):
        row[0].set_title(title, loc="left")
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image[0], cmap="gray")
            axes.axis("off")
    figure.savefig(path, dpi=120)


def main(train):
    """Have digits read without a transformer and with one, and compare.

    ``train(batches, transformer, seed)`` returns a function of canvases (N, 1, 16, 16), which returns the scores
    (N, 10) of the ten digits and what they were read from, of the shape of the canvases.
    """
    parser = argparse.ArgumentParser(description="Read turned digits, without a spatial transformer and with one.")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="digits.png", help="picture to write")
    options = parser.parse_args()

    pixels, labels = load_digits(return_X_y=True)
    digits = (pixels / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    test = np.arange(len(digits)) % 4 == 0
    canvases, answers = scattered(digits[test], np.random.default_rng(options.seed)), labels[test]

    for transformer in (False, True):
        start = perf_counter()
        lessons = batches(digits[~test], labels[~test], options.epochs, np.random.default_rng(options.seed + 1))
        with pystn.num_threads(1), threadpool_limits(1):  # the networks are small
            scores, seen = train(lessons, transformer, options.seed)(canvases)
        right = np.mean(np.argmax(scores, axis=1) == answers)
        print(
            f"{'with' if transformer else 'without'} a transformer: {right:.1%} right, {perf_counter() - start:.0f} s"
        )

    examples = [np.flatnonzero(answers == digit)[0] for digit in range(10)]
    draw(options.output, canvases[examples], seen[examples])
