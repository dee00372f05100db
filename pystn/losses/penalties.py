"""How far a transform is from the identity.

All is computed in float64, whatever the dtype of what is given and returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.matrices.mapping import Curved
from pystn.typing import Array
from pystn.validation import check_matrix

__all__ = [
    "identity_penalty",
    "identity_penalty_jvp",
    "identity_penalty_vjp",
    "identity_penalty_vjp2",
]


def distance(xp: Any, theta: Any) -> tuple[Any, Any]:
    away = theta - xp.eye(*theta.shape[-2:])
    return (away**2).sum(axis=(-2, -1)), 2 * away


def check_transform(theta: Array) -> None:
    check_matrix("theta", theta)


DISTANCE = Curved(
    distance, check_transform, ("theta",), "grad_penalty", core=2, bend=lambda xp, along, theta: (2 * along[0],)
)


def identity_penalty(theta: Array) -> Array:
    r"""How far transforms are from the identity: a loss that keeps them near it.

    .. math:: \sum_{ij} (A_{ij} - \delta_{ij})^2

    Parameters
    ----------
    theta : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        Affine or projective matrices, float32 or float64; those of a projective map as they are, not up to scale.

    Returns
    -------
    penalty : ndarray, shape (...)
        The sum of squares, one for each matrix; dtype of `theta`.

    Raises
    ------
    TypeError
        If `theta` is no NumPy array of float32 or float64.
    ValueError
        If its shape does not fit.

    See Also
    --------
    identity_penalty_vjp, identity_penalty_jvp, identity_penalty_vjp2 : its derivatives.
    out_of_bounds_penalty : of a grid.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.identity_penalty(np.array([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]]))
    array([1.25])
    """
    return DISTANCE.value(theta)


def identity_penalty_vjp(grad_penalty: Array, theta: Array) -> tuple[Array]:
    r"""Vector-Jacobian product of `identity_penalty`.

    .. math:: \bar A_{ij} = 2 (A_{ij} - \delta_{ij}) \, \bar L

    Parameters
    ----------
    grad_penalty : ndarray
        Cotangent: shape and dtype of the penalty.
    theta
        As given to `identity_penalty`.

    Returns
    -------
    (grad_theta,) : tuple of one ndarray
        Shape and dtype of `theta`.

    Raises
    ------
    TypeError, ValueError
        As `identity_penalty`, and if `grad_penalty` does not fit.

    See Also
    --------
    identity_penalty

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]])
    >>> (grad_theta,) = pystn.identity_penalty_vjp(np.ones(1), theta)
    >>> grad_theta
    array([[[0., 0., 1.],
            [0., 2., 0.]]])
    """
    return DISTANCE.vjp(grad_penalty, theta)


def identity_penalty_jvp(theta: Array, d_theta: Array | None) -> Array:
    """Jacobian-vector product of `identity_penalty`, with the slopes of `identity_penalty_vjp`.

    Parameters
    ----------
    theta
        As given to `identity_penalty`.
    d_theta : ndarray or None
        Tangent, of the shape and dtype of `theta`; None is zero.

    Returns
    -------
    d_penalty : ndarray
        Shape and dtype of the penalty.

    Raises
    ------
    TypeError, ValueError
        As `identity_penalty`, and if a tangent does not fit.

    See Also
    --------
    identity_penalty

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]])
    >>> pystn.identity_penalty_jvp(theta, theta)
    array([4.5])
    """
    return DISTANCE.jvp((theta,), (d_theta,))


def identity_penalty_vjp2(
    gg_theta: Array | None, grad_penalty: Array, theta: Array, *, wrt: str | Sequence[str] = ("grad_penalty", "theta")
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `identity_penalty_vjp`.

    Parameters
    ----------
    gg_theta : ndarray or None
        Cotangent of grad_theta: its shape and dtype. None is zero.
    grad_penalty, theta
        As given to `identity_penalty_vjp`.
    wrt : sequence of {"grad_penalty", "theta"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_penalty, grad_theta : ndarray or None
        Shapes and dtypes of `grad_penalty` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `identity_penalty_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    identity_penalty_vjp, identity_penalty_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]])
    >>> _, grad_theta = pystn.identity_penalty_vjp2(np.ones_like(theta), np.ones(1), theta)
    >>> grad_theta
    array([[[2., 2., 2.],
            [2., 2., 2.]]])
    """
    return DISTANCE.vjp2((gg_theta,), grad_penalty, theta, wrt=wrt)
