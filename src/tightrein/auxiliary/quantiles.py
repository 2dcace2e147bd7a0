"""A distribution of returns, learned off-policy, that tells the critic of a policy gradient. arXiv 2407.13146."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arrays import Array, atmost, namespace, stop_gradient
from ..heads import Heads
from ..settings import setting
from ..step import Adam, Optimizer
from .base import Auxiliary


def quantile_huber(error: Array, tau: Array, kappa: float = 1.0) -> Array:
    """Huber's loss of target - estimate, weighed by tau where the target is above and by 1 - tau where it is below.

    Elementwise. Its minimiser is near the tau-quantile of the targets, and tends to it as kappa -> 0. arXiv
    1806.06923, eq. 3.
    """
    xp = namespace(error)
    size = xp.abs(error)
    inside = atmost(size, kappa)
    huber = inside * (size - 0.5 * inside)
    below = xp.astype(error < 0, error.dtype)
    return xp.abs(tau - below) * huber / kappa


def quantile_loss(estimate: Array, tau: Array, target: Array, kappa: float = 1.0) -> Array:
    """Sum over the N estimated quantiles of the mean over the N' targets: [...].

    estimate, tau: [..., N]; target: [..., N'], taken as constant.
    """
    xp = namespace(estimate)
    error = stop_gradient(target)[..., None, :] - estimate[..., :, None]
    return xp.sum(xp.mean(quantile_huber(error, tau[..., :, None], kappa), axis=-1), axis=-1)


def cosines(tau: Array, count: int) -> Array:
    """cos(pi i tau), i = 0 ... count - 1: [..., count]. arXiv 1806.06923, eq. 4."""
    xp = namespace(tau)
    return xp.cos(math.pi * xp.arange(count, dtype=tau.dtype) * tau[..., None])


def midpoints(like: Array, count: int) -> Array:
    """The middles of `count` equal parts of [0, 1]: [count]."""
    xp = namespace(like)
    return (xp.arange(count, dtype=like.dtype) + 0.5) / count


def modulated(value: Array, quantiles: Array) -> Array:
    """V_theta(s) (.) q_phi(s): values [...] and quantiles [..., N], which get no gradient, to [..., N]."""
    return value[..., None] * stop_gradient(quantiles)


@dataclass(frozen=True)
class QuantileCritic(Heads):
    """The usual policy, and a critic that reads the product of a usual value and N quantiles.

    f_psi is a small network, here the mean plus an MLP of one layer of `hidden` units that starts near 0.
    """

    equation = "V(s) = f_psi( V_theta(s) (.) sg[q_phi(s)] )"
    quantiles: int = setting(8, at_least=1)
    hidden: int = setting(64, at_least=1)


@dataclass(frozen=True)
class QuantileDistillation(Auxiliary):
    """An implicit quantile network, trained on a replay of the policy's own transitions.

    After every `every` rollouts it takes `updates` gradient steps on `batch` transitions each, drawn with replacement
    from the newest rollouts, about `capacity` transitions of them. `sync` steps lie between two copies to the target
    network. In a step N = `samples` quantiles are held against N' = `targets` of the target network. The critic then
    sees the quantiles of the action with the largest mean.
    """

    heads = QuantileCritic
    discrete = True
    equation = "sum_tau mean_tau' |tau - 1{d < 0}| Huber(d) / kappa,  d = R + gamma Z'_tau'(s', a*) - Z_tau(s, a)"
    every: int = setting(1, at_least=1)
    updates: int = setting(128, at_least=1)
    batch: int = setting(64, at_least=1)
    capacity: int = setting(20_000, at_least=1)
    sync: int = setting(32, at_least=1)
    samples: int = setting(8, at_least=1)
    targets: int = setting(8, at_least=1)
    cosines: int = setting(64, at_least=1)
    kappa: float = setting(1.0, above=0)
    step: Optimizer = Adam(learning_rate=1e-4)
