"""Weighted sums of samplings, which supersampling and mip maps are.

The samplings are of images that are made from one by a linear map, at coordinates that are affine in arrays, the
bases, which are made from one source. So are their derivatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from pystn.backends.geometry import geometry_of
from pystn.backends.measures import LevelOfDetail
from pystn.backends.sums import delivered, rounded
from pystn.coordinates import Coordinates, MatrixCoordinates
from pystn.options import SamplingOptions
from pystn.typing import Array
from pystn.validation import mask_dtype, sample_shape, spatial_of, sum_dtype, tangent_dtype

if TYPE_CHECKING:
    from pystn.backends.operations import Operations

__all__ = ["Blend", "MipMapper", "Supersampler"]


@dataclass(frozen=True)
class Part:
    """One of the samplings: of the image of a level, at `constant` plus the bases times their coefficients."""

    level: int
    coefficients: tuple[float, ...]
    constant: float
    options: SamplingOptions
    weight: Any  # a number, or one for each sample
    slope: Any = None  # the derivative of the weight to the level of detail

    def combined(self, bases: list[Array]) -> Any:
        """The bases times their coefficients."""
        terms = [base if c == 1 else base * base.dtype.type(c) for c, base in self.chosen(bases)]
        return sum(terms[1:], start=terms[0])

    def chosen(self, bases: list[Any]) -> list[tuple[float, Any]]:
        return [(c, base) for c, base in zip(self.coefficients, bases, strict=True) if c]


class Blend(ABC):
    """A weighted sum of samplings."""

    def __init__(self, backend: Operations, input: Array, coordinates: Coordinates, options: SamplingOptions) -> None:
        self.backend, self.xp = backend, backend.xp
        self.input, self.coordinates, self.options = input, coordinates, options
        self.spatial = spatial_of(input.shape, options)
        # The dtype of sums; and that of the images, whose samples must not be rounded before they are added up.
        self.sums = np.result_type(sum_dtype(input.dtype), coordinates.dtype)
        self.dtype = self.sums if input.dtype.kind in "iu" else sum_dtype(input.dtype)
        self.geometry = geometry_of(backend, coordinates, self.spatial, options, mask_dtype(self.sums))

    # What the kinds say.

    @abstractmethod
    def parts(self, moving: bool) -> Iterator[Part]:
        """The samplings; if `moving`, also those that have no weight but a slope of it."""

    @abstractmethod
    def images_of(self, image: Array) -> list[Array]: ...

    @abstractmethod
    def images_vjp(self, grads: list[Array | None]) -> Array: ...

    @property
    @abstractmethod
    def bases(self) -> list[Array]:
        """The source, and what else the coordinates are made from."""

    @abstractmethod
    def bases_jvp(self, d_source: Array) -> list[Array]: ...

    @abstractmethod
    def bases_vjp(self, grads: list[Array | None]) -> Array: ...

    @abstractmethod
    def bases_vjp2(self, gg_source: Array, grads: list[Array | None], to_jacobian: Array | None) -> Any:
        """What the gradients to bases and Jacobian add to the second order, where these are not linear."""

    @property
    def detail(self) -> LevelOfDetail | None:
        """What the weights are functions of, unless they are constant or are taken to be."""
        return None

    # What the directions share.

    @cached_property
    def images(self) -> list[Array]:
        return self.images_of(self.input.astype(self.dtype, copy=False))

    def tangents_of(self, d_input: Array | None) -> list[Array] | None:
        return None if d_input is None else self.images_of(d_input.astype(self.dtype, copy=False))

    def place(self, part: Part) -> Any:
        """The coordinates of a part."""
        at = part.combined(self.bases)
        if part.constant:
            at = at + at.dtype.type(part.constant)
        is_source = bool(part.coefficients[0])
        if is_source and isinstance(self.coordinates, MatrixCoordinates):
            return replace(self.coordinates, theta=at)
        return at

    def of_samples(self, weight: Any) -> Any:
        """One weight for each sample, to be multiplied with all its channels."""
        return weight if isinstance(weight, float) else self.xp.expand_dims(weight, self.options.channel_axis)

    def cotangents(self, grad_output: Array, grad_mask: Array | None, weight: Any) -> tuple[Array, Array | None]:
        """Of a part, from those of the result."""
        dtype = tangent_dtype(self.dtype)
        return (
            (grad_output * self.of_samples(weight)).astype(dtype, copy=False),
            None if grad_mask is None else (grad_mask * weight).astype(mask_dtype(dtype), copy=False),
        )

    def inner(self, grad_output: Array, grad_mask: Array | None, value: Array, mask: Array | None) -> Any:
        """The product of cotangents and values at each sample, (N, *shape)."""
        products = grad_output * value if value.dtype.kind != "c" else (grad_output * value.conj()).real
        sums = products.sum(axis=self.options.channel_axis, dtype=self.geometry.dtype)
        return sums if grad_mask is None else sums + grad_mask * mask

    def result(self, return_mask: bool, terms: Iterator[tuple[Array, Array | None, Any]]) -> tuple[Array, Array | None]:
        """The sum of samples and masks times weights, and the mask in its dtype."""
        shape = sample_shape(self.input, self.coordinates, self.options)
        total = self.xp.zeros(shape, self.sums)
        covered = self.xp.zeros((shape[0], *self.coordinates.shape[1:-1]), self.geometry.dtype) if return_mask else None
        for value, mask, weight in terms:
            value *= self.of_samples(weight)
            total += value
            if covered is not None and mask is not None:
                covered += mask * weight
        return total, None if covered is None else covered.astype(mask_dtype(self.input.dtype), copy=False)

    # The directions of the sampler.

    def sample(self, return_mask: bool, out: Array | None) -> tuple[Array, Array | None]:
        def terms() -> Iterator[tuple[Array, Array | None, Any]]:
            for part in self.parts(moving=False):
                yield *self.sample_part(part, return_mask), part.weight

        total, mask = self.result(return_mask, terms())
        return delivered(rounded(self.xp, total, self.input.dtype), self.input.dtype, out), mask

    def sample_part(self, part: Part, return_mask: bool) -> tuple[Array, Array | None]:
        return self.backend.grid_sample(self.images[part.level], self.place(part), part.options, return_mask, None)

    def jvp(
        self,
        d_input: Array | None,
        d_source: Array | None,
        d_fill: Any,
        d_kernel: list[Array | None],
        return_mask: bool,
        out: Array | None,
    ) -> tuple[Array, Array | None]:
        d_images = self.tangents_of(d_input)
        d_bases = None if d_source is None else self.bases_jvp(d_source)
        detail = None if d_source is None else self.detail
        d_detail = None if detail is None or d_source is None else detail.jvp(self.geometry.jacobian_jvp(d_source))

        def terms() -> Iterator[tuple[Array, Array | None, Any]]:
            for part in self.parts(moving=d_detail is not None):
                yield *self.jvp_part(part, d_images, d_bases, d_fill, d_kernel, return_mask), part.weight
                if d_detail is not None:
                    yield *self.sample_part(part, return_mask), part.slope * d_detail

        total, mask = self.result(return_mask, terms())
        return delivered(total, tangent_dtype(self.input.dtype), out), mask

    def jvp_part(
        self,
        part: Part,
        d_images: list[Array] | None,
        d_bases: list[Array] | None,
        d_fill: Any,
        d_kernel: list[Array | None],
        return_mask: bool,
    ) -> tuple[Array, Array | None]:
        d_image = None if d_images is None else d_images[part.level]
        d_place = None if d_bases is None else part.combined(d_bases)
        image, place = self.images[part.level], self.place(part)
        return self.backend.grid_sample_jvp(
            image, place, d_image, d_place, d_fill, d_kernel, part.options, return_mask, None
        )

    def vjp(
        self, grad_output: Array, grad_mask: Array | None, wanted: tuple[bool, ...], out: tuple[Array | None, ...]
    ) -> tuple[Array | None, Array | None]:
        sums = Gradients(self, wanted)
        detail = self.detail if wanted[1] else None
        for part in self.parts(moving=detail is not None):
            sums.add(part, *self.vjp_part(part, grad_output, grad_mask, part.weight, wanted))
            if detail is not None:
                samples = self.sample_part(part, grad_mask is not None)
                sums.add_detail(self.inner(grad_output, grad_mask, *samples) * part.slope)
        return sums.delivered(out)

    def vjp_part(
        self, part: Part, grad_output: Array, grad_mask: Array | None, weight: Any, wanted: tuple[bool, ...]
    ) -> tuple[Array | None, Array | None]:
        cotangents = self.cotangents(grad_output, grad_mask, weight)
        image, place = self.images[part.level], self.place(part)
        return self.backend.grid_sample_vjp(*cotangents, image, place, part.options, wanted, (None, None))

    def vjp_options(self, grad_output: Array, grad_mask: Array | None) -> tuple[Array, list[Array | None]]:
        """Gradients, in double, to the fill value of each channel and to each axis' kernel."""
        found = []
        for part in self.parts(moving=False):
            cotangents = self.cotangents(grad_output, grad_mask, part.weight)
            image, place = self.images[part.level], self.place(part)
            found.append(self.backend.grid_sample_vjp_options(*cotangents, image, place, part.options))
        fills, kernels = zip(*found, strict=True)
        return sum(fills), [None if axis[0] is None else sum(axis) for axis in zip(*kernels, strict=True)]

    def vjp2(
        self,
        gg_input: Array | None,
        gg_source: Array | None,
        grad_output: Array,
        grad_mask: Array | None,
        wanted: tuple[bool, ...],
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        none: list[Array | None] = [None] * len(self.spatial)
        has_mask = grad_mask is not None
        to_output = to_mask = None
        if wanted[0]:
            to_output, to_mask = self.jvp(gg_input, gg_source, None, none, has_mask, None)
        if not any(wanted[1:]):
            return to_output, to_mask, None, None
        gg_images = self.tangents_of(gg_input)
        gg_bases = None if gg_source is None else self.bases_jvp(gg_source)
        detail, gg_jacobian, gg_detail = self.detail, None, None
        if detail is not None and gg_source is not None:
            gg_jacobian = self.geometry.jacobian_jvp(gg_source)
            gg_detail = detail.jvp(gg_jacobian)
        sums = Gradients(self, wanted[1:])
        first = Gradients(self, (False, True))  # the gradient itself, which what is not linear in the source turns
        for part in self.parts(moving=detail is not None):
            gg_image = None if gg_images is None else gg_images[part.level]
            gg_place = None if gg_bases is None else part.combined(gg_bases)
            cotangents = self.cotangents(grad_output, grad_mask, part.weight)
            image, place = self.images[part.level], self.place(part)
            _, _, *grads = self.backend.grid_sample_vjp2(
                gg_image, gg_place, *cotangents, image, place, part.options, (False, *wanted[1:])
            )
            sums.add(part, *grads)
            if gg_detail is not None:
                sums.add(part, *self.vjp_part(part, grad_output, grad_mask, part.slope * gg_detail, wanted[1:]))
            if detail is not None and wanted[2]:
                tangent = self.jvp_part(part, gg_images, gg_bases, None, none, has_mask)
                sums.add_detail(self.inner(grad_output, grad_mask, *tangent) * part.slope)
            if gg_detail is not None and wanted[2]:
                first.add_detail(self.inner(grad_output, grad_mask, *self.sample_part(part, has_mask)) * part.slope)
            if self.geometry.is_curved and gg_source is not None and wanted[2]:
                first.add(part, *self.vjp_part(part, grad_output, grad_mask, part.weight, (False, True)))
        to_input, to_source = sums.delivered((None, None))
        if to_source is not None and gg_source is not None:
            to_jacobian = None
            if detail is not None and gg_jacobian is not None:
                to_source += self.geometry.jacobian_vjp(detail.vjp2(gg_jacobian, first.to_detail(detail)))
                to_jacobian = detail.vjp(first.to_detail(detail))
            if (turned := self.bases_vjp2(gg_source, first.bases, to_jacobian)) is not None:
                to_source += turned
        return to_output, to_mask, to_input, to_source


class Gradients:
    """The gradients to images, bases and level of detail, added up over the parts."""

    def __init__(self, blend: Blend, wanted: tuple[bool, ...]) -> None:
        self.blend, self.wanted = blend, wanted
        self.images: list[Array | None] = [None] * len(blend.images)
        self.bases: list[Array | None] = [None] * len(blend.bases)
        self.details: Array | None = None

    def add(self, part: Part, to_image: Array | None, to_place: Array | None) -> None:
        if to_image is not None:
            self.images[part.level] = plus(self.images[part.level], to_image)
        if to_place is not None:
            for j, c in enumerate(part.coefficients):
                if c:
                    self.bases[j] = plus(self.bases[j], to_place if c == 1 else to_place * to_place.dtype.type(c))

    def add_detail(self, to_detail: Array) -> None:
        self.details = plus(self.details, to_detail)

    def to_detail(self, detail: LevelOfDetail) -> Any:
        """Summed over what shares a level of detail: a batch, the samples of an affine map."""
        shape = detail.value.shape
        if self.details is None:
            return self.blend.xp.zeros(shape, detail.value.dtype)
        shared = tuple(axis for axis, length in enumerate(shape) if length != self.details.shape[axis])
        return self.details.sum(axis=shared, keepdims=True) if shared else self.details

    def delivered(self, out: tuple[Array | None, ...]) -> tuple[Array | None, Array | None]:
        """The gradients to input and source."""
        blend, to_input, to_source = self.blend, None, None
        if self.wanted[0]:
            to_input = delivered(blend.images_vjp(self.images), tangent_dtype(blend.input.dtype), out[0])
        if self.wanted[1]:
            sums, detail = blend.bases_vjp(self.bases), blend.detail
            if detail is not None and self.details is not None:
                sums = sums + blend.geometry.jacobian_vjp(detail.vjp(self.to_detail(detail)))
            to_source = delivered(sums, blend.coordinates.dtype, out[1])
        return to_input, to_source


def plus(total: Array | None, term: Array) -> Array:
    """The sum, in place of the total where there is one."""
    if total is None:
        return term
    total += term
    return total


class Supersampler(Blend):
    """All samplings are of the image, at coordinates a part of a step away along each axis of the target."""

    @cached_property
    def options_of_coefficients(self) -> SamplingOptions:
        return self.options.plain.unfiltered

    def parts(self, moving: bool) -> Iterator[Part]:
        antialias: Any = self.options.antialias
        s = antialias.samples
        offsets = [(2 * k + 1 - s) / (2 * s) for k in range(s)]
        for shift in product(offsets, repeat=len(self.spatial)):
            yield Part(0, (1.0, *shift), 0.0, self.options_of_coefficients, 1 / s ** len(shift))

    def vjp(
        self, grad_output: Array, grad_mask: Array | None, wanted: tuple[bool, ...], out: tuple[Array | None, ...]
    ) -> tuple[Array | None, Array | None]:
        """All samplings in one, along an axis behind the batch: their gradients to the image are added up as made."""
        xp, parts = self.xp, list(self.parts(moving=False))
        image, (place, *steps) = self.images[0], [xp.expand_dims(base, 1) for base in self.bases]
        shape = (1, len(parts), *[1] * (place.ndim - 2))
        shifts = [xp.asarray(c, place.dtype) for c in zip(*[part.coefficients[1:] for part in parts], strict=True)]
        for shift, step in zip(shifts, steps, strict=True):
            place = place + shift.reshape(shape) * step
        coordinates: Coordinates = place
        if isinstance(self.coordinates, MatrixCoordinates):
            coordinates = replace(self.coordinates, theta=place)
        of_part, of_mask = self.cotangents(grad_output, grad_mask, parts[0].weight)
        of_part = self.repeated(of_part, 2 if self.options.channel_axis == 1 else 1, len(parts))
        if of_mask is not None:
            of_mask = self.repeated(of_mask, 1, len(parts))
        to_image, to_place = self.backend.grid_sample_vjp(
            of_part, of_mask, image, coordinates, parts[0].options, wanted, (None, None)
        )
        sums = Gradients(self, wanted)
        sums.images[0] = to_image
        if to_place is not None:
            sums.bases = [to_place.sum(axis=1), *[(to_place * shift.reshape(shape)).sum(axis=1) for shift in shifts]]
        return sums.delivered(out)

    def repeated(self, array: Array, axis: int, times: int) -> Any:
        """The array seen several times along a new axis."""
        shape = (*array.shape[:axis], times, *array.shape[axis:])
        return self.xp.broadcast_to(self.xp.expand_dims(array, axis), shape)

    def images_of(self, image: Array) -> list[Array]:
        return [self.backend.coefficients(image, self.options)]

    def images_vjp(self, grads: list[Array | None]) -> Array:
        (grad,) = grads
        if grad is None or not self.options.prefilters:
            return self.xp.zeros(self.input.shape, tangent_dtype(self.dtype)) if grad is None else grad
        axes = self.options.spline_axes(len(self.spatial))
        return self.backend.spline_filter(grad, axes, grad.dtype, self.options.channel_axis, True, grad)

    @cached_property
    def bases(self) -> list[Array]:
        return [self.geometry.source, *self.geometry.steps]

    def bases_jvp(self, d_source: Array) -> list[Array]:
        return [d_source, *self.geometry.steps_jvp(d_source)]

    def bases_vjp(self, grads: list[Array | None]) -> Array:
        first, *others = grads
        return plus(first, self.geometry.steps_vjp(others))

    def bases_vjp2(self, gg_source: Array, grads: list[Array | None], to_jacobian: Array | None) -> Any:
        return None


class MipMapper(Blend):
    """Each sampling is of a level of the pyramid; the bases are the source, and its grid in pixels of the image."""

    def __init__(self, backend: Operations, input: Array, coordinates: Coordinates, options: SamplingOptions) -> None:
        super().__init__(backend, input, coordinates, options)
        antialias: Any = options.antialias
        self.detached = antialias.detach
        self.top = (max(self.spatial, default=1) - 1).bit_length() if 0 not in self.spatial else 0
        if antialias.levels is not None:
            self.top = min(self.top, antialias.levels)
        self.measure = LevelOfDetail(self.xp, self.geometry.jacobian, self.top)
        # Which levels are needed is looked up on the host alone: a device is not waited for.
        self.looks = self.xp is np
        self.highest = self.top
        if self.looks:
            finest = float(self.measure.value.max(initial=0))
            self.highest = min(self.top, int(finest) + 1) if finest > 0 else 0

    @property
    def detail(self) -> LevelOfDetail | None:
        return None if self.detached else self.measure

    def parts(self, moving: bool) -> Iterator[Part]:
        xp, value = self.xp, self.measure.value
        cell, ndim = xp.floor(value), len(self.spatial)
        plain = self.options.plain
        smaller = replace(plain, coords="pixel", align_corners=False, padding_mode=plain.boundaries(ndim), cutoff=None)
        for level in range(self.highest + 1):
            weight = xp.clip(1 - abs(value - level), 0, 1)
            slope = (cell == level - 1).astype(value.dtype) - (cell == level) if moving else None
            if self.looks and value.size and not (weight.any() or (slope is not None and slope.any())):
                continue
            if level == 0:
                yield Part(0, (1.0, 0.0), 0.0, plain, weight, slope)
            else:
                yield Part(level, (0.0, 0.5**level), 0.5 ** (level + 1) - 0.5, smaller, weight, slope)

    @cached_property
    def axes(self) -> list[int]:
        first = 2 if self.options.channel_axis == 1 else 1
        return [first + a for a in range(len(self.spatial))]

    def images_of(self, image: Array) -> list[Array]:
        images = [image]
        for _ in range(self.highest):
            for axis in self.axes:
                image = halved(image, axis)
            images.append(image)
        return images

    def images_vjp(self, grads: list[Array | None]) -> Array:
        total: Array | None = None
        for level in reversed(range(self.highest + 1)):
            if total is not None:
                for axis in self.axes:
                    total = halved_vjp(self.xp, total, axis, self.images[level].shape[axis])
            grad = grads[level]
            if grad is not None:
                total = plus(total, grad)
        return self.xp.zeros(self.input.shape, tangent_dtype(self.dtype)) if total is None else total

    @cached_property
    def bases(self) -> list[Array]:
        return [self.geometry.source, self.pixels()]

    def pixels(self) -> Any:
        """The grid in pixels of the image, NaN where the image's own cutoff leaves it out."""
        options, grid, unit = self.options, self.geometry.grid, self.geometry.unit
        p = grid
        if options.coords != "pixel":
            p = (grid + 1) * unit
            if not options.align_corners:
                p -= p.dtype.type(0.5)
        if options.cutoff is None:
            return p
        beyond = 0.5 if options.cutoff == "edge" else 0.0
        epsilon = 0 if options.coords == "pixel" else 8 * float(np.finfo(p.dtype).eps)
        inside = self.xp.ones(p.shape[:-1], bool)
        for a, n in enumerate(self.spatial[::-1]):
            margin = beyond + epsilon * n
            inside &= (p[..., a] >= -margin) & (p[..., a] <= n - 1 + margin)
        return self.xp.where(inside[..., None], p, np.nan)

    def bases_jvp(self, d_source: Array) -> list[Array]:
        return [d_source, self.geometry.grid_jvp(d_source) * self.geometry.unit]

    def bases_vjp(self, grads: list[Array | None]) -> Any:
        to_source, to_pixels = grads
        if to_pixels is not None:
            to_source = plus(to_source, self.geometry.grid_vjp(to_pixels * self.geometry.unit))
        if to_source is None:
            return self.xp.zeros(self.geometry.source.shape, self.geometry.source.dtype)
        return to_source

    def bases_vjp2(self, gg_source: Array, grads: list[Array | None], to_jacobian: Array | None) -> Any:
        to_grid = None if grads[1] is None else grads[1] * self.geometry.unit
        return self.geometry.vjp2(gg_source, to_grid, to_jacobian)


def every_second(image: Array, axis: int, start: int = 0, stop: int | None = None) -> Any:
    return image[(slice(None),) * axis + (slice(start, stop, 2),)]


def halved(image: Array, axis: int) -> Any:
    """Means of pairs of pixels along an axis; the last pixel of an odd one as it is."""
    pairs = image.shape[axis] // 2
    half = every_second(image, axis).copy()
    means = half[(slice(None),) * axis + (slice(pairs),)]
    means += every_second(image, axis, 1)
    means *= 0.5
    return half


def halved_vjp(xp: Any, grad: Array, axis: int, length: int) -> Any:
    shape = (*grad.shape[:axis], length, *grad.shape[axis + 1 :])
    image, pairs = xp.empty(shape, grad.dtype), length // 2
    every_second(image, axis)[...] = grad
    shares = every_second(image, axis, 0, 2 * pairs)
    shares *= 0.5
    every_second(image, axis, 1)[...] = shares
    return image
