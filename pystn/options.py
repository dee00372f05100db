"""The options of sampling, resolved and checked once into one frozen value.

The value travels whole to the kernels; the codes are those of the enumerations in ``src/core``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from pystn.interpolation import BY_NAME, Interpolation, Linear, Nearest

__all__ = ["SamplingOptions", "resolve"]

PADDING_MODES = ("zeros", "border", "reflection")
COORDS = ("normalized", "pixel")
SUBGRADIENTS = ("right", "left", "central", "zero")
CHANNEL_AXES = (1, -1)

MODE_CODES: dict[type[Interpolation], int] = {Nearest: 0, Linear: 1}
BOUNDARY_CODES = {"zeros": 0, "border": 1, "mirror": 2, "symmetric": 3}


@dataclass(frozen=True)
class SamplingOptions:
    """How a sampler reads coordinates and pixels: mode, boundary, conventions, layout."""

    mode: Interpolation
    padding_mode: str
    align_corners: bool
    coords: str
    subgradient: str
    channel_axis: int
    mode_code: int = field(init=False, repr=False)
    coordinates_code: int = field(init=False, repr=False)
    subgradient_code: int = field(init=False, repr=False)
    boundary_codes: tuple[int, int, int] = field(init=False, repr=False)  # x, y, z

    def __post_init__(self) -> None:
        boundary = self.padding_mode
        if boundary == "reflection":
            # About the outermost centres or edges: what -1 and 1 stand for.
            boundary = "mirror" if self.align_corners else "symmetric"
        coordinates = 2 if self.coords == "pixel" else int(self.align_corners)
        derived = {
            "mode_code": MODE_CODES[type(self.mode)],
            "coordinates_code": coordinates,
            "subgradient_code": SUBGRADIENTS.index(self.subgradient),
            "boundary_codes": (BOUNDARY_CODES[boundary],) * 3,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise unless `value` is one of `allowed`, and of its type."""
    if not any(type(value) is type(a) and value == a for a in allowed):
        expected = ", ".join(repr(a) for a in allowed)
        error = ValueError if isinstance(value, type(allowed[0])) else TypeError
        raise error(f"unknown {name}: expected one of {expected}, got {value!r}")


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def interpolation(mode: Any) -> Interpolation:
    if isinstance(mode, Interpolation) and type(mode) in MODE_CODES:
        return mode
    if isinstance(mode, str) and mode in BY_NAME:
        return BY_NAME[mode]
    names = ", ".join(repr(name) for name in BY_NAME)
    kernels = ", ".join(f"{kernel.__name__}()" for kernel in MODE_CODES)
    error = ValueError if isinstance(mode, str) else TypeError
    raise error(f"unknown mode: expected one of {names} or a kernel, {kernels}; got {mode!r}")


@lru_cache(maxsize=256, typed=True)
def _resolve(
    mode: Any, padding_mode: Any, align_corners: Any, coords: Any, subgradient: Any, channel_axis: Any
) -> SamplingOptions:
    kernel = interpolation(mode)
    one_of("padding_mode", padding_mode, PADDING_MODES)
    aligned = flag("align_corners", align_corners)
    one_of("coords", coords, COORDS)
    one_of("subgradient", subgradient, SUBGRADIENTS)
    one_of("channel_axis", channel_axis, CHANNEL_AXES)
    if coords == "pixel" and aligned:
        raise ValueError(
            "align_corners=True has no meaning with coords='pixel': "
            "it is the convention of normalized coordinates, got both"
        )
    return SamplingOptions(kernel, padding_mode, aligned, coords, subgradient, channel_axis)


def resolve(
    mode: Any, padding_mode: Any, align_corners: Any, coords: Any, subgradient: Any, channel_axis: Any
) -> SamplingOptions:
    """The options as given by a caller, checked and resolved."""
    given = (mode, padding_mode, align_corners, coords, subgradient, channel_axis)
    try:
        return _resolve(*given)
    except TypeError:
        # A list or an array is no option and cannot be looked up; the checks say so better.
        return _resolve.__wrapped__(*given)
