"""One self-contained page about some runs, and the figure alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tightrein.errors import TightreinError, require
from tightrein.lab import figures
from tightrein.lab.records import Group, Panel, Record, differences, find_runs, panels, read_records
from tightrein.runs.files import cause_and_remedy

KINDS = ("svg", "png", "pdf")


def write_report(run_folders: Sequence[Path], out: Path) -> None:
    """Write one HTML page about the runs to `out`; it needs no network and no other file.

    A folder may also be one that holds run folders. Unfinished runs are shown as far as they got.

    Raises:
        TightreinError: a folder is or holds no run; matplotlib or jinja2 is not installed; `out` is not writable.
    """
    jinja2 = require("jinja2", "lab")
    records = read_records(find_runs(map(Path, run_folders)))
    loader = jinja2.PackageLoader("tightrein.lab")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html").render(**_content(records))
    _write(Path(out), page.encode())


def figure(run_folders: Sequence[Path], out: Path) -> None:
    """Write the learning curves alone, all tasks side by side, as .svg, .png or .pdf after the suffix of `out`.

    Raises:
        TightreinError: as `write_report`; or another suffix.
    """
    out = Path(out)
    kind = out.suffix.lstrip(".").lower()
    if kind not in KINDS:
        raise TightreinError(f"{out} does not end in a kind of picture", "let it end in " + ", ".join(KINDS))
    records = read_records(find_runs(map(Path, run_folders)))
    drawn = figures.draw(panels(records), titled=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figures.save(drawn, out, kind)
    except OSError as error:
        raise _unwritable(out, error) from error


@dataclass(frozen=True)
class Row:
    """One line of the table of results, as text."""

    label: str
    hue: int
    seeds: int
    metric: str
    start: tuple[str, str]  # the mean, and the range if there are several seeds
    final: tuple[str, str]
    best: tuple[str, str]
    steps: str
    time: str
    state: str


def _content(records: Sequence[Record]) -> dict[str, Any]:
    """What the template shows."""
    shown = panels(records)
    drawn = [
        {
            "panel": panel,
            "svg": figures.inline_svg(panel, number),
            "words": figures.describe(panel),
            "rows": [asdict(_row(group)) for group in panel.groups],
            "differences": _differences(panel),
        }
        for number, panel in enumerate(shown)
    ]
    return {
        "titles": [_title(panel) for panel in shown],
        "sections": drawn,
        "records": [_record(record) for record in records],
        "versions": _versions(records),
        "light": figures.LIGHT,
        "dark": figures.DARK,
    }


def _title(panel: Panel) -> str:
    labels = [group.label for group in panel.groups]
    if len(labels) > 4:
        labels = list(dict.fromkeys(group.records[0].method for group in panel.groups))
    listed = labels[0] if len(labels) == 1 else ", ".join(labels[:-1]) + " and " + labels[-1]
    return f"{listed} on {panel.task}"


def _row(group: Group) -> Row:
    metric = group.quoted
    seeds = group.series(metric)
    unit = " %" if group.axis.percent else ""
    states = [_state(record) for record in group.records]
    return Row(
        label=group.label,
        hue=group.hue % len(figures.LIGHT),
        seeds=len(seeds),
        metric=metric,
        start=_spread([y[0] for _, y in seeds], unit),
        final=_spread([y[-1] for _, y in seeds], unit),
        best=_spread([y.max() for _, y in seeds], unit),
        steps=f"{max(record.last_step for record in group.records):,}",
        time=_duration(sum(_seconds(record) for record in group.records)),
        state="; ".join(dict.fromkeys(states)),
    )


def _spread(values: Sequence[float], unit: str) -> tuple[str, str]:
    """("487.2", "470.0 to 500.0"): the mean, and the smallest and largest where there are several."""
    if not values:
        return "not measured", ""
    array = np.array(values)
    digits = ".1f" if abs(array).max() >= 10 else ".3g"
    spread = f"{array.min():{digits}} to {array.max():{digits}}" if len(array) > 1 else ""
    return f"{array.mean():{digits}}{unit}", spread


def _state(record: Record) -> str:
    if record.finished:
        return "finished"
    return "unfinished" if record.lines else "nothing logged yet"


def _seconds(record: Record) -> float:
    return max((line.get("time", 0.0) for line in record.lines), default=0.0)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60:02d} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    )


def _differences(panel: Panel) -> dict[str, Any]:
    columns = [group.records[0] for group in panel.groups]
    rows = {key: values for key, values in differences(columns).items() if key not in ("method", "set")}
    return {
        "columns": [group.label for group in panel.groups],
        "rows": [
            (key.removeprefix("settings."), ["–" if value is None else _text(value) for value in values])
            for key, values in rows.items()
        ],
    }


def _record(record: Record) -> dict[str, Any]:
    resumed = record.environment.get("resumed", [])
    return {
        "name": record.folder.name,
        "title": f"{record.method} on {record.task}",
        "state": _state(record),
        "step": f"{record.last_step:,}",
        "command": _command(record.environment.get("command", [])),
        "started": record.environment.get("started", "unknown"),
        "resumed": [f"{again['from_step']:,}" for again in resumed],
        "config": json.dumps(record.config, indent=2, ensure_ascii=False),
    }


def _command(arguments: Sequence[str]) -> str:
    """The command line as it can be typed again."""
    if not arguments:
        return "not recorded"
    name = Path(arguments[0]).name
    program = ["tightrein"] if name in ("tightrein", "tightrein.exe", "cli.py", "__main__.py") else ["python", name]
    return shlex.join([*program, *arguments[1:]])


def _versions(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What made the runs: name -> value, several values where the runs differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        described = record.environment
        for entry in [described, *described.get("resumed", [])]:
            named = {key: entry.get(key) for key in ("python", "platform", "cpu", "cores", "commit")}
            for key, value in {**named, **entry.get("versions", {})}.items():
                if value is not None:
                    found.setdefault(key, {})[str(value)] = None
    return [(key, ", ".join(values)) for key, values in found.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write(out: Path, data: bytes) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(data)
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> TightreinError:
    cause, remedy = cause_and_remedy(error)
    return TightreinError(f"{out} could not be written: {cause}", f"{remedy}, or name another file with --out")
