"""Credit from a prompt's own history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, atleast, namespace, scatter_sum, stop_gradient
from ..decisions import Decisions
from .base import Credit
from .group import moments, spread
from .memory import known


@dataclass(frozen=True)
class SmoothStandardised(Credit):
    """Standardised by the present group and by all groups of the prompt so far. arXiv 2509.02333 (DCPO), section 3.2.

    Both advantages are mixed with weights that move from the one to the other, both ways round, and the mixture
    nearer to 0 counts. A group whose answers all earned the same still learns from what the prompt earned before.
    The memory holds [P] numbers of groups seen, and mean and deviation over them, groups weighing alike. Several
    groups of one prompt in a batch are remembered as if they had come one after another; the order does not matter.
    """

    equation = "A_i = the smaller of (i-1)/i A_new + 1/i A_tot and 1/i A_new + (i-1)/i A_tot;  A_* = (R - m_*) / s_*"
    needs = frozenset({"reward", "group", "prompt"})

    def init(self, prompts: int) -> dict[str, Array]:
        """Nothing is known of any prompt."""
        return {name: np.zeros(prompts) for name in ("count", "mean", "deviation")}

    def update(self, state: Mapping[str, Array], decisions: Decisions, progress: Any) -> dict[str, Array]:
        """Remember the groups of this batch."""
        return _with(known(state, decisions), decisions)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        memory = _with(known(state, d), d)
        visits, mean, deviation = (memory[name][d.prompt] for name in ("count", "mean", "deviation"))
        reward = stop_gradient(d.outcome())
        centred, _, own_deviation = moments(d)
        new = _over(centred, own_deviation)
        total = _over(_difference(reward, mean), deviation) * d.alive()
        share = 1 / atleast(visits, 1)
        mostly_new, mostly_total = (1 - share) * new + share * total, share * new + (1 - share) * total
        xp = namespace(new)
        return spread(d, xp.where(xp.abs(mostly_new) < xp.abs(mostly_total), mostly_new, mostly_total))


def _with(memory: dict[str, Array], d: Decisions) -> dict[str, Array]:
    """The memory with the groups of this batch in it: running mean and variance, merged."""
    count, mean, deviation = memory["count"], memory["mean"], memory["deviation"]
    xp, living = namespace(count), d.alive()
    centred, size, spread_of_group = moments(d)
    group_mean = (stop_gradient(d.outcome()) - centred) * living
    weight = living / atleast(size, 1)  # a group's answers together weigh 1

    def per_prompt(x: Array) -> Array:
        return scatter_sum(weight * x, d.prompt, count.shape[0])

    visits = per_prompt(xp.ones_like(weight))
    present = per_prompt(group_mean) / atleast(visits, 1)
    inside = per_prompt(spread_of_group**2 + _difference(group_mean, present[d.prompt]) ** 2)
    together = atleast(count + visits, 1)
    between = count * visits / together * _difference(present, mean) ** 2
    moved = mean + visits / together * _difference(present, mean)
    variance = (count * deviation**2 + inside + between) / together
    seen = visits > 0
    return {
        "count": count + visits,
        "mean": xp.where(seen, moved, mean),
        "deviation": xp.where(seen, xp.sqrt(variance), deviation),
    }


def _difference(x: Array, y: Array) -> Array:
    """x - y, and exactly 0 where they are the same but for rounding."""
    xp = namespace(x)
    difference = x - y
    rounding = 16 * xp.finfo(difference.dtype).eps * (xp.abs(x) + xp.abs(y))
    return xp.where(xp.abs(difference) <= rounding, xp.zeros_like(difference), difference)


def _over(x: Array, deviation: Array) -> Array:
    xp = namespace(x)
    return xp.where(deviation > 0, x / xp.where(deviation > 0, deviation, xp.ones_like(deviation)), xp.zeros_like(x))
