"""What the models make of a batch: before the first gradient step, and at every one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tightrein as tr
from tightrein.anchor.reference import Frozen
from tightrein.engines.language.critic import Critic
from tightrein.engines.language.experience import Batch, fields_of, take
from tightrein.engines.language.logprobs import Keeping, Kept, View, view, view_all
from tightrein.engines.language.models import Policy
from tightrein.engines.language.sampling import Samples


@dataclass(frozen=True)
class Work:
    """A batch with all that the method reads of it, for the length of an update."""

    samples: Samples
    decisions: tr.Decisions
    kept: Kept | None

    def take(self, rows: Tensor) -> Work:
        """The part of it in these rows."""
        kept = None if self.kept is None else self.kept.take(rows)
        return Work(self.samples.take(rows), take(self.decisions, rows), kept)


EVERYTHING = Keeping(2**31, 2.0)


class Observer:
    """Fills the fields of Decisions that the method reads and that come from a model.

    reference: gives `logp_ref`. critic: gives `value` and `value_old`. Both only where the method reads these.
    """

    def __init__(
        self, policy: Policy, method: Any, temperature: float, reference: Any = None, critic: Critic | None = None
    ) -> None:
        self._policy, self._temperature, self._reference, self._critic = policy, temperature, reference, critic
        self._wanted = method.needs | method.prepare_needs
        self._needs = method.needs
        self.moves = reference is not None and not isinstance(method.anchor, Frozen)
        kept = [part for _, part in method.walk() if getattr(part, "top_k", 0)]
        self._keeping = Keeping(max(p.top_k for p in kept), max(p.mass for p in kept)) if kept else EVERYTHING

    def before(self, batch: Batch, generator: torch.Generator) -> Work:
        """The batch with what is read of the policy as it is before the first step, and of the reference.

        What the batch already holds stays, but for old log-probabilities of rows that the policy did not sample, and
        where they are told apart from those of the sampler.
        """
        d, kept, missing = batch.decisions, None, self._wanted - fields_of(batch.decisions).keys()
        if "random" in missing:
            d = d.replace(random=torch.rand(batch.samples.mask.shape, generator=generator).to(self._policy.device))
        if "logp_ref" in missing:
            d = d.replace(logp_ref=self._referred(batch.samples))
        apart = {"logp_old", "logp_behaviour"} <= self._wanted
        unknown = bool({"logp_old", "logp_behaviour"} & self._wanted) and bool(batch.written.any())
        if apart or unknown or missing & {"value_old", "dist_old", "entropy_old"}:
            seen = view_all(
                self._policy.model, batch.samples, self._temperature,
                head=self._critic if "value_old" in missing else None,
                kept=self._keeping if "dist_old" in missing else None,
            )  # fmt: skip
            d, kept = self._with_old(batch, d, seen, apart), seen.kept
        return Work(batch.samples, d, kept)

    def now(self, work: Work) -> tr.Decisions:
        """The decisions with what the present policy makes of them; it carries the gradient."""
        s = work.samples
        seen = view(
            self._policy.model, s.ids, s.attention, s.mask.shape[1], self._temperature, kept=work.kept,
            entropy_gradient="entropy" in self._needs, head=self._critic if "value" in self._needs else None,
        )  # fmt: skip
        now = work.decisions.replace(logp=seen.logp, entropy=seen.entropy, value=seen.value, dist=seen.dist)
        return now.replace(logp_ref=self._referred(s)) if self.moves else now

    def _referred(self, samples: Samples) -> Tensor:
        return view_all(self._reference, samples, self._temperature).logp

    def _with_old(self, batch: Batch, d: tr.Decisions, seen: View, apart: bool) -> tr.Decisions:
        have = fields_of(d).keys()
        found: dict[str, Any] = {"value_old": seen.value, "dist_old": seen.dist, "entropy_old": seen.entropy}
        if seen.value is not None:
            found["bootstrap"] = torch.zeros_like(batch.written)  # an answer that the limit cut is over, too
        if seen.kept is not None:
            found["action"] = seen.kept.action
        found = {name: field for name, field in found.items() if name not in have and field is not None}
        written = batch.written[:, None] != 0
        for name in {"logp_old", "logp_behaviour"} & self._wanted:
            sampled = seen.logp if apart and name == "logp_old" else batch.samples.logp
            found[name] = torch.where(written, seen.logp, sampled)
        return d.replace(**found)
