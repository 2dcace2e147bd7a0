"""Choosing for each prompt between what the policy did and what an expert did."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array, atleast, group_sum, namespace
from ..decisions import Decisions
from ..settings import setting
from .answers import Selection


@dataclass(frozen=True)
class AccuracyGate(Selection):
    """Keeps a prompt's rollouts where enough of them are right, its demonstrations elsewhere. arXiv 2509.04419.

    A rollout is right when its reward exceeds `threshold`. gate = -1: rollouts alone; gate = 1: demonstrations alone.
    """

    equation = "rollouts if share of right answers > gate, else demonstrations"
    needs = frozenset({"reward", "group", "demonstration"})
    gate: float = setting(0.0, at_least=-1, at_most=1)
    threshold: float = setting(0.5)

    def keep(self, d: Decisions) -> Array:
        """See Selection."""
        weights = d.weights()
        xp = namespace(weights)
        shown = d.demonstration != 0
        own = xp.astype(xp.any(weights != 0, axis=1) & ~shown, weights.dtype)
        right = own * xp.astype(d.outcome() > self.threshold, weights.dtype)
        share = group_sum(right, d.group) / atleast(group_sum(own, d.group), 1)
        return (share > self.gate) != shown
