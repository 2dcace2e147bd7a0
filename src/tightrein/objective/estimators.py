"""Estimates of a divergence from samples, each a function of the log-ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arrays import LOG_RATIO_LIMIT, Array, atleast, clip, namespace, sign, stop_gradient
from ..settings import Part, setting


@dataclass(frozen=True)
class Estimator(Part):
    """Per-sample estimate of KL(p || q) from x = log p(a) - log q(a), with a drawn from p.

    Source: J. Schulman, "Approximating KL divergence" (2020).
    """

    def __call__(self, x: Array) -> Array:
        """The estimate, elementwise."""
        raise NotImplementedError

    def derivative(self, x: Array) -> Array:
        """Its derivative by x, elementwise."""
        raise NotImplementedError


@dataclass(frozen=True)
class K1(Estimator):
    """Unbiased value; as a loss its expected gradient is 0, in the reward it is that of KL(p || q)."""

    equation = "k1 = log p - log q"

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        return x

    def derivative(self, x: Array) -> Array:
        """See Estimator."""
        return namespace(x).ones_like(x)


@dataclass(frozen=True)
class K2(Estimator):
    """Biased value, but as a loss its expected gradient is exactly that of KL(p || q)."""

    equation = "k2 = (log p - log q)^2 / 2"

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        return 0.5 * x**2

    def derivative(self, x: Array) -> Array:
        """See Estimator."""
        return x


@dataclass(frozen=True)
class K3(Estimator):
    """Unbiased and never negative; as a loss its expected gradient is that of KL(q || p)."""

    equation = "k3 = q/p - 1 - log(q/p)"

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        # expm1 keeps the digits near 0 that exp(-x) - 1 would lose.
        cut = clip(x, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return namespace(x).expm1(-cut) + cut

    def derivative(self, x: Array) -> Array:
        """See Estimator."""
        return -namespace(x).expm1(-clip(x, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


@dataclass(frozen=True)
class TruncatedK3(K3):
    """k3 that goes on as a straight line where its slope in log q - log p is `steepest`. arXiv 2505.12504 (CPGD).

    As a loss from samples of p it pulls no harder than that on a decision that q has made likely.
    """

    equation = "k3, d/dlogq = min( q/p - 1, steepest )"
    steepest: float = setting(0.2, above=0)

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        plain = isinstance(self.steepest, float)
        curved = atleast(x, -(math if plain else namespace(self.steepest)).log1p(self.steepest))
        return namespace(x).expm1(-curved) + curved + self.steepest * (curved - x)

    def derivative(self, x: Array) -> Array:
        """See Estimator."""
        return atleast(super().derivative(x), -self.steepest)


@dataclass(frozen=True)
class Absolute(Estimator):
    """The size of the log-ratio: no divergence, but bounded in slope."""

    equation = "|log p - log q|"

    def __call__(self, x: Array) -> Array:
        """See Estimator."""
        return x * sign(stop_gradient(x))  # slope 0 at 0, where the libraries' abs() disagree

    def derivative(self, x: Array) -> Array:
        """See Estimator."""
        return sign(x)


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
