"""The passes over a block of logits as Triton kernels: each goes over the block's memory once.

Imported only where Triton is installed; `vocabulary` chooses. Equal to its plain passes in Triton's interpreter, and
compiled for GPUs from compute capability 7.5 to 10.0; not run on a GPU, and not timed there. `block` and `TILE` are
estimates: products wide enough to fill a GPU several times over, and what a program holds without spilling registers.

The products stay those of cuBLAS. The kernels of others (Liger's, Cut Cross-Entropy, verl's) take one token at each
place, and each lacks some of what is needed here: several inverse temperatures, an entropy with a gradient, a bias, a
soft cap. Nothing here is added up in an order that varies.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tightrein.engines.language.passes.vocabulary import Block, Form, Pull, Totals

TILE = 1024  # numbers that a program holds at once: two loads of 16 bytes for each of its threads
WARPS = 4


class Fused:
    """See vocabulary.Passes. For float32 logits on a GPU."""

    block = 2**24

    def __init__(self) -> None:
        self._narrow: Tensor | None = None

    def factors(self, states: Tensor, weight: Tensor) -> torch.dtype:
        """See Passes. float16 is widened: small gradients would vanish in it."""
        narrow = states.dtype == weight.dtype == torch.bfloat16 and states.is_cuda
        return torch.bfloat16 if narrow else torch.float32

    def finish(self, logits: Tensor, bias: Tensor | None, form: Form) -> None:
        """See Passes."""
        if bias is None and form.scale == 1 and form.softcap is None:
            return
        _run(
            _finish, _tiles(logits), logits, logits if bias is None else bias.contiguous(), logits.shape[1], form.scale,
            _cap(form), BIASED=bias is not None, CAPPED=form.softcap is not None,
        )  # fmt: skip

    def take(self, block: Block, totals: Totals) -> None:
        """See Passes."""
        kinds, asked = len(totals.sharpness), totals.index.shape[1]
        _run(
            _take, (len(block.logits),), block.logits, totals.index, totals.sharpness, totals.top, totals.sums,
            totals.weighted, totals.picked, block.start, block.logits.shape[1], kinds, asked,
            KINDS=triton.next_power_of_2(kinds), ASKED=triton.next_power_of_2(max(1, asked)),
        )  # fmt: skip

    def slope(self, block: Block, pull: Pull, form: Form) -> Tensor:
        """See Passes."""
        slope = block.logits if block.states.dtype == block.logits.dtype else self._room(block)
        _run(
            _slope, _tiles(block.logits), block.logits, slope, pull.index, pull.sharpness, pull.normaliser,
            pull.entropy, pull.on_picked, pull.on_normaliser, pull.on_entropy, block.start, block.logits.shape[1],
            pull.index.shape[1], form.scale, _cap(form), KINDS=len(pull.sharpness), CAPPED=form.softcap is not None,
        )  # fmt: skip
        return slope

    def _room(self, block: Block) -> Tensor:
        """For a slope of the factors' precision; the one before is overwritten."""
        size = block.logits.numel()
        if self._narrow is None or self._narrow.numel() < size:
            self._narrow = block.states.new_empty(size)
        return self._narrow[:size].view(block.logits.shape)


def _run(kernel: Any, grid: tuple[int, ...], logits: Tensor, *given: Any, **known: Any) -> None:
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]  # Triton launches on the current device
        kernel[grid](logits, *given, **known, TILE=TILE, num_warps=WARPS)


def _tiles(logits: Tensor) -> tuple[int, int]:
    return len(logits), triton.cdiv(logits.shape[1], TILE)


def _cap(form: Form) -> float:
    return 1.0 if form.softcap is None else form.softcap


# The kernels. Blocks and all that goes with their rows is contiguous; a program has one row: all of it in `_take`, a
# tile of it in the others. Capitals are known when a kernel is compiled.


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]
    logits, bias, width, scale, cap, BIASED: tl.constexpr, CAPPED: tl.constexpr, TILE: tl.constexpr
):
    columns = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = columns < width
    row = logits + tl.program_id(0).to(tl.int64) * width
    found = tl.load(row + columns, mask=inside, other=0.0)
    if BIASED:
        found += tl.load(bias + columns, mask=inside, other=0.0).to(found.dtype)
    found *= scale
    if CAPPED:
        # The hyperbolic tangent, of the size first: this exponential cannot overflow.
        small = tl.exp(-2 * tl.abs(found / cap))
        found = tl.where(found < 0, -cap, cap) * ((1 - small) / (1 + small))
    tl.store(row + columns, found, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _take(  # type: ignore[no-untyped-def]
    logits, index, sharpness, top_at, sums_at, weighted_at, picked, start, width, kinds, asked,
    KINDS: tl.constexpr, ASKED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64)
    row = logits + at * width
    m = tl.arange(0, KINDS)
    beta = tl.load(sharpness + m, mask=m < kinds, other=1.0)
    sums = tl.load(sums_at + at * kinds + m, mask=m < kinds, other=0.0)
    top = tl.load(top_at + at)
    weighted = tl.where(m == 0, tl.load(weighted_at + at), 0.0)  # of each kind, though the first alone is asked for
    for first in range(0, width, TILE):
        columns = first + tl.arange(0, TILE)
        inside = columns < width
        found = tl.load(row + columns, mask=inside, other=float("-inf"))
        higher = tl.maximum(top, tl.max(found, 0))
        shrunk, moved = tl.exp(beta * (top - higher)), top - higher
        below = tl.where(inside, found - higher, 0.0)[None, :]
        terms = tl.where(inside[None, :], tl.exp(beta[:, None] * below), 0.0)
        weighted = shrunk * (weighted + moved * sums) + tl.sum(terms * below, 1)
        sums = shrunk * sums + tl.sum(terms, 1)
        top = higher
    tl.store(top_at + at, top)
    tl.store(sums_at + at * kinds + m, sums, mask=m < kinds)
    tl.store(weighted_at + at + m, weighted, mask=m == 0)
    slots = tl.arange(0, ASKED)
    columns = tl.load(index + at * asked + slots, mask=slots < asked, other=-1) - start
    inside = (columns >= 0) & (columns < width)
    tl.store(picked + at * asked + slots, tl.load(row + columns, mask=inside, other=0.0), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _slope(  # type: ignore[no-untyped-def]
    logits, slope_at, index, sharpness, normaliser, entropy, on_picked, on_normaliser, on_entropy, start, width, asked,
    scale, cap, KINDS: tl.constexpr, CAPPED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    at, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE
    columns = first + tl.arange(0, TILE)
    inside = columns < width
    found = tl.load(logits + at * width + columns, mask=inside, other=0.0)
    logp = tl.load(sharpness) * found - tl.load(normaliser + at * KINDS)
    # d entropy / d logp = -p * (logp + entropy)
    spread = tl.load(on_entropy + at) * (logp + tl.load(entropy + at))
    slope = tl.exp(logp) * (tl.load(on_normaliser + at * KINDS) - spread)
    for m in tl.static_range(1, KINDS):
        logp = tl.load(sharpness + m) * found - tl.load(normaliser + at * KINDS + m)
        slope += tl.exp(logp) * tl.load(on_normaliser + at * KINDS + m)
    for slot in range(asked):
        column = tl.load(index + at * asked + slot) - start
        if (column >= first) & (column < first + TILE):
            slope += tl.where(columns == column, tl.load(on_picked + at * asked + slot), 0.0)
    if CAPPED:
        slope *= 1 - (found / cap) * (found / cap)
    tl.store(slope_at + at * width + columns, slope * scale, mask=inside)
