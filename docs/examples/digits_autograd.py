"""Turned digits, read through a spatial transformer in HIPS autograd: NumPy, and derivatives of it."""

import autograd.numpy as np
import digits
from autograd import grad
from autograd.scipy.special import logsumexp

import pystn.autograd as stn


def network(rng, inputs, hidden, outputs):
    """Weights of two layers, which answer zero at first."""
    return [
        rng.standard_normal((inputs, hidden)) * (2 / inputs) ** 0.5,
        np.zeros(hidden),
        np.zeros((hidden, outputs)),
        np.zeros(outputs),
    ]


def answer(weights, images):
    a, b, c, d = weights
    return np.maximum(images.reshape(len(images), -1) @ a + b, 0) @ c + d


def read(weights, canvases):
    """Scores of the ten digits, and what they were read from."""
    reader, transformer = weights[:4], weights[4:]
    if transformer:
        theta = np.eye(2, 3) + answer(transformer, canvases).reshape(-1, 2, 3)
        canvases = stn.warp_affine(canvases, theta, digits.CANVAS)
    return answer(reader, canvases), canvases


def loss(weights, canvases, labels):
    scores, _ = read(weights, canvases)
    return np.mean(logsumexp(scores, axis=1) - np.sum(scores * (labels[:, None] == np.arange(10)), axis=1))


def train(batches, transformer, seed):
    rng = np.random.default_rng(seed)
    weights = network(rng, 256, 32, 10) + (network(rng, 256, 128, 6) if transformer else [])
    state = [(np.zeros_like(weight), np.zeros_like(weight)) for weight in weights]
    for step, batch in enumerate(batches, 1):  # Adam
        for weight, gradient, (mean, square) in zip(weights, grad(loss)(weights, *batch), state, strict=True):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            weight -= 0.001 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return lambda canvases: read(weights, canvases)


if __name__ == "__main__":
    digits.main(train)
