"""Scorers of answers by name: `--reward math`, `--reward reasoning_gym`. They run in a process of their own: no torch.

Each has the signature of a reward function. An answer that cannot be read earns 0; a row that lacks what it needs is an
error.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from tightrein.errors import TightreinError, require

READING = 2  # seconds for reading an answer, and again for comparing it
DIGITS = 300  # of a number that is written out
# In an answer: the tens of 1.5 * 10^3; a sum or product; and what else a whole number would not be written with.
TENS = re.compile(r"(?:[*×·]|\\times|\\cdot)\s*10\s*\^\s*\{?\s*-?\d+\s*\}?")
SUM = re.compile(r"[\d)}]\s*(?:[-+*×·]|\\times|\\cdot)")
OPEN = re.compile(SUM.pattern + r"|[/÷^!]|\\div|\\[dt]?frac|\\sqrt|\\binom")
MARK = "####"  # what stands before the result in GSM8K's answers


def math(completions: Sequence[Any], answer: Sequence[Any] = (), **_: Any) -> list[float]:
    """1 where math-verify finds the completion's result equal to that in the column `answer`, else 0.

    Columns as in GSM8K ("... #### 42"), MATH (LaTeX, boxed or not) and plain numbers. Where the result is a number, a
    sum or product of that value is none yet: to say "7 + 7" again earns nothing, "7 + 7 = 14" does.

    Raises:
        TightreinError: there is no such column, or a row without an answer.
    """
    if not answer:
        raise TightreinError("reward math needs the right results", "add a column 'answer' to the dataset")
    return [_equal(_text(said), _result(right)) for said, right in zip(completions, answer, strict=True)]


def _result(answer: Any) -> str:
    if answer is None or not str(answer).strip():
        raise TightreinError("reward math found a row without an answer", "fill the column 'answer' in every row")
    return str(answer).rpartition(MARK)[2].strip()


def _equal(said: str, right: str) -> float:
    library = require("math_verify", "language")
    if said.strip() == right:
        return 1.0
    wanted = _parsed(right)
    if not wanted:
        return 0.0
    found = library.parse(said, parsing_timeout=READING)
    if any(_open(text, right) for text in found if isinstance(text, str)):
        return 0.0
    return float(library.verify(list(wanted), found, timeout_seconds=READING))


def _open(said: str, right: str) -> bool:
    """Whether an answer still holds what is to be worked out, where a number is wanted."""
    number = _number(right.replace(",", ""))
    if number is None:
        return False
    result = TENS.sub("", said.rpartition("=")[2])
    return (OPEN if number == number.to_integral_value() else SUM).search(result) is not None


@functools.lru_cache(maxsize=4096)
def _parsed(right: str) -> tuple[Any, ...]:
    library = require("math_verify", "language")
    written = _without_exponent(right)
    plain = "$" in written or "\\boxed" in written
    return tuple(library.parse(written if plain else f"\\boxed{{{written}}}", parsing_timeout=READING))


def _without_exponent(text: str) -> str:
    """A number like 2.5e3, whose e math-verify takes for Euler's, as 2500; other texts as they are."""
    number = _number(text)
    return text if number is None else f"{number:f}"


def _number(text: str) -> Decimal | None:
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    return found if found.is_finite() and abs(found.adjusted()) < DIGITS else None


def reasoning_gym(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    answer: Sequence[Any] = (),
    metadata: Sequence[Any] = (),
    **columns: Any,
) -> list[float]:
    """What the reasoning-gym task that made a row says of the completion, from 0 to 1.

    The row is as reasoning-gym made it, its `question` perhaps as the prompt: `answer` and `metadata`, whose
    `source_dataset` names the task; metadata may be JSON.

    Raises:
        TightreinError: a column is missing, or it names no task.
    """
    if not answer or not metadata:
        raise TightreinError(
            "reward reasoning_gym needs rows that reasoning-gym made", "keep the columns 'answer' and 'metadata'"
        )
    questions = columns.get("question") or prompts
    values = []
    for question, said, right, told in zip(questions, completions, answer, metadata, strict=True):
        facts = json.loads(told) if isinstance(told, str) else told
        entry = {"question": question, "answer": right, "metadata": facts}
        values.append(_scored(_task(facts), _text(said).strip(), entry))
    return values


def _task(facts: Any) -> Callable[..., float]:
    name = facts.get("source_dataset") if isinstance(facts, Mapping) else None
    known = require("reasoning_gym.factory", "language")
    if name not in known.DATASETS:
        raise TightreinError(
            f"metadata names the reasoning-gym task {name!r}, which there is not",
            "keep 'source_dataset' in the column 'metadata' as reasoning-gym wrote it",
        )
    score: Callable[..., float] = _scoring(name)
    return score


@functools.lru_cache(maxsize=64)
def _scoring(name: str) -> Any:
    return require("reasoning_gym", "language").get_score_answer_fn(name)


def _scored(score: Callable[..., float], said: str, entry: Mapping[str, Any]) -> float:
    try:
        return float(score(said, entry))
    except Exception:  # its scorer cannot read the answer
        return 0.0


def _text(completion: Any) -> str:
    """What was said, at last where there are several messages."""
    if isinstance(completion, str):
        return completion
    said = [str(message.get("content") or "") for message in completion if message.get("role") == "assistant"]
    return said[-1] if said else ""
