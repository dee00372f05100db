"""Linearized multi-sampling: an image read as ever, with slopes that are fitted to what is further around.

The slope of an interpolation is that of the few pixels next to a point: where an image is finer than its samples it
says little about where these should move, and where it is flat, nothing. Here the slope is that of the plane which
fits several points best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pystn.backends import Operations, backend_of
from pystn.backends.geometry import pixels_per_unit
from pystn.derivatives import check_cotangents, check_gradients, check_tangents
from pystn.interpolation import count, number
from pystn.options import FillValue, Mode, PaddingMode, SamplingOptions, resolve
from pystn.typing import Array
from pystn.validation import (
    check_out,
    check_outs,
    check_sampling,
    check_wrt,
    mask_dtype,
    sample_shape,
    spatial_of,
    sum_dtype,
    tangent_dtype,
)

__all__ = ["linearized_grid_sample", "linearized_grid_sample_jvp", "linearized_grid_sample_vjp"]


class Fit:
    """The points around each sample, and their weights in its slope."""

    def __init__(self, num_samples: Any, spread: Any, seed: Any, ndim: int) -> None:
        self.num_samples = count("num_samples", num_samples, ndim + 1)
        self.spread = number("spread", spread)
        if self.spread <= 0:
            raise ValueError(f"spread must be positive, got {spread!r}")
        self.seed = count("seed", seed, 0)

    def each(
        self, backend: Operations, input: Array, grid: Array, options: SamplingOptions
    ) -> Iterator[tuple[Array, Array]]:
        """Of each point the difference of the image to that at the sample, and its weights, (1, *shape, ndim)."""
        xp, ndim = backend.xp, grid.shape[-1]
        image = input.astype(sum_dtype(input.dtype), copy=False)
        dtype = mask_dtype(np.result_type(image.dtype, grid.dtype))
        # The same around each image of a batch: what one gets does not depend on the others.
        shape = (self.num_samples - 1, 1, *grid.shape[1:])
        away = xp.random.default_rng(self.seed).standard_normal(shape, dtype) * dtype.type(self.spread)
        centred = away - away.sum(axis=0) / self.num_samples
        normal = (away[..., :, None] * centred[..., None, :]).sum(axis=0)
        # Points that lie on a line, or in a plane, by chance have no inverse but for this.
        ridge = 8 * float(np.finfo(dtype).eps) * xp.trace(normal, axis1=-2, axis2=-1)[..., None, None]
        inverse = xp.linalg.inv(normal + ridge * xp.eye(ndim, dtype=dtype))

        spatial = spatial_of(input.shape, options)
        unit = pixels_per_unit(xp, spatial, (options.coords, options.align_corners), dtype.str)
        per_pixel = xp.where(unit > 0, 1 / xp.where(unit > 0, unit, 1), 0)
        image, options = backend.coefficients(image, options), options.unfiltered
        sample, _ = backend.grid_sample(image, grid, options, False, None)
        for k in range(self.num_samples - 1):
            there = (grid + away[k] * per_pixel).astype(grid.dtype, copy=False)
            value, _ = backend.grid_sample(image, there, options, False, None)
            value -= sample
            yield value, (inverse @ centred[k, ..., None])[..., 0] * unit


def linearized_grid_sample(
    input: Array,
    grid: Array,
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    seed: int,
    num_samples: int = 8,
    spread: float = 1.0,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    coords: str = "normalized",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Sample an image as `grid_sample` does, with a gradient to the grid that is fitted to its surroundings.

    The value is that of `grid_sample`, bit for bit. In place of its slope, derivatives have that of the plane which
    fits best, in least squares, the image at the sample and at `num_samples` - 1 random points :math:`x + d_k` around:

    .. math::
        \min_{A, b} \sum_k \lVert A d_k + b - (U(x + d_k) - U(x)) \rVert^2, \qquad \frac{\partial V}{\partial x} := A

    (Jiang et al., Linearized multi-sampling for differentiable image transformation, 2019): a smoother one that sees
    further, for registration and for training where neighbouring samples are several pixels apart.

    Parameters
    ----------
    input, grid, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis, deterministic
        As given to `grid_sample`.
    seed : int
        Of the random points, for NumPy's, or CuPy's, default generator. A call and its derivatives should be
        given the same. The points are the same around every image of a batch.
    num_samples : int, default 8
        How many points are fitted, ndim + 1 or more; each takes as long as the sample itself.
    spread : float, default 1
        Standard deviation of the points along each axis, in pixels of the input.
    out : ndarray, optional
        Array to write into, as of `grid_sample`.

    Returns
    -------
    ndarray, shape (N, C, ...), or (N, ..., C) if ``channel_axis=-1``
        As ``grid_sample(input, grid, ...)``.

    Raises
    ------
    TypeError, ValueError
        As `grid_sample`; if `seed` is negative, `num_samples` too small or `spread` not positive.

    See Also
    --------
    linearized_grid_sample_vjp, linearized_grid_sample_jvp : its derivatives.
    grid_sample : with the slope of the interpolation itself.

    Notes
    -----
    There are no derivatives of the second order: those of the first are estimates, not derivatives of the value. They
    store the points, `num_samples` - 1 grids.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])[None]
    >>> pystn.linearized_grid_sample(image, np.array([[[1.4]]]), coords="pixel", seed=0)
    array([[[0.]]])
    """
    options = resolve(
        mode, padding_mode, align_corners, coords, "right", channel_axis, deterministic, cutoff, fill_value
    )
    backend = backend_of({"input": input, "grid": grid}, {"out": out})
    check_sampling(input, grid, options)
    Fit(num_samples, spread, seed, grid.shape[-1])
    if out is not None:
        check_out("out", out, sample_shape(input, grid, options), input.dtype, (input, grid))
    return backend.grid_sample(input, grid, options, False, out)[0]


