"""Random numbers of an answer's own, and tokens drawn with them."""

import dataclasses
import math

import pytest
import torch

from tightrein.engines.language.sampling.decoding import Decoding, cut, draw_seeds, pick, uniforms

DECODING = Decoding(max_new_tokens=12, eos_ids=frozenset({1}), pad_id=0)
MASK = 2**64 - 1


def plain_mixed(x: int) -> int:
    """Splitmix64, in whole numbers of any size."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def plain_uniform(seed: int, t: int) -> float:
    bits = plain_mixed((plain_mixed(seed) + (t + 1) * 0x9E3779B97F4A7C15) & MASK)
    return ((bits >> 12) + 0.5) / 2**52


def chi_square(counts) -> float:
    """In standard deviations from what is expected of equally likely bins."""
    expected = counts.double().mean()
    degrees = counts.numel() - 1
    return float(((counts - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees)


def test_numbers_are_those_of_splitmix64():
    seeds = [0, 1, 2, 12345678901234567, 2**62, 2**63 - 1]
    ours = uniforms(torch.tensor(seeds), 3, 4)
    assert ours.tolist() == [[plain_uniform(seed, t) for seed in seeds] for t in range(3, 7)]


@pytest.mark.parametrize("seeds", [torch.arange(20_000), draw_seeds(20_000, torch.Generator().manual_seed(0))])
def test_numbers_are_uniform_and_say_nothing_of_each_other(seeds):
    u = uniforms(seeds, 0, 50)
    assert u.min() > 0
    assert u.max() < 1
    bins = (u * 20).long()
    assert abs(chi_square(bins.flatten().bincount(minlength=20))) < 4
    for first, second in ((bins[1:], bins[:-1]), (bins[:, 1:], bins[:, :-1])):  # the next token, the next row
        assert abs(chi_square((20 * first + second).flatten().bincount(minlength=400))) < 4


def test_a_number_depends_on_the_seed_and_the_place_only():
    seeds = draw_seeds(30, torch.Generator().manual_seed(0))
    whole = uniforms(seeds, 0, 40)
    order = torch.randperm(30)[:7]
    assert torch.equal(uniforms(seeds[order], 12, 20), whole[12:32, order])


def test_tokens_follow_the_tempered_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]])
    u = uniforms(torch.arange(2000), 0, 100).flatten()
    tokens, logp = pick(logits.expand(len(u), -1), dataclasses.replace(DECODING, temperature=0.5), u)
    wanted = torch.softmax(logits[0] / 0.5, 0)
    counts = torch.bincount(tokens, minlength=5)
    deviation = ((counts - wanted * len(u)) ** 2 / (wanted * len(u))).sum()
    assert deviation < 4 + 4 * math.sqrt(8)
    torch.testing.assert_close(logp, wanted.log()[tokens])


def test_log_probabilities_are_those_before_anything_is_cut():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(1000, 1)
    decoding = dataclasses.replace(DECODING, temperature=2.0, top_k=2)
    tokens, logp = pick(logits, decoding, uniforms(torch.arange(1000), 0, 1)[0])
    assert set(tokens.tolist()) == {1, 2}
    torch.testing.assert_close(logp, torch.log_softmax(logits / 2, -1).gather(1, tokens[:, None])[:, 0])
    share = float((tokens == 2).float().mean())
    assert share == pytest.approx(1 / (1 + math.exp(-0.5)), abs=0.06)


def test_no_token_of_probability_0_is_drawn_at_either_end():
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]] * 3)
    ends = torch.tensor([2.0**-53, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    tokens, logp = pick(logits, DECODING, ends)
    assert tokens.tolist() == [1, 2, 2]
    assert logp.isfinite().all()


def test_temperature_0_takes_the_likeliest():
    logits = torch.randn(5, 9)
    tokens, logp = pick(logits, DECODING.greedy, torch.rand(5, dtype=torch.float64))
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logp, torch.log_softmax(logits, -1).amax(-1))


def by_hand(p, decoding) -> list[bool]:
    """Which tokens stay, one after another from the likeliest down."""
    order = sorted(range(len(p)), key=lambda i: -p[i])[: decoding.top_k or None]
    total, reached, stay = sum(p[i] for i in order), 0.0, set()
    for i in order:
        if reached < decoding.top_p * total and p[i] >= decoding.min_p * max(p):
            stay.add(i)
        reached += p[i]
    return [i in stay for i in range(len(p))]


@pytest.mark.parametrize(
    "rules",
    [
        {}, {"top_k": 3}, {"top_k": 500}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 4, "top_p": 0.7},
        {"top_p": 0.9, "min_p": 0.1}, {"top_k": 5, "top_p": 0.95, "min_p": 0.05}, {"top_p": 1e-9},
    ],
)  # fmt: skip
def test_what_is_cut(rules):
    decoding = dataclasses.replace(DECODING, **rules)
    p = torch.softmax(2 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64), -1)
    ours = cut(p, decoding)
    assert ours.ne(0).tolist() == [by_hand(row, decoding) for row in p.tolist()]
    assert torch.equal(ours[ours > 0], p[ours > 0])


@pytest.mark.parametrize("width", [0.01, 3.0])
def test_a_wide_nucleus_is_found_in_a_large_vocabulary(width):
    """Flat and steep distributions: more tokens are ranked where the first few hundred do not suffice."""
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(width * torch.randn(2, 6000, generator=generator, dtype=torch.float64), -1)
    decoding = dataclasses.replace(DECODING, top_p=0.97)
    assert cut(p, decoding).ne(0).tolist() == [by_hand(row, decoding) for row in p.tolist()]


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    p = torch.tensor([[0.5, 0.1, 0.3, 0.1]])
    for top_p, kept in ((0.7, [0, 2]), (0.5, [0]), (1e-9, [0])):
        found = cut(p, dataclasses.replace(DECODING, top_p=top_p))
        assert found.nonzero()[:, 1].tolist() == kept
    assert cut(p, DECODING) is p
