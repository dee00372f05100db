"""The spatial transformer as a module: a localisation network, a transform, the sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pystn.grids.family import Family
from pystn.torch.operations import apply
from pystn.torch.tensors import to_tensor

__all__ = ["SpatialTransformer", "identity_parameters", "initialize_identity_"]


class Transform(NamedTuple):
    """A transform by matrices: what makes them of parameters, and the parameters of the identity."""

    build: str | None  # the operation; None where parameters are the entries of the matrix
    identity: Callable[[int], Any]
    dimensions: tuple[int, ...] = (1, 2, 3)


def turns(ndim: int) -> int:
    """Parameters of a rotation."""
    return ndim * (ndim - 1) // 2


TRANSFORMS = {
    "translation": Transform("translation_matrix", np.zeros),
    "attention": Transform("attention_matrix", lambda ndim: np.eye(1, ndim + 1)[0]),
    "rotation": Transform("rotation_matrix", lambda ndim: np.zeros(turns(ndim)), (2, 3)),
    "rigid": Transform("rigid_matrix", lambda ndim: np.zeros(turns(ndim) + ndim), (2, 3)),
    "similarity": Transform(
        "similarity_matrix", lambda ndim: np.eye(1, turns(ndim) + 1 + ndim, turns(ndim))[0], (2, 3)
    ),
    "affine": Transform(None, lambda ndim: np.eye(ndim, ndim + 1).ravel()),
    "projective": Transform("projective_matrix", lambda ndim: np.eye(3).ravel()[:8], (2,)),
}


def named(transform: Any, ndim: int) -> Transform:
    if transform not in TRANSFORMS:
        expected = ", ".join(map(repr, TRANSFORMS))
        raise ValueError(
            f"unknown transform: expected one of {expected}, a family's object or a callable, got {transform!r}"
        )
    if ndim not in TRANSFORMS[transform].dimensions:
        raise ValueError(f"there is no transform {transform!r} in {ndim} dimensions")
    return TRANSFORMS[transform]


def identity_parameters(transform: str | Family = "affine", ndim: int = 2) -> Tensor:
    """Parameters of the transform that moves nothing, where training starts.

    Parameters
    ----------
    transform : str or family
        As `SpatialTransformer` takes it.
    ndim : {1, 2, 3}, default 2
        Number of dimensions of a named transform.

    Returns
    -------
    Tensor, shape (p,)
        float64, flat.

    Raises
    ------
    ValueError
        If there is no such transform.

    Examples
    --------
    >>> from pystn.torch import identity_parameters
    >>> identity_parameters("similarity")
    tensor([0., 1., 0., 0.], dtype=torch.float64)
    """
    values = transform.identity()[0].ravel() if isinstance(transform, Family) else named(transform, ndim).identity(ndim)
    return to_tensor(np.array(values, np.float64))


def initialize_identity_(layer: nn.Module, transform: str | Family = "affine", ndim: int = 2) -> nn.Module:
    """Make the last layer of a localisation network give the identity for every input.

    Its weights become zero and its bias the identity's parameters, as many times as it has outputs for.

    Parameters
    ----------
    layer : torch.nn.Linear or the like
        With `weight` and `bias`.
    transform, ndim
        As `identity_parameters` takes them.

    Returns
    -------
    torch.nn.Module
        The layer.

    Raises
    ------
    TypeError
        If the layer has no bias.
    ValueError
        If its outputs are no multiple of the transform's parameters, or there is no such transform.

    Examples
    --------
    >>> import torch
    >>> from pystn.torch import initialize_identity_
    >>> layer = initialize_identity_(torch.nn.Linear(32, 6), "affine")
    >>> layer(torch.rand(1, 32)).tolist()
    [[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]]
    """
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
        raise TypeError(f"layer must have a weight and a bias, got {layer!r}")
    identity = identity_parameters(transform, ndim)
    if bias.numel() % identity.numel():
        raise ValueError(
            f"layer must have a multiple of {identity.numel()} outputs for {transform!r}, got {bias.numel()}"
        )
    with torch.no_grad():
        weight.zero_()
        bias.copy_(identity.repeat(bias.numel() // identity.numel()))
    return layer


class SpatialTransformer(nn.Module):
    """A layer that warps its input by a transform that a network reads off the input (Jaderberg et al., 2015).

    Matrices are applied by the fused warps, which never store a grid.

    Parameters
    ----------
    localization : torch.nn.Module or callable
        Makes the transform's parameters of the input: (N, p), or (N, ..., p) for several transforms of each input;
        the output is then (N, C, ..., *size).
    transform : str, family of grids or callable, default "affine"
        What the parameters are of. "translation", "attention" (one scale), "rotation", "rigid", "similarity", "affine"
        (the entries of the matrix, row by row) or "projective"; an object as ``pystn.ThinPlateSpline(...)``, whose
        parameters may be flat; or a function of the parameters that returns a grid (N, ..., ndim).
    size : sequence of int, optional
        Spatial size of the output. Default the input's; a family has its own.
    **options
        Those of the sampler: `mode`, `padding_mode`, `align_corners`, ...

    Raises
    ------
    ValueError
        If there is no such transform, or `size` or `align_corners` differ from those of the family.

    See Also
    --------
    initialize_identity_ : lets training start where the layer moves nothing.

    Examples
    --------
    >>> import torch
    >>> from pystn.torch import SpatialTransformer, initialize_identity_
    >>> last = initialize_identity_(torch.nn.Linear(32, 6))
    >>> localization = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 32), torch.nn.ReLU(), last)
    >>> transformer = SpatialTransformer(localization, padding_mode="border")
    >>> image = torch.rand(2, 1, 28, 28)
    >>> torch.allclose(transformer(image), image, atol=1e-5)
    True
    """

    def __init__(
        self,
        localization: Callable[[Tensor], Tensor],
        transform: str | Family | Callable[[Tensor], Tensor] = "affine",
        size: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(transform, Family):
            if size is not None and tuple(size) != transform.size:
                raise ValueError(f"size must be that of the family, {transform.size}, or None: got {tuple(size)}")
            if options.setdefault("align_corners", transform.align_corners) != transform.align_corners:
                raise ValueError(f"align_corners must be that of the family, {transform.align_corners}: got both")
        elif not callable(transform):
            named(transform, 2)
        self.localization = localization
        self.transform = transform
        self.size = None if size is None else tuple(size)
        self.options = options

    def forward(self, input: Tensor) -> Any:
        """Warp the input as the network says."""
        return self.warp(input, self.localization(input))

    def warp(self, input: Tensor, parameters: Tensor) -> Any:
        """Warp the input by transforms of these parameters."""
        transform, ndim = self.transform, input.ndim - 2
        if isinstance(transform, Family):
            flat = parameters.shape[-1] == math.prod(transform.theta_shape)
            theta = parameters.unflatten(-1, transform.theta_shape) if flat else parameters
            return apply("grid_sample", input, apply(transform, theta), **self.options)
        if not isinstance(transform, str):
            return apply("grid_sample", input, transform(parameters), **self.options)
        by_matrix = named(transform, ndim)
        last = self.options.get("channel_axis", 1) == -1
        size = self.size or tuple(input.shape[1:-1] if last else input.shape[2:])
        if by_matrix.build is None:
            matrices = tuple(parameters.shape[1:][-2:]) == (ndim, ndim + 1)
            theta = parameters if matrices else parameters.unflatten(-1, (ndim, ndim + 1))
        else:
            theta = apply(by_matrix.build, parameters)
        return apply(
            "warp_projective" if transform == "projective" else "warp_affine", input, theta, size, **self.options
        )

    def extra_repr(self) -> str:
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        return ", ".join([f"transform={self.transform!r}", f"size={self.size}", *options])
