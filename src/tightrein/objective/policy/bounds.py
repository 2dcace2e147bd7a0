"""Where a clipped ratio is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays import Array, at_least_float32, atleast, namespace, stop_gradient, zero_where_masked
from ...decisions import Decisions
from ...settings import Part, setting
from ..ratio import SequenceRatio, exp_limited


@dataclass(frozen=True)
class Bounds(Part):
    """Base of the rules for the bounds of the ratio."""

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> tuple[Array | float, Array | float]:
        """(lower, upper) bound as absolute ratios, numbers or [B, T]; no gradient.

        r, advantage: at the level of the surrogate, [B, T] or [B, 1].
        """
        raise NotImplementedError

    def stats(self, d: Decisions, r: Array, advantage: Array) -> dict[str, Array]:
        """Named scalars about the bounds, where they are worth watching."""
        return {}


@dataclass(frozen=True)
class Widths(Bounds):
    """Constant widths below and above 1; PPO has them equal, DAPO has high > low."""

    equation = "[1 - low, 1 + high]"
    low: float = setting(0.2, above=0)
    high: float = setting(0.2, above=0)

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> tuple[float, float]:
        """See Bounds."""
        return 1 - self.low, 1 + self.high


@dataclass(frozen=True)
class ProbabilityBounds(Bounds):
    """Bounds that widen for decisions of small old probability q. arXiv 2509.02333 (DCPO), section 3.1.

    They follow from |r - 1| r q <= epsilon. Below 1 they stop at 1/2, above at `cap`.
    """

    equation = "[ 1/2 + 1/2 sqrt(max(1 - 4 low/q, 0)),  min(1/2 + 1/2 sqrt(1 + 4 high/q), cap) ]"
    needs = frozenset({"logp_old"})
    low: float = setting(0.16, above=0)
    high: float = setting(0.2, above=0)
    cap: float = setting(10.0, above=1)

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: they follow from the probability of a single decision."""
        if not isinstance(objective.surrogate.ratio, SequenceRatio):
            return None
        return (
            "ProbabilityBounds are those of single decisions, not of whole answers",
            "set bounds=Widths, or a TokenRatio",
        )

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> tuple[Array, Array]:
        """See Bounds."""
        logp = stop_gradient(zero_where_masked(at_least_float32(d.logp_old), d.weights()))
        xp, rarity = namespace(logp), exp_limited(-logp)  # 1/q
        lower = 0.5 + 0.5 * xp.sqrt(atleast(1 - 4 * self.low * rarity, 0))
        upper = 0.5 + 0.5 * xp.sqrt(1 + 4 * self.high * rarity)
        return lower, xp.where(upper < self.cap, upper, xp.full_like(upper, self.cap))
