"""Clip bounds that stretch with the quality of the signal."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, atleast, atmost, group_sum, masked_mean, namespace, spread, stop_gradient
from ...decisions import Decisions
from ...settings import setting, switched_on
from .bounds import Bounds


@dataclass(frozen=True)
class ElasticBounds(Bounds):
    """Bounds that widen with the size of the advantage (micro) and with the variance of its group's rewards (macro).

    m = |A| over the batch's largest; v = 4 p (1 - p) for a group in which a share p is right, in general 4 Var(R) /
    span^2 with the `span` between the worst and the best reward, at most 1. No width exceeds `widest`. The paper states
    the two dependences; this form is ours. Source: ETR, arXiv 2601.03723.
    """

    equation = "[1 - low k, 1 + high k],   k = (1 + micro |A| / max|A|) (1 + macro 4 Var_g(R) / span^2)"
    low: float = setting(0.2, above=0)
    high: float = setting(0.28, above=0)
    micro: float = setting(0.5, at_least=0)
    macro: float = setting(0.5, at_least=0)
    widest: float = setting(0.5, above=0, at_most=1)
    span: float = setting(1.0, above=0)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Rewards and groups, unless macro = 0."""
        return frozenset({"reward", "group"}) if switched_on(self.macro) else frozenset()

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> tuple[Array, Array]:
        """See Bounds: in the shape of the advantage."""
        xp, size = namespace(r), namespace(r).abs(stop_gradient(advantage))
        most = xp.max(size)
        base = 1 + self.macro * self.variance(d)[:, None] if switched_on(self.macro) else 1.0
        slope = base * self.micro / xp.where(most > 0, most, 1)
        low = atleast((1 - self.low * base) - self.low * slope * size, 1 - self.widest)
        return low, atmost((1 + self.high * base) + self.high * slope * size, 1 + self.widest)

    def variance(self, d: Decisions) -> Array:
        """v of each trajectory's group, in [0, 1]: [B]."""
        alive, reward = d.alive(), d.outcome()
        count = atleast(group_sum(alive, d.group), 1)
        centred = alive * (reward - group_sum(alive * reward, d.group) / count)
        found = 4 * group_sum(centred**2, d.group) / count / self.span**2
        return atmost(found, 1)

    def stats(self, d: Decisions, r: Array, advantage: Array) -> dict[str, Array]:
        """The mean width above 1."""
        _, high = self(d, r, advantage)
        mask = d.weights()
        return {"clip_width": masked_mean(spread(high - 1, mask), mask)}
