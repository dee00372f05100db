"""Turned digits, read through a spatial transformer in JAX: a step of training is one compiled function."""

import digits
import jax
import jax.numpy as jnp

import pystn.jax as stn


def network(key, inputs, hidden, outputs):
    """Weights of two layers, which answer zero at first."""
    first = jax.random.normal(key, (inputs, hidden)) * (2 / inputs) ** 0.5
    return first, jnp.zeros(hidden), jnp.zeros((hidden, outputs)), jnp.zeros(outputs)


def answer(weights, images):
    a, b, c, d = weights
    return jax.nn.relu(images.reshape(len(images), -1) @ a + b) @ c + d


def read(weights, canvases):
    """Scores of the ten digits, and what they were read from."""
    if "transformer" in weights:
        theta = jnp.eye(2, 3) + answer(weights["transformer"], canvases).reshape(-1, 2, 3)
        canvases = stn.warp_affine(canvases, theta, digits.CANVAS)
    return answer(weights["reader"], canvases), canvases


def loss(weights, canvases, labels):
    scores, _ = read(weights, canvases)
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1).mean()


@jax.jit
def step(state, count, canvases, labels):
    """Adam."""
    weights, means, squares = state
    gradients = jax.grad(loss)(weights, canvases, labels)
    means = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, means, gradients)
    squares = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, squares, gradients)

    def moved(weight, mean, square):
        return weight - 0.001 * mean / (1 - 0.9**count) / (jnp.sqrt(square / (1 - 0.999**count)) + 1e-8)

    return jax.tree.map(moved, weights, means, squares), means, squares


def train(batches, transformer, seed):
    keys = jax.random.split(jax.random.key(seed))
    weights = {"reader": network(keys[0], 256, 32, 10)}
    if transformer:
        weights["transformer"] = network(keys[1], 256, 128, 6)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    state = weights, zeros, zeros
    for count, batch in enumerate(batches, 1):
        state = step(state, count, *batch)
    return lambda canvases: jax.device_get(read(state[0], canvases))


if __name__ == "__main__":
    digits.main(train)
