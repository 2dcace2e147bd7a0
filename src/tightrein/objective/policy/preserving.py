"""Clips that keep a gradient beyond their bounds."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, namespace, stop_gradient
from ...decisions import Decisions
from ...settings import setting
from .bounds import Bounds, Widths
from .clip import Clip


@dataclass(frozen=True)
class PreservingClip(Clip):
    """Pessimistic clipping in which a bound moves with the ratio, so that a clipped decision keeps its score gradient.

    Beyond the lower bound (bad decisions) that gradient is `below` times the bound, beyond the upper one (good
    decisions) `above` times; both 1: GPPO, arXiv 2508.07629, with the values of Clip. Other numbers: CE-GPPO, arXiv
    2509.20712; they scale the value of clipped decisions too. `dual` takes the gradient of what lies beyond it.
    """

    equation = "-A m,   m = b k r / sg[r] beyond the bound b (k = below, above), else r"
    bounds: Bounds = Widths(0.2, 0.28)
    below: float = setting(1.0, at_least=0)
    above: float = setting(1.0, at_least=0)

    def __call__(self, d: Decisions) -> Array:
        """See Clip."""
        r, advantage = self.ratio(d), self.advantage(d)
        low, high = self.bounds(d, r, advantage)
        xp, held = namespace(r), stop_gradient(r)
        lower = xp.where((held < low) & (advantage < 0), self.below * low, held)
        kept = xp.where((held > high) & (advantage > 0), self.above * high, lower)
        return self._limited(-advantage * kept * (r / held), advantage)

    def _limited(self, loss: Array, advantage: Array) -> Array:
        """The loss under the dual clip, where there is one."""
        if self.dual is None:
            return loss
        xp = namespace(loss)
        return xp.where(advantage < 0, xp.minimum(loss, -self.dual * advantage), loss)

    def idle(self, d: Decisions) -> Array:
        """See Surrogate: only what the dual clip takes, or a factor of 0."""
        r, advantage = self.ratio(d), self.advantage(d)
        low, high = self.bounds(d, r, advantage)
        gone = advantage != advantage
        if self.dual is not None:
            gone = gone | ((r > self.dual) & (advantage < 0))
        if self.below == 0:
            gone = gone | ((r < low) & (advantage < 0))
        return gone | ((r > high) & (advantage > 0)) if self.above == 0 else gone
