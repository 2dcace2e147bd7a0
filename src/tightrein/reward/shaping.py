"""Terms that shape the reward of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import clip, namespace, stop_gradient
from ..decisions import Decisions, last_decision
from ..objective.estimators import K1, Estimator
from ..objective.ratio import log_difference
from ..settings import Part, setting


@dataclass(frozen=True)
class RewardPart(Part):
    """Base of the terms that change `reward`."""

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """Decisions with another `reward`, of the same shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class KLInReward(RewardPart):
    """Subtracts coef * KL(pi || pi_ref), estimated from the samples of the old policy. coef = 0: off.

    With one reward per trajectory the estimates of its decisions are summed.
    """

    equation = "R - beta sum_t k(logp_old - logp_ref)"
    coef: float = setting(0.05, at_least=0)
    estimator: Estimator = K1()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Nothing while it is off, so that no reference model has to be run."""
        return frozenset({"reward", "logp_old", "logp_ref"}) if self.coef else frozenset({"reward"})

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See RewardPart."""
        if not self.coef:
            return d
        kl = self.coef * stop_gradient(self.estimator(log_difference(d.logp_old, d.logp_ref, d.weights())))
        return d.replace(reward=d.reward - (kl if d.reward.ndim == 2 else namespace(kl).sum(kl, axis=1)))


@dataclass(frozen=True)
class SoftOverlong(RewardPart):
    """Fades in a penalty over the last `buffer` decisions before the limit `length`; -factor beyond it.

    arXiv 2503.14476 (DAPO), eq. 13. With one reward per decision it falls on the last one.
    """

    equation = "R + factor clip( ((length - buffer) - L) / buffer, -1, 0 )"
    needs = frozenset({"reward"})
    length: int = setting(20480, at_least=1)
    buffer: int = setting(4096, at_least=1)
    factor: float = setting(1.0, at_least=0)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See RewardPart."""
        xp = namespace(d.weights())
        lengths = xp.sum(d.weights(), axis=1)
        penalty = self.factor * clip((self.length - self.buffer - lengths) / self.buffer, -1.0, 0.0)
        if d.reward.ndim == 1:
            return d.replace(reward=d.reward + penalty)
        return d.replace(reward=d.reward + penalty[:, None] * last_decision(d.weights()))
