"""Who acts while experience is collected, where that is not the policy being trained."""

from __future__ import annotations

from dataclasses import dataclass

from .anchor.controller import Constant
from .arrays import Array, namespace
from .decisions import Decisions
from .errors import TightreinError
from .objective.divergence import ExactNewKL
from .objective.policy import Clip, PolicyObjective, Widths
from .settings import Part, setting
from .step import Adam, Optimizer


@dataclass(frozen=True)
class Behaviour(Part):
    """Base of the policies that collect experience for another one."""


@dataclass(frozen=True)
class PROPS(Behaviour):
    """Acts so that what was collected looks like the policy being trained. arXiv 2311.08290.

    The last `rollouts` rollouts are kept, and the policy learns from all of them. Each rollout is collected in
    `chunks`. Before each the behaviour policy phi starts as a copy of the policy theta and takes gradient steps on
    what is kept, but for the chunk that the next one replaces: they lower the probability of actions that were taken
    more often than theta would, until rho < 1 - low. It is PPO's clipped loss with A = -1. The update ends when the
    mean of rho - 1 - log rho exceeds `target`.
    """

    equation = "phi from theta: minimise mean max( rho, clip(rho) ) + lambda KL(phi || theta),  rho = pi_phi / pi_theta"
    objective: PolicyObjective = PolicyObjective(Clip(Widths(0.3, 0.3)), trust=ExactNewKL(Constant(0.1)))
    step: Optimizer = Adam(learning_rate=1e-3, eps=1e-5, max_grad_norm=0.5)
    rollouts: int = setting(2, at_least=1)
    chunks: int = setting(8, at_least=1)
    epochs: int = setting(16, at_least=1)
    minibatches: int = setting(8, at_least=1)
    target: float = setting(0.03, above=0)

    def check(self) -> None:
        """See Part: something must be left when the oldest chunk goes."""
        if self.rollouts * self.chunks < 2:
            raise TightreinError("PROPS keeps one chunk, which the next one replaces", "set chunks or rollouts above 1")

    def loss(self, d: Decisions) -> Array:
        """What the behaviour policy minimises (a scalar); `logp` and `dist` are its own, `..._old` the policy's."""
        return self.objective(d.replace(advantage=-namespace(d.logp).ones_like(d.logp)), {}).value
