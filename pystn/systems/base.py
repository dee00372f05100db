"""What the systems have in common: parameters to warps, warps after warps, an image sampled where they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from pystn.backends import backend_of
from pystn.grids.family import Family
from pystn.ops import OPERATIONS, vjp
from pystn.transforms import MatrixTransform, named
from pystn.typing import Array
from pystn.validation import mask_dtype, spatial_size

__all__ = ["Pullback", "System", "Warp", "added", "check_network", "check_shape", "parted"]

Pullback = Callable[..., Any]
HORIZON = ("min_denominator", "cull_behind")  # options of projective maps alone
SAMPLER = OPERATIONS["grid_sample"]
OPTIONS = (*SAMPLER.options, *(name for name in SAMPLER.parameters if name not in SAMPLER.options), *HORIZON)


class Warp(NamedTuple):
    """Where an output looks in the input: matrices (N, *K, ndim, ndim + 1 or ndim + 1), or a grid."""

    array: Any
    by_matrix: bool

    @property
    def projective(self) -> bool:
        return self.by_matrix and self.array.shape[-1] == self.array.shape[-2]

    @property
    def axes(self) -> int:
        """How many axes of transforms there are beside that of images."""
        return int(self.array.ndim - (3 if self.by_matrix else 2 + self.array.shape[-1]))


class System:
    """Networks that say where to look, and samplers that look there.

    A system is written once, as values that come with what pulls cotangents back. Here that is explicit, out of the
    table of operations; adapters replace `_pull` and `_xp`, run the same lines for the values, and leave the
    derivatives to their framework.
    """

    transform: Any
    size: tuple[int, ...] | None
    options: dict[str, Any]
    return_parameters = False

    def _set(self, transform: Any, size: Sequence[int] | None, options: dict[str, Any], several: bool = False) -> None:
        """Keep how to warp, checked as far as that goes without an input; `several` transforms where there may be."""
        self.size = None if size is None else spatial_size(size)
        for name in options:
            if name not in OPTIONS:
                expected = ", ".join(OPTIONS)
                raise TypeError(f"{type(self).__name__} has no option {name!r}: expected some of {expected}")
        transforms = transform if several and isinstance(transform, (tuple, list)) else (transform,)
        for one in transforms:
            if isinstance(one, Family):
                if options.get("coords", "normalized") != "normalized":
                    raise ValueError(f"coords must be 'normalized' as those of a family: got {options['coords']!r}")
                if self.size not in (None, one.size):
                    raise ValueError(f"size must be that of the family, {one.size}, or None: got {self.size}")
                self.size = one.size
                if options.setdefault("align_corners", one.align_corners) != one.align_corners:
                    raise ValueError(
                        f"align_corners must be that of the family, {one.align_corners}: got {options['align_corners']}"
                    )
            elif not callable(one):
                named(one)
        for name in HORIZON:
            if name in options and not any(map(may_be_projective, transforms)):
                raise TypeError(f"{name} is an option of projective transforms: got {transform!r}")
        self.transform = transform
        self.options = options

    def _several(self, localizations: Any) -> bool:
        """Whether these are networks, not one."""
        return isinstance(localizations, (tuple, list))

    def _networks(self, localizations: Any) -> Any:
        """One network or more, as they are kept."""
        if not self._several(localizations):
            raise TypeError(f"localizations must be a tuple or list of networks, got {type(localizations).__name__}")
        if not len(localizations):
            raise ValueError("localizations must be one network or more, got none")
        return self._kept([check_network(network) for network in localizations])

    def _kept(self, networks: list[Any]) -> Any:
        return tuple(networks)

    def _pull(self, f: Any, *arrays: Any, **options: Any) -> tuple[Any, Pullback]:
        """An operation's output, and what pulls its cotangent back."""
        return vjp(f, *arrays, **options)

    def _xp(self, array: Any) -> Any:
        """The array module."""
        return backend_of({"input": array}).xp

    def _constant(self, array: Any, like: Any) -> Any:
        """An array of the host as one of the kind of another, in the dtype of its coordinates."""
        return self._xp(like).asarray(array, mask_dtype(like.dtype))

    def _trace(self, input: Any, *others: Any) -> tuple[Any, Pullback]:
        """The output, and what pulls its cotangent back to the input and the networks' weights."""
        raise NotImplementedError

    def forward(self, input: Any, *others: Any) -> Any:
        """The output."""
        return self._trace(input, *others)[0]

    def __call__(self, input: Any, *others: Any) -> Any:
        return self.forward(input, *others)

    def pull(self, input: Array, *others: Any) -> tuple[Any, Pullback]:
        """The output, and its pullback: a function of the cotangent that returns what `vjp` does.

        What was computed on the way is kept until the pullback is let go of.
        """
        return self._trace(input, *others)

    def vjp(self, grad_output: Any, input: Array, *others: Any) -> tuple[Any, ...]:
        """Gradients to the input, to the weights, as the networks' `vjp` return these, and to a warp to start from.

        The output is computed on the way; `pull` gives both.
        """
        gradients: tuple[Any, ...] = self._trace(input, *others)[1](grad_output)
        return gradients

    def _localized(self, localization: Any, image: Any) -> tuple[Any, Pullback]:
        """A network's parameters, and their pullback to the image and the weights."""

        def pullback(grad_parameters: Any) -> tuple[Any, Any]:
            if not hasattr(localization, "vjp"):
                raise TypeError(
                    "a localization must have a method vjp(grad_parameters, image), which returns the gradients to the "
                    f"image and to its weights: {type(localization).__name__} has none"
                )
            gradients = localization.vjp(grad_parameters, image)
            if not isinstance(gradients, (tuple, list)) or len(gradients) != 2:
                raise TypeError(
                    "vjp of a localization must return a pair, the gradients to the image and to its weights: that of "
                    f"{type(localization).__name__} returned {type(gradients).__name__}"
                )
            grad_image, grad_weights = gradients
            given, expected = getattr(grad_image, "shape", ()), image.shape
            if grad_image is not None and given != expected:
                raise ValueError(
                    f"vjp of a localization must return a gradient to the image of its shape, {tuple(expected)}, or "
                    f"None: that of {type(localization).__name__} returned {tuple(given)}"
                )
            return grad_image, grad_weights

        return localization(image), pullback

    def _heads(self, grad: Any) -> Any:
        """The cotangents of the output and of the parameters; None if these are not returned."""
        return parted(grad, "output", "parameters") if self.return_parameters else (grad, None)

    def _size(self, input: Any) -> tuple[int, ...]:
        """The spatial size of the output."""
        spatial = input.shape[1:-1] if self.options.get("channel_axis", 1) == -1 else input.shape[2:]
        return self.size or tuple(spatial)

    def _warp(self, parameters: Any, ndim: int, transform: Any = None, parallel: bool = False) -> tuple[Warp, Pullback]:
        """The warp of parameters (N, *K, p), or of matrices or of a family's theta; one axis K if `parallel`."""
        transform = self.transform if transform is None else transform
        if isinstance(transform, Family):
            theta, back = shaped(
                parameters, transform.theta_shape, f"parameters of a {type(transform).__name__}", parallel
            )
            grid, to_theta = self._pull(transform, theta)
            return Warp(grid, False), lambda grad: back(*to_theta(grad))
        if isinstance(transform, (str, MatrixTransform)):
            return self._matrices(transform, parameters, ndim, parallel)
        array, last = transform(parameters), ndim + 1
        warp = Warp(array, array.shape[-1] == last)  # the last axis of a grid is ndim
        if warp.by_matrix:
            check_shape(array, [(ndim, last), (last, last)], f"matrices of {transform!r}", parallel)
        elif parallel and warp.axes != 1:
            given = tuple(array.shape)
            raise ValueError(f"the transform must make grids of shape (N, K, *size, {ndim}): got {given}")
        return warp, lambda grad: pulled(transform, grad, parameters)

    def _matrices(self, transform: Any, parameters: Any, ndim: int, parallel: bool) -> tuple[Warp, Pullback]:
        """The warp of parameters of a transform that is a name, or one with options."""
        kind, what = named(transform, ndim), f"parameters of {transform!r} in {ndim} dimensions"
        if not kind.steps:
            theta, back = shaped(parameters, (ndim, ndim + 1), what, parallel)
            return Warp(theta, True), back
        check_shape(parameters, [(count,) for count in kind.counts[ndim]], what, parallel)
        theta, backs = parameters, []
        for operation, options in kind.steps:
            theta, back = self._pull(operation, theta, **options)
            backs.append(back)

        def pullback(grad: Any) -> Any:
            for back in reversed(backs):
                (grad,) = back(grad)
            return grad

        return Warp(theta, True), pullback

    def _sampled(self, input: Any, warp: Warp, size: tuple[int, ...] | None = None, **others: Any) -> Any:
        """The input where a warp says: by a fused one that stores no grid, if it is by matrices.

        The pullback returns gradients to the input and to the array of the warp.
        """
        options = {**self.options, **others}
        if not warp.projective:  # as views through the identity may be, of what becomes projective
            options = {name: value for name, value in options.items() if name not in HORIZON}
        if not warp.by_matrix:
            return self._pull("grid_sample", input, warp.array, **options)
        name = "warp_projective" if warp.projective else "warp_affine"
        return self._pull(name, input, warp.array, size=size or self._size(input), **options)

    def _given(self, *names: str) -> dict[str, Any]:
        """Those of the options that were given."""
        return {name: self.options[name] for name in names if name in self.options}

    def _grid(self, warp: Warp, size: tuple[int, ...]) -> tuple[Any, Pullback]:
        """The grid of matrices, in the sampler's convention; the first result of the pullback is for them."""
        if self.options.get("coords", "normalized") == "pixel":
            indices = np.stack([*np.indices(size)[::-1], np.ones(size)])[None]  # x first
            return self._moved(warp, self._constant(indices, warp.array))
        if warp.projective:
            return self._pull("projective_grid", warp.array, size=size, **self._given("align_corners", *HORIZON))
        return self._pull("affine_grid", warp.array, size=size, **self._given("align_corners"))

    def _moved(self, warp: Warp, points: Any) -> tuple[Any, Pullback]:
        """Points (N, ndim + 1, *size), the last entry 1, where matrices move them."""
        return self._pull("linear_grid", warp.array, points, homogeneous=warp.projective, **self._given(*HORIZON))

    def _composed(
        self, first: Warp, second: Warp, size: tuple[int, ...], **options: Any
    ) -> tuple[Warp, Callable[[Any], tuple[Any, Any]]]:
        """The warp that does what an image warped by the first whose result is warped by the second shows.

        The pullback returns gradients to both arrays.
        """
        if first.by_matrix and second.by_matrix:
            theta, back = self._pull("compose", first.array, second.array, **options)
            return Warp(theta, True), back
        if first.by_matrix:  # of coordinates that are points like any others
            xp, grid = self._xp(first.array), second.array
            points = xp.concatenate([grid, xp.ones_like(grid[..., :1])], -1)
            moved, to_moved = self._moved(first, xp.moveaxis(points, -1, 1))

            def pullback(grad: Any) -> tuple[Any, Any]:
                grad_theta, grad_points = to_moved(grad)
                return grad_theta, xp.moveaxis(grad_points[:, :-1], 1, -1)

            return Warp(moved, False), pullback
        grid, to_theta = self._grid(second, size) if second.by_matrix else (second.array, None)
        both, to_both = self._pull("compose_grids", first.array, grid, **self._given("align_corners", "coords"))

        def pull_both(grad: Any) -> tuple[Any, Any]:
            grad_first, grad_second = to_both(grad)
            return grad_first, grad_second if to_theta is None else to_theta(grad_second)[0]

        return Warp(both, False), pull_both


