"""The two phases of FixPO: penalised minibatch steps, then steps on the penalty alone until the bound holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tightrein.arrays import masked_mean
from tightrein.engines.control.batch import Batch, evaluate, orders
from tightrein.engines.control.descent import Descent, Solved
from tightrein.engines.control.networks import ActorCritic
from tightrein.method import Method
from tightrein.step import FixUp

Array = Any


class Carry(NamedTuple):
    """What both phases change: parameters and the multiplier; `steps` counts the second phase's, `failed` its ends."""

    parameters: Any
    optimizer: Any
    method: Any
    steps: Array
    failed: Array


@dataclass(frozen=True)
class TwoPhases:
    """Solver for a FixUp step. The multiplier, part of the method's state, moves with every gradient step."""

    method: Method
    step: FixUp
    descent: Descent
    epochs: int
    minibatches: int

    def init(self, network: ActorCritic) -> Any:
        """See Solver."""
        return self.descent.init(network)

    def solve(
        self, network: ActorCritic, optimizer: Any, state: Any, batch: Batch, key: Array, progress: Array
    ) -> Solved:
        """See Solver.

        Figures: `kl_max` over the batch, `beta`, `fixup_steps`, `fixup_share` of all gradient steps, and how often the
        second phase gave up (`fixup_failed`).
        """
        parameters, unpack = self.descent.pack(network)
        phases = _Phases(self, network, unpack, batch, progress)
        carry = Carry(parameters, optimizer, state, jnp.int32(0), jnp.int32(0))
        carry, losses = jax.lax.scan(phases.epoch, carry, orders(key, self.epochs, batch.rows))
        if not self.step.every_epoch:
            carry = phases.fix_up(carry)
        steps = carry.steps.astype(losses.dtype)
        figures = {
            "kl_max": phases.largest(carry),
            "beta": phases.trust.coefficient(carry.method["objective.trust"]),
            "fixup_steps": steps,
            "fixup_share": steps / (steps + self.epochs * self.minibatches),
            "fixup_failed": carry.failed.astype(losses.dtype),
        }
        return Solved(unpack(carry.parameters), carry.optimizer, carry.method, losses.mean(), figures)


@dataclass(frozen=True)
class _Phases:
    """The steps of one iteration, from the policy `old`."""

    solver: TwoPhases
    old: ActorCritic
    unpack: Callable[[Any], ActorCritic]
    batch: Batch
    progress: Array

    @property
    def trust(self) -> Any:
        """The penalty; `compose` has seen to it that there is one with a bound."""
        objective: Any = self.solver.method.objective
        return objective.trust

    def epoch(self, carry: Carry, order: Array) -> tuple[Carry, Array]:
        """The first phase on all minibatches and, unless it comes only at the end, the second."""
        carry, losses = jax.lax.scan(self._primary, carry, self.batch.split(self.solver.minibatches, order))
        return self.fix_up(carry) if self.solver.step.every_epoch else carry, losses.mean()

    def fix_up(self, carry: Carry) -> Carry:
        """The second phase: afterwards no decision of the batch is beyond the bound."""
        pieces = self.batch.split(self.batch.pieces(self.solver.step.batch))

        def again(loop: tuple[Carry, Array]) -> Array:
            return self._violated(loop[0]) & (loop[1] < self.solver.step.passes)

        def one_pass(loop: tuple[Carry, Array]) -> tuple[Carry, Array]:
            return jax.lax.scan(self._fix, loop[0], pieces)[0], loop[1] + 1

        carry, _ = jax.lax.while_loop(again, one_pass, (carry, jnp.int32(0)))
        failed = self._violated(carry)
        network = self.unpack(carry.parameters)
        kept = network.with_actor(_where(failed, self.old.actor, network.actor))
        return carry._replace(parameters=self.solver.descent.pack(kept)[0], failed=carry.failed + failed)

    def largest(self, carry: Carry) -> Array:
        """The largest divergence of the batch."""
        return self.trust.measured(evaluate(self.unpack(carry.parameters), self.batch))

    def _violated(self, carry: Carry) -> Array:
        return self.largest(carry) > self.trust.controller.bound

    def _primary(self, carry: Carry, rows: Batch) -> tuple[Carry, Array]:
        return self._moved(lambda d: self.solver.method.loss(d, carry.method).value, carry, rows)[:2]

    def _fix(self, carry: Carry, rows: Batch) -> tuple[Carry, None]:
        beta = self.trust.coefficient(carry.method["objective.trust"])
        after, _, d = self._moved(lambda d: beta * masked_mean(self.trust(d), d.weights()), carry, rows)
        beyond = self.trust.measured(d) > self.trust.controller.bound
        return _where(beyond, after._replace(steps=carry.steps + 1), carry), None

    def _moved(self, loss: Callable[[Any], Array], carry: Carry, rows: Batch) -> tuple[Carry, Array, Any]:
        """A step of the policy down `loss`, then one of the multiplier; both see the decisions before them."""

        def objective(parameters: Any) -> tuple[Array, Any]:
            d = evaluate(self.unpack(parameters), rows)
            return loss(d), d

        parameters, optimizer, value, d = self.solver.descent.step(objective, carry.parameters, carry.optimizer)
        state = self.solver.method.update(carry.method, d, self.progress)
        return carry._replace(parameters=parameters, optimizer=optimizer, method=state), value, d


def _where(flag: Array, new: Any, old: Any) -> Any:
    """The tree `new` where the scalar `flag`, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)
