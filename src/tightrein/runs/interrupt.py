"""Stopping at a good moment."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

MESSAGE = b"\nstopping after this update; Ctrl-C once more stops at once\n"


class Interrupt:
    """Turns Ctrl-C and SIGTERM into a flag that a training loop reads between two updates.

        with Interrupt() as stop:
            while not stop.requested: ...

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread, where Python allows no
    handlers, the flag stays False.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not installed from Python and cannot be put back from here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        if number == signal.SIGINT:
            os.write(2, MESSAGE)  # print may be in the middle of a line of its own, and must not be entered twice
