"""The last step of a forward pass: the states that the output layer reads, and what it says of tokens.

Its logits are not computed wherever it is known how they follow from the states; see `vocabulary`. Where a model makes
them otherwise, its own are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tightrein.engines.language.models.modes import evaluating, once
from tightrein.engines.language.passes.vocabulary import OutputLayer, Read, likeliest, read

PROBE = (1, 2)  # tokens with which it is tried whether a model's logits follow from its states as its layer says


class Outputs(Protocol):
    """What a model says after N prefixes."""

    def read(self, index: Tensor, sharpness: Sequence[float]) -> Read:
        """See `vocabulary.read`."""
        ...

    def likeliest(self, count: int) -> tuple[Tensor, Tensor]:
        """See `vocabulary.likeliest`."""
        ...


@dataclass(frozen=True)
class Lean:
    """From the states [N, H] and the layer."""

    states: Tensor
    layer: OutputLayer

    def read(self, index: Tensor, sharpness: Sequence[float]) -> Read:
        """See Outputs."""
        return read(self.states, self.layer, index, tuple(sharpness))

    def likeliest(self, count: int) -> tuple[Tensor, Tensor]:
        """See Outputs."""
        return likeliest(self.states, self.layer, count)


@dataclass(frozen=True)
class Stored:
    """From logits [N, V] in float32 at least: the plain way."""

    all: Tensor

    def read(self, index: Tensor, sharpness: Sequence[float]) -> Read:
        """See Outputs."""
        normaliser = torch.stack([(self.all * beta).logsumexp(-1) for beta in sharpness], -1)
        logp = self.all * sharpness[0] - normaliser[:, :1]
        return Read(sharpness[0] * self.all.gather(-1, index), normaliser, -(logp.exp() * logp).sum(-1))

    def likeliest(self, count: int) -> tuple[Tensor, Tensor]:
        """See Outputs."""
        found = self.all.topk(min(count, self.all.shape[-1]), -1)
        return found.values, found.indices


def layer_of(model: Any) -> OutputLayer | None:
    """How the logits of this model follow from its states; None: in a way of its own."""
    layer = _described(model)
    return layer if layer is not None and _agrees(model) else None


def _described(model: Any) -> OutputLayer | None:
    layer, config = model.get_output_embeddings(), model.config.get_text_config()
    if not isinstance(layer, torch.nn.Linear):
        return None
    scale = float(getattr(config, "logit_scale", None) or 1) / float(getattr(config, "logits_scaling", None) or 1)
    return OutputLayer(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))


@once
@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether the model's own logits are those of the layer that `_described` found, up to rounding."""
    head, states = model.get_output_embeddings(), list[Tensor]()
    ids = torch.tensor([PROBE], device=head.weight.device) % len(head.weight)
    with evaluating(model), before(head, lambda _, given: states.append(given[0])):
        theirs = model(input_ids=ids, use_cache=False).logits
    layer = _described(model)  # only now: where the model is divided among processes, it is whole after it has run
    assert layer is not None
    ours, rounding = layer.logits(states[-1]), 1e-3 if theirs.dtype == torch.float32 else 3e-2
    return bool(torch.allclose(ours, theirs.to(ours.dtype), rtol=rounding, atol=rounding))


@contextmanager
def before(layer: Any, hook: Any) -> Iterator[None]:
    """Calls `hook` with a layer and its inputs before it runs; what the hook returns, if anything, are its inputs."""
    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
