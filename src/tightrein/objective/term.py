"""Terms of a policy loss beside the surrogate and its penalties, each with a weighting of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..arrays import Array, masked_mean, namespace
from ..decisions import Decisions
from ..settings import Part, setting
from .ratio import finite_logp


@dataclass(frozen=True)
class Term(Part):
    """Base of the terms coef * (something of the batch)."""

    named: ClassVar[str] = "term"  # in the stats
    coef: float = setting(0.1, at_least=0)

    def __call__(self, d: Decisions, weights: Array) -> Array:
        """The term without its coefficient: a scalar with its gradient.

        weights: [B, T], what the objective weighs the loss of each decision by, for terms that are weighed alike.
        """
        raise NotImplementedError

    def stats(self, d: Decisions, weights: Array) -> dict[str, Array]:
        """Named scalars about the term, without gradient."""
        return {self.named: self(d, weights)}


@dataclass(frozen=True)
class PositiveImitation(Term):
    """Likelihood of the answers that were right. arXiv 2504.05118 (VAPO).

    An answer is right when its reward exceeds `threshold`; without one the term is 0.
    """

    equation = "-c mean over the tokens of right answers of logp_t"
    named = "imitation_loss"
    needs = frozenset({"logp", "reward"})
    threshold: float = setting(0.5)

    def __call__(self, d: Decisions, weights: Array) -> Array:
        """See Term."""
        mask = d.weights()
        right = namespace(mask).astype(d.outcome() > self.threshold, mask.dtype)
        return -masked_mean(finite_logp(d), mask * right[:, None])
