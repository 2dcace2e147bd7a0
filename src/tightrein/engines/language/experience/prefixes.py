"""Resets to the middle of an answer: where its reasoning steps begin, and what the state there is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrein.engines.language import processes
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.rewards.answers import Answers
from tightrein.engines.language.rewards.functions import Reward
from tightrein.engines.language.sampling.decoding import draw_seeds
from tightrein.engines.language.sampling.sampler import Decoding, Samples, sample
from tightrein.engines.language.sharding import undivided
from tightrein.engines.language.tasks.steps import steps_of

AT_ONCE = 4096  # continuations in one batch


def steps(tokenizer: Any, samples: Samples, rule: str) -> Tensor:
    """Index of the reasoning step of each token (see steps.steps_of), behind the end of an answer its last: [B, T]."""
    found = torch.zeros_like(samples.completions)
    rows = zip(samples.completions.tolist(), samples.mask.sum(1).long().tolist(), strict=True)
    for row, (ids, length) in enumerate(rows):
        pieces = tokenizer.batch_decode([[i] for i in ids[:length]], skip_special_tokens=True)
        index = steps_of(pieces, rule)
        found[row] = torch.tensor(index + index[-1:] * (found.shape[1] - length))
    return found


@dataclass(frozen=True)
class Resets:
    """`samples` continuations from the beginning of every step, by a policy that is asked and scored as in training."""

    policy: Policy
    reward: Reward
    decoding: Decoding
    samples: int

    def values(self, answers: Answers, step: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """(mean reward from the beginning of the step of each token [B, T], how many continuations it took).

        Equal beginnings are continued together. A continuation that the length limit cuts earns 0.
        """
        s = answers.samples
        begins = (s.mask > 0) & (step != torch.nn.functional.pad(step, (1, 0), value=-1)[:, :-1])
        states, rows = self._states(s, begins)
        of_state = torch.zeros(len(states), device=s.mask.device)
        order = sorted(range(len(states)), key=lambda i: len(states[i][0]) + len(states[i][1]))
        at_once = max(1, AT_ONCE // self.samples)
        for start in range(0, len(order), at_once):
            chunk = order[start : start + at_once]
            problems = [answers.problems[states[i][2]] for i in chunk]
            of_state[chunk] = self._continued([states[i][:2] for i in chunk], problems, generator)
        values = torch.zeros_like(s.mask)
        values[begins] = of_state[rows]
        ordinal = (begins.long().cumsum(1) - 1).clamp(min=0)  # every token takes the value its step begins with
        each = torch.zeros_like(s.mask).scatter_add(1, ordinal, values)
        return each.gather(1, ordinal) * s.mask, len(states) * self.samples

    def _states(self, s: Samples, begins: Tensor) -> tuple[list[tuple[list[int], list[int], int]], list[int]]:
        """The distinct (prompt, beginning of the answer, a row that has it), and which one each `begins` is."""
        known: dict[tuple[int, ...], int] = {}
        states: list[tuple[list[int], list[int], int]] = []
        which = []
        prompts, completions = s.prompts.tolist(), s.completions.tolist()
        lengths = s.prompt_mask.sum(1).tolist()
        for row, at in begins.nonzero().tolist():
            prompt = prompts[row][len(prompts[row]) - lengths[row] :]
            key = (len(prompt), *prompt, *completions[row][:at])
            if key not in known:
                known[key] = len(states)
                states.append((prompt, completions[row][:at], row))
            which.append(known[key])
        return states, which

    def _continued(self, states: Sequence[Any], problems: Sequence[Any], generator: torch.Generator) -> Tensor:
        """Mean reward of the continuations of each (prompt, beginning), each process continuing its share: [N]."""
        seeds = draw_seeds(len(states) * self.samples, generator).view(len(states), self.samples)
        mine = processes.own(processes.share(len(states)))
        with undivided(self.policy.model):
            parts = processes.together(lambda: self._scored(states[mine], problems[mine], seeds[mine]))
        return torch.cat(parts)

    def _scored(self, states: Sequence[Any], problems: Sequence[Any], seeds: Tensor) -> Tensor:
        if not states:
            return torch.zeros(0, device=self.policy.device)
        limit = self.decoding.max_new_tokens
        room = torch.tensor([limit - len(begun) for _, begun in states]).repeat_interleave(self.samples)
        s = sample(
            self.policy.model, [[*p, *begun] for p, begun in states], self.samples,
            self.decoding.within(int(room.max())), seeds=seeds.flatten(), tokenizer=self.policy.tokenizer,
        )  # fmt: skip
        begun = [b for _, b in states for _ in range(self.samples)]
        lengths = s.mask.sum(1).long().tolist()
        ids = [[*b, *row[:n]] for b, row, n in zip(begun, s.completions.tolist(), lengths, strict=True)]
        texts = self.policy.tokenizer.batch_decode(ids, skip_special_tokens=True)
        each = [problem for problem in problems for _ in range(self.samples)]
        rewards = torch.tensor(self.reward(each, texts), device=s.mask.device)
        whole = s.ended & (s.mask.sum(1) <= room.to(s.mask.device))
        return (rewards * whole).view(len(states), self.samples).mean(1)
