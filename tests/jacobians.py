"""What every operation's derivatives have to satisfy, whatever the operation is."""

import numpy as np

DOT = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 2e-5}


def assert_adjoint(pushed, cotangent, gradients, tangents):
    """<J d, u> = <d, J^T u>: `pushed` is J d, `gradients` are J^T u, one for each tangent of d."""
    tolerance = DOT[np.dtype(pushed.dtype)]
    pushed, cotangent = np.asarray(pushed, float), np.asarray(cotangent, float)
    pairs = [np.asarray(g, float) * np.asarray(d, float) for g, d in zip(gradients, tangents, strict=True)]
    scale = np.abs(pushed * cotangent).sum() + sum(np.abs(pair).sum() for pair in pairs)
    difference = (pushed * cotangent).sum() - sum(pair.sum() for pair in pairs)
    assert abs(difference) <= tolerance * max(scale, 1e-300), (difference, scale)


def difference(function, primals, tangents, h=1e-5):
    """Central difference of a function of several arrays along a direction, which may have None for zero."""
    moved = [
        function(*(p if d is None else p + sign * h * d for p, d in zip(primals, tangents, strict=True)))
        for sign in (1, -1)
    ]
    return (moved[0] - moved[1]) / (2 * h)


def assert_close(found, expected, tolerance=1e-6):
    """To a tolerance relative to the largest entry."""
    scale = max(np.abs(expected).max(initial=0), 1e-300)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)
