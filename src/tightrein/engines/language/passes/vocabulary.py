"""What an output layer says of tokens, without its logits ever being stored.

The plain way holds several arrays of [tokens, vocabulary]. Here blocks of the vocabulary pass through one buffer: a
running maximum and sums are all that stays of them, and the backward pass computes each block again.

The products are the library's that torch calls. What is done with a block between them is a few passes over its memory:
torch's operations (`Plain`), or on a GPU one kernel each (`kernels`), with the same result up to rounding.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NARROW = 256  # tokens of the vocabulary in a block: a multiple of it, which keeps its rows aligned


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

    states: [N, H]. index: [N, K] token ids. sharpness: inverse temperatures, positive. Works in float32 at least; but
    where the kernels run, states and weight in bfloat16 are multiplied as they are (exact products, summed in float32),
    and the gradient at the products is rounded to bfloat16 before it is multiplied with them. Holds N * H numbers and
    one block of the vocabulary beside its inputs, at the price of a fourth product [N, H] x [H, V] beside the three of
    the plain way.
    """
    return read_by(_passes(states), states, layer, index, sharpness)


def read_by(
    passes: Passes, states: Tensor, layer: OutputLayer, index: Tensor, sharpness: tuple[float, ...] = (1.0,)
) -> Read:
    """`read` by the passes given."""
    form = Form(layer.scale, layer.softcap, sharpness, passes)
    return Read(*_Read.apply(states, layer.weight, layer.bias, index, form))  # type: ignore[no-untyped-call]


@torch.no_grad()
def likeliest(states: Tensor, layer: OutputLayer, count: int) -> tuple[Tensor, Tensor]:
    """(logits [N, count], token ids [N, count]) of the tokens with the largest logits, largest first; no gradient."""
    form = Form(layer.scale, layer.softcap, (1.0,), _passes(states))
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


class Block(NamedTuple):
    """Logits of the tokens `start` to `stop`: a buffer [N, stop - start] that the next block overwrites.

    states, weight: what was multiplied.
    """

    start: int
    stop: int
    logits: Tensor
    states: Tensor
    weight: Tensor


@dataclass
class Totals:
    """The logits taken in so far, as their maximum and sums over what lies below it, and those asked for.

    sharpness: [M]. index: [N, K]. top: [N]. sums: [N, M] of exp(sharpness * (logit - top)). weighted: [N], the first of
    them, each term times logit - top. picked: [N, K] logits.
    """

    sharpness: Tensor
    index: Tensor
    top: Tensor
    sums: Tensor
    weighted: Tensor
    picked: Tensor

    @classmethod
    def nothing(cls, states: Tensor, index: Tensor, sharpness: tuple[float, ...]) -> Totals:
        """Before the first block."""
        made = states.new_zeros(0, dtype=_precision(states))
        return cls(
            made.new_tensor(sharpness),
            index.contiguous(),
            made.new_full((len(states),), torch.finfo(made.dtype).min / 2),
            made.new_zeros((len(states), len(sharpness))),
            made.new_zeros(len(states)),
            made.new_zeros(index.shape),
        )

    def read(self) -> Read:
        """What was to be found, after the last block."""
        logs, first = self.sums.log(), self.sharpness[0]
        entropy = logs[:, 0] - first * self.weighted / self.sums[:, 0]
        return Read(first * self.picked, self.top[:, None] * self.sharpness + logs, entropy)


@dataclass(frozen=True)
class Pull:
    """What the gradient at the logits follows from.

    sharpness: [M]. index: [N, K]. normaliser: [N, M]. entropy: [N]. The gradients at what was read, each times its
    sharpness: on_picked [N, K], on_normaliser [N, M], on_entropy [N].
    """

    sharpness: Tensor
    index: Tensor
    normaliser: Tensor
    entropy: Tensor
    on_picked: Tensor
    on_normaliser: Tensor
    on_entropy: Tensor

    @classmethod
    def of(
        cls, sharpness: tuple[float, ...], index: Tensor, normaliser: Tensor, entropy: Tensor, gradients: Read
    ) -> Pull:
        """From the gradients at what was read."""
        betas = normaliser.new_tensor(sharpness)
        pulls = (betas[0] * gradients.picked, betas * gradients.normaliser, betas[0] * gradients.entropy)
        return cls(betas, index.contiguous(), normaliser, entropy, *(pull.contiguous() for pull in pulls))


