"""Sampling beside the training: the same batches as in line, whatever the two do at once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.experience.ahead import Ahead, Stopped
from tightrein.engines.language.experience.rollout import Collector
from tightrein.engines.language.experience.rollouts import Rollouts
from tightrein.engines.language.models.policy import Policy, finished
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.stream import Stream
from tightrein.errors import TightreinError

TEXTS = ["ab", "cd", "abcd", "dcba", "bad", "cab", "dab", "a"]
PROBLEMS = [Problem(text, text, {}) for text in TEXTS]
DECODING = Decoding(6, frozenset({1}), 0)
TIMES = ("waited", "sampling_seconds")


def share_of_a(problems, texts):
    return [text.count("a") / 6 for text in texts]


class Gate(Stream):
    """A stream that draws, from the second batch on, only when it is let."""

    opened = None

    def draw(self, count, state):
        if self.cursor and self.opened is not None:
            assert self.opened.wait(30), "nobody opened the gate"
        return super().draw(count, state)


def rollouts(policy, method, reward=share_of_a, decoding=DECODING, **more) -> Rollouts:
    task = Task("words", PROBLEMS, PROBLEMS, reward)
    collector = Collector(policy, reward, method, decoding, 4, 2)
    return Rollouts(collector, Gate(task, 0, method.curriculum), 0, **more)


def remembered(method, seed: int) -> dict:
    """A state that a curriculum draws by."""
    state = method.init(prompts=len(PROBLEMS))
    if "credit" in state and "a" in state["credit"]:
        generator = torch.Generator().manual_seed(seed)
        state["credit"] = {key: 8 * torch.rand(len(PROBLEMS), generator=generator) for key in state["credit"]}
    return state


def shaken(policy: Policy, seed: int) -> None:
    """Moves the policy, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.trained:
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def weights(policy: Policy) -> list[torch.Tensor]:
    return [p.detach().clone() for p in policy.model.parameters()]


def put(policy: Policy, kept: list[torch.Tensor]) -> None:
    for parameter, value in zip(policy.model.parameters(), kept, strict=True):
        parameter.data.copy_(value)


def told(batch) -> dict:
    """All that a batch holds but for times."""
    fields = {f: getattr(batch.decisions, f) for f in tr.decisions.FIELDS}
    samples = {f"samples.{f}": getattr(batch.samples, f) for f in batch.samples.__dataclass_fields__}
    figures = {name: x for name, x in batch.figures.items() if name not in TIMES}
    return {k: x for k, x in {**fields, **samples, **figures, "exact": batch.exact}.items() if x is not None}


def same(a: dict, b: dict) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a)


def run(source: Rollouts, policy: Policy, method, updates: int, gate: bool = False) -> list[dict]:
    """The batches of so many updates, with the policy moved after each; gate: sampled only once it has moved."""
    found = []
    for update in range(updates):
        if gate:
            source.settle()
            source._stream.opened = threading.Event()
            if update == 0:  # the first batches are not sampled beside anything
                source._stream.opened.set()
        state = remembered(method, update)
        found.append(told(source.next(update, state)))
        shaken(policy, update)
        for kept in state.get("credit", {}).values():
            kept.fill_(1.0)
        if gate:
            source._stream.opened.set()
    return found


@pytest.mark.parametrize(("key", "more"), [
    ("grpo", {"lag": 1}), ("a3po", {"lag": 2}), ("tis", {"lag": 1, "dtype": "bfloat16"}),
    ("single_stream_spo", {"lag": 1}), ("vineppo", {"lag": 1}),
])  # fmt: skip
def test_batches_are_those_in_line_though_weights_and_state_move_meanwhile(policy, key, more):
    method, begin = tr.method(key), weights(policy)
    in_line = run(rollouts(policy, method, beside=False, **more), policy, method, 4)
    put(policy, begin)
    beside = run(rollouts(policy, method, **more), policy, method, 4, gate=more["lag"] == 1)
    assert all(same(a, b) for a, b in zip(in_line, beside, strict=True))
    assert any("lag" in more and not a["exact"] for a in in_line)


def test_sampling_goes_on_while_the_caller_does_something_else(policy):
    here, threads = threading.get_ident(), []
    learning = threading.Event()

    def reward(problems, texts):
        threads.append(threading.get_ident())
        if len(threads) > 1:
            assert learning.wait(30)
        return share_of_a(problems, texts)

    method = tr.method("grpo")
    source = rollouts(policy, method, reward, lag=1)
    source.next(0, {})
    learning.set()  # in line, nobody would come to this
    time.sleep(0.05)
    figures = source.next(1, {}).figures
    source.settle()
    assert threads[0] == here
    assert here not in threads[1:]
    assert 0 <= figures["waited"] < figures["sampling_seconds"] < 30


def test_random_numbers_of_others_and_their_gradients_are_left_alone(policy):
    policy.model.train()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    source = rollouts(policy, tr.method("grpo"), lag=1)
    for update in range(2):
        assert not source.next(update, {}).samples.logp.requires_grad
        assert torch.is_grad_enabled()
        assert policy.model.training
    source.settle()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


