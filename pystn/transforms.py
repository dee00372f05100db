"""Transforms by matrices: how these are made of parameters, those of the identity, those that tile the plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from math import prod
from typing import Any, NamedTuple

import numpy as np

from pystn.grids.family import Family
from pystn.matrices import lie_parameters, logm
from pystn.matrices.builders import check_attention, check_similarity
from pystn.matrices.lie import GROUPS, host_basis
from pystn.options import one_of
from pystn.typing import Array
from pystn.validation import count as at_least

__all__ = ["TRANSFORMS", "MatrixTransform", "identity_params", "named", "tiled_params"]


class Kind(NamedTuple):
    """What a transform by matrices is: what makes them of parameters, and the parameters of a box."""

    steps: tuple[tuple[str, dict[str, Any]], ...]  # operations in their order; none if parameters are the entries
    box: Callable[[Any, Any], Any]  # parameters that map [-1, 1] to centre + scale * [-1, 1], both (ndim,)
    counts: dict[int, tuple[int, ...]]  # by the dimension, how many parameters there may be, the usual number first
    scales: str | None = "each"  # of boxes: "each" axis has its own, "one" is for all, None for that of the transform
    projective: bool = False

    def identity(self, ndim: int) -> np.ndarray[Any, Any]:
        return np.asarray(self.box(np.zeros(ndim), np.ones(ndim)), np.float64)


def still(centre: Any) -> Any:
    """Parameters of no rotation, in as many dimensions as the centre has."""
    return np.zeros(len(centre) * (len(centre) - 1) // 2)


def attention(scale: str | float = "isotropic") -> Kind:
    check_attention(np.zeros(2), scale)  # two parameters may be of any scale
    steps = (("attention_matrix", {"scale": scale}),)
    if scale == "isotropic":
        return Kind(steps, lambda centre, size: np.r_[size[0], centre], {1: (2,), 2: (3,), 3: (4,)}, "one")
    if scale == "anisotropic":
        return Kind(steps, lambda centre, size: np.r_[size, centre], {1: (2,), 2: (4,), 3: (6,)})
    return Kind(steps, lambda centre, size: centre, {1: (1,), 2: (2,), 3: (3,)}, None)


def similarity(form: str = "angle") -> Kind:
    check_similarity(np.zeros(4), form)
    boxes = {
        "angle": lambda centre, scale: np.r_[still(centre), scale[0], centre],
        "linear": lambda centre, scale: np.r_[scale[0] - 1, 0, centre],
        "log2": lambda centre, scale: np.r_[still(centre), np.log2(scale[0]), centre / scale],
    }
    counts: dict[int, tuple[int, ...]] = {2: (4,)} if form == "linear" else {2: (4,), 3: (7, 8)}
    return Kind((("similarity_matrix", {"form": form}),), boxes[form], counts, "one")


def exponential(group: str) -> Kind:
    one_of("group", group, GROUPS)
    _, columns, count = host_basis(group).shape
    projective = group == "sl3"

    def box(centre: Any, scale: Any) -> Any:
        matrix = np.c_[np.diag(scale), centre]
        if projective:  # of determinant 1
            matrix = np.r_[matrix, [[0, 0, 1]]] / prod(scale) ** (1 / 3)
        return lie_parameters(logm(matrix), group)

    scales = {"se": None, "sim": "one"}.get(group[:-1], "each")
    return Kind((("lie_generator", {"group": group}), ("expm", {})), box, {columns - 1: (count,)}, scales, projective)


# In three dimensions rotations may be quaternions, of one number more.
KINDS: dict[str, Callable[..., Kind]] = {
    "translation": lambda: Kind(
        (("translation_matrix", {}),), lambda centre, scale: centre, {1: (1,), 2: (2,), 3: (3,)}, None
    ),
    "attention": attention,
    "rotation": lambda: Kind(
        (("rotation_matrix", {}),), lambda centre, scale: still(centre), {2: (1,), 3: (3, 4)}, None
    ),
    "rigid": lambda: Kind(
        (("rigid_matrix", {}),), lambda centre, scale: np.r_[still(centre), centre], {2: (3,), 3: (6, 7)}, None
    ),
    "similarity": similarity,
    "affine": lambda: Kind(
        (), lambda centre, scale: np.c_[np.diag(scale), centre].ravel(), {1: (2,), 2: (6,), 3: (12,)}
    ),
    "projective": lambda: Kind(
        (("projective_matrix", {}),),
        lambda centre, scale: np.r_[np.c_[np.diag(scale), centre].ravel(), 0, 0],
        {2: (8,)},
        projective=True,
    ),
    "exponential": exponential,
}


class MatrixTransform:
    """Transform by matrices, with options: what the systems take where a name says too little.

    Parameters
    ----------
    name : str
        "translation", "attention", "rotation", "rigid", "similarity", "affine" or "projective", as the systems take
        them; or "exponential": coordinates in a Lie algebra, ``expm(lie_generator(params, group))``, of which zeros are
        the identity.
    **options
        For "attention" `scale`, of `attention_matrix`: "anisotropic", or a number that is fixed. For "similarity"
        `form`, of `similarity_matrix`. For "exponential" `group`, of `lie_generator`; it has no default.

    Attributes
    ----------
    name : str
    options : dict

    Raises
    ------
    TypeError
        If an option is not of that kind, or missing.
    ValueError
        If there is no such transform, or an option is not among its values.

    See Also
    --------
    SpatialTransformer
    identity_params, tiled_params : parameters to start from.

    Examples
    --------
    Windows of half the size of the input, wherever a network says (Jaderberg et al., 2015, section 4.3):

    >>> import numpy as np
    >>> import pystn
    >>> window = pystn.MatrixTransform("attention", scale=0.5)
    >>> image = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> pystn.SpatialTransformer(lambda image: np.array([[0.5, -0.5]]), window, (2, 2))(image)
    array([[[[2., 3.],
             [6., 7.]]]])

    Similarities that are invertible wherever training leads:

    >>> pystn.identity_params(pystn.MatrixTransform("exponential", group="sim2"))
    array([0., 0., 0., 0.])
    """

    def __init__(self, name: str, **options: Any) -> None:
        one_of("transform", name, tuple(KINDS))
        try:
            signature(KINDS[name]).bind(**options)
        except TypeError as error:
            raise TypeError(f"transform {name!r}: {error}") from None
        self.name, self.options = name, options
        self.kind = KINDS[name](**options)

    def __repr__(self) -> str:
        return f"MatrixTransform({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.options.items())])})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(MatrixTransform, self.name, **self.options), ()  # made again: a kind has functions without names


TRANSFORMS = {name: kind() for name, kind in KINDS.items() if name != "exponential"}  # those that are names alone


def named(
    transform: Any, ndim: int | None = None, others: str = ", a MatrixTransform, a family's object or a callable"
) -> Kind:
    """The kind of a transform by matrices, in `ndim` dimensions if they are known; `others` are what else there is."""
    if isinstance(transform, MatrixTransform):
        found = transform.kind
    elif isinstance(transform, str) and transform in TRANSFORMS:
        found = TRANSFORMS[transform]
    else:
        expected = ", ".join(map(repr, TRANSFORMS)) + others
        raise ValueError(f"unknown transform: expected one of {expected}, got {transform!r}")
    if ndim is not None and ndim not in found.counts:
        raise ValueError(f"there is no transform {transform!r} in {ndim} dimensions")
    return found


def identity_params(
    transform: str | MatrixTransform | Family = "affine", ndim: int = 2, dtype: Any = np.float64
) -> Array:
    """Parameters of the transform that moves nothing, where training starts.

    The last layer of a localisation network gets weights of zero and these as its bias (Jaderberg et al., 2015).

    Parameters
    ----------
    transform : str, MatrixTransform or family, default "affine"
        "translation", "attention", "rotation", "rigid", "similarity", "affine" or "projective", or one of them with
        options; or an object of a family of grids, as ``pystn.ThinPlateSpline(...)``. Of an attention whose scale is
        fixed, the window in the middle.
    ndim : {1, 2, 3}, default 2
        Number of dimensions of a transform by matrices.
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
        values = named(transform, ndim, ", a MatrixTransform or a family's object").identity(ndim)
    return np.array(values, dtype).ravel()


