"""Llama and its kin (Qwen2, Qwen3, Mistral) as lean decoding sees them: the parameters of the Hugging Face model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tightrein.engines.language.sampling.products import Product


class Turns(NamedTuple):
    """By how much the places of N tokens turn pairs of numbers: cosines and sines [N, 1, D].

    The sines of the first half are negative, for a number there loses what its partner in the second half gains.
    """

    cosines: Tensor
    sines: Tensor

    def of(self, x: Tensor) -> Tensor:
        """x [N, heads, D], turned."""
        return torch.addcmul(x * self.cosines, x.roll(x.shape[-1] // 2, -1), self.sines)


class _Norm:
    """Division by the root of the mean square, of the last axis."""

    def __init__(self, module: Any) -> None:
        self._shape, self._epsilon = module.weight.shape, module.variance_epsilon
        self._weight = module.weight.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.rms_norm(x, self._shape, self._weight, self._epsilon)


class LlamaLayer:
    """See lean.Layer."""

    def __init__(self, module: Any, calls: int) -> None:
        attention, hidden = module.self_attn, module.mlp
        self._before, self._between = _Norm(module.input_layernorm), _Norm(module.post_attention_layernorm)
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        self._query, self._key, self._value, self._out = (_product(getattr(attention, n), calls) for n in names)
        self._gate, self._up, self._down = (
            _product(getattr(hidden, n), calls) for n in ("gate_proj", "up_proj", "down_proj")
        )
        self._activation, self._size = hidden.act_fn, attention.head_dim
        self._query_norm, self._key_norm = (
            _Norm(getattr(attention, n)) if hasattr(attention, n) else None for n in ("q_norm", "k_norm")
        )

    def ask(self, x: Tensor, turns: Turns) -> tuple[Tensor, Tensor]:
        """See lean.Layer."""
        x = self._before(x)
        queries, keys, values = (
            made(x).view(x.shape[0], -1, self._size) for made in (self._query, self._key, self._value)
        )
        queries = queries if self._query_norm is None else self._query_norm(queries)
        keys = keys if self._key_norm is None else self._key_norm(keys)
        heads = queries.shape[1]
        turned = turns.of(torch.cat([queries, keys], 1))
        return turned[:, :heads], torch.stack([turned[:, heads:], values], 1)

    def answer(self, x: Tensor, attended: Tensor) -> Tensor:
        """See lean.Layer."""
        x = x + self._out(attended)
        between = self._between(x)
        return x + self._down(self._activation(self._gate(between)) * self._up(between))


class LlamaNetwork:
    """See lean.Network. calls: how many tokens are to come."""

    def __init__(self, model: Any, calls: int) -> None:
        core = model.model
        self.layers = [LlamaLayer(module, calls) for module in core.layers]
        self._words, self._rotary = core.embed_tokens.weight.detach(), core.rotary_emb
        self._last, self._head = _Norm(core.norm), _product(model.lm_head, calls)

    def embed(self, ids: Tensor, places: Tensor) -> tuple[Tensor, Turns]:
        """See lean.Network."""
        x = torch.embedding(self._words, ids)
        cosines, sines = (each[0, :, None] for each in self._rotary(x, places[None]))
        return x, Turns(cosines, _signed(sines))

    def logits(self, x: Tensor) -> Tensor:
        """See lean.Network."""
        return self._head(self._last(x))


def _product(module: Any, calls: int) -> Product:
    return Product(module.weight, module.bias, calls)


def _signed(sines: Tensor) -> Tensor:
    first, second = sines.chunk(2, -1)
    return torch.cat([-first, second], -1)
