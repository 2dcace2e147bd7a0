"""Credit from value estimates along a trajectory."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from ..arrays import Array, at_least_float32, atleast, linear_recurrence, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..errors import TightreinError
from ..settings import setting
from .base import Credit
from .standardise import standardise


@dataclass(frozen=True)
class ValueCredit(Credit):
    """Base of the rules that weigh temporal-difference residuals exponentially. arXiv 1506.02438, eq. 16.

    Masked positions are stepped over: the value and the trace pass through them. `terminated` ends both the
    bootstrap and the trace, `truncated` only the trace. The state behind a truncation, or behind the end of
    the row, has its value in `value_next` [B, T] or, for the end of the row, in `bootstrap` [B].
    `returns` = advantage + value_old is the value's target; `value_lam` gives it a lambda of its own (decoupled GAE,
    arXiv 2503.01491). `standardise` then scales the advantages of the whole batch to mean 0 and deviation 1.
    `truncation_terminates`: nothing is taken to follow a truncation either, as in code that knows only `done`
    (CleanRL's ppo.py); the end of a rollout still is no end.
    """

    needs = frozenset({"reward", "value_old"})
    provides = frozenset({"advantage", "returns"})
    gamma: float = setting(0.99, at_least=0, at_most=1)
    _: KW_ONLY
    value_lam: float | None = setting(None, at_least=0, at_most=1)
    standardise: bool = False
    truncation_terminates: bool = False

    def policy_lam(self, mask: Array) -> Array | float:
        """The lambda of the advantage: one number, or one for each trajectory, [B, 1]."""
        raise NotImplementedError

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        mask = d.weights()
        advantage, returns = self.estimate(d)
        return d.replace(advantage=standardise(advantage, mask) if self.standardise else advantage, returns=returns)

    def estimate(self, d: Decisions) -> tuple[Array, Array]:
        """Advantage and the value's target, [B, T] each, before anything is standardised."""
        mask = d.weights()
        value = zero_where_masked(stop_gradient(at_least_float32(d.value_old)), mask)
        terminated, truncated = _flag(d.terminated, mask), _flag(d.truncated, mask)
        goes_on = (1 - terminated) * (1 - truncated)
        if self.truncation_terminates:
            terminated, d = 1 - goes_on, d.replace(truncated=None)  # no value behind a cut is asked for
        delta = d.reward_per_decision() + self.gamma * (1 - terminated) * _next_value(d, value, mask) - value

        def traced(lam: Array | float) -> Array:
            return mask * linear_recurrence(
                zero_where_masked(delta, mask), mask * self.gamma * lam * goes_on + (1 - mask)
            )

        advantage = traced(self.policy_lam(mask))
        return advantage, (advantage if self.value_lam is None else traced(self.value_lam)) + value


@dataclass(frozen=True)
class GAE(ValueCredit):
    """Exponentially weighted temporal-difference residuals; see ValueCredit."""

    equation = "A_t = delta_t + gamma lam A_{t+1},   delta_t = R_t + gamma V_{t+1} - V_t"
    lam: float = setting(0.95, at_least=0, at_most=1)

    def policy_lam(self, mask: Array) -> float:
        """See ValueCredit."""
        return self.lam


@dataclass(frozen=True)
class LengthAdaptiveGAE(ValueCredit):
    """Lambda grows with the answer's length, so that its residuals weigh alpha times that length in sum.

    Source: VAPO, arXiv 2504.05118. Answers not longer than 1 / alpha get lambda 0; the paper's are far longer and it
    does not say.
    """

    equation = "lam_i = max(0, 1 - 1 / (alpha L_i));  value target with its own lambda"
    gamma: float = setting(1.0, at_least=0, at_most=1)
    alpha: float = setting(0.05, above=0)
    _: KW_ONLY
    value_lam: float | None = setting(1.0, at_least=0, at_most=1)
    standardise: bool = True

    def policy_lam(self, mask: Array) -> Array:
        """See ValueCredit."""
        length = atleast(namespace(mask).sum(mask, axis=1, keepdims=True), 1)
        return atleast(1 - 1 / (self.alpha * length), 0)


def _next_value(d: Decisions, value: Array, mask: Array) -> Array:
    if d.value_next is not None:
        return zero_where_masked(stop_gradient(at_least_float32(d.value_next)), mask)
    if d.truncated is not None and d.bootstrap is None:
        raise TightreinError(
            "GAE was given `truncated` but no value of the states behind the cuts",
            "add value_next [B, T], or bootstrap [B] where only the end of a row is cut",
        )
    xp = namespace(mask)
    last = None if d.bootstrap is None else stop_gradient(at_least_float32(d.bootstrap))
    # The value of the nearest unmasked position at or behind t, then shifted by one.
    carried = linear_recurrence(mask * value, 1 - mask, last)
    end = xp.zeros_like(value[:, :1]) if last is None else last[:, None]
    return xp.concat([carried[:, 1:], end], axis=1)


def _flag(flag: Array, mask: Array) -> Array:
    xp = namespace(mask)
    return xp.zeros_like(mask) if flag is None else zero_where_masked(xp.astype(flag, mask.dtype), mask)
