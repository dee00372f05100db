"""Matrix exponential and logarithm, and their exact derivatives.

Kernels make the exponential, and carry tangents for its derivatives. The derivative of a matrix function f along E is
also a block of f of a larger matrix (Najfeld and Havel, 1995; Higham, Functions of Matrices, 2008, theorem 3.6), which
those of the logarithm are made of:

    f([[X, E], [0, X]]) = [[f(X), L(X, E)], [0, f(X)]]

and its adjoint is the derivative at the transpose. That of L(X, E) along F is a block of L of this larger matrix along
[[F, 0], [0, F]] (Higham and Relton, 2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pystn.backends import Operations, backend_of
from pystn.matrices.linear_algebra import homogeneous, inverse, where_finite
from pystn.typing import Array
from pystn.validation import check_entries, check_like, check_square_or_affine, check_wrt

__all__ = ["expm", "expm_jvp", "expm_vjp", "expm_vjp2", "logm", "logm_jvp", "logm_vjp", "logm_vjp2"]

# Of a function of square matrices, at these along a direction; or how it moves if they move by one more.
Derivative = Callable[[Operations, Any, Any, Any], Any]

# The Pade approximant of log(1 + x) of degree 16, by partial fractions, is exact to float64 for 1-norms up to this
# (Higham, 2001).
LOG_RADIUS = 0.749
LOG_NODES, LOG_WEIGHTS = np.polynomial.legendre.leggauss(16)

MOST_ROOTS = 64
MOST_STEPS = 100
# An eigenvalue at a smaller angle to the negative axis counts as on it: double ones are no more certain.
NEXT_TO_AXIS = float(np.sqrt(np.finfo(np.float64).eps))
LARGEST_RESIDUAL = 1e-6


def norm(xp: Any, matrix: Any) -> Any:
    """1-norms, (..., 1, 1)."""
    return xp.abs(matrix).sum(axis=-2, keepdims=True).max(axis=-1, keepdims=True)


def expm_along(backend: Operations, x: Any, along: Any, then: Any = None) -> Any:
    return backend.exponential(x, along, then)


def logarithm(backend: Operations, a: Any) -> Any:
    """Of square matrices; NaN of those that are not finite."""
    if not a.size:
        return a
    finite, a = where_finite(backend.xp, a)
    return backend.xp.where(finite, finite_logarithm(backend.xp, a), np.nan)


def finite_logarithm(xp: Any, a: Any) -> Any:
    """Inverse scaling and squaring, each matrix by as many square roots as it needs."""
    identity = xp.eye(a.shape[-1])
    roots = xp.zeros((*a.shape[:-2], 1, 1), dtype=int)
    for _ in range(MOST_ROOTS):
        far = norm(xp, a - identity) > LOG_RADIUS
        if not far.any():  # waits for the device
            break
        a = xp.where(far, square_root(xp, xp.where(far, a, identity)), a)
        roots = roots + far
    x = (a - identity)[..., None, :, :]
    nodes, weights = (xp.asarray(values)[:, None, None] for values in ((LOG_NODES + 1) / 2, LOG_WEIGHTS / 2))
    terms = xp.linalg.solve(identity + nodes * x, weights * x)
    return xp.ldexp(terms.sum(axis=-3), roots)


def square_root(xp: Any, a: Any) -> Any:
    """Iteration of Denman and Beavers (1976), Newton's for the pair of A^(1/2) and its inverse; NaN if it fails."""
    pair = xp.stack([a, xp.broadcast_to(xp.eye(a.shape[-1]), a.shape)])
    done = xp.zeros((*a.shape[:-2], 1, 1), dtype=bool)
    for _ in range(MOST_STEPS):
        moved = (pair + inverse(xp, pair[::-1])) / 2
        change = norm(xp, moved[0] - pair[0])
        pair = xp.where(done, pair, moved)
        # Steps square the error. No step leads back from a NaN.
        done = done | ~(change > 1e-9 * norm(xp, moved[0]))
        if done.all():  # waits for the device
            break
    return xp.where(done, pair[0], np.nan)


