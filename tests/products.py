"""What every pair of derivatives must satisfy."""

import numpy as np

TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-5}


def check_adjoint(pushed, cotangent, tangents, pulled):
    """<J t, g> = <t, J^T g>, relative to the sizes of what is added up."""
    left = pushed.astype(np.float64) * cotangent
    right = [t.astype(np.float64) * p for t, p in zip(tangents, pulled, strict=True)]
    assert pushed.shape == cotangent.shape
    assert [p.shape for p in pulled] == [t.shape for t in tangents]
    assert all(p.dtype == pushed.dtype for p in pulled)
    scale = max([np.abs(left).sum(), *[np.abs(r).sum() for r in right], 1e-30])
    assert abs(left.sum() - sum(r.sum() for r in right)) <= TOLERANCE[pushed.dtype] * scale


def check_tangent(function, primals, tangents, pushed, h=1e-6, tolerance=1e-6):
    """The tangent is that of central differences."""
    ahead = function(*[p + h * t for p, t in zip(primals, tangents, strict=True)])
    behind = function(*[p - h * t for p, t in zip(primals, tangents, strict=True)])
    difference = (ahead - behind) / (2 * h)
    np.testing.assert_allclose(pushed, difference, rtol=0, atol=tolerance * max(1.0, np.abs(difference).max(initial=0)))
