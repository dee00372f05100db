"""Several transforms of one input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pystn.derivatives import cotangents
from pystn.grids.family import Family
from pystn.options import flag
from pystn.systems.base import Pullback, System, added, check_network
from pystn.transforms import MatrixTransform
from pystn.validation import check_like

__all__ = ["ParallelSpatialTransformer"]


class ParallelSpatialTransformer(System):
    r"""Layer that looks at K places of its input at once (Jaderberg et al., 2015, section 3.5).

    .. math:: V_k = U \circ T_{\theta_k}, \qquad \theta_k = f_k(U)

    The input is read by all transforms and never copied; its gradient is added up over them.

    Parameters
    ----------
    localizations : callable, or tuple or list of callable
        One network that makes all parameters, (N, K, p), or K networks of (N, p) each; as `SpatialTransformer` takes
        them.
    transform, size, **options
        As `SpatialTransformer` takes them.
    merge : bool, default False
        Whether outputs become channels of one image, (N, K * C, *size), those of the first transform first. Else the
        output has an axis of them, (N, C, K, *size), or (N, K, *size, C) with ``channel_axis=-1``.
    return_parameters : bool, default False
        Whether to return ``(output, parameters)``, these of all transforms, (N, K, p); as `SpatialTransformer` does.

    Raises
    ------
    TypeError, ValueError
        As `SpatialTransformer`; if there is no network, or several give parameters of different shapes.

    See Also
    --------
    tiled_params : where training starts; transforms that start alike stay alike.
    theta_to_box : what is looked at, from matrices.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> tiles = pystn.tiled_params(4)
    >>> network = lambda image: np.broadcast_to(tiles, (len(image), *tiles.shape))
    >>> image = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> quarters = pystn.ParallelSpatialTransformer(network, "attention", (2, 2))(image)
    >>> quarters.shape
    (1, 1, 4, 2, 2)
    >>> quarters[0, 0, 1]
    array([[2., 3.],
           [6., 7.]])
    """

    def __init__(
        self,
        localizations: Callable[..., Any] | Sequence[Callable[..., Any]],
        transform: str | MatrixTransform | Family | Callable[..., Any] = "affine",
        size: Sequence[int] | None = None,
        *,
        merge: bool = False,
        return_parameters: bool = False,
        **options: Any,
    ) -> None:
        self._set(transform, size, options)
        self.several = self._several(localizations)
        self.localizations = (self._networks if self.several else check_network)(localizations)
        self.merge = flag("merge", merge)
        self.return_parameters = flag("return_parameters", return_parameters)

    def _read(self, input: Any) -> tuple[Any, Pullback]:
        """Those of all transforms, (N, K, p)."""
        if not self.several:
            return self._localized(self.localizations, input)
        each = [self._localized(localization, input) for localization in self.localizations]

        def pullback(grad_parameters: Any) -> tuple[Any, Any]:
            grad_image, weights = None, []
            for k, (_, to_image) in enumerate(each):
                grad, grad_weights = to_image(grad_parameters[:, k])
                grad_image = added(grad_image, grad)
                weights.append(grad_weights)
            return grad_image, tuple(weights)

        parameters = [parameters for parameters, _ in each]
        shapes = {tuple(one.shape): None for one in parameters}
        if len(shapes) > 1:
            raise ValueError(f"networks must give parameters of one shape: got {' and '.join(map(str, shapes))}")
        return self._xp(input).stack(parameters, 1), pullback

    def _trace(self, input: Any) -> tuple[Any, Pullback]:
        parameters, to_image = self._read(input)
        warp, to_parameters = self._warp(parameters, input.ndim - 2, parallel=True)
        output, to_input = self._sampled(input, warp)
        masked = self.options.get("return_mask", False)
        image = output[0] if masked else output
        together = self._merged(image) if self.merge else image
        apart, merged = tuple(image.shape), tuple(together.shape)

        def to_both(grad_output: Any) -> tuple[Any, Any]:
            if self.merge:
                grad, grad_mask = cotangents(grad_output, masked)
                check_like("grad_output", grad, merged, grad.dtype, "the output")
                grad = self._parted(grad, apart)
                grad_output = (grad, grad_mask) if masked else grad
            grad_input, grad_warp = to_input(grad_output)
            return grad_input, to_parameters(grad_warp)

        def pullback(grad: Any) -> tuple[Any, Any]:
            grad_output, head = self._heads(grad)
            grad_input, grad_parameters = (None, None) if grad_output is None else to_both(grad_output)
            grad_image, grad_weights = to_image(added(grad_parameters, head))
            return added(grad_input, grad_image), grad_weights

        shown = (together, output[1]) if masked else together
        return ((shown, parameters) if self.return_parameters else shown), pullback

    @property
    def _places(self) -> tuple[int, int]:
        """Of the axis of transforms: its own, and that before channels, where it goes to become one with them."""
        return (1, -2) if self.options.get("channel_axis", 1) == -1 else (2, 1)

    def _merged(self, image: Any) -> Any:
        """Transforms as channels."""
        own, place = self._places
        beside = self._xp(image).moveaxis(image, own, place)
        axis = place % beside.ndim
        shape = tuple(beside.shape)
        return beside.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])

    def _parted(self, image: Any, shape: tuple[int, ...]) -> Any:
        """What `_merged` made one axis of, as two again."""
        own, place = self._places
        lengths = list(shape)
        lengths.insert(place % len(shape), lengths.pop(own))
        return self._xp(image).moveaxis(image.reshape(*lengths), place, own)
