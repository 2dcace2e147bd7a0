"""Heads on a hyperboloid, and a value that is a distribution over bins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.actions import Actions
from tightrein.engines.control.networks.actor_critic import ActorCritic
from tightrein.engines.control.networks.architecture import heads
from tightrein.engines.control.networks.layers import MLP
from tightrein.engines.control.networks.memory import GRU
from tightrein.heads import HyperbolicHeads
from tightrein.objective.value import Bins

Array = Any


class HyperbolicHead(eqx.Module):
    """Dense layers down to the features, which are bounded, and the outputs of the hyperboloid on them."""

    layers: MLP
    gate: Array  # [d]
    gate_bias: Array  # []
    normals: Array  # [K, d]
    shifts: Array  # [K]
    kind: HyperbolicHeads = eqx.field(static=True)

    def __init__(self, rng: np.random.Generator, sizes: list[int], outputs: int, kind: HyperbolicHeads) -> None:
        """Orthogonal layers, a gate of small weights, normals of length 1 about, and hyperplanes through the origin."""
        scale = 1 / math.sqrt(kind.width)
        self.layers = MLP(rng, [*sizes, kind.width], 1.0)
        self.gate = jnp.asarray(rng.uniform(-scale, scale, kind.width), jnp.float32)
        self.gate_bias = jnp.zeros(())
        self.normals = jnp.asarray(scale * rng.standard_normal((outputs, kind.width)), jnp.float32)
        self.shifts = jnp.zeros(outputs)
        self.kind = kind

    def features(self, h: Array) -> Array:
        """[..., sizes[0]] -> [..., d], no longer than the kind allows."""
        return self.kind.bounded(self.layers(h), self.gate, self.gate_bias)

    def outputs(self, x: Array) -> Array:
        """Features [..., d] -> [..., K]."""
        return self.kind.logits(x, self.normals, self.shifts)

    def __call__(self, h: Array) -> Array:
        """[..., sizes[0]] -> [..., K]."""
        return self.outputs(self.features(h))


class MeasuredHead(eqx.Module):
    """A head, with the length of its features as one output more, the last."""

    head: HyperbolicHead

    def __call__(self, h: Array) -> Array:
        """[..., sizes[0]] -> [..., K + 1]."""
        x = self.head.features(h)
        length = jnp.sqrt(jnp.sum(jax.lax.stop_gradient(x) ** 2, axis=-1, keepdims=True))
        return jnp.concatenate([self.head.outputs(x), length], axis=-1)


@dataclass(frozen=True)
class Measured:
    """How the outputs of a MeasuredHead are read: the mean over the bins, or without bins the one output."""

    bins: Bins | None

    @property
    def outputs(self) -> int:
        """See Reading."""
        return 2 if self.bins is None else self.bins.count + 1

    def __call__(self, outputs: Array) -> tuple[Array, dict[str, Array]]:
        """See Reading."""
        told, length = outputs[..., :-1], {"feature_norm": outputs[..., -1]}
        if self.bins is None:
            return told[..., 0], length
        return self.bins.mean(told), {"value_logits": told, **length}


@heads.register
def _(
    kind: HyperbolicHeads, rng: np.random.Generator, sizes: list[int], actions: Actions
) -> Callable[[Any, GRU | None, int], ActorCritic]:
    reading = Measured(kind.bins)
    policy = HyperbolicHead(rng, sizes, actions.outputs, kind)
    value = MeasuredHead(HyperbolicHead(rng, sizes, reading.outputs - 1, kind))
    log_std = jnp.zeros(actions.outputs) if actions.has_scale else None
    return lambda torso, core, axes: ActorCritic(policy, value, log_std, torso, core, axes, actions, reading)
