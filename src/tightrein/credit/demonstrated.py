"""Credit of what an expert did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..decisions import Decisions, by_origin
from .base import Credit
from .group import GroupCentred


@dataclass(frozen=True)
class Demonstrated(Credit):
    """Every decision of a demonstration is worth the same: the likelihood of the data is what is maximised."""

    equation = "A_t = 1"

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        return d.replace(advantage=d.weights())


@dataclass(frozen=True)
class Mixed(Credit):
    """Demonstrations are credited by one rule, the policy's own trajectories, compared among themselves, by another."""

    equation = "A of `rollouts` where the policy acted, of `demonstrations` where an expert did"
    rollouts: Credit = GroupCentred()
    demonstrations: Credit = Demonstrated()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the two rules read, and which rows are demonstrations."""
        return self.rollouts.needs | self.demonstrations.needs | {"demonstration"}

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        rollouts, demonstrations = by_origin(d)
        return d.replace(advantage=self.rollouts(rollouts).advantage + self.demonstrations(demonstrations).advantage)
