"""What an ensemble of reward models promises: less over-optimisation of any one of them."""

from __future__ import annotations

import numpy as np

from ...arrays import Array
from ...reward import MeanScore, Reduction, UncertaintyWeighted, WorstScore, best_of_n
from ..pin import Shown, shows

RULES: dict[str, Reduction] = {
    "mean": MeanScore(),
    "worst": WorstScore(),
    "uncertainty-weighted": UncertaintyWeighted(coef=0.5),
}
SIZES = (1, 10, 100, 1000)


def _world(rng: np.random.Generator, answers: int, models: int) -> tuple[Array, Array]:
    """(gold, scores [answers, models]): gold falls far from what is usual, and linear models cannot know it.

    Each model is fitted to twenty answers of its own, with noisy gold scores.
    """

    def gold(x: Array) -> Array:
        return x[:, 0] - 0.2 * (x**2).sum(1)

    features = rng.standard_normal((answers, 8))
    seen = rng.standard_normal((models, 20, 8))
    labels = np.stack([gold(x) for x in seen]) + rng.standard_normal((models, 20))
    weights = np.stack([np.linalg.lstsq(x, y, rcond=None)[0] for x, y in zip(seen, labels, strict=True)])
    return gold(features), features @ weights.T


@shows("rm_ensemble")
def rm_ensemble() -> Shown:
    """Best of many by one model falls in gold score; by a careful ensemble it falls less, and ends higher."""
    rng = np.random.default_rng(0)
    worlds = [_world(rng, 4000, 5) for _ in range(10)]

    def curve(pick: Reduction | None) -> list[float]:
        proxies = [(gold, scores[:, 0] if pick is None else pick(scores)) for gold, scores in worlds]
        return [float(np.mean([best_of_n(proxy, gold, n) for gold, proxy in proxies])) for n in SIZES]

    alone, together = curve(None), {name: curve(rule) for name, rule in RULES.items()}
    ends = ", ".join(f"{name} {found[-1]:.2f}" for name, found in together.items())
    careful = min(together["worst"][-1], together["uncertainty-weighted"][-1])
    says = f"gold at best of {SIZES}: one model {[round(x, 2) for x in alone]}; at {SIZES[-1]}: {ends}"
    return Shown(says, alone[-1] < max(alone) - 0.05 and careful > alone[-1] + 0.05)
