"""Losses against their formulas, written out in loops, and against other packages; their derivatives; their kinks."""

import math
import re

import numpy as np
import pytest
from jacobians import assert_adjoint, assert_close, assert_second_order, difference

import pystn

INF = math.inf


def slow_hinge(a, p, n, margin):
    return max(0.0, sum((a - p) ** 2) - sum((a - n) ** 2) + margin)


def slow_triplets(anchor, positive, negative, margin=1.0):
    anchor, positive, negative = np.broadcast_arrays(anchor, positive, negative)
    rows = zip(*[array.reshape(-1, array.shape[-1]) for array in (anchor, positive, negative)], strict=True)
    return np.array([slow_hinge(*row, margin) for row in rows]).reshape(anchor.shape[:-1])


def slow_colocalization(crops, random, margin=1.0):
    losses = []
    for e, r in zip(crops.reshape(-1, *crops.shape[-2:]), random.reshape(-1, *random.shape[-2:]), strict=True):
        pairs = [(n, m) for n in range(len(e)) for m in range(len(e)) if n != m]
        losses.append(sum(slow_hinge(e[n], e[m], r[n], margin) for n, m in pairs))
    return np.array(losses).reshape(crops.shape[:-2])


def slow_normal(mean, scale, prior_mean, prior_scale):
    def one(m, s, m0, s0):
        return math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5

    return np.vectorize(one)(mean, scale, prior_mean, prior_scale)


def slow_gamma(beta, prior_beta, alpha=1.0):
    return np.vectorize(lambda b, p: alpha * (math.log(b / p) + p / b - 1))(beta, prior_beta)


def slow_log_mean(array, axis=-1):
    return np.log(np.mean(np.exp(array), axis=axis))


def slow_distance(theta):
    rows, columns = theta.shape[-2:]
    return sum((theta[..., i, j] - (i == j)) ** 2 for i in range(rows) for j in range(columns))


# Name, oracle, shapes of the primals, from where to where, options.
LOSSES = [
    ("triplet_hinge", slow_triplets, [(2, 3, 4), (3, 4), (2, 1, 4)], (-1, 1), {"margin": 0.3}),
    ("triplet_hinge", slow_triplets, [(4,), (4,), (4,)], (-1, 1), {}),
    ("colocalization_loss", slow_colocalization, [(2, 5, 3), (2, 5, 3)], (-1, 1), {"margin": 0.5}),
    ("colocalization_loss", slow_colocalization, [(4, 3), (4, 3)], (-1, 1), {}),
    ("colocalization_loss", slow_colocalization, [(1, 3), (1, 3)], (-1, 1), {}),
    ("normal_kl", slow_normal, [(2, 3), (3,), (2, 1), ()], (0.5, 1.5), {}),
    ("normal_kl", slow_normal, [(2, 3)] * 4, (0.5, 1.5), {}),
    ("gamma_kl", slow_gamma, [(2, 3), ()], (0.5, 1.5), {"alpha": 2.5}),
    ("gamma_kl", slow_gamma, [(3,), (2, 1)], (0.5, 1.5), {}),
    ("log_mean_exp", slow_log_mean, [(2, 3, 4)], (-3, 3), {"axis": 1}),
    ("log_mean_exp", slow_log_mean, [(3, 2)], (-3, 3), {"axis": 0}),
    ("log_mean_exp", slow_log_mean, [(5,)], (-3, 3), {}),
    ("identity_penalty", slow_distance, [(2, 3, 2, 3)], (-1, 1), {}),
    ("identity_penalty", slow_distance, [(1, 2)], (-1, 1), {}),
    ("identity_penalty", slow_distance, [(2, 3, 4)], (-1, 1), {}),
    ("identity_penalty", slow_distance, [(2, 3, 3)], (-1, 1), {}),
]
every_loss = pytest.mark.parametrize(
    "name, slow, shapes, bounds, options", LOSSES, ids=[f"{name}-{k}" for k, (name, *_) in enumerate(LOSSES)]
)


def of(name, suffix=""):
    return getattr(pystn, f"{name}{suffix}")


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-13), (np.float32, 1e-6)])
@every_loss
def test_formulas(backend, rng, name, slow, shapes, bounds, options, dtype, tolerance):
    primals = [rng.uniform(*bounds, shape).astype(dtype) for shape in shapes]
    expected = slow(*[primal.astype(float) for primal in primals], **options)
    found = of(name)(*map(backend.array, primals), **options)
    assert (found.shape, found.dtype) == (expected.shape, dtype)
    assert_close(backend.numpy(found), expected, tolerance)


