"""Clip bounds that keep positive advantages a share of what is learned from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...arrays import Array, at_least_float32, atleast, clip, namespace, spread, stop_gradient, zero_where_masked
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

    def check(self) -> None:
        """See Part: the bounds can only climb."""
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
        low, lifted, high = (batch.number(x) for x in (self.low, self.low_max, self.high))
        if self.lower_first:
            low = xp.where(self._enough(batch.gain(high), batch.cost(low)), low, lifted)
        cost = batch.cost(low)
        high = self._least_high(batch, cost)
        return xp.where(self._enough(batch.gain(high), cost), low, lifted), high

    def _enough(self, gain: Array, cost: Array) -> Array:
        """Whether the positive advantages hold their share: a boolean scalar."""
        return (1 - self.share) * gain >= self.share * cost

    def _least_high(self, batch: _Batch, cost: Array) -> Array:
        """The lowest upper bound on the grid that reaches the share, or the highest there is: a scalar.

        The share rises with it, so that halving the grid finds what climbing it would.
        """
        xp, short = namespace(cost), batch.number(0)  # how many steps do not reach it, as far as is known
        steps = math.ceil((self.high_max - self.high) / self.high_step - 1e-9)
        for half in reversed([2**k for k in range(steps.bit_length())]):
            reached = self._enough(batch.gain(self._high_at(short + (half - 1))), cost)
            short = xp.where(reached, short, short + half)
        return self._high_at(short)

    def _high_at(self, step: Array) -> Array:
        return clip(self.high + step * self.high_step, self.high, self.high_max)

    def stats(self, d: Decisions, r: Array, advantage: Array) -> dict[str, Array]:
        """The bounds, and the share of positive advantages: before, after, and among what keeps its gradient."""
        low, high = self(d, r, advantage)
        batch = _Batch(self, d, r, advantage)
        return {
            "clip_low": low,
            "clip_high": high,
            "positive_share_start": _share(batch.gain(batch.number(self.high)), batch.cost(batch.number(self.low))),
            "positive_share": _share(batch.gain(high), batch.cost(low)),
            "positive_share_unclipped": _share(*batch.unclipped(low, high)),
        }


class _Batch:
    """Ratios and weighted advantages of a batch, by sign, without gradient; all [B, T] and not negative."""

    def __init__(self, rule: BalancedBounds, d: Decisions, r: Array, advantage: Array) -> None:
        mask = d.weights()
        self.r = spread(stop_gradient(r), mask)
        weight = exp_limited(at_least_float32(stop_gradient(d.logp_old))) if rule.weighted else 1.0
        weighted = zero_where_masked(spread(stop_gradient(advantage), mask) * weight, mask)
        self.positive, self.negative = atleast(weighted, 0), atleast(-weighted, 0)

    def number(self, x: float) -> Array:
        """A scalar array."""
        return namespace(self.r).full_like(self.r[0, 0], x)

    def gain(self, high: Array) -> Array:
        """What positive advantages add to the clipped objective: a scalar."""
        xp = namespace(self.r)
        return xp.sum(self.positive * xp.minimum(self.r, high))

    def cost(self, low: Array) -> Array:
        """What negative advantages take from it: a scalar."""
        xp = namespace(self.r)
        return xp.sum(self.negative * xp.maximum(self.r, low))

    def unclipped(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Both, of those decisions alone whose ratio is within its bound: scalars."""
        xp = namespace(self.r)
        gain, cost = (self.positive, self.r <= high), (self.negative, self.r >= low)
        return tuple(xp.sum(zero_where_masked(weight * self.r, within)) for weight, within in (gain, cost))


def _share(gain: Array, cost: Array) -> Array:
    """Share of the positive advantages: a scalar; 1 where nothing is negative."""
    xp, total = namespace(gain), gain + cost
    return xp.where(cost > 0, gain / xp.where(total > 0, total, xp.ones_like(total)), xp.ones_like(total))
