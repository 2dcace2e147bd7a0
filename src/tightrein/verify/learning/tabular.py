"""Problems small enough to be solved exactly: a table of logits, and what should come out of it.

The policy chooses one of `answers` to each of `prompts`, a row of the table each; rewards, reference and the law of the
data are known, so that expectations are sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...arrays import Array, convert, namespace, value_and_gradient
from ...decisions import Decisions
from ..batches import autodiff, decisions


@dataclass(frozen=True)
class Problem:
    """rewards, reference: [prompts, answers]; the reference as log-probabilities."""

    rewards: Array
    reference: Array

    def optimum(self, tilt: Array) -> Array:
        """Log-probabilities of the reference times exp(tilt), normalised: [prompts, answers]."""
        return log_softmax(self.reference + tilt)

    def preferences(self) -> Array:
        """Probability that answer i is preferred to answer j under Bradley and Terry's model: [prompts, i, j]."""
        return 1 / (1 + np.exp(self.rewards[:, None, :] - self.rewards[:, :, None]))


def problem(prompts: int = 16, answers: int = 8, seed: int = 0) -> Problem:
    """The chapter's T1: rewards N(0, 1), reference softmax(0.3 N(0, 1))."""
    rng = np.random.default_rng(seed)
    shape = (prompts, answers)
    return Problem(rng.standard_normal(shape), log_softmax(0.3 * rng.standard_normal(shape)))


def log_softmax(logits: Array) -> Array:
    """Normalised log-probabilities over the last axis."""
    xp = namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def kl(one: Array, other: Array) -> float:
    """Mean over the prompts of KL(one || other), from log-probabilities."""
    return abs(float((np.exp(one) * (one - other)).sum(-1).mean()))  # rounding can make it -1e-17


def entropy(logp: Array) -> float:
    """Mean entropy over the prompts, from log-probabilities."""
    return float(-(np.exp(logp) * logp).sum(-1).mean())


@dataclass(frozen=True)
class Rows:
    """Which answer to which prompt each row of a batch is: [B] each."""

    prompt: Array
    answer: Array

    def of(self, table: Array) -> Array:
        """The entry of each row in a [prompts, answers] table: [B]."""
        if isinstance(table, np.ndarray):
            return table[self.prompt, self.answer]
        index = convert(self.prompt * table.shape[1] + self.answer, autodiff())
        return namespace(table).take(namespace(table).reshape(table, (-1,)), index)


def all_pairs(prompts: int, answers: int) -> tuple[Rows, Array]:
    """Every ordered pair of different answers, the first of all pairs before the second ones; and the rows' groups."""
    grid = np.indices((prompts, answers, answers))
    prompt, one, other = grid[:, grid[1] != grid[2]]
    rows = Rows(np.concatenate([prompt, prompt]), np.concatenate([one, other]))
    return rows, np.concatenate([np.arange(len(prompt))] * 2)


def sample(logp: Array, size: int, rng: np.random.Generator, prompts: Array | None = None) -> tuple[Rows, Array]:
    """`size` answers to each of the prompts (all, or those given), drawn by logp; and the rows' groups."""
    prompts = np.arange(len(logp)) if prompts is None else prompts
    cumulative = np.cumsum(np.exp(logp[prompts]), axis=1)
    drawn = (rng.random((len(prompts), size, 1)) > cumulative[:, None, :]).sum(-1).clip(0, logp.shape[1] - 1)
    return Rows(np.repeat(prompts, size), drawn.ravel()), np.repeat(np.arange(len(prompts)), size)


def batch(rows: Rows, group: Array, **tables: Array) -> Decisions:
    """Decisions of one token an answer, in the library of the gradients; tables: fields as [prompts, answers].

    Fields that belong to a trajectory (reward, chosen, demonstration) are given as [B].
    """
    fields = {name: rows.of(x)[:, None] if x.ndim == 2 else x for name, x in tables.items()}
    return decisions({"mask": np.ones((len(group), 1)), "group": group, **fields}, autodiff())


class Table:
    """A table of logits and Adam's moments: the policy that is trained."""

    def __init__(self, logp: Array, learning_rate: float = 0.05) -> None:
        self.logits, self._rate = np.array(logp, float), learning_rate
        self._mean, self._square, self._steps = np.zeros_like(self.logits), np.zeros_like(self.logits), 0

    @property
    def logp(self) -> Array:
        """Log-probabilities: [prompts, answers]."""
        return log_softmax(self.logits)

    def gradient(self, loss: Callable[[Array], Array]) -> Array:
        """Gradient by the logits of a loss of the log-probabilities."""
        there = {"logits": convert(self.logits, autodiff())}
        return convert(value_and_gradient(lambda at: loss(log_softmax(at["logits"])), there)[1]["logits"], "NumPy")

    def step(self, loss: Callable[[Array], Array]) -> None:
        """One step of Adam on a loss of the log-probabilities [prompts, answers]."""
        g = self.gradient(loss)
        self._steps += 1
        self._mean += 0.1 * (g - self._mean)
        self._square += 0.001 * (g**2 - self._square)
        mean, square = self._mean / (1 - 0.9**self._steps), self._square / (1 - 0.999**self._steps)
        self.logits -= self._rate * mean / (np.sqrt(square) + 1e-8)
