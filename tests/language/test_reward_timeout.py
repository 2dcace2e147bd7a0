"""A reward function that hangs ends a run with a clear word, and the run goes on as if it had not."""

from __future__ import annotations

import json

import pytest

import tightrein as tr
from tightrein.errors import TightreinError

FUNCTION = """
import os, time
calls = 0
def score(completions, **columns):
    global calls
    calls += 1
    if calls == 4 and not os.path.exists({mended!r}):
        time.sleep(60)
    return [float(len(text)) for text in completions]
"""
TIMES = {"time", "seconds", "tokens_per_second", "waited", "sampling_seconds"}


def test_a_run_whose_reward_hangs_goes_on_as_if_it_had_not(model_folder, jsonl, tmp_path):
    mended = tmp_path / "mended"
    (tmp_path / "mine.py").write_text(FUNCTION.format(mended=str(mended)))

    def run(name: str, **more):
        return tr.train(
            "language", method="grpo", model=str(model_folder), dataset=str(jsonl),
            reward=f"{tmp_path / 'mine.py'}:score", updates=5, prompts=4, group_size=4, minibatches=2,
            max_new_tokens=6, eval_every=5, checkpoint_every=5, lag=1, out=tmp_path / name, quiet=True, **more,
        )  # fmt: skip

    with pytest.raises(TightreinError, match=r"more than 1\.5 s"):
        run("stopped", reward_timeout=1.5)
    mended.touch()
    assert run("stopped", resume=True, reward_timeout=30.0)["step"] == 5
    run("whole")
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("stopped", "whole")]
    stopped, whole = ([{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in each] for each in lines)
    assert stopped == whole


def test_functions_without_a_limit_are_noted(model_folder, jsonl, tmp_path):
    def length(completions, **columns):
        return [float(len(text)) for text in completions]

    tr.train(
        "language", method="grpo", model=str(model_folder), dataset=str(jsonl), reward=length, updates=1, prompts=4,
        group_size=4, minibatches=2, max_new_tokens=4, out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    notes = json.loads((tmp_path / "run" / "config.json").read_text())["notes"]
    assert any("length: called in this process" in note for note in notes)
