"""What a network reads at a decision."""

from __future__ import annotations

from typing import Any

import equinox as eqx

Array = Any


class Inputs(eqx.Module):
    """Arrays with the same leading axes, free for networks without memory.

    observation: [..., *shape], normalised. allowed: [..., A], 1 where an action may be taken (None: all may).
    Of networks with memory also begins: [...], 1 where an episode begins, and memory: [..., H], what was remembered
    before this observation. told: [..., K], what a phase of learning lets the value network know (None: nothing).
    """

    observation: Array
    allowed: Array | None = None
    begins: Array | None = None
    memory: Array | None = None
    told: Array | None = None
