"""Tools that a model can call: Python in a process of its own, and functions of the user's."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tightrein.engines.language.tasks import sandbox
from tightrein.engines.language.tasks.named import find
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Call, Dialogue, Form, Reply
from tightrein.errors import TightreinError

PYTHON = "python"
SHOWN = 500  # characters of a reply at most
KILLED = "Error: the code has ended the tool's process"

Tool = Callable[[Sequence[str]], list[Reply]]
Given = str | Callable[[Any], Any]  # how a tool is named or given: see `dialogue`


@dataclass(frozen=True)
class Limits:
    """Of one call of the Python tool.

    seconds: of processor time; on the clock four times as many. characters: of its output that are shown.
    """

    seconds: float = 1.0
    megabytes: int = 256
    characters: int = SHOWN


class Python:
    """Runs code and gives back what it prints, the value of its last line, or its error (see sandbox.py).

    Equal texts of one call are run once. The process behind it starts with the first call, and again when code has
    killed it.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, texts: Sequence[str]) -> list[Reply]:
        """One reply to each text.

        Raises:
            TightreinError: its process cannot be started.
        """
        distinct = list(dict.fromkeys(texts))
        outputs = dict(zip(distinct, self._run(distinct), strict=True))
        return [Reply(outputs[text]) for text in texts]

    def _run(self, codes: list[str]) -> list[str]:
        outputs = self._asked(codes)
        if outputs is None:  # one of them has killed the process: which one shows when each runs alone
            outputs = [(self._asked([code]) or [KILLED])[0] for code in codes]
            if outputs[0] == KILLED and self._asked(["1"]) is None:
                raise TightreinError(
                    "the process of the Python tool ends at once",
                    "it needs a system with fork (Linux, macOS) and memory to spare",
                )
        return outputs

    def _asked(self, codes: list[str]) -> list[str] | None:
        """The outputs, or None if the process has ended over them."""
        try:
            process = self._process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(codes) + "\n")
            process.stdin.flush()
            return list(json.loads(process.stdout.readline()))
        except (OSError, ValueError):  # the pipe is broken, or the line is not whole
            self._process = None
            return None

    def _start(self) -> subprocess.Popen[str]:
        """A bare interpreter, in an empty folder, out of reach of Ctrl-C; it ends with this object."""
        folder = tempfile.TemporaryDirectory(prefix="tightrein-tool-")
        limits = (self._limits.seconds, self._limits.megabytes, self._limits.characters, max(2, os.cpu_count() or 1))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(sandbox.__file__).resolve()), *map(str, limits)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            encoding="utf-8", cwd=folder.name, env={}, start_new_session=True,
        )  # fmt: skip
        weakref.finalize(self, _end, process, folder)
        return process


def _end(process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    folder.cleanup()


def wrapped(name: str, function: Callable[[str], Any]) -> Tool:
    """A user's function of the call's text as a tool. It returns a text, or (text, reward of the turn).

    What it raises is told to the model as "KeyError: 'x'".

    Raises:
        TightreinError: when called, for a reward that is no finite number.
    """

    def tool(texts: Sequence[str]) -> list[Reply]:
        return [_reply(name, function, text) for text in texts]

    return tool


def _reply(name: str, function: Callable[[str], Any], text: str) -> Reply:
    try:
        given = function(text)
    except Exception as error:  # somebody else's code; the model is to learn from it
        return Reply(f"{type(error).__name__}: {error}"[:SHOWN])
    said, reward = given if isinstance(given, tuple) and len(given) == 2 else (given, 0.0)
    if not isinstance(reward, (int, float)) or not math.isfinite(reward):
        raise TightreinError(f"tool {name} gave the reward {reward!r}", "return a text, or (text, a finite number)")
    return Reply(str(said)[:SHOWN], float(reward))


def dialogue(tools: Sequence[Given], form: Form, turns: int) -> Dialogue:
    """The dialogue with these tools: "python", module:function, file.py:function, functions, or a `Python`.

    Raises:
        TightreinError: one cannot be found, or two have the same name.
    """
    made: dict[str, Tool] = {}
    for tool in tools:
        name, function = _named(tool)
        if name in made:
            raise TightreinError(f"two tools are called {name}", "give them names of their own")
        made[name] = function

    def respond(problems: Sequence[Problem], calls: Sequence[Sequence[Call]]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        for name, tool in made.items():
            rows = [row for row, so_far in enumerate(calls) if so_far[-1].name == name]
            if rows:
                replies |= dict(zip(rows, tool([calls[row][-1].text for row in rows]), strict=True))
        return [replies[row] for row in range(len(calls))]

    return Dialogue(respond, tuple(made), form, turns)


def _named(tool: Given) -> tuple[str, Tool]:
    if isinstance(tool, Python):
        return PYTHON, tool
    if tool == PYTHON:
        return PYTHON, Python()
    function = find(tool, "--tools", "tool") if isinstance(tool, str) else tool
    name = name_of(tool)
    return name, wrapped(name, function)


def name_of(tool: str | Callable[[str], Any]) -> str:
    """What the model calls a tool."""
    return tool.rpartition(":")[2] if isinstance(tool, str) else getattr(tool, "__name__", type(tool).__name__)
