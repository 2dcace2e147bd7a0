"""The loop over updates: experience, learning, a line in the log, evaluation, a checkpoint."""

from __future__ import annotations

import time
from typing import Any

import torch

from tightrein.anchor.reference import Frozen
from tightrein.engines.language import processes
from tightrein.engines.language.evaluate import Evaluation, evaluate
from tightrein.engines.language.experience.batch import Batch
from tightrein.engines.language.experience.offline import known_before
from tightrein.engines.language.experience.sources import experience
from tightrein.engines.language.experience.written import Demonstrations, likelihoods
from tightrein.engines.language.models import embedded
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.setup import Setup
from tightrein.engines.language.sharding import shard
from tightrein.engines.language.training import checkpointing
from tightrein.engines.language.training.critic import critic_for
from tightrein.engines.language.training.learner import Learner
from tightrein.errors import TightreinError
from tightrein.runs import Checkpoint, Interrupt, Run

LEARNABLE = 0.05  # exact match after fine-tuning below which a user is warned
TOLERANCE = 1e-3  # between log-probabilities of the sampler and of a fresh forward pass, in float32
# What the progress line has room for, and what it is called there.
SHOWN = {
    "reward_mean": "reward",
    "accuracy": "accuracy",
    "rewards_accuracy": "pairs",
    "eval_accuracy": "eval",
    "kl_k3": "kl",
    "entropy": "entropy",
}


