"""A trust region for the mean of a Gaussian policy, and another for its spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..anchor.controller import AdamDual, Controller
from ..arrays import Array, masked_mean
from ..decisions import Decisions, require
from ..distributions import DiagonalGaussian
from .divergence import Divergence


@dataclass(frozen=True)
class DecoupledKL(Divergence):
    """KL(pi_old || pi), of a Gaussian in two parts with a coefficient each. arXiv 1909.12238, section 4.2.

    `controller` steers that of the mean, measured in the old deviations, and `spread` that of the deviations. A policy
    over alternatives has one KL, which is `controller`'s.
    """

    equation = "+ alpha KL(pi_old || pi with the old deviations) + alpha' KL(pi_old || pi with the old means)"
    named = "kl_exact"
    needs = frozenset({"dist", "dist_old"})
    controller: Controller = AdamDual(coef=5.0, bound=0.01, factor=1.0, learning_rate=3e-4)
    spread: Controller = AdamDual(coef=1.0, bound=5e-5, factor=1.0, learning_rate=3e-4)

    @property
    def every_step(self) -> bool:  # type: ignore[override]
        """See Part."""
        return self.controller.every_step or self.spread.every_step

    def parts(self, d: Decisions) -> tuple[Array, Array]:
        """The divergence of the mean and that of the spread: [B, T] each."""
        new, old = d.policies()
        if not (isinstance(new, DiagonalGaussian) and isinstance(old, DiagonalGaussian)):
            return old.kl(new), 0 * d.weights()  # type: ignore[arg-type]
        return old.kl(DiagonalGaussian(new.mean, old.log_std)), old.kl(DiagonalGaussian(old.mean, new.log_std))

    def __call__(self, d: Decisions) -> Array:
        """See Divergence: the sum of both parts."""
        mean, spread = self.parts(d)
        return mean + spread

    def penalty(self, d: Decisions, state: Any) -> Array:
        """See Divergence."""
        mean, spread = self.parts(d)
        state = self.init(0) if state is None else state
        return self.controller.value(state["mean"]) * mean + self.spread.value(state["spread"]) * spread

    def coefficient(self, state: Any) -> Array:
        """See Divergence: that of the mean."""
        return self.controller.coef if state is None else self.controller.value(state["mean"])

    def init(self, prompts: int) -> Any:
        """Both controllers' state."""
        return {"mean": self.controller.start(), "spread": self.spread.start()}

    def update(self, state: Any, decisions: Decisions, progress: Any) -> Any:
        """Both controllers' next state."""
        require(decisions, self.needs, type(self).__name__)
        mean, spread = (masked_mean(part, decisions.weights()) for part in self.parts(decisions))
        return {
            "mean": self.controller.next(state["mean"], mean, progress),
            "spread": self.spread.next(state["spread"], spread, progress),
        }

    def stats(self, d: Decisions) -> dict[str, Array]:
        """See Divergence; and the part of the spread."""
        return {**super().stats(d), "kl_spread": masked_mean(self.parts(d)[1], d.weights())}
