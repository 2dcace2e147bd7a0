"""Asking a policy, and what its answers earn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tightrein.decisions import last_decision
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.rewards.functions import Ensemble, Reward
from tightrein.engines.language.sampling.sampler import Decoding, Samples, sample
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Answer, Dialogue, transcripts


@dataclass(frozen=True)
class Answers:
    """B answers as tokens and as texts, each with its problem; `in_turns` where somebody replied in them."""

    samples: Samples
    problems: list[Problem]
    texts: Sequence[Answer]
    in_turns: bool = False


@dataclass(frozen=True)
class Earned:
    """reward: [B], or [B, T] where a partner rewards turns. scores: [B, K] of K reward functions."""

    reward: Tensor
    scores: Tensor

    @property
    def outcome(self) -> Tensor:
        """Reward of each answer as a whole: [B]."""
        return self.reward if self.reward.ndim == 1 else self.reward.sum(1)


def ask(
    policy: Policy,
    problems: Sequence[Problem],
    group_size: int,
    decoding: Decoding,
    generator: torch.Generator | None = None,
    dialogue: Dialogue | None = None,
) -> Answers:
    """`group_size` answers of the policy to each problem, one after another; in turns if there is a dialogue."""
    each = [problem for problem in problems for _ in range(group_size)]
    partner = None if dialogue is None else dialogue.open(policy.tokenizer, each)
    samples = sample(
        policy.model, policy.encode(problems), group_size, decoding, generator, partner, tokenizer=policy.tokenizer
    )
    if dialogue is None:
        return Answers(samples, each, policy.decode(samples.completions, samples.mask))
    return Answers(samples, each, transcripts(policy.tokenizer, samples), in_turns=True)


def earned(answers: Answers, reward: Reward) -> Earned:
    """What the answers earn: the reward of the whole on the last token, beside what the partner gave for turns."""
    samples = answers.samples
    if isinstance(reward, Ensemble):
        rows = reward.scores(answers.problems, answers.texts)
        values = [reward.total(row) for row in rows]
    else:
        values = reward(answers.problems, answers.texts)
        rows = [[value] for value in values]
    whole, scores = (torch.tensor(x, dtype=torch.float32, device=samples.mask.device) for x in (values, rows))
    if not answers.in_turns:
        return Earned(whole, scores)
    return Earned(samples.earned + whole[:, None] * last_decision(samples.mask), scores)
