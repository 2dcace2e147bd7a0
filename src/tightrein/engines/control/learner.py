"""One iteration's learning: rollout -> Decisions -> the solver's steps -> figures."""

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
from tightrein.engines.control.batch import Batch, evaluate
from tightrein.engines.control.descent import Solver
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
    solver: Solver
    actions: Actions
    inputs: int
    hidden: Sequence[int]
    envs: int
    iterations: int
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
            self.solver.init(network),
            jax.tree.map(jnp.float32, self.method.init()),
            Moments.of_shape((self.inputs,)) if self.normalise_obs else None,
            RewardScale.of_envs(self.envs) if self.normalise_reward else None,
        )

    def learn(
        self, state: LearnerState, rollout: Rollout, key: Array, iteration: Array, log: Array
    ) -> tuple[LearnerState, dict[str, Array]]:
        """All steps on one rollout, that of `iteration` (from 0).

        Returns the new state and the figures of the new policy on this rollout (zeros unless `log`).
        """
        rewards = self._scale(state, rollout)
        reward = rollout.reward if rewards is None else rewards.normalise(rollout.reward)
        inputs = jnp.swapaxes(observe(rollout.observation, state.observations), 0, 1)
        decisions = self._decisions(state, rollout, inputs, reward, jax.random.fold_in(key, 1))
        batch = self._batch(decisions, inputs, _turned(rollout.action))
        progress = (iteration + 1) / self.iterations
        solved = self.solver.solve(state.network, state.optimizer, state.method, batch, key, progress)
        figures = self._figures(solved.network, state.method, batch, log)
        moments = None
        if state.observations is not None:
            moments = state.observations.update(rollout.observation, rollout.mask)
        finite = jnp.isfinite(solved.loss) & jnp.isfinite(ravel_pytree(solved.network)[0]).all()
        figures = {**figures, **solved.stats, "loss": solved.loss, "finite": finite}
        return LearnerState(solved.network, solved.optimizer, solved.method, moments, rewards), figures

    def _scale(self, state: LearnerState, rollout: Rollout) -> RewardScale | None:
        if state.rewards is None:
            return None
        return state.rewards.update(rollout.reward, rollout.done, rollout.mask, self.gamma)

    def _decisions(self, state: LearnerState, rollout: Rollout, inputs: Array, reward: Array, key: Array) -> Any:
        """The rollout as Decisions [E, T], credited."""
        network, action = state.network, _turned(rollout.action)
        dist = network.policy(inputs)
        logp = dist.log_prob(action)
        decisions = tr.Decisions(
            logp_old=logp,
            mask=_turned(rollout.mask),
            reward=_turned(reward),
            value_old=network.value(inputs),
            value_next=_turned(network.value(observe(rollout.next_observation, state.observations))),
            terminated=_turned(rollout.terminated),
            truncated=_turned(rollout.truncated),
        )
        on_request = {
            "dist_old": lambda: dist,
            "entropy_old": dist.entropy,
            "logp_behaviour": lambda: logp,
            "staleness": lambda: jnp.zeros_like(logp),
            "action": lambda: action,
            "token": lambda: network.actions.identity(action),
            "random": lambda: jax.random.uniform(key, logp.shape),
        }
        wanted = self.method.update_needs | self.method.prepare_needs
        decisions = decisions.replace(**{name: make() for name, make in on_request.items() if name in wanted})
        return self.method.prepare(decisions, state.method)

    def _batch(self, decisions: Any, inputs: Array, action: Array) -> Batch:
        """Each decision its own row."""
        kept = decisions.replace(reward=None, value_next=None, terminated=None, truncated=None)
        rows: Batch = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), Batch(kept, inputs, action))
        return rows

    def _figures(self, network: ActorCritic, method_state: Any, batch: Batch, log: Array) -> dict[str, Array]:
        """The loss's stats of the new policy against the old on the whole rollout, zeros unless `log`."""

        def figures() -> dict[str, Array]:
            return dict(self.method.loss(evaluate(network, batch), method_state).stats)

        shapes = jax.eval_shape(figures)
        found: dict[str, Array] = jax.lax.cond(
            log, figures, lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        )
        return found


def _turned(x: Array) -> Array:
    """Time-major [T, E, ...] to [E, T, ...]."""
    return jnp.swapaxes(x, 0, 1)
