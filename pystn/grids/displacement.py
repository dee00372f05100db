"""Displacement fields: the grids they make, and their inverses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pystn.backends import Operations, backend_of
from pystn.grids.fields import (
    add_lattice,
    check_convention,
    check_field,
    cofactors,
    determinant,
    entries,
    field_sampling,
    stacked,
)
from pystn.options import CHANNEL_AXES, one_of
from pystn.typing import Array
from pystn.validation import check_float, check_like, check_out, check_wrt, count

__all__ = [
    "displacement_grid",
    "displacement_grid_jvp",
    "displacement_grid_vjp",
    "invert_displacement",
    "invert_displacement_jvp",
    "invert_displacement_vjp",
    "invert_displacement_vjp2",
]


def check_flow(flow: Array, channel_axis: int) -> None:
    one_of("channel_axis", channel_axis, CHANNEL_AXES)
    if channel_axis == -1:
        check_field("flow", flow)
        return
    check_float("flow", flow)
    if not 3 <= flow.ndim <= 5 or flow.shape[1] != flow.ndim - 2:
        raise ValueError(
            "flow must have shape (N, ndim, *spatial) with one component for each of 1 to 3 spatial axes "
            f"with channel_axis=1: got {flow.shape}"
        )


def components_last(xp: Any, flow: Array, channel_axis: int) -> Array:
    return xp.moveaxis(flow, channel_axis, -1)


def displacement_grid(
    flow: Array,
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    channel_axis: int = -1,
    out: Array | None = None,
) -> Array:
    r"""Grid of a displacement field: every output pixel samples the input where its vector points.

    .. math:: x_i = t_i + u_i

    with :math:`t_i` the coordinate of output pixel i and :math:`u_i` its displacement.

    Parameters
    ----------
    flow : ndarray, shape (N, ..., *spatial, ndim), or (N, ndim, *spatial) if ``channel_axis=1``
        float32 or float64, any strides: displacements (x[, y[, z]]), x along W, in one to three dimensions.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels of the output or their outer edges. Give the
        sampler the same value.
    coords : {"normalized", "pixel"}, default "normalized"
        Unit of the flow and of the grid: normalized coordinates, or pixels of the flow's own lattice, with 0 the
        centre of the first one (and `align_corners` False, having no meaning there). Give the sampler the same.
    channel_axis : {-1, 1}, default -1
        Where the components of the flow are. Axes between N and the lattice, which make several grids an image, are
        possible with -1 alone.
    out : ndarray, optional
        Array to write into: shape and dtype of the result, any strides, no overlap with `flow`.

    Returns
    -------
    grid : ndarray, shape (N, ..., *spatial, ndim)
        dtype of `flow`; components last for either `channel_axis`.

    Raises
    ------
    TypeError
        If `flow` is no NumPy array of float32 or float64, or an option of the wrong type.
    ValueError
        If a shape does not fit, an option is unknown, or `out` overlaps `flow`.

    See Also
    --------
    displacement_grid_vjp, displacement_grid_jvp : its derivatives.
    invert_displacement : the field that leads back.
    compose_grids : one grid after another.
    StationaryVelocity : displacements that have an inverse.

    Notes
    -----
    Networks of optical flow (RAFT, PWC-Net, FlowNet) give (N, 2, H, W) in pixels, x first: where pixels of the first
    image are in the second. So ``displacement_grid(flow, coords="pixel", channel_axis=1)`` is where to sample the
    second image, with ``coords="pixel"``, to see it aligned with the first. Registration networks that give voxels in
    the order of the array's axes (VoxelMorph, MONAI) need their components reversed first, ``flow[..., ::-1]``.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> flow = np.zeros((1, 2, 1, 3))
    >>> flow[:, 0] = 1.0
    >>> grid = pystn.displacement_grid(flow, coords="pixel", channel_axis=1)
    >>> image = np.array([[[[5.0, 6.0, 7.0]]]])
    >>> pystn.grid_sample(image, grid, coords="pixel")
    array([[[[6., 7., 0.]]]])
    """
    xp = backend_of({"flow": flow}, {"out": out}).xp
    check_flow(flow, channel_axis)
    aligned = check_convention(align_corners, coords)
    field = components_last(xp, flow, channel_axis)
    if out is not None:
        check_out("out", out, field.shape, field.dtype, (flow,))
    return add_lattice(xp, field, aligned, coords, out)


def displacement_grid_vjp(
    grad_grid: Array,
    flow: Array,
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    channel_axis: int = -1,
) -> tuple[Array]:
    r"""Vector-Jacobian product of `displacement_grid`: the gradient to the flow.

    .. math:: \bar u_i = \bar x_i

    Parameters
    ----------
    grad_grid : ndarray
        Cotangent: shape and dtype of ``displacement_grid(flow)``, any strides.
    flow, align_corners, coords, channel_axis
        As given to `displacement_grid`.

    Returns
    -------
    (grad_flow,) : tuple of one ndarray
        Shape and dtype of `flow`: the cotangent, copied, in its layout.

    Raises
    ------
    TypeError, ValueError
        As `displacement_grid`.

    See Also
    --------
    displacement_grid

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> grad_flow, = pystn.displacement_grid_vjp(np.ones((1, 4, 5, 2)), np.zeros((1, 2, 4, 5)), channel_axis=1)
    >>> grad_flow.shape
    (1, 2, 4, 5)
    """
    xp = backend_of({"grad_grid": grad_grid, "flow": flow}).xp
    check_flow(flow, channel_axis)
    check_convention(align_corners, coords)
    shape = components_last(xp, flow, channel_axis).shape
    check_like("grad_grid", grad_grid, shape, flow.dtype, "the grid")
    return (xp.moveaxis(grad_grid, -1, channel_axis).copy(),)


def displacement_grid_jvp(
    flow: Array,
    d_flow: Array | None,
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    channel_axis: int = -1,
) -> Array:
    r"""Jacobian-vector product of `displacement_grid`: how the grid moves with the flow.

    .. math:: dx_i = du_i

    Parameters
    ----------
    flow : ndarray
        As given to `displacement_grid`.
    d_flow : ndarray or None
        Tangent: shape and dtype of `flow`. None is zero.
    align_corners, coords, channel_axis
        As given to `displacement_grid`.

    Returns
    -------
    d_grid : ndarray
        Shape and dtype of ``displacement_grid(flow)``.

    Raises
    ------
    TypeError, ValueError
        As `displacement_grid`.

    See Also
    --------
    displacement_grid

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> flow = np.zeros((1, 3, 1))
    >>> pystn.displacement_grid_jvp(flow, flow + 2.0)[0, :, 0]
    array([2., 2., 2.])
    """
    xp = backend_of({"flow": flow}, {"d_flow": d_flow}).xp
    check_flow(flow, channel_axis)
    check_convention(align_corners, coords)
    if d_flow is None:
        return xp.zeros(components_last(xp, flow, channel_axis).shape, flow.dtype)
    check_like("d_flow", d_flow, flow.shape, flow.dtype, "flow")
    return components_last(xp, d_flow, channel_axis).copy()


def lengths(xp: Any, field: Array) -> Any:
    return xp.sqrt(xp.einsum("...i,...i->...", field, field))


class Inversion:
    """The inverse v of displacements u (M, *size, ndim): at every pixel x, v = -u(x + v)."""

    def __init__(self, backend: Operations, flow: Array, align_corners: bool, coords: str, subgradient: str) -> None:
        self.backend, self.flow = backend, flow
        self.convention = (align_corners, coords)
        self.options = field_sampling("border", align_corners, coords, subgradient)
        # What is not finite stays so: a sample there is NaN.
        self.sticky = field_sampling("border", align_corners, coords, subgradient, np.nan)

    def points(self, v: Array) -> Array:
        return add_lattice(self.backend.xp, v, *self.convention)

    def residual(self, v: Array) -> Array:
        return v + self.backend.grid_sample(self.flow, self.points(v), self.sticky, False, None)[0]

    def jacobian(self, v: Array) -> tuple[Array, Array]:
        """Of the residual to v, I + Du(x + v) at every pixel by itself: its cofactors and its determinant."""
        xp = self.backend.xp
        slopes = self.backend.grid_gradient(self.flow, self.points(v), self.options, None)
        jacobian = slopes + xp.eye(self.flow.shape[-1], dtype=slopes.dtype)
        with np.errstate(all="ignore"):  # of what is not finite
            by_entry = cofactors(xp, jacobian)
            return by_entry, determinant(entries(jacobian))

    def tangent(self, v: Array, inverse: Array, d_flow: Array) -> Array:
        """That of v, with the inverse of its Jacobian."""
        pulled, _ = self.backend.grid_sample(d_flow, self.points(v), self.options, False, None)
        with np.errstate(all="ignore"):
            tangent: Array = -self.backend.xp.einsum("...ij,...j->...i", inverse, pulled)
        return tangent

    def pushed(self, v: Array, values: Array) -> Array:
        """Values at x + v, pushed to the pixels that they are interpolated from."""
        points, wanted = self.points(v), (True, False)
        image, _ = self.backend.grid_sample_vjp(values, None, self.flow, points, self.options, wanted, (None, None))
        assert image is not None
        return image

    def solve(self, iterations: int, limit: float) -> tuple[Array, Array]:
        """v and the lengths of its residuals, after that many iterations; pixels stop where they are within the limit.

        An iteration is a Newton step where that halves the residual at least, and elsewhere v <- -u(x + v), which
        shrinks it by the Lipschitz constant of u.
        """
        xp = self.backend.xp
        v = xp.zeros_like(self.flow)
        residual = self.residual(v)
        length = lengths(xp, residual)
        with np.errstate(all="ignore"):
            for _ in range(iterations):
                moving = length > limit
                if not moving.any():  # waits for the device, as another iteration costs more
                    break
                by_entry, det = self.jacobian(v)
                newton = xp.einsum("...ji,...j->...i", by_entry, residual) / det[..., None]
                halved = lengths(xp, self.residual(v - newton)) <= length / 2
                step = xp.where(halved[..., None], newton, residual)
                v = v - xp.where(moving[..., None], step, 0.0)
                residual = self.residual(v)
                length = lengths(xp, residual)
        return xp.where(xp.isnan(length)[..., None], np.nan, v), length


def inversion(
    backend: Operations,
    flow: Array,
    align_corners: Any,
    coords: Any,
    iterations: Any,
    tolerance: Any,
    subgradient: str = "right",
) -> tuple[Inversion, Array]:
    """The inverse of a flow, with options checked; raises if it misses the tolerance."""
    ndim = check_field("flow", flow)
    aligned = check_convention(align_corners, coords)
    count("iterations", iterations, 0)
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance must be None or a number that is not negative: got {tolerance}")
    problem = Inversion(backend, stacked(flow), aligned, coords, subgradient)
    size = flow.shape[-1 - ndim : -1]
    if flow.size == 0:
        return problem, problem.flow.copy()
    # Of the rounding of a coordinate.
    rounding = 4 * float(np.finfo(flow.dtype).eps) * (max(size) if coords == "pixel" else 1)
    v, length = problem.solve(iterations, rounding if tolerance is None else tolerance)
    if tolerance is not None:
        missed = (length > tolerance).reshape(len(length), -1).any(axis=1)
        if missed.any():  # waits for the device
            leading = flow.shape[: -1 - ndim]
            entry = int(missed.argmax())
            worst = float(length[entry].max())
            raise ValueError(
                f"the inverse of {named('flow', entry, leading)} has not converged: expected a residual of "
                f"{tolerance} or less after {iterations} iterations, got {worst:.3g}"
            )
    return problem, v


def named(name: str, entry: int, leading: tuple[int, ...]) -> str:
    """An entry of the flattened leading axes, as one would index it."""
    return f"{name}[{', '.join(str(i) for i in np.unravel_index(entry, leading))}]"


def regular(problem: Inversion, v: Array, leading: tuple[int, ...]) -> Array:
    """The inverse of I + Du(x + v) at every pixel; raises where there is none."""
    by_entry, det = problem.jacobian(v)
    singular = (det == 0).reshape(math.prod(leading), -1).any(axis=1)
    if singular.any():  # waits for the device
        raise ValueError(
            f"{named('flow', int(singular.argmax()), leading)} folds: expected an inverse that has a derivative, "
            "got a Jacobian of determinant 0"
        )
    with np.errstate(all="ignore"):
        return problem.backend.xp.swapaxes(by_entry, -1, -2) / det[..., None, None]


def transposed(backend: Operations, matrices: Array, vectors: Array) -> Array:
    """The transposes of matrices times vectors."""
    with np.errstate(all="ignore"):  # of what is not finite
        product: Array = backend.xp.einsum("...ij,...i->...j", matrices, vectors)
    return product


def invert_displacement(
    flow: Array,
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    iterations: int = 50,
    tolerance: float | None = None,
) -> Array:
    r"""Inverse of a displacement field: the field that leads back.

    .. math:: v(x) = -u(x + v(x))

    so that of the maps :math:`x \mapsto x + u(x)` and :math:`x \mapsto x + v(x)` each undoes the other; u is
    interpolated linearly between the pixels and constant beyond the centres of the outermost.

    Parameters
    ----------
    flow : ndarray, shape (N, ..., *spatial, ndim)
        float32 or float64, any strides: displacements (x[, y[, z]]) as `displacement_grid` takes them.
    align_corners : bool, default False
        Whether -1 and 1 are the centres of the outermost pixels or their outer edges.
    coords : {"normalized", "pixel"}, default "normalized"
        Unit of the displacements.
    iterations : int, default 50
        At most so many; fewer if no residual :math:`v(x) + u(x + v(x))` is longer than `tolerance`, or than 4 eps (of
        the longest axis, in pixels) if that is None.
    tolerance : float, optional
        Largest residual that is accepted, in the unit of `flow`. By default any is.

    Returns
    -------
    inverse : ndarray
        Shape and dtype of `flow`.

    Raises
    ------
    TypeError
        If `flow` is no NumPy array of float32 or float64, or an option of the wrong type.
    ValueError
        If a shape does not fit or an option is unknown; if `tolerance` is given and missed, with the entry of the
        batch.

    See Also
    --------
    invert_displacement_vjp, invert_displacement_jvp : its derivatives.
    displacement_grid : the grid of a field.
    StationaryVelocity : fields whose inverse is that of the negative velocity.

    Notes
    -----
    Iterations start at 0. Each is a Newton step at the pixels where that halves the residual at least, and
    :math:`v \leftarrow -u(x + v)` elsewhere (Chen et al., A simple fixed-point approach to invert a deformation field,
    Medical Physics, 2008). The latter shrinks the residual by the Lipschitz constant of u, so that iterations converge
    to the one inverse if that is below 1. They may if it is not, as long as x + u(x) does not fold; rotations by 80
    degrees and magnification by 2 are inverted. Where it folds the equation has several solutions, of which one is
    found or none: ask for a `tolerance` to be told of none.

    Displacements that are not finite, and what they reach, have the inverse NaN.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> x = np.linspace(-0.9, 0.9, 10)[None, :, None]
    >>> flow = 0.1 * np.sin(3 * x)
    >>> back = pystn.invert_displacement(flow, tolerance=1e-12)
    >>> there_and_back = pystn.compose_grids(pystn.displacement_grid(flow), pystn.displacement_grid(back))
    >>> np.allclose(there_and_back, x)
    True
    """
    backend = backend_of({"flow": flow})
    _, v = inversion(backend, flow, align_corners, coords, iterations, tolerance)
    return v.reshape(flow.shape)


def invert_displacement_vjp(
    grad_inverse: Array,
    flow: Array,
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    iterations: int = 50,
    tolerance: float | None = None,
    subgradient: str = "right",
) -> tuple[Array]:
    r"""Vector-Jacobian product of `invert_displacement`: the gradient to the field.

    .. math:: \bar u = -\sum_i k(x_i + v_i) \, (I + Du(x_i + v_i))^{-T} \, \bar v_i

    by the implicit function theorem, with k the weights of linear interpolation. The equation of each pixel has its
    own v alone, so that no linear system but one of `ndim` equations a pixel has to be solved.

    Parameters
    ----------
    grad_inverse : ndarray
        Cotangent: shape and dtype of `flow`.
    flow, align_corners, coords, iterations, tolerance
        As given to `invert_displacement`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        Slope of u at the centres of pixels, as in `grid_sample_vjp`.

    Returns
    -------
    (grad_flow,) : tuple of one ndarray
        Shape and dtype of `flow`. The inverse is computed again; if it has not converged, this is no derivative.

    Raises
    ------
    TypeError, ValueError
        As `invert_displacement`; ValueError if I + Du is singular at a pixel, with the entry of the batch.

    See Also
    --------
    invert_displacement

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> flow = np.full((1, 4, 1), 0.25)
    >>> grad_flow, = pystn.invert_displacement_vjp(np.ones_like(flow), flow)
    >>> grad_flow[0, :, 0]
    array([-1.5, -1. , -1. , -0.5])
    """
    backend = backend_of({"grad_inverse": grad_inverse, "flow": flow})
    check_field("flow", flow)
    check_like("grad_inverse", grad_inverse, flow.shape, flow.dtype, "flow")
    problem, v = inversion(backend, flow, align_corners, coords, iterations, tolerance, subgradient)
    if flow.size == 0:
        return (v.reshape(flow.shape),)
    inverse = regular(problem, v, flow.shape[: -1 - flow.shape[-1]])
    return (problem.pushed(v, -transposed(backend, inverse, stacked(grad_inverse))).reshape(flow.shape),)


def invert_displacement_jvp(
    flow: Array,
    d_flow: Array | None,
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    iterations: int = 50,
    tolerance: float | None = None,
    subgradient: str = "right",
) -> Array:
    r"""Jacobian-vector product of `invert_displacement`.

    .. math:: dv(x) = -(I + Du(x + v))^{-1} \, du(x + v)

    Parameters
    ----------
    flow : ndarray
        As given to `invert_displacement`.
    d_flow : ndarray or None
        Tangent: shape and dtype of `flow`. None is zero.
    align_corners, coords, iterations, tolerance
        As given to `invert_displacement`.
    subgradient : {"right", "left", "central", "zero"}, default "right"
        As in `invert_displacement_vjp`.

    Returns
    -------
    d_inverse : ndarray
        Shape and dtype of `flow`.

    Raises
    ------
    TypeError, ValueError
        As `invert_displacement_vjp`.

    See Also
    --------
    invert_displacement

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> flow = np.full((1, 4, 1), 0.25)
    >>> pystn.invert_displacement_jvp(flow, np.ones_like(flow))[0, :, 0]
    array([-1., -1., -1., -1.])
    """
    backend = backend_of({"flow": flow}, {"d_flow": d_flow})
    check_field("flow", flow)
    if d_flow is not None:
        check_like("d_flow", d_flow, flow.shape, flow.dtype, "flow")
    problem, v = inversion(backend, flow, align_corners, coords, iterations, tolerance, subgradient)
    if d_flow is None or flow.size == 0:
        return backend.xp.zeros(flow.shape, flow.dtype)
    inverse = regular(problem, v, flow.shape[: -1 - flow.shape[-1]])
    return problem.tangent(v, inverse, stacked(d_flow)).reshape(flow.shape)


def invert_displacement_vjp2(
    gg_flow: Array | None,
    grad_inverse: Array,
    flow: Array,
    align_corners: bool = False,
    *,
    coords: str = "normalized",
    iterations: int = 50,
    tolerance: float | None = None,
    subgradient: str = "right",
    wrt: str | Sequence[str] = ("grad_inverse", "flow"),
) -> tuple[Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `invert_displacement_vjp`.

    With the cotangent e of its gradient, the Jacobian :math:`J = I + Du(x + v)`, the tangent
    :math:`dv = -J^{-1} \, e(x + v)` and :math:`a = -J^{-T} g`,

    .. math::
        \bar g &= dv, \qquad b = -J^{-T} \bigl(De(x + v)^T a + D^2 \langle a, u \rangle (x + v) \, dv \bigr) \\
        \bar u &= \sum_i k(x_i + v_i) \, b_i + \bigl(Dk(x_i + v_i) \, dv_i\bigr) \, a_i

    by the implicit function theorem once more.

    Parameters
    ----------
    gg_flow : ndarray or None
        Cotangent of grad_flow: shape and dtype of `flow`. None is zero.
    grad_inverse, flow, align_corners, coords, iterations, tolerance, subgradient
        As given to `invert_displacement_vjp`.
    wrt : sequence of {"grad_inverse", "flow"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_inverse, grad_flow : ndarray or None
        Shapes and dtypes of `grad_inverse` and `flow`; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `invert_displacement_vjp`.

    See Also
    --------
    invert_displacement_vjp, invert_displacement_jvp

    Notes
    -----
    As in `grid_sample_vjp2`, the second derivative of linear interpolation is 0 along an axis.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> x = np.arange(4.0)[None, :, None]
    >>> _, grad_flow = pystn.invert_displacement_vjp2(x, np.ones_like(x), x / 4, coords="pixel")
    >>> round(float((grad_flow * x).sum()), 6)  # of c x the inverse is -c x / (1 + c), twice derived 2 x / (1 + c)^3
    6.144
    """
    backend = backend_of({"grad_inverse": grad_inverse, "flow": flow}, {"gg_flow": gg_flow})
    check_field("flow", flow)
    for name, array in (("grad_inverse", grad_inverse), ("gg_flow", gg_flow)):
        if array is not None:
            check_like(name, array, flow.shape, flow.dtype, "flow")
    to_grad, to_flow = check_wrt(wrt, ("grad_inverse", "flow"))
    problem, v = inversion(backend, flow, align_corners, coords, iterations, tolerance, subgradient)
    if gg_flow is None or flow.size == 0:
        zeros, dtype = backend.xp.zeros, flow.dtype
        return zeros(flow.shape, dtype) if to_grad else None, zeros(flow.shape, dtype) if to_flow else None
    inverse = regular(problem, v, flow.shape[: -1 - flow.shape[-1]])
    along = stacked(gg_flow)
    dv, grad_flow = problem.tangent(v, inverse, along), None
    if to_flow:
        adjoint = -transposed(backend, inverse, stacked(grad_inverse))
        _, _, to_values, to_points = backend.grid_sample_vjp2(
            along, dv, adjoint, None, problem.flow, problem.points(v), problem.options, (False, True, True)
        )
        assert to_points is not None
        grad_flow = to_values + problem.pushed(v, -transposed(backend, inverse, to_points))
    return dv.reshape(flow.shape) if to_grad else None, None if grad_flow is None else grad_flow.reshape(flow.shape)
