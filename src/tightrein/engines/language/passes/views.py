"""Log-probabilities, values and distributions of completions under a model: the one place where they are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tightrein.distributions import Categorical
from tightrein.engines.language import processes
from tightrein.engines.language.models.modes import evaluating
from tightrein.engines.language.models.routing import recorded, replayed, stacked
from tightrein.engines.language.passes.forward import lay_out, run
from tightrein.engines.language.passes.layout import rectangular
from tightrein.engines.language.passes.outputs import Outputs, layer_of
from tightrein.engines.language.passes.pieces import pieces_of
from tightrein.engines.language.sampling.sampler import Samples

ABSENT = -27.6  # log-probability (about 1e-12) given to the slots of tokens that are not kept
AT_ONCE = 2**13  # tokens in one forward pass without gradient, at most


@dataclass(frozen=True)
class Keeping:
    """How many tokens of a distribution to keep: the fewest with this mass, `count` at most."""

    count: int
    mass: float


@dataclass(frozen=True)
class Kept:
    """K tokens per decision for which whole distributions are compared.

    index: [B, T, K] token ids. held: [B, T, K], False in slots beyond the mass. action: [B, T], slot of the one chosen.
    """

    index: Tensor
    held: Tensor
    action: Tensor

    @classmethod
    def of(cls, ranked: Tensor, index: Tensor, chosen: Tensor, mass: float) -> Kept:
        """Those with this mass, and the chosen one in any case.

        ranked: [..., K] log-probabilities of the old policy's likeliest tokens, largest first. index: which they are.
        chosen: [...] token ids.
        """
        probability, index = ranked.exp(), index.clone()
        held = probability.cumsum(-1) - probability < mass
        same = index == chosen[..., None]
        index[..., -1] = torch.where(same.any(-1), index[..., -1], chosen)
        same = index == chosen[..., None]
        return cls(index, held | same, same.int().argmax(-1))

    def take(self, rows: Tensor) -> Kept:
        """Those of these rows."""
        return Kept(self.index[rows], self.held[rows], self.action[rows])


@dataclass(frozen=True)
class View:
    """What a model makes of the decisions in some rows: [B, T] each; but for two only where asked for.

    hidden: [B, T, H]. embedding: [B, H]. tempered: [B, T, K]. experts: [B, L, layers, k].
    """

    logp: Tensor
    entropy: Tensor
    value: Tensor | None = None
    dist: Categorical | None = None
    kept: Kept | None = None
    hidden: Tensor | None = None
    embedding: Tensor | None = None
    tempered: Tensor | None = None
    experts: Tensor | None = None


def view(
    model: Any, ids: Tensor, attention: Tensor, span: int, temperature: float = 1.0, *, entropy_gradient: bool = False,
    head: Callable[[Tensor], Tensor] | None = None, kept: Kept | Keeping | None = None, hidden: bool = False,
    embedding: bool = False, temperatures: Sequence[float] = (), experts: Tensor | bool = False,
) -> View:  # fmt: skip
    """One forward pass; T = `span` tokens at the end of `ids` [B, L] are the decisions, where `attention` [B, L] is 1.

    Probabilities are those of softmax(logits / temperature), in float32; behind the end of an answer there is 0. The
    entropy carries a gradient only if asked for. head: values from the hidden states [..., H] of the positions at
    which the decisions are made. kept: the tokens of `dist`, or how many. hidden: those states themselves. embedding:
    the mean state behind the tokens of the answer. temperatures: relative to `temperature`, those of `tempered`.
    experts: those of Samples, to be followed; True: to be written down.
    """
    there = attention[:, -span:].bool()
    written = experts is True  # in the places that the rows have by themselves
    layout = rectangular(attention, span) if written else lay_out(model, ids, attention, span, tails=embedding)
    layer_of(model)  # is tried before anybody listens to the model
    with _routing(model, layout.taken(experts) if isinstance(experts, Tensor) else experts) as routed:
        made = run(model, layout, ids)
    asked = _each(kept, lambda x: x[there]) if isinstance(kept, Kept) else kept
    said = _said(made.outputs, ids[:, -span:][there], temperature, temperatures, asked)
    return View(
        _spread(said.logp, there),
        _spread(said.entropy if entropy_gradient else said.entropy.detach(), there),
        None if head is None else _spread(head(made.before), there),
        None if said.dist is None else Categorical(_spread(said.dist, there)),
        None if said.kept is None else _each(said.kept, lambda x: _spread(x, there)),
        _spread(made.before.float(), there) if hidden else None,
        _pooled(_spread(made.behind, there), there) if embedding and made.behind is not None else None,
        _spread(said.tempered, there) if temperatures else None,
        stacked(routed, len(ids)) if routed else None,
    )


@dataclass(frozen=True)
class _Said:
    """Of N tokens; see View."""

    logp: Tensor
    entropy: Tensor
    tempered: Tensor
    dist: Tensor | None
    kept: Kept | None


def _said(
    outputs: Outputs, chosen: Tensor, temperature: float, temperatures: Sequence[float], kept: Kept | Keeping | None
) -> _Said:
    sharpness = [1 / temperature, *(1 / (temperature * t) for t in temperatures)]
    if isinstance(kept, Keeping):
        kept = _likeliest(outputs, chosen, temperature, kept)
    index = chosen[:, None] if kept is None else torch.cat([chosen[:, None], kept.index], 1)
    found = outputs.read(index, sharpness)
    logp = found.picked - found.normaliser[:, :1]
    return _Said(
        logp[:, 0],
        found.entropy,
        found.picked[:, :1] / found.picked.new_tensor(temperatures) - found.normaliser[:, 1:],
        None if kept is None else logp[:, 1:].masked_fill(~kept.held, ABSENT),
        kept,
    )


@torch.no_grad()
def _likeliest(outputs: Outputs, chosen: Tensor, temperature: float, keeping: Keeping) -> Kept:
    normaliser = outputs.read(chosen[:, None], (1 / temperature,)).normaliser
    ranked, index = outputs.likeliest(keeping.count)
    return Kept.of(ranked / temperature - normaliser, index, chosen, keeping.mass)


def _each(kept: Kept, change: Callable[[Tensor], Tensor]) -> Kept:
    return Kept(*(change(x) for x in (kept.index, kept.held, kept.action)))


def _spread(found: Tensor, there: Tensor) -> Tensor:
    """Values [N, ...] in their places of [B, T, ...]; 0 elsewhere."""
    whole = found.new_zeros((*there.shape, *found.shape[1:]))
    places = there.nonzero(as_tuple=True)
    return whole.index_put(places, found)


def _routing(model: Any, experts: Tensor | bool) -> AbstractContextManager[Any]:
    """Replays the experts, or writes down which they are, or neither."""
    if isinstance(experts, Tensor):
        return replayed(model, experts)
    return recorded(model) if experts else nullcontext()


def _pooled(states: Tensor, present: Tensor) -> Tensor:
    """Mean of states [B, T, H] where present [B, T]: [B, H]."""
    weights = present[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1)


@torch.no_grad()
def view_all(model: Any, samples: Samples, temperature: float = 1.0, *, replay: bool = False, **options: Any) -> View:
    """As `view`, without gradient and dropout, in as many passes as memory wants, divided among
    the processes. The model's mode is put back.

    replay: the experts that the samples hold, if any, are followed.
    """
    pieces = pieces_of(model, samples, AT_ONCE)

    def one(rows: Tensor) -> View:
        some = samples.take(rows)
        told: dict[str, Any] = {"experts": some.experts} if replay else {}
        return view(model, some.ids, some.attention, samples.mask.shape[1], temperature, **options, **told)

    with evaluating(model):
        each = processes.together(lambda: [one(rows) for rows in pieces.run][pieces.idle :])
    found: View = pieces.in_order([part for some in each for part in some])
    return found
