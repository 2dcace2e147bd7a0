"""Surrogates that cut the ratio."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, atleast, atmost, clip, namespace
from ...decisions import Decisions
from ...settings import setting
from .bounds import Bounds, Widths
from .surrogate import Surrogate


@dataclass(frozen=True)
class Clip(Surrogate):
    """Pessimistic clipping: no gain from moving a ratio further than the bounds. arXiv 1707.06347, eq. 7.

    `dual` holds the loss of a negative advantage at -dual A, so that a ratio that has run away cannot dominate
    (dual clip, arXiv 1912.09729).
    """

    equation = "-min( r A, clip(r, low, high) A )"
    bounds: Bounds = Widths()
    dual: float | None = setting(None, above=1)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the ratio, the advantage and the bounds read."""
        return super().needs | self.bounds.needs

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T], or [B, 1] for a trajectory's ratio."""
        r, advantage = self.ratio(d), self.advantage(d)
        low, high = self.bounds(d, r, advantage)
        return self.within(r, advantage, low, high)

    def within(self, r: Array, advantage: Array, low: Array | float, high: Array | float) -> Array:
        """The loss within these bounds, elementwise."""
        # min(r A, clip(r) A): a good decision gains nothing above the bounds, a bad one nothing below
        bad = atleast(r, low) if self.ceiling is None else clip(r, low, self.ceiling)
        return -atleast(advantage, 0) * atmost(r, high) - atmost(advantage, 0) * bad

    @property
    def ceiling(self) -> Array | float | None:
        """What `within` holds a bad decision's ratio to, where there is a dual clip."""
        return self.dual

    def clipped(self, d: Decisions) -> Array:
        """1 where the ratio is outside the bounds, whatever the sign of the advantage."""
        r = self.ratio(d)
        low, high = self.bounds(d, r, self.advantage(d))
        return namespace(r).astype((r < low) | (r > high), r.dtype)

    def idle(self, d: Decisions) -> Array:
        """See Surrogate: outside the bounds, on the side to which the advantage pulls."""
        r, advantage = self.ratio(d), self.advantage(d)
        low, high = self.bounds(d, r, advantage)
        return (r - clip(r, low, high)) * advantage > 0

    def stats(self, d: Decisions) -> dict[str, Array]:
        """See Surrogate; and what the bounds have to say."""
        return {**super().stats(d), **self.bounds.stats(d, self.ratio(d), self.advantage(d))}
