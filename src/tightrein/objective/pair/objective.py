"""The mean over pairs of a loss of their margins."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from ...arrays import Array, group_sum, masked_mean, namespace
from ...decisions import Decisions, Loss, Stats
from ..answer import AnswerLogRatio, ToReference
from ..base import Objective, State, detached
from ..ratio import finite_logp
from .link import Link


@dataclass(frozen=True)
class PairObjective(Objective):
    """L = mean over pairs of link( log-ratio of the chosen - log-ratio of the rejected answer ).

    A pair is a group with exactly one chosen and one other answer, in any order; what is no pair does not count.
    """

    whole_groups: ClassVar[bool] = True
    link: Link
    log_ratio: AnswerLogRatio = ToReference()

    @property
    def equation(self) -> str:  # type: ignore[override]
        """The loss of a pair."""
        return self.link.equation

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the loss reads; `mask` is optional."""
        return self.log_ratio.needs | {"chosen", "group"}

    def margins(self, d: Decisions) -> tuple[Array, Array]:
        """(margin of each pair, 1 where a pair stands): [B] each; a pair stands on the row of its chosen answer."""
        chosen, other = _sides(d)
        margin = group_sum((chosen - other) * self.log_ratio(d), d.group)
        xp = namespace(margin)
        complete = (group_sum(chosen, d.group) == 1) & (group_sum(other, d.group) == 1)
        return margin, xp.astype(complete, margin.dtype) * chosen

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch; the gradient flows into logp."""
        margin, pair = self.margins(d)
        return Loss(masked_mean(self.link(margin), pair), None, Stats(functools.partial(self._stats, detached(d))))

    def _stats(self, d: Decisions) -> dict[str, Array]:
        chosen, _ = _sides(d)
        margin, pair = self.margins(d)
        xp = namespace(pair)
        paired = group_sum(pair, d.group)
        reward, logp = self.link.beta * self.log_ratio(d), xp.sum(finite_logp(d), axis=1)
        sides = {"chosen": paired * chosen, "rejected": paired * (d.alive() - chosen)}
        return {
            "pairs": xp.sum(pair),
            **{f"rewards_{side}": masked_mean(reward, rows) for side, rows in sides.items()},
            "rewards_margin": masked_mean(self.link.beta * margin, pair),
            "rewards_accuracy": masked_mean(xp.astype(margin > 0, pair.dtype), pair),
            **{f"logp_{side}": masked_mean(logp, rows) for side, rows in sides.items()},
        }


def _sides(d: Decisions) -> tuple[Array, Array]:
    """1 for the chosen answers, 1 for the others: [B] each; 0 in both for one without decisions."""
    living = d.alive()
    chosen = living * namespace(living).astype(d.chosen != 0, living.dtype)
    return chosen, living - chosen
