"""Packed answers are what they are in rows of their own: states, gradients and whatever is read from them."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny

from tightrein.engines.language.passes import forward as passes
from tightrein.engines.language.passes.forward import lay_out, packs, run
from tightrein.engines.language.passes.layout import Trees, packed, rectangular
from tightrein.engines.language.passes.pieces import Costs
from tightrein.engines.language.passes.views import view

ARCHITECTURES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8},
    "Mistral": {"sliding_window": 64},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "GPTNeoX": {},
}
P, T = 6, 5


def made(name: str, attention: str = "sdpa", **changes):
    model = tiny(name, **{**ARCHITECTURES[name], **changes}, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch(prompts=(0, 0, 1, 0, 2, 1), lengths=(5, 2, 1, 4, 3, 5), seed=0):
    """ids, attention [B, P + T]: answers of these lengths to these prompts, each prompt shorter than the one before."""
    generator = torch.Generator().manual_seed(seed)
    asked = torch.randint(3, 61, (max(prompts) + 1, P), generator=generator)
    ids = torch.cat([asked[list(prompts)], torch.randint(3, 61, (len(prompts), T), generator=generator)], 1)
    attention = torch.zeros_like(ids)
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        attention[row, min(prompt, P - 1) : P + length] = 1
    return ids.masked_fill(attention == 0, 0), attention


@pytest.mark.parametrize(
    ("name", "attention"),
    [*((name, "sdpa") for name in ARCHITECTURES if name != "Gemma2"), *((n, "eager") for n in ("Llama", "Gemma2"))],
)
def test_states_and_gradients_are_those_of_rows_alone(name, attention):
    model, (ids, there) = made(name, attention), batch()
    assert packs(model, ids.shape[1])
    trees = Trees.of(ids, there, T, tails=True)
    alone = run(model, rectangular(there, T), ids)
    together = run(model, packed(there, T, trees), ids)
    torch.testing.assert_close(together.before, alone.before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.behind, alone.behind, rtol=1e-4, atol=1e-4)
    weight = torch.randn(alone.before.shape, generator=torch.Generator().manual_seed(1))
    leaves = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (
        torch.autograd.grad((weight * x.before).sum(), leaves, allow_unused=True) for x in (together, alone)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max() + 1))


def test_a_shared_prompt_is_run_once_and_nothing_that_is_not_read():
    ids, there = batch((0,) * 4, (5, 3, 1, 2))
    layout = packed(there, T, Trees.of(ids, there, T))
    assert layout.source.shape == (1, P + 4 + 2 + 0 + 1)
    assert layout.behind is None
    assert layout.position[0].tolist() == [*range(P), 6, 7, 8, 9, 6, 7, 6]
    first = layout.before[[0, 5, 8, 9]]
    assert set(first.tolist()) == {P - 1}, "the first token of each answer is said by the end of the prompt"


def test_short_trees_stand_beside_each_other():
    prompts = (0, 0, 0, 1, 2, 3)
    ids, there = batch(prompts, (5, 5, 5, 1, 1, 1))
    layout = packed(there, T, Trees.of(ids, there, T))
    assert layout.source.shape[0] == 2


def test_nobody_sees_a_stranger():
    ids, there = batch()
    layout = packed(there, T, Trees.of(ids, there, T, tails=True))
    model = made("Llama")
    before = run(model, layout, ids).before.detach()
    row = 3  # what another answer says must not matter, nor what another prompt is
    other = ids.clone()
    others = [r for r in range(len(ids)) if r != row]
    other[others, P:] = (other[others, P:] + 7) % 61 * there[others, P:]
    found = run(model, packed(there, T, Trees.of(other, there, T, tails=True)), other).before.detach()
    mine = there[:, P:].bool().nonzero()[:, 0] == row
    torch.testing.assert_close(found[mine], before[mine], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[~mine], before[~mine])


def test_it_is_packed_only_where_that_saves_and_only_for_whom_it_is_right():
    model = made("Llama")
    shared, there = batch()
    assert lay_out(model, shared, there, T).attention.ndim == 4
    ids, full = batch(tuple(range(3)), (5,) * 3)
    assert lay_out(model, ids, full, T).attention.ndim == 2
    narrow = made("Mistral", sliding_window=4)
    assert lay_out(narrow, shared, there, T).attention.ndim == 2


def test_a_model_that_does_not_heed_the_mask_is_found_out():
    model = made("Llama")

    class Heedless(type(model)):
        def forward(self, attention_mask=None, **inputs):
            pairs = attention_mask is not None and attention_mask.ndim == 4
            return super().forward(attention_mask=None if pairs else attention_mask, **inputs)

    model.__class__ = Heedless
    assert not packs(model, 11)
    assert passes.trees_of(model, *batch(), T) is None


def test_views_do_not_depend_on_the_layout(monkeypatch):
    model, (ids, there) = made("Qwen3"), batch()
    options = {"entropy_gradient": True, "hidden": True, "embedding": True, "head": lambda x: x.sum(-1)}
    ours = view(model, ids, there, T, **options)
    monkeypatch.setattr(passes, "GAIN", 0.0)
    theirs = view(model, ids, there, T, **options)
    for name in ("logp", "entropy", "value", "hidden", "embedding"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-4)


@given(
    prompts=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    most=st.integers(1, 40),
    shared=st.booleans(),
    processes=st.integers(1, 3),
    data=st.data(),
)
def test_pieces_hold_every_row_once_and_no_more_than_they_may(prompts, most, shared, processes, data):
    lengths = data.draw(st.lists(st.integers(0, T), min_size=len(prompts), max_size=len(prompts)))
    ids, there = batch(tuple(prompts), tuple(lengths))
    trees = Trees.of(ids, there, T) if shared else None
    costs = Costs.of(there, T, trees)
    found = [rows for share in costs.shares(processes) for rows in costs.cut(share, most)]
    assert sorted(itertools.chain(*found)) == list(range(len(prompts)))
    for rows in map(torch.tensor, found):
        own = Trees.of(ids[rows], there[rows], T) if shared else None
        cost = rows.numel() * (P + T) if own is None else int(own.run.sum())
        assert cost <= most or len(rows) == 1


@given(prompts=st.lists(st.integers(0, 3), min_size=1, max_size=9), tails=st.booleans(), data=st.data())
def test_every_decision_finds_what_stands_before_it(prompts, tails, data):
    lengths = data.draw(st.lists(st.integers(0, T), min_size=len(prompts), max_size=len(prompts)))
    ids, there = batch(tuple(prompts), tuple(lengths))
    if not there[:, P:].any():
        return
    layout = packed(there, T, Trees.of(ids, there, T, tails=tails))
    told, places = layout.taken(ids).flatten(), layout.position.flatten()
    row, column = there[:, P:].bool().nonzero(as_tuple=True)
    assert torch.equal(told[layout.before], ids[row, P + column - 1])
    assert torch.equal(places[layout.before], there.cumsum(1)[row, P + column - 1] - 1)
    if tails:
        assert torch.equal(told[layout.behind], ids[row, P + column])
