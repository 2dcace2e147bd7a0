"""Decisions that belong together: the tokens of one turn, or of one reasoning step.

`turn` [B, T] never falls along a row; what it says of masked positions is never read.
"""

from __future__ import annotations

from .arrays import Array, atleast, group_sum, namespace, zero_where_masked
from .decisions import Decisions


def turn_sum(x: Array, d: Decisions) -> Array:
    """Sum of `x` over the unmasked decisions of a turn, given to each of its positions: [B, T] -> [B, T]."""
    xp, (rows, width) = namespace(x), d.shape
    mask = d.weights()
    turn = zero_where_masked(d.turn, mask)
    row = xp.cumulative_sum(xp.ones_like(turn), axis=0) - 1
    label = xp.reshape(row * (xp.max(turn) + 1) + turn, (rows * width,))  # one for each turn of each row
    each = xp.reshape(zero_where_masked(x, mask), (rows * width,))
    return xp.reshape(group_sum(each, label), (rows, width))


def turn_mean(x: Array, d: Decisions) -> Array:
    """Mean of `x` over the unmasked decisions of a turn, given to each of its positions: [B, T] -> [B, T]."""
    xp = namespace(x)
    return turn_sum(x, d) / atleast(turn_sum(xp.ones_like(x), d), 1)


def turn_starts(d: Decisions) -> Array:
    """1 at the first unmasked decision of each turn, else 0: [B, T]."""
    mask = d.weights()
    xp = namespace(mask)
    number = xp.astype(xp.cumulative_sum(mask, axis=1), d.turn.dtype)  # whole numbers: their sums are exact
    length = turn_sum(xp.ones_like(number), d)
    # The numbers of a turn follow one another, so the first one is known from their sum.
    doubled = 2 * turn_sum(number, d) - length * (length - 1)
    return xp.astype(doubled == 2 * number * length, mask.dtype) * mask
