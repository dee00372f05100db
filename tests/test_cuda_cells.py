"""Flows and piecewise affine maps by the CUDA backend's entry points, against the CPU's: their kernels run by g++."""

import cuda_host
import numpy as np
import pytest

from pystn.backends import _cpu
from pystn.backends.pieces import Pieces

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")

DTYPES = [np.float32, np.float64]
POINTS = [1, 31, 32, 33, 200]
STEPS = 4
CELLS = [(1,), (6,), (1, 1), (3, 2)]


@pytest.fixture(scope="module", autouse=True)
def cp():
    return cuda_host.install()


@pytest.fixture
def flows():
    from pystn.backends.cuda import flows

    return flows


@pytest.fixture
def piecewise():
    from pystn.backends.cuda import piecewise

    return piecewise


@pytest.fixture(params=["a part for every 32 points", "few parts", "few sums"])
def parts(request, monkeypatch):
    """Parts of many points as well, as maps of many points have, or those of which many values are made."""
    from pystn.backends.cuda import parts

    if request.param == "few parts":
        monkeypatch.setattr(parts, "MOST_PARTS", 2)
    if request.param == "few sums":
        monkeypatch.setattr(parts, "SUMS_OF_POINT", 1 / 32)
    return request.param


def on_device(*arrays):
    return [None if array is None else cuda_host.laid_out(array) for array in arrays]


def drawn(rng, cells, points, dtype):
    """Points, also beyond the cells, three fields, their tangents and a cotangent of the grid."""
    shape = (cells[0] + 1,) if len(cells) == 1 else (4 * cells[0] * cells[1], 3, 3)
    start = rng.uniform(-1.3, 1.3, (points, len(cells)))
    field = rng.standard_normal((3, *shape))
    if len(cells) == 1:
        field *= cells[0]  # so that points cross several cells
        field[0, ::2] = 0
    else:
        field = np.eye(3) + 0.1 * field
    return start, field, rng.standard_normal(field.shape), rng.standard_normal((3, points, len(cells))).astype(dtype)


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("cells", CELLS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_flow(flows, rng, dtype, cells, points):
    start, field, d_field, grid = drawn(rng, cells, points, dtype)
    for tangent in (None, d_field):
        expected = np.empty_like(grid)
        _cpu.flow(start, field, tangent, expected, cells, STEPS, 1)
        (found,) = on_device(np.full_like(grid, np.nan))
        with cuda_host.no_synchronisation():
            flows.flow(*on_device(start, field, tangent), found, cells, STEPS)
        # Of one dimension exponentials are those of another library than the CPU's kernels, on a device.
        np.testing.assert_allclose(found.get(), expected, rtol=1e-6 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("cells", CELLS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_flow_vjp(flows, rng, dtype, cells, points, parts, monkeypatch):
    """The same in every order of blocks and threads, and whatever memory there is for ways."""
    start, field, d_field, grad = drawn(rng, cells, points, dtype)
    for tangent in (None, d_field):
        expected = _cpu.flow_vjp(start, field, tangent, grad, cells, STEPS, 1)
        results = []
        for seed, room in ((0, 1 << 20), (1, 1 << 20), (2, 0)):
            monkeypatch.setattr(flows, "WAY_BYTES", room)
            with cuda_host.no_synchronisation(), cuda_host.order(seed):
                found = flows.flow_vjp(*on_device(start, field, tangent, grad), cells, STEPS)
            results.append(found.get())
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])
        scale = np.abs(expected).max(axis=tuple(range(1, expected.ndim)), keepdims=True)
        np.testing.assert_allclose(results[0] / scale, expected / scale, rtol=0, atol=1e-13 * points)


def test_a_field_has_the_sums_that_it_has_alone(flows, rng, parts):
    for cells in CELLS:
        start, field, d_field, grad = drawn(rng, cells, 70, np.float64)
        together = flows.flow_vjp(*on_device(start, field, d_field, grad), cells, STEPS).get()
        for m in range(3):
            alone = on_device(start, field[m : m + 1], d_field[m : m + 1], grad[m : m + 1])
            np.testing.assert_array_equal(flows.flow_vjp(*alone, cells, STEPS).get()[:, 0], together[:, m])


@pytest.mark.parametrize("cells", [(6,), (3, 2)], ids=str)
def test_what_is_no_number_stays_in_its_cells(flows, rng, cells):
    """Of points and of cotangents: what 32 lanes add up is of the cells of each."""
    start, field, _, grad = drawn(rng, cells, 64, np.float64)
    field[...] = 0 if len(cells) == 1 else np.eye(3)  # all stay where they are
    start[:], start[7] = 0.9, -0.9
    grad[:, 7] = np.nan
    expected = _cpu.flow_vjp(start, field, None, grad, cells, STEPS, 1)
    assert 0 < np.isnan(expected).sum() < expected.size / 2
    found = flows.flow_vjp(*on_device(start, field, None, grad), cells, STEPS)
    np.testing.assert_allclose(found.get(), expected, atol=1e-12)
    start[9] = np.nan
    for tangent in (None, field):
        grid, d_grid = np.empty_like(grad), np.empty_like(grad)
        _cpu.flow(start, field, tangent, grid, cells, STEPS, 1)
        (found,) = on_device(d_grid)
        flows.flow(*on_device(start, field, tangent), found, cells, STEPS)
        np.testing.assert_array_equal(found.get(), grid)


def pieces_of(rng, cp, points, values=9, triangles=5):
    """Runs of different lengths; some triangles share corners, and one has no point. Copied to the device."""
    labels = np.repeat(rng.integers(0, triangles - 1, points), rng.integers(1, 9, points))[:points]
    corners = np.stack([rng.permutation(values)[:3] for _ in range(triangles)])
    pieces = Pieces(labels, corners, rng.standard_normal((3, points)), values)
    pieces.on_device(cp)
    for dtype in DTYPES:
        pieces.weights_as(cp, dtype)
    return pieces


@pytest.mark.parametrize("maps", [1, 8, 9])
@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_piecewise(piecewise, cp, rng, dtype, points, maps):
    pieces = pieces_of(rng, cp, points)
    values, base = rng.standard_normal((maps, 9, 2)).astype(dtype), rng.standard_normal((points, 2)).astype(dtype)
    for added in (None, base):
        expected = np.empty((maps, points, 2), dtype)
        _cpu.piecewise(values, pieces, added, expected, 1)
        (found,) = on_device(np.full_like(expected, np.nan))
        with cuda_host.no_synchronisation():
            given, added = on_device(values, added)
            piecewise.piecewise(given, pieces, added, found)
        np.testing.assert_array_equal(found.get(), expected)


@pytest.mark.parametrize("points", [*POINTS, 900])
@pytest.mark.parametrize("dtype", DTYPES)
def test_piecewise_vjp(piecewise, cp, rng, dtype, points, parts):
    """Each map has the sums that it has alone, in every order of blocks and threads."""
    pieces, grad = pieces_of(rng, cp, points), rng.standard_normal((3, points, 2)).astype(dtype)
    grad[1, points // 2] = np.nan  # which reaches the corners of its triangle alone
    expected = _cpu.piecewise_vjp(grad, pieces, 1)
    assert np.isnan(expected).sum() == 6
    with cuda_host.no_synchronisation():
        together = piecewise.piecewise_vjp(*on_device(grad), pieces)
    found = together.get()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * points)
    for m in range(3):
        with cuda_host.order(m + 1):
            alone = piecewise.piecewise_vjp(*on_device(grad[m : m + 1]), pieces).get()
        np.testing.assert_array_equal(alone[0], found[m])
