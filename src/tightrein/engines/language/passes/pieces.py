"""Rows in pieces that memory can hold, divided among the processes that train together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tightrein.engines.language import processes
from tightrein.engines.language.passes.forward import trees_of
from tightrein.engines.language.passes.layout import Trees
from tightrein.engines.language.sampling.sampler import Samples


@dataclass(frozen=True)
class Pieces:
    """How a batch is run.

    run: row numbers of each pass of this process. idle: so many of the first passes are only made because others make
    as many, and nobody reads them. order: the rows that are read, of one process after another.
    """

    run: list[Tensor]
    idle: int
    order: Tensor

    def in_order(self, parts: Sequence[Any]) -> Any:
        """What was made of the rows of each pass that is read, of all processes, as one, in the order of the rows."""
        whole = _together(list(parts))
        return whole if len(parts) == 1 else _reordered(whole, torch.argsort(self.order))


def pieces_of(model: Any, samples: Samples, most: int) -> Pieces:
    """Samples in passes of at most `most` tokens."""
    span = samples.mask.shape[1]
    costs = Costs.of(samples.attention, span, trees_of(model, samples.ids, samples.attention, span))
    each = [costs.cut(rows, most) for rows in costs.shares(processes.count())]
    own = each[processes.rank()]
    device = samples.mask.device
    idle = max(map(len, each)) - len(own) if processes.divided(model) else 0
    run = [[0]] * idle + own
    order = [row for pieces in each for rows in pieces for row in rows]
    return Pieces([torch.tensor(rows, device=device) for rows in run], idle, torch.tensor(order, device=device))


@dataclass(frozen=True)
class Costs:
    """Tokens to run: of each row its own, and once for rows of the same tree those of their stem.

    order: the rows, those of a tree together.
    """

    order: list[int]
    own: list[int]
    stem: list[int]
    tree: list[int]

    @classmethod
    def of(cls, attention: Tensor, span: int, trees: Trees | None) -> Costs:
        """Those of rows [B, W], the last `span` columns the decisions; trees: None where every row is run as it is."""
        size, width = attention.shape
        rows = list(range(size))
        if trees is None:
            return cls(rows, [width] * size, [0] * size, rows)
        tree: list[int] = trees.tree.tolist()
        return cls(
            sorted(rows, key=lambda row: tree[row]), trees.run[:, -span:].sum(1).tolist(),
            attention[:, :-span].sum(1).tolist(), tree,
        )  # fmt: skip

    def cut(self, rows: Sequence[int], most: int) -> list[list[int]]:
        """Rows in as few pieces as have `most` tokens each; a row that has more is a piece of its own."""
        found: list[list[int]] = []
        used, last = 0, -1
        for row in rows:
            cost = self.own[row] + (self.stem[row] if self.tree[row] != last else 0)
            if not found or used + cost > most:
                found.append([])
                used, cost = 0, self.own[row] + self.stem[row]
            found[-1].append(row)
            used, last = used + cost, self.tree[row]
        return [sorted(piece) for piece in found]

    def shares(self, number: int) -> list[list[int]]:
        """The rows in so many parts of about as many tokens."""
        if number == 1:
            return [self.order]
        total = sum(self.own[row] + 1 for row in self.order)
        found: list[list[int]] = [[] for _ in range(number)]
        used = 0
        for row in self.order:
            cost = self.own[row] + 1
            found[(2 * used + cost) * number // (2 * total)].append(row)
            used += cost
        return found


def _reordered(whole: Any, order: Tensor) -> Any:
    if whole is None or isinstance(whole, Tensor):
        return None if whole is None else whole[order]
    return type(whole)(*(_reordered(getattr(whole, f.name), order) for f in fields(whole)))


def _together(parts: list[Any]) -> Any:
    """Dataclasses of tensors as one, row after row."""
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    names = [f.name for f in fields(parts[0])]
    return type(parts[0])(*(_together([getattr(part, name) for part in parts]) for name in names))
