"""What is done to a model for a while, and what is found out about it once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch

from tightrein.errors import TightreinError, require


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout; the mode of each of the model's parts is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def recompute(model: Any) -> None:
    """From here on, the states inside the model's layers are computed again for the gradient, and not kept.

    Raises:
        TightreinError: its layers cannot.
    """
    layers = [
        x
        for x in model.modules()
        if isinstance(x, require("transformers.modeling_layers", "language").GradientCheckpointingLayer)
    ]
    if not layers:
        raise TightreinError(
            f"{type(model).__name__} cannot run its layers again", "leave --gradient-checkpointing out"
        )
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)({"use_reentrant": False})
    for layer in layers:
        layer.training = True  # transformers asks for this; the parts of the layer, and so dropout, stay as they are


def with_precision(model: Any, name: str) -> Any:
    """The model, whose passes (see forward.run) have this precision from here on.

    Raises:
        TightreinError: this machine cannot.
    """
    device = next(model.parameters()).device.type
    if name != "float32" and not _supported(device):
        raise TightreinError(f"this machine has no arithmetic in {name}", "leave --precision out")
    model.precision = getattr(torch, name)
    return model


def in_precision(model: Any) -> AbstractContextManager[Any]:
    """In which the model is run as `with_precision` said; products with weights are, sums of many terms never."""
    dtype = getattr(model, "precision", torch.float32)
    device = model.get_output_embeddings().weight.device.type
    return nullcontext() if dtype == torch.float32 else torch.autocast(device, dtype)


def _supported(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def once(find: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """`find`, asked once of each model object, however its weights change."""
    known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    @functools.wraps(find)
    def found(model: Any) -> bool:
        if model not in known:
            known[model] = find(model)
        return known[model]

    return found
