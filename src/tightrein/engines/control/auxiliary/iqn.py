"""An implicit quantile network, and the phase that trains it on a replay of the policy's transitions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.arrays import masked_mean
from tightrein.auxiliary import QuantileCritic, QuantileDistillation
from tightrein.auxiliary.quantiles import cosines, midpoints, quantile_loss
from tightrein.engines.control.config import Plan
from tightrein.engines.control.descent import Descent
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.networks import MLP, ActorCritic, Architecture, Inputs
from tightrein.engines.control.networks.architecture import TORSOS
from tightrein.engines.control.networks.layers import Features
from tightrein.engines.control.phases import After, Experience, phase
from tightrein.method import Method

Array = Any


class IQN(eqx.Module):
    """Z_tau(s, a): features of the state times features of tau, then a layer. arXiv 1806.06923."""

    torso: Any  # of images; None: the observation as a vector
    state: Features | None
    tau: MLP
    out: MLP
    axes: int = eqx.field(static=True)  # of an observation
    cosines: int = eqx.field(static=True)

    def __call__(self, observation: Array, tau: Array) -> Array:
        """Observations [..., *shape] and tau [..., N] -> quantiles [..., N, A]."""
        features = self._features(observation)
        return self.out(features[..., None, :] * jax.nn.relu(self.tau(cosines(tau, self.cosines))))

    def greedy(self, observation: Array, tau: Array) -> Array:
        """Quantiles [..., N] of the action with the largest mean."""
        every = self(observation, tau)
        best = every.mean(-2).argmax(-1)
        return jnp.take_along_axis(every, best[..., None, None], axis=-1)[..., 0]

    def _features(self, observation: Array) -> Array:
        if self.torso is not None:
            return self.torso(observation)
        assert self.state is not None
        vectors = observation.reshape(*observation.shape[: observation.ndim - self.axes], -1)
        return self.state(vectors.astype(jnp.float32))


class Transitions(eqx.Module):
    """What is kept of R rollouts, [R, B, ...]; mask: 1 where there was a decision."""

    observation: Array
    action: Array
    reward: Array
    following: Array
    terminated: Array
    mask: Array


class Kept(eqx.Module):
    """What the phase keeps: the network, its target, the optimizer, its number of steps, and the replay."""

    network: IQN
    target: IQN
    optimizer: Any
    steps: Array
    replay: Transitions
    loss: Array  # of the last time it was trained


@dataclass(frozen=True)
class QuantilePhase:
    """See Phase and QuantileDistillation."""

    part: QuantileDistillation
    quantiles: int
    gamma: Any
    plan: Plan
    spec: EnvSpec
    architecture: Architecture

    @property
    def descent(self) -> Descent:
        """The network's own optimizer."""
        return Descent(self.part.step, self.plan.iterations // self.part.every * self.part.updates)

    @property
    def rollouts(self) -> int:
        """How many are kept: as many whole ones as there is room for, and at least one."""
        return min(max(1, self.part.capacity // self.plan.batch), self.plan.iterations)

    def build(self, rng: np.random.Generator) -> IQN:
        """See Phase."""
        shape, hidden = self.spec.shape, self.architecture.hidden
        if self.architecture.torso in TORSOS:
            torso, features = TORSOS[self.architecture.torso](rng, shape)
            state = None
        else:
            torso, features = None, hidden[-1]
            state = Features(MLP(rng, [math.prod(shape), *hidden], math.sqrt(2.0)))
        tau = MLP(rng, [self.part.cosines, features], math.sqrt(2.0))
        out = MLP(rng, [features, features, self.spec.actions.outputs], 1.0)
        return IQN(torso, state, tau, out, len(shape), self.part.cosines)

    def init(self, network: ActorCritic, own: IQN) -> Kept:
        """See Phase."""
        shape = self.rollouts, self.plan.batch
        seen = jnp.zeros((*shape, *self.spec.shape), self.spec.dtype)
        zero = jnp.zeros(shape)
        replay = Transitions(seen, jnp.zeros(shape, jnp.int32), zero, seen, zero, zero)
        return Kept(own, own, self.descent.init(own), jnp.int32(0), replay, jnp.zeros(()))

    def told(self, kept: Kept, inputs: Inputs) -> Inputs:
        """See Phase: the quantiles at the middles of equal parts, of the action that is best by them."""
        tau = midpoints(jnp.zeros(()), self.quantiles)
        leading = inputs.observation.shape[: inputs.observation.ndim - len(self.spec.shape)]
        told = kept.network.greedy(inputs.observation, jnp.broadcast_to(tau, (*leading, self.quantiles)))
        known: Inputs = eqx.tree_at(lambda i: i.told, inputs, jax.lax.stop_gradient(told), is_leaf=lambda x: x is None)
        return known

    def after(
        self, network: ActorCritic, method: Any, kept: Kept, experience: Experience, key: Array, iteration: Array
    ) -> After:
        """See Phase; figures: quantile_loss."""
        kept = eqx.tree_at(lambda k: k.replay, kept, self._pushed(kept.replay, experience, iteration))
        filled = jnp.minimum(iteration + 1, self.rollouts)
        due = (iteration + 1) % self.part.every == 0
        kept = jax.lax.cond(due, lambda k: self._trained(k, filled, key), lambda k: k, kept)
        return After(network, method, kept, {"quantile_loss": kept.loss})

    def _pushed(self, replay: Transitions, experience: Experience, iteration: Array) -> Transitions:
        d = experience.whole.decisions
        new = Transitions(
            experience.whole.inputs.observation, experience.whole.action, d.reward,
            experience.following.observation, d.terminated, d.weights(),
        )  # fmt: skip
        place = iteration % self.rollouts
        pushed: Transitions = jax.tree.map(
            lambda old, x: old.at[place].set(x.reshape(old.shape[1:]).astype(old.dtype)), replay, new
        )
        return pushed

    def _trained(self, kept: Kept, filled: Array, key: Array) -> Kept:
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), kept.replay)
        parameters, unpack = self.descent.pack(kept.network)
        target, unpack_target = self.descent.pack(kept.target)

        def step(carry: Any, key: Array) -> tuple[Any, Array]:
            parameters, target, optimizer, steps = carry
            draw, tau, target_tau = jax.random.split(key, 3)
            rows = jax.random.randint(draw, (self.part.batch,), 0, filled * self.plan.batch)
            batch: Transitions = jax.tree.map(lambda x: x[rows], flat)
            goal = self._goal(unpack_target(target), batch, target_tau)

            def objective(p: Any) -> tuple[Array, None]:
                return self._loss(unpack(p), batch, goal, tau), None

            parameters, optimizer, loss, _ = self.descent.step(objective, parameters, optimizer)
            synced = (steps + 1) % self.part.sync == 0
            target = jax.tree.map(lambda new, old: jnp.where(synced, new, old), parameters, target)
            return (parameters, target, optimizer, steps + 1), loss

        begin = parameters, target, kept.optimizer, kept.steps
        end, losses = jax.lax.scan(step, begin, jax.random.split(key, self.part.updates))
        return Kept(unpack(end[0]), unpack_target(end[1]), end[2], end[3], kept.replay, losses.mean())

    def _goal(self, target: IQN, batch: Transitions, key: Array) -> Array:
        """Targets R + gamma Z_tau'(s', a*), none of it behind an end: [B, N']."""
        tau = jax.random.uniform(key, (self.part.batch, self.part.targets))
        following = target.greedy(batch.following, tau)
        return batch.reward[:, None] + self.gamma * (1 - batch.terminated[:, None]) * following

    def _loss(self, network: IQN, batch: Transitions, goal: Array, key: Array) -> Array:
        tau = jax.random.uniform(key, (self.part.batch, self.part.samples))
        every = network(batch.observation, tau)
        taken = jnp.take_along_axis(every, batch.action[:, None, None], axis=-1)[..., 0]
        return masked_mean(quantile_loss(taken, tau, goal, self.part.kappa), batch.mask)


@phase.register
def _(
    part: QuantileDistillation, method: Method, plan: Plan, spec: EnvSpec, architecture: Architecture
) -> QuantilePhase:
    assert isinstance(method.heads, QuantileCritic)
    gamma = method.credit.gamma  # type: ignore[union-attr]
    return QuantilePhase(part, method.heads.quantiles, gamma, plan, spec, architecture)