@pytest.mark.parametrize("more", [{"lag": 1}, {"lag": 2}, {"lag": 1, "dtype": "bfloat16"}])
@pytest.mark.parametrize("key", ["a3po", "single_stream_spo"])
def test_a_batch_that_fails_is_sampled_again_as_it_would_have_been(policy, key, more):
    method, begin, calls = tr.method(key), weights(policy), []
    whole = run(rollouts(policy, method, beside=False, **more), policy, method, 6)
    put(policy, begin)
    failing = more["lag"] + 2  # the batch that is begun at update 1

    def faulty(problems, texts):
        calls.append(1)
        if len(calls) == failing:
            raise TightreinError("it has a fault", "mend it")
        return share_of_a(problems, texts)

    source = rollouts(policy, method, faulty, **more)
    found = run(source, policy, method, 2)
    saved = {name: np.array(array) for name, array in source.arrays().items()}
    for _ in range(2):  # as often as it is asked
        with pytest.raises(TightreinError, match="it has a fault\n  mend it"):
            source.next(2, remembered(method, 2))
    assert {name: np.array(array) for name, array in source.arrays().items()}.keys() == saved.keys()

    resumed = rollouts(policy, method, **more)
    resumed.restore(saved)
    again = resumed.arrays()  # a run may be saved before it goes on
    assert again.keys() == saved.keys()
    assert all(np.array_equal(again[name], saved[name]) for name in saved)
    for update in range(2, 6):
        found.append(told(resumed.next(update, remembered(method, update))))
        shaken(policy, update)
    assert all(same(a, b) for a, b in zip(whole, found, strict=True))


def test_a_first_batch_that_fails_leaves_the_beginning(policy):
    def faulty(problems, texts):
        raise TightreinError("it has a fault", "mend it")

    method = tr.method("grpo")
    source = rollouts(policy, method, faulty, lag=1)
    before = source.arrays()
    with pytest.raises(TightreinError, match="it has a fault"):
        source.next(0, {})
    resumed = rollouts(policy, method, lag=1)
    resumed.restore({name: np.array(array) for name, array in before.items()})
    assert same(told(resumed.next(0, {})), told(rollouts(policy, method, lag=1).next(0, {})))


def test_routing_of_the_sampler_is_that_in_line(tokenizer):
    torch.manual_seed(0)
    shape = transformers.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1, pad_token_id=0, eos_token_id=1,
        bos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    policy, method = Policy(transformers.MixtralForCausalLM(shape), tokenizer), tr.method("grpo")
    begin, decoding = weights(policy), replace(DECODING, experts=True)
    found = []
    for beside in (False, True):
        put(policy, begin)
        source = rollouts(policy, method, decoding=decoding, lag=1, routing="sampler", beside=beside)
        found.append(run(source, policy, method, 3))
    assert found[0][0]["samples.experts"].shape[2] == 2
    assert all(same(a, b) for a, b in zip(*found, strict=True))


def test_frozen_weights_are_held_once(policy):
    adapted = finished(policy.model, policy.tokenizer, LanguageConfig(lora_rank=2))
    theirs = rollouts(adapted, tr.method("grpo"), lag=1)._sampler.model.named_parameters()
    ours = dict(adapted.model.named_parameters())
    shared = {name: parameter is ours[name] for name, parameter in theirs}
    assert shared == {name: not parameter.requires_grad for name, parameter in ours.items()}
    assert set(shared.values()) == {True, False}


@pytest.mark.parametrize(("key", "beside"), [("grpo", True), ("hpt", False)])
def test_a_run_says_how_long_it_waited_where_it_samples_beside(tmp_path, key, beside):
    tr.train(
        "language", method=key, updates=2, prompts=8, group_size=4, warmup_steps=2, warmup_examples=16, eval_problems=4,
        eval_every=2, lag=1, out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [set(TIMES) <= line.keys() for line in lines] == [False, beside, beside]


def test_what_a_call_returns_and_raises_is_the_callers():
    ahead: Ahead[int] = Ahead()
    ahead.begin(lambda: 7)
    assert ahead.wait() < 30
    assert not ahead.failed
    assert ahead.result() == 7
    ahead.begin(lambda: 1 // 0)
    ahead.wait()
    assert ahead.failed
    with pytest.raises(ZeroDivisionError):
        ahead.result()


def test_a_call_that_nobody_waits_for_is_stopped():
    raised, began = [], threading.Event()

    def endless():
        try:
            while True:
                began.set()
                torch.ones(8).sum()
        except BaseException as error:
            raised.append(type(error))
            raise

    ahead: Ahead[None] = Ahead()
    ahead.begin(endless)
    assert began.wait(30)
    del ahead
    assert raised == [Stopped]


ENDING = """
import torch
from tightrein.engines.language.experience.ahead import Ahead
def endless():
    while True:
        torch.tanh(torch.ones(64, 64) @ torch.ones(64, 64))
ahead = Ahead()
ahead.begin(endless)
raise SystemExit(3)
"""


def test_a_process_ends_though_a_call_is_under_way():
    assert subprocess.run([sys.executable, "-c", ENDING], timeout=60).returncode == 3
