"""A surrogate that projects every distribution of the policy onto a ball around the old one."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import (
    Array,
    at_least_float32,
    clip,
    masked_mean,
    namespace,
    sigmoid,
    stop_gradient,
    zero_where_masked,
)
from ...decisions import Decisions
from ...distributions import Categorical, Distribution
from ...errors import TightreinError
from ...settings import setting
from ..ratio import exp_limited
from .surrogate import Surrogate

_FLOOR = -27.6  # log-probabilities stay above this (1e-12), so that what only one policy rules out weighs finitely
_LOG_ETA, _HALVINGS, _NEWTON = (-8.0, 10.0), 12, 2


@dataclass(frozen=True)
class TROLL(Surrogate):
    """The ratio of the old policy to the nearest policy within `epsilon` of it, in place of a clip.

    Nearest in KL(q || pi) with KL(q || pi_old) <= epsilon, at every decision by itself; alpha pulls the policy after
    its projection. Reads whole distributions: `dist`, `dist_old` and `action`, the index in them. `top_k` and `mass`
    say which alternatives a distribution over a vocabulary keeps: the likeliest of the old policy that hold `mass`, at
    most `top_k`, and always the one decided. Categorical distributions only.

    Source: TROLL, arXiv 2510.03817. The gradient passes through the projection, multiplier included.
    """

    equation = "-q(a)/pi_old(a) A + alpha KL(pi || sg q),   q = argmin KL(q || pi) with KL(q || pi_old) <= epsilon"
    epsilon: float = setting(0.05, above=0)
    alpha: float = setting(1.0, at_least=0)
    top_k: int = setting(64, at_least=1)
    mass: float = setting(1 - 1e-5, above=0, at_most=1)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Whole distributions in the place of log-probabilities."""
        return frozenset({"dist", "dist_old", "action", "advantage"})

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T]. Raises TightreinError for distributions that are not categorical."""
        old, new, outside = self._policies(d)
        projected = self._project(old, new, outside)
        ratio = exp_limited(_of(projected - old, d))
        return -ratio * self.advantage(d) + self.alpha * self._distance(new, projected, outside)

    def projection(self, d: Decisions) -> Categorical:
        """The distributions that are learned from, within `epsilon` of the old ones."""
        return Categorical(self._project(*self._policies(d)))

    def clipped(self, d: Decisions) -> Array:
        """1 where the policy is outside the ball: [B, T]."""
        return namespace(d.advantage).astype(self._policies(d)[2], self.advantage(d).dtype)

    def stats(self, d: Decisions) -> dict[str, Array]:
        """See Surrogate; `kl_projection` is how far the policy lies from its projection, in the mean."""
        old, new, outside = self._policies(d)
        distance = self._distance(new, self._project(old, new, outside), outside)
        return {**super().stats(d), "kl_projection": masked_mean(distance, d.weights())}

    def _policies(self, d: Decisions) -> tuple[Array, Array, Array]:
        """Log-probabilities of the old and the present policy [B, T, A], and where they are too far apart [B, T]."""
        old = stop_gradient(_log_probs(d.dist_old, d))
        new = _log_probs(d.dist, d)
        return old, new, _kl(stop_gradient(new), old) > self.epsilon

    def _project(self, old: Array, new: Array, outside: Array) -> Array:
        """Log-probabilities of the projection: [B, T, A].

        It is q_w ~ old^(1 - w) new^w with the w in [0, 1] at which KL(q_w || old) = epsilon (w = 1 / (1 + eta), with
        eta the multiplier of the constraint). A last Newton step gives w the gradient of the equation that
        defines it.
        """
        gap = new - old
        w = self._newton(old, gap, outside, stop_gradient(self._weight(old, stop_gradient(gap), outside)))
        return namespace(new).where(outside[..., None], Categorical(old + w[..., None] * gap).log_probs(), new)

    def _weight(self, old: Array, gap: Array, outside: Array) -> Array:
        """The w of the projection, [B, T], by halving an interval of log eta, then by Newton's method."""
        xp = namespace(gap)
        low, high = xp.full_like(gap[..., 0], _LOG_ETA[0]), xp.full_like(gap[..., 0], _LOG_ETA[1])
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            over = _tilted(old, gap, sigmoid(-middle))[2] > self.epsilon
            low, high = xp.where(over, middle, low), xp.where(over, high, middle)
        w = sigmoid(-(low + high) / 2)
        for _ in range(_NEWTON):
            w = self._newton(old, gap, outside, w)
        return w

    def _newton(self, old: Array, gap: Array, outside: Array, w: Array) -> Array:
        """A Newton step towards KL(q_w || old) = epsilon, with its slope held constant: [B, T]; any number inside."""
        xp = namespace(gap)
        q, mean, distance = _tilted(old, gap, w)
        slope = stop_gradient(w * xp.sum(q * (gap - mean[..., None]) ** 2, axis=-1) / xp.sum(q, axis=-1))
        return w - (distance - self.epsilon) / xp.where(outside & (slope > 0), slope, xp.ones_like(slope))

    def _distance(self, new: Array, projected: Array, outside: Array) -> Array:
        return zero_where_masked(_kl(new, stop_gradient(projected)), outside)


def _log_probs(dist: Distribution | None, d: Decisions) -> Array:
    """Normalised, floored, and uniform where masked: [B, T, A]."""
    if not isinstance(dist, Categorical):
        raise TightreinError(
            f"TROLL projects categorical distributions, not {type(dist).__name__}",
            "use it where each action is one choice among some",
        )
    logits = at_least_float32(dist.logits)
    mask = d.weights()[..., None]
    return clip(Categorical(clip(zero_where_masked(logits, mask), -1e9, 1e9)).log_probs(), _FLOOR, 0.0)


def _kl(p: Array, q: Array) -> Array:
    """KL of log-probabilities [..., A]: [...]."""
    xp = namespace(p)
    return xp.sum(xp.exp(p) * (p - q), axis=-1)


def _tilted(old: Array, gap: Array, w: Array) -> tuple[Array, Array, Array]:
    """q ~ old exp(w gap), not normalised [..., A], the mean of gap under it, and KL(q || old) [...]; w in [0, 1]."""
    xp = namespace(gap)
    q = xp.exp(old + w[..., None] * gap)  # between two probabilities, so that nothing can overflow
    total = xp.sum(q, axis=-1)
    mean = xp.sum(q * gap, axis=-1) / total
    return q, mean, w * mean - xp.log(total)


def _of(x: Array, d: Decisions) -> Array:
    """The entry of each decision's action: x [B, T, A] -> [B, T]."""
    xp = namespace(x)
    action = zero_where_masked(d.action, d.weights())
    index = xp.cumulative_sum(xp.ones_like(x), axis=-1) - 1
    return xp.sum(zero_where_masked(x, index == action[..., None]), axis=-1)
