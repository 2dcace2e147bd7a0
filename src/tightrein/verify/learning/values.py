"""What methods with value estimates promise, where the exact values are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...arrays import Array, double_precision
from ...catalogue import method
from ...credit import GAE, LengthAdaptiveGAE
from ...decisions import Decisions
from ...method import Method
from ..pin import Shown, shows
from .credit import learn, of
from .tabular import Table, log_softmax

SHORT, LONG, TOKENS = 10, 200, 4


@dataclass(frozen=True)
class Lock:
    """Two prompts with answers of 10 and of 200 tokens; right if the first and the middle token are 0."""

    def positions(self, prompt: Array) -> Array:
        """1 where a token decides: [B, 200]."""
        middle = np.where(prompt == 0, SHORT, LONG) // 2
        return (np.arange(LONG) == 0) | (np.arange(LONG) == middle[:, None])

    def rate(self, logp: Array) -> float:
        """Probability of a right answer, the mean of both prompts."""
        keys = self.positions(np.arange(2))
        return float(np.exp((logp[..., 0] * keys).sum(1)).mean())

    def sampled(self, logp: Array, rows: int, rng: np.random.Generator) -> tuple[Array, Array, Array, Decisions]:
        """(prompt, token, whether all was right so far, Decisions without values) of `rows` answers to each prompt."""
        prompt = np.repeat(np.arange(2), rows)
        token = np.minimum((rng.random((2 * rows, LONG, 1)) > np.exp(logp).cumsum(-1)[prompt]).sum(-1), TOKENS - 1)
        wrong = (self.positions(prompt) & (token != 0)).cumsum(1) > 0
        mask = (np.arange(LONG) < np.where(prompt == 0, SHORT, LONG)[:, None]).astype(float)
        right = np.concatenate([np.ones((2 * rows, 1), bool), ~wrong[:, :-1]], axis=1)
        d = Decisions(logp_old=of(logp, prompt, token), mask=mask, reward=(~wrong[:, -1]).astype(float))
        return prompt, token, right.astype(int), d


def updates_until(m: Method, pretraining: int, seed: int, limit: int = 150) -> int:
    """Batches, those for the critic alone included, until nine of ten answers are right."""
    lock, rng = Lock(), np.random.default_rng(seed)
    table, values = Table(log_softmax(np.zeros((2, LONG, TOKENS)))), np.zeros((2, LONG, 2))
    for update in range(limit):
        prompt, token, right, d = lock.sampled(table.logp, 16, rng)
        seen = (prompt[:, None], np.arange(LONG), right)
        d = m.prepare(d.replace(value_old=values[seen], value=values[seen]))
        if update >= pretraining:
            learn(table, m, d, prompt, token, steps=4)
        _fit(values, seen, d)
        if lock.rate(table.logp) >= 0.9:
            return update + 1
    return limit


def _fit(values: Array, seen: tuple[Array, ...], d: Decisions, rate: float = 0.3) -> None:
    """A step of every state's value towards the mean of its targets: the table's own gradient step."""
    error, count = np.zeros_like(values), np.zeros_like(values)
    np.add.at(error, seen, d.mask * (d.returns - d.value_old))
    np.add.at(count, seen, d.mask)
    values += rate * error / np.maximum(count, 1)


@shows("vapo")
@double_precision()
def vapo() -> Shown:
    """Answers of 10 and 200 tokens: fewer updates to 90% success than PPO with lambda .95 for everything."""
    m = method("vapo")
    ppo = m.override({"credit": GAE(1.0, 0.95, standardise=True), "imitation.coef": 0.0, "high": 0.2})
    counts = {name: [updates_until(each, wait, seed) for seed in range(3)] for name, each, wait in
              (("vapo", m, 5), ("ppo", ppo, 0))}  # fmt: skip
    credit = m.credit
    assert isinstance(credit, LengthAdaptiveGAE)
    mask = (np.arange(LONG) < np.array([[SHORT], [LONG]])).astype(float)
    lam = np.ravel(credit.policy_lam(mask))
    says = f"updates to 90% right, 3 seeds: {counts['vapo']}, of which 5 for the critic alone; PPO {counts['ppo']}"
    holds = all(a < b for a, b in zip(counts["vapo"], counts["ppo"], strict=True)) and bool(((lam >= 0) & (lam <= 1)).all())
    return Shown(f"{says}; lambda {lam[0]:g} and {lam[1]:g}", holds)
