"""Mean 0 and deviation 1 over the decisions of a batch."""

from __future__ import annotations

from ..arrays import Array, at_least_float32, atleast, namespace, spread, zero_where_masked

EPSILON = 1e-8


def standardise(advantage: Array, mask: Array) -> Array:
    """(A - mean) / (std + 1e-8) over mask = 1, with the unbiased deviation; [B, T] -> [B, T].

    A batch with fewer than two decisions, or equal ones, gives zeros.
    """
    xp = namespace(mask)
    advantage = zero_where_masked(spread(at_least_float32(advantage), mask), mask)
    count = xp.sum(mask)
    centred = mask * (advantage - xp.sum(advantage) / atleast(count, 1))
    variance = xp.sum(centred**2) / atleast(count - 1, 1)
    return centred / (xp.sqrt(variance) + EPSILON)
