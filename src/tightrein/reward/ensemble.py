"""One reward from several reward models, so that what only one of them likes does not pay. arXiv 2310.02743."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, at_least_float32, finite, namespace, zero_where_masked
from ..decisions import Decisions, last_decision
from ..errors import TightreinError
from ..settings import Part, setting
from .shaping import RewardPart


@dataclass(frozen=True)
class Reduction(Part):
    """Base of the rules from K scores to one."""

    def __call__(self, scores: Array) -> Array:
        """scores: [B, K] -> [B]."""
        raise NotImplementedError


@dataclass(frozen=True)
class MeanScore(Reduction):
    """What the models say on average."""

    equation = "mean_k s_k"

    def __call__(self, scores: Array) -> Array:
        """See Reduction."""
        return namespace(scores).mean(scores, axis=1)


@dataclass(frozen=True)
class WorstScore(Reduction):
    """What the least pleased model says (worst-case optimization)."""

    equation = "min_k s_k"

    def __call__(self, scores: Array) -> Array:
        """See Reduction."""
        return namespace(scores).min(scores, axis=1)


@dataclass(frozen=True)
class UncertaintyWeighted(Reduction):
    """The mean less the variance among the models (uncertainty-weighted optimization).

    `unbiased` divides the squares by K - 1 in place of K. One model alone has no variance.
    """

    equation = "mean_k s_k - coef var_k s_k"
    coef: float = setting(0.1, at_least=0)
    unbiased: bool = False

    def __call__(self, scores: Array) -> Array:
        """See Reduction."""
        xp = namespace(scores)
        mean = xp.mean(scores, axis=1)
        squares = xp.sum((scores - mean[:, None]) ** 2, axis=1)
        return mean - self.coef * squares / max(scores.shape[1] - self.unbiased, 1)


@dataclass(frozen=True)
class EnsembleReward(RewardPart):
    """The reward of an answer, given at its last decision, from the scores of K reward models."""

    equation = "R = reduction( s_1, ..., s_K )"
    needs = frozenset({"scores"})
    provides = frozenset({"reward"})
    reduction: Reduction = UncertaintyWeighted()

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See RewardPart. Raises TightreinError for a score that is not finite."""
        weights = d.weights()
        scores = zero_where_masked(at_least_float32(d.scores), d.alive()[:, None])
        if not finite(scores):
            raise TightreinError("the scores hold a NaN or an infinity", "give a finite number for every reward model")
        return d.replace(reward=self.reduction(scores)[:, None] * last_decision(weights))