def linearized_grid_sample_vjp(
    grad_output: Array,
    input: Array,
    grid: Array,
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    seed: int,
    num_samples: int = 8,
    spread: float = 1.0,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    coords: str = "normalized",
    channel_axis: int = 1,
    deterministic: bool = False,
    wrt: str | Sequence[str] = ("input", "grid"),
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `linearized_grid_sample`: gradients to the image and to the grid.

    .. math::
        \bar x = A^T \bar V, \qquad
        A = \sum_k (U(x + d_k) - U(x)) (d_k - \bar d)^T \Bigl( \sum_k d_k (d_k - \bar d)^T \Bigr)^{-1}

    with :math:`\bar d` the mean of the :math:`d_k`; that to the image is the same as of `grid_sample_vjp`.

    Parameters
    ----------
    grad_output : ndarray
        Cotangent: shape and dtype of ``linearized_grid_sample(input, grid, ...)``, any strides; float32 for an integer
        input.
    input, grid, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis, deterministic
        As given to `linearized_grid_sample`.
    seed, num_samples, spread
        As given to `linearized_grid_sample`.
    wrt : sequence of {"input", "grid"}, default both
        The gradients that are wanted; the work for others is skipped.
    out : tuple of two ndarrays or None, optional
        Arrays to write the gradients to input and grid into, of their shapes and dtypes.

    Returns
    -------
    grad_input, grad_grid : ndarray or None
        Shapes of `input` and `grid`, dtype of each (float32 for an integer input); None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `linearized_grid_sample`.

    See Also
    --------
    linearized_grid_sample

    Examples
    --------
    The point sees the edge, though the pixels next to it are the same:

    >>> import numpy as np
    >>> import pystn
    >>> image = np.array([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])[None]
    >>> point, one = np.array([[[1.4]]]), np.ones((1, 1, 1))
    >>> _, slope = pystn.linearized_grid_sample_vjp(one, image, point, coords="pixel", seed=0)
    >>> bool(slope > 0)
    True
    >>> pystn.grid_sample_vjp(one, image, point, coords="pixel")[1]
    array([[[0.]]])
    """
    options = resolve(
        mode, padding_mode, align_corners, coords, "right", channel_axis, deterministic, cutoff, fill_value
    )
    wanted = check_wrt(wrt, ("input", "grid"))
    given = check_outs(out, ("grad_input", "grad_grid"))
    backend = backend_of({"grad_output": grad_output, "input": input, "grid": grid}, given)
    check_sampling(input, grid, options)
    fit = Fit(num_samples, spread, seed, grid.shape[-1])
    check_cotangents(grad_output, None, input, grid, options)
    check_gradients(given, (input, grid), (tangent_dtype(input.dtype), grid.dtype), (grad_output, input, grid))
    grad_input = grad_grid = None
    if wanted[0]:
        outs = (given["grad_input"], None)
        grad_input, _ = backend.grid_sample_vjp(grad_output, None, input, grid, options, (True, False), outs)
    if wanted[1]:
        xp = backend.xp
        grad_grid = xp.empty(grid.shape, grid.dtype) if given["grad_grid"] is None else given["grad_grid"]
        total: Any = 0
        for difference, weights in fit.each(backend, input, grid, options):
            products = (grad_output * difference.conj()).real
            total = total + products.sum(axis=channel_axis, dtype=weights.dtype)[..., None] * weights
        is_shared = grid.shape[0] == 1 != total.shape[0]
        grad_grid[...] = total.sum(axis=0, keepdims=True) if is_shared else total
    return grad_input, grad_grid


def linearized_grid_sample_jvp(
    input: Array,
    grid: Array,
    d_input: Array | None,
    d_grid: Array | None,
    mode: Mode = "linear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    *,
    seed: int,
    num_samples: int = 8,
    spread: float = 1.0,
    fill_value: FillValue = 0.0,
    cutoff: str | None = None,
    coords: str = "normalized",
    channel_axis: int = 1,
    deterministic: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Jacobian-vector product of `linearized_grid_sample`, with the same slopes as its VJP.

    .. math:: dV = \mathrm{sample}(dU) + A \, dx

    Parameters
    ----------
    input, grid, mode, padding_mode, align_corners, fill_value, cutoff, coords, channel_axis, deterministic
        As given to `linearized_grid_sample`.
    d_input, d_grid : ndarray or None
        Tangents: shapes and dtypes of `input` (float32 if it is of integers) and `grid`. None is zero, and saves the
        work.
    seed, num_samples, spread
        As given to `linearized_grid_sample`.
    out : ndarray, optional
        Array to write into: shape and dtype of the result.

    Returns
    -------
    ndarray
        Shape and dtype of ``linearized_grid_sample(input, grid, ...)``; float32 for an integer input.

    Raises
    ------
    TypeError, ValueError
        As `linearized_grid_sample`.

    See Also
    --------
    linearized_grid_sample

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> ramp, point = np.arange(8.0).reshape(1, 1, 8), np.array([[[3.5]]])
    >>> pystn.linearized_grid_sample_jvp(ramp, point, None, np.ones((1, 1, 1)), coords="pixel", seed=0).round(12)
    array([[[1.]]])
    """
    options = resolve(
        mode, padding_mode, align_corners, coords, "right", channel_axis, deterministic, cutoff, fill_value
    )
    backend = backend_of({"input": input, "grid": grid}, {"d_input": d_input, "d_grid": d_grid, "out": out})
    check_sampling(input, grid, options)
    fit = Fit(num_samples, spread, seed, grid.shape[-1])
    check_tangents(d_input, d_grid, input, grid)
    if out is not None:
        shape, dtype = sample_shape(input, grid, options), tangent_dtype(input.dtype)
        check_out("out", out, shape, dtype, (input, grid, d_input, d_grid))
    none: list[Array | None] = [None] * grid.shape[-1]
    output, _ = backend.grid_sample_jvp(input, grid, d_input, None, None, none, options, False, out)
    if d_grid is not None:
        total: Any = output.astype(np.result_type(sum_dtype(output.dtype), grid.dtype))
        for difference, weights in fit.each(backend, input, grid, options):
            total += difference * backend.xp.expand_dims((weights * d_grid).sum(axis=-1), channel_axis)
        output[...] = total
    return output
