"""The cores of a CPU: what XLA is told about them before it begins, and rows shared out over them.

A program of many small operations gains nothing from several threads: they hand operations to each other, and every
handover costs more than the operation. So one row has one device with one thread, and several rows have a device for
each core, which takes an equal share of them; they have nothing to tell each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

THREADS = "PJRT_NPROC"  # XLA's own variable, read when JAX makes its first array


def prepare(images: bool, several: bool) -> None:
    """Set devices and threads, before JAX is used: afterwards this changes nothing.

    images: threads pay off there. several: there are rows to share out (XLA has as many threads as devices at least).
    """
    with contextlib.suppress(RuntimeError):  # whoever has used JAX before keeps the devices that it then made
        cores = len(os.sched_getaffinity(0)) if several else 1
        jax.config.update("jax_num_cpu_devices", cores)  # type: ignore[no-untyped-call]
    if not images:
        os.environ.setdefault(THREADS, "1")


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
