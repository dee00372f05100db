"""Metrics against their definitions in loops and against scikit-learn, and their derivatives."""

import math
import re

import numpy as np
import pytest
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn

P = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])


def probabilities(rng, *shape):
    drawn = rng.random(shape) ** 3
    return drawn / drawn.sum(axis=-1, keepdims=True)


def slow_bins(p, labels, bins):
    """For each bin, confidences and whether they are right."""
    found = [[] for _ in range(bins)]
    for row, label in zip(p, labels, strict=True):
        best = max(range(len(row)), key=lambda k: row[k])
        (b,) = [b for b in range(bins) if b / bins < row[best] <= (b + 1) / bins]
        found[b].append((row[best], best == label))
    return found


def slow_error(p, labels, bins=15):
    total = 0.0
    for entries in slow_bins(p, labels, bins):
        if entries:
            confidence, right = np.mean(entries, axis=0)
            total += len(entries) / len(p) * abs(right - confidence)
    return total


def slow_brier(p, labels):
    return np.mean([sum((row[k] - (k == y)) ** 2 for k in range(len(row))) for row, y in zip(p, labels, strict=True)])


# ---- calibration


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_definitions(backend, rng, bins, dtype, tolerance):
    p, labels = probabilities(rng, 3, 40, 4).astype(dtype), rng.integers(0, 4, (3, 40))
    given = backend.array(p), backend.array(labels)
    wide = p.astype(float)
    found = pystn.expected_calibration_error(*given, bins)
    assert (found.shape, found.dtype) == ((3,), dtype)
    expected = [slow_error(*pair, bins) for pair in zip(wide, labels, strict=True)]
    assert_close(backend.numpy(found), expected, tolerance)
    score = pystn.brier_score(*given)
    assert (score.shape, score.dtype) == ((3,), dtype)
    assert_close(backend.numpy(score), [slow_brier(*pair) for pair in zip(wide, labels, strict=True)], tolerance)
    curve = [backend.numpy(each) for each in pystn.reliability_curve(*given, bins)]
    assert [each.dtype for each in curve] == [dtype, dtype, np.int64]
    for k in range(3):
        for b, entries in enumerate(slow_bins(wide[k], labels[k], bins)):
            assert curve[2][k, b] == len(entries)
            means = np.mean(entries, axis=0) if entries else (math.nan, math.nan)
            np.testing.assert_allclose([curve[0][k, b], curve[1][k, b]], means, rtol=tolerance)


def test_the_curve_has_the_error(rng):
    p, labels = probabilities(rng, 60, 3), rng.integers(0, 3, 60)
    curve = pystn.reliability_curve(p, labels)
    gaps = np.abs(curve.accuracy - curve.confidence) * curve.samples / 60
    np.testing.assert_allclose(pystn.expected_calibration_error(p, labels), np.nansum(gaps), rtol=1e-12)
    assert np.isnan(curve.accuracy[:4]).all()  # of three classes one has a third at least


def test_scikit_learn_has_the_same_scores_and_curves(rng):
    pytest.importorskip("sklearn", reason="a peer")
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    one = rng.uniform(0.5, 1, 50)
    labels = (rng.random(50) < one).astype(int)
    p = np.stack([1 - one, one], axis=-1)
    assert_close(pystn.brier_score(p, labels), 2 * brier_score_loss(labels, one), 1e-13)
    accuracy, confidence = calibration_curve(labels, one, n_bins=10)
    curve = pystn.reliability_curve(p, labels, 10)
    some = curve.samples > 0
    assert_close(curve.accuracy[some], accuracy, 1e-13)
    assert_close(curve.confidence[some], confidence, 1e-13)


def test_predictions_that_are_certain():
    certain = np.eye(3)[[0, 1, 2, 0]]
    for metric in (pystn.expected_calibration_error, pystn.brier_score):
        assert metric(certain, [0, 1, 2, 0]) == 0
    assert pystn.expected_calibration_error(certain, [1, 2, 0, 1]) == 1
    assert pystn.brier_score(certain, [1, 2, 0, 1]) == 2


