"""Momentum with exact steps in the ball of a norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from ..arrays import Array, namespace
from ..settings import setting
from .norms import Axes, Layerwise, Norm
from .optimizers import Optimizer
from .rule import Memory, Rule


@dataclass(frozen=True)
class NTRMomentum(Rule):
    """The non-Euclidean trust-region method with momentum (arXiv 2503.12645).

    Each step minimises the linear model <m, x> over the ball of radius `learning_rate` around the last point, in
    `norm`: L2() is normalised SGD, LInf() Signum, Spectral() Muon with exact polar factors. `weight_decay` w centres
    the ball at (1 - learning_rate w) x, which keeps ||x|| <= max(||x_0||, 1 / w). `from_gradient`: m_0 is the first
    gradient, as in the paper, and not 0, as in Muon and Signum.

    `extrapolate` takes the gradient at x_k + (1-a)/a (x_k - x_{k-1}), for functions with a smooth second derivative:
    the parameters held are then these points, and x is `settled`.
    """

    equation: ClassVar[str] = "m <- (1-a) m + a g;  x <- argmin <m, x'> over ||x' - (1 - lr wd) x|| <= lr"

    learning_rate: float = setting(1e-3, above=0)
    averaging: float = setting(0.1, above=0, at_most=1)
    norm: Norm = Layerwise()
    weight_decay: float = setting(0.0, at_least=0)
    from_gradient: bool = True
    extrapolate: bool = False

    def memory(self, param: Array) -> Memory:
        """The momentum, of the parameter's shape; whether it has begun; the last displacement."""
        xp = namespace(param)
        kept = {"momentum": xp.zeros_like(param)}
        if self.from_gradient:
            kept["begun"] = xp.zeros_like(xp.sum(param))
        if self.extrapolate:
            kept["displacement"] = xp.zeros_like(param)
        return kept

    def move(
        self, gradients: Sequence[Array], memories: Sequence[Memory], params: Sequence[Array], axes: Axes, rate: Any
    ) -> tuple[list[Array], list[Memory]]:
        """See Rule."""
        new = [self._averaged(g, memory) for g, memory in zip(gradients, memories, strict=True)]
        directions = self.norm.direction([memory["momentum"] for memory in new], axes)
        steps = []
        for p, d, old, kept in zip(params, directions, memories, new, strict=True):
            step = rate * (d - self.weight_decay * self.settled(p, old))
            if self.extrapolate:
                kept["displacement"] = step
                step = step + self._reach * (step - old["displacement"])
            steps.append(step)
        return steps, new

    def settled(self, param: Array, memory: Memory) -> Array:
        """The iterate x of a parameter: the parameter itself unless `extrapolate`."""
        return param - self._reach * memory["displacement"] if self.extrapolate else param

    def bound(self, steps: int, gap: float, smoothness: float, noise: float, rho: float = 1.0) -> float:
        """What min_k E||grad f(x_k)||_dual cannot exceed after `steps` (Theorem 2, constant learning rate).

        gap: f(x_0) - inf f. smoothness: L of the gradient, from `norm` to its dual. noise: standard deviation of the
        gradient in the Euclidean norm. rho: ||.||_dual <= rho ||.||_2.
        """
        lr, a, sigma = self.learning_rate, self.averaging, rho * noise
        optimisation = gap / (lr * steps) + 1.5 * smoothness * lr
        return optimisation + 2 * sigma / (a * steps) + 2 * math.sqrt(a) * sigma + 2 * smoothness * lr / a

    def hosted(self, preset: Optimizer) -> Optimizer:
        """See Optimizer: with the preset's learning rate, as the default norm moves parameters as far as Adam does."""
        return cast(NTRMomentum, super().hosted(preset)).replace(learning_rate=preset.learning_rate)

    @property
    def _reach(self) -> float:
        return (1 - self.averaging) / self.averaging

    def _averaged(self, gradient: Array, memory: Memory) -> Memory:
        xp, a, m = namespace(gradient), self.averaging, memory["momentum"]
        averaged = (1 - a) * m + a * gradient
        if not self.from_gradient:
            return {"momentum": averaged}
        begun = memory["begun"]
        return {"momentum": xp.where(begun > 0, averaged, gradient), "begun": xp.ones_like(begun)}
