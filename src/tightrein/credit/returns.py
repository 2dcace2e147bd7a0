"""Credit from the rewards that follow, without an estimate of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import linear_recurrence, namespace, zero_where_masked
from ..decisions import Decisions
from ..settings import setting
from .base import Credit


@dataclass(frozen=True)
class ReturnToGo(Credit):
    """The discounted sum of the rewards from a decision to the end of its episode, or of the row.

    No baseline is taken off, and what would have followed a truncation counts as nothing. REINFORCE, Williams (1992).
    """

    equation = "A_t = R_t + gamma G_{t+1}"
    needs = frozenset({"reward"})
    gamma: float = setting(0.99, at_least=0, at_most=1)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        mask = d.weights()
        goes_on = mask
        for end in (d.terminated, d.truncated):
            if end is not None:
                goes_on = goes_on * (1 - zero_where_masked(namespace(mask).astype(end, mask.dtype), mask))
        # Masked positions are stepped over.
        returns = linear_recurrence(d.reward_per_decision(), self.gamma * goes_on + (1 - mask))
        return d.replace(advantage=mask * returns)
