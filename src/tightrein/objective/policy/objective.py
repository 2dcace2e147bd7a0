"""The policy objective: surrogate, penalties, value loss and entropy bonus, aggregated."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from ...arrays import Array, masked_extreme, masked_mean, namespace, stop_gradient, zero_where_masked
from ...credit.standardise import standardise
from ...decisions import Decisions, Loss, Stats, require
from ...settings import Part, setting
from ..aggregate import Aggregation, TokenMean
from ..divergence import OldPolicyKL, ReferenceKL, kl_stats
from ..ratio import log_ratio
from ..value import ValueLoss
from .surrogate import Surrogate

State = Mapping[str, Array]


@dataclass(frozen=True)
class PolicyObjective(Part):
    """L = aggregate( surrogate + penalties - c2 entropy ) + c1 mean( value loss ).

    A coefficient of 0 switches its term off: objective.value.coef=0 leaves the critic to be trained elsewhere.
    `standardise` makes the advantages of the batch at hand (usually a minibatch) mean 0 and deviation 1 first.
    """

    surrogate: Surrogate
    aggregate: Aggregation = TokenMean()
    reference: ReferenceKL = ReferenceKL()
    trust: OldPolicyKL | None = None
    value: ValueLoss = ValueLoss(coef=0.0)
    entropy: float = setting(0.0)
    standardise: bool = False

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the loss reads; `mask` is optional."""
        fields = self.surrogate.needs | self.reference.needs | self.value.needs
        if self.trust is not None:
            fields |= self.trust.needs
        return fields | ({"entropy"} if self.entropy else set())

    def init(self) -> dict[str, float]:
        """State of the objective: the coefficient of an adaptive penalty."""
        if self.trust is None or not self.trust.controller.adaptive:
            return {}
        return {"trust": self.trust.controller.coef}

    def update(self, state: State, d: Decisions) -> dict[str, Array]:
        """The state of the next iteration, from Decisions evaluated under the policy after the update."""
        if not state or self.trust is None:
            return dict(state)
        require(d, self.trust.needs, type(self.trust).__name__)
        divergence = masked_mean(self.trust(d), d.weights())
        return {"trust": self.trust.controller.update(state["trust"], divergence)}

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch; the gradient flows into logp, dist, value and entropy of `d`."""
        if self.standardise:
            d = d.replace(advantage=standardise(d.advantage, d.weights()))
        per_decision = self._per_decision(d, state)
        value = namespace(per_decision).sum(per_decision * self.aggregate.weights(d.weights()))
        if self.value.coef:
            value = value + self.value.coef * masked_mean(self.value(d), d.weights())
        return Loss(value, per_decision, Stats(functools.partial(self._stats, d, stop_gradient(per_decision))))

    def _per_decision(self, d: Decisions, state: State) -> Array:
        mask = d.weights()
        loss = self.surrogate(d) + namespace(mask).zeros_like(mask)
        if self.reference.coef:
            loss = loss + self.reference.coef * self.reference(d)
        if self.trust is not None:
            loss = loss + state.get("trust", self.trust.controller.coef) * self.trust(d)
        if self.entropy:
            loss = loss - self.entropy * zero_where_masked(d.entropy, mask)
        return zero_where_masked(loss, mask)

    def _stats(self, d: Decisions, per_decision: Array) -> dict[str, Array]:
        d, mask = _detached(d), d.weights()
        stats = {"policy_loss": masked_mean(per_decision, mask)}
        if d.logp_old is not None:
            stats |= self._ratio_stats(d, mask)
        if self.reference.coef:
            stats["kl_ref"] = masked_mean(self.reference(d), mask)
        if self.trust is not None:
            stats["kl_exact" if "dist" in self.trust.needs else "kl_trust"] = masked_mean(self.trust(d), mask)
        if d.entropy is not None:
            stats["entropy"] = masked_mean(d.entropy, mask)
        if self.value.coef:
            stats["value_loss"] = masked_mean(self.value(d), mask)
        return stats

    def _ratio_stats(self, d: Decisions, mask: Array) -> dict[str, Array]:
        xp = namespace(mask)
        each = kl_stats(d)
        r = each.pop("ratio")
        level_mask = xp.astype(xp.any(mask != 0, axis=1, keepdims=True), mask.dtype)
        level = self.surrogate.ratio(d)
        clipped = self.surrogate.clipped(level, self.surrogate.advantage(d))
        weights = zero_where_masked(r, mask)
        count = masked_mean(xp.ones_like(mask), mask)  # 0 for an empty batch, else 1
        square = masked_mean(weights**2, mask)
        return {
            **{name: masked_mean(x, mask) for name, x in each.items()},
            "clip_fraction": masked_mean(clipped, mask if clipped.shape == mask.shape else level_mask),
            "ratio_max": masked_extreme(r, mask, largest=True),
            "ratio_min": masked_extreme(r, mask, largest=False),
            "ratio_deviation": masked_mean(xp.abs(r - 1), mask),
            "log_ratio_max": masked_extreme(xp.abs(log_ratio(d)), mask, largest=True),
            "ess": count * masked_mean(weights, mask) ** 2 / xp.where(square > 0, square, xp.ones_like(square)),
        }


def _detached(d: Decisions) -> Decisions:
    moving = {n: getattr(d, n) for n in ("logp", "value", "entropy")}
    constant = {n: stop_gradient(a) for n, a in moving.items() if a is not None}
    dist = d.dist
    if dist is not None:
        dist = type(dist)(**{n: stop_gradient(a) for n, a in vars(dist).items()})
    return d.replace(dist=dist, **constant)