def check_network(network: Any) -> Any:
    """The network, if it is one."""
    if not callable(network):
        raise TypeError(f"a localization must be callable, got {type(network).__name__}")
    return network


def may_be_projective(transform: Any) -> bool:
    """Whether its matrices are square; those of functions are not known before."""
    if isinstance(transform, (str, MatrixTransform)):
        return named(transform).projective
    return not isinstance(transform, Family)


def check_shape(
    parameters: Any, shapes: Sequence[tuple[int, ...]], what: str, parallel: bool = False
) -> tuple[int, ...]:
    """That of one transform's parameters among those that there may be."""
    if not hasattr(parameters, "shape"):
        raise TypeError(f"{what} must be an array, got {type(parameters).__name__}")
    given = tuple(parameters.shape)
    for shape in shapes:
        leading = len(given) - len(shape)
        if given[leading:] == shape and (leading == 2 if parallel else leading > 0):
            return shape
    leads = "N, K" if parallel else "N, ..."
    expected = " or ".join(f"({', '.join([leads, *map(str, shape)])})" for shape in shapes)
    raise ValueError(f"{what} must have shape {expected}: got {given}")


def shaped(array: Any, shape: tuple[int, ...], what: str, parallel: bool = False) -> tuple[Any, Pullback]:
    """Parameters (N, *K, p) as (N, *K, *shape), if they are not that already."""
    if check_shape(array, [shape, (prod(shape),)], what, parallel) == shape:
        return array, lambda grad: grad
    given = tuple(array.shape)
    return array.reshape(*given[:-1], *shape), lambda grad: grad.reshape(given)


