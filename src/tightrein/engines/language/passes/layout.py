"""How the tokens of a batch are laid out for a forward pass: row beside row, or packed, shared prompts only once.

Packed, the answers to one prompt stand behind it in one row, each at the positions that it would have alone, and a
mask keeps them from seeing each other. Whoever reads the states is told where each decision's are, so that nothing else
has to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tightrein.engines.language.sampling.sampler import positions_of

GAIN = 0.8  # packed if that leaves no more than this share of the tokens: attention without a mask of pairs is faster


@dataclass(frozen=True)
class Layout:
    """R rows of L tokens, as a model is to see them.

    source: [R, L] places in the flattened ids [B * W]. position: [R, L]. attention: [R, L], 1 where there is a token;
    or [R, 1, L, L], True where the token of the third axis sees that of the fourth. keep: only the states of so many
    last tokens of each row are read (0: of all). before: [N] places, in the flattened states [R * keep], of what stands
    before each decision. behind: [N], of the decision's own token; None where that is not run.
    """

    source: Tensor
    position: Tensor
    attention: Tensor
    keep: int
    before: Tensor
    behind: Tensor | None

    def taken(self, values: Tensor) -> Tensor:
        """Values [B, W, ...] of the tokens, in their places: [R, L, ...]."""
        return values.flatten(0, 1)[self.source]


def rectangular(attention: Tensor, span: int) -> Layout:
    """Each of B rows as it is. attention: [B, W], its last `span` columns the decisions."""
    size, width = attention.shape
    source = torch.arange(size * width, device=attention.device).view(size, width)
    read = torch.arange(size * (span + 1), device=attention.device).view(size, span + 1)
    own = read[:, 1:][attention[:, -span:].bool()]
    return Layout(source, positions_of(attention), attention, span + 1, own - 1, own)


@dataclass(frozen=True)
class Trees:
    """Rows that begin with the same prompt, as trees: the prompt is the stem, each answer a branch.

    tree: [B], that of each row. stem: [B], the row whose prompt stands for that of this row. run: [B, W], True on the
    tokens that have to be run: every prompt once, and of answers all but the last token, whose state says nothing of
    them, unless there are tails.
    """

    tree: Tensor
    stem: Tensor
    run: Tensor

    @classmethod
    def of(cls, ids: Tensor, attention: Tensor, span: int, *, tails: bool = False) -> Trees:
        """The trees of ids [B, W]."""
        prompts = ids[:, :-span].masked_fill(attention[:, :-span] == 0, -1)
        _, tree = torch.unique(prompts, dim=0, return_inverse=True)
        rows = torch.arange(len(ids), device=ids.device)
        first = rows.new_full((int(tree.max()) + 1,), len(ids)).scatter_reduce(0, tree, rows, "amin")
        stem, run = first[tree], attention.bool().clone()
        run[:, :-span] &= (stem == rows)[:, None]
        if not tails:
            lasts = attention[:, -span:].sum(1)
            run[rows, attention.shape[1] - span + lasts.clamp(min=1) - 1] = False
        return cls(tree, stem, run)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each tree."""
        found: list[int] = torch.zeros_like(self.tree).scatter_add(0, self.tree, self.run.sum(1)).tolist()
        return found[: int(self.tree.max()) + 1]


def packed(attention: Tensor, span: int, trees: Trees) -> Layout:
    """Trees side by side in as few rows as they need, the longest tree being the length of a row."""
    size, width = attention.shape
    sizes = trees.sizes
    length, begins = max(sizes), _placed(sizes, max(sizes))
    row, column = trees.run.nonzero(as_tuple=True)
    branch = torch.where(column < width - span, 0, row + 1)
    order = torch.argsort((trees.tree[row] * (size + 1) + branch) * width + column)
    row, column, branch = row[order], column[order], branch[order]
    tree = trees.tree[row]
    starts = torch.tensor([0, *sizes[:-1]], device=row.device).cumsum(0)
    where = torch.tensor(begins, device=row.device)[tree] + torch.arange(len(row), device=row.device) - starts[tree]
    count = 1 + max(begins) // length

    def laid(values: Tensor, absent: int) -> Tensor:
        return values.new_full((count * length,), absent).scatter(0, where, values).view(count, length)

    position = laid(positions_of(attention)[row, column], 0)
    places = laid(row * width + column, -1)
    found = where.new_full((size * width,), -1).scatter(0, row * width + column, where).view(size, width)
    found[:, :-span] = found[trees.stem, :-span]
    there = attention[:, -span:].bool()
    tails = torch.equal(trees.run[:, -span:], there)
    return Layout(
        places.clamp(min=0), position, _sees(laid(tree, -1), laid(branch, 0), position), 0,
        found[:, -span - 1 : -1][there], found[:, -span:][there] if tails else None,
    )  # fmt: skip


def _sees(tree: Tensor, branch: Tensor, position: Tensor) -> Tensor:
    """Who sees whom: [R, 1, L, L]. Padding sees itself, as nothing may see nothing."""
    same = tree[:, :, None] == tree[:, None, :]
    kin = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    past = position[:, None, :] <= position[:, :, None]
    itself = torch.eye(tree.shape[1], dtype=torch.bool, device=tree.device)
    seen = same & kin & past & (tree >= 0)[:, :, None]
    return (seen | itself)[:, None]


def _placed(sizes: Sequence[int], length: int) -> list[int]:
    """Where each begins in rows of `length` laid end to end: the largest first, each in the first row with room."""
    begins = [0] * len(sizes)
    filled: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row = next((r for r, used in enumerate(filled) if used + sizes[index] <= length), len(filled))
        if row == len(filled):
            filled.append(0)
        begins[index] = row * length + filled[row]
        filled[row] += sizes[index]
    return begins
