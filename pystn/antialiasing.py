r"""Ways to shrink an image without aliasing, as objects: what the option ``antialias`` names.

An interpolation kernel looks at the pixels next to a point. Where neighbouring samples are several pixels apart those
in between are never looked at, and what is finer than the samples folds over into false patterns. Each of these
classes averages over the *footprint* of an output pixel instead, the part of the image that it stands for. Its size
and shape are those of the local Jacobian

.. math:: J = \frac{\partial (x_s, y_s)}{\partial (x_t, y_t)}

in source pixels per target pixel: of a matrix the exact one, of a grid its central differences, one-sided at its ends
and 0 along axes of one pixel and next to coordinates that are NaN or infinite. The columns of J are how far the
source moves for a step along a target axis, its rows what a source axis sees of all of them. Derivatives go through J
too, of the first and of the second order, unless an object says ``detach=True``.

Examples
--------
A checkerboard, shrunk by 4: samples of it see one colour.

>>> import numpy as np
>>> import pystn
>>> board = (-1.0) ** np.add.outer(np.arange(16), np.arange(16))[None, None]
>>> theta = np.array([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
>>> options = {"padding_mode": "mirror", "coords": "pixel"}
>>> pystn.warp_affine(board, theta, (2, 2), **options)
array([[[[1., 1.],
         [1., 1.]]]])
>>> pystn.warp_affine(board, theta, (2, 2), antialias="scaled", **options).round(9) + 0.0
array([[[[0., 0.],
         [0., 0.]]]])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pystn.interpolation import count

__all__ = ["AntiAliasing", "Elliptical", "MipMap", "Scaled", "Supersampling"]


@dataclass(frozen=True)
class AntiAliasing:
    """Base of the ways to keep what is finer than the samples out of them."""

    def __post_init__(self) -> None:
        detach = getattr(self, "detach", False)
        if not isinstance(detach, (bool, np.bool_)):
            raise TypeError(f"detach must be True or False, got {detach!r}")


@dataclass(frozen=True)
class Supersampling(AntiAliasing):
    r"""The mean of several samples in every output pixel, on a regular lattice of sub-pixels.

    .. math:: V(t) = \frac{1}{s^d} \sum_o \mathrm{sample}(U, T(t + o)), \qquad
              o \in \left\{ \tfrac{2k + 1 - s}{2s} : k = 0, \dots, s - 1 \right\}^d

    The transform T of a matrix is evaluated at the sub-pixels; a grid goes on from its pixels along its Jacobian,
    :math:`T(t + o) = T(t) + J o`. Both are linear in what they are made from, so that derivatives of any order are
    those of the sampler. A shrink by s of pixels on edges is a mean over blocks of s pixels, with "nearest".

    Parameters
    ----------
    samples : int, default 2
        How many along each target axis, s; a call takes s^d times as long. Beside the sums it stores the samples of
        one sub-pixel; gradients, the grids or the matrices of all.
    """

    samples: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", count("samples", self.samples, 1))


@dataclass(frozen=True)
class MipMap(AntiAliasing):
    r"""Samples of a pyramid of ever smaller images, between the two levels that are as fine as the samples.

    .. math::
        \lambda = \mathrm{clamp}\Bigl(\log_2 \max_k \lVert J e_k \rVert, 0, L\Bigr), \qquad
        V = (1 - f) \, S_l(x_l) + f \, S_{l+1}(x_{l+1}), \qquad x_l = \frac{x + 1/2}{2^l} - \frac{1}{2}

    with l and f the whole and the fractional part of :math:`\lambda`, and :math:`S_l` the sampler of level l, whose
    pixels are means of :math:`2^d` of the level before, at odd ends of what there is (Williams, Pyramidal parametrics,
    1983). The footprint is isotropic: where J stretches one way it blurs the other. :math:`\partial V / \partial
    \lambda = S_{l+1} - S_l`, and 0 where :math:`\lambda` is clamped; of equal columns the first has the gradient.

    What is outside the image is so at every level, and "zeros" fades over the last pixel of a level. Samples that
    `cutoff` leaves out are those of the image itself; the mask is the same mean of the masks of the two levels. "wrap"
    repeats a level of an odd size with its own period, which is longer. On the CPU levels that no sample needs are left
    out.

    Parameters
    ----------
    levels : int, optional
        L, how many there are above the image; default and limit is until one pixel is left.
    detach : bool, default False
        Whether derivatives take :math:`\lambda` as a constant.
    """

    levels: int | None = None
    detach: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels is not None:
            object.__setattr__(self, "levels", count("levels", self.levels, 0))


@dataclass(frozen=True)
class Scaled(AntiAliasing):
    r"""The interpolation kernel made wider along each source axis, as far as the samples are apart there.

    .. math:: V = \frac{1}{N} \sum_m U_m \prod_a k\Bigl(\frac{p_a - m_a}{s_a}\Bigr), \qquad
              s_a = \max\Bigl(1, \sqrt{\textstyle\sum_k J_{ak}^2}\Bigr)

    with N the sum of the weights: what Pillow, PyTorch and JAX do where they resize. "nearest" is a box of s pixels.
    Where no axis shrinks it is the kernel itself. Taps outside the image have their weight, and read what the padding
    says; the mask is the share of those inside. Scales above four times the length of an axis are cut to that.
    `fill_value` and kernels have no derivatives here.

    Parameters
    ----------
    detach : bool, default False
        Whether derivatives take the scales s as constants.
    """

    detach: bool = False


@dataclass(frozen=True)
class Elliptical(AntiAliasing):
    r"""Elliptical weighted average: a Gaussian in the shape of the footprint, in place of the interpolation kernel.

    .. math:: V = \frac{1}{N} \sum_m U_m \max\bigl(0, e^{-q_m / 2} - e^{-9 / 2}\bigr), \qquad
              q_m = (m - p)^T \Sigma^{-1} (m - p), \qquad \Sigma = \tfrac14 (J J^T + I)

    with N the sum of the weights: the footprint of a round target pixel, widened by a round source pixel (Heckbert,
    Fundamentals of texture mapping and image warping, 1989), out to three standard deviations. It follows J where that
    stretches and turns, and smooths where nothing shrinks, too. The option `mode` is of no effect. What is outside the
    image is as for `Scaled`, and `fill_value` has no derivative.

    Parameters
    ----------
    detach : bool, default False
        Whether derivatives take :math:`\Sigma` as a constant.
    """

    detach: bool = False


BY_NAME: dict[str, AntiAliasing] = {
    "supersample": Supersampling(),
    "mipmap": MipMap(),
    "scaled": Scaled(),
    "ewa": Elliptical(),
}
