"""What a policy loss makes of entropies: which decisions keep their gradient, and a term that holds entropy up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..arrays import Array, at_least_float32, atleast, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..errors import TightreinError
from ..settings import setting
from .correction import Correction
from .ratio import exp_limited, finite_logp
from .term import Term

if TYPE_CHECKING:
    from .policy.surrogate import Surrogate

_LEAST = 1e-8  # nats, so that the ratio of two entropies of 0 is 1


@dataclass(frozen=True)
class EntropyBand(Correction):
    """Keeps the gradient only of decisions whose entropy has moved by less than a factor. arXiv 2512.05591 (ERC).

    The others keep their value, and their place in the denominator. For distributions over alternatives: the entropy of
    a density may be negative, and counts as 0.
    """

    equation = "l if low < H / H_old < high, else sg[ l ]"
    needs = frozenset({"entropy", "entropy_old"})
    low: float = setting(0.95, at_least=0)
    high: float = setting(1.05, above=0)

    def check(self) -> None:
        """See Part: the band must not be empty."""
        if self.low >= self.high:
            raise TightreinError(
                f"no entropy ratio lies between {self.low} and {self.high}", "give low < high, around 1"
            )

    def __call__(self, d: Decisions, surrogate: Surrogate) -> Array:
        """1 where the gradient is kept, else 0: [B, T]."""
        mask = d.weights()
        now, old = (
            atleast(zero_where_masked(at_least_float32(stop_gradient(h)), mask), 0) + _LEAST
            for h in (d.entropy, d.entropy_old)
        )
        return namespace(mask).astype((now > self.low * old) & (now < self.high * old), mask.dtype)

    def apply(self, loss: Array, factor: Array) -> Array:
        """See Correction."""
        return loss * factor + stop_gradient(loss) * (1 - factor)


@dataclass(frozen=True)
class EmphasisedEntropy(Term):
    """Minus the entropy along the answers that carry an emphasis, estimated from their decisions.

    Weighed as the loss is: with a mean over answers of means over decisions, length plays no part. Its gradient is that
    of the entropy itself in expectation over the old policy. Source: DSDR, arXiv 2602.19895, eq. 15.
    """

    equation = "+ c mean_i e_i mean_t r_t logp_t"
    named = "negative_entropy"
    needs = frozenset({"logp", "logp_old", "emphasis"})
    coef: float = setting(1e-3, at_least=0)

    def __call__(self, d: Decisions, weights: Array) -> Array:
        """See Term."""
        emphasis = zero_where_masked(at_least_float32(d.emphasis), d.alive())[:, None]
        logp, old = finite_logp(d), finite_logp(d.replace(logp=stop_gradient(d.logp_old)))
        return namespace(weights).sum(weights * emphasis * exp_limited(logp - old) * logp)