class Training:
    """A run from its start, or its last checkpoint, to its end or an interruption."""

    def __init__(self, setup: Setup, run: Run) -> None:
        self._setup, self._run = setup, run
        self._config, self._plan, self._policy, self._task = setup.config, setup.plan, setup.policy, setup.task
        self._order = torch.Generator().manual_seed(setup.config.seed)  # of minibatches, always on the host
        self._update = 0
        self._evaluated: dict[str, dict[str, float]] = {}  # by update
        self._saved = -1
        self._warned = False
        self._warm_up: dict[str, float] = {}

    def go(self, stop: Interrupt) -> dict[str, Any]:
        """Trains, and returns the summary."""
        began, plan = time.monotonic(), self._plan
        checkpoint = self._run.latest() if self._config.resume else None
        self._begin(checkpoint)
        label = f"{self._config.method} on {self._task.name} ({self._config.model})"
        with self._run.progress(plan.total, label, start=self._update) as progress:
            while self._update < plan.total and not self._stopping(stop):
                progress.update(self._update + 1, **self._advance())
        if self._update < plan.total:
            self._interrupted()
        return self._summary(time.monotonic() - began)

    @staticmethod
    def _stopping(stop: Interrupt) -> bool:
        """Whether any of the processes is to stop: then all do."""
        return any(processes.together(lambda: stop.requested))

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        """The models and the optimizer as they are at the start or at the checkpoint."""
        if self._config.embedded and checkpoint is None:
            self._warm()
        self._learner = self._make_learner()
        self._experience = experience(self._setup)
        if checkpoint is not None:
            self._restore(checkpoint)
            return
        self._learner.state = known_before(self._setup, self._learner.state)
        self._run.log(0, **self._warm_up, **self._evaluate())
        self._save()

    def _make_learner(self) -> Learner:
        method = self._setup.method
        reads = method.needs | method.prepare_needs
        reference = self._policy.reference(follows=method.anchor != Frozen()) if "logp_ref" in reads else None
        if self._config.shard:  # not before the reference is made: what is divided cannot be copied
            shard(self._policy.model)
            if isinstance(reference, torch.nn.Module):
                shard(reference)
        return Learner(
            self._policy, method, self._plan, self._setup.decoding.temperature, prompts=len(self._task.asked),
            reference=reference,
            critic=critic_for(self._config, self._policy, method) if "value" in reads else None,
        )  # fmt: skip

    def _warm(self) -> None:
        began = time.monotonic()
        result = embedded.warm_up(self._policy, self._task, self._config, self._setup.decoding)
        self._warm_up = {"warmup_steps": result.steps, "warmup_seconds": time.monotonic() - began}
        if not self._config.quiet:
            shown = f"{self._config.warmup_examples} worked examples, {result.steps} steps"
            print(f"fine-tuned on {shown}: exact match {result.accuracy:.0%}", flush=True)
        if result.accuracy < LEARNABLE and not self._config.quiet:
            print(
                "note: so few correct answers leave little to reinforce: raise --warmup-examples and --warmup-steps, "
                "or make the task easier with --task-set",
                flush=True,
            )

    def _advance(self) -> dict[str, float]:
        """One update; returns what the progress line shows."""
        began = time.monotonic()
        batch = self._collected()
        collected = time.monotonic() - began
        check = self._check(batch)
        self._update += 1
        stats = self._learn(batch)
        figures = dict(batch.figures)
        seconds = time.monotonic() - began
        spent = seconds if bool(batch.written.all()) else figures.get("sampling_seconds", collected)
        speed = {"tokens_per_second": figures.pop("tokens") / spent, "seconds": seconds}
        line = {**figures, **stats, **check, **speed}
        last = self._update == self._plan.total
        if last or self._update % self._plan.eval_every == 0:
            line |= self._evaluate()
        self._run.log(self._update, **line)
        if last or self._update % self._plan.checkpoint_every == 0:
            self._save()
        return {shown: line[name] for name, shown in SHOWN.items() if name in line}

    def _collected(self) -> Batch:
        """The next batch. Where a reward function fails, what has been learnt so far is saved first."""
        before = self._experience.arrays()
        try:
            return self._experience.next(self._update, self._learner.state)
        except TightreinError:
            if self._saved != self._update:
                self._save(before)
            raise

    def _learn(self, batch: Batch) -> dict[str, float]:
        """The critic alone at first, where the method wants that; then the policy."""
        done = self._update - self._plan.value_pretraining
        if done <= 0:
            return self._learner.fit_values(batch, self._order)
        return self._learner.update(batch, self._order, done / self._plan.updates)

    def _check(self, batch: Batch) -> dict[str, float]:
        if bool(batch.written.all()):
            return {}
        check = self._learner.check(batch, everything=self._update == 0)
        if not batch.exact or self._config.precision != "float32":  # they are meant to differ
            return {"logp_gap": check}
        if check > TOLERANCE and not self._warned:
            self._warned = True
            print(
                f"warning: log-probabilities of the sampler and of a fresh forward pass differ by {check:.2g}, and "
                "ratios are off by as much: this model's cache or padding may not be exact",
                flush=True,
            )
        return {"logp_check": check}

    def _evaluate(self) -> dict[str, float]:
        self._experience.settle()
        found = self._evaluated[str(self._update)] = {**self._answers(), **self._likelihoods()}
        return found

    def _likelihoods(self) -> dict[str, float]:
        """Of held-out answers that others wrote, where the method learns from such."""
        if not isinstance(self._experience, Demonstrations):
            return {}
        return likelihoods(
            self._experience.held(), self._policy, self._learner.reference, self._setup.decoding.temperature
        )

    def _answers(self) -> dict[str, float]:
        """How good the policy's own are, where that can be said."""
        if not self._task.scored:
            return {}
        decoding, count = self._setup.decoding, self._config.eval_samples
        best = self._asked(decoding.greedy)
        found = {"eval_accuracy": best.accuracy, "eval_reward": best.reward}
        self._run.write(f"answers/{self._update:06}.md", f"# Answers after update {self._update}\n\n{best.table()}")
        if count:
            drawn = self._asked(decoding, count)
            found |= {
                "eval_pass_1": drawn.accuracy,
                f"eval_pass_{count}": drawn.passed,
                "eval_majority": drawn.majority,
            }
        return found

    def _asked(self, decoding: Decoding, count: int = 1) -> Evaluation:
        """Answers to the held-out problems; what is random in them follows from the seed and the update alone."""
        generator = torch.Generator(self._policy.device).manual_seed(self._config.seed + 1_000_003 * (self._update + 1))
        task = self._task
        return evaluate(self._policy, task.held, task.reward, decoding, generator, task.dialogue, count)

    def _save(self, experience: dict[str, Any] | None = None) -> None:
        """The reference of a run that began from a folder is read from there again; the embedded one is saved."""
        learner = self._learner
        arrays = {
            **checkpointing.to_arrays(self._policy, learner.optimizer, whole=self._config.embedded),
            **checkpointing.learner_arrays(learner, fixed=self._config.embedded and not self._policy.lora),
            **checkpointing.under("experience.", self._experience.arrays() if experience is None else experience),
        }
        extra = {"update": self._update, "evaluated": self._evaluated, "schedule": learner.schedule.last_epoch}
        self._run.checkpoint(self._update, {**arrays, "order": self._order.get_state().numpy()}, extra)
        self._saved = self._update

    def _restore(self, checkpoint: Checkpoint) -> None:
        arrays, extra = checkpoint.arrays, checkpoint.extra
        learner = self._learner
        checkpointing.restore(arrays, self._policy, learner.optimizer, learner.schedule, extra["schedule"])
        checkpointing.restore_learner(arrays, learner)
        self._experience.restore(checkpointing.within(arrays, "experience."))
        self._order.set_state(torch.from_numpy(arrays["order"].copy()))
        self._update, self._evaluated = extra["update"], extra["evaluated"]
        self._saved = checkpoint.step

    def _interrupted(self) -> None:
        if self._saved != self._update:
            self._save()
        if not self._config.quiet:
            print(f"stopped after update {self._update}; --resume goes on from there", flush=True)

    def _results(self) -> dict[str, float | None]:
        """Every figure of the evaluations, at the start and now; None where there is none."""
        start, end = (self._evaluated.get(str(update), {}) for update in (0, self._update))
        names = dict.fromkeys(("eval_accuracy", *start, *end))
        return {key: x for name in names for key, x in ((f"{name}_start", start.get(name)), (name, end.get(name)))}

    def _summary(self, seconds: float) -> dict[str, Any]:
        done = self._update >= self._plan.total
        summary = {
            "method": self._config.method, "task": self._task.name, "model": self._config.model,
            "step": self._update, "interrupted": not done, "folder": str(self._config.folder),
            **self._results(), "seconds": seconds,
        }  # fmt: skip
        if done:
            self._policy.save(self._config.folder / "model")
            if self._learner.critic is not None:
                self._learner.critic.save(self._config.folder / "model")
            self._run.finish(summary)
        return summary
