"""What the losses of the control literature promise, shown by short runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import Array, convert, value_and_gradient
from ...behaviour import PROPS
from ...decisions import Decisions
from ...distributions import Categorical
from ...objective.dropout import PairDropout
from ..batches import autodiff
from ..pin import Shown, shows
from .solvers import column, run


@shows("lpo_drift")
def lpo_drift() -> Shown:
    """CartPole is learned; an evolution strategy of 32 members improves a drift from where PPO's clip stands."""
    summary, _ = run(method="lpo_drift", total_steps=102_400, seeds=2)
    from ...engines.control.evolution import meta_learned  # it needs JAX, as the run above does

    before, after = meta_learned()
    returned = summary["eval_return_mean"]
    says = (
        f"return {returned:.0f} of 500 on CartPole after 102,400 steps, 2 seeds; evolution from PPO's clip: reward of "
        f"the bandits that it trains {before:.3f} -> {after:.3f} of at most 1, on bandits not seen"
    )
    return Shown(says, bool(returned > 400 and after > before))


@shows("dppo_dropout")
def dppo_dropout() -> Shown:
    """Dropping lowers the variance of r A on minibatches of a policy that moves, and CartPole is learned."""
    rng, smaller = np.random.default_rng(0), []
    for _ in range(500):
        advantage = rng.standard_normal((1, 256))
        x = np.exp(rng.uniform(0, 0.3) * rng.standard_normal((1, 256))) * (advantage - advantage.mean())
        kept = PairDropout().kept(x, np.ones_like(x)) != 0
        smaller.append(x[kept].var() <= x.var())
    summary, lines = run(method="dppo_dropout", total_steps=200_000, seeds=2)
    best = [max(x["eval_return"] for x in lines if "eval_return" in x and x["seed"] == seed) for seed in (0, 1)]
    says = (
        f"the variance of r A after dropping is not larger in {np.mean(smaller):.1%} of 500 minibatches; the best "
        f"return on CartPole within 200,000 steps {best[0]:.0f} and {best[1]:.0f} of 500, at the end "
        f"{summary['eval_return_mean']:.0f} in the mean"
    )
    return Shown(says, bool(np.mean(smaller) >= 0.9 and min(best) >= 475))


@shows("vmpo")
def vmpo() -> Shown:
    """Ten times its learning rate: the multiplier holds the divergence of an update, and CartPole is solved."""
    fast = ("step.anneal=false", "objective.trust.controller.learning_rate=0.1")
    free = ("step.anneal=false", "objective.trust=none")
    settings: dict[str, Any] = {"method": "vmpo", "total_steps": 40_960, "seeds": 2, "learning_rate": 3e-3}
    summary, lines = run(**settings, set=fast)
    kl, eta = column(lines, "kl_exact"), column(lines, "temperature")
    unheld = column(run(**settings, set=free)[1], "kl_k3")
    returned = summary["eval_return_mean"]
    says = (
        f"return {returned:.0f} of 500 on CartPole after 40,960 steps, 2 seeds, at a learning rate of 3e-3; KL of an "
        f"update {np.median(kl):.4f}, at most {kl.max():.4f} (bound 0.01), without the region at most "
        f"{unheld.max():.2f}; temperature {eta.min():.2f} to {eta.max():.2f}"
    )
    return Shown(says, bool(kl.max() <= 0.03 < unheld.max() and eta.min() > 0 and returned > 400))


@shows("pg_guide")
def pg_guide() -> Shown:
    """One command with a switch between five algorithms; all learn, and three of them more than REINFORCE."""
    returns = {
        variant: run(method="pg_guide", variant=variant, total_steps=51_200, seeds=2, rollout=256)[0][
            "eval_return_mean"
        ]
        for variant in ("reinforce", "a2c", "trpo", "ppo", "vmpo")
    }
    says = ", ".join(f"{variant} {returned:.0f}" for variant, returned in returns.items())
    best = min(returns[variant] for variant in ("trpo", "ppo", "vmpo"))
    return Shown(f"return on CartPole after 51,200 steps, 2 seeds: {says}", best > returns["reinforce"])


@shows("props")
def props() -> Shown:
    """The arms of a bandit are pulled as often as the policy says, and CartPole is solved."""
    plain, robust = sampling_error(chosen=False), sampling_error(chosen=True)
    summary, _ = run(method="props", total_steps=51_200, seeds=2)
    returned = summary["eval_return_mean"]
    says = (
        f"100 pulls of a three-armed bandit, 50 seeds: total variation between how often each arm was pulled and the "
        f"policy {robust:.4f}, sampling from the policy {plain:.4f}; return {returned:.0f} of 500 on CartPole after "
        "51,200 steps, 2 seeds"
    )
    return Shown(says, bool(robust < 0.5 * plain and returned > 400))


def sampling_error(chosen: bool, seeds: int = 50, pulls: int = 100, rate: float = 1.0) -> float:
    """Mean total variation between empirical and policy's choice; chosen: each pull is the behaviour policy's."""
    rng, rule = np.random.default_rng(0), PROPS()
    policy = np.log([0.5, 0.3, 0.2]) + np.zeros((seeds, 1, 3))
    arms = np.zeros((seeds, 0), int)
    for _ in range(pulls):
        behaviour = policy
        for _ in range(rule.epochs if chosen and arms.size else 0):
            behaviour = behaviour - rate * seeds * _slope(rule, behaviour, policy, arms)
        pulled = np.argmax(behaviour + rng.gumbel(size=policy.shape), axis=-1)
        arms = np.concatenate([arms, pulled], axis=1)
    share = np.stack([(arms == arm).mean(1) for arm in range(3)], axis=1)
    return float(0.5 * np.abs(share - np.exp(policy[:, 0])).sum(1).mean())


def _slope(rule: PROPS, behaviour: Array, policy: Array, arms: Array) -> Array:
    """Gradient of the rule's loss on what was pulled, [seeds, pulls], by the behaviour's logits [seeds, 1, 3]."""
    taken = convert(arms, autodiff())
    old = Categorical(convert(np.broadcast_to(policy, (*arms.shape, 3)).copy(), autodiff()))

    def loss(at: dict[str, Array]) -> Array:
        new = Categorical(at["logits"] + 0 * old.logits)
        return rule.loss(Decisions(logp=new.log_prob(taken), logp_old=old.log_prob(taken), dist=new, dist_old=old))

    return convert(value_and_gradient(loss, {"logits": convert(behaviour, autodiff())})[1]["logits"], "NumPy")
