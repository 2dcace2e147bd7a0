"""The answers that training learns from, one batch for each update, late if a run asks for that."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language.experience.batch import Batch, fields_of
from tightrein.engines.language.experience.memory import Memory
from tightrein.engines.language.experience.rollout import Collector
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.passes.views import view_all
from tightrein.engines.language.sampling.sampler import Samples
from tightrein.engines.language.tasks.stream import Stream
from tightrein.engines.language.training.checkpointing import under, within

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Rollouts:
    """Answers of the policy to the stream's prompts (see Experience).

    lag: so many updates pass between sampling a batch and learning from it; the first batches are all sampled by the
    untrained policy. dtype: precision of the sampler's own copy of the weights; float32: it has none. memory: of the
    last answers, where the method reads how far the policy has drifted from them. routing: "old" writes down the
    experts that the policy uses before it learns (the sampler's own come with the answers).
    """

    def __init__(
        self, collector: Collector, stream: Stream, seed: int, *, lag: int = 0, dtype: str = "float32",
        routing: str = "free",
    ) -> None:  # fmt: skip
        self._routing = routing
        self._policy, self._collector, self._stream, self._lag = collector.policy, collector, stream, lag
        self._sampler = None if dtype == "float32" else _copied(self._policy, DTYPES[dtype])
        if self._sampler is not None:
            self._collector = dataclasses.replace(collector, policy=self._sampler)
        asked = collector.method.needs | collector.method.prepare_needs
        self._dates = "staleness" in asked
        self._memory = Memory() if "drift" in asked else None
        self._generator = torch.Generator(self._policy.device).manual_seed(seed)
        self._waiting: deque[tuple[int, Batch]] = deque()  # (update at which it was sampled, batch)

    def next(self, update: int, state: Mapping[str, Any]) -> Batch:
        """See Experience."""
        while len(self._waiting) <= self._lag:
            self._waiting.append((update, self._collected(state)))
        sampled, batch = self._waiting.popleft()
        decisions = batch.decisions
        if self._dates:
            decisions = decisions.replace(staleness=torch.full_like(batch.samples.mask, float(update - sampled)))
        if self._memory is not None:
            decoding = self._collector.decoding
            drift = self._memory.drift(self._policy, decisions.prompt, decoding.temperature, decoding.pad_id)
            decisions = decisions.replace(drift=drift)
            self._memory.keep(batch)
        exact = self._sampler is None and sampled == update
        samples = self._routed(batch.samples) if self._routing == "old" else batch.samples
        return dataclasses.replace(batch, samples=samples, decisions=decisions, exact=exact)

    def _routed(self, samples: Samples) -> Samples:
        seen: Any = view_all(self._policy.model, samples, experts=True)
        return dataclasses.replace(samples, experts=seen.experts)

    def arrays(self) -> dict[str, Any]:
        """See Experience."""
        arrays = {"generator": self._generator.get_state().numpy(), "cursor": np.asarray(self._stream.cursor)}
        for place, (update, batch) in enumerate(self._waiting):
            arrays |= under(f"waiting.{place}.", {"update": np.asarray(update), **_to_arrays(batch)})
        return arrays if self._memory is None else {**arrays, **under("memory.", self._memory.arrays())}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """See Experience."""
        self._generator.set_state(torch.from_numpy(arrays["generator"].copy()))
        self._stream.cursor = int(arrays["cursor"])
        places = sorted({int(name.split(".")[1]) for name in arrays if name.startswith("waiting.")})
        for place in places:
            saved = within(arrays, f"waiting.{place}.")
            self._waiting.append((int(saved["update"]), _from_arrays(saved, self._policy.device)))
        if self._memory is not None:
            self._memory.restore(within(arrays, "memory."))

    def _collected(self, state: Mapping[str, Any]) -> Batch:
        if self._sampler is not None:
            _copy_into(self._sampler.model, self._policy.model)
        warmth = warmth_of(self._collector.method, state)
        decoding = dataclasses.replace(self._collector.decoding, warmth=warmth)
        collector = dataclasses.replace(self._collector, decoding=decoding)
        return collector.collect(lambda count: self._stream.draw(count, state), self._generator)


def warmth_of(method: Any, state: Mapping[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """What the method wants the temperature of each token to be multiplied by, from the entropies; None: nothing."""
    for path, part in method.walk():
        if isinstance(part, tr.parts.UncertaintyScale) and part.tau:
            return lambda entropy: part.temperature(entropy, state[path])
    return None


def _copied(policy: Policy, dtype: torch.dtype) -> Policy:
    model = copy.deepcopy(policy.model).to(dtype).eval().requires_grad_(False)
    return dataclasses.replace(policy, model=model)


@torch.no_grad()
def _copy_into(sampler: Any, model: Any) -> None:
    for theirs, ours in zip(sampler.parameters(), model.parameters(), strict=True):
        theirs.copy_(ours)


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
