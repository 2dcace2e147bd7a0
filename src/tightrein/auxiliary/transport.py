"""Partial optimal transport with an entropic penalty: Dykstra's projections, in logarithms."""

from __future__ import annotations

from ..arrays import Array, atleast, atmost, namespace, repeated

_NOTHING = -1e4  # the logarithm of what does not count; finite, so that differences of it are


def partial_transport(cost: Array, rows: Array, columns: Array, regularisation: float, rounds: int) -> Array:
    """The plan that moves as much as there is room for, no more than 1 from a row or to a column: [..., R, C].

    cost: [..., R, C]; rows [..., R] and columns [..., C] are 1 where there is something, else 0. The plan minimises
    sum(plan cost) - regularisation * entropy; it is 0 where nothing is. J.-D. Benamou et al., arXiv 1412.5154,
    proposition 5, as POT's entropic_partial_wasserstein has it.
    """
    xp = namespace(cost)
    there = rows[..., :, None] * columns[..., None, :]
    room = xp.minimum(xp.sum(rows, axis=-1), xp.sum(columns, axis=-1))[..., None, None]
    mass = xp.log(atleast(room, 1e-6))

    def total(x: Array, axis: int | tuple[int, int]) -> Array:
        top = xp.max(x, axis=axis, keepdims=True)
        return top + xp.log(xp.sum(xp.exp(x - top), axis=axis, keepdims=True))

    def whole(x: Array) -> Array:
        return x + mass - total(x, (-2, -1))

    def limited(x: Array, axis: int) -> Array:
        return x - atleast(total(x, axis), 0)

    def project(state: tuple[Array, ...]) -> tuple[Array, ...]:
        plan, by_row, by_column, by_mass = state
        first = limited(plan + by_row, -1)
        second = limited(first + by_column, -2)
        third = whole(second + by_mass)
        return third, by_row + plan - first, by_column + first - second, by_mass + second - third

    start = whole(xp.where(there > 0, -cost / regularisation, _NOTHING))
    none = xp.zeros_like(cost)
    plan = repeated(project, (start, none, none, none), rounds)[0]
    return there * xp.exp(atmost(plan, 1.0))
