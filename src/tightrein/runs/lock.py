"""One process a run: a second one, resuming too early, would tear the files of the first."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tightrein.errors import TightreinError

try:
    import fcntl
except ImportError:  # not on Windows; there, nobody is kept out
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Held until the object goes or the process ends, however it ends; forked workers do not inherit it."""

    def __init__(self, folder: Path) -> None:
        """Raise TightreinError if another process holds the lock of `folder`, OSError if it cannot be made."""
        self._descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # a file system without locks: training beats refusing
            os.close(self._descriptor)
            self._descriptor = -1
            raise TightreinError(
                f"another process is writing to the run in {folder}", "wait until it ends, or stop it"
            ) from None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)
