"""Factors on the surrogate's loss: corrections for who sampled, and tokens that are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..arrays import Array, at_least_float32, clip, masked_mean, namespace, stop_gradient
from ..decisions import Decisions
from ..errors import TightreinError
from ..settings import Part, setting
from .covariance import covariance, top_share
from .ratio import ProximalRatio, Ratio, TokenRatio

if TYPE_CHECKING:
    from .policy.surrogate import Surrogate


@dataclass(frozen=True)
class Correction(Part):
    """Base of the factors. They carry no gradient, and change no denominator."""

    def __call__(self, d: Decisions, surrogate: Surrogate) -> Array:
        """The factor of each decision on the loss of `surrogate`: [B, T], or [B, 1] for whole trajectories."""
        raise NotImplementedError

    def apply(self, loss: Array, factor: Array) -> Array:
        """The loss of each decision with its factor: [B, T]."""
        return loss * factor


@dataclass(frozen=True)
class TruncatedImportance(Correction):
    """Weighs by how likely the old policy makes what another engine, or an older policy, really sampled.

    `level` forms the weight of a decision (TokenRatio), of a trajectory (SequenceProductRatio), or its geometric mean
    (SequenceMeanRatio). `drop` gives weight 0, instead of the cap, to what lies beyond the bounds. `normalise`
    divides by the mean weight, that of trajectories where each has one. Source: F. Yao et al., "Your efficient RL
    framework secretly brings you off-policy RL training" (2025).
    """

    equation = "w = min( pi_old / pi_behaviour, cap )"
    needs = frozenset({"logp_old", "logp_behaviour"})
    cap: float = setting(2.0, above=0)
    floor: float = setting(0.0, at_least=0)
    level: Ratio = TokenRatio()
    drop: bool = False
    normalise: bool = False

    def check(self) -> None:
        """See Part: something must be able to keep its weight."""
        if self.floor > self.cap:
            raise TightreinError(f"no weight is at least {self.floor} and at most {self.cap}", "give floor <= cap")

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: who sampled must not be made up for twice."""
        if "logp_behaviour" not in objective.surrogate.needs:
            return None
        return (
            f"{type(objective.surrogate).__name__} compares with the policy that sampled already, and "
            "TruncatedImportance would count that twice",
            "set objective.correction=none, or a ratio to the old policy",
        )

    def __call__(self, d: Decisions, surrogate: Surrogate) -> Array:
        """See Correction."""
        weight = self.level(d.replace(logp=d.logp_old, logp_old=d.logp_behaviour))
        weight = _limited(weight, self.floor, self.cap, self.drop)
        if not self.normalise:
            return weight
        xp, mask = namespace(weight), d.weights()
        mean = masked_mean(weight, mask if weight.shape == mask.shape else d.alive()[:, None])
        return weight / xp.where(mean > 0, mean, xp.ones_like(mean))


@dataclass(frozen=True)
class ProximalWeight(Correction):
    """Weighs by the ratio of the proximal policy to the one that decided; belongs to a ProximalRatio.

    `drop` leaves out what lies above the cap, as the released code does, instead of truncating it.
    """

    equation = "w = pi_proximal / pi_behaviour,   0 above cap"
    needs = ProximalRatio.needs
    cap: float = setting(5.0, above=0)
    drop: bool = True

    def __call__(self, d: Decisions, surrogate: Surrogate) -> Array:
        """See Correction."""
        assert isinstance(surrogate.ratio, ProximalRatio)  # see misfit
        return _limited(surrogate.ratio.weight(d), 0.0, self.cap, self.drop)

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: it is a property of a ratio to a proximal policy."""
        ratio = objective.surrogate.ratio
        if isinstance(ratio, ProximalRatio):
            return None
        return (
            f"ProximalWeight belongs to a ratio to a proximal policy, not to {type(ratio).__name__}",
            "set objective.surrogate.ratio=ProximalRatio, or objective.correction=none",
        )


@dataclass(frozen=True)
class DropCovariance(Correction):
    """Takes the gradient of a few random decisions whose advantage and log-probability vary together most.

    Candidates have a covariance between `low` and `high` and are not clipped already; n = max(1, share * decisions)
    of them are left out, chosen by `random`. Source: Clip-Cov, arXiv 2505.22617.
    """

    equation = "w = 0 on n random decisions with low < (A - mean A)(logp - mean logp) < high, else 1"
    needs = frozenset({"logp", "advantage", "random"})
    share: float = setting(2e-4, above=0, at_most=1)
    low: float = 1.0
    high: float = 5.0

    def __call__(self, d: Decisions, surrogate: Surrogate) -> Array:
        """See Correction."""
        product, mask = covariance(d), d.weights()
        xp = namespace(mask)
        still = d.replace(logp=stop_gradient(d.logp))
        between = (product > self.low) & (product < self.high)
        candidates = between & xp.astype(mask, xp.bool, copy=False) & ~surrogate.idle(still)
        chosen = top_share(-at_least_float32(d.random), candidates, self.share, mask)
        return xp.astype(~chosen, mask.dtype)


def _limited(weight: Array, low: float, high: float, drop: bool) -> Array:
    held = clip(weight, low, high)
    return weight * namespace(weight).astype(weight == held, weight.dtype) if drop else held
