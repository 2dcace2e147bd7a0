"""A call that runs beside its caller, on a thread of its own."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

ENDING = 10.0  # seconds that a call has to end which nobody waits for any more

T = TypeVar("T")


class Stopped(BaseException):
    """Raised in a call that nobody waits for any more, at its next step in Python."""


class Ahead(Generic[T]):
    """One call at a time beside the caller.

    A call that is under way when the process ends, or when nobody holds this object any more, is stopped: a thread that
    is in the middle of a product while the interpreter goes would take the process down with it.
    """

    def __init__(self) -> None:
        self._outcome: Future[T] = Future()
        self._stop: weakref.finalize[Any, Any] | None = None

    def begin(self, call: Callable[[], T]) -> None:
        """Starts the call; the one before must have ended. It must not hold this object."""
        self._outcome = Future()
        thread = threading.Thread(target=_run, args=(call, self._outcome), name="ahead", daemon=True)
        thread.start()
        self._stop = weakref.finalize(self, _stop, thread)

    def wait(self) -> float:
        """Waits until the call has ended, well or not; returns the seconds that took."""
        began = time.monotonic()
        self._outcome.exception()
        if self._stop is not None:
            self._stop.detach()
        return time.monotonic() - began

    @property
    def failed(self) -> bool:
        """Whether the call, which has ended, raised something."""
        return self._outcome.exception() is not None

    def result(self) -> T:
        """What the call returned; what it raised is raised, as often as it is asked for."""
        return self._outcome.result()


def _run(call: Callable[[], T], outcome: Future[T]) -> None:
    try:
        outcome.set_result(call())
    except BaseException as error:  # the caller is told, whatever it is
        outcome.set_exception(error)


def _stop(thread: threading.Thread) -> None:
    if thread.is_alive() and thread is not threading.current_thread():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stopped))
        thread.join(ENDING)
