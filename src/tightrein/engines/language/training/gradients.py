"""The gradient of a loss on more tokens than fit into memory at once: exactly that of one pass over all of them.

A loss may weigh every decision by all others (means over tokens, over answers, ranks, groups), so it cannot be summed
piece by piece. It is therefore computed once, of the whole batch, from what the pieces say without gradient; its
derivatives by that are then carried back through each piece in turn. The price is a second forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language.passes.views import in_order
from tightrein.errors import TightreinError

READ = ("logp", "entropy", "value", "dist", "logp_masked")  # what the present policy says, with a gradient
LEAST = 64  # tokens at once below which there is no point in trying again

Now = Callable[[Tensor | None], tr.Decisions]  # the decisions in some rows (None: all) as the present policy sees them


def backward(now: Now, pieces: Sequence[Tensor], loss: Callable[[tr.Decisions], Any]) -> tuple[Any, tr.Decisions]:
    """Adds the gradient of `loss` to the parameters; returns the loss, and the decisions that it was computed of."""
    if len(pieces) == 1:
        whole = now(None)
        found = loss(whole)
        if found.value.requires_grad:
            found.value.backward()
        return found, whole
    dice, parts = [], []
    with torch.no_grad():
        for rows in pieces:
            dice.append(_dice())
            parts.append(now(rows))
    whole = _leaves(_joined(parts, pieces))
    found = loss(whole)
    if found.value.requires_grad:
        found.value.backward()
        for rows, die in zip(pieces, dice, strict=True):
            _roll(die)  # dropout, if any, falls as it did
            _carry(whole, now(rows), rows)
    return found, whole


def _joined(parts: Sequence[tr.Decisions], pieces: Sequence[Tensor]) -> tr.Decisions:
    fields = [f.name for f in dataclasses.fields(parts[0]) if getattr(parts[0], f.name) is not None]
    return tr.Decisions(**{name: in_order([getattr(part, name) for part in parts], pieces) for name in fields})


def _leaves(decisions: tr.Decisions) -> tr.Decisions:
    """The same numbers, of which a loss can be differentiated by those that a forward pass found out."""
    read = {name: getattr(decisions, name) for name in READ}
    return decisions.replace(**{name: _leaf(field) for name, field in read.items() if field is not None})


def _leaf(field: Any) -> Any:
    if isinstance(field, Tensor):
        return field.detach().requires_grad_(field.is_floating_point())
    return type(field)(*(_leaf(getattr(field, f.name)) for f in dataclasses.fields(field)))


def _carry(whole: tr.Decisions, part: tr.Decisions, rows: Tensor) -> None:
    """The derivatives by what is known of these rows, back to the parameters."""
    pairs = [pair for name in READ for pair in _pairs(getattr(whole, name), getattr(part, name))]
    known = [(made, leaf.grad[rows]) for leaf, made in pairs if leaf.grad is not None and made.requires_grad]
    if known:
        torch.autograd.backward([made for made, _ in known], [slope for _, slope in known])


def _pairs(whole: Any, part: Any) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(whole, Tensor):
        yield whole, part
    elif whole is not None:
        for f in dataclasses.fields(whole):
            yield from _pairs(getattr(whole, f.name), getattr(part, f.name))


def _dice() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _roll(dice: list[Tensor]) -> None:
    torch.set_rng_state(dice[0])
    if len(dice) > 1:
        torch.cuda.set_rng_state_all(dice[1:])


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that there was no memory left."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def halved(most: int) -> int:
    """Half as many tokens at once.

    Raises:
        TightreinError: there is nothing left to halve.
    """
    if most // 2 < LEAST:
        raise TightreinError(
            f"there is not enough memory for {most} tokens at once; the last checkpoint is intact",
            "give shorter answers (--max-new-tokens), train LoRA adapters (--lora-rank 16), or use a larger machine",
        )
    return most // 2
