"""What natural policy gradients and the trust region for values promise, shown by short runs."""

from __future__ import annotations

import numpy as np

from ...arrays import Array
from ..pin import Shown, shows
from ..pins.natural import natural, softmax
from .solvers import column, run

GAMMA, RATE = 0.9, 0.5


class Decision:
    """A random decision process of 10 states and 3 actions, solved by linear algebra; it begins anywhere."""

    def __init__(self, seed: int, states: int = 10, actions: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.reward = rng.random((states, actions))
        self.move = rng.dirichlet(np.ones(states), (states, actions))

    def values(self, policy: Array) -> tuple[Array, Array, Array]:
        """(V [S], Q [S, A], discounted visits [S, 1], which sum to 1 / (1 - gamma)) of a policy [S, A]."""
        states = len(policy)
        moves = np.einsum("sa,sat->st", policy, self.move)
        v = np.linalg.solve(np.eye(states) - GAMMA * moves, (policy * self.reward).sum(-1))
        visits = np.linalg.solve(np.eye(states) - GAMMA * moves.T, np.full(states, 1 / states))
        return v, self.reward + GAMMA * self.move @ v, visits[:, None]

    def best(self) -> float:
        """The mean value of the best policy, over the states."""
        v = np.zeros(len(self.reward))
        for _ in range(500):
            v = (self.reward + GAMMA * self.move @ v).max(-1)
        return float(v.mean())


@shows("npg")
def npg() -> Shown:
    """Exact steps on random decision processes rise to the optimum as the theorem says; most seeds solve CartPole.

    Nothing holds a single step back, so a seed may lose what it had: the median counts.
    """
    worst, rose, last = 0.0, True, 0.0
    for seed in range(5):
        task, logits, reached = Decision(seed), np.zeros((10, 3)), []
        for step in range(1, 101):
            _, q, visits = task.values(softmax(logits))
            logits = logits + RATE / (1 - GAMMA) * natural(logits, q, visits)
            reached.append(float(task.values(softmax(logits))[0].mean()))
            bound = np.log(3) / (RATE * step) + 1 / ((1 - GAMMA) ** 2 * step)
            worst = max(worst, (task.best() - reached[-1]) / bound)
        rose = rose and bool(np.all(np.diff(reached) >= -1e-12))
        last = max(last, task.best() - reached[9])
    summary, lines = run(method="npg", total_steps=51_200, seeds=5)
    kl, returned = column(lines, "kl_step"), sorted(summary["eval_return"])
    says = (
        f"exact steps on 5 random decision processes of 10 states: every one rises, {last:.4f} from the optimum after "
        f"10 at most, the gap never more than {worst:.1%} of the theorem's bound; CartPole from {returned[0]:.0f} to "
        f"{returned[-1]:.0f}, {np.median(returned):.0f} in the median of 5 seeds, after 50 updates; mean KL "
        f"{np.median(kl):.4f} in the median, {kl.max():.4f} at most for delta 0.01"
    )
    return Shown(says, bool(rose and worst <= 1 and np.median(returned) >= 475))


@shows("gae_value_trust_region")
def gae_value_trust_region() -> Shown:
    """Every fit of the value network lowers the error within its bound, and CartPole is solved."""
    summary, lines = run(method="gae_value_trust_region", total_steps=51_200, seeds=2)
    constraint, share = column(lines, "value_constraint"), column(lines, "value_step")
    before, after = column(lines, "explained_variance_before"), column(lines, "explained_variance")
    returned = summary["eval_return_mean"]
    says = (
        f"{len(constraint)} fits on CartPole: largest measured constraint {constraint.max():.4f} for epsilon 0.1, "
        f"{np.mean(share == 1):.0%} of the steps taken whole; explained variance {before.mean():.2f} -> "
        f"{after.mean():.2f} in the mean of a fit; return {returned:.0f} of 500 after 50 updates of 1,024 steps"
    )
    return Shown(says, bool(constraint.max() <= 0.11 and share.min() > 0 and returned >= 475))
