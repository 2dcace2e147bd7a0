"""Action distributions, for the methods that need more of the old policy than one log-probability."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from .arrays import Array, atleast, clip, columns, like, log_sigmoid, log_softmax, namespace, pytree, sigmoid
from .errors import TightreinError

LOG_2PI = math.log(2 * math.pi)
_FLOOR = -1e9  # instead of minus infinity, which times a probability of 0 is no number
_NODES = np.linspace(-6, 6, 31)  # of the trapezoidal rule for means over a standard normal distribution
_SHARES = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()


@pytree
class Categorical:
    """A choice among A actions; logits: [..., A], not necessarily normalised, -inf where there is no such action."""

    logits: Array

    def among(self, allowed: Array) -> Categorical:
        """The same choice among the actions with allowed [..., A] != 0; among all where none is.

        What is not allowed has probability 0 and no gradient, and counts in no entropy and no KL.
        """
        xp = namespace(self.logits)
        may = allowed != 0
        return Categorical(xp.where(may | ~xp.any(may, axis=-1, keepdims=True), self.logits, -xp.inf))

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


@pytree
class SquashedGaussian(DiagonalGaussian):
    """Actions a = centre + exp(log_scale) tanh(u), with u of a DiagonalGaussian; log_scale: [..., D].

    `action` always is u, before it is squashed: near the bounds a has lost the digits that u is found by. Densities and
    entropies are those of a. KL is that of u, which no invertible map changes; both need the same bounds.
    """

    log_scale: Array

    def log_prob(self, action: Array) -> Array:
        """Log-density of the action that `action` ([..., D], before squashing) is squashed to: [...]."""
        xp = namespace(self.mean, self.log_std)
        return super().log_prob(action) - xp.sum(_log_slope(action) + self.log_scale, axis=-1)

    def entropy(self) -> Array:
        """Differential entropy in nats: [...].

        It has no closed form. To the entropy of u it adds the mean of log |da/du|, a dimension at a time by the
        trapezoidal rule over 31 points up to 6 deviations from the mean. Its error is below 1e-5 nats a dimension for
        deviations up to 2 (1e-3 up to 3.5), and its gradient is that of the sum, without noise. The
        negative log-probability of drawn actions would be an estimate too, but its gradient is 0 in the mean.
        """
        xp = namespace(self.mean, self.log_std)
        u = self.mean[..., None] + xp.exp(self.log_std)[..., None] * like(_NODES, self.mean)
        slope = xp.sum(like(_SHARES, self.mean) * _log_slope(u), axis=-1)
        return super().entropy() + xp.sum(slope + self.log_scale, axis=-1)

    def mode(self) -> Array:
        """The median of each dimension, before squashing: [..., D]. A wide policy is likeliest at its bounds."""
        return self.mean


def _log_slope(u: Array) -> Array:
    """log(1 - tanh(u)^2), to the last digit however large u is."""
    size = namespace(u).abs(u)
    return 2 * (math.log(2) - size + log_sigmoid(2 * size))


@pytree
class MultiCategorical:
    """K independent choices, each among at most A; logits: [..., K, A], -inf where a choice has fewer."""

    logits: Array

    @classmethod
    def of(cls, logits: Array, sizes: Sequence[int]) -> MultiCategorical:
        """Choices among `sizes` alternatives, from their logits side by side: [..., sum(sizes)]."""
        if logits.shape[-1] != sum(sizes):
            raise TightreinError(
                f"there are {logits.shape[-1]} logits for choices among {', '.join(map(str, sizes))} alternatives",
                f"give {sum(sizes)} along the last axis",
            )
        return cls(_beside(logits, sizes, -math.inf))

    def among(self, allowed: Array, sizes: Sequence[int]) -> MultiCategorical:
        """The same choices among the alternatives with allowed [..., sum(sizes)] != 0; see Categorical."""
        xp = namespace(self.logits)
        may = _beside(xp.astype(allowed != 0, self.logits.dtype), sizes, 0.0)
        return MultiCategorical(self._each.among(may).logits)

    def log_prob(self, action: Array) -> Array:
        """Log-probability of `action` ([..., K] integers): [...]."""
        return self._sum(self._each.log_prob(action))

    def entropy(self) -> Array:
        """Entropy in nats: [...]."""
        return self._sum(self._each.entropy())

    def kl(self, other: MultiCategorical) -> Array:
        """KL(self || other) in nats, exact: [...]."""
        return self._sum(self._each.kl(other._each))

    def mode(self) -> Array:
        """The most likely action: [..., K]."""
        return self._each.mode()

    @property
    def _each(self) -> Categorical:
        return Categorical(self.logits)

    def _sum(self, x: Array) -> Array:
        return namespace(x).sum(x, axis=-1)


def _beside(x: Array, sizes: Sequence[int], filler: float) -> Array:
    """[..., sum(sizes)] cut into rows of `sizes`, filled up to the longest: [..., K, A]."""
    xp, longest, ends = namespace(x), max(sizes), (0, *itertools.accumulate(sizes))
    if len(set(sizes)) == 1:
        return xp.reshape(x, (*x.shape[:-1], len(sizes), longest))
    spare = xp.full_like(x[..., :1], filler)
    rows = [
        xp.concat([x[..., a:b], xp.broadcast_to(spare, (*x.shape[:-1], longest - b + a))], axis=-1)
        for a, b in itertools.pairwise(ends)
    ]
    return xp.stack(rows, axis=-2)


Distribution = Categorical | DiagonalGaussian | MultiCategorical
