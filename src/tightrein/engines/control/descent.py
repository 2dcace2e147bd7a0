"""What the solvers share: the protocol, and gradient steps on a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from tightrein.engines.control.batch import Batch, evaluate
from tightrein.engines.control.networks import ActorCritic, out_axes
from tightrein.method import Method
from tightrein.step import Optimizer

Array = Any


class Solved(NamedTuple):
    """What an iteration ends with: network, optimizer state, method state, mean loss, and figures of the solver."""

    network: ActorCritic
    optimizer: Any
    method: Any
    loss: Array
    stats: dict[str, Array]


class Solver(Protocol):
    """A way to learn from a batch, for one seed: pure functions, to be mapped over seeds and compiled."""

    def init(self, network: ActorCritic) -> Any:
        """State of the optimizers for a network."""

    def solve(
        self, network: ActorCritic, optimizer: Any, state: Any, batch: Batch, key: Array, progress: Array
    ) -> Solved:
        """All that one iteration changes. state: the method's. progress: share of the training done by then."""


@dataclass(frozen=True)
class Descent:
    """`rule` on a network, which it sees as one flat vector unless it asks for matrices: one fused operation a step.

    updates: steps in the whole run.
    """

    rule: Optimizer
    updates: int

    def init(self, network: Any) -> Any:
        """The optimizer's state."""
        parameters, _ = self.pack(network)
        return self._optimizer(parameters).init(parameters)

    def pack(self, network: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The parameters as the optimizer sees them, and the function that makes a network of them again."""
        return (network, lambda parameters: parameters) if self.rule.per_matrix else ravel_pytree(network)

    def figures(self, state: Any) -> dict[str, Array]:
        """What the optimizer's state tells about its last step."""
        return self.rule.figures(state)

    def step(self, objective: Callable[[Any], Any], parameters: Any, state: Any) -> tuple[Any, Any, Array, Any]:
        """One step down `objective`, parameters -> (loss, more): new parameters and optimizer state, loss, more."""
        (loss, more), gradient = jax.value_and_grad(objective, has_aux=True)(parameters)
        update, state = self._optimizer(parameters).update(gradient, state, parameters)
        return jax.tree.map(jnp.add, parameters, update), state, loss, more

    def _optimizer(self, parameters: Any) -> Any:
        return self.rule.optax(self.updates, out_axes(parameters) if self.rule.per_matrix else None)


def updated(
    method: Method, state: Any, network: ActorCritic, batch: Batch, progress: Array, stepped: bool = False
) -> Any:
    """The method's state after the update of the policy; stepped: what moves with every gradient step has moved."""
    if not method.stateful:
        return state
    return method.update(state, evaluate(network, batch), progress, every_step=False if stepped else None)
