"""The linear grid: parameters times a basis. Other families are instances of it, with a basis of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pystn.backends import backend_of
from pystn.options import flag, least_denominator
from pystn.perspective import Horizon, divide, divide_jvp, divide_vjp, divide_vjp2
from pystn.typing import Array
from pystn.validation import batch_of, check_basis, check_like, check_out, check_wrt

__all__ = [
    "combine",
    "combine_vjp",
    "linear_grid",
    "linear_grid_jvp",
    "linear_grid_vjp",
    "linear_grid_vjp2",
    "product",
]


def linear_grid(
    theta: Array,
    basis: Array,
    *,
    homogeneous: bool = False,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Grid that is linear in its parameters: :math:`M_\theta B`, for any basis `B`.

    .. math:: x_{s,a}(i) = \sum_k \theta_{ak} \, B_{ki}

    (Jaderberg et al., Spatial Transformer Networks, 2015, section 3.2). Of the rows (x, y, 1) of the
    target coordinates it makes the affine grid, of others splines and piecewise affine maps; and
    the basis may be learnt, as `linear_grid_vjp` has its gradient.

    Parameters
    ----------
    theta : ndarray, shape (N, ..., ndim, q)
        float32 or float64, any strides. Axes between N and the matrix make several grids an image.
    basis : ndarray, shape (N, q, ...)
        Values of q functions at the points of the target, in the dtype of `theta`, any strides. The N
        of `theta` and `basis` agree or one of them is 1.
    homogeneous : bool, default False
        Whether `theta` has ndim + 1 rows, and the last one makes the denominators of the others.
    min_denominator : float, optional
        For homogeneous coordinates: what has a denominator of less, in magnitude, is at the horizon. Its
        coordinates are NaN, which is outside of every image, and its derivatives zero. Default
        1e-8 for float64, 1e-6 for float32.
    cull_behind : bool, default False
        Whether what is behind the horizon, of a denominator that is not positive, is NaN too.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with what is
        read.

    Returns
    -------
    grid : ndarray, shape (N, ..., *points, ndim)
        With the axes `points` of `basis`, in the dtype of `theta`. The product is made with its coordinates
        first: an array as large as the result.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, their dtypes differ, or an option is of
        the wrong type.
    ValueError
        If shapes do not fit, `min_denominator` is not positive, or `out` overlaps what is read.

    See Also
    --------
    linear_grid_vjp, linear_grid_jvp, linear_grid_vjp2 : its derivatives.
    affine_grid, projective_grid, ThinPlateSpline : instances with a basis of their own.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> basis = np.array([[[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]])  # x and its square
    >>> pystn.linear_grid(np.array([[[0.5, 0.25]]]), basis)
    array([[[-0.25],
            [ 0.  ],
            [ 0.75]]])
    """
    xp = backend_of({"theta": theta, "basis": basis}, {"out": out}).xp
    shape, horizon = resolve(theta, basis, homogeneous, min_denominator, cull_behind)
    if out is not None:
        check_out("out", out, shape, theta.dtype, (theta, basis))
    if horizon is None:
        return combine(theta, basis, out)
    return divide(xp, combine(theta, basis), horizon, out)


