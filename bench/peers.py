"""One small adapter per library: for a case and its arrays, the call to be timed.

An adapter has a method for each operation that its library can do. Whatever is no part of the
operation (views, layouts, options) is prepared in the method; the call returned does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

import numpy as np

from bench.arrays import Array, Arrays
from bench.cases import Case

__all__ = ["PEERS", "Peer", "Pystn", "load"]

Call = Callable[[], Any]


class Peer:
    """A library beside others; missing ones raise ImportError when made."""

    name: str
    version: str

    def set_threads(self, n: int) -> None:
        """Use n threads; a library that knows only one ignores it."""

    def prepare(self, case: Case, arrays: Arrays) -> Call:
        call: Call = getattr(self, case.operation)(case, arrays)
        return call

    def results(self, case: Case, result: Any) -> list[Array]:
        """What a call returned as arrays in pystn's layout, to be compared."""
        return [a for a in (result if isinstance(result, tuple) else (result,)) if a is not None]


class Pystn(Peer):
    name = "pystn"

    def __init__(self) -> None:
        import pystn

        self.lib, self.version = pystn, pystn.__version__

    def set_threads(self, n: int) -> None:
        self.lib.set_num_threads(n)

    def options(self, case: Case) -> dict[str, Any]:
        channel_axis = -1 if case.channels == "last" else 1
        return {
            "mode": case.mode,
            "padding_mode": case.padding,
            "coords": case.coords,
            "channel_axis": channel_axis,
        }

    def grid_sample(self, case: Case, a: Arrays) -> Call:
        options = self.options(case)
        if case.out:
            options["out"] = np.empty_like(a.grad_output)
        image, grid, sample = a.input, a.grid, self.lib.grid_sample
        return lambda: sample(image, grid, **options)

    def grid_sample_vjp(self, case: Case, a: Arrays, wrt: tuple[str, ...] = ("input", "grid")) -> Call:
        options = self.options(case) | {"wrt": wrt}
        if case.out:
            options["out"] = (np.empty_like(a.input), np.empty_like(a.grid))
        grad, image, grid, vjp = a.grad_output, a.input, a.grid, self.lib.grid_sample_vjp
        return lambda: vjp(grad, image, grid, **options)

    def grid_sample_vjp_grid(self, case: Case, a: Arrays) -> Call:
        return self.grid_sample_vjp(case, a, ("grid",))

    def affine_grid(self, case: Case, a: Arrays) -> Call:
        theta, generate = a.theta, self.lib.affine_grid
        return lambda: generate(theta, case.size)

    def affine_grid_vjp(self, case: Case, a: Arrays) -> Call:
        grad, theta, vjp = a.grad_grid, a.theta, self.lib.affine_grid_vjp
        return lambda: vjp(grad, theta, case.size)

    def stn(self, case: Case, a: Arrays) -> Call:
        options, image, theta, size = self.options(case), a.input, a.theta, case.size
        sample, generate = self.lib.grid_sample, self.lib.affine_grid
        return lambda: sample(image, generate(theta, size), **options)

    def stn_fwd_bwd(self, case: Case, a: Arrays) -> Call:
        options, size, lib = self.options(case), case.size, self.lib
        image, theta, grad = a.input, a.theta, a.grad_output

        def call() -> tuple[Array, Array]:
            grid = lib.affine_grid(theta, size)
            lib.grid_sample(image, grid, **options)
            grad_input, grad_grid = lib.grid_sample_vjp(grad, image, grid, **options)
            (grad_theta,) = lib.affine_grid_vjp(grad_grid, theta, size)
            return grad_input, grad_theta

        return call


