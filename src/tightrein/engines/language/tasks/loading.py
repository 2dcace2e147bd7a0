"""Problems to train on and problems held out, from reasoning-gym or from a dataset."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.rewards.functions import Reward, ensemble, entry_reward, exact, unlimited
from tightrein.engines.language.tasks.columns import read_problems
from tightrein.engines.language.tasks.datasets import read_rows
from tightrein.engines.language.tasks.games import GAMES, Game, problems_of
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.tools import dialogue
from tightrein.engines.language.tasks.turns import TURNS, Dialogue, Form
from tightrein.engines.settings import pairs
from tightrein.errors import TightreinError, require, unknown

# Parameters of a task where the user gives none and the embedded model is to learn it within a minute.
EASED = {"spell_backward": {"min_word_len": "5", "max_word_len": "5"}}
Functions = Callable[..., Any] | Sequence[str | Callable[..., Any]] | None  # one reward function, or several
MOST = 20_000  # problems that are generated; training passes over them again after that


@dataclasses.dataclass(frozen=True)
class Task:
    """Training problems, held-out problems (no text is in both), what scores completions, and who replies in them.

    scored: False where a dataset of pairs or demonstrations came without a reward, so that of free answers nothing can
    be said.
    problems: so many of the training problems are asked, from the first; None: all. Their index names them for good.
    """

    name: str
    train: Sequence[Problem]
    held: Sequence[Problem]
    reward: Reward
    notes: tuple[str, ...] = ()
    dialogue: Dialogue | None = None
    problems: int | None = None
    scored: bool = True

    @property
    def asked(self) -> Sequence[Problem]:
        """The problems that training draws from."""
        return self.train[: self.problems]

    def batch(self, seed: int, first: int, count: int) -> list[tuple[int, Problem]]:
        """(index, problem) number `first` ... `first + count - 1` of the endless stream of training problems.

        Each pass over them has its own order, which follows from the seed and the number of the pass alone.
        """
        taken: list[tuple[int, Problem]] = []
        while len(taken) < count:
            done, start = divmod(first + len(taken), len(self.asked))
            order = random.Random(f"{seed}-{done}").sample(range(len(self.asked)), len(self.asked))
            taken += [(index, self.train[index]) for index in order[start : start + count - len(taken)]]
        return taken


def load_task(
    config: LanguageConfig,
    wanted: int,
    dataset: Any = None,
    reward: Functions = None,
    tools: Sequence[str | Callable[[str], Any]] = (),
    experience: str = "rollouts",
) -> Task:
    """The task of `config` with about `wanted` training problems; `dataset`, `reward`, `tools` in place of names.

    experience: what the method learns from, which says what columns a dataset must have.

    Raises:
        TightreinError: an unknown task, parameter, column or function, or too few problems.
    """
    if dataset is not None or config.dataset is not None:
        task = _from_dataset(config, dataset, reward, experience)
    else:
        task = (_from_game if config.task in GAMES else _from_reasoning_gym)(config, min(wanted, MOST))
    return dataclasses.replace(task, dialogue=_dialogue(config, task, tools or config.tools), problems=config.problems)


def _dialogue(config: LanguageConfig, task: Task, tools: Sequence[str | Callable[[str], Any]]) -> Dialogue | None:
    """That of the task, or one with these tools, as far as the flags do not say otherwise."""
    told = {name: text for name, text in (("call", config.call), ("reply", config.reply)) if text is not None}
    if tools and task.dialogue is not None:
        raise TightreinError(f"{task.name} replies by itself, and takes no --tools", "choose another --task")
    if tools:
        return dialogue(tools, Form(**told), config.turns or TURNS)
    if task.dialogue is None:
        if told or config.turns:
            raise TightreinError("--turns, --call and --reply are for models with tools", "give --tools, e.g. python")
        return None
    form = dataclasses.replace(task.dialogue.form, **told)
    return dataclasses.replace(task.dialogue, form=form, turns=config.turns or task.dialogue.turns)


def _from_game(config: LanguageConfig, wanted: int) -> Task:
    given = pairs("--task-set", config.task_set, "size=4")
    kind = GAMES[config.task]
    game: Game = kind(**_values(config.task, dataclasses.fields(kind), given)).game()
    size = wanted + 2 * config.eval_problems
    distinct = {problem.text: problem for problem in problems_of(game, size, config.seed)}
    train, held = _split(list(distinct.values()), config)
    return Task(config.task, train, held, game.reward, dialogue=game.dialogue)


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
        raise unknown("reasoning-gym task", name, [*factory.DATASETS, *GAMES])
    fields = [f for f in dataclasses.fields(factory.DATASETS[name][1]) if f.name not in ("seed", "size")]
    values = _values(name, fields, given)
    try:
        return factory.create_dataset(name, size=size, seed=seed, **values)
    except (AssertionError, ValueError, TypeError) as error:
        told = " ".join(f"{n}={v}" for n, v in given.items()) or "its defaults"
        raise TightreinError(f"{name} refuses {told}: {error}", "correct --task-set") from error


def _values(task: str, parameters: Iterable[dataclasses.Field[Any]], given: Mapping[str, str]) -> dict[str, Any]:
    fields = {f.name: f for f in parameters}
    for name in given:
        if name not in fields:
            raise unknown(f"parameter of {task}", name, fields)
    return {name: _value(task, fields[name], text) for name, text in given.items()}


def _value(task: str, field: dataclasses.Field[Any], text: str) -> Any:
    """`text` as the parameter's type: that of its default, or of the items of its default when that is a list."""
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if default is None:  # then only its annotation tells
        wanted = next((kind for kind in get_args(field.type) if kind is not type(None)), str)
        default = [] if get_origin(wanted) is list else wanted()
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


def _from_dataset(config: LanguageConfig, dataset: Any, reward: Functions, experience: str) -> Task:
    name = config.subject
    asked = experience in ("rollouts", "mixed")
    if asked and reward is None and not config.reward:
        raise TightreinError(f"dataset {name} comes without a reward function", "give --reward module:function")
    problems = read_problems(name, read_rows(config.dataset or name, dataset), experience)
    if asked:
        problems = list({p.text: p for p in problems}.values())
    random.Random(config.seed).shuffle(problems)
    train, held = _split(problems, config)
    given = config.reward if reward is None else [reward] if callable(reward) else reward
    scored = ensemble(given, config.reward_weights, config.reward_timeout) if given else exact
    return Task(name, train, held, scored, unlimited(given or ()), scored=bool(given) or config.embedded)


def _split(problems: list[Problem], config: LanguageConfig) -> tuple[list[Problem], list[Problem]]:
    """Problems as (train, held out), by their text: of few texts a quarter is held out."""
    texts = list(dict.fromkeys(problem.text for problem in problems))
    held = set(texts[: min(config.eval_problems, len(texts) // 4)])
    if not held:
        raise TightreinError(
            f"{config.subject} has only {len(texts)} distinct problems, too few to hold some out",
            "use a larger dataset, or widen the task with --task-set",
        )
    return [p for p in problems if p.text not in held], [p for p in problems if p.text in held]
