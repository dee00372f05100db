"""Matrices between normalized coordinates and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pystn.matrices.mapping import Mapping
from pystn.options import flag
from pystn.typing import Array
from pystn.validation import check_matrix
from pystn.validation import output_size as spatial_size

__all__ = [
    "normalized_to_pixel",
    "normalized_to_pixel_jvp",
    "normalized_to_pixel_vjp",
    "pixel_to_normalized",
    "pixel_to_normalized_jvp",
    "pixel_to_normalized_vjp",
]


def axes(size: tuple[int, ...], align_corners: bool) -> tuple[Any, Any]:
    """Of (x[, y[, z]]): pixels = scale * normalized + offset."""
    n = np.array(size[::-1], np.float64)
    return (n - align_corners) / 2, (n - 1) / 2


def to_pixels(size: tuple[int, ...], align_corners: bool) -> Any:
    scale, offset = axes(size, align_corners)
    matrix = np.diag([*scale, 1.0])
    matrix[:-1, -1] = offset
    return matrix


def to_normalized(size: tuple[int, ...], align_corners: bool) -> Any:
    """The inverse; an axis without extent has its one pixel at 0."""
    scale, offset = axes(size, align_corners)
    scale = 1 / np.where(scale == 0, np.inf, scale)
    matrix = np.diag([*scale, 1.0])
    matrix[:-1, -1] = -offset * scale
    return matrix


def between(xp: Any, theta: Any, after: Any, before: Any) -> tuple[Any, Any]:
    """after @ theta @ before, of homogeneous matrices."""
    rows = theta.shape[-2]
    left, right = xp.asarray(after), xp.asarray(before)
    value = left[:rows, :rows] @ theta @ right
    if rows < right.shape[0]:
        value = value + left[:rows, rows:] * right[rows:]
    return value, xp.einsum("ik,lj->ijkl", left[:rows, :rows], right)


Size = Sequence[int]


def sizes(theta: Any, input_size: Any, output_size: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The spatial sizes, checked, none of an empty image."""
    ndim = theta.shape[-1] - 1
    found = []
    for name, size in (("input_size", input_size), ("output_size", output_size)):
        spatial = spatial_size(size, ndim, name=name)
        if 0 in spatial:
            raise ValueError(f"{name} must be 1 or more along every axis: got {spatial}")
        found.append(spatial)
    return found[0], found[1]


def in_pixels(xp: Any, theta: Any, input_size: Size, output_size: Size, align_corners: bool) -> tuple[Any, Any]:
    source, target = sizes(theta, input_size, output_size)
    return between(xp, theta, to_pixels(source, align_corners), to_normalized(target, align_corners))


def normalized(xp: Any, matrix: Any, input_size: Size, output_size: Size, align_corners: bool) -> tuple[Any, Any]:
    source, target = sizes(matrix, input_size, output_size)
    return between(xp, matrix, to_normalized(source, align_corners), to_pixels(target, align_corners))


def check_theta(theta: Array, input_size: Size, output_size: Size, align_corners: bool) -> None:
    check_matrix("theta", theta)
    flag("align_corners", align_corners)
    sizes(theta, input_size, output_size)


def check_pixel_matrix(matrix: Array, input_size: Size, output_size: Size, align_corners: bool) -> None:
    check_matrix("matrix", matrix)
    source, _ = sizes(matrix, input_size, output_size)
    if flag("align_corners", align_corners) and 1 in source:
        raise ValueError(
            "input_size must be 2 or more along every axis with align_corners=True, where all coordinates of one "
            f"pixel are its centre: got {source}"
        )


TO_PIXEL = Mapping(in_pixels, check_theta, ("theta",), "grad_matrix", core=2)
TO_NORMALIZED = Mapping(normalized, check_pixel_matrix, ("matrix",), "grad_theta", core=2)


