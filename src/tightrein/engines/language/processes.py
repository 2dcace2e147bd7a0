"""Several processes that train one model together, as `accelerate launch` or `torchrun` starts them.

Each holds the whole batch and does the same with it. What is costly (sampling, scoring, the passes of a model) each
does for its share of the rows, and tells the others. So the numbers are those of a single process, up to rounding,
whatever a method makes of a batch. With a single process, nothing here does anything.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from tightrein.errors import require

T = TypeVar("T")
FAULTS = (ValueError, RuntimeError, MemoryError)  # what may go wrong in one process and is then raised in all


def join() -> None:
    """Joins the others, where a launcher has started several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        require("accelerate", "language").PartialState(cpu=not torch.cuda.is_available())


def count() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which one this is, from 0; the first writes the run folder."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(rows: int) -> list[int]:
    """Where the share of each process begins among so many rows, and where the last one ends."""
    return [rows * process // count() for process in range(count() + 1)]


def own(shares: Sequence[int]) -> slice:
    """The share of this process: see `share`."""
    return slice(shares[rank()], shares[rank() + 1])


def together(work: Callable[[], T]) -> list[T]:
    """What `work` returns in each process.

    Raises:
        Exception: the error of a process, in all of them: none waits for one that has failed.
    """
    if count() == 1:
        return [work()]
    result: Any = None
    fault: Exception | None = None
    try:
        result = work()
    except FAULTS as error:
        fault = error
    everyone = _exchanged((None if fault is not None else result, fault))
    faults = [error for _, error in everyone if error is not None]
    if faults:
        raise fault if fault is not None else faults[0]
    return [result if process == rank() else said for process, (said, _) in enumerate(everyone)]


def first(work: Callable[[], T]) -> T | None:
    """What `work` returns in the first process, where alone it is done; None in the others, which wait for it."""
    kept: list[T] = []
    together(lambda: kept.append(work()) if rank() == 0 else None)
    return kept[0] if kept else None


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Each process has the gradient of its rows; afterwards all have their sum."""
    if count() == 1:
        return
    every = list(parameters)
    known = [any(each) for each in zip(*together(lambda: [p.grad is not None for p in every]), strict=True)]
    pending = []
    for parameter in (p for p, there in zip(every, known, strict=True) if there):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if sharded(parameter):
            parameter.grad *= count()  # FSDP has left the mean
        else:
            pending.append(dist.all_reduce(parameter.grad, async_op=True))
    for one in pending:
        one.wait()


def sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def divided(model: Any) -> bool:
    """Whether the model is: then all processes have to run it as often as each other."""
    return count() > 1 and any(map(sharded, model.parameters()))


def whole(tensor: Tensor) -> Tensor:
    """All of it: every process has to ask."""
    found: Tensor = tensor.full_tensor() if sharded(tensor) else tensor  # type: ignore[attr-defined]
    return found


def _exchanged(own: Any) -> list[Any]:
    """What each process has to say, its tensors on the device of the reader."""
    room = io.BytesIO()
    torch.save(own, room)
    said: list[Any] = [None] * count()
    dist.all_gather_object(said, room.getvalue())
    here = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    return [torch.load(io.BytesIO(one), map_location=here, weights_only=False) for one in said]