def test_confidences_on_the_edges_of_bins():
    """The upper edge is in the bin, the lower one is not; the first of classes that are equally probable is meant."""
    p = np.array([[0.5, 0.5], [0.5, 0.25], [0.75, 0.25], [1.0, 0.0]])
    curve = pystn.reliability_curve(p, [0, 1, 0, 0], 4)
    np.testing.assert_array_equal(curve.samples, [0, 2, 1, 1])
    np.testing.assert_array_equal(curve.accuracy, [math.nan, 0.5, 1, 1])
    (gradient,) = pystn.expected_calibration_error_vjp(np.array(4.0), p, [0, 1, 0, 0], 4)
    np.testing.assert_array_equal(gradient, [[0, 0], [0, 0], [-1, 0], [0, 0]])  # gaps 0, 1/4 and 0


def test_derivatives(backend, rng):
    p, labels = rng.uniform(0.02, 0.98, (2, 5, 3)), rng.integers(0, 3, (2, 5))
    tangent, cotangent = rng.standard_normal(p.shape), rng.standard_normal(2)
    given, on_labels = backend.array(p), backend.array(labels)
    for name, slow, options in (
        ("expected_calibration_error", slow_error, {"bins": 3}),
        ("brier_score", slow_brier, {}),
    ):
        vjp, jvp = (getattr(pystn, f"{name}_{kind}") for kind in ("vjp", "jvp"))
        (gradient,) = vjp(backend.array(cotangent), given, on_labels, **options)
        pushed = backend.numpy(jvp(given, backend.array(tangent), on_labels, **options))
        assert_adjoint(pushed, cotangent, [backend.numpy(gradient)], [tangent])

        def value(p, slow=slow, options=options):
            return np.array([slow(*pair, **options) for pair in zip(p, labels, strict=True)])

        assert_close(pushed, difference(value, [p], [tangent], 1e-7), 1e-6)


def test_second_order_of_the_score(rng):
    p, along, across = rng.random((3, 2, 4, 3))
    labels = [0, 2, 1, 0]
    assert_second_order(
        lambda g, p: pystn.brier_score_vjp(g, p, labels),
        lambda *arrays: pystn.brier_score_vjp2(*arrays, labels),
        rng.standard_normal(2),
        [p],
        [along],
        [across],
    )
    assert pystn.brier_score_vjp2(along, np.ones(2), p, labels, wrt="grad_score")[1] is None


@pytest.mark.parametrize("kind", [list, tuple, np.int64, np.int32, np.uint8])
def test_kinds_of_labels(kind):
    labels = [0, 1, 1, 0]
    given = kind(labels) if kind in (list, tuple) else np.array(labels, kind)
    np.testing.assert_allclose(pystn.expected_calibration_error(P, given, bins=10), 0.3)
    many = np.stack([P, P])
    np.testing.assert_array_equal(pystn.brier_score(many, given), [pystn.brier_score(P, labels)] * 2)


def test_no_samples():
    p = np.zeros((2, 0, 3))
    for metric in (pystn.expected_calibration_error, pystn.brier_score):
        np.testing.assert_array_equal(metric(p, []), [0, 0])
    assert pystn.brier_score_vjp(np.ones(2), p, [])[0].shape == p.shape


def test_labels_that_frameworks_trace(rng):
    """They are no constants: what is compiled takes others, and vmap a batch of them."""
    p, labels = probabilities(rng, 3, 5, 4), rng.integers(0, 4, (3, 5))
    expected = pystn.brier_score(p, labels)
    gradient = pystn.brier_score_vjp(np.ones(3), p, labels)[0]
    torch = pytest.importorskip("torch", reason="the adapters need their frameworks")
    import pystn.torch as stn

    tensor, integers = torch.from_numpy(p).requires_grad_(), torch.from_numpy(labels)
    for kind in (torch.int64, torch.int32, torch.uint8):
        found = stn.brier_score(tensor, integers.to(kind))
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-14)
        np.testing.assert_allclose(torch.autograd.grad(found.sum(), tensor)[0], gradient, atol=1e-15)
    np.testing.assert_allclose(torch.vmap(stn.brier_score)(tensor.detach(), integers), expected, rtol=1e-14)
    with pytest.raises(TypeError, match="labels must be integers, got dtype float64"):
        stn.brier_score(tensor, integers.double())
    jax = pytest.importorskip("jax", reason="the adapters need their frameworks")
    from pystn import jax as stn_jax

    p = p.astype(np.float32)
    compiled = jax.jit(jax.grad(lambda p, labels: stn_jax.brier_score(p, labels).sum()))
    for some in (labels, 3 - labels):
        expected = pystn.brier_score_vjp(np.ones(3, np.float32), p, some)[0]
        np.testing.assert_allclose(compiled(p, some), expected, atol=1e-6)
    found = jax.vmap(stn_jax.brier_score)(p, labels)
    np.testing.assert_allclose(found, pystn.brier_score(p, labels), rtol=1e-6)
    with pytest.raises(
        ValueError, match=re.escape("labels must have the shape of probabilities without the last axis")
    ):
        jax.jit(stn_jax.brier_score)(p, labels[:, :4])


