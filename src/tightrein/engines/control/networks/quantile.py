"""A critic that reads quantiles of the return beside the features."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from tightrein.auxiliary import QuantileCritic
from tightrein.auxiliary.quantiles import modulated
from tightrein.engines.control.actions import Actions
from tightrein.engines.control.networks.actor_critic import ActorCritic
from tightrein.engines.control.networks.architecture import Scalar, heads
from tightrein.engines.control.networks.layers import MLP

Array = Any


class Modulated(eqx.Module):
    """f_psi of the product of a usual value and the quantiles; f_psi is the mean and an MLP."""

    value: MLP
    more: MLP

    def __call__(self, features: Array, told: Array) -> Array:
        """[..., F] and quantiles [..., N] -> [..., 1]."""
        product = modulated(self.value(features)[..., 0], told)
        return product.mean(-1, keepdims=True) + self.more(product)


@heads.register
def _(kind: QuantileCritic, rng: np.random.Generator, sizes: list[int], actions: Actions) -> Any:
    policy, value = MLP(rng, [*sizes, actions.outputs], 0.01), MLP(rng, [*sizes, 1], 1.0)
    critic = Modulated(value, MLP(rng, [kind.quantiles, kind.hidden, 1], 0.01))
    log_std = jnp.zeros(actions.outputs) if actions.has_scale else None
    return lambda torso, core, axes: ActorCritic(policy, critic, log_std, torso, core, axes, actions, Scalar())
