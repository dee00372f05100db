"""Calls done again on arrays of the same kinds: what depends on shapes, strides and options has been resolved, and only
the addresses in the kernels' arguments change."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cupy
import numpy as np

from pystn.backends.cuda.arrays import DeviceArray
from pystn.backends.cuda.jobs import Call, GridArray, ImageArray, MatrixArray, SampleArray, SampleJob, sum_chunks
from pystn.backends.cuda.source import Launch
from pystn.validation import addresses, overlap

__all__ = ["Repeat", "RepeatVjp"]

WORD = ctypes.sizeof(ctypes.c_void_p)
# Where the addresses of a call's arrays are in its argument, in words.
PLACES = {
    "input": SampleJob.input.offset + ImageArray.data.offset,
    "grad_input": SampleJob.grad_input.offset + ImageArray.data.offset,
    "samples": SampleJob.output.offset + SampleArray.data.offset,
    "grid": SampleJob.grid.offset + GridArray.data.offset,
    "grad_grid": SampleJob.grad_grid.offset + GridArray.data.offset,
    "theta": SampleJob.source.offset + MatrixArray.theta.offset,
    "partial": SampleJob.source.offset + MatrixArray.partial.offset,
}
PLACES = {name: offset // WORD for name, offset in PLACES.items()}


class Kind(NamedTuple):
    """What arrays have to have in common for one to take the place of the other."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    device: int

    @classmethod
    def of(cls, array: DeviceArray) -> Kind:
        return cls(array.shape, array.strides, array.dtype, array.data.device_id)

    def has(self, array: Any) -> bool:
        return (
            type(array) is cupy.ndarray
            and array.shape == self.shape
            and array.dtype == self.dtype
            and array.strides == self.strides
            and array.data.device_id == self.device
            and array.data.ptr % self.dtype.itemsize == 0
        )


class Pass:
    """A kernel that was launched, to be launched on other arrays."""

    def __init__(self, launched: Launch, tables: list[DeviceArray]) -> None:
        self.kernel, self.grid, self.block, self.job = launched
        words = self.job.view(np.uint64)
        self.places = [(name, place) for name, place in PLACES.items() if words[place]]
        self.tables = tables  # which live as long

    def is_of(self, arrays: Mapping[str, DeviceArray | None]) -> bool:
        """Whether the addresses are those of the arrays, none of which was copied first."""
        words = self.job.view(np.uint64)
        given = {name: array.data.ptr for name, array in arrays.items() if array is not None}
        return all(name == "partial" or words[place] == given.get(name) for name, place in self.places)

    def run(self, arrays: Mapping[str, DeviceArray]) -> None:
        job = self.job.copy()  # which other threads may be reading
        words = job.view(np.uint64)
        for name, place in self.places:
            words[place] = arrays[name].data.ptr
        self.kernel(self.grid, self.block, (job,))


def passes_of(calls: Sequence[Call], arrays: Mapping[str, DeviceArray | None]) -> list[Pass] | None:
    """The calls on these arrays, if each is one that can be repeated."""
    passes = [Pass(call.launched, call.tables) for call in calls if call.launched is not None]
    return passes if passes and len(passes) == len(calls) and all(one.is_of(arrays) for one in passes) else None


def is_size(given: Any, size: tuple[int, ...]) -> bool:
    """Whether it is a tuple of these integers. It may be of anything: to compare others can raise, and the checks
    that come next say it better."""
    integers = type(given) is tuple and all(type(n) is int or isinstance(n, np.integer) for n in given)
    return integers and given == size


class Remembered:
    """A call of the sampler: its kernels, and the kinds of what it read. `source` is the grid, or the matrices for
    samples of a `size`."""

    def __init__(
        self, passes: list[Pass], input: DeviceArray, source: DeviceArray, size: Any, samples: DeviceArray
    ) -> None:
        self.passes = passes
        self.input, self.source, self.samples = Kind.of(input), Kind.of(source), Kind.of(samples)
        self.size = size
        self.by = "grid" if size is None else "theta"

    def takes(self, input: Any, source: Any, size: Any) -> bool:
        return (
            self.input.has(input)
            and self.source.has(source)
            and (size is None if self.size is None else is_size(size, self.size))
            and cupy.cuda.runtime.getDevice() == self.input.device
        )


class Repeat(Remembered):
    """Samples again. Arrays of another kind get None for an answer."""

    @classmethod
    def of(cls, call: Call, input: DeviceArray, source: DeviceArray, size: Any, output: DeviceArray) -> Repeat | None:
        """None if the call is of a kind that is not repeated."""
        passes = passes_of([call], {"input": input, "grid": source, "theta": source, "samples": output})
        return None if passes is None or not output.flags.c_contiguous else cls(passes, input, source, size, output)

    def __call__(self, input: Any, source: Any, size: Any, out: Any = None) -> DeviceArray | None:
        if not self.takes(input, source, size):
            return None
        if out is None:
            output = cupy.ndarray(self.samples.shape, self.samples.dtype)
        elif self.samples.has(out) and not any(overlap(addresses(out), addresses(read)) for read in (input, source)):
            output = out
        else:
            return None
        self.passes[0].run({"input": input, "samples": output, self.by: source})
        return output


class RepeatVjp(Remembered):
    """The same of gradients to the input and to the source, None where not wanted."""

    to_input: Kind | None
    clears: bool  # the image that is added to, first
    to_source: bool
    partial: tuple[int, ...] | None  # shape of the sums for matrices

    @classmethod
    def of(
        cls,
        calls: Sequence[Call],
        input: DeviceArray,
        source: DeviceArray,
        size: Any,
        grad_output: DeviceArray,
        grad_input: DeviceArray | None,
        grad_source: DeviceArray | None,
    ) -> RepeatVjp | None:
        written = {"grad_input": grad_input, "grad_grid": grad_source}
        read = {"input": input, "grid": source, "theta": source, "samples": grad_output}
        passes = passes_of(calls, {**read, **written})
        if passes is None:
            return None
        self = cls(passes, input, source, size, grad_output)
        self.to_input = None if grad_input is None else Kind.of(grad_input)
        self.clears = not calls[0].gathers()
        self.to_source = grad_source is not None
        self.partial = calls[-1].partial
        return self

    def __call__(
        self, grad_output: Any, input: Any, source: Any, size: Any
    ) -> tuple[DeviceArray | None, DeviceArray | None] | None:
        if not self.takes(input, source, size) or not self.samples.has(grad_output):
            return None
        arrays = {"input": input, "samples": grad_output, self.by: source}
        to_input = to_source = None
        if self.to_input is not None:
            arrays["grad_input"] = to_input = cupy.ndarray(self.to_input.shape, self.to_input.dtype)
            if self.clears:
                to_input.fill(0)
        if self.to_source and self.partial is None:
            arrays["grad_grid"] = to_source = cupy.ndarray(self.source.shape, self.source.dtype)
        elif self.to_source:
            arrays["partial"] = cupy.ndarray(self.partial)
        for one in self.passes:
            one.run(arrays)
        if self.to_source and self.partial is not None:
            to_source = cupy.ndarray(self.source.shape, self.source.dtype)
            sum_chunks(arrays["partial"], to_source)
        return to_input, to_source
