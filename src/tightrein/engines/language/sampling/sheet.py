"""What the rows of a batch have said so far, column after column, while rows leave it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Columns(NamedTuple):
    """tokens, logp, whether the model wrote it, whether anybody did: [B] each of one place, [B, n] of several."""

    tokens: Tensor
    logp: Tensor
    mask: Tensor
    present: Tensor

    def take(self, rows: Tensor) -> Columns:
        """Those of these rows."""
        return Columns(*(each[rows] for each in self))


class Written(NamedTuple):
    """All rows in their first order, padded on the right: [B, T] each, ended [B]."""

    tokens: Tensor
    logp: Tensor
    mask: Tensor
    present: Tensor
    ended: Tensor


class Sheet:
    """What B answers say. Nothing is moved as long as no row leaves."""

    def __init__(self, size: int, pad_id: int) -> None:
        self._size, self._pad_id = size, pad_id
        self._columns: list[Columns] = []
        self._gone: list[tuple[Tensor, Columns, Tensor]] = []  # rows that have left, what they said, and their ends

    def write(self, tokens: Tensor, logp: Tensor, mask: Tensor, present: Tensor) -> None:
        """The next column of the rows in the batch; see Columns."""
        self._columns.append(Columns(tokens, logp, mask, present))

    def tails(self, rows: Tensor, width: int) -> list[list[int]]:
        """The last `width` tokens at most of some rows in the batch, back to where somebody else spoke."""
        last = _together(self._columns[-width:]).take(rows)
        own = (~last.mask).flip(1).cumsum(1).flip(1) == 0  # nothing but the model's from here to the end
        return [row[keep].tolist() for row, keep in zip(last.tokens, own, strict=True)]

    def part(self, gone: Tensor, kept: Tensor, rows: Tensor, ended: Tensor) -> None:
        """Rows leave the batch. gone, kept: places in it. rows: which answer each place is. ended: [B]."""
        so_far = _together(self._columns)
        self._gone.append((rows[gone], so_far.take(gone), ended[gone]))
        self._columns = [Columns(*each) for each in zip(*(x.unbind(1) for x in so_far.take(kept)), strict=True)]

    def close(self, rows: Tensor, ended: Tensor) -> Written:
        """All that was said, the rows still in the batch being these."""
        so_far = _together(self._columns)
        self._gone.append((rows, so_far, ended))
        shape = (self._size, so_far.tokens.shape[1])
        logp = so_far.logp.new_zeros(shape)
        tokens, mask, present = so_far.tokens.new_full(shape, self._pad_id), logp.clone(), logp.clone()
        made = Written(tokens, logp, mask, present, ended.new_zeros(self._size))
        for places, said, ends in self._gone:
            width = said.tokens.shape[1]
            made.tokens[places, :width] = said.tokens.masked_fill(~said.present, self._pad_id)
            made.logp[places, :width] = said.logp.masked_fill(~said.mask, 0.0)
            made.mask[places, :width] = said.mask.to(logp.dtype)
            made.present[places, :width] = said.present.to(logp.dtype)
            made.ended[places] = ends
        return made


def _together(columns: list[Columns]) -> Columns:
    return Columns(*(torch.stack(each, 1) for each in zip(*columns, strict=True)))
