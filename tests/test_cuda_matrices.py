"""Exponentials of matrices by the CUDA backend's entry point, against the CPU's: its kernels run by g++."""

import cuda_host
import numpy as np
import pytest

from pystn.backends import _cpu

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("scratch", [None, 1], ids=["room for all", "one block"])
def test_exponential(rng, monkeypatch, rows, count, scratch):
    """To the bit; also where threads have matrices one after the other."""
    cp = cuda_host.install()
    from pystn.backends.cuda import matrices

    if scratch is not None:
        monkeypatch.setattr(matrices, "SCRATCH_BYTES", scratch)
    x = rng.standard_normal((count, rows, rows)) * np.exp(rng.uniform(-3, 3, (count, 1, 1)))
    expected, actual = np.empty_like(x), cp.empty(x.shape)
    _cpu.exponential(x, expected, 1)
    with cuda_host.no_synchronisation():
        matrices.exponential(cuda_host.laid_out(x), actual)
    np.testing.assert_array_equal(cp.asnumpy(actual), expected)
