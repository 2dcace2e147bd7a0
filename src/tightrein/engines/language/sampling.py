"""Sampling answers with a KV cache: a prompt is encoded once for its whole group, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tightrein.engines.language.routing import recorded, stacked

SHRINK = 0.5  # the batch is repacked when no more than this share of its rows still runs


@dataclass(frozen=True)
class Samples:
    """B answers to B / group_size prompts, a group's answers one after another.

    prompts: [B, P] left-padded ids. prompt_mask: [B, P]. completions: [B, T] right-padded ids, the end token
    included. mask: [B, T], 1 on what the model wrote. logp: [B, T] of each sampled token under the tempered
    distribution. ended: [B], False where a limit cut the answer. present: [B, T], 1 also on what a partner (a tool)
    said in between. earned: [B, T] rewards of the partner, each on the last token of the turn it is for. experts:
    [B, P + T, layers, k], to which a mixture of experts sent each token, where that was written down (else no layers).
    """

    prompts: Tensor
    prompt_mask: Tensor
    completions: Tensor
    mask: Tensor
    logp: Tensor
    ended: Tensor
    present: Tensor = None  # type: ignore[assignment]
    earned: Tensor = None  # type: ignore[assignment]
    experts: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "present", self.mask if self.present is None else self.present)
        object.__setattr__(self, "earned", torch.zeros_like(self.mask) if self.earned is None else self.earned)
        if self.experts is None:
            object.__setattr__(self, "experts", self.ids.new_zeros((*self.ids.shape, 0, 0), dtype=torch.int16))

    @property
    def ids(self) -> Tensor:
        """Prompts and completions: [B, P + T]."""
        return torch.cat([self.prompts, self.completions], 1)

    @property
    def attention(self) -> Tensor:
        """Mask of `ids`: [B, P + T]."""
        return torch.cat([self.prompt_mask, self.present.long()], 1)

    @property
    def turn(self) -> Tensor:
        """Index of the turn of each token, what a partner says belonging to the turn before: [B, T]."""
        begins = self.mask.bool() & ~functional.pad(self.mask.bool(), (1, -1))
        return (begins.cumsum(1) - 1).clamp(min=0)

    def take(self, rows: Tensor) -> Samples:
        """The answers at these rows."""
        return Samples(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class Partner(Protocol):
    """What speaks with the model while it writes: see turns.Conversation. Answers are named by their row in Samples."""

    def says(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens [b], booleans [b]): where True, the token that the partner now puts into this answer."""
        raise NotImplementedError

    def hears(self, rows: Tensor, tokens: Tensor, at: int) -> Tensor:
        """Listens to what the model wrote in these answers as token number `at`; True where it closes one: [b]."""
        raise NotImplementedError

    def verdict(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """(rewards [B, width], whether it ended the answer [B]) of all answers."""
        raise NotImplementedError


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn. temperature 0: always the most probable token. experts: whether to write these down.

    warmth: what the temperature of each token is multiplied by, from the entropies [B] in nats at `temperature`.
    """

    max_new_tokens: int
    eos_ids: frozenset[int]
    pad_id: int
    temperature: float = 1.0
    top_p: float = 1.0
    experts: bool = False
    warmth: Callable[[Tensor], Tensor] | None = None

    @property
    def greedy(self) -> Decoding:
        """The same, but always the most probable token."""
        return replace(self, temperature=0.0, experts=False)

    def within(self, max_new_tokens: int) -> Decoding:
        """The same with another limit of length."""
        return replace(self, max_new_tokens=max_new_tokens)


def positions_of(attention: Tensor) -> Tensor:
    """Position ids that start at 0 with the first real token of each row: [B, L]."""
    return (attention.cumsum(1) - 1).clamp(min=0)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """(ids [B, P], mask [B, P]) of prompts of different lengths."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(width, device=device)[None] >= (width - lengths)[:, None]
    return ids, mask.long()


def join(parts: Sequence[Samples], pad_id: int) -> Samples:
    """Several samples as one, padded to the same widths."""
    left = max(part.prompts.shape[1] for part in parts)
    right = max(part.completions.shape[1] for part in parts)

    def padded(part: Samples) -> Samples:
        before, after = (left - part.prompts.shape[1], 0), (0, right - part.completions.shape[1])
        return Samples(
            functional.pad(part.prompts, before, value=pad_id), functional.pad(part.prompt_mask, before),
            functional.pad(part.completions, after, value=pad_id), functional.pad(part.mask, after),
            functional.pad(part.logp, after), part.ended, functional.pad(part.present, after),
            functional.pad(part.earned, after), functional.pad(part.experts, (0, 0, 0, 0, before[0], after[1])),
        )  # fmt: skip

    same = [padded(part) for part in parts]
    return Samples(*(torch.cat([getattr(part, name) for part in same]) for name in Samples.__dataclass_fields__))


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    decoding: Decoding,
    generator: torch.Generator | None = None,
    partner: Partner | None = None,
) -> Samples:
    """`group_size` answers to each prompt, with their log-probabilities. Dropout is off while it runs.

    prompts: token ids of each prompt. What the `partner` says counts towards the length limit. The model's training
    mode is put back at the end.
    """
    training = model.training
    model.eval()
    try:
        recording: AbstractContextManager[list[Tensor]] = recorded(model) if decoding.experts else nullcontext([])
        with recording as seen:
            return _Sampler(model, prompts, group_size, decoding, generator, partner, seen).run()
    finally:
        model.train(training)