def normalized_to_pixel(theta: Array, input_size: Size, output_size: Size, align_corners: bool = False) -> Array:
    r"""Matrices between pixels for matrices between normalized coordinates.

    .. math:: M = P_{\text{input}} \, \theta \, P_{\text{output}}^{-1}

    with P from normalized coordinates to pixels, along an axis of n pixels
    :math:`p = ((x + 1) n - 1) / 2`, or :math:`(x + 1)(n - 1) / 2` with `align_corners`.

    Parameters
    ----------
    theta : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        Affine in 1-D to 3-D or projective in 2-D, from the output to the input; float32 or float64.
    input_size, output_size : sequence of int
        Spatial sizes of the two, (W,), (H, W) or (D, H, W), or the full (N, C, *spatial).
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels or their outer edges.

    Returns
    -------
    matrix : ndarray
        From pixels (x[, y[, z]]) of the output to pixels of the input, 0 the centre of the first: as a
        warp with ``coords="pixel"`` takes it. Shape and dtype of `theta`; a projective one is not scaled.

    Raises
    ------
    TypeError
        If `theta` is no NumPy array of float32 or float64, or an option is of another type.
    ValueError
        If the shape of `theta` or a size does not fit, or a size is 0 somewhere.

    See Also
    --------
    normalized_to_pixel_vjp, normalized_to_pixel_jvp : its derivatives.
    pixel_to_normalized : its inverse.
    warp_affine, warp_projective : take either.

    Notes
    -----
    OpenCV's warpAffine and warpPerspective take this matrix with WARP_INVERSE_MAP, and its inverse
    without. scikit-image's warp takes it as ``inverse_map``, affine ones with a third row (0, 0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.normalized_to_pixel(np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]), (4, 8), (4, 8))
    array([[1., 0., 2.],
           [0., 1., 0.]])
    """
    return TO_PIXEL.value(theta, input_size=input_size, output_size=output_size, align_corners=align_corners)


def normalized_to_pixel_vjp(
    grad_matrix: Array, theta: Array, input_size: Size, output_size: Size, align_corners: bool = False
) -> tuple[Array]:
    """Vector-Jacobian product of `normalized_to_pixel`.

    Parameters
    ----------
    grad_matrix : ndarray
        Cotangent: shape and dtype of `theta`.
    theta, input_size, output_size, align_corners
        As given to `normalized_to_pixel`.

    Returns
    -------
    (grad_theta,) : tuple of one ndarray
        Shape and dtype of `theta`.

    Raises
    ------
    TypeError, ValueError
        As `normalized_to_pixel`, and if `grad_matrix` does not fit.

    See Also
    --------
    normalized_to_pixel

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, = pystn.normalized_to_pixel_vjp(np.ones((1, 2)), np.zeros((1, 2)), (8,), (4,))
    >>> grad_theta
    array([[-1.,  4.]])
    """
    options: dict[str, Any] = {"input_size": input_size, "output_size": output_size, "align_corners": align_corners}
    return TO_PIXEL.vjp(grad_matrix, theta, **options)


def normalized_to_pixel_jvp(
    theta: Array, d_theta: Array | None, input_size: Size, output_size: Size, align_corners: bool = False
) -> Array:
    """Jacobian-vector product of `normalized_to_pixel`.

    Parameters
    ----------
    theta, input_size, output_size, align_corners
        As given to `normalized_to_pixel`.
    d_theta : ndarray or None
        Tangent, of the shape and dtype of `theta`; None is zero.

    Returns
    -------
    d_matrix : ndarray
        Shape and dtype of `theta`.

    Raises
    ------
    TypeError, ValueError
        As `normalized_to_pixel`, and if `d_theta` does not fit.

    See Also
    --------
    normalized_to_pixel

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.normalized_to_pixel_jvp(np.zeros((1, 2)), np.array([[0.0, 1.0]]), (8,), (4,))
    array([[0., 4.]])
    """
    options: dict[str, Any] = {"input_size": input_size, "output_size": output_size, "align_corners": align_corners}
    return TO_PIXEL.jvp((theta,), (d_theta,), **options)


