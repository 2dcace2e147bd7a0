"""A value network that is fitted apart from the policy."""

from __future__ import annotations

from dataclasses import dataclass

from ..objective.value.regression import ValueLoss
from ..settings import Part, setting
from .optimizers import Adam, Optimizer


@dataclass(frozen=True)
class Critic(Part):
    """How the value network is fitted once the policy has moved: its own loss, optimizer and passes.

    A method that has one leaves objective.value off. `batch` decisions make a minibatch; where that does not divide
    the experience, the largest number below it that does.
    """

    equation = "minimise mean( value loss ) over V alone, after the policy's step"
    loss: ValueLoss = ValueLoss(coef=1.0)
    step: Optimizer = Adam(learning_rate=1e-3)
    epochs: int = setting(5, at_least=1)
    batch: int = setting(64, at_least=1)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the value loss reads."""
        return self.loss.needs
