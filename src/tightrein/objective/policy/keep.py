"""Which decisions of a Score keep their gradient: by the ratio, or by how far a probability moved."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, at_least_float32, clip, namespace, zero_where_masked
from ...decisions import Decisions
from ...errors import TightreinError
from ...settings import setting
from .bounds import Bounds, Widths
from .score import Keep

_HAIR = 1e-8  # keeps the logarithm of 1 - p finite at p = 1


@dataclass(frozen=True)
class Bounded(Keep):
    """Base of the rules by bounds of the ratio. arXiv 2509.24203, table 1 (REC)."""

    bounds: Bounds = Widths()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the bounds read."""
        return self.bounds.needs


@dataclass(frozen=True)
class OneSided(Bounded):
    """PPO's own rule: a ratio beyond the bound towards which the advantage pulls is left out, no other."""

    equation = "keep = (A >= 0 and r <= high) or (A <= 0 and r >= low)"

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Keep."""
        low, high = self.bounds(d, r, advantage)
        return ((advantage >= 0) & (r <= high)) | ((advantage <= 0) & (r >= low))


@dataclass(frozen=True)
class TwoSided(Bounded):
    """Only ratios within the bounds, whatever the advantage."""

    equation = "keep = low <= r <= high"

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Keep."""
        low, high = self.bounds(d, r, advantage)
        return (r >= low) & (r <= high) & (advantage == advantage)


@dataclass(frozen=True)
class Ring(TwoSided):
    """Two-sided, and also what lies so far on the wrong side that learning from it brings it back.

    `outer_low` and `outer_high` are widths: below 1 - outer_low good decisions count again, above 1 + outer_high bad
    ones.
    """

    equation = "keep = low <= r <= high, or (A >= 0 and r <= 1 - outer_low), or (A <= 0 and r >= 1 + outer_high)"
    outer_low: float = setting(0.6, above=0)
    outer_high: float = setting(2.0, above=0)

    def check(self) -> None:
        """See Part: the ring lies outside the bounds."""
        inner = self.bounds
        if isinstance(inner, Widths) and (self.outer_low < inner.low or self.outer_high < inner.high):
            raise TightreinError(
                f"the ring at {self.outer_low}, {self.outer_high} lies inside the bounds {inner.low}, {inner.high}",
                "give outer_low >= low and outer_high >= high",
            )

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Keep."""
        below = (advantage >= 0) & (r <= 1 - self.outer_low)
        above = (advantage <= 0) & (r >= 1 + self.outer_high)
        return super().__call__(d, r, advantage) | below | above


@dataclass(frozen=True)
class Moved(Keep):
    """Base of the rules by how far the probability of a decision moved, not by what factor. arXiv 2602.04879 (DPPO).

    They see a decision as one of two outcomes, taken or not, and so the divergence over all others from below. A
    decision is left out where the advantage has pulled it too far already. A density counts as 1 where it is larger:
    for continuous actions these rules say little.
    """

    of_ratio = False
    needs = frozenset({"logp_old"})
    low: float = setting(0.15, above=0)
    high: float = setting(0.15, above=0)

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Keep."""
        mask = d.weights()
        old, new = (clip(zero_where_masked(at_least_float32(x), mask), -1e9, 0.0) for x in (d.logp_old, d.logp))
        far = self.distance(old, new)
        xp = namespace(far)
        return xp.where(advantage > 0, (far <= self.high) | (new <= old), (far <= self.low) | (new >= old))

    def distance(self, old: Array, new: Array) -> Array:
        """How far apart two probabilities are, from their logarithms: elementwise, never negative."""
        raise NotImplementedError


@dataclass(frozen=True)
class BinaryTV(Moved):
    """By the total variation of taken or not: the difference of the two probabilities."""

    equation = "keep = p - p_old <= high if A > 0, else >= -low"

    def distance(self, old: Array, new: Array) -> Array:
        """See Moved."""
        xp = namespace(old)
        return xp.abs(xp.exp(new) - xp.exp(old))


@dataclass(frozen=True)
class BinaryKL(Moved):
    """By the KL divergence of taken or not."""

    equation = "keep = (k <= high or p <= p_old) if A > 0, else (k <= low or p >= p_old),   k = binary KL(p_old || p)"
    low: float = setting(0.05, above=0)
    high: float = setting(0.05, above=0)

    def distance(self, old: Array, new: Array) -> Array:
        """See Moved."""
        xp = namespace(old)
        p, p_old = xp.exp(new), xp.exp(old)
        return p_old * (old - new) + (1 - p_old) * xp.log((1 - p_old + _HAIR) / (1 - p + _HAIR))
