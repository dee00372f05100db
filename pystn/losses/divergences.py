"""Divergences of Kullback and Leibler, of normal and of inverse gamma distributions.

All is computed in float64, whatever the dtype of what is given and returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pystn.interpolation import number
from pystn.matrices.mapping import Curved
from pystn.typing import Array

__all__ = [
    "gamma_kl",
    "gamma_kl_jvp",
    "gamma_kl_vjp",
    "gamma_kl_vjp2",
    "normal_kl",
    "normal_kl_jvp",
    "normal_kl_vjp",
    "normal_kl_vjp2",
]


def defined(xp: Any, *scales: Any) -> Any:
    """1 where all are positive, else NaN."""
    positive = scales[0] > 0
    for scale in scales[1:]:
        positive = positive & (scale > 0)
    return xp.where(positive, 1.0, float("nan"))


def normal(xp: Any, mean: Any, scale: Any, prior_mean: Any, prior_scale: Any) -> tuple[Any, ...]:
    known, away, precision = defined(xp, scale, prior_scale), mean - prior_mean, 1 / prior_scale**2
    spread = (scale**2 + away**2) * precision
    return (
        known * (xp.log(prior_scale / scale) + (spread - 1) / 2),
        known * away * precision,
        known * (scale * precision - 1 / scale),
        -known * away * precision,
        known * (1 - spread) / prior_scale,
    )


def bent_normal(xp: Any, along: Any, mean: Any, scale: Any, prior_mean: Any, prior_scale: Any) -> tuple[Any, ...]:
    known, away, precision = defined(xp, scale, prior_scale), mean - prior_mean, 1 / prior_scale**2
    d_mean, d_scale, d_prior_mean, d_prior_scale = along
    d_away, growth = d_mean - d_prior_mean, d_prior_scale / prior_scale
    spread = (scale**2 + away**2) * precision
    d_spread = 2 * (scale * d_scale + away * d_away) * precision - 2 * spread * growth
    to_mean = known * (d_away - 2 * away * growth) * precision
    return (
        to_mean,
        known * ((precision + 1 / scale**2) * d_scale - 2 * scale * precision * growth),
        -to_mean,
        known * (-d_spread - (1 - spread) * growth) / prior_scale,
    )


def no_check(*primals: Array) -> None:
    """All that there is to check is checked of every mapping."""


def gamma(xp: Any, beta: Any, prior_beta: Any, alpha: float) -> tuple[Any, Any, Any]:
    known, ratio = alpha * defined(xp, beta, prior_beta), prior_beta / beta
    return (
        known * (ratio - 1 - xp.log(ratio)),
        known * (1 - ratio) / beta,
        known * (1 / beta - 1 / prior_beta),
    )


def bent_gamma(xp: Any, along: Any, beta: Any, prior_beta: Any, alpha: float) -> tuple[Any, Any]:
    known, ratio = alpha * defined(xp, beta, prior_beta), prior_beta / beta
    d_beta, d_prior_beta = along
    return (
        known * ((2 * ratio - 1) * d_beta - d_prior_beta) / beta**2,
        known * (d_prior_beta / prior_beta**2 - d_beta / beta**2),
    )


def check_gamma(beta: Array, prior_beta: Array, alpha: float) -> None:
    if number("alpha", alpha) <= 0:
        raise ValueError(f"alpha must be positive, got {alpha!r}")


NORMAL = Curved(
    normal, no_check, ("mean", "scale", "prior_mean", "prior_scale"), "grad_divergence", core=0, bend=bent_normal
)
GAMMA = Curved(gamma, check_gamma, ("beta", "prior_beta"), "grad_divergence", core=0, bend=bent_gamma)


def normal_kl(mean: Array, scale: Array, prior_mean: Array, prior_scale: Array) -> Array:
    r"""Divergence of normal distributions from priors, entry by entry.

    .. math:: \mathrm{KL}(N(\mu, \sigma^2) \,\|\, N(\mu_0, \sigma_0^2)) =
        \log \frac{\sigma_0}{\sigma} + \frac{\sigma^2 + (\mu - \mu_0)^2}{2 \sigma_0^2} - \frac{1}{2}

    (Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B, for any prior.)

    Parameters
    ----------
    mean, scale, prior_mean, prior_scale : ndarray, shape (...)
        Means and standard deviations, float32 or float64, of one dtype; the shapes broadcast, and may be (). A prior
        that moves with the mean, ``prior_mean=mean``, leaves the scales alone in it.

    Returns
    -------
    divergence : ndarray, shape (...)
        0 or more, NaN where a scale is not positive; dtype of `mean`. Sum it over the parameters of a transform.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ.
    ValueError
        If shapes do not broadcast.

    See Also
    --------
    normal_kl_vjp, normal_kl_jvp, normal_kl_vjp2 : its derivatives.
    gamma_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> mean, scale = np.array([0.0, 0.5]), np.array([1.0, 1.0])
    >>> pystn.normal_kl(mean, scale, np.array(0.0), np.array(1.0))
    array([0.   , 0.125])
    """
    return NORMAL.value(mean, scale, prior_mean, prior_scale)


def normal_kl_vjp(
    grad_divergence: Array,
    mean: Array,
    scale: Array,
    prior_mean: Array,
    prior_scale: Array,
    *,
    wrt: str | Sequence[str] = ("mean", "scale", "prior_mean", "prior_scale"),
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    r"""Vector-Jacobian product of `normal_kl`.

    .. math::
        \bar \mu = \frac{\mu - \mu_0}{\sigma_0^2} \, \bar L, \qquad
        \bar \sigma = \Bigl( \frac{\sigma}{\sigma_0^2} - \frac{1}{\sigma} \Bigr) \bar L

    that to the prior's mean being the negative of the first, and that to its scale
    :math:`(1 - (\sigma^2 + (\mu - \mu_0)^2) / \sigma_0^2) \, \bar L / \sigma_0`.

    Parameters
    ----------
    grad_divergence : ndarray
        Cotangent: shape and dtype of the divergence.
    mean, scale, prior_mean, prior_scale
        As given to `normal_kl`.
    wrt : sequence of {"mean", "scale", "prior_mean", "prior_scale"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_mean, grad_scale, grad_prior_mean, grad_prior_scale : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not in
        `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `normal_kl`, and if `grad_divergence` or `wrt` does not fit.

    See Also
    --------
    normal_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> mean, scale, zero, one = np.array([0.5]), np.array([2.0]), np.array(0.0), np.array(1.0)
    >>> grad_mean, grad_scale, *_ = pystn.normal_kl_vjp(np.ones(1), mean, scale, zero, one)
    >>> grad_mean, grad_scale
    (array([0.5]), array([1.5]))
    """
    return NORMAL.vjp(grad_divergence, mean, scale, prior_mean, prior_scale, wrt=wrt)


def normal_kl_jvp(
    mean: Array,
    scale: Array,
    prior_mean: Array,
    prior_scale: Array,
    d_mean: Array | None,
    d_scale: Array | None,
    d_prior_mean: Array | None,
    d_prior_scale: Array | None,
) -> Array:
    """Jacobian-vector product of `normal_kl`, with the slopes of `normal_kl_vjp`.

    Parameters
    ----------
    mean, scale, prior_mean, prior_scale
        As given to `normal_kl`.
    d_mean, d_scale, d_prior_mean, d_prior_scale : ndarray or None
        Tangents, of the shapes and dtypes of the arrays; None is zero.

    Returns
    -------
    d_divergence : ndarray
        Shape and dtype of the divergence.

    Raises
    ------
    TypeError, ValueError
        As `normal_kl`, and if a tangent does not fit.

    See Also
    --------
    normal_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> mean, scale, zero, one = np.array([0.5]), np.array([2.0]), np.array(0.0), np.array(1.0)
    >>> pystn.normal_kl_jvp(mean, scale, zero, one, np.ones(1), None, None, None)
    array([0.5])
    """
    return NORMAL.jvp((mean, scale, prior_mean, prior_scale), (d_mean, d_scale, d_prior_mean, d_prior_scale))


def normal_kl_vjp2(
    gg_mean: Array | None,
    gg_scale: Array | None,
    gg_prior_mean: Array | None,
    gg_prior_scale: Array | None,
    grad_divergence: Array,
    mean: Array,
    scale: Array,
    prior_mean: Array,
    prior_scale: Array,
    *,
    wrt: str | Sequence[str] = ("grad_divergence", "mean", "scale", "prior_mean", "prior_scale"),
) -> tuple[Array | None, Array | None, Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `normal_kl_vjp`.

    Parameters
    ----------
    gg_mean, gg_scale, gg_prior_mean, gg_prior_scale : ndarray or None
        Cotangents of the gradients: their shapes and dtypes. None is zero.
    grad_divergence, mean, scale, prior_mean, prior_scale
        As given to `normal_kl_vjp`.
    wrt : sequence of {"grad_divergence", "mean", "scale", "prior_mean", "prior_scale"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_divergence, grad_mean, grad_scale, grad_prior_mean, grad_prior_scale : ndarray or None
        Shapes and dtypes of `grad_divergence` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `normal_kl_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    normal_kl_vjp, normal_kl_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> mean, scale, zero, one = np.array([0.5]), np.array([2.0]), np.array(0.0), np.array(1.0)
    >>> _, grad_mean, grad_scale, *_ = pystn.normal_kl_vjp2(
    ...     np.ones(1), np.ones(1), None, None, np.ones(1), mean, scale, zero, one
    ... )
    >>> grad_mean, grad_scale
    (array([1.]), array([1.25]))
    """
    return NORMAL.vjp2(
        (gg_mean, gg_scale, gg_prior_mean, gg_prior_scale),
        grad_divergence,
        mean,
        scale,
        prior_mean,
        prior_scale,
        wrt=wrt,
    )


def gamma_kl(beta: Array, prior_beta: Array, alpha: float = 1.0) -> Array:
    r"""Divergence of Gamma distributions from priors of the same shape, entry by entry.

    .. math:: \mathrm{KL}(\Gamma(\alpha, \beta) \,\|\, \Gamma(\alpha, \beta_0)) =
        \alpha \Bigl( \log \frac{\beta}{\beta_0} + \frac{\beta_0}{\beta} - 1 \Bigr)

    with :math:`\beta` the rates: of the precision in the Probabilistic Spatial Transformer (Schwöbel et al., 2022).

    Parameters
    ----------
    beta, prior_beta : ndarray, shape (...)
        Rates, float32 or float64, of one dtype; the shapes broadcast, and may be ().
    alpha : float, default 1.0
        Shape of both; has no derivative.

    Returns
    -------
    divergence : ndarray, shape (...)
        0 or more, NaN where a rate is not positive; dtype of `beta`.

    Raises
    ------
    TypeError
        If an array is no NumPy array of float32 or float64, or the dtypes differ.
    ValueError
        If shapes do not broadcast, or `alpha` is not positive.

    See Also
    --------
    gamma_kl_vjp, gamma_kl_jvp, gamma_kl_vjp2 : its derivatives.
    normal_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> pystn.gamma_kl(np.array([1.0, 2.0]), np.array(1.0)).round(4)
    array([0.    , 0.1931])
    """
    return GAMMA.value(beta, prior_beta, alpha=alpha)


def gamma_kl_vjp(
    grad_divergence: Array,
    beta: Array,
    prior_beta: Array,
    alpha: float = 1.0,
    *,
    wrt: str | Sequence[str] = ("beta", "prior_beta"),
) -> tuple[Array | None, Array | None]:
    r"""Vector-Jacobian product of `gamma_kl`.

    .. math::
        \bar \beta = \alpha \Bigl( \frac{1}{\beta} - \frac{\beta_0}{\beta^2} \Bigr) \bar L, \qquad
        \bar \beta_0 = \alpha \Bigl( \frac{1}{\beta} - \frac{1}{\beta_0} \Bigr) \bar L

    Parameters
    ----------
    grad_divergence : ndarray
        Cotangent: shape and dtype of the divergence.
    beta, prior_beta, alpha
        As given to `gamma_kl`.
    wrt : sequence of {"beta", "prior_beta"}, default both
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_beta, grad_prior_beta : ndarray or None
        Shape and dtype of each, summed over leading axes that it was broadcast along; None where not in
        `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `gamma_kl`, and if `grad_divergence` or `wrt` does not fit.

    See Also
    --------
    gamma_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> beta, one = np.array([2.0]), np.array(1.0)
    >>> grad_beta, grad_prior = pystn.gamma_kl_vjp(np.ones(1), beta, one)
    >>> grad_beta, grad_prior
    (array([0.25]), array(-0.5))
    """
    return GAMMA.vjp(grad_divergence, beta, prior_beta, alpha=alpha, wrt=wrt)


def gamma_kl_jvp(
    beta: Array, prior_beta: Array, d_beta: Array | None, d_prior_beta: Array | None, alpha: float = 1.0
) -> Array:
    """Jacobian-vector product of `gamma_kl`, with the slopes of `gamma_kl_vjp`.

    Parameters
    ----------
    beta, prior_beta, alpha
        As given to `gamma_kl`.
    d_beta, d_prior_beta : ndarray or None
        Tangents, of the shapes and dtypes of the arrays; None is zero.

    Returns
    -------
    d_divergence : ndarray
        Shape and dtype of the divergence.

    Raises
    ------
    TypeError, ValueError
        As `gamma_kl`, and if a tangent does not fit.

    See Also
    --------
    gamma_kl

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> beta, one = np.array([2.0]), np.array(1.0)
    >>> pystn.gamma_kl_jvp(beta, one, np.ones(1), None)
    array([0.25])
    """
    return GAMMA.jvp((beta, prior_beta), (d_beta, d_prior_beta), alpha=alpha)


def gamma_kl_vjp2(
    gg_beta: Array | None,
    gg_prior_beta: Array | None,
    grad_divergence: Array,
    beta: Array,
    prior_beta: Array,
    alpha: float = 1.0,
    *,
    wrt: str | Sequence[str] = ("grad_divergence", "beta", "prior_beta"),
) -> tuple[Array | None, Array | None, Array | None]:
    r"""Second order: the vector-Jacobian product of `gamma_kl_vjp`.

    Parameters
    ----------
    gg_beta, gg_prior_beta : ndarray or None
        Cotangents of grad_beta, grad_prior_beta: their shapes and dtypes. None is zero.
    grad_divergence, beta, prior_beta, alpha
        As given to `gamma_kl_vjp`.
    wrt : sequence of {"grad_divergence", "beta", "prior_beta"}, default all
        The gradients that are wanted; the work for others is skipped.

    Returns
    -------
    grad_grad_divergence, grad_beta, grad_prior_beta : ndarray or None
        Shapes and dtypes of `grad_divergence` and of the arrays; None where not in `wrt`.

    Raises
    ------
    TypeError, ValueError
        As `gamma_kl_vjp`, and if a cotangent or `wrt` does not fit.

    See Also
    --------
    gamma_kl_vjp, gamma_kl_jvp

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> beta, one = np.array([2.0]), np.array(1.0)
    >>> _, grad_beta, _ = pystn.gamma_kl_vjp2(np.ones(1), None, np.ones(1), beta, one)
    >>> grad_beta
    array([0.])
    """
    return GAMMA.vjp2((gg_beta, gg_prior_beta), grad_divergence, beta, prior_beta, alpha=alpha, wrt=wrt)
