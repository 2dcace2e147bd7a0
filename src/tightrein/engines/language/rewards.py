"""Reward functions: found, called, and their answers checked before they reach a loss."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tightrein.errors import TightreinError, unknown

if TYPE_CHECKING:
    from tightrein.engines.language.tasks import Problem

Reward = Callable[[Sequence["Problem"], Sequence[str]], list[float]]


def entry_reward(name: str, score: Callable[..., float]) -> Reward:
    """The reward of a reasoning-gym task: its own score of the stripped completion."""

    def reward(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        values = []
        for row, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            try:
                value = score(completion.strip(), problem.columns["entry"])
            except Exception as error:  # a scorer that chokes on an answer says: wrong... or has a fault
                raise _raised(f"score_answer of {name}", error, f"row {row}, answer {completion[:60]!r}") from error
            values.append(_number(f"score_answer of {name}", row, value))
        return values

    return reward


def as_reward(function: str | Callable[..., Any]) -> Reward:
    """A function `reward(prompts, completions, **columns) -> list[float]` (TRL's signature), or its name.

    Raises:
        TightreinError: it cannot be found; later, when it raises or returns what is no finite number per row.
    """
    call = function if callable(function) else _find(function)
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)

    def reward(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
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


def _as_prompted(problem: Problem, completion: str) -> Any:
    """The completion as TRL hands it over: a message when the prompt is a conversation."""
    return completion if isinstance(problem.prompt, str) else [{"role": "assistant", "content": completion}]


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


def _find(name: str) -> Callable[..., Any]:
    source, colon, function = name.rpartition(":")
    if not (colon and source and function):
        raise TightreinError(
            f"--reward {name} is not module:function or file.py:function", "for example rewards.py:exact"
        )
    try:
        module = _load_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except TightreinError:
        raise
    except Exception as error:  # importing runs somebody else's code
        raise TightreinError(
            f"{source} (for --reward {name}) cannot be imported: {type(error).__name__}: {error}",
            "correct it, or the path to it",
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise unknown(f"function in {source}", function, [n for n in vars(module) if callable(getattr(module, n))])
    return found  # type: ignore[no-any-return]


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise TightreinError(f"there is no file {path} with a reward function", "give --reward FOLDER/FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TightreinError(f"{path} is not a Python file", "give --reward FOLDER/FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickling look their module up by name
    spec.loader.exec_module(module)
    return module
