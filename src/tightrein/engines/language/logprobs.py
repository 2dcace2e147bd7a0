"""Log-probabilities, values and distributions of completions under a model: the one place where they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tightrein.distributions import Categorical
from tightrein.engines.language.routing import recorded, replayed, stacked
from tightrein.engines.language.sampling import Samples, positions_of

ABSENT = -27.6  # log-probability (about 1e-12) given to the slots of tokens that are not kept
LOGITS = 2**27  # in one forward pass without gradient, at most


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
    def of(cls, everything: Tensor, chosen: Tensor, keeping: Keeping) -> Kept:
        """Those with the old policy's mass, and the chosen one in any case.

        everything: [B, T, V] log-probabilities of the old policy. chosen: [B, T] token ids.
        """
        ranked, index = everything.topk(min(keeping.count, everything.shape[-1]), -1)
        probability = ranked.exp()
        held = probability.cumsum(-1) - probability < keeping.mass
        same = index == chosen[..., None]
        index[..., -1] = torch.where(same.any(-1), index[..., -1], chosen)
        same = index == chosen[..., None]
        return cls(index, held | same, same.int().argmax(-1))

    def distribution(self, everything: Tensor) -> Categorical:
        """The distribution over the kept tokens, from log-probabilities [B, T, V] of all."""
        return Categorical(everything.gather(-1, self.index).masked_fill(~self.held, ABSENT))

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
    """One forward pass; T = `span` tokens at the end of `ids` [B, L] are the decisions.

    attention: [B, L]. Probabilities are those of softmax(logits / temperature), in float32. The entropy carries a
    gradient only if asked for, as keeping what its backward needs costs memory. head: values from the hidden states
    [B, T, H] of the positions at which the decisions are made. kept: the tokens of `dist`, or how many. hidden: those
    states themselves. embedding: the mean state behind the tokens of the answer. temperatures: relative to
    `temperature`, those of `tempered`. experts: those of Samples, to be followed; True: to be written down.
    """
    with _output_layer(model, head is not None or hidden or embedding) as reads, _routing(model, experts) as routed:
        output = model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=positions_of(attention),
            use_cache=False,
            logits_to_keep=span + 1,
        )
    states = reads[-1][:, -span - 1 :] if reads else None
    everything = torch.log_softmax(output.logits[:, :-1].float() / temperature, -1)
    chosen = ids[:, -span:]
    if isinstance(kept, Keeping):
        kept = Kept.of(everything, chosen, kept)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(everything.exp() * everything).sum(-1)
    logp = everything.gather(2, chosen[..., None])[..., 0]
    return View(
        logp,
        entropy,
        None if head is None or states is None else head(states[:, :-1]),
        None if kept is None else kept.distribution(everything),
        kept,
        states[:, :-1].float() if hidden and states is not None else None,
        _pooled(states[:, 1:], attention[:, -span:]) if embedding and states is not None else None,
        torch.stack([_tempered(everything, logp, t) for t in temperatures], -1) if temperatures else None,
        stacked(routed, len(ids)) if routed else None,
    )


def _routing(model: Any, experts: Tensor | bool) -> AbstractContextManager[Any]:
    """Replays the experts, or writes down which they are, or neither."""
    if isinstance(experts, Tensor):
        return replayed(model, experts)
    return recorded(model) if experts else nullcontext()


@contextmanager
def _output_layer(model: Any, wanted: bool) -> Iterator[list[Tensor]]:
    """What the model's output layer reads, the states of the last layer and of no other, pass after pass."""
    reads: list[Tensor] = []
    if not wanted:
        yield reads
        return
    layer = model.get_output_embeddings()
    hook = layer.register_forward_pre_hook(lambda _, inputs: reads.append(inputs[0]))
    try:
        yield reads
    finally:
        hook.remove()


def _pooled(states: Tensor, present: Tensor) -> Tensor:
    """Mean of states [B, T, H] where present [B, T]: [B, H]."""
    weights = present[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1)


def _tempered(everything: Tensor, logp: Tensor, temperature: float) -> Tensor:
    """log-softmax(everything / temperature) of the tokens chosen, of which `logp` [B, T] is that at 1: [B, T]."""
    return logp / temperature - (everything / temperature).logsumexp(-1)


@torch.no_grad()
def view_all(model: Any, samples: Samples, temperature: float = 1.0, *, replay: bool = False, **options: Any) -> View:
    """As `view`, without gradient and dropout, in as many passes as memory wants. The model's mode is put back.

    replay: the experts that the samples hold, if any, are followed.
    """
    size, span = samples.mask.shape
    at_once = max(1, LOGITS // (span * int(model.config.get_text_config().vocab_size)))
    training = model.training
    model.eval()
    try:
        rows = torch.arange(size, device=samples.mask.device)
        some = [samples.take(rows[start : start + at_once]) for start in range(0, size, at_once)]
        told: list[dict[str, Any]] = [{"experts": s.experts} if replay else {} for s in some]
        each = zip(some, told, strict=True)
        seen: View = _together([view(model, s.ids, s.attention, span, temperature, **options, **e) for s, e in each])
        return seen
    finally:
        model.train(training)


def _together(parts: list[Any]) -> Any:
    """Dataclasses of tensors as one, row after row."""
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    names = [f.name for f in fields(parts[0])]
    return type(parts[0])(*(_together([getattr(part, name) for part in parts]) for name in names))
