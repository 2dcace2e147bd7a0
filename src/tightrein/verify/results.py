"""What was found, kept: results.json beside this file, and docs/methods.md, which is made from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from ..catalogue import method, methods
from ..errors import TightreinError
from ..method import Method
from ..runs.environment import describe
from ..runs.files import write_atomic
from .columns import Cell

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parents[3] / "docs" / "methods.md"
SHOWN = ("torch", "jax", "transformers", "gymnax", "envpool", "trl", "verl")
MARKS = {"passed": "✓", "failed": "✗", "not applicable": "–", "not installed": "not installed", "not run": "not run"}
INTRODUCTION = """# Methods

Every method of the catalogue, what was checked of it, and what its run showed. `tightrein verify --write` makes this
page; `tightrein show KEY` tells more about one.

| column | what holds |
|---|---|
| pins | its exact properties: zero-gradient points, special cases, bounds, small numbers |
| arrays | values agree on NumPy, PyTorch and compiled JAX to 1e-10; the largest difference |
| gradients | PyTorch and JAX agree to 1e-8 |
| differences | finite differences agree; *held*: with what the method detaches held constant |
| inputs | padding, order, empty and extreme batches, half precision, groups of one |
| compiled | torch.compile takes it whole, with the same gradient |
| relations | what equals, bounds or tends to what |
| peers | the numbers of TRL and verl, where they have the method (–: neither has) |
| learning | a short run shows what the method promises |
"""


def load() -> dict[str, dict[str, Any]]:
    """Everything that is recorded, by method and column."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}  # type: ignore[no-any-return]


def recorded(key: str) -> Cell:
    """What the last recorded run of the method showed, unless the method has changed since."""
    found = load().get(key, {}).get("learning")
    if found is None:
        return Cell("not run", f"tightrein verify {key} --learning --write")
    if found["settings"] != fingerprint(method(key)):
        return Cell("not run", "its settings have changed since the run that is recorded")
    return Cell(found["state"], found["says"], found["seconds"])


def fingerprint(method: Method) -> str:
    """A few digits that change with any setting of the method; what is switched off is as if it were not there."""
    on = {path: value for path, value in method.settings().items() if value is not None and value is not False}
    text = json.dumps(on, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write(rows: Mapping[str, Mapping[str, Cell]], learning: bool) -> Path:
    """Record the rows, those of learning only if it was run, and make the page. Returns where the page is.

    Raises TightreinError where the package does not lie in a checkout of its repository.
    """
    if not PAGE.parent.is_dir():
        raise TightreinError("there is no docs folder beside this package", "use --write in a checkout, pip install -e")
    known = load()
    for key, cells in rows.items():
        kept = known.setdefault(key, {})
        for column, cell in cells.items():
            if column != "learning":
                kept[column] = {"state": cell.state, "says": cell.says}
            elif learning:
                kept[column] = {"state": cell.state, "says": cell.says, "seconds": round(cell.seconds, 1)}
                kept[column] |= {"settings": fingerprint(method(key)), "machine": machine()}
    known = {key: known[key] for key in methods() if key in known}
    write_atomic(RESULTS, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    write_atomic(PAGE, page())
    return PAGE


def machine() -> str:
    """Hardware and versions in one line."""
    about = describe()
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in SHOWN if name in about["versions"])
    return f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, {versions}, {date.today().isoformat()}"


def page() -> str:
    """The page docs/methods.md, from what is recorded."""
    known = load()
    columns = list(dict.fromkeys(column for cells in known.values() for column in cells))
    columns.sort(key="learning".__eq__)
    machines = list(dict.fromkeys(c["learning"]["machine"] for c in known.values() if "learning" in c))
    lines = [INTRODUCTION, _row(["method", *columns]), _row(["---"] * (len(columns) + 1))]
    for key, cells in known.items():
        lines.append(_row([f"`{key}`", *(_mark(cells.get(column), column) for column in columns)]))
    lines += ["", "## What the runs showed", "", _row(["method", "what it is", "what its run showed", "again"])]
    lines.append(_row(["---"] * 4))
    lines += [_row(_line(key, cells.get("learning"), machines)) for key, cells in known.items()]
    lines += ["", "Each run took the seconds given, on:", ""]
    lines += [f"{number}. {text}" for number, text in enumerate(machines, 1)]
    return "\n".join(lines) + "\n"


def _line(key: str, cell: Mapping[str, Any] | None, machines: list[str]) -> list[str]:
    source, again = method(key).source, f"`tightrein verify {key} --learning`"
    paper = f"[{source.arxiv}](https://arxiv.org/abs/{source.arxiv})" if source.arxiv else str(source.year)
    about = f"{method(key).title} ({paper}{', a reconstruction' if source.reconstruction else ''})"
    if cell is None:
        return [f"`{key}`", about, "not run", again]
    place = f", {machines.index(cell['machine']) + 1}" if len(machines) > 1 else ""
    return [f"`{key}`", about, f"{MARKS[cell['state']]} {cell['says']} ({cell['seconds']:.0f} s{place})", again]


def _mark(cell: Mapping[str, Any] | None, column: str) -> str:
    if cell is None:
        return "not run"
    said = cell["says"] if cell["state"] == "passed" and column not in ("inputs", "learning") else ""
    return f"{MARKS[cell['state']]} {said}".strip()


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
