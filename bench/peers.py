"""One small adapter per library: for a case and its arrays, the call to be timed.

An adapter has a method for each operation that its library can do. Whatever is no part of the
operation (views, layouts, options) is prepared in the method; the call returned does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np

from bench.arrays import Array, Arrays, centres
from bench.cases import PIECES, Case

__all__ = ["PEERS", "Peer", "Pystn", "load"]

Call = Callable[[], Any]

FILL = 9.0  # what is outside under "constant"
STEPS = 50  # of flows


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
        self.kernels = {
            "keys": pystn.Cubic(-0.5),
            "spline3": pystn.BSpline(3, prefilter=True),
            "lanczos4": pystn.Lanczos(4),
        }

    def set_threads(self, n: int) -> None:
        self.lib.set_num_threads(n)

    def options(self, case: Case) -> dict[str, Any]:
        return {
            "mode": self.kernels.get(case.mode, case.mode),
            "padding_mode": case.padding,
            "coords": case.coords,
            "channel_axis": -1 if case.channels == "last" else 1,
        } | ({"fill_value": FILL} if case.padding == "constant" else {})

    def grid_sample(self, case: Case, a: Arrays) -> Call:
        options = self.options(case)
        if case.out:
            options["out"] = np.ones_like(a.grad_output)  # in memory, as empty ones are not
        image, grid, sample = a.input, a.grid, self.lib.grid_sample
        return lambda: sample(image, grid, **options)

    def grid_sample_vjp(self, case: Case, a: Arrays, wrt: tuple[str, ...] = ("input", "grid")) -> Call:
        options = self.options(case) | {"wrt": wrt}
        if case.out:
            options["out"] = (np.ones_like(a.input), np.ones_like(a.grid))
        grad, image, grid, vjp = a.grad_output, a.input, a.grid, self.lib.grid_sample_vjp
        return lambda: vjp(grad, image, grid, **options)

    def grid_sample_vjp_grid(self, case: Case, a: Arrays) -> Call:
        return self.grid_sample_vjp(case, a, ("grid",))

    def grid_sample_jvp(self, case: Case, a: Arrays) -> Call:
        arrays, options, jvp = (a.input, a.grid, a.d_input, a.d_grid), self.options(case), self.lib.grid_sample_jvp
        return lambda: jvp(*arrays, **options)

    def grid_sample_vjp2(self, case: Case, a: Arrays) -> Call:
        arrays, options = (a.d_input, a.d_grid, a.grad_output, a.input, a.grid), self.options(case)
        vjp2 = self.lib.grid_sample_vjp2
        return lambda: vjp2(*arrays, **options)

    def affine_grid(self, case: Case, a: Arrays) -> Call:
        theta, generate = a.theta, self.lib.affine_grid
        options = {"out": np.ones_like(a.grad_grid)} if case.out else {}
        return lambda: generate(theta, case.size, **options)

    def affine_grid_vjp(self, case: Case, a: Arrays) -> Call:
        grad, theta, vjp = a.grad_grid, a.theta, self.lib.affine_grid_vjp
        return lambda: vjp(grad, theta, case.size)

    def projective_grid(self, case: Case, a: Arrays) -> Call:
        theta, generate = a.theta, self.lib.projective_grid
        return lambda: generate(theta, case.size)

    def projective_grid_vjp(self, case: Case, a: Arrays) -> Call:
        grad, theta, vjp = a.grad_grid, a.theta, self.lib.projective_grid_vjp
        return lambda: vjp(grad, theta, case.size)

    def thin_plate(self, case: Case, a: Arrays) -> Call:
        spline, theta = self.lib.ThinPlateSpline(a.control_points, case.size), a.moved_points
        return lambda: spline(theta)

    def thin_plate_vjp(self, case: Case, a: Arrays) -> Call:
        spline, grad, theta = self.lib.ThinPlateSpline(a.control_points, case.size), a.grad_grid, a.moved_points
        return lambda: spline.vjp(grad, theta)

    def piecewise(self, case: Case, a: Arrays) -> Call:
        pieces = self.lib.PiecewiseAffine(a.control_points, case.size, triangles=a.triangles)
        theta = a.moved_points
        return lambda: pieces(theta)

    def piecewise_vjp(self, case: Case, a: Arrays) -> Call:
        pieces = self.lib.PiecewiseAffine(a.control_points, case.size, triangles=a.triangles)
        grad, theta = a.grad_grid, a.moved_points
        return lambda: pieces.vjp(grad, theta)

    def flow(self, case: Case, a: Arrays) -> Call:
        flow, theta = self.flows(case), a.velocities.reshape(case.shape[0], -1)
        return lambda: flow(theta)

    def flow_vjp(self, case: Case, a: Arrays) -> Call:
        flow, grad, theta = self.flows(case), a.grad_grid, a.velocities.reshape(case.shape[0], -1)
        return lambda: flow.vjp(grad, theta)

    def flows(self, case: Case) -> Any:
        return self.lib.CPAB(round(case.shape[1] ** 0.5), case.size, zero_boundary=False, steps=STEPS)

    def warp(self, case: Case, a: Arrays, name: str) -> Call:
        image, theta, options, size, warp = a.input, a.theta, self.options(case), case.size, getattr(self.lib, name)
        return lambda: warp(image, theta, size, **options)

    def warp_fwd_bwd(self, case: Case, a: Arrays, name: str) -> Call:
        forward, vjp = self.warp(case, a, name), getattr(self.lib, f"{name}_vjp")
        grad, image, theta, options, size = a.grad_output, a.input, a.theta, self.options(case), case.size

        def call() -> Any:
            forward()
            return vjp(grad, image, theta, size, **options)

        return call

    def warp_affine(self, case: Case, a: Arrays) -> Call:
        return self.warp(case, a, "warp_affine")

    def warp_affine_fwd_bwd(self, case: Case, a: Arrays) -> Call:
        return self.warp_fwd_bwd(case, a, "warp_affine")

    def warp_projective(self, case: Case, a: Arrays) -> Call:
        return self.warp(case, a, "warp_projective")

    def warp_project(self, case: Case, a: Arrays) -> Call:
        return self.warp(case, a, "warp_project")

    def warp_project_fwd_bwd(self, case: Case, a: Arrays) -> Call:
        return self.warp_fwd_bwd(case, a, "warp_project")

    def training_step(self, case: Case, a: Arrays) -> Call:
        from bench.training import training_step
        from pystn.torch import warp_affine

        size, options = case.size, self.options(case)
        return training_step(case, a, lambda images, theta: warp_affine(images, theta, size, **options))


class SparseProducts(Peer):
    """What a piecewise affine map is with a library of sparse matrices: a product with three weights for each pixel.

    Its columns are the coordinates of all transforms, which are brought side by side for it, and apart after it:
    grids are what samplers take and give gradients to.
    """

    array: Callable[[Array], Any]

    def sparse(self, case: Case, a: Arrays, *, transposed: bool) -> Any:
        """The weights (pixels, K), or (K, pixels), as a matrix of the library that is made for products."""
        raise NotImplementedError

    def contiguous(self, array: Any) -> Any:
        return np.ascontiguousarray(array)

    def product(self, weights: Any, stacked: Any) -> Any:
        """Of (N, rows, 2), for each of N."""
        columns = self.contiguous(stacked.swapaxes(0, 1)).reshape(stacked.shape[1], -1)
        return self.contiguous((weights @ columns).reshape(weights.shape[0], -1, 2).swapaxes(0, 1))

    def piecewise(self, case: Case, a: Arrays) -> Call:
        weights, points = self.sparse(case, a, transposed=False), self.array(a.moved_points)
        return lambda: self.product(weights, points)

    def piecewise_vjp(self, case: Case, a: Arrays) -> Call:
        weights = self.sparse(case, a, transposed=True)
        gradient = self.array(a.grad_grid.reshape(case.shape[0], -1, 2))
        return lambda: self.product(weights, gradient)


class Splines(Peer):
    """What a thin plate spline is with a library of matrices: a product with the same basis."""

    array: Callable[[Array], Any]

    def thin_plate(self, case: Case, a: Arrays) -> Call:
        basis, theta = self.array(a.spline_basis), self.array(a.moved_points)
        return lambda: basis @ theta

    def thin_plate_vjp(self, case: Case, a: Arrays) -> Call:
        basis, grad = self.array(a.spline_basis), self.array(a.grad_grid.reshape(case.shape[0], -1, 2))
        return lambda: basis.T @ grad


class Torch(Splines, SparseProducts):
    """Signals are images of height 1 here, there being no sampler in one dimension."""

    name = "torch"

    def __init__(self) -> None:
        import torch

        self.lib, self.version = torch, torch.__version__
        self.functional, self.aten = torch.nn.functional, torch.ops.aten
        self.array = torch.from_numpy

    def contiguous(self, array: Any) -> Any:
        return array.contiguous()

    def sparse(self, case: Case, a: Arrays, *, transposed: bool) -> Any:
        weights = a.weights.T.tocsr() if transposed else a.weights
        parts = (self.lib.from_numpy(part) for part in (weights.indptr, weights.indices, weights.data))
        with catch_warnings():
            simplefilter("ignore")  # that its sparse tensors are in beta
            return self.lib.sparse_csr_tensor(*parts, weights.shape, check_invariants=True)

    def set_threads(self, n: int) -> None:
        self.lib.set_num_threads(n)

    def image(self, case: Case, array: Array) -> Any:
        """An (N, C, ...) tensor; of memory format channels_last where the case has them last."""
        tensor = self.lib.from_numpy(array)
        if case.channels == "last":
            tensor = tensor.movedim(-1, 1)
        return tensor.unsqueeze(2) if case.ndim == 1 else tensor

    def points(self, case: Case, array: Array) -> Any:
        """A grid, or a tangent of one."""
        tensor = self.lib.from_numpy(array)
        return self.functional.pad(tensor, (0, 1)).unsqueeze(1) if case.ndim == 1 else tensor

    def results(self, case: Case, result: Any) -> list[Array]:
        tensors: list[Any] = super().results(case, result)
        if case.operation == "training_step":  # arrays already
            return tensors
        return [self.result(case, tensor.detach().numpy()) for tensor in tensors]

    @staticmethod
    def result(case: Case, array: Array) -> Array:
        if case.operation in ("thin_plate", "piecewise"):
            return array.reshape(-1, *case.size, 2)
        if case.ndim == 1:
            is_grid = array.shape == (case.shape[0], 1, *case.size, 2)
            return array[:, 0, :, :1] if is_grid else array[:, :, 0]
        last = np.moveaxis(array, 1, -1)
        return last if case.channels == "last" and last.shape in (case.input_shape, case.output_shape) else array

    def sampler(self, case: Case) -> dict[str, Any]:
        mode = {"linear": "bilinear", "cubic": "bicubic"}.get(case.mode, case.mode)
        return {"mode": mode, "padding_mode": case.padding, "align_corners": False}

    def sample(self, case: Case) -> Callable[[Any, Any], Any]:
        options, functional = self.sampler(case), self.functional
        return lambda image, grid: functional.grid_sample(image, grid, **options)

    def grid_sample(self, case: Case, a: Arrays) -> Call:
        image, grid, options = self.image(case, a.input), self.points(case, a.grid), self.sampler(case)
        sample = self.functional.grid_sample
        if case.dtype == "float16":  # a grid would have to be of halves too, which are no coordinates
            return lambda: sample(image.float(), grid, **options).half()
        return lambda: sample(image, grid, **options)

    def grid_sample_vjp(self, case: Case, a: Arrays, mask: tuple[bool, bool] = (True, True)) -> Call:
        # The kernel itself, without the bookkeeping of autograd.
        backward = self.aten.grid_sampler_3d_backward if case.ndim == 3 else self.aten.grid_sampler_2d_backward
        image, grad = self.image(case, a.input), self.image(case, a.grad_output)
        grid, padding = self.points(case, a.grid), ("zeros", "border", "reflection").index(case.padding)
        mode = ("linear", "nearest", "cubic").index(case.mode)
        if case.dtype == "float16":

            def widened() -> Any:
                to_image, to_grid = backward(grad.float(), image.float(), grid, mode, padding, False, mask)
                return to_image.half(), to_grid

            return widened
        return lambda: backward(grad, image, grid, mode, padding, False, mask)

    def grid_sample_vjp_grid(self, case: Case, a: Arrays) -> Call:
        return self.grid_sample_vjp(case, a, (False, True))

    def grid_sample_jvp(self, case: Case, a: Arrays) -> Call:
        # The sampler has no forward mode; this is the one way there is, through its second order.
        primals = self.image(case, a.input), self.points(case, a.grid)
        tangents, sample = (self.image(case, a.d_input), self.points(case, a.d_grid)), self.sample(case)
        jvp: Any = self.lib.autograd.functional.jvp
        return lambda: jvp(sample, primals, tangents)[1]

    def grid_sample_vjp2(self, case: Case, a: Arrays) -> Call:
        # The graph of the first derivatives is made here: timed is what pystn's function does.
        leaves = [self.image(case, a.grad_output), self.image(case, a.input), self.points(case, a.grid)]
        grad, image, grid = (leaf.requires_grad_() for leaf in leaves)
        differentiate = self.lib.autograd.grad
        first = differentiate(self.sample(case)(image, grid), (image, grid), grad, create_graph=True)
        second = self.image(case, a.d_input), self.points(case, a.d_grid)
        return lambda: differentiate(first, (grad, image, grid), second, retain_graph=True)

    def affine_grid(self, case: Case, a: Arrays) -> Call:
        theta, size, generate = self.lib.from_numpy(a.theta), self.size(case), self.functional.affine_grid
        return lambda: generate(theta, size, align_corners=False)

    def affine_grid_vjp(self, case: Case, a: Arrays) -> Call:
        grad, size = self.lib.from_numpy(a.grad_grid), self.size(case)
        backward = self.aten.affine_grid_generator_backward
        return lambda: backward(grad, size, False)

    def projective_grid(self, case: Case, a: Arrays) -> Call:
        theta = self.lib.from_numpy(a.theta)
        return lambda: self.divided(case, a, theta)

    def projective_grid_vjp(self, case: Case, a: Arrays) -> Call:
        # The graph is made here, with what a forward pass keeps.
        theta, grad = self.lib.from_numpy(a.theta).requires_grad_(), self.lib.from_numpy(a.grad_grid)
        grid, differentiate = self.divided(case, a, theta), self.lib.autograd.grad
        return lambda: differentiate(grid, theta, grad, retain_graph=True)

    def divided(self, case: Case, a: Arrays, theta: Any) -> Any:
        q = self.lib.from_numpy(a.homogeneous) @ theta.mT
        return (q[..., :2] / q[..., 2:]).reshape(-1, *case.size, 2)

    def flow(self, case: Case, a: Arrays) -> Call:
        velocities, flowed = self.lib.from_numpy(a.velocities), self.flows(case, a)
        return lambda: flowed(velocities)

    def flow_vjp(self, case: Case, a: Arrays) -> Call:
        velocities, flowed = self.lib.from_numpy(a.velocities).requires_grad_(), self.flows(case, a)
        grad, differentiate = self.lib.from_numpy(a.grad_grid), self.lib.autograd.grad
        return lambda: differentiate(flowed(velocities), velocities, grad)[0].reshape(case.shape[0], -1)

    def flows(self, case: Case, a: Arrays) -> Callable[[Any], Any]:
        """A function of velocities (N, V, 2): matrices of a step, looked up for every point and step, in float64."""
        lib, side, triangles = self.lib, round(case.shape[1] ** 0.5), self.lib.from_numpy(a.cell_triangles)
        ones = np.ones((len(triangles), 3, 1))
        barycentric = lib.from_numpy(np.linalg.inv(np.concatenate([a.cell_vertices[a.cell_triangles], ones], -1)))
        columns, rows = (lib.from_numpy(centres(n)) for n in case.size[::-1])
        pixels = lib.cartesian_prod(rows, columns).flip(-1).expand(case.shape[0], -1, -1)

        def triangle(points: Any) -> Any:
            place = (points + 1) * (side / 2)
            cell = place.floor().clamp(0, side - 1)
            (across, along), (column, row) = (place - cell - 0.5).unbind(-1), cell.long().unbind(-1)
            beside = across.abs() > along.abs()
            return (row * side + column) * 4 + lib.where(beside, (across > 0).long(), 2 + (along > 0).long())

        def flowed(velocities: Any) -> Any:
            generators = (barycentric @ velocities.double()[:, triangles]).mT / STEPS
            matrices, points = lib.linalg.matrix_exp(self.functional.pad(generators, (0, 0, 0, 1)))[..., :2, :], pixels
            for _ in range(STEPS):
                of_point = matrices.gather(1, triangle(points)[..., None, None].expand(-1, -1, 2, 3))
                points = (of_point[..., :2] @ points[..., None])[..., 0] + of_point[..., 2]
            return points.to(velocities.dtype).reshape(-1, *case.size, 2)

        return flowed

    def warp_affine(self, case: Case, a: Arrays) -> Call:
        return self.transform(case, self.image(case, a.input), self.lib.from_numpy(a.theta))

    def warp_affine_fwd_bwd(self, case: Case, a: Arrays) -> Call:
        image, theta = self.image(case, a.input).requires_grad_(), self.lib.from_numpy(a.theta).requires_grad_()
        grad, forward = self.image(case, a.grad_output), self.transform(case, image, theta)
        return lambda: self.lib.autograd.grad(forward(), (image, theta), grad)

    warp_project, warp_project_fwd_bwd = warp_affine, warp_affine_fwd_bwd

    def transform(self, case: Case, image: Any, theta: Any) -> Call:
        size, options, functional = self.size(case), self.sampler(case), self.functional

        def warp() -> Any:
            grid = functional.affine_grid(theta, size, align_corners=False)
            return functional.grid_sample(image, grid, **options)

        return (lambda: warp().sum(2)) if case.operation.startswith("warp_project") else warp

    def training_step(self, case: Case, a: Arrays) -> Call:
        from bench.training import training_step

        size, options, functional = self.size(case), self.sampler(case), self.functional

        def warp(images: Any, theta: Any) -> Any:
            return functional.grid_sample(images, functional.affine_grid(theta, size, align_corners=False), **options)

        return training_step(case, a, warp)

    @staticmethod
    def size(case: Case) -> list[int]:
        return [*case.shape[:2], *case.size]


class NumPy(Splines):
    name = "numpy"

    def __init__(self) -> None:
        from threadpoolctl import threadpool_limits

        self.limits, self.version = threadpool_limits, np.__version__
        self.array = np.asarray

    def set_threads(self, n: int) -> None:
        self.limits(n, user_api="blas")

    def results(self, case: Case, result: Array) -> list[Array]:
        return [result if case.operation.endswith("vjp") else result.reshape(-1, *case.size, 2)]


class OpenCV(Peer):
    name = "opencv"

    def __init__(self) -> None:
        import cv2

        self.lib, self.version = cv2, cv2.__version__
        self.modes = {
            "nearest": cv2.INTER_NEAREST,
            "linear": cv2.INTER_LINEAR,
            "cubic": cv2.INTER_CUBIC,
            "lanczos4": cv2.INTER_LANCZOS4,
        }
        self.borders = {
            "zeros": cv2.BORDER_CONSTANT,
            "constant": cv2.BORDER_CONSTANT,
            "border": cv2.BORDER_REPLICATE,
            "mirror": cv2.BORDER_REFLECT_101,
            "wrap": cv2.BORDER_WRAP,
        }

    def set_threads(self, n: int) -> None:
        self.lib.setNumThreads(n)

    def grid_sample(self, case: Case, a: Arrays) -> Call:
        (image,), (grid,), lib, mode = a.input, a.grid, self.lib, self.modes[case.mode]
        x, y = np.ascontiguousarray(grid[..., 0]), np.ascontiguousarray(grid[..., 1])
        border = self.border(case)
        return lambda: lib.remap(image, x, y, mode, **border)

    def border(self, case: Case) -> dict[str, Any]:
        fill = FILL if case.padding == "constant" else 0.0
        return {"borderMode": self.borders[case.padding], "borderValue": (fill,) * 4}

    def warp(self, case: Case, a: Arrays, warp: Callable[..., Any], rows: int) -> Call:
        (image,), matrix, size = a.input, a.matrix[:rows], case.size[::-1]
        options = {"flags": self.modes[case.mode] | self.lib.WARP_INVERSE_MAP, **self.border(case)}
        return lambda: warp(image, matrix, size, **options)

    def warp_affine(self, case: Case, a: Arrays) -> Call:
        return self.warp(case, a, self.lib.warpAffine, 2)

    def warp_projective(self, case: Case, a: Arrays) -> Call:
        return self.warp(case, a, self.lib.warpPerspective, 3)

    def results(self, case: Case, result: Array) -> list[Array]:
        return [result.reshape(case.output_shape)]


class SciPy(SparseProducts):
    """Images of one channel, in float64 whatever they are of."""

    name = "scipy"

    def __init__(self) -> None:
        import scipy
        import scipy.ndimage

        self.lib, self.version = scipy.ndimage, scipy.__version__
        self.array = np.asarray

    @staticmethod
    def options(case: Case) -> dict[str, Any]:
        if case.mode == "spline3":
            return {"order": 3, "mode": case.padding, "prefilter": True}
        return {"order": 1, "mode": "grid-constant", "prefilter": False}

    def grid_sample(self, case: Case, a: Arrays) -> Call:
        image, options, sample = a.input.reshape(case.spatial), self.options(case), self.lib.map_coordinates
        coordinates = np.ascontiguousarray(np.moveaxis(a.grid[0, ..., ::-1], -1, 0))
        return lambda: sample(image, coordinates, **options)

    def warp_affine(self, case: Case, a: Arrays) -> Call:
        image, options, warp = a.input.reshape(case.spatial), self.options(case), self.lib.affine_transform
        rows_first = a.matrix[-2::-1]
        matrix, offset = np.ascontiguousarray(rows_first[:, -2::-1]), np.ascontiguousarray(rows_first[:, -1])
        return lambda: warp(image, matrix, offset, case.size, **options)

    def sparse(self, case: Case, a: Arrays, *, transposed: bool) -> Any:
        return a.weights.T.tocsr() if transposed else a.weights

    def results(self, case: Case, result: Array) -> list[Array]:
        if case.operation in PIECES:
            return [result.reshape(-1, *case.size, 2) if case.operation == "piecewise" else result]
        return [result.reshape(case.output_shape)]


class ScikitImage(Peer):
    name = "skimage"

    def __init__(self) -> None:
        import skimage
        import skimage.transform

        self.lib, self.version = skimage.transform, version("scikit-image")

    def warp_affine(self, case: Case, a: Arrays) -> Call:
        # A matrix takes the fast path of warp, with Keys' cubic; a stored map would go to SciPy.
        image, matrix, warp = a.input[0], a.matrix, self.lib.warp
        if case.shape[1] == 1:
            image = image[..., 0]
        order = {"linear": 1, "keys": 3}[case.mode]
        options = {"order": order, "mode": "constant", "clip": False, "preserve_range": True}
        return lambda: warp(image, matrix, output_shape=case.size, **options)

    warp_projective = warp_affine

    def results(self, case: Case, result: Array) -> list[Array]:
        return [result.reshape(case.output_shape)]


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Torch, NumPy, OpenCV, SciPy, ScikitImage)}


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
