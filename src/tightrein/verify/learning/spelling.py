"""What the language methods promise, shown by short runs of the embedded model, which spells words backward."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...arrays import Array
from ...decisions import Decisions
from ..batches import method
from ..pin import Shown, shows
from .language import language_run
from .rollouts import Rollouts, mean
from .solvers import column
from .tabular import Problem, Rows, Table, batch, log_softmax, sample

ANSWERS = 64 * 8


@functools.cache
def trained(key: str, updates: int = 80) -> list[dict[str, Any]]:
    """The lines of a run of 64 prompts an update, 8 answers each, in 4 gradient steps; the first and last evaluated."""
    shape = {"prompts": 64, "group_size": 8, "minibatches": 4, "eval_every": 40, "checkpoint_every": 1000}
    return language_run(key, updates=updates, **shape)


def _learned(key: str) -> tuple[str, float, list[dict[str, float]]]:
    lines = trained(key)
    start, end = lines[0]["eval_accuracy"], lines[-1]["eval_accuracy"]
    return f"held-out accuracy {start:.2f} -> {end:.3f} in 80 updates of {ANSWERS} answers", end, lines


@shows("grpo")
def grpo() -> Shown:
    """The task is learned to more than 0.9."""
    says, end, lines = _learned("grpo")
    return Shown(f"{says}; KL to the reference {column(lines, 'kl_ref')[-1]:.2f} per token", end > 0.9)


@shows("dr_grpo")
def dr_grpo() -> Shown:
    """The task is learned to more than 0.9, and answers grow no longer than they need be."""
    says, end, lines = _learned("dr_grpo")
    length = column(lines, "length_mean")
    return Shown(f"{says}; mean length {length[0]:.2f} -> {length[-1]:.2f} (right: 6)", end > 0.9 and length[-1] < 6.5)


@shows("dapo")
def dapo() -> Shown:
    """Every batch is filled with groups that differ, and the task is learned to more than 0.9.

    The paper's higher entropy with the wider upper bound is measured on a bandit, where it does not show.
    """
    lines = trained("dapo", updates=40)
    start, end = lines[0]["eval_accuracy"], lines[-1]["eval_accuracy"]
    rounds = column(lines, "rounds")
    entropy = {}
    for high in (0.2, 0.28):
        runs = [Rollouts(_bandit(seed), rounds=40).train(method("dapo", high=high), seed) for seed in range(5)]
        entropy[high] = mean(runs, "entropy", slice(-1, None))
    says = (
        f"held-out accuracy {start:.2f} -> {end:.3f} in 40 updates, with up "
        f"to {rounds.max():.0f} rounds of sampling to fill a batch with groups that differ; entropy of a bandit after "
        f"40 rounds, 5 seeds: {entropy[0.28]:.3f} with an upper width of 0.28, {entropy[0.2]:.3f} with 0.2: the same"
    )
    return Shown(says, end > 0.9 and rounds.max() > 1)


@shows("gspo")
def gspo() -> Shown:
    """The task is learned with several steps a batch, and the clip fraction is one of whole answers."""
    says, end, lines = _learned("gspo")
    answers = ANSWERS * column(lines, "clip_fraction")
    whole = float(np.max(np.abs(answers - np.round(answers))))
    first = column(lines, "clip_fraction")[0]
    return Shown(
        f"{says}; {first:.0%} of the answers clipped at first, always whole ones (off by {whole:.0e} answers)",
        end > 0.9 and whole < 1e-3 and first > 0,
    )


@shows("cispo")
def cispo() -> Shown:
    """The task is learned with several steps a batch, and no token is let go where grpo lets go of many."""
    says, end, lines = _learned("cispo")
    cut, lost = (column(x, "clip_fraction").max() for x in (lines, trained("grpo")))
    return Shown(
        f"{says}; at most {cut:.1%} of the tokens have their weight cut, none is let go (grpo: up to {lost:.0%})",
        end > 0.9 and cut < lost,
    )


@shows("sapo")
def sapo() -> Shown:
    """With four steps a batch it reaches what grpo reaches."""
    says, end, _ = _learned("sapo")
    other = trained("grpo")[-1]["eval_accuracy"]
    return Shown(f"{says} (grpo {other:.3f}), four gradient steps each", end > 0.9 and end >= other - 0.02)


@shows("rloo")
def rloo() -> Shown:
    """A contextual bandit is solved, with gradients that vary less than those of a baseline over all prompts."""
    says, end, _ = _learned("rloo")
    world = _bandit(0)
    free = method("rloo", **{"reward.kl_in_reward.coef": 0.0})
    reward = Rollouts(world, rounds=300, updates=1, size=4).train(free)[-1]["reward"]
    leave, average = _variance(world, baseline=False), _variance(world, baseline=True)
    return Shown(
        f"{says}; bandit of 4 arms: mean reward {reward:.3f} of 1 after 300 updates; variance of the gradient "
        f"{leave:.1e} (baseline over all prompts {average:.1e})",
        end > 0.9 and reward > 0.95 and leave < average,
    )


def _bandit(seed: int) -> Problem:
    """16 prompts of 4 arms that pay 0 to 1, the best one 1: on half of them little, on the others nearly all, pays."""
    rng = np.random.default_rng(seed)
    rewards = 0.2 * rng.random((16, 4)) + 0.8 * (np.arange(16) % 2)[:, None]
    np.put_along_axis(rewards, rng.integers(0, 4, (16, 1)), 1.0, axis=1)
    return Problem(rewards, log_softmax(0.3 * rng.standard_normal((16, 4))))


def _variance(world: Problem, baseline: bool) -> float:
    """Total variance of the gradient of groups of 4, with rloo's baseline or the mean reward of the policy."""
    free = method("rloo", **{"reward.kl_in_reward.coef": 0.0})
    rng, table, found = np.random.default_rng(0), Table(world.reference), []
    expected = float((np.exp(world.reference) * world.rewards).sum(-1).mean())

    def credited(d: Decisions) -> Decisions:
        return d.replace(advantage=(d.reward - expected)[:, None]) if baseline else free.prepare(d)

    for _ in range(200):
        rows, group = sample(world.reference, 4, rng)
        d = credited(batch(rows, group, reward=rows.of(world.rewards), logp=world.reference))

        def loss(logp: Array, d: Decisions = d, rows: Rows = rows) -> Array:
            return free.loss(d.replace(logp=rows.of(logp)[:, None])).value

        found.append(table.gradient(loss))
    return float(np.var(found, axis=0).sum())
