"""Losses of transformers, each with its derivatives: of encodings, of distributions, of transforms."""

from pystn.losses.divergences import (
    gamma_kl,
    gamma_kl_jvp,
    gamma_kl_vjp,
    gamma_kl_vjp2,
    normal_kl,
    normal_kl_jvp,
    normal_kl_vjp,
    normal_kl_vjp2,
)
from pystn.losses.means import (
    log_mean_exp,
    log_mean_exp_jvp,
    log_mean_exp_vjp,
    log_mean_exp_vjp2,
)
from pystn.losses.penalties import (
    identity_penalty,
    identity_penalty_jvp,
    identity_penalty_vjp,
    identity_penalty_vjp2,
)
from pystn.losses.triplets import (
    colocalization_loss,
    colocalization_loss_jvp,
    colocalization_loss_vjp,
    colocalization_loss_vjp2,
    triplet_hinge,
    triplet_hinge_jvp,
    triplet_hinge_vjp,
    triplet_hinge_vjp2,
)

__all__ = [
    "colocalization_loss",
    "colocalization_loss_jvp",
    "colocalization_loss_vjp",
    "colocalization_loss_vjp2",
    "gamma_kl",
    "gamma_kl_jvp",
    "gamma_kl_vjp",
    "gamma_kl_vjp2",
    "identity_penalty",
    "identity_penalty_jvp",
    "identity_penalty_vjp",
    "identity_penalty_vjp2",
    "log_mean_exp",
    "log_mean_exp_jvp",
    "log_mean_exp_vjp",
    "log_mean_exp_vjp2",
    "normal_kl",
    "normal_kl_jvp",
    "normal_kl_vjp",
    "normal_kl_vjp2",
    "triplet_hinge",
    "triplet_hinge_jvp",
    "triplet_hinge_vjp",
    "triplet_hinge_vjp2",
]
