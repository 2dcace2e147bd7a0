"""Lean decoding says what the models' own code says, or leaves it to them."""

import copy

import pytest
import torch
import transformers

from tightrein.engines.language.sampling import decoders, lean
from tightrein.engines.language.sampling.decoders import Own, decoder
from tightrein.engines.language.sampling.lean import Lean
from tightrein.engines.language.sampling.products import LARGE, Product

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 96,
    "initializer_range": 0.2,
}  # fmt: skip
ROPE = {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ROPE}
ARCHITECTURES = {
    "Llama": {},
    "Llama, tied": {"tie_word_embeddings": True},
    "Llama, biased": {"attention_bias": True, "mlp_bias": True},
    "Llama, one key head": {"num_key_value_heads": 1},
    "Llama, as many key heads": {"num_key_value_heads": 4, "hidden_act": "gelu"},
    "Llama, as Llama 3 turns": {"rope_parameters": LLAMA3},
    "Llama, yarn": {"rope_parameters": {"rope_type": "yarn", **ROPE}},
    "Llama, linear": {"rope_parameters": {"rope_type": "linear", **ROPE}},
    "Llama, dynamic": {"rope_parameters": {"rope_type": "dynamic", **ROPE}, "max_position_embeddings": 10},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Mistral": {"sliding_window": None},
    "GPT2": {"n_embd": 32, "n_layer": 3, "n_head": 4},
}


def made(name: str):
    torch.manual_seed(0)
    shape = getattr(transformers, f"{name.split(',')[0]}Config")(**{**SIZES, **ARCHITECTURES[name]})
    model = transformers.AutoModelForCausalLM.from_config(shape).eval()
    with torch.no_grad():  # biases and norms are not at 0 and 1
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def prompts(padded: bool):
    ids = torch.randint(3, 61, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, :4] = 0
        mask[2, :1] = 0
    return ids * mask, mask


@torch.no_grad()
def followed(model, padded: bool, steps: int = 8):
    """Logits of both ways at every step; rows leave on the way."""
    ids, mask = prompts(padded)
    ours, theirs = decoder(model, ids, mask, 2, steps), Own(model, ids, mask, 2, steps)
    assert isinstance(ours, Lean)
    pairs, tokens = [(ours.logits, theirs.logits)], torch.arange(6) + 4
    for step in range(steps):
        if step in (2, 5):
            rows = torch.arange(len(tokens))[1:]
            ours.keep(rows)
            theirs.keep(rows)
            tokens = tokens[1:]
        pairs.append((ours.step(tokens), theirs.step(tokens)))
        tokens = pairs[-1][1].argmax(-1)
    return pairs


# From how many tokens on attention is two products, and the prompt of a group is held once.
@pytest.mark.parametrize(("long", "shared"), [(1, 1000), (1000, 1000), (1, 1)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_lean_decoding_says_what_the_model_says(name, padded, long, shared, monkeypatch):
    monkeypatch.setattr(lean, "LONG", long)
    monkeypatch.setattr(lean, "SHARED", shared)
    monkeypatch.setattr(lean, "ROOM", 2)  # the cache has to grow
    for ours, theirs in followed(made(name), padded):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-5)


def test_it_follows_the_weights():
    model = made("Llama")
    before = followed(model, True)
    for parameter in model.parameters():
        parameter.data.mul_(1.2)
    after = followed(model, True)
    assert not torch.allclose(before[0][0], after[0][0], atol=0.1)
    for ours, theirs in after:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_below_float32():
    for ours, theirs in followed(made("Llama").to(torch.bfloat16), True, 2):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.15)


@pytest.mark.parametrize("calls", [0, 1000])  # with many to come, the weights are put in another order
@pytest.mark.parametrize("bias", [None, torch.randn(257)])
def test_products_with_large_weights(calls, bias):
    whole = torch.randn(257, LARGE // 256)
    for weight in (whole, whole.T.contiguous().T):
        product = Product(weight, bias, calls)
        for count in (1, 5, 40):
            x = torch.randn(count, LARGE // 256)
            torch.testing.assert_close(product(x), torch.nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-4)


def own(model) -> bool:
    with torch.no_grad():
        return isinstance(decoder(model, *prompts(False), 1, 4), Own)


def test_what_is_put_into_a_model_is_used():
    peft = pytest.importorskip("peft")
    shape = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = made("Llama")
    assert not own(model)
    assert own(peft.get_peft_model(model, shape))
    assert own(model), "its layers are now those of another library"


@pytest.mark.parametrize("change", ["hook", "module", "forward"])
def test_what_is_hung_on_a_model_is_used(change):
    model = made("Llama")
    assert not own(model)
    layer = model.model.layers[1]
    if change == "hook":
        layer.register_forward_hook(lambda module, inputs, output: output * 2)
    elif change == "module":
        layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.PReLU())
    else:
        layer.mlp.forward = lambda x: x
    assert own(model)


def test_models_that_nobody_described_use_their_own_code():
    torch.manual_seed(0)
    shape = transformers.MixtralConfig(num_local_experts=2, num_experts_per_tok=1, **SIZES)
    assert own(transformers.MixtralForCausalLM(shape).eval())


def test_a_window_that_is_too_short_is_left_to_the_model():
    shape = transformers.MistralConfig(sliding_window=10, **SIZES)
    model = transformers.MistralForCausalLM(shape).eval()
    with torch.no_grad():
        assert isinstance(decoder(model, *prompts(True), 1, 3), Lean)
        assert isinstance(decoder(model, *prompts(True), 1, 4), Own)


def test_a_model_that_is_not_what_its_name_says_is_found_out():
    kind = transformers.LlamaForCausalLM

    class LlamaForCausalLM(kind):
        __module__ = kind.__module__

        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = output.logits * 3
            return output

    odd = copy.deepcopy(made("Llama"))
    odd.__class__ = LlamaForCausalLM
    assert own(odd)


def test_a_model_is_tried_once(monkeypatch):
    model, tries = made("Llama"), []
    monkeypatch.setattr(decoders, "Own", lambda *given: tries.append(1) or Own(*given))
    for _ in range(3):
        assert not own(model)
    assert len(tries) == 1
