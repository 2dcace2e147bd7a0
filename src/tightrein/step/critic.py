"""A value network that is fitted apart from the policy."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import TightreinError
from ..objective.value.regression import ValueLoss
from ..settings import Part, setting
from .base import Step
from .gauss_newton import GaussNewton
from .optimizers import Adam, Optimizer


@dataclass(frozen=True)
class Critic(Part):
    """How the value network is fitted once the policy has moved: its own loss, optimizer and passes.

    A method that has one leaves objective.value off. `batch` decisions make a minibatch; where that does not divide
    the experience, the largest number below it that does. A GaussNewton step is one step on the whole experience, for
    which neither `epochs` nor `batch` means anything.
    """

    equation = "minimise mean( value loss ) over V alone, after the policy's step"
    loss: ValueLoss = ValueLoss(coef=1.0)
    step: Step = Adam(learning_rate=1e-3)
    epochs: int = setting(5, at_least=1)
    batch: int = setting(64, at_least=1)

    def check(self) -> None:
        """See Part: the value network is fitted by an optimizer, or by one step down the squared error."""
        if not isinstance(self.step, (Optimizer, GaussNewton)):
            raise TightreinError(
                f"{type(self.step).__name__} moves a policy, and cannot fit a value network",
                "give critic.step an optimizer, as Adam, or GaussNewton",
            )
        squared = type(self.loss) is ValueLoss and self.loss.clip_range is None
        if isinstance(self.step, GaussNewton) and not squared:
            raise TightreinError(
                f"GaussNewton minimises the squared error of the value, and the loss is {self.loss.label()}",
                "--set critic.loss=ValueLoss --set critic.loss.clip_range=none",
            )

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the value loss reads."""
        return self.loss.needs
