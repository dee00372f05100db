"""Several devices: calls work on the current one, and say so of arrays that are on another."""

import cuda_host
import numpy as np
import pytest
from test_cuda_waiting import CALLS, on_device

import pystn

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")

ON_HOST = {"reliability_curve": "bins are counted there"}


@pytest.fixture(scope="module")
def cp():
    return cuda_host.install()


def there(cp, arguments, options):
    """The same, with arrays on device 1."""
    with cp.cuda.Device(1):
        return on_device(arguments), {
            key: on_device(value) if key.startswith(("d_", "gg_", "mask")) else value
            for key, value in options.items()
            if key != "raises"
        }


def arrays_of(cp, found):
    if isinstance(found, cp.ndarray):
        yield found
    elif isinstance(found, (tuple, list)):
        for one in found:
            yield from arrays_of(cp, one)


@pytest.mark.parametrize("name, function, arguments, options", CALLS, ids=[call[0] for call in CALLS])
def test_arrays_on_another_device_are_named(cp, name, function, arguments, options):
    arguments, options = there(cp, arguments, options)
    with pytest.raises(
        ValueError, match=r"\w+ is on device 1: expected all arrays .* current device, which is 0; call"
    ):
        function(*arguments, **options)


@pytest.mark.parametrize("name, function, arguments, options", CALLS, ids=[call[0] for call in CALLS])
def test_results_are_on_the_current_device(cp, name, function, arguments, options):
    arguments, options = there(cp, arguments, options)
    with cp.cuda.Device(1):
        found = list(arrays_of(cp, function(*arguments, **options)))
    assert found or name in ON_HOST
    assert all(array.device.id == 1 for array in found)


def test_one_of_several(cp):
    image, grid = np.ones((1, 1, 3, 3)), np.zeros((1, 2, 2, 2))
    with cp.cuda.Device(1):
        other, out = cp.asarray(grid), cp.zeros((1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"^grid is on device 1"):
        pystn.grid_sample(cp.asarray(image), other)
    with pytest.raises(ValueError, match=r"^out is on device 1"):
        pystn.grid_sample(cp.asarray(image), cp.asarray(grid), out=out)
    with cp.cuda.Device(1):
        fill = cp.ones(1)
    with pytest.raises(ValueError, match=r"^fill_value is on device 1"):
        pystn.grid_sample(cp.asarray(image), cp.asarray(grid), padding_mode="constant", fill_value=fill)
    with pytest.raises(ValueError, match=r"^d_fill_value is on device 1"):
        pystn.grid_sample_jvp(cp.asarray(image), cp.asarray(grid), None, None, d_fill_value=fill)
