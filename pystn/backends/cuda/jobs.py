"""The argument of the sampler's kernels, described from arrays and options.

The structures are those of src/cuda/job.cuh, field by field.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_int, c_longlong, c_void_p
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import cupy
import numpy as np

from pystn.backends import check_devices
from pystn.backends.cuda.arrays import (
    DeviceArray,
    argument,
    element_of,
    extent_of,
    integer_for,
    parts_of,
    readable,
    stride_of,
)
from pystn.backends.cuda.source import Launch, launch
from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.interpolation import Interpolation
from pystn.options import SamplingOptions

__all__ = [
    "AFFINE",
    "BLOCK",
    "CONSTANT",
    "GATHERED_TAPS",
    "MAX_NDIM",
    "PLAIN_KERNELS",
    "ROOMS",
    "STORED",
    "TILE_KERNELS",
    "ZEROS",
    "Call",
    "merged",
    "sum_chunks",
]

MAX_NDIM, MAX_RANK = 3, 8
BLOCK = 256  # threads of a block; block_threads in sampling.cuh
ROOMS = (1, 2, 4, 8, 64)  # taps on an axis that kernels are made for: nearest, linear, cubic, any of so many
ENOUGH_THREADS = 1 << 18  # from so many on a thread takes all channels of its sample
NEAREST, LINEAR, CUBIC = 0, 1, 2  # of Mode in src/core/interpolation.hpp
# Kernels whose warps take tiles, of a PlainJob alone; those that are compiled for one too.
TILE_KERNELS = ("vjp_input_tiles", "vjp_tiles", "vjp_matrix_tiles")
PLAIN_KERNELS = (
    "forward",
    "vjp_input",
    "vjp_input_fixed",
    "vjp",
    "vjp_grid",
    "vjp_matrix",
    "gather_input",
    *TILE_KERNELS,
)
GATHERED_TAPS = MOST_KNOWN_TAPS = 4  # on an axis, at most, of gather_input and of a PlainJob
ZEROS, CONSTANT = 0, 5  # of Boundary in src/core/boundaries.hpp
STORED, AFFINE = 0, 1  # of Source in src/core/coordinates.hpp
GATHER_BLOCKS = 4096  # that find out which samples a matrix leads to a pixel, at most
TILE_HEIGHT = 4  # of the samples that a warp takes
TILED = 1 << 15  # samples, from which on none of their channels is left to other threads
ELEMENT_TYPES = {0: "float", 1: "double", 2: "Half", 3: "Bfloat"}  # kernels of frequent calls are made for
MAX_LAYERS = 65535  # blocks along y
CHANNELS_EACH = 4  # at least, of a thread that shares a sample with others
MANY_CHANNELS = 8  # next to each other in memory: so many threads that are neighbours share them


class ImageArray(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("batch", c_longlong),
        ("channel", c_longlong),
        ("axis", c_longlong * MAX_NDIM),
        ("type", c_int),
        ("walk", c_int),
    ]


class SampleArray(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("batch", c_longlong),
        ("channel", c_longlong),
        ("component", c_longlong),
        ("axis", c_longlong * MAX_RANK),
        ("type", c_int),
        ("unused", c_int),
    ]


class GridArray(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("batch", c_longlong),
        ("component", c_longlong),
        ("axis", c_longlong * MAX_RANK),
    ]


class MatrixArray(ctypes.Structure):
    _fields_ = [
        ("theta", c_void_p),
        ("d_theta", c_void_p),
        ("partial", c_void_p),
        ("batch", c_longlong),
        ("count", c_longlong),
        ("chunks", c_longlong),
        ("size", c_longlong * MAX_NDIM),
        ("least_denominator", c_double),
        ("kind", c_int),
        ("cull_behind", c_int),
    ]


class KernelJob(ctypes.Structure):
    _fields_ = [
        ("table", c_void_p),
        ("parameters", c_longlong),
        ("parameter", c_double),
        ("support", c_double),
        ("mode", c_int),
        ("taps", c_int),
        ("variant", c_int),
        ("boundary", c_int),
    ]


class SampleJob(ctypes.Structure):
    _fields_ = [
        *[(name, ImageArray) for name in ("input", "d_input", "grad_input")],
        *[(name, SampleArray) for name in ("output", "values", "gradient", "mask", "chosen")],
        *[(name, GridArray) for name in ("grid", "d_grid", "grad_grid")],
        ("source", MatrixArray),
        ("kernel", KernelJob * MAX_NDIM),
        ("fill", c_void_p),
        ("d_fill", c_void_p),
        ("d_kernel", c_void_p * MAX_NDIM),
        ("partial", c_void_p),
        *[(name, c_longlong) for name in ("groups", "partial_row", "batch", "grid_batch", "output_batch", "channels")],
        ("layers", c_longlong),
        ("pixels", c_longlong),
        ("shape", c_longlong * MAX_RANK),
        ("depth", c_longlong),
        ("size", c_longlong * MAX_NDIM),
        *[(name, c_int) for name in ("rank", "components", "grid_type", "coordinates", "subgradient", "cutoff")],
        *[(name, c_int) for name in ("projected", "maximum", "adjacent_layers", "row")],
    ]


class ChunksJob(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("partial", "sums")] + [
        (name, c_longlong) for name in ("matrices", "chunks", "entries")
    ]


def sum_chunks(partial: DeviceArray, sums: DeviceArray) -> None:
    """Fill `sums` (*matrices, rows, columns) with those of `partial` (matrices, chunks, rows, columns), double."""
    matrices, chunks, rows, columns = partial.shape
    job = ChunksJob(partial.data.ptr, sums.data.ptr, matrices, chunks, rows * columns)
    real = "float" if sums.itemsize == 4 else "double"
    launch(f"sum_chunks<{real}>", 32 * sums.size, argument(job), BLOCK)


# Numbers that the kernels read from memory, by what they belong to and device.
_tables: WeakKeyDictionary[SamplingOptions | Interpolation, dict[tuple[Any, ...], DeviceArray]] = WeakKeyDictionary()


def table_of(owner: SamplingOptions | Interpolation, key: tuple[Any, ...], values: Any) -> DeviceArray:
    """Doubles on the current device, copied there once, and before the call goes on: any stream may read them next."""
    tables = _tables.setdefault(owner, {})
    key = (cupy.cuda.Device().id, *key)
    if key not in tables:
        tables[key] = cupy.asarray(values, blocking=True)
    return tables[key]


def fill_table(name: str, value: Any, channels: int, components: int) -> DeviceArray:
    """Fill values per channel and part."""
    if isinstance(value, cupy.ndarray):
        check_devices({name: value}, cupy.cuda.runtime.getDevice())
    xp = cupy if isinstance(value, cupy.ndarray) else np
    values = xp.empty(channels // components, np.complex128 if components == 2 else np.float64)
    values[...] = value
    return values.view(np.float64)


class Call:
    """One job of the sampler and the arrays it reads and writes.

    Described first, then given its arrays, then run in a direction, which is the name of a kernel.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], batch: int, grid: Coordinates, options: SamplingOptions
    ) -> None:
        """Of the image that is sampled or pushed to, by its shape and dtype, and a batch of so many samples."""
        self.job = job = SampleJob()
        self.ndim = ndim = len(shape) - 2
        self.options = options
        self.held: list[DeviceArray] = []
        self.tables: list[DeviceArray] = []  # those of them that are not of this call alone
        self.launched: Launch | None = None
        self.partial: tuple[int, ...] | None = None  # shape of the sums for the gradient to matrices
        self.strides: dict[str, list[int]] = {}  # along the shape, merged before they are handed to the kernels
        self.elements: set[int] = set()  # of images and samples
        self.sums: int | None = None  # of the image that is added to, which may be wider
        self.extent = 0
        self.channels_last = options.channel_axis == -1
        self.made = isinstance(grid, MatrixCoordinates)
        self.single = grid.itemsize == 4 and dtype.char not in "dD"
        self.shape = list(grid.shape[1:-1])
        self.inserted = -1  # axis of the shape that samples do not have
        job.components = parts_of(dtype)
        job.channels = shape[-1 if self.channels_last else 1] * job.components
        job.batch = job.output_batch = batch
        job.grid_batch = grid.shape[0]
        job.grid_type = int(grid.itemsize == 8)
        job.depth = 1
        job.coordinates = options.coordinates_code
        job.subgradient = options.subgradient_code
        job.cutoff = options.cutoff_code
        spatial = shape[1:-1] if self.channels_last else shape[2:]
        modes = options.modes(ndim)[::-1]
        for a, codes in enumerate(options.axis_codes(ndim)):
            job.size[a] = spatial[ndim - 1 - a]
            kernel = job.kernel[a]
            kernel.boundary, kernel.mode, kernel.taps, kernel.variant = codes[:4]
            kernel.parameter, kernel.support, table, kernel.parameters = codes[4:]
            if table is not None:
                self.tables.append(self.hold(table_of(modes[a], (), table)))
                kernel.table = self.tables[-1].data.ptr
        if options.has_fill:
            fill = fill_table("fill_value", options.fill_value, job.channels, job.components)
            if hasattr(options.fill_value, "shape"):  # such options are made anew for every call
                fill = self.hold(cupy.asarray(fill))
            else:
                fill = table_of(options, ("fill", job.channels, job.components), fill)
            self.tables.append(fill)
            job.fill = fill.data.ptr
        if isinstance(grid, MatrixCoordinates):
            self.matrices(grid)
        else:
            self.grid("grid", grid)

    def hold(self, array: DeviceArray) -> DeviceArray:
        """Keep an array until the kernels that read it are under way; note how far it reaches."""
        array = readable(array)
        self.held.append(array)
        self.extent = max(self.extent, extent_of(array))
        return array

    def image(self, name: str, array: DeviceArray | None) -> None:
        if array is None:
            return
        pixels = self.hold(array)
        to, parts, ndim = getattr(self.job, name), parts_of(pixels.dtype), self.ndim
        to.data, to.type = pixels.data.ptr, element_of(pixels.dtype)
        to.batch = stride_of(pixels, 0, parts)
        to.channel = stride_of(pixels, -1 if self.channels_last else 1, parts)
        for a in range(ndim):
            to.axis[a] = stride_of(pixels, (ndim if self.channels_last else ndim + 1) - a, parts)
        if name == "grad_input":
            self.sums = to.type
        else:
            self.elements.add(to.type)

    def samples(self, name: str, array: DeviceArray | None, *, channels: bool = True, components: bool = False) -> None:
        """Samples (N, C, *shape) or (N, *shape, C), without channels (N, *shape), with components one axis more."""
        if array is None:
            return
        values = self.hold(array)
        to, parts = getattr(self.job, name), parts_of(values.dtype)
        rank = values.ndim - 1 - channels - components
        to.data, to.type = values.data.ptr, element_of(values.dtype)
        to.batch = stride_of(values, 0, parts)
        first = 2 if channels and not self.channels_last else 1
        if channels:
            to.channel = stride_of(values, rank + 1 if self.channels_last else 1, parts)
        self.set_axes(name, [stride_of(values, a + first, parts) for a in range(rank)])
        if components:
            to.component = stride_of(values, -1, parts)
        if name not in ("mask", "chosen"):
            self.elements.add(to.type)

    def grid(self, name: str, array: DeviceArray | None) -> None:
        if array is None:
            return
        coordinates, to = self.hold(array), getattr(self.job, name)
        to.data = coordinates.data.ptr
        to.batch = stride_of(coordinates, 0)
        to.component = stride_of(coordinates, -1)
        self.set_axes(name, [stride_of(coordinates, a + 1) for a in range(coordinates.ndim - 2)])

    def set_axes(self, name: str, strides: list[int]) -> None:
        if self.inserted >= 0:
            strides.insert(self.inserted, 0)
        self.strides[name] = strides

    def matrices(self, coordinates: MatrixCoordinates) -> None:
        source, self.theta_shape = self.job.source, coordinates.theta.shape
        source.kind = 2 if coordinates.projective else 1
        source.theta = self.in_arithmetic(coordinates.theta)
        source.least_denominator = coordinates.min_denominator
        source.cull_behind = coordinates.cull_behind
        for a in range(self.ndim):
            source.size[a] = coordinates.size[self.ndim - 1 - a]
        source.count = prod(self.shape[: len(self.shape) - self.ndim])
        source.batch = 0 if self.job.grid_batch == 1 else source.count

    def in_arithmetic(self, array: DeviceArray) -> int:
        """The address of an array, contiguous and of the arithmetic's type."""
        return int(self.hold(cupy.ascontiguousarray(array, np.float32 if self.single else np.float64)).data.ptr)

    def steps(self, tangent: DeviceArray | None) -> None:
        """The tangent of the coordinates: of the grid, or of the matrices they are made from."""
        if not self.made:
            self.grid("d_grid", tangent)
        elif tangent is not None:
            self.job.source.d_theta = self.in_arithmetic(tangent)

    def doubles(self, array: DeviceArray | None) -> int | None:
        """The address of a contiguous array of doubles, which may come from the host."""
        return None if array is None else int(self.hold(cupy.asarray(array)).data.ptr)

    def project(self) -> None:
        """Samples do not have the depth of their lattice: a thread walks it."""
        self.inserted = len(self.shape) - 3
        self.job.projected = True
        self.job.depth = self.shape[self.inserted]
        self.shape[self.inserted] = 1

    def run(self, direction: str, samples: int, order: int, *, splits: bool = True) -> None:
        """Launch a kernel for so many samples of the batch; those that may split them do so by channels."""
        job = self.job
        self.set_shape()
        threads = samples * job.pixels
        if threads == 0:
            return
        layers = 1
        adjacent = splits and self.channels_last and job.channels >= MANY_CHANNELS
        if adjacent:
            layers = -(-job.channels // CHANNELS_EACH)
        elif splits:
            layers = self.shares(threads)
        job.layers, job.adjacent_layers = max(1, layers), adjacent
        name, inner = self.name(direction, order), job.layers if adjacent else 1
        self.launched = launch(name, threads * inner, self.argument(), BLOCK, job.layers // inner)

    def shares(self, threads: int) -> int:
        """Of how many threads each has some of the channels of a sample, if all samples have one thread otherwise."""
        if not 0 < threads < ENOUGH_THREADS:
            return 1
        return max(1, min(-(-ENOUGH_THREADS // threads), -(-self.job.channels // CHANNELS_EACH), MAX_LAYERS))

    def run_lanes(self, direction: str, order: int) -> None:
        """Launch a kernel for all coordinates of the grid, where lanes of a warp may share the channels of a sample."""
        job = self.job
        self.set_shape()
        threads = job.grid_batch * job.pixels
        if threads == 0:
            return
        lanes, shares = 1, self.channels_last and job.channels >= MANY_CHANNELS
        while lanes < 32 and CHANNELS_EACH * lanes < job.channels and (shares or threads * lanes < ENOUGH_THREADS):
            lanes *= 2
        job.layers = lanes
        self.launched = launch(self.name(direction, order), threads * lanes, self.argument(), BLOCK)

    def argument(self) -> DeviceArray:
        """The kernels' one argument."""
        return argument(self.job)

    def run_matrices(self, direction: str = "vjp_matrix") -> DeviceArray:
        """The gradient to the matrices, (N, *K, rows, ndim + 1) in double."""
        job, source = self.job, self.job.source
        self.set_shape()
        matrices = job.grid_batch * source.count
        pixels = job.pixels // max(1, source.count)
        theta = self.theta_shape
        if matrices * pixels == 0:
            return cupy.zeros(theta)
        source.chunks = max(1, min(-(-pixels // BLOCK), -(-1024 // matrices)))
        partial, sums = cupy.empty((matrices, source.chunks, *theta[-2:])), cupy.empty(theta)
        source.partial, self.partial, job.layers = partial.data.ptr, partial.shape, 1
        self.launched = launch(self.name(direction, 1), matrices * source.chunks * BLOCK, argument(job), BLOCK)
        sum_chunks(partial, sums)
        return sums

    def gathers(self) -> bool:
        """Whether sums in one order are found pixel by pixel: where an affine matrix says which samples read one."""
        job = self.job
        near = all(job.kernel[a].boundary in (ZEROS, CONSTANT) for a in range(self.ndim))
        affine = job.source.kind == AFFINE and not job.projected
        return self.options.deterministic and affine and near and self.room(0) <= GATHERED_TAPS

    def gather(self) -> None:
        """Fill the image that is added to."""
        job = self.job
        self.set_shape()
        images = 1 if job.grad_input.batch == 0 else job.batch
        job.layers = max(1, -(-job.channels // CHANNELS_EACH))
        job.adjacent_layers = self.channels_last and job.channels >= MANY_CHANNELS
        inner = job.layers if job.adjacent_layers else 1
        blocks = -(-prod(job.size[: self.ndim]) * inner // BLOCK) * images * (job.layers // inner)
        threads = min(blocks, GATHER_BLOCKS) * BLOCK
        self.launched = launch(self.name("gather_input", 0), threads, self.argument(), BLOCK)

    def tiles(self, order: int) -> bool:
        """Whether warps take tiles of samples and join what these add to an image."""
        job = self.job
        self.set_shape()
        job.row = self.shape[-1] if self.shape else 1
        job.layers = self.shares(job.batch * job.pixels) if order == 0 else 1  # which the type of indices depends on
        adjacent = self.channels_last and job.channels >= MANY_CHANNELS
        many = order == 0 or job.channels <= CHANNELS_EACH or job.grid_batch * job.pixels >= TILED
        flat = self.ndim > 1 and 0 < TILE_HEIGHT * job.row <= job.pixels
        return many and flat and not adjacent and self.room(order) == 2 and self.plain(order) is not None

    def run_tiles(self, direction: str, order: int) -> None:
        """The same as `run` or `run_lanes`, where `tiles`."""
        job = self.job
        rows = job.pixels // job.row
        tiles = -(-job.row // (32 // TILE_HEIGHT)) * -(-rows // TILE_HEIGHT)
        images = job.batch if order == 0 else job.grid_batch
        self.launched = launch(self.name(direction, order), 32 * images * tiles, self.argument(), BLOCK, job.layers)

    def run_groups(self, partial: DeviceArray) -> None:
        """Add to rows of sums, one for each thread."""
        job = self.job
        self.set_shape()
        job.partial = self.doubles(partial)
        job.groups, job.partial_row = partial.shape
        launch(self.name("vjp_options", 0), job.groups, argument(job), BLOCK)

    def set_shape(self) -> None:
        """Merge axes of the samples whose memory allows it: kernels divide by the lengths of those that are left."""
        job = self.job
        shape, strides = merged(self.shape, self.strides, self.ndim if self.made else 0)
        if len(shape) > MAX_RANK:
            raise ValueError(
                f"arrays of shape {tuple(self.shape)} between batch and coordinates, whose memory lets no more than "
                f"that merge, have too many axes: expected {MAX_RANK} at most, pass cupy.ascontiguousarray(...)"
            )
        job.rank = len(shape)
        job.pixels = prod(shape)
        for a, length in enumerate(shape[::-1]):
            job.shape[a] = length
        for name, axes in strides.items():
            to = self.described(name)
            for a, stride in enumerate(axes[::-1]):
                to.axis[a] = stride

    def described(self, name: str) -> Any:
        """What the kernels are told of an array."""
        return getattr(self.job, name)

    def name(self, direction: str, order: int) -> str:
        """The name expression of a kernel that takes derivatives of so high an order of the weights."""
        room = self.room(order)
        plain = self.plain(order) if direction in PLAIN_KERNELS else None
        job = f"PlainJob<{plain}>" if plain else "SampleJob"
        pixels, real, index = self.types(plain is not None)
        return f"{direction}<{job}, {pixels}, {real}, {index}, {self.ndim}, {room}>"

    def types(self, plain: bool) -> tuple[str, str, str]:
        """Of pixels, arithmetic and indices."""
        real = "float" if self.single else "double"
        sizes = prod(self.job.size[: self.ndim])
        turns = self.job.batch * max(self.job.pixels, sizes) * max(1, self.job.layers)
        index = integer_for(self.extent, turns, *self.job.size)
        elements = self.elements | ({self.sums} if self.sums is not None and not plain else set())
        pixels = ELEMENT_TYPES.get(min(elements)) if len(elements) == 1 else None
        known = plain or pixels == "float" or (pixels == "double" and not self.single)
        return (pixels if known and pixels else "Any"), real, index

    def plain(self, order: int) -> str | None:
        """The arguments of the type of the job, if it is a PlainJob."""
        job, ndim = self.job, self.ndim
        pixels, real, index = self.types(True)
        wide = self.sums in (None, int(not self.single)) and pixels in (
            (real, "Half", "Bfloat") if self.single else (real,)
        )
        more = job.components == 2 or job.cutoff or job.projected or job.mask.data or job.fill or job.chosen.data
        boundaries = {job.kernel[a].boundary for a in range(ndim)}
        known = job.source.kind == AFFINE or (job.source.kind == STORED and bool(job.grid_type) != self.single)
        if more or not known or job.output_batch != job.batch or len(boundaries) > 1 or CONSTANT in boundaries:
            return None
        if job.rank != ndim and (job.rank != 1 or self.made):
            return None
        if not wide or index != "int" or self.room(order) > MOST_KNOWN_TAPS:
            return None
        return f"{job.rank}, {job.source.kind}, {boundaries.pop()}"

    def room(self, order: int) -> int:
        kernels = [self.job.kernel[a] for a in range(self.ndim)]
        modes = {kernel.mode for kernel in kernels}
        right = order == 0 or self.options.subgradient == "right"
        if modes == {NEAREST}:
            return 1
        if modes == {LINEAR} and right:
            return 2
        if modes == {CUBIC}:
            return 4
        taps = max(3 if kernel.mode == LINEAR else kernel.taps for kernel in kernels)
        return next(room for room in ROOMS[3:] if taps <= room)


def merged(shape: Sequence[int], strides: dict[str, list[int]], kept: int) -> tuple[list[int], dict[str, list[int]]]:
    """Axes that follow each other in the memory of all arrays made one, but for the last `kept`; at least one is
    left."""
    lengths: list[int] = []
    axes: dict[str, list[int]] = {name: [] for name in strides}
    last = len(shape) - kept
    for a, length in enumerate(shape):
        if a < last and length == 1:
            continue
        follows = all(lengths and axes[name][-1] == steps[a] * length for name, steps in strides.items())
        if 0 < a < last and lengths and follows:
            lengths[-1] *= length
        else:
            lengths.append(length)
        for name, steps in strides.items():
            axes[name][len(lengths) - 1 :] = [steps[a]]
    if not lengths:
        return [1], {name: [0] for name in strides}
    return lengths, axes
