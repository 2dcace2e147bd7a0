"""The behaviour policy that collects experience for the policy being trained, and what it has collected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import tightrein as tr
from tightrein.arrays import masked_mean
from tightrein.behaviour import PROPS
from tightrein.engines.control.batch import Batch, orders, pieces
from tightrein.engines.control.config import Plan
from tightrein.engines.control.descent import Descent
from tightrein.engines.control.networks import ActorCritic, Inputs
from tightrein.engines.control.rollout import Rollout, turned
from tightrein.errors import TightreinError
from tightrein.method import Method
from tightrein.objective.estimators import K3
from tightrein.objective.ratio import log_ratio

Array = Any


def sampler_of(method: Method, plan: Plan) -> Sampler | None:
    """What collects in the place of the policy; None where the policy does.

    Raises TightreinError where the rollout cannot be cut into the rule's chunks.
    """
    rule = method.behaviour
    if not isinstance(rule, PROPS):
        return None
    if plan.rollout % rule.chunks:
        raise TightreinError(
            f"{rule.chunks} chunks do not divide a rollout of {plan.rollout} steps", "change --rollout or set chunks"
        )
    return Sampler(rule, plan.rollout, plan.iterations * rule.chunks * rule.epochs * rule.minibatches)


@dataclass(frozen=True)
class Sampler:
    """A PROPS rule as the engine follows it. steps: of each environment in a rollout; updates: in the whole run."""

    rule: PROPS
    steps: int
    updates: int

    @property
    def chunk(self) -> int:
        """Steps of each environment between two updates of the behaviour policy."""
        return self.steps // self.rule.chunks

    @property
    def descent(self) -> Descent:
        """The behaviour policy's own optimizer."""
        return Descent(self.rule.step, self.updates)

    def empty(self, network: ActorCritic, observation: Any, envs: int, masked: bool = False) -> Rollout:
        """Nothing collected yet: [rollouts * steps, envs, ...], all of it masked. observation: like one of them.

        masked: whether the environment tells which actions are allowed.
        """
        shape = self.rule.rollouts * self.steps, envs
        observation = jnp.zeros((*shape, *observation.shape), observation.dtype)

        def act(observation: Array) -> Array:
            return network.actions.mode(network.policy(Inputs(observation)))

        kind = jax.eval_shape(act, observation)
        zero = jnp.zeros(shape)
        action = jnp.zeros(kind.shape, kind.dtype)
        allowed = jnp.ones((*shape, sum(network.actions.options))) if masked else None
        return Rollout(observation, action, zero, zero, zero, observation, zero, allowed)

    def pushed(self, kept: Rollout, chunk: Rollout) -> Rollout:
        """With a new chunk, and without the oldest one."""
        joined: Rollout = jax.tree.map(
            lambda old, new: jnp.concatenate([old[new.shape[0] :], new.astype(old.dtype)]), kept, chunk
        )
        return joined

    def derive(
        self, network: ActorCritic, optimizer: Any, inputs: Inputs, kept: Rollout, key: Array
    ) -> tuple[ActorCritic, Any]:
        """The network that acts next, and the optimizer's state. inputs: what networks read of `kept`, [T, E]."""
        batch = self._batch(network, inputs, kept)
        parameters, unpack = self.descent.pack(network.actor)

        def step(carry: Any, rows: Batch) -> tuple[Any, None]:
            parameters, optimizer, over = carry

            def objective(p: Any) -> tuple[Array, Array]:
                dist = network.with_actor(unpack(p)).policy(rows.inputs)
                d = rows.decisions.replace(logp=dist.log_prob(rows.action), dist=dist)
                return self.rule.loss(d), masked_mean(K3()(-log_ratio(d)), d.weights())

            moved, state, _, far = self.descent.step(objective, parameters, optimizer)
            over = over | (far > self.rule.target)
            still = (parameters, optimizer)
            kept = jax.tree.map(lambda new, old: jnp.where(over, old, new), (moved, state), still)
            return (*kept, over), None

        def epoch(carry: Any, order: Array) -> tuple[Any, None]:
            return jax.lax.scan(step, carry, batch.split(count, order))

        count = pieces(batch.rows, -(-batch.rows // self.rule.minibatches))
        start = parameters, optimizer, jnp.asarray(False)
        (parameters, optimizer, _), _ = jax.lax.scan(epoch, start, orders(key, self.rule.epochs, batch.rows))
        return network.with_actor(unpack(parameters)), optimizer

    def _batch(self, network: ActorCritic, inputs: Inputs, kept: Rollout) -> Batch:
        """What is kept beyond the next chunk, one time step a row, as the policy sees it now."""
        dist = network.policy(inputs)
        decisions = tr.Decisions(logp_old=turned(dist.log_prob(kept.action)), mask=turned(kept.mask))
        decisions = decisions.replace(dist_old=turned(dist))
        whole = Batch(decisions, turned(inputs), turned(kept.action))
        left: Batch = jax.tree.map(lambda x: x[:, self.chunk :], whole)
        return left.cut(1)
