"""Gradient steps on a batch of experience."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tightrein as tr
from tightrein.engines.language.experience import Batch, take
from tightrein.engines.language.logprobs import logprobs
from tightrein.engines.language.models import Policy
from tightrein.engines.language.sampling import Samples
from tightrein.errors import TightreinError

CHECKED = 8  # rows whose sampled log-probabilities are compared with a fresh forward pass


class Learner:
    """The method, its optimizer and its state, on one policy.

    reference: the model whose log-probabilities are `logp_ref`, where the method reads them.
    """

    def __init__(
        self, policy: Policy, method: Any, epochs: int, minibatches: int, temperature: float, steps: int,
        reference: Any = None,
    ) -> None:  # fmt: skip
        self._policy, self._method, self.reference = policy, method, reference
        self._epochs, self._minibatches, self._temperature = epochs, minibatches, temperature
        self.optimizer, self.schedule = method.step.torch(policy.trained, steps)
        self.state: dict[str, Any] = dict(method.init())

    def update(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """All epochs and minibatches of an iteration, and the method's own update; returns means of the stats.

        Raises:
            TightreinError: a loss that is not finite; the parameters are still those of the step before.
        """
        decisions = self._method.prepare(self._observed(batch), self.state)
        stats: list[dict[str, float]] = []
        for _ in range(self._epochs):
            order = torch.randperm(decisions.mask.shape[0], generator=generator).to(decisions.mask.device)
            stats += [self._step(batch, decisions, rows) for rows in order.chunk(self._minibatches)]
        if self._method.stateful:
            self._update_state(batch, decisions)
        return {name: sum(each[name] for each in stats) / len(stats) for name in stats[-1]}

    def check(self, batch: Batch, *, everything: bool = False) -> float:
        """Largest difference between sampled log-probabilities and those of a fresh forward pass, on some rows."""
        size = batch.samples.mask.shape[0]
        count = size if everything else min(size, CHECKED)
        rows = torch.linspace(0, size - 1, count).long().to(batch.samples.mask.device)
        samples = batch.samples.take(rows)
        training = self._policy.model.training
        self._policy.model.eval()
        with torch.no_grad():
            logp, _ = self._forward(self._policy.model, samples)
        self._policy.model.train(training)
        return float(((logp - samples.logp).abs() * samples.mask).max())

    def _observed(self, batch: Batch) -> tr.Decisions:
        """The decisions with what the frozen models make of them."""
        if self.reference is None:
            return batch.decisions
        self.reference.eval()
        with torch.no_grad():
            return batch.decisions.replace(logp_ref=self._forward(self.reference, batch.samples)[0])

    def _forward(self, model: Any, samples: Samples, **options: Any) -> tuple[Tensor, Tensor]:
        return logprobs(
            model, samples.ids, samples.attention, samples.mask.shape[1], self._temperature, **options
        )

    def _step(self, batch: Batch, decisions: tr.Decisions, rows: Tensor) -> dict[str, float]:
        loss = self._method.loss(self._seen(batch, decisions, rows), self.state)
        value = float(loss.value.detach())
        self.optimizer.zero_grad()
        if loss.value.requires_grad:
            loss.value.backward()
        limit = self._method.step.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self._policy.trained, float("inf") if limit is None else limit)
        if not (torch.isfinite(loss.value.detach()) and torch.isfinite(norm)):
            raise TightreinError(
                f"the loss is {value}, the norm of its gradient {float(norm)}; the last checkpoint is intact",
                "lower --learning-rate or set step.max_grad_norm, then go on with --resume or start again",
            )
        self.optimizer.step()
        self.schedule.step()
        return {"loss": value, "grad_norm": float(norm), **{name: float(x) for name, x in loss.stats.items()}}

    def _seen(self, batch: Batch, decisions: tr.Decisions, rows: Tensor) -> tr.Decisions:
        """The decisions at these rows, with what the present policy makes of them."""
        samples = batch.samples.take(rows)
        logp, entropy = self._forward(
            self._policy.model, samples, entropy_gradient="entropy" in self._method.needs
        )
        return take(decisions, rows).replace(logp=logp, entropy=entropy)

    def _update_state(self, batch: Batch, decisions: tr.Decisions) -> None:
        with torch.no_grad():
            after = self._seen(batch, decisions, torch.arange(decisions.mask.shape[0], device=decisions.mask.device))
        self.state = dict(self._method.update(self.state, after))
