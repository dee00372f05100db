"""Transforms by name: how many parameters they have, those of the identity, those that tile the plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from pystn.grids.family import Family
from pystn.typing import Array
from pystn.validation import count as at_least

__all__ = ["TRANSFORMS", "Transform", "identity_params", "named", "tiled_params"]


class Transform(NamedTuple):
    """A transform by matrices: what makes them of parameters, and the parameters of a box."""

    build: str | None  # the operation; None where parameters are the entries of the matrix
    box: Callable[[Any, Any], Any]  # parameters that map [-1, 1] to centre + scale * [-1, 1], both (ndim,)
    counts: dict[int, tuple[int, ...]]  # by the dimension, how many parameters there may be, the usual number first
    scales: str | None = "each"  # whether a box may have a scale on "each" axis, "one" for all, or None but 1

    def identity(self, ndim: int) -> np.ndarray[Any, Any]:
        return np.asarray(self.box(np.zeros(ndim), np.ones(ndim)), np.float64)


def still(centre: Any) -> Any:
    """Parameters of no rotation, in as many dimensions as the centre has."""
    return np.zeros(len(centre) * (len(centre) - 1) // 2)


# In three dimensions rotations may be quaternions, of one number more.
TRANSFORMS = {
    "translation": Transform(
        "translation_matrix", lambda centre, scale: centre, {1: (1,), 2: (2,), 3: (3,)}, scales=None
    ),
    "attention": Transform(
        "attention_matrix", lambda centre, scale: np.r_[scale[0], centre], {1: (2,), 2: (3,), 3: (4,)}, scales="one"
    ),
    "rotation": Transform("rotation_matrix", lambda centre, scale: still(centre), {2: (1,), 3: (3, 4)}, scales=None),
    "rigid": Transform(
        "rigid_matrix", lambda centre, scale: np.r_[still(centre), centre], {2: (3,), 3: (6, 7)}, scales=None
    ),
    "similarity": Transform(
        "similarity_matrix",
        lambda centre, scale: np.r_[still(centre), scale[0], centre],
        {2: (4,), 3: (7, 8)},
        scales="one",
    ),
    "affine": Transform(
        None, lambda centre, scale: np.c_[np.diag(scale), centre].ravel(), {1: (2,), 2: (6,), 3: (12,)}
    ),
    "projective": Transform(
        "projective_matrix", lambda centre, scale: np.r_[np.c_[np.diag(scale), centre].ravel(), 0, 0], {2: (8,)}
    ),
}


def named(transform: Any, ndim: int | None = None, others: str = ", a family's object or a callable") -> Transform:
    """The transform of that name, in `ndim` dimensions if they are known; `others` are what else it might have been."""
    if not isinstance(transform, str) or transform not in TRANSFORMS:
        expected = ", ".join(map(repr, TRANSFORMS)) + others
        raise ValueError(f"unknown transform: expected one of {expected}, got {transform!r}")
    found = TRANSFORMS[transform]
    if ndim is not None and ndim not in found.counts:
        raise ValueError(f"there is no transform {transform!r} in {ndim} dimensions")
    return found


def identity_params(transform: str | Family = "affine", ndim: int = 2, dtype: Any = np.float64) -> Array:
    """Parameters of the transform that moves nothing, where training starts.

    The last layer of a localisation network gets weights of zero and these as its bias (Jaderberg et al., 2015).

    Parameters
    ----------
    transform : str or family, default "affine"
        "translation", "attention", "rotation", "rigid", "similarity", "affine" or "projective"; or an object of a
        family of grids, as ``pystn.ThinPlateSpline(...)``.
    ndim : {1, 2, 3}, default 2
        Number of dimensions of a named transform.
    dtype : default float64

    Returns
    -------
    params : ndarray, shape (p,)
        Flat.

    Raises
    ------
    ValueError
        If there is no such transform.

    See Also
    --------
    tiled_params : several transforms that share the plane.

    Examples
    --------
    >>> import pystn
    >>> pystn.identity_params("similarity")
    array([0., 1., 0., 0.])
    """
    if isinstance(transform, Family):
        values = transform.identity()[0]
    else:
        values = named(transform, ndim, " or a family's object").identity(ndim)
    return np.array(values, dtype).ravel()


def tiled_params(
    count: int | Sequence[int], transform: str = "attention", ndim: int = 2, dtype: Any = np.float64
) -> Array:
    """Parameters of transforms that each see a tile of the input, where training of parallel transformers starts.

    Transformers that all start at the identity get the same gradients and stay alike; Jaderberg et al. (2015, section
    4.3) and Schwöbel et al. (2022) let them start at different places.

    Parameters
    ----------
    count : int or sequence of int
        How many transforms, or how many tiles along x[, y[, z]]. A number is laid out as squarely as its divisors
        allow, the longer side along x: 4 is 2 x 2, 6 is 3 x 2, 3 is 3 x 1.
    transform : str, default "attention"
        As `identity_params` takes it, but no rotation, and no family. Translations and rigid transforms see windows
        of the size of the input, about the centres of the tiles; those of one scale for all axes squares that cover
        them.
    ndim : {1, 2, 3}, default 2
    dtype : default float64

    Returns
    -------
    params : ndarray, shape (K, p)
        Tiles in the order of the input's pixels, x fastest.

    Raises
    ------
    TypeError
        If `count` is no integer.
    ValueError
        If there is no such transform, or no such tiling.

    See Also
    --------
    identity_params
    ParallelSpatialTransformer

    Examples
    --------
    >>> import pystn
    >>> pystn.tiled_params(4)
    array([[ 0.5, -0.5, -0.5],
           [ 0.5,  0.5, -0.5],
           [ 0.5, -0.5,  0.5],
           [ 0.5,  0.5,  0.5]])
    """
    by_matrix = named(transform, ndim, others="")
    if transform == "rotation":
        raise ValueError("a rotation moves no window: expected a transform with a translation, got 'rotation'")
    if isinstance(count, (tuple, list)):
        if len(count) != ndim:
            raise ValueError(f"count must be a number or one for each of {ndim} axes: got {count!r}")
        tiles = [at_least("an entry of count", n, 1) for n in count]
    else:
        tiles = squarely(at_least("count", count, 1), ndim)
    scale = 1 / np.array(tiles, float)
    if by_matrix.scales == "one":
        scale = np.full(ndim, scale.max())
    centres = np.stack(
        np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in reversed(tiles)), indexing="ij")[::-1], axis=-1
    ).reshape(prod(tiles), ndim)
    return np.array([by_matrix.box(centre, scale) for centre in centres], dtype)


def squarely(count: int, ndim: int) -> list[int]:
    """Factors of a number, one for each axis, as alike as they can be, the largest first."""
    if ndim == 1:
        return [count]
    sides = (n for n in range(1, count + 1) if count % n == 0)
    return min(sorted([n, *squarely(count // n, ndim - 1)], reverse=True) for n in sides)