def logm_along(backend: Operations, a: Any, along: Any, then: Any = None) -> Any:
    """Linear in `along`, which is scaled lest it decide how `a` is treated."""
    xp, n = backend.xp, a.shape[-1]
    size = scale_of(xp, along)
    larger = triangular(xp, a, along / size)
    if then is None:
        moved = logarithm(backend, larger)
    else:
        moved = logm_along(backend, larger, triangular(xp, then, xp.zeros_like(then)))
    return moved[..., :n, n:] * size


def scale_of(xp: Any, along: Any) -> Any:
    size = norm(xp, along)
    return xp.where(size == 0, 1.0, size)


def triangular(xp: Any, x: Any, corner: Any) -> Any:
    """[[x, corner], [0, x]]"""
    upper, lower = xp.concatenate([x, corner], axis=-1), xp.concatenate([xp.zeros_like(x), x], axis=-1)
    return xp.concatenate([upper, lower], axis=-2)


def checked(name: str, matrix: Array, corner: float, others: dict[str, Array | None]) -> tuple[Operations, Any]:
    """The backend, and matrices (..., n, n) or (..., n, n + 1) as square ones in float64."""
    backend = backend_of({name: matrix}, others)
    check_square_or_affine(name, matrix)
    return backend, homogeneous(backend.xp, matrix.astype(np.float64), corner)


def principal_logarithm(backend: Operations, matrix: Array, square: Any) -> Any:
    """The logarithm of square matrices; raises for the first of `matrix` that has none."""
    if not square.size:
        return square
    xp, n = backend.xp, matrix.shape[-2]
    linear = where_finite(xp, square[..., :n, :n])[1]
    # On the host, as CuPy would take the matrices one by one; the errors have to wait for the device in any case.
    values = np.linalg.eigvals(linear if xp is np else xp.asnumpy(linear))
    size = np.abs(values)
    zero = size <= n * np.finfo(matrix.dtype).eps * size.max(axis=-1, keepdims=True)
    negative = (values.real < 0) & (np.abs(values.imag) <= NEXT_TO_AXIS * size)
    what = "has no principal logarithm, expected eigenvalues that are not 0 or negative, to rounding"
    check_entries("matrix", matrix, (zero | negative).any(axis=-1), what)
    with np.errstate(all="ignore"):
        generator = logarithm(backend, square)
        # Multiple eigenvalues that rounding has moved off the axis show here.
        back = norm(xp, backend.exponential(generator) - square)
        wrong = where_finite(xp, square)[0] & ~(back <= LARGEST_RESIDUAL * norm(xp, square))
    check_entries("matrix", matrix, wrong[..., 0, 0], what)
    return generator


def result(xp: Any, square: Any, like: Array) -> Array:
    """The rows that `like` has, in its dtype."""
    with np.errstate(all="ignore"):
        rows: Array = xp.array(square[..., : like.shape[-2], :], dtype=like.dtype, order="C")
    return rows


def check_tangent(name: str, tangent: Array | None, primal: Array, of: str) -> None:
    if tangent is not None:
        check_like(name, tangent, primal.shape, primal.dtype, of)


def pulled(backend: Operations, derivative: Derivative, x: Any, cotangent: Array, primal: Array) -> Array:
    """The adjoint of the derivative is that at the transpose."""
    xp = backend.xp
    along = homogeneous(xp, cotangent.astype(np.float64), 0.0)
    with np.errstate(all="ignore"):
        return result(xp, derivative(backend, xp.swapaxes(x, -1, -2), along, None), primal)


def pushed(backend: Operations, derivative: Derivative, x: Any, tangent: Array | None, primal: Array) -> Array:
    xp = backend.xp
    if tangent is None:
        return result(xp, xp.zeros_like(x), primal)
    along = homogeneous(xp, tangent.astype(np.float64), 0.0)
    with np.errstate(all="ignore"):
        return result(xp, derivative(backend, x, along, None), primal)


