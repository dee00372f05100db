"""What a backend does around its kernels: memory allocated, images prefiltered, sums delivered.

Written once for all backends, against their array module and their kernels. Arguments have been
checked. Arrays are read where they lie, whatever their strides.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from pystn.backends.antialiasing import antialiased
from pystn.backends.footprints import FootprintOperations
from pystn.backends.grids import GridOperations
from pystn.backends.sums import delivered, rounded
from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.options import SamplingOptions
from pystn.perspective import Horizon, divide, divide_jvp, divide_vjp, divide_vjp2
from pystn.typing import Array
from pystn.validation import (
    batch_of,
    channels_of,
    mask_dtype,
    projected_shape,
    sample_shape,
    sum_dtype,
    tangent_dtype,
)

__all__ = ["Operations"]


class Still:
    """Gradients done again of a call whose coordinates do not matter to its values: that to their source is 0."""

    def __init__(self, xp: Any, repeat: Callable[..., Any]) -> None:
        self.xp, self.repeat = xp, repeat

    def __call__(self, grad_output: Array, input: Array, source: Array, size: Any) -> tuple[Array, Array] | None:
        again = self.repeat(grad_output, input, source, size)
        return None if again is None else (again[0], self.xp.zeros(source.shape, source.dtype))


class Operations(FootprintOperations, GridOperations):
    """The operations of the package on one kind of arrays: the sampler and the warps; footprints, grids."""

    def remember(
        self,
        repeats: list[Callable[..., Any]],
        kind: Any,
        call: Any,
        input: Array,
        grid: Coordinates,
        *arrays: Any,
        still: bool = False,
    ) -> None:
        """Put a call first among those that are kept, if it is of a kind that can be done again, on arrays like these,
        without the checks that it has passed."""
        if isinstance(grid, MatrixCoordinates):
            repeat = None if grid.projective else kind.of(call, input, grid.theta, grid.size, *arrays)
        else:
            repeat = kind.of(call, input, grid, None, *arrays)
        if repeat is not None:
            self.put_first(repeats, Still(self.xp, repeat) if still else repeat)

    def new_mask(self, input: Array, grid: Coordinates, wanted: bool) -> Array | None:
        shape = (batch_of(input, grid), *grid.shape[1:-1])
        return self.empty(shape, mask_dtype(input.dtype)) if wanted else None

    def grid_sample(
        self, input: Array, grid: Coordinates, options: SamplingOptions, return_mask: bool, out: Array | None
    ) -> tuple[Array, Array | None]:
        if options.antialias is not None:
            return antialiased(self, input, grid, options).sample(return_mask, out)
        output = self.empty(sample_shape(input, grid, options), input.dtype) if out is None else out
        mask = self.new_mask(input, grid, return_mask)
        pixels = self.coefficients(input, options)
        call = self.run(self.kernels.grid_sample, pixels, grid, output, mask, options)
        if mask is None and pixels is input:
            self.remember(options.repeats, self.kernels.Repeat, call, input, grid, output)
        return output, mask

    def grid_sample_vjp(
        self,
        grad_output: Array,
        grad_mask: Array | None,
        input: Array,
        grid: Coordinates,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        out: tuple[Array | None, ...],
    ) -> tuple[Array | None, Array | None]:
        """Gradients to the input and to the grid, or to the matrices that the coordinates are made from."""
        if options.antialias is not None:
            return antialiased(self, input, grid, options).vjp(grad_output, grad_mask, wanted, out)
        made = isinstance(grid, MatrixCoordinates)
        written = self.new_gradient(grid, out[1]) if wanted[1] else None
        moving = written is not None and not options.flat
        pixels = self.coefficients(input, options) if moving else input
        call, sums = None, None

        def fill(grad_input: Array | None) -> None:
            nonlocal call, sums
            to_grid = written if moving and not made else None
            to_matrices = moving and made
            call, sums = self.run(
                self.kernels.grid_sample_vjp,
                grad_output,
                grad_mask,
                pixels,
                grid,
                grad_input,
                to_grid,
                to_matrices,
                options,
            )

        grad_input = None
        if wanted[0]:
            grad_input = self.added_image(fill, input.shape, tangent_dtype(input.dtype), options, out[0])
        elif moving:
            fill(None)
        if written is not None and made:
            written[...] = sums if moving else 0
        elif written is not None and not moving:
            written.fill(0)  # piecewise constant in the coordinates
        is_plain = grad_mask is None and all(array is None for array in out) and not options.prefilters
        if is_plain and call is not None:
            repeats = options.repeated_gradients.setdefault((*wanted, False, False), [])
            arrays = grad_output, grad_input, written if moving else None
            still = wanted[1] and not moving
            self.remember(repeats, self.kernels.RepeatVjp, call, input, grid, *arrays, still=still)
        return grad_input, written

    def new_gradient(self, grid: Coordinates, out: Array | None) -> Array:
        of = grid.theta if isinstance(grid, MatrixCoordinates) else grid
        return self.empty(of.shape, of.dtype) if out is None else out

    def grid_sample_vjp_options(
        self, grad_output: Array, grad_mask: Array | None, input: Array, grid: Coordinates, options: SamplingOptions
    ) -> tuple[Array, list[Array | None]]:
        """Gradients, in double, to the fill value of each channel and to each axis' kernel."""
        if options.antialias is not None:
            return antialiased(self, input, grid, options).vjp_options(grad_output, grad_mask)
        ndim = input.ndim - 2
        parts = 2 if input.dtype.kind == "c" else 1
        channels = channels_of(input.shape, options) * parts
        counts = [codes[-1] for codes in options.axis_codes(ndim)]  # x first
        partial = self.xp.zeros((self.groups(grad_output.size), channels + sum(counts)))
        self.run(
            self.kernels.grid_sample_vjp_options,
            grad_output,
            grad_mask,
            self.coefficients(input, options),
            grid,
            partial,
            options,
        )
        sums = partial.sum(axis=0)
        fill = sums[:channels].view(np.complex128) if parts == 2 else sums[:channels]
        ends = np.cumsum([channels, *counts])
        kernels: list[Array | None] = [sums[start:end] if end > start else None for start, end in pairwise(ends)]
        return fill, kernels[::-1]

    def grid_sample_jvp(
        self,
        input: Array,
        grid: Coordinates,
        d_input: Array | None,
        d_grid: Array | None,
        d_fill: Any,
        d_kernel: list[Array | None],
        options: SamplingOptions,
        return_mask: bool,
        out: Array | None,
    ) -> tuple[Array, Array | None]:
        if options.antialias is not None:
            return antialiased(self, input, grid, options).jvp(d_input, d_grid, d_fill, d_kernel, return_mask, out)
        output = self.empty(sample_shape(input, grid, options), tangent_dtype(input.dtype)) if out is None else out
        mask = self.new_mask(input, grid, return_mask)
        if options.flat:
            d_grid = None
        if d_input is None and d_grid is None and d_fill is None and not any(d is not None for d in d_kernel):
            output.fill(0)
            if mask is not None:
                mask.fill(0)
        else:
            self.run(
                self.kernels.grid_sample_jvp,
                self.coefficients(input, options),
                grid,
                self.optional_coefficients(d_input, options),
                d_grid,
                d_fill,
                d_kernel[::-1],
                output,
                mask,
                options,
            )
        return output, mask

    def grid_sample_vjp2(
        self,
        gg_input: Array | None,
        gg_grid: Array | None,
        grad_output: Array,
        grad_mask: Array | None,
        input: Array,
        grid: Coordinates,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        """Gradients to grad_output, grad_mask, input and grid, or the matrices that the coordinates are made from."""
        if options.antialias is not None:
            return antialiased(self, input, grid, options).vjp2(gg_input, gg_grid, grad_output, grad_mask, wanted)
        if options.flat:
            gg_grid = None
        none: list[Array | None] = [None] * (input.ndim - 2)
        to_output, to_mask, to_input, to_grid = None, None, None, None
        if wanted[0]:
            has_mask = grad_mask is not None
            to_output, to_mask = self.grid_sample_jvp(
                input, grid, gg_input, gg_grid, None, none, options, has_mask, None
            )
        if isinstance(grid, MatrixCoordinates):
            to_input, to_theta = self.through_matrices(
                gg_input, gg_grid, grad_output, grad_mask, input, grid, options, wanted[1:]
            )
            return to_output, to_mask, to_input, to_theta
        if wanted[1]:
            tangent = tangent_dtype(input.dtype)
            if gg_grid is None:
                to_input = self.xp.zeros(input.shape, tangent)
            else:
                batch = batch_of(input, grid)

                def fill(image: Array) -> None:
                    self.run(self.kernels.grid_push, None, grad_output, None, grid, gg_grid, image, batch, options)

                to_input = self.added_image(fill, input.shape, tangent, options, None)
        if wanted[2]:
            to_grid = self.empty(grid.shape, grid.dtype)
            if options.flat or (gg_input is None and gg_grid is None):
                to_grid.fill(0)
            else:
                self.run(
                    self.kernels.grid_sample_vjp2_grid,
                    self.optional_coefficients(gg_input, options),
                    gg_grid,
                    grad_output,
                    grad_mask,
                    self.coefficients(input, options),
                    grid,
                    to_grid,
                    options,
                )
        return to_output, to_mask, to_input, to_grid

    def through_matrices(
        self,
        gg_input: Array | None,
        gg_theta: Array | None,
        grad_output: Array,
        grad_mask: Array | None,
        input: Array,
        coordinates: MatrixCoordinates,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None]:
        """Gradients of second order to input and matrices, by way of the grid of these, which is stored."""
        if not any(wanted):
            return None, None
        xp, dtype = self.xp, mask_dtype(depth_dtype(input.dtype, coordinates))
        theta, points = coordinates.theta.astype(dtype, copy=False), self.target_points(coordinates, dtype, options)
        grid = q = self.linear_grid(theta, points, None)
        gg_grid = gg_q = None
        if gg_theta is not None:
            gg_grid = gg_q = self.linear_grid(gg_theta.astype(dtype, copy=False), points, None)
        horizon = Horizon(coordinates.min_denominator, coordinates.cull_behind)
        if coordinates.projective:
            grid = divide(xp, q, horizon)
            gg_grid = None if gg_q is None else divide_jvp(xp, q, gg_q, horizon)
        _, _, to_input, to_grid = self.grid_sample_vjp2(
            gg_input, gg_grid, grad_output, grad_mask, input, grid, options, (False, *wanted)
        )
        if to_grid is None:
            return to_input, None
        to_q = to_grid
        if coordinates.projective:
            to_q = divide_vjp(xp, to_grid, q, horizon)
            if gg_q is not None:
                first: Any
                _, first = self.grid_sample_vjp(
                    grad_output, grad_mask, input, grid, options, (False, True), (None, None)
                )
                to_q += divide_vjp2(xp, gg_q, first, q, horizon)[1]
            # Zero times infinity, where a coordinate is infinite.
            xp.copyto(to_q, 0, where=~xp.isfinite(grid).all(axis=-1, keepdims=True))
        return to_input, self.linear_grid_vjp(to_q, theta, points).astype(coordinates.dtype, copy=False)

    def target_points(self, coordinates: MatrixCoordinates, dtype: np.dtype[Any], options: SamplingOptions) -> Array:
        """What matrices are applied to, (1, ndim + 1, *size): the coordinates (x[, y[, z]], 1) of the output."""
        xp, size = self.xp, coordinates.size
        points = xp.ones((1, len(size) + 1, *size), dtype)
        for a, length in enumerate(size):
            at = xp.arange(length)
            if options.coords == "normalized":  # one rounding, as in the kernels
                aligned = options.align_corners
                at = (2 * at - (length - 1)).astype(dtype) / dtype.type(max(length - aligned, 1))
            points[:, len(size) - 1 - a] = at.reshape(-1, *(1,) * (len(size) - 1 - a))
        return points

    def grid_push(
        self,
        values: Array | None,
        along: Array | None,
        grid: Array,
        d_grid: Array | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        options: SamplingOptions,
        out: Array | None,
    ) -> Array:
        """values pushed, and `along` pushed with the weights' derivative along d_grid."""
        if d_grid is None or options.flat:
            along = d_grid = None

        def fill(image: Array) -> None:
            if values is None and along is None:
                image.fill(0)
                return
            self.run(self.kernels.grid_push, values, along, None, grid, d_grid, image, shape[0], options)

        return self.added_image(fill, shape, dtype, options, out)

    def grid_push_vjp(
        self,
        grad_output: Array,
        values: Array,
        grid: Array,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        out: tuple[Array | None, ...],
    ) -> tuple[Array | None, Array | None]:
        """Sampling: the image is the cotangent, and the values are what weighs its slopes."""
        image = self.coefficients(grad_output, options)
        grad_values, grad_grid = None, None
        if wanted[0]:
            batch = batch_of(values, grid)
            # Values shared by the batch add up, and float16 and bfloat16 do so in float32.
            shared = values.shape[0] != batch
            sums = sum_dtype(values.dtype) if shared else values.dtype
            written = out[0] if sums == values.dtype else None
            target = self.empty(values.shape, sums) if written is None else written
            if batch == 0:
                target.fill(0)
            else:
                self.run(self.kernels.grid_sample, image, grid, target, None, options)
            grad_values = target if written is not None else delivered(target, values.dtype, out[0])
        if wanted[1]:
            grad_grid = self.empty(grid.shape, grid.dtype) if out[1] is None else out[1]
            if options.flat:
                grad_grid.fill(0)
            else:
                self.run(self.kernels.grid_sample_vjp, values, None, image, grid, None, grad_grid, False, options)
        return grad_values, grad_grid

    def grid_push_vjp2(
        self,
        gg_values: Array | None,
        gg_grid: Array | None,
        grad_output: Array,
        values: Array,
        grid: Array,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
    ) -> tuple[Any, Any, Any]:
        """Gradients to grad_output, values and grid: those of sampling, image and cotangent in each other's place."""
        to_output, to_values, to_grid = None, None, None
        if wanted[0]:
            shape, dtype = grad_output.shape, values.dtype
            to_output = self.grid_push(gg_values, values, grid, gg_grid, shape, dtype, options, None)
        if wanted[1]:
            shape = sample_shape(grad_output, grid, options)
            shared = values.shape[0] != shape[0]
            samples = self.empty(shape, sum_dtype(values.dtype) if shared else values.dtype)
            none: list[Array | None] = [None] * (grad_output.ndim - 2)
            self.grid_sample_jvp(grad_output, grid, None, gg_grid, None, none, options, False, samples)
            to_values = delivered(samples.sum(axis=0, keepdims=True), values.dtype, None) if shared else samples
        if wanted[2]:
            along = (None, gg_grid, values, None, grad_output, grid, options, (False, False, True))
            bent: Any = self.grid_sample_vjp2(*along)[-1]
            if gg_values is not None:
                bent += self.grid_push_vjp(grad_output, gg_values, grid, options, (False, True), (None, None))[1]
            to_grid = bent
        return to_output, to_values, to_grid

    def grid_gradient(self, input: Array, grid: Array, options: SamplingOptions, out: Array | None) -> Array:
        shape = (*sample_shape(input, grid, options), grid.shape[-1])
        gradient = self.empty(shape, tangent_dtype(input.dtype)) if out is None else out
        if options.flat:
            gradient.fill(0)
        else:
            self.run(self.kernels.grid_gradient, self.coefficients(input, options), grid, gradient, options)
        return gradient

    def grid_gradient_vjp(
        self,
        grad_output: Array,
        input: Array,
        grid: Array,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        out: tuple[Array | None, ...],
    ) -> tuple[Array | None, Array | None]:
        grad_input, grad_grid = None, None
        if wanted[0]:

            def fill(image: Array) -> None:
                if options.flat:
                    image.fill(0)
                    return
                batch = batch_of(input, grid)
                self.run(self.kernels.grid_push, None, None, grad_output, grid, None, image, batch, options)

            grad_input = self.added_image(fill, input.shape, tangent_dtype(input.dtype), options, out[0])
        if wanted[1]:
            grad_grid = self.empty(grid.shape, grid.dtype) if out[1] is None else out[1]
            if options.flat:
                grad_grid.fill(0)
            else:
                self.run(
                    self.kernels.grid_gradient_vjp_grid,
                    grad_output,
                    self.coefficients(input, options),
                    grid,
                    grad_grid,
                    options,
                )
        return grad_input, grad_grid

    def grid_gradient_jvp(
        self,
        input: Array,
        grid: Array,
        d_input: Array | None,
        d_grid: Array | None,
        options: SamplingOptions,
        out: Array | None,
    ) -> Array:
        shape = (*sample_shape(input, grid, options), grid.shape[-1])
        d_gradient = self.empty(shape, tangent_dtype(input.dtype)) if out is None else out
        if options.flat or (d_input is None and d_grid is None):
            d_gradient.fill(0)
        else:
            self.run(
                self.kernels.grid_gradient_jvp,
                self.coefficients(input, options),
                grid,
                self.optional_coefficients(d_input, options),
                d_grid,
                d_gradient,
                options,
            )
        return d_gradient

    def reduce_depth(
        self, input: Array, coordinates: MatrixCoordinates, reduce: str, options: SamplingOptions, out: Array | None
    ) -> tuple[Array, Array | None]:
        """The reduced samples in the dtype of their sums, `out` if it has that; and where each maximum is."""
        shape, sums = projected_shape(input, coordinates, options), depth_dtype(input.dtype, coordinates)
        output = self.empty(shape, sums) if out is None or out.dtype != sums else out
        chosen = self.empty(shape, np.int32) if reduce == "max" else None
        if coordinates.size[0] == 0:
            output.fill(0)
            return output, chosen
        self.run(self.kernels.project, self.coefficients(input, options), coordinates, output, chosen, options)
        if reduce == "mean":
            output /= coordinates.size[0]
        return output, chosen

    def warp_project(
        self, input: Array, coordinates: MatrixCoordinates, reduce: str, options: SamplingOptions, out: Array | None
    ) -> Array:
        output, _ = self.reduce_depth(input, coordinates, reduce, options, out)
        if output is out:
            return output
        return delivered(rounded(self.xp, output, input.dtype), input.dtype, out)

    def warp_project_vjp(
        self,
        grad_output: Array,
        input: Array,
        coordinates: MatrixCoordinates,
        reduce: str,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
        out: tuple[Array | None, ...],
    ) -> tuple[Array | None, Array | None]:
        depth = coordinates.size[0]
        if reduce == "mean":
            grad_output = (grad_output / depth).astype(grad_output.dtype, copy=False)
        chosen = self.reduce_depth(input, coordinates, reduce, options, None)[1] if reduce == "max" else None
        grad_theta = self.new_gradient(coordinates, out[1]) if wanted[1] else None
        moving = grad_theta is not None and not options.flat
        pixels = self.coefficients(input, options) if moving else input
        sums: list[Array] = []

        def fill(grad_input: Array | None) -> None:
            if depth == 0:
                sums.append(self.xp.zeros(()))
                if grad_input is not None:
                    grad_input.fill(0)
                return
            sums.append(
                self.run(
                    self.kernels.project_vjp, grad_output, pixels, coordinates, grad_input, moving, chosen, options
                )
            )

        grad_input = None
        if wanted[0]:
            grad_input = self.added_image(fill, input.shape, tangent_dtype(input.dtype), options, out[0])
        elif moving:
            fill(None)
        if grad_theta is not None:
            grad_theta[...] = sums[0] if moving else 0
        return grad_input, grad_theta

    def warp_project_vjp2(
        self,
        gg_input: Array | None,
        gg_theta: Array | None,
        grad_output: Array,
        input: Array,
        coordinates: MatrixCoordinates,
        reduce: str,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None, Array | None]:
        """Gradients to grad_output, input and theta: those of the volume, of which each sample has its cotangent."""
        to_output = None
        if wanted[0]:
            to_output = self.warp_project_jvp(input, coordinates, gg_input, gg_theta, reduce, options, None)
        if not any(wanted[1:]):
            return to_output, None, None
        depth, axis = coordinates.size[0], -3 if options.channel_axis == 1 else -4
        if reduce == "mean":
            grad_output = (grad_output / depth).astype(grad_output.dtype, copy=False)
        shape, spread = sample_shape(input, coordinates, options), self.xp.expand_dims(grad_output, axis)
        if reduce == "max":
            chosen = self.xp.expand_dims(self.reduce_depth(input, coordinates, reduce, options, None)[1], axis)
            planes = self.xp.arange(depth, dtype=chosen.dtype).reshape(-1, *(1,) * (-1 - axis))
            of_all, spread = spread, self.xp.zeros(shape, spread.dtype)
            self.xp.copyto(spread, of_all, where=chosen == planes)
        spread = self.xp.broadcast_to(spread, shape)
        to_input, to_theta = self.through_matrices(
            gg_input, gg_theta, spread, None, input, coordinates, options, wanted[1:]
        )
        return to_output, to_input, to_theta

    def warp_project_jvp(
        self,
        input: Array,
        coordinates: MatrixCoordinates,
        d_input: Array | None,
        d_theta: Array | None,
        reduce: str,
        options: SamplingOptions,
        out: Array | None,
    ) -> Array:
        depth, dtype = coordinates.size[0], tangent_dtype(input.dtype)
        shape, sums = projected_shape(input, coordinates, options), depth_dtype(dtype, coordinates)
        output: Array = self.empty(shape, sums) if out is None or out.dtype != sums else out
        if options.flat:
            d_theta = None
        if depth == 0 or (d_input is None and d_theta is None):
            output.fill(0)
        else:
            chosen = self.reduce_depth(input, coordinates, reduce, options, None)[1] if reduce == "max" else None
            tangent = self.optional_coefficients(d_input, options)
            pixels = self.coefficients(input, options)
            self.run(self.kernels.project_jvp, pixels, coordinates, tangent, d_theta, output, chosen, options)
            if reduce == "mean":
                output /= depth
        if output is out:
            return output
        return delivered(output, dtype, out)

    def exponential(self, generators: Array, along: Array | None = None, then: Array | None = None) -> Array:
        """Of matrices (..., n, n), or its derivative along directions, or how that moves if matrices move by `then`.

        All are of one shape and float64; NaN of what is not finite.
        """
        matrices = self.empty(generators.shape, np.float64)
        if matrices.size:
            shape = (-1, *matrices.shape[-2:])
            given = (generators, along, then)
            read = (None if array is None else self.xp.ascontiguousarray(array).reshape(shape) for array in given)
            self.run(self.kernels.exponential, *read, matrices.reshape(shape))
        return matrices

    # Samples whose kernel is stretched over a footprint. The footprint is of the grid's dtype, and either has a scale
    # for each axis, (N, *shape, ndim) in the order x, y[, z], or a covariance in pixels, (N, *shape, ndim, ndim).


def depth_dtype(dtype: np.dtype[Any], coordinates: MatrixCoordinates) -> np.dtype[Any]:
    """Of what is reduced along the depth: that of sums, or of positions if it has more bits."""
    return np.result_type(sum_dtype(dtype), coordinates.dtype)
