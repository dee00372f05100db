"""Adding to an image: by atomics, or in integers, which give the same sums in every order.

The structures are those of src/cuda/accumulation.cuh, field by field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import c_int, c_longlong, c_void_p
from math import prod

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray, argument, element_of, extent_of, integer_for, parts_of, stride_of
from pystn.backends.cuda.jobs import MAX_NDIM, Call, merged
from pystn.backends.cuda.source import launch

__all__ = ["add_up", "names"]

MAX_AXES = MAX_NDIM + 3
WORDS = 2  # of 64 bits, that a cell has
EXPONENTS, SUMS = 0, 1  # of Walk


class CellsJob(ctypes.Structure):
    _fields_ = [
        ("cells", c_void_p),
        ("image", c_void_p),
        ("count", c_longlong),
        ("shape", c_longlong * MAX_AXES),
        ("stride", c_longlong * MAX_AXES),
        ("rank", c_int),
        ("type", c_int),
    ]


def names() -> Iterator[str]:
    """Every name expression of a kernel that may be asked for."""
    for index in ("int", "long long"):
        yield f"store_sums<{index}>"


def add_up(call: Call, image: DeviceArray, direction: str, order: int) -> None:
    """Fill an image with what a kernel adds to it, which is `vjp_input` or `push`."""
    batch = call.job.batch
    call.image("grad_input", image)
    if direction == "vjp_input" and call.gathers() and image.size:
        call.gather()
        return
    if not call.options.deterministic:
        image.fill(0)
        if direction == "vjp_input" and call.tiles(order):
            call.run_tiles("vjp_input_tiles", order)
        else:
            call.run(direction, batch, order)
        return
    cells = cupy.zeros((*image.shape, parts_of(image.dtype), WORDS), np.uint64)
    to, ndim = call.job.grad_input, call.ndim
    to.data = cells.data.ptr
    to.batch = stride_of(cells, 0) // WORDS
    to.channel = stride_of(cells, ndim + 1 if call.channels_last else 1) // WORDS
    for a in range(ndim):
        to.axis[a] = stride_of(cells, (ndim if call.channels_last else ndim + 1) - a) // WORDS
    for walk in (EXPONENTS, SUMS):
        to.walk = walk
        call.run(f"{direction}_fixed", batch, order)
    call.launched = None  # into cells that are gone by then
    store(cells, image)


def store(cells: DeviceArray, image: DeviceArray) -> None:
    """Sums rounded into the image, whatever its strides."""
    parts = parts_of(image.dtype)
    strides = [*[stride_of(image, axis, parts) for axis in range(image.ndim)], 1]
    shape, axes = merged([*image.shape, parts], {"image": strides}, 0)
    job = CellsJob(cells=cells.data.ptr, image=image.data.ptr, count=prod(shape))
    job.rank, job.type = len(shape), element_of(image.dtype)
    for a, length in enumerate(shape):
        job.shape[a], job.stride[a] = length, axes["image"][a]
    launch(f"store_sums<{integer_for(extent_of(image), job.count)}>", job.count, argument(job))
