"""What a method remembers of each prompt, filled before training from answers of the untrained policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tightrein.engines.language.rewards.answers import ask, earned
from tightrein.engines.language.setup import Setup

AT_ONCE = 512  # answers in one batch


def known_before(setup: Setup, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with the credit's memory as `offline` answers to every prompt leave it, where it asks for some.

    The credit counts an answer's reward, cut into [0, 1], as a success.
    """
    credit = setup.method.credit
    count = getattr(credit, "offline", 0)
    if not count:
        return dict(state)
    generator = torch.Generator(setup.policy.device).manual_seed(setup.config.seed)
    successes: list[float] = []
    at_once = max(1, AT_ONCE // count)
    for start in range(0, len(setup.task.asked), at_once):
        problems = setup.task.asked[start : start + at_once]
        answers = ask(setup.policy, problems, count, setup.decoding, generator, setup.task.dialogue)
        right = earned(answers, setup.task.reward).outcome.clamp(0, 1)
        successes += right.view(len(problems), count).sum(1).tolist()
    found = torch.tensor(successes, dtype=torch.float64, device=setup.policy.device)
    return {**state, "credit": dict(credit.after(found, count))}
