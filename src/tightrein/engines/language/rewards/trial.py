"""A program against the tests of its row. The text of this file is run in the sandbox: the standard library alone.

Each test that ends well is told in a line that begins with a mark which the program was not given. A program that looks
for it in this file's variables can find it: rewards that must not be deceived need another process for every test.
"""

from __future__ import annotations

import hashlib
import io
import sys
import types
from collections.abc import Sequence
from typing import Any, TextIO


def digest(output: str) -> str:
    """A short name of an output; blanks at the ends of lines, and empty lines at its end, make no difference."""
    lines = "\n".join(line.rstrip() for line in output.splitlines()).rstrip()
    return hashlib.sha256(lines.encode("utf-8", "replace")).hexdigest()


def check(program: str, setup: str, tests: Sequence[str], mark: str) -> None:
    """Runs the program, then each test behind it; tells the numbers of those that raise nothing."""
    out = sys.stdout
    sys.stdout = sys.stderr = io.StringIO()
    scope = _scope("answer")
    try:
        exec(compile(setup, "<setup>", "exec"), scope)
        exec(compile(program, "<answer>", "exec"), scope)
    except BaseException:  # whatever a program does: it has passed nothing
        return
    for number, test in enumerate(tests):
        try:
            exec(compile(test, "<test>", "exec"), scope)
        except BaseException:
            continue
        _tell(out, f"{mark}{number}")


def feed(program: str, inputs: Sequence[str], mark: str) -> None:
    """Runs the program on each input; tells the digest of what it prints where it ends without an error."""
    out = sys.stdout
    for number, given in enumerate(inputs):
        sys.stdin = io.TextIOWrapper(io.BytesIO(given.encode()), "utf-8")
        printed = io.BytesIO()
        sys.stdout = sys.stderr = io.TextIOWrapper(printed, "utf-8", errors="replace", write_through=True)
        try:
            exec(compile(program, "<answer>", "exec"), _scope("__main__"))
        except SystemExit as end:
            if end.code not in (None, 0):
                continue
        except BaseException:
            continue
        _tell(out, f"{mark}{number} {digest(printed.getvalue().decode('utf-8', 'replace'))}")


def _scope(name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    return vars(module)


def _tell(out: TextIO, line: str) -> None:
    out.write(f"\n{line}\n")
    out.flush()
