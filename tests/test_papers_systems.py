"""What the experiments with cascades, refined warps, posteriors and anti-aliasing are made of."""

from types import SimpleNamespace

import numpy as np
import pytest

import pystn

torch = pytest.importorskip("torch", reason="the experiments train PyTorch networks")
pytest.importorskip("tqdm", reason="the experiments show their progress")

from bench.papers import aliasing, boundary, distortions, experiment, ic_stn, p_stn, training  # noqa: E402

PERTURBED = SimpleNamespace(corners=0.25, shift=0.25)
FEW = {each.name: each for each in p_stn.EXPERIMENTS}["p-stn-30"]


def test_perturbations_move_corners():
    warps = ic_stn.perturbations(4000, PERTURBED, np.random.default_rng(0)).astype(float)
    corners = np.c_[distortions.CORNERS, np.ones(4)] @ warps.swapaxes(1, 2)
    moved = corners[..., :2] / corners[..., 2:] - distortions.CORNERS
    together = moved.mean(1)
    apart = moved - together[:, None]
    assert distortions.convex(distortions.CORNERS + moved).all()
    np.testing.assert_allclose(together.std(), np.hypot(0.25, 0.25 / 2), rtol=0.03)
    np.testing.assert_allclose(apart.std(), 0.25 * np.sqrt(3 / 4), rtol=0.06)  # less what folds
    still = ic_stn.perturbations(2, SimpleNamespace(corners=0, shift=0), np.random.default_rng(0))
    np.testing.assert_allclose(still, np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-6)


@pytest.mark.parametrize("model, parameters", [("CNN", 39_079), ("STN", 39_048), ("IC-STN-4", 39_048)])
def test_readers_have_the_published_capacity_and_start_at_the_perturbation(model, parameters):
    reader = ic_stn.Reader(model, 10)
    assert training.parameters_of(reader) == parameters
    images = torch.rand(3, 1, 28, 28)
    warps = torch.from_numpy(ic_stn.perturbations(3, PERTURBED, np.random.default_rng(1)))
    expected = pystn.warp_projective(images.numpy(), warps.numpy(), (28, 28))
    np.testing.assert_allclose(reader.seen(images, warps).detach(), expected, atol=1e-5)


def test_order_of_errors():
    def runs(*errors):
        return [
            experiment.Run(model, seed, error, 0, 0)
            for seed, of_seed in enumerate(errors)
            for model, error in zip(ic_stn.ORDER, of_seed, strict=True)
        ]

    falling, level = (0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.2, 0.4)
    (check,) = ic_stn.ordered(runs(falling, level, falling))
    assert (check.measured, check.limit, check.met) == (2, 2, True)
    (check,) = ic_stn.ordered(runs(falling, level, level))
    assert not check.met
    assert ic_stn.ordered(runs(falling)[:3]) == []


@pytest.mark.parametrize("model", FEW.models)
def test_few_digit_readers_start_alike(model):
    settings = SimpleNamespace(**{**FEW.settings, "spread": 1e-6})
    torch.manual_seed(0)
    reader = p_stn.Reader(model, 2, 10, settings)
    torch.manual_seed(0)
    classifier = p_stn.classifier(2, 10)
    images = torch.rand(2, 1, 28, 28)
    expected = torch.log_softmax(classifier(images), -1)
    for mode in (True, False):
        scores, divergence = reader.train(mode)(images, 3, np.random.default_rng(0))
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
        assert divergence.shape == (2,)


def test_posteriors_start_as_broad():
    """The scale of the draws is `spread`, of Student's distribution and of the normal one."""
    settings = SimpleNamespace(**FEW.settings)
    for model in (p_stn.STUDENT, p_stn.NORMAL):
        transformer = p_stn.Reader(model, 2, 10, settings).transformer
        raw = transformer.localization.start[4:]
        spread = torch.nn.functional.softplus(raw)
        scale = spread.sqrt() if model == p_stn.STUDENT else spread
        torch.testing.assert_close(scale, torch.full((4,), settings.spread))


def test_subsets_have_as_many_of_each_class():
    labels = np.arange(10).repeat(7)
    chosen = p_stn.subset(labels, 30, np.random.default_rng(0))
    assert len(set(chosen)) == 30
    assert np.bincount(labels[chosen]).tolist() == [3] * 10


def test_cascades_of_warps_bring_the_sheet_back():
    sheet = boundary.mosaic(np.full((3, 1, 28, 28), 255, np.uint8), np.random.default_rng(0), 2)
    assert sheet.shape == (1, 1, 40, 40)
    kept = boundary.turned(sheet, "warps, linear", 4, 45)
    lost = boundary.turned(sheet, "images, linear", 4, 45)
    np.testing.assert_allclose(kept, sheet, atol=1e-5)
    assert lost[0, 0, 0, 0] == 0


def test_low_pass():
    """What is slow enough stays as it is, where the pixels are; what is too fast goes."""

    def waves(k, length, shift=0.0):
        return np.cos(np.pi * k * ((np.arange(length) + 0.5) / length + shift))

    matrix = aliasing.low_pass(32, 8, 0.7)
    for k in range(8):
        np.testing.assert_allclose(matrix @ waves(k, 32), waves(k, 8, 0.7 / 32), atol=1e-12)
    for k in range(8, 32):
        np.testing.assert_allclose(matrix @ waves(k, 32), 0, atol=1e-12)


def test_descent_comes_back_from_nearby():
    y, x = np.mgrid[:40, :40] - 19.5
    blob = np.exp(-(x**2 + y**2) / 50).astype(np.float32)[None, None]
    settings = SimpleNamespace(shrink=4, steps=40, first_step=1.0, last_step=0.05)
    start = np.array([[3.0, -2.0]], np.float32)
    for way in ("linear", "linearized", "mipmap"):
        left = aliasing.returned(way, blob, start, settings)
        assert np.abs(left).max() < 0.5, way
