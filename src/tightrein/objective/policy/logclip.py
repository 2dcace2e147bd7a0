"""The clip on the logarithm of the ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...arrays import Array, atleast, namespace, stop_gradient
from ...decisions import Decisions
from ..ratio import exp_limited
from .clip import Clip

_TINY = 1e-30


@dataclass(frozen=True)
class LogClip(Clip):
    """Clips the logarithm of the ratio: inside the gradient is REINFORCE's, and never grows with the ratio.

    Source: CPGD, arXiv 2505.12504.
    """

    equation = "-min( A log r, A clip(log r, log low, log high) )"

    def __call__(self, d: Decisions) -> Array:
        """Loss per decision: [B, T], or [B, 1] for a trajectory's ratio."""
        log_r, advantage = self.ratio.log(d), self.advantage(d)
        low, high = self.bounds(d, exp_limited(stop_gradient(log_r)), advantage)
        return self.within(log_r, advantage, log_bound(low), log_bound(high))

    @property
    def ceiling(self) -> Array | float | None:
        """See Clip: the dual clip is one of the ratio."""
        return None if self.dual is None else log_bound(self.dual)


def log_bound(bound: Array | float) -> Array | float:
    """Logarithm of a bound of the ratio, finite for a bound of 0."""
    if isinstance(bound, float):
        return math.log(max(bound, _TINY))
    return namespace(bound).log(atleast(bound, _TINY))
