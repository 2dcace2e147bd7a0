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
from .credit import learn, of, places
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
            learn(table, m, d, places(prompt, LONG), token, steps=4)
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
    ppo = m.override({"credit": GAE(1.0, 0.95, standardise=True), "positive_imitation.coef": 0.0, "high": 0.2})
    counts = {name: [updates_until(each, wait, seed) for seed in range(3)] for name, each, wait in
              (("vapo", m, 5), ("ppo", ppo, 0))}  # fmt: skip
    credit = m.credit
    assert isinstance(credit, LengthAdaptiveGAE)
    mask = (np.arange(LONG) < np.array([[SHORT], [LONG]])).astype(float)
    lam = np.ravel(credit.policy_lam(mask))
    says = f"updates to 90% right, 3 seeds: {counts['vapo']}, of which 5 for the critic alone; PPO {counts['ppo']}"
    holds = all(a < b for a, b in zip(counts["vapo"], counts["ppo"], strict=True)) and bool(
        ((lam >= 0) & (lam <= 1)).all()
    )
    return Shown(f"{says}; lambda {lam[0]:g} and {lam[1]:g}", holds)


STEPS, CHOICES, CONTINUATIONS, VISITED = 6, 8, 9, 200


@dataclass(frozen=True)
class Tree:
    """Answers of six steps with eight choices each; values[n]: the exact value after n steps, one axis for each."""

    policy: Array  # [steps, choices]
    right: Array  # one axis of choices for each step
    values: tuple[Array, ...]

    @classmethod
    def make(cls, seed: int) -> Tree:
        """Every step changes the odds of being right, differently after every prefix."""
        rng = np.random.default_rng(seed)
        odds: Array = np.zeros((CHOICES,) * STEPS)
        for n in range(1, STEPS + 1):
            odds = odds + rng.standard_normal((CHOICES,) * n + (1,) * (STEPS - n))
        policy = rng.dirichlet(np.full(CHOICES, 3.0), STEPS)
        values = [(rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(float)]
        for step in reversed(range(STEPS)):
            values.append(values[-1] @ policy[step])
        return cls(policy, values[0], tuple(values[::-1]))

    def continued(self, prefix: Array, rng: np.random.Generator) -> Array:
        """Whole answers that begin like this: prefix [N, n] -> [N, 6]."""
        rest = [rng.choice(CHOICES, len(prefix), p=self.policy[step]) for step in range(prefix.shape[1], STEPS)]
        return np.column_stack([prefix, *rest]) if rest else prefix

    def sampled_value(self, prefix: Array, rng: np.random.Generator) -> Array:
        """Mean reward of fresh continuations of each prefix: [N]."""
        answers = self.continued(np.repeat(prefix, CONTINUATIONS, axis=0), rng)
        return self.right[tuple(answers.T)].reshape(-1, CONTINUATIONS).mean(1)


def features(prefix: Array) -> Array:
    """What a linear critic sees of each prefix [N, n]: its length, its steps, its neighbouring pairs of steps."""
    count, length = prefix.shape
    single, pair = np.zeros((count, STEPS, CHOICES)), np.zeros((count, STEPS - 1, CHOICES, CHOICES))
    rows = np.arange(count)
    for n in range(length):
        single[rows, n, prefix[:, n]] = 1
    for n in range(length - 1):
        pair[rows, n, prefix[:, n], prefix[:, n + 1]] = 1
    known = np.broadcast_to(np.arange(STEPS + 1) == length, (count, STEPS + 1))
    return np.concatenate([single.reshape(count, -1), pair.reshape(count, -1), known], axis=1)


def fitted_critic(answers: Array, rewards: Array) -> Array:
    """The critic's weights, by ridge regression of the rewards on every prefix of the answers."""
    seen = [features(answers[:, :n]) for n in range(STEPS)]
    squares = sum((x.T @ x for x in seen), np.eye(seen[0].shape[1]))
    found: Array = np.linalg.solve(squares, sum(x.T @ rewards for x in seen))
    return found


@shows("vineppo")
@double_precision()
def vineppo() -> Shown:
    """Sampled values are as good as theory says, and rank steps better than a critic from as many answers."""
    tree, rng = Tree.make(0), np.random.default_rng(1)
    state = [tree.continued(np.zeros((VISITED, 0), int), rng)[:, :n] for n in range(STEPS)]
    errors = np.concatenate([tree.sampled_value(s, rng) - tree.values[n][tuple(s.T)] for n, s in enumerate(state)])
    exact = np.concatenate([np.broadcast_to(tree.values[n][tuple(s.T)], (VISITED,)) for n, s in enumerate(state)])
    off, theory = np.sqrt((errors**2).mean()), np.sqrt((exact * (1 - exact) / CONTINUATIONS).mean())
    samples = 2 * CONTINUATIONS * VISITED * (STEPS - 1)
    answers = tree.continued(np.zeros((samples, 0), int), rng)
    critic = fitted_critic(answers, tree.right[tuple(answers.T)])
    told: dict[str, list[Array]] = {"sampled": [], "critic": []}
    for n in range(STEPS - 1):
        choices = rng.permuted(np.tile(np.arange(CHOICES), (VISITED, 1)), axis=1)
        one, other = (np.column_stack([state[n], choices[:, i]]) for i in range(2))
        truth = tree.values[n + 1][tuple(one.T)] - tree.values[n + 1][tuple(other.T)]
        sampled = tree.sampled_value(one, rng) - tree.sampled_value(other, rng)
        told["sampled"].append(np.sign(sampled) * np.sign(truth))
        told["critic"].append(np.sign((features(one) - features(other)) @ critic) * np.sign(truth))
    ranked = {name: _right(each) for name, each in told.items()}
    late = {name: _right(each[2:]) for name, each in told.items()}
    says = (
        f"RMSE of sampled values {off:.4f}, in theory {theory:.4f}; the better of two steps is told in "
        f"{ranked['sampled']:.0%}, by a critic from as many answers in {ranked['critic']:.0%} (after the first two "
        f"steps: {late['sampled']:.0%}, {late['critic']:.0%})"
    )
    holds = abs(off / theory - 1) < 0.1 and ranked["sampled"] > ranked["critic"]
    return Shown(says, holds)


def _right(signs: list[Array]) -> float:
    """Share of the comparisons told right; a tie is half right."""
    return 0.5 + 0.5 * float(np.concatenate(signs).mean())
