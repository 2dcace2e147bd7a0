"""Likelihood terms beside a policy loss."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array, masked_mean, namespace
from ..decisions import Decisions
from ..settings import Part, setting
from .ratio import finite_logp


@dataclass(frozen=True)
class Imitation(Part):
    """Base of the terms coef * (negative log-likelihood of some trajectories)."""

    coef: float = setting(0.1, at_least=0)

    def __call__(self, d: Decisions) -> Array:
        """The term without its coefficient: a scalar with its gradient."""
        raise NotImplementedError


@dataclass(frozen=True)
class PositiveImitation(Imitation):
    """Likelihood of the answers that were right. arXiv 2504.05118 (VAPO).

    An answer is right when its reward exceeds `threshold`; without one the term is 0.
    """

    equation = "-c mean over the tokens of right answers of logp_t"
    needs = frozenset({"logp", "reward"})
    threshold: float = setting(0.5)

    def __call__(self, d: Decisions) -> Array:
        """See Imitation."""
        mask = d.weights()
        right = namespace(mask).astype(d.outcome() > self.threshold, mask.dtype)
        return -masked_mean(finite_logp(d), mask * right[:, None])
