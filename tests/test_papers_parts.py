"""Parts of single experiments: what their data and their measures are said to be."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import pystn

torch = pytest.importorskip("torch", reason="the experiments train PyTorch networks")
pytest.importorskip("tqdm", reason="the experiments show their progress")

import pystn.torch as stn  # noqa: E402
from bench.papers import addition, colocalization, joint_alignment, projection  # noqa: E402
from bench.papers.data import Examples  # noqa: E402
from bench.papers.distortions import DISTORTIONS, rotate_scale_translate  # noqa: E402

DIGITS = np.random.default_rng(0).random((6, 1, 28, 28), np.float32)


def test_distortions_by_an_amount():
    """None leaves digits in the middle, as they are; all of it is what the experiments' digits suffer."""
    still = rotate_scale_translate(DIGITS, np.random.default_rng(0), amount=0.0)
    np.testing.assert_allclose(still[:, :, 7:-7, 7:-7], DIGITS, atol=1e-5)
    assert still[:, :, :6].max() == still[:, :, :, -6:].max() == 0
    whole = rotate_scale_translate(DIGITS, np.random.default_rng(0), amount=1.0)
    np.testing.assert_array_equal(whole, DISTORTIONS["RTS"].apply(DIGITS, np.random.default_rng(0)))


def test_distortions_grow_over_the_first_steps():
    data = SimpleNamespace(mnist=Examples(DIGITS, np.arange(6), DIGITS, np.arange(6)))

    def images(growth):
        context = SimpleNamespace(settings=SimpleNamespace(steps=8, batch=6, growth=growth), data=data)
        return [made for made, _ in itertools.islice(addition.batches(context, 0), 8)]

    same = [np.array_equal(*pair) for pair in zip(images(0.5), images(0.0), strict=True)]
    assert same == [False] * 3 + [True] * 5


def test_boxes_are_where_digits_were_placed():
    images, boxes = colocalization.placed(DIGITS, DIGITS, 0, np.random.default_rng(1))
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    np.testing.assert_allclose(half, 28 / 84, atol=1e-6)
    theta = pystn.attention_matrix(np.concatenate([half[:, :1], boxes[:, :2] + half], 1))
    np.testing.assert_allclose(pystn.warp_affine(images, theta, (28, 28)), DIGITS, atol=1e-4)
    np.testing.assert_allclose(pystn.theta_to_box(theta), boxes, atol=1e-6)
    cluttered, same = colocalization.placed(DIGITS, DIGITS, 16, np.random.default_rng(1))
    assert (same[0] == boxes[0]).all()
    assert ((cluttered > 0).sum((1, 2, 3)) <= 28**2 + 16 * 36).all()


def test_random_crops_are_inside_of_the_image():
    settings = type("", (), {"smallest_random": 0.2, "largest_random": 0.7})
    crops = colocalization.random_crops(200, settings, np.random.default_rng(0))
    boxes = pystn.theta_to_box(pystn.attention_matrix(crops))
    assert 0.2 <= crops[:, 0].min() < 0.25
    assert 0.65 < crops[:, 0].max() <= 0.7
    assert np.abs(boxes).max() <= 1 + 1e-6


def test_looks_are_at_and_beside_digits():
    bright = np.ones((6, 1, 28, 28), np.float32)
    settings = SimpleNamespace(smallest_look=0.3, largest_look=0.4, away=0.5, within=0.7, samples=2)
    black = np.zeros_like(bright)
    looks = colocalization.looks(bright, np.full(6, 3), black, 10, settings, np.random.default_rng(0))
    crops, labels = (np.concatenate(parts) for parts in zip(*itertools.islice(looks, 50), strict=True))
    assert crops.shape == (300, 1, 28, 28)
    assert set(labels) == {3, 10}
    share = crops.mean((1, 2, 3))
    assert share[labels == 3].min() > 0.3  # at least 0.56 of a crop's width, and of its height
    assert share[labels == 10].max() < 0.75 < share[labels == 3].max()


def test_a_correct_crop_covers_the_box():
    class Fixed(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.2, 0.0], [0.5, 0.4, 0.0]])

    boxes = torch.tensor([[-0.5, -0.5, 0.5, 0.5]] * 3)
    transformer = stn.SpatialTransformer(Fixed(), "attention", (28, 28))
    # of a width of 1, moved by 0, 0.2 and 0.4: intersection over union 1, 0.67 and 0.43
    assert colocalization.correct(transformer, torch.zeros(3, 1, 84, 84), boxes) == pytest.approx(2 / 3)


