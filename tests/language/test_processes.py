"""Several processes give what one gives: torchrun starts them here, with gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from one_of_several import gradients
from safetensors.torch import load_file
from test_gradients import assert_same

import tightrein as tr
from tightrein.engines.language import processes
from tightrein.errors import TightreinError

METHODS = ("ppo_clip", "gspo", "dr_grpo", "dapo", "cispo", "troll")
SHAPE = {"updates": 2, "prompts": 5, "group_size": 4, "max_new_tokens": 6, "learning_rate": 1e-2}


def launched(*command, number=2, fails=False):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(number))
    done = subprocess.run([*launcher, *map(str, command)], env=environment, capture_output=True, text=True, timeout=240)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def trained(folder, *more, **how):
    flags = [word for name, value in SHAPE.items() for word in (f"--{name.replace('_', '-')}", value)]
    flags += ["--method", "ppo_clip", "--out", folder]
    return launched("-m", "tightrein", "train", "language", *flags, *more, **how)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one, other):
    for ours, theirs in zip(lines(one), lines(other), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"time", "seconds", "tokens_per_second", "logp_check"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    assert max(line.get("kl_k3", 0) for line in lines(one)) > 1e-5  # the policy has moved


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "rewards.py"
    path.write_text(
        "def letters(completions, target, **_):\n    return [c.count(t) / 3 for c, t in zip(completions, target)]\n"
    )
    return f"{path}:letters"


def test_the_gradient_of_two_processes_is_that_of_one(tmp_path):
    launched(Path(__file__).with_name("one_of_several.py"), tmp_path / "found.pt", *METHODS)
    found = torch.load(tmp_path / "found.pt")
    assert found.pop("processes") == 2
    ours = gradients(METHODS)
    assert found.keys() == ours.keys()
    for name in ours:
        assert_same(found[name], ours[name])


def test_a_run_is_the_same_in_one_process_in_two_and_divided_among_them(tmp_path, model_folder, jsonl, reward):
    told = ("--model", model_folder, "--dataset", jsonl, "--reward", reward, "--tokens-at-once", 100)
    given = {"method": "ppo_clip", "model": str(model_folder), "dataset": str(jsonl), "reward": reward, "quiet": True}
    given |= {**SHAPE, "tokens_at_once": 100, "out": tmp_path / "one"}
    tr.train("language", **given)
    printed = trained(tmp_path / "two", *told)
    assert printed.count("eval_reward_start") == 1  # one of them speaks
    trained(tmp_path / "divided", *told, "--shard")
    weights = {name: load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two", "divided")}
    for name in ("two", "divided"):
        assert_same_run(tmp_path / name, tmp_path / "one")
        for parameter, value in weights["one"].items():
            torch.testing.assert_close(weights[name][parameter], value, rtol=1e-4, atol=1e-5)
    tr.train("language", **{**given, "updates": 3, "resume": True})
    launched("-m", "tightrein", "train", "language", "--resume", "--out", tmp_path / "divided", "--updates", 3)
    assert_same_run(tmp_path / "divided", tmp_path / "one")


def test_a_reward_function_that_fails_in_one_process_ends_all_with_its_words(tmp_path, model_folder, jsonl):
    (tmp_path / "rewards.py").write_text(
        "import os\n"
        "def fails(completions, **_):\n"
        "    if os.environ['RANK'] == '1': raise ValueError('no such word')\n"
        "    return [0.0] * len(completions)\n"
    )
    told = ("--model", model_folder, "--dataset", jsonl, "--reward", f"{tmp_path}/rewards.py:fails", "--prompts", 5)
    said = trained(tmp_path / "run", *told, fails=True)
    assert said.count("no such word") == 2  # in each
    assert said.count("Traceback") == 1  # the launcher's own


def test_dividing_is_refused_where_it_cannot_be(model_folder, jsonl, reward, tmp_path):
    given = {"model": str(model_folder), "dataset": str(jsonl), "reward": reward, "out": tmp_path / "run"}
    with pytest.raises(TightreinError, match="there is one"):
        tr.train("language", shard=True, **given)
    assert not (tmp_path / "run").exists()


def test_a_process_alone_does_all_and_raises_what_went_wrong():
    assert processes.together(lambda: 3) == [3]
    with pytest.raises(TightreinError, match="wrong"):
        processes.first(lambda: (_ for _ in ()).throw(TightreinError("wrong", "right")))
