"""What the score surrogates that clip, weigh or select show when they run."""

from __future__ import annotations

import numpy as np

from ...arrays import Array
from ...decisions import Decisions
from ...method import Method
from ..batches import batch, gradient, method
from ..pin import Shown, shows
from .rollouts import Figures, Rollouts, mean
from .tabular import Problem, log_softmax, problem

SEEDS = range(4)


def _last(runs: list[Figures], name: str = "reward") -> list[float]:
    return [run[-1][name] for run in runs]


def _stale(what: Method, lag: int = 4) -> list[Figures]:
    """16 answers to each of 16 prompts, by a policy `lag` rollouts old; four large steps on each rollout."""
    rollouts = Rollouts(problem(16, 16), rounds=60, updates=4, size=8, rate=0.5, lag=lag)
    return [rollouts.train(what, seed) for seed in SEEDS]


def _range(numbers: list[float]) -> str:
    return f"{min(numbers):.2f} to {max(numbers):.2f}"


@shows("rec")
def rec() -> Shown:
    """Its gradient with ratios as weights against grpo's; four rollouts of lag, with the clip and without."""
    weighted, grpo = (
        method("rec").variant("one_side_is"),
        method("grpo", **{"objective.reference.coef": 0.0, "objective.aggregate": "TokenMean"}),
    )
    drawn = [batch(seed, weighted) for seed in range(5)]
    apart = max(float(np.max(np.abs(gradient(weighted, d) - gradient(grpo, d)))) for d in drawn)
    clipped, plain = (_stale(made) for made in (method("rec"), method("rec").variant("reinforce")))
    return Shown(
        f"with importance weights off grpo's gradient by {apart:.0e}; at a lag of 4 rollouts the reward ends at "
        f"{_range(_last(clipped))} with the clip alone, at {_range(_last(plain))} without (4 seeds)",
        apart < 1e-7 and min(_last(clipped)) > max(_last(plain)),
    )


def _failing() -> Decisions:
    """8 groups of 20 answers of one token, of which 2 are right."""
    rng = np.random.default_rng(0)
    reward = np.tile((np.arange(20) < 2) * 1.0, 8)
    return Decisions(
        logp=np.log(rng.random((160, 1))),
        logp_old=np.zeros((160, 1)),
        reward=reward,
        group=np.repeat(np.arange(8), 20),
        random=rng.random((160, 1)),
    )


def _pushed_down(what: Method) -> tuple[float, float]:
    """Share of the bad answers in the gradient's size, and among the answers that have one."""
    d = what.prepare(_failing())
    size: Array = np.abs(gradient(what, d))[:, 0]
    bad = d.reward == 0
    return float(size[bad].sum() / size.sum()), float((size[bad] > 0).sum() / (size > 0).sum())


@shows("red")
def red() -> Shown:
    """Nine answers in ten are wrong: how much of the gradient pushes down; and a training with each."""
    made = {
        "plain": method("rec").variant("reinforce"),
        "weighed": method("red"),
        "dropped": method("red").variant("drop"),
    }
    share = {name: _pushed_down(what) for name, what in made.items()}
    right = Problem((np.arange(10) < 1) * np.ones((8, 1)), log_softmax(np.zeros((8, 10))))
    rollouts = Rollouts(right, rounds=15, updates=1, rate=0.2)
    ends = {name: _last([rollouts.train(what)])[0] for name, what in made.items() if name != "plain"}
    return Shown(
        f"bad answers hold {share['plain'][0]:.2f} of the gradient, {share['weighed'][0]:.2f} with weights; they are "
        f"{share['plain'][1]:.0%} of the answers, {share['dropped'][1]:.0%} after the drop, with "
        f"{share['dropped'][0]:.2f} of the gradient, as the baseline is theirs; reward from 0.10 to "
        f"{ends['weighed']:.2f} weighed, {ends['dropped']:.2f} dropped",
        share["weighed"][0] < share["plain"][0] - 0.1
        and share["dropped"][1] == 0.5 < share["plain"][1]
        and min(ends.values()) > 0.5,
    )


def _rare(what: Method) -> list[Figures]:
    """One answer in 50 is right; 32 steps on each rollout."""
    right = Problem((np.arange(50) < 1) * np.ones((4, 1)), log_softmax(np.zeros((4, 50))))
    return [Rollouts(right, rounds=12, updates=32, size=128, rate=0.02).train(what, seed) for seed in range(2)]


def _rounds(runs: list[Figures]) -> int:
    """Rollouts until the reward is above 0.9 in every run."""
    reward = np.min([[x["reward"] for x in run] for run in runs], axis=0)
    return int(np.argmax(reward > 0.9)) + 1 if reward.max() > 0.9 else len(reward) + 1


def _free_to_rise(key: str) -> Shown:
    ratio, moved = _rare(method("rec").variant("one_side_is")), _rare(method(key))
    first = slice(0, 3)
    clip = [mean(runs, "clip_fraction", first) for runs in (moved, ratio)]
    return Shown(
        f"a right answer of probability 0.02 is found in {_rounds(moved)} rollouts, in {_rounds(ratio)} where ratios "
        f"are clipped; clip fraction of the first three {clip[0]:.2f}, {clip[1]:.2f}; reward at last "
        f"{min(_last(moved)):.2f}",
        _rounds(moved) < _rounds(ratio) and min(_last(moved)) > 0.95,
    )


@shows("dppo_tv")
def dppo_tv() -> Shown:
    """One answer in 50 is right: rollouts until it is found, against the clip by ratios."""
    return _free_to_rise("dppo_tv")


@shows("dppo_kl")
def dppo_kl() -> Shown:
    """The same by the KL divergence."""
    return _free_to_rise("dppo_kl")


@shows("vespo")
def vespo() -> Shown:
    """Four rollouts of lag: the soft weight against none, and against the plain ratio."""
    others = {"without weight": "PolicyGradient", "with the plain ratio": "Importance"}
    soft = _last(_stale(method("vespo")))
    rest = {name: _last(_stale(method("vespo", **{"objective.surrogate": x}))) for name, x in others.items()}
    return Shown(
        f"at a lag of 4 rollouts the reward ends at {_range(soft)} (4 seeds); "
        + ", ".join(f"{_range(ends)} {name}" for name, ends in rest.items()),
        min(soft) > max(max(ends) for ends in rest.values()),
    )
