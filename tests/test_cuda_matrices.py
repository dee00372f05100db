"""Exponentials of matrices by the CUDA backend's entry point, against the CPU's: its kernels are run by g++."""

import cuda_host
import numpy as np
import pytest

from pystn.backends import _cpu

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")


@pytest.mark.parametrize("count", [1, 63, 65, 200])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("scratch", [None, 1], ids=["room for all", "one block"])
def test_exponential(rng, monkeypatch, order, rows, count, scratch):
    """To the bit; also where threads have matrices one after the other."""
    cp = cuda_host.install()
    from pystn.backends.cuda import matrices

    if scratch is not None:
        monkeypatch.setattr(matrices, "SCRATCH_BYTES", scratch)
    x = rng.standard_normal((count, rows, rows)) * np.exp(rng.uniform(-3, 3, (count, 1, 1)))
    given = [x, *rng.standard_normal((order, *x.shape)), *[None] * (2 - order)]
    expected, actual = np.empty_like(x), cp.empty(x.shape)
    _cpu.exponential(*given, expected, 1)
    given = [None if array is None else cuda_host.laid_out(array) for array in given]
    with cuda_host.no_synchronisation():
        matrices.exponential(*given, actual)
    np.testing.assert_array_equal(cp.asnumpy(actual), expected)
