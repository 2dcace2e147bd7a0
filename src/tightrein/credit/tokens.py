"""Credit whose comparison counts tokens, not answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, atleast, group_sum, namespace, stop_gradient
from ..decisions import Decisions
from ..settings import setting
from .base import Credit
from .group import GroupNormalised, spread


@dataclass(frozen=True)
class TokenNormalised(Credit):
    """Normalised by the mean and the biased deviation over all tokens of a group, so that long answers count more.

    A group with an advantage of `limit` or more is normalised over its answers instead. Source: HAPO, arXiv 2509.16591,
    token-level group average.
    """

    equation = "A_i = (R_i - mean over the tokens of g) / (std over them + eps)"
    needs = frozenset({"reward", "group"})
    eps: float = setting(1e-6, at_least=0)
    limit: float = setting(5.0, above=0)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        xp = namespace(d.weights())
        lengths = xp.sum(d.weights(), axis=1)
        tokens = atleast(group_sum(lengths, d.group), 1)
        reward = stop_gradient(d.outcome()) * d.alive()
        mean = group_sum(lengths * reward, d.group) / tokens
        centred = _difference(reward, mean) * d.alive()
        deviation = xp.sqrt(group_sum(lengths * centred**2, d.group) / tokens)
        scaled = centred / xp.where(deviation > 0, deviation + self.eps, xp.ones_like(deviation))
        far = group_sum(xp.astype(xp.abs(scaled) >= self.limit, scaled.dtype), d.group) > 0
        by_tokens, by_answers = spread(d, scaled).advantage, GroupNormalised(self.eps)(d).advantage
        return d.replace(advantage=xp.where(far[:, None], by_answers, by_tokens))


def _difference(x: Array, mean: Array) -> Array:
    """x - mean, and exactly 0 where the two are the same but for rounding."""
    xp = namespace(x)
    difference = x - mean
    return xp.where(xp.abs(difference) <= 8 * xp.finfo(difference.dtype).eps * xp.abs(mean), 0 * difference, difference)
