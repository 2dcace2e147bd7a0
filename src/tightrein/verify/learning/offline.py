"""What policy gradients with a penalty for what another policy sampled show on data that is never renewed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...arrays import convert
from ...decisions import Decisions
from ...method import Method
from ..batches import autodiff, method
from ..pin import Shown, shows
from .rollouts import Rollouts
from .tabular import Problem, Table, batch, entropy, kl, problem, sample

PENALTY = "objective.trust.controller.coef"


def _trained(
    what: Method, world: Problem, updates: int, seed: int = 0, change: Callable[[Decisions], Decisions] = lambda d: d
) -> Table:
    """A table after `updates` steps on one batch: 64 answers of the reference policy to each prompt.

    change: what is done to the prepared Decisions, whose groups are the prompts.
    """
    behaviour = world.reference
    rows, group = sample(behaviour, 64, np.random.default_rng(seed))
    d = batch(rows, group, reward=rows.of(world.rewards), logp=behaviour, logp_old=behaviour)
    d = change(what.prepare(d))
    table = Table(behaviour, 0.1)
    for _ in range(updates):
        table.step(lambda logp: what.loss(d.replace(logp=rows.of(logp)[:, None])).value)
    return table


def _furthest(what: Method, updates: int) -> float:
    world = problem(8, 6)
    return float(np.max(np.abs(_trained(what, world, updates).logp - world.reference)))


@shows("opmd")
def opmd() -> Shown:
    """One batch of a fixed policy, ever more steps: how far the log-ratios go."""
    held, free = ([_furthest(method("opmd", **{PENALTY: c}), n) for n in (300, 3000)] for c in (0.2, 0.0))
    return Shown(
        f"largest |log r| after 300 and 3000 steps {held[0]:.1f}, {held[1]:.1f}; without the penalty {free[0]:.1f}, "
        f"{free[1]:.1f}",
        held[1] < 1.2 * held[0] and free[1] > 1.5 * free[0] and free[1] > 3 * held[1],
    )


@shows("dro")
def dro() -> Shown:
    """The same at beta = 1, against the policy that is sought: pi_old exp(R / beta), normalised."""
    world, what = problem(8, 6), method("dro", **{PENALTY: 1.0})
    optimum = world.optimum(world.rewards)
    soft = np.log(np.sum(np.exp(world.reference + world.rewards), axis=1))  # beta log E exp(R / beta)
    value = convert(soft, autodiff())
    mean = kl(_trained(what, world, 1000).logp, optimum)
    table = _trained(what, world, 1000, change=lambda d: d.replace(advantage=(d.reward - value[d.group])[:, None]))
    exact, start = kl(table.logp, optimum), kl(world.reference, optimum)
    return Shown(
        f"KL to pi_old exp(R / beta) / Z {start:.3f} at first, {exact:.0e} with the soft value as baseline, {mean:.3f} "
        "with the group's mean",
        exact < 1e-4 and mean < 0.5 * start,
    )


def _raised(shift: float, seed: int) -> tuple[float, float]:
    """Entropy and reward after 1500 steps with a baseline lower by `shift`."""
    world = problem(8, 6, seed)
    what = method("asymre", **{PENALTY: max(shift, 0.0)})
    table = _trained(what, world, 1500, seed, lambda d: d.replace(advantage=d.advantage + min(shift, 0.0)))
    return entropy(table.logp), float(np.sum(np.exp(table.logp) * world.rewards) / len(world.rewards))


@shows("asymre")
def asymre() -> Shown:
    """One batch of a fixed policy, with the baseline below the mean, and above it; three problems."""
    below, above = ([_raised(shift, seed) for seed in range(3)] for shift in (0.1, -0.1))
    lists = [", ".join(f"{x[i]:.2f}" for x in ends) for i in (0, 1) for ends in (below, above)]
    return Shown(
        f"entropy at last {lists[0]} nats with the baseline 0.1 below the mean, {lists[1]} with it 0.1 above; reward "
        f"{lists[2]} below, {lists[3]} above",
        min(x[0] for x in below) > 0.5 > 10 * max(x[0] for x in above)
        and all(low[1] > high[1] for low, high in zip(below, above, strict=True)),
    )


@shows("opmd_trinity")
def opmd_trinity() -> Shown:
    """A training on fresh samples, with Adam, which does not see a constant factor."""
    rollouts = Rollouts(problem(16, 8), rounds=30, updates=1, rate=0.1)
    half, whole = (rollouts.train(x) for x in (method("opmd_trinity"), method("rec").variant("reinforce")))
    apart = max(abs(a["reward"] - b["reward"]) for a, b in zip(half, whole, strict=True))
    return Shown(
        f"reward {half[0]['reward']:.2f} -> {half[-1]['reward']:.2f}, off REINFORCE's by at most {apart:.0e}: 1 / (1 + "
        "tau) is a smaller step, and no step of Adam",
        half[-1]["reward"] > half[0]["reward"] + 0.5 and apart < 1e-3,
    )
