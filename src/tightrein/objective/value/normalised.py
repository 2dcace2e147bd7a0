"""Values learned on the scale of their own targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...arrays import Array, at_least_float32, atleast, masked_mean, namespace
from ...decisions import Decisions
from ...errors import TightreinError
from ...settings import setting
from .regression import ValueLoss

_LEAST_WEIGHT = 1e-2  # what moments are divided by at least, while they know only a little


@dataclass(frozen=True)
class NormalisedValueLoss(ValueLoss):
    """The value network learns targets of mean 0 and deviation 1, by a moving average of their moments.

    The moments take in every minibatch, before its targets are normalised by them; `beta` is how much of them stays,
    and a variance below `least` counts as that. Source: snu-mllab/Achievement-Distillation normalize.py.
    """

    equation = "0.5 (V - (R - mean) / sqrt(var))^2,  mean and var by a moving average that stays to a share of beta"
    every_step = True
    beta: float = setting(0.99, at_least=0, below=1)
    least: float = setting(1e-2, above=0)

    def check(self) -> None:
        """See Part: the old value has another scale than the new one."""
        if self.clip_range is not None:
            raise TightreinError(
                "NormalisedValueLoss does not hold the value near the old one", "leave its clip_range none"
            )

    def init(self, prompts: int) -> dict[str, float]:
        """See Part: means of the targets and of their squares, and the weight that they have so far."""
        return {"mean": 0.0, "square": 0.0, "weight": 0.0}

    def update(self, state: Mapping[str, Any], decisions: Decisions, progress: Any) -> dict[str, Array]:
        """See Part: nothing changes where nothing counts."""
        mask, returns = decisions.weights(), at_least_float32(decisions.returns)
        there = masked_mean(namespace(mask).ones_like(mask), mask)
        seen = {"mean": masked_mean(returns, mask), "square": masked_mean(returns**2, mask), "weight": there}
        share = (1 - self.beta) * there
        return {name: (1 - share) * state[name] + share * x for name, x in seen.items()}

    def given(self, state: Any) -> Callable[[Decisions], Array]:
        """See ValueLoss."""

        def loss(d: Decisions) -> Array:
            mean, deviation = self._moments(self.update(state or self.init(0), d, 0.0))
            return super(NormalisedValueLoss, self).__call__(
                replace(d, returns=(at_least_float32(d.returns) - mean) / deviation)
            )

        return loss

    def __call__(self, d: Decisions) -> Array:
        """See ValueLoss: with the moments of these decisions alone."""
        return self.given(None)(d)

    def raw(self, value: Array, state: Any) -> Array:
        """See ValueLoss."""
        kept = {name: namespace(value).asarray(x, dtype=value.dtype) for name, x in state.items()}
        mean, deviation = self._moments(kept)
        return value * deviation + mean

    def _moments(self, state: Mapping[str, Array]) -> tuple[Array, Array]:
        """Mean and deviation of the targets."""
        weight = atleast(state["weight"], _LEAST_WEIGHT)
        mean = state["mean"] / weight
        return mean, namespace(mean).sqrt(atleast(state["square"] / weight - mean**2, self.least))
