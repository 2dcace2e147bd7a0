"""A language run from its configuration to its summary."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

from tightrein.engines.language import processes
from tightrein.engines.language.compose import compose, with_length, with_sizes
from tightrein.engines.language.config import LanguageConfig, Plan
from tightrein.engines.language.experience.rollout import check_sampling
from tightrein.engines.language.models import embedded
from tightrein.engines.language.models.policy import load_pretrained
from tightrein.engines.language.models.routing import routers
from tightrein.engines.language.remarks import longest_answer, on_length, remarks
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.setup import Setup
from tightrein.engines.language.sharding import check_sharding
from tightrein.engines.language.tasks.loading import Functions, load_task
from tightrein.engines.language.tasks.tools import name_of
from tightrein.engines.language.training.loop import Training
from tightrein.errors import require
from tightrein.runs import Follower, Interrupt, Run

REMEMBERED = 1000  # problems that are asked where a method remembers each and nobody says how many
# What a method learns from that wants written answers, where there is only a task.
BUILT_IN = {
    "pairs": ("each right answer is paired with the same answer with a slip in it",),
    "demonstrations": ("the task's right answers are the demonstrations",),
    "mixed": ("the task's right answers are the demonstrations",),
}


def train(
    config: LanguageConfig,
    *,
    dataset: Any = None,
    reward: Functions = None,
    tools: Sequence[str | Callable[[str], Any]] = (),
) -> dict[str, Any]:
    """Trains the model of `config`, writing the run folder, and returns its summary.

    dataset (a datasets.Dataset or a list of dicts), reward (one or more functions of TRL's signature) and tools
    (functions of a text, or names) may be given in place of their names.

    Raises:
        TightreinError: for anything the user can put right: names, numbers, data, a reward function with a fault, a
            run that is already there, a full disk, or training that left the finite numbers.
    """
    _hush()
    processes.join()
    if processes.rank():
        config = dataclasses.replace(config, quiet=True)
    method, notes = compose(config)
    plan = Plan.of(config, method)
    config = _completed(config, method, dataset, tools)
    wanted = config.problems or plan.total * plan.prompts
    wanted += config.warmup_examples + embedded.PROBES if config.embedded else 0
    task = load_task(config, wanted, dataset, reward, tools, method.experience)
    check_sampling(method, config, task)
    check_sharding(config, method)
    policy = embedded.make(config, task) if config.embedded else load_pretrained(config)
    if config.routing != "free":
        routers(policy.model)  # raises where there are none
    longest, cut = longest_answer(config, policy, task)
    method, more = with_length(with_sizes(method, policy.model), longest)
    made = BUILT_IN.get(method.experience, ()) if config.dataset is None else ()
    notes = [*notes, *more, *task.notes, *made, *remarks(config, method, task)]
    told = describe(config, method, plan, longest, notes)
    run = processes.first(lambda: Run.create(config.folder, told, resume=config.resume, quiet=config.quiet))
    if not config.quiet:
        shown = (*notes, *cut, *on_length(config, method, plan))
        print("".join(f"note: {note}\n" for note in shown), end="", flush=True)
    decoding = Decoding(
        longest, policy.eos_ids, policy.pad_id, config.temperature, config.top_p, experts=config.routing == "sampler",
        top_k=config.top_k, min_p=config.min_p, stop=config.stop,
    )  # fmt: skip
    with Interrupt() as stop:  # from here on Ctrl-C ends in a checkpoint
        return Training(Setup(config, plan, task, policy, method, decoding), run or Follower(config.folder)).go(stop)


def _completed(
    config: LanguageConfig, method: Any, dataset: Any, tools: Sequence[str | Callable[[str], Any]]
) -> LanguageConfig:
    """The configuration with what was given in place of names, and what follows from the method."""
    changes: dict[str, Any] = {}
    if dataset is not None and config.dataset is None:
        changes["dataset"] = "dataset"
    if tools:
        changes["tools"] = tuple(tool if isinstance(tool, str) else name_of(tool) for tool in tools)
    if config.problems is None and "prompt" in method.prepare_needs:
        changes["problems"] = REMEMBERED
    return dataclasses.replace(config, **changes)


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
