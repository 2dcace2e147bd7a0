"""Runs: resuming after a kill, and errors that name the remedy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import config, lines, run
from safetensors.numpy import load_file

from tightrein.engines.control.compose import compose
from tightrein.engines.control.config import ControlConfig, Plan
from tightrein.engines.control.train import train
from tightrein.errors import TightreinError

CHILD = """
import sys
sys.path.insert(0, {helpers!r})
from pathlib import Path
from helpers import run
run(Path({folder!r}), **{changes!r})
"""


def kill_after_a_checkpoint(folder: Path, changes: dict) -> None:
    """Starts the run in a process of its own and kills it once a checkpoint is there, before the end."""
    code = CHILD.format(helpers=str(Path(__file__).parent), folder=str(folder), changes=changes)
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/step-*[0-9]")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def arrays(folder: Path) -> dict[str, np.ndarray]:
    newest = sorted(folder.glob("checkpoints/step-*[0-9]"))[-1]
    return load_file(newest / "arrays.safetensors")


@pytest.mark.parametrize("backend", ["gymnax", "envpool"])
def test_a_killed_run_goes_on_bit_for_bit(backend: str, tmp_path: Path) -> None:
    changes = {
        "backend": backend,
        "seeds": 2,
        "total_steps": 3200,
        "checkpoint_every": 5,
        "log_every": 1,
        "method": "ppo_kl",
    }
    kill_after_a_checkpoint(tmp_path / "killed", changes)
    assert not (tmp_path / "killed" / "summary.json").exists()
    resumed = run(tmp_path / "killed", resume=True, **changes)
    assert resumed == run(tmp_path / "whole", **changes)
    whole = arrays(tmp_path / "whole")
    assert whole.keys() == arrays(tmp_path / "killed").keys()
    assert len(whole) > 10
    for name, array in arrays(tmp_path / "killed").items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


def test_an_interrupted_run_saves_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tightrein.engines.control import train as module

    class StopAtOnce(module.Interrupt):
        def __enter__(self):
            self.requested = False
            return self

        def __exit__(self, *exception: object) -> None:
            pass

    advance = module._Training._advance

    def stop_after_three(self):
        shown = advance(self)
        if self._iteration == 3:
            interrupts[-1].requested = True
        return shown

    interrupts = []
    monkeypatch.setattr(module, "Interrupt", lambda: interrupts.append(StopAtOnce()) or interrupts[-1])
    monkeypatch.setattr(module._Training, "_advance", stop_after_three)
    summary = train(config(out=tmp_path / "cut", log_every=1, checkpoint_every=100))
    assert summary["interrupted"]
    assert summary["step"] == 96
    monkeypatch.undo()
    assert run(tmp_path / "cut", resume=True, log_every=1, checkpoint_every=100) == run(
        tmp_path / "whole", log_every=1, checkpoint_every=100
    )


def test_divergence_stops_the_run_and_names_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TightreinError, match=r"seed 0: .* no longer finite after update 1(.|\n)*learning-rate"):
        run(tmp_path / "run", learning_rate=1e38)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"envs": 0}, "envs is 0"),
        ({"minibatches": 5}, "5 minibatches do not divide"),
        ({"total_steps": 10}, "less than one rollout"),
        ({"set": ("epsilon",)}, "not name=value"),
        ({"set": ("objective.surrogate.epsilo=0.1",), "method": "spo"}, "epsilon"),
        ({"method": "spoo"}, "spo"),
        ({"env": "CartPole"}, "CartPole-v1"),
        ({"method": "grpo", "set": ("objective.reference.coef=0.1",)}, "objective.reference.coef=0"),
        ({"seed": -1}, "seed is -1"),
        ({"hidden": (0,)}, "hidden"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(TightreinError, match=message):
        train(config(out=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_method_of_language_models_says_what_was_replaced() -> None:
    method, notes = compose(config(method="rloo"))
    assert type(method.credit).__name__ == "GAE"
    assert not method.reward
    assert "GAE instead of LeaveOneOut" in notes[0]
    assert "KLInReward" in notes[1]
    assert "reference policy is off" in compose(config(method="grpo"))[1][1]


def test_flags_and_settings_reach_the_method() -> None:
    method, _ = compose(
        ControlConfig(method="spo", learning_rate=1e-3, epochs=2, set=("objective.surrogate.epsilon=0.1",))
    )
    assert (method.step.learning_rate, method.training.epochs, method.objective.surrogate.epsilon) == (1e-3, 2, 0.1)


def test_the_example_in_the_help_and_a_folder_as_text() -> None:
    config = ControlConfig(set=("objective.surrogate.bounds.low=0.1",), out="some/run")  # type: ignore[arg-type]
    assert compose(config)[0].objective.surrogate.bounds.low == 0.1
    assert config.folder == Path("some/run")


def test_the_plan_never_exceeds_the_budget_and_stops_at_every_event() -> None:
    plan = Plan.of(ControlConfig(total_steps=200_000), compose(ControlConfig())[0].training)
    assert plan.iterations * plan.batch <= 200_000 < (plan.iterations + 1) * plan.batch
    plan = Plan(1, 1, 1, 1, iterations=10, log_every=4, eval_every=3, checkpoint_every=7)
    stops, at = [], 0
    while at < 10:
        at = plan.next_stop(at)
        stops.append(at)
    assert stops == [3, 4, 6, 7, 8, 9, 10]


def test_metrics_lines_carry_the_steps_of_their_seed(tmp_path: Path) -> None:
    run(tmp_path / "run", seeds=2, log_every=5)
    rows = lines(tmp_path / "run")
    assert [(row["step"], row["seed"]) for row in rows if row["step"] == 160] == [(160, 0), (160, 1)]
    assert rows[-1]["step"] == 320
    assert "eval_return" in rows[-1]


def test_training_a_reconstruction_says_so() -> None:
    assert compose(ControlConfig(method="r2vpo"))[1][0].startswith("r2vpo is a reconstruction")
    assert not any("reconstruction" in note for note in compose(ControlConfig(method="spo"))[1])
