"""Reference policies that training holds on to: frozen, or following."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import Part, setting


@dataclass(frozen=True)
class Anchor(Part):
    """Base of the rules that say how the reference policy moves."""

    def mix(self, step: int) -> float:
        """Weight with which the policy's parameters enter the reference's after gradient step `step` = 1, 2, ..."""
        raise NotImplementedError


@dataclass(frozen=True)
class Frozen(Anchor):
    """The reference stays what it was at the start."""

    equation = "theta_ref constant"

    def mix(self, step: int) -> float:
        """See Anchor."""
        return 0.0


@dataclass(frozen=True)
class Moving(Anchor):
    """The reference follows the policy. arXiv 2404.09656 (TR-DPO).

    alpha = 1 copies the policy (a hard update), every = 1 follows it at each step (a soft one).
    """

    equation = "theta_ref <- alpha theta + (1 - alpha) theta_ref  after every `every` gradient steps"
    alpha: float = setting(0.6, at_least=0, at_most=1)
    every: int = setting(512, at_least=1)

    def mix(self, step: int) -> float:
        """See Anchor."""
        return self.alpha if step % self.every == 0 else 0.0
