"""Affine matrices in 2-D from a translation, an angle, two scales and a shear, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.matrices.builders import bent_placed, placed
from pystn.matrices.linear_algebra import check_invertible
from pystn.matrices.mapping import Curved
from pystn.matrices.rotations import rotation
from pystn.typing import Array
from pystn.validation import check_length

__all__ = [
    "affine_matrix",
    "affine_matrix_jvp",
    "affine_matrix_vjp",
    "affine_matrix_vjp2",
    "decompose_affine",
    "decompose_affine_jvp",
    "decompose_affine_vjp",
    "decompose_affine_vjp2",
]


def affine(xp: Any, params: Any) -> tuple[Any, Any]:
    right, up, sx, sy, shear = parts(xp, params)
    scaled = xp.stack([sx * right, sx * shear * right + sy * up], axis=-1)
    d_scaled = slopes(xp, right, up, sx, sy, shear, sx * shear, 1.0)
    theta, jacobian = placed(xp, scaled, d_scaled, params[..., :2])
    return theta, xp.roll(jacobian, 2, axis=-1)


def parts(xp: Any, params: Any) -> tuple[Any, ...]:
    """The axes, turned, then scales and shear."""
    turn, _ = rotation(xp, params[..., 2:3])
    return turn[..., 0], turn[..., 1], *(params[..., i, None] for i in (3, 4, 5))


def slopes(xp: Any, right: Any, up: Any, sx: Any, sy: Any, shear: Any, sheared: Any, one: float) -> Any:
    """Of the linear part to angle, scales and shear: bilinear in the axes and the rest, where sheared is sx shear."""
    zero = xp.zeros_like(right)
    columns = (
        (sx * up, sheared * up - sy * right),
        (one * right, shear * right),
        (zero, one * up),
        (zero, sx * right),
    )
    return xp.stack([xp.stack(pair, axis=-1) for pair in columns], axis=-1)


def bent_affine(xp: Any, along: Any, params: Any) -> tuple[Any]:
    right, up, sx, sy, shear = parts(xp, params)
    d_angle, d_sx, d_sy, d_shear = (along[0][..., i, None] for i in (2, 3, 4, 5))
    by_axes = slopes(xp, d_angle * up, -d_angle * right, sx, sy, shear, sx * shear, 1.0)
    by_rest = slopes(xp, right, up, d_sx, d_sy, d_shear, d_sx * shear + sx * d_shear, 0.0)
    return (xp.roll(bent_placed(xp, by_axes + by_rest), 2, axis=-1),)


def decomposition(xp: Any, theta: Any) -> tuple[Any, Any]:
    (a, b), (c, d) = (xp.moveaxis(theta[..., row, :2], -1, 0) for row in (0, 1))
    sx = xp.hypot(a, c)
    cosine, sine = a / sx, c / sx
    along, sy = cosine * b + sine * d, cosine * d - sine * b
    shear = along / sx
    params = xp.stack([theta[..., 0, 2], theta[..., 1, 2], xp.arctan2(c, a), sx, sy, shear], axis=-1)
    # Rows of what moves each parameter; (cosine, sine) and (-sine, cosine) are the axes of the first column.
    jacobian = xp.zeros((*params.shape, 2, 3))
    jacobian[..., 0, 0, 2] = jacobian[..., 1, 1, 2] = 1.0
    for row, (right, up) in enumerate(((cosine, -sine), (sine, cosine))):
        d_angle = up / sx
        jacobian[..., 2, row, 0] = d_angle
        jacobian[..., 3, row, 0] = right
        jacobian[..., 4, row, 0], jacobian[..., 4, row, 1] = -along * d_angle, up
        jacobian[..., 5, row, 0], jacobian[..., 5, row, 1] = (sy * d_angle - shear * right) / sx, right / sx
    return params, jacobian


def bent_decomposition(xp: Any, along: Any, theta: Any) -> tuple[Any]:
    """D(A(p)) = p makes J_D J_A = 1, so that J_D bends by -J_D (how J_A does) J_D."""
    params, jacobian = decomposition(xp, theta)
    inverse = jacobian.reshape(*params.shape, 6)
    moved = (inverse @ along[0].reshape(*params.shape, 1))[..., 0]
    (bent,) = bent_affine(xp, [moved], params)
    return ((-inverse @ bent.reshape(inverse.shape) @ inverse).reshape(jacobian.shape),)


def check_decomposition(theta: Array) -> None:
    if theta.ndim < 2 or theta.shape[-2:] != (2, 3):
        raise ValueError(f"theta must have shape (..., 2, 3): got {theta.shape}")
    check_invertible("theta", theta)


def check_affine(params: Array) -> None:
    check_length("params", params, (6,))


AFFINE = Curved(affine, check_affine, ("params",), "grad_theta", core=1, bend=bent_affine)
DECOMPOSITION = Curved(decomposition, check_decomposition, ("theta",), "grad_params", core=2, bend=bent_decomposition)


def affine_matrix(params: Array) -> Array:
    r"""Affine matrices in 2-D from a translation, an angle, two scales and a shear.

    .. math::

        \theta = \left( R(\varphi) \begin{pmatrix} s_x & 0 \\ 0 & s_y \end{pmatrix}
        \begin{pmatrix} 1 & m \\ 0 & 1 \end{pmatrix} \;\middle|\; t \right)

    Parameters
    ----------
    params : ndarray, shape (..., 6)
        (tx, ty, angle, sx, sy, shear), the angle in radians; float32 or float64.
        (0, 0, 0, 1, 1, 0) is the identity.

    Returns
    -------
    theta : ndarray, shape (..., 2, 3)
        dtype of `params`.

    Raises
    ------
    TypeError
        If `params` is no NumPy array of float32 or float64.
    ValueError
        If the shape of `params` does not fit.

    See Also
    --------
    affine_matrix_vjp, affine_matrix_jvp, affine_matrix_vjp2 : its derivatives.
    decompose_affine : its inverse.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.affine_matrix(np.array([0.5, 0.25, 0.0, 2.0, 1.0, 0.125]))
    array([[2.  , 0.25, 0.5 ],
           [0.  , 1.  , 0.25]])
    """
    return AFFINE.value(params)


def affine_matrix_vjp(grad_theta: Array, params: Array) -> tuple[Array]:
    """Vector-Jacobian product of `affine_matrix`.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., 2, 3)
        Cotangent: shape and dtype of the matrices.
    params : ndarray, shape (..., 6)
        As given to `affine_matrix`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`.

    Raises
    ------
    TypeError, ValueError
        As `affine_matrix`, and if `grad_theta` does not fit.

    See Also
    --------
    affine_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, params = np.arange(6.0).reshape(2, 3), np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    >>> grad_params, = pystn.affine_matrix_vjp(grad_theta, params)
    >>> grad_params
    array([2., 5., 2., 0., 4., 1.])
    """
    return AFFINE.vjp(grad_theta, params)


def affine_matrix_jvp(params: Array, d_params: Array | None) -> Array:
    """Jacobian-vector product of `affine_matrix`.

    Parameters
    ----------
    params : ndarray, shape (..., 6)
        As given to `affine_matrix`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., 2, 3)

    Raises
    ------
    TypeError, ValueError
        As `affine_matrix`, and if `d_params` does not fit.

    See Also
    --------
    affine_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> params, d_params = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0]), np.arange(6.0)
    >>> pystn.affine_matrix_jvp(params, d_params)
    array([[3., 3., 0.],
           [2., 4., 1.]])
    """
    return AFFINE.jvp((params,), (d_params,))


def affine_matrix_vjp2(
    gg_params: Array | None,
    grad_theta: Array,
    params: Array,
    *,
    wrt: Sequence[str] = ("grad_theta", "params"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `affine_matrix_vjp`.

    With the cotangent v of its gradient, :math:`\bar{\bar\theta} = \mathrm{jvp}(v)` and

    .. math::

        \bar p_k = \sum_{ij} \bar\theta_{ij}
        \sum_l \frac{\partial^2 \theta_{ij}}{\partial p_k \, \partial p_l} \, v_l

    Parameters
    ----------
    gg_params : ndarray or None
        Cotangent of grad_params: shape and dtype of `params`. None is zero.
    grad_theta, params
        As given to `affine_matrix_vjp`.
    wrt : sequence of {"grad_theta", "params"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_theta, grad_params : ndarray or None
        Shapes and dtype of `grad_theta` and `params`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `affine_matrix_vjp`, and if `gg_params` or `wrt` does not fit.

    See Also
    --------
    affine_matrix_vjp, affine_matrix_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, params = np.eye(2, 3), np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    >>> _, grad_params = pystn.affine_matrix_vjp2(np.eye(6)[2], grad_theta, params)
    >>> grad_params  # of the trace (sx + sy) cos(angle) + sx shear sin(angle)
    array([ 0.,  0., -2.,  0.,  0.,  1.])
    """
    return AFFINE.vjp2((gg_params,), grad_theta, params, wrt=wrt)


def decompose_affine(theta: Array) -> Array:
    r"""Translation, angle, scales and shear of affine matrices in 2-D: their QR decomposition.

    The parameters of which `affine_matrix` makes the matrix: with first column :math:`a_1`, second
    :math:`a_2`,

    .. math::

        s_x = |a_1|, \quad \varphi = \operatorname{atan2}(a_{21}, a_{11}), \quad
        s_y = \det A / s_x, \quad m = a_1 \cdot a_2 / s_x^2

    Parameters
    ----------
    theta : ndarray, shape (..., 2, 3)
        float32 or float64.

    Returns
    -------
    params : ndarray, shape (..., 6)
        (tx, ty, angle, sx, sy, shear): the angle in [-pi, pi], sx positive, sy negative where the matrix
        reflects; dtype of `theta`.

    Raises
    ------
    TypeError
        If `theta` is no NumPy array of float32 or float64.
    ValueError
        If the shape of `theta` does not fit, or one of them is singular, as `invert` has it.

    See Also
    --------
    decompose_affine_vjp, decompose_affine_jvp, decompose_affine_vjp2 : its derivatives.
    affine_matrix : its inverse.
    invert : the pose of what is seen is that of the inverse.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.decompose_affine(np.array([[2.0, 0.25, 0.5], [0.0, 1.0, 0.25]]))
    array([0.5  , 0.25 , 0.   , 2.   , 1.   , 0.125])
    """
    return DECOMPOSITION.value(theta)


def decompose_affine_vjp(grad_params: Array, theta: Array) -> tuple[Array]:
    """Vector-Jacobian product of `decompose_affine`.

    Parameters
    ----------
    grad_params : ndarray, shape (..., 6)
        Cotangent: shape and dtype of the parameters.
    theta : ndarray, shape (..., 2, 3)
        As given to `decompose_affine`.

    Returns
    -------
    (grad_theta,) : tuple of one ndarray
        Shape and dtype of `theta`.

    Raises
    ------
    TypeError, ValueError
        As `decompose_affine`, and if `grad_params` does not fit.

    See Also
    --------
    decompose_affine

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, = pystn.decompose_affine_vjp(np.arange(6.0), np.eye(2, 3))
    >>> grad_theta
    array([[3., 5., 0.],
           [7., 4., 1.]])
    """
    return DECOMPOSITION.vjp(grad_params, theta)


def decompose_affine_jvp(theta: Array, d_theta: Array | None) -> Array:
    """Jacobian-vector product of `decompose_affine`.

    Parameters
    ----------
    theta : ndarray, shape (..., 2, 3)
        As given to `decompose_affine`.
    d_theta : ndarray or None
        Tangent, of the shape and dtype of `theta`; None is zero.

    Returns
    -------
    d_params : ndarray, shape (..., 6)

    Raises
    ------
    TypeError, ValueError
        As `decompose_affine`, and if `d_theta` does not fit.

    See Also
    --------
    decompose_affine

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.decompose_affine_jvp(np.eye(2, 3), np.arange(6.0).reshape(2, 3))
    array([2., 5., 3., 0., 4., 4.])
    """
    return DECOMPOSITION.jvp((theta,), (d_theta,))


def decompose_affine_vjp2(
    gg_theta: Array | None,
    grad_params: Array,
    theta: Array,
    *,
    wrt: Sequence[str] = ("grad_params", "theta"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `decompose_affine_vjp`.

    `decompose_affine` undoes `affine_matrix`, so that of their Jacobians :math:`J_D J_A = I`, and along any direction

    .. math:: dJ_D = -J_D \, dJ_A \, J_D

    Parameters
    ----------
    gg_theta : ndarray or None
        Cotangent of grad_theta: shape and dtype of `theta`. None is zero.
    grad_params, theta
        As given to `decompose_affine_vjp`.
    wrt : sequence of {"grad_params", "theta"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_params, grad_theta : ndarray or None
        Shapes and dtype of `grad_params` and `theta`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `decompose_affine_vjp`, and if `gg_theta` or `wrt` does not fit.

    See Also
    --------
    decompose_affine_vjp, decompose_affine_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_params = np.eye(6)[3]  # of the length of the first column
    >>> _, grad_theta = pystn.decompose_affine_vjp2(np.ones((2, 3)), grad_params, np.eye(2, 3))
    >>> grad_theta + 0.0
    array([[0., 0., 0.],
           [1., 0., 0.]])
    """
    return DECOMPOSITION.vjp2((gg_theta,), grad_params, theta, wrt=wrt)
