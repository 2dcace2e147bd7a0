"""Everything that a run needs to go on bit for bit, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tightrein.engines.language.models import Policy
from tightrein.errors import TightreinError

Arrays = dict[str, Any]


def to_arrays(policy: Policy, optimizer: Any, *, whole: bool) -> Arrays:
    """Parameters and optimizer moments.

    whole: also the parameters that are not trained (with LoRA these are the base model's, which a run that began
    from a folder reads from there again).
    """
    trained = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    state = policy.model.state_dict()
    arrays = {f"model.{n}": _numpy(t) for n, t in state.items() if whole or n in trained}
    for index, moments in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{index}.{name}": _numpy(torch.as_tensor(value)) for name, value in moments.items()}
    return arrays


def reference_arrays(reference: Any) -> Arrays:
    """Parameters of a frozen reference model."""
    return {f"reference.{name}": _numpy(tensor) for name, tensor in reference.state_dict().items()}


def restore(arrays: Mapping[str, Any], policy: Policy, optimizer: Any, schedule: Any, steps: int) -> None:
    """Puts everything that `to_arrays` saved back in place; `steps`: gradient steps made so far.

    Raises:
        TightreinError: the checkpoint is of another model.
    """
    load(policy.model, within(arrays, "model."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, array in within(arrays, "optimizer.").items():
        index, _, field = name.partition(".")
        moments.setdefault(int(index), {})[field] = torch.from_numpy(array.copy())
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    schedule.last_epoch = steps
    for group, base, scale in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * scale(steps)


def load(model: Any, arrays: Mapping[str, Any]) -> None:
    """Copies parameters by name into the model; those that are not given stay.

    Raises:
        TightreinError: a name or shape is not the model's.
    """
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    try:
        unexpected = model.load_state_dict(state, strict=False).unexpected_keys
    except RuntimeError:
        unexpected = ["a parameter of another shape"]
    if unexpected:
        raise TightreinError(
            f"the checkpoint holds {unexpected[0]}, which the model does not have",
            "resume with the --model that the run began with, unchanged",
        )


def under(prefix: str, arrays: Mapping[str, Any]) -> Arrays:
    """The arrays with `prefix` before their names; `within` takes it off again."""
    return {prefix + name: array for name, array in arrays.items()}


def within(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()
