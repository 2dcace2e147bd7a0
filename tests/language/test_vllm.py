"""vLLM as the sampler, with a stand-in of its interface (0.33) that samples from the model itself: vLLM wants a GPU."""

from __future__ import annotations

import copy
import importlib.machinery
import json
import os
import sys
import types
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.experience.rollout import Collector, check_sampling, warmed
from tightrein.engines.language.experience.rollouts import Rollouts
from tightrein.engines.language.models.policy import Policy, finished
from tightrein.engines.language.passes.views import view_all
from tightrein.engines.language.sampling.decoding import Decoding
from tightrein.engines.language.sampling.vllm import Vllm, weights_of
from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.stream import Stream
from tightrein.engines.language.tasks.turns import Dialogue
from tightrein.errors import TightreinError

TEXTS = ["ab", "cd", "abcd", "dcba", "bad", "cab", "dab", "a"]
PROBLEMS = [Problem(text, text, {}) for text in TEXTS]
DECODING = Decoding(12, frozenset({1}), 0)
TIMES = ("time", "seconds", "tokens_per_second", "waited", "sampling_seconds")


@dataclass
class SamplingParams:
    """Those fields of vLLM's that may be asked for, and its checks of them."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True

    def __post_init__(self):
        assert 0 <= self.temperature <= 2
        assert not (0 < self.temperature < 0.01)
        assert self.max_tokens >= 1
        assert all(self.stop)
        assert not (self.stop and not self.detokenize), "stop strings are only supported when detokenize is True"


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass
class CompletionOutput:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]


class LLM:
    """Its methods that are used; it writes with the real model that the folder describes, token by token."""

    made: list[LLM] = []  # noqa: RUF012

    def __init__(
        self, model: str, *, dtype: str, skip_tokenizer_init: bool, load_format: str, logprobs_mode: str,
        max_model_len: int, gpu_memory_utilization: float, enable_sleep_mode: bool, generation_config: str,
    ):  # fmt: skip
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        assert load_format == "dummy"
        assert max_model_len == -1
        config = transformers.AutoConfig.from_pretrained(model)
        torch.manual_seed(7)
        self.model = getattr(transformers, config.architectures[0])(config).to(getattr(torch, dtype)).eval()
        self.tokenizer = None if skip_tokenizer_init else transformers.AutoTokenizer.from_pretrained(model)
        self.mode, self.may_sleep, self.done = logprobs_mode, enable_sleep_mode, ["made"]
        LLM.made.append(self)

    @torch.no_grad()
    def collective_rpc(self, method: str, timeout: float | None = None, args: tuple = (), kwargs: Any = None) -> list:
        assert method == "reload_weights"
        assert self.done[-1] != "sleep", "there is no memory for the weights"
        own = dict(self.model.named_parameters())
        for name, weights in kwargs["weights_iterator"]:
            own.pop(name).copy_(weights)
        assert not own, f"left as they were: {list(own)}"
        self.done.append("weights")
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.done.append("reset")
        return True

    def sleep(self, level: int = 1) -> None:
        assert self.may_sleep
        assert level == 1, "level 2 forgets the weights"
        self.done.append("sleep")

    def wake_up(self, tags: list[str] | None = None) -> bool:
        assert self.done[-1] == "sleep"
        self.done.append("wake")
        return True

    def generate(self, prompts, sampling_params, *, use_tqdm: bool) -> list[RequestOutput]:
        assert self.done[-1] not in ("sleep", "made", "weights"), "asleep, or without weights, or with an old cache"
        self.done.append("generate")
        pairs = zip(prompts, sampling_params, strict=True)
        return [RequestOutput([self._written(prompt["prompt_token_ids"], told)]) for prompt, told in pairs]

    @torch.no_grad()
    def _written(self, prompt: list[int], told: SamplingParams) -> CompletionOutput:
        assert told.logprobs == 0
        assert told.detokenize == (self.tokenizer is not None)
        output, generator = CompletionOutput(), torch.Generator().manual_seed(told.seed)
        for _ in range(told.max_tokens):
            logits = self.model(input_ids=torch.tensor([[*prompt, *output.token_ids]])).logits[0, -1].float()
            raw, logits = logits.log_softmax(-1), logits / told.temperature
            share = logits.softmax(-1)
            floor = torch.maximum(share.topk(told.top_k or len(share)).values[-1], told.min_p * share.max())
            ranked, order = share.sort(descending=True)
            share[order[ranked.cumsum(0) - ranked >= told.top_p]] = 0.0
            processed = (torch.where(share >= floor, share, 0.0)).log() - share[share >= floor].sum().log()
            token = int(torch.multinomial(processed.exp(), 1, generator=generator))
            output.token_ids.append(token)
            shown = {"raw_logprobs": raw, "processed_logprobs": processed}[self.mode]
            output.logprobs.append({token: Logprob(float(shown[token]))})
            if token in told.stop_token_ids:
                output.finish_reason = "stop"
                return output
            if told.stop and any(text in self.tokenizer.decode(output.token_ids) for text in told.stop):
                output.logprobs.append({0: Logprob(-1.0)})  # of a token that was written before the text was looked at
                output.finish_reason = "stop"
                return output
        output.finish_reason = "length"
        return output


@pytest.fixture
def vllm(monkeypatch):
    """The stand-in, where vLLM would be."""
    module = types.ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams, module.TokensPrompt = LLM, SamplingParams, dict
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    LLM.made.clear()
    return module


def sampled(policy: Policy, decoding: Decoding, dtype: str = "float32", **more):
    engine = Vllm(policy, decoding, dtype, aside=False)
    engine.follow(policy)
    seeds = torch.arange(2 * len(TEXTS))
    return engine(policy.model, policy.encode(PROBLEMS), 2, decoding, seeds=seeds, tokenizer=policy.tokenizer, **more)


def gap(policy: Policy, samples, temperature: float = 1.0) -> float:
    """How far the model's own log-probabilities are from those of the samples, at most."""
    logp = view_all(policy.model, samples, temperature).logp
    return float(((logp - samples.logp).abs() * samples.mask).max())


