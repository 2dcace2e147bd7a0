"""Surrogates that bend the ratio instead of cutting it."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, atleast, atmost, choose, namespace, sigmoid, sign, tanh
from ...decisions import Decisions
from ...settings import setting
from .surrogate import Surrogate


@dataclass(frozen=True)
class Importance(Surrogate):
    """The importance-weighted surrogate without any trust region."""

    equation = "-r A"

    def formula(self, r: Array, advantage: Array) -> Array:
        """See Surrogate."""
        return -r * advantage


@dataclass(frozen=True)
class PSPO(Surrogate):
    """Mixes the policy with the old one before the ratio is formed, in place of a clip. arXiv 2509.21282.

    The mixture ((1 - smoothing) pi + smoothing pi_old) is nearer to pi_old in total variation by 1 - smoothing.
    """

    equation = "-( (1 - a) r + a ) A"
    smoothing: float = setting(0.1, at_least=0, at_most=1)

    def formula(self, r: Array, advantage: Array) -> Array:
        """See Surrogate."""
        return -((1 - self.smoothing) * r + self.smoothing) * advantage


@dataclass(frozen=True)
class SPO(Surrogate):
    """Quadratic penalty on the ratio: the optimum lies exactly at r = 1 + sign(A) epsilon. arXiv 2401.16025."""

    equation = "-( r A - |A| (r - 1)^2 / (2 epsilon) )"
    epsilon: float = setting(0.2, above=0)

    def formula(self, r: Array, advantage: Array) -> Array:
        """See Surrogate."""
        gap, pull = r - 1, namespace(r).abs(advantage) / (2 * self.epsilon)
        return gap * (pull * gap - advantage) - advantage

    def clipped(self, d: Decisions) -> Array:
        """1 where the ratio is outside [1 - epsilon, 1 + epsilon], that is, where it may be pulled back."""
        r = self.ratio(d)
        xp = namespace(r)
        return xp.astype(xp.abs(r - 1) > self.epsilon, r.dtype)


@dataclass(frozen=True)
class DriftDPO(Surrogate):
    """Discovered Policy Optimisation: a drift found by meta-learning, in closed form. arXiv 2210.05639.

    Not to be confused with preference DPO.
    """

    equation = (
        "-( r A - D ),  A >= 0: D = relu( (r-1)A - a tanh((r-1)A / a) ),  "
        "A < 0: D = relu( A log r - b tanh(A log r / b) )"
    )
    alpha: float = setting(2.0, above=0)
    beta: float = setting(0.6, above=0)

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision [B, T], or per trajectory [B, 1]."""
        r, log_r = self.ratio.with_log(d)
        advantage = self.advantage(d)
        return self.drift(r, log_r, advantage) - r * advantage

    def drift(self, r: Array, log_r: Array, advantage: Array) -> Array:
        """What leaving r = 1 costs; 0 while the step makes things worse anyway, elementwise."""
        # alpha where A > 0, beta where A < 0; where A = 0 there is no drift. Sums are faster than where().
        width = 0.5 * (self.alpha + self.beta) + 0.5 * (self.alpha - self.beta) * sign(advantage)
        x = (r - 1) * (atleast(advantage, 0) / self.alpha) + log_r * (atmost(advantage, 0) / self.beta)
        return width * atleast(x - tanh(x), 0)

    def clipped(self, d: Decisions) -> Array:
        """1 where the drift is positive."""
        r, log_r = self.ratio.with_log(d)
        return namespace(r).astype(self.drift(r, log_r, self.advantage(d)) > 0, r.dtype)


@dataclass(frozen=True)
class SAPO(Surrogate):
    """A sigmoid gate in place of the clip, with its own temperature for each sign. arXiv 2511.20347."""

    equation = "-(4 / tau) sigmoid( tau (r - 1) ) A,   tau = tau_pos if A > 0 else tau_neg"
    tau_pos: float = setting(1.0, above=0)
    tau_neg: float = setting(1.05, above=0)

    def formula(self, r: Array, advantage: Array) -> Array:
        """See Surrogate."""
        xp = namespace(r)
        tau = choose(advantage > 0, xp.full_like(advantage, self.tau_pos), xp.full_like(advantage, self.tau_neg))
        return -(4 / tau) * sigmoid(tau * (r - 1)) * advantage
