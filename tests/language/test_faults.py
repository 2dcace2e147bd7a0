"""What goes wrong in the middle of a run: nothing is lost, and a clear word is said.

Processes killed at a certain moment are in test_language_runs and test_rollouts; reward functions that hang, raise or
return too little in test_rewards and test_reward_timeout.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

import tightrein as tr
from tightrein.errors import TightreinError

TIMES = {"time", "seconds", "tokens_per_second", "warmup_seconds", "waited", "sampling_seconds"}
SHAPE = {
    "method": "grpo", "updates": 6, "prompts": 4, "group_size": 4, "max_new_tokens": 6, "eval_every": 3,
    "checkpoint_every": 2, "learning_rate": 1e-2, "quiet": True,
}  # fmt: skip


def letters(completions, **_):
    return [text.count("a") / 6 for text in completions]


def said(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def last(folder):
    return (max((folder / "checkpoints").glob("step-*")) / "arrays.safetensors").read_bytes()


@pytest.fixture
def run(model_folder, jsonl, tmp_path):
    def go(name, reward=letters, **more):
        told = {**SHAPE, "model": str(model_folder), "dataset": str(jsonl), "out": tmp_path / name, **more}
        tr.train("language", reward=reward, **told)
        return tmp_path / name

    return go


@pytest.fixture
def file_size():
    """Sets the size that no file may exceed, as a full disk does; lifted at the end."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_disk_that_fills_up_ends_the_run_and_freed_it_goes_on_bit_for_bit(run, file_size, tmp_path):
    calls = []

    def late(completions, **_):
        calls.append(1)
        if len(calls) == 5:  # one evaluation and three updates before
            file_size(10_000)
        return letters(completions)

    with pytest.raises(TightreinError, match=r"checkpoint 4 could not be written.*checkpoint 2 is intact"):
        run("cut", late)
    file_size(None)
    assert said(tmp_path / "cut")[-1]["step"] >= 3
    cut, whole = run("cut", resume=True), run("whole")
    assert last(cut) == last(whole)
    assert said(cut) == said(whole)


@pytest.mark.parametrize("damage", [lambda x: x[:-100], lambda x: x[:-100] + bytes(100)], ids=["cut", "changed"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_gone_on_from(run, damage, capsys):
    cut = run("cut", updates=4)
    file = cut / "checkpoints/step-000000004/arrays.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    run("cut", resume=True)
    assert "step-000000004" in capsys.readouterr().err
    whole = run("whole")
    assert last(cut) == last(whole)
    assert said(cut) == said(whole)


@pytest.mark.slow
def test_runs_killed_at_random_moments_go_on_bit_for_bit(tmp_path):
    flags = [
        "--method", "single_stream_spo", "--problems", "40", "--updates", "20", "--checkpoint-every", "3",
        "--eval-every", "5", "--prompts", "16", "--eval-problems", "20", "--warmup-steps", "20", "--lag", "1",
    ]  # fmt: skip
    command = [sys.executable, "-m", "tightrein", "train", "language", *flags, "--quiet", "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = tmp_path / "whole"
    subprocess.run([*command, whole], env=environment, check=True)
    began = time.monotonic()
    subprocess.run([*command, tmp_path / "again"], env=environment, check=True)
    length, moments, kills, runs = time.monotonic() - began, random.Random(0), 0, 0
    while kills < 10:
        folder, runs = tmp_path / str(runs), runs + 1
        while not (folder / "summary.json").exists():
            resumed = ["--resume"] if (folder / "config.json").exists() else []
            if not resumed:  # killed before it was a run
                shutil.rmtree(folder, ignore_errors=True)
            running = subprocess.Popen([*command, folder, *resumed], env=environment)
            try:
                assert running.wait(moments.uniform(0.3, 0.9) * length) == 0
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                kills += 1
        assert last(folder) == last(whole)
        assert said(folder) == said(whole)


SCARCE = """
import resource, sys, warnings
import torch, transformers
import tightrein as tr

torch.set_num_threads(1)
model, data, out, room = sys.argv[1:]
calls = []

def letters(completions, **_):
    calls.append(1)
    if len(calls) == 2 and room != "all":  # from the first update on, after its answers are there
        used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (1024 * used + int(room) * 2**20,) * 2)
    return [text.count("a") / 40 for text in completions]

tr.train("language", model=model, dataset=data, reward=letters, out=out, method="grpo", updates=1, prompts=8,
         group_size=16, max_new_tokens=40, quiet=True)
"""


def test_memory_that_runs_out_halves_the_pieces_and_changes_nothing_else(tokenizer, jsonl, tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(shape).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    told = {}
    for room in ("all", "50"):
        command = [sys.executable, "-c", SCARCE, tmp_path / "model", jsonl, tmp_path / room, room]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told[room] = done.stderr
    assert "out of memory; from here on at most" in told["50"]
    assert "out of memory" not in told["all"]
    scarce, plenty = said(tmp_path / "50")[-1], said(tmp_path / "all")[-1]
    assert scarce.keys() == plenty.keys()
    assert all(scarce[name] == pytest.approx(plenty[name], rel=1e-4, abs=1e-6) for name in plenty)
