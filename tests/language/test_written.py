"""Runs that learn from pairs, from demonstrations, and from both and the policy's own answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.experience.contrast import wrong_answers
from tightrein.engines.language.experience.written import Writing
from tightrein.engines.language.rewards.functions import exact
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.train import train
from tightrein.engines.language.training.learner import Learner
from tightrein.errors import TightreinError

SMALL = {"prompts": 8, "eval_problems": 20, "warmup_steps": 5, "quiet": True}
TIMING = ("time", "seconds", "tokens_per_second", "warmup_seconds")
WORDS = [a + b + c for a in "abcd" for b in "abcd" for c in "abcd"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMING} for line in lines(folder)]


def last_arrays(folder: Path) -> bytes:
    return (max((folder / "checkpoints").glob("step-*")) / "arrays.safetensors").read_bytes()


@pytest.mark.parametrize(("method", "gain"), [("dpo", 0.03), ("sft", 0.2), ("hpt", 0.2)])
def test_written_answers_teach_the_embedded_model_out_of_the_box(method, gain, tmp_path):
    """A tenth of the default run or so; of what they were before, held-out answers become right."""
    summary = train(
        LanguageConfig(
            method=method, updates=20, prompts=32, eval_problems=200, eval_every=20, out=tmp_path / "r", quiet=True
        )
    )
    assert summary["eval_accuracy"] > summary["eval_accuracy_start"] + gain
    last = lines(tmp_path / "r")[-1]
    assert last.get("eval_pairs", 1.0) > 0.85


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("tr_dpo", {"set": ("anchor.every=2",)}),
        ("psft", {}),
        ("hpt", {"group_size": 4}),
        ("single_stream_spo", {"problems": 12}),
        ("dcpo_dynamic_clip", {"group_size": 4, "problems": 12}),
        ("vapo", {"group_size": 4, "set": ("training.value_pretraining=2",)}),
    ],
)
def test_a_run_that_breaks_off_goes_on_bit_for_bit(method, more, tmp_path, monkeypatch):
    """Moving reference, cursors, states of each prompt, the critic with its optimizer and its head start."""

    def config(name: str, **others):
        settings = {**SMALL, "updates": 6, "checkpoint_every": 2, "eval_every": 3, **more, **others}
        return LanguageConfig(method=method, out=tmp_path / name, **settings)

    train(config("whole"))
    update, calls = Learner.update, []

    def breaks(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", breaks)
        with pytest.raises(KeyboardInterrupt):
            train(config("cut"))
    assert lines(tmp_path / "cut")[-1]["step"] < 6
    train(config("cut", resume=True))
    assert last_arrays(tmp_path / "cut") == last_arrays(tmp_path / "whole")
    assert without_times(tmp_path / "cut") == without_times(tmp_path / "whole")


def test_pairs_from_a_file_train_a_model_folder_without_a_reward(model_folder, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": w, "chosen": w[::-1], "rejected": "d" + w, "score": 1} for w in WORDS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = train(
        LanguageConfig(
            method="dpo", model=str(model_folder), dataset=str(path), updates=8, learning_rate=1e-2, eval_every=4,
            out=tmp_path / "run", quiet=True,
        )
    )  # fmt: skip
    log = lines(tmp_path / "run")
    assert log[0]["eval_pairs"] == 0.5, "the policy is its own reference at the start"
    assert log[-1]["eval_pairs"] > 0.8
    assert log[-1]["rewards_accuracy"] > 0.8
    assert summary["eval_accuracy"] is None
    assert (summary["eval_pairs_start"], summary["eval_pairs"]) == (0.5, log[-1]["eval_pairs"])
    assert (summary["eval_nll_start"], summary["eval_nll"]) == (log[0]["eval_nll"], log[-1]["eval_nll"])
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_conversational_demonstrations_train_with_lora(model_folder, tmp_path):
    def said(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    rows = [{"messages": [said("user", w), said("assistant", w[::-1])]} for w in WORDS]
    config = {"method": "sft", "model": str(model_folder), "learning_rate": 2e-2, "lora_rank": 4, "quiet": True}
    train(LanguageConfig(**config, updates=8, out=tmp_path / "run"), dataset=rows)
    log = lines(tmp_path / "run")
    assert log[-1]["eval_nll"] < log[0]["eval_nll"] - 0.1


def test_a_moving_reference_is_a_copy_of_its_own_under_lora(model_folder, tmp_path):
    rows = [{"prompt": w, "chosen": w[::-1], "rejected": "d" + w} for w in WORDS]
    config = {"method": "tr_dpo", "variant": "soft", "model": str(model_folder), "learning_rate": 1e-2, "lora_rank": 4}
    train(LanguageConfig(**config, updates=3, out=tmp_path / "run", quiet=True), dataset=rows)
    assert lines(tmp_path / "run")[-1]["step"] == 3


def test_the_embedded_model_judges_demonstrations_by_their_very_text(tmp_path):
    rows = [{"prompt": w, "completion": w[::-1]} for w in WORDS]
    train(LanguageConfig(method="sft", updates=2, out=tmp_path / "run", **SMALL), dataset=rows)
    assert {"eval_accuracy", "eval_nll"} <= lines(tmp_path / "run")[-1].keys()


@pytest.mark.parametrize(
    ("method", "word"), [("dpo", "chosen"), ("sft", "completion"), ("hpt", "completion"), ("grpo", "reward function")]
)
def test_the_wrong_columns_are_refused_before_training(method, word, tmp_path):
    rows = [{"prompt": w, "answer": w[::-1]} for w in WORDS]
    reward = None if method == "grpo" else lambda completions, **_: [0.0] * len(completions)
    with pytest.raises(TightreinError, match=word):
        train(LanguageConfig(method=method, out=tmp_path / "run", **SMALL), dataset=rows, reward=reward)
    assert not (tmp_path / "run").exists()


def test_an_answer_that_the_model_has_no_room_for_is_named(model_folder, tmp_path):
    rows = [{"prompt": w, "completion": 60 * w} for w in WORDS]
    config = {"method": "sft", "model": str(model_folder), "updates": 1, "quiet": True}
    with pytest.raises(TightreinError, match=r"(?s)answer of 181 are more than the model's 128.*--max-new-tokens"):
        train(LanguageConfig(**config, out=tmp_path / "a"), dataset=rows)
    train(LanguageConfig(**config, max_new_tokens=20, out=tmp_path / "b"), dataset=rows)
    assert lines(tmp_path / "b")[-1]["length_mean"] == 20


def test_what_a_tool_says_in_a_demonstration_is_seen_and_not_learned(policy):
    problems = [Problem("ab", "ba", {}, worked=("da", "cc", "b")), Problem("a", "a", {})]
    samples = Writing(policy, None).rows(problems, [problem.shown for problem in problems])
    assert samples.mask.tolist() == [[1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0]]
    assert samples.present.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]
    assert policy.decode(samples.completions, samples.present) == ["daccb", "a"]
    assert samples.ended.all()


def test_wrong_answers_are_wrong_and_always_the_same():
    problems = [Problem(f"reverse {w}", w[::-1], {}) for w in [*WORDS, "a", ""]]

    def same_letters(problems, answers):  # right as long as the letters are
        return [float(sorted(a) == sorted(p.answer)) for p, a in zip(problems, answers, strict=True)]

    made = wrong_answers(problems, same_letters)
    assert made == wrong_answers(problems, same_letters)
    assert made[:3] == wrong_answers(problems[:3], same_letters)
    assert sum(same_letters(problems, made)) == 0
    assert sum(exact(problems, wrong_answers(problems, exact))) == 0
