"""Rows over the cores of a CPU.

XLA runs a program of many small operations on one core, however many rows each of them has. So the cores are made
devices of their own, and each takes an equal share of the rows; they have nothing to tell each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

with contextlib.suppress(RuntimeError):  # whoever has used JAX before this keeps the devices that it then made
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))  # type: ignore[no-untyped-call]


class Shares:
    """How `rows` are shared out: over as many devices as divide them."""

    def __init__(self, rows: int) -> None:
        devices = jax.local_devices()
        count = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
        self._mesh = Mesh(np.asarray(devices[:count]), ("rows",))

    def over(self, function: Callable[..., Any], axes: Sequence[int | None]) -> Callable[..., Any]:
        """`function` of all rows as one that each device runs on its share.

        axes: of each argument the axis of its rows, None where it is the same for all. Results have theirs in front.
        """
        if self._mesh.size == 1:
            return function
        specs = tuple(_at(axis) for axis in axes)
        return jax.shard_map(function, mesh=self._mesh, in_specs=specs, out_specs=_at(0), check_vma=False)

    def placed(self, tree: Any) -> Any:
        """Arrays with their rows in front, each share where it will be used."""
        return tree if self._mesh.size == 1 else jax.device_put(tree, NamedSharding(self._mesh, _at(0)))


def _at(axis: int | None) -> PartitionSpec:
    if axis is None:
        return PartitionSpec()  # type: ignore[no-untyped-call]
    return PartitionSpec(*[None] * axis, "rows")  # type: ignore[no-untyped-call]
