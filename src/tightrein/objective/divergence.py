"""Divergences between policies: estimated from the sampled decisions, or exact from whole distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..anchor.controller import AdaptiveKL, Controller
from ..arrays import Array, clip, masked_mean, namespace, zero_where_masked
from ..decisions import Decisions, require
from ..settings import Part, setting
from .ratio import exp_limited, log_difference, log_ratio


@dataclass(frozen=True)
class Estimator(Part):
    """Per-sample estimate of KL(p || q) from x = log p(a) - log q(a), with a drawn from p.

    Source: J. Schulman, "Approximating KL divergence" (2020).
    """

    def __call__(self, x: Array) -> Array:
        """The estimate, elementwise."""
        raise NotImplementedError


@dataclass(frozen=True)
class K1(Estimator):
    """Unbiased value; as a loss its expected gradient is 0, in the reward it is that of KL(p || q)."""

    equation = "k1 = log p - log q"

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        return x


@dataclass(frozen=True)
class K2(Estimator):
    """Biased value, but as a loss its expected gradient is exactly that of KL(p || q)."""

    equation = "k2 = (log p - log q)^2 / 2"

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        return 0.5 * x**2


@dataclass(frozen=True)
class K3(Estimator):
    """Unbiased and never negative; as a loss its expected gradient is that of KL(q || p)."""

    equation = "k3 = q/p - 1 - log(q/p)"

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        # expm1 keeps the digits near 0 that exp(-x) - 1 would lose.
        cut = clip(x, -20.0, 20.0)
        return namespace(x).expm1(-cut) + cut


@dataclass(frozen=True)
class ReferenceKL(Part):
    """Penalty coef * KL(pi || pi_ref), added to the loss of each decision. coef = 0 switches it off."""

    equation = "+ beta k(logp - logp_ref)"
    coef: float = setting(0.0, at_least=0)
    estimator: Estimator = K3()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Nothing while it is off, so that no reference model has to be run."""
        return frozenset({"logp", "logp_ref"}) if self.coef else frozenset()

    def __call__(self, d: Decisions) -> Array:
        """The estimate without its coefficient: [B, T]."""
        return self.estimator(log_difference(d.logp, d.logp_ref, d.weights()))


@dataclass(frozen=True)
class Divergence(Part):
    """Base of the penalties on the distance from the old policy, with a fixed or an adaptive coefficient."""

    named: ClassVar[str] = "kl_trust"  # in the stats
    controller: Controller = AdaptiveKL()

    def __call__(self, d: Decisions) -> Array:
        """The divergence at each decision: [B, T]."""
        raise NotImplementedError

    def init(self, prompts: int) -> float | None:
        """The coefficient, where it changes."""
        return self.controller.coef if self.controller.adaptive else None

    def update(self, state: Array, decisions: Decisions, progress: Array) -> Array:
        """The coefficient of the next iteration, from the mean divergence that this one ended with."""
        require(decisions, self.needs, type(self).__name__)
        divergence = masked_mean(self(decisions), decisions.weights())
        return self.controller.next(state, divergence, progress)


@dataclass(frozen=True)
class ExactOldKL(Divergence):
    """KL(pi_old || pi) over the whole action distribution."""

    equation = "+ beta KL(pi_old(.|s) || pi(.|s))"
    named = "kl_exact"
    needs = frozenset({"dist", "dist_old"})

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        return zero_where_masked(d.dist_old.kl(d.dist), d.weights())  # type: ignore[union-attr,arg-type]


@dataclass(frozen=True)
class SampledOldKL(Divergence):
    """KL(pi_old || pi) estimated from the sampled decisions, where whole distributions are not at hand."""

    equation = "+ beta k(logp_old - logp)"
    needs = frozenset({"logp", "logp_old"})
    estimator: Estimator = K3()

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        return self.estimator(-log_ratio(d))


def kl_stats(d: Decisions) -> dict[str, Array]:
    """Sampled estimates of KL(pi_old || pi) and moments of the ratio, each per decision: [B, T]."""
    x = log_ratio(d)
    return {"kl_k1": K1()(-x), "kl_k3": K3()(-x), "ratio": exp_limited(x)}
