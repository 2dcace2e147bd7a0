"""Checkpoints that a kill, a full disk or a flipped bit cannot take away.

Each is a folder step-000000123/ with arrays.safetensors, extra.json and SHA256SUMS (of the other two, as
`sha256sum -c` reads it). It is written under another name, brought to the disk, then renamed: a folder of that
name is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tightrein.errors import TightreinError, require
from tightrein.runs.files import amount, cause_and_remedy, sync

KEPT = 2
ARRAYS, EXTRA, SUMS = "arrays.safetensors", "extra.json", "SHA256SUMS"
Array: TypeAlias = np.ndarray[Any, Any]
WRITING, REPLACED, DAMAGED = ".writing", ".replaced", ".damaged"  # suffixes of folders that are no checkpoint
INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
DTYPES = INTEGERS | {"bool", "float16", "float32", "float64"}


@dataclass(frozen=True)
class Checkpoint:
    """What `save` was given. `extra` has been through JSON: tuples have become lists, keys strings."""

    step: int
    arrays: dict[str, Array]
    extra: dict[str, Any]


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, ascending."""
    names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name[5:]) for name in names if re.fullmatch(r"step-\d{9,}", name))


def save(folder: Path, step: int, arrays: Mapping[str, Array], extra: Mapping[str, Any]) -> None:
    """Write a checkpoint, then remove all but the newest two.

    Raises:
        TightreinError: a dtype that safetensors cannot hold, or a full disk; earlier checkpoints are intact.
    """
    whole = {name: _whole(name, array) for name, array in arrays.items()}
    text = json.dumps(dict(extra))
    target = _path(folder, step)
    beside = target.with_name(target.name + WRITING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fill(beside, whole, text)
        _put_in_place(beside, target)
    except OSError as error:
        needed = sum(array.nbytes for array in whole.values()) + len(text)
        raise _refused(folder, step, error, needed) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for old in steps(folder)[:-KEPT]:
        shutil.rmtree(_path(folder, old), ignore_errors=True)


def tidy(folder: Path) -> None:
    """Remove what a killed process has left half done. Only for the process that owns the run."""
    for left in folder.glob(f"step-*{WRITING}"):
        shutil.rmtree(left, ignore_errors=True)
    for left in folder.glob(f"step-*{REPLACED}"):
        target = left.with_name(left.name.removesuffix(REPLACED))
        if target.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            os.rename(left, target)


def newest_intact(folder: Path) -> int | None:
    """The step of the newest checkpoint whose checksums agree; damaged ones are reported and put aside."""
    for step in reversed(steps(folder)):
        fault = _fault(_path(folder, step))
        if fault is None:
            return step
        aside = _path(folder, step).with_name(_path(folder, step).name + DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(_path(folder, step), aside)
        print(f"checkpoint {step} is damaged ({fault}); put aside as {aside}, looking for an earlier one",
              file=sys.stderr)  # fmt: skip
    return None


def load(folder: Path, step: int) -> Checkpoint:
    """Read the checkpoint of `step`, which `newest_intact` has named."""
    numpy_format = require("safetensors.numpy", "cli")
    path = _path(folder, step)
    extra = json.loads((path / EXTRA).read_text("utf-8"))
    return Checkpoint(step, numpy_format.load_file(path / ARRAYS), extra)


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}"


def _whole(name: str, array: Any) -> Array:
    """`array` as safetensors writes it correctly: C-contiguous, native byte order (a 0-d array stays 0-d)."""
    result = np.asarray(array, order="C")
    if result.dtype.name not in DTYPES:
        raise TightreinError(
            f"checkpoint array '{name}' has dtype {result.dtype}, which cannot be saved",
            "convert it to one of " + ", ".join(sorted(DTYPES)),
        )
    return result.astype(result.dtype.newbyteorder("="), copy=False)


def _fill(folder: Path, arrays: dict[str, Array], extra: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _write_arrays(folder / ARRAYS, arrays)
    (folder / EXTRA).write_text(extra, encoding="utf-8")
    sums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in (ARRAYS, EXTRA))
    (folder / SUMS).write_text(sums, encoding="utf-8")
    for name in (ARRAYS, EXTRA, SUMS):
        sync(folder / name)
    sync(folder)


def _write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    numpy_format = require("safetensors.numpy", "cli")
    safetensors = require("safetensors", "cli")
    try:
        numpy_format.save_file(arrays, path)
    except safetensors.SafetensorError as error:  # it wraps the system's error in text alone
        number = re.search(r"os error (\d+)", str(error))
        code = int(number.group(1)) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


def _put_in_place(beside: Path, target: Path) -> None:
    replaced = target.with_name(target.name + REPLACED)
    if target.exists():  # the same step once more; `tidy` puts the old one back if a kill comes between
        os.rename(target, replaced)
    os.rename(beside, target)
    sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`; None if nothing is."""
    try:
        sums = dict(line.split("  ")[::-1] for line in (path / SUMS).read_text("utf-8").splitlines())
        wrong = [name for name in (ARRAYS, EXTRA) if sums.get(name) != _sha256(path / name)]
    except (OSError, ValueError) as error:
        return str(error)
    return f"{wrong[0]} is not what was written" if wrong else None


def _refused(folder: Path, step: int, error: OSError, needed: int) -> TightreinError:
    earlier = steps(folder)
    kept = f"checkpoint {earlier[-1]} is intact" if earlier else "there is no earlier checkpoint"
    free = amount(shutil.disk_usage(folder).free) if folder.is_dir() else "unknown"
    cause, remedy = cause_and_remedy(error)
    return TightreinError(
        f"checkpoint {step} could not be written to {folder}: {cause} "
        f"(it needs {amount(needed)}, {free} free on that disk); {kept}",
        f"{remedy}, then go on with --resume",
    )
