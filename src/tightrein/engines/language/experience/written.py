"""Experience that somebody else wrote: demonstrations, and pairs of a better and a worse answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tightrein as tr
from tightrein.decisions import last_decision
from tightrein.engines.language.experience.batch import Batch, fields_of, in_time, joined
from tightrein.engines.language.experience.contrast import wrong_answers
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.passes.views import view_all
from tightrein.engines.language.sampling.sampler import Samples, join, pad_left
from tightrein.engines.language.setup import Setup
from tightrein.engines.language.tasks.problems import Problem
from tightrein.errors import TightreinError

Drawn = Sequence[tuple[int, Problem]]


class Writing:
    """Turns written answers into token rows; answers are cut at `longest` tokens where that is given."""

    def __init__(self, policy: Policy, longest: int | None) -> None:
        self._policy, self._longest = policy, longest
        self._room = policy.room

    def rows(self, problems: Sequence[Problem], answers: Sequence[Sequence[str]]) -> Samples:
        """One row for each answer, in turns (the model's own first); `logp` is 0, as nobody sampled them.

        Raises:
            TightreinError: a prompt and its answer that the model has no room for.
        """
        prompts = self._policy.encode(problems)
        tokens = [
            self._tokens(problem, turns)[: self._longest] for problem, turns in zip(problems, answers, strict=True)
        ]
        for prompt, row, problem in zip(prompts, tokens, problems, strict=True):
            self._check(len(prompt), len(row), problem)
        left, left_mask = pad_left(prompts, self._policy.pad_id, self._policy.device)
        width = max(map(len, tokens))
        ids, own, present = (
            torch.tensor([[*column, *[blank] * (width - len(column))] for column in columns], device=left.device)
            for columns, blank in (
                ([[token for token, _ in row] for row in tokens], self._policy.pad_id),
                ([[float(mine) for _, mine in row] for row in tokens], 0.0),
                ([[1.0] * len(row) for row in tokens], 0.0),
            )
        )
        ended = torch.tensor([row[-1][0] in self._policy.eos_ids for row in tokens], device=left.device)
        return Samples(left, left_mask, ids, own, torch.zeros_like(own), ended, present)

    def _tokens(self, problem: Problem, turns: Sequence[str]) -> list[tuple[int, bool]]:
        """(token, whether the model is to write it) of an answer."""
        if len(turns) == 1:
            return [(token, True) for token in self._policy.encode_answer(problem.prompt, turns[0])]
        parts = [self._policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in turns]
        parts[-1] = [*parts[-1], self._policy.end]
        return [(token, place % 2 == 0) for place, part in enumerate(parts) for token in part]

    def _check(self, prompt: int, answer: int, problem: Problem) -> None:
        if self._room is not None and prompt + answer > self._room:
            raise TightreinError(
                f"a prompt of {prompt} tokens and its answer of {answer} are more than the model's {self._room}: "
                f"{problem.text[:60]!r}",
                "cut answers with --max-new-tokens, or leave such rows out",
            )


class Demonstrations:
    """The task's worked answers, one pass after another (see Experience)."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._writing = Writing(setup.policy, setup.config.max_new_tokens)
        self._cursor = 0

    def next(self, update: int, state: Mapping[str, Any]) -> Batch:
        """See Experience."""
        drawn = self._setup.task.batch(self._setup.config.seed, self._cursor, self._setup.plan.prompts)
        self._cursor += len(drawn)
        return self.batch(drawn)

    def batch(self, drawn: Drawn) -> Batch:
        """The worked answers to these (index, problem)."""
        problems = [problem for _, problem in drawn]
        samples = self._writing.rows(problems, [problem.shown for problem in problems])
        decisions = tr.Decisions(
            mask=samples.mask,
            group=torch.arange(len(drawn), device=samples.mask.device),
            prompt=torch.tensor([index for index, _ in drawn], device=samples.mask.device),
            demonstration=torch.ones_like(samples.mask[:, 0]),
        )
        return Batch(samples, decisions, figures(samples))

    def held(self) -> Batch:
        """Those to the held-out problems."""
        return self.batch([(0, problem) for problem in self._setup.task.held])

    def settle(self) -> None:
        """See Experience."""

    def arrays(self) -> dict[str, Any]:
        """See Experience."""
        return {"cursor": np.asarray(self._cursor)}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """See Experience."""
        self._cursor = int(arrays["cursor"])


class Pairs(Demonstrations):
    """The task's pairs (see Experience); where it has only right answers, the worse ones are these with a slip."""

    def batch(self, drawn: Drawn) -> Batch:
        """The pairs of these (index, problem): all better answers, then all worse ones."""
        problems = [problem for _, problem in drawn]
        better, worse = [p.shown for p in problems], self._worse(problems)
        samples = self._writing.rows([*problems, *problems], [*better, *worse])
        device, ones = samples.mask.device, torch.ones(len(drawn), device=samples.mask.device)
        decisions = tr.Decisions(
            mask=samples.mask,
            group=torch.arange(len(drawn), device=device).repeat(2),
            prompt=torch.tensor([index for index, _ in drawn], device=device).repeat(2),
            chosen=torch.cat([ones, 0 * ones]),
        )
        return Batch(samples, decisions, figures(samples))

    def _worse(self, problems: Sequence[Problem]) -> list[Sequence[str]]:
        made = iter(wrong_answers([p for p in problems if p.rejected is None], self._setup.task.reward))
        return [(*p.shown[:-1], next(made)) if p.rejected is None else (p.rejected,) for p in problems]


class Mixed:
    """Rollouts, and to each prompt the worked answer as one more row of its group (see Experience)."""

    def __init__(self, rollouts: Any, demonstrations: Demonstrations, setup: Setup) -> None:
        self._rollouts, self._demonstrations, self._setup = rollouts, demonstrations, setup

    def next(self, update: int, state: Mapping[str, Any]) -> Batch:
        """See Experience."""
        own = self._rollouts.next(update, state)
        d = own.decisions
        group, first = _first_rows(d.group)
        indices = d.prompt[first].tolist()
        shown = self._demonstrations.batch([(index, self._setup.task.train[index]) for index in indices])
        samples = join([own.samples, shown.samples], self._setup.decoding.pad_id)
        width = samples.mask.shape[1]
        mine = d.replace(demonstration=torch.zeros_like(own.samples.mask[:, 0]))
        reward = self._rewards(indices)
        if d.reward.ndim == 2:  # turns are rewarded: the whole answer's falls on its end
            reward = reward[:, None] * last_decision(shown.samples.mask)
        theirs = _like(mine, shown.decisions.replace(group=group, reward=reward))
        return Batch(samples, joined([mine, theirs], width), own.figures)

    def settle(self) -> None:
        """See Experience."""
        self._rollouts.settle()

    def arrays(self) -> dict[str, Any]:
        """See Experience."""
        arrays: dict[str, Any] = self._rollouts.arrays()
        return arrays

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """See Experience."""
        self._rollouts.restore(arrays)

    def _rewards(self, indices: Sequence[int]) -> Tensor:
        problems = [self._setup.task.train[index] for index in indices]
        rewards = self._setup.task.reward(problems, [problem.answer or "" for problem in problems])
        return torch.tensor(rewards, dtype=torch.float32, device=self._setup.policy.device)


def likelihoods(batch: Batch, policy: Policy, reference: Any, temperature: float) -> dict[str, float]:
    """What the policy thinks of held-out answers.

    eval_nll: nats per token of the good ones. eval_pairs: share of pairs whose better answer it favours more, measured
    from the reference, if there is one; a pair that it favours neither of counts one half.
    """
    samples, chosen = batch.samples, batch.decisions.chosen
    logp = view_all(policy.model, samples, temperature).logp * samples.mask
    good = torch.ones_like(logp[:, 0]) if chosen is None else chosen
    found = {"eval_nll": -float((logp.sum(1) * good).sum() / (samples.mask.sum(1) * good).sum())}
    if chosen is None:
        return found
    if reference is not None:
        logp = logp - view_all(reference, samples, temperature).logp * samples.mask
    better, worse = logp.sum(1).chunk(2)
    return {**found, "eval_pairs": float(torch.heaviside(better - worse, torch.tensor(0.5).to(better)).mean())}


def figures(samples: Samples) -> dict[str, float]:
    """What is logged of written answers."""
    return {"length_mean": float(samples.mask.sum(1).mean()), "tokens": float(samples.mask.sum())}


def _like(pattern: tr.Decisions, d: tr.Decisions) -> tr.Decisions:
    """`d` with zeros for the fields that only `pattern` has, and without those that it lacks."""
    (rows, width), have = d.mask.shape, fields_of(d)

    def blank(name: str, field: Tensor) -> Any:
        return field.new_zeros((rows, width) if in_time(name, field) else (rows, *field.shape[1:]))

    wanted = fields_of(pattern).items()
    return tr.Decisions(**{name: have[name] if name in have else blank(name, field) for name, field in wanted})


def _first_rows(group: Tensor) -> tuple[Tensor, Tensor]:
    """(the ids in `group` [B], the first row of each)."""
    ids, place = torch.unique(group, return_inverse=True)
    rows = torch.arange(len(group), device=group.device)
    first = torch.full_like(ids, len(group)).scatter_reduce(0, place, rows, "amin")
    return ids, first
