"""Coefficients of a penalty: constant, or steered so that a divergence meets its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..arrays import Array, namespace
from ..settings import Part, setting


@dataclass(frozen=True)
class Controller(Part):
    """A coefficient as explicit state: it starts at `coef`; `adaptive` says whether `next` ever changes it."""

    coef: float = setting(1.0, at_least=0)
    adaptive: ClassVar[bool] = False

    def next(self, beta: Array, divergence: Array, progress: Array) -> Array:
        """Coefficient of the next iteration (scalars).

        divergence: what this one ended with. progress: share of the training done, in [0, 1].
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Controller):
    """The coefficient stays as it is."""

    equation = "beta constant"

    def next(self, beta: Array, divergence: Array, progress: Array) -> Array:
        """See Controller."""
        return beta


@dataclass(frozen=True)
class AdaptiveKL(Controller):
    """Doubles or halves the coefficient when the divergence leaves a band around its target.

    Source: PPO, arXiv 1707.06347, section 4. `coef` is where it starts.
    """

    equation = "d < d_targ/1.5: beta/2;  d > 1.5 d_targ: 2 beta   (after each policy update)"
    adaptive = True
    target: float = setting(0.01, above=0)
    tolerance: float = setting(1.5, at_least=1)
    factor: float = setting(2.0, above=1)

    def next(self, beta: Array, divergence: Array, progress: Array) -> Array:
        """See Controller."""
        xp = namespace(divergence)
        raised = xp.where(divergence > self.target * self.tolerance, beta * self.factor, beta)
        return xp.where(divergence < self.target / self.tolerance, beta / self.factor, raised)
