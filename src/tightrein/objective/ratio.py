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
from ..turns import turn_mean, turn_sum

_FINITE = 1e9  # log-probabilities of -inf become this, so that two impossible decisions differ by 0, not NaN


def log_difference(logp: Array, other: Array, mask: Array) -> Array:
    """logp - other where mask = 1, else 0; no gradient into `other`, finite for infinite log-probabilities: [B, T]."""
    new, old = (clip(at_least_float32(x), -_FINITE, _FINITE) for x in (logp, stop_gradient(other)))
    return zero_where_masked(new - old, mask)


def log_ratio(d: Decisions) -> Array:
    """log pi(a|s) - log pi_old(a|s) of each decision, 0 where masked: [B, T]."""
    return log_difference(d.logp, d.logp_old, d.weights())


def finite_logp(d: Decisions) -> Array:
    """The log-probability where it counts, 0 where masked, never infinite: [B, T]."""
    return clip(zero_where_masked(at_least_float32(d.logp), d.weights()), -_FINITE, _FINITE)


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

    def log(self, d: Decisions) -> Array:
        """Its logarithm, in the same shape."""
        return namespace(d.logp).log(self(d))

    def with_log(self, d: Decisions) -> tuple[Array, Array]:
        """The ratio and its logarithm, without taking the logarithm of an exponential where one is at hand."""
        r = self(d)
        return r, namespace(r).log(r)

    def average(self, x: Array, d: Decisions) -> Array:
        """Mean of `x` [B, T] over the decisions that share a ratio, in the ratio's shape."""
        raise NotImplementedError


@dataclass(frozen=True)
class TokenRatio(Ratio):
    """One ratio per decision."""

    equation = "r_t = exp(logp_t - logp_old_t)"

    def __call__(self, d: Decisions) -> Array:
        """The ratio of each decision: [B, T]."""
        return exp_limited(self.log(d))

    def log(self, d: Decisions) -> Array:
        """See Ratio."""
        return log_ratio(d)

    def with_log(self, d: Decisions) -> tuple[Array, Array]:
        """See Ratio."""
        limited = clip(self.log(d), -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return namespace(limited).exp(limited), limited

    def average(self, x: Array, d: Decisions) -> Array:
        """See Ratio: every decision has its own."""
        return x


@dataclass(frozen=True)
class ProximalRatio(TokenRatio):
    """The ratio to a policy between the one that decided and the present one, by how stale the decision is.

    d is `staleness`: a decision of d = 1 is compared with the policy that made it, an older one with a policy 1/d of
    the way from the present one. The coefficient of A is pi / pi_behaviour whatever d: d only says which decisions are
    clipped. Source: A-3PO, arXiv 2512.06547.
    """

    equation = "r_t = (pi / pi_behaviour)^(1/d),   d/dlogp r_t = r_t"
    needs = frozenset({"logp", "logp_behaviour", "staleness"})

    def log(self, d: Decisions) -> Array:
        """See Ratio: that to the proximal policy, of each decision."""
        return log_difference(d.logp, d.logp_behaviour, d.weights()) - self._log_weight(d)

    def weight(self, d: Decisions) -> Array:
        """The ratio of the proximal policy to the one that decided, without gradient: [B, T]."""
        return exp_limited(self._log_weight(d))

    def _log_weight(self, d: Decisions) -> Array:
        mask = d.weights()
        age = atleast(zero_where_masked(at_least_float32(d.staleness), mask), 1)
        return (1 - 1 / age) * stop_gradient(log_difference(d.logp, d.logp_behaviour, mask))


@dataclass(frozen=True)
class SequenceRatio(Ratio):
    """Base of the ratios of whole trajectories."""

    def average(self, x: Array, d: Decisions) -> Array:
        """See Ratio: [B, 1]."""
        xp, weights = namespace(x), d.weights()
        total = xp.sum(zero_where_masked(x, weights), axis=1, keepdims=True)
        return total / atleast(xp.sum(weights, axis=1, keepdims=True), 1)


@dataclass(frozen=True)
class SequenceMeanRatio(SequenceRatio):
    """One length-normalised ratio per trajectory: the geometric mean of its decisions' ratios."""

    equation = "r = exp( sum_t m_t (logp_t - logp_old_t) / L )"

    def __call__(self, d: Decisions) -> Array:
        """The ratio of each trajectory: [B, 1]."""
        return exp_limited(self.average(log_ratio(d), d))


@dataclass(frozen=True)
class SequenceProductRatio(SequenceRatio):
    """One ratio per trajectory: that of the whole answer as a single action."""

    equation = "r = exp( sum_t m_t (logp_t - logp_old_t) )"

    def __call__(self, d: Decisions) -> Array:
        """The ratio of each trajectory: [B, 1]."""
        return exp_limited(namespace(d.logp).sum(log_ratio(d), axis=1, keepdims=True))


@dataclass(frozen=True)
class TurnRatio(Ratio):
    """Base of the ratios of whole turns: the same at each decision of a turn, [B, T]."""

    needs = frozenset({"logp", "logp_old", "turn"})

    def average(self, x: Array, d: Decisions) -> Array:
        """See Ratio."""
        return turn_mean(x, d)


@dataclass(frozen=True)
class TurnMeanRatio(TurnRatio):
    """One length-normalised ratio per turn: the geometric mean of its decisions' ratios."""

    equation = "r_h = exp( mean over t in turn h of logp_t - logp_old_t )"

    def __call__(self, d: Decisions) -> Array:
        """The ratio of each decision's turn: [B, T]."""
        return exp_limited(turn_mean(log_ratio(d), d))


@dataclass(frozen=True)
class TurnProductRatio(TurnRatio):
    """One ratio per turn: that of the whole reply as a single action."""

    equation = "r_h = exp( sum over t in turn h of logp_t - logp_old_t )"

    def __call__(self, d: Decisions) -> Array:
        """The ratio of each decision's turn: [B, T]."""
        return exp_limited(turn_sum(log_ratio(d), d))