def pulled_twice(
    backend: Operations, derivative: Derivative, x: Any, moved: Array | None, cotangent: Array, primal: Array
) -> Array:
    """How `pulled` moves with the primal, which moves by `moved`."""
    xp = backend.xp
    if moved is None:
        return result(xp, xp.zeros_like(x), primal)
    along, then = (homogeneous(xp, array.astype(np.float64), 0.0) for array in (cotangent, moved))
    transposed, then = (xp.swapaxes(matrix, -1, -2) for matrix in (x, then))
    with np.errstate(all="ignore"):
        return result(xp, derivative(backend, transposed, along, then), primal)


def expm(generator: Array) -> Array:
    r"""Exponential of matrices: from a generator to the transform that its flow reaches at time 1.

    .. math:: e^X = \sum_k X^k / k!

    Scaling and squaring with the Pade approximant of degree 13 (Higham, 2005), in float64. Made for many matrices of
    few rows, as transforms have: each is one lane's or thread's.

    Parameters
    ----------
    generator : ndarray, shape (..., n, n) or (..., n, n + 1)
        float32 or float64. Affine ones, (..., n, n + 1), stand for square ones with a last row of zeros.

    Returns
    -------
    matrix : ndarray
        Shape and dtype of `generator`; affine ones stand for square ones with a last row (0, ..., 0, 1).
        NaN where a generator is not finite; inf or NaN where its exponential overflows.

    Raises
    ------
    TypeError
        If `generator` is no NumPy array of float32 or float64.
    ValueError
        If its shape does not fit.

    See Also
    --------
    expm_vjp, expm_jvp, expm_vjp2 : its derivatives.
    logm : its inverse.
    lie_generator : generators of the usual groups.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.expm(np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.25]]))
    array([[1.  , 0.  , 0.5 ],
           [0.  , 1.  , 0.25]])
    """
    backend, x = checked("generator", generator, 0.0, {})
    with np.errstate(all="ignore"):
        return result(backend.xp, backend.exponential(x), generator)


def expm_vjp(grad_matrix: Array, generator: Array) -> tuple[Array]:
    r"""Vector-Jacobian product of `expm`.

    .. math::

        \bar X = \text{the upper right block of } \exp
        \begin{pmatrix} X^T & \bar M \\ 0 & X^T \end{pmatrix}

    (Najfeld and Havel, 1995), exact to rounding.

    Parameters
    ----------
    grad_matrix : ndarray
        Cotangent: shape and dtype of `generator`.
    generator : ndarray, shape (..., n, n) or (..., n, n + 1)
        As given to `expm`.

    Returns
    -------
    (grad_generator,) : tuple of one ndarray
        Shape and dtype of `generator`.

    Raises
    ------
    TypeError, ValueError
        As `expm`, and if `grad_matrix` does not fit.

    See Also
    --------
    expm

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_generator, = pystn.expm_vjp(np.ones((2, 2)), np.array([[0.0, 1.0], [0.0, 0.0]]))
    >>> grad_generator.round(4)
    array([[1.5   , 1.    ],
           [2.1667, 1.5   ]])
    """
    backend, x = checked("generator", generator, 0.0, {"grad_matrix": grad_matrix})
    check_like("grad_matrix", grad_matrix, generator.shape, generator.dtype, "the matrices")
    return (pulled(backend, expm_along, x, grad_matrix, generator),)


def expm_jvp(generator: Array, d_generator: Array | None) -> Array:
    r"""Jacobian-vector product of `expm`: its Frechet derivative.

    .. math::

        dM = \text{the upper right block of } \exp \begin{pmatrix} X & dX \\ 0 & X \end{pmatrix}

    Parameters
    ----------
    generator : ndarray, shape (..., n, n) or (..., n, n + 1)
        As given to `expm`.
    d_generator : ndarray or None
        Tangent, of the shape and dtype of `generator`; None is zero.

    Returns
    -------
    d_matrix : ndarray
        Shape and dtype of `generator`.

    Raises
    ------
    TypeError, ValueError
        As `expm`, and if `d_generator` does not fit.

    See Also
    --------
    expm

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.expm_jvp(np.array([[0.0, 1.0], [0.0, 0.0]]), np.ones((2, 2))).round(4)
    array([[1.5   , 2.1667],
           [1.    , 1.5   ]])
    """
    backend, x = checked("generator", generator, 0.0, {"d_generator": d_generator})
    check_tangent("d_generator", d_generator, generator, "generator")
    return pushed(backend, expm_along, x, d_generator, generator)


