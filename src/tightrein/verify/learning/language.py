"""Short runs of the language engine on the embedded model, which is made on the spot."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import tightrein as tr


def language_run(key: str, **settings: Any) -> list[dict[str, Any]]:
    """The lines that a run logs, the first of them before any update. settings: those of `tightrein train language`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        tr.train("language", method=key, out=out, quiet=True, **settings)
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
