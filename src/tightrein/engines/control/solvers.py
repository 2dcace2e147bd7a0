"""How an iteration's experience moves the parameters: one solver for each kind of step."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Protocol

import jax

from tightrein.arrays import masked_mean
from tightrein.engines.control.batch import Batch, evaluate, orders, pieces
from tightrein.engines.control.config import Plan
from tightrein.engines.control.descent import Descent, Solved, Solver, updated
from tightrein.engines.control.fixup import TwoPhases
from tightrein.engines.control.networks import ActorCritic
from tightrein.method import Method
from tightrein.step import Critic, FixUp, GaussNewton, Optimizer, SecondOrder, Step

Array = Any


def solver_of(method: Method, plan: Plan) -> Solver:
    """The solver for the method's step, followed by the fit of the value network where that is a matter of its own."""
    policy = _solver(method.step, method, plan)
    if method.critic is None:
        return policy
    return ThenCritic(policy, _fit(method.critic.step, method.critic, plan))


@functools.singledispatch
def _solver(step: Step, method: Method, plan: Plan) -> Solver:
    raise TypeError(f"no solver for {type(step).__name__}")


@_solver.register
def _(step: Optimizer, method: Method, plan: Plan) -> Solver:
    return Minibatches(method, Descent(step, plan.updates), plan.epochs, plan.minibatches)


@_solver.register
def _(step: SecondOrder, method: Method, plan: Plan) -> Solver:
    return Natural(method, step)


@_solver.register
def _(step: FixUp, method: Method, plan: Plan) -> Solver:
    return TwoPhases(method, step, Descent(step.optimizer, plan.updates), plan.epochs, plan.minibatches)


@dataclass(frozen=True)
class Minibatches:
    """Gradient steps on minibatches, in several epochs."""

    method: Method
    descent: Descent
    epochs: int
    minibatches: int

    def init(self, network: ActorCritic) -> Any:
        """See Solver."""
        return self.descent.init(network)

    def solve(
        self, network: ActorCritic, optimizer: Any, state: Any, batch: Batch, key: Array, progress: Array
    ) -> Solved:
        """See Solver."""
        parameters, unpack = self.descent.pack(network)

        def step(carry: Any, minibatch: Batch) -> tuple[Any, Array]:
            parameters, optimizer, state = carry

            def objective(p: Any) -> tuple[Array, Any]:
                d = evaluate(unpack(p), minibatch)
                return self.method.loss(d, state).value, d

            parameters, optimizer, loss, d = self.descent.step(objective, parameters, optimizer)
            if self.method.restless:
                state = self.method.update(state, d, progress, every_step=True)
            return (parameters, optimizer, state), loss

        def epoch(carry: Any, order: Array) -> tuple[Any, Array]:
            return jax.lax.scan(step, carry, batch.split(self.minibatches, order))

        shuffled = orders(key, self.epochs, batch.rows)
        (parameters, optimizer, state), losses = jax.lax.scan(epoch, (parameters, optimizer, state), shuffled)
        network = unpack(parameters)
        after = updated(self.method, state, network, batch, progress, self.method.restless)
        return Solved(network, optimizer, after, losses.mean(), self.descent.figures(optimizer))


@dataclass(frozen=True)
class Natural:
    """One trust-region step of second order on the whole batch; the value network stays as it is."""

    method: Method
    step: SecondOrder

    def init(self, network: ActorCritic) -> Any:
        """See Solver."""
        return ()

    def solve(
        self, network: ActorCritic, optimizer: Any, state: Any, batch: Batch, key: Array, progress: Array
    ) -> Solved:
        """See Solver."""

        def surrogate(actor: Any) -> Array:
            return self.method.loss(evaluate(network.with_actor(actor), batch), state).value

        def divergence(actor: Any, rows: Batch = batch) -> Array:
            d = evaluate(network.with_actor(actor), rows)
            return masked_mean(d.dist_old.kl(d.dist), d.weights())

        sample = functools.partial(divergence, rows=batch.every(self.step.subsample))
        actor, report = self.step.jax(surrogate, divergence, network.actor, sample)
        moved = network.with_actor(actor)
        return Solved(moved, optimizer, updated(self.method, state, moved, batch, progress), surrogate(actor), report)


