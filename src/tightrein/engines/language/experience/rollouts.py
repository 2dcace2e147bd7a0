"""The answers that training learns from, one batch for each update, late if a run asks for that."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language.experience.ahead import Ahead
from tightrein.engines.language.experience.batch import Batch, fields_of
from tightrein.engines.language.experience.memory import Memory
from tightrein.engines.language.experience.rollout import Collector, warmed
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.passes.views import view_all
from tightrein.engines.language.sampling.sampler import Samples
from tightrein.engines.language.tasks.stream import Stream
from tightrein.engines.language.training import state as states
from tightrein.engines.language.training.checkpointing import under, within

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine(Protocol):
    """Another program that samples as `sampler.sample` does, with weights of its own: see sampling/vllm."""

    def follow(self, policy: Policy) -> None:
        """Takes over the policy's present weights."""
        ...

    def __call__(self, *given: Any, **named: Any) -> Samples:
        """See `sampler.sample`."""
        ...


@dataclass(frozen=True)
class _Late:
    """A batch, the update at which it was sampled, and the seconds that took (of a resumed run, not known)."""

    update: int
    batch: Batch
    seconds: float = math.nan


@dataclass(frozen=True)
class _Begun:
    """What a batch is sampled from beside the weights, so that one that fails can be sampled again."""

    update: int
    state: Mapping[str, Any]
    generator: Tensor
    cursor: int


