"""One forward pass of a model over answers: laid out as suits the model, and read at the decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrein.engines.language.models.modes import evaluating, in_precision, once
from tightrein.engines.language.passes.layout import GAIN, Layout, Trees, packed, rectangular
from tightrein.engines.language.passes.outputs import Lean, Outputs, Stored, before, layer_of

MASKED = {"sdpa", "eager"}  # transformers' kinds of attention that take a mask of pairs
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Pass:
    """What a model made of N decisions.

    outputs: what it says at each. before: [N, H] states that this is read from. behind: [N, H] states of the decisions'
    own tokens, where the layout has them.
    """

    outputs: Outputs
    before: Tensor
    behind: Tensor | None


def run(model: Any, layout: Layout, ids: Tensor) -> Pass:
    """The model on ids [B, W], as they are laid out."""
    lean, seen = layer_of(model) is not None, []

    def taken(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        seen.append(given[0][:, -layout.keep :])
        return (given[0][:, :0],) if lean else None  # of no token: the model goes on, and computes nothing

    with before(model.get_output_embeddings(), taken), in_precision(model):
        logits = model(
            input_ids=layout.taken(ids),
            attention_mask=_told(model, layout.attention),
            position_ids=layout.position,
            use_cache=False,
            logits_to_keep=layout.keep,
        ).logits
    states = seen[-1].flatten(0, 1)
    here = states[layout.before]
    exact = torch.promote_types(logits.dtype, torch.float32)
    layer = layer_of(model)  # as it is now: a model that is divided among processes is put together by running
    outputs = Stored(logits.flatten(0, 1)[layout.before].to(exact)) if layer is None else Lean(here, layer)
    return Pass(outputs, here, None if layout.behind is None else states[layout.behind])


def _told(model: Any, attention: Tensor) -> Tensor:
    """The mask as this model's kind of attention wants it."""
    if attention.ndim == 2 or model.config._attn_implementation != "eager":
        return attention
    dtype = model.get_output_embeddings().weight.dtype
    return torch.zeros_like(attention, dtype=dtype).masked_fill(~attention, torch.finfo(dtype).min)


def lay_out(model: Any, ids: Tensor, attention: Tensor, span: int, *, tails: bool = False) -> Layout:
    """Packed where that saves enough and the model can, else row beside row.

    ids, attention: [B, W], of which the last `span` columns are the decisions. tails: the states of the decisions' own
    tokens are wanted, too.
    """
    plain = rectangular(attention, span)
    trees = trees_of(model, ids, attention, span, tails=tails)
    if trees is None:
        return plain
    layout = packed(attention, span, trees)
    return layout if layout.source.numel() <= GAIN * ids.numel() else plain


def trees_of(model: Any, ids: Tensor, attention: Tensor, span: int, *, tails: bool = False) -> Trees | None:
    """The trees that the rows can be packed as; None where this model can see no such."""
    return Trees.of(ids, attention, span, tails=tails) if packs(model, ids.shape[1]) else None


def packs(model: Any, width: int) -> bool:
    """Whether rows of `width` tokens may be packed for this model: it heeds a mask of pairs, and no other beside it."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < width:
        return False
    return model.config._attn_implementation in MASKED and _heeds(model)


@once
@torch.no_grad()
def _heeds(model: Any) -> bool:
    """Whether answers packed behind their prompt have the states that they have in rows of their own."""
    size = model.get_output_embeddings().weight.shape[0]
    device = model.get_output_embeddings().weight.device
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 6, 7, 8]], device=device) % size
    attention = torch.ones_like(ids)
    with evaluating(model):
        alone = run(model, rectangular(attention, 3), ids).before
        try:
            together = run(model, packed(attention, 3, Trees.of(ids, attention, 3)), ids).before
        except (RuntimeError, ValueError, TypeError, IndexError):  # a model that takes no such mask says so in its way
            return False
    rounding = TOLERANCE if alone.dtype == torch.float32 else 30 * TOLERANCE
    return bool(torch.allclose(alone, together, rtol=rounding, atol=rounding * float(alone.abs().max())))
