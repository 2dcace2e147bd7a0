"""What a surrogate is: a loss per decision (or per trajectory) from the ratio and the advantage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...arrays import Array, at_least_float32, masked_mean, namespace, spread, zero_where_masked
from ...decisions import Decisions
from ...settings import Part
from ..ratio import Ratio, TokenRatio


@dataclass(frozen=True)
class Surrogate(Part):
    """Base of the policy surrogates: -1 times what the policy gains, per decision, to minimise.

    Every surrogate runs at every level: `ratio` says whether it sees one ratio per decision or one per
    trajectory. A trajectory's loss has shape [B, 1] and counts for each of its decisions.
    """

    paired: ClassVar[bool] = False  # whether the loss of a decision depends on others of its trajectory
    ratio: Ratio = field(default=TokenRatio(), kw_only=True)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the surrogate reads."""
        return frozenset({"logp", "advantage"}) | self.ratio.needs

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: a level other than that of decisions is for those that read a ratio."""
        if isinstance(self.ratio, TokenRatio) or self.ratio.needs <= self.needs:
            return None
        return f"{type(self).__name__} has no ratio that {type(self.ratio).__name__} could form", "leave its ratio out"

    def formula(self, r: Array, advantage: Array) -> Array:
        """The loss as a function of ratio and advantage alone, elementwise, where it is one."""
        raise NotImplementedError(f"{type(self).__name__} needs a formula(r, advantage), or a __call__(d) of its own")

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision [B, T], or per trajectory [B, 1]."""
        return self.formula(self.ratio(d), self.advantage(d))

    def given(self, state: Any) -> Callable[[Decisions], Array]:
        """The surrogate as a function of the decisions, where it keeps something: `state` (None: as at the start)."""
        return self

    def figures(self, d: Decisions, state: Any) -> dict[str, Array]:
        """Named scalars about what it keeps."""
        return {}

    def advantage(self, d: Decisions) -> Array:
        """The advantage at the level of the ratio, the mean over the decisions that share one: [B, T] or [B, 1]."""
        return self.ratio.average(own_advantage(d), d)

    def clipped(self, d: Decisions) -> Array:
        """1 where the trust region is active, at the level of the ratio: [B, T] or [B, 1]."""
        return namespace(d.logp).zeros_like(self.advantage(d))

    def idle(self, d: Decisions) -> Array:
        """Whether the trust region took the whole gradient, at the level of the ratio: booleans [B, T] or [B, 1]."""
        advantage = self.advantage(d)
        return advantage != advantage

    def stats(self, d: Decisions) -> dict[str, Array]:
        """Named scalars about what the surrogate did, beside those that every policy loss has."""
        clipped, mask = self.clipped(d), d.weights()
        return {"clip_fraction": masked_mean(clipped, mask if clipped.shape == mask.shape else d.alive()[:, None])}


def own_advantage(d: Decisions) -> Array:
    """The advantage of each decision, 0 where masked: [B, T]."""
    mask = d.weights()
    return zero_where_masked(spread(at_least_float32(d.advantage), mask), mask)
