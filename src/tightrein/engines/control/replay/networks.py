"""A squashed policy, several action values and a state value, each a network of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import tightrein as tr
from tightrein.engines.control.actions import ContinuousActions, SquashedActions
from tightrein.engines.control.networks import MLP, Inputs
from tightrein.errors import TightreinError

Array = Any

LOG_STD = -20.0, 2.0  # bounds of the released code
INSIDE = 1 - 1e-6  # uniform actions keep so far from the bounds, where what is before tanh is infinite


class Rectified(MLP):
    """An MLP with max(0, x) between its layers."""

    def __init__(self, rng: np.random.Generator, sizes: Sequence[int], last_gain: float) -> None:
        """As an MLP."""
        super().__init__(rng, sizes, last_gain)

    def __call__(self, x: Array) -> Array:
        """[..., sizes[0]] -> [..., sizes[-1]]."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = jnp.maximum(x @ weight + bias, 0)
        return x @ self.weights[-1] + self.biases[-1]


class Choice(NamedTuple):
    """How an action is chosen: by the policy, or where `random` is 1 uniformly between the bounds."""

    policy: tr.SquashedGaussian
    random: Array


@dataclass(frozen=True)
class ReplayActions(SquashedActions):
    """Vectors between finite bounds. deterministic: the policy acts by its mode."""

    deterministic: bool = False

    @classmethod
    def of(cls, actions: Any, deterministic: bool, who: str) -> ReplayActions:
        """Those of an environment.

        Raises TightreinError where actions are no vectors with bounds.
        """
        if not (isinstance(actions, ContinuousActions) and np.isfinite([*actions.low, *actions.high]).all()):
            raise TightreinError(
                f"{who} differentiates action values by the action: it needs vectors between finite bounds, and here "
                f"actions are {actions}",
                "choose an environment such as Pendulum-v1 or HalfCheetah-v5, or another method, such as mdpo_on",
            )
        return cls(actions.low, actions.high, deterministic)

    def policy(self, outputs: Array) -> tr.SquashedGaussian:
        """The distribution of actions in [-1, 1], from means and log deviations before tanh [..., 2 D]."""
        mean, log_std = jnp.split(outputs, 2, axis=-1)
        return tr.SquashedGaussian(mean, jnp.clip(log_std, *LOG_STD), jnp.zeros_like(mean))

    def sample(self, dist: Choice, noise: Array) -> Array:
        """The action before tanh that `noise` picks; erf makes uniform numbers of normal ones."""
        uniform = jnp.clip(jax.lax.erf(noise / math.sqrt(2.0)), -INSIDE, INSIDE)
        chosen = dist.policy.mean if self.deterministic else super().sample(dist.policy, noise)
        return jnp.where(dist.random > 0, jnp.arctanh(uniform), chosen)

    def mode(self, dist: Choice) -> Array:
        """The mean before tanh, which becomes the median."""
        return super().mode(dist.policy)


class Networks(eqx.Module):
    """All that gradients move."""

    policy: Rectified  # observation [..., n] -> means and log deviations [..., 2 D]
    twins: tuple[Rectified, ...]  # observation and tanh of the action [..., n + D] -> [..., 1]
    critic: Rectified  # observation [..., n] -> [..., 1]

    @classmethod
    def build(cls, rng: np.random.Generator, n: int, d: int, hidden: tuple[int, ...]) -> Networks:
        """Of widths `hidden` each; orthogonal weights, gain 0.01 on the last layer of the policy."""
        policy = Rectified(rng, [n, *hidden, 2 * d], 0.01)
        twins = tuple(Rectified(rng, [n + d, *hidden, 1], 1.0) for _ in range(2))
        return cls(policy, twins, Rectified(rng, [n, *hidden, 1], 1.0))

    def q(self, observation: Array, action: Array) -> Array:
        """All values of actions before tanh: [..., K]."""
        seen = jnp.concatenate([observation, jnp.tanh(action)], axis=-1)
        return jnp.concatenate([network(seen) for network in self.twins], axis=-1)

    def nothing(self, *leading: int) -> None:
        """No memory."""


class Actor(eqx.Module):
    """The policy as trainers and evaluation see it. random: 1 while actions are drawn uniformly."""

    policy: Rectified
    random: Array
    axes: int = eqx.field(static=True)  # of an observation
    actions: ReplayActions = eqx.field(static=True)

    def act(self, x: Inputs) -> tuple[Choice, None]:
        """How an action is chosen after each observation, and no memory."""
        seen = x.observation
        vectors = seen.reshape(*seen.shape[: seen.ndim - self.axes], -1).astype(jnp.float32)
        outputs = self.policy(vectors)
        return Choice(self.actions.policy(outputs), self.random), None

    def nothing(self, *leading: int) -> None:
        """No memory."""
