"""Answers to held-out problems, scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tightrein.engines.language.answers import ask, earned
from tightrein.engines.language.models import Policy
from tightrein.engines.language.problems import Problem
from tightrein.engines.language.rewards import Reward
from tightrein.engines.language.sampling import Decoding
from tightrein.engines.language.turns import Dialogue

AT_ONCE = 512  # problems answered in one batch
CORRECT = 1.0 - 1e-6  # a reward from here on is an exact match


@dataclass(frozen=True)
class Evaluation:
    """Share of exact matches and mean reward."""

    accuracy: float
    reward: float


def evaluate(
    policy: Policy,
    problems: Sequence[Problem],
    reward: Reward,
    decoding: Decoding,
    generator: torch.Generator | None = None,
    dialogue: Dialogue | None = None,
) -> Evaluation:
    """One answer of the policy to each problem, scored. `decoding.greedy` leaves nothing random."""
    rewards: list[float] = []
    for start in range(0, len(problems), AT_ONCE):
        answers = ask(policy, problems[start : start + AT_ONCE], 1, decoding, generator, dialogue)
        rewards += earned(answers, reward).outcome.tolist()
    return Evaluation(sum(r >= CORRECT for r in rewards) / len(rewards), sum(rewards) / len(rewards))
