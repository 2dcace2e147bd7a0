"""One iteration's learning: rollout -> Decisions -> epochs of minibatch steps -> controllers and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import tightrein as tr
from tightrein.engines.control.actions import Actions
from tightrein.engines.control.networks import ActorCritic
from tightrein.engines.control.normalise import Moments, RewardScale
from tightrein.engines.control.rollout import Rollout, observe

Array = Any


class LearnerState(eqx.Module):
    """Everything of one seed that learning changes."""

    network: ActorCritic
    optimizer: Any
    method: Any
    observations: Moments | None
    rewards: RewardScale | None


@dataclass(frozen=True)
class Learner:
    """How to learn, as fixed data; its functions are pure and made for one seed (map them over seeds with vmap)."""

    method: Any
    optimizer: Any
    actions: Actions
    inputs: int
    hidden: Sequence[int]
    envs: int
    epochs: int
    minibatches: int
    gamma: float
    normalise_obs: bool
    normalise_reward: bool

    def network(self, seed: int) -> ActorCritic:
        """The network that `seed` begins with."""
        return ActorCritic(np.random.default_rng(seed), self.inputs, self.hidden, self.actions)

    def init(self, network: ActorCritic) -> LearnerState:
        """A fresh optimizer, method state and normalisers around `network`."""
        return LearnerState(
            network,
            self.optimizer.init(ravel_pytree(network)[0]),
            jax.tree.map(jnp.float32, self.method.init()),
            Moments.of_shape((self.inputs,)) if self.normalise_obs else None,
            RewardScale.of_envs(self.envs) if self.normalise_reward else None,
        )

    def learn(
        self, state: LearnerState, rollout: Rollout, key: Array, log: Array
    ) -> tuple[LearnerState, dict[str, Array]]:
        """All epochs and minibatches on one rollout.

        Returns the new state and the figures of the new policy on this rollout (zeros unless `log`).
        """
        rewards = self._scale(state, rollout)
        reward = rollout.reward if rewards is None else rewards.normalise(rollout.reward)
        inputs = jnp.swapaxes(observe(rollout.observation, state.observations), 0, 1)
        decisions = self._decisions(state, rollout, inputs, reward)
        batch = self._batch(decisions, inputs, jnp.swapaxes(rollout.action, 0, 1))
        network, optimizer, loss = self._epochs(state, batch, key)
        method, figures = self._after(network, state.method, batch, log)
        moments = None
        if state.observations is not None:
            moments = state.observations.update(rollout.observation, rollout.mask)
        finite = jnp.isfinite(loss) & jnp.isfinite(ravel_pytree(network)[0]).all()
        return LearnerState(network, optimizer, method, moments, rewards), {**figures, "loss": loss, "finite": finite}

    def _scale(self, state: LearnerState, rollout: Rollout) -> RewardScale | None:
        if state.rewards is None:
            return None
        return state.rewards.update(rollout.reward, rollout.done, rollout.mask, self.gamma)

    def _decisions(self, state: LearnerState, rollout: Rollout, inputs: Array, reward: Array) -> Any:
        """The rollout as Decisions [E, T], credited."""
        network = state.network
        dist = network.policy(inputs)
        decisions = tr.Decisions(
            logp_old=dist.log_prob(_turned(rollout.action)),
            mask=_turned(rollout.mask),
            reward=_turned(reward),
            value_old=network.value(inputs),
            value_next=_turned(network.value(observe(rollout.next_observation, state.observations))),
            terminated=_turned(rollout.terminated),
            truncated=_turned(rollout.truncated),
            dist_old=dist if "dist_old" in self.method.needs else None,
        )
        return self.method.prepare(decisions, state.method)

    def _batch(self, decisions: Any, inputs: Array, action: Array) -> tuple[Any, Array, Array]:
        """Each decision its own row: Decisions [E * T, 1], network inputs and actions [E * T, 1, ...]."""
        kept = decisions.replace(reward=None, value_next=None, terminated=None, truncated=None)
        rows: tuple[Any, Array, Array] = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), (kept, inputs, action))
        return rows

    def _epochs(self, state: LearnerState, batch: Any, key: Array) -> tuple[ActorCritic, Any, Array]:
        flat, unravel = ravel_pytree(state.network)
        rows = batch[1].shape[0]
        order = jnp.argsort(jax.random.bits(key, (self.epochs, rows)), axis=-1)

        def objective(parameters: Array, minibatch: Any) -> Array:
            return self.method.loss(_evaluate(unravel(parameters), *minibatch), state.method).value

        def step(carry: tuple[Array, Any], minibatch: Any) -> tuple[tuple[Array, Any], Array]:
            parameters, optimizer = carry
            loss, gradient = jax.value_and_grad(objective)(parameters, minibatch)
            update, optimizer = self.optimizer.update(gradient, optimizer, parameters)
            return (parameters + update, optimizer), loss

        def epoch(carry: tuple[Array, Any], permutation: Array) -> tuple[tuple[Array, Any], Array]:
            # One gather an epoch: minibatches then are slices that lie together.
            shuffled = jax.tree.map(lambda x: x[permutation].reshape(self.minibatches, -1, *x.shape[1:]), batch)
            return jax.lax.scan(step, carry, shuffled)

        (flat, optimizer), losses = jax.lax.scan(epoch, (flat, state.optimizer), order)
        return unravel(flat), optimizer, losses.mean()

    def _after(self, network: ActorCritic, method_state: Any, batch: Any, log: Array) -> tuple[Any, dict[str, Array]]:
        """The method's controllers, and the figures of the new policy against the old on the whole rollout."""

        def figures() -> dict[str, Array]:
            return dict(self.method.loss(_evaluate(network, *batch), method_state).stats)

        shapes = jax.eval_shape(figures)
        stats = jax.lax.cond(log, figures, lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes))
        if self.method.stateful:
            method_state = self.method.update(method_state, _evaluate(network, *batch))
        return method_state, stats


def _evaluate(network: ActorCritic, decisions: Any, inputs: Array, action: Array) -> Any:
    """Decisions [M, 1] with what the network says now."""
    dist = network.policy(inputs)
    return decisions.replace(logp=dist.log_prob(action), dist=dist, entropy=dist.entropy(), value=network.value(inputs))


def _turned(x: Array) -> Array:
    """Time-major [T, E, ...] to [E, T, ...]."""
    return jnp.swapaxes(x, 0, 1)
