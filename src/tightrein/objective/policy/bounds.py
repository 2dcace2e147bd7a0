"""Where a clipped ratio is cut."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array
from ...decisions import Decisions
from ...settings import Part, setting


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