class Fit(Protocol):
    """A way to fit the value network alone, for one seed."""

    def init(self, value_network: Any) -> Any:
        """State of its optimizer."""

    def fit(
        self, network: ActorCritic, optimizer: Any, batch: Batch, key: Array
    ) -> tuple[ActorCritic, Any, dict[str, Array]]:
        """The network with its new critic, the optimizer's state, and figures."""


@functools.singledispatch
def _fit(step: Step, critic: Critic, plan: Plan) -> Fit:
    raise TypeError(f"no fit of a value network by {type(step).__name__}")


@_fit.register
def _(step: Optimizer, critic: Critic, plan: Plan) -> Fit:
    return FitByDescent(critic, Descent(step, plan.iterations * critic.epochs * pieces(plan.batch, critic.batch)))


@_fit.register
def _(step: GaussNewton, critic: Critic, plan: Plan) -> Fit:
    return FitByGaussNewton(step)


@dataclass(frozen=True)
class ThenCritic:
    """Another solver for the policy, then the fit of the value network."""

    policy: Solver
    critic: Fit

    def init(self, network: ActorCritic) -> Any:
        """See Solver."""
        return self.policy.init(network), self.critic.init(network.value_network)

    def solve(
        self, network: ActorCritic, optimizer: Any, state: Any, batch: Batch, key: Array, progress: Array
    ) -> Solved:
        """See Solver."""
        policy_key, critic_key = jax.random.split(key)
        solved = self.policy.solve(network, optimizer[0], state, batch, policy_key, progress)
        fitted_network, fitted, figures = self.critic.fit(solved.network, optimizer[1], batch, critic_key)
        return solved._replace(
            network=fitted_network, optimizer=(solved.optimizer, fitted), stats={**solved.stats, **figures}
        )


@dataclass(frozen=True)
class FitByDescent:
    """Gradient steps on minibatches, in several passes."""

    critic: Critic
    descent: Descent

    def init(self, value_network: Any) -> Any:
        """See Fit."""
        return self.descent.init(value_network)

    def fit(
        self, network: ActorCritic, optimizer: Any, batch: Batch, key: Array
    ) -> tuple[ActorCritic, Any, dict[str, Array]]:
        """See Fit."""
        loss = self.critic.loss
        parameters, unpack = self.descent.pack(network.value_network)

        def step(carry: Any, rows: Batch) -> tuple[Any, Array]:
            def objective(p: Any) -> tuple[Array, None]:
                d = evaluate(network.with_critic(unpack(p)), rows)
                return loss.coef * masked_mean(loss(d), loss.weights(d)), None

            parameters, optimizer, value, _ = self.descent.step(objective, *carry)
            return (parameters, optimizer), value

        def epoch(carry: Any, order: Array) -> tuple[Any, Array]:
            return jax.lax.scan(step, carry, batch.split(batch.pieces(self.critic.batch), order))

        shuffled = orders(key, self.critic.epochs, batch.rows)
        (parameters, optimizer), losses = jax.lax.scan(epoch, (parameters, optimizer), shuffled)
        return network.with_critic(unpack(parameters)), optimizer, {"value_loss": losses[-1].mean()}


@dataclass(frozen=True)
class FitByGaussNewton:
    """One step of second order on the whole experience."""

    step: GaussNewton

    def init(self, value_network: Any) -> Any:
        """See Fit."""
        return ()

    def fit(
        self, network: ActorCritic, optimizer: Any, batch: Batch, key: Array
    ) -> tuple[ActorCritic, Any, dict[str, Array]]:
        """See Fit."""
        d = batch.decisions

        def values(value_network: Any) -> Array:
            return evaluate(network.with_critic(value_network), batch).value

        fitted, report = self.step.jax(values, d.returns, d.weights(), network.value_network)
        return network.with_critic(fitted), optimizer, report
