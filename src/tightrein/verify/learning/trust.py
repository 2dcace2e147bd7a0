"""What the ratio surrogates that strain the common mould show when they run."""

from __future__ import annotations

import numpy as np

from ...decisions import Decisions
from ...distributions import Categorical
from ...method import Method
from ...objective.policy import TROLL
from ..batches import method
from ..pin import Shown, shows
from .rollouts import Figures, Rollouts, mean
from .tabular import Problem, Table, batch, log_softmax, problem, sample

LAST = slice(-1, None)


def _over_seeds(rollouts: Rollouts, what: Method, seeds: int = 5) -> list[Figures]:
    return [rollouts.train(what, seed) for seed in range(seeds)]


@shows("troll")
def troll() -> Shown:
    """Noisy rewards, three arms, 8 large steps per rollout: projected against unclipped."""
    arms = Problem(np.tile([1.0, 0.8, 0.0], (8, 1)), log_softmax(np.zeros((8, 3))))
    rollouts = Rollouts(arms, rounds=20, size=8, rate=0.3, noise=1.0)
    runs = {
        name: _over_seeds(rollouts, method("troll", **changes), 3)
        for name, changes in {"projected": {}, "unclipped": {"objective.surrogate": "Importance"}}.items()
    }
    kl = {name: mean(run, "kl_k3", slice(0, 1)) for name, run in runs.items()}
    reward = {name: mean(run, "reward", LAST) for name, run in runs.items()}
    size = max(_after_one_step(rate) for rate in (1.0, 10.0, 100.0))
    return Shown(
        f"KL(q || old) at most {size:.6f} after steps of up to 100 (bound 0.05); KL of the first rollout "
        f"{kl['projected']:.2f} projected, {kl['unclipped']:.2f} unclipped; reward of at most 1 "
        f"{reward['projected']:.3f}, {reward['unclipped']:.3f}",
        size <= 0.05 + 1e-6 and kl["projected"] < 0.5 * kl["unclipped"] and reward["projected"] > reward["unclipped"],
    )


def _after_one_step(rate: float) -> float:
    """Largest KL(q || old) in a bandit of three arms after one gradient step of that size."""
    rng, troll = np.random.default_rng(0), TROLL()
    old, advantage = rng.standard_normal((50, 1, 3)), rng.standard_normal((50, 1))
    action = rng.integers(0, 3, (50, 1))
    move = rate * advantage[..., None] * (np.eye(3)[action] - np.exp(log_softmax(old)))
    d = Decisions(advantage=advantage, action=action, dist=Categorical(old + move), dist_old=Categorical(old))
    return float(np.max(troll.projection(d).kl(Categorical(old))))


@shows("bapo")
def bapo() -> Shown:
    """Answers of a policy 8 updates old, one in five of them right."""
    rewards = np.where(np.arange(10) < 2, 1.0, -1.0) * np.ones((16, 1))
    rollouts = Rollouts(Problem(rewards, log_softmax(np.zeros((16, 10)))), rounds=40, updates=1, rate=0.1, lag=8)
    run = rollouts.train(method("bapo"), change=lambda d: d.replace(advantage=d.reward[:, None]))  # no baseline
    low, high, start, share = (
        np.array([x[name] for x in run]) for name in ("clip_low", "clip_high", "positive_share_start", "positive_share")
    )
    moved = len(set(zip(low, high, strict=True)))
    return Shown(
        f"share of positive advantages {share[0]:.2f} at first, {share[-1]:.2f} at last; {moved} pairs of bounds, "
        f"upper {high.min():.2f} to {high.max():.2f}; the search raised the share by up to {np.max(share - start):.2f}",
        bool(moved > 2 and share[-1] >= share[0] and np.max(share - start) > 0.02),
    )


@shows("r2vpo")
def r2vpo() -> Shown:
    """8 updates per rollout, 64 answers, noisy rewards; then ever more updates on one rollout."""
    world, multiplier = problem(16, 64), "objective.trust.controller"
    held = Rollouts(world, rounds=40, size=32, noise=1.0).train(method("r2vpo", **{f"{multiplier}.rate": 3.0}))
    settled, reward = mean([held], "ratio_variance", slice(10, 30)), [held[i]["reward"] for i in (9, 29)]

    def after(updates: int, coefficient: float) -> float:
        fixed = method("r2vpo", **{multiplier: "Constant"}).override({f"{multiplier}.coef": coefficient})
        return Rollouts(world, rounds=1, updates=updates, size=32).train(fixed)[0]["ratio_variance"]

    free, bound = ([after(updates, coefficient) for updates in (8, 32, 128)] for coefficient in (0.0, 3.0))
    return Shown(
        f"E (r - 1)^2 in rounds 11 to 30 {settled:.3f} (target 0.02) while the reward grows from {reward[0]:.2f} to "
        f"{reward[1]:.2f}; after 8, 32, 128 updates on one rollout {_list(free)} without the multiplier, "
        f"{_list(bound)} at 3",
        0.01 <= settled <= 0.04 and reward[1] > reward[0] and free[2] > 3 * free[1] and bound[2] < 1.5 * bound[1],
    )


