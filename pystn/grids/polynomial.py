"""Polynomial maps of any degree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from types import ModuleType
from typing import Any

import numpy as np

from pystn.grids.family import Family
from pystn.grids.lattice import lattice
from pystn.grids.linear import combine, combine_vjp
from pystn.typing import Array
from pystn.validation import count, spatial_size

__all__ = ["Polynomial"]


class Polynomial(Family):
    r"""Polynomial maps: each coordinate is a polynomial in those of the target.

    .. math:: x_{s,a} = \sum_{|e| \le d} \theta_{ae} \; x_t^{e_1} \, y_t^{e_2} \, z_t^{e_3}

    with all monomials of total degree up to d, which makes ``q = (d + ndim)! / (d! ndim!)`` of them (Goshtasby, Image
    registration by local approximation methods, 1988). They go by degree, and within one by
    falling powers of x, then of y: 1, x, y, x\ :sup:`2`, xy, y\ :sup:`2`, as in scikit-image.

    Parameters
    ----------
    size : sequence of int
        Spatial size of the output, of 1 to 3 axes.
    degree : int
        Of the polynomials, 1 or more; 1 makes affine maps.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the output or their outer
        edges. Give the sampler the same value.

    Attributes
    ----------
    theta_shape : tuple of int
        Shape (ndim, q) of one transform's coefficients; ``polynomial(theta)`` takes (N, ..., ndim, q).
    exponents : ndarray of int, shape (q, ndim)
        Powers of x, y, z in each monomial.
    basis : ndarray of float64, shape (1, q, *size)
        The monomials at the target: ``linear_grid(theta, polynomial.basis)`` is the grid.

    Raises
    ------
    TypeError
        If `size` or `degree` are no integers, or `align_corners` no bool.
    ValueError
        If `size` has other than 1 to 3 entries, or `degree` is below 1.

    See Also
    --------
    linear_grid : the same for any basis.
    affine_grid : degree 1.

    Examples
    --------
    >>> import pystn
    >>> polynomial = pystn.Polynomial((1, 2), degree=2)
    >>> theta = polynomial.identity()
    >>> theta[..., 0, 3] = 1.0  # x + x^2
    >>> polynomial(theta)
    array([[[[-0.25,  0.  ],
             [ 0.75,  0.  ]]]])
    >>> polynomial.vjp(polynomial(theta), theta)[0].shape
    (1, 2, 6)
    """

    degree: int
    exponents: Array
    basis: Array

    def __init__(self, size: Sequence[int], degree: int, align_corners: bool = False) -> None:
        spatial = spatial_size(size)
        exponents = monomials(count("degree", degree, 1), len(spatial))
        super().__init__(spatial, align_corners, len(spatial), (len(spatial), len(exponents)))
        target = lattice(self.size, self.align_corners)
        basis = np.stack([np.prod(target**powers, axis=-1) for powers in exponents])[None]
        self._set(degree=int(degree), exponents=exponents, basis=basis)

    def __repr__(self) -> str:
        return f"Polynomial({self.size}, degree={self.degree}, align_corners={self.align_corners})"

    def _identity(self) -> Array:
        return np.eye(self.ndim, self.theta_shape[1], k=1)

    def _grid(self, xp: ModuleType, theta: Array, out: Array | None) -> Array:
        return combine(theta, self._cast(xp, "basis", theta.dtype), out)

    def _vjp(self, xp: ModuleType, grad_grid: Array, theta: Array, wanted: tuple[bool, ...]) -> tuple[Any, ...]:
        basis = self._cast(xp, "basis", theta.dtype)
        grad_theta, _ = combine_vjp(grad_grid, theta, basis, (wanted[0], False))
        return (None if grad_theta is None else xp.ascontiguousarray(grad_theta),)

    def _jvp(self, xp: ModuleType, theta: Array, d_theta: Array) -> Array:
        return self._grid(xp, d_theta, None)


def monomials(degree: int, ndim: int) -> Array:
    """Exponents (q, ndim) of the monomials up to a degree, in their order."""
    factors = [chosen for total in range(degree + 1) for chosen in combinations_with_replacement(range(ndim), total)]
    return np.array([[chosen.count(axis) for axis in range(ndim)] for chosen in factors])
