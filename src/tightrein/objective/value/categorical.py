"""A value as a distribution over bins, learned by cross-entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...arrays import (
    Array,
    at_least_float32,
    clip,
    erf,
    like,
    log_softmax,
    masked_extreme,
    namespace,
    zero_where_masked,
)
from ...decisions import Decisions
from ...errors import TightreinError
from ...settings import Part, setting, switched_on
from .regression import ValueLoss


@dataclass(frozen=True)
class Bins(Part):
    """`count` bins of equal width from `low` to `high`."""

    low: float = setting(-10.0)
    high: float = setting(10.0)
    count: int = setting(51, at_least=2)

    def check(self) -> None:
        """See Part."""
        if not self.low < self.high:
            raise TightreinError(f"bins from {self.low} to {self.high} are none", "give low a value below high")

    @property
    def width(self) -> float:
        """Width of a bin."""
        return (self.high - self.low) / self.count

    def edges(self, x: Array) -> Array:
        """Where bins begin and end, [K + 1], in the library and precision of `x`."""
        return like(np.linspace(self.low, self.high, self.count + 1), x)

    def mean(self, logits: Array) -> Array:
        """The mean of the distribution that logits [..., K] give, every bin standing for its centre: [...]."""
        xp = namespace(logits)
        edges = self.edges(logits)
        return xp.sum(xp.exp(log_softmax(logits)) * (edges[1:] + edges[:-1]) / 2, axis=-1)


@dataclass(frozen=True)
class CategoricalValueLoss(ValueLoss):
    """Cross-entropy of the value's distribution from a normal distribution around the target, cut into bins (HL-Gauss).

    The normal distribution has the deviation `smoothing` times the width of a bin, its target is moved into the range
    of the bins, and what lies outside them is left out. Source: Stop Regressing, arXiv 2403.03950.
    """

    equation = "-sum_k p_k log softmax(logits)_k,   p_k = mass of N(R, (smoothing width)^2) in bin k, normalised"
    bins: Bins = Bins()
    smoothing: float = setting(0.75, above=0)

    def check(self) -> None:
        """See Part: there is no value to be held near the old one."""
        if self.clip_range is not None:
            raise TightreinError(
                "a categorical value loss has no clipped form", "--set objective.value.clip_range=none"
            )

    @property
    def ranged(self) -> bool:
        """See ValueLoss: that of the bins."""
        return True

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Nothing while it is off."""
        return frozenset({"value_logits", "returns"}) if switched_on(self.coef) else frozenset()

    def probabilities(self, target: Array) -> Array:
        """The distribution over the bins that stands for `target` [...]: [..., K]."""
        target = clip(target, self.bins.low, self.bins.high)[..., None]
        below = erf((self.bins.edges(target) - target) / (math.sqrt(2) * self.smoothing * self.bins.width))
        return (below[..., 1:] - below[..., :-1]) / (below[..., -1:] - below[..., :1])

    def __call__(self, d: Decisions) -> Array:
        """See ValueLoss."""
        mask = d.weights()
        logp = log_softmax(zero_where_masked(at_least_float32(d.value_logits), mask[..., None]))
        target = self.probabilities(zero_where_masked(at_least_float32(d.returns), mask))
        xp = namespace(logp)
        return zero_where_masked(-xp.sum(xp.astype(target, logp.dtype, copy=False) * logp, axis=-1), mask)

    def stats(self, d: Decisions) -> dict[str, Array]:
        """See ValueLoss: the largest `feature_norm`, where the network tells it."""
        if d.feature_norm is None:
            return {}
        return {"feature_norm_max": masked_extreme(d.feature_norm, d.weights(), largest=True)}
