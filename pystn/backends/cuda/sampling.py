"""The sampler's entry points: calls described, kernels launched. Those of the CPU are in src/cpu/_cpu.pyx."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from pystn.backends.cuda import accumulation
from pystn.backends.cuda.accumulation import add_up
from pystn.backends.cuda.arrays import DeviceArray
from pystn.backends.cuda.jobs import PLAIN_KERNELS, ROOMS, Call, fill_table
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
    "vjp_grid": 1,
    "vjp_matrix": 1,
    "push": 1,
    "vjp_input_fixed": 0,
    "push_fixed": 1,
    "gradient": 1,
    "vjp2_grid": 2,
    "gradient_jvp": 2,
    "gradient_vjp_grid": 2,
}


def names() -> Iterator[str]:
    """Every name expression of a kernel that may be asked for."""
    yield from accumulation.names()
    yield from ("sum_chunks<float>", "sum_chunks<double>")
    types = [("float", "float"), ("float", "double"), ("double", "double"), ("Any", "float"), ("Any", "double")]
    for direction, (pixels, real), index, ndim, room in product(ORDERS, types, ("int", "long long"), (1, 2, 3), ROOMS):
        yield f"{direction}<SampleJob, {pixels}, {real}, {index}, {ndim}, {room}>"
    for direction, real, ndim, room in product(PLAIN_KERNELS, ("float", "double"), (1, 2, 3), (1, 2, 4)):
        sources = [(1, 0), (ndim, 0), (ndim, 1)] if direction != "vjp_matrix" else [(ndim, 1)]
        for (axes, source), boundary in product(dict.fromkeys(sources), range(5)):
            yield f"{direction}<PlainJob<{axes}, {source}, {boundary}>, {real}, {real}, int, {ndim}, {room}>"


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
        call.job.d_fill = call.doubles(fill_table(d_fill, call.job.channels, call.job.components))
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
) -> tuple[tuple[Call | None, Call | None], DeviceArray | None]:
    """Fills grad_input and grad_grid, either of which may be None. Returns what can be repeated, for input and grid,
    and the sums for the matrices if they are wanted."""
    to_input = to_grid = sums = None
    if grad_input is not None:
        to_input = Call(input.shape, input.dtype, grad_output.shape[0], grid, options)
        to_input.samples("output", grad_output)
        add_up(to_input, grad_input, "vjp_input", 0)
    if grad_grid is not None or to_matrices:
        to_grid = Call(input.shape, input.dtype, grad_output.shape[0], grid, options)
        to_grid.image("input", input)
        to_grid.samples("output", grad_output)
        to_grid.samples("mask", grad_mask, channels=False)
        if to_matrices:
            sums = to_grid.run_matrices()
        else:
            to_grid.grid("grad_grid", grad_grid)
            to_grid.run("vjp_grid", to_grid.job.grid_batch, 1, splits=False)
    return (to_input, to_grid), sums


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
