"""Lie algebras of the usual groups of transforms: parameters to generators, and back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from pystn.kept import kept
from pystn.matrices.mapping import Mapping
from pystn.matrices.rotations import generators
from pystn.options import one_of
from pystn.typing import Array
from pystn.validation import check_length

__all__ = [
    "lie_generator",
    "lie_generator_jvp",
    "lie_generator_vjp",
    "lie_parameters",
    "lie_parameters_jvp",
    "lie_parameters_vjp",
]

GROUPS = ("se2", "sim2", "aff2", "sl3", "se3", "sim3", "aff3")
# The entries that each parameter of sl3 adds to.
SL3 = (
    {(0, 2): 1.0},
    {(0, 1): 1.0},
    {(0, 0): 1.0, (1, 1): -1.0},
    {(2, 0): 1.0},
    {(1, 2): 1.0},
    {(1, 0): 1.0},
    {(2, 2): 1.0, (1, 1): -1.0},
    {(2, 1): 1.0},
)


@lru_cache(maxsize=len(GROUPS))
def host_basis(group: str) -> Any:
    """What each parameter adds to the generator, (rows, columns, p)."""
    n = int(group[-1])
    if group == "sl3":
        basis = np.zeros((3, 3, 8))
        for k, entries in enumerate(SL3):
            for entry, value in entries.items():
                basis[(*entry, k)] = value
        return basis
    if group.startswith("aff"):
        return np.eye(n * (n + 1)).reshape(n, n + 1, -1)
    linear = generators(np, n)
    if group.startswith("sim"):
        linear = np.concatenate([linear, np.eye(n)[..., None]], axis=-1)
    turns = linear.shape[-1]
    basis = np.zeros((n, n + 1, turns + n))
    basis[:, :n, :turns] = linear
    basis[:, n, turns:] = np.eye(n)
    return basis


@kept
def bases(group: str) -> tuple[Any, Any]:
    """The basis, and its pseudo-inverse (p, rows, columns)."""
    basis = host_basis(group)
    back = np.linalg.pinv(basis.reshape(-1, basis.shape[-1])).reshape(-1, *basis.shape[:2])
    return basis, back


def generator_of(xp: Any, params: Any, group: str) -> tuple[Any, Any]:
    basis, _ = bases(xp, group)
    return (basis @ params[..., None, :, None])[..., 0], basis


def parameters_of(xp: Any, generator: Any, group: str) -> tuple[Any, Any]:
    _, back = bases(xp, group)
    return xp.einsum("kij,...ij->...k", back, generator), back


def check_params(params: Array, group: str) -> None:
    one_of("group", group, GROUPS)
    check_length("params", params, (host_basis(group).shape[-1],))


def check_generator(generator: Array, group: str) -> None:
    one_of("group", group, GROUPS)
    rows, columns, _ = host_basis(group).shape
    if generator.ndim < 2 or generator.shape[-2:] != (rows, columns):
        raise ValueError(f"generator must have shape (..., {rows}, {columns}) for {group!r}: got {generator.shape}")


GENERATOR = Mapping(generator_of, check_params, ("params",), "grad_generator", core=1)
PARAMETERS = Mapping(parameters_of, check_generator, ("generator",), "grad_params", core=2)


def lie_generator(params: Array, group: str) -> Array:
    r"""Generators of the usual groups of transforms, linear in their parameters.

    ``expm(lie_generator(params, group))`` is a transform of the group, always invertible; zeros are the
    identity.

    Parameters
    ----------
    params : ndarray, shape (..., p)
        float32 or float64; p by the group.
    group : {"se2", "sim2", "aff2", "sl3", "se3", "sim3", "aff3"}
        Rigid transforms, se2 (angle, x, y) and se3 (rotation vector, x, y, z). Similarities, sim2 (angle,
        logarithm of the scale, x, y) and sim3 (rotation vector, logarithm of the scale, x, y, z). Affine
        ones, aff2 and aff3, entries row by row, p = 6 and 12. Projective ones in 2-D, sl3, p = 8, with
        trace 0 and so determinant 1:

        .. math::

            X = \begin{pmatrix} p_3 & p_2 & p_1 \\ p_6 & -p_3 - p_7 & p_5 \\ p_4 & p_8 & p_7 \end{pmatrix}

        (in the order of the published code of ST-GAN, Lin et al., 2018).

    Returns
    -------
    generator : ndarray, shape (..., 2, 3), (..., 3, 4), or (..., 3, 3) for sl3
        dtype of `params`.

    Raises
    ------
    TypeError
        If `params` is no NumPy array of float32 or float64, or `group` no word.
    ValueError
        If the shape of `params` does not fit, or `group` is unknown.

    See Also
    --------
    lie_generator_vjp, lie_generator_jvp : its derivatives.
    lie_parameters : its inverse.
    expm : from the generator to the transform.

    Notes
    -----
    Adding parameters is not composing transforms, unless these commute: `compose` their exponentials.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.lie_generator(np.array([0.5, 1.0, 2.0]), "se2")
    array([[ 0. , -0.5,  1. ],
           [ 0.5,  0. ,  2. ]])
    """
    return GENERATOR.value(params, group=group)


def lie_generator_vjp(grad_generator: Array, params: Array, group: str) -> tuple[Array]:
    """Vector-Jacobian product of `lie_generator`.

    Parameters
    ----------
    grad_generator : ndarray
        Cotangent: shape and dtype of the generators.
    params, group
        As given to `lie_generator`.

    Returns
    -------
    (grad_params,) : tuple of one ndarray
        Shape and dtype of `params`.

    Raises
    ------
    TypeError, ValueError
        As `lie_generator`, and if `grad_generator` does not fit.

    See Also
    --------
    lie_generator

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_params, = pystn.lie_generator_vjp(np.arange(6.0).reshape(2, 3), np.zeros(3), "se2")
    >>> grad_params
    array([2., 2., 5.])
    """
    return GENERATOR.vjp(grad_generator, params, group=group)


def lie_generator_jvp(params: Array, d_params: Array | None, group: str) -> Array:
    """Jacobian-vector product of `lie_generator`: the generator of the tangent.

    Parameters
    ----------
    params, group
        As given to `lie_generator`.
    d_params : ndarray or None
        Tangent, of the shape and dtype of `params`; None is zero.

    Returns
    -------
    d_generator : ndarray
        Shape and dtype of the generators.

    Raises
    ------
    TypeError, ValueError
        As `lie_generator`, and if `d_params` does not fit.

    See Also
    --------
    lie_generator

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.lie_generator_jvp(np.zeros(3), np.array([0.5, 1.0, 2.0]), "se2")
    array([[ 0. , -0.5,  1. ],
           [ 0.5,  0. ,  2. ]])
    """
    return GENERATOR.jvp((params,), (d_params,), group=group)


def lie_parameters(generator: Array, group: str) -> Array:
    """Parameters of generators: the inverse of `lie_generator`.

    A generator that is not in the algebra, be it by rounding, is projected on it orthogonally.

    Parameters
    ----------
    generator : ndarray, shape (..., 2, 3), (..., 3, 4), or (..., 3, 3) for sl3
        float32 or float64.
    group : {"se2", "sim2", "aff2", "sl3", "se3", "sim3", "aff3"}
        As for `lie_generator`.

    Returns
    -------
    params : ndarray, shape (..., p)
        dtype of `generator`.

    Raises
    ------
    TypeError
        If `generator` is no NumPy array of float32 or float64, or `group` no word.
    ValueError
        If the shape of `generator` does not fit, or `group` is unknown.

    See Also
    --------
    lie_parameters_vjp, lie_parameters_jvp : its derivatives.
    lie_generator : its inverse.
    logm : from a transform to its generator.

    Notes
    -----
    A projective matrix has to be divided by the cube root of its determinant before `logm`: its
    generator then has trace 0.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.lie_parameters(np.array([[0.0, -0.5, 1.0], [0.5, 0.0, 2.0]]), "se2")
    array([0.5, 1. , 2. ])
    """
    return PARAMETERS.value(generator, group=group)


def lie_parameters_vjp(grad_params: Array, generator: Array, group: str) -> tuple[Array]:
    """Vector-Jacobian product of `lie_parameters`.

    Parameters
    ----------
    grad_params : ndarray, shape (..., p)
        Cotangent: shape and dtype of the parameters.
    generator, group
        As given to `lie_parameters`.

    Returns
    -------
    (grad_generator,) : tuple of one ndarray
        Shape and dtype of `generator`.

    Raises
    ------
    TypeError, ValueError
        As `lie_parameters`, and if `grad_params` does not fit.

    See Also
    --------
    lie_parameters

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_generator, = pystn.lie_parameters_vjp(np.array([1.0, 2.0, 3.0]), np.zeros((2, 3)), "se2")
    >>> grad_generator
    array([[ 0. , -0.5,  2. ],
           [ 0.5,  0. ,  3. ]])
    """
    return PARAMETERS.vjp(grad_params, generator, group=group)


def lie_parameters_jvp(generator: Array, d_generator: Array | None, group: str) -> Array:
    """Jacobian-vector product of `lie_parameters`: the parameters of the tangent.

    Parameters
    ----------
    generator, group
        As given to `lie_parameters`.
    d_generator : ndarray or None
        Tangent, of the shape and dtype of `generator`; None is zero.

    Returns
    -------
    d_params : ndarray, shape (..., p)

    Raises
    ------
    TypeError, ValueError
        As `lie_parameters`, and if `d_generator` does not fit.

    See Also
    --------
    lie_parameters

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.lie_parameters_jvp(np.zeros((2, 3)), np.array([[0.0, -0.5, 1.0], [0.5, 0.0, 2.0]]), "se2")
    array([0.5, 1. , 2. ])
    """
    return PARAMETERS.jvp((generator,), (d_generator,), group=group)
