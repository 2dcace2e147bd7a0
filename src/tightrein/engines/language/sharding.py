"""A model of which every process holds a part: its parameters, gradients and moments (PyTorch's FSDP2).

A layer is put together while it runs. To sample, all of the model is, for as long as that takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from tightrein.engines.language import processes
from tightrein.engines.language.config import LanguageConfig
from tightrein.errors import TightreinError


def check_sharding(config: LanguageConfig, method: Any) -> None:
    """Raise TightreinError, before training, if the model cannot be divided."""
    if not config.shard:
        return
    if processes.count() == 1:
        raise TightreinError(
            "--shard divides the model among processes, and there is one",
            "start several (torchrun --nproc_per_node 2 -m tightrein ...), or leave it out (resuming: --no-shard)",
        )
    if method.step.per_matrix:
        raise TightreinError(
            f"{type(method.step).__name__} needs each matrix in one place, and --shard divides them",
            "leave --shard out",
        )
    if config.sampler_dtype != "float32" or config.lag:
        raise TightreinError(
            "the sampler's own copy of the weights would be a whole one",
            "leave --shard, or --sampler-dtype and --lag out",
        )
    if config.lora_rank:
        raise TightreinError("adapters cannot be merged into a divided model", "leave --shard or --lora-rank out")
    if config.embedded:
        raise TightreinError("the embedded model is too small to be divided", "leave --shard out")


def shard(model: Any) -> None:
    """Divides the model, in place: each of its repeated layers by itself, and the rest."""
    from torch.distributed.fsdp import fully_shard

    repeated = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in repeated:
            fully_shard(module)
    fully_shard(model)


@contextmanager
def undivided(model: Any) -> Iterator[None]:
    """All of the model in each process. All processes have to come here."""
    parts = [module for module in model.modules() if hasattr(module, "unshard")]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def state_of(model: Any) -> dict[str, Tensor]:
    """The whole state of the model, by name. All processes have to ask."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    return {name: processes.whole(tensor) for name, tensor in model.state_dict().items()}


def as_held(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of what belongs to a parameter: all of it, where that is not divided."""
    if not processes.sharded(parameter) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    held: Any = parameter
    found: Tensor = distribute_tensor(value.to(parameter.device), held.device_mesh, held.placements)
    return found
