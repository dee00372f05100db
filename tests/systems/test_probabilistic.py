"""A posterior of transforms: draws of it, its divergence, and both ways to make one answer of many."""

import numpy as np
import pytest
from jacobians import difference
from localizations import Linear, leaves, rebuilt

import pystn

SIZE, BATCH, SAMPLES = (6, 7), 2, 3
SERIES = pystn.CPAB((4,), (9,))
CASES = {
    "student": ("rigid", {"alpha": 1.5, "prior_spread": 0.7}),
    "normal": ("affine", {"posterior": "normal", "prior_spread": 0.05}),
    "normal-fixed": (
        "similarity",
        {"posterior": "normal", "prior_mean": pystn.identity_params("similarity"), "return_parameters": True},
    ),
    "sized": ("attention", {"size": (3, 4), "posterior": "normal"}),
    "masked": ("attention", {"return_mask": True, "return_parameters": True}),
    "series": (SERIES, {"alpha": 2.0}),
}


def image_of(transform):
    rng = np.random.default_rng(3)
    return rng.standard_normal((BATCH, 2, 9) if transform is SERIES else (BATCH, 2, *SIZE))


def system(name, weights=None, module=pystn):
    transform, options = CASES[name]
    image = image_of(transform)
    identity = pystn.identity_params(transform)
    network = Linear(np.stack([identity, np.full(len(identity), -2.0)]), image[0].size)
    if weights is not None:
        network = network.with_weights(rebuilt(network.weights, iter(weights)))
    made = module.ProbabilisticSpatialTransformer(network, transform, mode="cubic", **options)
    return made, image, pystn.ProbabilisticSpatialTransformer.noise(made, (BATCH, SAMPLES, len(identity)), 5) / 3


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_differences(name, rng):
    made, image, noise = system(name)
    outputs, pullback = made.pull(image, noise)
    cotangents = [rng.standard_normal(part.shape) for part in leaves(outputs)]
    cotangent = rebuilt(outputs, iter(cotangents))

    def loss(image, *weights):
        outputs = leaves(system(name, weights)[0](image, noise))
        return sum((g * v).sum() for g, v in zip(cotangents, outputs, strict=True))

    primals = [image, *made.localization.weights]
    gradients = leaves(pullback(cotangent))
    for k, (gradient, primal) in enumerate(zip(gradients, primals, strict=True)):
        tangent = rng.standard_normal(primal.shape)
        along = [tangent if j == k else None for j in range(len(primals))]
        expected = difference(loss, primals, along, 1e-6)
        scale = np.linalg.norm(gradient) * np.linalg.norm(tangent)
        assert abs((gradient * tangent).sum() - expected) <= 1e-7 * scale
    # Each cotangent has its share, and any may be missing.
    alone = [[part if j == k else None for j, part in enumerate(cotangent)] for k in range(len(cotangent))]
    for gradient, *parts in zip(gradients, *[leaves(pullback(one)) for one in alone], strict=True):
        np.testing.assert_allclose(sum(parts), gradient, atol=1e-12)


@pytest.mark.parametrize("name", ["student", "normal-fixed", "series"])
def test_cuda_has_the_same(name, cuda):
    made, image, noise = system(name)
    outputs, pullback = made.pull(image, noise)
    found, pullback_there = system(name, map(cuda.array, made.localization.weights))[0].pull(cuda.array(image), noise)
    expected = leaves([outputs, pullback(outputs)])
    for one, other in zip(leaves([found, pullback_there(found)]), expected, strict=True):
        np.testing.assert_allclose(cuda.numpy(one), other, rtol=0, atol=1e-11 * max(1, np.abs(other).max()))


@pytest.mark.parametrize("name", ["student", "normal-fixed"])
@pytest.mark.parametrize("framework", ["torch", "jax", "autograd"])
def test_frameworks_have_the_same_gradients(name, framework):
    made, image, noise = system(name)
    (output, *others), pullback = made.pull(image, noise)
    expected = pullback((2 * output, *map(np.ones_like, others)))[1]
    weights = made.localization.weights

    def loss(module, weights, image):
        output, *others = system(name, weights, module)[0](image, noise)
        return (output**2).sum() + sum(other.sum() for other in others)

    if framework == "torch":
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        import pystn.torch as module

        given = [torch.from_numpy(w).requires_grad_() for w in weights]
        loss(module, given, torch.from_numpy(image)).backward()
        found = [w.grad.numpy() for w in given]
    elif framework == "jax":
        jax = pytest.importorskip("jax", reason="JAX is not installed")
        import pystn.jax as module

        with jax.enable_x64(True):
            found = jax.jit(jax.grad(lambda weights: loss(module, weights, jax.numpy.asarray(image))))(
                [jax.numpy.asarray(w) for w in weights]
            )
    else:
        autograd = pytest.importorskip("autograd", reason="autograd is not installed")
        import pystn.autograd as module

        found = autograd.grad(lambda weights: loss(module, weights, image))(list(weights))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_draws_are_the_warps_of_their_parameters():
    made, image, noise = system("student")
    output, divergence = made(image, noise)
    raw = made.localization(image)
    beta = np.log1p(np.exp(raw[:, 1]))
    theta = raw[:, None, 0] + np.sqrt(beta / 1.5)[:, None] * noise
    for s in range(SAMPLES):
        expected = pystn.warp_affine(image, pystn.rigid_matrix(theta[:, s]), SIZE, "cubic")
        np.testing.assert_allclose(output[:, :, s], expected, atol=1e-12)
    expected = 1.5 * (np.log(beta / 0.7) + 0.7 / beta - 1).sum(1)
    np.testing.assert_allclose(divergence, expected, rtol=1e-12)
    made.return_parameters = True
    np.testing.assert_allclose(made(image, noise)[2], theta, rtol=1e-12)
    made.return_parameters = False
    mean, _ = made(image)
    expected = pystn.warp_affine(image, pystn.rigid_matrix(raw[:, 0]), SIZE, "cubic")
    np.testing.assert_allclose(mean[:, :, 0], expected, atol=1e-12)


