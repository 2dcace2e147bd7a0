"""Telling apart things that are named by two whole numbers."""

from __future__ import annotations

from .arrays import Array, namespace, scatter_sum


def pair_labels(one: Array, other: Array) -> Array:
    """A label in [0, N) for each pair of whole numbers, the same where the pairs are the same: [N], [N] -> [N].

    No product of the two is formed, which might not fit an integer.
    """
    xp = namespace(one)
    order = xp.argsort(other, stable=True)
    order = xp.take(order, xp.argsort(xp.take(one, order), stable=True))
    first, second = xp.take(one, order), xp.take(other, order)
    begins = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    rank = xp.cumulative_sum(xp.astype(begins, order.dtype), dtype=order.dtype, include_initial=True)
    return xp.take(rank, xp.argsort(order))


def sum_where_same(x: Array, label: Array) -> Array:
    """The sum of `x` [N] over the entries with the same label in [0, N), given to each of them: [N]."""
    return namespace(x).take(scatter_sum(x, label, x.shape[0]), label)
