"""Routing replay: which experts of a mixture of experts a token goes to, written down and told again.

A small change of the weights, or of the arithmetic, can send a token to other experts, and its probability jumps.
With the experts fixed only the weights of the gate change. Sources: arXiv 2512.01374 (R2, R3), arXiv 2510.11370.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tightrein.errors import TightreinError

Hook = Callable[[Any, Any, Any], Any]


def routers(model: Any) -> list[Any]:
    """The modules that choose experts, from the first layer to the last.

    Raises:
        TightreinError: the model has none.
    """
    found = [module for module in model.modules() if type(module).__name__.endswith("TopKRouter")]
    if not found:
        raise TightreinError(
            f"{type(model).__name__} is no mixture of experts whose routing could be replayed",
            "leave --routing out, or train a model such as Mixtral or Qwen3-MoE",
        )
    return found


@contextmanager
def recorded(model: Any) -> Iterator[list[Tensor]]:
    """A list that receives, for each forward pass and layer, the experts of each token: [N, k]."""
    seen: list[Tensor] = []

    def note(router: Any, inputs: Any, output: Any) -> None:
        _check(router, output)
        seen.append(output[2].to(torch.int16))

    with _hooked(dict.fromkeys(routers(model), note)):
        yield seen


@contextmanager
def replayed(model: Any, experts: Tensor) -> Iterator[None]:
    """Every forward pass sends token t of row b to experts[b, t]: [B, L, layers, k]; with no layers it is free."""
    if not experts.shape[2]:
        yield
        return

    def teller(layer: int) -> Hook:
        told = experts[:, :, layer].flatten(0, 1).long()
        return lambda router, inputs, output: (output[0], _gate(router, output, told), told)

    with _hooked({router: teller(layer) for layer, router in enumerate(routers(model))}):
        yield


def stacked(seen: list[Tensor], rows: int) -> Tensor:
    """What one forward pass on [rows, L] tokens left in `recorded`: [rows, L, layers, k]."""
    return torch.stack([layer.reshape(rows, -1, layer.shape[-1]) for layer in seen], 2)


def _gate(router: Any, output: Any, experts: Tensor) -> Tensor:
    """The weights of these experts, as the router would weigh them: [N, k]."""
    weights: Tensor = output[0].float().softmax(-1).gather(-1, experts)
    if getattr(router, "norm_topk_prob", True):
        weights = weights / weights.sum(-1, keepdim=True)
    return weights.to(output[1].dtype)


def _check(router: Any, output: Any) -> None:
    """Raise TightreinError where the router does not weigh by a softmax over its logits, as is assumed here."""
    known = isinstance(output, tuple) and len(output) == 3 and not output[2].is_floating_point()
    if not known or float((_gate(router, output, output[2]) - output[1]).abs().max()) > 1e-2:
        raise TightreinError(
            f"{type(router).__name__} does not weigh experts by a softmax, and its routing cannot be replayed",
            "leave --routing out",
        )


@contextmanager
def _hooked(hooks: dict[Any, Hook]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
