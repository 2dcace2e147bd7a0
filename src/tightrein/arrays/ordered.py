"""What an array makes of another beyond elementwise formulas: recurrences, sums over groups, the largest few."""

from __future__ import annotations

import functools
import sys

import numpy as np

from .autodiff import stop_gradient
from .elementwise import clip
from .library import Array, is_jax, is_torch, like, namespace

_FEW = 8


def at_rank(x: Array, place: Array) -> Array:
    """The values that would stand at `place` [K] (0, 1, ...) if `x` [n] were in ascending order: [K], no gradient.

    Places outside of x are those of its ends. Single or double precision.
    """
    if is_jax(x):
        return _bisected(stop_gradient(x), place)
    xp = namespace(x)
    place = clip(xp.astype(place, xp.int64), 0, x.shape[0] - 1)
    if is_torch(x) and (x.device.type != "cpu" or sys.modules["torch"].compiler.is_compiling()):
        return xp.take(xp.sort(stop_gradient(x)), place)
    flat = np.asarray(stop_gradient(x))  # NumPy partitions ten times as fast as PyTorch finds one value
    return like([np.partition(flat, k)[k] for k in place.tolist()], x)


def _bisected(x: Array, place: Array) -> Array:
    """By halving the interval between the smallest and the largest float there is, as XLA is slow to sort."""
    import jax

    xp, kind = namespace(x), namespace(x).int32 if x.dtype.itemsize == 4 else namespace(x).int64
    top = xp.iinfo(kind).max

    def flipped(bits: Array) -> Array:
        return xp.where(bits < 0, bits ^ top, bits)  # integers in the order of the floats, and back

    key = flipped(jax.lax.bitcast_convert_type(x, kind))
    wanted = clip(xp.astype(place, xp.int32), 0, x.shape[0] - 1)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)
        reached = xp.stack([xp.sum(key <= m) for m in middle]) > wanted
        return xp.where(reached, low, middle + 1), xp.where(reached, middle, high)

    start = xp.full(place.shape, -top - 1, dtype=kind), xp.full(place.shape, top, dtype=kind)
    found = jax.lax.fori_loop(0, 8 * x.dtype.itemsize, halve, start)[1]
    return jax.lax.bitcast_convert_type(flipped(found), x.dtype)


def largest(x: Array, count: int) -> Array:
    """The `count` largest values of `x`, descending: [count]."""
    xp = namespace(x)
    flat = xp.reshape(x, (-1,))
    if is_torch(x):
        return flat.topk(count).values
    if is_jax(x):
        import jax

        return jax.lax.top_k(flat, count)[0]
    return np.sort(np.partition(flat, -count)[-count:])[::-1]


def linear_recurrence(x: Array, decay: Array, last: Array | None = None, forwards: bool = False) -> Array:
    """Solve y_t = x_t + decay_t * y_{t+1} along the trailing axis, or y_t = x_t + decay_t * y_{t-1} `forwards`.

    x, decay: [B, T]; last: [B], the value y_T behind the end (0 when None), or y_{-1}. Returns y: [B, T].
    """
    xp = namespace(x)
    if is_torch(x):
        from .in_torch import recurrence

        if last is not None:
            begin = xp.astype(xp.arange(x.shape[1]) == (0 if forwards else x.shape[1] - 1), x.dtype)
            x = x + begin * decay * last[:, None]
        return recurrence(x, decay, forwards)
    y = xp.zeros_like(x[:, 0]) if last is None else last
    if is_jax(x):
        import jax

        def step(carry: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            out = pair[0] + pair[1] * carry
            return out, out

        return jax.lax.scan(step, y, (x.T, decay.T), reverse=not forwards)[1].T
    columns = []
    for t in range(x.shape[1])[:: 1 if forwards else -1]:
        y = x[:, t] + decay[:, t] * y
        columns.append(y)
    return np.stack(columns[:: 1 if forwards else -1], axis=1) if columns else x


def columns(x: Array) -> list[Array]:
    """The entries along the trailing axis, each an array of its own: [...]."""
    if is_torch(x) and x.requires_grad:
        return list(x.movedim(-1, 0).contiguous())  # the gradient then goes back in one copy
    return [x[..., i] for i in range(x.shape[-1])]


def log_softmax(x: Array) -> Array:
    """Logarithm of the softmax along the trailing axis: [..., A]. Its libraries are slow where A is small."""
    few = x.shape[-1] <= _FEW
    if is_torch(x):
        return x.movedim(-1, 0).contiguous().log_softmax(0).movedim(0, -1) if few else x.log_softmax(-1)
    xp = namespace(x)
    if is_jax(x):
        import jax

        if not few:
            return jax.nn.log_softmax(x, axis=-1)
        each = columns(x)
        top = stop_gradient(functools.reduce(xp.maximum, each))
        total = top + xp.log(sum(xp.exp(column - top) for column in each))
        return xp.stack([column - total for column in each], axis=-1)
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def group_sum(x: Array, group: Array) -> Array:
    """Sum `x` over the rows that carry the same group id, and give each row its group's sum.

    x: [B]; group: [B] integers, in any order. Shapes are static, so this runs under jax.jit.
    """
    xp = namespace(x)
    first = xp.searchsorted(xp.sort(group), group)  # one slot in [0, B) per group
    return scatter_sum(x, first, x.shape[0])[first]


def scatter_sum(x: Array, index: Array, size: int) -> Array:
    """Sum the entries of `x` [B, ...] that carry the same index in [0, size): [size, ...]."""
    shape = (size, *x.shape[1:])
    if is_torch(x):
        return x.new_zeros(shape).index_add(0, index, x)
    if is_jax(x):
        return namespace(x).zeros(shape, dtype=x.dtype).at[index].add(x)
    total = np.zeros(shape, dtype=x.dtype)
    np.add.at(total, index, x)
    return total
