"""Selection of whole answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, group_sum, namespace
from ..decisions import Decisions
from ..settings import Part, setting


@dataclass(frozen=True)
class Selection(Part):
    """Base of the rules that drop trajectories: their mask becomes 0."""

    def keep(self, d: Decisions) -> Array:
        """Which trajectories stay: [B] booleans."""
        raise NotImplementedError

    def wanted(self, d: Decisions) -> Array:
        """Which trajectories an engine goes on asking for, where it asks for more than one round: [B] booleans."""
        return self.keep(d)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """Decisions in which the dropped trajectories are masked."""
        mask = d.weights()
        return d.replace(mask=mask * namespace(mask).astype(self.keep(d), mask.dtype)[:, None])


@dataclass(frozen=True)
class DynamicSampling(Selection):
    """Drops the groups whose answers all earned the same: they carry no advantage. arXiv 2503.14476 (DAPO).

    An engine that can sample keeps asking for prompts, at most `rounds` times, until its batch is full of
    groups that stay.
    """

    equation = "keep a group only if std_g(R) > 0"
    needs = frozenset({"reward", "group"})
    least = 2  # answers to a prompt below which nothing is kept
    rounds: int = setting(10, at_least=1)

    def keep(self, d: Decisions) -> Array:
        """See Selection."""
        xp = namespace(d.weights())
        reward = d.outcome()
        size = group_sum(xp.ones_like(reward), d.group)
        centred = reward - group_sum(reward, d.group) / size
        spread = group_sum(xp.abs(centred), d.group) / size
        return spread > 16 * xp.finfo(reward.dtype).eps * group_sum(xp.abs(reward), d.group) / size


@dataclass(frozen=True)
class ThresholdResampling(DynamicSampling):
    """Drops nothing, but wants a share of the groups to carry an advantage. arXiv 2504.02546 (GPG).

    An engine that can sample keeps asking for prompts, at most `rounds` times, until that share of its batch is there,
    and fills the batch with the groups that were asked in vain.
    """

    equation = "ask again while std_g(R) > 0 in less than `share` of the groups"
    share: float = setting(0.6, above=0, at_most=1)

    def keep(self, d: Decisions) -> Array:
        """See Selection."""
        xp = namespace(d.group)
        return xp.ones_like(d.group, dtype=xp.bool)

    def wanted(self, d: Decisions) -> Array:
        """See Selection."""
        return super().keep(d)


@dataclass(frozen=True)
class DropTruncated(Selection):
    """Drops answers that were cut off at the generation limit (DAPO's overlong filtering)."""

    equation = "mask = 0 for truncated answers"
    needs = frozenset({"truncated"})

    def keep(self, d: Decisions) -> Array:
        """See Selection."""
        xp = namespace(d.truncated)
        return ~xp.any(d.truncated != 0, axis=1)