@pytest.mark.parametrize(
    "error, message, labels, options",
    [
        (ValueError, "labels[2] must be from 0 to 1: got 2", [0, 1, 2, 0], {}),
        (ValueError, "labels[0] must be from 0 to 1: got -1", [-1, 1, 1, 0], {}),
        (TypeError, "labels must be integers, got dtype float64", [0.0, 1.0, 1.0, 0.0], {}),
        (TypeError, "labels must be integers, got dtype bool", np.ones(4, bool), {}),
        (
            ValueError,
            "labels must have the shape of probabilities without the last axis, (4,), or without axes before N too: "
            "got (3,)",
            [0, 1, 1],
            {},
        ),
        (ValueError, "got ()", np.array(1), {}),
        (ValueError, "got (1, 4)", [[0, 1, 1, 0]], {}),
        (ValueError, "bins must be 1 or more: got 0", [0, 1, 1, 0], {"bins": 0}),
        (TypeError, "bins must be an integer, got 2.0", [0, 1, 1, 0], {"bins": 2.0}),
    ],
)
def test_errors(error, message, labels, options):
    calls = [
        lambda: pystn.expected_calibration_error(P, labels, **options),
        lambda: pystn.expected_calibration_error_vjp(np.array(1.0), P, labels, **options),
        lambda: pystn.expected_calibration_error_jvp(P, P, labels, **options),
        lambda: pystn.reliability_curve(P, labels, **options),
    ]
    if not options:
        calls += [
            lambda: pystn.brier_score(P, labels),
            lambda: pystn.brier_score_vjp(np.array(1.0), P, labels),
            lambda: pystn.brier_score_jvp(P, P, labels),
            lambda: pystn.brier_score_vjp2(P, np.array(1.0), P, labels),
        ]
    for call in calls:
        with pytest.raises(error, match=re.escape(message)):
            call()


def test_errors_of_probabilities():
    with pytest.raises(TypeError, match="probabilities must be float32 or float64"):
        pystn.brier_score(P.astype(int), [0] * 4)
    for wrong in (P[0], np.zeros((4, 0))):
        with pytest.raises(ValueError, match=re.escape("probabilities must have shape (..., N, K) with K 1 or more")):
            pystn.brier_score(wrong, [0] * 4)
    with pytest.raises(ValueError, match="grad_score must have the shape of the result"):
        pystn.brier_score_vjp(np.ones(2), P, [0] * 4)
    with pytest.raises(ValueError, match="d_probabilities must have the shape of probabilities"):
        pystn.expected_calibration_error_jvp(P, P[:2], [0] * 4)


# ---- equivariance


class Map:
    """A function of arrays with its derivatives."""

    def __init__(self, value, slope):
        self.value, self.slope = value, slope

    def __call__(self, array):
        return self.value(array)

    def vjp(self, cotangent, array):
        return (self.slope(array) * cotangent,)

    def jvp(self, array, tangent):
        return self.slope(array) * tangent


class Operation:
    """One of pystn, to one of its arrays."""

    def __init__(self, name, *others, **options):
        self.operation, self.others, self.options = pystn.ops.OPERATIONS[name], others, options

    def __call__(self, array):
        return self.operation.forward(array, *self.others, **self.options)

    def vjp(self, cotangent, array):
        return self.operation.vjp(cotangent, array, *self.others, **self.options)[0]

    def jvp(self, array, tangent):
        nothing = [None] * len(self.others)
        return self.operation.jvp(array, *self.others, tangent, *nothing, **self.options)


SQUARE = Map(np.square, lambda x: 2 * x)
SAME = Map(np.copy, np.ones_like)
TURN = Operation("warp_affine", np.array([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]]), size=(5, 5))


