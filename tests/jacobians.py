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


def assert_second_order(vjp, vjp2, cotangent, primals, along, across, h=1e-6, tolerance=1e-6):
    """That vjp2(*along, cotangent, *primals) is the product of the derivatives of vjp(cotangent, *primals) with along.

    To the primals it is the difference of the gradients along it, as second derivatives are symmetric, which is asked
    too, of the other directions `across`. Entries of either may be None for zero.
    """
    to_cotangent, *to_primals = vjp2(*along, cotangent, *primals)
    for u in (cotangent, np.cos(np.arange(cotangent.size)).reshape(cotangent.shape)):  # gradients are linear in it
        assert_adjoint(to_cotangent, u, *zip(*given(vjp(u, *primals), along), strict=True))
    moved = [
        vjp(cotangent, *(p if d is None else p + sign * h * d for p, d in zip(primals, along, strict=True)))
        for sign in (1, -1)
    ]
    for found, after, before in zip(to_primals, *moved, strict=True):
        assert_close(found, (after - before) / (2 * h), tolerance)
    _, *to_others = vjp2(*across, cotangent, *primals)
    one, other = given(to_primals, across), given(to_others, along)
    scale = sum(np.abs(a * b).sum() for a, b in (*one, *other))
    assert abs(sum((a * b).sum() for a, b in one) - sum((a * b).sum() for a, b in other)) <= 1e-12 * scale


def given(gradients, directions):
    """The pairs of those whose direction is not None."""
    return [(g, d) for g, d in zip(gradients, directions, strict=True) if d is not None]
