"""Reinforcement learning of a table: sample, score, take several steps, again; also with an older policy sampling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arrays import Array, convert, namespace
from ...decisions import Decisions
from ...distributions import Categorical
from ...method import Method
from ..batches import autodiff
from .tabular import Problem, Rows, Table, batch, entropy, sample

Figures = list[dict[str, float]]


@dataclass(frozen=True)
class Rollouts:
    """A training: `rounds` of `size` answers to each prompt and `updates` steps of Adam on them.

    lag: how many rounds the policy that samples lies behind. noise: deviation of what is added to the rewards.
    """

    problem: Problem
    rounds: int = 30
    updates: int = 8
    size: int = 16
    rate: float = 0.05
    lag: int = 0
    noise: float = 0.0

    def train(self, method: Method, seed: int = 0, change: Callable[[Decisions], Decisions] = lambda d: d) -> Figures:
        """Train a table from the problem's reference; the figures of each round after its updates.

        These are the loss's statistics, the expected reward, the entropy and the coefficients. change: what is done to
        the prepared Decisions.
        """
        rng, table = np.random.default_rng(seed), Table(self.problem.reference, self.rate)
        state = convert(method.init(), autodiff())
        past, found = [table.logp] * (self.lag + 1), []
        for turn in range(self.rounds):
            rows, group = sample(past[turn], self.size, rng)
            d = self._decisions(rows, group, table.logp, past[turn], rng)
            d = change(method.prepare(d, state))
            loss = functools.partial(_loss, method, d, state, rows)
            for _ in range(self.updates):
                table.step(loss)
            d = _at(d, rows, convert(table.logp, autodiff()))
            found.append(self._figures(method.loss(d, state).stats, table, state))
            state = method.update(state, d, turn / self.rounds)
            past.append(table.logp)
        return found

    def _decisions(self, rows: Rows, group: Array, old: Array, behaviour: Array, rng: np.random.Generator) -> Decisions:
        """Everything that is known when the answers are there."""
        column = (len(group), 1)
        d = batch(
            rows,
            group,
            reward=rows.of(self.problem.rewards) + self.noise * rng.standard_normal(len(group)),
            logp=old,
            logp_old=behaviour,
            logp_behaviour=behaviour,
            logp_ref=self.problem.reference,
        )
        whole = Categorical(behaviour[rows.prompt][:, None, :])
        made = {
            "staleness": np.full(column, 1.0 + self.lag),
            "random": rng.random(column),
            "action": rows.answer[:, None],
        }
        return d.replace(**convert({**made, "dist": whole, "dist_old": whole}, autodiff()))

    def _figures(self, stats: Any, table: Table, state: Any) -> dict[str, float]:
        expected = float((np.exp(table.logp) * self.problem.rewards).sum(-1).mean())
        known = {name: float(x) for name, x in {**stats, **state}.items()}
        return {**known, "reward": expected, "entropy": entropy(table.logp)}


def _loss(method: Method, d: Decisions, state: Any, rows: Rows, logp: Array) -> Array:
    return method.loss(_at(d, rows, logp), state).value


def _at(d: Decisions, rows: Rows, logp: Array) -> Decisions:
    """The Decisions under another table of log-probabilities."""
    prompts = convert(rows.prompt, autodiff())
    whole = namespace(logp).take(logp, prompts, axis=0)[:, None, :]
    return d.replace(logp=rows.of(logp)[:, None], dist=Categorical(whole))


def mean(runs: list[Figures], name: str, rounds: slice = slice(None)) -> float:
    """Mean of a figure over runs and rounds."""
    return float(np.mean([[figures[name] for figures in run[rounds]] for run in runs]))
