"""Credit from comparing the answers to one prompt: no value estimate needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..arrays import Array, atleast, clip, group_sum, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..errors import TightreinError
from ..settings import setting
from .base import Credit


def moments(d: Decisions) -> tuple[Array, Array, Array]:
    """Reward minus its group's mean, group size, unbiased group deviation: [B] each.

    An answer without a decision (all masked) takes no part.
    """
    xp = namespace(d.weights())
    reward = stop_gradient(d.outcome())
    living = d.alive()
    size = group_sum(living, d.group)
    mean = group_sum(reward * living, d.group) / atleast(size, 1)
    centred = (reward - mean) * living
    # A mean of equal numbers need not equal them to the last digit; such a group must still give exactly 0.
    centred = xp.where(xp.abs(centred) <= 4 * xp.finfo(reward.dtype).eps * xp.abs(mean), centred * 0, centred)
    deviation = xp.sqrt(group_sum(centred**2, d.group) / atleast(size - 1, 1))
    return centred, size, deviation


def spread(d: Decisions, per_answer: Array) -> Decisions:
    """The decisions with one advantage per answer, [B], given to all of its decisions."""
    mask = d.weights()
    xp = namespace(mask)
    return d.replace(advantage=zero_where_masked(per_answer[:, None] + xp.zeros_like(mask), mask))


@dataclass(frozen=True)
class GroupNormalised(Credit):
    """Reward minus the group's mean over the group's deviation (unbiased). arXiv 2402.03300.

    A group of one has no spread to measure: its advantage is its reward, as in verl.
    """

    equation = "A_i = (R_i - mean_g) / (std_g + eps)"
    needs = frozenset({"reward", "group"})
    eps: float = setting(1e-6, at_least=0)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        xp = namespace(d.weights())
        centred, size, deviation = moments(d)
        scaled = centred / xp.where(deviation > 0, deviation + self.eps, xp.ones_like(deviation))
        return spread(d, xp.where(size == 1, stop_gradient(d.outcome()), scaled))


@dataclass(frozen=True)
class GroupCentred(Credit):
    """Reward minus the group's mean, not scaled: no bias by difficulty. arXiv 2503.20783 (Dr. GRPO).

    A group of one has advantage 0, as in TRL; in verl it is the reward.
    """

    equation = "A_i = R_i - mean_g"
    needs = frozenset({"reward", "group"})
    least = 2  # answers to a prompt below which nothing is learned

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        return spread(d, moments(d)[0])


@dataclass(frozen=True)
class LeaveOneOut(Credit):
    """Reward minus the mean of the group's other answers. arXiv 2402.14740 (RLOO).

    A group of one has no others: its advantage is 0, as in TRL.
    """

    equation = "A_i = R_i - mean of the others = G/(G-1) (R_i - mean_g)"
    needs = frozenset({"reward", "group"})
    least = 2  # see GroupCentred

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        centred, size, _ = moments(d)
        return spread(d, centred * size / atleast(size - 1, 1))


@dataclass(frozen=True)
class InformativeScaled(Credit):
    """Another credit's advantages times the share of groups that teach, inverted: a batch weighs the same with fewer.

    A group teaches where its rewards differ. The factor is at most `cap`, and 1 where no group does. Sources: GPG,
    arXiv 2504.02546 (no cap); CPGD, arXiv 2505.12504 (cap 3).
    """

    equation = "A times min( groups / groups with std_g(R) > 0, cap )"
    credit: Credit = GroupCentred()
    cap: float = setting(math.inf, at_least=1)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the other reads, and the rewards of the groups."""
        return self.credit.needs | {"reward", "group"}

    def check(self) -> None:
        """See Part: what remembers prompts is no comparison within groups."""
        if self.credit.init(1) is not None:
            raise TightreinError(
                f"InformativeScaled scales advantages of groups, and {type(self.credit).__name__} compares no group",
                "set credit.credit=GroupCentred, or leave InformativeScaled out",
            )

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        scaled = self.credit(d)
        return scaled.replace(advantage=scaled.advantage * self.factor(d))

    def factor(self, d: Decisions) -> Array:
        """Groups over groups with different rewards, at most `cap` (a scalar)."""
        _, size, deviation = moments(d)
        xp = namespace(size)
        each = d.alive() / atleast(size, 1)  # the answers of a group make 1
        teaching = xp.sum(zero_where_masked(each, deviation > 0))
        none = teaching == 0
        factor = xp.sum(each) / xp.where(none, xp.ones_like(teaching), teaching)
        return xp.where(none, xp.ones_like(factor), clip(factor, 1, self.cap))
