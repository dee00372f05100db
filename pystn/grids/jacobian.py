"""How a grid scales volumes, and where it folds."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pystn.backends import backend_of
from pystn.differences import slope, slope_vjp
from pystn.grids.fields import (
    check_convention,
    check_field,
    cofactors,
    cofactors_jvp,
    determinant,
    entries,
    target_axis,
)
from pystn.typing import Array
from pystn.validation import check_like, check_wrt

__all__ = [
    "jacobian_determinant",
    "jacobian_determinant_jvp",
    "jacobian_determinant_vjp",
    "jacobian_determinant_vjp2",
]


class Differences:
    """The derivatives of grids of one shape to the coordinates of their lattice.

    An axis of one pixel has no differences: along it a grid is taken to move as its lattice does.
    """

    def __init__(self, xp: ModuleType, grid: Array, align_corners: Any, coords: Any) -> None:
        self.xp = xp
        self.ndim = check_field("grid", grid)
        aligned = check_convention(align_corners, coords)
        lengths = grid.shape[-2 : -2 - self.ndim : -1]
        self.spacings = []  # x first; None for an axis of one pixel
        for length in lengths:
            axis = target_axis(length, aligned, coords)
            self.spacings.append(float(axis[1] - axis[0]) if length > 1 else None)

    def jacobian(self, grid: Array, fixed: float = 1.0) -> Any:
        """(..., ndim, ndim): of component i along axis j."""
        columns = []
        for j, spacing in enumerate(self.spacings):
            if spacing is None:
                unit = self.xp.zeros(grid.shape, grid.dtype)
                unit[..., j] = fixed
                columns.append(unit)
            else:
                columns.append(slope(self.xp, grid, grid.ndim - 2 - j, spacing))
        return self.xp.stack(columns, axis=-1)

    def jacobian_vjp(self, grad: Array) -> Any:
        parts = [
            slope_vjp(self.xp, grad[..., j], grad.ndim - 3 - j, spacing)
            for j, spacing in enumerate(self.spacings)
            if spacing is not None
        ]
        return sum(parts, start=self.xp.zeros(grad.shape[:-1], grad.dtype))


def jacobian_determinant(grid: Array, align_corners: bool = False, *, coords: str = "normalized") -> Array:
    r"""Determinant of the derivative of a grid to its lattice: by how much it scales areas or volumes.

    .. math:: \det \frac{\partial x(t)}{\partial t}

    by central differences, one-sided at the borders. It is 1 for the identity, below 1 where the grid magnifies what
    it samples, and 0 or below where it folds.

    Parameters
    ----------
    grid : ndarray, shape (N, ..., *spatial, ndim)
        float32 or float64, any strides: coordinates (x[, y[, z]]) for each pixel of a lattice.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the lattice or their outer edges.
    coords : {"normalized", "pixel"}, default "normalized"
        Unit of the grid; pixels are those of its lattice.

    Returns
    -------
    ndarray, shape (N, ..., *spatial)
        dtype of `grid`. Along an axis of one pixel the grid is taken to move as its lattice does.

    Raises
    ------
    TypeError
        If `grid` is no NumPy array of float32 or float64, or an option of the wrong type.
    ValueError
        If the shape does not fit or an option is unknown.

    See Also
    --------
    jacobian_determinant_vjp, jacobian_determinant_jvp : its derivatives.
    StationaryVelocity, CPAB : families whose grids do not fold.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> zoom = pystn.affine_grid(np.array([[[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]]), (2, 2))
    >>> pystn.jacobian_determinant(zoom)
    array([[[0.25, 0.25],
            [0.25, 0.25]]])
    """
    xp = backend_of({"grid": grid}).xp
    jacobian = Differences(xp, grid, align_corners, coords).jacobian(grid)
    return determinant(entries(jacobian))


def jacobian_determinant_vjp(
    grad_determinant: Array, grid: Array, align_corners: bool = False, *, coords: str = "normalized"
) -> tuple[Array]:
    r"""Vector-Jacobian product of `jacobian_determinant`: the gradient to the grid.

    .. math:: \bar J = \overline{\det J} \; \mathrm{cof} J

    and from there through the transposed differences.

    Parameters
    ----------
    grad_determinant : ndarray
        Cotangent: shape and dtype of ``jacobian_determinant(grid)``.
    grid, align_corners, coords
        As given to `jacobian_determinant`.

    Returns
    -------
    (grad_grid,) : tuple of one ndarray
        Shape and dtype of `grid`.

    Raises
    ------
    TypeError, ValueError
        As `jacobian_determinant`.

    See Also
    --------
    jacobian_determinant

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grid = np.array([[-2.0, 0.0, 4.0]])[..., None]
    >>> grad_grid, = pystn.jacobian_determinant_vjp(np.ones((1, 3)), grid, coords="pixel")
    >>> grad_grid[0, :, 0]
    array([-1.5,  0. ,  1.5])
    """
    xp = backend_of({"grad_determinant": grad_determinant, "grid": grid}).xp
    differences = Differences(xp, grid, align_corners, coords)
    check_like("grad_determinant", grad_determinant, grid.shape[:-1], grid.dtype, "the determinant")
    by_entry = cofactors(xp, differences.jacobian(grid))
    return (differences.jacobian_vjp(by_entry * grad_determinant[..., None, None]),)


def jacobian_determinant_jvp(
    grid: Array, d_grid: Array | None, align_corners: bool = False, *, coords: str = "normalized"
) -> Array:
    r"""Jacobian-vector product of `jacobian_determinant`.

    .. math:: d \det J = \langle \mathrm{cof} J, dJ \rangle

    Parameters
    ----------
    grid : ndarray
        As given to `jacobian_determinant`.
    d_grid : ndarray or None
        Tangent: shape and dtype of `grid`. None is zero.
    align_corners, coords
        As given to `jacobian_determinant`.

    Returns
    -------
    d_determinant : ndarray
        Shape and dtype of ``jacobian_determinant(grid)``.

    Raises
    ------
    TypeError, ValueError
        As `jacobian_determinant`.

    See Also
    --------
    jacobian_determinant

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grid = np.array([[-2.0, 0.0, 4.0]])[..., None]
    >>> pystn.jacobian_determinant_jvp(grid, grid, coords="pixel")
    array([[2., 3., 4.]])
    """
    xp = backend_of({"grid": grid}, {"d_grid": d_grid}).xp
    differences = Differences(xp, grid, align_corners, coords)
    if d_grid is None:
        return xp.zeros(grid.shape[:-1], grid.dtype)
    check_like("d_grid", d_grid, grid.shape, grid.dtype, "grid")
    by_entry = cofactors(xp, differences.jacobian(grid))
    return (by_entry * differences.jacobian(d_grid, 0.0)).sum(axis=(-2, -1))


def jacobian_determinant_vjp2(
    gg_grid: Array | None,
    grad_determinant: Array,
    grid: Array,
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    wrt: str | Sequence[str] = ("grad_determinant", "grid"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `jacobian_determinant_vjp`.

    With P the differences of the cotangent :math:`\bar{\bar x}` of its gradient,

    .. math::
        \bar g = \langle \mathrm{cof} J, P \rangle, \qquad
        \bar J = g \; D \, \mathrm{cof}(J)[P]

    and from there through the transposed differences.

    Parameters
    ----------
    gg_grid : ndarray or None
        Cotangent of grad_grid: shape and dtype of `grid`. None is zero.
    grad_determinant, grid, align_corners, coords
        As given to `jacobian_determinant_vjp`.
    wrt : sequence of {"grad_determinant", "grid"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_determinant, grad_grid : ndarray or None
        Shapes and dtypes of `grad_determinant` and `grid`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `jacobian_determinant_vjp`.

    See Also
    --------
    jacobian_determinant_vjp, jacobian_determinant_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grid = pystn.affine_grid(np.eye(2, 3)[None], (2, 2))
    >>> to_grad, _ = pystn.jacobian_determinant_vjp2(grid, np.ones((1, 2, 2)), grid)
    >>> to_grad  # of degree 2 in the grid
    array([[[2., 2.],
            [2., 2.]]])
    """
    xp = backend_of({"grad_determinant": grad_determinant, "grid": grid}, {"gg_grid": gg_grid}).xp
    differences = Differences(xp, grid, align_corners, coords)
    check_like("grad_determinant", grad_determinant, grid.shape[:-1], grid.dtype, "the determinant")
    to_grad, to_grid = check_wrt(wrt, ("grad_determinant", "grid"))
    if gg_grid is None:
        zeros, dtype = xp.zeros, grid.dtype
        return zeros(grid.shape[:-1], dtype) if to_grad else None, zeros(grid.shape, dtype) if to_grid else None
    check_like("gg_grid", gg_grid, grid.shape, grid.dtype, "grid")
    jacobian, along = differences.jacobian(grid), differences.jacobian(gg_grid, 0.0)
    return (
        (cofactors(xp, jacobian) * along).sum(axis=(-2, -1)) if to_grad else None,
        differences.jacobian_vjp(cofactors_jvp(xp, jacobian, along) * grad_determinant[..., None, None])
        if to_grid
        else None,
    )