@every_loss
def test_derivatives(backend, rng, name, slow, shapes, bounds, options):
    primals, tangents = ([rng.uniform(*bounds, shape) for shape in shapes] for _ in range(2))
    cotangent = rng.standard_normal(slow(*primals, **options).shape)
    on = [backend.array(np.asarray(array)) for array in (cotangent, *primals)]
    gradients = [backend.numpy(g) for g in of(name, "_vjp")(*on, **options)]
    pushed = backend.numpy(of(name, "_jvp")(*on[1:], *map(backend.array, map(np.asarray, tangents)), **options))
    assert [g.shape for g in gradients] == shapes
    assert_adjoint(pushed, cotangent, gradients, tangents)
    assert_close(pushed, difference(lambda *moved: slow(*moved, **options), primals, tangents, 1e-6), 1e-7)


@every_loss
def test_second_order(rng, name, slow, shapes, bounds, options):
    primals, along, across = ([np.asarray(rng.uniform(*bounds, shape)) for shape in shapes] for _ in range(3))
    assert_second_order(
        lambda *arrays: of(name, "_vjp")(*map(np.asarray, arrays), **options),  # NumPy's sum of arrays () is none
        lambda *arrays: of(name, "_vjp2")(*arrays, **options),
        np.asarray(rng.uniform(0.5, 1.5, slow(*primals, **options).shape)),
        primals,
        along,
        across,
    )


@pytest.mark.parametrize("name", ["triplet_hinge", "colocalization_loss", "normal_kl", "gamma_kl"])
def test_only_what_is_wanted(rng, name):
    _, slow, shapes, bounds, options = next(loss for loss in LOSSES if loss[0] == name)
    primals = [np.asarray(rng.uniform(*bounds, shape)) for shape in shapes]
    cotangent = np.ones(slow(*primals, **options).shape)
    names = pystn.ops.OPERATIONS[name].primals
    whole = of(name, "_vjp")(cotangent, *primals, **options)
    for k, one in enumerate(names):
        alone = of(name, "_vjp")(cotangent, *primals, **options, wrt=one)
        assert [gradient is not None for gradient in alone] == [i == k for i in range(len(names))]
        np.testing.assert_array_equal(alone[k], whole[k])


# ---- triplets


@pytest.mark.parametrize("y, slope", [(1.0, 0.0), (1.001, 0.0), (0.999, 2.0)])
def test_a_hinge_at_zero_has_no_slope(y, slope):
    anchor, positive, negative = np.array([0.0, 0.0]), np.array([1.0, 0.0]), np.array([1.0, y])
    found = pystn.triplet_hinge(anchor, positive, negative)
    np.testing.assert_allclose(found, max(1 - y**2, 0), atol=1e-15)  # 1 - (1 + y^2) + 1
    gradients = pystn.triplet_hinge_vjp(np.array(1.0), anchor, positive, negative)
    expected = [negative - positive, positive - anchor, anchor - negative]
    for gradient, direction in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(gradient, slope * direction)


def test_torchs_triplets_are_of_distances_that_are_not_squared(rng):
    torch = pytest.importorskip("torch", reason="has a loss of another name and definition")
    anchor, positive, negative = rng.standard_normal((3, 6, 4))
    theirs = torch.nn.functional.triplet_margin_loss(
        *map(torch.from_numpy, (anchor, positive, negative)), margin=0.5, reduction="none", eps=0.0
    ).numpy()
    distances = [np.linalg.norm(anchor - other, axis=1) for other in (positive, negative)]
    np.testing.assert_allclose(theirs, np.maximum(distances[0] - distances[1] + 0.5, 0), atol=1e-12)
    ours = pystn.triplet_hinge(anchor, positive, negative, margin=0.5)
    np.testing.assert_allclose(ours, np.maximum(distances[0] ** 2 - distances[1] ** 2 + 0.5, 0), atol=1e-12)
    assert abs(ours - theirs).max() > 0.1


