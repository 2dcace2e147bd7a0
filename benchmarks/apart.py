"""A side of a benchmark in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Apart:
    """A process that is told, over pipes, when its turn is: a line of JSON each way."""

    def __init__(self, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def say(self, message: Mapping[str, Any]) -> None:
        """Tells it something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Tells it something, and waits for its answer."""
        self.say(message)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(map(str, self._command))} ended; its own words are above")
        return dict(json.loads(answer))

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
