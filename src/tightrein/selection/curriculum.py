"""Which prompts are asked next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array
from ..credit.tracker import rate
from ..settings import Part, setting


@dataclass(frozen=True)
class Curriculum(Part):
    """Base of the rules that draw prompts by what is known of them."""

    def weights(self, state: Any) -> Array:
        """Unnormalised probability of drawing each prompt, [P]. state: that of the method's credit."""
        raise NotImplementedError


@dataclass(frozen=True)
class UncertaintyCurriculum(Curriculum):
    """Asks most where success is least certain, and everything sometimes. arXiv 2509.13232.

    It reads the rates of a BetaTracker.
    """

    equation = "P(q) ~ sqrt(v_q (1 - v_q)) + floor"
    floor: float = setting(0.05, above=0)

    def weights(self, state: Any) -> Array:
        """See Curriculum."""
        expected = rate(state)
        return (expected * (1 - expected)) ** 0.5 + self.floor
