"""The data: MNIST, series of the UCR archive, and scikit-learn's digits in their place.

A folder has ``mnist.npz`` and ``ucr/GunPoint_TRAIN.txt``, ``ucr/GunPoint_TEST.txt``, ...; it is named by ``--data`` or
the variable ``PYSTN_DATA``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

import pystn

__all__ = ["Data", "Examples", "MissingDataError"]

MNIST = """{path} is missing. It holds MNIST, as numpy.savez writes it:
    train_images (60000, 28, 28) uint8, train_labels (60000,), test_images (10000, 28, 28) uint8, test_labels (10000,)
Make it of any copy of MNIST, as that of http://yann.lecun.com/exdb/mnist or of torchvision.datasets.MNIST."""

UCR = """{path} is missing. It holds series of the UCR archive, https://www.timeseriesclassification.com:
    text, one series of equal length a line, its class label first, separated by commas or blanks
Needed are ucr/{name}_TRAIN.txt and ucr/{name}_TEST.txt."""

WHERE = """Name the folder by --data DIR or PYSTN_DATA; --digits runs on scikit-learn's digits, without data."""


class MissingDataError(Exception):
    """A file that is not there, or not as it should be: what it holds and how to get it."""


@dataclass(frozen=True)
class Examples:
    """Images (N, 1, H, W), uint8, or series (N, 1, L), float32, and their classes from 0 on."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.train_labels.max()) + 1


class Data:
    """A folder of data; with `digits` MNIST is replaced by scikit-learn's digits."""

    def __init__(self, folder: Path | None = None, digits: bool = False) -> None:
        self.folder = folder or (Path(os.environ["PYSTN_DATA"]) if os.environ.get("PYSTN_DATA") else None)
        self.digits = digits

    def check(self, needs: tuple[str, ...]) -> None:
        """Raise MissingDataError, with what to do, unless there is all of `needs`."""
        for need in needs:
            if need == "mnist":
                if not self.digits:
                    self.file("mnist.npz", MNIST)
            else:
                self.file(f"ucr/{need}_TRAIN.txt", UCR, need)
                self.file(f"ucr/{need}_TEST.txt", UCR, need)

    def file(self, name: str, message: str, series: str = "") -> Path:
        path = (self.folder or Path("DIR")) / name
        if self.folder is None or not path.is_file():
            raise MissingDataError(message.format(path=path, name=series) + "\n" + WHERE)
        return path

    @cached_property
    def mnist(self) -> Examples:
        """MNIST, or the digits in its place, in the same format."""
        if self.digits:
            return digits()
        path = self.file("mnist.npz", MNIST)
        with np.load(path) as file:
            try:
                arrays = [file[f"{part}_{what}"] for part in ("train", "test") for what in ("images", "labels")]
            except KeyError as error:
                raise MissingDataError(f"{error.args[0]}\n{MNIST.format(path=path)}") from error
        images, labels, test, test_labels = arrays
        return Examples(images[:, None], labels.astype(np.int64), test[:, None], test_labels.astype(np.int64))

    def series(self, name: str) -> Examples:
        """A series set of the UCR archive; classes count from 0 in the order of their labels."""
        train, test = (np.loadtxt(self.text(name, part), ndmin=2) for part in ("TRAIN", "TEST"))
        labels = np.unique(train[:, 0])
        halves = [(part[:, None, 1:].astype(np.float32), np.searchsorted(labels, part[:, 0])) for part in (train, test)]
        return Examples(*halves[0], *halves[1])

    def text(self, name: str, part: str) -> list[str]:
        return self.file(f"ucr/{name}_{part}.txt", UCR, name).read_text().replace(",", " ").splitlines()


def digits() -> Examples:
    """Scikit-learn's digits as MNIST has its own: 20 x 20 in the middle of 28 x 28. A quarter is for the test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    small = (pixels * (255 / 16)).astype(np.float32).reshape(-1, 1, 8, 8)
    matrix = np.array([[[28 / 20, 0, 0], [0, 28 / 20, 0]]], np.float32)
    images = pystn.warp_affine(small, matrix.repeat(len(small), 0), (28, 28)).round().astype(np.uint8)
    test = np.random.default_rng(0).permutation(len(labels)) < len(labels) // 4
    return Examples(images[~test], labels[~test], images[test], labels[test])
