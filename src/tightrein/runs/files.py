"""Writing files so that a kill or a power cut leaves either the old one or the new one."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tightrein.errors import TightreinError

REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "use a folder on a disk that can be written",
    errno.ENOTDIR: "name a folder that is not a file",
    errno.EEXIST: "name a folder that is not a file",
}


def sync(path: Path) -> None:
    """Wait until the file or folder at `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write `text` to `path` by way of a file beside it.

    Raises:
        OSError: the disk is full or not writable; `path` is as it was.
    """
    beside = path.with_name(f".{path.name}.writing")
    try:
        beside.write_text(text, encoding="utf-8")
        sync(beside)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A file beside `path`, of the same kind, to be written; it becomes `path` if nothing is raised, else it goes.

    Raises:
        TightreinError: it could not be written; names the cause.
    """
    beside = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, path)
    except OSError as error:
        cause, remedy = cause_and_remedy(error)
        raise TightreinError(f"{path} could not be written: {cause}", f"{remedy}, or name another file") from error
    finally:
        beside.unlink(missing_ok=True)


def jsonable(value: Any) -> Any:
    """`value` in JSON's own types: non-finite floats become None, paths, enums and the like their text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(item) for item in value), key=str)
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, and the arrays of torch and JAX
        return jsonable(value.tolist())
    return str(value)


def dump(value: Any) -> str:
    """`value` as indented JSON, ready to be read by a person."""
    return json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def amount(size: int) -> str:
    """A number of bytes as a person says it, for example "1.6 GB"."""
    if size < 1000:
        return f"{size} B"
    power = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def cause_and_remedy(error: OSError) -> tuple[str, str]:
    """Why the system refused to write, and what a person can do about it."""
    cause = os.strerror(error.errno) if error.errno else str(error)
    return cause, REMEDIES.get(error.errno or 0, "put that right")
