"""Log-probabilities of completions under a model, in the one place that knows how they are computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tightrein.engines.language.sampling import positions_of


def logprobs(
    model: Any, ids: Tensor, attention: Tensor, span: int, temperature: float = 1.0, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """(log-probability, entropy in nats), each [B, T], of the last `span` = T tokens of `ids` [B, L].

    attention: [B, L]. Both are of the distribution softmax(logits / temperature), in float32. The entropy carries a
    gradient only if asked for, as keeping what its backward needs costs memory.
    """
    output = model(
        input_ids=ids,
        attention_mask=attention,
        position_ids=positions_of(attention),
        use_cache=False,
        logits_to_keep=span + 1,
    )
    everything = torch.log_softmax(output.logits[:, :-1].float() / temperature, -1)
    chosen = everything.gather(2, ids[:, -span:, None])[..., 0]
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(everything.exp() * everything).sum(-1)
    return chosen, entropy
