"""Reward functions: found, called, and their answers checked before they reach a loss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tightrein.engines.language.rewards import scorers
from tightrein.engines.language.rewards.checked import called, number, raised
from tightrein.engines.language.rewards.execution import Execution
from tightrein.engines.language.rewards.judging import LIMIT, Judge, Lost
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Answer, final, text_of
from tightrein.errors import TightreinError, require

ROW_LIMIT = 10.0  # seconds for one answer, where a scorer takes them one by one

Reward = Callable[[Sequence[Problem], Sequence[Answer]], list[float]]


@dataclass(frozen=True)
class Remote:
    """A reward function that a process of its own is asked."""

    judge: Judge

    def begin(self, problems: Sequence[Problem], completions: Sequence[Answer]) -> None:
        """Asks; `end` waits."""
        self.judge.ask(arguments(problems, completions), len(problems))

    def end(self) -> list[float]:
        """What has been asked for.

        Raises:
            TightreinError: see Judge.answer.
        """
        return self.judge.answer()

    def __call__(self, problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
        """A Reward."""
        self.begin(problems, completions)
        return self.end()


@dataclass(frozen=True)
class RowByRow:
    """A scorer that a process of its own is asked about each answer by itself: one over which it is lost earns 0."""

    judge: Judge

    def __call__(self, problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
        """A Reward.

        Raises:
            TightreinError: a row lacks what the scorer needs.
        """
        pairs = zip(problems, completions, strict=True)
        return [self._score(row, problem, completion) for row, (problem, completion) in enumerate(pairs)]

    def _score(self, row: int, problem: Problem, completion: Answer) -> float:
        try:
            self.judge.ask(arguments([problem], [completion]), 1)
            return self.judge.answer()[0]
        except Lost:
            return 0.0
        except TightreinError as error:
            raise TightreinError(f"row {row}: {error.what}", error.remedy) from error


@dataclass(frozen=True)
class Ensemble:
    """Several rewards; called, it gives their weighted sum. Those in processes of their own work side by side."""

    members: tuple[Reward, ...]
    weights: tuple[float, ...]

    def scores(self, problems: Sequence[Problem], completions: Sequence[Answer]) -> list[list[float]]:
        """What each of the K rewards says of each of the B answers: [B][K]."""
        for member in self.members:
            if isinstance(member, Remote):
                member.begin(problems, completions)
        columns = [m.end() if isinstance(m, Remote) else m(problems, completions) for m in self.members]
        return [list(row) for row in zip(*columns, strict=True)]

    def __call__(self, problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
        """A Reward."""
        return [self.total(row) for row in self.scores(problems, completions)]

    def total(self, scores: Sequence[float]) -> float:
        """The reward of an answer with these scores."""
        return sum(weight * score for weight, score in zip(self.weights, scores, strict=True))


def ensemble(
    functions: Sequence[str | Callable[..., Any]], weights: Sequence[float] = (), limit: float = LIMIT
) -> Reward:
    """These reward functions, or names, as one; without weights all count once. See `as_reward`.

    Raises:
        TightreinError: not as many weights as functions, and see `as_reward`.
    """
    if weights and len(weights) != len(functions):
        raise TightreinError(
            f"there are {len(functions)} reward functions and {len(weights)} weights",
            "give --reward-weights one number for each --reward",
        )
    members = tuple(_reward(function, limit) for function in functions)
    for member in members:
        if isinstance(member, Remote):
            member.judge.ready()
    plain = len(members) == 1 and not weights
    return members[0] if plain else Ensemble(members, tuple(weights) or (1.0,) * len(members))


def as_reward(function: str | Callable[..., Any], limit: float = LIMIT) -> Reward:
    """A function `reward(prompts, completions, **columns) -> list[float]` (TRL's signature), its name, or a scorer's.

    A name runs in a process of its own, with `limit` seconds for each call; a function given as such runs in this one,
    as long as it takes.

    Raises:
        TightreinError: it cannot be found, or lacks a package; later, when it raises, takes too long, ends its process,
            or returns what is no finite number per row.
    """
    return ensemble([function], (), limit)


def _reward(function: str | Callable[..., Any], limit: float) -> Reward:
    if isinstance(function, str):
        return SCORERS[function]() if function in SCORERS else _remote(function, limit)
    name = getattr(function, "__name__", type(function).__name__)

    def reward(problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
        return called(name, function, arguments(problems, completions), len(problems))

    return reward


def unlimited(functions: Sequence[str | Callable[..., Any]]) -> tuple[str, ...]:
    """A note on reward functions that no time limit holds."""
    names = [getattr(f, "__name__", type(f).__name__) for f in functions if not isinstance(f, str)]
    if not names:
        return ()
    return (
        f"reward {', '.join(names)}: called in this process, so that no time limit holds; "
        "named as FILE.py:FUNCTION, it has a process of its own, and one",
    )


def _remote(name: str, limit: float) -> Remote:
    judge = Judge(name, limit)
    judge.start()  # several import side by side
    return Remote(judge)


def exact(problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
    """The reward where nobody gives one: 1 for the very answer that was written for the problem, else 0."""
    pairs = zip(problems, completions, strict=True)
    return [float(final(text).strip() == (problem.answer or "").strip()) for problem, text in pairs]


def entry_reward(name: str, score: Callable[..., float]) -> Reward:
    """The reward of a reasoning-gym task: its own score of the stripped completion, in turns of the last one."""

    def reward(problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
        values = []
        for row, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            text = final(completion).strip()
            try:
                value = score(text, problem.columns["entry"])
            except Exception as error:  # a scorer that chokes on an answer says: wrong... or has a fault
                raise raised(f"score_answer of {name}", error, f"row {row}, answer {text[:60]!r}") from error
            values.append(number(f"score_answer of {name}", row, value))
        return values

    return reward


def arguments(problems: Sequence[Problem], completions: Sequence[Answer]) -> dict[str, list[Any]]:
    """What a function of TRL's signature is called with: a list with an entry for each row under every name."""
    return {
        "prompts": [problem.prompt for problem in problems],
        "completions": [_as_prompted(p, c) for p, c in zip(problems, completions, strict=True)],
        **_columns(problems),
    }


def _as_prompted(problem: Problem, completion: Answer) -> Any:
    """The completion as TRL hands it over: messages when the prompt is a conversation, and text when it is one."""
    if isinstance(problem.prompt, str):
        return text_of(completion)
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion.messages


def _columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    names = {name: None for problem in problems for name in problem.columns}
    return {name: [problem.columns.get(name) for problem in problems] for name in names}


def _scorer(name: str, package: str) -> Reward:
    if importlib.util.find_spec(package) is None:
        require(package, "language")  # raises
    return RowByRow(Judge(f"{scorers.__name__}:{name}", ROW_LIMIT))


SCORERS: dict[str, Callable[[], Reward]] = {
    "math": lambda: _scorer("math", "math_verify"),
    "reasoning_gym": lambda: _scorer("reasoning_gym", "reasoning_gym"),
    "code": Execution,
}
