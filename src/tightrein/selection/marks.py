"""Marks that drop nothing: which decisions the old policy was uncertain of, told once for a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..arrays import Array, at_least_float32, atleast, clip, masked_extreme, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..objective.segments import segment_mean
from ..settings import setting
from .answers import Selection

_LEAST = 1e-8  # nats
_HAIR = 1e-6  # 0.8 * 5 is 4


@dataclass(frozen=True)
class Mark(Selection):
    """Base of the selections that fill a field, and drop nothing."""

    needs = frozenset({"entropy_old"})

    def keep(self, d: Decisions) -> Array:
        """See Selection: every trajectory."""
        return d.alive() >= 0


@dataclass(frozen=True)
class UncertaintyScale(Mark):
    """Fills `uncertainty`: the logarithm of the entropy about its quantile, scaled to [-1, 1] on either side.

    Where an engine samples, it draws each token at the temperature T (1 + tau u), with the scale of the batch before;
    tau = 0: at T. `bug_compatible` gives u the sign that the released code gives it below the quantile: positive.

    The state is the scale. Source: HAPO, arXiv 2509.16591.
    """

    equation = "u = h / max h if h > 0 else h / |min h|,   h = ln H - quantile of ln H"
    provides = frozenset({"uncertainty"})
    quantile: float = setting(0.8, at_least=0, at_most=1)
    tau: float = setting(0.05, at_least=0, below=1)
    bug_compatible: bool = False

    def init(self, prompts: int) -> dict[str, float]:
        """No batch has been seen: all are at the quantile."""
        return {"pivot": 0.0, "above": 0.0, "below": 0.0}

    def update(self, state: Any, decisions: Decisions, progress: Any) -> dict[str, Array]:
        """The scale of this batch."""
        return self._scale(decisions)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Mark."""
        return d.replace(uncertainty=zero_where_masked(self.uncertainty(_entropy(d), self._scale(d)), d.weights()))

    def uncertainty(self, entropy: Array, scale: Mapping[str, Any]) -> Array:
        """Of entropies in nats on a scale, cut to [-1, 1]; 0 everywhere on one that knows of no batch."""
        xp = namespace(entropy)
        h = xp.log(atleast(entropy, _LEAST)) - scale["pivot"]
        sign = -1 if self.bug_compatible else 1
        return clip(xp.where(h > 0, h * scale["above"], sign * h * scale["below"]), -1.0, 1.0)

    def temperature(self, entropy: Array, scale: Mapping[str, Any]) -> Array:
        """What the temperature is multiplied by where the policy has this entropy in nats."""
        return 1 + self.tau * self.uncertainty(entropy, scale)

    def _scale(self, d: Decisions) -> dict[str, Array]:
        """The quantile, and the inverse of the furthest distance on each side of it (0 where there is none)."""
        mask = d.weights()
        xp, h = namespace(mask), namespace(mask).log(atleast(_entropy(d), _LEAST))
        ordered = xp.sort(xp.reshape(xp.where(mask != 0, h, xp.full_like(h, xp.inf)), (-1,)))
        place = xp.round(self.quantile * atleast(xp.sum(mask) - 1, 0))
        pivot = zero_where_masked(ordered[xp.astype(place, xp.int32)], xp.any(mask != 0))
        extremes = {"above": masked_extreme(h - pivot, mask, True), "below": -masked_extreme(h - pivot, mask, False)}
        inverse = {
            side: xp.where(x > 0, 1 / xp.where(x > 0, x, xp.ones_like(x)), xp.zeros_like(x))
            for side, x in extremes.items()
        }
        return {"pivot": pivot, **inverse}


@dataclass(frozen=True)
class EntropySegments(Mark):
    """Fills `segment`, the decisions of each answer in parts of like entropy, and `uncertainty`, the mean of each part.

    The last of `groups` parts holds the share `high` of the answer that was most uncertain, the others equal shares of
    the rest; decisions of equal entropy stay together. Source: ESPO, arXiv 2512.00499, eq. 7 and section 4.4.
    """

    equation = "tau_k = { t : H_t between the k-th and the next quantile of the answer }"
    provides = frozenset({"segment", "uncertainty"})
    groups: int = setting(2, at_least=1)
    high: float = setting(0.2, above=0, at_most=1)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Mark."""
        mask, entropy = d.weights(), _entropy(d)
        xp = namespace(mask)
        ordered = xp.sort(xp.where(mask != 0, entropy, xp.full_like(entropy, xp.inf)), axis=1)
        place = xp.cumulative_sum(xp.ones_like(mask), axis=1) - 1
        length = xp.sum(mask, axis=1, keepdims=True)
        passed = [mask]  # of each part, what lies in it or above
        for k in range(1, self.groups):
            cut = xp.floor((1 - self.high) * k / (self.groups - 1) * length + _HAIR)
            least = xp.sum(zero_where_masked(ordered, place == cut), axis=1, keepdims=True)
            passed.append(mask * xp.astype((entropy >= least) & (cut < length), mask.dtype))
        parts = [x - y for x, y in zip(passed, [*passed[1:], 0 * mask], strict=True)]
        return d.replace(segment=xp.stack(parts, axis=-1), uncertainty=segment_mean(entropy, parts))


def _entropy(d: Decisions) -> Array:
    return zero_where_masked(at_least_float32(stop_gradient(d.entropy_old)), d.weights())
