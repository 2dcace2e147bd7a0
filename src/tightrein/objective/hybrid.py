"""One loss for what the policy did itself, another for what it was shown."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ..arrays import Array, masked_mean, namespace
from ..decisions import Decisions, Loss, Stats, by_origin
from ..settings import setting
from .base import Objective, State
from .policy import PolicyObjective


@dataclass(frozen=True)
class HybridObjective(Objective):
    """L = L_rollouts + coef L_demonstrations, each aggregated over its own trajectories alone.

    A term whose trajectories are not in the batch is 0.
    """

    rollouts: PolicyObjective
    demonstrations: PolicyObjective
    coef: float = setting(1.0, at_least=0)

    @property
    def equation(self) -> str:  # type: ignore[override]
        """The two losses of a decision."""
        own, shown = self.rollouts.surrogate.equation, self.demonstrations.surrogate.equation
        return f"rollouts: {own},  demonstrations: coef ( {shown} )"

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the loss reads; `mask` is optional."""
        return self.rollouts.needs | self.demonstrations.needs | {"demonstration"}

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch; the gradient flows into logp, dist, value and entropy of `d`."""
        rollouts, demonstrations = by_origin(d)
        own = self.rollouts(rollouts, _inside(state, "rollouts."))
        shown = self.demonstrations(demonstrations, _inside(state, "demonstrations."))
        per_decision = own.per_decision + self.coef * shown.per_decision
        return Loss(own.value + self.coef * shown.value, per_decision, Stats(functools.partial(_stats, d, own, shown)))


def _inside(state: State, prefix: str) -> State:
    return {path.removeprefix(prefix): kept for path, kept in state.items() if path.startswith(prefix)}


def _stats(d: Decisions, own: Loss, shown: Loss) -> dict[str, Array]:
    rows = d.alive()
    share = masked_mean(namespace(rows).astype(d.demonstration != 0, rows.dtype), rows)
    return {
        **own.stats,
        "demonstration_loss": shown.stats["policy_loss"],
        "demonstration_share": share,
    }
