"""From prompts to Decisions: answers are sampled, scored, and seen by the reference model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language.evaluate import CORRECT
from tightrein.engines.language.logprobs import logprobs
from tightrein.engines.language.models import Policy
from tightrein.engines.language.rewards import Reward
from tightrein.engines.language.sampling import Decoding, Samples, join, sample
from tightrein.engines.language.tasks import Problem

Prompts = Callable[[int], list[tuple[int, Problem]]]  # the next so many (index, problem) of the stream


@dataclass(frozen=True)
class Rollout:
    """Answers, and what is known of them: `decisions` before `method.prepare`; accuracy of all that were sampled."""

    samples: Samples
    decisions: tr.Decisions
    figures: dict[str, float]


@dataclass(frozen=True)
class Collector:
    """Collects rollouts. `reference` is the frozen model where the method reads `logp_ref`, else None."""

    policy: Policy
    reward: Reward
    method: Any
    reference: Any
    decoding: Decoding
    prompts: int
    group_size: int

    def collect(self, stream: Prompts, generator: torch.Generator) -> Rollout:
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
            logp_ref=self._reference_logp(samples),
        )
        return _Round(samples, decisions, self._useful(decisions))

    def _reference_logp(self, samples: Samples) -> Tensor | None:
        if self.reference is None:
            return None
        self.reference.eval()
        with torch.no_grad():
            span = samples.mask.shape[1]
            return logprobs(self.reference, samples.ids, samples.attention, span, self.decoding.temperature)[0]

    def _useful(self, decisions: tr.Decisions) -> list[int]:
        """Groups of which a selection that asks for more rounds keeps an answer."""
        for part in self.method.reward:
            decisions = part(decisions)
        keep = torch.ones_like(decisions.group, dtype=torch.bool)
        for part in self.method.selection:
            if getattr(part, "rounds", 1) > 1:
                keep = keep & part.keep(decisions)
        return list(dict.fromkeys(decisions.group[keep].tolist()))

    def _together(self, found: Sequence[_Round], rows: Tensor | None) -> Rollout:
        samples = join([one.samples for one in found], self.decoding.pad_id)
        width = samples.mask.shape[1]
        decisions = _joined([one.decisions for one in found], width)
        figures = {**_figures(samples, decisions), "rounds": float(len(found))}
        if rows is not None:
            samples, decisions = samples.take(rows), take(decisions, rows)
        return Rollout(samples, decisions, figures)


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


def _arrays(decisions: tr.Decisions) -> dict[str, Tensor]:
    named = {f.name: getattr(decisions, f.name) for f in dataclasses.fields(decisions)}
    return {name: array for name, array in named.items() if array is not None}


def _made(arrays: dict[str, Any]) -> tr.Decisions:
    return tr.Decisions(**arrays)


def _joined(parts: Sequence[tr.Decisions], width: int) -> tr.Decisions:
    def padded(array: Tensor) -> Tensor:
        return torch.nn.functional.pad(array, (0, width - array.shape[1])) if array.ndim == 2 else array

    each = [_arrays(part) for part in parts]
    return _made({name: torch.cat([padded(one[name]) for one in each]) for name in each[0]})


def take(decisions: tr.Decisions, rows: Tensor) -> tr.Decisions:
    """The trajectories at these rows."""
    return _made({name: array[rows] for name, array in _arrays(decisions).items()})


def _figures(samples: Samples, decisions: tr.Decisions) -> dict[str, float]:
    return {
        "reward_mean": float(decisions.reward.mean()),
        "accuracy": float((decisions.reward >= CORRECT).float().mean()),
        "length_mean": float(samples.mask.sum(1).mean()),
        "truncated": float((~samples.ended).float().mean()),
        "tokens": float(samples.mask.sum()),
    }
