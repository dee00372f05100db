"""Warps as elements of a group: their product and their inverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.matrices.linear_algebra import check_invertible, homogeneous, inverse
from pystn.matrices.mapping import Curved
from pystn.options import flag, one_of
from pystn.typing import Array
from pystn.validation import check_entries, check_matrix

__all__ = ["compose", "compose_jvp", "compose_vjp", "compose_vjp2", "invert", "invert_jvp", "invert_vjp", "invert_vjp2"]


def is_projective(*thetas: Array) -> bool:
    return any(theta.shape[-2] == theta.shape[-1] for theta in thetas)


def product(xp: Any, first: Any, second: Any, order: str, normalize: bool) -> Any:
    if order == "left":
        first, second = second, first
    value = homogeneous(xp, first) @ homogeneous(xp, second)
    if not is_projective(first, second):
        return value[..., :-1, :]
    if not normalize:
        return value
    last = value[..., 2:, 2:]
    check_entries("the product", value, last[..., 0, 0] == 0, "has a last entry of 0, which cannot be made 1")
    return value / last


def composition(xp: Any, first: Any, second: Any, order: str, normalize: bool) -> tuple[Any, Any, Any]:
    if order == "left":
        value, of_second, of_first = composition(xp, second, first, "right", normalize)
        return value, of_first, of_second
    value = product(xp, first, second, order, normalize)
    a, b = homogeneous(xp, first), homogeneous(xp, second)
    jacobians = of_factors(xp, a, b, first, second)
    if not (normalize and is_projective(first, second)):
        return value, *jacobians
    last = (a[..., 2:, :] @ b[..., 2:])[..., None, None]
    of_first, of_second = (
        (jacobian - value[..., None, None] * jacobian[..., 2:, 2:, :, :]) / last for jacobian in jacobians
    )
    return value, of_first, of_second


def of_factors(xp: Any, a: Any, b: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Jacobians of C = A B to the rows that are given: dC_ij / dA_kl = 1_ik B_lj and dC_ij / dB_kl = A_ik 1_lj."""
    identity, rows = xp.eye(first.shape[-1]), max(first.shape[-2], second.shape[-2])
    of_first = xp.einsum("ik,...lj->...ijkl", identity[:rows, : first.shape[-2]], b)
    of_second = xp.einsum("...ik,lj->...ijkl", a[..., :rows, : second.shape[-2]], identity)
    return of_first, of_second


def bent_composition(xp: Any, along: Any, first: Any, second: Any, order: str, normalize: bool) -> tuple[Any, Any]:
    if order == "left":
        of_second, of_first = bent_composition(xp, along[::-1], second, first, "right", normalize)
        return of_first, of_second
    # Jacobians of products are linear in the other factor: they move to those of its tangent.
    d_a, d_b = (homogeneous(xp, tangent, 0.0) for tangent in along)
    bent = of_factors(xp, d_a, d_b, first, second)
    if not (normalize and is_projective(first, second)):
        return bent
    value, *jacobians = composition(xp, first, second, order, normalize)
    a, b = homogeneous(xp, first), homogeneous(xp, second)
    last, moved = (a @ b)[..., 2:, 2:], d_a @ b + a @ d_b
    rate = (moved - value * moved[..., 2:, 2:]) / last
    value, last, rate, d_last = (each[..., None, None] for each in (value, last, rate, moved[..., 2:, 2:]))
    # Twice the rule for quotients: once made the Jacobians from those of the product.
    of_first, of_second = (
        (bend - value * bend[..., 2:, 2:, :, :] - rate * whole[..., 2:, 2:, :, :] - jacobian * d_last) / last
        for bend, whole, jacobian in zip(bent, of_factors(xp, a, b, first, second), jacobians, strict=True)
    )
    return of_first, of_second


def check_composition(first: Array, second: Array, order: str, normalize: bool) -> None:
    one_of("order", order, ("right", "left"))
    flag("normalize", normalize)
    if check_matrix("first", first) != check_matrix("second", second):
        raise ValueError(f"first and second must have one dimension: got shapes {first.shape} and {second.shape}")


