from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig, Plan
from tightrein.engines.language.experience.rollout import Collector
from tightrein.engines.language.models.policy import load_pretrained
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.tasks.loading import Problem
from tightrein.engines.language.train import train
from tightrein.engines.language.training.learner import Learner
from tightrein.errors import TightreinError
from tightrein.step import Optimizer

SMALL = {"prompts": 8, "group_size": 4, "eval_problems": 20, "warmup_steps": 30, "quiet": True}
PLAN = Plan(1, 0, prompts=4, group_size=2, epochs=1, minibatches=1, eval_every=1, checkpoint_every=1)
# Rewards go up with the share of one letter: something to learn for a random model.
REWARD = "def share(prompts, completions, target, **columns):\n    return [c.count('a') / 8 for c in completions]\n"
TIMING = ("time", "seconds", "tokens_per_second", "warmup_seconds")


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines(folder)]


def last_arrays(folder: Path) -> bytes:
    return (max((folder / "checkpoints").glob("step-*")) / "arrays.safetensors").read_bytes()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    """dapo: dynamic sampling draws a changing number of prompts; grpo's reference is in the next test."""
    flags = ["--method", "dapo", "--updates", "8", "--checkpoint-every", "2", "--eval-every", "3", "--prompts", "8",
             "--group-size", "4", "--eval-problems", "20", "--warmup-steps", "60"]  # fmt: skip
    command = [sys.executable, "-m", "tightrein", "train", "language", *flags, "--quiet", "--out"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, str(whole)], env=env, check=True)
    running = subprocess.Popen([*command, str(cut)], env=env)
    while not (cut / "checkpoints" / "step-000000004").exists():
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (cut / "summary.json").exists()
    subprocess.run([*command, str(cut), "--resume"], env=env, check=True)
    assert last_arrays(cut) == last_arrays(whole)
    assert without_times(cut) == without_times(whole)
    assert (cut / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["grpo", "ppo_kl"])
