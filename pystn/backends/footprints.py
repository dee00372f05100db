"""Samples whose kernels are stretched over footprints in the source, and their derivatives."""

from __future__ import annotations

from collections.abc import Callable

from pystn.backends.base import Base
from pystn.backends.sums import delivered
from pystn.options import SamplingOptions
from pystn.typing import Array
from pystn.validation import channels_of, image_shape, mask_dtype, sum_dtype, tangent_dtype

__all__ = ["FootprintOperations"]


class FootprintOperations(Base):
    """What `pystn.backends.antialiasing` asks of a backend, with arrays that have been checked."""

    def footprint_sample(
        self,
        input: Array,
        grid: Array,
        footprint: Array,
        options: SamplingOptions,
        return_mask: bool,
        out: Array | None,
    ) -> tuple[Array, Array | None]:
        r"""Samples whose kernel covers a footprint in the source: anti-aliased.

        Scales s stretch the kernel of each axis. The weight of tap m is k((p - m) / s) / N, with N the sum of k over
        all taps of the support, those outside of the image among them; these read what the padding mode says. A scale
        below 1 counts as 1, one above 4 n on an axis of n pixels as 4 n. "nearest" is a box of s pixels.

        Covariances S make an elliptical Gaussian, whatever the mode: weights max(0, exp(-q/2) - exp(-9/2)) / N with
        q = (m - p)^T S^-1 (m - p), continuous where the ellipse ends, at three standard deviations. These are at most
        4/3 n on an axis. Where no pixel centre is in the ellipse the nearest pixel is read. Of S its symmetric part
        counts.

        A sample whose coordinate or footprint is NaN or infinite, or whose covariance is not positive definite, is
        the fill value, with mask 0 and without gradient.

        The batches of input, grid and footprint are of one size, or 1. `grid` is stored, not made from matrices.
        Returns the output, (N, C, *shape) or (N, *shape, C), and the mask (N, *shape), the share of the weights on
        pixels of the image, or None.
        """
        output = out
        if output is None:
            output = self.empty(footprint_shape(input, grid, footprint, options), input.dtype)
        mask = self.new_footprint_mask(input, grid, footprint, return_mask)
        pixels = self.covered(input, grid, footprint, options)
        self.run(self.kernels.footprint_sample, pixels, grid, footprint, output, mask, options)
        return output, mask

    def footprint_sample_vjp(
        self,
        grad_output: Array,
        grad_mask: Array | None,
        input: Array,
        grid: Array,
        footprint: Array,
        options: SamplingOptions,
        wanted: tuple[bool, ...] = (True, True, True),
    ) -> tuple[Array | None, Array | None, Array | None]:
        """Gradients to input, grid and footprint, None where not wanted; that to a covariance is symmetric.

        An array of batch 1 receives the sum over the batch. The gradient to a scale is 0 below 1 and above its
        limit, that to a covariance where any of its axes is at its limit.
        """
        flat = options.flat and not is_covariance(grid, footprint)
        to_grid = self.empty(grid.shape, grid.dtype) if wanted[1] else None
        to_footprint = self.empty(footprint.shape, grid.dtype) if wanted[2] else None
        moving = (wanted[1] or wanted[2]) and not flat
        pixels = self.covered(input, grid, footprint, options) if moving else input
        for gradient in (to_grid, to_footprint):
            if flat and gradient is not None:
                gradient.fill(0)

        def fill(grad_input: Array | None) -> None:
            moved = (to_grid, to_footprint) if moving else (None, None)
            arrays = (grad_output, grad_mask, pixels, grid, footprint, grad_input, *moved)
            self.run(self.kernels.footprint_sample_vjp, *arrays, options)

        to_input = None
        if wanted[0]:
            to_input = self.added_samples(fill, input, grid, footprint, options)
        elif moving:
            fill(None)
        return to_input, to_grid, to_footprint

    def footprint_sample_jvp(
        self,
        input: Array,
        grid: Array,
        d_input: Array | None,
        d_grid: Array | None,
        footprint: Array,
        d_footprint: Array | None,
        options: SamplingOptions,
        return_mask: bool,
        out: Array | None,
    ) -> tuple[Array, Array | None]:
        """Tangents of the output and of the mask, from those of input, grid and footprint, each of which may be None.

        They are of the shapes and dtypes of what they are tangents of, that of an image of integers float32.
        """
        output = out
        if output is None:
            shape = footprint_shape(input, grid, footprint, options)
            output = self.empty(shape, tangent_dtype(input.dtype))
        mask = self.new_footprint_mask(input, grid, footprint, return_mask)
        if options.flat and not is_covariance(grid, footprint):
            d_grid = d_footprint = None
        if d_input is None and d_grid is None and d_footprint is None:
            output.fill(0)
            if mask is not None:
                mask.fill(0)
            return output, mask
        d_pixels = None if d_input is None else self.covered(d_input, grid, footprint, options)
        pixels = self.covered(input, grid, footprint, options)
        tangents = (d_pixels, d_grid, d_footprint)
        self.run(self.kernels.footprint_sample_jvp, pixels, grid, footprint, *tangents, output, mask, options)
        return output, mask

    def footprint_sample_vjp2(
        self,
        gg_input: Array | None,
        gg_grid: Array | None,
        gg_footprint: Array | None,
        grad_output: Array,
        grad_mask: Array | None,
        input: Array,
        grid: Array,
        footprint: Array,
        options: SamplingOptions,
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None, Array | None, Array | None, Array | None]:
        """Gradients to grad_output, grad_mask, input, grid and footprint of what has the cotangents `gg_` of the
        gradients, each of which may be None; `wanted` names those to grad_output (and the mask), input, grid and
        footprint.
        """
        flat = options.flat and not is_covariance(grid, footprint)
        if flat:
            gg_grid = gg_footprint = None
        to_output, to_mask, to_input, to_grid, to_footprint = None, None, None, None, None
        if wanted[0]:
            tangents = (gg_input, gg_grid, footprint, gg_footprint)
            has_mask = grad_mask is not None
            to_output, to_mask = self.footprint_sample_jvp(input, grid, *tangents, options, has_mask, None)
        if wanted[1]:
            if gg_grid is None and gg_footprint is None:
                to_input = self.xp.zeros(input.shape, tangent_dtype(input.dtype))
            else:

                def fill(image: Array) -> None:
                    along = (grid, gg_grid, footprint, gg_footprint)
                    self.run(self.kernels.footprint_push, grad_output, *along, image, options)

                to_input = self.added_samples(fill, input, grid, footprint, options)
        if wanted[2] or wanted[3]:
            to_grid = self.xp.zeros(grid.shape, grid.dtype) if wanted[2] else None
            to_footprint = self.xp.zeros(footprint.shape, grid.dtype) if wanted[3] else None
            if not flat and any(gg is not None for gg in (gg_input, gg_grid, gg_footprint)):
                gg_pixels = None if gg_input is None else self.covered(gg_input, grid, footprint, options)
                pixels = self.covered(input, grid, footprint, options)
                self.run(
                    self.kernels.footprint_sample_vjp2,
                    *(gg_pixels, gg_grid, gg_footprint, grad_output, grad_mask),
                    *(pixels, grid, footprint, to_grid, to_footprint),
                    options,
                )
        return to_output, to_mask, to_input, to_grid, to_footprint

    def new_footprint_mask(self, input: Array, grid: Array, footprint: Array, wanted: bool) -> Array | None:
        shape = (footprint_batch(input, grid, footprint), *grid.shape[1:-1])
        return self.empty(shape, mask_dtype(input.dtype)) if wanted else None

    def covered(self, image: Array, grid: Array, footprint: Array, options: SamplingOptions) -> Array:
        """What the kernels sample: the image itself under a Gaussian, which no prefilter belongs to."""
        return image if is_covariance(grid, footprint) else self.coefficients(image, options)

    def added_samples(
        self, fill: Callable[[Array], None], input: Array, grid: Array, footprint: Array, options: SamplingOptions
    ) -> Array:
        """The gradient to the input, which `fill` adds up."""
        dtype = tangent_dtype(input.dtype)
        if options.prefilters and is_covariance(grid, footprint):
            image = self.empty(input.shape, sum_dtype(dtype))
            fill(image)
            return delivered(image, dtype, None)
        return self.added_image(fill, input.shape, dtype, options, None)


def is_covariance(grid: Array, footprint: Array) -> bool:
    """Whether footprints are covariances, not scales."""
    return bool(footprint.ndim == grid.ndim + 1)


def footprint_batch(input: Array, grid: Array, footprint: Array) -> int:
    sizes = {input.shape[0], grid.shape[0], footprint.shape[0]}
    return int(max(sizes)) if min(sizes) else 0


def footprint_shape(input: Array, grid: Array, footprint: Array, options: SamplingOptions) -> tuple[int, ...]:
    """Shape of the samples."""
    batch = footprint_batch(input, grid, footprint)
    return image_shape(batch, channels_of(input.shape, options), grid.shape[1:-1], options)
