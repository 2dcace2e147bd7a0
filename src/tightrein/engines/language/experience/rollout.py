"""From prompts to Decisions: answers are sampled and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language import processes
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.evaluate import CORRECT
from tightrein.engines.language.experience.batch import Batch, fields_of, joined, take
from tightrein.engines.language.experience.prefixes import Resets, steps
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.rewards.answers import Answers, Sampling, ask, earned
from tightrein.engines.language.rewards.functions import Reward
from tightrein.engines.language.sampling import vllm
from tightrein.engines.language.sampling.sampler import Decoding, Samples, join, sample
from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Dialogue
from tightrein.errors import TightreinError

Prompts = Callable[[int], list[tuple[int, Problem]]]  # the next so many (index, problem) of the stream


@dataclass(frozen=True)
class Collector:
    """Collects the policy's answers to prompts.

    steps: where reasoning steps end (see prefixes.steps), for methods that estimate values by sampling. sampling: who
    samples, see `answers.ask`.
    """

    policy: Policy
    reward: Reward
    method: Any
    decoding: Decoding
    prompts: int
    group_size: int
    dialogue: Dialogue | None = None
    steps: str = "newline"
    sampling: Sampling = sample

    def collect(self, stream: Prompts, generator: torch.Generator) -> Batch:
        """A batch of `prompts` groups; with dynamic sampling as many of them as its rounds find, or filled up."""
        asking = [part for part in self.method.selection if getattr(part, "rounds", 1) > 1]
        rounds = max((part.rounds for part in asking), default=1)
        fill = any(isinstance(part, tr.parts.ThresholdResampling) for part in asking)
        wanted = self.prompts * min((getattr(part, "share", 1.0) for part in asking), default=1.0)
        found: list[_Round] = []
        kept = 0
        while kept < wanted and len(found) < rounds:
            one = self._round(stream(self.prompts), generator, first_group=len(found) * self.prompts)
            found.append(one)
            kept += len(one.useful) if rounds > 1 else self.prompts
        rows = _rows(found, self.prompts * self.group_size, fill) if rounds > 1 else None
        return self._valued(self._together(found, rows), [p for one in found for p in one.problems], rows, generator)

    def _round(self, drawn: list[tuple[int, Problem]], generator: torch.Generator, first_group: int) -> _Round:
        problems = [problem for _, problem in drawn]
        answers = ask(self.policy, problems, self.group_size, self.decoding, generator, self.dialogue, self.sampling)
        decisions = self._decisions(answers, [index for index, _ in drawn], first_group)
        return _Round(answers.samples, decisions, answers.problems, self._useful(decisions))

    def _decisions(self, answers: Answers, indices: list[int], first_group: int) -> tr.Decisions:
        samples, found = answers.samples, earned(answers, self.reward)
        prompt = torch.tensor(indices, device=samples.mask.device)
        groups = torch.arange(len(indices), device=prompt.device) + first_group
        fields: dict[str, Any] = {
            "logp_old": samples.logp, "logp_behaviour": samples.logp, "mask": samples.mask, "reward": found.reward,
            "scores": found.scores, "group": groups.repeat_interleave(self.group_size),
            "prompt": prompt.repeat_interleave(self.group_size), "truncated": _cut(samples), "turn": samples.turn,
        }  # fmt: skip
        asked = self.method.needs | self.method.prepare_needs
        return tr.Decisions(**{name: x for name, x in fields.items() if name not in ON_DEMAND or name in asked})

    def _useful(self, decisions: tr.Decisions) -> list[int]:
        """Groups of which a selection that asks for more rounds keeps an answer."""
        for part in self.method.reward:
            if part.needs <= fields_of(decisions).keys():  # what the reference says of these answers comes later
                decisions = part(decisions)
        keep = torch.ones_like(decisions.group, dtype=torch.bool)
        for part in self.method.selection:
            if getattr(part, "rounds", 1) > 1:
                keep = keep & part.wanted(decisions)
        return list(dict.fromkeys(decisions.group[keep].tolist()))

    def _together(self, found: Sequence[_Round], rows: Tensor | None) -> Batch:
        samples = join([one.samples for one in found], self.decoding.pad_id)
        width = samples.mask.shape[1]
        decisions = joined([one.decisions for one in found], width)
        figures = {**_figures(samples, decisions), "rounds": float(len(found))}
        if self.dialogue is not None:
            figures["turns_mean"] = float((samples.turn.amax(1) + 1).float().mean())
        if rows is not None:
            samples, decisions = samples.take(rows), take(decisions, rows)
        return Batch(samples, decisions, figures)

    def _valued(self, batch: Batch, problems: list[Problem], rows: Tensor | None, generator: torch.Generator) -> Batch:
        """The batch with the values of its reasoning steps, where the method asks for them to be sampled."""
        count = continuations(self.method)
        if not count:
            return batch
        kept = problems if rows is None else [problems[row] for row in rows.tolist()]
        step = steps(self.policy.tokenizer, batch.samples, self.steps)
        resets = Resets(self.policy, self.reward, self.decoding, count)
        values, made = resets.values(Answers(batch.samples, kept, ()), step, generator)
        decisions = batch.decisions.replace(turn=step, value_old=values, bootstrap=torch.zeros_like(values[:, 0]))
        return Batch(batch.samples, decisions, {**batch.figures, "continuations": float(made)})


ON_DEMAND = {"logp_behaviour", "scores", "turn"}  # fields that are there only where a method reads them


def continuations(method: Any) -> int:
    """From every reasoning step, how many continuations the method wants; 0: none."""
    found = [part.samples for _, part in method.walk() if isinstance(part, tr.parts.MonteCarloValues)]
    return max(found, default=0)


def warmed(method: Any) -> tuple[str, Any] | None:
    """(path, part) of what sets the temperature of each token by its entropy, where the method has that."""
    found = [(path, part) for path, part in method.walk() if isinstance(part, tr.parts.UncertaintyScale) and part.tau]
    return found[0] if found else None


def check_sampling(method: Any, config: LanguageConfig, task: Task) -> None:
    """Raise TightreinError, before training, if the flags about sampling do not go with the method."""
    if continuations(method) and task.dialogue is not None:
        raise TightreinError(
            f"{method.key} resets to the middle of answers, and with tools or games there is no way back",
            "leave --tools out and choose another --task, or set credit.values=none to train a value head",
        )
    if method.experience != "rollouts" and config.routing != "free":
        raise TightreinError(
            f"{method.key} learns from answers that nobody sampled, whose experts are not known", "leave --routing out"
        )
    sampled = config.lag or config.sampler_dtype != "float32" or config.sampler != "own"
    if method.experience in ("pairs", "demonstrations") and sampled:
        raise TightreinError(
            f"{method.key} learns from written answers and samples none",
            "leave --lag, --sampler and --sampler-dtype out",
        )
    if config.sampler == "vllm":
        _check_vllm(method, config, task)


def _check_vllm(method: Any, config: LanguageConfig, task: Task) -> None:
    asked = {
        "answers in turns (--tools, games)": task.dialogue is not None,
        "the experts that it used (--routing)": config.routing != "free",
        f"temperatures by the entropy of each token ({method.key})": warmed(method) is not None,
        f"values by sampling from the middle of answers ({method.key})": continuations(method) > 0,
        "several processes": processes.count() > 1,
    }
    lacking = [what for what, wanted in asked.items() if wanted]
    if lacking:
        raise TightreinError(f"--sampler vllm is not made for {lacking[0]}", "leave --sampler out")
    vllm.check_decoding(config.temperature, cuts=config.top_p < 1 or config.top_k > 0 or config.min_p > 0)
    vllm.check_installed()


@dataclass(frozen=True)
class _Round:
    samples: Samples
    decisions: tr.Decisions
    problems: list[Problem]
    useful: list[int]


def _rows(found: Sequence[_Round], wanted: int, fill: bool) -> Tensor:
    """Rows of the useful groups, at most `wanted`; where none is useful, or to fill the batch, of others too."""
    group = torch.cat([one.decisions.group for one in found])
    useful = torch.tensor([g for one in found for g in one.useful], dtype=group.dtype, device=group.device)
    useless = ~torch.isin(group, useful)
    if fill or bool(useless.all()):
        return useless.int().argsort(stable=True)[:wanted]
    return (~useless).nonzero()[:wanted, 0]


def _cut(samples: Samples) -> Tensor:
    """1 on the last token of answers that the length limit cut: [B, T]."""
    last = samples.mask.cumsum(1) == samples.mask.sum(1, keepdim=True)
    return (last & samples.mask.bool() & ~samples.ended[:, None]).float()


def _figures(samples: Samples, decisions: tr.Decisions) -> dict[str, float]:
    outcome = decisions.outcome()
    return {
        "reward_mean": float(outcome.mean()),
        "accuracy": float((outcome >= CORRECT).float().mean()),
        "length_mean": float(samples.mask.sum(1).mean()),
        "truncated": float((~samples.ended).float().mean()),
        "tokens": float(samples.mask.sum()),
    }
