"""``python -m bench --gpu``: on a CUDA device, beside PyTorch there and beside a copy of the same bytes.

The floor of a case is the time that a copy takes to move its least traffic: what has to be read and written once if
caches were perfect and nothing else took time. Small cases stay in the second cache between calls and may be faster.

Gradients have a row more, of ``deterministic=True`` beside the same of PyTorch, which has no such sums of its own.
PyTorch has images of halves sampled at coordinates of halves alone. Of sides up to `FINE` pixels these are what it is
given, and results are compared as far as they can agree; larger images it has in float32, as autocast makes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any

import numpy as np

from bench.agreement import compare, rms
from bench.arrays import Array, Arrays
from bench.cases import (
    AFFINE,
    BOTH,
    CUBIC,
    DIGITS,
    EVERY,
    FEATURES,
    GRID,
    RGB,
    SMOOTH,
    TURNED,
    ULTRA_HD,
    VOLUME,
    VOLUMES,
    Block,
    Case,
)
from bench.peers import Call, Peer, Pystn, Torch
from bench.timing import Timing, interleaved

__all__ = ["PystnCuda", "Row", "TorchCuda", "measure", "select", "table"]

TABLE = (
    Block("linear, zeros", BOTH, (RGB, FEATURES), EVERY, quick=True),
    Block("linear, zeros", BOTH, (DIGITS, ULTRA_HD), SMOOTH),
    Block("whole transform", AFFINE, (RGB, FEATURES), TURNED, quick=True),
    Block("whole transform", AFFINE, (DIGITS, ULTRA_HD, VOLUME), SMOOTH),
    Block("affine grid", GRID, (RGB, ULTRA_HD), TURNED),
    Block("other modes", BOTH, (RGB, FEATURES), TURNED, kernels=(("nearest", "zeros"), CUBIC)),
    Block("channels last", BOTH, (FEATURES,), EVERY, channels="last", quick=True),
    Block("volumes", BOTH, (VOLUME, VOLUMES), SMOOTH),
    Block("float16", BOTH, (RGB, FEATURES, ULTRA_HD), TURNED, dtypes=("float16",)),
    Block("float64", BOTH, (RGB, FEATURES), TURNED, dtypes=("float64",)),
)
COPIED = 1 << 28  # bytes, more than any cache has
FINE = 512  # pixels of a side, of which coordinates of halves tell eighths apart


def select(quick: bool, substring: str) -> list[Case]:
    cases = [case for block in TABLE if block.quick or not quick for case in block.cases()]
    return [case for case in dict.fromkeys(cases) if substring.lower() in case.name.lower()]


class OnDevice:
    """The arrays of a case, moved when asked for."""

    def __init__(self, arrays: Arrays, move: Callable[[Array], Any]) -> None:
        self.arrays, self.move = arrays, move

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.arrays, name)
        moved = self.move(value) if isinstance(value, np.ndarray) else value
        setattr(self, name, moved)
        return moved


class PystnCuda(Pystn):
    """pystn on CuPy arrays."""

    def __init__(self) -> None:
        super().__init__()
        import cupy

        self.cupy = cupy

    def prepare(self, case: Case, arrays: Any) -> Call:
        return super().prepare(case, OnDevice(arrays, self.cupy.asarray))

    def results(self, case: Case, result: Any) -> list[Array]:
        return [self.cupy.asnumpy(array) for array in super().results(case, result)]


class Deterministic(PystnCuda):
    """The same with sums that are bitwise the same in every run."""

    name = "deterministic"

    def options(self, case: Case) -> dict[str, Any]:
        return {**super().options(case), "deterministic": True}


class Moving:
    """The torch module, but what comes from NumPy goes to the device."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.torch, name)

    def from_numpy(self, array: Array) -> Any:
        return self.torch.from_numpy(array).cuda()


class TorchCuda(Torch):
    def __init__(self) -> None:
        super().__init__()
        if not self.lib.cuda.is_available():
            raise ImportError("this PyTorch finds no device")
        self.lib = Moving(self.lib)

    def prepare(self, case: Case, arrays: Any) -> Call:
        if in_halves(case):  # as of float32, for which nothing is cast, but all arrays are of halves
            return super().prepare(replace(case, dtype="float32"), OnDevice(arrays, halves))
        return super().prepare(case, arrays)

    def results(self, case: Case, result: Any) -> list[Array]:
        return [self.result(case, tensor.detach().cpu().numpy()) for tensor in Peer.results(self, case, result)]


def in_halves(case: Case) -> bool:
    """Whether PyTorch has coordinates of halves too."""
    return case.dtype == "float16" and max(case.spatial) <= FINE


def halves(array: Array) -> Array:
    return array.astype(np.float16)


def disagreement(case: Case, library: Peer, ours: Sequence[Array], theirs: Sequence[Array]) -> str | None:
    """What is wrong with the results of a library, if they are not ours.

    A coordinate of halves rounds by up to eps W / 8 pixels, some times over until it is one of pixels. In as large a
    share of the samples slopes of white noise are those of another cell. The difference has the root of that as its
    root mean square; with eps W for each axis there is room for what is rounded after that.
    """
    if library.name != Torch.name or not in_halves(case):
        return compare(case, ours, theirs).problem
    if [array.shape for array in ours] != [array.shape for array in theirs]:
        return f"shapes {[array.shape for array in ours]} and {[array.shape for array in theirs]}"
    bound = sqrt(case.ndim * float(np.finfo(np.float16).eps) * max(case.spatial))
    for one, other in zip(ours, theirs, strict=True):
        difference = rms(one.astype(np.float64) - other) / (rms(one.astype(np.float64)) or 1.0)
        if not difference <= bound:  # so for NaN
            return f"they disagree: {difference:.1e} > {bound:.1e}"
    return None


