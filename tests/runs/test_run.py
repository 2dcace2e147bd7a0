"""Run folders: what is in them, resuming, progress, interrupts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tightrein.errors import TightreinError, nearest, require, unknown
from tightrein.runs import Interrupt, Progress, Run, metrics
from tightrein.runs import progress as progress_module
from tightrein.runs.files import amount

CONFIG = {"method": "spo", "seeds": 2, "total_steps": 100, "settings": {"a.b": 0.1, "hidden": (64, 64)}, "out": "x"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / "run"


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_a_run_folder_says_what_was_run_and_with_what(folder):
    run = Run.create(folder, CONFIG, resume=False)
    run.finish({"return": float("nan"), "steps": np.int64(3)})
    assert read(folder, "config.json")["settings"] == {"a.b": 0.1, "hidden": [64, 64]}
    assert read(folder, "environment.json")["versions"]["numpy"] == np.__version__
    assert read(folder, "summary.json") == {"return": None, "steps": 3}
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "checkpoints", "config.json", "environment.json", "metrics.jsonl", "summary.json",
    ]  # fmt: skip


def test_a_line_is_valid_json_whatever_was_measured(folder):
    run = Run.create(folder, CONFIG, resume=False)
    run.log(np.int32(1), loss=np.float32(0.5), kl=float("inf"), seed=3, name="a\nb")
    text = (folder / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=pytest.fail)
    assert text.count("\n") == 1
    assert {**line, "time": 0} == {"step": 1, "time": 0, "loss": 0.5, "kl": None, "seed": 3, "name": "a\nb"}


def test_resuming_drops_what_came_after_the_checkpoint(folder):
    run = Run.create(folder, CONFIG, resume=False)
    for step in range(1, 6):
        run.log(step, value=step)
        if step == 3:
            run.checkpoint(step, {}, {})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "time"')  # a line cut short by a kill
    again = Run.create(folder, CONFIG, resume=True)
    again.log(4, value=4)
    lines = metrics.read(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[3]["time"] >= lines[2]["time"]
    assert read(folder, "environment.json")["resumed"][0]["from_step"] == 3


def test_resuming_drops_damaged_lines_in_the_middle(folder):
    run = Run.create(folder, CONFIG, resume=False)
    run.log(1, value=1)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\x00{\n")
    run.log(2, value=2)
    run.checkpoint(2, {}, {})
    Run.create(folder, CONFIG, resume=True)
    text = (folder / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2]


def test_resuming_without_a_checkpoint_starts_over(folder):
    Run.create(folder, CONFIG, resume=False).log(0, value=1)
    again = Run.create(folder, CONFIG, resume=True)
    assert again.latest() is None
    assert metrics.read(folder / "metrics.jsonl") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "grpo"}, "'method' was 'spo' and is now 'grpo'"),
        ({"settings": {"a.b": 0.2, "hidden": (64, 64)}}, r"'settings.a.b' was 0.1 and is now 0.2"),
        ({"settings": {"a.b": 0.1, "hidden": (64, 32)}}, r"'settings.hidden'"),
        ({"total_steps": 50}, r"'total_steps' was 100 and is now 50 \(only a larger one"),
        ({"new": 1}, r"'new' was '\(not set\)'"),
    ],
)
def test_another_config_cannot_be_resumed(folder, change, message):
    run = Run.create(folder, CONFIG, resume=False)
    run.log(1, value=1)
    with pytest.raises(TightreinError, match=message):
        Run.create(folder, {**CONFIG, **change}, resume=True)
    assert len(metrics.read(folder / "metrics.jsonl")) == 1  # nothing was touched


def test_a_budget_may_grow_and_the_place_may_change(folder):
    Run.create(folder, CONFIG, resume=False).finish({})
    Run.create(folder, {**CONFIG, "total_steps": 200, "out": "y", "quiet": True}, resume=True)
    assert read(folder, "config.json")["total_steps"] == 200
    assert not (folder / "summary.json").exists()


def test_a_run_is_not_overwritten_and_not_made_up(folder):
    with pytest.raises(TightreinError, match="there is no run in"):
        Run.create(folder, CONFIG, resume=True)
    Run.create(folder, CONFIG, resume=False)
    with pytest.raises(TightreinError, match="already holds a run") as caught:
        Run.create(folder, CONFIG, resume=False)
    assert "--resume" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"'])
def test_a_config_that_cannot_be_read(folder, text):
    Run.create(folder, CONFIG, resume=False)
    (folder / "config.json").write_text(text)
    with pytest.raises(TightreinError, match=r"config\.json"):
        Run.create(folder, CONFIG, resume=True)


def test_two_processes_do_not_share_a_run(folder):
    code = "import sys; from pathlib import Path; from tightrein.runs import Run\n"
    code += "run = Run.create(Path(sys.argv[1]), {}, resume=False); print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(TightreinError, match="another process is writing"):
            Run.create(folder, {}, resume=True)
        other.kill()
    Run.create(folder, {}, resume=True)


def test_progress_in_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "PLAIN_EVERY", 0.02)
    with Progress(1000, "spo on CartPole-v1", start=500) as progress:
        for done in range(510, 1001, 10):
            progress.update(done, kl=0.0123456, note="fine")
            time.sleep(0.002)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 8
    assert all(line.startswith("spo on CartPole-v1  ") and "kl 0.01235  note fine" in line for line in lines)
    assert "left" in lines[0]
    assert "1,000/1,000" in lines[-1]


def test_quiet_is_silent(capsys):
    with Progress(10, "x", quiet=True) as progress:
        progress.update(10, value=1)
    assert capsys.readouterr().out == ""


def drain(terminal):
    """What was written to a terminal whose other end is closed."""
    with contextlib.suppress(OSError):  # its end, on Linux
        while data := os.read(terminal, 4096):
            yield data.decode()
    os.close(terminal)


def test_a_live_line_on_a_terminal(monkeypatch):
    import pty

    main, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as screen:
        monkeypatch.setattr("sys.stdout", screen)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        with Progress(100, "spo on x") as progress:
            progress.update(50, kl=0.5)
            progress.update(100, kl=0.25)
    shown = "".join(drain(main))
    assert "spo on x" in shown
    assert "kl 0.25" in shown
    assert "100%" in shown


def test_first_interrupt_asks_second_insists(capfd):
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopping" in capfd.readouterr().err


def test_interrupt_outside_the_main_thread_stays_unasked():
    seen = []

    def work():
        with Interrupt() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_errors_carry_their_remedy():
    import pickle

    error = pickle.loads(pickle.dumps(TightreinError("it is broken", "mend it")))
    assert (error.what, error.remedy, str(error)) == ("it is broken", "mend it", "it is broken\n  mend it")
    assert isinstance(error, ValueError)


def test_nearest_names():
    keys = ["ppo_clip", "ppo_kl", "spo", "gspo", "objective.surrogate.epsilon"]
    assert nearest("PPO-Clip", keys)[0] == "ppo_clip"
    assert nearest("epsilom", keys) == ["objective.surrogate.epsilon"]
    assert nearest("zzz", keys) == []
    assert str(unknown("method", "spoo", keys)).startswith("unknown method 'spoo'; nearest: spo")
    assert "known: a, b" in str(unknown("method", "zzz", ["b", "a"]))


def test_a_missing_package_names_the_extra():
    with pytest.raises(TightreinError, match=r'pip install "tightrein\[control\]"'):
        require("no_such_package.inside", "control")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_600_000_000, "1.6 GB"), (10**16, "10000.0 TB")]
)
def test_amounts(size, text):
    assert amount(size) == text
