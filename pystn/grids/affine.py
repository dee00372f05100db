"""The affine grid: two parameters in 1-D, six in 2-D, twelve in 3-D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from pystn.backends import backend_of
from pystn.options import flag
from pystn.typing import Array
from pystn.validation import check_affine, check_like, check_out, check_outs, output_size

__all__ = ["affine_grid", "affine_grid_jvp", "affine_grid_vjp"]

REPEATS: list[Callable[..., Any]] = []  # the latest calls, to be done again without their checks


def affine_grid(theta: Array, size: Sequence[int], align_corners: bool = False, *, out: Array | None = None) -> Array:
    r"""Grid of an affine transform: where each output pixel samples the input.

    .. math:: \begin{pmatrix} x_s \\ y_s \end{pmatrix} = A \begin{pmatrix} x_t \\ y_t \\ 1 \end{pmatrix}

    over the lattice of target coordinates (Jaderberg et al., 2015, equation 1). The matrix maps
    from the output to the input: it is the inverse of the motion that one sees.

    Parameters
    ----------
    theta : ndarray, shape (N, ..., ndim, ndim + 1), ndim 1 to 3
        float32 or float64, any strides. Axes between N and the matrix make several grids an image.
    size : sequence of int
        Spatial size of the output, (W,), (H, W) or (D, H, W), or the full (N, C, *spatial).
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the output or their outer
        edges. Give the sampler the same value.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with `theta`.
        If its leading axes are no single stride apart, the result is made apart and copied.

    Returns
    -------
    grid : ndarray, shape (N, ..., *spatial, ndim)
        dtype of `theta`; last axis (x, y[, z]) in normalized coordinates.

    Raises
    ------
    TypeError
        If `theta` is no NumPy array of float32 or float64, or `size` no sequence of integers.
    ValueError
        If the shape of `theta` or `size` does not fit, or `out` overlaps `theta`.

    See Also
    --------
    affine_grid_vjp, affine_grid_jvp : its derivatives.
    grid_sample : samples an image at a grid.
    warp_affine : both in one pass, the grid never stored.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> identity = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> pystn.affine_grid(identity, (1, 2))
    array([[[[-0.5,  0. ],
             [ 0.5,  0. ]]]])
    """
    if (again := repeated(theta, size, align_corners, out)) is not None:
        return again
    backend = backend_of({"theta": theta}, {"out": out})
    ndim = check_affine(theta)
    spatial = output_size(size, ndim, theta.shape[0])
    aligned = flag("align_corners", align_corners)
    if out is not None:
        check_out("out", out, (*theta.shape[:-2], *spatial, ndim), theta.dtype, (theta,))
    if (again := repeated(theta, spatial, aligned, out)) is not None:  # of a size that was given in another way
        return again
    return backend.affine_grid(theta, spatial, aligned, out, REPEATS)


def repeated(*arguments: Any) -> Array | None:
    for repeat in REPEATS:
        if (again := repeat(*arguments)) is not None:
            return cast(Array, again)
    return None


def affine_grid_vjp(
    grad_grid: Array,
    theta: Array,
    size: Sequence[int],
    align_corners: bool = False,
    *,
    out: tuple[Array | None] | None = None,
) -> tuple[Array]:
    r"""Vector-Jacobian product of `affine_grid`: the gradient to the transforms.

    .. math:: \bar A = \sum_i \bar g_i \, (x_i, y_i, 1)

    Parameters
    ----------
    grad_grid : ndarray
        Cotangent: shape and dtype of ``affine_grid(theta, size)``, any strides. Copied if its
        leading axes are no single stride apart.
    theta, size, align_corners
        As given to `affine_grid`.
    out : tuple of one ndarray or None, optional
        Array to write the gradient into, of the shape and dtype of `theta`.

    Returns
    -------
    (grad_theta,) : tuple of one ndarray
        Shape and dtype of `theta`. Sums run in float64 and in a fixed order: bitwise the same for
        any number of threads.

    Raises
    ------
    TypeError, ValueError
        As `affine_grid`.

    See Also
    --------
    affine_grid

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> grad_theta, = pystn.affine_grid_vjp(np.ones((1, 4, 4, 2)), theta, (4, 4))
    >>> grad_theta
    array([[[ 0.,  0., 16.],
            [ 0.,  0., 16.]]])
    """
    given = check_outs(out, ("grad_theta",))
    backend = backend_of({"grad_grid": grad_grid, "theta": theta}, given)
    ndim = check_affine(theta)
    spatial = output_size(size, ndim, theta.shape[0])
    aligned = flag("align_corners", align_corners)
    shape = (*theta.shape[:-2], *spatial, ndim)
    check_like("grad_grid", grad_grid, shape, theta.dtype, "the grid")
    grad_theta = given["grad_theta"]
    if grad_theta is not None:
        check_out("out: grad_theta", grad_theta, theta.shape, theta.dtype, (grad_grid, theta))
    return (backend.affine_grid_vjp(grad_grid, theta, spatial, aligned, grad_theta),)


def affine_grid_jvp(
    theta: Array,
    d_theta: Array | None,
    size: Sequence[int],
    align_corners: bool = False,
    *,
    out: Array | None = None,
) -> Array:
    r"""Jacobian-vector product of `affine_grid`: how the grid moves with the transforms.

    .. math:: dg_i = dA \, (x_i, y_i, 1)^T

    The grid is linear in its transform, so this is the grid of the tangent.

    Parameters
    ----------
    theta : ndarray
        As given to `affine_grid`.
    d_theta : ndarray or None
        Tangent: shape and dtype of `theta`. None is zero.
    size, align_corners
        As given to `affine_grid`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    d_grid : ndarray
        Shape and dtype of ``affine_grid(theta, size)``.

    Raises
    ------
    TypeError, ValueError
        As `affine_grid`.

    See Also
    --------
    affine_grid

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    >>> shift = np.array([[[0.0, 0.0, 0.25], [0.0, 0.0, 0.0]]])
    >>> pystn.affine_grid_jvp(theta, shift, (1, 2))
    array([[[[0.25, 0.  ],
             [0.25, 0.  ]]]])
    """
    backend = backend_of({"theta": theta}, {"d_theta": d_theta, "out": out})
    ndim = check_affine(theta)
    spatial = output_size(size, ndim, theta.shape[0])
    aligned = flag("align_corners", align_corners)
    if d_theta is not None:
        check_like("d_theta", d_theta, theta.shape, theta.dtype, "theta")
    if out is not None:
        shape = (*theta.shape[:-2], *spatial, ndim)
        check_out("out", out, shape, theta.dtype, (theta, d_theta))
    if d_theta is None:
        d_theta = backend.xp.zeros_like(theta)
    return backend.affine_grid(d_theta, spatial, aligned, out)
