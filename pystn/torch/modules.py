"""The systems as modules, whose networks are modules too, and how the last layers of these begin."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pystn.grids.family import Family
from pystn.systems.adapted import SYSTEMS, systems_of
from pystn.torch.operations import apply
from pystn.transforms import MatrixTransform, identity_params

__all__ = ["SYSTEMS", "initialize_identity_", "initialize_params_"]


def initialize_params_(layer: nn.Module, params: Any) -> nn.Module:
    """Make the last layer of a localisation network give the same parameters for every input.

    Its weights become zero and its bias the parameters, as many times as it has outputs for.

    Parameters
    ----------
    layer : torch.nn.Linear or the like
        With `weight` and `bias`.
    params : array_like
        As of `pystn.identity_params` and `pystn.tiled_params`.

    Returns
    -------
    torch.nn.Module
        The layer.

    Raises
    ------
    TypeError
        If the layer has no bias.
    ValueError
        If its outputs are no multiple of the parameters.

    Examples
    --------
    >>> import pystn
    >>> import torch
    >>> from pystn.torch import initialize_params_
    >>> layer = initialize_params_(torch.nn.Linear(32, 6), pystn.tiled_params((2, 1)))
    >>> layer(torch.rand(1, 32)).unflatten(-1, (2, 3)).tolist()
    [[[1.0, -0.5, 0.0], [1.0, 0.5, 0.0]]]
    """
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
        raise TypeError(f"layer must have a weight and a bias, got {layer!r}")
    values = torch.as_tensor(np.asarray(params, np.float64).ravel())
    if not values.numel() or bias.numel() % values.numel():
        raise ValueError(f"layer must have a multiple of {values.numel()} outputs, got {bias.numel()}")
    with torch.no_grad():
        weight.zero_()
        bias.copy_(values.repeat(bias.numel() // values.numel()))
    return layer


def initialize_identity_(
    layer: nn.Module, transform: str | MatrixTransform | Family = "affine", ndim: int = 2
) -> nn.Module:
    """Make the last layer of a localisation network give the identity for every input.

    Parameters
    ----------
    layer : torch.nn.Linear or the like
        With `weight` and `bias`.
    transform, ndim
        As `pystn.identity_params` takes them.

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
    return initialize_params_(layer, identity_params(transform, ndim))


class Module(nn.Module):
    """What a system is as a module."""

    transform: Any
    size: Any
    options: dict[str, Any]

    def extra_repr(self) -> str:
        own = [p.name for p in signature(type(self)).parameters.values() if p.kind is p.KEYWORD_ONLY]
        options = {name: getattr(self, name) for name in own} | self.options
        return ", ".join(
            f"{name}={value!r}" for name, value in {"transform": self.transform, "size": self.size, **options}.items()
        )


class Function(nn.Module):
    """A network that is no module, among some that are."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> Any:
        return self.function(image)


def several(self: Module, localizations: Any) -> bool:
    return isinstance(localizations, (tuple, list, nn.ModuleList))


def kept(self: Module, networks: list[Any]) -> Any:
    """Several networks, registered if any is a module."""
    if not any(isinstance(network, nn.Module) for network in networks):
        return tuple(networks)
    return nn.ModuleList(network if isinstance(network, nn.Module) else Function(network) for network in networks)


def constant(self: Module, array: Any, like: Tensor) -> Tensor:
    double = like.dtype in (torch.float64, torch.complex128)
    return torch.as_tensor(array, dtype=torch.float64 if double else torch.float32, device=like.device)


def initialized(system: type) -> Any:
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        nn.Module.__init__(self)
        system.__init__(self, *args, **options)  # type: ignore[misc]
        for k, transform in enumerate(self.transform if isinstance(self.transform, (tuple, list)) else ()):
            if isinstance(transform, nn.Module):  # one alone is registered as any attribute
                self.add_module(f"transform{k}", transform)

    return __init__


globals().update(
    systems_of(
        apply,
        torch,
        __name__,
        "as a module",
        (Module,),
        __call__=nn.Module.__call__,
        _several=several,
        _kept=kept,
        _constant=constant,
    )
)
for name, system in SYSTEMS.items():
    globals()[name].__init__ = initialized(system)