def linear_grid_vjp(
    grad_grid: Array,
    theta: Array,
    basis: Array,
    *,
    homogeneous: bool = False,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    wrt: str | Sequence[str] = ("theta", "basis"),
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `linear_grid`: gradients to the parameters and to the basis.

    .. math::
        \bar\theta_{ak} = \sum_i \bar g_{ia} \, B_{ki}, \qquad
        \bar B_{ki} = \sum_a \theta_{ak} \, \bar g_{ia}

    summed over the batch for the one of the two that it shares.

    Parameters
    ----------
    grad_grid : ndarray
        Cotangent: shape and dtype of ``linear_grid(theta, basis)``, any strides.
    theta, basis, homogeneous, min_denominator, cull_behind
        As given to `linear_grid`.
    wrt : sequence of {"theta", "basis"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_theta, grad_basis : ndarray or None
        Shapes and dtypes of `theta` and `basis`; None where not in `wrt`. The sums of up to 1024 pixels
        next to each other run in the dtype, all others in float64.

    Raises
    ------
    TypeError, ValueError
        As `linear_grid`.

    See Also
    --------
    linear_grid

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta, basis = np.ones((1, 1, 2)), np.array([[[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]])
    >>> grad_theta, _ = pystn.linear_grid_vjp(np.ones((1, 3, 1)), theta, basis, wrt="theta")
    >>> grad_theta
    array([[[0., 2.]]])
    """
    xp = backend_of({"grad_grid": grad_grid, "theta": theta, "basis": basis}).xp
    shape, horizon = resolve(theta, basis, homogeneous, min_denominator, cull_behind)
    check_like("grad_grid", grad_grid, shape, theta.dtype, "the grid")
    wanted = check_wrt(wrt, ("theta", "basis"))
    if horizon is not None:
        grad_grid = divide_vjp(xp, grad_grid, combine(theta, basis), horizon)
    grad_theta, grad_basis = combine_vjp(grad_grid, theta, basis, wanted)
    return None if grad_theta is None else xp.ascontiguousarray(grad_theta), grad_basis


def linear_grid_jvp(
    theta: Array,
    basis: Array,
    d_theta: Array | None,
    d_basis: Array | None,
    *,
    homogeneous: bool = False,
    min_denominator: float | None = None,
    cull_behind: bool = False,
) -> Array:
    r"""Jacobian-vector product of `linear_grid`: how the grid moves with parameters and basis.

    .. math:: dx_s = d\theta \, B + \theta \, dB

    Parameters
    ----------
    theta, basis, homogeneous, min_denominator, cull_behind
        As given to `linear_grid`.
    d_theta, d_basis : ndarray or None
        Tangents: shapes and dtypes of `theta` and `basis`. None is zero.

    Returns
    -------
    d_grid : ndarray
        Shape and dtype of ``linear_grid(theta, basis)``.

    Raises
    ------
    TypeError, ValueError
        As `linear_grid`.

    See Also
    --------
    linear_grid

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta, basis = np.ones((1, 1, 2)), np.array([[[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]])
    >>> pystn.linear_grid_jvp(theta, basis, np.array([[[0.0, 0.5]]]), None)
    array([[[0.5],
            [0. ],
            [0.5]]])
    """
    xp = backend_of({"theta": theta, "basis": basis}, {"d_theta": d_theta, "d_basis": d_basis}).xp
    _, horizon = resolve(theta, basis, homogeneous, min_denominator, cull_behind)
    check_tangent("d_theta", d_theta, theta, "theta")
    check_tangent("d_basis", d_basis, basis, "basis")
    d_grid = combine_jvp(xp, theta, basis, d_theta, d_basis)
    return d_grid if horizon is None else divide_jvp(xp, combine(theta, basis), d_grid, horizon)


def linear_grid_vjp2(
    gg_theta: Array | None,
    gg_basis: Array | None,
    grad_grid: Array,
    theta: Array,
    basis: Array,
    *,
    homogeneous: bool = False,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    wrt: str | Sequence[str] = ("grad_grid", "theta", "basis"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `linear_grid_vjp`.

    With cotangents :math:`\bar{\bar\theta}`, :math:`\bar{\bar B}` of the two gradients,

    .. math::
        \bar g = \bar{\bar\theta} \, B + \theta \, \bar{\bar B}, \qquad
        \bar\theta_{ak} = \sum_i g_{ia} \, \bar{\bar B}_{ki}, \qquad
        \bar B_{ki} = \sum_a \bar{\bar\theta}_{ak} \, g_{ia}

    and for homogeneous coordinates the second derivative of their division too.

    Parameters
    ----------
    gg_theta, gg_basis : ndarray or None
        Cotangents of grad_theta and grad_basis: shapes and dtypes of these. None is zero.
    grad_grid, theta, basis
        As given to `linear_grid_vjp`.
    homogeneous, min_denominator, cull_behind
        As given to `linear_grid`.
    wrt : sequence of {"grad_grid", "theta", "basis"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_grid, grad_theta, grad_basis : ndarray or None
        Shapes and dtypes of `grad_grid`, `theta` and `basis`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `linear_grid_vjp`.

    See Also
    --------
    linear_grid_vjp, linear_grid_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta, basis = np.ones((1, 1, 1)), np.ones((1, 1, 2))
    >>> direction = np.full_like(basis, 3.0)
    >>> _, grad_theta, _ = pystn.linear_grid_vjp2(None, direction, np.ones((1, 2, 1)), theta, basis)
    >>> grad_theta
    array([[[6.]]])
    """
    arrays = {"grad_grid": grad_grid, "theta": theta, "basis": basis}
    xp = backend_of(arrays, {"gg_theta": gg_theta, "gg_basis": gg_basis}).xp
    shape, horizon = resolve(theta, basis, homogeneous, min_denominator, cull_behind)
    check_like("grad_grid", grad_grid, shape, theta.dtype, "the grid")
    check_tangent("gg_theta", gg_theta, theta, "theta")
    check_tangent("gg_basis", gg_basis, basis, "basis")
    wanted = check_wrt(wrt, ("grad_grid", "theta", "basis"))
    moved = combine_jvp(xp, theta, basis, gg_theta, gg_basis)
    terms = []
    if horizon is not None:
        product, along = combine(theta, basis), moved
        moved, bent = divide_vjp2(xp, along, grad_grid, product, horizon)
        grad_grid = divide_vjp(xp, grad_grid, product, horizon)
        terms.append(combine_vjp(bent, theta, basis, wanted[1:]))
    # The product is bilinear: the gradient to a factor is that with the other one's cotangent in its place.
    if gg_basis is not None:
        terms.append(combine_vjp(grad_grid, theta, gg_basis, (wanted[1], False)))
    if gg_theta is not None:
        terms.append(combine_vjp(grad_grid, gg_theta, basis, (False, wanted[2])))
    to_theta = total(xp, theta, [term[0] for term in terms]) if wanted[1] else None
    to_basis = total(xp, basis, [term[1] for term in terms]) if wanted[2] else None
    return moved if wanted[0] else None, to_theta, to_basis


def resolve(
    theta: Array, basis: Array, homogeneous: Any, min_denominator: Any, cull_behind: Any
) -> tuple[tuple[int, ...], Horizon | None]:
    """Check the parameters and options of a linear grid; returns the grid's shape and its horizon, if any."""
    divided = flag("homogeneous", homogeneous)
    shape = check_basis(theta, basis, divided)
    horizon = Horizon(least_denominator(min_denominator, theta.dtype), flag("cull_behind", cull_behind))
    return shape, horizon if divided else None


def check_tangent(name: str, tangent: Array | None, array: Array, of: str) -> None:
    if tangent is not None:
        check_like(name, tangent, array.shape, array.dtype, of)


def total(xp: ModuleType, like: Array, terms: list[Array | None]) -> Array:
    return sum((term for term in terms if term is not None), xp.zeros(like.shape, like.dtype))


def combine(theta: Array, basis: Array, out: Array | None = None) -> Array:
    """theta (N, *K, ndim, q) times basis (N, q, *points), coordinates last: (N, *K, *points, ndim)."""
    return backend_of({"theta": theta, "basis": basis}).linear_grid(theta, basis, out)


def combine_vjp(
    grad_grid: Array, theta: Array, basis: Array, wanted: tuple[bool, ...]
) -> tuple[Array | None, Array | None]:
    """Gradients to theta and to basis."""
    backend = backend_of({"grad_grid": grad_grid, "theta": theta, "basis": basis})
    grad_theta = backend.linear_grid_vjp(grad_grid, theta, basis) if wanted[0] else None
    grad_basis = basis_gradient(backend.xp, grad_grid, theta, basis) if wanted[1] else None
    return grad_theta, grad_basis


def basis_gradient(xp: ModuleType, grad_grid: Array, theta: Array, basis: Array) -> Array:
    _, *axes, q = theta.shape
    gradient = xp.moveaxis(grad_grid, -1, theta.ndim - 2)
    batch, groups = gradient.shape[0], basis.shape[0]  # of a shared basis there is one product for all of the batch
    rows = math.prod(axes) * (batch if groups == 1 else 1)
    factors = xp.broadcast_to(theta, (batch, *axes, q)).reshape(groups, rows, q)
    columns = gradient.reshape(groups, rows, math.prod(basis.shape[2:]))
    return product(factors.swapaxes(1, 2), columns).reshape(basis.shape)


def product(matrices: Array, columns: Array, out: Array | None = None) -> Array:
    """Matrices (N or 1, p, q) times columns (N, q, r): unlike those of BLAS, the same bits on any number of threads."""
    return combine(matrices[:, :, None], columns, None if out is None else out[..., None])[..., 0]


def combine_jvp(xp: ModuleType, theta: Array, basis: Array, d_theta: Array | None, d_basis: Array | None) -> Array:
    if d_theta is not None and d_basis is not None:
        return combine(d_theta, basis) + combine(theta, d_basis)
    if d_theta is not None:
        return combine(d_theta, basis)
    if d_basis is not None:
        return combine(theta, d_basis)
    shape = (batch_of(theta, basis), *theta.shape[1:-2], *basis.shape[2:], theta.shape[-2])
    return xp.zeros(shape, theta.dtype)
