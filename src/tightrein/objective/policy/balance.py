"""Clip bounds that keep positive advantages a share of what is learned from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...arrays import Array, at_least_float32, atleast, clip, namespace, stop_gradient, zero_where_masked
from ...decisions import Decisions
from ...errors import TightreinError
from ...settings import setting
from ..ratio import exp_limited
from .bounds import Bounds


@dataclass(frozen=True)
class BalancedBounds(Bounds):
    """Widens the bounds, anew for each batch, until positive advantages hold a share of the clipped objective.

    With P(high) = sum w A min(r, high) over A > 0 and N(low) = sum w |A| max(r, low) over A < 0 the share is
    P / (P + N). The upper bound climbs from `high` to `high_max` in steps of `high_step`, the lower one from `low` to
    `low_max`, until the share is reached. N grows with the lower bound, so raising it never helps: it is either never
    raised or ends at `low_max`, whatever its step. What it does is to take the gradient of more negative decisions.

    Source: BAPO, arXiv 2510.18927, algorithm 1: the upper bound first, w = pi_old(a). The released code moves the
    lower bound first (`lower_first`) and has w = 1 (`weighted`). With several processes each sees its own part.
    """

    equation = "least c_high, c_low with sum_{A>0} w A min(r, c_high) >= share sum w |A| (clipped r)"
    low: float = setting(0.6, at_least=0, at_most=1)
    low_max: float = setting(0.9, at_least=0, at_most=1)
    high: float = setting(1.2, at_least=1)
    high_max: float = setting(3.0, at_least=1)
    high_step: float = setting(0.05, above=0)
    share: float = setting(0.4, at_least=0, below=1)
    lower_first: bool = False
    weighted: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.low_max or self.high > self.high_max:
            raise TightreinError(
                f"the bounds cannot climb from {self.low}, {self.high} to {self.low_max}, {self.high_max}",
                "give low <= low_max and high <= high_max",
            )

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The old log-probabilities, where they are the weights."""
        return frozenset({"logp_old"}) if self.weighted else frozenset()

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> tuple[Array, Array]:
        """See Bounds: two scalars."""
        batch = _Batch(self, d, r, advantage)
        xp = namespace(r)
        start, lifted = batch.number(self.low), batch.number(self.low_max)
        enough = batch.share(start, batch.number(self.high)) >= self.share
        low = xp.where(enough, start, lifted) if self.lower_first else start
        high = self._least_high(batch, low)
        return xp.where(batch.share(low, high) < self.share, lifted, low), high

    def _least_high(self, batch: _Batch, low: Array) -> Array:
        """The lowest upper bound on the grid that reaches the share, or the highest there is: a scalar.

        The share rises with it, so that halving the grid finds what climbing it would.
        """
        xp = namespace(low)
        steps = math.ceil((self.high_max - self.high) / self.high_step - 1e-9)
        below, above = batch.number(-1), batch.number(steps)  # `below` does not reach it, as far as is known
        for _ in range(math.ceil(math.log2(steps + 1))):
            middle = xp.floor((below + above) / 2)
            reached = batch.share(low, self._high_at(middle)) >= self.share
            below, above = xp.where(reached, below, middle), xp.where(reached, middle, above)
        return self._high_at(above)

    def _high_at(self, step: Array) -> Array:
        return clip(self.high + step * self.high_step, self.high, self.high_max)

    def stats(self, d: Decisions, r: Array, advantage: Array) -> dict[str, Array]:
        """The bounds, and the share of positive advantages: before, after, and among what keeps its gradient."""
        low, high = self(d, r, advantage)
        batch = _Batch(self, d, r, advantage)
        return {
            "clip_low": low,
            "clip_high": high,
            "positive_share_start": batch.share(batch.number(self.low), batch.number(self.high)),
            "positive_share": batch.share(low, high),
            "positive_share_unclipped": batch.share_unclipped(low, high),
        }


class _Batch:
    """Ratios and weighted advantages of a batch, by sign, without gradient; all [B, T] and not negative."""

    def __init__(self, rule: BalancedBounds, d: Decisions, r: Array, advantage: Array) -> None:
        mask = d.weights()
        self.r = stop_gradient(r) + namespace(mask).zeros_like(mask)
        weight = exp_limited(zero_where_masked(at_least_float32(d.logp_old), mask)) if rule.weighted else 1.0
        weighted = zero_where_masked(stop_gradient(advantage) * weight + 0 * self.r, mask)
        self.positive, self.negative = atleast(weighted, 0), atleast(-weighted, 0)

    def number(self, x: float) -> Array:
        """A scalar array."""
        return namespace(self.r).full_like(self.r[0, 0], x)

    def share(self, low: Array, high: Array) -> Array:
        """Share of the positive advantages in the clipped objective: a scalar; 1 where nothing is negative."""
        xp = namespace(self.r)
        return self._share(xp.minimum(self.r, high), xp.maximum(self.r, low))

    def share_unclipped(self, low: Array, high: Array) -> Array:
        """The same of those decisions alone whose ratio is within its bound: a scalar."""
        return self._share(zero_where_masked(self.r, self.r <= high), zero_where_masked(self.r, self.r >= low))

    def _share(self, rising: Array, falling: Array) -> Array:
        xp = namespace(self.r)
        positive, negative = xp.sum(self.positive * rising), xp.sum(self.negative * falling)
        total = positive + negative
        return xp.where(negative > 0, positive / xp.where(total > 0, total, xp.ones_like(total)), xp.ones_like(total))
