"""Drawing tokens: how, and with which random numbers.

Every answer has random numbers of its own: that of its token t follows from the answer's seed and t alone, so an
answer does not depend on the batch that it was sampled in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SEEDS = 2**63 - 1  # seeds are from 0 to this
NUCLEUS, WIDER = 256, 16  # likeliest tokens that are ranked for top-p, and the factor where they do not reach it

# splitmix64 (Steele, Lea and Flood 2014); its constants as signed numbers, products wrap around
STEP, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn. temperature 0: always the most probable token. experts: whether to write these down.

    warmth: what the temperature of each token is multiplied by, from the entropies [B] in nats at `temperature`.
    top_k: only that many likeliest tokens (0: all). top_p: only the likeliest that together reach this share of what
    top_k leaves. min_p: only tokens at least this share as likely as the likeliest. Tokens as likely as the last one
    kept are kept too. stop: texts; an answer ends with the token with which it first contains one of them.
    """

    max_new_tokens: int
    eos_ids: frozenset[int]
    pad_id: int
    temperature: float = 1.0
    top_p: float = 1.0
    experts: bool = False
    warmth: Callable[[Tensor], Tensor] | None = None
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    @property
    def greedy(self) -> Decoding:
        """The same, but always the most probable token."""
        return replace(self, temperature=0.0, experts=False)

    def within(self, max_new_tokens: int) -> Decoding:
        """The same with another limit of length."""
        return replace(self, max_new_tokens=max_new_tokens)


def draw_seeds(count: int, generator: torch.Generator | None) -> Tensor:
    """Seeds of so many answers: [count]."""
    device = None if generator is None else generator.device
    return torch.randint(0, SEEDS, (count,), generator=generator, device=device)


def uniforms(seeds: Tensor, start: int, count: int) -> Tensor:
    """Numbers in (0, 1) for the tokens start to start + count - 1 of answers with these seeds [B]: [count, B]."""
    places = torch.arange(start + 1, start + count + 1, device=seeds.device)
    bits = _mixed(_mixed(seeds)[None] + places[:, None] * STEP)
    return (_shifted(bits, 12).double() + 0.5) * 2.0**-52  # 52 bits: with the half, float64 rounds none to 0 or 1


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * FIRST
    bits = (bits ^ _shifted(bits, 27)) * SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """To the right, with zeros from the left (`>>` repeats the sign)."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def pick(logits: Tensor, decoding: Decoding, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """(tokens [B], their log-probabilities [B]) from logits [B, V] and numbers in (0, 1) [B].

    The log-probabilities are those of the tempered distribution before warmth changes it and anything is cut from it,
    at temperature 0 those of temperature 1.
    """
    logits, temperature = logits.float(), decoding.temperature
    if temperature == 0:
        tokens = logits.argmax(-1, keepdim=True)
        return tokens[:, 0], torch.log_softmax(logits, -1).gather(1, tokens)[:, 0]
    logits = logits if temperature == 1 else logits / temperature
    probabilities = torch.softmax(logits, -1)
    shown = probabilities if decoding.warmth is None else _warmed(logits, probabilities, decoding.warmth)
    summed = cut(shown, decoding).cumsum(-1)
    # The first token at which the sum reaches a share of the whole that is above 0: never one of probability 0.
    tokens = torch.searchsorted(summed, numbers.to(summed.dtype)[:, None] * summed[:, -1:])
    return tokens[:, 0], probabilities.gather(1, tokens)[:, 0].log()


def cut(probabilities: Tensor, decoding: Decoding) -> Tensor:
    """Probabilities [B, V] with 0 for the tokens that `decoding` leaves out; the rest is not scaled."""
    floors = []
    if decoding.top_k or decoding.top_p < 1:
        floors.append(_least_ranked(probabilities, decoding.top_k or probabilities.shape[1], decoding.top_p))
    if decoding.min_p:
        floors.append(decoding.min_p * probabilities.amax(-1, keepdim=True))
    for floor in floors:
        probabilities = torch.where(probabilities >= floor, probabilities, 0.0)
    return probabilities


def _least_ranked(probabilities: Tensor, top_k: int, top_p: float) -> Tensor:
    """Of the `top_k` likeliest tokens, the smallest probability among those that together reach `top_p`: [B, 1]."""
    most = min(top_k, probabilities.shape[1])
    count = most if top_k < probabilities.shape[1] else min(NUCLEUS, most)
    while True:
        ranked = probabilities.topk(count, -1).values
        summed = ranked.cumsum(-1)
        wanted = top_p * (summed[:, -1:] if count == most else 1.0)
        if count == most or bool((summed[:, -1] >= wanted).all()):
            return ranked.masked_fill(summed - ranked >= wanted, torch.inf).amin(-1, keepdim=True)
        count = min(count * WIDER, most)


def _warmed(logits: Tensor, probabilities: Tensor, warmth: Callable[[Tensor], Tensor]) -> Tensor:
    """Probabilities [B, V] at the temperatures that their entropies ask for."""
    factor = warmth(torch.special.entr(probabilities).sum(-1))
    return torch.softmax(logits / factor[:, None], -1)
