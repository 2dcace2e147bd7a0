"""Which network is built for an environment."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.actions import Actions
from tightrein.engines.control.networks.actor_critic import ActorCritic
from tightrein.engines.control.networks.convolution import check_image, impala, minatar, nature
from tightrein.engines.control.networks.layers import MLP, Encoder, Features
from tightrein.engines.control.networks.memory import GRU
from tightrein.errors import unknown

Array = Any
Torso = Callable[[np.random.Generator, tuple[int, ...]], tuple[Any, int]]  # rng, shape -> (torso, its features)

TORSOS: dict[str, Torso] = {"nature": nature, "impala": impala, "minatar": minatar}


@dataclass(frozen=True)
class Scalar:
    """One output, the value itself."""

    outputs: int = 1

    def __call__(self, outputs: Array) -> tuple[Array, dict[str, Array]]:
        """See Reading."""
        return outputs[..., 0], {}


@dataclass(frozen=True)
class Architecture:
    """Layers between observation and outputs. torso: a name in TORSOS; "mlp" has none of its own.

    Without torso and memory, policy and value are MLPs of the widths `hidden`, each with its own parameters. A torso
    for images, and memory of the size `memory` (0: none), are shared, and policy and value then are one layer each on
    them; with memory `hidden` are the layers before it. Beside a torso for images `hidden` counts for nothing.
    """

    torso: str = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    memory: int = 0
    heads: Any = None
    value_hidden: tuple[int, ...] | None = None  # of a value network that shares no layer; None: as `hidden`

    @classmethod
    def of(cls, torso: str, hidden: tuple[int, ...], memory: int, heads: Any, shape: tuple[int, ...]) -> Architecture:
        """The same, checked for observations of `shape`.

        Raises:
            TightreinError: there is no such torso, or it cannot read these observations.
        """
        if torso not in ("mlp", *TORSOS):
            raise unknown("network", torso, ("mlp", *TORSOS))
        if torso in TORSOS:
            check_image(torso, shape)
        return cls(torso, hidden, memory, heads)

    @property
    def shares(self) -> bool:
        """Whether policy and value have layers in common."""
        return self.torso in TORSOS or self.memory > 0 or getattr(self.heads, "shares", False)

    def build(self, rng: np.random.Generator, shape: tuple[int, ...], actions: Actions) -> ActorCritic:
        """The network for observations of `shape`; orthogonal weights, gain 0.01 on the policy's last layer."""
        torso, core, features = None, None, math.prod(shape)
        layers = self.hidden
        if self.torso in TORSOS:
            torso, features = TORSOS[self.torso](rng, shape)
            layers = ()
        elif self.memory and self.hidden:
            dense = Features(MLP(rng, [features, *self.hidden], math.sqrt(2.0)))
            torso, features = Encoder(dense, len(shape)), self.hidden[-1]
            layers = ()
        if self.memory:
            core, features = GRU(rng, features, self.memory), self.memory
        network = heads(self.heads, rng, [features, *layers], actions)(torso, core, len(shape))
        if self.value_hidden is None:
            return network
        return network.with_critic(MLP(rng, [features, *self.value_hidden, network.reading.outputs], 1.0))


@functools.singledispatch
def heads(
    kind: object, rng: np.random.Generator, sizes: list[int], actions: Actions
) -> Callable[[Any, GRU | None, int], ActorCritic]:
    """What stands on the features: (torso, memory, axes of an observation) -> the network.

    sizes: features and hidden layers. A method's `heads` decide; without any they are MLPs, the value a number.
    """
    policy, value = MLP(rng, [*sizes, actions.outputs], 0.01), MLP(rng, [*sizes, 1], 1.0)
    log_std = jnp.zeros(actions.outputs) if actions.has_scale else None
    return lambda torso, core, axes: ActorCritic(policy, value, log_std, torso, core, axes, actions, Scalar())
