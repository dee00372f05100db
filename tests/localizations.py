"""Localisation networks for the tests of systems: the same lines for every kind of array, and a `vjp` by hand."""

import numpy as np


class Linear:
    """Parameters near those of `start`, (*K, p), by one linear layer of features of the image."""

    def __init__(self, start, features, seed=0, weights=None):
        self.start, self.features, self.seed = np.asarray(start, float), features, seed
        if weights is None:
            rng = np.random.default_rng(seed)
            weights = self.drawn(rng, self.start.size)
        self.weights = weights

    def drawn(self, rng, count):
        layer = rng.uniform(-1, 1, (self.features, count)) * 0.12 / self.features**0.5
        return (layer, self.start.ravel() + rng.uniform(-0.08, 0.08, count))

    def with_weights(self, weights):
        """The same network of other weights, which may be a framework's."""
        return type(self)(self.start, self.features, self.seed, weights)

    def __call__(self, image):
        layer, bias = self.weights
        flat = image.reshape(image.shape[0], -1) @ layer + bias
        return flat.reshape(image.shape[0], *self.start.shape)

    def vjp(self, grad, image):
        layer, _ = self.weights
        grad = grad.reshape(len(image), -1)
        to_layer = image.reshape(len(image), -1).T @ grad
        return (grad @ layer.T).reshape(image.shape), (to_layer, grad.sum(0))


def tanh(x):
    """By arithmetic alone, which all arrays have."""
    return 1 - 2 / (1 + 2.718281828459045 ** (2 * x))


class Tanh(Linear):
    """The same by two layers, whose gradients are a dictionary."""

    HIDDEN = 3

    def drawn(self, rng, count):
        first, hidden = rng.uniform(-1, 1, (self.features, self.HIDDEN)) / self.features**0.5, rng.uniform(-0.3, 0.3, 3)
        layer, bias = rng.uniform(-0.1, 0.1, (self.HIDDEN, count)), self.start.ravel() + rng.uniform(-0.08, 0.08, count)
        return {"first": first, "hidden": hidden, "layer": layer, "bias": bias}

    def activations(self, image):
        return tanh(image.reshape(image.shape[0], -1) @ self.weights["first"] + self.weights["hidden"])

    def __call__(self, image):
        flat = self.activations(image) @ self.weights["layer"] + self.weights["bias"]
        return flat.reshape(image.shape[0], *self.start.shape)

    def vjp(self, grad, image):
        activations, grad = self.activations(image), grad.reshape(len(image), -1)
        inner = (grad @ self.weights["layer"].T) * (1 - activations**2)
        gradients = {
            "first": image.reshape(len(image), -1).T @ inner,
            "hidden": inner.sum(0),
            "layer": activations.T @ grad,
            "bias": grad.sum(0),
        }
        return (inner @ self.weights["first"].T).reshape(image.shape), gradients


def leaves(tree):
    """The arrays of weights or gradients, in their order."""
    if tree is None or hasattr(tree, "shape"):
        return [] if tree is None else [tree]
    branches = [tree[name] for name in sorted(tree)] if isinstance(tree, dict) else list(tree)
    return [leaf for branch in branches for leaf in leaves(branch)]


def rebuilt(tree, arrays):
    """A tree like another, of the next arrays."""
    if isinstance(tree, dict):
        return dict(zip(sorted(tree), [rebuilt(tree[name], arrays) for name in sorted(tree)], strict=True))
    if isinstance(tree, (tuple, list)):
        return type(tree)(rebuilt(branch, arrays) for branch in tree)
    return next(arrays)
