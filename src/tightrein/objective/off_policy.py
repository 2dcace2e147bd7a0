"""Factors on the loss for how far the policy has come from the one that sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..arrays import Array, at_least_float32, namespace, stop_gradient
from ..decisions import Decisions
from ..settings import setting
from .correction import Correction
from .levels import WHOLE
from .ratio import log_difference

if TYPE_CHECKING:
    from .policy.surrogate import Surrogate


@dataclass(frozen=True)
class OffPolicyMask(Correction):
    """Takes the gradient of bad answers that the policy has left far behind.

    Those are the answers of negative advantage whose mean of log pi_behaviour - log pi, an estimate of
    KL(pi_behaviour || pi), exceeds `limit`. It is looked at anew in each step. Source: DeepSeek-V3.2 (2025), section
    3.1; TRL off_policy_mask_threshold.
    """

    equation = "w = 0 if A < 0 and mean_t (logp_behaviour - logp) > limit, else 1"
    needs = frozenset({"logp", "logp_behaviour", "advantage"})
    limit: float = setting(0.5, at_least=0)

    def __call__(self, d: Decisions, surrogate: Surrogate) -> Array:
        """See Correction: [B, T]."""
        mask = d.weights()
        distance = WHOLE.average(-stop_gradient(log_difference(d.logp, d.logp_behaviour, mask)), d)
        gone = (at_least_float32(d.advantage) < 0) & (distance > self.limit)
        return namespace(mask).astype(~gone, mask.dtype)
