"""Log-probabilities without logits: equal to the plain way in values and gradients, and without its memory."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tightrein.engines.language.passes import vocabulary
from tightrein.engines.language.passes.vocabulary import OutputLayer, Plain, Read, likeliest, read

N, H, V = 5, 4, 37
FORMS = {
    "plain": {},
    "scaled": {"scale": 0.25},
    "capped": {"softcap": 1.5},
    "scaled and capped": {"scale": 3.0, "softcap": 2.0},
}


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    monkeypatch.setattr(vocabulary, "NARROW", 8)
    monkeypatch.setattr(Plain, "block", 8 * N)


def made(form="plain", *, bias=True, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    layer = OutputLayer(draw(V, H), draw(V) if bias else None, **FORMS[form])
    return draw(N, H), layer, torch.randint(V, (N, 3), generator=generator)


def plain(states, layer, index, sharpness=(1.0,)):
    logits = layer.logits(states)
    logp = torch.log_softmax(logits * sharpness[0], -1)
    normaliser = torch.stack([(logits * beta).logsumexp(-1) for beta in sharpness], -1)
    return Read(sharpness[0] * logits.gather(-1, index), normaliser, -(logp.exp() * logp).sum(-1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sharpness", [(1.0,), (0.5, 1.0, 2.0)])
def test_values_and_gradients_are_those_of_the_plain_way(form, bias, sharpness):
    states, layer, index = made(form, bias=bias)
    leaves = [states, layer.weight, *([layer.bias] if bias else [])]
    found, wanted = read(states, layer, index, sharpness), plain(states, layer, index, sharpness)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = [torch.randn(x.shape, dtype=x.dtype) for x in wanted]
    ours, theirs = (
        torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, outputs, strict=True)), leaves)
        for outputs in (found, wanted)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form):
    states, layer, index = made(form)

    def outputs(states, weight, bias):
        return tuple(read(states, OutputLayer(weight, bias, **FORMS[form]), index, (1.0, 0.5)))

    assert torch.autograd.gradcheck(outputs, (states, layer.weight, layer.bias))


def test_a_token_asked_for_twice_has_the_gradient_twice():
    states, layer, index = made()
    index[:, 1] = index[:, 0]
    twice = torch.autograd.grad(read(states, layer, index).picked.sum(), states)[0]
    theirs = torch.autograd.grad(plain(states, layer, index).picked.sum(), states)[0]
    torch.testing.assert_close(twice, theirs)


def test_frozen_parts_cost_no_gradient():
    states, layer, index = made()
    frozen = OutputLayer(layer.weight.detach(), layer.bias.detach())
    read(states, frozen, index).normaliser.sum().backward()
    assert states.grad is not None
    assert frozen.weight.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    states, layer, index = made(dtype=dtype)
    found, wanted = read(states, layer, index), plain(states, layer, index)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    found.normaliser.sum().backward()
    ours, states.grad = states.grad, None
    wanted.normaliser.sum().backward()
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, states.grad, rtol=1e-2, atol=1e-2)


@given(scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3, 1e6]), seed=st.integers(0, 5))
def test_no_size_of_logits_breaks_it(scale, seed):
    states, layer, index = made(dtype=torch.float32, seed=seed)
    layer = OutputLayer((layer.weight * scale).detach(), (layer.bias * scale).detach())
    found = read(states, layer, index)
    found.normaliser.sum().add(found.entropy.sum()).backward()
    for x in (*found, states.grad):
        assert torch.isfinite(x).all()
    assert (found.entropy > -1e-5).all()
    if scale == 0:
        torch.testing.assert_close(found.entropy, torch.full((N,), math.log(V)))


@pytest.mark.parametrize("count", [1, 5, 20, V, V + 10])
def test_the_likeliest_are_those_of_all(count):
    states, layer, _ = made("capped")
    logits, ids = likeliest(states, layer, count)
    wanted = layer.logits(states).topk(min(count, V), -1)
    torch.testing.assert_close(logits, wanted.values)
    assert torch.equal(ids, wanted.indices)


def test_nothing_that_it_keeps_for_the_backward_pass_grows_with_tokens_times_vocabulary():
    states, layer, index = made()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        read(states, layer, index)
    assert kept
    assert max(kept) == V * H


def test_no_states_at_all_are_nothing():
    states, layer, index = made()
    found = read(states[:0], layer, index[:0])
    assert found.picked.shape == (0, 3)
    found.normaliser.sum().backward()
    assert (layer.weight.grad == 0).all()
