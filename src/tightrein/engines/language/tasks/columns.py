"""Rows of a dataset as problems: the columns that each kind of experience needs, in TRL's conventions.

rollouts: `prompt`, and `answer` for worked examples. demonstrations and mixed: `prompt` and `completion`, or
`messages`. pairs: `prompt`, `chosen` and `rejected`, or the last two alone, the prompt being what both begin with. Each
is plain text or a list of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tightrein.engines.language.tasks.problems import Problem, Prompt
from tightrein.errors import TightreinError

Row = Mapping[str, Any]
Fault = Callable[[str, str, str], TightreinError]  # column, what is wrong with it, remedy
KNOWN = ("prompt", "completion", "messages", "chosen", "rejected")
QUESTIONS = ("question", "problem", "instruction", "input")  # what others call these columns
ANSWERS = ("answer", "solution", "response", "output")
MESSAGES = 'make it a text, or a list of messages like {"role": "user", "content": "..."}'


def read_problems(name: str, rows: Sequence[Row], experience: str) -> list[Problem]:
    """The problems in the rows of dataset `name`, for a method that learns from `experience`.

    Raises:
        TightreinError: a column is missing or is not what it should be; names the dataset, the row and the column.
    """
    return [READERS[experience](row, _fault(name, index, row)) for index, row in enumerate(rows)]


def _fault(name: str, index: int, row: Row) -> Fault:
    def error(column: str, what: str, remedy: str) -> TightreinError:
        if column not in row:
            present = ", ".join(map(str, row)) or "none"
            return TightreinError(f"dataset {name} has no column '{column}' in row {index}; present: {present}", remedy)
        return TightreinError(f"row {index} of dataset {name}: {column} {what}", remedy)

    return error


def _asked(row: Row, fault: Fault) -> Problem:
    answer = row.get("answer")
    return Problem(_prompt(row, fault), None if answer is None else str(answer), _others(row, "prompt"))


def _demonstrated(row: Row, fault: Fault) -> Problem:
    if "messages" in row and "prompt" not in row:
        *before, last = _messages(row, "messages", fault)
        if not before:
            raise fault("messages", "is one message alone", "begin with what the user says")
        return Problem(before, _reply([last], "messages", fault), _others(row, "messages"))
    prompt = _prompt(row, fault)
    remedy = _renamed(row, "completion", "the expert's answer", ANSWERS, QUESTIONS)
    return Problem(prompt, _text(row, "completion", fault, remedy), _others(row, "prompt"))


def _paired(row: Row, fault: Fault) -> Problem:
    remedy = "name the columns of the better and the worse answer 'chosen' and 'rejected', as TRL does"
    for column in ("chosen", "rejected"):
        if column not in row:
            raise fault(column, "", remedy)
    row = row if "prompt" in row else _with_prompt(row, fault)
    chosen, rejected = (_text(row, column, fault, remedy) for column in ("chosen", "rejected"))
    if chosen == rejected:
        raise fault("rejected", "is the chosen answer", "leave out rows that prefer neither")
    return Problem(_prompt(row, fault), chosen, _others(row, "prompt", "chosen", "rejected"), rejected=rejected)


READERS: dict[str, Callable[[Row, Fault], Problem]] = {
    "rollouts": _asked,
    "demonstrations": _demonstrated,
    "mixed": _demonstrated,
    "pairs": _paired,
}


def _with_prompt(row: Row, fault: Fault) -> Row:
    """The row with what both answers begin with as their prompt."""
    chosen, rejected = row["chosen"], row["rejected"]
    text = isinstance(chosen, str) and isinstance(rejected, str)
    if not text:
        chosen, rejected = (_messages(row, column, fault) for column in ("chosen", "rejected"))
    same = [a == b for a, b in zip(chosen, rejected, strict=False)]
    shared = same.index(False) if False in same else len(same)
    if text:
        shared = max(chosen.rfind(" ", 0, shared), chosen.rfind("\n", 0, shared)) + 1  # no word is cut
    if not shared:
        raise fault("rejected", "does not begin as chosen does", "add a column 'prompt', or begin both with the prompt")
    return {**row, "prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _prompt(row: Row, fault: Fault) -> Prompt:
    prompt = row.get("prompt")
    if isinstance(prompt, str) and prompt:
        return prompt
    if "prompt" in row:
        return _messages(row, "prompt", fault)
    raise fault("prompt", "", _renamed(row, "prompt", "the question", QUESTIONS, ANSWERS))


def _text(row: Row, column: str, fault: Fault, remedy: str) -> str:
    """An answer: text, or the one message of the assistant."""
    if column not in row:
        raise fault(column, "", remedy)
    value = row[column]
    return value if isinstance(value, str) and value else _reply(_messages(row, column, fault), column, fault)


def _renamed(row: Row, column: str, holds: str, likely: Sequence[str], unlikely: Sequence[str]) -> str:
    """The remedy for a column that is missing: what to rename, if there is anything."""
    others = [name for name in row if name not in (*KNOWN, *unlikely)]
    found = next((name for name in (*likely, *others) if name in others), None)
    if found is None:
        return f"add a column '{column}' that holds {holds}"
    return f"rename the column that holds {holds}, for example rename_column('{found}', '{column}')"


def _read(value: Any) -> str:
    """A value that is not what it should be, as it was read."""
    if value is None:
        return "null"
    return repr(value[:60]) if isinstance(value, str) else f"{str(value)[:60]} ({type(value).__name__})"


def _messages(row: Row, column: str, fault: Fault) -> list[dict[str, str]]:
    value = row[column]
    whole = isinstance(value, (list, tuple)) and value and all(
        isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in value
    )  # fmt: skip
    if not whole:
        raise fault(column, f"is {_read(value)}", MESSAGES)
    return [dict(message) for message in value]


def _reply(messages: Sequence[Mapping[str, str]], column: str, fault: Fault) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant" or not messages[0]["content"]:
        roles = ", ".join(message["role"] for message in messages) or "no message"
        raise fault(
            column, f"should end in one message of the assistant, but has {roles} after the prompt",
            "leave one message of role assistant, and put everything before it into the prompt",
        )  # fmt: skip
    return messages[0]["content"]


def _others(row: Row, *taken: str) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column not in taken}
