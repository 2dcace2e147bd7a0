"""Gradient steps on a batch of experience."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import torch
from torch import Tensor

import tightrein as tr
from tightrein.arrays import masked_mean
from tightrein.engines.language import processes
from tightrein.engines.language.config import Plan
from tightrein.engines.language.experience.batch import Batch
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.passes.pieces import Pieces, pieces_of
from tightrein.engines.language.passes.views import view_all
from tightrein.engines.language.training import gradients
from tightrein.engines.language.training import state as states
from tightrein.engines.language.training.critic import Critic
from tightrein.engines.language.training.minibatches import minibatches
from tightrein.engines.language.training.observe import Observer, Work
from tightrein.errors import TightreinError
from tightrein.objective.base import detached

CHECKED = 8  # rows whose sampled log-probabilities are compared with a fresh forward pass


class Learner:
    """The method, its optimizer and its state, on one policy.

    reference: the model whose log-probabilities are `logp_ref`, where the method reads them. critic: where it reads
    values. prompts: how many there are, for what the method remembers of each.
    """

    def __init__(
        self, policy: Policy, method: Any, plan: Plan, temperature: float, *, prompts: int = 0, reference: Any = None,
        critic: Critic | None = None,
    ) -> None:  # fmt: skip
        self._policy, self._method, self._plan, self._temperature = policy, method, plan, temperature
        self.reference, self.critic = reference, critic
        self._observer = Observer(policy, method, temperature, reference, critic)
        self._at_once = plan.tokens_at_once
        self.optimizer, self.schedule = method.step.torch(policy.trained, plan.gradient_steps, policy.out_axes)
        self.state: dict[str, Any] = states.start(method, prompts, policy.device)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self._policy.device

    @property
    def moves(self) -> bool:
        """Whether the reference follows the policy."""
        return self._observer.moves

    def update(self, batch: Batch, generator: torch.Generator, progress: float = 0.0) -> dict[str, float]:
        """All epochs and minibatches of an iteration, and the method's own update; returns means of the stats.

        progress: share of the training that is done by then, in [0, 1].

        Raises:
            TightreinError: a loss that is not finite; the parameters are still those of the step before.
        """
        work = self._prepared(batch, generator)
        stats = [self._step(work.take(rows), progress) for rows in self._minibatches(work, generator)]
        if self._method.stateful:
            after = gradients.look(self._seen(work), self._pieces(work))
            self.state = dict(self._method.update(self.state, after, progress, every_step=False))
        return {**_means(stats), **self._selected(batch, work)}

    def fit_values(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """All epochs and minibatches for the critic alone; the policy stays as it is."""
        work = self._prepared(batch, generator)
        return _means([self._value_step(work.take(rows)) for rows in self._minibatches(work, generator)])

    def check(self, batch: Batch, *, everything: bool = False) -> float:
        """Largest difference between sampled log-probabilities and those of a fresh forward pass, on some rows."""
        sampled = (batch.written == 0).nonzero()[:, 0]
        count = len(sampled) if everything else min(len(sampled), CHECKED)
        samples = batch.samples.take(sampled[torch.linspace(0, len(sampled) - 1, count).long().to(sampled.device)])
        logp = view_all(self._policy.model, samples, self._temperature).logp
        return float(((logp - samples.logp).abs() * samples.mask).max())

    def _prepared(self, batch: Batch, generator: torch.Generator) -> Work:
        work = self._observer.before(batch, generator)
        return dataclasses.replace(work, decisions=self._method.prepare(work.decisions, self.state))

    def _selected(self, batch: Batch, work: Work) -> dict[str, float]:
        """Share of the decisions that the method's selection left, where it has one."""
        if not self._method.selection:
            return {}
        return {"selected": float(work.decisions.mask.sum() / batch.samples.mask.sum())}

    def _minibatches(self, work: Work, generator: torch.Generator) -> list[Tensor]:
        group, whole = work.decisions.group, self._method.objective.whole_groups
        each = (minibatches(group, self._plan.minibatches, generator, whole=whole) for _ in range(self._plan.epochs))
        return [rows for epoch in each for rows in epoch]

    def _step(self, work: Work, progress: float) -> dict[str, float]:
        loss, d = self._slope(work)
        value = float(loss.value.detach())
        scale = self.optimizer.param_groups[0]["lr"] / self.schedule.base_lrs[0]
        self.optimizer.step()
        if self.critic is not None:
            self.critic.step(scale)
        self.schedule.step()
        self._follow(self.schedule.last_epoch)
        if self._method.restless:
            self.state = dict(self._method.update(self.state, detached(d), progress, every_step=True))
        return {"loss": value, **self.optimizer.figures, **{name: float(x) for name, x in loss.stats.items()}}

    def _slope(self, work: Work) -> tuple[Any, tr.Decisions]:
        """The loss and what it was computed of, its gradient in the parameters; in as many pieces as memory wants."""
        for optimizer in (self.optimizer, *([] if self.critic is None else [self.critic.optimizer])):
            optimizer.zero_grad()
        try:
            found = gradients.backward(self._seen(work), self._pieces(work), self._loss)
            processes.sum_gradients(self._moved)
            return found
        except (RuntimeError, MemoryError) as error:
            if not gradients.out_of_memory(error):
                raise
        self._at_once = gradients.halved(min(self._at_once, work.samples.ids.numel()))
        warnings.warn(f"out of memory; from here on at most {self._at_once} tokens are run at once", stacklevel=2)
        return self._slope(work)

    def _seen(self, work: Work) -> gradients.Now:
        known = self._observer.referred(work)
        return lambda rows: self._observer.now(known.take(rows))

    def _pieces(self, work: Work) -> Pieces:
        return pieces_of(self._policy.model, work.samples, self._at_once)

    @property
    def _moved(self) -> list[Tensor]:
        """All parameters that a gradient step moves."""
        return [*self._policy.trained, *([] if self.critic is None else self.critic.head.parameters())]

    def _loss(self, d: tr.Decisions) -> Any:
        loss = self._method.loss(d, self.state)
        value = float(loss.value.detach())
        if not math.isfinite(value):
            raise TightreinError(
                f"the loss is {value}; the last checkpoint is intact",
                "lower --learning-rate or set step.max_grad_norm, then go on with --resume or start again",
            )
        return loss

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Moves the reference towards the policy, where the method wants it to follow."""
        weight = self._method.anchor.mix(step) if self.moves else 0.0
        if weight:
            for held, present in zip(self.reference.parameters(), self._policy.model.parameters(), strict=True):
                held.lerp_(present, weight)

    def _value_step(self, work: Work) -> dict[str, float]:
        """A step of the critic on the hidden states as they are."""
        objective, critic = self._method.objective, self.critic
        if critic is None:
            raise TightreinError(f"{self._method.key} has no value estimate to fit", "set training.value_pretraining=0")
        hidden: Any = view_all(self._policy.model, work.samples, self._temperature, head=lambda states: states).value
        d = work.decisions.replace(value=critic(hidden))
        loss = masked_mean(objective.value(d), objective.value.weights(d))
        loss.backward()
        critic.step()
        return {"value_loss": float(loss.detach())}


def _means(stats: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in stats) / len(stats) for name in stats[-1]}
