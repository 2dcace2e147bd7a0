"""What `make demo` promises: both methods solve CartPole, and both bring the language task from below 60 to 90 %."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.mark.slow
def test_the_demo_reaches_its_figures(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DEMO], cwd=tmp_path, check=True)
    summaries = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("demo/*/summary.json")}
    assert len(summaries) == 4
    for name, summary in summaries.items():
        if name.startswith("cartpole"):
            assert len(summary["seeds"]) == 4
            assert summary["eval_return_mean"] >= 475
        else:
            assert summary["eval_accuracy_start"] < 0.6
            assert summary["eval_accuracy"] >= 0.9
    page = (tmp_path / "demo" / "report.html").read_text()
    assert all(name in page for name in ("CartPole-v1", "spell_backward", "ppo_clip", "spo", "grpo"))
