"""What is kept of all that was ever done, and how often it is learned from."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import Part, setting


@dataclass(frozen=True)
class Replay(Part):
    """The newest `size` transitions, from which batches of `batch` are drawn uniformly, with replacement.

    The first `learning_starts` steps of each seed are uniformly random actions, and nothing is learned. After that
    each environment step is followed by `updates` gradient steps. `deterministic`: the policy then acts by the mode of
    its distribution in place of a draw.
    """

    size: int = setting(1_000_000, at_least=1)
    batch: int = setting(256, at_least=1)
    learning_starts: int = setting(10_000, at_least=0)
    updates: int = setting(1, at_least=1)
    deterministic: bool = False