def test_the_encoder_scales_its_layers():
    torch.manual_seed(0)
    digits, weights = torch.from_numpy(DIGITS), (1.0, 2.0, 0.5)
    encoder = colocalization.Encoder(colocalization.convolutional((1, 28, 28), 3, 10), digits, weights)
    codes = encoder(digits)
    assert codes.shape == (6, 3 * 10 * 10 + 3 * 2 * 2 + 10)
    for layer, weight in zip(codes.split((300, 12, 10), 1), weights, strict=True):
        assert float((layer - layer.flip(0)).square().sum(1).mean()) == pytest.approx(weight, rel=1e-4)


def test_volumes_not_turned_project_to_their_digits():
    blob = np.exp(-(((np.mgrid[:28, :28] - 13.5) / 4) ** 2).sum(0)).astype(np.float32)[None, None]
    volume = projection.turned(blob, 24, 0.0, np.random.default_rng(0))
    assert volume.shape == (1, 1, 24, 24, 24)
    seen = projection.Projection()(torch.from_numpy(volume)).numpy()
    matrix = np.diag([1 / 0.9, 1 / 0.9, 1])[None, :2]
    expected = pystn.warp_affine(blob, matrix, (24, 24)) * (
        volume[0, 0, :, 12, 12].sum() / volume[0, 0, 12, 12, 12] / 24
    )
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    identity = projection.Projection(projection.volume_localization(24))
    np.testing.assert_allclose(identity(torch.from_numpy(volume)).detach().numpy(), seen, atol=1e-5)


def test_a_turn_is_undone_by_its_inverse():
    """The projection of a turned volume that a transformer makes, given the turn, is that of the digit."""
    y, x = np.mgrid[:28, :28] - 13.5
    blob = np.exp(-((y / 7) ** 2) - (x / 3) ** 2).astype(np.float32)[None, None]
    straight = projection.turned(blob, 24, 0.0, np.random.default_rng(0))
    turned = projection.turned(blob, 24, 180.0, np.random.default_rng(6))
    rng = np.random.default_rng(6)
    axis = rng.normal(size=(1, 3))
    turn = pystn.rotation_matrix(np.pi * rng.uniform(0, 1, (1, 1)) * axis / np.linalg.norm(axis))
    inverse = np.concatenate([turn[:, :, :3].transpose(0, 2, 1), np.zeros((1, 3, 1))], 2)
    expected = straight.sum(2)
    errors = [
        np.abs(pystn.warp_project(turned, theta, (24, 24, 24)) - expected).mean()
        for theta in (inverse, np.eye(3, 4)[None], turn)
    ]
    assert errors[0] < 0.1 * min(errors[1:]), errors


def test_variance_within_classes():
    series = torch.tensor([[[0.0, 1.0]], [[2.0, 1.0]], [[5.0, 5.0]]])
    labels = torch.tensor([0, 0, 1])
    expected = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(joint_alignment.squared_distances(series, labels), expected)
    test, theirs = torch.tensor([[[4.0, 4.0]], [[1.0, 1.0]], [[0.0, 0.0]]]), torch.tensor([1, 0, 1])
    assert joint_alignment.nearest_mean_accuracy(series, labels, test, theirs) == pytest.approx(2 / 3)


def test_smooth_warps_are_likelier():
    warp = pystn.CPAB(8, (40,))
    prior = joint_alignment.precision(warp, 0.15).double()
    smooth, rough = torch.ones(7).double(), torch.ones(7).double() * torch.tensor([1, -1, 1, -1, 1, -1, 1])
    assert torch.linalg.eigvalsh(prior).min() > 0
    assert smooth @ prior @ smooth < 0.5 * (rough @ prior @ rough)


def test_variance_in_own_time_forgives_no_stretching():
    """Of a warp common to all it is what it was before, whatever is stretched."""
    torch.manual_seed(0)
    time = torch.linspace(-1, 1, 400)
    series = torch.stack([torch.exp(-(((time - at) / 0.3) ** 2)) for at in (-0.1, 0.0, 0.1)])[:, None]
    labels = torch.zeros(3, dtype=torch.int64)
    warp = pystn.CPAB(4, (400,), align_corners=True)

    class Fixed(torch.nn.Module):
        def forward(self, series):
            return torch.tensor([[0.4, 0.0, -0.4]]).expand(len(series), -1)

    network = stn.SpatialTransformer(Fixed(), warp, padding_mode="border")
    plain = joint_alignment.variance_left(network, series, labels)
    own = joint_alignment.variance_left_in_own_time(network, series, labels)
    assert own == pytest.approx(1, abs=0.01)
    assert abs(plain - 1) > 0.2
