"""Actor-critic networks: separate tanh MLPs for policy and value, orthogonally initialised."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.actions import Actions

Array = Any


class MLP(eqx.Module):
    """Dense layers with tanh between them. Weights are [in, out], so that a batch is one plain product a layer."""

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]

    def __init__(self, rng: np.random.Generator, sizes: Sequence[int], last_gain: float) -> None:
        """Layers sizes[0] -> ... -> sizes[-1]; orthogonal with gain sqrt(2), `last_gain` on the last; biases 0."""
        gains = [math.sqrt(2.0)] * (len(sizes) - 2) + [last_gain]
        pairs = itertools.pairwise(sizes)
        self.weights = tuple(orthogonal(rng, *pair, gain) for gain, pair in zip(gains, pairs, strict=True))
        self.biases = tuple(jnp.zeros(size) for size in sizes[1:])

    def __call__(self, x: Array) -> Array:
        """[..., sizes[0]] -> [..., sizes[-1]]."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = jnp.tanh(x @ weight + bias)
        return x @ self.weights[-1] + self.biases[-1]


class ActorCritic(eqx.Module):
    """A policy and a value function with nothing shared.

    Args:
        rng: source of the initial weights.
        inputs: length of an observation vector.
        hidden: widths of the hidden layers, of both networks.
        actions: the action space.
    """

    policy_network: MLP
    value_network: MLP
    log_std: Array | None
    actions: Actions = eqx.field(static=True)

    def __init__(self, rng: np.random.Generator, inputs: int, hidden: Sequence[int], actions: Actions) -> None:
        self.policy_network = MLP(rng, [inputs, *hidden, actions.outputs], 0.01)
        self.value_network = MLP(rng, [inputs, *hidden, 1], 1.0)
        self.log_std = jnp.zeros(actions.outputs) if actions.has_scale else None
        self.actions = actions

    def policy(self, observation: Array) -> Any:
        """Action distribution for observations [..., inputs]."""
        return self.actions.distribution(self.policy_network(observation), self.log_std)

    def value(self, observation: Array) -> Array:
        """V(s) [...] for observations [..., inputs]."""
        return self.value_network(observation)[..., 0]

    @property
    def actor(self) -> tuple[MLP, Array | None]:
        """What the policy depends on."""
        return self.policy_network, self.log_std

    def with_actor(self, actor: tuple[MLP, Array | None]) -> ActorCritic:
        """The same critic with another policy."""
        changed: ActorCritic = eqx.tree_at(lambda n: n.actor, self, actor, is_leaf=lambda x: x is None)
        return changed

    def with_critic(self, value_network: MLP) -> ActorCritic:
        """The same policy with another critic."""
        changed: ActorCritic = eqx.tree_at(lambda n: n.value_network, self, value_network)
        return changed


def out_axes(network: Any) -> tuple[int | None, ...]:
    """Of each leaf: the axis of its outputs if it is a hidden layer's matrix (not the first or last), else None."""
    nodes = jax.tree.leaves(network, is_leaf=lambda node: isinstance(node, MLP))
    hidden = {id(weight) for node in nodes if isinstance(node, MLP) for weight in node.weights[1:-1]}
    return tuple(1 if id(leaf) in hidden else None for leaf in jax.tree.leaves(network))


def orthogonal(rng: np.random.Generator, rows: int, columns: int, gain: float) -> Array:
    """A random matrix [rows, columns] with orthogonal rows or columns (whichever are fewer), times `gain`.

    Made by NumPy: JAX's batched QR waits for helpers of the very thread pool it runs in, and with two threads and
    several seeds can wait for ever.
    """
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))  # makes the draw uniform over orthogonal matrices
    return jnp.asarray(gain * (q if rows >= columns else q.T), jnp.float32)
