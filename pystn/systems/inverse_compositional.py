"""One network that refines a warp again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pystn.grids.family import Family
from pystn.options import flag, one_of
from pystn.systems.base import Pullback, Warp, added, check_network, check_shape
from pystn.systems.cascaded import Cascade, Stage
from pystn.transforms import MatrixTransform
from pystn.validation import count

__all__ = ["InverseCompositionalSpatialTransformer"]


class InverseCompositionalSpatialTransformer(Cascade):
    r"""One network that sees the input through the warp it has found so far, and refines that (Lin and Lucey, 2017).

    .. math:: M_{k + 1} = M_k \, \Delta M_k \text{ ("right")} \quad\text{or}\quad
        \Delta M_k \, M_k \text{ ("left")}, \qquad \Delta M_k = M\bigl(f(U \circ R M_k)\bigr)

    The same network predicts every update, and the warp is always applied to the original image. R places the frame
    that is refined in a larger image, so that pixels which an early warp leaves out are there for a later one.

    Parameters
    ----------
    localization : callable
        The network, as `SpatialTransformer` takes it: for each view the parameters of an update.
    transform : str, MatrixTransform, family or callable, default "affine"
        What the parameters are of, as `SpatialTransformer` takes it.
    size : sequence of int, optional
        Spatial size of views and output. Default the input's.
    steps : int, default 4
        How many updates.
    order : {"right", "left"}, default "right"
        On which side updates are multiplied. "right" is what a cascade of images would show; "left" is the published
        code's, and for matrices only.
    invert_update : bool, default False
        Whether updates are inverted, as in the inverse compositional algorithm of Baker and Matthews (2004). For
        matrices only.
    frame : array_like, shape (ndim, ndim + 1), optional
        Matrix R that maps the frame [-1, 1] into the input: 36 / 50 times the identity for a crop of 36 from the middle
        of 50 pixels. Default the whole input.
    return_parameters : bool, default False
        Whether to return ``(output, warp)``, as `CascadedSpatialTransformer` does: the last warp with the frame,
        :math:`R M`, which maps into the input.
    **options
        Those of the sampler.

    Raises
    ------
    TypeError, ValueError
        As `SpatialTransformer`; if an option is not among its values, the frame or the warp to start from has another
        shape, or in `vjp` if gradients to the weights have another structure at one step than at others.

    See Also
    --------
    CascadedSpatialTransformer : a network of its own for every step.

    Notes
    -----
    A second argument of the call, and of `vjp` and `pull`, is the warp to start from: matrices (N, ndim, ndim + 1) or
    projective (N, 3, 3), in the frame; the identity if it is not given. If it is, `vjp` returns three gradients: to the
    input, to the weights and to that warp.

    The gradient to the weights is the sum over all steps. Projective warps are divided by their last entry.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> step = lambda image: np.tile([0.25, 0.0], (len(image), 1))
    >>> refine = pystn.InverseCompositionalSpatialTransformer(step, "translation", steps=2)
    >>> refine(np.arange(4.0).reshape(1, 1, 1, 4))
    array([[[[1., 2., 3., 0.]]]])
    """

    def __init__(
        self,
        localization: Callable[..., Any],
        transform: str | MatrixTransform | Family | Callable[..., Any] = "affine",
        size: Sequence[int] | None = None,
        *,
        steps: int = 4,
        order: str = "right",
        invert_update: bool = False,
        frame: Any = None,
        return_parameters: bool = False,
        **options: Any,
    ) -> None:
        self._set(transform, size, options)
        one_of("order", order, ("right", "left"))
        self.localization = check_network(localization)
        self.steps = count("steps", steps, 1)
        self.order = order
        self.invert_update = flag("invert_update", invert_update)
        self.return_parameters = flag("return_parameters", return_parameters)
        if isinstance(transform, Family):
            self._check_makes_grids(transform)
        self.frame = None if frame is None else np.asarray(frame, np.float64)
        if self.frame is not None and (self.frame.ndim != 2 or self.frame.shape[1] != self.frame.shape[0] + 1):
            raise ValueError(f"frame must be a matrix (ndim, ndim + 1), got shape {self.frame.shape}")

    def _check_makes_grids(self, transform: Any) -> None:
        if self.order == "left" or self.invert_update:
            raise ValueError(f"order='left' and invert_update=True are for transforms by matrices: got {transform!r}")

    def _start(self, input: Any, *others: Any) -> Warp | None:
        if len(others) > 1:
            raise TypeError(f"expected the input and the warp to start from, got {1 + len(others)} arguments")
        ndim = input.ndim - 2
        if self.frame is not None and len(self.frame) != ndim:
            raise ValueError(
                f"frame must be a matrix ({ndim}, {ndim + 1}) for this input, got shape {self.frame.shape}"
            )
        (initial,) = others or (None,)
        if initial is None:
            return None
        check_shape(initial, [(ndim, ndim + 1), *[(3, 3)][: ndim == 2]], "the warp to start from")
        return Warp(initial, True)

    def _stages(self, input: Any) -> Iterator[Stage]:
        stage = Stage(self.localization, self.transform, self._size(input), {"return_mask": False})
        return iter([stage] * self.steps)

    def _placed(self, warp: Warp) -> tuple[Warp, Pullback]:
        if self.frame is None:
            return warp, lambda grad: grad
        frame = Warp(self._constant(self.frame[None], warp.array), True)
        placed, to_both = self._composed(frame, warp, ())
        return placed, lambda grad: to_both(grad)[1]

    def _followed(self, warp: Warp | None, update: Warp, size: tuple[int, ...]) -> tuple[Warp, Pullback]:
        if self.invert_update:
            inverse, to_update = self._pull("invert", update.array)
            before = warp or self._identity(inverse.shape[-1] - 1, inverse)  # for the last entry to become 1
            both, to_both = self._multiplied(before, Warp(inverse, True), size)

            def pullback(grad: Any) -> tuple[Any, Any]:
                grad_warp, grad_inverse = to_both(grad)
                return grad_warp, to_update(grad_inverse)[0]

            return both, pullback
        return self._multiplied(warp, update, size)

    def _multiplied(self, warp: Warp | None, update: Warp, size: tuple[int, ...]) -> tuple[Warp, Pullback]:
        if warp is not None and warp.by_matrix and update.by_matrix:
            return self._composed(warp, update, size, order=self.order, normalize=True)
        return super()._followed(warp, update, size)

    def _weights(self, each: list[Any]) -> Any:
        total = None
        for weights in each:
            total = added(total, weights)
        return total
