"""What an update learns from, wherever it comes from: answers of the policy, pairs, demonstrations, or a mixture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language.sampling.sampler import Samples


@dataclass(frozen=True)
class Batch:
    """Token rows, and what is known of them before `method.prepare`; `figures` are logged.

    figures: `tokens` (those in the masks) becomes tokens_per_second. exact: whether the present policy itself sampled
    them, and not an older one or a copy of lower precision.
    """

    samples: Samples
    decisions: tr.Decisions
    figures: dict[str, float]
    exact: bool = True

    @property
    def written(self) -> Tensor:
        """1 for rows that the policy did not sample, so that `samples.logp` says nothing of them: [B]."""
        none, shown = torch.zeros_like(self.samples.mask[:, 0]), self.decisions.demonstration
        if self.decisions.chosen is not None:
            return none + 1
        return none if shown is None else none + shown


class Experience(Protocol):
    """Where the batches of a run come from."""

    def next(self, update: int, state: Mapping[str, Any]) -> Batch:
        """The batch of `update` = 0, 1, ...; state: that of the method, for what draws prompts by it."""
        ...

    def settle(self) -> None:
        """Waits for what it does beside the caller: nobody else may ask rewards, tools or policies meanwhile."""
        ...

    def arrays(self) -> dict[str, Any]:
        """All it keeps between updates, as NumPy arrays: a run that is resumed with them goes on bit for bit."""
        ...

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Put back what `arrays` gave."""
        ...


def fields_of(decisions: tr.Decisions) -> dict[str, Any]:
    """The fields that are there, by name."""
    named = {f.name: getattr(decisions, f.name) for f in dataclasses.fields(decisions)}
    return {name: array for name, array in named.items() if array is not None}


def take(decisions: tr.Decisions, rows: Tensor) -> tr.Decisions:
    """The trajectories at these rows."""
    return tr.Decisions(**{name: _rows(field, rows) for name, field in fields_of(decisions).items()})


def in_time(name: str, array: Tensor) -> bool:
    """Whether the field's second axis is T."""
    return array.ndim == 2 and "T" in tr.decisions.FIELDS[name][0]


def joined(parts: Sequence[tr.Decisions], width: int) -> tr.Decisions:
    """Several Decisions as one, padded to `width`; a field that only some of them have is left out."""

    def padded(name: str, array: Tensor) -> Tensor:
        return torch.nn.functional.pad(array, (0, width - array.shape[1])) if in_time(name, array) else array

    each = [fields_of(part) for part in parts]
    shared = [name for name in each[0] if all(name in one for one in each)]
    whole: dict[str, Any] = {name: torch.cat([padded(name, one[name]) for one in each]) for name in shared}
    return tr.Decisions(**whole)


def _rows(field: Any, rows: Tensor) -> Any:
    if isinstance(field, Tensor):
        return field[rows]
    return type(field)(**{f.name: getattr(field, f.name)[rows] for f in dataclasses.fields(field)})