def test_what_moves_with_the_image_and_what_does_not(rng):
    image = rng.random((3, 2, 5, 5))
    weights = rng.random(image.shape)
    assert pystn.equivariance_error(np.square, TURN, image).max() < 1e-12
    found = pystn.equivariance_error(lambda x: weights * x, TURN, image)
    first, second = weights * TURN(image), TURN(weights * image)
    norm = [np.linalg.norm(each.reshape(3, -1), axis=1) for each in (first - second, first)]
    assert_close(found, norm[0] / norm[1], 1e-13)
    assert found.min() > 0.1
    # Invariant: the sum of all pixels, which a turn of the square permutes.
    invariant = pystn.equivariance_error(lambda x: x.sum(axis=(2, 3)), TURN, image, lambda features: features)
    assert invariant.max() < 1e-13
    narrow = pystn.equivariance_error(np.square, TURN, image.astype(np.float32))
    assert narrow.dtype == np.float32


@pytest.mark.parametrize("after", [None, SAME], ids=["equivariant", "invariant"])
def test_derivatives_to_the_image(rng, after):
    image, tangent, cotangent = rng.random((2, 1, 5, 5)), rng.standard_normal((2, 1, 5, 5)), rng.standard_normal(2)
    shift = Operation("warp_affine", np.array([[[1.1, 0.1, 0.1], [0.0, 0.9, 0.2]]]), size=(5, 5))
    (gradient,) = pystn.equivariance_error_vjp(cotangent, SQUARE, shift, image, after)
    pushed = pystn.equivariance_error_jvp(SQUARE, shift, image, tangent, after)
    assert_adjoint(pushed, cotangent, [gradient], [tangent])
    expected = difference(lambda x: pystn.equivariance_error(SQUARE, shift, x, after), [image], [tangent], 1e-6)
    assert_close(pushed, expected, 1e-8)
    assert np.abs(pushed).min() > 1e-3


def test_families_are_callables_with_derivatives(rng):
    """Of parameters: the error of a spline's grid under a shift of all points."""
    spline = pystn.ThinPlateSpline(pystn.control_points((2, 2)), (3, 3))
    theta, tangent = spline.identity(2) + rng.normal(0, 0.1, (2, 4, 2)), rng.standard_normal((2, 4, 2))
    double, shift = Map(lambda x: 2 * x, lambda x: 2 + 0 * x), Map(lambda x: x + 0.5, np.ones_like)
    assert pystn.equivariance_error(spline, shift, theta).max() < 1e-12  # splines have constants
    (gradient,) = pystn.equivariance_error_vjp(np.ones(2), spline, double, theta, shift)
    pushed = pystn.equivariance_error_jvp(spline, double, theta, tangent, shift)
    assert_adjoint(pushed, np.ones(2), [gradient], [tangent])
    assert np.abs(pushed).min() > 1e-4


def test_errors_of_zero_and_without_bounds():
    """No slope where there is none."""
    image, dark = np.ones((1, 2)), Map(lambda x: 0 * x, lambda x: 0 * x)
    shift = Map(lambda x: x + 1, np.ones_like)
    for f, warp, after, expected in ((SQUARE, SAME, None, 0), (dark, SAME, None, 0), (dark, SAME, shift, math.inf)):
        assert pystn.equivariance_error(f, warp, image, after) == [expected]
        (gradient,) = pystn.equivariance_error_vjp(np.ones(1), f, warp, image, after)
        np.testing.assert_array_equal(gradient, 0 * image)


def test_errors_of_equivariance():
    image = np.ones((2, 3))
    error, vjp, jvp = pystn.equivariance_error, pystn.equivariance_error_vjp, pystn.equivariance_error_jvp
    with pytest.raises(
        ValueError, match=re.escape("feature_warp(f(image)) must have the shape of f(warp(image)), (2, 3)")
    ):
        error(np.copy, np.copy, image, lambda x: x[:1])
    with pytest.raises(TypeError, match=re.escape("f(warp(image)) must be float32 or float64")):
        error(lambda x: x.astype(int), np.copy, image)
    with pytest.raises(TypeError, match="image must be a numpy"):
        error(np.copy, np.copy, [1.0])
    with pytest.raises(TypeError, match=re.escape("f must have a method vjp(cotangent, array)")):
        vjp(np.ones(2), np.copy, SAME, image)
    with pytest.raises(TypeError, match=re.escape("warp must have a method jvp(array, tangent)")):
        jvp(SAME, np.copy, image, image, SAME)
    with pytest.raises(ValueError, match=re.escape("grad_error must have the shape of the result, (2,): got (1,)")):
        vjp(np.ones(1), SAME, SAME, image)
