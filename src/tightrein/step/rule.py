"""Update rules of the library's own: one definition for every array library, in two forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays import Array
from .norms import Axes
from .optimizers import Optimizer

Memory = dict[str, Array]  # what is kept for one parameter from step to step


@dataclass(frozen=True)
class Rule(Optimizer):
    """Base of the optimizers that are written here, as two pure functions on arrays of any library."""

    per_matrix: ClassVar[bool] = True

    def memory(self, param: Array) -> Memory:
        """What is kept for a parameter, before the first step."""
        raise NotImplementedError

    def move(
        self,
        gradients: Sequence[Array],
        memories: Sequence[Memory],
        params: Sequence[Array],
        axes: Axes,
        rate: Any,
    ) -> tuple[list[Array], list[Memory]]:
        """(what is added to each parameter, what is kept for it); rate: the learning rate now, a number or 0-d."""
        raise NotImplementedError

    def hosted(self, preset: Optimizer) -> Optimizer:
        """See Optimizer: the rule stays, with the preset's schedule."""
        return self.replace(anneal=preset.anneal, warmup=preset.warmup)

    def _optax(self, rate: Any, axes: Axes | None) -> Any:
        from .optax_form import transformation

        return transformation(self, rate, axes)

    def _torch(self, params: Sequence[Any], axes: Axes | None) -> list[Any]:
        from .torch_form import RuleOptimizer

        return [RuleOptimizer(self, params, axes)]
