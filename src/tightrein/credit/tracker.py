"""Credit from a running estimate of how often a prompt is answered well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Array, atleast, clip, namespace, scatter_sum, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..errors import TightreinError
from ..settings import setting
from .base import Credit
from .group import spread
from .memory import known
from .standardise import standardise


@dataclass(frozen=True)
class BetaTracker(Credit):
    """Reward minus the prompt's tracked rate of success, standardised over the batch. arXiv 2509.13232.

    The tracker is a Beta distribution per prompt, a and b of [P], that forgets the more the further the policy has
    moved since the prompt was last asked; `half_life` is the mean |change of logp| that halves the old counts. Rewards
    are cut into [0, 1]. Several answers to one prompt in a batch count together, and the old counts are faded once.
    `offline` is the number of answers to each prompt that an engine samples before training, see `after`.
    """

    equation = "A_i = standardised(R_i - a/(a+b));  a <- f a + R, b <- f b + 1 - R, f = clip(2^(-D/D_half), low, high)"
    needs = frozenset({"reward", "prompt", "drift"})
    half_life: float = setting(0.06, above=0)
    low: float = setting(0.875, at_least=0, below=1)
    high: float = setting(0.96, at_least=0, at_most=1)
    offline: int = setting(8, at_least=0)

    def check(self) -> None:
        """See Part: the range must not be empty."""
        if self.low > self.high:
            raise TightreinError(
                f"BetaTracker keeps at least {self.low} and at most {self.high} of its counts", "give low <= high"
            )

    def init(self, prompts: int) -> dict[str, Array]:
        """Of no prompt an answer has been seen: a = b = 1/2."""
        return {name: np.full(prompts, 0.5) for name in ("a", "b")}

    def after(self, successes: Array, samples: int) -> dict[str, Array]:
        """The state at the start, when of `samples` > 0 answers to each prompt `successes` [P] were right.

        a + b is what the slowest memory keeps in the long run, 1 / (1 - low).
        """
        scale = 1 / ((1 - self.low) * (samples + 1))
        return {"a": scale * (successes + 0.5), "b": scale * (samples - successes + 0.5)}

    def update(self, state: Mapping[str, Array], decisions: Decisions, progress: Any) -> dict[str, Array]:
        """Fade what is known of the prompts of this batch, and add what they earned."""
        memory = known(state, decisions)
        a, b, xp = memory["a"], memory["b"], namespace(memory["a"])
        living, success = decisions.alive(), _success(decisions)

        def per_prompt(x: Array) -> Array:
            return scatter_sum(zero_where_masked(x, living), decisions.prompt, a.shape[0])

        answers = per_prompt(living)
        drift = per_prompt(xp.astype(decisions.drift, living.dtype)) / atleast(answers, 1)
        forget = clip(2.0 ** (-drift / self.half_life), self.low, self.high)
        seen = answers > 0
        return {
            "a": xp.where(seen, forget * a + per_prompt(success), a),
            "b": xp.where(seen, forget * b + per_prompt(1 - success), b),
        }

    def __call__(self, d: Decisions, state: Any = None) -> Decisions:
        """See Credit."""
        expected = rate(known(state, d))[d.prompt]
        advantage = standardise((_success(d) - expected)[:, None], d.alive()[:, None])
        return spread(d, advantage[:, 0])


def rate(state: Mapping[str, Array]) -> Array:
    """The expected rate of success of each prompt: [P], in (0, 1)."""
    return state["a"] / (state["a"] + state["b"])


def _success(d: Decisions) -> Array:
    return clip(stop_gradient(d.outcome()), 0.0, 1.0)
