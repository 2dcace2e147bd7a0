"""Surrogates that cut the ratio."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, clip, namespace, stop_gradient
from ...decisions import Decisions
from ...settings import setting
from ..ratio import log_difference
from .surrogate import Surrogate


@dataclass(frozen=True)
class Clip(Surrogate):
    """Pessimistic clipping: no gain from moving a ratio further than the bounds. arXiv 1707.06347, eq. 7.

    `low` and `high` are the widths below and above 1; PPO has them equal, DAPO has high > low.
    """

    equation = "-min( r A, clip(r, 1 - low, 1 + high) A )"
    low: float = setting(0.2, above=0)
    high: float = setting(0.2, above=0)

    def formula(self, r: Array, advantage: Array) -> Array:
        """See Surrogate."""
        cut = clip(r, 1 - self.low, 1 + self.high)
        return namespace(r).maximum(-r * advantage, -cut * advantage)

    def clipped(self, r: Array, advantage: Array) -> Array:
        """1 where the ratio is outside the bounds, whatever the sign of the advantage."""
        return namespace(r).astype((r < 1 - self.low) | (r > 1 + self.high), r.dtype)


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
        return -weight * self.advantage(d) * score(d)

    def formula(self, r: Array, advantage: Array) -> Array:
        """The loss as a function of the ratio alone, with logp_old = 0, for plots."""
        xp = namespace(r)
        return -stop_gradient(clip(r, self.floor, self.cap)) * advantage * xp.log(r)

    def clipped(self, r: Array, advantage: Array) -> Array:
        """1 where the weight is cut; the gradient there is smaller, not zero."""
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
        return -self.advantage(d) * score(d)

    def formula(self, r: Array, advantage: Array) -> Array:
        """The loss as a function of the ratio alone, with logp_old = 0, for plots."""
        return -advantage * namespace(r).log(r)


def score(d: Decisions) -> Array:
    """The log-probability where it counts, 0 where masked, never infinite: [B, T]."""
    return log_difference(d.logp, namespace(d.logp).zeros_like(d.logp), d.weights())
