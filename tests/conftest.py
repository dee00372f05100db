"""What the tests share: the backends under test, the cells of options, random data."""

import itertools

import numpy as np
import pytest


class Cpu:
    """A backend under test: arrays of its own kind from NumPy's, and back."""

    name = "cpu"

    @staticmethod
    def array(values):
        return values

    @staticmethod
    def numpy(array):
        return array


BACKENDS = [Cpu]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request):
    return request.param


MODES = ("nearest", "linear")
PADDING_MODES = ("zeros", "border", "reflection")
SUBGRADIENTS = ("right", "left", "central", "zero")
# (align_corners, coords): the conventions of coordinates.
CONVENTIONS = ((False, "normalized"), (True, "normalized"), (False, "pixel"))

CELLS = [
    {"mode": mode, "padding_mode": padding, "align_corners": align, "coords": coords}
    for mode, padding, (align, coords) in itertools.product(MODES, PADDING_MODES, CONVENTIONS)
]


@pytest.fixture(params=CELLS, ids=lambda c: "-".join(map(str, c.values())))
def cell(request):
    """One combination of mode, padding and convention."""
    return dict(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


def coordinates(rng, shape, size, coords, reach=1.3, dtype=np.float64):
    """Random coordinates (*shape, 2) that leave an image of size (H, W) by the factor `reach`."""
    normalized = rng.uniform(-reach, reach, (*shape, 2))
    if coords == "pixel":
        normalized = ((normalized + 1) * np.array(size[::-1]) - 1) / 2
    return normalized.astype(dtype)


def away_from_kinks(grid, size, align_corners, coords, margin=0.02):
    """The grid with every coordinate kept `margin` pixels from pixel centres, edges and ties."""
    n = np.array(size[::-1], float)
    if coords == "pixel":
        p = grid
    else:
        p = (grid + 1) / 2 * (n - 1) if align_corners else ((grid + 1) * n - 1) / 2
    half = np.round(2 * p)  # kinks are at multiples of 1/2
    close = np.abs(2 * p - half) < 2 * margin
    p = np.where(close, half / 2 + margin, p)
    if coords == "pixel":
        return p
    return np.where(n > 1, 2 * p / np.maximum(n - 1, 1) - 1, grid) if align_corners else (2 * p + 1) / n - 1
