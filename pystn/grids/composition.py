"""One grid after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pystn.backends import backend_of
from pystn.grids.fields import check_convention, check_field, field_sampling, subtract_lattice
from pystn.options import SamplingOptions
from pystn.typing import Array
from pystn.validation import check_batch, check_float, check_like, check_out, check_wrt, sample_shape

__all__ = ["compose_grids", "compose_grids_jvp", "compose_grids_vjp", "compose_grids_vjp2"]


def check_composition(
    first: Array, second: Array, align_corners: Any, padding_mode: Any, coords: Any, subgradient: str = "right"
) -> SamplingOptions:
    ndim = check_field("first", first)
    if first.ndim != ndim + 2:
        raise ValueError(f"first must be an image of coordinates, (N, *spatial, {ndim}): got {first.shape}")
    check_float("second", second)
    if second.ndim < 2 or second.shape[-1] != ndim:
        raise ValueError(f"second must have shape (N, ..., {ndim}), as first has {first.shape}: got {second.shape}")
    if second.dtype != first.dtype:
        raise TypeError(f"second must have the dtype of first, {first.dtype}: got {second.dtype}")
    check_batch("first", first, second, "second")
    if 0 in first.shape[1:] and second.size:
        raise ValueError(f"first has an empty spatial axis, and second asks for samples of it: got {first.shape}")
    return field_sampling(padding_mode, check_convention(align_corners, coords), coords, subgradient)


def compose_grids(
    first: Array,
    second: Array,
    align_corners: bool = False,
    padding_mode: str = "border",
    *,
    coords: str = "normalized",
    out: Array | None = None,
) -> Array:
    r"""Grid that is one grid after another: to sample at it once is to sample at `first`, then at `second`.

    .. math:: c(t) = s(t) + \sum_j k(s(t) - t_j) \, (f_j - t_j)

    with f the first grid, s the second, :math:`t_j` the lattice of the first and k linear interpolation: the
    displacements of the first are interpolated, not its coordinates. An image that is sampled once at the composed
    grid, not twice, loses nothing to a second interpolation, nor to the border of the image between.

    Parameters
    ----------
    first : ndarray, shape (N, *spatial, ndim)
        float32 or float64, any strides: coordinates (x[, y[, z]]) for each pixel of an image.
    second : ndarray, shape (N, ..., ndim)
        dtype of `first`, any strides: coordinates in that image. N of one may be 1 with a larger other.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the image between or their outer edges.
    padding_mode : str, default "border"
        The displacement outside that image: that of the nearest pixel, or any boundary of `grid_sample`, as "zeros"
        (there the second alone) or "wrap" (periodic).
    coords : {"normalized", "pixel"}, default "normalized"
        Unit of the grids; pixels are those of the lattice of the first.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with what is read.

    Returns
    -------
    grid : ndarray, shape (N, ..., ndim)
        Shape of `second`, with the larger N; dtype of both.

    Raises
    ------
    TypeError
        If a grid is no NumPy array of float32 or float64, their dtypes differ, or an option is of the wrong type.
    ValueError
        If shapes do not fit, an option is unknown, or `out` overlaps a grid.

    See Also
    --------
    compose_grids_vjp, compose_grids_jvp : its derivatives.
    displacement_grid : a grid of displacements.
    grid_sample : samples an image at a grid.

    Notes
    -----
    Exact if either grid is the identity, and for a first that is a translation, everywhere; for a first that is affine
    at all points of the second between the centres of the outermost pixels, beyond which its displacement is that of
    the border.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> shift = pystn.affine_grid(np.array([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]), (2, 2))
    >>> pystn.compose_grids(shift, shift)[0, ..., 0]
    array([[0.5, 1.5],
           [0.5, 1.5]])
    """
    backend = backend_of({"first": first, "second": second}, {"out": out})
    options = check_composition(first, second, align_corners, padding_mode, coords)
    if out is not None:
        check_out("out", out, sample_shape(first, second, options), first.dtype, (first, second))
    displacements = subtract_lattice(backend.xp, first, options.align_corners, coords)
    grid, _ = backend.grid_sample(displacements, second, options, False, out)
    grid += second
    return grid


def compose_grids_vjp(
    grad_grid: Array,
    first: Array,
    second: Array,
    align_corners: bool = False,
    padding_mode: str = "border",
    *,
    coords: str = "normalized",
    subgradient: str = "right",
    wrt: str | Sequence[str] = ("first", "second"),
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `compose_grids`: gradients to both grids.

    .. math::
        \bar f_j &= \sum_t k(s(t) - t_j) \, \bar c(t) \\
        \bar s(t) &= (I + Du(s(t)))^T \, \bar c(t)

    with u the displacements of the first.

    Parameters
    ----------
    grad_grid : ndarray
        Cotangent: shape and dtype of ``compose_grids(first, second)``, any strides.
    first, second, align_corners, padding_mode, coords
        As given to `compose_grids`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        Slope of u at the centres of pixels, as in `grid_sample_vjp`.
    wrt : sequence of {"first", "second"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_first, grad_second : ndarray or None
        Shapes and dtypes of `first` and `second`, None where not in `wrt`. A grid shared by the batch receives the
        sum over it.

    Raises
    ------
    TypeError, ValueError
        As `compose_grids`.

    See Also
    --------
    compose_grids

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grid = pystn.affine_grid(np.array([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]]), (4, 4))
    >>> _, grad_second = pystn.compose_grids_vjp(np.ones_like(grid), grid, grid)
    >>> bool((grad_second == 0.5).all())
    True
    """
    backend = backend_of({"grad_grid": grad_grid, "first": first, "second": second})
    options = check_composition(first, second, align_corners, padding_mode, coords, subgradient)
    wanted = check_wrt(wrt, ("first", "second"))
    check_like("grad_grid", grad_grid, sample_shape(first, second, options), first.dtype, "the grid")
    displacements = subtract_lattice(backend.xp, first, options.align_corners, coords)
    outs = (None, None)
    grad_first, grad_second = backend.grid_sample_vjp(grad_grid, None, displacements, second, options, wanted, outs)
    if grad_second is not None:
        shared = len(second) != len(grad_grid)
        grad_second += grad_grid.sum(axis=0, dtype=np.float64, keepdims=True) if shared else grad_grid
    return grad_first, grad_second


