"""The sampler's entry points: calls described, kernels launched. Those of the CPU are in src/cpu/_cpu.pyx."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from pystn.backends.cuda.accumulation import add_up
from pystn.backends.cuda.arrays import DeviceArray
from pystn.backends.cuda.jobs import (
    AFFINE,
    CONSTANT,
    GATHERED_TAPS,
    PLAIN_KERNELS,
    ROOMS,
    STORED,
    TILE_KERNELS,
    ZEROS,
    Call,
    fill_table,
)
from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.options import SamplingOptions

__all__ = [
    "grid_gradient",
    "grid_gradient_jvp",
    "grid_gradient_vjp_grid",
    "grid_push",
    "grid_sample",
    "grid_sample_jvp",
    "grid_sample_vjp",
    "grid_sample_vjp2_grid",
    "grid_sample_vjp_options",
    "project",
    "project_jvp",
    "project_vjp",
]

# Kernels by the order of the derivatives of the weights that they take.
ORDERS = {
    "forward": 0,
    "vjp_input": 0,
    "vjp_options": 0,
    "jvp": 1,
    "vjp": 1,
    "vjp_grid": 1,
    "vjp_matrix": 1,
    "vjp_tiles": 1,
    "vjp_matrix_tiles": 1,
    "vjp_input_tiles": 0,
    "push": 1,
    "vjp_input_fixed": 0,
    "push_fixed": 1,
    "gradient": 1,
    "vjp2_grid": 2,
    "gradient_jvp": 2,
    "gradient_vjp_grid": 2,
    "gather_input": 0,
}
# Of these, those whose coordinates are stored, or made from matrices, alone.
OF_GRIDS = {"vjp", "vjp_grid", "vjp_tiles"}
OF_MATRICES = {"vjp_matrix", "gather_input", "vjp_matrix_tiles"}


def names() -> Iterator[str]:
    """Every name expression of a kernel that may be asked for."""
    yield from ("sum_chunks<float>", "sum_chunks<double>")
    types = [("float", "float"), ("float", "double"), ("double", "double"), ("Any", "float"), ("Any", "double")]
    for direction, (pixels, real), index, ndim, room in product(ORDERS, types, ("int", "long long"), (1, 2, 3), ROOMS):
        if direction not in TILE_KERNELS and (direction != "gather_input" or room <= GATHERED_TAPS):
            yield f"{direction}<SampleJob, {pixels}, {real}, {index}, {ndim}, {room}>"
    types = [("float", "float"), ("double", "double"), ("Half", "float"), ("Bfloat", "float")]
    for direction, (pixels, real), ndim, room in product(PLAIN_KERNELS, types, (1, 2, 3), (1, 2, 4)):
        if direction in TILE_KERNELS and (room != 2 or ndim == 1):
            continue
        of_grids = {(1, STORED), (ndim, STORED)} if direction not in OF_MATRICES else set()
        of_matrices = {(ndim, AFFINE)} if direction not in OF_GRIDS else set()
        boundaries = [ZEROS] if direction == "gather_input" else range(CONSTANT)
        for (axes, source), boundary in product(sorted(of_grids | of_matrices), boundaries):
            yield f"{direction}<PlainJob<{axes}, {source}, {boundary}>, {pixels}, {real}, int, {ndim}, {room}>"


def grid_sample(
    input: DeviceArray, grid: Coordinates, output: DeviceArray, mask: DeviceArray | None, options: SamplingOptions
) -> Call:
    """`output` may have the batch 1, and then receives the sum over it. Returns what can be repeated."""
    batch = max(input.shape[0], grid.shape[0]) if input.shape[0] and grid.shape[0] else 0
    call = Call(input.shape, input.dtype, batch, grid, options)
    call.image("input", input)
    call.samples("output", output)
    call.samples("mask", mask, channels=False)
    call.job.output_batch = output.shape[0]
    call.run("forward", call.job.output_batch, 0)
    return call


def grid_sample_jvp(
    input: DeviceArray,
    grid: Coordinates,
    d_input: DeviceArray | None,
    d_grid: DeviceArray | None,
    d_fill: Any,
    d_kernel: list[DeviceArray | None],
    d_output: DeviceArray,
    d_mask: DeviceArray | None,
    options: SamplingOptions,
) -> None:
    call = Call(input.shape, input.dtype, d_output.shape[0], grid, options)
    call.image("input", input)
    call.image("d_input", d_input)
    call.steps(d_grid)
    if d_fill is not None:
        call.job.d_fill = call.doubles(fill_table("d_fill_value", d_fill, call.job.channels, call.job.components))
    for a, tangent in enumerate(d_kernel):
        call.job.d_kernel[a] = call.doubles(tangent)
    call.samples("output", d_output)
    call.samples("mask", d_mask, channels=False)
    call.run("jvp", call.job.batch, 1)


def grid_sample_vjp(
    grad_output: DeviceArray,
    grad_mask: DeviceArray | None,
    input: DeviceArray,
    grid: Coordinates,
    grad_input: DeviceArray | None,
    grad_grid: DeviceArray | None,
    to_matrices: bool,
    options: SamplingOptions,
) -> tuple[list[Call], DeviceArray | None]:
    """Fills grad_input and grad_grid, either of which may be None. Returns what can be repeated, in that order,
    and the sums for the matrices if they are wanted."""
    calls: list[Call] = []
    sums = None
    to_source = None  # the call for the grid or the matrices
    # The image that is added to while that is made: the same taps and cotangents.
    beside = grad_input if not options.deterministic else None
    tiles = False
    if grad_grid is not None or to_matrices:
        to_source = Call(input.shape, input.dtype, grad_output.shape[0], grid, options)
        to_source.image("input", input)
        to_source.samples("output", grad_output)
        to_source.samples("mask", grad_mask, channels=False)
        to_source.grid("grad_grid", grad_grid)
        if beside is not None:
            to_source.image("grad_input", beside)
            tiles = to_source.tiles(1)
    if to_source is None or (to_matrices and not tiles):
        beside = None
    if beside is not None:
        beside.fill(0)
    elif grad_input is not None:
        call = Call(input.shape, input.dtype, grad_output.shape[0], grid, options)
        call.samples("output", grad_output)
        add_up(call, grad_input, "vjp_input", 0)
        calls.append(call)
    if to_source is not None:
        if to_matrices:
            sums = to_source.run_matrices("vjp_matrix_tiles" if tiles else "vjp_matrix")
        elif tiles:
            to_source.run_tiles("vjp_tiles", 1)
        else:
            to_source.run_lanes("vjp_grid" if beside is None else "vjp", 1)
        calls.append(to_source)
    return calls, sums


def grid_sample_vjp_options(
    grad_output: DeviceArray,
    grad_mask: DeviceArray | None,
    input: DeviceArray,
    grid: Coordinates,
    partial: DeviceArray,
    options: SamplingOptions,
) -> None:
    """Partial sums (groups, channels + parameters), double, of the gradients to the options."""
    call = Call(input.shape, input.dtype, grad_output.shape[0], grid, options)
    call.image("input", input)
    call.samples("output", grad_output)
    call.samples("mask", grad_mask, channels=False)
    call.run_groups(partial)


def grid_sample_vjp2_grid(
    gg_input: DeviceArray | None,
    gg_grid: DeviceArray | None,
    grad_output: DeviceArray,
    grad_mask: DeviceArray | None,
    input: DeviceArray,
    grid: DeviceArray,
    grad_grid: DeviceArray,
    options: SamplingOptions,
) -> None:
    call = Call(input.shape, input.dtype, grad_output.shape[0], grid, options)
    call.image("input", input)
    call.image("d_input", gg_input)
    call.grid("d_grid", gg_grid)
    call.samples("output", grad_output)
    call.samples("mask", grad_mask, channels=False)
    call.grid("grad_grid", grad_grid)
    call.run("vjp2_grid", call.job.grid_batch, 2, splits=False)


def grid_push(
    values: DeviceArray | None,
    along: DeviceArray | None,
    gradient: DeviceArray | None,
    grid: DeviceArray,
    d_grid: DeviceArray | None,
    image: DeviceArray,
    batch: int,
    options: SamplingOptions,
) -> None:
    """image += values w + along d_grid_a w_a + gradient_a w_a; any of the three may be None.

    `batch` is that of the samples; an image of batch 1 receives the sum over it.
    """
    given = next(array for array in (values, along, gradient) if array is not None)
    call = Call(image.shape, given.dtype, batch, grid, options)
    call.samples("output", values)
    call.samples("values", along)
    call.samples("gradient", gradient, components=True)
    call.grid("d_grid", d_grid)
    if along is None and gradient is None:
        add_up(call, image, "vjp_input", 0)
    else:
        add_up(call, image, "push", 1)


def grid_gradient(input: DeviceArray, grid: DeviceArray, gradient: DeviceArray, options: SamplingOptions) -> None:
    call = Call(input.shape, input.dtype, gradient.shape[0], grid, options)
    call.image("input", input)
    call.samples("gradient", gradient, components=True)
    call.run("gradient", call.job.batch, 1)


def grid_gradient_jvp(
    input: DeviceArray,
    grid: DeviceArray,
    d_input: DeviceArray | None,
    d_grid: DeviceArray | None,
    d_gradient: DeviceArray,
    options: SamplingOptions,
) -> None:
    call = Call(input.shape, input.dtype, d_gradient.shape[0], grid, options)
    call.image("input", input)
    call.image("d_input", d_input)
    call.grid("d_grid", d_grid)
    call.samples("gradient", d_gradient, components=True)
    call.run("gradient_jvp", call.job.batch, 2)


def grid_gradient_vjp_grid(
    grad_gradient: DeviceArray, input: DeviceArray, grid: DeviceArray, grad_grid: DeviceArray, options: SamplingOptions
) -> None:
    call = Call(input.shape, input.dtype, grad_gradient.shape[0], grid, options)
    call.image("input", input)
    call.samples("gradient", grad_gradient, components=True)
    call.grid("grad_grid", grad_grid)
    call.run("gradient_vjp_grid", call.job.grid_batch, 2, splits=False)


def projection(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    batch: int,
    coordinates: MatrixCoordinates,
    chosen: DeviceArray | None,
    options: SamplingOptions,
) -> Call:
    call = Call(shape, dtype, batch, coordinates, options)
    call.project()
    call.samples("chosen", chosen)
    return call


def project(
    input: DeviceArray,
    coordinates: MatrixCoordinates,
    output: DeviceArray,
    chosen: DeviceArray | None,
    options: SamplingOptions,
) -> None:
    """Sums of samples along the depth of their lattice; or the largest, and `chosen`, int32, says which."""
    call = projection(input.shape, input.dtype, output.shape[0], coordinates, chosen, options)
    call.image("input", input)
    call.samples("output", output)
    call.job.maximum = chosen is not None
    call.run("forward", call.job.batch, 0)


def project_jvp(
    input: DeviceArray,
    coordinates: MatrixCoordinates,
    d_input: DeviceArray | None,
    d_theta: DeviceArray | None,
    d_output: DeviceArray,
    chosen: DeviceArray | None,
    options: SamplingOptions,
) -> None:
    """`chosen` as filled by `project`, or None for sums."""
    call = projection(input.shape, input.dtype, d_output.shape[0], coordinates, chosen, options)
    call.image("input", input)
    call.image("d_input", d_input)
    call.steps(d_theta)
    call.samples("output", d_output)
    call.run("jvp", call.job.batch, 1)


def project_vjp(
    grad_output: DeviceArray,
    input: DeviceArray,
    coordinates: MatrixCoordinates,
    grad_input: DeviceArray | None,
    to_matrices: bool,
    chosen: DeviceArray | None,
    options: SamplingOptions,
) -> DeviceArray | None:
    """Fills grad_input unless it is None; returns the sums for the matrices if they are wanted."""
    if grad_input is not None:
        call = projection(input.shape, input.dtype, grad_output.shape[0], coordinates, chosen, options)
        call.samples("output", grad_output)
        add_up(call, grad_input, "vjp_input", 0)
    if not to_matrices:
        return None
    call = projection(input.shape, input.dtype, grad_output.shape[0], coordinates, chosen, options)
    call.image("input", input)
    call.samples("output", grad_output)
    return call.run_matrices()
