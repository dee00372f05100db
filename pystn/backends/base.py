"""What the operations of all backends share: the array module, the calls of kernels, images filtered and added up."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from pystn.backends.sums import delivered
from pystn.options import SamplingOptions, SplineAxis
from pystn.typing import Array
from pystn.validation import sum_dtype

__all__ = ["Base"]


class Base:
    """One kind of arrays, and the kernels for them."""

    xp: ModuleType  # numpy, or cupy
    kernels: Any  # the entry points that pystn/backends/_cpu.pyi lists, of each backend its own
    remembered: int  # calls that are kept for each set of options

    def run(self, kernel: Callable[..., Any], *arguments: Any) -> Any:
        """Call an entry point, with what this backend's take beyond the arguments."""
        raise NotImplementedError

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A new array, not filled."""
        return self.xp.empty(shape, dtype)

    def put_first(self, repeats: list[Callable[..., Any]], repeat: Callable[..., Any]) -> None:
        """Keep a call, to be done again, before those that are kept."""
        repeats[:] = [repeat, *repeats[: self.remembered - 1]]

    def groups(self, samples: int) -> int:
        """How many sums of their own the gradient to options is added up in, which is a matter of the sizes alone."""
        raise NotImplementedError

    def coefficients(self, image: Array, options: SamplingOptions) -> Array:
        """What the kernels sample: the image, or its spline coefficients."""
        if not options.prefilters:
            return image
        axes = options.spline_axes(image.ndim - 2)
        return self.spline_filter(image, axes, sum_dtype(image.dtype), options.channel_axis, False, None)

    def optional_coefficients(self, image: Array | None, options: SamplingOptions) -> Array | None:
        return None if image is None else self.coefficients(image, options)

    def added_image(
        self,
        fill: Callable[[Array], None],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        options: SamplingOptions,
        out: Array | None,
    ) -> Array:
        """An image that `fill` adds up, by way of the prefilter's transpose where there is one.

        Sums of float16 and bfloat16 are made in a float32 image, the one array beyond the result.
        """
        sums = sum_dtype(dtype)
        written = out if sums == dtype else None
        image = self.empty(shape, sums) if written is None else written
        fill(image)
        if options.prefilters:
            image = self.spline_filter(
                image, options.spline_axes(image.ndim - 2), sums, options.channel_axis, True, image
            )
        return image if written is not None else self.delivered(image, dtype, out)

    def delivered(self, sums: Array, dtype: np.dtype[Any], out: Array | None) -> Array:
        """Sums, of which nothing is needed later, in the dtype of the result, or written into `out`."""
        return delivered(sums, dtype, out)

    def spline_filter(
        self,
        input: Array,
        axes: tuple[SplineAxis, ...],
        dtype: np.dtype[Any],
        channel_axis: int,
        transposed: bool,
        out: Array | None,
    ) -> Array:
        output = self.empty(input.shape, dtype) if out is None else out
        if output.size == 0:
            return output
        source = input
        if not axes or source.dtype != dtype:
            output[...] = source
            source = output
        first = 2 if channel_axis == 1 else 1
        for along in axes:  # the first reads the input, all write the output
            self.run(
                self.kernels.spline_filter,
                source,
                output,
                first + along.axis,
                along.order,
                along.boundary,
                transposed,
            )
            source = output
        return output
