"""Which problems are asked next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.tasks.problems import Problem
from tightrein.errors import TightreinError


class Stream:
    """The problems of a task: one pass after another, or drawn by the weights of a curriculum.

    All follows from the seed and from how many have been drawn (`cursor`), and so goes on after a resumption.
    """

    def __init__(self, task: Task, seed: int, curriculum: Any = None) -> None:
        self._task, self._seed, self._curriculum = task, seed, curriculum
        self.cursor = 0

    def draw(self, count: int, state: Mapping[str, Any]) -> list[tuple[int, Problem]]:
        """The next (index, problem); state: that of the method, which a curriculum reads.

        Raises:
            TightreinError: there is a curriculum, and nothing for it to read.
        """
        first, self.cursor = self.cursor, self.cursor + count
        if self._curriculum is None:
            return self._task.batch(self._seed, first, count)
        if "credit" not in state:
            raise TightreinError(
                "the curriculum draws prompts by what the credit remembers of them, and this credit remembers nothing",
                "set curriculum=none, or leave the method's credit as it is",
            )
        weights = torch.as_tensor(self._curriculum.weights(state["credit"])).double().cpu().numpy()
        chosen = weighted(weights, count, np.random.default_rng([self._seed, first]))
        return [(index, self._task.asked[index]) for index in chosen]


def weighted(weights: np.ndarray[Any, Any], count: int, generator: np.random.Generator) -> list[int]:
    """`count` indices drawn in proportion to `weights` [N], none twice before all were drawn once."""
    share = weights / weights.sum()
    whole, rest = divmod(count, len(weights))
    order = [generator.permutation(len(weights)) for _ in range(whole)]
    return [int(i) for part in (*order, generator.choice(len(weights), rest, replace=False, p=share)) for i in part]
