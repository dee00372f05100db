"""Which backend works on which arrays.

The compiled module is loaded at the first call, not by ``import pystn``: a process that imports
PyTorch too then has it first, and both share one OpenMP runtime.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np

from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.options import SamplingOptions, SplineAxis
from pystn.typing import Array

__all__ = ["Backend", "backend_of"]


class Backend(Protocol):
    """What a backend does: allocate results unless they are given, choose kernels, run them."""

    xp: ModuleType  # numpy, or cupy

    def grid_sample(
        self, input: Array, grid: Coordinates, options: SamplingOptions, return_mask: bool, out: Array | None
    ) -> tuple[Array, Array | None]: ...

    def grid_sample_vjp(
        self,
        grad_output: Array,
        grad_mask: Array | None,
        input: Array,
        grid: Coordinates,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        out: tuple[Array | None, ...],
    ) -> tuple[Array | None, Array | None]: ...

    def grid_sample_vjp_options(
        self, grad_output: Array, grad_mask: Array | None, input: Array, grid: Coordinates, options: SamplingOptions
    ) -> tuple[Array, list[Array | None]]: ...

    def grid_sample_jvp(
        self,
        input: Array,
        grid: Coordinates,
        d_input: Array | None,
        d_grid: Coordinates | None,
        d_fill: Any,
        d_kernel: list[Array | None],
        options: SamplingOptions,
        return_mask: bool,
        out: Array | None,
    ) -> tuple[Array, Array | None]: ...

    def grid_sample_vjp2(
        self,
        gg_input: Array | None,
        gg_grid: Array | None,
        grad_output: Array,
        grad_mask: Array | None,
        input: Array,
        grid: Array,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]: ...

    def grid_push(
        self,
        values: Array | None,
        along: Array | None,
        grid: Array,
        d_grid: Array | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        options: SamplingOptions,
        out: Array | None,
    ) -> Array: ...

    def grid_push_vjp(
        self,
        grad_output: Array,
        values: Array,
        grid: Array,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        out: tuple[Array | None, ...],
    ) -> tuple[Array | None, Array | None]: ...

    def grid_gradient(self, input: Array, grid: Array, options: SamplingOptions, out: Array | None) -> Array: ...

    def grid_gradient_vjp(
        self,
        grad_output: Array,
        input: Array,
        grid: Array,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        out: tuple[Array | None, ...],
    ) -> tuple[Array | None, Array | None]: ...

    def grid_gradient_jvp(
        self,
        input: Array,
        grid: Array,
        d_input: Array | None,
        d_grid: Array | None,
        options: SamplingOptions,
        out: Array | None,
    ) -> Array: ...

    def warp_project(
        self,
        input: Array,
        coordinates: MatrixCoordinates,
        reduce: str,
        options: SamplingOptions,
        out: Array | None,
    ) -> Array: ...

    def warp_project_vjp(
        self,
        grad_output: Array,
        input: Array,
        coordinates: MatrixCoordinates,
        reduce: str,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        out: tuple[Array | None, ...],
    ) -> tuple[Array | None, Array | None]: ...

    def warp_project_jvp(
        self,
        input: Array,
        coordinates: MatrixCoordinates,
        d_input: Array | None,
        d_theta: Array | None,
        reduce: str,
        options: SamplingOptions,
        out: Array | None,
    ) -> Array: ...

    def affine_grid(self, theta: Array, size: tuple[int, ...], align_corners: bool, out: Array | None) -> Array: ...

    def affine_grid_vjp(
        self, grad_grid: Array, theta: Array, size: tuple[int, ...], align_corners: bool, out: Array | None
    ) -> Array: ...

    def projective_grid(
        self,
        theta: Array,
        d_theta: Array | None,
        size: tuple[int, ...],
        align_corners: bool,
        least_denominator: float,
        cull_behind: bool,
        out: Array | None,
    ) -> Array: ...

    def projective_grid_vjp(
        self,
        grad_grid: Array,
        theta: Array,
        gg_theta: Array | None,
        size: tuple[int, ...],
        align_corners: bool,
        least_denominator: float,
        cull_behind: bool,
    ) -> Array: ...

    def linear_grid(self, theta: Array, basis: Array, out: Array | None) -> Array: ...

    def linear_grid_vjp(self, grad_grid: Array, theta: Array, basis: Array) -> Array: ...

    def spline_filter(
        self,
        input: Array,
        axes: tuple[SplineAxis, ...],
        dtype: np.dtype[Any],
        channel_axis: int,
        transposed: bool,
        out: Array | None,
    ) -> Array: ...


HINTS = {
    "torch": "pass tensor.detach().cpu().numpy(), which shares its memory",
    "jax": "pass numpy.asarray(array)",
    "jaxlib": "pass numpy.asarray(array)",
    "cupy": "pass cupy.asnumpy(array)",
}


def backend_of(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Backend:
    """The backend for these arrays, given by name; optional ones may be None."""
    for name, array in required.items():
        if type(array) is not np.ndarray:
            check_kind(name, array)
    for name, array in (optional or {}).items():
        if array is not None and type(array) is not np.ndarray:
            check_kind(name, array)
    return cast(Backend, import_module("pystn.backends.cpu"))


def check_kind(name: str, array: Any) -> None:
    """Raise unless an array is one that a backend works on."""
    if not isinstance(array, np.ndarray):
        kind = type(array)
        hint = HINTS.get(kind.__module__.partition(".")[0], "pass numpy.asarray(...)")
        raise TypeError(f"{name} must be a numpy.ndarray, got {kind.__module__}.{kind.__qualname__}: {hint}")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: pass {name}.filled(value)")
