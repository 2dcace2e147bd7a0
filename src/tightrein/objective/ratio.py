"""How far the policy moved on a decision: the probability ratio, at the level a method wants it."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import (
    LOG_RATIO_LIMIT,
    Array,
    at_least_float32,
    atleast,
    clip,
    namespace,
    stop_gradient,
    zero_where_masked,
)
from ..decisions import Decisions
from ..settings import Part

_FINITE = 1e9  # log-probabilities of -inf become this, so that two impossible decisions differ by 0, not NaN


def log_difference(logp: Array, other: Array, mask: Array) -> Array:
    """logp - other where mask = 1, else 0; no gradient into `other`, finite for infinite log-probabilities: [B, T]."""
    new = clip(zero_where_masked(at_least_float32(logp), mask), -_FINITE, _FINITE)
    old = clip(zero_where_masked(at_least_float32(stop_gradient(other)), mask), -_FINITE, _FINITE)
    return new - old


def log_ratio(d: Decisions) -> Array:
    """log pi(a|s) - log pi_old(a|s) of each decision, 0 where masked: [B, T]."""
    return log_difference(d.logp, d.logp_old, d.weights())


def exp_limited(log_r: Array) -> Array:
    """exp of a log-ratio cut to +-20, so that no ratio or its square overflows."""
    return namespace(log_r).exp(clip(log_r, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


@dataclass(frozen=True)
class Ratio(Part):
    """How log-ratios of decisions become the ratio that the surrogate sees."""

    needs = frozenset({"logp", "logp_old"})

    def __call__(self, d: Decisions) -> Array:
        """The ratio, [B, T] or, one for a whole trajectory, [B, 1]."""
        raise NotImplementedError


@dataclass(frozen=True)
class TokenRatio(Ratio):
    """One ratio per decision."""

    equation = "r_t = exp(logp_t - logp_old_t)"

    def __call__(self, d: Decisions) -> Array:
        """The ratio of each decision: [B, T]."""
        return exp_limited(log_ratio(d))


@dataclass(frozen=True)
class SequenceMeanRatio(Ratio):
    """One length-normalised ratio per trajectory: the geometric mean of its decisions' ratios."""

    equation = "r = exp( sum_t m_t (logp_t - logp_old_t) / L )"

    def __call__(self, d: Decisions) -> Array:
        """The ratio of each trajectory: [B, 1]."""
        xp, weights = namespace(d.logp), d.weights()
        length = atleast(xp.sum(weights, axis=1, keepdims=True), 1)
        return exp_limited(xp.sum(log_ratio(d), axis=1, keepdims=True) / length)


@dataclass(frozen=True)
class SequenceProductRatio(Ratio):
    """One ratio per trajectory: that of the whole answer as a single action."""

    equation = "r = exp( sum_t m_t (logp_t - logp_old_t) )"

    def __call__(self, d: Decisions) -> Array:
        """The ratio of each trajectory: [B, 1]."""
        return exp_limited(namespace(d.logp).sum(log_ratio(d), axis=1, keepdims=True))
