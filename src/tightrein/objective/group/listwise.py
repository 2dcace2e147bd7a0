"""A distribution over the answers of a group, drawn to one that their rewards make."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from ...arrays import Array, atleast, group_sum, masked_mean, namespace, stop_gradient, zero_where_masked
from ...decisions import Decisions, Loss, Stats
from ...settings import setting
from ..answer import AnswerLogRatio, ToOld, group_max, mean_over_groups
from ..base import Objective, State, detached
from ..divergence import kl_stats


@dataclass(frozen=True)
class ListwiseObjective(Objective):
    """L = mean over prompts of the cross-entropy of p, softmax of the answers' log-ratios, to the target q.

    q is the softmax of the group's rewards, standardised and divided by `sharpness`. The loss less the entropy of q
    is KL(q || p). Groups of fewer than two answers do not count. arXiv 2510.18913 (ADPO).
    """

    equation = "-sum_i q_i log p_i,  p = softmax_group( u / tau ),  q = softmax_group( (R - mean) / (std sharpness) )"
    whole_groups: ClassVar[bool] = True
    tau: float = setting(0.8, above=0)
    sharpness: float = setting(0.5, above=0)
    log_ratio: AnswerLogRatio = ToOld()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the loss reads; `mask` is optional."""
        return self.log_ratio.needs | {"reward", "group"}

    def groups(self, d: Decisions) -> tuple[Array, Array]:
        """(loss of each answer's group, 1 for answers of groups that count): [B] each."""
        rows = d.alive()
        xp = namespace(rows)
        target = xp.exp(
            _log_softmax(_standardised(stop_gradient(d.outcome()), rows, d.group) / self.sharpness, rows, d)
        )
        log_p = _log_softmax(self.log_ratio(d) / self.tau, rows, d)
        loss = -group_sum(rows * target * log_p, d.group)
        return loss, rows * xp.astype(group_sum(rows, d.group) > 1, rows.dtype)

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch; the gradient flows into logp."""
        loss, rows = self.groups(d)
        return Loss(mean_over_groups(loss, d.group, rows), None, Stats(functools.partial(self._stats, detached(d))))

    def _stats(self, d: Decisions) -> dict[str, Array]:
        loss, rows = self.groups(d)
        stats = {"cross_entropy": mean_over_groups(loss, d.group, rows)}
        if d.logp_old is not None:
            each = kl_stats(d)
            stats |= {name: masked_mean(each[name], d.weights()) for name in ("kl_k1", "kl_k3")}
        return stats if d.entropy is None else {**stats, "entropy": masked_mean(d.entropy, d.weights())}


def _log_softmax(x: Array, rows: Array, d: Decisions) -> Array:
    """Normalised over the living rows of each group, 0 on the others: [B]."""
    xp = namespace(x)
    below = zero_where_masked(x - group_max(stop_gradient(x), rows, d.group), rows)
    total = group_sum(rows * xp.exp(below), d.group)
    return zero_where_masked(below - xp.log(xp.where(total > 0, total, xp.ones_like(total))), rows)


def _standardised(reward: Array, rows: Array, group: Array) -> Array:
    """(R - mean) / std of each group, 0 where all earned the same: [B]."""
    xp = namespace(reward)
    size = group_sum(rows, group)
    mean = group_sum(rows * reward, group) / atleast(size, 1)
    centred = rows * (reward - mean)
    spread = xp.sqrt(group_sum(centred**2, group) / atleast(size - 1, 1))
    level = 16 * xp.finfo(reward.dtype).eps * (1 + xp.abs(mean))  # equal numbers need not have exactly their mean
    return xp.where(spread > level, centred, xp.zeros_like(centred)) / xp.where(
        spread > level, spread, xp.ones_like(spread)
    )
