"""Leaving out what another engine, or an older policy, sampled too differently from the old policy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..arrays import LOG_RATIO_LIMIT, Array, atleast, clip, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..errors import TightreinError
from ..objective.estimators import K1, Estimator
from ..objective.ratio import log_difference
from ..settings import Part, setting
from .answers import Selection


@dataclass(frozen=True)
class Pool(Part):
    """How a figure of each decision becomes that of what is kept or left out together."""

    def __call__(self, x: Array, mask: Array) -> Array:
        """x: [B, T], 0 where masked. Returns [B, T], or [B, 1] for whole trajectories."""
        raise NotImplementedError


@dataclass(frozen=True)
class EachToken(Pool):
    """Every decision stands for itself."""

    def __call__(self, x: Array, mask: Array) -> Array:
        """See Pool."""
        return x


@dataclass(frozen=True)
class SequenceSum(Pool):
    """The sum over a trajectory."""

    def __call__(self, x: Array, mask: Array) -> Array:
        """See Pool."""
        return namespace(x).sum(x, axis=1, keepdims=True)


@dataclass(frozen=True)
class SequenceMean(Pool):
    """The mean over a trajectory."""

    def __call__(self, x: Array, mask: Array) -> Array:
        """See Pool."""
        xp = namespace(x)
        return xp.sum(x, axis=1, keepdims=True) / atleast(xp.sum(mask, axis=1, keepdims=True), 1)


@dataclass(frozen=True)
class SequenceMax(Pool):
    """The largest of a trajectory."""

    def __call__(self, x: Array, mask: Array) -> Array:
        """See Pool."""
        xp = namespace(x)
        return xp.max(xp.where(mask != 0, x, xp.full_like(x, -xp.inf)), axis=1, keepdims=True)


@dataclass(frozen=True)
class RejectMismatch(Selection):
    """Masks the decisions, or the trajectories, on which old and sampling policy disagree too much.

    The figure is an estimate of KL(pi_behaviour || pi_old) at each decision, pooled; it must lie in [low, high], in
    nats. A ratio between 1/2 and 2 is K1 with low = -ln 2 and high = ln 2. Unlike a weight of 0 this shortens the
    denominator. `also` is a second rule that must hold as well. Source: verl, rollout_corr_helper.py.
    """

    equation = "mask = 1 where low <= pool( k(logp_behaviour - logp_old) ) <= high"
    needs = frozenset({"logp_old", "logp_behaviour"})
    estimator: Estimator = K1()
    pool: Pool = EachToken()
    high: float = setting(math.log(2.0))
    low: float = setting(-math.log(2.0))
    also: RejectMismatch | None = None

    def check(self) -> None:
        """See Part: something must be able to stay."""
        if self.low > self.high:
            raise TightreinError(f"nothing lies between {self.low} and {self.high}", "give low <= high")

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Selection."""
        mask = d.weights()
        return d.replace(mask=mask * namespace(mask).astype(self.near(d), mask.dtype))

    def near(self, d: Decisions) -> Array:
        """Whether old and sampling policy agree: [B, T], or [B, 1]; booleans."""
        mask = d.weights()
        apart = stop_gradient(log_difference(d.logp_behaviour, d.logp_old, mask))
        figure = self.estimator(clip(apart, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
        figure = self.pool(zero_where_masked(figure, mask), mask)
        near = (figure >= self.low) & (figure <= self.high)
        return near if self.also is None else near & self.also.near(d)
