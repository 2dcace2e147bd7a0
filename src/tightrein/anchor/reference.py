"""Reference policies that training holds on to: frozen, or following."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import Part


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
