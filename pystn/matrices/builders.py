"""Matrices of the usual transforms from their parameters, ready as `theta` of grids and warps."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, log
from typing import Any

import numpy as np

from pystn.kept import kept
from pystn.matrices.mapping import Curved, Mapping
from pystn.matrices.rotations import bent_rotation, generators, rotation
from pystn.options import one_of
from pystn.typing import Array
from pystn.validation import check_entries, check_length

__all__ = [
    "attention_matrix",
    "attention_matrix_jvp",
    "attention_matrix_vjp",
    "projective_matrix",
    "projective_matrix_jvp",
    "projective_matrix_vjp",
    "pstn_affine_matrix",
    "pstn_affine_matrix_jvp",
    "pstn_affine_matrix_vjp",
    "pstn_affine_matrix_vjp2",
    "rigid_matrix",
    "rigid_matrix_jvp",
    "rigid_matrix_vjp",
    "rigid_matrix_vjp2",
    "rotation_matrix",
    "rotation_matrix_jvp",
    "rotation_matrix_vjp",
    "rotation_matrix_vjp2",
    "similarity_matrix",
    "similarity_matrix_jvp",
    "similarity_matrix_vjp",
    "similarity_matrix_vjp2",
    "translation_matrix",
    "translation_matrix_jvp",
    "translation_matrix_vjp",
]


def placed(xp: Any, linear: Any, d_linear: Any, shift: Any, scaled: bool = False) -> tuple[Any, Any]:
    """Affine matrices and their Jacobians to the parameters of the linear part, then the shift.

    The shift is the last column or, scaled, goes through the linear part first.
    """
    n, p = linear.shape[-1], d_linear.shape[-1]
    own = linear if scaled else xp.eye(n)
    theta = xp.concatenate([linear, own @ shift[..., None]], axis=-1)
    jacobian = xp.zeros((*theta.shape, p + n))
    jacobian[..., :n, :p] = d_linear
    jacobian[..., n, p:] = own
    if scaled:
        jacobian[..., n, :p] = xp.einsum("...ijk,...j->...ik", d_linear, shift)
    return theta, jacobian


def bent_placed(xp: Any, bent: Any) -> Any:
    """How the Jacobians of `placed` bend where that of the linear part does; but for a scaled shift."""
    n, p = bent.shape[-2:]
    jacobian = xp.zeros((*bent.shape[:-2], n + 1, p + n))
    jacobian[..., :n, :p] = bent
    return jacobian


# Scaled and shifted: linear in the parameters.


@kept
def attention_basis(n: int, scale: str) -> Any:
    """What each parameter of an attention matrix adds, (n, n + 1, p)."""
    scales = {"fixed": 0, "isotropic": 1, "anisotropic": n}[scale]
    basis = np.zeros((n, n + 1, scales + n))
    for i in range(n):
        basis[i, n, scales + i] = 1.0
        if scales:
            basis[i, i, i if scale == "anisotropic" else 0] = 1.0
    return basis


def attention(xp: Any, params: Any, scale: str | float) -> tuple[Any, Any]:
    kind = scale if isinstance(scale, str) else "fixed"
    p = params.shape[-1]
    n = {"fixed": p, "isotropic": p - 1, "anisotropic": p // 2}[kind]
    basis = attention_basis(xp, n, kind)
    theta = (basis @ params[..., None, :, None])[..., 0]
    return (theta if isinstance(scale, str) else theta + scale * xp.eye(n, n + 1)), basis


def check_attention(params: Any, scale: Any) -> None:
    if isinstance(scale, (int, float, np.integer, np.floating)) and not isinstance(scale, bool):
        if not isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale!r}")
        check_length("params", params, (1, 2, 3))
    else:
        one_of("scale", scale, ("isotropic", "anisotropic"))
        check_length("params", params, (2, 3, 4) if scale == "isotropic" else (2, 4, 6))


ATTENTION = Mapping(attention, check_attention, ("params",), "grad_theta", core=1)


# Rotated and shifted.


def turned(xp: Any, params: Any) -> tuple[Any, Any]:
    linear, d_linear = rotation(xp, params)
    theta, jacobian = placed(xp, linear, d_linear, xp.zeros(linear.shape[:-1]))
    return theta, jacobian[..., : params.shape[-1]]


def bent_turned(xp: Any, along: Any, params: Any) -> tuple[Any]:
    bent = bent_rotation(xp, params, along[0])
    return (bent_placed(xp, bent)[..., : params.shape[-1]],)


def rigid(xp: Any, params: Any) -> tuple[Any, Any]:
    n = 2 if params.shape[-1] == 3 else 3
    return placed(xp, *rotation(xp, params[..., :-n]), params[..., -n:])


def bent_rigid(xp: Any, along: Any, params: Any) -> tuple[Any]:
    n = 2 if params.shape[-1] == 3 else 3
    return (bent_placed(xp, bent_rotation(xp, params[..., :-n], along[0][..., :-n])),)


def check_rotation(params: Any, lengths: tuple[int, ...], quaternion: int) -> None:
    """Check parameters that begin with a quaternion if there are so many."""
    check_length("params", params, lengths)
    if params.shape[-1] == quaternion:
        check_entries("params", params, (params[..., :4] == 0).all(axis=-1), "has a quaternion of norm 0")


def check_turned(params: Any) -> None:
    check_rotation(params, (1, 3, 4), 4)


def check_rigid(params: Any) -> None:
    check_rotation(params, (3, 6, 7), 7)


ROTATION = Curved(turned, check_turned, ("params",), "grad_theta", core=1, bend=bent_turned)
RIGID = Curved(rigid, check_rigid, ("params",), "grad_theta", core=1, bend=bent_rigid)


# Scaled, rotated and shifted.


def similarity(xp: Any, params: Any, form: str) -> tuple[Any, Any]:
    n = 2 if params.shape[-1] == 4 else 3
    first, shift = params[..., :-n], params[..., -n:]
    if form == "linear":
        basis = xp.concatenate([xp.eye(2)[..., None], generators(xp, 2)], axis=-1)
        linear = xp.eye(2) + (basis @ first[..., None, :, None])[..., 0]
        return placed(xp, linear, basis, shift)
    turn, d_turn = rotation(xp, first[..., :-1])
    scale, slope, _ = scales(xp, first[..., -1, None, None], form)
    d_linear = xp.concatenate([scale[..., None] * d_turn, (slope * turn)[..., None]], axis=-1)
    return placed(xp, scale * turn, d_linear, shift, scaled=form == "log2")


def scales(xp: Any, param: Any, form: str) -> tuple[Any, Any, Any]:
    """The scale, its slope and the slope of that."""
    if form == "angle":
        return param, 1.0, 0.0
    scale = xp.exp2(param)
    return scale, log(2) * scale, log(2) ** 2 * scale


def bent_similarity(xp: Any, along: Any, params: Any, form: str) -> tuple[Any]:
    _, jacobian = similarity(xp, params, form)
    if form == "linear":
        return (xp.zeros_like(jacobian),)
    n = jacobian.shape[-3]
    (first, shift), (d_first, d_shift) = ((array[..., :-n], array[..., -n:]) for array in (params, along[0]))
    turn, d_turn = rotation(xp, first[..., :-1])
    bent_turn = bent_rotation(xp, first[..., :-1], d_first[..., :-1])
    moved = (d_turn @ d_first[..., None, :-1, None])[..., 0]
    scale, slope, bend = scales(xp, first[..., -1, None, None], form)
    d_scale = d_first[..., -1, None, None]
    of_turn = scale[..., None] * bent_turn + (slope * d_scale)[..., None] * d_turn
    of_scale = slope * moved + bend * d_scale * turn
    bent = xp.concatenate([of_turn, of_scale[..., None]], axis=-1)
    result = bent_placed(xp, bent)
    if form == "log2":  # the shift goes through the linear part, which moves
        d_linear = jacobian[..., :n, :-n]
        result[..., n, -n:] = (d_linear @ d_first[..., None, :, None])[..., 0]
        result[..., n, :-n] = sum(
            xp.einsum("...ijk,...j->...ik", *pair) for pair in ((bent, shift), (d_linear, d_shift))
        )
    return (result,)


def check_similarity(params: Any, form: str) -> None:
    one_of("form", form, ("angle", "linear", "log2"))
    check_rotation(params, (4,) if form == "linear" else (4, 7, 8), 8)


SIMILARITY = Curved(similarity, check_similarity, ("params",), "grad_theta", core=1, bend=bent_similarity)


# Scaled on the diagonal alone, rotated and shifted.


def pstn_affine(xp: Any, params: Any) -> tuple[Any, Any]:
    turn, d_turn, diagonal, weights = scaled_diagonal(xp, params)
    d_linear = xp.concatenate([weights[..., None] * d_turn, diagonal * turn[..., None]], axis=-1)
    return placed(xp, weights * turn, d_linear, params[..., -2:])


def scaled_diagonal(xp: Any, params: Any) -> tuple[Any, Any, Any, Any]:
    """A rotation and its slope, what each scale multiplies of it, and what they make of its entries."""
    scales = params[..., 1:-2]
    diagonal = attention_basis(xp, 2, "isotropic" if scales.shape[-1] == 1 else "anisotropic")[:, :2, :-2]
    weights = 1 - xp.eye(2) + (diagonal @ scales[..., None, :, None])[..., 0]
    return *rotation(xp, params[..., :1]), diagonal, weights


def bent_pstn_affine(xp: Any, along: Any, params: Any) -> tuple[Any]:
    _, d_turn, diagonal, weights = scaled_diagonal(xp, params)
    d_angle, d_scales = along[0][..., :1], along[0][..., 1:-2]
    moved = (d_turn @ d_angle[..., None, :, None])[..., 0]
    d_weights = (diagonal @ d_scales[..., None, :, None])[..., 0]
    by_angle = weights[..., None] * bent_rotation(xp, params[..., :1], d_angle) + d_weights[..., None] * d_turn
    return (bent_placed(xp, xp.concatenate([by_angle, diagonal * moved[..., None]], axis=-1)),)


def check_pstn_affine(params: Any) -> None:
    check_length("params", params, (4, 5))


PSTN_AFFINE = Curved(pstn_affine, check_pstn_affine, ("params",), "grad_theta", core=1, bend=bent_pstn_affine)


@kept
def projective_basis() -> Any:
    return np.eye(9)[:, :8].reshape(3, 3, 8)


def projective(xp: Any, params: Any) -> tuple[Any, Any]:
    theta = (projective_basis(xp) @ params[..., None, :, None])[..., 0]
    theta[..., 2, 2] = 1.0
    return theta, projective_basis(xp)


PROJECTIVE = Mapping(projective, lambda params: check_length("params", params, (8,)), ("params",), "grad_theta", core=1)


def translation_matrix(params: Array) -> Array:
    r"""Matrices of translations.

    .. math:: \theta = (I \mid t)

    Parameters
    ----------
    params : ndarray, shape (..., ndim)
        The shift t = (x[, y[, z]]) in normalized coordinates, ndim 1 to 3; float32 or float64.

    Returns
    -------
    theta : ndarray, shape (..., ndim, ndim + 1)
        dtype of `params`.

    Raises
    ------
    TypeError
        If `params` is no NumPy array of float32 or float64.
    ValueError
        If the shape of `params` does not fit.

    See Also
    --------
    translation_matrix_vjp, translation_matrix_jvp : its derivatives.
    attention_matrix : with a scale.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.translation_matrix(np.array([0.5, -0.25]))
    array([[ 1.  ,  0.  ,  0.5 ],
           [ 0.  ,  1.  , -0.25]])
    """
    return ATTENTION.value(params, scale=1.0)


def translation_matrix_vjp(grad_theta: Array, params: Array) -> tuple[Array]:
    """Vector-Jacobian product of `translation_matrix`: the last column.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., ndim, ndim + 1)
        Cotangent: shape and dtype of the matrices.
    params : ndarray, shape (..., ndim)
        As given to `translation_matrix`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`.

    Raises
    ------
    TypeError, ValueError
        As `translation_matrix`, and if `grad_theta` does not fit.

    See Also
    --------
    translation_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_params, = pystn.translation_matrix_vjp(np.arange(6.0).reshape(2, 3), np.zeros(2))
    >>> grad_params
    array([2., 5.])
    """
    return ATTENTION.vjp(grad_theta, params, scale=1.0)


def translation_matrix_jvp(params: Array, d_params: Array | None) -> Array:
    """Jacobian-vector product of `translation_matrix`.

    Parameters
    ----------
    params : ndarray, shape (..., ndim)
        As given to `translation_matrix`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., ndim, ndim + 1)

    Raises
    ------
    TypeError, ValueError
        As `translation_matrix`, and if `d_params` does not fit.

    See Also
    --------
    translation_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.translation_matrix_jvp(np.zeros(2), np.array([1.0, 2.0]))
    array([[0., 0., 1.],
           [0., 0., 2.]])
    """
    return ATTENTION.jvp((params,), (d_params,), scale=1.0)


def attention_matrix(params: Array, scale: str | float = "isotropic") -> Array:
    r"""Matrices that attend to a box: scaled and translated (Jaderberg et al., 2015, equation 2).

    .. math::

        \theta = \begin{pmatrix} s & 0 & t_x \\ 0 & s & t_y \end{pmatrix}

    Parameters
    ----------
    params : ndarray, shape (..., p)
        The scale and then the translation, float32 or float64; p says the dimension, 1 to 3.
    scale : {"isotropic", "anisotropic"} or float, default "isotropic"
        "isotropic": (s, t), p = ndim + 1. "anisotropic": one scale for each axis, (sx, sy, tx, ty) in
        2-D, p = 2 ndim. A number: that scale, fixed, and `params` are the translation.

    Returns
    -------
    theta : ndarray, shape (..., ndim, ndim + 1)
        dtype of `params`.

    Raises
    ------
    TypeError
        If `params` is no NumPy array of float32 or float64, or `scale` neither a word nor a number.
    ValueError
        If the shape of `params` does not fit, or `scale` is an unknown word or not finite.

    See Also
    --------
    attention_matrix_vjp, attention_matrix_jvp : its derivatives.
    theta_to_box : the box that is attended to.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.attention_matrix(np.array([0.5, 0.25, -0.5]))
    array([[ 0.5 ,  0.  ,  0.25],
           [ 0.  ,  0.5 , -0.5 ]])
    """
    return ATTENTION.value(params, scale=scale)


def attention_matrix_vjp(grad_theta: Array, params: Array, scale: str | float = "isotropic") -> tuple[Array]:
    """Vector-Jacobian product of `attention_matrix`.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., ndim, ndim + 1)
        Cotangent: shape and dtype of the matrices.
    params, scale
        As given to `attention_matrix`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`.

    Raises
    ------
    TypeError, ValueError
        As `attention_matrix`, and if `grad_theta` does not fit.

    See Also
    --------
    attention_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_params, = pystn.attention_matrix_vjp(np.arange(6.0).reshape(2, 3), np.array([0.5, 0.0, 0.0]))
    >>> grad_params
    array([4., 2., 5.])
    """
    return ATTENTION.vjp(grad_theta, params, scale=scale)


def attention_matrix_jvp(params: Array, d_params: Array | None, scale: str | float = "isotropic") -> Array:
    """Jacobian-vector product of `attention_matrix`.

    Parameters
    ----------
    params, scale
        As given to `attention_matrix`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., ndim, ndim + 1)

    Raises
    ------
    TypeError, ValueError
        As `attention_matrix`, and if `d_params` does not fit.

    See Also
    --------
    attention_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.attention_matrix_jvp(np.array([0.5, 0.0, 0.0]), np.array([1.0, 2.0, 3.0]))
    array([[1., 0., 2.],
           [0., 1., 3.]])
    """
    return ATTENTION.jvp((params,), (d_params,), scale=scale)


def rotation_matrix(params: Array) -> Array:
    r"""Matrices of rotations about the centre, in 2-D and 3-D.

    .. math::

        R(\varphi) = \begin{pmatrix} \cos\varphi & -\sin\varphi \\ \sin\varphi & \cos\varphi \end{pmatrix},
        \qquad R(v) = I + \frac{\sin t}{t} [v]_\times + \frac{1 - \cos t}{t^2} [v]_\times^2, \quad t = |v|

    (Rodrigues' formula; by its series where t is small, so that value and derivatives are exact at 0),
    and of a quaternion (w, v) divided by its norm

    .. math:: R = (w^2 - v \cdot v) I + 2 v v^T + 2 w [v]_\times

    Parameters
    ----------
    params : ndarray, shape (..., 1), (..., 3) or (..., 4)
        An angle in radians, from x to y; a rotation vector, its length the angle about it; or a
        quaternion (w, x, y, z) of any norm but 0. float32 or float64.

    Returns
    -------
    theta : ndarray, shape (..., 2, 3) or (..., 3, 4)
        With a last column of zeros; dtype of `params`.

    Raises
    ------
    TypeError
        If `params` is no NumPy array of float32 or float64.
    ValueError
        If the shape of `params` does not fit, or a quaternion is 0.

    See Also
    --------
    rotation_matrix_vjp, rotation_matrix_jvp, rotation_matrix_vjp2 : its derivatives.
    rigid_matrix, similarity_matrix : with a translation, and with a scale.

    Notes
    -----
    The rotation is of normalized coordinates: where an image is not square it shears its pixels.
    `normalized_to_pixel` tells the two apart.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.rotation_matrix(np.array([0.0, 0.0, np.pi / 2])).round(2)
    array([[ 0., -1.,  0.,  0.],
           [ 1.,  0.,  0.,  0.],
           [ 0.,  0.,  1.,  0.]])
    """
    return ROTATION.value(params)


def rotation_matrix_vjp(grad_theta: Array, params: Array) -> tuple[Array]:
    """Vector-Jacobian product of `rotation_matrix`.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., 2, 3) or (..., 3, 4)
        Cotangent: shape and dtype of the matrices.
    params : ndarray, shape (..., 1), (..., 3) or (..., 4)
        As given to `rotation_matrix`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`. A quaternion's is orthogonal to it: its norm makes no difference.

    Raises
    ------
    TypeError, ValueError
        As `rotation_matrix`, and if `grad_theta` does not fit.

    See Also
    --------
    rotation_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_params, = pystn.rotation_matrix_vjp(np.arange(6.0).reshape(2, 3), np.zeros(1))
    >>> grad_params
    array([2.])
    """
    return ROTATION.vjp(grad_theta, params)


def rotation_matrix_jvp(params: Array, d_params: Array | None) -> Array:
    """Jacobian-vector product of `rotation_matrix`.

    Parameters
    ----------
    params : ndarray, shape (..., 1), (..., 3) or (..., 4)
        As given to `rotation_matrix`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., 2, 3) or (..., 3, 4)

    Raises
    ------
    TypeError, ValueError
        As `rotation_matrix`, and if `d_params` does not fit.

    See Also
    --------
    rotation_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.rotation_matrix_jvp(np.zeros(1), np.ones(1))
    array([[ 0., -1.,  0.],
           [ 1.,  0.,  0.]])
    """
    return ROTATION.jvp((params,), (d_params,))


def rotation_matrix_vjp2(
    gg_params: Array | None,
    grad_theta: Array,
    params: Array,
    *,
    wrt: Sequence[str] = ("grad_theta", "params"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `rotation_matrix_vjp`.

    With the cotangent v of its gradient, :math:`\bar{\bar\theta} = \mathrm{jvp}(v)` and

    .. math::

        \bar p_k = \sum_{ij} \bar\theta_{ij}
        \sum_l \frac{\partial^2 \theta_{ij}}{\partial p_k \, \partial p_l} \, v_l

    Parameters
    ----------
    gg_params : ndarray or None
        Cotangent of grad_params: shape and dtype of `params`. None is zero.
    grad_theta, params
        As given to `rotation_matrix_vjp`.
    wrt : sequence of {"grad_theta", "params"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_theta, grad_params : ndarray or None
        Shapes and dtype of `grad_theta` and `params`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `rotation_matrix_vjp`, and if `gg_params` or `wrt` does not fit.

    See Also
    --------
    rotation_matrix_vjp, rotation_matrix_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> gg_params, grad_theta = np.array([2.0]), np.eye(2, 3)
    >>> _, grad_params = pystn.rotation_matrix_vjp2(gg_params, grad_theta, np.zeros(1))
    >>> grad_params  # of the trace 2 cos(angle)
    array([-4.])
    """
    return ROTATION.vjp2((gg_params,), grad_theta, params, wrt=wrt)


def rigid_matrix(params: Array) -> Array:
    r"""Matrices of rigid (Euclidean) transforms: a rotation and a translation.

    .. math:: \theta = (R \mid t)

    Parameters
    ----------
    params : ndarray, shape (..., 3), (..., 6) or (..., 7)
        The parameters of `rotation_matrix` and then the translation: (angle, x, y); rotation vector and
        (x, y, z); quaternion and (x, y, z). float32 or float64.

    Returns
    -------
    theta : ndarray, shape (..., 2, 3) or (..., 3, 4)
        dtype of `params`.

    Raises
    ------
    TypeError
        If `params` is no NumPy array of float32 or float64.
    ValueError
        If the shape of `params` does not fit, or a quaternion is 0.

    See Also
    --------
    rigid_matrix_vjp, rigid_matrix_jvp, rigid_matrix_vjp2 : its derivatives.
    lie_generator : the groups "se2" and "se3" by their exponential, where rotation and translation mix.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.rigid_matrix(np.array([np.pi / 2, 0.5, 0.25])).round(2)
    array([[ 0.  , -1.  ,  0.5 ],
           [ 1.  ,  0.  ,  0.25]])
    """
    return RIGID.value(params)


def rigid_matrix_vjp(grad_theta: Array, params: Array) -> tuple[Array]:
    """Vector-Jacobian product of `rigid_matrix`.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., 2, 3) or (..., 3, 4)
        Cotangent: shape and dtype of the matrices.
    params : ndarray, shape (..., 3), (..., 6) or (..., 7)
        As given to `rigid_matrix`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`.

    Raises
    ------
    TypeError, ValueError
        As `rigid_matrix`, and if `grad_theta` does not fit.

    See Also
    --------
    rigid_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_params, = pystn.rigid_matrix_vjp(np.arange(6.0).reshape(2, 3), np.zeros(3))
    >>> grad_params
    array([2., 2., 5.])
    """
    return RIGID.vjp(grad_theta, params)


def rigid_matrix_jvp(params: Array, d_params: Array | None) -> Array:
    """Jacobian-vector product of `rigid_matrix`.

    Parameters
    ----------
    params : ndarray, shape (..., 3), (..., 6) or (..., 7)
        As given to `rigid_matrix`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., 2, 3) or (..., 3, 4)

    Raises
    ------
    TypeError, ValueError
        As `rigid_matrix`, and if `d_params` does not fit.

    See Also
    --------
    rigid_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.rigid_matrix_jvp(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    array([[ 0., -1.,  2.],
           [ 1.,  0.,  3.]])
    """
    return RIGID.jvp((params,), (d_params,))


def rigid_matrix_vjp2(
    gg_params: Array | None,
    grad_theta: Array,
    params: Array,
    *,
    wrt: Sequence[str] = ("grad_theta", "params"),
) -> tuple[Array | None, Array | None]:
    """Second order: the vector-Jacobian product of `rigid_matrix_vjp`.

    As that of `rotation_matrix`; the matrix is linear in the translation.

    Parameters
    ----------
    gg_params : ndarray or None
        Cotangent of grad_params: shape and dtype of `params`. None is zero.
    grad_theta, params
        As given to `rigid_matrix_vjp`.
    wrt : sequence of {"grad_theta", "params"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_theta, grad_params : ndarray or None
        Shapes and dtype of `grad_theta` and `params`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `rigid_matrix_vjp`, and if `gg_params` or `wrt` does not fit.

    See Also
    --------
    rigid_matrix_vjp, rigid_matrix_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> gg_params, grad_theta = np.array([2.0, 1.0, 1.0]), np.eye(2, 3)
    >>> grad_grad_theta, grad_params = pystn.rigid_matrix_vjp2(gg_params, grad_theta, np.zeros(3))
    >>> grad_grad_theta
    array([[ 0., -2.,  1.],
           [ 2.,  0.,  1.]])
    >>> grad_params
    array([-4.,  0.,  0.])
    """
    return RIGID.vjp2((gg_params,), grad_theta, params, wrt=wrt)


def similarity_matrix(params: Array, form: str = "angle") -> Array:
    r"""Matrices of similarities: a rotation, one scale and a translation.

    .. math:: \theta = (s R \mid t)

    Parameters
    ----------
    params : ndarray, shape (..., 4), (..., 7) or (..., 8)
        The parameters of `rotation_matrix`, then the scale, then the translation: 4 in 2-D, 7 in 3-D
        with a rotation vector, 8 with a quaternion. float32 or float64.
    form : {"angle", "linear", "log2"}, default "angle"
        "angle": rotation, s, t, as above. "log2": rotation, :math:`\log_2 s` and a translation that is
        scaled and rotated with the rest, :math:`\theta = (s R \mid s R t)` (linearized
        multi-sampling, Jiang et al., 2019); zeros are the identity. "linear", in 2-D: (a, b, x, y) for

        .. math:: \theta = \begin{pmatrix} 1 + a & -b & x \\ b & 1 + a & y \end{pmatrix}

        (inverse compositional transformers, Lin and Lucey, 2017); zeros are the identity.

    Returns
    -------
    theta : ndarray, shape (..., 2, 3) or (..., 3, 4)
        dtype of `params`.

    Raises
    ------
    TypeError
        If `params` is no NumPy array of float32 or float64, or `form` no word.
    ValueError
        If the shape of `params` does not fit, a quaternion is 0, or `form` is unknown.

    See Also
    --------
    similarity_matrix_vjp, similarity_matrix_jvp, similarity_matrix_vjp2 : its derivatives.
    lie_generator : the groups "sim2" and "sim3" by their exponential.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.similarity_matrix(np.array([np.pi / 2, 2.0, 0.5, 0.25])).round(2)
    array([[ 0.  , -2.  ,  0.5 ],
           [ 2.  ,  0.  ,  0.25]])
    >>> pystn.similarity_matrix(np.array([-0.5, 0.25, 0.0, 1.0]), form="linear")
    array([[ 0.5 , -0.25,  0.  ],
           [ 0.25,  0.5 ,  1.  ]])
    """
    return SIMILARITY.value(params, form=form)


def similarity_matrix_vjp(grad_theta: Array, params: Array, form: str = "angle") -> tuple[Array]:
    """Vector-Jacobian product of `similarity_matrix`.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., 2, 3) or (..., 3, 4)
        Cotangent: shape and dtype of the matrices.
    params, form
        As given to `similarity_matrix`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`.

    Raises
    ------
    TypeError, ValueError
        As `similarity_matrix`, and if `grad_theta` does not fit.

    See Also
    --------
    similarity_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, params = np.arange(6.0).reshape(2, 3), np.array([0.0, 1.0, 0.0, 0.0])
    >>> grad_params, = pystn.similarity_matrix_vjp(grad_theta, params)
    >>> grad_params
    array([2., 4., 2., 5.])
    """
    return SIMILARITY.vjp(grad_theta, params, form=form)


def similarity_matrix_jvp(params: Array, d_params: Array | None, form: str = "angle") -> Array:
    """Jacobian-vector product of `similarity_matrix`.

    Parameters
    ----------
    params, form
        As given to `similarity_matrix`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., 2, 3) or (..., 3, 4)

    Raises
    ------
    TypeError, ValueError
        As `similarity_matrix`, and if `d_params` does not fit.

    See Also
    --------
    similarity_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> params, d_params = np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.5, 2.0, 3.0])
    >>> pystn.similarity_matrix_jvp(params, d_params)
    array([[ 0.5, -1. ,  2. ],
           [ 1. ,  0.5,  3. ]])
    """
    return SIMILARITY.jvp((params,), (d_params,), form=form)


def similarity_matrix_vjp2(
    gg_params: Array | None,
    grad_theta: Array,
    params: Array,
    form: str = "angle",
    *,
    wrt: Sequence[str] = ("grad_theta", "params"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `similarity_matrix_vjp`.

    With the cotangent v of its gradient, :math:`\bar{\bar\theta} = \mathrm{jvp}(v)` and

    .. math::

        \bar p_k = \sum_{ij} \bar\theta_{ij}
        \sum_l \frac{\partial^2 \theta_{ij}}{\partial p_k \, \partial p_l} \, v_l

    which is zero for "linear".

    Parameters
    ----------
    gg_params : ndarray or None
        Cotangent of grad_params: shape and dtype of `params`. None is zero.
    grad_theta, params, form
        As given to `similarity_matrix_vjp`.
    wrt : sequence of {"grad_theta", "params"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_theta, grad_params : ndarray or None
        Shapes and dtype of `grad_theta` and `params`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `similarity_matrix_vjp`, and if `gg_params` or `wrt` does not fit.

    See Also
    --------
    similarity_matrix_vjp, similarity_matrix_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> gg_params, params = np.array([0.0, 1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0, 0.0])
    >>> grad_theta = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    >>> _, grad_params = pystn.similarity_matrix_vjp2(gg_params, grad_theta, params)
    >>> grad_params  # of 2 s sin(angle)
    array([2., 0., 0., 0.])
    """
    return SIMILARITY.vjp2((gg_params,), grad_theta, params, wrt=wrt, form=form)


def pstn_affine_matrix(params: Array) -> Array:
    r"""Matrices of the published code of probabilistic spatial transformers, to reproduce what it did.

    .. math::

        \theta = \begin{pmatrix}
        s_x \cos\varphi & -\sin\varphi & t_x \\ \sin\varphi & s_y \cos\varphi & t_y
        \end{pmatrix}

    (Schwöbel et al., Probabilistic Spatial Transformer Networks, 2022). The sines are not scaled: this is no
    similarity, nor a rotation that scales come after. `similarity_matrix` and `affine_matrix` are.

    Parameters
    ----------
    params : ndarray, shape (..., 4) or (..., 5)
        The angle, one scale or (sx, sy), and the translation; float32 or float64.

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
    pstn_affine_matrix_vjp, pstn_affine_matrix_jvp, pstn_affine_matrix_vjp2 : its derivatives.
    similarity_matrix : with all of the rotation scaled.
    ProbabilisticSpatialTransformer

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.pstn_affine_matrix(np.array([np.pi / 6, 2.0, 0.5, 0.25])).round(2)
    array([[ 1.73, -0.5 ,  0.5 ],
           [ 0.5 ,  1.73,  0.25]])
    """
    return PSTN_AFFINE.value(params)


def pstn_affine_matrix_vjp(grad_theta: Array, params: Array) -> tuple[Array]:
    """Vector-Jacobian product of `pstn_affine_matrix`.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., 2, 3)
        Cotangent: shape and dtype of the matrices.
    params : ndarray, shape (..., 4) or (..., 5)
        As given to `pstn_affine_matrix`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`.

    Raises
    ------
    TypeError, ValueError
        As `pstn_affine_matrix`, and if `grad_theta` does not fit.

    See Also
    --------
    pstn_affine_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, params = np.arange(6.0).reshape(2, 3), np.array([0.0, 2.0, 3.0, 0.0, 0.0])
    >>> grad_params, = pystn.pstn_affine_matrix_vjp(grad_theta, params)
    >>> grad_params
    array([2., 0., 4., 2., 5.])
    """
    return PSTN_AFFINE.vjp(grad_theta, params)


def pstn_affine_matrix_jvp(params: Array, d_params: Array | None) -> Array:
    """Jacobian-vector product of `pstn_affine_matrix`.

    Parameters
    ----------
    params : ndarray, shape (..., 4) or (..., 5)
        As given to `pstn_affine_matrix`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., 2, 3)

    Raises
    ------
    TypeError, ValueError
        As `pstn_affine_matrix`, and if `d_params` does not fit.

    See Also
    --------
    pstn_affine_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> params, d_params = np.array([0.0, 2.0, 0.0, 0.0]), np.array([1.0, 0.5, 2.0, 3.0])
    >>> pystn.pstn_affine_matrix_jvp(params, d_params)
    array([[ 0.5, -1. ,  2. ],
           [ 1. ,  0.5,  3. ]])
    """
    return PSTN_AFFINE.jvp((params,), (d_params,))


def pstn_affine_matrix_vjp2(
    gg_params: Array | None,
    grad_theta: Array,
    params: Array,
    *,
    wrt: Sequence[str] = ("grad_theta", "params"),
) -> tuple[Array | None, Array | None]:
    """Second order: the vector-Jacobian product of `pstn_affine_matrix_vjp`.

    As that of `similarity_matrix`; the matrix is linear in the translation.

    Parameters
    ----------
    gg_params : ndarray or None
        Cotangent of grad_params: shape and dtype of `params`. None is zero.
    grad_theta, params
        As given to `pstn_affine_matrix_vjp`.
    wrt : sequence of {"grad_theta", "params"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_theta, grad_params : ndarray or None
        Shapes and dtype of `grad_theta` and `params`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `pstn_affine_matrix_vjp`, and if `gg_params` or `wrt` does not fit.

    See Also
    --------
    pstn_affine_matrix_vjp, pstn_affine_matrix_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> gg_params, params = np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.0, 2.0, 0.0, 0.0])
    >>> _, grad_params = pystn.pstn_affine_matrix_vjp2(gg_params, np.eye(2, 3), params)
    >>> grad_params  # of the trace 2 s cos(angle)
    array([-4.,  0.,  0.,  0.])
    """
    return PSTN_AFFINE.vjp2((gg_params,), grad_theta, params, wrt=wrt)


def projective_matrix(params: Array) -> Array:
    r"""Matrices of projective transforms with a last entry of 1.

    .. math::

        \theta = \begin{pmatrix} p_1 & p_2 & p_3 \\ p_4 & p_5 & p_6 \\ p_7 & p_8 & 1 \end{pmatrix}

    Parameters
    ----------
    params : ndarray, shape (..., 8)
        Entries row by row, float32 or float64; (1, 0, 0, 0, 1, 0, 0, 0) is the identity.

    Returns
    -------
    theta : ndarray, shape (..., 3, 3)
        dtype of `params`.

    Raises
    ------
    TypeError
        If `params` is no NumPy array of float32 or float64.
    ValueError
        If the shape of `params` does not fit.

    See Also
    --------
    projective_matrix_vjp, projective_matrix_jvp : its derivatives.
    homography_from_points : from where four points go.
    lie_generator : the group "sl3" by its exponential, always invertible.
    warp_projective : samples an image through one.

    Notes
    -----
    What is added to the identity, as by inverse compositional transformers (Lin and Lucey, 2017), is
    ``params - pystn.identity_params("projective")``: of that zeros are the identity.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.projective_matrix(np.array([1.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.25, 0.0]))
    array([[1.  , 0.  , 0.5 ],
           [0.  , 1.  , 0.  ],
           [0.25, 0.  , 1.  ]])
    """
    return PROJECTIVE.value(params)


def projective_matrix_vjp(grad_theta: Array, params: Array) -> tuple[Array]:
    """Vector-Jacobian product of `projective_matrix`: all entries but the last.

    Parameters
    ----------
    grad_theta : ndarray, shape (..., 3, 3)
        Cotangent: shape and dtype of the matrices.
    params : ndarray, shape (..., 8)
        As given to `projective_matrix`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`.

    Raises
    ------
    TypeError, ValueError
        As `projective_matrix`, and if `grad_theta` does not fit.

    See Also
    --------
    projective_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_params, = pystn.projective_matrix_vjp(np.arange(9.0).reshape(3, 3), np.zeros(8))
    >>> grad_params
    array([0., 1., 2., 3., 4., 5., 6., 7.])
    """
    return PROJECTIVE.vjp(grad_theta, params)


def projective_matrix_jvp(params: Array, d_params: Array | None) -> Array:
    """Jacobian-vector product of `projective_matrix`.

    Parameters
    ----------
    params : ndarray, shape (..., 8)
        As given to `projective_matrix`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_theta : ndarray, shape (..., 3, 3)

    Raises
    ------
    TypeError, ValueError
        As `projective_matrix`, and if `d_params` does not fit.

    See Also
    --------
    projective_matrix

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.projective_matrix_jvp(np.zeros(8), np.arange(8.0))
    array([[0., 1., 2.],
           [3., 4., 5.],
           [6., 7., 0.]])
    """
    return PROJECTIVE.jvp((params,), (d_params,))
