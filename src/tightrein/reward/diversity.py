"""Terms that reward answers for being unlike the others of their group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, at_least_float32, atleast, clip, group_sum, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions, last_decision
from ..labels import pair_labels, sum_where_same
from ..objective.answer import right
from ..settings import setting
from .shaping import RewardPart

_TINY = 1e-30


@dataclass(frozen=True)
class DistinctAnswers(RewardPart):
    """Pays right answers for their distinctness, and fills `emphasis` with their share of a group's attention.

    Distinctness is the mean of two scores in [0, 1]: the cosine dissimilarity of an answer's embedding to those of the
    other answers, and the share of its formulas that no other answer has (0 where it has none); it is cut at `most`.
    The answers of a group share its attention as exp(tau * distinctness), the right ones alone; `emphasis` is that
    share times the size of the group, so that its mean over a batch of equal groups is 1 where all have a right answer.
    `among_right` compares right answers with each other alone. An answer is right when its reward reaches `threshold`.

    Source: DSDR, arXiv 2602.19895, section 3.2.
    """

    equation = (
        "R_i + coef min(d_i, most) 1[right],   w_i = exp(tau d_i) / sum over the right of g,   d = (D_emb + D_eq) / 2"
    )
    needs = frozenset({"reward", "group", "embedding", "formula"})
    provides = frozenset({"reward", "emphasis"})
    coef: float = setting(1e-3, at_least=0)
    most: float = setting(1.0, at_least=0, at_most=1)
    tau: float = setting(5.0, at_least=0)
    threshold: float = setting(1.0)
    among_right: bool = False

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See RewardPart."""
        good = right(d, self.threshold)
        distinct = good * clip(self.distinctness(d), 0.0, self.most)
        bonus = self.coef * distinct
        if d.reward.ndim == 2:
            bonus = bonus[:, None] * last_decision(d.weights())
        return d.replace(reward=at_least_float32(d.reward) + bonus, emphasis=self.emphasis(d, distinct, good))

    def emphasis(self, d: Decisions, distinct: Array, good: Array) -> Array:
        """Share of each answer in its group's attention, times the size of the group: [B]."""
        share = good * namespace(good).exp(self.tau * distinct)
        total = group_sum(share, d.group)
        return group_sum(d.alive(), d.group) * share / atleast(total, 1)  # a right answer counts at least 1

    def distinctness(self, d: Decisions) -> Array:
        """d_i of each answer, in [0, 1]: [B]."""
        others = right(d, self.threshold) if self.among_right else d.alive()
        return (_dissimilarity(d, others) + _uniqueness(d, others)) / 2


def _dissimilarity(d: Decisions, others: Array) -> Array:
    """Mean of (1 - cosine) / 2 to the `others` [B] of the group, 0 where there is none: [B]."""
    xp, alive = namespace(others), d.alive()[:, None]
    z = zero_where_masked(xp.astype(at_least_float32(stop_gradient(d.embedding)), others.dtype), alive)
    z = z / atleast(xp.max(xp.abs(z), axis=1, keepdims=True), _TINY)  # no square overflows
    z = z / atleast(xp.sqrt(xp.sum(z**2, axis=1, keepdims=True)), _TINY)
    same = xp.astype(d.group[:, None] == d.group[None, :], z.dtype) * others[None, :]
    far = xp.sum(same * (1 - z @ z.T) / 2, axis=1) - others * (1 - xp.sum(z * z, axis=1)) / 2  # without itself
    return clip(far / atleast(xp.sum(same, axis=1) - others, 1), 0.0, 1.0) * alive[:, 0]


def _uniqueness(d: Decisions, others: Array) -> Array:
    """Share of an answer's formulas that none of the `others` [B] of its group has: [B]."""
    xp, (rows, width) = namespace(others), d.formula.shape
    there = xp.astype(d.formula >= 0, others.dtype) * d.alive()[:, None]
    group = xp.reshape(d.group[:, None] + xp.zeros_like(d.formula), (-1,))
    label = pair_labels(group, xp.reshape(d.formula, (-1,)))
    held = there * others[:, None]
    elsewhere = xp.reshape(sum_where_same(xp.reshape(held, (-1,)), label), (rows, width)) - held
    alone = there * xp.astype(elsewhere == 0, others.dtype)
    return xp.sum(alone, axis=1) / atleast(xp.sum(there, axis=1), 1)
