"""A reward for reading the prompt: how much likelier an answer is than if part of the prompt were masked."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array, at_least_float32, clip, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..settings import setting
from .estimators import K3
from .term import Term

_K3 = K3()
_FINITE = 1e9  # what is impossible counts as this unlikely


@dataclass(frozen=True)
class Perception(Term):
    """Pushes the policy away from itself as it is when part of its prompt is masked. arXiv 2507.06448 (PAPO).

    The divergence has no upper bound, and can be had by rambling: `entropy` weighs two guards, which hold down the
    entropy with and without the mask, and `cap` cuts the divergence of a decision. Without the cap a few unlikely
    tokens make up all of it, and a small model is ruined within ten updates. An engine masks `masking` of the
    prompt. Where the gradient is not to go `through` the masked look, it is taken once, of the old policy. coef = 0
    switches all of it off.
    """

    equation = "-c k3(logp - logp_masked) - eta (logp + logp_masked)"
    named = "perception_kl"
    coef: float = setting(0.01, at_least=0)
    entropy: float = setting(0.03, at_least=0)
    cap: float | None = setting(10.0, above=0)
    masking: float = setting(0.6, above=0, at_most=1)
    through: bool = True

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Nothing while it is off, so that no prompt has to be masked."""
        return frozenset({"logp", "logp_masked"}) if self.coef else frozenset()

    def __call__(self, d: Decisions, weights: Array) -> Array:
        """See Term: the guards are divided by the coefficient that they are multiplied with outside."""
        full, masked = self._looks(d, weights)
        each = self.entropy / self.coef * (full + masked) + self._divergence(full, masked)
        return -namespace(full).sum(weights * each)

    def stats(self, d: Decisions, weights: Array) -> dict[str, Array]:
        """See Term: the divergence, and the entropy of the policy with the mask, as its answers estimate it."""
        full, masked = self._looks(d, weights)
        xp = namespace(full)
        divergence = xp.sum(weights * self._divergence(full, masked))
        return {self.named: divergence, "entropy_masked": -xp.sum(weights * masked)}

    def _looks(self, d: Decisions, weights: Array) -> tuple[Array, Array]:
        """Log-probabilities without and with the mask, finite, and 0 where they do not count: [B, T] each."""
        masked = d.logp_masked if self.through else stop_gradient(d.logp_masked)
        full, masked = (clip(at_least_float32(x), -_FINITE, _FINITE) for x in (d.logp, masked))
        return zero_where_masked(full, weights), zero_where_masked(masked, weights)

    def _divergence(self, full: Array, masked: Array) -> Array:
        k = _K3(full - masked)  # what was sampled with the whole prompt estimates KL(pi || pi_masked)
        return k if self.cap is None else clip(k, 0.0, self.cap)