def pulled(function: Any, grad: Any, parameters: Any) -> Any:
    """The gradient to the parameters of a function that makes grids or matrices."""
    if not hasattr(function, "vjp"):
        raise TypeError(
            "a transform that is a function must have a method vjp(grad, parameters), which returns the gradient "
            f"to the parameters: {type(function).__name__} has none"
        )
    return function.vjp(grad, parameters)


def parted(cotangent: Any, *of: str) -> Any:
    """The cotangents of all that is returned."""
    if not isinstance(cotangent, (tuple, list)) or len(cotangent) != len(of):
        raise TypeError(
            f"the cotangent must be a tuple ({', '.join(of)}), as what is returned: got {described(cotangent)}"
        )
    return cotangent


def added(first: Any, second: Any) -> Any:
    """The sum of two gradients to the same weights: arrays, or tuples, lists and dictionaries of them; None is zero."""
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, dict) and isinstance(second, dict):
        return {name: added(first.get(name), second.get(name)) for name in {**first, **second}}
    if isinstance(first, (tuple, list)) and type(first) is type(second) and len(first) == len(second):
        sums = [added(a, b) for a, b in zip(first, second, strict=True)]
        return type(first)(*sums) if hasattr(first, "_fields") else type(first)(sums)
    if isinstance(first, (dict, tuple, list)) or getattr(first, "shape", ()) != getattr(second, "shape", ()):
        raise ValueError(
            "gradients to the same image or weights must have one structure each time: "
            f"got {described(first)} and {described(second)}"
        )
    return first + second


def described(gradient: Any) -> str:
    if isinstance(gradient, (dict, tuple, list)):
        return f"a {type(gradient).__name__} of {len(gradient)}"
    return f"shape {tuple(gradient.shape)}" if hasattr(gradient, "shape") else type(gradient).__name__
