"""Token ratio and trajectory ratio in one surrogate."""

from __future__ import annotations

from dataclasses import dataclass

from ...arrays import Array, at_least_float32, clip, masked_mean, namespace, stop_gradient
from ...decisions import Decisions
from ...settings import setting
from ..levels import tokenwise
from ..ratio import TokenRatio, exp_limited, log_ratio
from .bounds import Bounds, Widths
from .surrogate import Surrogate


@dataclass(frozen=True)
class HybridClip(Surrogate):
    """Mixes the ratio of a decision with that of its trajectory, each clipped in a trust region of its own.

    `weight` is the share w of the token's ratio; None lets uncertain decisions lean on it, w = H_t between the least
    and the largest entropy of the answer. `jointly` takes the pessimistic side of the mixture instead of each
    branch's, so that one branch can keep the other's gradient alive. Source: DHPO, arXiv 2601.05607.
    """

    equation = "w max(-A r, -A clip(r)) + (1-w) max(-A s, -A clip(s)),   s = sg[s] exp(logp - sg[logp])"
    token: Bounds = Widths(0.2, 0.28)
    sequence: Bounds = Widths(3e-4, 4e-4)
    weight: float | None = setting(0.5, at_least=0, at_most=1)
    jointly: bool = False

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What both branches read; the entropy where it is the weight."""
        guide = frozenset({"entropy"}) if self.weight is None else frozenset[str]()
        return super().needs | self.token.needs | self.sequence.needs | guide

    def misfit(self, objective: object) -> tuple[str, str] | None:
        """See Part: both levels are there already."""
        if self.ratio == TokenRatio():
            return None
        return "HybridClip forms the ratios of decisions and of trajectories itself", "leave its ratio out"

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T]."""
        advantage, share = self.advantage(d), self.share(d)
        xp, branches = namespace(advantage), self._branches(d, advantage)
        if self.jointly:
            free, cut = (-advantage * _mix(share, *side) for side in zip(*branches, strict=True))
            return xp.maximum(free, cut)
        held = (xp.where(_idle(r, cut, advantage), stop_gradient(cut), r) for r, cut in branches)
        return -advantage * _mix(share, *held)

    def mixture(self, d: Decisions) -> Array:
        """The clipped ratios, mixed: [B, T]."""
        return _mix(self.share(d), *(cut for _, cut in self._branches(d, self.advantage(d))))

    def share(self, d: Decisions) -> Array | float:
        """The weight of the token's ratio, without gradient: a number, or [B, T]."""
        if self.weight is not None:
            return self.weight
        mask, entropy = d.weights(), at_least_float32(stop_gradient(d.entropy))
        xp = namespace(mask)
        away = xp.asarray(xp.inf, dtype=entropy.dtype)
        least = xp.min(xp.where(mask != 0, entropy, away), axis=1, keepdims=True)
        largest = xp.max(xp.where(mask != 0, entropy, -away), axis=1, keepdims=True)
        apart = (mask != 0) & (largest > least)
        span = xp.where(largest > least, largest - least, xp.ones_like(least))
        return xp.where(apart, xp.where(apart, entropy - least, xp.zeros_like(entropy)) / span, 0.5 + 0 * mask)

    def clipped(self, d: Decisions) -> Array:
        """1 where either ratio is outside its bounds."""
        token, sequence = self._outside(d)
        return namespace(token).astype(token | sequence, d.weights().dtype)

    def idle(self, d: Decisions) -> Array:
        """See Surrogate: both branches have let go."""
        advantage = self.advantage(d)
        token, sequence = (_idle(r, cut, advantage) for r, cut in self._branches(d, advantage))
        return token & sequence

    def stats(self, d: Decisions) -> dict[str, Array]:
        """See Surrogate; and the share that each branch clips."""
        mask = d.weights()
        outside = [namespace(mask).astype(x, mask.dtype) for x in self._outside(d)]
        named = zip(("clip_fraction_token", "clip_fraction_sequence"), outside, strict=True)
        return {**super().stats(d), **{name: masked_mean(x, mask) for name, x in named}}

    def _branches(self, d: Decisions, advantage: Array) -> list[tuple[Array, Array]]:
        """(ratio, clipped ratio) of the decision and of its trajectory: [B, T] each."""
        log_r = log_ratio(d)
        ratios = (exp_limited(log_r), self.token), (tokenwise(log_r, d), self.sequence)
        return [(r, clip(r, *bounds(d, r, advantage))) for r, bounds in ratios]

    def _outside(self, d: Decisions) -> list[Array]:
        return [r != cut for r, cut in self._branches(d, self.advantage(d))]


def _idle(r: Array, cut: Array, advantage: Array) -> Array:
    return ((cut > r) & (advantage < 0)) | ((cut < r) & (advantage > 0))


def _mix(share: Array | float, one: Array, other: Array) -> Array:
    return share * one + (1 - share) * other
