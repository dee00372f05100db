"""Samples with footprints: calls described, kernels launched. Those of the CPU are in src/cpu/_cpu.pyx.

The structures are those of src/cuda/footprints.cuh, field by field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import c_int, c_longlong, c_void_p
from itertools import product
from typing import Any

import numpy as np

from pystn.backends.cuda.accumulation import add_up
from pystn.backends.cuda.arrays import DeviceArray, argument, integer_for, stride_of
from pystn.backends.cuda.jobs import MAX_RANK, Call, SampleJob
from pystn.options import SamplingOptions

__all__ = [
    "footprint_push",
    "footprint_sample",
    "footprint_sample_jvp",
    "footprint_sample_vjp",
    "footprint_sample_vjp2",
]

DIRECTIONS = ("forward", "jvp", "vjp_input", "vjp_input_fixed", "push", "push_fixed", "vjp_grid", "vjp2_grid")


class FootprintArray(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("batch", c_longlong),
        ("row", c_longlong),
        ("column", c_longlong),
        ("axis", c_longlong * MAX_RANK),
    ]


class FootprintJob(ctypes.Structure):
    _fields_ = [
        ("sample", SampleJob),
        *[(name, FootprintArray) for name in ("footprint", "d_footprint", "grad_footprint")],
        ("footprint_batch", c_longlong),
        ("ndim", c_int),
        ("unused", c_int),
    ]


def names() -> Iterator[str]:
    """Every name expression of a kernel that may be asked for."""
    for direction, real, index, taps in product(
        DIRECTIONS, ("float", "double"), ("int", "long long"), ("Scales", "Ellipses")
    ):
        yield f"footprint_{direction}<{real}, {index}, {taps}>"


class FootprintCall(Call):
    """A job whose kernels are stretched over footprints."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        batch: int,
        grid: DeviceArray,
        footprint: DeviceArray,
        options: SamplingOptions,
    ) -> None:
        self.feet = FootprintJob()
        super().__init__(shape, dtype, batch, grid, options)
        self.covariances = footprint.ndim == grid.ndim + 1
        if footprint.shape[1 : grid.ndim] != grid.shape[1:] or footprint.dtype != grid.dtype:
            raise ValueError(
                f"no kernel for grid and footprint of shapes {grid.shape} and {footprint.shape}, "
                f"dtypes {grid.dtype} and {footprint.dtype}"
            )
        self.feet.footprint_batch = footprint.shape[0]
        self.feet.ndim = self.ndim
        self.footprint("footprint", footprint)

    def tiles(self, order: int) -> bool:
        """No: samples are of more pixels than their neighbours are apart."""
        return False

    def footprint(self, name: str, array: DeviceArray | None) -> None:
        if array is None:
            return
        given, to = self.hold(array), getattr(self.feet, name)
        last = given.ndim - 1 - self.covariances
        to.data = given.data.ptr
        to.batch = stride_of(given, 0)
        to.row = stride_of(given, last)
        to.column = stride_of(given, -1) if self.covariances else 0
        self.set_axes(name, [stride_of(given, a) for a in range(1, last)])

    def described(self, name: str) -> Any:
        return getattr(self.feet if name.endswith("footprint") else self.job, name)

    def argument(self) -> DeviceArray:
        self.feet.sample = self.job
        return argument(self.feet)

    def name(self, direction: str, order: int) -> str:
        real, taps = "float" if self.single else "double", "Ellipses" if self.covariances else "Scales"
        turns = self.job.batch * self.job.pixels * max(1, self.job.layers)
        return f"footprint_{direction}<{real}, {integer_for(self.extent, turns)}, {taps}>"

    def run_gradients(self, direction: str) -> None:
        """Those to grid and footprint."""
        batch = self.job.batch
        apart = self.job.grid_batch == batch and self.feet.footprint_batch == batch
        self.run(direction, batch if apart else 1, 1, splits=False)


