"""Coefficients of a penalty: constant, or steered so that a divergence meets its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays import Array, atleast, clip, namespace
from ..settings import Part, setting


@dataclass(frozen=True)
class Controller(Part):
    """A coefficient as explicit state: it starts at `coef`; `adaptive` says whether `next` ever changes it.

    The state is the coefficient itself, unless a controller says otherwise by `start` and `value`.
    """

    coef: float = setting(1.0, at_least=0)
    adaptive: ClassVar[bool] = False

    def start(self) -> Any:
        """The state at the start."""
        return self.coef

    def value(self, state: Any) -> Array:
        """The coefficient that `state` holds (a scalar)."""
        return state

    def next(self, beta: Any, divergence: Array, progress: Array) -> Any:
        """State of the next iteration.

        divergence: what this one ended with (a scalar). progress: share of the training done, in [0, 1].
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


@dataclass(frozen=True)
class ProportionalKL(Controller):
    """Raises the coefficient in proportion to how far the divergence is above its target, lowers it below.

    The relative error counts for no more than `most`; verl's rate is (answers of an update) / horizon. Source:
    D. Ziegler et al., arXiv 1909.08593, section 2.2.
    """

    equation = "beta <- beta (1 + rate clip( d / target - 1, -most, most ))"
    adaptive = True
    target: float = setting(0.1, above=0)
    rate: float = setting(0.1, above=0)
    most: float = setting(0.2, above=0)

    def next(self, beta: Array, divergence: Array, progress: Array) -> Array:
        """See Controller."""
        return beta * (1 + self.rate * clip(divergence / self.target - 1, -self.most, self.most))


@dataclass(frozen=True)
class DualAscent(Controller):
    """The multiplier of the constraint that the divergence stays below `target`, moved by gradient ascent."""

    equation = "beta <- max(0, beta + rate (d - target))"
    adaptive = True
    target: float = setting(0.02, above=0)
    rate: float = setting(0.1, above=0)

    def next(self, beta: Array, divergence: Array, progress: Array) -> Array:
        """See Controller."""
        return atleast(beta + self.rate * (divergence - self.target), 0)


@dataclass(frozen=True)
class MirrorStep(Controller):
    """The inverse of a step size that falls from 1 to 0 over the training. MDPO, arXiv 2005.09814.

    `floor` is the smallest step size: the coefficient stays finite to the very end.
    """

    equation = "beta_k = coef / t_k,   t_k = 1 - k / K"
    adaptive = True
    floor: float = setting(1e-3, above=0, at_most=1)

    def next(self, beta: Array, divergence: Array, progress: Array) -> Array:
        """See Controller."""
        left = 1 - progress + namespace(divergence).zeros_like(divergence)
        return self.coef / atleast(left, self.floor)


@dataclass(frozen=True)
class AdamDual(Controller):
    """A multiplier moved by Adam on beta (bound - factor d): it rests where factor * d = bound. arXiv 2312.05405."""

    equation = "beta <- max(0, beta - Adam[ bound - factor d ])"
    adaptive = True
    every_step = True
    bound: float = setting(0.2, above=0)
    factor: float = setting(2.0, above=0)
    learning_rate: float = setting(0.01, above=0)

    def start(self) -> dict[str, float]:
        """The multiplier, Adam's two moments and its count."""
        return {"beta": self.coef, "mean": 0.0, "square": 0.0, "count": 0.0}

    def value(self, state: Any) -> Array:
        """See Controller."""
        return state["beta"]

    def next(self, beta: Any, divergence: Array, progress: Array) -> Any:
        """See Controller."""
        slope = self.bound - self.factor * divergence
        count = beta["count"] + 1
        mean, square = 0.9 * beta["mean"] + 0.1 * slope, 0.999 * beta["square"] + 0.001 * slope**2
        change = mean / (1 - 0.9**count) / ((square / (1 - 0.999**count)) ** 0.5 + 1e-8)
        moved = atleast(beta["beta"] - self.learning_rate * change, 0)
        return {"beta": moved, "mean": mean, "square": square, "count": count}