def test_colocalization_is_the_sum_of_the_triplets_of_all_pairs(rng):
    crops, random = rng.standard_normal((2, 5, 3))
    pairs = [(n, m) for n in range(5) for m in range(5) if n != m]
    anchors, others = map(list, zip(*pairs, strict=True))
    hinges = pystn.triplet_hinge(crops[anchors], crops[others], random[anchors])
    np.testing.assert_allclose(pystn.colocalization_loss(crops, random), hinges.sum(), rtol=1e-13)
    to_anchor, to_other, to_random = pystn.triplet_hinge_vjp(
        np.ones(len(pairs)), crops[anchors], crops[others], random[anchors]
    )
    expected = np.zeros_like(crops), np.zeros_like(random)
    np.add.at(expected[0], anchors, to_anchor)
    np.add.at(expected[0], others, to_other)
    np.add.at(expected[1], anchors, to_random)
    for found, gradient in zip(pystn.colocalization_loss_vjp(np.array(1.0), crops, random), expected, strict=True):
        assert_close(found, gradient, 1e-13)


def test_hinges_of_pairs_at_zero_have_no_slope():
    crops, random = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    assert pystn.colocalization_loss(crops, random, margin=3.0) == 0  # 1 - 4 + 3, for both
    for gradient in pystn.colocalization_loss_vjp(np.array(1.0), crops, random, margin=3.0):
        np.testing.assert_array_equal(gradient, 0)
    assert pystn.colocalization_loss(crops, random, margin=3.5) == 1


def test_encodings_that_are_nan_are_noticed():
    crops, random = np.array([[0.0], [np.nan]]), np.array([[2.0], [3.0]])
    assert np.isnan(pystn.colocalization_loss(crops, random))
    assert np.isnan(pystn.triplet_hinge(crops[0], crops[1], random[0]))


# ---- divergences


def test_torch_has_the_same_divergences(rng):
    torch = pytest.importorskip("torch", reason="has the divergences of its distributions")
    from torch.distributions import Gamma, Normal, kl_divergence

    mean, prior_mean = rng.standard_normal((2, 6))
    scale, prior_scale = rng.uniform(0.1, 3, (2, 6))
    tensors = [torch.from_numpy(array) for array in (mean, scale, prior_mean, prior_scale)]
    expected = kl_divergence(Normal(*tensors[:2]), Normal(*tensors[2:]))
    assert_close(pystn.normal_kl(mean, scale, prior_mean, prior_scale), expected.numpy(), 1e-13)
    alpha = torch.full((6,), 1.7, dtype=torch.float64)
    expected = kl_divergence(Gamma(alpha, tensors[1]), Gamma(alpha, tensors[3]))
    assert_close(pystn.gamma_kl(scale, prior_scale, 1.7), expected.numpy(), 1e-12)


def test_samples_have_the_divergences():
    """The mean of log q - log p over samples of q."""
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 0.5, 200_000)
    ratio = np.log(0.8 / 0.5) - (x - 0.3) ** 2 / (2 * 0.25) + (x + 0.2) ** 2 / (2 * 0.64)
    expected = pystn.normal_kl(*map(np.array, (0.3, 0.5, -0.2, 0.8)))
    assert abs(ratio.mean() - expected) < 4 * ratio.std() / len(x) ** 0.5 < 0.01
    alpha, beta, prior = 2.0, 1.5, 0.7
    x = rng.gamma(alpha, 1 / beta, 200_000)
    ratio = alpha * np.log(beta / prior) - (beta - prior) * x
    expected = pystn.gamma_kl(np.array(beta), np.array(prior), alpha)
    assert abs(ratio.mean() - expected) < 4 * ratio.std() / len(x) ** 0.5 < 0.01


def test_divergences_are_zero_and_flat_at_the_prior():
    one, half = np.array([1.0, 0.5]), np.array([0.5, 2.0])
    np.testing.assert_array_equal(pystn.normal_kl(one, half, one, half), [0, 0])
    for gradient in pystn.normal_kl_vjp(np.ones(2), one, half, one, half):
        np.testing.assert_allclose(gradient, [0, 0], atol=1e-15)
    np.testing.assert_array_equal(pystn.gamma_kl(half, half), [0, 0])
    for gradient in pystn.gamma_kl_vjp(np.ones(2), half, half):
        np.testing.assert_array_equal(gradient, [0, 0])


