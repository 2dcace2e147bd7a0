"""Surrogates for what an expert decided: the likelihood, held back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...arrays import Array, masked_mean, namespace, stop_gradient
from ...decisions import Decisions
from ...settings import setting
from ..ratio import finite_logp
from .surrogate import Surrogate


@dataclass(frozen=True)
class TrustedLikelihood(Surrogate):
    """Maximum likelihood whose pull fades on decisions less likely than `alpha`. arXiv 2512.17636 (TrSFT).

    alpha = 0: the gradient of the log-likelihood; alpha = 1: that of the likelihood itself. The value is -A wherever
    p > alpha, so that it tells nothing about the fit: read `nll` in the stats.
    """

    equation = "-A p / sg[ max(p, alpha) ],   p = exp(logp)"
    alpha: float = setting(0.1, at_least=0, at_most=1)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """No old policy in it."""
        return frozenset({"logp", "advantage"})

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T]."""
        logp = finite_logp(d)
        held = stop_gradient(logp)
        # p / max(p, alpha) times exp(logp - sg[logp]), which is 1 with the gradient of logp: nothing can underflow.
        return -self.advantage(d) * self.weight(held) * namespace(logp).exp(logp - held)

    def weight(self, logp: Array) -> Array:
        """p / max(p, alpha), elementwise."""
        xp = namespace(logp)
        if self.alpha == 0:
            return xp.ones_like(logp)
        short = logp - math.log(self.alpha)
        return xp.exp(xp.where(short < 0, short, xp.zeros_like(short)))

    def clipped(self, d: Decisions) -> Array:
        """1 where the pull is weaker than the likelihood's own."""
        weight = self.weight(finite_logp(d))
        return namespace(weight).astype(weight < 1, weight.dtype)

    def stats(self, d: Decisions) -> dict[str, Array]:
        """See Surrogate; and the negative log-likelihood."""
        return {**super().stats(d), "nll": masked_mean(-finite_logp(d), d.weights())}
