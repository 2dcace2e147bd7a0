"""One iteration's learning: rollout -> Decisions -> the solver's steps -> figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import tightrein as tr
from tightrein.engines.control.auxiliary import phase_of
from tightrein.engines.control.batch import Batch, evaluate, if_logged
from tightrein.engines.control.behaviour import Sampler, sampler_of
from tightrein.engines.control.config import Plan
from tightrein.engines.control.descent import Solver
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.networks import ActorCritic, Architecture, Inputs
from tightrein.engines.control.normalise import Moments, RewardScale
from tightrein.engines.control.phases import Experience, Phase
from tightrein.engines.control.rollout import Rollout, turned
from tightrein.engines.control.solvers import solver_of
from tightrein.method import Method

Array = Any


class LearnerState(eqx.Module):
    """Everything of one seed that learning changes."""

    network: ActorCritic
    optimizer: Any
    method: Any
    observations: Moments | None
    rewards: RewardScale | None
    kept: Rollout | None  # of a behaviour policy: what it has collected,
    sampler: Any  # and its optimizer's state
    phase: Any  # of a phase of learning beside the objective


@dataclass(frozen=True)
class Learner:
    """How to learn, as fixed data; its functions are pure and made for one seed (map them over seeds with vmap)."""

    method: Method
    plan: Plan
    spec: EnvSpec
    architecture: Architecture
    normalise_obs: bool
    normalise_reward: bool

    @cached_property
    def solver(self) -> Solver:
        """What moves the parameters."""
        return solver_of(self.method, self.plan)

    @cached_property
    def sampler(self) -> Sampler | None:
        """What collects in the place of the policy; None where the policy does."""
        return sampler_of(self.method, self.plan)

    @cached_property
    def phase(self) -> Phase | None:
        """What else is learned after each iteration; None: nothing."""
        return phase_of(self.method, self.plan, self.spec, self.architecture)

    def at(self, values: Mapping[str, Any]) -> Learner:
        """The same with these settings of the method, which may be traced: a point of a grid."""
        return dataclasses.replace(self, method=self.method.traced(values)) if values else self

    def network(self, seed: int) -> ActorCritic:
        """The network that `seed` begins with."""
        return self.architecture.build(np.random.default_rng(seed), self.spec.shape, self.spec.actions)

    def networks(self, seed: int) -> tuple[ActorCritic, Any]:
        """All that `seed` begins with: its network, and those of a phase beside the objective (None: none)."""
        beside = None if self.phase is None else self.phase.build(np.random.default_rng((seed, 1)))
        return self.network(seed), beside

    def init(self, network: ActorCritic, beside: Any = None) -> LearnerState:
        """A fresh optimizer, method state and normalisers around `network`, and a phase around `beside`."""
        sampler = self.sampler
        return LearnerState(
            network,
            self.solver.init(network),
            jax.tree.map(jnp.float32, self.method.init()),
            Moments.of_shape(self.spec.shape) if self.normalise_obs else None,
            RewardScale.of_envs(self.plan.envs) if self.normalise_reward else None,
            None
            if sampler is None
            else sampler.empty(network, jnp.zeros(self.spec.shape, self.spec.dtype), self.plan.envs, self.spec.masked),
            None if sampler is None else sampler.descent.init(network.actor),
            None if self.phase is None else self.phase.init(network, beside),
        )

    def acting(self, state: LearnerState, key: Array) -> tuple[ActorCritic, LearnerState]:
        """The network that collects the next chunk, where a behaviour policy does."""
        assert self.sampler is not None
        assert state.kept is not None
        inputs = state.kept.inputs(state.observations)
        network, optimizer = self.sampler.derive(state.network, state.sampler, inputs, state.kept, key)
        return network, eqx.tree_at(lambda s: s.sampler, state, optimizer)

    def keep(self, state: LearnerState, chunk: Rollout) -> LearnerState:
        """The state with a chunk that was collected."""
        assert self.sampler is not None
        assert state.kept is not None
        kept: LearnerState = eqx.tree_at(lambda s: s.kept, state, self.sampler.pushed(state.kept, chunk))
        return kept

    def learn(
        self, state: LearnerState, rollout: Rollout | None, key: Array, iteration: Array, log: Array
    ) -> tuple[LearnerState, dict[str, Array]]:
        """All steps on one rollout, that of `iteration` (from 0); None: on all that is kept.

        Returns the new state and the figures of the new policy on this rollout (zeros unless `log`).
        """
        rollout, fresh = self._given(state, rollout)
        rewards = self._scale(state, fresh)
        reward = rollout.reward if rewards is None else rewards.normalise(rollout.reward)
        inputs, following = self.inputs(state, rollout)
        decisions = self.decisions(state, rollout, inputs, following, reward, jax.random.fold_in(key, 1))
        whole = Batch(decisions, inputs, turned(rollout.action))
        batch = self._rows(whole)
        progress = (iteration + 1) / self.plan.iterations
        solved = self.solver.solve(state.network, state.optimizer, state.method, batch, key, progress)
        figures = self._figures(solved.network, state.method, batch, log)
        network, method, phase = solved.network, solved.method, state.phase
        if self.phase is not None:
            experience = Experience(whole, following, turned(rollout.reward))
            network, method, phase, more = self.phase.after(
                network, method, phase, experience, jax.random.fold_in(key, 2), iteration
            )
            figures = {**figures, **more}
        moments = None
        if state.observations is not None:
            moments = state.observations.update(fresh.observation, fresh.mask)
        finite = jnp.isfinite(solved.loss) & jnp.isfinite(ravel_pytree(network)[0]).all()
        figures = {**figures, **solved.stats, "loss": solved.loss, "finite": finite}
        after = LearnerState(network, solved.optimizer, method, moments, rewards, state.kept, state.sampler, phase)
        return after, figures

    def inputs(self, state: LearnerState, rollout: Rollout) -> tuple[Inputs, Inputs]:
        """What the networks read at each decision, and in the state that it led to, [E, T]."""
        here = turned(rollout.inputs(state.observations))
        there = turned(rollout.following(state.observations, state.network))
        if self.phase is None:
            return here, there
        return self.phase.told(state.phase, here), self.phase.told(state.phase, there)

    def _given(self, state: LearnerState, rollout: Rollout | None) -> tuple[Rollout, Rollout]:
        """What is learned from, and the part of it that is new."""
        if rollout is not None:
            return rollout, rollout
        assert self.sampler is not None
        assert state.kept is not None
        steps = self.sampler.steps
        return state.kept, jax.tree.map(lambda x: x[-steps:], state.kept)

    def _scale(self, state: LearnerState, rollout: Rollout) -> RewardScale | None:
        if state.rewards is None:
            return None
        assert self.method.credit is not None
        return state.rewards.update(rollout.reward, rollout.done, rollout.mask, self.method.credit.gamma)  # type: ignore[attr-defined]

    def decisions(
        self, state: LearnerState, rollout: Rollout, inputs: Inputs, following: Inputs, reward: Array, key: Array
    ) -> Any:
        """The rollout as Decisions [E, T], credited."""
        network, action = state.network, turned(rollout.action)
        dist, value, _ = network(inputs)
        logp = dist.log_prob(action)
        decisions = tr.Decisions(
            logp_old=logp,
            mask=turned(rollout.mask),
            reward=turned(reward),
            value_old=self.method.worth(value, state.method),
            value_next=self.method.worth(network.value(following), state.method),
            terminated=turned(rollout.terminated),
            truncated=turned(rollout.truncated),
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

    def _rows(self, whole: Batch) -> Batch:
        """The rows that minibatches are made of.

        Each decision is its own; of a loss of several together, and of a network with memory, as many consecutive ones
        are as minibatches allow.
        """
        width = self._width(*whole.decisions.shape)
        kept = whole.decisions.replace(reward=None, value_next=None)
        if width == 1:
            kept = kept.replace(terminated=None, truncated=None)
        return whole._replace(decisions=kept).cut(width)

    def _width(self, envs: int, steps: int) -> int:
        """Decisions in a row."""
        if not (self.architecture.memory or self.method.objective.surrogate.paired):  # type: ignore[attr-defined]
            return 1
        whole = [w for w in range(1, steps + 1) if steps % w == 0]
        return max(w for w in whole if envs * steps // w % self.method.training.minibatches == 0)

    def _figures(self, network: ActorCritic, method_state: Any, batch: Batch, log: Array) -> dict[str, Array]:
        """The loss's stats of the new policy against the old on the whole rollout, zeros unless `log`."""

        def figures() -> dict[str, Array]:
            return dict(self.method.loss(evaluate(network, batch), method_state).stats)

        return if_logged(log, figures)
