"""Credit that steers the entropy by what another temperature would have chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays import Array, atleast, clip, masked_mean, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..errors import TightreinError
from ..objective.ratio import exp_limited, finite_logp, log_difference
from ..settings import setting
from .base import Credit
from .group import GroupNormalised

_UNKNOWN = -1.0


@dataclass(frozen=True)
class EntropyTargeted(Credit):
    """Mixes another credit with a reward of right answers, told by the old policy at another temperature.

    A decision of a right answer earns pi_hot / pi where the entropy is at most `target`, which favours what is rare,
    and pi_cold / pi where it is above. The share of this in the mixture grows with the distance to the target, up to
    `most`, and with the rarity of right answers. An answer is right when its reward exceeds `threshold`.

    The state is the entropy after the last update, the mean of -logp; the first batch takes its own. Source: DCPO,
    arXiv 2601.12730.
    """

    equation = "A_t <- (1 - a) A_t + a 1[right] pi_T / pi,   a = x / (x + f), x = min(|H0 - H|, most), f share right"
    credit: Credit = GroupNormalised()
    target: float = setting(0.5, at_least=0)
    hot: float = setting(1.2, above=0)
    cold: float = setting(0.8, above=0)
    most: float = setting(0.1, above=0)
    threshold: float = 0.05

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What the other reads, and the old policy at both temperatures."""
        return self.credit.needs | {"reward", "logp_old", "logp_tempered"}

    @property
    def temperatures(self) -> tuple[float, float]:
        """Those of `logp_tempered`."""
        return self.hot, self.cold

    def check(self) -> None:
        """See Part: the credit within keeps no state of its own here."""
        if self.credit.init(1) is not None:
            raise TightreinError(
                f"EntropyTargeted cannot hold {type(self.credit).__name__}, which remembers prompts",
                "set credit.credit=GroupNormalised, or leave EntropyTargeted out",
            )

    def init(self, prompts: int) -> float:
        """No update has been made."""
        return _UNKNOWN

    def update(self, state: Any, decisions: Decisions, progress: Any) -> Any:
        """The entropy that the update ended with."""
        return _entropy(decisions)

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        mask, scored = d.weights(), self.credit(d)
        xp = namespace(mask)
        own = _entropy(d.replace(logp=d.logp_old))
        known = own * 0 + (_UNKNOWN if state is None else state)
        entropy = xp.where(known >= 0, known, own)
        right = d.alive() * xp.astype(stop_gradient(d.outcome()) > self.threshold, mask.dtype)
        share = self.share(entropy, xp.sum(right) / atleast(xp.sum(d.alive()), 1))
        hot, cold = (exp_limited(log_difference(d.logp_tempered[..., k], d.logp_old, mask)) for k in range(2))
        earned = right[:, None] * xp.where(entropy <= self.target, hot, cold)
        return d.replace(advantage=zero_where_masked((1 - share) * scored.advantage + share * earned, mask))

    def share(self, entropy: Array, right: Array) -> Array:
        """Share of the second reward in the mixture, in [0, 1), where a share `right` of the answers is right."""
        xp = namespace(entropy)
        off = clip(xp.abs(self.target - entropy), 0.0, self.most)
        return xp.where(right > 0, off / (off + xp.where(right > 0, right, xp.ones_like(right))), xp.zeros_like(off))


def _entropy(d: Decisions) -> Array:
    """Mean of -logp (a scalar)."""
    return masked_mean(-stop_gradient(finite_logp(d)), d.weights())