class Rollouts:
    """Answers of the policy to the stream's prompts (see Experience).

    lag: so many updates pass between sampling a batch and learning from it; the first batches are all sampled by the
    untrained policy. beside: with a lag, the next batch is sampled while this one is learned from, on a thread of its
    own and by a copy of the weights; else in line, and all batches are the same. dtype: precision of that copy; below
    float32 there always is one. engine: samples in place of the model's own code, with weights of its own in place of
    the copy. memory: of the last answers, where the method reads how far the policy has drifted from them. routing:
    "old" writes down the experts that the policy uses before it learns (the sampler's own come with the answers). On a
    GPU both threads put their work on one stream, so that neither reads what the other still writes.
    """

    def __init__(
        self, collector: Collector, stream: Stream, seed: int, *, lag: int = 0, dtype: str = "float32",
        routing: str = "free", beside: bool = True, engine: Engine | None = None,
    ) -> None:  # fmt: skip
        self._routing = routing
        self._policy, self._collector, self._stream, self._lag = collector.policy, collector, stream, lag
        self._beside = beside and lag > 0
        self._engine, self._sampler = engine, None
        self._exact = engine is None and dtype == "float32"
        if engine is not None:  # texts are read beside the training, by a tokenizer of its own
            reader = dataclasses.replace(self._policy, tokenizer=copy.deepcopy(self._policy.tokenizer))
            self._collector = dataclasses.replace(collector, policy=reader, sampling=engine)
        elif self._beside or not self._exact:
            self._sampler = _copied(self._policy, DTYPES[dtype])
            self._collector = dataclasses.replace(collector, policy=self._sampler)
        asked = collector.method.needs | collector.method.prepare_needs
        self._dates = "staleness" in asked
        self._memory = Memory() if "drift" in asked else None
        self._generator = torch.Generator(self._policy.device).manual_seed(seed)
        self._waiting: deque[_Late] = deque()
        self._ahead: Ahead[_Late] = Ahead()
        self._begun: _Begun | None = None  # the batch under way, or the one that failed
        self._failed: dict[str, Any] = {}  # as saved: of the run that is resumed
        self._waited = 0.0

    def next(self, update: int, state: Mapping[str, Any]) -> Batch:
        """See Experience."""
        if self._beside:
            self._finish(state)
        while len(self._waiting) < self._lag + (not self._beside):
            self._follow()
            self._waiting.append(self._sampling(update, state)())
        if self._beside:
            self._follow()
            self._begin(update, copy.deepcopy(dict(state)))
        late = self._waiting.popleft()
        batch = late.batch
        decisions = batch.decisions
        if self._dates:
            decisions = decisions.replace(staleness=torch.full_like(batch.samples.mask, float(update - late.update)))
        if self._memory is not None:
            decoding = self._collector.decoding
            drift = self._memory.drift(self._policy, decisions.prompt, decoding.temperature, decoding.pad_id)
            decisions = decisions.replace(drift=drift)
            self._memory.keep(batch)
        exact = self._exact and late.update == update
        samples = self._routed(batch.samples) if self._routing == "old" else batch.samples
        figures = {**batch.figures, **self._times(late)}
        return dataclasses.replace(batch, samples=samples, decisions=decisions, exact=exact, figures=figures)

    def settle(self) -> None:
        """See Experience. What went wrong in the batch under way, `next` raises."""
        if self._begun is None:
            return
        self._waited += self._ahead.wait()
        if not self._ahead.failed:
            self._waiting.append(self._ahead.result())
            self._begun = None

    def arrays(self) -> dict[str, Any]:
        """See Experience. Waits for the batch under way; in place of one that failed, what it was sampled from."""
        self.settle()
        arrays = {"generator": self._generator.get_state().numpy(), "cursor": np.asarray(self._stream.cursor)}
        if self._begun is not None:
            arrays = {"generator": self._begun.generator.numpy(), "cursor": np.asarray(self._begun.cursor)}
        arrays |= under("failed.", self._failed if self._begun is None else self._unmade(self._begun))
        for place, late in enumerate(self._waiting):
            arrays |= under(f"waiting.{place}.", {"update": np.asarray(late.update), **_to_arrays(late.batch)})
        return arrays if self._memory is None else {**arrays, **under("memory.", self._memory.arrays())}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """See Experience."""
        self._generator.set_state(torch.from_numpy(arrays["generator"].copy()))
        self._stream.cursor = int(arrays["cursor"])
        self._failed = within(arrays, "failed.")
        places = sorted({int(name.split(".")[1]) for name in arrays if name.startswith("waiting.")})
        for place in places:
            saved = within(arrays, f"waiting.{place}.")
            self._waiting.append(_Late(int(saved["update"]), _from_arrays(saved, self._policy.device)))
        if self._memory is not None:
            self._memory.restore(within(arrays, "memory."))

    def _finish(self, state: Mapping[str, Any]) -> None:
        """Takes what the thread has sampled, and raises what it raised."""
        if self._failed:
            self._repeat(self._failed, state)
            self._failed = {}
        self.settle()
        if self._begun is not None:
            self._ahead.result()

    def _begin(self, update: int, state: Mapping[str, Any]) -> None:
        self._begun = _Begun(update, state, self._generator.get_state(), self._stream.cursor)
        self._ahead.begin(self._sampling(update, state))

    def _repeat(self, saved: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Samples the batch again that had failed; state: one of the same form as that of then."""
        assert self._sampler is not None
        _restore(self._sampler, within(saved, "weights."))
        then = states.from_arrays(state, within(saved, "state."), self._policy.device)
        self._begin(int(saved["update"]), then)

    def _unmade(self, begun: _Begun) -> dict[str, Any]:
        """What `_repeat` reads. Weights are not got back from an engine: its batch is sampled anew, by later ones."""
        if self._sampler is None:
            return {}
        trained = [name for name, p in self._policy.model.named_parameters() if p.requires_grad]
        return {
            "update": np.asarray(begun.update),
            **under("state.", states.to_arrays(begun.state)),
            **under("weights.", _weights(self._sampler, trained)),
        }

    def _times(self, late: _Late) -> dict[str, float]:
        """Seconds that training has waited since the batch before, and that sampling this one took: of a thread."""
        if not self._beside:
            return {}
        waited, self._waited = self._waited, 0.0
        return {"waited": waited, "sampling_seconds": late.seconds}

    def _routed(self, samples: Samples) -> Samples:
        seen: Any = view_all(self._policy.model, samples, experts=True)
        return dataclasses.replace(samples, experts=seen.experts)

    def _follow(self) -> None:
        """Gives the sampler the present weights; nothing may be under way."""
        if self._engine is not None:
            self._engine.follow(self._policy)
        elif self._sampler is not None:
            _copy_into(self._sampler.model, self._policy.model)

    def _sampling(self, update: int, state: Mapping[str, Any]) -> Callable[[], _Late]:
        """The call that samples a batch. It holds nothing that training changes, and not this object."""
        warmth = warmth_of(self._collector.method, state)
        decoding = dataclasses.replace(self._collector.decoding, warmth=warmth)
        collector = dataclasses.replace(self._collector, decoding=decoding)
        stream, generator = self._stream, self._generator

        def sampled() -> _Late:
            began = time.monotonic()
            batch = collector.collect(lambda count: stream.draw(count, state), generator)
            return _Late(update, batch, time.monotonic() - began)

        return sampled


def warmth_of(method: Any, state: Mapping[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """What the method wants the temperature of each token to be multiplied by, from the entropies; None: nothing."""
    found = warmed(method)
    if found is None:
        return None
    path, part = found
    return lambda entropy: part.temperature(entropy, state[path])


def _copied(policy: Policy, dtype: torch.dtype) -> Policy:
    """The policy with a model of its own in this precision, and a tokenizer; frozen weights it shares where it can.

    What is trained is marked so in the copy too: kernels are chosen by that, and round otherwise.
    """
    shared = {id(p): p for p in policy.model.parameters() if not p.requires_grad and p.dtype == dtype}
    model = copy.deepcopy(policy.model, dict(shared)).to(dtype).eval()
    return dataclasses.replace(policy, model=model, tokenizer=copy.deepcopy(policy.tokenizer))


@torch.no_grad()
def _copy_into(sampler: Any, model: Any) -> None:
    for theirs, ours in zip(sampler.parameters(), model.parameters(), strict=True):
        if theirs is not ours:
            theirs.copy_(ours)


def _weights(sampler: Policy, names: list[str]) -> dict[str, Any]:
    """Those of the sampler, widened to float32, which is exact."""
    parameters = dict(sampler.model.named_parameters())
    return {name: parameters[name].detach().float().cpu().numpy() for name in names}


@torch.no_grad()
def _restore(sampler: Policy, weights: Mapping[str, Any]) -> None:
    for name, parameter in sampler.model.named_parameters():
        if name in weights:
            parameter.copy_(torch.from_numpy(weights[name].copy()))


def _to_arrays(batch: Batch) -> dict[str, Any]:
    samples = {f.name: getattr(batch.samples, f.name) for f in dataclasses.fields(Samples)}
    parts = {"samples.": samples, "decisions.": fields_of(batch.decisions)}
    arrays = {prefix + name: x.cpu().numpy() for prefix, part in parts.items() for name, x in part.items()}
    return {**arrays, **under("figures.", {name: np.asarray(x) for name, x in batch.figures.items()})}


def _from_arrays(arrays: Mapping[str, Any], device: torch.device) -> Batch:
    def tensors(prefix: str) -> dict[str, Any]:
        return {name: torch.from_numpy(x.copy()).to(device) for name, x in within(arrays, prefix).items()}

    figures = {name: float(x) for name, x in within(arrays, "figures.").items()}
    return Batch(Samples(**tensors("samples.")), tr.Decisions(**tensors("decisions.")), figures)
