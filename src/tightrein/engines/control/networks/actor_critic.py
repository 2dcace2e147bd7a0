"""A policy and a value function, with or without something shared."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax.numpy as jnp

from tightrein.engines.control.actions import Actions
from tightrein.engines.control.networks.inputs import Inputs
from tightrein.engines.control.networks.layers import scaled

Array = Any


class Reading(Protocol):
    """How the outputs of a value network are read."""

    @property
    def outputs(self) -> int:
        """How many there are."""

    def __call__(self, outputs: Array) -> tuple[Array, dict[str, Array]]:
        """(V [...], further fields of Decisions) from outputs [..., K]."""


class Memory(Protocol):
    """What is remembered of an episode, a vector [..., H], and how the features that policy and value read know it."""

    @property
    def size(self) -> int:
        """H."""

    @property
    def recurs(self) -> bool:
        """Whether what is remembered carries a gradient from one decision of a row to the next."""

    @property
    def heeds_rewards(self) -> bool:
        """Whether it changes by `rewarded`."""

    def __call__(self, features: Array, begins: Array, memory: Array) -> Array:
        """Memory after `features` [..., F]; where `begins` [...] is 1 nothing is remembered from before."""

    def unrolled(self, features: Array, begins: Array, memory: Array) -> Array:
        """Memory after each of W consecutive features [M, W, F], from `memory` [M, H] on; where it recurs."""

    def rewarded(self, memory: Array, reached: Array, reward: Array) -> Array:
        """Memory after a step that led to features `reached` [..., F] with `reward` [...]."""


class Outputs(NamedTuple):
    """What a network says of some inputs: the distribution of actions, V(s) [...], further fields of Decisions."""

    dist: Any
    value: Array
    more: dict[str, Array]


class ActorCritic(eqx.Module):
    """Features (the same for both, or none), memory of them (or none), then a policy and a value network.

    Where neither torso nor memory is there, the two share nothing.
    """

    policy_network: Any  # features [..., F] -> outputs of the action space [..., actions.outputs]
    value_network: Any  # features [..., F] -> what `reading` reads [..., K]
    log_std: Array | None
    torso: Any  # observation [..., *shape] -> features [..., F]; None: the observation itself, as a vector
    core: Memory | None
    axes: int = eqx.field(static=True)  # of an observation
    actions: Actions = eqx.field(static=True)
    reading: Reading = eqx.field(static=True)

    def __call__(self, x: Inputs) -> Outputs:
        """Of each decision by itself, from what was remembered before it."""
        return self._outputs(self.advance(x), x)

    def unrolled(self, x: Inputs) -> Outputs:
        """Of rows of consecutive decisions [M, W], remembering from the memory before the first of a row on."""
        if self.core is None or not self.core.recurs:
            return self(x)
        assert x.memory is not None
        return self._outputs(self.core.unrolled(self._features(x), x.begins, x.memory[:, 0]), x)

    def act(self, x: Inputs) -> tuple[Any, Array | None]:
        """The distribution of actions, and the memory afterwards [..., H] (None without)."""
        features = self.advance(x)
        return self._policy(features, x), None if self.core is None else features

    def policy(self, x: Inputs) -> Any:
        """The distribution of actions alone."""
        return self._policy(self.advance(x), x)

    def value(self, x: Inputs) -> Array:
        """V(s) [...] alone."""
        return self.reading(self._valued(self.advance(x), x))[0]

    def remembered(self, memory: Array | None, reached: Array, reward: Array) -> Array | None:
        """Memory after `act`, and after the step that then led to the observation `reached` with `reward` [...]."""
        if self.core is None or memory is None or not self.core.heeds_rewards:
            return memory
        return self.core.rewarded(memory, self._features(Inputs(reached)), reward)

    def advance(self, x: Inputs) -> Array:
        """Features, after memory where there is one: then they are the memory after this observation. [..., F]."""
        features = self._features(x)
        return features if self.core is None else self.core(features, x.begins, x.memory)

    def nothing(self, *leading: int) -> Array | None:
        """The memory of one that has seen nothing: [*leading, H]."""
        return None if self.core is None else jnp.zeros((*leading, self.core.size))

    @property
    def heeds_rewards(self) -> bool:
        """Whether `remembered` does anything."""
        return self.core is not None and self.core.heeds_rewards

    @property
    def actor(self) -> tuple[Any, Array | None]:
        """What only the policy depends on."""
        return self.policy_network, self.log_std

    def with_actor(self, actor: tuple[Any, Array | None]) -> ActorCritic:
        """The same critic with another policy."""
        changed: ActorCritic = eqx.tree_at(lambda n: n.actor, self, actor, is_leaf=lambda x: x is None)
        return changed

    def with_critic(self, value_network: Any) -> ActorCritic:
        """The same policy with another critic."""
        changed: ActorCritic = eqx.tree_at(lambda n: n.value_network, self, value_network)
        return changed

    def _features(self, x: Inputs) -> Array:
        seen = x.observation
        if self.torso is not None:
            return self.torso(seen)
        return scaled(seen if self.axes == 1 else seen.reshape(*seen.shape[: seen.ndim - self.axes], -1))

    def _policy(self, features: Array, x: Inputs) -> Any:
        return self.actions.distribution(self.policy_network(features), self.log_std, x.allowed)

    def _outputs(self, features: Array, x: Inputs) -> Outputs:
        return Outputs(self._policy(features, x), *self.reading(self._valued(features, x)))

    def _valued(self, features: Array, x: Inputs) -> Array:
        return self.value_network(features) if x.told is None else self.value_network(features, x.told)
