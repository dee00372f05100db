"""Transforms one after another, each read off what those before it show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pystn.grids.family import Family
from pystn.options import flag, one_of
from pystn.systems.base import Pullback, System, Warp, added
from pystn.transforms import MatrixTransform
from pystn.validation import count

__all__ = ["Cascade", "CascadedSpatialTransformer", "HierarchicalSpatialTransformer", "Stage"]


class Stage(NamedTuple):
    """One network of a cascade, what its parameters are of, and what it is shown."""

    localization: Callable[..., Any]
    transform: Any
    size: tuple[int, ...]  # of the view
    options: dict[str, Any]  # of the sampler for the view, beside those of the system


class Cascade(System):
    """What cascades share: a warp that grows stage by stage, and views of the input through it."""

    _sees_input = False  # whether the first network sees the input as it is, not through a first warp

    def _stages(self, input: Any) -> Iterator[Stage]:
        raise NotImplementedError

    def _start(self, input: Any, *others: Any) -> Warp | None:
        """The warp before the first stage; None for the identity."""
        return None

    def _identity(self, ndim: int, like: Any) -> Warp:
        """The warp that moves nothing, for all images."""
        return Warp(self._constant(np.eye(ndim, ndim + 1)[None], like), True)

    def _placed(self, warp: Warp) -> tuple[Warp, Pullback]:
        """A warp as the sampler gets it, and the pullback to its array."""
        return warp, lambda grad: grad

    def _followed(self, warp: Warp | None, update: Warp, size: tuple[int, ...]) -> tuple[Warp, Pullback]:
        """A warp and its update, of which the pullback returns both gradients."""
        if warp is None:
            return update, lambda grad: (None, grad)
        return self._composed(warp, update, size)

    def _check_makes_grids(self, transform: Any) -> None:
        """Raise if it is not for transforms that make grids, as this does."""

    def _weights(self, each: list[Any]) -> Any:
        """The gradients to the weights of the networks of all stages."""
        return tuple(each)

    def _seen(self, input: Any, warp: Warp, size: tuple[int, ...] | None = None, **options: Any) -> Any:
        """The input through a warp, and the pullback to the input and the warp's array."""
        placed, to_warp = self._placed(warp)
        view, to_input = self._sampled(input, placed, size, **options)

        def pullback(grad_view: Any) -> tuple[Any, Any]:
            grad_input, grad_placed = to_input(grad_view)
            return grad_input, to_warp(grad_placed)

        return view, pullback

    def _trace(self, input: Any, *others: Any) -> tuple[Any, Pullback]:
        ndim, size, backs = input.ndim - 2, self._size(input), []
        start = warp = self._start(input, *others)
        for stage in self._stages(input):
            view, to_view = input, None
            if warp is not None or not self._sees_input:
                view, to_view = self._seen(input, warp or self._identity(ndim, input), stage.size, **stage.options)
            parameters, to_image = self._localized(stage.localization, view)
            update, to_parameters = self._warp(parameters, ndim, stage.transform)
            if not update.by_matrix:
                self._check_makes_grids(stage.transform)
            if warp is not None and warp.axes != update.axes:
                after = f"got parameters of {update.axes} after {warp.axes}"
                raise ValueError(f"all stages must have as many axes of transforms: {after}")
            warp, to_warps = self._followed(warp, update, size)
            backs.append((to_view, to_image, to_parameters, to_warps))
        if warp is None:
            raise ValueError("a cascade must have at least one network")
        placed, to_warp = self._placed(warp)
        output, to_input = self._sampled(input, placed, size)

        def pullback(grad: Any) -> tuple[Any, ...]:
            grad_output, head = self._heads(grad)
            grad_input, grad_placed = (None, None) if grad_output is None else to_input(grad_output)
            grad_warp, weights = to_warp(added(grad_placed, head)), []
            for to_view, to_image, to_parameters, to_warps in reversed(backs):
                grad_warp, grad_update = to_warps(grad_warp)
                grad_view, grad_weights = to_image(to_parameters(grad_update))
                weights.append(grad_weights)
                if to_view is not None:
                    grad_view, grad_through = to_view(grad_view)
                    grad_warp = added(grad_warp, grad_through)
                grad_input = added(grad_input, grad_view)
            gradients = grad_input, self._weights(weights[::-1])
            return gradients if start is None else (*gradients, grad_warp)

        return ((output, placed.array) if self.return_parameters else output), pullback


