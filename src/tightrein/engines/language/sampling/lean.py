"""Decoding without the model's own code: its parameters, few calls for each layer, and a cache written in place.

What architectures have in common. What a layer does before and after its attention, `llama` and `gpt2` know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tightrein.engines.language.sampling.samples import positions_of

ROOM = 128  # tokens for which the cache has room at first, behind the prompts; it doubles where they do not suffice
LONG = 32  # tokens from which two plain products are faster than the fused attention, for one token on the processor

SHARED = 128  # tokens of a prompt from which on holding it once for its group is faster than once for each row


class Layer(Protocol):
    """A layer of N tokens."""

    def ask(self, x: Tensor, turns: Any) -> tuple[Tensor, Tensor]:
        """(queries [N, heads, D], keys and values [N, 2, key heads, D]) from states [N, H] and what `embed` said.

        Heads that share a key head stand one after another.
        """
        raise NotImplementedError

    def answer(self, x: Tensor, attended: Tensor) -> Tensor:
        """States [N, H] behind the layer, from those before it and what attention gave: [N, heads * D]."""
        raise NotImplementedError


class Network(Protocol):
    """A decoder whose attention is the usual one: softmax(queries @ keys / sqrt(D)) @ values."""

    @property
    def layers(self) -> Sequence[Layer]:
        """From the first to the last."""
        raise NotImplementedError

    def embed(self, ids: Tensor, places: Tensor) -> tuple[Tensor, Any]:
        """(states [N, H], what the layers want to know of the places) of N tokens and their places."""
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """[N, V] of states [N, H]."""
        raise NotImplementedError


class Lean:
    """The running rows of a network: prompts are encoded once for the `copies` rows of their group.

    What long prompts leave in the cache is held once for the group too, until rows leave the batch.

    ids, mask: [P, S] left-padded prompts. most: tokens to come.
    """

    def __init__(self, network: Network, ids: Tensor, mask: Tensor, copies: int, most: int) -> None:
        self._network, self._most = network, most
        self._places = mask.sum(1).repeat_interleave(copies)
        self._closed = None if bool(mask.all()) else mask == 0  # [B, S]; while prompts are shared, [P, S]
        # Keys and values, filled up to `length`: [layers, 2, B * key heads, room, D]. Where prompts are shared, theirs
        # are apart, [layers, 2, P * key heads, S, D], and the rows of the rest are in the order P, key heads, copies.
        self._prompts: Tensor | None = None
        self._cache, self._length, self._heads, self._copies = ids.new_empty(0), 0, 0, copies
        self.logits = self._prefill(ids, mask, copies)
        self._penalty = self._penalties()

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [B, V] behind the next token of each row: [B]."""
        if self._length == self._cache.shape[3]:
            self._cache = _roomier(self._cache, self._length, min(2 * self._length, self._length + self._most))
        x, turns = self._network.embed(tokens, self._places)
        slots = self._cache[..., self._length, :]
        self._length += 1
        told = self._cache[..., : self._length, :].unbind(0)
        x = (self._apart if self._prompts is None else self._together)(x, turns, slots, told)
        self._places = self._places + 1
        return self._network.logits(x)

    def _apart(self, x: Tensor, turns: Any, slots: Tensor, told: Sequence[Tensor]) -> Tensor:
        """Through the layers, where each row has all its keys. slots: of this token; told: up to it, of each layer."""
        count, size = x.shape[0], slots.shape[3]
        each = slots.view(-1, 2, count, self._heads, size).unbind(0)
        long = self._length >= LONG and slots.device.type == "cpu" and slots.dtype == torch.float32
        penalty = self._penalty if self._closed is None else self._penalty[..., : self._length]
        mask = None if self._closed is None else penalty
        for layer, slot, (keys, values) in zip(self._network.layers, each, told, strict=True):
            found, pair = layer.ask(x, turns)
            slot.copy_(pair.transpose(0, 1))
            queries = found.reshape(count * self._heads, -1, size)  # as if heads of one key head were several tokens
            if long:
                attended = torch.bmm(torch.softmax(self._scores(queries, keys, penalty), -1), values)
            else:
                attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
            x = layer.answer(x, attended.reshape(count, -1))
        return x

    def _together(self, x: Tensor, turns: Any, slots: Tensor, told: Sequence[Tensor]) -> Tensor:
        """The same, where the rows of a group share the keys of their prompt."""
        assert self._prompts is not None
        count, size, heads, copies = x.shape[0], slots.shape[3], self._heads, self._copies
        groups, length = count // copies, self._prompts.shape[3]
        each = slots.view(-1, 2, groups, heads, copies, size).unbind(0)
        for layer, slot, (keys, values), prompts in zip(self._network.layers, each, told, self._prompts, strict=True):
            found, pair = layer.ask(x, turns)
            slot.copy_(pair.view(groups, copies, 2, heads, size).permute(2, 0, 3, 1, 4))
            queries = found.reshape(groups, copies, heads, -1, size).transpose(1, 2).reshape(len(keys), -1, size)
            asked = queries.reshape(groups * heads, -1, size)
            before = self._scores(asked, prompts[0], self._penalty).view(*queries.shape[:2], length)
            shares = torch.softmax(torch.cat([before, self._scores(queries, keys, self._nothing)], -1), -1)
            heard = torch.bmm(shares[..., :length].reshape(*asked.shape[:2], length), prompts[1])
            attended = torch.baddbmm(heard.view(queries.shape), shares[..., length:], values)
            x = layer.answer(x, attended.view(groups, heads, copies, -1).transpose(1, 2).reshape(count, -1))
        return x

    def _scores(self, queries: Tensor, keys: Tensor, penalty: Tensor) -> Tensor:
        """queries [N, G, D] @ keys [N, T, D] / sqrt(D) + penalty [N, 1, T] or 0 [1]: [N, G, T]."""
        return torch.baddbmm(penalty, queries, keys.transpose(1, 2), alpha=self._scale)

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only."""
        self._part()
        places = rows[:, None] * self._heads + torch.arange(self._heads, device=rows.device)
        used = self._cache[..., : self._length, :][:, :, places.flatten()]
        self._cache = _roomier(used, self._length, self._cache.shape[3])
        self._places = self._places[rows]
        self._closed = None if self._closed is None else self._closed[rows]
        self._penalty = self._penalties()

    def _part(self) -> None:
        """Gives each row a prompt of its own in the cache."""
        if self._prompts is None:
            return
        layers, _, places, length, size = self._prompts.shape
        form = (layers, 2, places // self._heads, self._copies, self._heads, length, size)
        prompts = self._prompts.view(layers, 2, -1, 1, self._heads, length, size).expand(form).flatten(2, 4)
        own = self._cache[..., : self._length, :]
        own = own.view(layers, 2, -1, self._heads, self._copies, self._length, size).transpose(3, 4).flatten(2, 4)
        if self._closed is not None:
            self._closed = self._closed.repeat_interleave(self._copies, 0)
        self._cache, self._prompts, self._copies = torch.cat([prompts, own], 3), None, 1
        self._length = self._cache.shape[3]

    def _prefill(self, ids: Tensor, mask: Tensor, copies: int) -> Tensor:
        """Logits behind the prompts: [P * copies, V]."""
        count, length = ids.shape
        x, turns = self._network.embed(ids.flatten(), positions_of(mask).flatten())
        looked = None if self._closed is None else _causal(mask)
        told = []
        for layer in self._network.layers:
            found, pair = layer.ask(x, turns)
            queries = found.view(count, length, *found.shape[1:]).transpose(1, 2)
            keys, values = pair.view(count, length, *pair.shape[1:]).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=looked, is_causal=looked is None,
                enable_gqa=queries.shape[1] != keys.shape[1],
            )  # fmt: skip
            told.append(torch.stack([keys, values]))
            x = layer.answer(x, attended.transpose(1, 2).reshape(count * length, -1))
        self._fill(torch.stack(told), copies)
        last = x.view(count, length, -1)[:, -1]
        return self._network.logits(last).repeat_interleave(copies, 0)

    def _fill(self, prompts: Tensor, copies: int) -> None:
        """Begins the cache with the keys and values of the prompts: [layers, 2, P, key heads, S, D]."""
        layers, _, count, heads, length, size = prompts.shape
        self._heads, self._scale, self._nothing = heads, 1 / math.sqrt(size), prompts.new_zeros(1)
        room, shape = min(ROOM, self._most), (layers, 2, count * copies * heads)
        if copies > 1 and length >= SHARED and prompts.dtype == torch.float32:
            self._prompts, self._cache = prompts.flatten(2, 3), prompts.new_empty((*shape, room, size))
            return
        self._cache = prompts.new_empty((*shape, length + room, size))
        filled = self._cache[..., :length, :].view(layers, 2, count, copies, heads, length, size)
        filled.copy_(prompts[:, :, :, None])
        self._closed = None if self._closed is None else self._closed.repeat_interleave(copies, 0)
        self._length, self._copies = length, 1

    def _penalties(self) -> Tensor:
        """What attention adds, -inf at padding, else 0: [B * key heads, 1, all places]; without padding, 0: [1].

        Of shared prompts, [P * key heads, 1, S].
        """
        if self._closed is None:
            return self._nothing
        rest = 0 if self._prompts is not None else self._most
        closed = functional.pad(self._closed, (0, rest))
        penalties = torch.zeros(closed.shape, dtype=self._cache.dtype, device=closed.device)
        return penalties.masked_fill_(closed, -torch.inf).repeat_interleave(self._heads, 0)[:, None]


def _roomier(cache: Tensor, length: int, room: int) -> Tensor:
    """The first `length` tokens of a cache in one with room for more."""
    moved = cache.new_empty((*cache.shape[:3], room, cache.shape[4]))
    moved[..., :length, :] = cache[..., :length, :]
    return moved


def _causal(mask: Tensor) -> Tensor:
    """Which tokens each may look at: [B, 1, S, S]. Padding looks at itself, so that nothing is divided by 0."""
    length = mask.shape[1]
    before = torch.ones((length, length), dtype=torch.bool, device=mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=mask.device)
    return ((before & mask.bool()[:, None, :]) | itself)[:, None]
