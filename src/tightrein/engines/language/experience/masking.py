"""Prompts of which a part is hidden: the same answers, to a question that can no longer be read in full."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.sampling.sampler import Samples
from tightrein.errors import TightreinError


@dataclass(frozen=True)
class Masking:
    """`share` of the prompts' tokens are replaced by the blank one, tokens that only mark up the prompt excepted.

    through: whether the gradient flows through what the present policy makes of such prompts; otherwise the old
    policy looks at them once, before the first gradient step.
    """

    share: float
    through: bool

    def __call__(self, samples: Samples, policy: Policy, generator: torch.Generator) -> Samples:
        """The same answers to prompts masked anew; rows of a group lose different tokens. generator: on the host."""
        ids = samples.prompts
        hidden = torch.rand(ids.shape, generator=generator).to(ids.device) < self.share
        marks = torch.tensor(sorted(policy.tokenizer.all_special_ids), device=ids.device)
        hidden = hidden & ~torch.isin(ids, marks)
        return dataclasses.replace(samples, prompts=ids.masked_fill(hidden, blank(policy)))


def blank(policy: Policy) -> int:
    """The token that stands for what is hidden: the tokenizer's own for that, or for what it does not know."""
    tokenizer = policy.tokenizer
    own = [tokenizer.mask_token_id, tokenizer.unk_token_id]
    return int(next((token for token in own if token is not None), policy.pad_id))


def masking_of(method: Any) -> Masking | None:
    """What the method's parts ask for; None where they read no masked look."""
    asked = {Masking(part.masking, part.through) for _, part in method.walk() if getattr(part, "masking", 0)}
    if len(asked) > 1:
        raise TightreinError(f"parts of {method.key} mask prompts in different ways", "give them the same settings")
    return next(iter(asked), None)
