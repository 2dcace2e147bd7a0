"""Squared error of the value estimate, optionally held near the old one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...arrays import Array, at_least_float32, atleast, clip, namespace, stop_gradient, zero_where_masked
from ...decisions import Decisions
from ...settings import Part, setting, switched_on
from ...turns import turn_starts


@dataclass(frozen=True)
class ValueLoss(Part):
    """Half the squared error of the value; with `clip_range`, the worse of it and its clipped form.

    The clipped prediction is V_old + clip(V - V_old, -c, c): moving further than c towards the target gains
    nothing. Source: openai/baselines ppo2 (no paper of its own).
    """

    equation = "0.5 max( (V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2 )"
    coef: float = setting(0.5, at_least=0)
    clip_range: float | None = setting(None, above=0)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Nothing while it is off; the old value only where the new one is held near it."""
        if not switched_on(self.coef):
            return frozenset()
        return frozenset({"value", "returns"} | ({"value_old"} if self.clip_range is not None else set()))

    @property
    def ranged(self) -> bool:
        """Whether it knows a range of values, which suits values of order 1."""
        return self.clip_range is not None

    def weights(self, d: Decisions) -> Array:
        """1 where an estimate is to be learned: [B, T]."""
        return d.weights()

    def given(self, state: Any) -> Callable[[Decisions], Array]:
        """The loss as a function of the decisions, where it keeps something: `state` (None: as at the start)."""
        return self

    def stats(self, d: Decisions) -> dict[str, Array]:
        """Named scalars beside the loss itself."""
        return {}

    def raw(self, value: Array, state: Any) -> Array:
        """What an output of the value network says in the units of the rewards."""
        return value

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision, without its coefficient: [B, T]."""
        mask = d.weights()
        value = at_least_float32(d.value)
        error = zero_where_masked(value - at_least_float32(d.returns), mask)
        if self.clip_range is None:
            return 0.5 * error**2
        moved = stop_gradient(value) - at_least_float32(d.value_old)
        beyond = zero_where_masked(moved - clip(moved, -self.clip_range, self.clip_range), mask)
        xp = namespace(error)
        size, clipped = xp.abs(error), xp.abs(stop_gradient(error) - beyond)
        return 0.5 * (size + atleast(clipped - size, 0)) ** 2  # the larger; where the clipped one is, without gradient


@dataclass(frozen=True)
class TurnValueLoss(ValueLoss):
    """The loss of the value before each turn, and of no other."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """See ValueLoss; and the turns."""
        return super().needs | ({"turn"} if switched_on(self.coef) else set())

    def weights(self, d: Decisions) -> Array:
        """1 at the first decision of each turn: [B, T]."""
        return turn_starts(d)