def pixel_to_normalized(matrix: Array, input_size: Size, output_size: Size, align_corners: bool = False) -> Array:
    r"""Matrices between normalized coordinates for matrices between pixels.

    .. math:: \theta = P_{\text{input}}^{-1} M P_{\text{output}}

    with P as for `normalized_to_pixel`, whose inverse this is.

    Parameters
    ----------
    matrix : ndarray, shape (..., ndim, ndim + 1) or (..., 3, 3)
        Affine in 1-D to 3-D or projective in 2-D, from pixels (x[, y[, z]]) of the output to pixels of
        the input, 0 the centre of the first: what OpenCV takes with WARP_INVERSE_MAP and scikit-image as
        ``inverse_map``. float32 or float64.
    input_size, output_size : sequence of int
        Spatial sizes of the two, (W,), (H, W) or (D, H, W), or the full (N, C, *spatial).
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels or their outer edges.

    Returns
    -------
    theta : ndarray
        Shape and dtype of `matrix`; a projective one is not scaled.

    Raises
    ------
    TypeError
        If `matrix` is no NumPy array of float32 or float64, or an option is of another type.
    ValueError
        If the shape of `matrix` or a size does not fit, or a size is 0 somewhere, or an axis of the input
        has one pixel and `align_corners` is True: all its coordinates are then the same.

    See Also
    --------
    pixel_to_normalized_vjp, pixel_to_normalized_jvp : its derivatives.
    normalized_to_pixel : its inverse.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.pixel_to_normalized(np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]), (4, 8), (4, 8))
    array([[1. , 0. , 0.5],
           [0. , 1. , 0. ]])
    """
    return TO_NORMALIZED.value(matrix, input_size=input_size, output_size=output_size, align_corners=align_corners)


def pixel_to_normalized_vjp(
    grad_theta: Array, matrix: Array, input_size: Size, output_size: Size, align_corners: bool = False
) -> tuple[Array]:
    """Vector-Jacobian product of `pixel_to_normalized`.

    Parameters
    ----------
    grad_theta : ndarray
        Cotangent: shape and dtype of `matrix`.
    matrix, input_size, output_size, align_corners
        As given to `pixel_to_normalized`.

    Returns
    -------
    (grad_matrix,) : tuple of one ndarray
        Shape and dtype of `matrix`.

    Raises
    ------
    TypeError, ValueError
        As `pixel_to_normalized`, and if `grad_theta` does not fit.

    See Also
    --------
    pixel_to_normalized

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_matrix, = pystn.pixel_to_normalized_vjp(np.ones((1, 2)), np.zeros((1, 2)), (8,), (4,))
    >>> grad_matrix
    array([[0.875, 0.25 ]])
    """
    options: dict[str, Any] = {"input_size": input_size, "output_size": output_size, "align_corners": align_corners}
    return TO_NORMALIZED.vjp(grad_theta, matrix, **options)


def pixel_to_normalized_jvp(
    matrix: Array, d_matrix: Array | None, input_size: Size, output_size: Size, align_corners: bool = False
) -> Array:
    """Jacobian-vector product of `pixel_to_normalized`.

    Parameters
    ----------
    matrix, input_size, output_size, align_corners
        As given to `pixel_to_normalized`.
    d_matrix : ndarray or None
        Tangent, of the shape and dtype of `matrix`; None is zero.

    Returns
    -------
    d_theta : ndarray
        Shape and dtype of `matrix`.

    Raises
    ------
    TypeError, ValueError
        As `pixel_to_normalized`, and if `d_matrix` does not fit.

    See Also
    --------
    pixel_to_normalized

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.pixel_to_normalized_jvp(np.zeros((1, 2)), np.array([[0.0, 2.0]]), (8,), (4,))
    array([[0. , 0.5]])
    """
    options: dict[str, Any] = {"input_size": input_size, "output_size": output_size, "align_corners": align_corners}
    return TO_NORMALIZED.jvp((matrix,), (d_matrix,), **options)
