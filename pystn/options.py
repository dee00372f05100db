"""The options of sampling, resolved and checked once into one frozen value.

The value travels whole to the kernels; the codes are those of the enumerations in ``src/core``.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from pystn import antialiasing
from pystn.antialiasing import AntiAliasing
from pystn.interpolation import BY_NAME, BSpline, Interpolation, Plan, number

__all__ = ["AntiAlias", "FillValue", "Mode", "PaddingMode", "SamplingOptions", "SplineAxis", "resolve", "spline_axes"]

AntiAlias = str | AntiAliasing | None

Mode = str | Interpolation | Sequence[str | Interpolation]
PaddingMode = str | Sequence[str]
FillValue = complex | Sequence[complex] | np.ndarray[Any, Any]

# What a tap outside the image reads; a new boundary is one line here.
BOUNDARY_CODES = {"zeros": 0, "border": 1, "mirror": 2, "symmetric": 3, "wrap": 4, "constant": 5}
PADDING_MODES = ("zeros", "border", "reflection", *[name for name in BOUNDARY_CODES if name not in ("zeros", "border")])
COORDS = ("normalized", "pixel")
SUBGRADIENTS = ("right", "left", "central", "zero")
CUTOFFS = (None, "center", "edge")
CHANNEL_AXES = (1, -1)


@dataclass(frozen=True, eq=False)
class SamplingOptions:
    """How a sampler reads coordinates and pixels: modes, boundaries, conventions, layout."""

    mode: Interpolation | tuple[Interpolation, ...]
    padding_mode: str | tuple[str, ...]
    align_corners: bool
    coords: str
    subgradient: str
    channel_axis: int
    cutoff: str | None
    fill_value: Any  # a number or one per channel
    has_fill: bool
    deterministic: bool
    antialias: AntiAliasing | None = None
    coordinates_code: int = field(init=False, repr=False)
    subgradient_code: int = field(init=False, repr=False)
    cutoff_code: int = field(init=False, repr=False)
    flat: bool = field(init=False, repr=False)  # every kernel is piecewise constant
    prefilters: bool = field(init=False, repr=False)
    _codes: dict[int, tuple[tuple[Any, ...], ...]] = field(init=False, repr=False)
    # Brief calls made with these options, which a backend can do again: each takes the arrays, and
    # the size of the output where no grid gives it, and answers None if they are of another kind.
    repeats: list[Callable[..., Any]] = field(init=False, repr=False)
    # The same of gradients, which take the cotangent first, by what `check_wrt` says is wanted.
    repeated_gradients: dict[tuple[bool, ...], list[Callable[..., tuple[Any, ...] | None]]] = field(
        init=False, repr=False
    )

    def __post_init__(self) -> None:
        modes = self.mode if isinstance(self.mode, tuple) else (self.mode,)
        derived = {
            "coordinates_code": 2 if self.coords == "pixel" else int(self.align_corners),
            "subgradient_code": SUBGRADIENTS.index(self.subgradient),
            "cutoff_code": CUTOFFS.index(self.cutoff),
            "flat": all(mode.plan().taps == 1 for mode in modes),
            "prefilters": any(isinstance(mode, BSpline) and mode.prefilter and mode.order > 1 for mode in modes),
            "_codes": {},
            "repeats": [],
            "repeated_gradients": {},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @cached_property
    def plain(self) -> SamplingOptions:
        """The same without anti-aliasing."""
        return replace(self, antialias=None)

    @cached_property
    def unfiltered(self) -> SamplingOptions:
        """The same for an image that is given by its spline coefficients."""

        def without(mode: Interpolation) -> Interpolation:
            return replace(mode, prefilter=False) if isinstance(mode, BSpline) else mode

        mode = tuple(map(without, self.mode)) if isinstance(self.mode, tuple) else without(self.mode)
        return replace(self, mode=mode) if self.prefilters else self

    def modes(self, ndim: int) -> tuple[Interpolation, ...]:
        """The kernel of each spatial axis, in the order of the array's axes."""
        return self.mode if isinstance(self.mode, tuple) else (self.mode,) * ndim

    def boundaries(self, ndim: int) -> tuple[str, ...]:
        """The boundary of each spatial axis, "reflection" resolved."""
        names = self.padding_mode if isinstance(self.padding_mode, tuple) else (self.padding_mode,) * ndim
        # About the outermost centres or edges: what -1 and 1 stand for.
        reflection = "mirror" if self.align_corners else "symmetric"
        return tuple(reflection if name == "reflection" else name for name in names)

    def axis_codes(self, ndim: int) -> tuple[tuple[Any, ...], ...]:
        """Boundary and kernel of each axis as the kernels take them, x first."""
        found = self._codes.get(ndim)
        if found is None:
            plans: list[Plan] = [mode.plan() for mode in self.modes(ndim)]
            codes = [BOUNDARY_CODES[name] for name in self.boundaries(ndim)]
            found = tuple((code, *plan) for code, plan in zip(codes, plans, strict=True))[::-1]
            self._codes[ndim] = found
        return found

    def spline_axes(self, ndim: int) -> tuple[SplineAxis, ...]:
        """What the prefilter does, where there is one."""
        return tuple(
            SplineAxis(axis, mode.order, BOUNDARY_CODES[boundary])
            for axis, (mode, boundary) in enumerate(zip(self.modes(ndim), self.boundaries(ndim), strict=True))
            if isinstance(mode, BSpline) and mode.prefilter and mode.order > 1
        )


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise unless `value` is one of `allowed`, and of its type."""
    if not any(type(value) is type(a) and value == a for a in allowed):
        expected = ", ".join(repr(a) for a in allowed)
        error = ValueError if any(type(value) is type(a) for a in allowed) else TypeError
        raise error(f"unknown {name}: expected one of {expected}, got {value!r}")


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def least_denominator(min_denominator: Any, dtype: np.dtype[Any]) -> float:
    """Below which a projective map is at the horizon, for matrices of that dtype."""
    if min_denominator is None:
        return 1e-8 if dtype == np.float64 else 1e-6
    least = number("min_denominator", min_denominator)
    if least <= 0:
        raise ValueError(f"min_denominator must be positive, got {min_denominator!r}")
    return least


def interpolation(mode: Any) -> Interpolation:
    if isinstance(mode, Interpolation):
        return mode
    if isinstance(mode, str) and mode in BY_NAME:
        return BY_NAME[mode]
    names = ", ".join(repr(name) for name in BY_NAME)
    kernels = ", ".join(f"{kernel.__name__}()" for kernel in Interpolation.__subclasses__())
    error = ValueError if isinstance(mode, str) else TypeError
    raise error(f"unknown mode: expected one of {names} or a kernel, {kernels}; got {mode!r}")


def antialiased(value: Any) -> Any:
    if value is None or type(value) in AntiAliasing.__subclasses__():
        return value
    if isinstance(value, str) and value in antialiasing.BY_NAME:
        return antialiasing.BY_NAME[value]
    names = ", ".join(repr(name) for name in antialiasing.BY_NAME)
    kinds = ", ".join(f"{kind.__name__}()" for kind in AntiAliasing.__subclasses__())
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f"unknown antialias: expected None, one of {names}, or an object, {kinds}; got {value!r}")


def padding(name: Any) -> str:
    one_of("padding_mode", name, PADDING_MODES)
    return str(name)


def per_axis(value: Any, one: Any) -> Any:
    """An option that is given once or for each spatial axis."""
    if isinstance(value, (tuple, list)):
        if not 1 <= len(value) <= 3:
            raise ValueError(f"an option per axis needs 1 to 3 entries, one for each spatial axis: got {value!r}")
        return tuple(one(entry) for entry in value)
    return one(value)


@lru_cache(maxsize=256, typed=True)
def _resolve(
    mode: Any,
    padding_mode: Any,
    align_corners: Any,
    coords: Any,
    subgradient: Any,
    channel_axis: Any,
    cutoff: Any,
    fill_value: Any,
    has_fill: bool,
    deterministic: Any,
    antialias: Any,
) -> SamplingOptions:
    kernel = per_axis(mode, interpolation)
    boundary = per_axis(padding_mode, padding)
    aligned = flag("align_corners", align_corners)
    one_of("coords", coords, COORDS)
    one_of("subgradient", subgradient, SUBGRADIENTS)
    one_of("channel_axis", channel_axis, CHANNEL_AXES)
    one_of("cutoff", cutoff, CUTOFFS)
    if coords == "pixel" and aligned:
        raise ValueError(
            "align_corners=True has no meaning with coords='pixel': "
            "it is the convention of normalized coordinates, got both"
        )
    reproducible = flag("deterministic", deterministic)
    return SamplingOptions(
        kernel,
        boundary,
        aligned,
        coords,
        subgradient,
        channel_axis,
        cutoff,
        fill_value,
        has_fill,
        reproducible,
        antialiased(antialias),
    )


def resolve_fill(value: Any) -> tuple[Any, bool]:
    """The fill value, a number or an array of one per channel, and whether it is not all zero."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"fill_value must be a number or one per channel, got {value!r}")
    if isinstance(value, numbers.Complex):
        return value, bool(value != 0)
    if hasattr(value, "__cuda_array_interface__"):
        values, may_fill = value, True  # what is in it is not looked at
    else:
        try:
            values = np.array(value)
        except ValueError:
            values = np.empty(0, object)
        may_fill = bool(np.any(values != 0)) if values.dtype != object else False
    if values.dtype.kind not in "iufc" or values.ndim > 1:
        raise TypeError(
            f"fill_value must be a number or a sequence of one per channel, got {type(value).__name__} "
            f"of shape {values.shape}, dtype {values.dtype}"
        )
    return (values[()] if values.ndim == 0 else values), may_fill


