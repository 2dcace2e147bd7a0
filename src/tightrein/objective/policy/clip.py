"""Surrogates that cut the ratio."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, clip, namespace, stop_gradient
from ...decisions import Decisions
from ...settings import setting
from ..ratio import finite_logp
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
        xp = namespace(r)
        loss = xp.maximum(-r * advantage, -clip(r, low, high) * advantage)
        if self.dual is None:
            return loss
        return xp.where(advantage < 0, xp.minimum(loss, -self.dual * advantage), loss)

    def clipped(self, d: Decisions) -> Array:
        """1 where the ratio is outside the bounds, whatever the sign of the advantage."""
        r = self.ratio(d)
        low, high = self.bounds(d, r, self.advantage(d))
        return namespace(r).astype((r < low) | (r > high), r.dtype)

    def idle(self, d: Decisions) -> Array:
        """See Surrogate: outside the bounds, on the side to which the advantage pulls."""
        r, advantage = self.ratio(d), self.advantage(d)
        low, high = self.bounds(d, r, advantage)
        return ((r < low) & (advantage < 0)) | ((r > high) & (advantage > 0))

    def stats(self, d: Decisions) -> dict[str, Array]:
        """See Surrogate; and what the bounds have to say."""
        return {**super().stats(d), **self.bounds.stats(d, self.ratio(d), self.advantage(d))}


@dataclass(frozen=True)
class Cispo(Surrogate):
    """Clips the importance weight, holds it constant, and keeps every decision's score gradient.

    Source: MiniMax-M1, arXiv 2506.13585. `cap` and `floor` are absolute bounds on the ratio (a width of h
    above 1 is cap = 1 + h). The paper cuts only from above.
    """

    equation = "-sg[ clip(r, floor, cap) ] A logp"
    cap: float = setting(5.0, above=0)
    floor: float = setting(0.0, at_least=0)

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T]."""
        r = stop_gradient(self.ratio(d))
        weight = clip(r, self.floor, self.cap)
        return -weight * self.advantage(d) * finite_logp(d)

    def clipped(self, d: Decisions) -> Array:
        """1 where the weight is cut; the gradient there is smaller, not zero."""
        r = self.ratio(d)
        return namespace(r).astype((r < self.floor) | (r > self.cap), r.dtype)


@dataclass(frozen=True)
class PolicyGradient(Surrogate):
    """REINFORCE: no ratio and no trust region."""

    equation = "-A logp"

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """No old policy in it."""
        return frozenset({"logp", "advantage"})

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T]."""
        return -self.advantage(d) * finite_logp(d)