class CascadedSpatialTransformer(Cascade):
    r"""Spatial transformers in series, of which each sees what those before it have warped.

    .. math:: V = U \circ (T_{\theta_1} \circ T_{\theta_2} \circ \dots \circ T_{\theta_L}), \qquad
        \theta_l = f_l(U \circ T_{\theta_1} \circ \dots \circ T_{\theta_{l-1}})

    The warp goes from stage to stage, not the image: every network and the output see the input sampled once, so that
    there is one interpolation, and what an earlier stage moves out of sight a later one can move back (Lin and Lucey,
    2017). Matrices are multiplied; other warps are composed as grids.

    Parameters
    ----------
    localizations : tuple or list of callable
        A network a stage, as `SpatialTransformer` takes them. The first sees the input itself, the others the input
        warped, in the size of the output.
    transform : str, MatrixTransform, family, callable, or a sequence of one a stage
        As `SpatialTransformer` takes them.
    propagate : {"warp", "image"}, default "warp"
        What goes from stage to stage. "image" is the layers in series of Jaderberg et al. (2015): each samples the
        output of the last, and loses what lies outside of it.
    return_parameters : bool, default False
        Whether to return ``(output, warp)``, the warp of all stages: matrices (N, ..., ndim, ndim + 1), as
        `theta_to_box` takes them, or projective (N, ..., ndim + 1, ndim + 1), or a grid if a stage makes one.
        Cotangents are then such pairs too, of which either may be None. Images that are propagated have no such warp.
    size, **options
        As `SpatialTransformer` takes them.

    Raises
    ------
    TypeError, ValueError
        As `SpatialTransformer`; and if there are not as many transforms as networks.

    See Also
    --------
    HierarchicalSpatialTransformer : sees the input coarsely first.
    InverseCompositionalSpatialTransformer : one network for all stages.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> turn = lambda image: np.full((len(image), 1), np.pi / 4)
    >>> cascade = pystn.CascadedSpatialTransformer([turn, lambda image: -turn(image)], "rotation")
    >>> image = np.ones((1, 1, 8, 8))
    >>> bool(cascade(image).min() == 1)  # the corners come back
    True
    """

    def __init__(
        self,
        localizations: Sequence[Callable[..., Any]],
        transform: str | MatrixTransform | Family | Callable[..., Any] | Sequence[Any] = "affine",
        size: Sequence[int] | None = None,
        *,
        propagate: str = "warp",
        return_parameters: bool = False,
        **options: Any,
    ) -> None:
        self._set(transform, size, options, several=True)
        one_of("propagate", propagate, ("warp", "image"))
        self.return_parameters = flag("return_parameters", return_parameters)
        if self.return_parameters and propagate == "image":
            raise ValueError("return_parameters=True is for propagate='warp': images are not sampled by one warp")
        self.localizations = self._networks(localizations)
        self.propagate = propagate
        if isinstance(transform, (tuple, list)):
            check_each("transform", transform, self.localizations)

    _sees_input = True

    @property
    def transforms(self) -> Sequence[Any]:
        """That of each stage."""
        several = isinstance(self.transform, (tuple, list))
        return self.transform if several else [self.transform] * len(self.localizations)

    def _stages(self, input: Any) -> Iterator[Stage]:
        for localization, transform in zip(self.localizations, self.transforms, strict=True):
            yield Stage(localization, transform, self._size(input), {"return_mask": False})

    def _trace(self, input: Any) -> tuple[Any, Pullback]:
        return super()._trace(input) if self.propagate == "warp" else self._trace_images(input)

    def _trace_images(self, input: Any) -> tuple[Any, Pullback]:
        image, backs = input, []
        stages = list(self._stages(input))
        for k, stage in enumerate(stages):
            parameters, to_image = self._localized(stage.localization, image)
            warp, to_parameters = self._warp(parameters, input.ndim - 2, stage.transform)
            masked = {} if k == len(stages) - 1 else stage.options
            image, to_input = self._sampled(image, warp, stage.size, **masked)
            backs.append((to_input, to_parameters, to_image))

        def pullback(grad_output: Any) -> tuple[Any, Any]:
            grad_image, weights = grad_output, []
            for to_input, to_parameters, to_image in reversed(backs):
                grad_sampled, grad_warp = to_input(grad_image)
                grad_seen, grad_weights = to_image(to_parameters(grad_warp))
                weights.append(grad_weights)
                grad_image = added(grad_sampled, grad_seen)
            return grad_image, self._weights(weights[::-1])

        return image, pullback


