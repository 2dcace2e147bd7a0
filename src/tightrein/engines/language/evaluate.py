"""Answers to held-out problems, scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tightrein.engines.language.models import Policy
from tightrein.engines.language.rewards import Reward
from tightrein.engines.language.sampling import Decoding, sample
from tightrein.engines.language.tasks import Problem

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
) -> Evaluation:
    """One answer of the policy to each problem, scored. `decoding.greedy` leaves nothing random."""
    rewards: list[float] = []
    for start in range(0, len(problems), AT_ONCE):
        some = problems[start : start + AT_ONCE]
        samples = sample(policy.model, policy.encode(some), 1, decoding, generator)
        rewards += reward(some, policy.decode(samples.completions, samples.mask))
    return Evaluation(sum(r >= CORRECT for r in rewards) / len(rewards), sum(rewards) / len(rewards))
