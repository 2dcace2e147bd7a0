"""An iteration's experience as the learner sees it: rows of consecutive time steps, most often of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tightrein.engines.control.networks import ActorCritic, Inputs

Array = Any


class Batch(NamedTuple):
    """Decisions [M, W], what the network reads at them and the actions taken [M, W, ...]: W consecutive ones a row."""

    decisions: Any
    inputs: Inputs
    action: Array

    @property
    def rows(self) -> int:
        """M."""
        return int(self.inputs.observation.shape[0])

    def cut(self, width: int) -> Batch:
        """The same decisions in rows of `width`, which divides the width of these."""
        rows: Batch = jax.tree.map(lambda x: x.reshape(-1, width, *x.shape[2:]), self)
        return rows

    def every(self, n: int) -> Batch:
        """Every n-th row."""
        taken: Batch = jax.tree.map(lambda x: x[::n], self)
        return taken

    def split(self, count: int, order: Array | None = None) -> Batch:
        """`count` batches of the same size along a new leading axis, after putting the rows in `order` [M]."""
        # One gather for all pieces: they then are slices that lie together.
        ordered = self if order is None else jax.tree.map(lambda x: x[order], self)
        parts: Batch = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), ordered)
        return parts

    def pieces(self, size: int) -> int:
        """Into how many pieces of at most `size` rows the batch is to be split."""
        return pieces(self.rows, size)


def evaluate(network: ActorCritic, batch: Batch) -> Any:
    """The decisions with what the network says now."""
    dist, value, more = network.unrolled(batch.inputs)
    return batch.decisions.replace(
        logp=dist.log_prob(batch.action), dist=dist, entropy=dist.entropy(), value=value, **more
    )


def zeros(shapes: Any) -> Any:
    """Zeros of the shapes that `jax.eval_shape` found."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)


def if_logged(log: Array, figures: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """What `figures` gives, computed only where it is to be logged; zeros otherwise."""
    found: dict[str, Array] = jax.lax.cond(log, figures, lambda: zeros(jax.eval_shape(figures)))
    return found


def pieces(rows: int, size: int) -> int:
    """The fewest equal pieces of at most `size` rows."""
    return next(n for n in range(max(1, -(-rows // size)), rows + 1) if rows % n == 0)


def orders(key: Array, passes: int, rows: int) -> Array:
    """A random order of the rows for each pass: [passes, rows]."""
    width = max(1, (rows - 1).bit_length())
    bits = jax.random.bits(key, (passes, rows))
    if width > 16:
        return jnp.argsort(bits, axis=-1)
    # Random bits above the row's number: one array of integers is what XLA sorts several times as fast as an argsort.
    # At least 16 bits are random, and where they are equal two rows merely keep their order.
    low = (1 << width) - 1
    packed = jax.lax.bitcast_convert_type(bits, jnp.int32) & ~low | jnp.arange(rows, dtype=jnp.int32)
    return jnp.sort(packed, axis=-1, stable=False) & low
