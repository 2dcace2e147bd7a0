"""What the expansion in the ratio and the listwise loss promise."""

from __future__ import annotations

import numpy as np

from ...arrays import double_precision
from ...decisions import Decisions
from ...objective.group import ListwiseObjective
from ...objective.policy import TayPO
from ..batches import method
from ..pin import Shown, shows
from ..pins.expansion import REWARD, STAYS
from .preference import STEPS, fitted
from .solvers import run
from .tabular import Rows, batch, kl, problem

GAMMA, SHIFT = 0.9, 0.04


@shows("taypo")
def taypo() -> Shown:
    """Sampled, the two terms are those of dynamic programming; CartPole is learned."""
    rng, paths, steps = np.random.default_rng(0), 200_000, 60
    q = np.zeros((2, 2))
    for _ in range(500):
        value = q.mean(1)
        q = REWARD + GAMMA * (STAYS * value[1] + (1 - STAYS) * value[0])
    state, rows = np.zeros(paths, int), []
    for _ in range(steps):
        action = rng.integers(0, 2, paths)
        rows.append((0.5 + SHIFT * (2 * action - 1), q[state, action] - q.mean(1)[state]))
        state = (rng.random(paths) < STAYS[state, action]).astype(int)
    policy, advantage = (np.stack(each, axis=1) for each in zip(*rows, strict=True))
    d = Decisions(logp=np.log(policy), logp_old=np.full(policy.shape, np.log(0.5)), advantage=advantage)
    discount = GAMMA ** np.arange(steps)
    first, both = (-(TayPO(order, gamma=1.0)(d) * discount).sum(1).mean() for order in (1, 2))
    summary, _ = run(method="taypo", total_steps=204_800, seeds=4, envs=8, rollout=256)
    returned = summary["eval_return_mean"]
    says = (
        f"first term {first:.4f} (exact 0.2978), second {both - first:.4f} (exact 0.0321) from 200,000 sampled paths; "
        f"return {returned:.0f} of 500 on CartPole after 204,800 steps, 4 seeds"
    )
    near = abs(first / 0.297771 - 1) < 0.05 and abs((both - first) / 0.032056 - 1) < 0.05
    return Shown(says, bool(near and returned > 400))


@shows("adpo_anchored")
@double_precision()
def adpo_anchored() -> Shown:
    """With all answers in the group the policy becomes the old one times q^tau, normalised."""
    given, m = problem(), method("adpo_anchored")
    assert isinstance(m.objective, ListwiseObjective)
    rows, group = Rows(*(x.ravel() for x in np.indices(given.rewards.shape))), np.repeat(np.arange(16), 8)
    d = m.prepare(batch(rows, group, logp_old=given.reference, reward=rows.of(given.rewards)))
    found = fitted(lambda logp: m.loss(d.replace(logp=rows.of(logp)[:, None])).value, given.reference)
    scaled = given.rewards - given.rewards.mean(1, keepdims=True)
    tilt = m.objective.tau * scaled / scaled.std(1, ddof=1, keepdims=True) / m.objective.sharpness
    distance, before = kl(given.optimum(tilt), found), kl(given.optimum(tilt), given.reference)
    return Shown(f"KL to the target {before:.2f} -> {distance:.0e} in {STEPS} steps", distance < 1e-4)
