"""The papers' experiments as a program: every one runs, writes what it says, and says what it lacks. No accuracies."""

import json

import numpy as np
import pytest

import pystn

torch = pytest.importorskip("torch", reason="the experiments train PyTorch networks")
pytest.importorskip("sklearn", reason="the experiments run on scikit-learn's digits")
pytest.importorskip("matplotlib", reason="the experiments draw")
pytest.importorskip("tqdm", reason="the experiments show their progress")

from bench.papers import distortions, networks, training  # noqa: E402
from bench.papers.__main__ import experiments, main  # noqa: E402
from bench.papers.data import Data, MissingDataError  # noqa: E402

EXPERIMENTS = experiments()


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    pystn.set_num_threads(None)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A data folder with small series sets in the archive's format, one with commas: two classes of bumps."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "ucr").mkdir()
    rng = np.random.default_rng(0)
    for number, name in enumerate(sorted({need for e in EXPERIMENTS.values() for need in e.needs} - {"mnist"})):
        for part in ("TRAIN", "TEST"):
            labels = np.arange(12) % 2 + 1
            at = 0.3 + 0.3 * (labels - 1) + rng.uniform(-0.1, 0.1, 12)
            values = np.exp(-(((np.linspace(0, 1, 40) - at[:, None]) / 0.1) ** 2))
            table = np.column_stack([labels, values])
            np.savetxt(folder / "ucr" / f"{name}_{part}.txt", table, delimiter=", "[number % 2], fmt="%.6g")
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs(name, series, tmp_path, capsys):
    experiment = EXPERIMENTS[name]
    options = ["--digits", "--quick", "--threads", "1", "--out", str(tmp_path), "--data", str(series)]
    assert main([name, *options]) == 0
    table = capsys.readouterr().out
    document = json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=pytest.fail)  # no NaN
    assert list(document["models"]) == list(experiment.models)
    for model, summary in document["models"].items():
        assert model in table
        assert np.isfinite(summary["mean"])
    assert {run["seed"] for run in document["runs"]} == {0}
    assert all(run["curve"] for run in document["runs"])
    assert document["checks"]
    for check in document["checks"]:
        below = check["measured"] <= check["limit"]
        assert check["met"] == (below if check["at_most"] else check["measured"] >= check["limit"])
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_models_seeds_and_settings_are_chosen(tmp_path):
    arguments = ["stn-mnist-r", "--digits", "--quick", "--threads", "1", "--out", str(tmp_path), "--only", "FCN"]
    documents = []
    for _ in range(2):
        assert main([*arguments, "--seeds", "2", "--set", "steps=4", "--set", "parameters=30000"]) == 0
        documents.append(json.loads((tmp_path / "stn-mnist-r.json").read_text()))
    first = documents[0]
    assert [(run["model"], run["seed"], run["curve"][-1]["step"]) for run in first["runs"]] == [
        ("FCN", 0, 4),
        ("FCN", 1, 4),
    ]
    assert first["settings"]["steps"] == 4
    assert 29_000 < first["models"]["FCN"]["parameters"] <= 30_000
    assert [check["text"] for check in first["checks"]] == ["FCN"]
    losses = [[point["loss"] for run in document["runs"] for point in run["curve"]] for document in documents]
    assert losses[0] == losses[1]  # a seed says it all
    assert losses[0][: len(losses[0]) // 2] != losses[0][len(losses[0]) // 2 :]


def test_table(capsys):
    assert main([]) == 0
    output = capsys.readouterr().out
    for name, experiment in EXPERIMENTS.items():
        assert f"{name}: {experiment.shows}" in output
        assert set(experiment.quick) | set(experiment.digits) <= set(experiment.settings)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_missing_data(name, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("PYSTN_DATA", raising=False)
    need = EXPERIMENTS[name].needs[0]
    file = "mnist.npz" if need == "mnist" else f"{need}_TRAIN.txt"
    for options in ([], ["--data", str(tmp_path)]):
        assert main([name, *options, "--out", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert f"{file} is missing" in message
        assert "http" in message
        assert "--data DIR or PYSTN_DATA" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-experiment"],
        ["stn-mnist-r", "--only", "MLP"],
        ["stn-mnist-r", "--set", "colour=1"],
        ["stn-mnist-r", "--set", "steps"],
        ["stn-mnist-r", "--seeds", "0"],
    ],
)
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error" in capsys.readouterr().err


def test_mnist_is_read(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {f"{part}_images": rng.integers(0, 256, (n, 28, 28), np.uint8) for part, n in (("train", 5), ("test", 3))}
    arrays |= {f"{part}_labels": np.arange(n, dtype=np.uint8) for part, n in (("train", 5), ("test", 3))}
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setenv("PYSTN_DATA", str(tmp_path))
    examples = Data().mnist
    assert (examples.train[:, 0] == arrays["train_images"]).all()
    assert (examples.test[:, 0] == arrays["test_images"]).all()
    assert examples.test_labels.tolist() == [0, 1, 2]
    assert examples.classes == 5
    np.savez(tmp_path / "mnist.npz", train_images=arrays["train_images"])
    with pytest.raises(MissingDataError, match="train_labels"):
        _ = Data().mnist


def test_digits_stand_in_for_mnist():
    examples = Data(digits=True).mnist
    assert examples.train.shape[1:] == (1, 28, 28)
    assert examples.train.dtype == np.uint8
    assert len(examples.train) + len(examples.test) == 1797
    assert examples.classes == 10
    assert not examples.train[..., :3].any()  # a margin, as MNIST's


def test_rotation_is_one():
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    quarter = distortions.similarity(np.array([np.pi / 2]), np.ones(1), np.zeros((1, 2)), 28)
    turned = pystn.warp_affine(image, quarter, (28, 28))
    np.testing.assert_allclose(turned[0, 0], np.rot90(image[0, 0]), atol=1e-5)


@pytest.mark.parametrize("size", [28, 42])
def test_digits_are_put_where_said(size):
    """A blob's centre and its mass, of a digit scaled by s: s squared."""
    y, x = np.mgrid[:28, :28] - 13.5
    blob = np.exp(-(x**2 + y**2) / 18).astype(np.float32)[None, None]
    scale, centre = 0.8, np.array([[0.2, -0.15]])
    moved = pystn.warp_affine(
        blob, distortions.similarity(np.array([0.4]), np.array([scale]), centre, size), (size, size)
    )
    place = np.arange(size) * 2 / size + 1 / size - 1
    mass = moved[0, 0].sum()
    found = (moved[0, 0].sum(0) @ place / mass, moved[0, 0].sum(1) @ place / mass)
    np.testing.assert_allclose(found, centre[0], atol=1e-3)
    np.testing.assert_allclose(mass / blob.sum(), scale**2, rtol=1e-2)


def test_perspective_keeps_digits_whole():
    """Corners are convex; what is seen is no more than the image, and not nothing."""
    square, bow_tie, arrow = distortions.CORNERS, distortions.CORNERS[[0, 1, 3, 2]], distortions.CORNERS.copy()
    arrow[0] = 0.3  # inside of the others' triangle
    assert distortions.convex(np.stack([square, square[::-1], bow_tie, arrow])).tolist() == [True, False, False, False]
    seen = distortions.project(np.ones((200, 1, 28, 28), np.float32), np.random.default_rng(0)).mean((1, 2, 3))
    assert seen.min() > 0.05
    assert seen.max() <= 1


def test_clutter_is_put_around_the_digit():
    rng = np.random.default_rng(1)
    images = rng.random((4, 1, 28, 28), np.float32)
    alone = distortions.translate_and_clutter(images, np.random.default_rng(2), crops=0)
    among = distortions.translate_and_clutter(images, np.random.default_rng(2), crops=6)
    np.testing.assert_allclose(alone.sum((1, 2, 3)), images.sum((1, 2, 3)), rtol=1e-5)
    assert (among >= alone).all()
    changed = (among > alone).sum((1, 2, 3))
    assert (changed > 0).all()
    assert (changed <= 6 * 36).all()


@pytest.mark.parametrize("name", distortions.DISTORTIONS)
def test_distortions_follow_from_the_seed(name):
    images = Data(digits=True).mnist.test[:20]
    once, again, other = (distortions.distorted(images, name, seed) for seed in (3, 3, 4))
    size = distortions.DISTORTIONS[name].size
    assert once.shape == (20, 1, size, size)
    assert once.dtype == np.float32
    assert (once == again).all()
    assert (once != other).any((1, 2, 3)).all()
    assert once.min() >= 0
    assert 0.5 < once.max() <= 1


def test_batches_are_epochs():
    batches = training.batches_of(np.arange(10.0), np.arange(10), 3, np.random.default_rng(0))
    seen = [next(batches) for _ in range(6)]
    for epoch in (seen[:3], seen[3:]):
        labels = np.concatenate([labels for _, labels in epoch])
        assert len(set(labels)) == 9
    assert all((images == labels).all() for images, labels in seen)


def test_widest_is_the_widest():
    def build(width):
        return networks.fully_connected((1, 4, 4), width, 10)

    width = networks.widest(1000, build)
    assert training.parameters_of(build(width)) <= 1000 < training.parameters_of(build(width + 1))
    with pytest.raises(ValueError, match="too few"):
        networks.widest(10, build)


def test_transformed_starts_at_the_identity():
    images = torch.rand(2, 1, 28, 28)
    spline = pystn.ThinPlateSpline(pystn.control_points((4, 4)), (28, 28))
    for transform, parameters in (("affine", 6), ("projective", 8), (spline, 32)):
        for localization in (networks.fully_connected_localization, networks.convolutional_localization):
            locate = localization((1, 28, 28), parameters, transform=transform)
            model = networks.transformed(locate, torch.nn.Identity(), transform)
            torch.testing.assert_close(model(images), images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(6, 4), (7, 5)])
def test_pooling(shape):
    images = torch.rand(2, 3, *shape, dtype=torch.float32)
    for factor in (2, 3):
        expected = torch.nn.functional.avg_pool2d(images, factor)
        torch.testing.assert_close(networks.Pool(factor)(images), expected)


def test_schedules():
    assert [round(training.drops(step / 6), 6) for step in range(6)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert training.cosine(0) == 1
    assert training.cosine(0.5) == pytest.approx(0.5)
