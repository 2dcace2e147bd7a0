"""More estimates of a divergence from samples: with another gradient than their value, and off-policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, namespace, stop_gradient
from ..decisions import Decisions
from .divergence import K2, K3, Divergence, Estimator, ReferenceKL
from .ratio import Ratio, TokenRatio, log_difference


@dataclass(frozen=True)
class Absolute(Estimator):
    """The size of the log-ratio: no divergence, but bounded in slope."""

    equation = "|log p - log q|"

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        return x * stop_gradient(namespace(x).sign(x))  # slope 0 at 0, where the libraries' abs() disagree

    def derivative(self, x: Array) -> Array:
        """See Estimator."""
        return namespace(x).sign(x)


@dataclass(frozen=True)
class StraightThrough(Estimator):
    """The value of one estimate with the gradient of another (verl's `k1+` and `k3+`): both unbiased as a loss."""

    equation = "sg[value - slope] + slope"
    value: Estimator = K3()
    slope: Estimator = K2()

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        slope = self.slope(x)
        return stop_gradient(self.value(x) - slope) + slope

    def derivative(self, x: Array) -> Array:
        """See Estimator."""
        return self.slope.derivative(x)


@dataclass(frozen=True)
class WeightedReferenceKL(ReferenceKL):
    """The penalty weighed by the ratio to the policy that sampled, which makes it unbiased off-policy.

    The ratio carries its gradient: with k3 the expected gradient is that of KL(pi || pi_ref), whoever sampled.
    Source: DeepSeek-V3.2 (2025); TRL use_bias_correction_kl.
    """

    equation = "+ beta r k(logp - logp_ref)"
    ratio: Ratio = TokenRatio()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """See ReferenceKL; and what the ratio reads."""
        return super().needs | self.ratio.needs if self.coef else frozenset()

    def __call__(self, d: Decisions) -> Array:
        """See ReferenceKL."""
        return self.ratio(d) * super().__call__(d)


@dataclass(frozen=True)
class SampledReferenceKL(Divergence):
    """KL(pi || pi_ref) as a penalty whose coefficient a controller steers, where ReferenceKL's is constant."""

    equation = "+ beta k(logp - logp_ref)"
    named = "kl_ref"
    needs = frozenset({"logp", "logp_ref"})
    estimator: Estimator = K3()

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: one penalty towards the reference is enough."""
        if not objective.reference.coef:
            return None
        return "SampledReferenceKL stands beside a ReferenceKL that is on", "set objective.reference.coef=0"

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        return self.estimator(log_difference(d.logp, d.logp_ref, d.weights()))