def test_a_prior_that_moves_with_the_mean_leaves_the_scales():
    mean, scale, prior_scale = np.array([3.0, -1.0]), np.array([0.5, 2.0]), np.array(1.0)
    found = pystn.normal_kl(mean, scale, mean, prior_scale)
    np.testing.assert_array_equal(found, pystn.normal_kl(0 * mean, scale, 0 * mean, prior_scale))


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan])
def test_what_is_no_distribution_has_no_divergence(wrong):
    """NaN, also where two wrong signs would give a number."""
    scale, prior, zero = np.array([wrong, 1.0]), np.array([-1.0, 1.0]), np.array(0.0)
    for second in (prior, np.abs(prior)):
        np.testing.assert_array_equal(np.isnan(pystn.normal_kl(zero, scale, zero, second)), [True, False])
        np.testing.assert_array_equal(np.isnan(pystn.gamma_kl(scale, second)), [True, False])
        to_scale = pystn.normal_kl_vjp(np.ones(2), zero, scale, zero, second, wrt="scale")[1]
        np.testing.assert_array_equal(np.isnan(to_scale), [True, False])
        np.testing.assert_array_equal(np.isnan(pystn.gamma_kl_vjp(np.ones(2), scale, second)[0]), [True, False])


# ---- the mean of exponentials


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
def test_scipy_has_the_same_logarithm(rng, axis):
    special = pytest.importorskip("scipy.special")
    array = 300 * rng.standard_normal((3, 2, 4))
    array[0, 0, :2] = -INF
    expected = special.logsumexp(array, axis=axis) - np.log(array.shape[axis])
    assert_close(pystn.log_mean_exp(array, axis), expected, 1e-14)
    gradient = pystn.log_mean_exp_vjp(np.ones_like(expected), array, axis)[0]
    assert_close(gradient, special.softmax(array, axis=axis), 1e-13)


def test_values_that_are_infinite():
    array = np.array([[-INF, 0.0], [-INF, -INF], [INF, 0.0], [INF, INF], [INF, -INF], [1e4, -1e4]])
    found = pystn.log_mean_exp(array)
    np.testing.assert_allclose(found, [-np.log(2), -INF, INF, INF, INF, 1e4 - np.log(2)], rtol=1e-15)
    (weights,) = pystn.log_mean_exp_vjp(np.ones(6), array)
    np.testing.assert_array_equal(weights, [[0, 1], [0.5, 0.5], [1, 0], [0.5, 0.5], [1, 0], [1, 0]])
    assert np.isnan(pystn.log_mean_exp(np.array([np.nan, 0.0])))


def test_the_mean_of_logarithms_is_a_bound(rng):
    array = rng.standard_normal((10, 5))
    assert (pystn.log_mean_exp(array) >= array.mean(axis=-1)).all()
    np.testing.assert_allclose(pystn.log_mean_exp(np.full((2, 5), 0.7)), 0.7, rtol=1e-15)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_axes_in_a_batch_of_calls(rng, axis):
    """What counts axes from the front counts them without the batch's."""
    torch = pytest.importorskip("torch", reason="vmap")
    import pystn.torch as stn

    array = torch.from_numpy(rng.standard_normal((4, 2, 3, 5)))
    found = torch.vmap(lambda one: stn.log_mean_exp(one, axis))(array)
    torch.testing.assert_close(found, torch.stack([stn.log_mean_exp(one, axis) for one in array]))


# ---- gradients that are scaled


