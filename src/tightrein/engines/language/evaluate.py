"""Answers to held-out problems, scored, and as a table to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.rewards.answers import ask, earned
from tightrein.engines.language.rewards.functions import Reward
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Answer, Dialogue, final, text_of

AT_ONCE = 512  # answers in one batch
CORRECT = 1.0 - 1e-6  # a reward from here on is an exact match
SHOWN = 10  # problems in the table
LONGEST = 400  # characters of a cell


@dataclass(frozen=True)
class Evaluation:
    """The answers to each problem, [problems][answers to each], and what they earn."""

    problems: Sequence[Problem]
    texts: Sequence[Sequence[Answer]]
    rewards: Sequence[Sequence[float]]

    @property
    def accuracy(self) -> float:
        """Share of the answers that are right: pass@1."""
        return _mean([float(r >= CORRECT) for rewards in self.rewards for r in rewards])

    @property
    def reward(self) -> float:
        """Mean over all answers."""
        return _mean([r for rewards in self.rewards for r in rewards])

    @property
    def passed(self) -> float:
        """Share of the problems of which some answer is right: pass@k, k being the answers to each."""
        return _mean([float(max(rewards) >= CORRECT) for rewards in self.rewards])

    @property
    def majority(self) -> float:
        """Share of the problems whose commonest answer (of several the first) is right, spaces around it aside."""
        return _mean([float(_vote(t, r) >= CORRECT) for t, r in zip(self.texts, self.rewards, strict=True)])

    def table(self) -> str:
        """The first problems with their first answers, as Markdown."""
        rows = ["| problem | answer | expected | reward |", "|---|---|---|---|"]
        for problem, texts, rewards in list(zip(self.problems, self.texts, self.rewards, strict=True))[:SHOWN]:
            cells = [_cell(text) for text in (problem.text, text_of(texts[0]), problem.answer or "")]
            rows.append(f"| {' | '.join(cells)} | {rewards[0]:g} |")
        return "\n".join(rows) + "\n"


def evaluate(
    policy: Policy,
    problems: Sequence[Problem],
    reward: Reward,
    decoding: Decoding,
    generator: torch.Generator | None = None,
    dialogue: Dialogue | None = None,
    samples: int = 1,
) -> Evaluation:
    """`samples` answers of the policy to each problem, scored. `decoding.greedy` leaves nothing random."""
    texts: list[Answer] = []
    rewards: list[float] = []
    step = max(1, AT_ONCE // samples)
    for start in range(0, len(problems), step):
        answers = ask(policy, problems[start : start + step], samples, decoding, generator, dialogue)
        texts += answers.texts
        rewards += earned(answers, reward).outcome.tolist()
    starts = range(0, len(rewards), samples)
    return Evaluation(problems, [texts[i : i + samples] for i in starts], [rewards[i : i + samples] for i in starts])


def _vote(texts: Sequence[Answer], rewards: Sequence[float]) -> float:
    """The reward of the commonest answer."""
    said = [final(text).strip() for text in texts]
    return rewards[said.index(Counter(said).most_common(1)[0][0])]


def _cell(text: str) -> str:
    """Text as one cell of a table, cut where it is too long to read there."""
    text = text.strip()
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"
    return cut.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