def test_a_run_that_stops_early_goes_on_bit_for_bit(method, tmp_path):
    """grpo has a reference model, ppo_kl a state; the first part is a run whose reward function fails late."""
    calls = []

    def fails_late(prompts, completions, **columns):
        calls.append(1)
        if len(calls) == 9:
            raise RuntimeError("the grader went away")
        return [c.count("a") / 8 for c in completions]

    def works(prompts, completions, **columns):
        return [c.count("a") / 8 for c in completions]

    words = [{"prompt": a + b + c, "answer": c + b + a} for a in "abcd" for b in "abcd" for c in "abcd"]
    trust = ("objective.trust=SampledOldKL",) if method == "ppo_kl" else ()

    def config(name: str, **more):
        return LanguageConfig(
            method=method, dataset="words", updates=6, checkpoint_every=2, eval_every=6, set=trust,
            out=tmp_path / name, **{**SMALL, "warmup_steps": 5, **more},
        )  # fmt: skip

    with pytest.raises(TightreinError, match=r"(?s)fails_late.*the grader went away.*--resume"):
        train(config("cut"), dataset=words, reward=fails_late)
    assert lines(tmp_path / "cut")[-1]["step"] >= 4
    train(config("cut", resume=True), dataset=words, reward=works)
    train(config("whole"), dataset=words, reward=works)
    assert last_arrays(tmp_path / "cut") == last_arrays(tmp_path / "whole")
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_model_folder_a_jsonl_dataset_and_a_reward_file(lora_rank, model_folder, jsonl, tmp_path):
    (tmp_path / "reward.py").write_text(REWARD)
    config = LanguageConfig(
        model=str(model_folder), dataset=str(jsonl), reward=f"{tmp_path / 'reward.py'}:share", lora_rank=lora_rank,
        updates=12, learning_rate=2e-2, prompts=6, group_size=8, minibatches=2, max_new_tokens=8, eval_every=4,
        out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    summary = train(config)
    log = lines(tmp_path / "run")
    assert summary["eval_accuracy"] is not None
    assert log[-1]["reward_mean"] > log[1]["reward_mean"] + 0.2, "it learns to say what is rewarded"
    assert max(line["logp_check"] for line in log[1:]) < 1e-4
    again = train(LanguageConfig(**{**vars(config), "model": str(tmp_path / "run" / "model"), "updates": 1,
                                    "out": tmp_path / "again", "lora_rank": 0}))  # fmt: skip
    assert again["eval_accuracy_start"] == summary["eval_accuracy"]
    assert lines(tmp_path / "again")[0]["eval_reward"] == pytest.approx(log[-1]["eval_reward"], abs=0.05)


def test_the_saved_embedded_model_is_a_model_folder(tmp_path):
    first = train(LanguageConfig(updates=1, out=tmp_path / "a", **{**SMALL, "warmup_steps": 150}))
    model = str(tmp_path / "a" / "model")
    task_set = ("min_word_len=5", "max_word_len=5")
    second = train(
        LanguageConfig(
            model=model, task_set=task_set, updates=1, max_new_tokens=8, minibatches=2, out=tmp_path / "b", **SMALL
        )
    )
    assert second["eval_accuracy_start"] == pytest.approx(first["eval_accuracy"], abs=0.1)
    assert second["eval_accuracy_start"] > 0.05


METHODS = [tr.method(key) for key in tr.methods()]
TRAINABLE = [m.key for m in METHODS if isinstance(m.step, Optimizer) and m.behaviour is None and m.replay is None]


@pytest.mark.parametrize("key", sorted(TRAINABLE))
def test_every_method_trains(key, tmp_path):
    method = tr.method(key)
    pretraining = ("training.value_pretraining=1",) if method.training.value_pretraining else ()
    small = {**SMALL, "warmup_steps": 5, "set": pretraining}
    if method.training.group_size == 1:
        small["group_size"] = None
    if hasattr(method.credit, "size"):  # it compares sets of answers, which must be fewer than a group's
        small["group_size"] = 2 * method.credit.size
    train(LanguageConfig(method=key, updates=2, out=tmp_path / "run", **small))
    log = lines(tmp_path / "run")
    assert log[-1]["step"] >= 2
    assert {"loss", "grad_norm", "length_mean", "tokens_per_second", "seconds", "eval_accuracy"} <= set(log[-1])
    if method.experience in ("rollouts", "mixed"):
        assert {"reward_mean", "accuracy"} <= set(log[-1])
        assert log[-1]["logp_check"] < 1e-4


@pytest.mark.parametrize("key", sorted(set(tr.methods()) - set(TRAINABLE)))
def test_what_only_control_can_train_is_refused(key, tmp_path):
    with pytest.raises(TightreinError, match="tightrein train control"):
        train(LanguageConfig(method=key, out=tmp_path / "run", **SMALL))


@pytest.mark.parametrize("method", ["grpo", "spo"])
def test_it_learns(method, tmp_path):
    """A quarter of the default run."""
    shape = {"updates": 60, "prompts": 64, "eval_problems": 200, "eval_every": 60}
    summary = train(LanguageConfig(method=method, seed=1, out=tmp_path / "r", quiet=True, **shape))
    assert summary["eval_accuracy_start"] < 0.6
    assert summary["eval_accuracy"] > summary["eval_accuracy_start"] + 0.2


def test_a_loss_that_is_not_finite_ends_the_run_with_the_checkpoint_intact(tmp_path):
    config = LanguageConfig(
        updates=5, out=tmp_path / "run", set=("step.max_grad_norm=none",), learning_rate=1e30, **SMALL
    )
    with pytest.raises(TightreinError, match=r"(?s)loss is|no longer finite"):
        train(config)
    assert (tmp_path / "run" / "checkpoints" / "step-000000000").exists()


def test_a_run_in_the_folder_is_not_overwritten(tmp_path):
    config = LanguageConfig(updates=1, out=tmp_path / "run", **SMALL)
    train(config)
    with pytest.raises(TightreinError, match="already holds a run"):
        train(config)


class Counting:
    """Rewards of an answer: its first token, so that groups whose answers agree carry nothing."""

    def __call__(self, problems, completions):
        return [float(c[:1] == "a") for c in completions]


def test_dynamic_sampling_asks_for_prompts_until_the_batch_is_full(model_folder):
    policy = load_pretrained(LanguageConfig(model=str(model_folder)))
    method = tr.method("dapo")
    decoding = Decoding(3, policy.eos_ids, policy.pad_id, temperature=3.0)
    collector = Collector(policy, Counting(), method, decoding, prompts=4, group_size=2)
    asked = []

    def stream(count):
        asked.append(count)
        return [(i, Problem("abcd"[i], None, {})) for i in range(count)]

    rollout = collector.collect(stream, torch.Generator().manual_seed(0))
    assert 1 < len(asked) <= method.selection[0].rounds
    assert rollout.figures["rounds"] == len(asked)
    prepared = method.prepare(rollout.decisions)
    assert len(set(prepared.group.tolist())) == 4
    assert (prepared.mask.sum(1) > 0).all(), "no group without spread is among them"
    learner = Learner(policy, method, PLAN, 3.0)
    assert learner.check(rollout, everything=True) < 1e-4
