"""Interpolation kernels as objects: what the option ``mode`` names.

Each is a small frozen value; its weights and slopes are in ``src/core/interpolation.hpp``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Interpolation", "Linear", "Nearest"]


@dataclass(frozen=True)
class Interpolation:
    """Base of the interpolation kernels."""


@dataclass(frozen=True)
class Nearest(Interpolation):
    """The nearest pixel; halfway between two, the one of even index, as PyTorch does.

    Piecewise constant: the gradient to the coordinates is zero.
    """


@dataclass(frozen=True)
class Linear(Interpolation):
    r"""Linear in each axis: weight :math:`\max(0, 1 - |p - i|)` for pixel :math:`i` at position :math:`p`.

    Its slope jumps at pixel centres; the option ``subgradient`` says which is taken there.
    """


BY_NAME: dict[str, Interpolation] = {
    "nearest": Nearest(),
    "linear": Linear(),
    "bilinear": Linear(),
    "trilinear": Linear(),
}