class _Sampler:
    """The running rows and what they have said so far."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], group_size: int, decoding: Decoding, generator: Any,
        partner: Partner | None, seen: list[Tensor],
    ) -> None:  # fmt: skip
        self._model, self._decoding, self._generator, self._partner = model, decoding, generator, partner
        self._seen = seen  # the experts of the last forward pass, where they are written down
        device = next(model.parameters()).device
        ids, mask = pad_left(prompts, decoding.pad_id, device)
        self._padded = not bool(mask.all())  # without padding the model needs no mask, and is faster
        self._logits, self._cache = self._prefill(ids, mask)
        if group_size > 1:
            self._cache.batch_repeat_interleave(group_size)
            self._logits = self._logits.repeat_interleave(group_size, 0)
        self._prompts, self._prompt_mask = ids.repeat_interleave(group_size, 0), mask.repeat_interleave(group_size, 0)
        size, longest = self._prompts.shape[0], decoding.max_new_tokens
        self._experts = None
        if seen:
            routed = self._routed(len(prompts)).repeat_interleave(group_size, 0)
            self._experts = functional.pad(routed, (0, 0, 0, 0, 0, longest))
        self._completions = torch.full((size, longest), decoding.pad_id, device=device)
        self._logp = torch.zeros((size, longest), device=device)
        self._mask = torch.zeros((size, longest), device=device)
        self._present = self._mask if partner is None else torch.zeros((size, longest), device=device)
        self._ended = torch.zeros(size, dtype=torch.bool, device=device)
        self._eos = torch.tensor(sorted(decoding.eos_ids), device=device)
        # Of the rows in the batch: which answer each is, whether it still runs, its length and what it attends to.
        self._rows = torch.arange(size, device=device)
        self._running = torch.ones(size, dtype=torch.bool, device=device)
        self._lengths = self._prompt_mask.sum(1)
        self._attention = functional.pad(self._prompt_mask, (0, longest), value=1)

    def run(self) -> Samples:
        """Token by token until all rows have ended or the limit is reached."""
        width = self._prompts.shape[1]
        limit = self._decoding.max_new_tokens
        for t in range(limit):
            tokens = self._draw(t)
            left = int(self._running.sum())
            if not left or t + 1 == limit:
                break
            if left <= SHRINK * len(self._rows):
                tokens = self._shrink(tokens)
            output = self._model(
                input_ids=tokens[:, None], attention_mask=self._attention[:, : width + t + 1] if self._padded else None,
                position_ids=(self._lengths + t)[:, None], past_key_values=self._cache, use_cache=True,
            )  # fmt: skip
            self._logits = output.logits[:, -1]
            if self._experts is not None:
                self._experts[self._rows, width + t] = self._routed(len(self._rows))[:, 0]
        used = t + 1
        completions, mask, logp = self._completions[:, :used], self._mask[:, :used], self._logp[:, :used]
        experts = None if self._experts is None else self._experts[:, : width + used]
        samples = Samples(
            self._prompts,
            self._prompt_mask,
            completions,
            mask,
            logp,
            self._ended,
            experts=experts,  # type: ignore[arg-type]
        )
        if self._partner is None:
            return samples
        earned, closed = self._partner.verdict(used, mask.device)
        return replace(samples, present=self._present[:, :used], earned=earned, ended=self._ended | closed)

    def _routed(self, rows: int) -> Tensor:
        """The experts of the last forward pass: [rows, L, layers, k]."""
        experts = stacked(self._seen, rows)
        self._seen.clear()
        return experts

    def _prefill(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
        output = self._model(
            input_ids=ids,
            attention_mask=mask if self._padded else None,
            position_ids=positions_of(mask),
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1], output.past_key_values

    def _draw(self, t: int) -> Tensor:
        """The next token of each row in the batch, written down for those that still run."""
        tokens, logp = draw(self._logits, self._decoding, self._generator)
        writing = self._running
        if self._partner is not None:
            tokens, writing = self._spoken(tokens, t)
        rows = self._rows[writing]
        self._completions[rows, t] = tokens[writing]
        self._logp[rows, t] = logp[writing]
        self._mask[rows, t] = 1.0
        ends = torch.isin(tokens, self._eos) & writing
        self._ended[self._rows[ends]] = True
        self._running = self._running & ~ends
        if self._partner is not None:
            heard = (writing & ~ends).nonzero()[:, 0]
            self._running[heard] &= ~self._partner.hears(self._rows[heard], tokens[heard], t)
        return tokens

    def _spoken(self, tokens: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The tokens with the partner's in their place, written down, and the rows in which the model itself wrote."""
        assert self._partner is not None
        theirs, speaking = self._partner.says(self._rows)
        speaking = speaking & self._running
        tokens = torch.where(speaking, theirs, tokens)
        self._completions[self._rows[speaking], t] = theirs[speaking]
        self._present[self._rows[self._running], t] = 1.0
        return tokens, self._running & ~speaking

    def _shrink(self, tokens: Tensor) -> Tensor:
        """Drops the ended rows from the batch and the cache."""
        kept = self._running.nonzero()[:, 0]
        self._cache.batch_select_indices(kept)
        self._rows, self._lengths, self._attention = self._rows[kept], self._lengths[kept], self._attention[kept]
        self._running = self._running[kept]
        return tokens[kept]


