"""Choosing for each prompt between what the policy did and what an expert did."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array, atleast, group_sum
from ..decisions import Decisions, by_origin
from ..objective.answer import right
from ..settings import setting
from .answers import Selection


@dataclass(frozen=True)
class AccuracyGate(Selection):
    """Keeps a prompt's rollouts where enough of them are right, its demonstrations elsewhere. arXiv 2509.04419.

    A rollout is right when its reward reaches `threshold`. gate = -1: rollouts alone; gate = 1: demonstrations alone.
    """

    equation = "rollouts if share of right answers > gate, else demonstrations"
    needs = frozenset({"reward", "group", "demonstration"})
    gate: float = setting(0.0, at_least=-1, at_most=1)
    threshold: float = setting(1.0)

    def keep(self, d: Decisions) -> Array:
        """See Selection."""
        rollouts, _ = by_origin(d)
        count = atleast(group_sum(rollouts.alive(), d.group), 1)
        share = group_sum(right(rollouts, self.threshold), d.group) / count
        return (share > self.gate) != (d.demonstration != 0)