class Torch(Peer):
    name = "torch"

    def __init__(self) -> None:
        import torch

        self.lib, self.version = torch, torch.__version__
        self.functional, self.aten = torch.nn.functional, torch.ops.aten

    def set_threads(self, n: int) -> None:
        self.lib.set_num_threads(n)

    def image(self, case: Case, array: Array) -> Any:
        """An (N, C, H, W) tensor; of memory format channels_last where the case has them last."""
        tensor = self.lib.from_numpy(array)
        return tensor.permute(0, 3, 1, 2) if case.channels == "last" else tensor

    def results(self, case: Case, result: Any) -> list[Array]:
        tensors: list[Any] = super().results(case, result)
        arrays = [tensor.detach().numpy() for tensor in tensors]
        images = [case.shape, tuple(self.size(case))] if case.channels == "last" else []
        return [a.transpose(0, 2, 3, 1) if a.shape in images else a for a in arrays]

    def sampler(self, case: Case) -> dict[str, Any]:
        mode = "bilinear" if case.mode == "linear" else case.mode
        return {"mode": mode, "padding_mode": case.padding, "align_corners": False}

    def grid_sample(self, case: Case, a: Arrays) -> Call:
        image, grid, options = self.image(case, a.input), self.lib.from_numpy(a.grid), self.sampler(case)
        sample = self.functional.grid_sample
        return lambda: sample(image, grid, **options)

    def grid_sample_vjp(self, case: Case, a: Arrays, mask: tuple[bool, bool] = (True, True)) -> Call:
        # The kernel itself, without the bookkeeping of autograd.
        backward = self.aten.grid_sampler_2d_backward
        image, grad = self.image(case, a.input), self.image(case, a.grad_output)
        grid, padding = self.lib.from_numpy(a.grid), ("zeros", "border", "reflection").index(case.padding)
        mode = ("linear", "nearest").index(case.mode)
        return lambda: backward(grad, image, grid, mode, padding, False, mask)

    def grid_sample_vjp_grid(self, case: Case, a: Arrays) -> Call:
        return self.grid_sample_vjp(case, a, (False, True))

    def affine_grid(self, case: Case, a: Arrays) -> Call:
        theta, size, generate = self.lib.from_numpy(a.theta), self.size(case), self.functional.affine_grid
        return lambda: generate(theta, size, align_corners=False)

    def affine_grid_vjp(self, case: Case, a: Arrays) -> Call:
        grad, size = self.lib.from_numpy(a.grad_grid), self.size(case)
        backward = self.aten.affine_grid_generator_backward
        return lambda: backward(grad, size, False)

    def stn(self, case: Case, a: Arrays) -> Call:
        image, theta = self.image(case, a.input), self.lib.from_numpy(a.theta)
        return self.transform(case, image, theta)

    def stn_fwd_bwd(self, case: Case, a: Arrays) -> Call:
        leaves = (
            self.image(case, a.input).requires_grad_(),
            self.lib.from_numpy(a.theta).requires_grad_(),
        )
        grad, forward = self.image(case, a.grad_output), self.transform(case, *leaves)
        return lambda: self.lib.autograd.grad(forward(), leaves, grad)

    def transform(self, case: Case, image: Any, theta: Any) -> Call:
        size, options, functional = self.size(case), self.sampler(case), self.functional
        return lambda: functional.grid_sample(
            image, functional.affine_grid(theta, size, align_corners=False), **options
        )

    @staticmethod
    def size(case: Case) -> list[int]:
        return [*case.shape[:2], *case.size]


class OpenCV(Peer):
    name = "opencv"

    def __init__(self) -> None:
        import cv2

        self.lib, self.version = cv2, cv2.__version__

    def set_threads(self, n: int) -> None:
        self.lib.setNumThreads(n)

    def grid_sample(self, case: Case, a: Arrays) -> Call:
        (image,), (grid,), lib = a.input, a.grid, self.lib
        x, y = np.ascontiguousarray(grid[..., 0]), np.ascontiguousarray(grid[..., 1])
        return lambda: lib.remap(image, x, y, lib.INTER_LINEAR, borderMode=lib.BORDER_CONSTANT)

    def results(self, case: Case, result: Array) -> list[Array]:
        return [result.reshape(1, *case.size, case.shape[1])]


class SciPy(Peer):
    name = "scipy"

    def __init__(self) -> None:
        import scipy
        import scipy.ndimage

        self.lib, self.version = scipy.ndimage, scipy.__version__

    def grid_sample(self, case: Case, a: Arrays) -> Call:
        image, grid = a.input[0, ..., 0], a.grid[0]
        coordinates = np.ascontiguousarray([grid[..., 1], grid[..., 0]])
        options = {"order": 1, "mode": "grid-constant", "prefilter": False}
        return lambda: self.lib.map_coordinates(image, coordinates, **options)

    def results(self, case: Case, result: Array) -> list[Array]:
        return [result[None, ..., None]]


class ScikitImage(Peer):
    name = "skimage"

    def __init__(self) -> None:
        import skimage
        import skimage.transform

        self.lib, self.version = skimage.transform, version("scikit-image")

    def stn(self, case: Case, a: Arrays) -> Call:
        # A matrix takes the fast path of warp; a stored map would go to SciPy.
        image, matrix, warp = a.input[0, ..., 0], a.matrix, self.lib.warp
        options = {"order": 1, "mode": "constant", "clip": False, "preserve_range": True}
        return lambda: warp(image, matrix, **options)

    def results(self, case: Case, result: Array) -> list[Array]:
        return [result[None, ..., None]]


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Torch, OpenCV, SciPy, ScikitImage)}


def load(names: Iterable[str]) -> tuple[dict[str, Peer], dict[str, str]]:
    """The adapters of `names` that are installed, and for each of the others why it is not there."""
    found: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            found[name] = PEERS[name]()
        except ImportError as error:
            missing[name] = str(error)
    return found, missing