def draw(logits: Tensor, decoding: Decoding, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """(tokens [B], their log-probabilities [B]) from logits [B, V].

    The log-probabilities are those of the tempered distribution before warmth changes it and top-p cuts it, at
    temperature 0 those of temperature 1.
    """
    greedy = decoding.temperature == 0
    logp = torch.log_softmax(logits.float() / (1.0 if greedy else decoding.temperature), -1)
    if greedy:
        tokens = logp.argmax(-1)
    else:
        warm = logp if decoding.warmth is None else _warmed(logp, decoding.warmth)
        tokens = torch.multinomial(_nucleus(warm.exp(), decoding.top_p), 1, generator=generator)[:, 0]
    return tokens, logp.gather(1, tokens[:, None])[:, 0]


def _warmed(logp: Tensor, warmth: Callable[[Tensor], Tensor]) -> Tensor:
    """Log-probabilities [B, V] at the temperatures that their entropies ask for."""
    factor = warmth(torch.special.entr(logp.exp()).sum(-1))
    return torch.log_softmax(logp / factor[:, None], -1)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities [B, V] with all but the likeliest tokens that together reach `top_p` set to 0."""
    if top_p >= 1:
        return probabilities
    ranked, order = probabilities.sort(-1, descending=True)
    ranked[ranked.cumsum(-1) - ranked >= top_p] = 0.0
    return torch.zeros_like(probabilities).scatter(-1, order, ranked)
