"""From prompts to Decisions: answers are sampled and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language.evaluate import CORRECT
from tightrein.engines.language.experience import Batch, fields_of, joined, take
from tightrein.engines.language.models import Policy
from tightrein.engines.language.rewards import Reward
from tightrein.engines.language.sampling import Decoding, Samples, join, sample
from tightrein.engines.language.tasks import Problem, Task

Prompts = Callable[[int], list[tuple[int, Problem]]]  # the next so many (index, problem) of the stream


@dataclass(frozen=True)
class Collector:
    """Collects the policy's answers to prompts."""

    policy: Policy
    reward: Reward
    method: Any
    decoding: Decoding
    prompts: int
    group_size: int

    def collect(self, stream: Prompts, generator: torch.Generator) -> Batch:
        """A batch of `prompts` groups; with dynamic sampling as many of them as its rounds find."""
        rounds = max((getattr(part, "rounds", 1) for part in self.method.selection), default=1)
        found: list[_Round] = []
        kept = 0
        while kept < self.prompts and len(found) < rounds:
            one = self._round(stream(self.prompts), generator, first_group=len(found) * self.prompts)
            found.append(one)
            kept += len(one.useful) if rounds > 1 else self.prompts
        rows = _rows(found, self.prompts * self.group_size) if rounds > 1 else None
        return self._together(found, rows)

    def _round(self, drawn: list[tuple[int, Problem]], generator: torch.Generator, first_group: int) -> _Round:
        problems = [problem for _, problem in drawn]
        samples = sample(self.policy.model, self.policy.encode(problems), self.group_size, self.decoding, generator)
        each = [problem for problem in problems for _ in range(self.group_size)]
        rewards = self.reward(each, self.policy.decode(samples.completions, samples.mask))
        device = samples.mask.device
        groups = torch.arange(len(drawn), device=device) + first_group
        decisions = tr.Decisions(
            logp_old=samples.logp,
            mask=samples.mask,
            reward=torch.tensor(rewards, dtype=torch.float32, device=device),
            group=groups.repeat_interleave(self.group_size),
            prompt=torch.tensor([index for index, _ in drawn], device=device).repeat_interleave(self.group_size),
            truncated=_cut(samples),
        )
        return _Round(samples, decisions, self._useful(decisions))

    def _useful(self, decisions: tr.Decisions) -> list[int]:
        """Groups of which a selection that asks for more rounds keeps an answer."""
        for part in self.method.reward:
            if part.needs <= fields_of(decisions).keys():  # what the reference says of these answers comes later
                decisions = part(decisions)
        keep = torch.ones_like(decisions.group, dtype=torch.bool)
        for part in self.method.selection:
            if getattr(part, "rounds", 1) > 1:
                keep = keep & part.keep(decisions)
        return list(dict.fromkeys(decisions.group[keep].tolist()))

    def _together(self, found: Sequence[_Round], rows: Tensor | None) -> Batch:
        samples = join([one.samples for one in found], self.decoding.pad_id)
        width = samples.mask.shape[1]
        decisions = joined([one.decisions for one in found], width)
        figures = {**_figures(samples, decisions), "rounds": float(len(found))}
        if rows is not None:
            samples, decisions = samples.take(rows), take(decisions, rows)
        return Batch(samples, decisions, figures)


class Rollouts:
    """Answers of the present policy to the task's prompts, drawn one pass after another (see Experience)."""

    def __init__(self, collector: Collector, task: Task, seed: int) -> None:
        self._collector, self._task, self._seed = collector, task, seed
        self._generator = torch.Generator(collector.policy.device).manual_seed(seed)
        self._cursor = 0

    def next(self, update: int, state: Mapping[str, Any]) -> Batch:
        """See Experience."""
        return self._collector.collect(self._prompts, self._generator)

    def arrays(self) -> dict[str, Any]:
        """See Experience."""
        return {"generator": self._generator.get_state().numpy(), "cursor": np.asarray(self._cursor)}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """See Experience."""
        self._generator.set_state(torch.from_numpy(arrays["generator"].copy()))
        self._cursor = int(arrays["cursor"])

    def _prompts(self, count: int) -> list[tuple[int, Problem]]:
        first, self._cursor = self._cursor, self._cursor + count
        return self._task.batch(self._seed, first, count)


@dataclass(frozen=True)
class _Round:
    samples: Samples
    decisions: tr.Decisions
    useful: list[int]


def _rows(found: Sequence[_Round], wanted: int) -> Tensor:
    """Rows of the useful groups, at most `wanted`; where none is useful, of the first groups."""
    group = torch.cat([one.decisions.group for one in found])
    useful = torch.tensor([g for one in found for g in one.useful], dtype=group.dtype, device=group.device)
    rows = torch.isin(group, useful).nonzero()[:, 0]
    return (rows if len(rows) else torch.arange(len(group), device=group.device))[:wanted]


def _cut(samples: Samples) -> Tensor:
    """1 on the last token of answers that the length limit cut: [B, T]."""
    last = samples.mask.cumsum(1) == samples.mask.sum(1, keepdim=True)
    return (last & samples.mask.bool() & ~samples.ended[:, None]).float()


def _figures(samples: Samples, decisions: tr.Decisions) -> dict[str, float]:
    return {
        "reward_mean": float(decisions.reward.mean()),
        "accuracy": float((decisions.reward >= CORRECT).float().mean()),
        "length_mean": float(samples.mask.sum(1).mean()),
        "truncated": float((~samples.ended).float().mean()),
        "tokens": float(samples.mask.sum()),
    }
