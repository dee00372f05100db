"""Sampling without aliasing (`pystn.antialiasing`), made of what backends sample with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pystn.antialiasing import Elliptical, MipMap, Scaled, Supersampling
from pystn.backends.blends import Blend, MipMapper, Supersampler
from pystn.backends.geometry import geometry_of
from pystn.backends.measures import Covariances, Scales
from pystn.backends.sums import delivered
from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.options import SamplingOptions
from pystn.typing import Array
from pystn.validation import mask_dtype, spatial_of, sum_dtype, tangent_dtype

if TYPE_CHECKING:
    from pystn.backends.operations import Operations

__all__ = ["antialiased"]


def antialiased(
    backend: Operations, input: Array, coordinates: Coordinates, options: SamplingOptions
) -> Blend | FootprintSampler:
    """What samples an image at coordinates as ``options.antialias`` says."""
    return KINDS[type(options.antialias)](backend, input, coordinates, options)


class FootprintSampler:
    """Samples of a stored grid, each over a footprint that the Jacobian of the coordinates gives it."""

    def __init__(self, backend: Operations, input: Array, coordinates: Coordinates, options: SamplingOptions) -> None:
        self.backend, self.input, self.coordinates = backend, input, coordinates
        self.options, antialias = options.plain, options.antialias
        dtype = coordinates.dtype
        if isinstance(coordinates, MatrixCoordinates):
            dtype = mask_dtype(np.result_type(sum_dtype(input.dtype), dtype))
        self.geometry = geometry_of(backend, coordinates, spatial_of(input.shape, options), options, dtype)
        kind = Scales if isinstance(antialias, Scaled) else Covariances
        self.measure = kind(backend.xp, self.geometry.jacobian)
        self.detached = bool(getattr(antialias, "detach", False))
        # Footprints that samples of an affine map share are not repeated.
        self.footprint = self.spread(self.measure.value)

    def spread(self, footprints: Array) -> Any:
        """One for each sample."""
        shape = self.coordinates.shape
        return self.backend.xp.broadcast_to(footprints, (*shape[:-1], *footprints.shape[len(shape) - 1 :]))

    def gathered(self, to_footprint: Array) -> Any:
        """The sum over those that share one."""
        shape = self.measure.value.shape
        shared = tuple(axis for axis, length in enumerate(shape) if length != to_footprint.shape[axis])
        return to_footprint.sum(axis=shared, keepdims=True) if shared else to_footprint

    def along(self, d_source: Array | None) -> tuple[Array | None, Array | None]:
        """The tangents of grid and footprint."""
        if d_source is None:
            return None, None
        d_grid = self.geometry.grid_jvp(d_source)
        if self.detached:
            return d_grid, None
        return d_grid, self.spread(self.measure.jvp(self.geometry.jacobian_jvp(d_source)))

    def to_source(self, to_grid: Array, to_footprint: Array | None) -> Any:
        """The gradient to the source from those to grid and footprint."""
        gradient = self.geometry.grid_vjp(to_grid)
        if to_footprint is not None:
            gradient = gradient + self.geometry.jacobian_vjp(self.measure.vjp(self.gathered(to_footprint)))
        return gradient

    def sample(self, return_mask: bool, out: Array | None) -> tuple[Array, Array | None]:
        return self.backend.footprint_sample(
            self.input, self.geometry.grid, self.footprint, self.options, return_mask, out
        )

    def jvp(
        self,
        d_input: Array | None,
        d_source: Array | None,
        d_fill: Any,
        d_kernel: list[Array | None],
        return_mask: bool,
        out: Array | None,
    ) -> tuple[Array, Array | None]:
        if d_fill is not None or any(d is not None for d in d_kernel):
            self.refuse_options()
        d_grid, d_footprint = self.along(d_source)
        return self.backend.footprint_sample_jvp(
            self.input,
            self.geometry.grid,
            d_input,
            d_grid,
            self.footprint,
            d_footprint,
            self.options,
            return_mask,
            out,
        )

    def vjp(
        self, grad_output: Array, grad_mask: Array | None, wanted: tuple[bool, ...], out: tuple[Array | None, ...]
    ) -> tuple[Array | None, Array | None]:
        to_input, to_grid, to_footprint = self.first_order(grad_output, grad_mask, wanted)
        if to_input is not None:
            to_input = delivered(to_input, tangent_dtype(self.input.dtype), out[0])
        if to_grid is None:
            return to_input, None
        return to_input, delivered(self.to_source(to_grid, to_footprint), self.coordinates.dtype, out[1])

    def first_order(
        self, grad_output: Array, grad_mask: Array | None, wanted: tuple[bool, ...]
    ) -> tuple[Array | None, Array | None, Array | None]:
        """Gradients to input, grid and footprint."""
        grid, moving = self.geometry.grid, (*wanted, wanted[1] and not self.detached)
        return self.backend.footprint_sample_vjp(
            grad_output, grad_mask, self.input, grid, self.footprint, self.options, moving
        )

    def vjp_options(self, grad_output: Array, grad_mask: Array | None) -> Any:
        self.refuse_options()

    def refuse_options(self) -> None:
        raise NotImplementedError(
            "fill_value and kernel have no derivatives with antialias 'scaled' and 'ewa': "
            "expected 'supersample' or 'mipmap'"
        )

    def vjp2(
        self,
        gg_input: Array | None,
        gg_source: Array | None,
        grad_output: Array,
        grad_mask: Array | None,
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        gg_grid, gg_footprint = self.along(gg_source)
        to_output, to_mask, to_input, to_grid, to_footprint = self.backend.footprint_sample_vjp2(
            gg_input,
            gg_grid,
            gg_footprint,
            grad_output,
            grad_mask,
            self.input,
            self.geometry.grid,
            self.footprint,
            self.options,
            (*wanted, wanted[2] and not self.detached),
        )
        if to_grid is None:
            return to_output, to_mask, to_input, None
        to_source = self.to_source(to_grid, to_footprint)
        if gg_source is not None and not (self.detached and not self.geometry.is_curved):
            to_source = to_source + self.turned(gg_source, *self.first_order(grad_output, grad_mask, (False, True))[1:])
        return to_output, to_mask, to_input, to_source

    def turned(self, gg_source: Array, to_grid: Array | None, to_footprint: Array | None) -> Any:
        """What the gradient itself adds to the second order, where grid or footprint are not linear in the source."""
        turned, to_jacobian = 0, None
        if to_footprint is not None:
            to_measure = self.gathered(to_footprint)
            to_jacobian = self.measure.vjp(to_measure)
            gg_jacobian = self.geometry.jacobian_jvp(gg_source)
            turned = self.geometry.jacobian_vjp(self.measure.vjp2(gg_jacobian, to_measure))
        curved = self.geometry.vjp2(gg_source, to_grid, to_jacobian)
        return turned if curved is None else turned + curved


KINDS: dict[Any, type[Blend] | type[FootprintSampler]] = {
    Supersampling: Supersampler,
    MipMap: MipMapper,
    Scaled: FootprintSampler,
    Elliptical: FootprintSampler,
}
