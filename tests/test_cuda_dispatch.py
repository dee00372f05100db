"""Which backend arrays are given to, what is said of those that none takes, and what is kept for each device."""

import builtins
import copy
import pickle
import re
import subprocess
import sys
from types import ModuleType

import cuda_host
import numpy as np
import pytest

import pystn
from pystn import presets
from pystn.backends import backend_of

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")

POINTS = np.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])


@pytest.fixture
def cp():
    return cuda_host.install()


def test_importing_pystn_imports_no_cupy():
    check = """if True:
        import sys
        import numpy, pystn
        pystn.affine_grid(numpy.ones((1, 2, 3)), (2, 2))
        assert "cupy" not in sys.modules and "pystn.backends.cuda" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", check], check=True)


def test_arrays_choose_the_backend(cp):
    host, device = np.ones(3), cp.ones(3)
    assert backend_of({"a": host}, {"b": None}).xp is np
    assert backend_of({"a": device}, {"b": None}).xp is cp
    assert isinstance(pystn.affine_grid(cp.ones((1, 2, 3)), (2, 2)), cp.ndarray)


@pytest.mark.parametrize(
    "call",
    [
        lambda host, device: pystn.grid_sample(host(1, 1, 3, 4), device(1, 5, 2)),
        lambda host, device: pystn.grid_sample(device(1, 1, 3, 4), host(1, 5, 2)),
        lambda host, device: pystn.grid_sample(device(1, 1, 3, 4), device(1, 5, 2), out=host(1, 1, 5)),
        lambda host, device: pystn.grid_sample_vjp(device(1, 1, 5), host(1, 1, 3, 4), device(1, 5, 2)),
        lambda host, device: pystn.warp_affine(host(1, 1, 3, 4), device(1, 2, 3), (3, 4)),
        lambda host, device: pystn.affine_grid(device(1, 2, 3), (3, 4), out=host(1, 3, 4, 2)),
        lambda host, device: pystn.compose(host(2, 3), device(2, 3)),
        lambda host, device: pystn.expm_jvp(device(2, 2), host(2, 2)),
        lambda host, device: pystn.linear_grid(device(1, 2, 4), host(1, 4, 5)),
        lambda host, device: pystn.Polynomial((3,), 2).jvp(device(1, 1, 3), host(1, 1, 3)),
        lambda host, device: pystn.ThinPlateSpline(POINTS, (3, 4)).jvp(device(1, 4, 2), None, d_points=host(4, 2)),
    ],
)
def test_arrays_of_two_kinds(cp, call):
    message = r"^(\w+) is a cupy.ndarray and (\w+) a numpy.ndarray: expected .*, pass cupy.asarray\(\2\)$"
    with pytest.raises(TypeError, match=message):
        call(lambda *shape: np.ones(shape), lambda *shape: cp.ones(shape))


@pytest.mark.parametrize(
    "name, call",
    [
        ("points", lambda on_device: pystn.ThinPlateSpline(on_device(POINTS), (3, 4))),
        ("targets", lambda on_device: pystn.ThinPlateSpline(POINTS, targets=on_device(POINTS))),
        ("points", lambda on_device: pystn.PiecewiseAffine(on_device(POINTS), (3, 4))),
        ("triangles", lambda on_device: pystn.PiecewiseAffine(POINTS, (3, 4), triangles=on_device(np.eye(3)))),
        ("size", lambda on_device: pystn.affine_grid(on_device(np.ones((1, 2, 3))), on_device(np.array([3, 4])))),
        ("size", lambda on_device: pystn.Polynomial(on_device(np.array([3, 4])), 2)),
        ("size", lambda on_device: pystn.grid_count(on_device(np.ones((1, 5, 2))), on_device(np.array([3, 4])))),
        ("image", lambda on_device: presets.scipy().prepare(on_device(np.ones((3, 4))), np.ones((2, 5)))),
        ("coordinates", lambda on_device: presets.scipy().prepare(np.ones((3, 4)), on_device(np.ones((2, 5))))),
        ("table", lambda on_device: pystn.Tabulated(on_device(np.ones(5)), 2.0)),
        ("table[1]", lambda on_device: pystn.Tabulated((0.5, on_device(np.ones(()))), 2.0)),
        ("values", lambda on_device: pystn.Tabulated((0.5, 0.5), 2.0).with_parameters(on_device(np.ones(2)))),
        ("values[0]", lambda on_device: pystn.Tabulated((0.5, 0.5), 2.0).with_parameters([on_device(np.ones(())), 1])),
        ("values", lambda on_device: pystn.Gaussian(1.0).with_parameters(on_device(np.ones(())))),
        ("values", lambda on_device: pystn.Cubic().with_parameters(on_device(np.ones(())))),
        ("points[0]", lambda on_device: pystn.ThinPlateSpline([on_device(row) for row in POINTS], (3, 4))),
        ("triangles[0]", lambda on_device: pystn.PiecewiseAffine(POINTS, (3, 4), triangles=[on_device(np.arange(3))])),
    ],
)
def test_what_has_to_be_on_the_host(cp, name, call):
    message = (
        rf"^{re.escape(name)} must be on the host: got a cupy.ndarray of shape \([0-9, ]*\); "
        rf"pass cupy.asnumpy\({re.escape(name)}\), which waits for the device$"
    )
    with cuda_host.no_synchronisation(), pytest.raises(TypeError, match=message):
        call(cp.asarray)


@pytest.mark.parametrize(
    "name, convert, call",
    [
        ("a", "float", lambda one: pystn.Cubic(one)),
        ("sigma", "float", lambda one: pystn.Gaussian(one)),
        ("truncate", "float", lambda one: pystn.Gaussian(1.0, one)),
        ("support", "float", lambda one: pystn.Tabulated((0.5, 0.5), one)),
        ("samples", "int", lambda one: pystn.Supersampling(one)),
    ],
)
def test_what_has_to_be_a_number_of_the_host(cp, name, convert, call):
    message = rf"^{name} must be on the host: got a cupy.ndarray of shape \(\); pass {convert}\({name}\), which waits"
    with cuda_host.no_synchronisation(), pytest.raises(TypeError, match=message):
        call(cp.ones(()))
    call(getattr(builtins, convert)(cp.ones(())))


@pytest.mark.parametrize("module", ["torch", "jax", "cupyx"])
def test_other_arrays_are_told_what_to_pass(cp, module):
    from pystn.backends import HINTS

    kind = type("Array", (), {"__module__": f"{module}.somewhere"})
    for beside in (np.ones(3), cp.ones(3)):
        with pytest.raises(TypeError) as error:
            backend_of({"beside": beside, "theta": kind()})
        message = f"theta must be a numpy.ndarray, got {module}.somewhere.Array: {HINTS[module]}"
        assert str(error.value) == message


@pytest.mark.parametrize("broken", [None, ModuleType("cupy")], ids=["blocked", "removed"])
def test_a_broken_cupy_is_none(monkeypatch, broken):
    monkeypatch.setitem(sys.modules, "cupy", broken)
    assert backend_of({"a": np.ones(3)}).xp is np
    with pytest.raises(TypeError, match=r"must be a numpy.ndarray, got builtins.list"):
        pystn.affine_grid([[1.0]], (2, 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda theta: pystn.Polynomial((5,), 2)(theta),
        lambda theta: pystn.lie_generator(theta[0], "se2"),
        lambda theta: pystn.rotation_matrix(theta[0]),
        lambda theta: pystn.projective_matrix(theta[0, 0, [0] * 8]),
    ],
    ids=["family", "lie", "rotation", "projective"],
)
def test_what_is_kept_is_kept_for_each_device(cp, call):
    found = []
    for device in (0, 1, 0):
        with cp.cuda.Device(device):
            result = call(cp.ones((1, 1, 3)))
            assert result.device.id == device
            found.append(result.get())
    assert all(np.array_equal(result, found[0]) for result in found)


def test_state_is_copied_to_a_device_once(cp, monkeypatch):
    spline = pystn.ThinPlateSpline(POINTS, (3, 4))
    theta = spline.identity()
    copied = []
    asarray = cp.asarray

    def counted(values, *more, **options):
        copied.append(values)
        return asarray(values, *more, **options)

    monkeypatch.setattr(cp, "asarray", counted)
    for dtype, copies in ((np.float64, 1), (np.float64, 0), (np.float32, 1), (np.float32, 0)):
        given = cp.array(theta.astype(dtype))
        copied.clear()
        spline(given)
        assert len(copied) == copies


def test_what_a_device_keeps_is_not_pickled(cp):
    family = pystn.PiecewiseAffine(POINTS, (3, 4))
    u, theta = cp.ones((1, 3, 4, 2)), cp.asarray(family.identity())
    expected = family.vjp(u, theta)[0].get()
    assert b"cupy" not in pickle.dumps(family)
    for twin in (pickle.loads(pickle.dumps(family)), copy.deepcopy(family)):
        np.testing.assert_array_equal(twin.vjp(u, theta)[0].get(), expected)


@pytest.mark.parametrize("labels", [[0], [3, 3, 3], [1, 0, 1, 2, 0], "many", "one"])
def test_sums_of_entries_that_share_a_label(cp, labels):
    from pystn.backends.runs import LabelledSums

    rng = np.random.default_rng(3)
    labels = {"many": rng.integers(0, 7, 500), "one": np.full(5000, 2)}.get(str(labels), labels)
    labels = np.sort(labels)[::-1] if len(labels) == 5000 else np.asarray(labels)
    sums, values = LabelledSums(labels, 8), rng.standard_normal((2, len(labels)))
    values[0, 0] = np.nan  # which reaches its own sum alone
    with np.errstate(invalid="ignore"):
        expected = [[row[labels == label].sum() for label in range(8)] for row in values]
    np.testing.assert_allclose(sums(cp, cp.asarray(values)).get(), expected, atol=1e-11)
    np.testing.assert_allclose(sums(np, values), expected, atol=1e-11)
