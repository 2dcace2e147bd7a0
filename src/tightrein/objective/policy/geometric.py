"""The geometric mean of clipped ratios."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...arrays import Array, atleast, atmost, choose, namespace
from ...decisions import Decisions
from ...settings import setting
from ..ratio import Ratio, SequenceMeanRatio, exp_limited, log_ratio
from .surrogate import Surrogate


@dataclass(frozen=True)
class GeometricClip(Surrogate):
    """Clips the log-ratio of each decision pessimistically, then takes the geometric mean over a trajectory.

    `low` and `high` are widths of the log-ratio. A clipped decision has no gradient of its own, the others of the
    trajectory keep theirs. `ratio` says over what the mean is taken. Source: GMPO, arXiv 2507.20673.
    """

    equation = "-A exp( mean_t l_t ),   l_t = min(log r_t, high) if A >= 0 else max(log r_t, -low)"
    low: float = setting(0.4, above=0)
    high: float = setting(0.4, above=0)
    ratio: Ratio = field(default=SequenceMeanRatio(), kw_only=True)

    def __call__(self, d: Decisions) -> Array:
        """Loss per trajectory [B, 1], or whatever shares a ratio."""
        advantage = self.advantage(d)
        log_r = log_ratio(d)
        held = choose(advantage < 0, atleast(log_r, -self.low), atmost(log_r, self.high))
        return -advantage * exp_limited(self.ratio.average(held, d))

    def clipped(self, d: Decisions) -> Array:
        """1 where a decision's log-ratio is outside the bounds, whatever the sign of the advantage: [B, T]."""
        x = log_ratio(d)
        return namespace(x).astype((x < -self.low) | (x > self.high), x.dtype)

    def idle(self, d: Decisions) -> Array:
        """See Surrogate: [B, T]."""
        x, advantage = log_ratio(d), self.advantage(d)
        return ((x < -self.low) & (advantage < 0)) | ((x > self.high) & (advantage >= 0))
