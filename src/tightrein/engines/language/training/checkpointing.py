"""Everything that a run needs to go on bit for bit, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tightrein.engines.language import processes
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.sharding import as_held, state_of
from tightrein.engines.language.training import state as states
from tightrein.errors import TightreinError

if TYPE_CHECKING:
    from tightrein.engines.language.training.learner import Learner

Arrays = dict[str, Any]


def to_arrays(policy: Policy, optimizer: Any, *, whole: bool) -> Arrays:
    """Parameters and optimizer moments.

    whole: also the parameters that are not trained (with LoRA these are the base model's, which a run that began
    from a folder reads from there again).
    """
    trained = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    state = state_of(policy.model)
    arrays = {f"model.{n}": _numpy(t) for n, t in state.items() if whole or n in trained}
    return {**arrays, **under("optimizer.", optimizer_arrays(optimizer))}


def optimizer_arrays(optimizer: Any) -> Arrays:
    """All that an optimizer keeps of each parameter, by its number and the name of what is kept."""
    kept = optimizer.state_dict()["state"].items()
    return {f"{i}.{name}": _numpy(torch.as_tensor(x)) for i, moments in kept for name, x in moments.items()}


def restore_optimizer(optimizer: Any, arrays: Mapping[str, Any]) -> None:
    """Puts back what `optimizer_arrays` gave."""
    kept: dict[int | str, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, array in arrays.items():
        index, _, field = name.partition(".")
        value = torch.from_numpy(array.copy())
        if index.isdigit():
            kept.setdefault(int(index), {})[field] = as_held(value, parameters[int(index)])
        else:
            kept.setdefault(index, {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": kept})


def learner_arrays(learner: Learner, *, fixed: bool) -> Arrays:
    """The method's state, the critic, and the reference where it moves.

    fixed: also a reference that stays as it is (one that is read from a folder again need not be saved).
    """
    arrays = under("state.", states.to_arrays(learner.state))
    if learner.critic is not None:
        arrays |= under("critic.", learner.critic.arrays())
    if learner.reference is not None and (fixed or learner.moves):
        arrays |= {f"reference.{name}": _numpy(tensor) for name, tensor in state_of(learner.reference).items()}
    return arrays


def restore_learner(arrays: Mapping[str, Any], learner: Learner) -> None:
    """Puts back what `learner_arrays` saved."""
    learner.state = states.from_arrays(learner.state, within(arrays, "state."), learner.device)
    if learner.critic is not None:
        learner.critic.restore(within(arrays, "critic."))
    saved = within(arrays, "reference.")
    if saved:
        load(learner.reference, saved)


def restore(arrays: Mapping[str, Any], policy: Policy, optimizer: Any, schedule: Any, steps: int) -> None:
    """Puts everything that `to_arrays` saved back in place; `steps`: gradient steps made so far.

    Raises:
        TightreinError: the checkpoint is of another model.
    """
    load(policy.model, within(arrays, "model."))
    restore_optimizer(optimizer, within(arrays, "optimizer."))
    schedule.last_epoch = steps
    for group, base, scale in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * scale(steps)


def load(model: Any, arrays: Mapping[str, Any]) -> None:
    """Copies parameters by name into the model; those that are not given stay.

    Raises:
        TightreinError: a name or shape is not the model's.
    """
    held = dict(model.state_dict())
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    state = {name: as_held(value, held.get(name, value)) for name, value in state.items()}
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
    return processes.whole(tensor.detach()).cpu().numpy()
