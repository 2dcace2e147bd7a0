"""Credit of whole turns, or of reasoning steps."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from ..arrays import Array, namespace
from ..decisions import Decisions
from ..settings import Part, setting
from ..turns import turn_starts, turn_sum
from .gae import GAE
from .standardise import standardise


@dataclass(frozen=True)
class MonteCarloValues(Part):
    """Values that an engine estimates: the mean reward of fresh continuations from the start of each turn.

    The engine resets to the state before the turn, samples that many continuations with the present policy, and fills
    `value_old`; behind the last turn nothing follows. Unbiased for any number. arXiv 2410.01679.
    """

    equation = "V(s_m) = mean reward of K continuations from the first m steps"
    samples: int = setting(9, at_least=1)


@dataclass(frozen=True)
class TurnGAE(GAE):
    """GAE over turns: a turn is one action, its state the one before its first decision. arXiv 2512.17008.

    The reward of a turn is the sum over its decisions; each of them gets the turn's advantage. V(s) is `value_old` at
    the turn's first unmasked decision; `returns` hold the value's target there, and nothing to learn elsewhere.
    `standardise` scales over the turns of the batch. `values` says that an engine is to estimate them by sampling.
    """

    equation = "A_h = delta_h + gamma lam A_{h+1},   delta_h = R_h + gamma V(s_{h+1}) - V(s_h),   over turns h"
    needs = frozenset({"reward", "value_old", "turn"})
    lam: float = setting(0.9, at_least=0, at_most=1)
    _: KW_ONLY
    values: MonteCarloValues | None = None

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        starts = turn_starts(d)
        advantage, returns = self.estimate(_one_decision_each(d, starts))
        if self.standardise:
            advantage = standardise(advantage, starts)
        return d.replace(advantage=turn_sum(advantage, d) * d.weights(), returns=returns)


def _one_decision_each(d: Decisions, starts: Array) -> Decisions:
    """Every turn as a single decision, at the place of its first."""

    def gathered(x: Array) -> Array:
        return None if x is None else turn_sum(namespace(starts).astype(x, starts.dtype), d) * starts

    return d.replace(
        mask=starts,
        reward=gathered(d.reward_per_decision()),
        terminated=gathered(d.terminated),
        truncated=gathered(d.truncated),
        value_next=None,
    )
