"""What a method keeps between updates (numbers, arrays, dicts of them), as tensors and in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from tightrein.errors import TightreinError

BETWEEN = "|"  # in the name of an array, between the keys on the way to it


def start(method: Any, prompts: int, device: torch.device) -> dict[str, Any]:
    """The state that training begins with; numbers stay numbers."""

    def placed(x: Any) -> Any:
        return x if isinstance(x, (int, float)) else torch.as_tensor(x, device=device)

    return {path: _each(kept, placed) for path, kept in method.init(prompts=prompts).items()}


def to_arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    """All its leaves by name, as NumPy arrays."""
    return {name: np.asarray(x.detach().cpu() if torch.is_tensor(x) else x) for name, x in _leaves(state)}


def from_arrays(like: Mapping[str, Any], arrays: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The state that `to_arrays` saved, in the form of `like`.

    Raises:
        TightreinError: it was kept for another number of prompts, or by another method.
    """
    for name, leaf in _leaves(like):
        wanted, found = tuple(np.shape(leaf)), arrays[name].shape if name in arrays else "missing"
        if found != wanted:
            raise TightreinError(
                f"the checkpoint's state does not fit: {name} is {found}, not {wanted}",
                "resume with the method, the data and the number of prompts that the run began with",
            )
    return {path: _restored(kept, arrays, path, device) for path, kept in like.items()}


def _restored(like: Any, arrays: Mapping[str, Any], name: str, device: torch.device) -> Any:
    if isinstance(like, Mapping):
        return {key: _restored(inner, arrays, name + BETWEEN + key, device) for key, inner in like.items()}
    array = arrays[name]
    if not array.ndim and array.dtype in (np.float64, np.int64):  # a Python number
        return array.item()
    return torch.from_numpy(array.copy()).to(device)


def _each(tree: Any, change: Callable[[Any], Any]) -> Any:
    return {key: _each(inner, change) for key, inner in tree.items()} if isinstance(tree, Mapping) else change(tree)


def _leaves(tree: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        return [(name, tree)]
    return [leaf for key, inner in tree.items() for leaf in _leaves(inner, _name(name, key))]


def _name(parent: str, key: str) -> str:
    return f"{parent}{BETWEEN}{key}" if parent else key
