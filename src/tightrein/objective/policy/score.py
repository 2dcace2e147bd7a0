"""Surrogates with the gradient of the log-probability: REINFORCE, weighed and masked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ...arrays import Array, clip, namespace, stop_gradient
from ...decisions import Decisions
from ...errors import TightreinError
from ...settings import Part, setting
from ..ratio import exp_limited, finite_logp
from .surrogate import Surrogate, own_advantage


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
        return self.coefficient(d) * finite_logp(d)

    def coefficient(self, d: Decisions) -> Array:
        """d loss / d logp of each decision, without gradient: [B, T]."""
        return -self.advantage(d)


@dataclass(frozen=True)
class Weight(Part):
    """Base of the weights of a Score."""

    of_ratio: ClassVar[bool] = True  # whether it reads the ratio

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """The weight of each decision, [B, T] or [B, 1].

        r: the ratio, [B, T] or [B, 1], or None where `of_ratio` is False; advantage: [B, T]. Nothing here has a
        gradient.
        """
        raise NotImplementedError

    def cut(self, r: Array) -> Array | None:
        """Where the weight is held to a bound, as booleans in the shape of r; None: it has none."""
        return None


@dataclass(frozen=True)
class Keep(Part):
    """Base of the rules for which decisions of a Score keep their gradient."""

    of_ratio: ClassVar[bool] = True  # whether it reads the ratio

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """Which decisions are learned from: booleans [B, T]. Arguments: see Weight."""
        raise NotImplementedError


@dataclass(frozen=True)
class Score(PolicyGradient):
    """The score gradient of each decision, with a weight that is held constant, on the decisions that are kept.

    A decision that is not kept has loss 0 and stays in the denominator. The advantage is each decision's own; `ratio`
    is what weight and rule read, of decisions or of whole answers. `keep` None: all; `weight` None: 1.
    """

    equation = "-sg[ weight keep ] A logp"
    weight: Weight | None = None
    keep: Keep | None = None

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """The ratio's fields only where it is read."""
        ratio = self.ratio.needs if self._reads_ratio else frozenset()
        return super().needs.union(ratio, *(part.needs for part in self._parts()))

    def _parts(self) -> tuple[Weight | Keep, ...]:
        return tuple(part for part in (self.weight, self.keep) if part is not None)

    @property
    def _reads_ratio(self) -> bool:
        return any(part.of_ratio for part in self._parts())

    def advantage(self, d: Decisions) -> Array:
        """Each decision's own, whatever the level of the ratio: [B, T]."""
        return own_advantage(d)

    def coefficient(self, d: Decisions) -> Array:
        """See PolicyGradient."""
        still, r, advantage = self._read(d)
        found = -advantage
        if self.weight is not None:
            found = found * self.weight(still, r, advantage)
        if self.keep is not None:
            kept = self.keep(still, r, advantage)
            found = namespace(found).where(kept, found, namespace(found).zeros_like(found))
        return found

    def _read(self, d: Decisions) -> tuple[Decisions, Any, Array]:
        """The decisions without gradient, their ratio, and their advantage."""
        still = d.replace(logp=stop_gradient(d.logp))
        return still, self.ratio(still) if self._reads_ratio else None, self.advantage(d)

    def clipped(self, d: Decisions) -> Array:
        """1 where a decision is left out, or its weight held to a bound: [B, T]."""
        still, r, advantage = self._read(d)
        xp = namespace(advantage)
        found = advantage != advantage
        if self.keep is not None:
            found = found | ~self.keep(still, r, advantage)
        cut = None if self.weight is None else self.weight.cut(r)
        return xp.astype(found if cut is None else found | cut, advantage.dtype)

    def idle(self, d: Decisions) -> Array:
        """See Surrogate: left out although there was something to learn."""
        still, r, advantage = self._read(d)
        if self.keep is None:
            return advantage != advantage
        return ~self.keep(still, r, advantage) & (advantage != 0)


@dataclass(frozen=True)
class RatioWeight(Weight):
    """The importance ratio, held to [floor, cap]: with a cap, CISPO (arXiv 2506.13585).

    The bounds are absolute: a width of h above 1 is cap = 1 + h.
    """

    equation = "weight = clip(r, floor, cap)"
    cap: float = setting(math.inf, above=0)
    floor: float = setting(0.0, at_least=0)

    def check(self) -> None:
        """See Part."""
        if self.floor > self.cap:
            raise TightreinError(f"floor {self.floor} is above cap {self.cap}", "give floor <= cap")

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Weight."""
        return clip(r, self.floor, self.cap)

    def cut(self, r: Array) -> Array | None:
        """See Weight; the gradient there is smaller or larger than the ratio's, not zero."""
        return (r < self.floor) | (r > self.cap)


@dataclass(frozen=True)
class AdvantageWeight(Weight):
    """More weight to what went well, less to what went badly. arXiv 2509.24203 (RED-Weight)."""

    of_ratio = False
    equation = "weight = exp(A / temperature)"
    temperature: float = setting(1.0, above=0)

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Weight."""
        return exp_limited(advantage / self.temperature)


@dataclass(frozen=True)
class MirrorWeight(Weight):
    """What is left of a step of mirror descent when the present policy is where it starts. Trinity-RFT's OPMD."""

    of_ratio = False
    equation = "weight = 1 / (1 + tau)"
    tau: float = setting(1.0, at_least=0)

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Weight."""
        return namespace(advantage).full_like(advantage, 1 / (1 + self.tau))


@dataclass(frozen=True)
class GammaWeight(Weight):
    """A soft bump over the ratio, 1 at r = 1 and highest at r = k / lambda. arXiv 2602.10693 (VESPO).

    Made for the ratio of whole answers, a product. Good answers have their own shape, bad ones theirs.
    """

    equation = "weight = r^k exp(lambda (1 - r)),   k, lambda by the sign of A"
    k_pos: float = setting(2.0, at_least=0)
    lambda_pos: float = setting(3.0, at_least=0)
    k_neg: float = setting(3.0, at_least=0)
    lambda_neg: float = setting(2.0, at_least=0)

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Weight."""
        xp = namespace(r)
        log_r = xp.log(r)
        good, bad = (
            xp.exp(clip(k * log_r + rate * (1 - r), -math.inf, 20.0))
            for k, rate in ((self.k_pos, self.lambda_pos), (self.k_neg, self.lambda_neg))
        )
        return xp.where(advantage >= 0, good, bad)
