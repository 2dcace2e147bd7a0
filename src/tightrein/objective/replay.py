"""Losses of actor and critics on transitions from a replay buffer, of which each is a decision.

The action that is stored has values `q`. Another, drawn by the policy being trained in the same state and
reparameterised, has the log-probabilities `logp` and `logp_old` and the values `q_policy`: the gradient reaches the
policy through it, also out of `logp_old` and `q_policy`, whose own parameters are held still by whoever fills them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ..arrays import Array, at_least_float32, clip, masked_mean, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions, Loss, Stats
from ..settings import Part, setting, switched_on
from .base import Objective, State, detached
from .ratio import finite_logp


@dataclass(frozen=True)
class MirrorActor(Part):
    """Leaving the previous policy costs `coef` times the KL; the entropy is worth `temperature`.

    With coef = temperature the previous policy drops out and the loss is that of soft actor-critic; with temperature 0
    it is coef KL(pi || pi_k) - Q. The previous policy becomes the present one every `every` steps of an environment
    (an engine's work). `regularisation` holds means and log deviations of the policy near 0.
    Source: MDPO, arXiv 2005.09814.
    """

    equation = "c log pi(a|s) - (c - temperature) log pi_k(a|s) - Q_1(s, a),  a ~ pi;  pi_k <- pi every `every` steps"
    needs = frozenset({"logp", "logp_old", "q_policy", "parameters"})
    coef: float = setting(1.0, above=0)
    every: int = setting(1000, at_least=1)
    regularisation: float = setting(1e-3, at_least=0)

    def __call__(self, d: Decisions, temperature: Array | float) -> Array:
        """Loss of each decision, 0 where masked: [B, T]."""
        mask = d.weights()
        value = at_least_float32(d.q_policy[..., 0])
        cost = self.coef * finite_logp(d) - (self.coef - temperature) * _finite(d.logp_old, mask)
        return zero_where_masked(cost - value + self._size(d, mask), mask)

    def _size(self, d: Decisions, mask: Array) -> Array | float:
        """The penalty on means and log deviations, `regularisation` times the mean square of either: [B, T]."""
        if not switched_on(self.regularisation):
            return 0.0
        squares = zero_where_masked(at_least_float32(d.parameters), mask[..., None]) ** 2
        return 2 * self.regularisation * namespace(squares).mean(squares, axis=-1)


@dataclass(frozen=True)
class SoftCritics(Part):
    """Several estimates Q_i of a stored action's value, and V of the state, which the smallest of them teaches.

    `tau` is the share of V in its moving average V_bar, which teaches the Q_i in their turn (an engine's work). An
    episode that a limit cut goes on in V_bar; one that terminated does not. Source: SAC, arXiv 1801.01290.
    """

    equation = (
        "0.5 (r + gamma (1 - end) V_bar(s') - Q_i(s, a))^2,  0.5 (min_i Q_i(s, a') - temperature log pi - V(s))^2"
    )
    needs = frozenset({"logp", "q", "q_policy", "value", "value_next", "reward", "terminated"})
    gamma: float = setting(0.99, at_least=0, at_most=1)
    tau: float = setting(0.005, above=0, at_most=1)

    def target(self, d: Decisions) -> Array:
        """What the Q_i are to become, without gradient: [B, T]."""
        reward, following = d.reward_per_decision(), at_least_float32(d.value_next)
        ended = namespace(reward).astype(d.terminated, reward.dtype, copy=False)
        return stop_gradient(reward + self.gamma * (1 - ended) * following)

    def q_loss(self, d: Decisions) -> Array:
        """Half the squared errors of all Q_i together: [B, T]."""
        errors = zero_where_masked(at_least_float32(d.q) - self.target(d)[..., None], d.weights()[..., None])
        return 0.5 * namespace(errors).sum(errors**2, axis=-1)

    def value_loss(self, d: Decisions, temperature: Array | float) -> Array:
        """Half the squared error of V: [B, T]."""
        smallest = namespace(d.q_policy).min(at_least_float32(stop_gradient(d.q_policy)), axis=-1)
        target = smallest - temperature * stop_gradient(finite_logp(d))
        return 0.5 * zero_where_masked(at_least_float32(d.value) - target, d.weights()) ** 2


@dataclass(frozen=True)
class ReplayObjective(Objective):
    """L = mean of the actor's loss + means of the critics' losses; no two of them share a parameter.

    temperature: what a nat of entropy is worth in rewards.
    """

    actor: MirrorActor
    critics: SoftCritics = SoftCritics()
    temperature: float = setting(0.2, at_least=0)

    @property
    def equation(self) -> str:  # type: ignore[override]
        """The losses of a transition."""
        return self.actor.equation

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the loss reads; `mask` is optional."""
        return self.actor.needs | self.critics.needs

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch; the gradient flows into logp, logp_old, q_policy, parameters, q and value of `d`."""
        actor, mask = self.actor(d, self.temperature), d.weights()
        critics = self.critics.q_loss(d) + self.critics.value_loss(d, self.temperature)
        value = masked_mean(actor, mask) + masked_mean(critics, mask)
        return Loss(value, actor, Stats(functools.partial(self._stats, detached(d))))

    def _stats(self, d: Decisions) -> dict[str, Array]:
        mask = d.weights()
        q = at_least_float32(d.q)
        log_ratio = finite_logp(d) - _finite(d.logp_old, mask)
        return {
            "policy_loss": masked_mean(self.actor(d, self.temperature), mask),
            "q_loss": masked_mean(self.critics.q_loss(d), mask),
            "value_loss": masked_mean(self.critics.value_loss(d, self.temperature), mask),
            "q_mean": masked_mean(namespace(q).mean(q, axis=-1), mask),
            "q_target": masked_mean(self.critics.target(d), mask),
            "value_mean": masked_mean(at_least_float32(d.value), mask),
            "kl_previous": masked_mean(log_ratio, mask),
            "entropy": masked_mean(-finite_logp(d), mask),
        }


def _finite(logp: Array, mask: Array) -> Array:
    """A log-probability where it counts, 0 where masked, never infinite, with its gradient: [B, T]."""
    return clip(zero_where_masked(at_least_float32(logp), mask), -1e9, 1e9)
