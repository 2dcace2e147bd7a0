"""metrics.jsonl: one JSON object a line, appended as the run goes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tightrein.runs.files import jsonable, write_atomic


def append(path: Path, line: dict[str, Any]) -> None:
    """Add one line in a single write, so that a kill leaves at most the last line cut short.

    Raises:
        OSError: the line could not be written; the file holds the lines before it.
    """
    data = (json.dumps(jsonable(line), ensure_ascii=False, allow_nan=False) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, data)
            if written < len(data):  # a full disk takes what still fits; the next write gives the reason
                os.write(descriptor, data[written:])
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of the file, without one that a kill has cut short; empty if there is no file."""
    if not path.exists():
        return []
    return [line for text in path.read_bytes().split(b"\n") if (line := _parse(text))]


def cut(path: Path, step: int) -> None:
    """Keep only whole lines whose step is at most `step`."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = [text + b"\n" for text in data.split(b"\n")[:-1]]
    kept = b"".join(text for text in whole if (line := _parse(text)) and line["step"] <= step)
    if data.startswith(kept):  # nearly always; it needs no space on a disk that may be full
        os.truncate(path, len(kept))
    else:
        write_atomic(path, kept.decode())


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:  # not JSON, or not even text
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None
