"""Programs as answers: `--reward code` runs each against the tests of its row.

It runs in the Python tool's process, with its limits and walls (see sandbox.py and confinement.py): the standard
library alone, no network, no files to write, no other processes. What these do not keep out is written there. A program
can also deceive its tests (see trial.py), as one that makes everything equal to everything does.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tightrein.engines.language.rewards import trial
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.tools import Limits, Python
from tightrein.engines.language.tasks.turns import Answer, final
from tightrein.errors import TightreinError

LIMITS = Limits(seconds=2.0, megabytes=512, characters=100_000)  # of a program with all of its tests
BLOCK = re.compile(r"```(?:python|py|python3)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)
ASSERTS = ("tests", "test_list")  # columns with the tests, the first that is there
REMEDY = (
    "give each row `tests` or `test_list` (a list of assert statements, or of {'input': ..., 'output': ...}), "
    "or `inputs` and `outputs` (texts)"
)


class Execution:
    """A Reward: the share of a row's tests that the program in the answer passes.

    The program is the last fenced block, or the whole answer where there is none. Tests behind one that does not end
    count as failed. A program on standard input passes where its output is the one wanted but for blanks at the ends of
    lines.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._python = Python(limits)

    def __call__(self, problems: Sequence[Problem], completions: Sequence[Answer]) -> list[float]:
        """A Reward.

        Raises:
            TightreinError: a row has no tests, or tests of another form.
        """
        mark = f"{secrets.token_hex(8)} "
        tests = [_tests(row, problem.columns) for row, problem in enumerate(problems)]
        texts = [t.text(program(final(c)), mark) for t, c in zip(tests, completions, strict=True)]
        outputs = [set(reply.text.splitlines()) for reply in self._python(texts)]
        wanted = [test.lines(mark) for test in tests]
        return [len(lines & output) / len(lines) for lines, output in zip(wanted, outputs, strict=True)]


def program(answer: str) -> str:
    """The program in an answer."""
    blocks = BLOCK.findall(answer)
    return str(blocks[-1] if blocks else answer)


@dataclass(frozen=True)
class Asserts:
    """Statements that raise where the program is wrong. setup: what runs before it."""

    tests: tuple[str, ...]
    setup: str

    def text(self, code: str, mark: str) -> str:
        """What the sandbox runs."""
        return _call("check", code, self.setup, self.tests, mark)

    def lines(self, mark: str) -> set[str]:
        """What it then says if all is right."""
        return {f"{mark}{number}" for number in range(len(self.tests))}


@dataclass(frozen=True)
class Pairs:
    """What the program reads from standard input, and what it is to print."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def text(self, code: str, mark: str) -> str:
        """What the sandbox runs; it is not told the outputs."""
        return _call("feed", code, self.inputs, mark)

    def lines(self, mark: str) -> set[str]:
        """What it then says if all is right."""
        return {f"{mark}{number} {trial.digest(output)}" for number, output in enumerate(self.outputs)}


def _call(function: str, *arguments: Any) -> str:
    """The text of trial.py, and a call of this function in it."""
    given = ", ".join(f"json.loads({json.dumps(argument)!r})" for argument in arguments)
    return f"{Path(trial.__file__).read_text('utf-8')}\nimport json\n{function}({given})"


def _tests(row: int, columns: Mapping[str, Any]) -> Asserts | Pairs:
    name = next((name for name in ASSERTS if columns.get(name)), None)
    found = _pairs(columns.get("inputs"), columns.get("outputs")) if name is None else _listed(columns[name], columns)
    if found is None:
        present = ", ".join(columns) or "none"
        raise TightreinError(f"reward code finds no tests that it can run in row {row}; columns: {present}", REMEDY)
    return found


def _listed(given: Any, columns: Mapping[str, Any]) -> Asserts | Pairs | None:
    tests = _list(given)
    if tests and all(isinstance(test, Mapping) for test in tests):
        return _pairs([test.get("input") for test in tests], [test.get("output") for test in tests])
    if not tests or not all(isinstance(test, str) for test in tests):
        return None
    setup = [*_list(columns.get("test_imports") or []), columns.get("test_setup_code") or ""]
    return Asserts(tuple(tests), "\n".join(map(str, setup)))


def _pairs(inputs: Any, outputs: Any) -> Pairs | None:
    given, wanted = _list(inputs or []), _list(outputs or [])
    texts = all(isinstance(text, str) for text in (*given, *wanted))
    return Pairs(tuple(given), tuple(wanted)) if texts and given and len(given) == len(wanted) else None


def _list(value: Any) -> list[Any]:
    """A list; a text is JSON of one, or stands for a list of itself."""
    if not isinstance(value, str):
        return list(value)
    try:
        found = json.loads(value)
    except ValueError:
        found = None
    return found if isinstance(found, list) else [value]