@dataclass(frozen=True)
class Row:
    """A case: what it took, each library by name, and the least that its bytes could have taken."""

    case: Case
    timings: Mapping[str, Timing]
    floor: float  # seconds
    problems: tuple[str, ...] = ()


def device_seconds(call: Callable[[], Any], calls: int = 1) -> float:
    """Seconds per call by the device's clock, from the first kernel to the last."""
    import cupy

    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3 / calls


def bandwidth(seconds_of: Callable[..., float] = device_seconds) -> float:
    """Bytes per second that a copy within the device reads and writes."""
    import cupy

    source, target = cupy.zeros(COPIED // 4, np.float32), cupy.empty(COPIED // 4, np.float32)

    def copy() -> None:
        target[...] = source

    return 2 * COPIED / min(seconds_of(copy, 4) for _ in range(5))


def least_bytes(case: Case) -> int:
    """What an operation has to read and write, each array once."""
    image = prod(case.input_shape) * np.dtype(case.dtype).itemsize
    samples = prod(case.output_shape) * np.dtype(case.dtype).itemsize
    image = min(image, 4 * samples * (2 if case.ndim == 3 else 1))  # no more than the taps
    grid = case.shape[0] * prod(case.size) * case.ndim * np.dtype(case.coordinates).itemsize
    forward, backward = image + samples, 2 * image + samples
    return {
        "grid_sample": forward + grid,
        "grid_sample_vjp": backward + 2 * grid,
        "warp_affine": forward,
        "warp_affine_fwd_bwd": forward + backward,
        "affine_grid": grid,
        "affine_grid_vjp": grid,
    }[case.operation]


def measure(
    case: Case,
    libraries: Sequence[Peer],
    bytes_per_second: float,
    rounds: int,
    seconds_of: Callable[..., float] = device_seconds,
) -> Row:
    """The first of the libraries is what the results of the others are compared with."""
    arrays, calls, problems, ours = Arrays(case), {}, [], None
    for library in libraries:
        if library.name == "torch" and "torch" not in case.peers:
            continue
        if library.name == Deterministic.name and "vjp" not in case.operation and "bwd" not in case.operation:
            continue
        if library.name == Deterministic.name and case.operation == "affine_grid_vjp":
            continue
        try:
            call = library.prepare(case, arrays)
            results = library.results(case, call())
        except Exception as error:
            problems.append(f"{library.name} failed: {type(error).__name__}: {error}")
            continue
        if ours is None:
            ours = results
        elif problem := disagreement(case, library, ours, results):
            problems.append(f"{library.name}: {problem}")
            continue
        calls[library.name] = call
    timings = interleaved(calls, rounds, seconds_of) if calls else {}
    return Row(case, timings, least_bytes(case) / bytes_per_second, tuple(problems))


def microseconds(timing: Timing | None) -> str:
    return f"{1e6 * timing.median:>9.1f} ±{100 * timing.spread:<3.0f}" if timing else f"{'-':>14}"


def line(label: str, ours: Timing | None, floor: float, theirs: Timing | None) -> str:
    fraction = f"{floor / ours.median:>8.2f}" if ours else f"{'-':>8}"
    ratio = f"{theirs.median / ours.median:>6.2f}" if ours and theirs else f"{'-':>6}"
    return f"{label}  {microseconds(ours)}  {1e6 * floor:>9.1f}  {fraction}  {microseconds(theirs)}  {ratio}"


def table(rows: Iterable[Row], width: int = 0) -> Iterator[str]:
    """Lines, each as soon as its row has been measured; labels are padded to a width."""
    heads = ("pystn us ±%", "floor us", "fraction", "torch us ±%", "ratio")
    yield f"{'':<{width}}  {heads[0]:>14}  {heads[1]:>9}  {heads[2]:>8}  {heads[3]:>14}  {heads[4]:>6}"
    section = None
    for row in rows:
        if row.case.section != section:
            section = row.case.section
            yield f"-- {section}"
        theirs, fixed = row.timings.get(Torch.name), row.timings.get(Deterministic.name)
        yield line(f"{row.case.label:<{width}}", row.timings.get(Pystn.name), row.floor, theirs)
        if fixed:
            yield line(f"{'  deterministic':<{width}}", fixed, row.floor, theirs)
        yield from (f"    {problem}" for problem in row.problems)


def main(quick: bool, substring: str, rounds: int, progress: Callable[[str], None]) -> int:
    import cupy

    if not cupy.cuda.is_available():
        print("--gpu needs a CUDA device, and CuPy finds none", file=sys.stderr)
        return 2
    libraries: list[Peer] = [PystnCuda(), Deterministic()]
    try:
        libraries.append(TorchCuda())
    except ImportError as error:
        print(f"without torch: {error}", file=sys.stderr)
    speed, cases = bandwidth(), select(quick, substring)
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    print(f"{name}, copying at {speed / 1e9:.0f} GB/s; CuPy {cupy.__version__}, pystn {libraries[0].version}")
    print("fraction: floor / pystn. ratio: torch / pystn. Medians; ± half the distance between quartiles, in %.\n")
    failed = False

    def rows() -> Iterator[Row]:
        nonlocal failed
        for number, case in enumerate(cases, 1):
            progress(f"[{number}/{len(cases)}] {case.name}")
            row = measure(case, libraries, speed, rounds)
            cupy.get_default_memory_pool().free_all_blocks()
            failed = failed or bool(row.problems)
            yield row

    for line in table(rows(), max((len(case.label) for case in cases), default=0)):
        print(line, flush=True)
    return int(failed)
