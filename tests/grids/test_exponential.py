"""The exponential that steps of flows are made of, against SciPy's."""

import numpy as np
import pytest

from pystn.grids.exponential import expm, expm_jvp, expm_vjp

linalg = pytest.importorskip("scipy.linalg")


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e-9, 0.1, 1.0, 8.0])
def test_equals_scipy(rng, scale):
    x, dx, g = scale * rng.standard_normal((2, 4, 3, 3)), *rng.standard_normal((2, 2, 4, 3, 3))
    x[1, 2] /= 100  # of which each has its own scaling
    y, dy, gx = expm(np, x), expm_jvp(np, x, dx), expm_vjp(np, g, x)
    for at in np.ndindex(2, 4):
        value, tangent = linalg.expm_frechet(x[at], dx[at])
        gradient = linalg.expm_frechet(x[at].T, g[at], compute_expm=False)
        for found, expected in ((y, value), (dy, tangent), (gx, gradient)):
            np.testing.assert_allclose(found[at], expected, rtol=0, atol=1e-13 * np.abs(expected).max())
        np.testing.assert_array_equal(expm(np, x[at]), y[at])


def test_nilpotent_matrices_are_exact(rng):
    """Translations: the series ends after its second term."""
    x = np.zeros((5, 3, 3))
    x[:, :2, 2] = rng.standard_normal((5, 2))
    np.testing.assert_array_equal(expm(np, x / 2), np.eye(3) + x / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_entry(rng, bad):
    x = rng.standard_normal((2, 3, 3))
    alone = expm(np, x[1])
    x[0, 1, 1] = bad
    with np.errstate(all="ignore"):
        y = expm(np, x)
    assert np.isnan(y[0]).any()
    np.testing.assert_array_equal(y[1], alone)
