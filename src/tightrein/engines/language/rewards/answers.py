"""Asking a policy, and what its answers earn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tightrein.decisions import last_decision
from tightrein.engines.language import processes
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.rewards.functions import Ensemble, Reward
from tightrein.engines.language.sampling.decoding import draw_seeds
from tightrein.engines.language.sampling.sampler import Decoding, Samples, join, sample
from tightrein.engines.language.sharding import undivided
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Answer, Dialogue, transcripts

Sampling = Callable[..., Samples]  # as sampler.sample


@dataclass(frozen=True)
class Answers:
    """B answers as tokens and as texts, each with its problem; `in_turns` where somebody replied in them.

    shares: where the rows begin that each of the processes sampled, and where the last ones end; empty: all of one.
    """

    samples: Samples
    problems: list[Problem]
    texts: Sequence[Answer]
    in_turns: bool = False
    shares: Sequence[int] = ()


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
    sampling: Sampling = sample,
) -> Answers:
    """`group_size` answers of the policy to each problem, one after another; in turns if there is a dialogue.

    Each of the processes asks for its share of the problems; all have all answers. sampling: what samples them, called
    as `sampler.sample`.
    """
    seeds = draw_seeds(len(problems) * group_size, generator)
    shares = processes.share(len(problems))
    mine = problems[processes.own(shares)]
    own_seeds = seeds.view(-1, group_size)[processes.own(shares)].flatten()

    def own() -> Answers | None:
        return _asked(policy, mine, group_size, decoding, own_seeds, dialogue, sampling) if mine else None

    with undivided(policy.model):
        parts = [part for part in processes.together(own) if part is not None]
    return Answers(
        parts[0].samples if len(parts) == 1 else join([part.samples for part in parts], decoding.pad_id),
        [problem for part in parts for problem in part.problems],
        [text for part in parts for text in part.texts],
        parts[0].in_turns,
        [place * group_size for place in shares],
    )


def _asked(
    policy: Policy, problems: Sequence[Problem], group_size: int, decoding: Decoding, seeds: Tensor,
    dialogue: Dialogue | None, sampling: Sampling,
) -> Answers:  # fmt: skip
    each = [problem for problem in problems for _ in range(group_size)]
    partner = None if dialogue is None else dialogue.open(policy.tokenizer, each)
    samples = sampling(
        policy.model, policy.encode(problems), group_size, decoding, partner=partner, seeds=seeds,
        tokenizer=policy.tokenizer,
    )  # fmt: skip
    if dialogue is None:
        return Answers(samples, each, policy.decode(samples.completions, samples.mask))
    return Answers(samples, each, transcripts(policy.tokenizer, samples), in_turns=True)


def earned(answers: Answers, reward: Reward) -> Earned:
    """What the answers earn: the reward of the whole on the last token, beside what the partner gave for turns.

    Each process scores the answers that it sampled.
    """
    samples, shares = answers.samples, answers.shares or (0, len(answers.problems))
    mine = processes.own(shares)
    parts = processes.together(lambda: _scored(answers.problems[mine], answers.texts[mine], reward))
    values, rows = ([one for part in parts for one in part[which]] for which in (0, 1))
    whole, scores = (torch.tensor(x, dtype=torch.float32, device=samples.mask.device) for x in (values, rows))
    if not answers.in_turns:
        return Earned(whole, scores)
    return Earned(samples.earned + whole[:, None] * last_decision(samples.mask), scores)


def _scored(
    problems: list[Problem], texts: Sequence[Answer], reward: Reward
) -> tuple[Sequence[float], Sequence[Sequence[float]]]:
    """(the reward, what each reward function says) of each answer."""
    if not problems:
        return [], []
    if isinstance(reward, Ensemble):
        rows = reward.scores(problems, texts)
        return [reward.total(row) for row in rows], rows
    values = reward(problems, texts)
    return values, [[value] for value in values]