def compose_grids_jvp(
    first: Array,
    second: Array,
    d_first: Array | None,
    d_second: Array | None,
    align_corners: bool = False,
    padding_mode: str = "border",
    *,
    coords: str = "normalized",
    subgradient: str = "right",
) -> Array:
    r"""Jacobian-vector product of `compose_grids`.

    .. math:: dc(t) = \sum_j k(s(t) - t_j) \, df_j + (I + Du(s(t))) \, ds(t)

    Parameters
    ----------
    first, second : ndarray
        As given to `compose_grids`.
    d_first, d_second : ndarray or None
        Tangents: shapes and dtypes of `first` and `second`. None is zero.
    align_corners, padding_mode, coords
        As given to `compose_grids`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `compose_grids_vjp`.

    Returns
    -------
    d_grid : ndarray
        Shape and dtype of ``compose_grids(first, second)``.

    Raises
    ------
    TypeError, ValueError
        As `compose_grids`.

    See Also
    --------
    compose_grids

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grid = pystn.affine_grid(np.array([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]]), (4, 4))
    >>> moved = pystn.compose_grids_jvp(grid, grid, None, np.ones_like(grid))
    >>> bool((moved == 0.5).all())
    True
    """
    backend = backend_of({"first": first, "second": second}, {"d_first": d_first, "d_second": d_second})
    options = check_composition(first, second, align_corners, padding_mode, coords, subgradient)
    for name, tangent, primal in (("d_first", d_first, first), ("d_second", d_second, second)):
        if tangent is not None:
            check_like(name, tangent, primal.shape, primal.dtype, name[2:])
    displacements = subtract_lattice(backend.xp, first, options.align_corners, coords)
    none: list[Array | None] = [None] * first.shape[-1]
    d_grid, _ = backend.grid_sample_jvp(displacements, second, d_first, d_second, None, none, options, False, None)
    if d_second is not None:
        d_grid += d_second
    return d_grid


def compose_grids_vjp2(
    gg_first: Array | None,
    gg_second: Array | None,
    grad_grid: Array,
    first: Array,
    second: Array,
    align_corners: bool = False,
    padding_mode: str = "border",
    *,
    coords: str = "normalized",
    subgradient: str = "right",
    wrt: str | Sequence[str] = ("grad_grid", "first", "second"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `compose_grids_vjp`.

    With cotangents :math:`\bar{\bar f}`, :math:`\bar{\bar s}` of the two gradients and g that of the grid,

    .. math::
        \bar g &= \mathrm{jvp}(\bar{\bar f}, \bar{\bar s}) \\
        \bar f_j &= \sum_t \bigl(Dk(s(t) - t_j) \, \bar{\bar s}(t)\bigr) \, g(t) \\
        \bar s(t) &= D\bar{\bar f}(s(t))^T \, g(t) + D^2 \langle g(t), u \rangle (s(t)) \, \bar{\bar s}(t)

    with u the displacements of the first, :math:`\bar{\bar f}` interpolated as they are.

    Parameters
    ----------
    gg_first, gg_second : ndarray or None
        Cotangents of grad_first and grad_second: shapes and dtypes of `first` and `second`. None is zero.
    grad_grid, first, second, align_corners, padding_mode, coords, subgradient
        As given to `compose_grids_vjp`.
    wrt : sequence of {"grad_grid", "first", "second"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_grid, grad_first, grad_second : ndarray or None
        Shapes and dtypes of `grad_grid`, `first` and `second`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `compose_grids_vjp`.

    See Also
    --------
    compose_grids_vjp, compose_grids_jvp

    Notes
    -----
    As in `grid_sample_vjp2`, the second derivative of linear interpolation is 0 along an axis.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> first, second = np.array([[[0.0], [1.0]]]), np.array([[[0.5]]])
    >>> one = np.ones_like(second)
    >>> _, grad_first, _ = pystn.compose_grids_vjp2(None, one, one, first, second, coords="pixel")
    >>> grad_first  # of the slope between the two pixels
    array([[[-1.],
            [ 1.]]])
    """
    arrays = {"grad_grid": grad_grid, "first": first, "second": second}
    backend = backend_of(arrays, {"gg_first": gg_first, "gg_second": gg_second})
    options = check_composition(first, second, align_corners, padding_mode, coords, subgradient)
    wanted = check_wrt(wrt, ("grad_grid", "first", "second"))
    check_like("grad_grid", grad_grid, sample_shape(first, second, options), first.dtype, "the grid")
    for name, cotangent, primal in (("first", gg_first, first), ("second", gg_second, second)):
        if cotangent is not None:
            check_like(f"gg_{name}", cotangent, primal.shape, primal.dtype, name)
    displacements = subtract_lattice(backend.xp, first, options.align_corners, coords)
    # The second is added to what is sampled, which has no second derivative of its own.
    to_grid, _, to_first, to_second = backend.grid_sample_vjp2(
        gg_first, gg_second, grad_grid, None, displacements, second, options, wanted
    )
    if to_grid is not None and gg_second is not None:
        to_grid += gg_second
    return to_grid, to_first, to_second