def inversion(xp: Any, theta: Any) -> tuple[Any, Any]:
    rows = theta.shape[-2]
    inverted = inverse(xp, homogeneous(xp, theta))[..., :rows, :]
    # dY = -Y dA Y, without the last row where that is constant.
    whole = homogeneous(xp, inverted)
    return inverted, -xp.einsum("...ik,...lj->...ijkl", inverted[..., :rows], whole)


def bent_inversion(xp: Any, along: Any, theta: Any) -> tuple[Any]:
    inverted, _ = inversion(xp, theta)
    rows = theta.shape[-2]
    moved = -inverted[..., :rows] @ along[0] @ homogeneous(xp, inverted)
    # Both factors of the Jacobian move.
    pairs = (moved, homogeneous(xp, inverted)), (inverted, homogeneous(xp, moved, 0.0))
    return (-sum(xp.einsum("...ik,...lj->...ijkl", left[..., :rows], right) for left, right in pairs),)


def check_inversion(theta: Array) -> None:
    check_matrix("theta", theta)
    check_invertible("theta", theta)


COMPOSITION = Curved(
    composition, check_composition, ("first", "second"), "grad_theta", core=2, alone=product, bend=bent_composition
)
INVERSION = Curved(inversion, check_inversion, ("theta",), "grad_inverse", core=2, bend=bent_inversion)


def compose(first: Array, second: Array, order: str = "right", normalize: bool = False) -> Array:
    r"""Compose transforms: one matrix that warps as two do.

    .. math:: \theta = \theta_1 \theta_2 \quad\text{("right")}, \qquad \theta = \theta_2 \theta_1 \quad\text{("left")}

    of homogeneous matrices. Matrices map from the output to the input, so "right" is what a cascade
    does, an image warped by `first` whose result is warped by `second`: but one interpolation instead of
    two, and nothing cut off between them. "left" is the update of the published code of inverse
    compositional transformers (Lin and Lucey, 2017), with the change of the warp as `second`.

    Parameters
    ----------
    first, second : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        Affine in 1-D to 3-D, or projective in 2-D, of one dimension and one dtype, float32 or float64.
        Leading axes broadcast.
    order : {"right", "left"}, default "right"
    normalize : bool, default False
        Whether to divide a projective product by its last entry. It is the same transform; an affine one
        has 1 there already.

    Returns
    -------
    theta : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        Affine if both are; dtype of `first`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ, or an option is of
        another type.
    ValueError
        If shapes do not fit, `order` is unknown, or the last entry of a product to be normalized is 0.

    See Also
    --------
    compose_vjp, compose_jvp, compose_vjp2 : its derivatives.
    invert

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> half, shift = np.eye(2, 3) / 2, pystn.translation_matrix(np.array([0.5, 0.0]))
    >>> pystn.compose(half, shift)
    array([[0.5 , 0.  , 0.25],
           [0.  , 0.5 , 0.  ]])
    >>> pystn.compose(half, shift, order="left")
    array([[0.5, 0. , 0.5],
           [0. , 0.5, 0. ]])
    """
    return COMPOSITION.value(first, second, order=order, normalize=normalize)


