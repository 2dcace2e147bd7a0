"""The command as a person meets it: what it prints, what it says when something is wrong, its exit codes."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import tightrein
from tightrein.cli.main import main
from tightrein.cli.train import gather

COMMAND = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {without!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from tightrein.cli import main
sys.exit(main())
"""


def call(*arguments, code=0, without=()):
    """Run the command in a process of its own; `without` names packages that are to be missing."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(without=without), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


def test_version():
    assert call("--version") == f"tightrein {tightrein.__version__}\n"


def test_methods_needs_no_engine_and_is_fast():
    began = time.monotonic()
    text = call("methods", without=("jax", "torch", "gymnasium", "transformers", "matplotlib"))
    assert time.monotonic() - began < 3  # 0.4 s by itself; the rest for a busy machine
    for key in tightrein.methods():
        assert f" {key} " in text


@pytest.mark.parametrize("key", tightrein.methods())
def test_show_has_everything_of_a_method(key, capsys):
    assert main(["show", key]) == 0
    text = " ".join(capsys.readouterr().out.split())
    method = tightrein.method(key)
    assert method.title in text
    assert method.source.arxiv in text
    assert f"confidence {method.source.confidence}" in text
    assert method.source.warning in text
    assert bool(method.source.warning) == method.source.reconstruction
    assert " ".join(method.source.differences.split()) in text
    assert all(f"{path}={value}" in text for path, value in method.settings().items() if path.count("."))
    assert all(str(relation) in text for relation in method.relations)


def test_show_a_variant(capsys):
    assert main(["show", "ppo_clip", "--variant", "released"]) == 0
    text = capsys.readouterr().out
    assert "step.anneal=True" in text
    assert "variant   released (others: --variant paper)" in text


def test_every_setting_that_show_prints_can_be_set(capsys):
    main(["show", "grpo"])
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split("── ")[1].split()[0] for line in lines if "── " in line and "=" in line]
    assert len(shown) > 10
    for item in shown:
        path, _, value = item.partition("=")
        if value[0].islower() or not value[0].isalpha():
            tightrein.method("grpo").override({path: value})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "spoo"], "unknown method 'spoo'; nearest: spo"),
        (["show", "ppo_clip", "--variant", "relesed"], "nearest: released"),
        (["metods"], "Available subcommands: train, methods, show, verify, report"),
        (["train"], "Expected one of {control, language}"),
        (["train", "controll"], "Available subcommands: control, language"),
        (["report", "no-such-folder"], "no-such-folder does not exist"),
        (["report"], "no run was named"),
        (["train", "control", "--methd", "spo"], "--method STR"),
        (["train", "control", "--seeds", "many"], "--seeds INT"),
        (["train", "control", "--total-steps", "-5"], "total_steps"),
    ],
)
def test_slips_are_answered(arguments, expected):
    assert expected in call(*arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "sopo"], "unknown method 'sopo'; nearest: spo"),
        (["--env", "CartPole-v9"], "CartPole-v1"),
        (["--method", "spo", "--set", "epsilom=0.1"], "objective.surrogate.epsilon"),
        (["--method", "spo", "--set", "epsilon=much"], "epsilon=much"),
        (["--method", "spo", "--set", "epsilon=-1"], "must be > 0"),
        (["--method", "spo", "--set", "epsilon"], "name=value"),
    ],
)
def test_slips_in_training_are_answered_before_anything_is_made(tmp_path, arguments, expected):
    pytest.importorskip("jax")
    assert expected in call("train", "control", *arguments, "--out", tmp_path / "run", code=2)
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_named():
    assert 'pip install "tightrein[cli]"' in call("methods", without=("tyro",), code=2)
    assert 'pip install "tightrein[cli]"' in call("methods", without=("rich",), code=2)
    assert 'pip install "tightrein[control]"' in call("train", "control", without=("jax",), code=2)


def test_report_says_where_it_is(make_run, tmp_path):
    folder, page, picture = make_run("a"), tmp_path / "page.html", tmp_path / "picture.png"
    text = call("report", folder, "--out", page, "--figure", picture)
    assert str(page) in text
    assert page.stat().st_size > 10_000
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-c", COMMAND.format(without=()), "train", "control", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--seeds", "2"], ["--seeds", "2"]),
        (["--set", "a=1", "--seeds", "2", "--set", "b=2", "c=3"], ["--seeds", "2", "--set", "a=1", "b=2", "c=3"]),
        (["--set=a=1", "--resume", "--set=b=-2"], ["--resume", "--set", "a=1", "b=-2"]),
        (["--set"], ["--set"]),
        (["--reward", "a:f", "--reward=b:g", "--set", "a=1"], ["--reward", "a:f", "b:g", "--set", "a=1"]),
    ],
)
def test_set_may_be_repeated(given, wanted):
    assert gather(given) == wanted


TRAINER = """
import dataclasses, os, signal, sys, types
from pathlib import Path
from tightrein.runs import Interrupt, Run

@dataclasses.dataclass(frozen=True)
class ControlConfig:
    method: str = "spo"
    set: tuple[str, ...] = ()
    out: Path = Path("run")
    resume: bool = False
    mode: str = "finish"

    @property
    def folder(self):
        return self.out

def train(config):
    run = Run.create(config.folder, {"method": config.method}, resume=config.resume)
    with Interrupt() as stop:
        if config.mode == "finish":
            run.finish({})
        for _ in range({"finish": 0, "stop": 1, "insist": 2}.get(config.mode, 0)):
            signal.raise_signal(signal.SIGINT)
    if config.mode == "fault":
        raise RuntimeError("a fault of ours")
    return {"eval_return_mean": 487.25, "step": 100352, "method": config.method, "interrupted": False}

config, trainer = types.ModuleType("config"), types.ModuleType("train")
config.ControlConfig, trainer.train = ControlConfig, train
sys.modules["tightrein.engines.control.config"] = config
sys.modules["tightrein.engines.control.train"] = trainer
from tightrein.cli import main
sys.exit(main())
"""


def train_stand_in(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRAINER), "train", "control", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )


def test_the_end_of_training_says_what_was_reached_and_what_next(tmp_path):
    done = train_stand_in(tmp_path, "--method", "grpo")
    assert done.returncode == 0, done.stderr
    assert "eval_return_mean  487.2" in done.stdout
    assert "100,352" in done.stdout
    assert "tightrein report run" in done.stdout


@pytest.mark.parametrize("mode", ["stop", "insist"])
def test_an_interrupted_run_says_how_to_go_on(tmp_path, mode):
    done = train_stand_in(tmp_path, "--mode", mode)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    assert "tightrein train control --out run --resume" in done.stdout
    assert "Traceback" not in done.stderr


def test_resuming_needs_no_flag_again(tmp_path):
    train_stand_in(tmp_path, "--method", "grpo", "--mode", "stop")
    done = train_stand_in(tmp_path, "--out", "run", "--resume")
    assert done.returncode == 0, done.stderr
    assert "grpo" in done.stdout
    other = train_stand_in(tmp_path, "--out", "run", "--resume", "--method", "spo")
    assert other.returncode == 2
    assert "'method' was 'grpo' and is now 'spo'" in other.stderr


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
    done = train_stand_in(tmp_path, "--mode", "fault")
    assert done.returncode == 1
    assert "RuntimeError: a fault of ours" in done.stderr
