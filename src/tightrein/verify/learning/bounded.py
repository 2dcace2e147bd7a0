"""What limits on single decisions are for."""

from __future__ import annotations

import numpy as np

from ..batches import batch, gradient, method
from ..pin import Shown, shows


@shows("dual_clip_ppo")
def one_runaway_decision() -> Shown:
    """A bad decision whose ratio has run away must not dominate the batch."""
    norms = {}
    for key in ("ppo_clip", "dual_clip_ppo"):
        chosen = method(key)
        d = batch(0, chosen, spread=0.1)
        logp_old, advantage = d.logp_old.copy(), d.advantage.copy()
        logp_old[0, 0], advantage[0, 0] = d.logp[0, 0] - 10, -1.0
        runaway = d.replace(logp_old=logp_old, advantage=advantage)
        norms[key] = [float(np.linalg.norm(gradient(chosen, x))) for x in (d, runaway)]
    ppo, dual = norms["ppo_clip"], norms["dual_clip_ppo"]
    return Shown(
        f"one decision of ratio e^10 raises the gradient's norm {ppo[1] / ppo[0]:.0f} times with ppo_clip and "
        f"{dual[1] / dual[0]:.2f} times with the second clip",
        holds=dual[1] <= dual[0] < ppo[1] / 100,
    )