def shaken(policy: Policy, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.trained:
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)


def reward(problems, texts):
    return [text.count("a") / 6 for text in texts]


def rollouts(policy: Policy, method, dtype: str = "float32", lag: int = 0) -> Rollouts:
    collector = Collector(policy, reward, method, DECODING, 4, 2)
    stream = Stream(Task("words", PROBLEMS, PROBLEMS, reward), 0, method.curriculum)
    engine = Vllm(policy, DECODING, dtype, aside=not lag)
    return Rollouts(collector, stream, 0, dtype=dtype, lag=lag, engine=engine)


@pytest.mark.parametrize("told", [
    {}, {"temperature": 0.7}, {"top_p": 0.6}, {"top_k": 2}, {"min_p": 0.3}, {"temperature": 1.5},
])  # fmt: skip
def test_log_probabilities_are_those_of_the_whole_tempered_distribution(vllm, policy, told):
    decoding = replace(DECODING, **told)
    samples = sampled(policy, decoding)
    assert gap(policy, samples, decoding.temperature) < 1e-4
    assert samples.mask.sum() > 2 * len(TEXTS)
    assert samples.logp[samples.mask == 0].eq(0).all()
    assert samples.completions[samples.mask == 0].eq(0).all()


def test_an_answer_ends_with_its_end_token_or_at_the_limit(vllm, policy):
    samples = sampled(policy, DECODING)
    last = samples.completions.gather(1, samples.mask.sum(1, keepdim=True).long() - 1)[:, 0]
    assert torch.equal(last == 1, samples.ended)
    assert samples.ended.any()
    assert (samples.ended | (samples.mask.sum(1) == 12)).all()
    assert not (samples.completions[:, :-1] == 1)[samples.mask[:, 1:] > 0].any()


def test_a_stop_string_ends_an_answer_with_the_token_that_completes_it(vllm, policy):
    samples = sampled(policy, replace(DECODING, stop=("ba", "c")))
    texts = policy.decode(samples.completions, samples.mask)
    stopped = [("ba" in text) or ("c" in text) for text in texts]
    assert any(stopped)
    assert all(text.replace(" ", "").endswith(("ba", "c")) for text, ends in zip(texts, stopped, strict=True) if ends)
    assert [bool(end) for end, ends in zip(samples.ended, stopped, strict=True) if ends] == [True] * sum(stopped)
    assert gap(policy, samples) < 1e-4


def test_lower_precision_shows_as_a_gap_and_weights_follow(vllm, policy):
    assert gap(policy, sampled(policy, DECODING, "bfloat16")) > 1e-3
    state = torch.get_rng_state()
    engine = Vllm(policy, DECODING, "float32", aside=True)
    assert torch.equal(state, torch.get_rng_state())
    for update in range(2):
        engine.follow(policy)
        samples = engine(policy.model, policy.encode(PROBLEMS), 1, DECODING, torch.Generator().manual_seed(update))
        assert gap(policy, samples) < 1e-4
        shaken(policy, update)
        assert gap(policy, samples) > 1e-3
    assert LLM.made[-1].done == [
        "made", "weights", "reset", "generate", "sleep", "wake", "weights", "reset", "generate", "sleep",
    ]  # fmt: skip


def test_adapters_are_added_in(vllm, policy):
    adapted = finished(policy.model, policy.tokenizer, LanguageConfig(lora_rank=2))
    for seed in range(3):
        shaken(adapted, seed)
    before = {name: p.detach().clone() for name, p in adapted.model.named_parameters()}
    found = dict(weights_of(adapted))
    assert all(torch.equal(p, before[name]) for name, p in adapted.model.named_parameters())
    merged = dict(copy.deepcopy(adapted.model).merge_and_unload().named_parameters())
    assert found.keys() == merged.keys()
    assert all(torch.allclose(found[name], merged[name], atol=1e-6) for name in merged)
    assert gap(adapted, sampled(adapted, DECODING)) < 1e-3