def _list(numbers: list[float]) -> str:
    return ", ".join(f"{x:.2f}" for x in numbers)


@shows("clip_cov")
def clip_cov() -> Shown:
    """16 prompts of 16 answers: the entropy after 12 rollouts, with and without the tokens of high covariance."""
    rollouts = Rollouts(problem(16, 16), rounds=12)
    dropped = {"objective.correction.share": 0.2, "objective.correction.low": 0.3}
    runs = [_over_seeds(rollouts, method("clip_cov", **c)) for c in (dropped, {"objective.correction": None})]
    left, without = (mean(run, "entropy", LAST) for run in runs)
    rewards = [mean(run, "reward", LAST) for run in runs]
    return Shown(
        f"entropy {left:.2f} nats, {without:.2f} where all tokens count (5 seeds, from 2.7); reward {rewards[0]:.2f}, "
        f"{rewards[1]:.2f}",
        left > without,
    )


@shows("kl_cov")
def kl_cov() -> Shown:
    """The same, where those tokens are held to the old policy instead."""
    rollouts = Rollouts(problem(16, 16), rounds=12)
    runs = [
        _over_seeds(rollouts, method("kl_cov", share=0.2, **{"objective.trust.controller.coef": c})) for c in (1, 0)
    ]
    held, free = (mean(run, "entropy", LAST) for run in runs)
    moved = [mean(run, "kl_covariance", slice(0, 6)) for run in runs]
    return Shown(
        f"entropy {held:.2f} nats with the penalty, {free:.2f} without (5 seeds, from 2.7); |log r| of the tokens held "
        f"{moved[0]:.2f} with, {moved[1]:.2f} without",
        held > free and moved[0] < moved[1],
    )


@shows("a3po")
def a3po() -> Shown:
    """Answers of a policy 4 updates old: the proximal policy by staleness against PPO on the sampling policy."""
    rollouts = Rollouts(problem(16, 16), rounds=60, updates=1, rate=0.2, lag=4)
    runs = {
        "by staleness": rollouts.train(method("a3po")),
        "coupled": rollouts.train(method("a3po"), change=lambda d: d.replace(staleness=0 * d.staleness)),
    }
    clipped = {name: mean([run], "clip_fraction") for name, run in runs.items()}
    reward = {name: run[-1]["reward"] for name, run in runs.items()}
    return Shown(
        f"clip fraction {clipped['by staleness']:.2f}, coupled {clipped['coupled']:.2f}; reward "
        f"{reward['by staleness']:.2f}, coupled {reward['coupled']:.2f}; reads the log-probabilities of the sampler "
        "and of the policy, no third",
        clipped["by staleness"] < clipped["coupled"]
        and reward["by staleness"] > 0.98 * reward["coupled"]
        and {x for x in method("a3po").needs if x.startswith("logp")} == {"logp", "logp_behaviour"},
    )


@shows("tis")
def tis() -> Shown:
    """100,000 answers of a perturbed policy with three arms: the bias of the estimated gradient."""
    rng = np.random.default_rng(0)
    old = log_softmax(np.array([[0.3, 0.0, -0.4]]))
    behaviour = log_softmax(old + 0.4 * rng.standard_normal((1, 3)))
    reward = np.array([[1.0, 0.3, -0.5]])
    exact = np.exp(old) * (reward - np.sum(np.exp(old) * reward))
    rows, group = sample(behaviour, 100_000, rng)
    d = batch(rows, group, logp=old, logp_old=old, logp_behaviour=behaviour, advantage=reward)

    def bias(key: str) -> float:
        what = method(key, **{"objective.reference.coef": 0.0})
        found = -Table(old).gradient(lambda logp: what.loss(d.replace(logp=rows.of(logp)[:, None])).value)
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    weighted, plain = bias("tis"), bias("grpo")
    return Shown(
        f"off by {weighted:.1%} of the exact gradient with the weights, by {plain:.1%} without", weighted < 0.5 * plain
    )


@shows("pspo")
def pspo() -> Shown:
    """The slope of the loss where grpo's clip breaks it, and a training."""
    steps = np.arange(0.5, 1.5, 1e-4)
    jump = {}
    for key in ("pspo", "grpo"):
        what = method(key, **{"objective.reference.coef": 0.0})
        d = Decisions(logp=np.log(steps)[:, None], logp_old=0 * steps[:, None], advantage=np.ones((len(steps), 1)))
        slope = np.diff(what.loss(d).per_decision[:, 0]) / 1e-4
        jump[key] = float(np.max(np.abs(np.diff(slope))))
    run = Rollouts(problem(16, 16), rounds=15).train(method("pspo"))
    return Shown(
        f"its slope in r jumps by at most {jump['pspo']:.0e}, grpo's by {jump['grpo']:.1f}; reward "
        f"{run[0]['reward']:.2f} -> {run[-1]['reward']:.2f}",
        jump["pspo"] < 1e-3 < jump["grpo"] and run[-1]["reward"] > run[0]["reward"] + 0.5,
    )