@pytest.mark.parametrize("factor", [0.1, 0.0, -1.0, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gradients_are_scaled_and_nothing_else(backend, rng, factor, dtype):
    array, tangent, cotangent = (rng.standard_normal((2, 3)).astype(dtype) for _ in range(3))
    given = backend.array(array)
    output = pystn.scale_gradient(given, factor)
    np.testing.assert_array_equal(backend.numpy(output), array)
    assert output is not given
    pushed = backend.numpy(pystn.scale_gradient_jvp(given, backend.array(tangent), factor))
    (gradient,) = pystn.scale_gradient_vjp(backend.array(cotangent), given, factor)
    np.testing.assert_array_equal(backend.numpy(gradient), dtype(factor) * cotangent)
    np.testing.assert_array_equal(pushed, dtype(factor) * tangent)
    assert pushed.dtype == dtype
    assert_adjoint(pushed, cotangent, [backend.numpy(gradient)], [tangent])
    assert not backend.numpy(pystn.scale_gradient_jvp(given, None, factor)).any()


def test_scaled_gradients_in_frameworks():
    array = np.array([1.0, -2.0])
    expected = 0.1 * 3 * array**2
    torch = pytest.importorskip("torch", reason="the adapters need their frameworks")
    import pystn.torch as stn

    tensor = torch.from_numpy(array).requires_grad_()
    (stn.scale_gradient(tensor, 0.1) ** 3).sum().backward()
    np.testing.assert_allclose(tensor.grad, expected, rtol=1e-14)
    jax = pytest.importorskip("jax", reason="the adapters need their frameworks")
    from pystn import jax as stn_jax

    found = jax.jit(jax.grad(lambda x: (stn_jax.scale_gradient(x, 0.1) ** 3).sum()))(array.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# ---- errors

E3 = np.zeros((2, 3))


@pytest.mark.parametrize(
    "error, message, call",
    [
        (
            ValueError,
            "positive must have shape (..., 3): got (2, 4)",
            lambda: pystn.triplet_hinge(E3, np.zeros((2, 4)), E3),
        ),
        (ValueError, "anchor must have shape (..., E): got ()", lambda: pystn.triplet_hinge(*[np.array(0.0)] * 3)),
        (TypeError, "margin must be a real number", lambda: pystn.triplet_hinge(E3, E3, E3, margin=None)),
        (
            TypeError,
            "negative must have the dtype of anchor, float64: got float32",
            lambda: pystn.triplet_hinge(E3, E3, E3.astype("f4")),
        ),
        (ValueError, "crops must have shape (..., N, E): got (3,)", lambda: pystn.colocalization_loss(E3[0], E3)),
        (
            ValueError,
            "random must have shape (..., 2, 3), one for each of crops: got (1, 3)",
            lambda: pystn.colocalization_loss(E3, E3[:1]),
        ),
        (
            ValueError,
            "leading axes of mean and scale and prior_mean and prior_scale must broadcast",
            lambda: pystn.normal_kl(E3, E3[:, :2], E3, E3),
        ),
        (TypeError, "prior_mean must be a numpy.ndarray, got builtins.float", lambda: pystn.normal_kl(E3, E3, 0.0, E3)),
        (ValueError, "alpha must be positive, got 0", lambda: pystn.gamma_kl(E3, E3, alpha=0)),
        (TypeError, "beta must be float32 or float64", lambda: pystn.gamma_kl(E3.astype(int), E3)),
        (ValueError, "axis must be one of the 2 of array: got 2 with shape (2, 3)", lambda: pystn.log_mean_exp(E3, 2)),
        (TypeError, "axis must be an integer, got 0.5", lambda: pystn.log_mean_exp(E3, 0.5)),
        (ValueError, "array must have an entry or more along axis", lambda: pystn.log_mean_exp(np.zeros((2, 0)))),
        (TypeError, "array must be a numpy.ndarray, got builtins.list", lambda: pystn.log_mean_exp([1.0])),
        (
            ValueError,
            "d_array must have the shape of array, (2, 3): got (3,)",
            lambda: pystn.log_mean_exp_jvp(E3, E3[0]),
        ),
        (
            ValueError,
            "grad_output must have the shape of the result, (2,): got (2, 3)",
            lambda: pystn.log_mean_exp_vjp(E3, E3),
        ),
        (ValueError, "theta must have shape (..., ndim, ndim + 1)", lambda: pystn.identity_penalty(np.zeros((2, 2)))),
        (ValueError, "unknown entry of wrt", lambda: pystn.gamma_kl_vjp(E3, E3, E3, wrt="alpha")),
        (TypeError, "factor must be a real number, got '1'", lambda: pystn.scale_gradient(E3, "1")),
        (ValueError, "factor must be finite, got inf", lambda: pystn.scale_gradient_vjp(E3, E3, INF)),
        (TypeError, "array must be float32 or float64", lambda: pystn.scale_gradient(E3.astype(int), 1.0)),
        (
            ValueError,
            "grad_output must have the shape of array, (2, 3): got (3,)",
            lambda: pystn.scale_gradient_vjp(E3[0], E3, 1.0),
        ),
        (TypeError, "grad_output must be a numpy.ndarray", lambda: pystn.scale_gradient_vjp(None, E3, 1.0)),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()
