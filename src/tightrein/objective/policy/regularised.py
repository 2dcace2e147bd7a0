"""Score gradients of an objective with a KL penalty in it, and of decisions that another engine sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...anchor.controller import Constant
from ...arrays import Array, clip, stop_gradient
from ...decisions import Decisions
from ...errors import TightreinError
from ...settings import setting
from ..divergence import SampledKL, SampledOldKL
from ..estimators import K3
from ..levels import BehaviourRatio
from ..ratio import exp_limited
from .bounds import Widths
from .keep import OneSided
from .logclip import log_bound
from .score import Score, Weight


@dataclass(frozen=True)
class BehaviourWeight(Weight):
    """The ratio to the policy that really sampled, whatever the ratio that is clipped. arXiv 2512.01374 (MiniRL).

    It holds both what the sampling engine computes differently and how far the policy has moved since.
    """

    of_ratio = False
    equation = "weight = min( pi / pi_behaviour, cap )"
    cap: float = setting(5.0, above=0)
    of: BehaviourRatio = BehaviourRatio()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What that ratio reads."""
        return self.of.needs

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Weight."""
        return clip(self.of(d), 0.0, self.cap)


@dataclass(frozen=True)
class DualSided(OneSided):
    """PPO's rule, and bad decisions whose ratio has run away are left out too. Dual clip, arXiv 1912.09729."""

    equation = "keep = (A >= 0 and r <= high) or (A <= 0 and low <= r < dual)"
    dual: float = setting(10.0, above=1)

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> Array:
        """See Keep."""
        return super().__call__(d, r, advantage) & ((advantage >= 0) | (r < self.dual))


@dataclass(frozen=True)
class RegularisedScore(Score):
    """The gradient of a KL-regularised objective as a Score: the penalty is part of the advantage. arXiv 2505.17508.

    A' is what a decision is worth once the penalty is counted, and its sign says which bound the decision meets
    (RPG-style clip). `within` holds the ratio inside the penalty's part; None: nothing does, and without `keep` the
    gradient is that of the ratio surrogate with the penalty added.
    """

    equation = "-sg[ weight keep ] A' logp,   A' = A - beta dk/dlogr / weight"
    kl: SampledKL = SampledOldKL(Constant(1e-4), K3())
    within: Widths | None = Widths(0.2, 0.28)

    def check(self) -> None:
        """See Part: a coefficient inside the surrogate cannot adapt, and the penalty must not vanish from sight."""
        if self.kl.controller.adaptive:
            raise TightreinError(
                f"{type(self.kl.controller).__name__} cannot adapt a penalty inside the surrogate",
                "set objective.surrogate.kl.controller=Constant, or surrogate=Importance with objective.trust",
            )

    @property
    def _reads_ratio(self) -> bool:
        return True

    def _read(self, d: Decisions) -> tuple[Decisions, Any, Array]:
        """As Score, with the regularised advantage in the place of the advantage."""
        still = d.replace(logp=stop_gradient(d.logp))
        log_r, advantage = self.ratio.log(still), self.advantage(d)
        r = exp_limited(log_r)
        inside = log_r if self.within is None else clip(log_r, *map(log_bound, self.within(still, r, advantage)))
        pull = self.kl.controller.coef * self.kl.derivative(inside)
        weight = 1.0 if self.weight is None else self.weight(still, r, advantage)
        return still, r, advantage - pull / weight
