"""One transform of the input, read off it by a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pystn.grids.family import Family
from pystn.options import flag
from pystn.systems.base import Pullback, System, added, check_network
from pystn.transforms import MatrixTransform

__all__ = ["SpatialTransformer"]


class SpatialTransformer(System):
    r"""Layer that warps its input by a transform that a network reads off the input (Jaderberg et al., 2015).

    .. math:: V = U \circ T_\theta, \qquad \theta = f_{loc}(U)

    Matrices are applied by the fused warps, which never store a grid. The network is the user's.

    Parameters
    ----------
    localization : callable
        ``localization(image)`` makes the transform's parameters of the input: (N, p), or (N, ..., p) for several
        transforms of each input; the output is then (N, C, ..., *size). For `vjp` it needs a method
        ``vjp(grad_parameters, image)`` that returns the gradients to the image and to its weights: an array, a tuple,
        list or dictionary of arrays, or None. In a framework, a module or function of it, and no such method.
    transform : str, MatrixTransform, family of grids or callable, default "affine"
        What the parameters are of. "translation", "attention" (one scale), "rotation", "rigid", "similarity", "affine"
        (the entries of the matrix, row by row, or the matrix) or "projective", with as many parameters as
        `identity_params` has, or a quaternion for a rotation in 3-D; one of these with options, or exponentials, as
        ``pystn.MatrixTransform("attention", scale=0.5)``; an object as ``pystn.ThinPlateSpline(...)``, whose parameters
        may be flat; or a function of the parameters that returns matrices, (N, ..., ndim, ndim + 1) or projective
        (N, ..., ndim + 1, ndim + 1), or a grid (N, ..., ndim), with a method ``vjp(grad, parameters)``.
    size : sequence of int, optional
        Spatial size of the output. Default the input's; a family has its own.
    return_parameters : bool, default False
        Whether to return ``(output, parameters)``: the pose of what is seen, for the layers that follow. Cotangents
        are then such pairs too, of which either may be None.
    **options
        Those of the sampler: `mode`, `padding_mode`, `align_corners`, `antialias`, ...; `min_denominator` and
        `cull_behind` for projective transforms.

    Raises
    ------
    ValueError
        If there is no such transform, if `size`, `align_corners` or `coords` differ from those of the family, or if
        parameters do not have the transform's shape.
    TypeError
        If an option is none of the sampler's, or the network is not callable or returns no array; in `vjp`, if the
        network or the function has none, or one that does not return a pair.

    See Also
    --------
    identity_params : where training starts.
    pystn.torch.SpatialTransformer, pystn.jax.SpatialTransformer, pystn.autograd.SpatialTransformer

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> class Linear:
    ...     def __init__(self, weights, bias):
    ...         self.weights, self.bias = weights, bias
    ...
    ...     def __call__(self, image):
    ...         return image.reshape(len(image), -1) @ self.weights + self.bias
    ...
    ...     def vjp(self, grad, image):
    ...         features = image.reshape(len(image), -1)
    ...         return (grad @ self.weights.T).reshape(image.shape), (features.T @ grad, grad.sum(0))
    >>> network = Linear(np.zeros((64, 6)), pystn.identity_params("affine"))
    >>> transformer = pystn.SpatialTransformer(network, padding_mode="border")
    >>> image = np.random.default_rng(0).random((2, 1, 8, 8))
    >>> output = transformer(image)
    >>> np.allclose(output, image)
    True
    >>> grad_image, (grad_weights, grad_bias) = transformer.vjp(output, image)
    >>> grad_weights.shape
    (64, 6)
    """

    def __init__(
        self,
        localization: Callable[..., Any],
        transform: str | MatrixTransform | Family | Callable[..., Any] = "affine",
        size: Sequence[int] | None = None,
        *,
        return_parameters: bool = False,
        **options: Any,
    ) -> None:
        self._set(transform, size, options)
        self.localization = check_network(localization)
        self.return_parameters = flag("return_parameters", return_parameters)

    def warp(self, input: Any, parameters: Any) -> Any:
        """Warp the input by transforms of these parameters."""
        return self._warped(input, parameters)[0]

    def _warped(self, input: Any, parameters: Any) -> tuple[Any, Pullback]:
        warp, to_parameters = self._warp(parameters, input.ndim - 2)
        output, to_input = self._sampled(input, warp)

        def pullback(grad_output: Any) -> tuple[Any, Any]:
            grad_input, grad_warp = to_input(grad_output)
            return grad_input, to_parameters(grad_warp)

        return output, pullback

    def _trace(self, input: Any) -> tuple[Any, Pullback]:
        parameters, to_image = self._localized(self.localization, input)
        output, to_input = self._warped(input, parameters)

        def pullback(grad: Any) -> tuple[Any, Any]:
            grad_output, head = self._heads(grad)
            grad_input, grad_parameters = (None, None) if grad_output is None else to_input(grad_output)
            grad_image, grad_weights = to_image(added(grad_parameters, head))
            return added(grad_input, grad_image), grad_weights

        return ((output, parameters) if self.return_parameters else output), pullback
