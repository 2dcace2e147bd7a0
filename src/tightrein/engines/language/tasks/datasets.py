"""Reading the rows of a dataset, from wherever it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tightrein.errors import TightreinError, require

Rows = list[dict[str, Any]]


def read_rows(name: str, dataset: Any = None) -> Rows:
    """Rows of `dataset` (a datasets.Dataset or a list of dicts), or of the file, folder or Hub dataset `name`.

    Raises:
        TightreinError: it cannot be read, or is empty.
    """
    rows = [dict(row) for row in (dataset if dataset is not None else _open(name))]
    if not rows:
        raise TightreinError(f"dataset {name} has no rows", "give one with at least a few prompts")
    return rows


def _open(name: str) -> Any:
    path = Path(name)
    if path.is_file():
        return _read_json(path)
    if path.suffix in (".json", ".jsonl"):
        raise TightreinError(f"there is no file {name}", "check the path; it is looked for from where you are")
    datasets = require("datasets", "language")
    try:
        found = datasets.load_from_disk(name) if (path / "dataset_info.json").exists() else datasets.load_dataset(name)
    except Exception as error:  # the Hub, the disk and every format have errors of their own
        raise TightreinError(
            f"dataset {name} cannot be read: {type(error).__name__}: {first_line(error)}",
            "give a .jsonl file, a folder saved by datasets.save_to_disk, or a name on the Hub that can be reached",
        ) from error
    return _training_split(name, found) if isinstance(found, Mapping) else found


def first_line(error: Exception) -> str:
    """The first line of what the error says."""
    return (str(error).splitlines() or [""])[0]


def _training_split(name: str, splits: Mapping[str, Any]) -> Any:
    if "train" not in splits:
        raise TightreinError(
            f"dataset {name} has no split 'train'; present: {', '.join(splits)}", "save the split you mean"
        )
    return splits["train"]


def _read_json(path: Path) -> Rows:
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        rows: Rows = _parsed(path, text, "")
        return rows
    lines = enumerate(text.splitlines(), 1)
    return [_parsed(path, line, f" line {number}") for number, line in lines if line.strip()]


def _parsed(path: Path, text: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise TightreinError(
            f"{path}{where} is not JSON: {error}", "one object a line (.jsonl), or one list (.json)"
        ) from None
    if not isinstance(value, dict if where else list):
        raise TightreinError(
            f"{path}{where} is a {type(value).__name__}", "one object a line (.jsonl), or one list (.json)"
        )
    return value
