"""The process in which the Python tool runs code that a model wrote. It is started as a script, with nothing installed.

It reads a line of JSON, a list of texts, and writes one with their outputs. Every text runs in a child of its own with
limits on processor time, wall-clock time, memory, output and open files, no files to write, and no environment. On
Linux it has also given up most of what a process can do: see confinement.py, which says what is not kept out.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import resource
import runpy
import selectors
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 4  # seconds on the clock for each of processor time, of which a busy machine gives it less


def main() -> None:
    """Serve until the other side closes the pipe. Arguments: seconds of processor time, megabytes, characters, children
    at once.
    """
    seconds, megabytes, characters, at_once = float(sys.argv[1]), *map(int, sys.argv[2:5])
    confine = runpy.run_path(os.path.join(os.path.dirname(__file__), "confinement.py"))["confine"]
    for line in sys.stdin:
        outputs = run_all(json.loads(line), seconds, megabytes << 20, characters, at_once, confine)
        sys.stdout.write(json.dumps(outputs) + "\n")
        sys.stdout.flush()


def run_all(
    codes: list[str], seconds: float, memory: int, characters: int, at_once: int, confine: Callable[[], None]
) -> list[str]:
    """What each text prints, or the value of its last line, or its error, cut to `characters`.

    confine: gives up, in a child, what texts are not to have.
    """
    waiting = list(enumerate(codes))[::-1]
    outputs = [""] * len(codes)
    with selectors.DefaultSelector() as selector:
        while waiting or selector.get_map():
            while waiting and len(selector.get_map()) < at_once:
                index, code = waiting.pop()
                child = Child(index, code, seconds, memory, confine)
                selector.register(child.pipe, selectors.EVENT_READ, child)
            children = [key.data for key in selector.get_map().values()]
            patience = max(0.0, min(child.deadline for child in children) - time.monotonic())
            ready = [key.data for key, _ in selector.select(patience)]
            for child in children:
                finished = child.read(characters) if child in ready else child.late()
                if finished:
                    selector.unregister(child.pipe)
                    outputs[child.index] = child.end(characters, seconds)
    return outputs


class Child:
    """One running text."""

    def __init__(self, index: int, code: str, seconds: float, memory: int, confine: Callable[[], None]) -> None:
        self.index, self.output, self.stopped = index, b"", False
        self.pipe, out = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _become(code, out, seconds, memory, confine)
        os.close(out)
        self.deadline = time.monotonic() + PATIENCE * seconds

    def read(self, characters: int) -> bool:
        """Takes what there is; True at its end, or when it is more than will be shown."""
        piece = os.read(self.pipe, 65536)
        self.output += piece
        return not piece or len(self.output) > 4 * characters

    def late(self) -> bool:
        """Whether its time is over."""
        if time.monotonic() < self.deadline:
            return False
        self.stopped = True
        return True

    def end(self, characters: int, seconds: float) -> str:
        """Its output, after all of it has been stopped."""
        for kill, who in ((os.killpg, self.pid), (os.kill, self.pid)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(who, signal.SIGKILL)
        os.close(self.pipe)
        status = os.waitpid(self.pid, 0)[1]
        text = self.output.decode("utf-8", "replace").strip()
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if self.stopped or killed in (signal.SIGXCPU, signal.SIGPROF):
            text = f"TimeoutError: stopped after {seconds:g} s"
        elif killed and not text:
            text = f"Error: killed by signal {killed}"
        return text if len(text) <= characters else text[:characters] + " (cut)"


def _become(code: str, out: int, seconds: float, memory: int, confine: Callable[[], None]) -> None:
    """In the child: run the text with its output in the pipe, and leave."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.closerange(3, 256)
        limits = {
            "CPU": int(seconds) + 1,
            "AS": memory,
            "DATA": memory,
            "FSIZE": 0,
            "NOFILE": 16,
            "CORE": 0,
            "NPROC": 0,
        }
        for name, value in limits.items():  # not every system has all of them
            _limit(getattr(resource, "RLIMIT_" + name, None), value)
        os.environ.clear()
        signal.setitimer(signal.ITIMER_PROF, seconds)  # ends the child, and finer than the limit in whole seconds
        confine()
        print(evaluate(code), end="", flush=True)
    except BaseException as error:  # whatever the model's code does, it is told, and the child ends
        _say(error)
    finally:
        os._exit(0)


def _limit(kind: int | None, value: int) -> None:
    if kind is not None:
        with contextlib.suppress(ValueError, OSError):  # the system allows less already, or does not have it
            resource.setrlimit(kind, (value, value))


def _say(error: BaseException) -> None:
    try:
        message = str(error).splitlines()[:1]
        if not isinstance(error, SystemExit):
            print(": ".join([type(error).__name__, *message]), end="", flush=True)
    except BaseException:  # an error whose own text fails
        os.write(1, type(error).__name__.encode())


def evaluate(code: str) -> str:
    """Runs the text; the value of its last line if that is an expression, as an interpreter would show it."""
    tree = ast.parse(code.strip(), "<tool>")
    scope: dict[str, Any] = {"__name__": "__main__"}
    end = tree.body[-1] if tree.body else None
    last = end if isinstance(end, ast.Expr) else None
    tree.body = tree.body if last is None else tree.body[:-1]
    exec(compile(tree, "<tool>", "exec"), scope)
    value = None if last is None else eval(compile(ast.Expression(last.value), "<tool>", "eval"), scope)
    return "" if value is None else repr(value)


if __name__ == "__main__":
    main()
