"""The gradient of a loss on more tokens than fit into memory at once: exactly that of one pass over all of them.

A loss may weigh every decision by all others (means over tokens, over answers, ranks, groups), so it cannot be summed
piece by piece. It is therefore computed once, of the whole batch, from what the pieces say; its derivatives by that are
then carried back through each piece in turn. The price is a second forward pass of all pieces but one. Where several
processes train together, each has pieces of its own, and the loss is that of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language import processes
from tightrein.engines.language.passes.pieces import Pieces
from tightrein.errors import TightreinError
from tightrein.objective.base import detached

READ = ("logp", "entropy", "value", "dist", "logp_masked")  # what the present policy says, with a gradient
LEAST = 64  # tokens at once below which there is no point in trying again

Now = Callable[[Tensor], tr.Decisions]  # the decisions in some rows as the present policy sees them


@torch.no_grad()
def look(now: Now, pieces: Pieces) -> tr.Decisions:
    """All decisions as the present policy sees them, without gradient."""
    return _joined(processes.together(lambda: [now(rows) for rows in pieces.run][pieces.idle :]), pieces)


def backward(now: Now, pieces: Pieces, loss: Callable[[tr.Decisions], Any]) -> tuple[Any, tr.Decisions]:
    """Adds the gradient of `loss` to the parameters; returns the loss, and the decisions that it was computed of.

    Of several processes each adds what its rows contribute: see processes.sum_gradients.
    """
    passes = _Passes(now, pieces)
    whole = _leaves(_joined(processes.together(passes.forward), pieces))
    found = loss(whole)
    if found.value.requires_grad:
        found.value.backward()
        processes.together(lambda: passes.backward(whole))
    return found, whole


class _Passes:
    """The passes of this process. The graph of the last is kept: it need not be run again."""

    def __init__(self, now: Now, pieces: Pieces) -> None:
        self._now, self._pieces = now, pieces
        self._dice: list[list[Tensor]] = []
        self._last: tr.Decisions | None = None

    def forward(self) -> list[tr.Decisions]:
        """What the pieces say, without gradient."""
        made = []
        for rows in self._pieces.run[:-1]:
            self._dice.append(_dice())
            with torch.no_grad():
                made.append(self._now(rows))
        for rows in self._pieces.run[-1:]:
            self._last = self._now(rows)
            made.append(detached(self._last))
        return made[self._pieces.idle :]

    def backward(self, whole: tr.Decisions) -> None:
        """The derivatives by what is known of each row, back to the parameters."""
        if self._last is not None:
            self._carry(whole, self._last, len(self._dice))
            self._last = None  # its graph has served
        for place, die in enumerate(self._dice):
            _roll(die)  # dropout, if any, falls as it did
            self._carry(whole, self._now(self._pieces.run[place]), place)

    def _carry(self, whole: tr.Decisions, part: tr.Decisions, place: int) -> None:
        _carry(whole, part, self._pieces.run[place], 0.0 if place < self._pieces.idle else 1.0)


def _joined(parts: Sequence[Sequence[tr.Decisions]], pieces: Pieces) -> tr.Decisions:
    """Of all rows, what each process says of its own."""
    each = [part for some in parts for part in some]
    fields = [f.name for f in dataclasses.fields(each[0]) if getattr(each[0], f.name) is not None]
    return tr.Decisions(**{name: pieces.in_order([getattr(part, name) for part in each]) for name in fields})


def _leaves(decisions: tr.Decisions) -> tr.Decisions:
    """The same numbers, of which a loss can be differentiated by those that a forward pass found out."""
    read = {name: getattr(decisions, name) for name in READ}
    return decisions.replace(**{name: _leaf(field) for name, field in read.items() if field is not None})


def _leaf(field: Any) -> Any:
    if isinstance(field, Tensor):
        return field.detach().requires_grad_(field.is_floating_point())
    return type(field)(*(_leaf(getattr(field, f.name)) for f in dataclasses.fields(field)))


def _carry(whole: tr.Decisions, part: tr.Decisions, rows: Tensor, weight: float) -> None:
    """The derivatives by what is known of these rows, so many times, back to the parameters."""
    pairs = [pair for name in READ for pair in _pairs(getattr(whole, name), getattr(part, name))]
    known = [(made, weight * leaf.grad[rows]) for leaf, made in pairs if leaf.grad is not None and made.requires_grad]
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
