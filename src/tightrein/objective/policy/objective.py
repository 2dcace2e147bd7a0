"""The policy objective: surrogate, penalties, value loss and entropy bonus, aggregated."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ...arrays import Array, masked_extreme, masked_mean, namespace, spread, stop_gradient, zero_where_masked
from ...credit.standardise import standardise
from ...decisions import Decisions, Loss, Stats
from ...errors import TightreinError
from ...settings import Part, setting, switched_on
from ..aggregate import Aggregation, TokenMean
from ..base import Objective, State, detached
from ..correction import Correction
from ..divergence import Divergence, ReferenceKL, kl_stats
from ..ratio import log_ratio
from ..term import Term
from ..value import ValueLoss
from .surrogate import Surrogate


@dataclass(frozen=True)
class PolicyObjective(Objective):
    """L = aggregate( factor * surrogate + penalties - c2 entropy ) + c1 mean( value loss ) + terms.

    A coefficient of 0 switches its term off: objective.value.coef=0 leaves the critic to be trained elsewhere.
    `standardise` makes the advantages of the batch at hand (usually a minibatch) mean 0 and deviation 1 first.
    """

    surrogate: Surrogate
    aggregate: Aggregation = TokenMean()
    correction: Correction | None = None
    reference: ReferenceKL = ReferenceKL()
    trust: Divergence | None = None
    value: ValueLoss = ValueLoss(coef=0.0)
    terms: tuple[Term, ...] = ()
    entropy: float = setting(0.0)
    standardise: bool = False

    def check(self) -> None:
        """See Part: every part must make sense beside the others."""
        for _, part in self.walk():
            if isinstance(part, Part) and (reason := part.misfit(self)):
                raise TightreinError(*reason)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the loss reads; `mask` is optional."""
        fields = frozenset[str]().union(*(part.needs for part in self._parts()))
        return fields | ({"entropy"} if switched_on(self.entropy) else set())

    @property
    def whole_groups(self) -> bool:  # type: ignore[override]
        """Where the loss itself reads the groups, a minibatch must hold whole ones."""
        return "group" in self.needs

    def _parts(self) -> tuple[Part, ...]:
        named = (self.surrogate, self.aggregate, self.correction, self.reference, self.trust, self.value)
        return (*(part for part in named if part is not None), *self.terms)

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch; the gradient flows into logp, dist, value and entropy of `d`."""
        if self.standardise:
            d = d.replace(advantage=standardise(d.advantage, d.weights()))
        per_decision = self._per_decision(d, state)
        weights = self.aggregate(d)
        value = namespace(per_decision).sum(per_decision * weights)
        if switched_on(self.value.coef):
            value = value + self.value.coef * masked_mean(self._value(d, state), self.value.weights(d))
        for term in self.terms:
            if switched_on(term.coef):
                value = value + term.coef * term(d, weights)
        return Loss(value, per_decision, Stats(functools.partial(self._stats, d, state, stop_gradient(per_decision))))

    def _value(self, d: Decisions, state: State) -> Array:
        return self.value.given(state.get("value"))(d)

    def _per_decision(self, d: Decisions, state: State) -> Array:
        mask = d.weights()
        loss = spread(self.surrogate.given(state.get("surrogate"))(d), mask)
        if self.correction is not None:
            loss = self.correction.apply(loss, stop_gradient(self.correction(d, self.surrogate)))
        if switched_on(self.reference.coef):
            loss = loss + self.reference.coef * self.reference(d)
        if self.trust is not None:
            loss = loss + self.trust.penalty(d, state.get("trust"))
        if switched_on(self.entropy):
            loss = loss - self.entropy * d.entropy
        return zero_where_masked(loss, mask)

    def _stats(self, d: Decisions, state: State, per_decision: Array) -> dict[str, Array]:
        d, mask = detached(d), d.weights()
        stats = {"policy_loss": masked_mean(per_decision, mask)}
        if d.logp_old is not None:
            stats |= self._ratio_stats(d, mask)
        if all(getattr(d, name) is not None for name in self.surrogate.needs):
            stats |= self.surrogate.stats(d) | self.surrogate.figures(d, state.get("surrogate"))
        if switched_on(self.reference.coef):
            stats["kl_ref"] = masked_mean(self.reference(d), mask)
        if self.trust is not None:
            coefficient = self.trust.coefficient(state.get("trust")) + 0 * stats["policy_loss"]
            stats |= {**self.trust.stats(d), "trust_coef": coefficient}
        for term in self.terms:
            stats |= term.stats(d, self.aggregate(d)) if switched_on(term.coef) else {}
        if d.entropy is not None:
            stats["entropy"] = masked_mean(d.entropy, mask)
        if switched_on(self.value.coef):
            stats |= {"value_loss": masked_mean(self._value(d, state), self.value.weights(d)), **self.value.stats(d)}
        return stats

    def _ratio_stats(self, d: Decisions, mask: Array) -> dict[str, Array]:
        xp = namespace(mask)
        each = kl_stats(d)
        r = each.pop("ratio")
        weights = zero_where_masked(r, mask)
        count = masked_mean(xp.ones_like(mask), mask)  # 0 for an empty batch, else 1
        square = masked_mean(weights**2, mask)
        return {
            **{name: masked_mean(x, mask) for name, x in each.items()},
            "ratio_max": masked_extreme(r, mask, largest=True),
            "ratio_min": masked_extreme(r, mask, largest=False),
            "ratio_deviation": masked_mean(xp.abs(r - 1), mask),
            "log_ratio_max": masked_extreme(xp.abs(log_ratio(d)), mask, largest=True),
            "ess": count * masked_mean(weights, mask) ** 2 / xp.where(square > 0, square, xp.ones_like(square)),
        }
