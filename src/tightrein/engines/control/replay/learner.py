"""One step's learning: transitions -> buffer -> gradient steps on batches of it -> figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import tightrein as tr
from tightrein.engines.control.batch import if_logged
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.descent import Descent
from tightrein.engines.control.environments import EnvSpec
from tightrein.engines.control.replay.buffer import Buffer, Transitions
from tightrein.engines.control.replay.networks import Actor, Networks, Rectified, ReplayActions
from tightrein.engines.control.rollout import Rollout
from tightrein.errors import TightreinError
from tightrein.method import Method
from tightrein.replay import Replay

Array = Any


class ReplayState(eqx.Module):
    """Everything of one seed that learning changes."""

    networks: Networks
    previous: Rectified  # the policy that the KL is measured to
    target: Rectified  # the moving average of the critic
    optimizer: Any
    buffer: Buffer
    random: Array  # 1 while actions are drawn uniformly
    loss: Array  # of the last gradient step; not finite for good once it was so
    axes: int = eqx.field(static=True)
    actions: ReplayActions = eqx.field(static=True)

    observations: ClassVar[None] = None  # they are read as they are

    @property
    def network(self) -> Actor:
        """Who acts."""
        return Actor(self.networks.policy, self.random, self.axes, self.actions)


@dataclass(frozen=True)
class ReplayLearner:
    """How to learn from a buffer, as fixed data; for one seed, with the functions of Learner that trainers use."""

    method: Method
    plan: Plan
    spec: EnvSpec
    hidden: tuple[int, ...]

    sampler: ClassVar[None] = None  # the policy itself collects

    @classmethod
    def of(
        cls, config: ControlConfig, method: Method, spec: EnvSpec, plan: Plan, normalises: tuple[bool, bool]
    ) -> ReplayLearner:
        """The learner for a run.

        Raises TightreinError for actions or observations that it cannot learn from, and for what it does not have.
        """
        learner = cls(method, plan, spec, config.hidden)
        learner.actions  # noqa: B018 - raises where they have no bounds
        if spec.pixels or config.network not in ("auto", "mlp") or config.memory:
            raise TightreinError(
                f"{method.key} keeps single transitions and reads vectors: neither images nor memory",
                "use --network mlp --memory 0 and an environment that shows vectors",
            )
        if any(normalises):
            raise TightreinError(
                f"{method.key} keeps observations and rewards as they are, also for later",
                "leave out --normalise-obs and --normalise-reward",
            )
        if learner.replay.size < plan.batch:
            raise TightreinError(
                f"a buffer of {learner.replay.size} transitions holds no rollout of {plan.batch} steps",
                "raise replay.size, or lower --envs or --rollout",
            )
        return learner

    @property
    def replay(self) -> Replay:
        """What the method keeps."""
        assert self.method.replay is not None
        return self.method.replay

    @cached_property
    def actions(self) -> ReplayActions:
        """The action space, raising TightreinError where it has no bounds."""
        return ReplayActions.of(self.spec.actions, self.replay.deterministic, self.method.key)

    @cached_property
    def descent(self) -> Descent:
        """The optimizer of all networks; they share nothing, so that one step on the sum of the losses is theirs."""
        step: Any = self.method.step
        return Descent(step, self.plan.iterations * self.steps)

    @property
    def steps(self) -> int:
        """Gradient steps in an iteration."""
        return self.plan.batch * self.replay.updates

    @property
    def capacity(self) -> int:
        """Transitions that are kept: never more than the run will see."""
        return min(self.replay.size, self.plan.iterations * self.plan.batch)

    def at(self, values: Mapping[str, Any]) -> ReplayLearner:
        """The same with these settings of the method, which may be traced: a point of a grid."""
        return dataclasses.replace(self, method=self.method.traced(values)) if values else self

    def network(self, seed: int) -> Networks:
        """The networks that `seed` begins with."""
        rng = np.random.default_rng(seed)
        return Networks.build(rng, math.prod(self.spec.shape), self.actions.outputs, self.hidden)

    def networks(self, seed: int) -> tuple[Networks]:
        """What `init` begins with."""
        return (self.network(seed),)

    def init(self, networks: Networks) -> ReplayState:
        """A fresh optimizer and an empty buffer around `networks`."""
        return ReplayState(
            networks, networks.policy, networks.critic, self.descent.init(networks),
            Buffer.empty(self.capacity, math.prod(self.spec.shape), self.actions.outputs),
            jnp.float32(self.replay.learning_starts > 0), jnp.float32(0), len(self.spec.shape), self.actions,
        )  # fmt: skip

    def learn(
        self, state: ReplayState, rollout: Rollout, key: Array, iteration: Array, log: Array
    ) -> tuple[ReplayState, dict[str, Array]]:
        """All gradient steps after the steps of `iteration` (from 0), and figures on a batch (zeros unless `log`)."""
        buffer, done = state.buffer.kept(rollout), (iteration + 1) * self.plan.batch
        learned = state.networks, state.target, state.optimizer, state.loss
        networks, target, optimizer, loss = jax.lax.cond(
            done > self.replay.learning_starts,
            lambda: self._descended(learned, state.previous, buffer, key),
            lambda: learned,
        )
        policy = networks.policy
        figures = self._figures(networks, target, state.previous, buffer.drawn(key, self.replay.batch), key, log)
        every = self.method.objective.actor.every  # type: ignore[attr-defined]
        over = done // every > (done - self.plan.batch) // every
        previous = jax.tree.map(lambda new, old: jnp.where(over, new, old), policy, state.previous)
        finite = jnp.isfinite(loss) & jnp.isfinite(ravel_pytree(networks)[0]).all()
        random = jnp.where(done < self.replay.learning_starts, 1.0, jnp.zeros_like(state.random))
        after = ReplayState(networks, previous, target, optimizer, buffer, random, loss, state.axes, state.actions)
        return after, {**figures, "loss": loss, "finite": finite}

    def _descended(self, learned: Any, previous: Rectified, buffer: Buffer, key: Array) -> Any:
        """Networks, target, optimizer and loss after the gradient steps of an iteration."""
        networks, target, optimizer, loss = learned
        parameters, unpack = self.descent.pack(networks)
        tau = self.method.objective.critics.tau  # type: ignore[attr-defined]

        def step(carry: Any, key: Array) -> tuple[Any, None]:
            parameters, target, optimizer, before = carry
            draw_key, noise_key = jax.random.split(key)
            batch = buffer.drawn(draw_key, self.replay.batch)
            noise = jax.random.normal(noise_key, batch.action.shape)

            def objective(p: Any) -> tuple[Array, None]:
                return self.method.loss(self.decisions(unpack(p), target, previous, batch, noise)).value, None

            parameters, optimizer, loss, _ = self.descent.step(objective, parameters, optimizer)
            target = jax.tree.map(lambda old, new: old + tau * (new - old), target, unpack(parameters).critic)
            loss = jnp.where(jnp.isfinite(before), loss, before)
            return (parameters, target, optimizer, loss), None

        carry = parameters, target, optimizer, loss
        (parameters, *rest), _ = jax.lax.scan(step, carry, jax.random.split(key, self.steps))
        return unpack(parameters), *rest

    def decisions(
        self, networks: Networks, target: Rectified, previous: Rectified, batch: Transitions, noise: Array
    ) -> tr.Decisions:
        """A batch as Decisions [N, 1]: gradients flow into each network from its own loss alone."""
        seen = batch.observation
        dist = self.actions.policy(networks.policy(seen))
        action = dist.mean + jnp.exp(dist.log_std) * noise
        held: Networks = jax.lax.stop_gradient(networks)
        old = self.actions.policy(jax.lax.stop_gradient(previous)(seen))
        columns = {
            "logp": dist.log_prob(action),
            "logp_old": old.log_prob(action),
            "parameters": jnp.concatenate([dist.mean, dist.log_std], axis=-1),
            "q": networks.q(seen, batch.action),
            "q_policy": held.q(seen, action),
            "value": networks.critic(seen)[:, 0],
            "value_next": target(batch.following)[:, 0],
            "reward": batch.reward,
            "terminated": batch.terminated,
        }
        return tr.Decisions(**{name: x[:, None] for name, x in columns.items()})

    def _figures(
        self, networks: Networks, target: Rectified, previous: Rectified, batch: Transitions, key: Array, log: Array
    ) -> dict[str, Array]:
        """The loss's stats on a batch, zeros unless `log`."""
        noise = jax.random.normal(jax.random.fold_in(key, 1), batch.action.shape)

        def figures() -> dict[str, Array]:
            return dict(self.method.loss(self.decisions(networks, target, previous, batch, noise)).stats)

        return if_logged(log, figures)
