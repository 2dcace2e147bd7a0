"""Reward functions in processes of their own, with a time limit: one that hangs or crashes takes no run with it.

A process is started once for each function and kept. It imports what the function needs, and nothing else of this
engine: no torch. Each call sends the rows over a socket and waits for as many numbers.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from typing import Any

from tightrein.engines.language.rewards.checked import called, called_with
from tightrein.engines.language.tasks.named import find
from tightrein.errors import TightreinError

LIMIT = 60.0  # seconds that a call may take where nobody says otherwise
IMPORTING = 300.0  # seconds until a function must be imported
ENDING = 5.0  # seconds for a process to be gone that has closed its socket
Request = tuple[dict[str, Any], int]  # arguments of the function, and the number of rows


class Lost(TightreinError):
    """No answer: the process was late, or it has ended."""


class Judge:
    """The reward function of this name (module:function, file.py:function) in a process of its own.

    limit: seconds that a call may take.
    """

    def __init__(self, name: str, limit: float = LIMIT) -> None:
        self.name, self.limit = name, limit
        self._worker: _Worker | None = None
        self._rows = 0
        self._deadline = 0.0
        self._asked = self._imported = False

    def start(self) -> None:
        """Starts the process if there is none; the function is imported in it meanwhile."""
        if self._worker is None:
            self._worker, self._imported = _Worker(self.name), False

    def ready(self) -> None:
        """Waits until the function is imported.

        Raises:
            TightreinError: it cannot be found or imported.
        """
        self.start()
        if not self._imported:
            try:
                self._receive(time.monotonic() + IMPORTING, f"{IMPORTING:g} s to be imported", "as it was imported")
            except TightreinError:
                self._stop()
                raise
            self._imported = True

    def ask(self, arguments: Mapping[str, Any], rows: int) -> None:
        """Calls the function; `answer` waits for what it returns.

        Raises:
            TightreinError: it cannot be imported, or a column cannot be sent to another process.
        """
        if self._asked:  # nobody has waited for the call before
            self._stop()
        self.ready()
        assert self._worker is not None
        self._rows, self._deadline = rows, time.monotonic() + self.limit
        try:
            self._worker.connection.send((dict(arguments), rows))
        except OSError:  # it has ended since; `answer` says how
            pass
        except Exception as error:  # whatever the objects in the columns raise when they are pickled
            raise self._unsendable(arguments, error) from error
        self._asked = True

    def answer(self) -> list[float]:
        """The reward of each row.

        Raises:
            Lost: the function took too long, or has ended its process.
            TightreinError: it raised, or returned what is no finite number per row.
        """
        self._asked = False
        values: list[float] = self._receive(self._deadline, f"{self.limit:g} s", called_with(self._rows))
        return values

    def _receive(self, deadline: float, limit: str, when: str) -> Any:
        assert self._worker is not None
        connection = self._worker.connection
        try:
            if not connection.poll(max(0.0, deadline - time.monotonic())):
                self._stop()
                raise Lost(
                    f"reward function {self.name} took more than {limit} ({when})",
                    "raise --reward-timeout, or let it return in time, then go on with --resume",
                )
            reply = connection.recv()
        except (EOFError, OSError):
            how = self._worker.outcome()
            self._stop()
            raise Lost(
                f"reward function {self.name} has ended its process: {how} ({when})",
                "correct it: it must neither exit, crash nor use up the memory; then go on with --resume",
            ) from None
        if isinstance(reply, TightreinError):
            raise reply
        return reply

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.end()
        self._worker, self._asked = None, False

    def _unsendable(self, arguments: Mapping[str, Any], error: Exception) -> TightreinError:
        guilty = next((name for name, values in arguments.items() if not _pickles(values)), "prompts")
        return TightreinError(
            f"column {guilty} cannot be sent to reward function {self.name}: {type(error).__name__}: {error}",
            "leave the column out of the dataset, or give the function itself in place of its name",
        )


def _pickles(values: Any) -> bool:
    try:
        pickle.dumps(values)
    except Exception:  # whatever the objects raise
        return False
    return True


class _Worker:
    """The process. It ends with this object, and all that it has started with it."""

    def __init__(self, name: str) -> None:
        self.connection, other = Pipe()
        code = f"from {__name__} import serve; serve({other.fileno()})"
        paths = [path or os.getcwd() for path in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL, pass_fds=(other.fileno(),), start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        other.close()
        self.end = weakref.finalize(self, _end, self._process, self.connection)
        self.connection.send((name, os.getpid()))

    def outcome(self) -> str:
        """How it has ended."""
        try:
            status = self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            return "it has closed its connection"
        return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _end(process: subprocess.Popen[bytes], connection: Connection[Any, Any]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    connection.close()


def serve(handle: int) -> None:
    """In the process: import the function, then answer calls until the other side is gone."""
    os.set_inheritable(handle, False)
    connection: Connection[Any, Any] = Connection(handle)
    name, parent = connection.recv()
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    try:
        function = find(name, "--reward", "reward function")
    except TightreinError as error:
        connection.send(error)
        return
    connection.send(None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            arguments, rows = connection.recv()
            judged = _judged(name, function, arguments, rows)
            with contextlib.suppress(OSError):
                sys.stdout.flush()  # what it printed is out before it has answered: from then on it may be ended
            connection.send(judged)


def _judged(
    name: str, function: Callable[..., Any], arguments: Mapping[str, Any], rows: int
) -> list[float] | TightreinError:
    try:
        return called(name, function, arguments, rows)
    except TightreinError as error:
        return error


def _follow(parent: int) -> None:
    """Ends this process and all that it has started when the one that started it is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)
