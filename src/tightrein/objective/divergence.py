"""Divergences between policies: estimated from the sampled decisions, or exact from whole distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..anchor.controller import AdaptiveKL, Constant, Controller
from ..arrays import (
    LOG_RATIO_LIMIT,
    Array,
    clip,
    masked_extreme,
    masked_mean,
    namespace,
    zero_where_masked,
)
from ..decisions import Decisions, require
from ..settings import Part, setting, switched_on
from .covariance import covariance, top_share
from .estimators import K1, K3, Absolute, Estimator
from .ratio import Ratio, TokenRatio, exp_limited, log_difference, log_ratio

_ABSOLUTE = Absolute()


@dataclass(frozen=True)
class ReferenceKL(Part):
    """Penalty coef * KL(pi || pi_ref), added to the loss of each decision. coef = 0 switches it off."""

    equation = "+ beta k(logp - logp_ref)"
    coef: float = setting(0.0, at_least=0)
    estimator: Estimator = K3()

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Nothing while it is off, so that no reference model has to be run."""
        return frozenset({"logp", "logp_ref"}) if switched_on(self.coef) else frozenset()

    def __call__(self, d: Decisions) -> Array:
        """The estimate without its coefficient: [B, T]."""
        return self.estimator(log_difference(d.logp, d.logp_ref, d.weights()))


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
        return super().needs | self.ratio.needs if switched_on(self.coef) else frozenset()

    def __call__(self, d: Decisions) -> Array:
        """See ReferenceKL."""
        return self.ratio(d) * super().__call__(d)


@dataclass(frozen=True)
class Divergence(Part):
    """Base of the penalties on the distance from the old policy, with a fixed or an adaptive coefficient."""

    named: ClassVar[str] = "kl_trust"  # in the stats
    controller: Controller = AdaptiveKL()

    def __call__(self, d: Decisions) -> Array:
        """The divergence at each decision, [B, T]; what it says of masked ones is not read."""
        raise NotImplementedError

    @property
    def every_step(self) -> bool:  # type: ignore[override]
        """See Part: as the controller says."""
        return self.controller.every_step

    def penalty(self, d: Decisions, state: Any) -> Array:
        """What is added to the loss of each decision: [B, T]."""
        return self.coefficient(state) * self(d)

    def coefficient(self, state: Any) -> Array:
        """The coefficient that `state` holds (None: the controller's first)."""
        return self.controller.coef if state is None else self.controller.value(state)

    def measured(self, d: Decisions) -> Array:
        """What the controller sees of a batch: the mean (a scalar)."""
        return masked_mean(self(d), d.weights())

    def stats(self, d: Decisions) -> dict[str, Array]:
        """Named scalars about the divergence."""
        return {self.named: masked_mean(self(d), d.weights())}

    def init(self, prompts: int) -> Any:
        """The controller's state, where the coefficient changes."""
        return self.controller.start() if self.controller.adaptive else None

    def update(self, state: Any, decisions: Decisions, progress: Array) -> Any:
        """The controller's state in the next iteration, from the divergence that this one ended with."""
        require(decisions, self.needs, type(self).__name__)
        return self.controller.next(state, self.measured(decisions), progress)


@dataclass(frozen=True)
class ExactOldKL(Divergence):
    """KL(pi_old || pi) over the whole action distribution."""

    equation = "+ beta KL(pi_old(.|s) || pi(.|s))"
    named = "kl_exact"
    needs = frozenset({"dist", "dist_old"})

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        new, old = d.policies()
        return old.kl(new)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ExactOldMaxKL(ExactOldKL):
    """KL(pi_old || pi) as a penalty on its mean, while the controller watches its largest value in the batch."""

    equation = "+ beta KL(pi_old(.|s) || pi(.|s)),   beta by the maximum over s"

    def measured(self, d: Decisions) -> Array:
        """The largest divergence of the batch (a scalar)."""
        return masked_extreme(self(d), d.weights(), largest=True)


@dataclass(frozen=True)
class ExactNewKL(Divergence):
    """KL(pi || pi_old) over the whole action distribution."""

    equation = "+ beta KL(pi(.|s) || pi_old(.|s))"
    named = "kl_exact"
    needs = frozenset({"dist", "dist_old"})

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        new, old = d.policies()
        return new.kl(old)  # type: ignore[arg-type]


