"""What methods that learn something beside their objective promise, shown by short runs."""

from __future__ import annotations

import numpy as np

from ...objective.value import ValueLoss
from ..batches import method
from ..pin import Shown, shows

PPO = {
    "training.epochs": 4, "training.minibatches": 4, "training.envs": 8, "training.rollout": 128,
    "objective.value.coef": 1.0, "objective.entropy": 0.01, "step.learning_rate": 2.5e-4, "step.max_grad_norm": 0.5,
}  # fmt: skip


@shows("pg_rainbow")
def pg_rainbow() -> Shown:
    """The critic that is told quantiles explains no less of CartPole's returns than that of PPO."""
    from ...engines.control.auxiliary.trial import explained_variance  # it needs JAX

    plain = explained_variance("ppo_clip", 100_000, 3, PPO)
    told = explained_variance("pg_rainbow", 100_000, 3)
    says = (
        "explained variance of CartPole's returns after 100,000 steps, 3 seeds: "
        f"{_listed(told)}; of PPO with the same settings {_listed(plain)}"
    )
    return Shown(says, bool(told.mean() >= plain.mean()))


@shows("achievement_distillation")
def achievement_distillation() -> Shown:
    """On a chain of five achievements more are unlocked than by PPO, and the next one is predicted."""
    from ...engines.control.auxiliary.trial import accuracy, chained, unlocked

    mine = method("achievement_distillation", **{"auxiliary.most": 5})
    objective = mine.objective.replace(value=ValueLoss(coef=1.0))
    plain = mine.replace(auxiliary=None, heads=None, objective=objective)
    size = {"seeds": 3, "steps": 50_000, "envs": 8, "rollout": 64}
    trained = chained(mine, **size)
    ours, theirs = unlocked(*trained), unlocked(*chained(plain, **size))
    right, most = accuracy(*trained)
    says = (
        f"achievements an episode after 50,000 steps, 3 seeds: {_listed(ours)}, PPO {_listed(theirs)} "
        f"of 5; next achievement predicted right {_listed(right)}, the most frequent one is {_listed(most)}"
    )
    return Shown(says, bool(ours.mean() > theirs.mean() and right.min() > 0.8))


def _listed(values: np.ndarray) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
