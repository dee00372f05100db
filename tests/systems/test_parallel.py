"""Several transformers of one input are each of them."""

import re

import numpy as np
import pytest
from localizations import Linear, Tanh, leaves
from system_cases import SHEAR, SPLINE, WAVE

import pystn
from pystn import ParallelSpatialTransformer, SpatialTransformer

IMAGE = np.random.default_rng(0).standard_normal((2, 3, 6, 7))
LINE = np.random.default_rng(0).standard_normal((2, 3, 9))


def networks(transform, count, image=IMAGE, kind=Linear):
    start = pystn.identity_params(transform, image.ndim - 2) if transform is not WAVE else np.array([0.05, 0.3])
    return [kind(start, image[0].size, seed=k) for k in range(count)]


def stacked(each):
    """One network that says what several do."""

    class Stacked:
        def __call__(self, image):
            return np.stack([network(image) for network in each], 1)

        def vjp(self, grad, image):
            pairs = [network.vjp(grad[:, k], image) for k, network in enumerate(each)]
            return sum(grad for grad, _ in pairs), [weights for _, weights in pairs]

    return Stacked()


def last(image):
    return np.ascontiguousarray(np.moveaxis(image, 1, -1))


@pytest.mark.parametrize(
    "transform, count, image, options",
    [
        ("affine", 3, IMAGE, {"size": (4, 5)}),
        ("affine", 1, IMAGE, {}),
        ("affine", 1, LINE, {}),  # (N, 1, 2), which one alone takes for a matrix
        ("affine", 3, LINE, {"size": (4,)}),
        ("projective", 2, IMAGE, {"mode": "cubic"}),
        (SPLINE, 2, IMAGE, {}),
        (WAVE, 2, IMAGE, {}),
        ("affine", 3, last(IMAGE), {"channel_axis": -1, "size": (4, 5)}),
    ],
    ids=["affine", "one", "one-1d", "1d", "projective", "spline", "function", "last"],
)
def test_it_is_each_transformer(transform, count, image, options):
    each = networks(transform, count, image)
    singles = [SpatialTransformer(network, transform, return_mask=True, **options) for network in each]
    parallel = ParallelSpatialTransformer(each, transform, return_mask=True, **options)
    merged = ParallelSpatialTransformer(each, transform, merge=True, return_mask=True, **options)
    (output, mask), pullback = parallel.pull(image)
    (together, same), merged_pullback = merged.pull(image)
    expected = [single(image) for single in singles]
    channels = options.get("channel_axis", 1)
    np.testing.assert_array_equal(output, np.stack([o for o, _ in expected], 1 if channels == -1 else 2))
    np.testing.assert_array_equal(mask, np.stack([m for _, m in expected], 1))
    np.testing.assert_array_equal(together, np.concatenate([o for o, _ in expected], channels))
    np.testing.assert_array_equal(same, mask)

    rng = np.random.default_rng(1)
    cotangents = [(rng.standard_normal(o.shape), rng.standard_normal(m.shape)) for o, m in expected]
    gradients = [single.vjp(g, image) for single, g in zip(singles, cotangents, strict=True)]
    masks = np.stack([g for _, g in cotangents], 1)
    apart = np.stack([g for g, _ in cotangents], 1 if channels == -1 else 2)
    for grad_image, grad_weights in (
        pullback((apart, masks)),
        merged_pullback((np.concatenate([g for g, _ in cotangents], channels), masks)),
    ):
        np.testing.assert_allclose(grad_image, sum(grad for grad, _ in gradients), rtol=0, atol=1e-11)
        assert len(grad_weights) == count
        for found, (_, weights) in zip(grad_weights, gradients, strict=True):
            for one, other in zip(found, weights, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("merge", [False, True])
def test_one_network_for_all(merge):
    each = networks("affine", 3, kind=Tanh)
    several = ParallelSpatialTransformer(each, size=(4, 5), merge=merge)
    one = ParallelSpatialTransformer(stacked(each), size=(4, 5), merge=merge)
    output, pullback = one.pull(IMAGE)
    np.testing.assert_array_equal(output, several(IMAGE))
    grad_image, grad_weights = pullback(output)
    expected, weights = several.vjp(output, IMAGE)
    np.testing.assert_allclose(grad_image, expected, rtol=0, atol=1e-12)
    assert isinstance(grad_weights, list)  # as the network has them
    for found, other in zip(leaves(grad_weights), leaves(weights), strict=True):
        np.testing.assert_array_equal(found, other)


def test_tiles_are_the_parts_of_the_input():
    image = np.arange(2 * 6 * 8.0).reshape(1, 2, 6, 8)
    tiles = pystn.tiled_params((2, 3), "affine")
    parts = ParallelSpatialTransformer(lambda image: tiles[None], "affine", (2, 4), merge=True)(image)
    expected = [image[:, :, y : y + 2, x : x + 4] for y in (0, 2, 4) for x in (0, 4)]
    np.testing.assert_allclose(parts, np.concatenate(expected, 1), rtol=0, atol=1e-12)


def test_parameters_are_where_it_looks():
    tiles = pystn.tiled_params(4)
    parallel = ParallelSpatialTransformer(
        [lambda image, p=p: p[None] for p in tiles], "attention", return_parameters=True
    )
    _, parameters = parallel(IMAGE[:1])
    np.testing.assert_array_equal(parameters, tiles[None])
    boxes = pystn.theta_to_box(pystn.attention_matrix(parameters))
    np.testing.assert_array_equal(boxes[0], [[-1, -1, 0, 0], [0, -1, 1, 0], [-1, 0, 0, 1], [0, 0, 1, 1]])


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, "localizations must be one network or more, got none", lambda: ParallelSpatialTransformer([])),
        (TypeError, "a localization must be callable, got int", lambda: ParallelSpatialTransformer([len, 1])),
        (TypeError, "a localization must be callable, got str", lambda: ParallelSpatialTransformer("affine")),
        (TypeError, "merge must be True or False, got None", lambda: ParallelSpatialTransformer(len, merge=None)),
        (
            ValueError,
            "parameters of 'affine' in 2 dimensions must have shape (N, K, 2, 3) or (N, K, 6): got (2, 6)",
            lambda: ParallelSpatialTransformer(lambda image: np.ones((2, 6)))(IMAGE),
        ),
        (
            ValueError,
            "parameters of 'rigid' in 2 dimensions must have shape (N, K, 3): got (2, 2, 4)",
            lambda: ParallelSpatialTransformer([lambda image: np.ones((2, 4))] * 2, "rigid")(IMAGE),
        ),
        (
            ValueError,
            "must have shape (N, K, 2, 3) or (N, K, 3, 3): got (2, 2, 3)",
            lambda: ParallelSpatialTransformer(lambda image: np.ones((2, 2)), SHEAR)(IMAGE),
        ),
        (
            ValueError,
            "networks must give parameters of one shape: got (2, 6) and (2, 3)",
            lambda: ParallelSpatialTransformer([lambda image, p=p: np.ones((2, p)) for p in (6, 3)])(IMAGE),
        ),
        (
            ValueError,
            "the transform must make grids of shape (N, K, *size, 2): got (2, 5, 6, 2)",
            lambda: ParallelSpatialTransformer(lambda image: np.ones((2, 2)), WAVE)(IMAGE),
        ),
        (
            ValueError,
            "grad_output must have the shape of the output, (2, 6, 6, 7): got (2, 3, 2, 6, 7)",
            lambda: ParallelSpatialTransformer(networks("affine", 2), merge=True).vjp(np.ones((2, 3, 2, 6, 7)), IMAGE),
        ),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