def expm_vjp2(
    gg_generator: Array | None,
    grad_matrix: Array,
    generator: Array,
    *,
    wrt: Sequence[str] = ("grad_matrix", "generator"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `expm_vjp`.

    With the cotangent G of its gradient, :math:`\bar{\bar M} = \mathrm{jvp}(G)` and

    .. math::

        \bar{\bar X} = \text{the upper right block of } \exp
        \begin{pmatrix} Y & \bar M & G^T & 0 \\ & Y & 0 & G^T \\ & & Y & \bar M \\ & & & Y \end{pmatrix},
        \quad Y = X^T

    (Higham and Relton, Higher order Frechet derivatives of matrix functions, 2014), exact to rounding.

    Parameters
    ----------
    gg_generator : ndarray or None
        Cotangent of grad_generator: shape and dtype of `generator`. None is zero.
    grad_matrix, generator
        As given to `expm_vjp`.
    wrt : sequence of {"grad_matrix", "generator"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_matrix, grad_generator : ndarray or None
        Shape and dtype of `generator`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `expm_vjp`, and if `gg_generator` or `wrt` does not fit.

    See Also
    --------
    expm_vjp, expm_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> one = np.ones((1, 1))
    >>> _, grad_generator = pystn.expm_vjp2(2 * one, 3 * one, 0 * one)
    >>> grad_generator
    array([[6.]])
    """
    given = {"grad_matrix": grad_matrix, "gg_generator": gg_generator}
    backend, x = checked("generator", generator, 0.0, given)
    check_like("grad_matrix", grad_matrix, generator.shape, generator.dtype, "the matrices")
    check_tangent("gg_generator", gg_generator, generator, "generator")
    to_grad, to_generator = check_wrt(wrt, ("grad_matrix", "generator"))
    return (
        pushed(backend, expm_along, x, gg_generator, generator) if to_grad else None,
        pulled_twice(backend, expm_along, x, gg_generator, grad_matrix, generator) if to_generator else None,
    )


def logm(matrix: Array) -> Array:
    r"""Principal logarithm of matrices: the generator X with :math:`e^X = M`.

    The one whose eigenvalues have imaginary parts between :math:`-\pi` and :math:`\pi`. Inverse
    scaling and squaring: square roots by the iteration of Denman and Beavers (1976), then the Pade approximant of
    degree 16 (Higham, 2001), in float64.

    Parameters
    ----------
    matrix : ndarray, shape (..., n, n) or (..., n, n + 1)
        float32 or float64. Affine ones, (..., n, n + 1), stand for square ones with a last row
        (0, ..., 0, 1).

    Returns
    -------
    generator : ndarray
        Shape and dtype of `matrix`; affine ones stand for square ones with a last row of zeros. NaN where
        a matrix is not finite.

    Raises
    ------
    TypeError
        If `matrix` is no NumPy array of float32 or float64.
    ValueError
        If its shape does not fit, or one of the matrices, which is named, has no principal logarithm:
        an eigenvalue is 0 (less than n epsilon times the largest) or negative (to an angle of 1.5e-8, or
        so nearly that the exponential of the logarithm is not the matrix).

    See Also
    --------
    logm_vjp, logm_jvp, logm_vjp2 : its derivatives.
    expm : its inverse.
    lie_parameters : parameters of a generator.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.logm(np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.25]]))
    array([[0.  , 0.  , 0.5 ],
           [0.  , 0.  , 0.25]])
    """
    backend, a = checked("matrix", matrix, 1.0, {})
    return result(backend.xp, principal_logarithm(backend, matrix, a), matrix)


def logm_vjp(grad_generator: Array, matrix: Array) -> tuple[Array]:
    r"""Vector-Jacobian product of `logm`.

    .. math::

        \bar M = \text{the upper right block of } \log
        \begin{pmatrix} M^T & \bar X \\ 0 & M^T \end{pmatrix}

    Parameters
    ----------
    grad_generator : ndarray
        Cotangent: shape and dtype of `matrix`.
    matrix : ndarray, shape (..., n, n) or (..., n, n + 1)
        As given to `logm`.

    Returns
    -------
    (grad_matrix,) : tuple of one ndarray
        Shape and dtype of `matrix`.

    Raises
    ------
    TypeError, ValueError
        As `logm`, and if `grad_generator` does not fit.

    See Also
    --------
    logm

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_matrix, = pystn.logm_vjp(np.ones((2, 2)), np.diag([1.0, 2.0]))
    >>> grad_matrix.round(4)
    array([[1.    , 0.6931],
           [0.6931, 0.5   ]])
    """
    backend, a = checked("matrix", matrix, 1.0, {"grad_generator": grad_generator})
    check_like("grad_generator", grad_generator, matrix.shape, matrix.dtype, "the generators")
    principal_logarithm(backend, matrix, a)  # raises
    return (pulled(backend, logm_along, a, grad_generator, matrix),)


def logm_jvp(matrix: Array, d_matrix: Array | None) -> Array:
    r"""Jacobian-vector product of `logm`: its Frechet derivative.

    .. math::

        dX = \text{the upper right block of } \log \begin{pmatrix} M & dM \\ 0 & M \end{pmatrix}

    Parameters
    ----------
    matrix : ndarray, shape (..., n, n) or (..., n, n + 1)
        As given to `logm`.
    d_matrix : ndarray or None
        Tangent, of the shape and dtype of `matrix`; None is zero.

    Returns
    -------
    d_generator : ndarray
        Shape and dtype of `matrix`.

    Raises
    ------
    TypeError, ValueError
        As `logm`, and if `d_matrix` does not fit.

    See Also
    --------
    logm

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.logm_jvp(np.diag([1.0, 2.0]), np.ones((2, 2))).round(4)
    array([[1.    , 0.6931],
           [0.6931, 0.5   ]])
    """
    backend, a = checked("matrix", matrix, 1.0, {"d_matrix": d_matrix})
    check_tangent("d_matrix", d_matrix, matrix, "matrix")
    principal_logarithm(backend, matrix, a)  # raises
    return pushed(backend, logm_along, a, d_matrix, matrix)


def logm_vjp2(
    gg_matrix: Array | None,
    grad_generator: Array,
    matrix: Array,
    *,
    wrt: Sequence[str] = ("grad_generator", "matrix"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `logm_vjp`.

    With the cotangent G of its gradient, :math:`\bar{\bar X} = \mathrm{jvp}(G)` and

    .. math::

        \bar{\bar M} = \text{the upper right block of } \log
        \begin{pmatrix} Y & \bar X & G^T & 0 \\ & Y & 0 & G^T \\ & & Y & \bar X \\ & & & Y \end{pmatrix},
        \quad Y = M^T

    Parameters
    ----------
    gg_matrix : ndarray or None
        Cotangent of grad_matrix: shape and dtype of `matrix`. None is zero.
    grad_generator, matrix
        As given to `logm_vjp`.
    wrt : sequence of {"grad_generator", "matrix"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_generator, grad_matrix : ndarray or None
        Shape and dtype of `matrix`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `logm_vjp`, and if `gg_matrix` or `wrt` does not fit.

    See Also
    --------
    logm_vjp, logm_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> one = np.ones((1, 1))
    >>> _, grad_matrix = pystn.logm_vjp2(2 * one, 3 * one, 2 * one)
    >>> grad_matrix.round(6)
    array([[-1.5]])
    """
    backend, a = checked("matrix", matrix, 1.0, {"grad_generator": grad_generator, "gg_matrix": gg_matrix})
    check_like("grad_generator", grad_generator, matrix.shape, matrix.dtype, "the generators")
    check_tangent("gg_matrix", gg_matrix, matrix, "matrix")
    to_grad, to_matrix = check_wrt(wrt, ("grad_generator", "matrix"))
    principal_logarithm(backend, matrix, a)  # raises
    return (
        pushed(backend, logm_along, a, gg_matrix, matrix) if to_grad else None,
        pulled_twice(backend, logm_along, a, gg_matrix, grad_generator, matrix) if to_matrix else None,
    )
