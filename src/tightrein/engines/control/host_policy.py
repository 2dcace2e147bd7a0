"""Acting on the host: the policies of all rows in NumPy.

For networks this small a compiled call costs more than the arithmetic in it, and it is made at every step of the
simulator. The learner computes the log-probabilities of what was drawn by itself, so only rounding can differ.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from tightrein.engines.control.actions import ContinuousActions, DiscreteActions
from tightrein.engines.control.networks import MLP, ActorCritic
from tightrein.engines.control.normalise import EPSILON, LIMIT, Moments

Array = np.ndarray[Any, Any]

WIDEST = 128  # units of a layer; from there on the arithmetic is what counts


class HostPolicy:
    """Stacked policies [S] as they are now."""

    def __init__(self, network: ActorCritic, moments: Moments | None) -> None:
        network, moments = jax.tree.map(np.asarray, (network, moments))
        mlp, actions = network.policy_network, network.actions
        self._layers = [(weight, bias[:, None]) for weight, bias in zip(mlp.weights, mlp.biases, strict=True)]
        self._deviation = None if network.log_std is None else np.exp(network.log_std)[:, None]
        self._start = np.int32(actions.start if isinstance(actions, DiscreteActions) else 0)
        self._low = self._high = np.zeros((), np.float32)
        if isinstance(actions, ContinuousActions):
            self._low, self._high = np.asarray(actions.low, np.float32), np.asarray(actions.high, np.float32)
        self._moments = None
        if moments is not None:
            self._moments = moments.mean[:, None], np.sqrt(moments.var + np.float32(EPSILON))[:, None]

    @staticmethod
    def knows(network: Any) -> bool:
        """Whether it can act for networks of this kind, and is the faster way."""
        if not isinstance(network, ActorCritic):
            return False
        plain = network.torso is None and network.core is None and network.axes == 1
        simple = type(network.actions) in (ContinuousActions, DiscreteActions)
        mlp = network.policy_network
        return plain and simple and isinstance(mlp, MLP) and all(w.shape[-1] <= WIDEST for w in mlp.weights)

    def __call__(self, observation: Array, noise: Array) -> tuple[Array, Array]:
        """The action drawn and what the environment is sent, for observations [S, E, D]."""
        x = observation.astype(np.float32, copy=False)
        if self._moments is not None:
            mean, deviation = self._moments
            x = np.clip((x - mean) / deviation, -LIMIT, LIMIT)
        for weight, bias in self._layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = self._layers[-1]
        outputs = x @ weight + bias
        if self._deviation is None:
            action = (outputs + noise).argmax(-1).astype(np.int32)
            return action, action + self._start
        action = outputs + self._deviation * noise
        return action, np.clip(action, self._low, self._high)
