"""Credit from value estimates along a trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, at_least_float32, linear_recurrence, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..errors import TightreinError
from ..settings import setting
from .base import Credit
from .standardise import standardise


@dataclass(frozen=True)
class GAE(Credit):
    """Exponentially weighted temporal-difference residuals. arXiv 1506.02438, eq. 16.

    Masked positions are stepped over: the value and the trace pass through them. `terminated` ends both the
    bootstrap and the trace, `truncated` only the trace. The state behind a truncation, or behind the end of
    the row, has its value in `value_next` [B, T] or, for the end of the row, in `bootstrap` [B].
    `returns` = advantage + value_old is the value's target; `standardise` then scales the advantages of the
    whole batch to mean 0 and deviation 1.
    """

    equation = "A_t = delta_t + gamma lam A_{t+1},   delta_t = R_t + gamma V_{t+1} - V_t"
    needs = frozenset({"reward", "value_old"})
    provides = frozenset({"advantage", "returns"})
    gamma: float = setting(0.99, at_least=0, at_most=1)
    lam: float = setting(0.95, at_least=0, at_most=1)
    standardise: bool = False

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        mask = d.weights()
        reward = d.reward_per_decision()
        value = zero_where_masked(stop_gradient(at_least_float32(d.value_old)), mask)
        terminated = _flag(d.terminated, mask)
        cut = 1 - (1 - terminated) * (1 - _flag(d.truncated, mask))
        delta = reward + self.gamma * (1 - terminated) * self._next_value(d, value, mask) - value
        decay = mask * self.gamma * self.lam * (1 - cut) + (1 - mask)
        advantage = mask * linear_recurrence(mask * delta, decay)
        returns = advantage + value
        return d.replace(advantage=standardise(advantage, mask) if self.standardise else advantage, returns=returns)

    def _next_value(self, d: Decisions, value: Array, mask: Array) -> Array:
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
    return xp.zeros_like(mask) if flag is None else xp.astype(flag, mask.dtype) * mask
