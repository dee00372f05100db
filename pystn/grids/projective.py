"""The projective grid: homographies, nine numbers up to scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.backends import backend_of
from pystn.options import flag, least_denominator
from pystn.typing import Array
from pystn.validation import check_like, check_out, check_parameters, check_wrt, output_size

__all__ = ["projective_grid", "projective_grid_jvp", "projective_grid_vjp", "projective_grid_vjp2"]


def projective_grid(
    theta: Array,
    size: Sequence[int],
    align_corners: bool = False,
    *,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    out: Array | None = None,
) -> Array:
    r"""Grid of a projective map (homography): where each output pixel samples the input.

    .. math:: q = H \, (x_t, y_t, 1)^T, \qquad (x_s, y_s) = (q_1, q_2) / q_3

    over the lattice of target coordinates (Hartley and Zisserman, Multiple View Geometry, 2004, section 2.3). The
    scale of H does not matter. What is at the horizon has no coordinates: it becomes NaN, which every
    sampler takes for outside.

    Parameters
    ----------
    theta : ndarray, shape (N, ..., 3, 3)
        float32 or float64, any strides. Axes between N and the matrix make several grids an image.
    size : sequence of int
        Spatial size of the output, (H, W), or the full (N, C, H, W).
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the output or their outer
        edges. Give the sampler the same value.
    min_denominator : float, optional
        Points with :math:`|q_3|` below it are at the horizon: their coordinates are NaN and their
        derivatives zero. Default 1e-8 for float64, 1e-6 for float32.
    cull_behind : bool, default False
        Whether points behind the horizon, :math:`q_3 \le 0`, are NaN too.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with `theta`.

    Returns
    -------
    grid : ndarray, shape (N, ..., H, W, 2)
        dtype of `theta`; last axis (x, y) in normalized coordinates.

    Raises
    ------
    TypeError
        If `theta` is no NumPy array of float32 or float64, `size` no sequence of integers, or an option
        of the wrong type.
    ValueError
        If the shape of `theta` or `size` does not fit, `min_denominator` is not positive, or `out`
        overlaps `theta`.

    See Also
    --------
    projective_grid_vjp, projective_grid_jvp, projective_grid_vjp2 : its derivatives.
    warp_projective : the map and the sampling in one pass, the grid never stored.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]])
    >>> pystn.projective_grid(theta, (1, 2))
    array([[[[-1.        ,  0.        ],
             [ 0.33333333,  0.        ]]]])
    """
    backend = backend_of({"theta": theta}, {"out": out})
    shape, options = resolve(theta, size, align_corners, min_denominator, cull_behind)
    if out is not None:
        check_out("out", out, shape, theta.dtype, (theta,))
    return backend.projective_grid(theta, None, *options, out)


def projective_grid_vjp(
    grad_grid: Array,
    theta: Array,
    size: Sequence[int],
    align_corners: bool = False,
    *,
    min_denominator: float | None = None,
    cull_behind: bool = False,
) -> tuple[Array]:
    r"""Vector-Jacobian product of `projective_grid`: the gradient to the matrices.

    .. math::
        \bar q_i = \frac{1}{q_{3i}} \, \bigl(\bar g_{xi}, \; \bar g_{yi}, \;
            -\bar g_{xi} x_{si} - \bar g_{yi} y_{si}\bigr), \qquad
        \bar H = \sum_i \bar q_i \, (x_{ti}, y_{ti}, 1)

    It is orthogonal to H, whose scale does not matter. For the eight parameters of a matrix with
    :math:`h_{33} = 1` the last entry is dropped.

    Parameters
    ----------
    grad_grid : ndarray
        Cotangent: shape and dtype of ``projective_grid(theta, size)``, any strides.
    theta, size, align_corners, min_denominator, cull_behind
        As given to `projective_grid`.

    Returns
    -------
    (grad_theta,) : tuple of one ndarray
        Shape and dtype of `theta`. Sums over pixels run in float64.

    Raises
    ------
    TypeError, ValueError
        As `projective_grid`.

    See Also
    --------
    projective_grid

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_theta, = pystn.projective_grid_vjp(np.ones((1, 4, 4, 2)), np.eye(3)[None], (4, 4))
    >>> grad_theta
    array([[[ 0.,  0., 16.],
            [ 0.,  0., 16.],
            [-5., -5.,  0.]]])
    """
    backend = backend_of({"grad_grid": grad_grid, "theta": theta})
    shape, options = resolve(theta, size, align_corners, min_denominator, cull_behind)
    check_like("grad_grid", grad_grid, shape, theta.dtype, "the grid")
    return (backend.projective_grid_vjp(grad_grid, theta, None, *options),)


def projective_grid_jvp(
    theta: Array,
    d_theta: Array | None,
    size: Sequence[int],
    align_corners: bool = False,
    *,
    min_denominator: float | None = None,
    cull_behind: bool = False,
) -> Array:
    r"""Jacobian-vector product of `projective_grid`: how the grid moves with the matrices.

    .. math::
        dq = dH \, (x_t, y_t, 1)^T, \qquad
        dx_s = (dq_1 - x_s \, dq_3) / q_3, \quad dy_s = (dq_2 - y_s \, dq_3) / q_3

    Parameters
    ----------
    theta, size, align_corners, min_denominator, cull_behind
        As given to `projective_grid`.
    d_theta : ndarray or None
        Tangent: shape and dtype of `theta`. None is zero.

    Returns
    -------
    d_grid : ndarray
        Shape and dtype of ``projective_grid(theta, size)``.

    Raises
    ------
    TypeError, ValueError
        As `projective_grid`.

    See Also
    --------
    projective_grid

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> tilt = np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    >>> pystn.projective_grid_jvp(np.eye(3)[None], tilt, (1, 2))
    array([[[[-0.25,  0.  ],
             [-0.25,  0.  ]]]])
    """
    backend = backend_of({"theta": theta}, {"d_theta": d_theta})
    shape, options = resolve(theta, size, align_corners, min_denominator, cull_behind)
    if d_theta is None:
        return backend.xp.zeros(shape, theta.dtype)
    check_like("d_theta", d_theta, theta.shape, theta.dtype, "theta")
    return backend.projective_grid(theta, d_theta, *options, None)


def projective_grid_vjp2(
    gg_theta: Array | None,
    grad_grid: Array,
    theta: Array,
    size: Sequence[int],
    align_corners: bool = False,
    *,
    min_denominator: float | None = None,
    cull_behind: bool = False,
    wrt: str | Sequence[str] = ("grad_grid", "theta"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `projective_grid_vjp`.

    With the cotangent :math:`\bar{\bar H}` of its gradient and :math:`p = \bar{\bar H} \, (x_t, y_t, 1)^T`,

    .. math::
        \bar g &= \mathrm{jvp}(\bar{\bar H}), \qquad
        \bar q_a = -\frac{p_3 \, g_a}{q_3^2}, \quad
        \bar q_3 = \frac{1}{q_3^2} \sum_a g_a \, (2 \, p_3 \, x_{s,a} - p_a) \\
        \bar H &= \sum_i \bar q_i \, (x_{ti}, y_{ti}, 1)

    Parameters
    ----------
    gg_theta : ndarray or None
        Cotangent of grad_theta: shape and dtype of `theta`. None is zero.
    grad_grid, theta, size, align_corners
        As given to `projective_grid_vjp`.
    min_denominator, cull_behind
        As given to `projective_grid`.
    wrt : sequence of {"grad_grid", "theta"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_grid, grad_theta : ndarray or None
        Shapes and dtypes of `grad_grid` and `theta`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `projective_grid_vjp`.

    See Also
    --------
    projective_grid_vjp, projective_grid_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> theta = np.diag([1.0, 1.0, 2.0])[None]
    >>> _, grad_theta = pystn.projective_grid_vjp2(theta, np.ones((1, 1, 1, 2)), theta, (1, 1))
    >>> grad_theta  # minus the gradient itself, as that is of degree -1 in theta
    array([[[ 0. ,  0. , -0.5],
            [ 0. ,  0. , -0.5],
            [ 0. ,  0. ,  0. ]]])
    """
    backend = backend_of({"grad_grid": grad_grid, "theta": theta}, {"gg_theta": gg_theta})
    shape, options = resolve(theta, size, align_corners, min_denominator, cull_behind)
    check_like("grad_grid", grad_grid, shape, theta.dtype, "the grid")
    to_grad, to_theta = check_wrt(wrt, ("grad_grid", "theta"))
    if gg_theta is None:
        zeros, dtype = backend.xp.zeros, theta.dtype
        return zeros(shape, dtype) if to_grad else None, zeros(theta.shape, dtype) if to_theta else None
    check_like("gg_theta", gg_theta, theta.shape, theta.dtype, "theta")
    return (
        backend.projective_grid(theta, gg_theta, *options, None) if to_grad else None,
        backend.projective_grid_vjp(grad_grid, theta, gg_theta, *options) if to_theta else None,
    )


def resolve(
    theta: Array, size: Any, align_corners: Any, min_denominator: Any, cull_behind: Any
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], bool, float, bool]]:
    """Check theta and options; returns the grid's shape and, for the kernels, size, convention and horizon."""
    leading = check_parameters("theta", theta, (3, 3))
    spatial = output_size(size, 2, theta.shape[0])
    aligned, least = flag("align_corners", align_corners), least_denominator(min_denominator, theta.dtype)
    return (*leading, *spatial, 2), (spatial, aligned, least, flag("cull_behind", cull_behind))
