from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.experience.rollout import Collector
from tightrein.engines.language.experience.rollouts import Rollouts
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.passes.views import view_all
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.stream import Stream, weighted
from tightrein.engines.language.train import train
from tightrein.errors import TightreinError

TEXTS = ["ab", "cd", "abcd", "dcba", "bad", "cab", "dab", "a"]
PROBLEMS = [Problem(text, text, {}) for text in TEXTS]
DECODING = Decoding(6, frozenset({1}), 0)
TIMING = ("time", "seconds", "tokens_per_second", "warmup_seconds", "waited", "sampling_seconds")


def reward(problems, texts):
    return [text.count("a") / 6 for text in texts]


def rollouts(policy: Policy, method, prompts: int = 4, **more) -> Rollouts:
    task = Task("words", PROBLEMS, PROBLEMS, reward)
    collector = Collector(policy, reward, method, DECODING, prompts, 2)
    return Rollouts(collector, Stream(task, 0, method.curriculum), 0, **more)


def state_of(method) -> dict:
    return method.init(prompts=len(PROBLEMS))


def shaken(policy: Policy, seed: int) -> None:
    """Moves the policy, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def same(a, b) -> bool:
    fields = [f for f in tr.decisions.FIELDS if getattr(a.decisions, f) is not None]
    return all(torch.equal(getattr(a.decisions, f), getattr(b.decisions, f)) for f in fields)


@pytest.mark.parametrize("lag", [0, 2])
def test_staleness_counts_the_updates_since_the_answers_were_given(policy, lag):
    method = tr.method("a3po")
    source = rollouts(policy, method, lag=lag)
    seen = []
    for update in range(5):
        batch = source.next(update, state_of(method))
        logp = view_all(policy.model, batch.samples, 1.0).logp
        gap = float(((logp - batch.decisions.logp_behaviour).abs() * batch.samples.mask).max())
        assert (gap < 1e-4) == batch.exact == (batch.decisions.staleness == 0).all()
        seen.append(int(batch.decisions.staleness[0, 0]))
        shaken(policy, update)
    assert seen == [min(update, lag) for update in range(5)]


def test_a_sampler_of_low_precision_differs_a_little_and_follows_the_policy(policy):
    method = tr.method("tis")
    source = rollouts(policy, method, dtype="bfloat16")
    gaps = []
    for update in range(3):
        batch = source.next(update, state_of(method))
        assert not batch.exact
        assert batch.samples.logp.dtype == torch.float32
        logp = view_all(policy.model, batch.samples, 1.0).logp
        gap = ((logp - batch.decisions.logp_behaviour).abs() * batch.samples.mask).sum() / batch.samples.mask.sum()
        gaps.append(float(gap))
        shaken(policy, update)
    assert all(1e-6 < gap < 0.5 for gap in gaps), gaps


def test_drift_is_the_mean_change_of_logp_on_the_last_answer(policy):
    method = tr.method("single_stream_spo")
    source = rollouts(policy, method, prompts=4)
    source._collector = source._collector.__class__(policy, reward, method, DECODING, 8, 1)  # every prompt once
    first = source.next(0, state_of(method))
    assert (first.decisions.drift == 0).all()
    shaken(policy, 1)
    second = source.next(1, state_of(method))
    now = view_all(policy.model, first.samples, 1.0).logp
    change = ((now - first.samples.logp).abs() * first.samples.mask).sum(1) / first.samples.mask.sum(1)
    by_prompt = dict(zip(first.decisions.prompt.tolist(), change.tolist(), strict=True))
    wanted = torch.tensor([by_prompt[prompt] for prompt in second.decisions.prompt.tolist()])
    assert (wanted > 0.001).all()
    torch.testing.assert_close(second.decisions.drift, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("method", "more"), [("single_stream_spo", {}), ("a3po", {"lag": 2}), ("grpo", {"lag": 1})])
def test_rollouts_go_on_bit_for_bit_from_their_arrays(policy, method, more):
    method = tr.method(method)
    whole, cut = rollouts(policy, method, **more), rollouts(policy, method, **more)
    for update in range(3):
        whole.next(update, state_of(method))
        cut.next(update, state_of(method))
        shaken(policy, update)
    resumed = rollouts(policy, method, **more)
    resumed.restore({name: np.array(array) for name, array in cut.arrays().items()})
    for update in range(3, 7):
        a, b = whole.next(update, state_of(method)), resumed.next(update, state_of(method))
        assert same(a, b)
        assert {k: x for k, x in a.figures.items() if k not in TIMING} == {
            k: x for k, x in b.figures.items() if k not in TIMING
        }
        shaken(policy, update)


def test_a_curriculum_draws_what_is_uncertain_more_often():
    method = tr.method("single_stream_spo")
    task = Task("words", PROBLEMS, PROBLEMS, reward)
    stream = Stream(task, 0, method.curriculum)
    state = {"credit": {"a": torch.tensor([8.0] * 7 + [4.0]), "b": torch.tensor([0.01] * 7 + [4.0])}}
    drawn = [index for _ in range(50) for index, _ in stream.draw(2, state)]
    assert drawn.count(7) > 2 * max(drawn.count(i) for i in range(7))
    again = Stream(task, 0, method.curriculum)
    again.cursor = 50
    assert [i for i, _ in again.draw(2, state)] == drawn[50:52]


def test_flags_that_do_nothing_are_refused(tmp_path):
    method = tr.method("single_stream_spo", credit=tr.parts.GroupNormalised())
    with pytest.raises(TightreinError, match="curriculum=none"):
        Stream(Task("words", PROBLEMS, PROBLEMS, reward), 0, method.curriculum).draw(2, method.init(prompts=8))
    with pytest.raises(TightreinError, match="--lag"):
        train(LanguageConfig(method="psft", lag=1, eval_problems=10, out=tmp_path / "run"))
    with pytest.raises(TightreinError, match="takes no --tools"):
        train(LanguageConfig(task="calculator", tools="python", eval_problems=10, out=tmp_path / "run"))


def test_weighted_draws_repeat_nothing_before_all_were_drawn():
    generator = np.random.default_rng(0)
    drawn = weighted(np.array([1.0, 1.0, 1e-9]), 8, generator)
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]
    assert sorted(drawn[6:]) == [0, 1]


def test_the_number_of_problems_is_kept(tmp_path):
    task = Task("words", PROBLEMS, PROBLEMS, reward, problems=3)
    assert {index for index, _ in task.batch(0, 0, 30)} == {0, 1, 2}
    assert len(task.asked) == 3


def lines(folder: Path) -> list[dict]:
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING} for line in read]


def last_arrays(folder: Path) -> bytes:
    return (max((folder / "checkpoints").glob("step-*")) / "arrays.safetensors").read_bytes()


def test_a_killed_run_with_memory_lag_and_a_sampler_of_its_own_goes_on_bit_for_bit(tmp_path):
    flags = ["--method", "single_stream_spo", "--problems", "40", "--lag", "1", "--sampler-dtype", "bfloat16",
             "--updates", "4", "--checkpoint-every", "1", "--eval-every", "4", "--prompts", "16",
             "--eval-problems", "20", "--warmup-steps", "10", "--quiet", "--out"]  # fmt: skip
    command = [sys.executable, "-m", "tightrein", "train", "language", *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, str(whole)], env=env, check=True)
    running = subprocess.Popen([*command, str(cut)], env=env)
    while not (cut / "checkpoints" / "step-000000002").exists():
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    subprocess.run([*command, str(cut), "--resume"], env=env, check=True)
    assert last_arrays(cut) == last_arrays(whole)
    assert lines(cut) == lines(whole)


def test_what_is_known_before_training_comes_from_answers(tmp_path):
    config = LanguageConfig(
        method="single_stream_spo", updates=1, prompts=16, problems=30, eval_problems=20, warmup_steps=40, quiet=True,
        out=tmp_path / "run",
    )  # fmt: skip
    train(config)
    from safetensors.numpy import load_file

    arrays = load_file(tmp_path / "run" / "checkpoints" / "step-000000000" / "arrays.safetensors")
    a, b = (next(x for name, x in arrays.items() if name.endswith(f"credit|{letter}")) for letter in "ab")
    assert a.shape == b.shape == (30,)
    np.testing.assert_allclose(a + b, 8.0)
    assert len(set(a.tolist())) > 1


def test_threshold_resampling_asks_for_a_share_and_fills_the_batch(policy):
    method, asked = tr.method("gpg", share=0.5, rounds=4), []

    def hardly_ever(problems, texts):
        """In the first round all groups agree, in the second two of four do not."""
        telling = len(asked) == 2
        return [float(telling and i in (0, 4)) for i in range(len(texts))]

    def stream(count):
        asked.append(count)
        return [(i, PROBLEMS[i]) for i in range(count)]

    collector = Collector(policy, hardly_ever, method, DECODING, 4, 2)
    batch = collector.collect(stream, torch.Generator().manual_seed(0))
    assert asked == [4, 4]
    assert batch.decisions.reward.tolist() == [1.0, 0, 1, 0, 0, 0, 0, 0]  # those that differ, then of the first round
    assert batch.decisions.group.tolist() == [4, 4, 6, 6, 0, 0, 1, 1]
    prepared = method.prepare(batch.decisions)
    assert prepared.mask.equal(batch.decisions.mask)
    assert prepared.advantage[0, 0] == 1.0  # 4 groups of which 2 teach: 2 times (1 - 1/2)
