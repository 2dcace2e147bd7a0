"""What the models make of a batch: before the first gradient step, and at every one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import tightrein as tr
from tightrein.anchor.reference import Frozen
from tightrein.engines.language.experience.batch import Batch, fields_of, take
from tightrein.engines.language.experience.masking import masking_of
from tightrein.engines.language.experience.texts import formulas, signatures
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.passes.views import Keeping, Kept, View, view, view_all
from tightrein.engines.language.sampling.sampler import Samples
from tightrein.engines.language.training.critic import Critic
from tightrein.errors import TightreinError


@dataclass(frozen=True)
class Work:
    """A batch with all that the method reads of it, for the length of an update.

    masked: the same answers to prompts of which a part is hidden, where the method looks at these too.
    """

    samples: Samples
    decisions: tr.Decisions
    kept: Kept | None = None
    masked: Samples | None = None

    def take(self, rows: Tensor) -> Work:
        """The part of it in these rows."""
        kept = None if self.kept is None else self.kept.take(rows)
        masked = None if self.masked is None else self.masked.take(rows)
        return Work(self.samples.take(rows), take(self.decisions, rows), kept, masked)


EVERYTHING = Keeping(2**31, 2.0)
# Fields that one forward pass of the old policy fills, and what `view` calls them.
OF_THE_OLD = {
    "value_old": "value", "dist_old": "dist", "entropy_old": "entropy", "hidden": "hidden", "embedding": "embedding",
    "logp_tempered": "tempered",
}  # fmt: skip


class Observer:
    """Fills the fields of Decisions that the method reads and that come from a model or from the tokens.

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
        self._temperatures = temperatures_of(method)
        self._masking = masking_of(method)

    def before(self, batch: Batch, generator: torch.Generator) -> Work:
        """The batch with what is read of the policy as it is before the first step, and of the reference.

        What the batch already holds stays, but for old log-probabilities of rows that the policy did not sample, and
        where they are told apart from those of the sampler.
        """
        d, kept, missing = batch.decisions, None, self._wanted - fields_of(batch.decisions).keys()
        if "random" in missing:
            d = d.replace(random=torch.rand(batch.samples.mask.shape, generator=generator).to(self._policy.device))
        if "token" in missing:
            d = d.replace(token=batch.samples.completions)
        if "signature" in missing:
            d = d.replace(signature=signatures(self._policy, batch.samples))
        if "formula" in missing:
            d = d.replace(formula=formulas(self._policy, batch.samples))
        if "logp_ref" in missing:
            d = d.replace(logp_ref=self._referred(batch.samples))
        apart = {"logp_old", "logp_behaviour"} <= self._wanted
        unknown = bool({"logp_old", "logp_behaviour"} & self._wanted) and bool(batch.written.any())
        if apart or unknown or missing & OF_THE_OLD.keys():
            seen = view_all(
                self._policy.model, batch.samples, self._temperature, replay=True,
                head=self._critic if "value_old" in missing else None,
                kept=self._keeping if "dist_old" in missing else None,
                hidden="hidden" in missing, embedding="embedding" in missing,
                temperatures=self._temperatures if "logp_tempered" in missing else (),
            )  # fmt: skip
            d, kept = self._with_old(batch, d, seen, apart), seen.kept
        if self._masking is None:
            return Work(batch.samples, d, kept)
        masked = self._masking(batch.samples, self._policy, generator)
        if self._masking.through:
            return Work(batch.samples, d, kept, masked)
        return Work(
            batch.samples, d.replace(logp_masked=view_all(self._policy.model, masked, self._temperature).logp), kept
        )

    def now(self, work: Work) -> tr.Decisions:
        """The decisions with what the present policy makes of them; it carries the gradient."""
        s = work.samples
        seen = view(
            self._policy.model, s.ids, s.attention, s.mask.shape[1], self._temperature,
            kept=work.kept if "dist" in self._needs else None,
            entropy_gradient="entropy" in self._needs, head=self._critic if "value" in self._needs else None,
            experts=s.experts,
        )  # fmt: skip
        now = work.decisions.replace(logp=seen.logp, entropy=seen.entropy, value=seen.value, dist=seen.dist)
        if work.masked is not None:
            m = work.masked
            again = view(self._policy.model, m.ids, m.attention, m.mask.shape[1], self._temperature)
            now = now.replace(logp_masked=again.logp)
        return now

    def referred(self, work: Work) -> Work:
        """The same with what the reference says as it is now, where it moves."""
        if not self.moves:
            return work
        return replace(work, decisions=work.decisions.replace(logp_ref=self._referred(work.samples)))

    def _referred(self, samples: Samples) -> Tensor:
        return view_all(self._reference, samples, self._temperature).logp

    def _with_old(self, batch: Batch, d: tr.Decisions, seen: View, apart: bool) -> tr.Decisions:
        have = fields_of(d).keys()
        found: dict[str, Any] = {name: getattr(seen, called) for name, called in OF_THE_OLD.items()}
        if seen.value is not None:
            found["bootstrap"] = torch.zeros_like(batch.written)  # an answer that the limit cut is over, too
        if seen.kept is not None:
            found |= {"action": seen.kept.action, "alternative": seen.kept.index}
        found = {name: field for name, field in found.items() if name not in have and field is not None}
        written = batch.written[:, None] != 0
        for name in {"logp_old", "logp_behaviour"} & self._wanted:
            sampled = seen.logp if apart and name == "logp_old" else batch.samples.logp
            found[name] = torch.where(written, seen.logp, sampled)
        return d.replace(**found)


def temperatures_of(method: Any) -> tuple[float, ...]:
    """The temperatures, relative to the run's own, at which a part of the method wants the old policy."""
    asked = {tuple(part.temperatures) for _, part in method.walk() if getattr(part, "temperatures", ())}
    if len(asked) > 1:
        raise TightreinError(f"parts of {method.key} ask for different temperatures", "give them the same")
    return next(iter(asked), ())
