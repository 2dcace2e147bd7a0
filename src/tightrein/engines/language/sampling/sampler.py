"""Sampling answers with a KV cache: a prompt is encoded once for its whole group, finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tightrein.engines.language.models.modes import evaluating
from tightrein.engines.language.models.routing import recorded, stacked
from tightrein.engines.language.sampling.decoders import decoder
from tightrein.engines.language.sampling.decoding import Decoding, draw_seeds, pick, uniforms
from tightrein.engines.language.sampling.products import as_threads_pay
from tightrein.engines.language.sampling.samples import Samples, join, pad_left, positions_of
from tightrein.engines.language.sampling.sheet import Sheet
from tightrein.engines.language.sampling.stopping import Stops
from tightrein.errors import TightreinError

__all__ = ["Decoding", "Partner", "Samples", "join", "pad_left", "positions_of", "sample"]

SHRINK = 0.5  # the batch is repacked when no more than this share of its rows still runs
AHEAD = 64  # tokens for which random numbers are made at once


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


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    decoding: Decoding,
    generator: torch.Generator | None = None,
    partner: Partner | None = None,
    seeds: Tensor | None = None,
    tokenizer: Any = None,
) -> Samples:
    """`group_size` answers to each prompt, with their log-probabilities. Dropout is off while it runs.

    prompts: token ids of each prompt. What the `partner` says counts towards the length limit. The model's training
    mode is put back at the end. seeds: of each answer [B], whole numbers from 0; else the generator draws them. An
    answer depends on its prompt, its seed and the model only, up to rounding. tokenizer: reads the stop strings.

    Raises:
        TightreinError: stop strings without a tokenizer.
    """
    if decoding.stop and tokenizer is None:
        raise TightreinError("stop strings are given, and nobody to read the answers", "give sample() the tokenizer")
    recording: AbstractContextManager[list[Tensor]] = recorded(model) if decoding.experts else nullcontext([])
    with evaluating(model), recording as seen, as_threads_pay(model):
        stops = Stops(tokenizer, decoding.stop) if decoding.stop else None
        seeds = draw_seeds(len(prompts) * group_size, generator) if seeds is None else seeds
        return _Sampler(model, prompts, group_size, decoding, seeds, partner, stops, seen).run()


class _Sampler:
    """The running rows and what they have said so far."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], group_size: int, decoding: Decoding, seeds: Tensor,
        partner: Partner | None, stops: Stops | None, seen: list[Tensor],
    ) -> None:  # fmt: skip
        self._decoding, self._partner, self._stops = decoding, partner, stops
        self._seen = seen  # the experts of the last forward pass, where they are written down
        device = next(model.parameters()).device
        ids, mask = pad_left(prompts, decoding.pad_id, device)
        longest = decoding.max_new_tokens
        self._decoder = decoder(model, ids, mask, group_size, longest, own=decoding.experts)
        self._logits = self._decoder.logits
        self._prompts, self._prompt_mask = ids.repeat_interleave(group_size, 0), mask.repeat_interleave(group_size, 0)
        size = self._prompts.shape[0]
        self._experts = None
        if seen:
            routed = self._routed(len(prompts)).repeat_interleave(group_size, 0)
            self._experts = functional.pad(routed, (0, 0, 0, 0, 0, longest))
        self._sheet = Sheet(size, decoding.pad_id)
        vocabulary = torch.arange(self._logits.shape[1], device=device)
        self._last = torch.isin(vocabulary, torch.tensor(sorted(decoding.eos_ids), device=device))
        # Of the rows in the batch: which answer each is, its seed, whether it still runs, and whether it has ended.
        self._rows = torch.arange(size, device=device)
        self._seeds = seeds.to(device)
        self._running = torch.ones(size, dtype=torch.bool, device=device)
        self._ended = torch.zeros(size, dtype=torch.bool, device=device)

    def run(self) -> Samples:
        """Token by token until all rows have ended or the limit is reached."""
        limit = self._decoding.max_new_tokens
        for t in range(limit):
            tokens = self._draw(t)
            left = int(self._running.sum())
            if not left or t + 1 == limit:
                break
            if left <= SHRINK * len(self._rows):
                tokens = self._shrink(tokens)
            self._logits = self._decoder.step(tokens)
            if self._experts is not None:
                at = self._prompts.shape[1] + t
                self._experts[self._rows, at] = self._routed(len(self._rows))[:, 0]
        return self._samples()

    def _samples(self) -> Samples:
        written = self._sheet.close(self._rows, self._ended)
        used = written.tokens.shape[1]
        samples = Samples(
            self._prompts, self._prompt_mask, written.tokens, written.mask, written.logp, written.ended,
            experts=None if self._experts is None else self._experts[:, : self._prompts.shape[1] + used],  # type: ignore[arg-type]
        )  # fmt: skip
        if self._partner is None:
            return samples
        earned, closed = self._partner.verdict(used, written.mask.device)
        return replace(samples, present=written.present, earned=earned, ended=written.ended | closed)

    def _routed(self, rows: int) -> Tensor:
        """The experts of the last forward pass: [rows, L, layers, k]."""
        experts = stacked(self._seen, rows)
        self._seen.clear()
        return experts

    def _draw(self, t: int) -> Tensor:
        """The next token of each row in the batch, written down for those that still run."""
        if t % AHEAD == 0:
            self._numbers = uniforms(self._seeds, t, AHEAD).float()
        tokens, logp = pick(self._logits, self._decoding, self._numbers[t % AHEAD])
        present = writing = self._running
        if self._partner is not None:
            theirs, speaking = self._partner.says(self._rows)
            speaking = speaking & self._running
            tokens, writing = torch.where(speaking, theirs, tokens), self._running & ~speaking
        self._sheet.write(tokens, logp, writing, present)
        ends = self._last[tokens] & writing
        if self._stops is not None:
            ends = ends | self._stopped(self._stops, tokens, writing & ~ends)
        self._ended = self._ended | ends
        self._running = self._running & ~ends
        if self._partner is not None:
            heard = (writing & ~ends).nonzero()[:, 0]
            self._running[heard] &= ~self._partner.hears(self._rows[heard], tokens[heard], t)
        return tokens

    def _stopped(self, stops: Stops, tokens: Tensor, writing: Tensor) -> Tensor:
        """Which of the rows that are writing contain a stop string with the token that they have just written: [B]."""
        rows = (stops.may_end(tokens) & writing).nonzero()[:, 0]
        found = torch.zeros_like(writing)
        if len(rows):
            tails = self._sheet.tails(rows, stops.width)
            found[rows] = torch.tensor([stops.ends(tail) for tail in tails], device=found.device)
        return found

    def _shrink(self, tokens: Tensor) -> Tensor:
        """Drops the ended rows from the batch and the cache."""
        gone, kept = (~self._running).nonzero()[:, 0], self._running.nonzero()[:, 0]
        self._sheet.part(gone, kept, self._rows, self._ended)
        self._decoder.keep(kept)
        self._rows, self._seeds, self._numbers = self._rows[kept], self._seeds[kept], self._numbers[:, kept]
        self._running, self._ended = self._running[kept], self._ended[kept]
        return tokens[kept]
