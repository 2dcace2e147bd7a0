"""Ratios at other levels, and to another policy, than the classic ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, stop_gradient
from ..decisions import Decisions
from .ratio import Ratio, SequenceMeanRatio, SequenceRatio, TokenRatio, exp_limited, log_difference, log_ratio

WHOLE = SequenceMeanRatio()  # parts are made before a loss is traced


def tokenwise(log_r: Array, d: Decisions) -> Array:
    """The geometric mean of a trajectory's ratios, whose gradient goes to one decision at a time: [B, T].

    log_r: [B, T], the log-ratio of each decision.
    """
    # Where the gradient is taken, 1 + (x - sg[x]) and exp(x - sg[x]) are the same, in value and in slope.
    return exp_limited(WHOLE.average(stop_gradient(log_r), d)) * (1 + (log_r - stop_gradient(log_r)))


@dataclass(frozen=True)
class SequenceTokenRatio(SequenceRatio):
    """A trajectory's length-normalised ratio, seen by each of its decisions with a gradient of its own.

    Decisions may then have different advantages; where they share one, it is SequenceMeanRatio, in value and in
    gradient. Source: GSPO-token, arXiv 2507.18071, section 4.3.
    """

    equation = "r_t = sg[r] exp(logp_t - sg[logp_t]),   r = exp( sum_t m_t (logp_t - logp_old_t) / L )"

    def __call__(self, d: Decisions) -> Array:
        """The ratio, the same value at each decision of a trajectory: [B, T]."""
        return tokenwise(log_ratio(d), d)

    def average(self, x: Array, d: Decisions) -> Array:
        """See Ratio: every decision has its own."""
        return x


@dataclass(frozen=True)
class BehaviourRatio(Ratio):
    """The ratio to the policy that really sampled, as if that were the old one; `of` is the level.

    The engine's own log-probabilities of the old policy are not read ("bypass" in verl's rollout correction).
    """

    equation = "r = pi / pi_behaviour"
    of: Ratio = TokenRatio()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the level reads, with the sampling policy in the place of the old one."""
        return (self.of.needs - {"logp_old"}) | {"logp_behaviour"}

    def __call__(self, d: Decisions) -> Array:
        """See Ratio."""
        return self.of(d.replace(logp_old=d.logp_behaviour))

    def average(self, x: Array, d: Decisions) -> Array:
        """See Ratio."""
        return self.of.average(x, d)


@dataclass(frozen=True)
class OwnRatio(TokenRatio):
    """The ratio of the policy to itself: 1, with the gradient of the log-probability, for REINFORCE as a ratio."""

    equation = "r_t = exp(logp_t - sg[logp_t])"
    needs = frozenset({"logp"})

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: a ratio that is always 1 has no trust region."""
        from .policy.smooth import Importance  # a surrogate, made of ratios

        if objective.surrogate.ratio != self or isinstance(objective.surrogate, Importance):
            return None
        name = type(objective.surrogate).__name__
        return (
            f"OwnRatio is 1 wherever the policy goes, so that {name} would hold nothing back",
            "use Importance with it",
        )

    def log(self, d: Decisions) -> Array:
        """See Ratio."""
        return log_difference(d.logp, d.logp, d.weights())
