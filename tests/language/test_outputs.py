"""Log-probabilities from the states of real architectures are those of their own logits."""

import copy

import pytest
import torch
from tiny import tiny

from tightrein.engines.language.passes.forward import run
from tightrein.engines.language.passes.layout import rectangular
from tightrein.engines.language.passes.outputs import Lean, Stored, layer_of
from tightrein.engines.language.passes.views import Keeping, view

ARCHITECTURES = {
    "Llama": {},
    "Llama, tied": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "tie_word_embeddings": True},
    "Cohere": {"logit_scale": 0.25},
    "Granite": {"logits_scaling": 4.0},
    "Phi": {},  # its output layer has a bias
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
}


def made(name: str):
    model = tiny(name.split(",")[0], **ARCHITECTURES[name])
    with torch.no_grad():  # far from uniform, so that scales and caps show
        for parameter in model.get_output_embeddings().parameters():
            parameter.normal_(std=2.0)
    return model


def rows():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 61, (3, 9), generator=generator)
    attention = torch.tensor([[1] * 9, [0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 0, 0]])
    return ids, attention, 4


def plain(model, ids, attention, span, temperature):
    places = (attention.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=attention, position_ids=places).logits[:, -span - 1 : -1]
    return torch.log_softmax(logits.float() / temperature, -1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_a_model_says_is_read_without_its_logits(name):
    model, (ids, attention, span) = made(name), rows()
    assert layer_of(model) is not None
    there = attention[:, -span:].bool()
    seen = view(model, ids, attention, span, 0.7, entropy_gradient=True, kept=Keeping(4, 2.0), temperatures=(2.0,))
    everything = plain(model, ids, attention, span, 0.7)
    logp = everything.gather(2, ids[:, -span:, None])[..., 0]
    entropy = -(everything.exp() * everything).sum(-1)
    torch.testing.assert_close(seen.logp[there], logp[there], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(seen.entropy[there], entropy[there], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(
        seen.tempered[there][:, 0],
        torch.log_softmax(everything / 2, -1).gather(2, ids[:, -span:, None])[..., 0][there],
        rtol=1e-5,
        atol=2e-5,
    )
    kept = everything.gather(2, seen.kept.index)
    torch.testing.assert_close(seen.dist.logits[there], kept[there], rtol=1e-5, atol=2e-5)
    ours = torch.autograd.grad((seen.logp - 0.1 * seen.entropy)[there].sum(), [*model.parameters()], allow_unused=True)
    theirs = torch.autograd.grad((logp - 0.1 * entropy)[there].sum(), [*model.parameters()], allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_nothing_behind_the_end_of_an_answer_is_computed():
    model, (ids, attention, span) = made("Llama"), rows()
    seen = view(model, ids, attention, span)
    assert (seen.logp[2, -2:] == 0).all()
    assert (seen.entropy[2, -2:] == 0).all()
    assert (seen.logp[attention[:, -span:].bool()] < 0).all()


def test_a_model_with_logits_of_its_own_keeps_them():
    """Some way of making logits that nobody told us of: it is found out, and the model's own are taken."""
    model, (ids, attention, span) = made("Llama"), rows()
    kind = type(model)

    class Odd(kind):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = output.logits * 3
            return output

    odd = copy.deepcopy(model)
    odd.__class__ = Odd
    assert layer_of(odd) is None
    assert isinstance(run(odd, rectangular(attention, span), ids).outputs, Stored)
    there = attention[:, -span:].bool()
    wanted = plain(odd, ids, attention, span, 1.0).gather(2, ids[:, -span:, None])[..., 0]
    torch.testing.assert_close(view(odd, ids, attention, span).logp[there], wanted[there], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_both_ways_of_reading_agree(temperature):
    layer = layer_of(made("Gemma2"))
    states = 0.1 * torch.randn(7, 16)
    lean, stored = Lean(states, layer), Stored(layer.logits(states))
    index = torch.randint(61, (7, 2))
    for ours, theirs in zip(
        lean.read(index, (1 / temperature, 0.3)), stored.read(index, (1 / temperature, 0.3)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(lean.likeliest(5)[1], stored.likeliest(5)[1])


def test_a_model_is_tried_once():
    model, tries = made("Llama"), []
    model.register_forward_pre_hook(lambda *_: tries.append(1))
    for _ in range(3):
        assert layer_of(model) is not None
    assert len(tries) == 1
