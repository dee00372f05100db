"""Interpolation kernels as objects: what the option ``mode`` names.

Each is a small frozen value, hashable, with parameters that are numbers on the host even where images are on a GPU: an
array there raises a TypeError. Its weights and their derivatives are in ``src/core/interpolation.hpp``.
A position p reads S pixels: for even S those around the cell floor(p), for odd S those around the
nearest pixel. Below, d is the distance p - i to pixel i.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BSpline", "Cubic", "Gaussian", "Interpolation", "Lanczos", "Linear", "Nearest", "Tabulated"]

MAX_TAPS = 64  # of an axis; the kernels' tables hold no more


class Plan(NamedTuple):
    """A kernel as ``src/cpu/job.hpp`` takes it."""

    mode: int
    taps: int
    variant: int = 0
    parameter: float = 0.0
    support: float = 0.0
    table: np.ndarray[Any, Any] | None = None
    parameters: int = 0  # how many are differentiable


def check_host(name: str, value: Any, convert: str = "cupy.asnumpy") -> None:
    """Raise for an array on a device where numbers of the host are wanted; `convert` makes one of a single element."""
    if hasattr(value, "__cuda_array_interface__"):
        kind, shape = type(value), tuple(value.shape)
        argument = name.rpartition(" ")[2]  # scales, of "an entry of scales"
        raise TypeError(
            f"{name} must be on the host: got a {kind.__module__}.{kind.__qualname__} of shape {shape}; "
            f"pass {'cupy.asnumpy' if shape else convert}({argument}), which waits for the device"
        )


def check_host_numbers(name: str, values: Any) -> None:
    """The same for an array or nested sequences, entries of which may be on a device."""
    check_host(name, values)
    if isinstance(values, (list, tuple)):
        for place, value in enumerate(values):
            check_host_numbers(f"{name}[{place}]", value)


def number(name: str, value: Any) -> float:
    """A finite real number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        check_host(name, value, "float")
        raise TypeError(f"{name} must be a real number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)


def count(name: str, value: Any, least: int) -> int:
    """An integer of `least` or more."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        check_host(name, value, "int")
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be {least} or more: got {value}")
    return int(value)


def choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if isinstance(value, (bool, np.bool_, float, np.floating)) or value not in allowed:
        expected = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {expected}, got {value!r}")


@dataclass(frozen=True)
class Interpolation(ABC):
    """Base of the interpolation kernels."""

    @property
    def parameter_shape(self) -> tuple[int, ...] | None:
        """Shape of the parameters that have a gradient, None without any."""
        return None

    def with_parameters(self, values: Any) -> Interpolation:
        """The same kernel with other parameters, numbers on the host in the shape of `parameter_shape`."""
        expected = self.parameter_shape
        if expected is None:
            raise ValueError(f"{self} has no parameters that could be given: got {values!r}")
        check_host_numbers("values", values)
        values = np.asarray(values)
        if values.shape != expected:
            raise ValueError(f"the parameters of {self} have shape {expected}: got {values.shape}")
        (name, *_) = (entry.name for entry in fields(self))
        return replace(self, **{name: values if expected else float(values)})

    @abstractmethod
    def plan(self) -> Plan:
        """The kernel as the backends take it."""


@dataclass(frozen=True)
class Nearest(Interpolation):
    """The nearest pixel.

    Piecewise constant: the gradient to the coordinates is zero.

    Parameters
    ----------
    ties : {"even", "up"}, default "even"
        Halfway between two pixels: the one of even index, as PyTorch and ONNX, or floor(p + 1/2), as
        the Spatial Transformer paper and SciPy.
    """

    ties: str = "even"

    def __post_init__(self) -> None:
        choice("ties", self.ties, ("even", "up"))

    def plan(self) -> Plan:
        return Plan(0, 1, variant=int(self.ties == "up"))


@dataclass(frozen=True)
class Linear(Interpolation):
    r"""Linear in each axis: :math:`\max(0, 1 - |d|)`.

    Its slope jumps at pixel centres; the option ``subgradient`` says which is taken there.
    """

    def plan(self) -> Plan:
        return Plan(1, 2)


@dataclass(frozen=True)
class Cubic(Interpolation):
    r"""Keys' cubic convolution, four pixels an axis.

    .. math:: k(d) = \begin{cases} (a+2)|d|^3 - (a+3)|d|^2 + 1 & |d| < 1 \\
              a (|d|^3 - 5|d|^2 + 8|d| - 4) & 1 \le |d| < 2 \end{cases}

    (Keys, Cubic convolution interpolation for digital image processing, 1981).

    Parameters
    ----------
    a : float, default -0.75
        A number on the host. Differentiable. -0.75 is PyTorch's and OpenCV's, -0.5 Pillow's and scikit-image's (of a
        homography); -0.5 alone reproduces quadratics.
    """

    a: float = -0.75

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", number("a", self.a))

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return ()

    def plan(self) -> Plan:
        return Plan(2, 4, parameter=self.a, parameters=1)


@dataclass(frozen=True)
class BSpline(Interpolation):
    """The centred B-spline of an order: order + 1 pixels an axis.

    Order 0 is ``Nearest(ties="up")`` and order 1 ``Linear()``. From 2 on the spline passes through
    the pixels only if these are turned into its coefficients first.

    Parameters
    ----------
    order : int, 0 to 7
    prefilter : bool, default False
        Whether to turn the image into coefficients, with `spline_filter` under the same padding:
        then the spline interpolates, as in SciPy; else it smooths. What is outside is made of the
        coefficients: under "border" the spline goes on flat at the outermost coefficient, which is
        not the outermost pixel; "mirror" and "symmetric" reflect the picture itself.
    """

    order: int
    prefilter: bool = False

    def __post_init__(self) -> None:
        choice("order", self.order, range(8))
        if not isinstance(self.prefilter, (bool, np.bool_)):
            raise TypeError(f"prefilter must be True or False, got {self.prefilter!r}")

    def plan(self) -> Plan:
        if self.order < 2:
            return Linear().plan() if self.order else Nearest("up").plan()
        return Plan(3, self.order + 1)


@dataclass(frozen=True)
class Lanczos(Interpolation):
    r"""Windowed sinc, :math:`\mathrm{sinc}(d)\,\mathrm{sinc}(d/a)`, over 2a pixels an axis; divided by its sum.

    Parameters
    ----------
    a : {2, 3, 4}
        Lobes.
    """

    a: int = 3

    def __post_init__(self) -> None:
        choice("a", self.a, (2, 3, 4))

    def plan(self) -> Plan:
        return Plan(4, 2 * self.a)


@dataclass(frozen=True)
class Gaussian(Interpolation):
    r"""A Gaussian, :math:`\exp(-d^2 / (2\sigma^2))`, divided by its sum: it smooths.

    Parameters
    ----------
    sigma : float
        Standard deviation in pixels, positive, a number on the host. Differentiable, the window held fixed.
    truncate : float, default 4
        The window is ceil(truncate sigma) pixels to either side, at least 1 and at most 32.
    """

    sigma: float
    truncate: float = 4.0

    def __post_init__(self) -> None:
        for name in ("sigma", "truncate"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if self.sigma < 1e-3:
            raise ValueError(f"sigma must be 1e-3 pixels or more, got {self.sigma!r}: use Nearest() for less")
        if self.truncate * self.sigma > MAX_TAPS // 2:
            raise ValueError(
                f"truncate * sigma must be at most {MAX_TAPS // 2} pixels, got {self.truncate!r} * {self.sigma!r}"
            )

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return ()

    def plan(self) -> Plan:
        taps = 2 * max(1, math.ceil(self.truncate * self.sigma))
        return Plan(5, taps, parameter=self.sigma, parameters=1)


@dataclass(frozen=True)
class Tabulated(Interpolation):
    r"""A kernel given by a table of its values.

    The table holds k at equidistant distances from -support to support, both included. Between
    them k is a cubic Hermite curve with slopes of central differences, 0 at both ends: once
    differentiable everywhere if the table's first and last values are 0. Used as it is: make its
    weights sum to one if constants are to be preserved.

    Parameters
    ----------
    table : sequence of floats
        Two values or more, on the host: of an array on a GPU, ``cupy.asnumpy(array)``, which waits for it.
        Differentiable: a sampling kernel can be learnt.
    support : float
        Half-width in pixels, up to 32: k(d) = 0 for abs(d) >= support.
    """

    table: tuple[float, ...]
    support: float

    def __post_init__(self) -> None:
        check_host_numbers("table", self.table)
        values = np.asarray(self.table)
        if values.ndim != 1 or values.size < 2 or values.dtype.kind not in "fiu":
            raise ValueError(
                f"table must be a sequence of 2 real numbers or more, got shape {values.shape}, dtype {values.dtype}"
            )
        if not np.isfinite(values).all():
            raise ValueError("table must be finite, got NaN or infinity in it")
        object.__setattr__(self, "table", tuple(values.astype(np.float64).tolist()))
        object.__setattr__(self, "support", number("support", self.support))
        if not 0 < self.support <= MAX_TAPS // 2:
            raise ValueError(f"support must be positive and at most {MAX_TAPS // 2}, got {self.support!r}")

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return (len(self.table),)

    def plan(self) -> Plan:
        table = np.array(self.table)
        taps = 2 * math.ceil(self.support)
        return Plan(6, taps, support=self.support, table=table, parameters=len(table))


BY_NAME: dict[str, Interpolation] = {
    "nearest": Nearest(),
    "linear": Linear(),
    "bilinear": Linear(),
    "trilinear": Linear(),
    "cubic": Cubic(),
    "bicubic": Cubic(),
    "tricubic": Cubic(),
}