def tiled_params(
    count: int | Sequence[int],
    transform: str | MatrixTransform = "attention",
    ndim: int = 2,
    dtype: Any = np.float64,
) -> Array:
    """Parameters of transforms that each see a tile of the input, where training of parallel transformers starts.

    Transformers that all start at the identity get the same gradients and stay alike; Jaderberg et al. (2015, section
    4.3) and Schwöbel et al. (2022) let them start at different places.

    Parameters
    ----------
    count : int or sequence of int
        How many transforms, or how many tiles along x[, y[, z]]. A number is laid out as squarely as its divisors
        allow, the longer side along x: 4 is 2 x 2, 6 is 3 x 2, 3 is 3 x 1.
    transform : str or MatrixTransform, default "attention"
        As `identity_params` takes it, but no rotation, and no family. Those of one scale for all axes see squares that
        cover the tiles; translations, rigid transforms and attention of a fixed scale windows of their own size about
        the centres.
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
    kind = named(transform, ndim, others=" or a MatrixTransform")
    if getattr(transform, "name", transform) == "rotation":
        raise ValueError("a rotation moves no window: expected a transform with a translation, got 'rotation'")
    if isinstance(count, (tuple, list)):
        if len(count) != ndim:
            raise ValueError(f"count must be a number or one for each of {ndim} axes: got {count!r}")
        tiles = [at_least("an entry of count", n, 1) for n in count]
    else:
        tiles = squarely(at_least("count", count, 1), ndim)
    scale = 1 / np.array(tiles, float)
    if kind.scales != "each":
        scale = np.full(ndim, scale.max() if kind.scales == "one" else 1.0)
    centres = np.stack(
        np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in reversed(tiles)), indexing="ij")[::-1], axis=-1
    ).reshape(prod(tiles), ndim)
    return np.array([kind.box(centre, scale) for centre in centres], dtype)


def squarely(count: int, ndim: int) -> list[int]:
    """Factors of a number, one for each axis, as alike as they can be, the largest first."""
    if ndim == 1:
        return [count]
    sides = (n for n in range(1, count + 1) if count % n == 0)
    return min(sorted([n, *squarely(count // n, ndim - 1)], reverse=True) for n in sides)
