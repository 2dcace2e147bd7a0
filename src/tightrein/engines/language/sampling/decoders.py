"""Who says what comes after the tokens so far: the lean way wherever it agrees with the model, else its own code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tightrein.engines.language.models.modes import once
from tightrein.engines.language.sampling.gpt2 import GPT2Network
from tightrein.engines.language.sampling.lean import Lean, Network
from tightrein.engines.language.sampling.llama import LlamaNetwork
from tightrein.engines.language.sampling.samples import positions_of

LEAN: dict[str, Callable[[Any, int], Network]] = {
    "LlamaForCausalLM": LlamaNetwork,
    "Qwen2ForCausalLM": LlamaNetwork,
    "Qwen3ForCausalLM": LlamaNetwork,
    "MistralForCausalLM": LlamaNetwork,
    "GPT2LMHeadModel": GPT2Network,
}
HOMES = {"torch", "transformers"}
PLAIN = {"Linear", "Conv1D", "Embedding"}  # modules whose parameters tell all that they do; and norms
PROBE = (((1, 2, 3), (0, 0, 4)), ((1, 1, 1), (0, 0, 1)), ((5, 6), (7, 8)))  # prompts, their mask, what comes then


class Decoder(Protocol):
    """The running rows of a model. logits: [B, V] behind the prompts."""

    logits: Tensor

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [B, V] behind the next token of each row: [B]."""
        raise NotImplementedError

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only."""
        raise NotImplementedError


def decoder(model: Any, ids: Tensor, mask: Tensor, copies: int, most: int, *, own: bool = False) -> Decoder:
    """The decoder of `copies` rows for each prompt, ids and mask [P, S], for `most` tokens. own: by the model's code.

    The model is in evaluation mode. No gradient.
    """
    if not own and _fits(model, ids.shape[1] + most) and _agrees(model):
        return Lean(LEAN[type(model).__name__](model, most), ids, mask, copies, most)
    return Own(model, ids, mask, copies, most)


class Own:
    """The model's own code and cache; see `decoder`."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, copies: int, most: int) -> None:
        self._model, self._width = model, ids.shape[1]
        self._attention: Tensor | None = None  # without padding the model needs no mask, and is faster
        if not bool(mask.all()):
            self._attention = functional.pad(mask, (0, most), value=1).repeat_interleave(copies, 0)
        output = model(
            input_ids=ids, attention_mask=None if self._attention is None else mask, use_cache=True, logits_to_keep=1,
            position_ids=positions_of(mask),
        )  # fmt: skip
        self._cache, self.logits = output.past_key_values, output.logits[:, -1]
        if copies > 1:
            self._cache.batch_repeat_interleave(copies)
            self.logits = self.logits.repeat_interleave(copies, 0)
        self._places = mask.sum(1).repeat_interleave(copies)

    def step(self, tokens: Tensor) -> Tensor:
        """See Decoder."""
        self._width += 1
        logits: Tensor = self._model(
            input_ids=tokens[:, None], position_ids=self._places[:, None], past_key_values=self._cache, use_cache=True,
            attention_mask=None if self._attention is None else self._attention[:, : self._width],
        ).logits[:, -1]  # fmt: skip
        self._places = self._places + 1
        return logits

    def keep(self, rows: Tensor) -> None:
        """See Decoder."""
        self._cache.batch_select_indices(rows)
        self._places = self._places[rows]
        self._attention = None if self._attention is None else self._attention[rows]


def _fits(model: Any, longest: int) -> bool:
    """Whether the lean way may know this model, and rows of so many tokens: nothing is put in, around or on top."""
    window = getattr(model.config, "sliding_window", None)
    return (
        type(model).__name__ in LEAN
        and (window is None or longest <= window)
        and len({parameter.device for parameter in model.parameters()}) == 1
        and all(_untouched(module) for module in model.modules())
    )


def _untouched(module: Any) -> bool:
    """Whether a module does what its class says, that class is nobody else's, and with parameters a plain one."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    name, home = type(module).__name__, type(module).__module__.partition(".")[0]
    return home in HOMES and (not module._parameters or name in PLAIN or name.endswith("Norm"))


@once
@torch.no_grad()
def _agrees(model: Any) -> bool:
    """Whether the lean way says what the model says, up to rounding."""
    device, vocabulary = next(model.parameters()).device, model.config.vocab_size
    ids, mask, then = (torch.tensor(each, device=device) for each in PROBE)
    ids, then = ids % vocabulary, then % vocabulary
    ours, theirs = (
        [made.logits, *(made.step(token) for token in then.T)]
        for made in (Lean(LEAN[type(model).__name__](model, 0), ids, mask, 1, 2), Own(model, ids, mask, 1, 2))
    )
    rounding = 1e-4 if model.dtype == torch.float32 else 0.1
    mine, own = torch.stack(ours).float(), torch.stack(theirs).float()
    return bool((mine - own).abs().max() <= rounding * own.abs().max().clamp(min=1))
