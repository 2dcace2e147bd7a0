from __future__ import annotations

import json

import pytest
import torch
import transformers

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.experience.rollout import check_sampling
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.models.routing import replayed, routers
from tightrein.engines.language.passes.outputs import layer_of
from tightrein.engines.language.passes.views import view, view_all
from tightrein.engines.language.sampling.sampler import Decoding, join, sample
from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.train import train
from tightrein.errors import TightreinError

PROMPTS = [[3, 4, 5], [6, 7], [4, 7, 5, 6]]
DECODING = Decoding(6, frozenset({1}), 0, experts=True)
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": None, "initializer_range": 0.3, "num_experts_per_tok": 1,
}  # fmt: skip


def make(kind: str, vocabulary: int):
    torch.manual_seed(0)
    if kind == "mixtral":
        shape = transformers.MixtralConfig(vocab_size=vocabulary, num_local_experts=4, **SHAPE)
        return transformers.MixtralForCausalLM(shape)
    qwen = transformers.Qwen3MoeConfig(
        vocab_size=vocabulary, num_experts=4, moe_intermediate_size=32, norm_topk_prob=False, head_dim=8,
        **SHAPE | {"num_experts_per_tok": 2},
    )  # fmt: skip
    model = transformers.Qwen3MoeForCausalLM(qwen)
    for router in routers(model):
        torch.nn.init.normal_(router.weight, std=0.5)
    return model


@pytest.fixture(params=["mixtral", "qwen3_moe"])
def mixture(request, tokenizer) -> Policy:
    policy = Policy(make(request.param, len(tokenizer)), tokenizer)
    assert layer_of(policy.model) is not None  # is tried once, before anybody listens
    return policy


def sampled(policy: Policy, seed: int = 0):
    return sample(policy.model, PROMPTS, 2, DECODING, torch.Generator().manual_seed(seed))


def experts_used(model, samples):
    with torch.no_grad():
        return view(model, samples.ids, samples.attention, samples.mask.shape[1], experts=True).experts


def noisy(policy: Policy) -> None:
    generator = torch.Generator().manual_seed(1)
    for router in routers(policy.model):
        router.weight.data += 0.05 * torch.randn(router.weight.shape, generator=generator)


def test_sampling_writes_down_what_a_forward_pass_would_use(mixture):
    samples = join([sampled(mixture), sampled(mixture, 1)], 0)
    present = samples.attention.bool().clone()
    present[:, -samples.mask.shape[1] :] &= samples.mask.cumsum(1) < samples.mask.sum(1, keepdim=True)  # fed, not last
    fresh = experts_used(mixture.model, samples)
    assert samples.experts.shape == fresh.shape
    assert torch.equal(samples.experts[present], fresh[present])


def test_replay_with_the_same_weights_changes_nothing(mixture):
    samples = sampled(mixture)
    free, told = (view_all(mixture.model, samples, replay=replay).logp for replay in (False, True))
    assert torch.allclose(free * samples.mask, told * samples.mask, atol=1e-5)
    assert torch.allclose(told * samples.mask, samples.logp, atol=1e-5)


def test_replay_holds_the_experts_where_the_router_moves(mixture):
    samples = sampled(mixture)
    noisy(mixture)
    free = experts_used(mixture.model, samples)
    assert not torch.equal(free, samples.experts)
    with replayed(mixture.model, samples.experts):
        assert torch.equal(experts_used(mixture.model, samples), samples.experts)
    gaps = [
        float(((view_all(mixture.model, samples, replay=replay).logp - samples.logp) * samples.mask).abs().mean())
        for replay in (True, False)
    ]
    assert gaps[0] < gaps[1]


@pytest.mark.parametrize("mixture", ["qwen3_moe"], indirect=True)  # of Mixtral's one expert the weight is 1
def test_gradients_still_reach_the_router(mixture):
    samples = sampled(mixture)
    seen = view(mixture.model, samples.ids, samples.attention, samples.mask.shape[1], experts=samples.experts)
    (seen.logp * samples.mask).sum().backward()
    assert all(router.weight.grad.abs().max() > 0 for router in routers(mixture.model))


def test_no_hook_stays(mixture):
    with replayed(mixture.model, sampled(mixture).experts):
        pass
    assert not any(router._forward_hooks for router in routers(mixture.model))


def test_without_layers_it_is_free(mixture):
    samples = sample(mixture.model, PROMPTS, 2, Decoding(6, frozenset({1}), 0))
    assert samples.experts.shape[2] == 0
    with replayed(mixture.model, samples.experts):
        assert not any(router._forward_hooks for router in routers(mixture.model))


@pytest.fixture
def folder(tmp_path, tokenizer):
    make("mixtral", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def settings(folder, jsonl, **more) -> LanguageConfig:
    given = {
        "method": "minirl", "model": str(folder), "dataset": str(jsonl), "reward": (f"{__name__}:first",),
        "updates": 2, "prompts": 2, "group_size": 4, "max_new_tokens": 5, "learning_rate": 0.05, "eval_problems": 2,
        "quiet": True,
    }  # fmt: skip
    return LanguageConfig(**{**given, **more})


def first(completions, **_):
    return [float("a" in text) for text in completions]


@pytest.mark.parametrize("routing", ["free", "old", "sampler"])
def test_a_run(folder, jsonl, tmp_path, routing):
    out = tmp_path / routing
    train(settings(folder, jsonl, routing=routing, sampler_dtype="bfloat16", minibatches=2, out=out))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3


def test_what_cannot_be_replayed_is_refused(model_folder, folder, jsonl, tmp_path):
    with pytest.raises(TightreinError, match="no mixture of experts"):
        train(settings(model_folder, jsonl, routing="old", out=tmp_path / "a"))
    with pytest.raises(TightreinError, match="nobody sampled"):
        check_sampling(tr.method("sft"), settings(folder, jsonl, routing="old"), Task("words", [], [], None))
