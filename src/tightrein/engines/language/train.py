"""A language run from its configuration to its summary."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from tightrein.engines.language import checkpointing, embedded
from tightrein.engines.language.compose import compose, with_length
from tightrein.engines.language.config import LanguageConfig, Plan
from tightrein.engines.language.evaluate import evaluate
from tightrein.engines.language.learner import Learner
from tightrein.engines.language.models import Policy, load_pretrained
from tightrein.engines.language.rollout import Collector
from tightrein.engines.language.sampling import Decoding
from tightrein.engines.language.tasks import Task, load_task
from tightrein.errors import require
from tightrein.runs import Checkpoint, Interrupt, Run

ANSWER = 256  # tokens of the longest answer where nobody says otherwise and no worked example tells
LEARNABLE = 0.05  # exact match after fine-tuning below which a user is warned
TOLERANCE = 1e-3  # between log-probabilities of the sampler and of a fresh forward pass, in float32


def train(config: LanguageConfig, *, dataset: Any = None, reward: Callable[..., Any] | None = None) -> dict[str, Any]:
    """Trains the model of `config`, writing the run folder, and returns its summary.

    dataset (a datasets.Dataset or a list of dicts) and reward (a callable of TRL's signature) may be given in place
    of their names.

    Raises:
        TightreinError: for anything the user can put right: names, numbers, data, a reward function with a fault, a
            run that is already there, a full disk, or training that left the finite numbers.
    """
    _hush()
    method, notes = compose(config)
    plan = Plan.of(config, method.training)
    wanted = plan.updates * plan.prompts + (config.warmup_examples + embedded.PROBES if config.embedded else 0)
    if dataset is not None and config.dataset is None:
        config = dataclasses.replace(config, dataset="dataset")
    task = load_task(config, wanted, dataset, reward)
    policy = embedded.make(config, task) if config.embedded else load_pretrained(config)
    longest = config.max_new_tokens or (embedded.longest_answer(policy, task) if config.embedded else ANSWER)
    method, more = with_length(method, longest)
    notes = [*notes, *more, *task.notes]
    run = Run.create(
        config.folder, describe(config, method, plan, longest, notes), resume=config.resume, quiet=config.quiet
    )
    if not config.quiet:
        print("".join(f"note: {note}\n" for note in notes), end="", flush=True)
    decoding = Decoding(longest, policy.eos_ids, policy.pad_id, config.temperature, config.top_p)
    with Interrupt() as stop:  # from here on Ctrl-C ends in a checkpoint
        return _Training(config, plan, run, task, policy, method, decoding).go(stop)


def _hush() -> None:
    """Transformers' progress bars are switched off, as a run shows its own, and so is one warning.

    It wants an attention mask wherever it sees a padding token; rows that have ended are fed with that token until
    they leave the batch, and what they produce is masked.
    """
    require("transformers", "language").utils.logging.disable_progress_bar()
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(lambda record: "passing in an `attention_mask`" not in record.getMessage())


def describe(config: LanguageConfig, method: Any, plan: Plan, longest: int, notes: list[str]) -> dict[str, Any]:
    """What config.json holds: the configuration, and all that it left open."""
    given = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("out", "resume", "quiet")
    }
    shape = {**dataclasses.asdict(plan), "max_new_tokens": longest, "learning_rate": method.step.learning_rate}
    return {
        "engine": "language",
        **given,
        "task": config.subject,
        **shape,
        "settings": method.settings(),
        "notes": notes,
    }


class _Training:
    """The loop over updates: sample, score, learn, log, evaluate, save."""

    def __init__(
        self, config: LanguageConfig, plan: Plan, run: Run, task: Task, policy: Policy, method: Any, decoding: Decoding
    ) -> None:
        self._config, self._plan, self._run, self._task = config, plan, run, task
        self._policy, self._method, self._decoding = policy, method, decoding
        self._generator = torch.Generator(policy.device).manual_seed(config.seed)
        self._order = torch.Generator().manual_seed(config.seed)  # of minibatches, always on the host
        self._update = self._cursor = 0
        self._evaluated: dict[str, float] = {}
        self._saved = -1
        self._warned = False
        self._warm_up: dict[str, float] = {}

    def go(self, stop: Interrupt) -> dict[str, Any]:
        """From the start or the last checkpoint to the end or an interruption."""
        began, plan = time.monotonic(), self._plan
        checkpoint = self._run.latest() if self._config.resume else None
        self._begin(checkpoint)
        label = f"{self._config.method} on {self._task.name} ({self._config.model})"
        with self._run.progress(plan.updates, label, start=self._update) as progress:
            while self._update < plan.updates and not stop.requested:
                progress.update(self._update + 1, **self._advance())
        if stop.requested and self._update < plan.updates:
            self._interrupted()
        return self._summary(time.monotonic() - began)

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        """The models and the optimizer as they are at the start or at the checkpoint."""
        if self._config.embedded and checkpoint is None:
            self._warm()
        reference = self._policy.reference() if self._reads_reference else None
        self._learner = Learner(
            self._policy, self._method, self._plan.epochs, self._plan.minibatches, self._decoding.temperature,
            self._plan.gradient_steps,
        )  # fmt: skip
        self._collector = Collector(
            self._policy, self._task.reward, self._method, reference, self._decoding, self._plan.prompts,
            self._plan.group_size,
        )  # fmt: skip
        if checkpoint is not None:
            self._restore(checkpoint)
            return
        self._run.log(0, **self._warm_up, **self._evaluate())
        self._save()

    @property
    def _reads_reference(self) -> bool:
        return "logp_ref" in self._method.needs | self._method.prepare_needs

    def _warm(self) -> None:
        began = time.monotonic()
        result = embedded.warm_up(self._policy, self._task, self._config, self._decoding)
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
        rollout = self._collector.collect(self._next_prompts, self._generator)
        sampled = time.monotonic() - began
        check = self._check(rollout)
        stats = self._learner.update(rollout, self._order)
        self._update += 1
        figures = dict(rollout.figures)
        speed = {"tokens_per_second": figures.pop("tokens") / sampled, "seconds": time.monotonic() - began}
        line = {**figures, **stats, "logp_check": check, **speed}
        last = self._update == self._plan.updates
        if last or self._update % self._plan.eval_every == 0:
            line |= self._evaluate()
        self._run.log(self._update, **line)
        if last or self._update % self._plan.checkpoint_every == 0:
            self._save()
        return _shown(line)

    def _next_prompts(self, count: int) -> list[Any]:
        first, self._cursor = self._cursor, self._cursor + count
        return self._task.batch(self._config.seed, first, count)

    def _check(self, rollout: Any) -> float:
        check = self._learner.check(rollout, everything=self._update == 0)
        if check > TOLERANCE and not self._warned:
            self._warned = True
            print(
                f"warning: log-probabilities of the sampler and of a fresh forward pass differ by {check:.2g}, and "
                "ratios are off by as much: this model's cache or padding may not be exact",
                flush=True,
            )
        return check

    def _evaluate(self) -> dict[str, float]:
        result = evaluate(self._policy, self._task.held, self._task.reward, self._decoding.greedy)
        self._evaluated[str(self._update)] = result.accuracy
        return {"eval_accuracy": result.accuracy, "eval_reward": result.reward}

    def _save(self) -> None:
        """The reference of a run that began from a folder is read from there again; the embedded one is saved."""
        arrays = checkpointing.to_arrays(
            self._policy, self._learner.optimizer, self._generator, whole=self._config.embedded
        )
        reference = self._collector.reference
        if self._config.embedded and reference is not None and not self._policy.lora:
            arrays |= checkpointing.reference_arrays(reference)
        extra = {
            "update": self._update, "cursor": self._cursor, "evaluated": self._evaluated,
            "state": {path: float(value) for path, value in self._learner.state.items()},
            "schedule": self._learner.schedule.last_epoch,
        }  # fmt: skip
        self._run.checkpoint(self._update, {**arrays, "order": self._order.get_state().numpy()}, extra)
        self._saved = self._update

    def _restore(self, checkpoint: Checkpoint) -> None:
        arrays, extra = checkpoint.arrays, checkpoint.extra
        learner = self._learner
        checkpointing.restore(
            arrays, self._policy, learner.optimizer, learner.schedule, extra["schedule"], self._generator
        )
        saved = checkpointing.within(arrays, "reference.")
        if saved:
            checkpointing.load(self._collector.reference, saved)
        self._order.set_state(torch.from_numpy(arrays["order"].copy()))
        self._learner.state = extra["state"]
        self._update, self._cursor, self._evaluated = extra["update"], extra["cursor"], extra["evaluated"]
        self._saved = checkpoint.step

    def _interrupted(self) -> None:
        if self._saved != self._update:
            self._save()
        if not self._config.quiet:
            print(f"stopped after update {self._update}; --resume goes on from there", flush=True)

    def _summary(self, seconds: float) -> dict[str, Any]:
        done = self._update >= self._plan.updates
        summary = {
            "method": self._config.method, "task": self._task.name, "model": self._config.model,
            "step": self._update, "interrupted": not done, "folder": str(self._config.folder),
            "eval_accuracy_start": self._evaluated.get("0"), "eval_accuracy": self._evaluated.get(str(self._update)),
            "seconds": seconds,
        }  # fmt: skip
        if done:
            self._policy.save(self._config.folder / "model")
            self._run.finish(summary)
        return summary


def _shown(line: dict[str, float]) -> dict[str, float]:
    """What the progress line has room for."""
    names = {
        "reward_mean": "reward",
        "accuracy": "accuracy",
        "eval_accuracy": "eval",
        "kl_k3": "kl",
        "entropy": "entropy",
    }
    return {shown: line[name] for name, shown in names.items() if name in line}
