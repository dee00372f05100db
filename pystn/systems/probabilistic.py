"""A distribution of transforms, read off the input by a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pystn.grids.family import Family
from pystn.interpolation import number
from pystn.options import flag, one_of
from pystn.systems.base import Pullback, System, added, check_network, parted
from pystn.transforms import MatrixTransform
from pystn.typing import Array

__all__ = ["ProbabilisticSpatialTransformer"]


class ProbabilisticSpatialTransformer(System):
    r"""Layer that warps its input by transforms drawn from a posterior that a network reads off it.

    .. math::
        \theta_s &= \mu + \sqrt{\beta / \alpha} \, t_s, \quad t_s \sim \mathrm{St}(2 \alpha)
        \qquad\text{("student")} \\
        \theta_s &= \mu + \sigma \, \epsilon_s, \quad \epsilon_s \sim N(0, 1) \qquad\text{("normal")}

    (Schwöbel, Warburg, Jørgensen, Madsen and Hauberg, Probabilistic Spatial Transformer Networks, UAI 2022). The
    network says the mean :math:`\mu` and the logarithmic spread r of each parameter; :math:`\beta` or :math:`\sigma` is
    ``log(1 + exp(r))``. "student" is what a normal posterior becomes whose precision is drawn from a gamma distribution
    of shape :math:`\alpha` and rate :math:`\beta`.

    Parameters
    ----------
    localization : callable
        The network, as `SpatialTransformer` takes it: it makes (N, 2, p), means and spreads, or that flat, (N, 2 p).
    transform, size, **options
        As `SpatialTransformer` takes them: ``CPAB(...)`` for series, for one.
    posterior : {"student", "normal"}, default "student"
    alpha : float, default 1.0
        Half the degrees of freedom of "student". At 1 the variance is infinite; the published code has that default.
    prior_spread : float, default 1.0
        :math:`\beta` of the prior gamma distribution, or :math:`\sigma` of the prior normal one.
    prior_mean : array_like, shape (p,), optional
        Mean of the prior of "normal". Default: that of the posterior, which leaves the divergence a matter of the
        spreads.
    return_parameters : bool, default False
        Whether to return ``(output, divergence, parameters)``, these of all draws, (N, S, p).

    Raises
    ------
    TypeError, ValueError
        As `SpatialTransformer`; if an option is not among its values, or a prior mean is given for "student".

    See Also
    --------
    gamma_kl, normal_kl : the divergences.
    log_mean_exp : what `marginal` does in testing.

    Notes
    -----
    A call is ``system(input, noise)``, with noise (N, S, p) of `noise`, for S transforms of each input; without it the
    one of the mean is applied. It returns the output, (N, C, S, *size), and the divergence of the posterior from its
    prior, (N,), summed over parameters; `vjp` takes cotangents of what is returned, any of which may be None. Training
    maximizes the evidence's lower bound, the mean over samples of the log-likelihood less a weight times the
    divergence.

    Examples
    --------
    >>> import numpy as np
    >>> import pystn
    >>> params = np.stack([pystn.identity_params("attention"), np.full(3, -5.0)])
    >>> network = lambda image: np.broadcast_to(params, (len(image), 2, 3))
    >>> transformer = pystn.ProbabilisticSpatialTransformer(network, "attention", posterior="normal", prior_spread=0.05)
    >>> image = np.random.default_rng(0).random((2, 1, 8, 8))
    >>> output, divergence = transformer(image, transformer.noise((2, 10, 3), seed=0))
    >>> output.shape, divergence.shape
    ((2, 1, 10, 8, 8), (2,))
    """

    def __init__(
        self,
        localization: Callable[..., Any],
        transform: str | MatrixTransform | Family | Callable[..., Any] = "affine",
        size: Sequence[int] | None = None,
        *,
        posterior: str = "student",
        alpha: float = 1.0,
        prior_spread: float = 1.0,
        prior_mean: Any = None,
        return_parameters: bool = False,
        **options: Any,
    ) -> None:
        self._set(transform, size, options)
        one_of("posterior", posterior, ("student", "normal"))
        self.localization = check_network(localization)
        self.posterior = posterior
        self.return_parameters = flag("return_parameters", return_parameters)
        self.alpha, self.prior_spread = number("alpha", alpha), number("prior_spread", prior_spread)
        for name, value in (("alpha", self.alpha), ("prior_spread", self.prior_spread)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if prior_mean is not None and posterior == "student":
            raise ValueError("prior_mean is for posterior='normal': the gamma distribution is of precisions alone")
        self.prior_mean = None if prior_mean is None else np.asarray(prior_mean, np.float64)

    def noise(self, shape: Sequence[int], seed: Any, dtype: Any = np.float64) -> Array:
        """Standard draws of the posterior, (N, S, p): of Student's distribution, or the normal one.

        `seed` is anything that ``numpy.random.default_rng`` takes. They are on the host; a call puts them where its
        input is.
        """
        rng = np.random.default_rng(seed)
        drawn = rng.standard_normal(shape) if self.posterior == "normal" else rng.standard_t(2 * self.alpha, shape)
        return drawn.astype(dtype)

    def marginal(self, log_probabilities: Any, training: bool = False) -> Any:
        r"""Log-probabilities (N, S, classes) of what S draws are taken for, as one for each input (N, classes).

        .. math::
            \frac{1}{S} \sum_s \log p(y \mid \theta_s) \quad\text{in training}, \qquad
            \log \frac{1}{S} \sum_s p(y \mid \theta_s) \quad\text{in testing}

        The first is the expectation in the evidence's lower bound, never more than the second.
        """
        return self.pull_marginal(log_probabilities, training)[0]

    def pull_marginal(self, log_probabilities: Any, training: bool = False) -> tuple[Any, Pullback]:
        """`marginal`, and the pullback of its cotangent."""
        if not flag("training", training):
            marginal, back = self._pull("log_mean_exp", log_probabilities, axis=1)
            return marginal, lambda grad: back(grad)[0]
        samples = log_probabilities.shape[1]

        def pullback(grad: Any) -> Any:
            return self._xp(grad).repeat(grad[:, None] / samples, samples, 1)

        return log_probabilities.mean(1), pullback

    def _divergence(self, mean: Any, spread: Any) -> tuple[Any, Pullback]:
        """Of the posterior from the prior, one for each parameter, and the pullback to mean and spread."""
        prior = self._constant(np.full(mean.shape[1:], self.prior_spread), mean)
        if self.posterior == "student":
            divergence, back = self._pull("gamma_kl", spread, prior, alpha=self.alpha)
            return divergence, lambda grad: (None, back(grad, wrt=("beta",))[0])
        about = mean if self.prior_mean is None else self._constant(self.prior_mean, mean)
        divergence, back = self._pull("normal_kl", mean, spread, about, prior)
        # About its own mean the divergence has no slope there, and the gradient to the mean is zero as it is.
        return divergence, lambda grad: back(grad, wrt=("mean", "scale"))[:2]

    def _trace(self, input: Any, noise: Any = None) -> tuple[Any, Pullback]:
        raw, to_image = self._localized(self.localization, input)
        shape = tuple(getattr(raw, "shape", ()))
        if not (len(shape) == 2 and shape[1] % 2 == 0) and not (len(shape) == 3 and shape[1] == 2):
            raise ValueError(f"a localization must make means and spreads, (N, 2, p) or (N, 2 * p): got shape {shape}")
        pairs = raw.reshape(shape[0], 2, -1)
        mean, spread = pairs[:, 0], softplus(self._xp(raw), pairs[:, 1])
        scale = (spread / self.alpha) ** 0.5 if self.posterior == "student" else spread
        draws = 0 * mean[:, None] if noise is None else self._constant(noise, raw)
        if tuple(draws.shape[2:]) != tuple(mean.shape[1:]) or draws.shape[0] not in (1, mean.shape[0]):
            raise ValueError(
                f"noise must have shape (N, S, p), with N, p = {tuple(mean.shape)}: got {tuple(draws.shape)}"
            )
        theta = mean[:, None] + scale[:, None] * draws
        warp, to_theta = self._warp(theta, input.ndim - 2, parallel=True)
        output, to_input = self._sampled(input, warp)
        each, to_each = self._divergence(mean, spread)

        returned = ("output", "divergence", "parameters")[: 2 + self.return_parameters]

        def pullback(grads: Any) -> tuple[Any, Any]:
            grad_output, grad_divergence, grad_theta = (*parted(grads, *returned), None)[:3]
            xp = self._xp(raw)
            grad_input, grad_mean, grad_spread = None, xp.zeros_like(mean), xp.zeros_like(spread)
            if grad_output is not None:
                grad_input, grad_warp = to_input(grad_output)
                grad_theta = added(to_theta(grad_warp).reshape(theta.shape), grad_theta)
            if grad_theta is not None:
                grad_scale = (grad_theta * draws).sum(1)
                grad_mean = grad_theta.sum(1)
                grad_spread = grad_scale / (2 * self.alpha * scale) if self.posterior == "student" else grad_scale
            if grad_divergence is not None:
                of_mean, of_spread = to_each(xp.broadcast_to(grad_divergence[:, None], each.shape))
                grad_mean, grad_spread = added(grad_mean, of_mean), grad_spread + of_spread
            grad_raw = grad_spread * xp.exp(pairs[:, 1] - spread)  # the logistic function
            grad_image, grad_weights = to_image(xp.stack([grad_mean, grad_raw], 1).reshape(raw.shape))
            return added(grad_input, grad_image), grad_weights

        return (output, each.sum(1), theta)[: len(returned)], pullback


def softplus(xp: Any, x: Any) -> Any:
    """``log(1 + exp(x))`` that neither overflows nor loses small values."""
    return (x + abs(x)) / 2 + xp.log1p(xp.exp(-abs(x)))