def test_noise_is_seeded_and_of_the_posterior():
    made = pystn.ProbabilisticSpatialTransformer(len, alpha=4.0)
    drawn = made.noise((20, 50, 100), 1)
    assert np.array_equal(drawn, made.noise((20, 50, 100), 1))
    assert not np.array_equal(drawn, made.noise((20, 50, 100), 2))
    assert abs(drawn.var() - 8 / 6) < 0.03  # of 8 degrees of freedom
    normal = pystn.ProbabilisticSpatialTransformer(len, posterior="normal").noise((20, 50, 100), 1, "f4")
    assert normal.dtype == np.float32
    assert abs(normal.std() - 1) < 0.01


def test_the_expected_output_is_the_integral_over_the_posterior():
    # One parameter, a shift along x of a linear ramp's square: E[(x + s)^2] = x^2 + sigma^2, in the middle.
    sigma, size = 0.1, 33
    raw = np.log(np.expm1(sigma))
    x = np.linspace(-1, 1, size)
    image = np.tile(x**2, (1, 1, 1))
    made = pystn.ProbabilisticSpatialTransformer(
        lambda image: np.tile([[[0.0], [raw]]], (len(image), 1, 1)),
        "translation",
        mode="cubic",
        align_corners=True,
        posterior="normal",
    )
    noise = made.noise((1, 4000, 1), 0)
    output, _ = made(image, noise)
    middle = slice(12, 21)
    error = output[0, 0].mean(0)[middle] - (x**2 + sigma**2)[middle]
    spread = output[0, 0].std(0)[middle] / 4000**0.5
    assert (abs(error) < 4 * spread + 1e-3).all()


def test_marginals_of_training_and_testing(rng):
    made = pystn.ProbabilisticSpatialTransformer(len)
    scores = rng.standard_normal((4, SAMPLES, 5))
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    train, to_train = made.pull_marginal(log_p, training=True)
    test, to_test = made.pull_marginal(log_p)
    np.testing.assert_allclose(train, log_p.mean(1), rtol=1e-14)
    np.testing.assert_allclose(np.exp(test), np.exp(log_p).mean(1), rtol=1e-12)
    np.testing.assert_allclose(np.exp(test).sum(-1), 1, rtol=1e-12)
    assert (train <= test).all()  # Jensen
    for pull, training in ((to_train, True), (to_test, False)):
        grad, tangent = rng.standard_normal(train.shape), rng.standard_normal(log_p.shape)
        pushed = difference(lambda log_p, t=training: made.marginal(log_p, t), [log_p], [tangent])
        np.testing.assert_allclose((pull(grad) * tangent).sum(), (grad * pushed).sum(), rtol=1e-7)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: pystn.ProbabilisticSpatialTransformer(len, posterior="cauchy"), ValueError, "unknown posterior"),
        (lambda: pystn.ProbabilisticSpatialTransformer(len, alpha=0.0), ValueError, "alpha must be positive"),
        (lambda: pystn.ProbabilisticSpatialTransformer(len, prior_mean=[0.0]), ValueError, "prior_mean is for"),
        (
            lambda: system("masked")[0].pull(image_of("attention"))[1]((None, None)),
            TypeError,
            r"a tuple \(output, divergence, parameters\), as what is returned: got a tuple of 2",
        ),
        (lambda: system("student")[0](image_of("rigid"), np.zeros((2, 3, 4))), ValueError, "noise must have shape"),
    ],
)
def test_errors(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_one_draw_of_a_line_has_an_axis_of_draws():
    """(N, 1, 2) is no matrix here."""
    line = np.random.default_rng(0).standard_normal((2, 3, 9))
    raw = np.array([[0.9, 0.1, -3.0, -3.0]])
    output, _ = pystn.ProbabilisticSpatialTransformer(lambda image: raw)(line)
    np.testing.assert_array_equal(output[:, :, 0], pystn.warp_affine(line, raw[:, None, :2], (9,)))


@pytest.mark.parametrize(
    "raw, message",
    [
        (np.ones((2, 11)), r"means and spreads, \(N, 2, p\) or \(N, 2 \* p\): got shape \(2, 11\)"),
        (np.ones((2, 6, 2)), r"means and spreads, .*: got shape \(2, 6, 2\)"),
        (None, r"means and spreads, .*: got shape \(\)"),
        (np.ones((2, 2, 4)), r"parameters of 'affine' in 2 dimensions must have shape .*: got \(2, 1, 4\)"),
    ],
)
def test_networks_that_say_something_else(raw, message):
    with pytest.raises(ValueError, match=message):
        pystn.ProbabilisticSpatialTransformer(lambda image: raw)(np.ones((2, 1, 4, 4)))
