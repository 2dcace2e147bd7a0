"""Reward functions: found, called, and their answers checked before they reach a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tightrein.engines.language.named import find
from tightrein.engines.language.problems import Problem
from tightrein.engines.language.turns import Answer, final, text_of
from tightrein.errors import TightreinError

Reward = Callable[[Sequence[Problem], Sequence[Answer]], list[float]]


@dataclass(frozen=True)
class Ensemble:
    """Several rewards; called, it gives their weighted sum."""

    members: tuple[Reward, ...]
    weights: tuple[float, ...]

    def scores(self, problems: Sequence[Problem], completions: Sequence[Answer]) -> list[list[float]]:
        """What each of the K rewards says of each of the B answers: [B][K]."""
        columns = [member(problems, completions) for member in self.members]
        return [list(row) for row in zip(*columns, strict=True)]

    def __call__(self, problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
        """A Reward."""
        return [self.total(row) for row in self.scores(problems, completions)]

    def total(self, scores: Sequence[float]) -> float:
        """The reward of an answer with these scores."""
        return sum(weight * score for weight, score in zip(self.weights, scores, strict=True))


def ensemble(functions: Sequence[str | Callable[..., Any]], weights: Sequence[float] = ()) -> Reward:
    """These reward functions, or names, as one; without weights all count once.

    Raises:
        TightreinError: not as many weights as functions, and see `as_reward`.
    """
    if weights and len(weights) != len(functions):
        raise TightreinError(
            f"there are {len(functions)} reward functions and {len(weights)} weights",
            "give --reward-weights one number for each --reward",
        )
    members = tuple(as_reward(function) for function in functions)
    plain = len(members) == 1 and not weights
    return members[0] if plain else Ensemble(members, tuple(weights) or (1.0,) * len(members))


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
                raise _raised(f"score_answer of {name}", error, f"row {row}, answer {text[:60]!r}") from error
            values.append(_number(f"score_answer of {name}", row, value))
        return values

    return reward


def as_reward(function: str | Callable[..., Any]) -> Reward:
    """A function `reward(prompts, completions, **columns) -> list[float]` (TRL's signature), or its name.

    Raises:
        TightreinError: it cannot be found; later, when it raises or returns what is no finite number per row.
    """
    call = function if callable(function) else find(function, "--reward", "reward function")
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)

    def reward(problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
        try:
            values = call(
                prompts=[problem.prompt for problem in problems],
                completions=[_as_prompted(p, c) for p, c in zip(problems, completions, strict=True)],
                **_columns(problems),
            )
        except Exception as error:  # somebody else's code
            raise _raised(f"reward function {name}", error, f"called with rows 0 to {len(problems) - 1}") from error
        return _numbers(name, values, len(problems))

    return reward


def _as_prompted(problem: Problem, completion: Answer) -> Any:
    """The completion as TRL hands it over: messages when the prompt is a conversation, and text when it is one."""
    if isinstance(problem.prompt, str):
        return text_of(completion)
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion.messages


def _columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    names = {name: None for problem in problems for name in problem.columns}
    return {name: [problem.columns.get(name) for problem in problems] for name in names}


def _numbers(name: str, values: Any, rows: int) -> list[float]:
    try:
        given = list(values)
    except TypeError:
        raise TightreinError(
            f"reward function {name} returned a {type(values).__name__}", "return a list with one number per completion"
        ) from None
    if len(given) != rows:
        raise TightreinError(
            f"reward function {name} returned {len(given)} values for {rows} completions; row {min(len(given), rows)} "
            + ("is the first without one" if len(given) < rows else "does not exist"),
            "return a list with one number per completion",
        )
    return [_number(f"reward function {name}", row, value) for row, value in enumerate(given)]


def _number(who: str, row: int, value: Any) -> float:
    try:
        number = math.nan if value is None or isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TightreinError(
            f"{who} gave {value!r} for row {row}, which is no finite number",
            "return a number for every completion (0.0 where it cannot be judged), then go on with --resume",
        )
    return number


def _raised(who: str, error: Exception, where: str) -> TightreinError:
    line = _line_of(error)
    return TightreinError(
        f"{who} raised {type(error).__name__}: {error} ({where}{line})",
        "correct it (it takes prompts, completions and **columns), then go on with --resume",
    )


def _line_of(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"; {Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno}"