@dataclass(frozen=True)
class SampledKL(Divergence):
    """Base of the estimates from the sampled decisions, where whole distributions are not at hand."""

    needs = frozenset({"logp", "logp_old"})

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        return self.of(log_ratio(d))

    def of(self, log_r: Array) -> Array:
        """The estimate as a function of the log-ratio, elementwise."""
        raise NotImplementedError

    def derivative(self, log_r: Array) -> Array:
        """Its derivative by the log-ratio, elementwise."""
        raise NotImplementedError


@dataclass(frozen=True)
class SampledOldKL(SampledKL):
    """KL(pi_old || pi). As a loss, K1 and K3 have the expected gradient of that KL; arXiv 2505.17508 (RPG) has both."""

    equation = "+ beta k(logp_old - logp)"
    estimator: Estimator = K3()

    def of(self, log_r: Array) -> Array:
        """See SampledKL."""
        return self.estimator(-log_r)

    def derivative(self, log_r: Array) -> Array:
        """See SampledKL."""
        return -self.estimator.derivative(-log_r)


@dataclass(frozen=True)
class SampledNewKL(SampledKL):
    """KL(pi || pi_old), each decision of the old policy weighed by its ratio. arXiv 2505.17508 (RPG).

    As a loss, K1 and K3 have the expected gradient of that KL: with K1 the distributions are taken to sum to 1, with
    K3 they need not.
    """

    equation = "+ beta r k(logp - logp_old)"
    estimator: Estimator = K3()

    def of(self, log_r: Array) -> Array:
        """See SampledKL."""
        x = clip(log_r, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return namespace(x).exp(x) * self.estimator(x)

    def derivative(self, log_r: Array) -> Array:
        """See SampledKL."""
        x = clip(log_r, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return namespace(x).exp(x) * (self.estimator(x) + self.estimator.derivative(x))


@dataclass(frozen=True)
class SampledSymmetricKL(SampledKL):
    """The mean of KL(pi || pi_old) and KL(pi_old || pi), called JS by RPG's code. arXiv 2505.17508."""

    equation = "+ beta (r - 1) log r / 2"

    def of(self, log_r: Array) -> Array:
        """See SampledKL."""
        x = clip(log_r, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return 0.5 * x * namespace(x).expm1(x)

    def derivative(self, log_r: Array) -> Array:
        """See SampledKL."""
        x = clip(log_r, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return 0.5 * (namespace(x).expm1(x) + x * namespace(x).exp(x))


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


@dataclass(frozen=True)
class RatioVariance(Divergence):
    """The second moment of the ratio about 1: a chi-squared divergence, and twice the KL for small changes.

    No gradient is cut: with coefficient beta the pull of an advantage A ends at r = 1 + A / (2 beta), and turns back
    beyond. Source: R2VPO, arXiv 2601.03320.
    """

    equation = "+ beta (r - 1)^2"
    named = "ratio_variance"
    needs = frozenset({"logp", "logp_old"})

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        return (exp_limited(log_ratio(d)) - 1) ** 2


@dataclass(frozen=True)
class CovarianceKL(Divergence):
    """|log r| on the few decisions whose advantage and log-probability vary together most, 0 elsewhere.

    Those are the max(1, share * decisions) with the largest (A - mean A)(logp - mean logp): they drive the entropy
    down. Source: KL-Cov, arXiv 2505.22617.
    """

    equation = "+ beta |logp - logp_old|   on the n decisions of largest covariance"
    named = "kl_covariance"
    needs = frozenset({"logp", "logp_old", "advantage"})
    controller: Controller = Constant(1.0)
    share: float = setting(2e-4, above=0, at_most=1)

    def __call__(self, d: Decisions) -> Array:
        """See Divergence."""
        return zero_where_masked(_ABSOLUTE(log_ratio(d)), self.selected(d))

    def selected(self, d: Decisions) -> Array:
        """Which decisions are held back: booleans [B, T]."""
        mask = d.weights()
        return top_share(covariance(d), mask != 0, self.share, mask)

    def stats(self, d: Decisions) -> dict[str, Array]:
        """See Divergence: the mean over the decisions that are held back."""
        return {self.named: masked_mean(self(d), self.selected(d))}


def kl_stats(d: Decisions) -> dict[str, Array]:
    """Sampled estimates of KL(pi_old || pi) and moments of the ratio, each per decision: [B, T]."""
    x = log_ratio(d)
    return {"kl_k1": K1()(-x), "kl_k3": K3()(-x), "ratio": exp_limited(x)}
