"""Action distributions, for the methods that need more of the old policy than one log-probability."""

from __future__ import annotations

import math

from .arrays import Array, atleast, clip, columns, log_sigmoid, log_softmax, namespace, pytree, sigmoid

LOG_2PI = math.log(2 * math.pi)
_FLOOR = -1e9  # instead of minus infinity, which times a probability of 0 is no number


@pytree
class Categorical:
    """A choice among A actions; logits: [..., A], not necessarily normalised."""

    logits: Array

    def log_probs(self) -> Array:
        """Normalised log-probabilities of all actions, never below -1e9: [..., A]."""
        return atleast(log_softmax(self.logits), _FLOOR)

    def log_prob(self, action: Array) -> Array:
        """Log-probability of `action` ([...] integers): [...]."""
        xp = namespace(self.logits)
        index = xp.astype(action, xp.int64 if "int64" in str(action.dtype) else xp.int32)[..., None]
        one_hot = xp.astype(index == xp.arange(self.logits.shape[-1]), self.logits.dtype)
        return xp.sum(one_hot * self.log_probs(), axis=-1)

    def entropy(self) -> Array:
        """Entropy in nats: [...]."""
        xp = namespace(self.logits)
        logp = self.log_probs()
        return -xp.sum(xp.exp(logp) * logp, axis=-1)

    def kl(self, other: Categorical) -> Array:
        """KL(self || other) in nats, exact: [...]."""
        if self.logits.shape[-1] == 2:
            return _kl_of_two(_second_to_first(self.logits), _second_to_first(other.logits))
        xp = namespace(self.logits, other.logits)
        logp = self.log_probs()
        return xp.sum(xp.exp(logp) * (logp - other.log_probs()), axis=-1)

    def mode(self) -> Array:
        """The most likely action: [...]."""
        return namespace(self.logits).argmax(self.logits, axis=-1)


def _second_to_first(logits: Array) -> Array:
    """Log-probability of the second of two actions less that of the first: [...]."""
    first, second = columns(logits)
    return clip(second - first, _FLOOR, -_FLOOR)


def _kl_of_two(x: Array, y: Array) -> Array:
    """KL in nats between choices of two actions: sums along an axis of two would take twice as long. x, y: [...]."""
    log_p, rest = log_sigmoid(x), sigmoid(-x)
    return (log_p - rest * x) + (rest * y - log_sigmoid(y))


@pytree
class DiagonalGaussian:
    """Independent normal distributions per action dimension; mean, log_std: [..., D]."""

    mean: Array
    log_std: Array

    def log_prob(self, action: Array) -> Array:
        """Log-density of `action` ([..., D]): [...]."""
        xp = namespace(self.mean, self.log_std)
        z = (action - self.mean) * xp.exp(-self.log_std)
        return xp.sum(-0.5 * (z**2 + LOG_2PI) - self.log_std, axis=-1)

    def entropy(self) -> Array:
        """Differential entropy in nats: [...]."""
        xp = namespace(self.mean, self.log_std)
        return xp.sum(self.log_std + 0.5 * (LOG_2PI + 1) + 0 * self.mean, axis=-1)

    def kl(self, other: DiagonalGaussian) -> Array:
        """KL(self || other) in nats, exact: [...]."""
        xp = namespace(self.mean, other.mean)
        variances = xp.exp(2 * (self.log_std - other.log_std))
        distance = ((self.mean - other.mean) * xp.exp(-other.log_std)) ** 2
        return xp.sum(other.log_std - self.log_std + 0.5 * (variances + distance - 1), axis=-1)

    def mode(self) -> Array:
        """The most likely action: [..., D]."""
        return self.mean


Distribution = Categorical | DiagonalGaussian
