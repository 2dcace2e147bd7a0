"""Problems to train on and problems held out, from reasoning-gym or from a dataset."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.datasets import read_rows
from tightrein.engines.language.rewards import Reward, as_reward, entry_reward
from tightrein.engines.settings import pairs
from tightrein.errors import TightreinError, require, unknown

Prompt = str | list[dict[str, str]]
# Parameters of a task where the user gives none and the embedded model is to learn it within a minute.
EASED = {"spell_backward": {"min_word_len": "5", "max_word_len": "5"}}
MOST = 20_000  # problems that are generated; training passes over them again after that


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem. `columns` are the other columns of its row, for the reward function."""

    prompt: Prompt
    answer: str | None
    columns: Mapping[str, Any]

    @property
    def text(self) -> str:
        """What tells problems apart."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)


@dataclasses.dataclass(frozen=True)
class Task:
    """Training problems, held-out problems (no text is in both), and what scores completions."""

    name: str
    train: Sequence[Problem]
    held: Sequence[Problem]
    reward: Reward
    notes: tuple[str, ...] = ()

    def batch(self, seed: int, first: int, count: int) -> list[tuple[int, Problem]]:
        """(index, problem) number `first` ... `first + count - 1` of the endless stream of training problems.

        Each pass over them has its own order, which follows from the seed and the number of the pass alone.
        """
        taken: list[tuple[int, Problem]] = []
        while len(taken) < count:
            done, start = divmod(first + len(taken), len(self.train))
            order = random.Random(f"{seed}-{done}").sample(range(len(self.train)), len(self.train))
            taken += [(index, self.train[index]) for index in order[start : start + count - len(taken)]]
        return taken


def load_task(
    config: LanguageConfig, wanted: int, dataset: Any = None, reward: Callable[..., Any] | None = None
) -> Task:
    """The task of `config` with about `wanted` training problems; `dataset` and `reward` in place of names.

    Raises:
        TightreinError: an unknown task, parameter, column or function, or too few problems.
    """
    if dataset is not None or config.dataset is not None:
        return _from_dataset(config, dataset, reward)
    return _from_reasoning_gym(config, min(wanted, MOST))


def _from_reasoning_gym(config: LanguageConfig, wanted: int) -> Task:
    given = pairs("--task-set", config.task_set, "min_word_len=3")
    notes: tuple[str, ...] = ()
    if config.embedded and not given and config.task in EASED:
        given = EASED[config.task]
        eased = " ".join(f"{name}={value}" for name, value in given.items())
        notes = (f"{config.task} is made easier for the embedded model: --task-set {eased}",)
    size = wanted + 2 * config.eval_problems
    source = _generator(config.task, given, size, config.seed)
    entries = _distinct(_generated(config.task, source, size))
    problems = [Problem(entry["question"], str(entry["answer"]), {"entry": entry}) for entry in entries]
    train, held = _split(problems, config)
    return Task(config.task, train, held, entry_reward(config.task, source.score_answer), notes)


def _generator(name: str, given: Mapping[str, str], size: int, seed: int) -> Any:
    factory = require("reasoning_gym.factory", "language")
    if name not in factory.DATASETS:
        raise unknown("reasoning-gym task", name, factory.DATASETS)
    kind = factory.DATASETS[name][1]
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in ("seed", "size")}
    for parameter in given:
        if parameter not in fields:
            raise unknown(f"parameter of {name}", parameter, fields)
    values = {parameter: _value(name, fields[parameter], text) for parameter, text in given.items()}
    try:
        return factory.create_dataset(name, size=size, seed=seed, **values)
    except (AssertionError, ValueError, TypeError) as error:
        told = " ".join(f"{n}={v}" for n, v in given.items()) or "its defaults"
        raise TightreinError(f"{name} refuses {told}: {error}", "correct --task-set") from error


def _value(task: str, field: dataclasses.Field[Any], text: str) -> Any:
    """`text` as the parameter's type: that of its default, or of the items of its default when that is a list."""
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, (list, tuple)):
            item = type(default[0]) if default else str
            return type(default)(item(part) for part in text.split(","))
        return type(default)(text) if isinstance(default, (int, float)) else text
    except (ValueError, KeyError):
        raise TightreinError(
            f"--task-set {field.name}={text}: {task} wants a {type(default).__name__} there",
            f"for example --task-set {field.name}={default}",
        ) from None


def _generated(name: str, source: Any, size: int) -> Iterable[dict[str, Any]]:
    for index in range(size):
        try:
            yield source[index]
        except Exception as error:  # the generator is somebody else's code
            raise TightreinError(
                f"{name} could not make its problem {index}: {type(error).__name__}: {error}",
                "give it other parameters with --task-set",
            ) from error


def _distinct(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({entry["question"]: entry for entry in entries}.values())


def _from_dataset(config: LanguageConfig, dataset: Any, reward: Callable[..., Any] | None) -> Task:
    name = config.subject
    if reward is None and config.reward is None:
        raise TightreinError(f"dataset {name} comes without a reward function", "give --reward module:function")
    rows = read_rows(config.dataset or name, dataset)
    problems = list({p.text: p for p in (_problem(name, i, row) for i, row in enumerate(rows))}.values())
    random.Random(config.seed).shuffle(problems)
    train, held = _split(problems, config)
    return Task(name, train, held, as_reward(reward or str(config.reward)))


def _problem(name: str, index: int, row: Mapping[str, Any]) -> Problem:
    prompt = row["prompt"]
    messages = (
        isinstance(prompt, list)
        and prompt
        and all(isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in prompt)
    )
    if not messages and not (isinstance(prompt, str) and prompt):
        raise TightreinError(
            f"row {index} of dataset {name}: prompt is {str(prompt)[:60]!r}",
            'make it a text, or a list of messages like {"role": "user", "content": "..."}',
        )
    columns = {column: value for column, value in row.items() if column != "prompt"}
    answer = row.get("answer")
    return Problem(prompt, None if answer is None else str(answer), columns)


def _split(problems: list[Problem], config: LanguageConfig) -> tuple[list[Problem], list[Problem]]:
    """Distinct problems as (train, held out): of few problems a quarter is held out."""
    held = min(config.eval_problems, len(problems) // 4)
    if not held:
        raise TightreinError(
            f"{config.subject} has only {len(problems)} distinct problems, too few to hold some out",
            "use a larger dataset, or widen the task with --task-set",
        )
    return problems[held:], problems[:held]
