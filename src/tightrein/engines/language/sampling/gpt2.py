"""GPT-2 as lean decoding sees it: the parameters of the Hugging Face model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tightrein.engines.language.sampling.products import Product


class _Norm:
    """Mean 0 and variance 1 along the last axis, then a scale and a shift."""

    def __init__(self, module: Any) -> None:
        self._shape, self._epsilon = module.weight.shape, module.eps
        self._weight, self._bias = module.weight.detach(), module.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self._shape, self._weight, self._bias, self._epsilon)


class GPT2Layer:
    """See lean.Layer."""

    def __init__(self, module: Any, calls: int) -> None:
        attention, hidden = module.attn, module.mlp
        self._before, self._between = _Norm(module.ln_1), _Norm(module.ln_2)
        self._all, self._out = _product(attention.c_attn, calls), _product(attention.c_proj, calls)
        self._up, self._down = _product(hidden.c_fc, calls), _product(hidden.c_proj, calls)
        self._activation, self._heads = hidden.act, attention.num_heads

    def ask(self, x: Tensor, turns: None) -> tuple[Tensor, Tensor]:
        """See lean.Layer."""
        found = self._all(self._before(x)).view(x.shape[0], 3, self._heads, -1)
        return found[:, 0], found[:, 1:]

    def answer(self, x: Tensor, attended: Tensor) -> Tensor:
        """See lean.Layer."""
        x = x + self._out(attended)
        return x + self._down(self._activation(self._up(self._between(x))))


class GPT2Network:
    """See lean.Network. calls: how many tokens are to come."""

    def __init__(self, model: Any, calls: int) -> None:
        core = model.transformer
        self.layers = [GPT2Layer(module, calls) for module in core.h]
        self._words, self._places = core.wte.weight.detach(), core.wpe.weight.detach()
        self._last, self._head = _Norm(core.ln_f), Product(model.lm_head.weight, model.lm_head.bias, calls)

    def embed(self, ids: Tensor, places: Tensor) -> tuple[Tensor, None]:
        """See lean.Network."""
        return torch.embedding(self._words, ids) + torch.embedding(self._places, places), None

    def logits(self, x: Tensor) -> Tensor:
        """See lean.Network."""
        return self._head(self._last(x))


def _product(module: Any, calls: int) -> Product:
    return Product(module.weight.T, module.bias, calls)  # GPT-2 holds its weights the other way round