class Passes(Protocol):
    """What is done with a block of logits between the products; an object serves the blocks of one pass.

    block: numbers in a block, about.
    """

    block: int

    def factors(self, states: Tensor, weight: Tensor) -> torch.dtype:
        """The precision in which these two are multiplied; the sums are in `_precision(states)` in any case."""
        raise NotImplementedError

    def finish(self, logits: Tensor, bias: Tensor | None, form: Form) -> None:
        """Makes products [N, width] logits, in place. bias: [width]."""
        raise NotImplementedError

    def take(self, block: Block, totals: Totals) -> None:
        """Takes a block into the totals."""
        raise NotImplementedError

    def slope(self, block: Block, pull: Pull, form: Form) -> Tensor:
        """The gradient at the products [N, width], in the precision of the factors. May use up the logits."""
        raise NotImplementedError


@dataclass(frozen=True)
class Form:
    """The layer without its tensors, the inverse temperatures, and how blocks are gone through."""

    scale: float
    softcap: float | None
    sharpness: tuple[float, ...]
    passes: Passes

    def blocks(self, states: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[Block]:
        """The logits, block after block."""
        factors, exact, size = self.passes.factors(states, weight), _precision(states), weight.shape[0]
        states = states.to(factors)
        width = NARROW * max(1, self.passes.block // (NARROW * max(1, len(states))))
        buffer = states.new_empty(len(states) * min(width, size), dtype=exact)
        for start in range(0, size, width):
            part = weight[start : start + width].to(factors)
            logits = buffer[: len(states) * len(part)].view(len(states), len(part))
            torch.mm(states, part.T, out=logits, **_widened(part, exact))
            self.passes.finish(logits, None if bias is None else bias[start : start + width], self)
            yield Block(start, start + len(part), logits, states, part)


class _Buffer:
    """Room for arrays that are needed one after another."""

    def __init__(self) -> None:
        self._room: Tensor | None = None

    def like(self, array: Tensor) -> Tensor:
        """An array of this shape and kind with nothing of use in it; the one before is overwritten."""
        if self._room is None or self._room.numel() < array.numel():
            self._room = torch.empty_like(array).view(-1)
        return self._room[: array.numel()].view(array.shape)


class Plain:
    """The passes in torch's operations: the CPU's, and what others are checked against."""

    block = 2**22  # small enough for the caches, large enough for the products

    def __init__(self) -> None:
        self._first, self._second = _Buffer(), _Buffer()

    def factors(self, states: Tensor, weight: Tensor) -> torch.dtype:
        """See Passes."""
        return _precision(states)

    def finish(self, logits: Tensor, bias: Tensor | None, form: Form) -> None:
        """See Passes."""
        if bias is not None:
            logits += bias.to(logits.dtype)
        if form.scale != 1:
            logits *= form.scale
        if form.softcap is not None:
            logits.div_(form.softcap).tanh_().mul_(form.softcap)

    def take(self, block: Block, totals: Totals) -> None:
        """See Passes."""
        logits = block.logits
        top = torch.maximum(totals.top, logits.amax(-1))
        moved = totals.top - top
        below = torch.sub(logits, top[:, None], out=self._first.like(logits))
        for m, beta in enumerate(totals.sharpness):
            shrunk = torch.exp(beta * moved)
            terms = torch.mul(below, beta, out=self._second.like(logits)).exp_()
            if m == 0:
                totals.weighted = shrunk * (totals.weighted + moved * totals.sums[:, 0])
            totals.sums[:, m].mul_(shrunk).add_(terms.sum(-1))
            if m == 0:
                totals.weighted += terms.mul_(below).sum(-1)
        totals.top = top
        rows, slots, columns = _within(totals.index, block)
        totals.picked[rows, slots] = logits[rows, columns]

    def slope(self, block: Block, pull: Pull, form: Form) -> Tensor:
        """See Passes."""
        logits = block.logits
        slope = self._first.like(logits)
        for m, beta in enumerate(pull.sharpness):
            logp = torch.mul(logits, beta, out=self._second.like(logits)).sub_(pull.normaliser[:, m, None])
            weight = pull.on_normaliser[:, m, None]
            if m == 0:  # d entropy / d logp = -p * (logp + entropy)
                torch.exp(logp, out=slope)
                slope *= logp.add_(pull.entropy[:, None]).mul_(-pull.on_entropy[:, None]).add_(weight)
            else:
                slope += logp.exp_().mul_(weight)
        rows, slots, columns = _within(pull.index, block)
        slope.index_put_((rows, columns), pull.on_picked[rows, slots], accumulate=True)
        if form.softcap is not None:
            slope *= 1 - (logits / form.softcap) ** 2
        return slope.mul_(form.scale) if form.scale != 1 else slope


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, form: Form) -> Any:
        totals = Totals.nothing(states, index, form.sharpness)
        for block in form.blocks(states, weight, bias):
            form.passes.take(block, totals)
        found = totals.read()
        ctx.form = form
        ctx.save_for_backward(states, weight, bias, index, found.normaliser, found.entropy)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        states, weight, bias, index, normaliser, entropy = ctx.saved_tensors
        form, exact, wanted = ctx.form, _precision(states), ctx.needs_input_grad
        d_states = torch.zeros_like(states, dtype=exact) if wanted[0] else None
        d_weight = torch.empty_like(weight) if wanted[1] else None
        d_bias = torch.empty_like(bias) if bias is not None and wanted[2] else None
        pull = Pull.of(form.sharpness, index, normaliser, entropy, Read(*gradients))
        for block in form.blocks(states, weight, bias):
            slope = form.passes.slope(block, pull, form)
            widened = _widened(slope, exact)
            if d_states is not None:
                torch.addmm(d_states, slope, block.weight, out=d_states, **widened)
            if d_weight is not None:
                d_weight[block.start : block.stop] = torch.mm(slope.T, block.states, **widened)
            if d_bias is not None:
                d_bias[block.start : block.stop] = slope.sum(0, dtype=exact)
        return None if d_states is None else d_states.to(states.dtype), d_weight, d_bias, None, None


def _within(index: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, slots, columns of the block) of the tokens asked for that lie in it."""
    rows, slots = ((index >= block.start) & (index < block.stop)).nonzero(as_tuple=True)
    return rows, slots, index[rows, slots] - block.start


def _precision(states: Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)


def _widened(factor: Tensor, exact: torch.dtype) -> dict[str, Any]:
    """What a product with this factor is told so that it sums and answers in `exact`."""
    return {} if factor.dtype == exact else {"out_dtype": exact}


def _passes(states: Tensor) -> Passes:
    kernels = _kernels(states.device) if states.is_cuda and _precision(states) == torch.float32 else None
    return Plain() if kernels is None else kernels.Fused()


@cache
def _kernels(device: torch.device) -> Any:
    """The module of the kernels, if Triton is installed and they do on this device what the plain way does.

    They are tried once on each device. If that fails, a warning says why, and the plain way is taken, which computes
    the same more slowly; an error after that is one.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from tightrein.engines.language.passes import kernels

        _agree(kernels.Fused, device)
    except Exception as error:  # no compiler, a device that it does not know, ...: Triton has no class for all of them
        warnings.warn(
            f"log-probabilities take the plain way on {device}, which is slower: Triton's kernels do not run there "
            f"({type(error).__name__}: {error})",
            stacklevel=2,
        )
        return None
    return kernels


def _agree(passes: type[Passes], device: torch.device) -> None:
    """RuntimeError unless these passes find on this device what the plain ones find, up to rounding."""
    index = torch.tensor([[0, 2], [4, 4], [1, 3]], device=device)
    for dtype in (torch.float32, torch.bfloat16):
        found = [_tried(each(), index, dtype) for each in (passes, Plain)]
        for ours, theirs in zip(*found, strict=True):
            if not torch.allclose(ours, theirs, rtol=2e-2, atol=2e-2):
                raise RuntimeError(f"they find {ours.tolist()} instead of {theirs.tolist()}")


@torch.inference_mode(False)
@torch.enable_grad()
def _tried(passes: Passes, index: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """What is read from a small layer, and all gradients."""
    states, weight, bias = (
        ((torch.arange(size, device=index.device) * 7 % 16 - 8) / 8).to(dtype).requires_grad_() for size in (6, 10, 5)
    )
    layer = OutputLayer(weight.view(5, 2), bias, 0.5, 2.0)
    read = read_by(passes, states.view(3, 2), layer, index, (1.0, 2.0))
    total = read.picked.sum() + read.normaliser.square().sum() + read.entropy.sum()
    return [*(x.detach() for x in read), *torch.autograd.grad(total, [states, weight, bias])]
