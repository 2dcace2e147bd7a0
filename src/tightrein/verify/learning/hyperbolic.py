"""What the networks in hyperbolic space promise, shown by short runs."""

from __future__ import annotations

import numpy as np

from ...heads import HyperbolicHeads
from ..pin import Shown, shows
from .solvers import column, run


@shows("hyperpp")
def hyperpp() -> Shown:
    """CartPole is learned in 100,000 steps, all numbers finite and no feature longer than the bound."""
    summary, lines = run(method="hyperpp", total_steps=102_400, seeds=2, envs=8, rollout=64)
    longest, bound = column(lines, "feature_norm_max"), HyperbolicHeads().longest
    losses, returned = column(lines, "loss"), summary["eval_return_mean"]
    says = (
        f"return {returned:.0f} of 500 on CartPole after 102,400 steps, 2 seeds; the longest feature of {len(longest)} "
        f"updates {longest.max():.3f} (bound {bound:.3f}), every loss finite"
    )
    return Shown(says, bool(np.isfinite(losses).all() and longest.max() <= bound and returned >= 400))