@pytest.mark.parametrize("lag", [0, 1])
def test_methods_get_what_vllm_said_and_the_batch_is_not_exact(vllm, policy, lag):
    method = tr.method("tis")
    source = rollouts(policy, method, "bfloat16", lag)
    for update in range(3):
        batch = source.next(update, {})
        assert not batch.exact
        assert torch.equal(batch.decisions.logp_behaviour, batch.samples.logp)
        shaken(policy, update)
    source.settle()
    assert ("sleep" in LLM.made[0].done) == (lag == 0)  # beside the training it never rests
    assert LLM.made[0].done.count("weights") == (3 if lag == 0 else 4)


@pytest.mark.parametrize("lag", [0, 1])
def test_rollouts_go_on_bit_for_bit_from_their_arrays(vllm, policy, lag):
    method = tr.method("grpo")
    whole, cut = rollouts(policy, method, lag=lag), rollouts(policy, method, lag=lag)
    for update in range(2):
        whole.next(update, {})
        cut.next(update, {})
        shaken(policy, update)
    resumed = rollouts(policy, method, lag=lag)
    resumed.restore({name: np.array(array) for name, array in cut.arrays().items()})
    for update in range(2, 5):
        a, b = whole.next(update, {}), resumed.next(update, {})
        assert torch.equal(a.samples.ids, b.samples.ids)
        assert torch.equal(a.samples.logp, b.samples.logp)
        shaken(policy, update)


def test_a_batch_that_fails_is_sampled_anew_by_the_present_weights(vllm, policy):
    method = tr.method("a3po")
    source = rollouts(policy, method, lag=1)
    source.next(0, {})
    source.settle()
    generate, LLM.generate = LLM.generate, None
    try:
        source.next(1, {})
        source.settle()
    finally:
        LLM.generate = generate
    saved = {name: np.array(array) for name, array in source.arrays().items()}
    with pytest.raises(TypeError):
        source.next(2, {})
    resumed = rollouts(policy, method, lag=1)
    resumed.restore(saved)
    batch = resumed.next(2, {})
    assert (batch.decisions.staleness == 0).all()
    assert gap(policy, batch.samples) < 1e-4


def test_a_run_logs_the_gap_and_gives_the_same_again(vllm, model_folder, jsonl, tmp_path):
    def run(name: str, **more):
        tr.train(
            "language", method="mis_icepop", model=str(model_folder), dataset=str(jsonl), updates=3, prompts=4,
            group_size=4, minibatches=2, max_new_tokens=6, eval_every=3, sampler="vllm", sampler_dtype="bfloat16",
            reward=lambda completions, **columns: [float(len(text)) for text in completions], out=tmp_path / name,
            quiet=True, **more,
        )  # fmt: skip
        read = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in TIMES} for line in read if line["step"]]

    lines = run("one")
    assert lines == run("two")
    assert all(line["logp_gap"] > 1e-4 and "logp_check" not in line for line in lines)
    late = run("late", lag=1)
    assert len(late) == 3


def refused(method: str = "grpo", task: Task | None = None, **flags) -> TightreinError:
    with pytest.raises(TightreinError) as caught:
        check_sampling(
            tr.method(method), LanguageConfig(method=method, sampler="vllm", **flags),
            task or Task("words", PROBLEMS, PROBLEMS, reward),
        )  # fmt: skip
    return caught.value


def test_what_vllm_cannot_do_is_refused_before_training(vllm):
    talk = Task("words", PROBLEMS, PROBLEMS, reward, dialogue=Dialogue.__new__(Dialogue))
    assert "in turns" in str(refused(task=talk))
    assert "--routing" in str(refused(routing="sampler"))
    assert "middle of answers" in str(refused("vineppo"))
    assert "--sampler" in str(refused("sft"))
    assert "from 0.01 to 2.0, not at 2.5" in str(refused(temperature=2.5))
    assert "whole distribution" in str(refused(temperature=0.8, top_k=5))
    assert "entropy of each token" in str(refused(next(key for key in tr.methods() if warmed(tr.method(key)))))


def test_without_vllm_a_run_is_refused_before_its_folder_is_made(model_folder, jsonl, tmp_path):
    with pytest.raises(TightreinError, match=r"Python package 'vllm'.*\n  pip install vllm"):
        tr.train(
            "language", model=str(model_folder), dataset=str(jsonl), sampler="vllm", out=tmp_path / "run",
            reward=lambda completions, **columns: [1.0] * len(completions),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_where_vllm_cannot_start_its_reason_is_told(vllm, policy, monkeypatch):
    def broken(*given, **named):
        raise RuntimeError("no GPU here")

    monkeypatch.setattr(vllm, "LLM", broken)
    with pytest.raises(TightreinError, match="vLLM cannot start: no GPU here"):
        Vllm(policy, DECODING, "float32", aside=True)


def test_conversations_and_mixtures_of_experts_are_refused(vllm, policy, tokenizer):
    with pytest.raises(TightreinError, match="in one go"):
        sampled(policy, DECODING, partner=object())
    shape = transformers.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    with pytest.raises(TightreinError, match="experts"):
        Vllm(Policy(transformers.MixtralForCausalLM(shape), tokenizer), DECODING, "float32", aside=True)