def compose_vjp(
    grad_theta: Array,
    first: Array,
    second: Array,
    order: str = "right",
    normalize: bool = False,
    *,
    wrt: Sequence[str] = ("first", "second"),
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `compose`.

    .. math:: \bar\theta_1 = \bar\theta \theta_2^T, \qquad \bar\theta_2 = \theta_1^T \bar\theta

    for "right", of homogeneous matrices. To be normalized is to pass
    :math:`(\bar\theta - \langle\bar\theta, \theta\rangle E_{33}) / c_{33}` on to the product c.

    Parameters
    ----------
    grad_theta : ndarray
        Cotangent: shape and dtype of the composed matrices.
    first, second, order, normalize
        As given to `compose`.
    wrt : sequence of {"first", "second"}, default both
        Which gradients to compute.

    Returns
    -------
    grad_first, grad_second : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not
        asked for.

    Raises
    ------
    TypeError, ValueError
        As `compose`, and if `grad_theta` or `wrt` does not fit.

    See Also
    --------
    compose

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> first, second = np.eye(2, 3) / 2, np.eye(2, 3)
    >>> grad_first, grad_second = pystn.compose_vjp(np.ones((2, 3)), first, second)
    >>> grad_second
    array([[0.5, 0.5, 0.5],
           [0.5, 0.5, 0.5]])
    """
    return COMPOSITION.vjp(grad_theta, first, second, wrt=wrt, order=order, normalize=normalize)


def compose_jvp(
    first: Array,
    second: Array,
    d_first: Array | None,
    d_second: Array | None,
    order: str = "right",
    normalize: bool = False,
) -> Array:
    r"""Jacobian-vector product of `compose`.

    .. math:: d\theta = d\theta_1 \theta_2 + \theta_1 d\theta_2

    Parameters
    ----------
    first, second, order, normalize
        As given to `compose`.
    d_first, d_second : ndarray or None
        Tangents, of the shapes and dtypes of `first` and `second`; None is zero.

    Returns
    -------
    d_theta : ndarray
        Shape and dtype of the composed matrices.

    Raises
    ------
    TypeError, ValueError
        As `compose`, and if a tangent does not fit.

    See Also
    --------
    compose

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> first, second = np.eye(2, 3) / 2, np.eye(2, 3)
    >>> pystn.compose_jvp(first, second, None, np.ones((2, 3)))
    array([[0.5, 0.5, 0.5],
           [0.5, 0.5, 0.5]])
    """
    return COMPOSITION.jvp((first, second), (d_first, d_second), order=order, normalize=normalize)


def compose_vjp2(
    gg_first: Array | None,
    gg_second: Array | None,
    grad_theta: Array,
    first: Array,
    second: Array,
    order: str = "right",
    normalize: bool = False,
    *,
    wrt: Sequence[str] = ("grad_theta", "first", "second"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `compose_vjp`.

    With cotangents :math:`G_1`, :math:`G_2` of the two gradients, :math:`\bar{\bar\theta} = \mathrm{jvp}(G_1, G_2)` and

    .. math:: \bar\theta_1 = \bar\theta \, G_2^T, \qquad \bar\theta_2 = G_1^T \, \bar\theta

    for "right", of homogeneous matrices, those of tangents with a last row of zeros. To be normalized is a quotient,
    which has a second derivative of its own.

    Parameters
    ----------
    gg_first, gg_second : ndarray or None
        Cotangents of grad_first and grad_second: shapes and dtypes of these. None is zero.
    grad_theta, first, second, order, normalize
        As given to `compose_vjp`.
    wrt : sequence of {"grad_theta", "first", "second"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_theta, grad_first, grad_second : ndarray or None
        Shapes and dtypes of `grad_theta`, `first` and `second`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `compose_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    compose_vjp, compose_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> first, second = np.eye(2, 3) / 2, np.eye(2, 3)
    >>> _, grad_first, _ = pystn.compose_vjp2(None, 3 * np.eye(2, 3), np.ones((2, 3)), first, second)
    >>> grad_first
    array([[3., 3., 0.],
           [3., 3., 0.]])
    """
    return COMPOSITION.vjp2((gg_first, gg_second), grad_theta, first, second, wrt=wrt, order=order, normalize=normalize)


def invert(theta: Array) -> Array:
    r"""Inverses of affine and projective matrices.

    .. math:: (A \mid t)^{-1} = (A^{-1} \mid -A^{-1} t)

    Parameters
    ----------
    theta : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        Affine in 1-D to 3-D, or projective in 2-D; float32 or float64. Inverted in float64.

    Returns
    -------
    inverse : ndarray
        Shape and dtype of `theta`; NaN where a matrix is not finite.

    Raises
    ------
    TypeError
        If `theta` is no NumPy array of float32 or float64.
    ValueError
        If its shape does not fit, or one of the matrices, which is named, is singular: the determinant
        of A, or of the whole if it is projective, is no more than 2 n epsilon times the sum of the
        magnitudes of its n! terms, epsilon being that of the dtype. Changes of the last digits of the
        entries then reach 0; how rows and columns are scaled makes no difference.

    See Also
    --------
    invert_vjp, invert_jvp, invert_vjp2 : its derivatives.
    compose

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.invert(np.array([[2.0, 0.0, 1.0], [0.0, 4.0, 0.0]]))
    array([[ 0.5 ,  0.  , -0.5 ],
           [ 0.  ,  0.25,  0.  ]])
    """
    return INVERSION.value(theta)


def invert_vjp(grad_inverse: Array, theta: Array) -> tuple[Array]:
    r"""Vector-Jacobian product of `invert`.

    .. math:: \bar\theta = -Y^T \bar Y Y^T, \quad Y = \theta^{-1}

    Parameters
    ----------
    grad_inverse : ndarray
        Cotangent: shape and dtype of the inverses.
    theta : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        As given to `invert`.

    Returns
    -------
    (grad_theta,) : tuple of one ndarray
        Shape and dtype of `theta`.

    Raises
    ------
    TypeError, ValueError
        As `invert`, and if `grad_inverse` does not fit.

    See Also
    --------
    invert

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, = pystn.invert_vjp(np.ones((2, 3)), 2 * np.eye(2, 3))
    >>> grad_theta
    array([[-0.25, -0.25, -0.5 ],
           [-0.25, -0.25, -0.5 ]])
    """
    return INVERSION.vjp(grad_inverse, theta)


def invert_jvp(theta: Array, d_theta: Array | None) -> Array:
    r"""Jacobian-vector product of `invert`.

    .. math:: dY = -Y \, d\theta \, Y, \quad Y = \theta^{-1}

    Parameters
    ----------
    theta : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        As given to `invert`.
    d_theta : ndarray or None
        Tangent, of the shape and dtype of `theta`; None is zero.

    Returns
    -------
    d_inverse : ndarray
        Shape and dtype of `theta`.

    Raises
    ------
    TypeError, ValueError
        As `invert`, and if `d_theta` does not fit.

    See Also
    --------
    invert

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.invert_jvp(2 * np.eye(2, 3), np.ones((2, 3)))
    array([[-0.25, -0.25, -0.5 ],
           [-0.25, -0.25, -0.5 ]])
    """
    return INVERSION.jvp((theta,), (d_theta,))


def invert_vjp2(
    gg_theta: Array | None,
    grad_inverse: Array,
    theta: Array,
    *,
    wrt: Sequence[str] = ("grad_inverse", "theta"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `invert_vjp`.

    With the cotangent G of its gradient and :math:`Y = \theta^{-1}`,

    .. math::

        \bar{\bar Y} = dY = -Y G Y, \qquad \bar\theta = -dY^T \, \bar Y \, Y^T - Y^T \, \bar Y \, dY^T

    Parameters
    ----------
    gg_theta : ndarray or None
        Cotangent of grad_theta: shape and dtype of `theta`. None is zero.
    grad_inverse, theta
        As given to `invert_vjp`.
    wrt : sequence of {"grad_inverse", "theta"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_inverse, grad_theta : ndarray or None
        Shapes and dtype of `grad_inverse` and `theta`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `invert_vjp`, and if `gg_theta` or `wrt` does not fit.

    See Also
    --------
    invert_vjp, invert_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> _, grad_theta = pystn.invert_vjp2(np.eye(1, 2), np.eye(1, 2), 2 * np.eye(1, 2))
    >>> grad_theta  # the second derivative of 1 / x
    array([[0.25, 0.  ]])
    """
    return INVERSION.vjp2((gg_theta,), grad_inverse, theta, wrt=wrt)
