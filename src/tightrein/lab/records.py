"""Run folders as the report sees them: runs that differ only in their seed belong together."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tightrein.errors import TightreinError
from tightrein.runs import metrics
from tightrein.runs.run import FREE, NAME_A_RUN, flat, is_finished, read_config

SEED_KEYS = ("seed", "seeds")
Series = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]  # x and y, each [n]


@dataclass(frozen=True)
class Axis:
    """What an engine's figure shows."""

    engine: str
    task_key: str  # of the config
    x: str
    y: str
    curve: str  # the metric drawn as a line
    points: str | None  # the metric drawn as dots
    final: tuple[str, ...]  # the metrics that the table quotes: the first that was logged
    percent: bool


AXES = {
    "control": Axis(
        "control", "env", "environment steps", "return of an episode",
        "return_mean", "eval_return", ("eval_return", "return_mean"), False,
    ),
    "language": Axis(
        "language", "task", "updates", "exact match on held-out problems (%)",
        "eval_accuracy", None, ("eval_accuracy", "accuracy"), True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One run folder, read."""

    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    lines: list[dict[str, Any]]
    finished: bool

    @property
    def axis(self) -> Axis:
        """What its engine's figure shows."""
        named = self.config.get("engine")
        return AXES[named] if named in AXES else AXES["control" if "env" in self.config else "language"]

    @property
    def task(self) -> str:
        """The environment or the language task."""
        return str(self.config.get(self.axis.task_key, "unnamed task"))

    @property
    def method(self) -> str:
        """The method's key."""
        return str(self.config.get("method", "unnamed method"))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config as flat path -> value, without what does not change the run."""
        return {key: value for key, value in flat(self.config).items() if key not in FREE}

    @property
    def last_step(self) -> int:
        """The last step logged, 0 if none."""
        return max((line["step"] for line in self.lines), default=0)

    def series(self, metric: str) -> dict[Any, Series]:
        """Per seed the steps and the values of `metric`, where it is a number."""
        found: dict[Any, list[tuple[int, float]]] = defaultdict(list)
        for line in self.lines:
            value = line.get(metric)
            if isinstance(value, (int, float)):
                found[line.get("seed", self.config.get("seed", 0))].append((line["step"], float(value)))
        return {seed: _columns(pairs) for seed, pairs in found.items()}


@dataclass(frozen=True)
class Group:
    """Runs of one method with the same settings on the same task: one colour in the figure."""

    label: str
    hue: int  # which colour of the palette: the same label has the same one in all panels
    records: tuple[Record, ...]

    @property
    def axis(self) -> Axis:
        """What its engine's figure shows."""
        return self.records[0].axis

    def series(self, metric: str) -> list[Series]:
        """One series for each seed of each run; of a proportion in percent."""
        factor = 100.0 if self.axis.percent else 1.0
        return [(x, factor * y) for record in self.records for x, y in record.series(metric).values()]

    @property
    def quoted(self) -> str:
        """The metric that the table quotes."""
        return next((name for name in self.axis.final if self.series(name)), self.axis.final[0])


@dataclass(frozen=True)
class Panel:
    """One task with everything that was run on it: one figure, one table."""

    task: str
    axis: Axis
    groups: tuple[Group, ...]


def read_record(folder: Path) -> Record:
    """Read the run in `folder`, finished or not.

    Raises:
        TightreinError: there is no run, or it cannot be read.
    """
    config = read_config(folder)
    environment = _read_json(folder / "environment.json")
    return Record(folder, config, environment, metrics.read(folder / "metrics.jsonl"), is_finished(folder))


def read_records(folders: Iterable[Path]) -> list[Record]:
    """The runs in `folders`; one that trained a grid of settings is as many runs as the grid has points.

    Raises:
        TightreinError: there is no run, or it cannot be read.
    """
    return [point for folder in folders for point in _points(read_record(folder))]


def _points(record: Record) -> list[Record]:
    """The record of each point of the run's grid, with the point's settings; without a grid the record itself."""
    grid = record.config.get("grid")
    if not isinstance(grid, dict) or not grid:
        return [record]
    config = {key: value for key, value in record.config.items() if key != "grid"}
    by_point: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in record.lines:
        by_point[json.dumps(line.get("point"))].append(line)
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [
        replace(record, config={**config, "settings": {**config["settings"], **point}}, lines=lines)
        for point, lines in zip(points, by_point.values(), strict=False)  # lines come in the order of the points
    ]


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """The run folders among `folders` and directly inside them, in order, each once.

    Raises:
        TightreinError: one neither is a run nor has any inside; or none was given.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        inside = [folder] if (folder / "config.json").exists() else sorted(folder.glob("*/config.json"))
        if not inside:
            problem = "is not a run and has none in it" if folder.is_dir() else "does not exist"
            raise TightreinError(f"{folder} {problem}", NAME_A_RUN)
        found.update(dict.fromkeys(path if path.is_dir() else path.parent for path in inside))
    if not found:
        raise TightreinError("no run was named", NAME_A_RUN)
    return list(found)


def panels(records: Sequence[Record]) -> list[Panel]:
    """The records, grouped by task, then by method and settings, in the order in which they first appear."""
    by_task: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        by_task[record.axis.engine, record.task].append(record)
    hues: dict[str, int] = {}
    return [Panel(task, AXES[engine], _groups(members, hues)) for (engine, task), members in by_task.items()]


def differences(columns: Sequence[Record]) -> dict[str, list[Any]]:
    """The settings in which the records are not all alike: path -> one value each (None where it has none)."""
    keys = dict.fromkeys(key for record in columns for key in record.settings)
    rows = {key: [record.settings.get(key) for record in columns] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _groups(records: list[Record], hues: dict[str, int]) -> tuple[Group, ...]:
    """The groups of one task; `hues` learns the label of each that is new."""
    alike: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        same = {key: value for key, value in record.settings.items() if key not in SEED_KEYS}
        alike[json.dumps(same, sort_keys=True)].append(record)
    members = list(alike.values())
    labels = [_label(group[0], members) for group in members]
    return tuple(
        Group(label, hues.setdefault(label, len(hues)), tuple(group))
        for label, group in zip(labels, members, strict=True)
    )


def _label(record: Record, groups: list[list[Record]]) -> str:
    """The method; where several groups have it, with the settings that tell them apart."""
    rivals = [group[0] for group in groups if group[0].method == record.method]
    own = rivals.index(record)
    told = {
        key.rpartition(".")[2]: values[own]
        for key, values in differences(rivals).items()
        if key not in SEED_KEYS and key not in ("set", "notes")
    }
    if len(told) > 3:
        return f"{record.method} ({record.folder.name})"
    return record.method + (f" ({', '.join(f'{name}={value}' for name, value in told.items())})" if told else "")


def _columns(pairs: list[tuple[int, float]]) -> Series:
    table = np.array(sorted(pairs), dtype=float)
    return table[:, 0], table[:, 1]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
