from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pystn.backends.pieces import Pieces
from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.options import SamplingOptions

Array = np.ndarray[Any, Any]

def use_level(name: str) -> None: ...
def stream_from(count: int | None = None) -> int: ...
def levels() -> tuple[str, ...]: ...
def current_level() -> str: ...
def max_threads() -> int: ...
def openmp_version() -> int: ...
def release_threads() -> None: ...
def empty(shape: tuple[int, ...], dtype: Any) -> Array: ...
def empty_like(array: Array, dtype: Any) -> Array: ...
def kept_bytes() -> int: ...
def memory_limit(nbytes: int | None = None) -> int: ...
def grid_sample(
    input: Array, grid: Coordinates, output: Array, mask: Array | None, options: SamplingOptions, threads: int
) -> Any: ...

class Repeat:
    @classmethod
    def of(
        cls, call: Any, input: Array, source: Array, size: tuple[int, ...] | None, output: Array
    ) -> Repeat | None: ...
    def __call__(self, input: Array, source: Array, size: Any, out: Array | None = None) -> Array | None: ...

class RepeatVjp:
    @classmethod
    def of(
        cls,
        call: Any,
        input: Array,
        source: Array,
        size: tuple[int, ...] | None,
        grad_output: Array,
        grad_input: Array | None,
        grad_source: Array | None,
    ) -> RepeatVjp | None: ...
    def __call__(
        self, grad_output: Array, input: Array, source: Array, size: Any
    ) -> tuple[Array | None, Array | None] | None: ...

def grid_sample_jvp(
    input: Array,
    grid: Coordinates,
    d_input: Array | None,
    d_grid: Array | None,
    d_fill: Any,
    d_kernel: list[Array | None],
    d_output: Array,
    d_mask: Array | None,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def grid_sample_vjp(
    grad_output: Array,
    grad_mask: Array | None,
    input: Array,
    grid: Coordinates,
    grad_input: Array | None,
    grad_grid: Array | None,
    to_matrices: bool,
    options: SamplingOptions,
    threads: int,
) -> tuple[Any, Any]: ...
def grid_sample_vjp_options(
    grad_output: Array,
    grad_mask: Array | None,
    input: Array,
    grid: Coordinates,
    partial: Array,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def project(
    input: Array,
    coordinates: MatrixCoordinates,
    output: Array,
    chosen: Array | None,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def project_jvp(
    input: Array,
    coordinates: MatrixCoordinates,
    d_input: Array | None,
    d_theta: Array | None,
    d_output: Array,
    chosen: Array | None,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def project_vjp(
    grad_output: Array,
    input: Array,
    coordinates: MatrixCoordinates,
    grad_input: Array | None,
    to_matrices: bool,
    chosen: Array | None,
    options: SamplingOptions,
    threads: int,
) -> Any: ...
def grid_sample_vjp2_grid(
    gg_input: Array | None,
    gg_grid: Array | None,
    grad_output: Array,
    grad_mask: Array | None,
    input: Array,
    grid: Array,
    grad_grid: Array,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def grid_push(
    values: Array | None,
    along: Array | None,
    gradient: Array | None,
    grid: Array,
    d_grid: Array | None,
    image: Array,
    batch: int,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def grid_gradient(input: Array, grid: Array, gradient: Array, options: SamplingOptions, threads: int) -> None: ...
def grid_gradient_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
    d_gradient: Array,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def grid_gradient_vjp_grid(
    grad_gradient: Array, input: Array, grid: Array, grad_grid: Array, options: SamplingOptions, threads: int
) -> None: ...
def footprint_sample(
    input: Array,
    grid: Array,
    footprint: Array,
    output: Array,
    mask: Array | None,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def footprint_sample_jvp(
    input: Array,
    grid: Array,
    footprint: Array,
    d_input: Array | None,
    d_grid: Array | None,
    d_footprint: Array | None,
    d_output: Array,
    d_mask: Array | None,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def footprint_sample_vjp(
    grad_output: Array,
    grad_mask: Array | None,
    input: Array,
    grid: Array,
    footprint: Array,
    grad_input: Array | None,
    grad_grid: Array | None,
    grad_footprint: Array | None,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def footprint_sample_vjp2(
    gg_input: Array | None,
    gg_grid: Array | None,
    gg_footprint: Array | None,
    grad_output: Array,
    grad_mask: Array | None,
    input: Array,
    grid: Array,
    footprint: Array,
    grad_grid: Array | None,
    grad_footprint: Array | None,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def footprint_push(
    values: Array,
    grid: Array,
    d_grid: Array | None,
    footprint: Array,
    d_footprint: Array | None,
    image: Array,
    options: SamplingOptions,
    threads: int,
) -> None: ...
def affine_grid(theta: Array, grid: Array, align_corners: bool, threads: int) -> Any: ...

class RepeatGrid:
    @classmethod
    def of(
        cls, call: Any, theta: Array, size: tuple[int, ...], align_corners: bool, grid: Array
    ) -> RepeatGrid | None: ...
    def __call__(self, theta: Array, size: Any, align_corners: Any, out: Array | None) -> Array | None: ...

def lattice_row_chunks(grid: Array) -> int: ...
def affine_grid_vjp(grad_grid: Array, partial: Array, align_corners: bool, threads: int) -> None: ...
def projective_grid(
    theta: Array,
    d_theta: Array | None,
    grid: Array,
    align_corners: bool,
    least_denominator: float,
    cull_behind: bool,
    threads: int,
) -> None: ...
def projective_grid_vjp(
    grad_grid: Array,
    theta: Array,
    gg_theta: Array | None,
    partial: Array,
    align_corners: bool,
    least_denominator: float,
    cull_behind: bool,
    threads: int,
) -> None: ...
def linear_grid(theta: Array, basis: Array, grid: Array, threads: int) -> None: ...
def linear_grid_vjp(grad_grid: Array, basis: Array, threads: int) -> Array: ...
def flow(
    start: Array,
    field: Array,
    d_field: Array | None,
    grid: Array,
    cells: Sequence[int],
    steps: int,
    threads: int,
) -> None: ...
def flow_vjp(
    start: Array,
    field: Array,
    d_field: Array | None,
    grad_grid: Array,
    cells: Sequence[int],
    steps: int,
    threads: int,
) -> Array: ...
def piecewise(values: Array, pieces: Pieces, base: Array | None, grid: Array, threads: int) -> None: ...
def piecewise_vjp(grad_grid: Array, pieces: Pieces, threads: int) -> Array: ...
def exponential(generators: Array, along: Array | None, then: Array | None, matrices: Array, threads: int) -> None: ...
def narrow(sums: Array, output: Array, threads: int) -> bool: ...
def spline_filter(
    source: Array, target: Array, axis: int, order: int, boundary: int, transposed: bool, threads: int
) -> None: ...