def footprint_sample(
    input: DeviceArray,
    grid: DeviceArray,
    footprint: DeviceArray,
    output: DeviceArray,
    mask: DeviceArray | None,
    options: SamplingOptions,
) -> None:
    call = FootprintCall(input.shape, input.dtype, output.shape[0], grid, footprint, options)
    call.image("input", input)
    call.samples("output", output)
    call.samples("mask", mask, channels=False)
    call.run("forward", call.job.batch, 0)


def footprint_sample_jvp(
    input: DeviceArray,
    grid: DeviceArray,
    footprint: DeviceArray,
    d_input: DeviceArray | None,
    d_grid: DeviceArray | None,
    d_footprint: DeviceArray | None,
    d_output: DeviceArray,
    d_mask: DeviceArray | None,
    options: SamplingOptions,
) -> None:
    call = FootprintCall(input.shape, input.dtype, d_output.shape[0], grid, footprint, options)
    call.image("input", input)
    call.image("d_input", d_input)
    call.grid("d_grid", d_grid)
    call.footprint("d_footprint", d_footprint)
    call.samples("output", d_output)
    call.samples("mask", d_mask, channels=False)
    call.run("jvp", call.job.batch, 1)


def footprint_sample_vjp(
    grad_output: DeviceArray,
    grad_mask: DeviceArray | None,
    input: DeviceArray,
    grid: DeviceArray,
    footprint: DeviceArray,
    grad_input: DeviceArray | None,
    grad_grid: DeviceArray | None,
    grad_footprint: DeviceArray | None,
    options: SamplingOptions,
) -> None:
    """Fills the gradients, any of which may be None."""
    if grad_input is not None:
        call = FootprintCall(input.shape, input.dtype, grad_output.shape[0], grid, footprint, options)
        call.samples("output", grad_output)
        add_up(call, grad_input, "vjp_input", 0)
    if grad_grid is not None or grad_footprint is not None:
        call = FootprintCall(input.shape, input.dtype, grad_output.shape[0], grid, footprint, options)
        call.image("input", input)
        call.samples("output", grad_output)
        call.samples("mask", grad_mask, channels=False)
        call.grid("grad_grid", grad_grid)
        call.footprint("grad_footprint", grad_footprint)
        call.run_gradients("vjp_grid")


def footprint_sample_vjp2(
    gg_input: DeviceArray | None,
    gg_grid: DeviceArray | None,
    gg_footprint: DeviceArray | None,
    grad_output: DeviceArray,
    grad_mask: DeviceArray | None,
    input: DeviceArray,
    grid: DeviceArray,
    footprint: DeviceArray,
    grad_grid: DeviceArray | None,
    grad_footprint: DeviceArray | None,
    options: SamplingOptions,
) -> None:
    """Fills the gradients of second order to grid and footprint, either of which may be None."""
    call = FootprintCall(input.shape, input.dtype, grad_output.shape[0], grid, footprint, options)
    call.image("input", input)
    call.image("d_input", gg_input)
    call.grid("d_grid", gg_grid)
    call.footprint("d_footprint", gg_footprint)
    call.samples("output", grad_output)
    call.samples("mask", grad_mask, channels=False)
    call.grid("grad_grid", grad_grid)
    call.footprint("grad_footprint", grad_footprint)
    call.run_gradients("vjp2_grid")


def footprint_push(
    values: DeviceArray,
    grid: DeviceArray,
    d_grid: DeviceArray | None,
    footprint: DeviceArray,
    d_footprint: DeviceArray | None,
    image: DeviceArray,
    options: SamplingOptions,
) -> None:
    """image += values times the derivative of the weights along d_grid and d_footprint, either of which may be None."""
    call = FootprintCall(image.shape, values.dtype, values.shape[0], grid, footprint, options)
    call.samples("output", values)
    call.grid("d_grid", d_grid)
    call.footprint("d_footprint", d_footprint)
    add_up(call, image, "push", 1)
