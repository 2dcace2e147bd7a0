"""What an output layer says of tokens, without its logits ever being stored.

The plain way holds several arrays of [tokens, vocabulary]. Here blocks of the vocabulary pass through one buffer: a
running maximum and sums are all that stays of them, and the backward pass computes each block again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**22  # numbers in the buffer: small enough for the caches, large enough for the products
NARROW = 256  # tokens of the vocabulary in a block at least


@dataclass(frozen=True)
class OutputLayer:
    """Logits = cap(scale * (states @ weight.T + bias)), where cap(z) = softcap * tanh(z / softcap) if there is one.

    weight: [V, H]. bias: [V].
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, states: Tensor) -> Tensor:
        """[..., V] of states [..., H], in float32 at least: the plain way, and what `read` is checked against."""
        exact = _precision(states)
        bias = None if self.bias is None else self.bias.to(exact)
        found = self.scale * torch.nn.functional.linear(states.to(exact), self.weight.to(exact), bias)
        return found if self.softcap is None else self.softcap * torch.tanh(found / self.softcap)


class Read(NamedTuple):
    """What `read` finds for N states.

    picked: [N, K] logits * sharpness[0] of the tokens asked for. normaliser: [N, M] logsumexp(logits * sharpness[m]).
    entropy: [N] in nats, of softmax(logits * sharpness[0]).
    """

    picked: Tensor
    normaliser: Tensor
    entropy: Tensor


def read(states: Tensor, layer: OutputLayer, index: Tensor, sharpness: tuple[float, ...] = (1.0,)) -> Read:
    """Logits of some tokens, the normalisers of all, and the entropy, with gradients for the states and the layer.

    states: [N, H]. index: [N, K] token ids. sharpness: inverse temperatures, positive. Works in float32 at least.
    Holds N * H numbers and one block of the vocabulary beside its inputs, at the price of a fourth product
    [N, H] x [H, V] beside the three of the plain way.
    """
    form = _Form(layer.scale, layer.softcap, sharpness)
    return Read(*_Read.apply(states, layer.weight, layer.bias, index, form))  # type: ignore[no-untyped-call]


@torch.no_grad()
def likeliest(states: Tensor, layer: OutputLayer, count: int) -> tuple[Tensor, Tensor]:
    """(logits [N, count], token ids [N, count]) of the tokens with the largest logits, largest first; no gradient."""
    form = _Form(layer.scale, layer.softcap, (1.0,))
    best: tuple[Tensor, Tensor] | None = None
    for block in form.blocks(states, layer.weight, layer.bias):
        found = block.logits.topk(min(count, block.logits.shape[1]), -1)
        logits, ids = found.values, found.indices + block.start
        if best is not None:
            logits, ids = torch.cat([best[0], logits], -1), torch.cat([best[1], ids], -1)
        chosen = logits.topk(min(count, logits.shape[1]), -1)
        best = chosen.values, ids.gather(-1, chosen.indices)
    assert best is not None
    return best


class _Block(NamedTuple):
    """Logits of the tokens `start` to `stop`: a buffer [N, stop - start] that the next block overwrites."""

    start: int
    stop: int
    logits: Tensor
    states: Tensor
    weight: Tensor