class HierarchicalSpatialTransformer(Cascade):
    r"""Spatial transformers from coarse to fine: the first sees the input at low resolution, the last at the output's.

    .. math:: \theta_l = f_l\bigl((U \circ T_{\theta_1} \circ \dots \circ T_{\theta_{l-1}})
        \downarrow_{2^{L - l}}\bigr)

    Large motions are found where an image has few pixels, and refined where it has many. As in
    `CascadedSpatialTransformer` the warp goes from stage to stage, and the input is sampled once. Parameters are in
    normalized coordinates, and mean the same at every resolution.

    Parameters
    ----------
    localizations : tuple or list of callable
        A network a stage, as `SpatialTransformer` takes them.
    transform : str, MatrixTransform, callable, or a sequence of one a stage
        By matrices, as "affine"; otherwise as `SpatialTransformer` takes them.
    scales : sequence of int, optional
        By what the size of the output is divided at each stage, and rounded up. Default ``2 ** (L - 1), ..., 2, 1``.
    view_antialias : str, object or None, default "mipmap"
        `antialias` of `grid_sample` for what the networks see.
    return_parameters : bool, default False
        Whether to return ``(output, warp)``, as `CascadedSpatialTransformer` does.
    size, **options
        As `SpatialTransformer` takes them.

    Raises
    ------
    TypeError, ValueError
        As `SpatialTransformer`; and if there are not as many transforms or scales as networks, or a transform is not by
        matrices.

    See Also
    --------
    CascadedSpatialTransformer : every network sees the input in the size of the output.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> sizes = []
    >>> def network(image):
    ...     sizes.append(image.shape[2:])
    ...     return np.broadcast_to(pystn.identity_params("rigid"), (len(image), 3))
    >>> image = np.ones((1, 1, 32, 32))
    >>> output = pystn.HierarchicalSpatialTransformer([network] * 3, "rigid")(image)
    >>> sizes
    [(8, 8), (16, 16), (32, 32)]
    """

    def __init__(
        self,
        localizations: Sequence[Callable[..., Any]],
        transform: str | MatrixTransform | Callable[..., Any] | Sequence[Any] = "affine",
        size: Sequence[int] | None = None,
        *,
        scales: Sequence[int] | None = None,
        view_antialias: Any = "mipmap",
        return_parameters: bool = False,
        **options: Any,
    ) -> None:
        self._set(transform, size, options, several=True)
        self.return_parameters = flag("return_parameters", return_parameters)
        self.localizations = self._networks(localizations)
        stages = len(self.localizations)
        if options.get("coords", "normalized") != "normalized":
            raise ValueError(f"coords must be 'normalized', which every resolution has: got {options['coords']!r}")
        self.transforms = tuple(transform) if isinstance(transform, (tuple, list)) else (transform,) * stages
        check_each("transform", self.transforms, self.localizations)
        for one in self.transforms:
            if isinstance(one, Family):
                self._check_makes_grids(one)
        self.scales = tuple(2 ** (stages - 1 - k) for k in range(stages)) if scales is None else scales_of(scales)
        check_each("scales", self.scales, self.localizations)
        self.view_antialias = view_antialias

    def _check_makes_grids(self, transform: Any) -> None:
        raise ValueError(f"transform must be by matrices, which have no size of their own: got {transform!r}")

    def _stages(self, input: Any) -> Iterator[Stage]:
        options = {"return_mask": False, "antialias": self.view_antialias}
        for localization, transform, scale in zip(self.localizations, self.transforms, self.scales, strict=True):
            size = tuple(-(-length // scale) for length in self._size(input))
            yield Stage(localization, transform, size, options)


def check_each(name: str, given: Sequence[Any], networks: Sequence[Any]) -> None:
    if len(given) != len(networks):
        entries = "1 entry" if len(given) == 1 else f"{len(given)} entries"
        raise ValueError(f"there are {len(networks)} networks, and {entries} of {name}: expected one for each")


def scales_of(scales: Any) -> tuple[int, ...]:
    if not isinstance(scales, Sequence) or isinstance(scales, str):
        raise TypeError(f"scales must be a sequence of integers, got {scales!r}")
    return tuple(count("an entry of scales", scale, 1) for scale in scales)