def resolve(
    mode: Any,
    padding_mode: Any,
    align_corners: Any,
    coords: Any,
    subgradient: Any,
    channel_axis: Any,
    deterministic: Any,
    cutoff: Any = None,
    fill_value: Any = 0.0,
    antialias: Any = None,
) -> SamplingOptions:
    """The options as given by a caller, checked and resolved."""
    fill, has_fill = (0.0, False) if type(fill_value) is float and fill_value == 0 else resolve_fill(fill_value)
    given = (
        mode,
        padding_mode,
        align_corners,
        coords,
        subgradient,
        channel_axis,
        cutoff,
        fill,
        has_fill,
        deterministic,
        antialias,
    )
    try:
        return _resolve(*given)
    except TypeError:
        # A list or an array cannot be looked up; of options that are none the checks say so better.
        return _resolve.__wrapped__(*given)


@dataclass(frozen=True)
class SplineAxis:
    """What the spline filter does along one spatial axis."""

    axis: int  # among the spatial axes
    order: int
    boundary: int  # core Boundary


def for_each_axis(name: str, value: Any, ndim: int) -> tuple[Any, ...]:
    """One value per spatial axis, from one for all or a sequence of them."""
    if not isinstance(value, (tuple, list)):
        return (value,) * ndim
    if len(value) != ndim:
        raise ValueError(f"{name} must be one value or one per spatial axis, {ndim}: got {len(value)}, {value!r}")
    return tuple(value)


def integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def spline_axes(order: Any, padding_mode: Any, axes: Any, ndim: int) -> tuple[SplineAxis, ...]:
    """The axes to filter, those of order 0 and 1 left out: they are their own coefficients."""
    orders = tuple(integer("order", k) for k in for_each_axis("order", order, ndim))
    for k in orders:
        one_of("order", k, tuple(range(8)))
    modes = for_each_axis("padding_mode", padding_mode, ndim)
    for mode in modes:
        if mode == "reflection" and isinstance(mode, str):
            raise ValueError(
                "padding_mode 'reflection' depends on align_corners, which a filter has not: "
                "expected 'mirror' (align_corners=True) or 'symmetric' (False)"
            )
        one_of("padding_mode", mode, tuple(BOUNDARY_CODES))
    if axes is None:
        chosen = list(range(ndim))
    else:
        try:
            chosen = [integer("an entry of axes", axis) for axis in axes]
        except TypeError:
            raise TypeError(f"axes must be a sequence of integers or None, got {axes!r}") from None
        if any(not 0 <= axis < ndim for axis in chosen) or len(set(chosen)) < len(chosen):
            raise ValueError(f"axes must name spatial axes once each, 0 to {ndim - 1} here: got {axes!r}")
    return tuple(SplineAxis(a, orders[a], BOUNDARY_CODES[modes[a]]) for a in chosen if orders[a] > 1)