@dataclass(frozen=True)
class _Form:
    """The layer without its tensors, and the inverse temperatures."""

    scale: float
    softcap: float | None
    sharpness: tuple[float, ...]

    def blocks(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[_Block]:
        """The logits, block after block."""
        exact, size = _precision(states), weight.shape[0]
        states = states.to(exact)
        width = max(NARROW, BLOCK // max(1, len(states)))
        buffer = states.new_empty(len(states) * min(width, size))
        for start in range(0, size, width):
            part = weight[start : start + width].to(exact)
            logits = buffer[: len(states) * len(part)].view(len(states), len(part))
            torch.mm(states, part.T, out=logits)
            if bias is not None:
                logits += bias[start : start + width].to(exact)
            if self.scale != 1:
                logits *= self.scale
            if self.softcap is not None:
                logits.div_(self.softcap).tanh_().mul_(self.softcap)
            yield _Block(start, start + len(part), logits, states, part)


class _Buffer:
    """Room for arrays that are needed one after another."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def like(self, array: Tensor) -> Tensor:
        """An array of this shape and kind with nothing of use in it; the one before is overwritten."""
        if self._room is None or self._room.numel() < array.numel():
            self._room = torch.empty_like(array).view(-1)
        return self._room[: array.numel()].view(array.shape)


class _Sums:
    """The logits taken in so far, as their maximum [N] and sums over what lies below it."""

    def __init__(self, states: Tensor, sharpness: tuple[float, ...]) -> None:
        exact = _precision(states)
        self._sharpness = sharpness
        self._top = states.new_full((len(states),), torch.finfo(exact).min / 2, dtype=exact)
        self._sums = states.new_zeros((len(states), len(sharpness)), dtype=exact)  # of exp(sharpness * (logit - top))
        self._weighted = states.new_zeros(len(states), dtype=exact)  # the first of them, each term times logit - top
        self._below, self._terms = _Buffer(), _Buffer()

    def add(self, logits: Tensor) -> None:
        """Takes a block in."""
        top = torch.maximum(self._top, logits.amax(-1))
        moved = self._top - top
        below = torch.sub(logits, top[:, None], out=self._below.like(logits))
        for m, beta in enumerate(self._sharpness):
            shrunk = torch.exp(beta * moved)
            terms = torch.mul(below, beta, out=self._terms.like(logits)).exp_()
            if m == 0:
                self._weighted = shrunk * (self._weighted + moved * self._sums[:, 0])
            self._sums[:, m].mul_(shrunk).add_(terms.sum(-1))
            if m == 0:
                self._weighted += terms.mul_(below).sum(-1)
        self._top = top

    def end(self) -> tuple[Tensor, Tensor]:
        """(normaliser [N, M], entropy [N])."""
        logs = self._sums.log()
        normaliser = self._top[:, None] * self._top.new_tensor(self._sharpness) + logs
        return normaliser, logs[:, 0] - self._sharpness[0] * self._weighted / self._sums[:, 0]


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, form: _Form) -> Any:
        sums = _Sums(states, form.sharpness)
        picked = states.new_zeros(index.shape, dtype=_precision(states))
        for block in form.blocks(states, weight, bias):
            sums.add(block.logits)
            rows, slots, columns = _within(index, block)
            picked[rows, slots] = block.logits[rows, columns]
        normaliser, entropy = sums.end()
        ctx.form = form
        ctx.save_for_backward(states, weight, bias, index, normaliser, entropy)
        return picked * form.sharpness[0], normaliser, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        states, weight, bias, index, normaliser, entropy = ctx.saved_tensors
        form, exact = ctx.form, _precision(states)
        wanted = ctx.needs_input_grad
        d_states = torch.zeros_like(states, dtype=exact) if wanted[0] else None
        d_weight = torch.empty_like(weight) if wanted[1] else None
        d_bias = torch.empty_like(bias) if bias is not None and wanted[2] else None
        slope = _Slope(form, Read(*gradients), normaliser, entropy)
        for block in form.blocks(states, weight, bias):
            d_logits = slope.of(block, index)
            if d_states is not None:
                d_states.addmm_(d_logits, block.weight)
            if d_weight is not None:
                d_weight[block.start : block.stop] = d_logits.T @ block.states
            if d_bias is not None:
                d_bias[block.start : block.stop] = d_logits.sum(0)
        return None if d_states is None else d_states.to(states.dtype), d_weight, d_bias, None, None


class _Slope:
    """The gradient at the products states @ weight.T, from those at what was read."""

    def __init__(self, form: _Form, gradients: Read, normaliser: Tensor, entropy: Tensor) -> None:
        self._form, self._gradients, self._normaliser, self._entropy = form, gradients, normaliser, entropy
        self._slope, self._logp = _Buffer(), _Buffer()

    def of(self, block: _Block, index: Tensor) -> Tensor:
        """[N, width], in a buffer that the next block overwrites."""
        logits, form, at = block.logits, self._form, self._gradients
        slope = self._slope.like(logits)
        for m, beta in enumerate(form.sharpness):
            logp = torch.mul(logits, beta, out=self._logp.like(logits)).sub_(self._normaliser[:, m, None])
            weight = at.normaliser[:, m, None]
            if m == 0:  # d entropy / d logp = -p * (logp + entropy)
                torch.exp(logp, out=slope)
                slope *= logp.add_(self._entropy[:, None]).mul_(-at.entropy[:, None]).add_(weight).mul_(beta)
            else:
                slope += logp.exp_().mul_(weight * beta)
        rows, slots, columns = _within(index, block)
        slope.index_put_((rows, columns), form.sharpness[0] * at.picked[rows, slots], accumulate=True)
        if form.softcap is not None:
            slope *= 1 - (logits / form.softcap) ** 2
        return slope.mul_(form.scale) if form.scale != 1 else slope


def _within(index: Tensor, block: _Block) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, slots, columns of the block) of the tokens asked for that lie in it."""
    rows, slots = ((index >= block.start) & (index < block.stop)).nonzero(as_tuple=True)
    return rows, slots, index[rows, slots] - block.start


def _precision(states: Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)
