from __future__ import annotations

import dataclasses

import pytest
import torch

from tightrein.engines.language.passes.views import view
from tightrein.engines.language.sampling import decoders
from tightrein.engines.language.sampling.decoding import pick
from tightrein.engines.language.sampling.sampler import Decoding, join, pad_left, positions_of, sample
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Dialogue, Form, Reply
from tightrein.errors import TightreinError

EVEN = [[5, 6, 7, 3], [4, 5, 4, 3]]  # no padding: the model gets no mask
PROMPTS = [[5, 6, 7, 3], [4, 3], [7, 6, 5, 4, 6, 5, 3]]
DECODING = Decoding(max_new_tokens=12, eos_ids=frozenset({1}), pad_id=0)


@pytest.mark.parametrize("prompts", [PROMPTS, EVEN])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_logp_is_that_of_a_fresh_forward_pass(policy, temperature, prompts):
    decoding = dataclasses.replace(DECODING, temperature=temperature)
    s = sample(policy.model, prompts, 8, decoding, torch.Generator().manual_seed(0))
    assert s.ids.shape == (8 * len(prompts), max(map(len, prompts)) + s.mask.shape[1])
    assert len(set(s.mask.sum(1).tolist())) > 1, "answers of several lengths"
    with torch.no_grad():
        seen = view(policy.model, s.ids, s.attention, s.mask.shape[1], temperature)
        logp, entropy = seen.logp, seen.entropy
    torch.testing.assert_close(logp * s.mask, s.logp, atol=1e-4, rtol=0)
    assert (entropy[s.mask > 0] > 0).all()


def test_answers_end_with_their_end_token_and_the_rest_is_padding(policy):
    s = sample(policy.model, PROMPTS, 8, DECODING, torch.Generator().manual_seed(0))
    for row, mask, ended in zip(s.completions.tolist(), s.mask.tolist(), s.ended.tolist(), strict=True):
        length = int(sum(mask))
        assert mask == [1.0] * length + [0.0] * (len(mask) - length)
        assert row[length:] == [0] * (len(row) - length)
        assert (row[length - 1] == 1) == ended
        assert 1 not in row[: length - 1]
        assert ended or length == 12


def test_greedy_answers_are_those_of_generate(policy):
    greedy = dataclasses.replace(DECODING, temperature=0.0)
    s = sample(policy.model, PROMPTS, 1, greedy)
    ids, mask = pad_left(PROMPTS, 0)
    theirs = policy.model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=0
    )[:, ids.shape[1] :]
    width = theirs.shape[1]
    assert s.completions[:, :width].tolist() == theirs.tolist()


def test_an_answer_does_not_depend_on_the_padding_beside_it(policy):
    greedy = dataclasses.replace(DECODING, temperature=0.0)
    together = sample(policy.model, PROMPTS, 1, greedy)
    for i, prompt in enumerate(PROMPTS):
        alone = sample(policy.model, [prompt], 1, greedy)
        length = int(alone.mask.sum())
        assert together.completions[i, :length].tolist() == alone.completions[0, :length].tolist()
        torch.testing.assert_close(together.logp[i, :length], alone.logp[0, :length], atol=2e-5, rtol=0)


def test_logprobs_do_not_depend_on_padding_on_either_side(policy):
    ids, mask = pad_left(PROMPTS, 0)
    seen = view(policy.model, ids, mask, 1)
    logp, entropy = seen.logp, seen.entropy
    wide, wide_mask = pad_left([*PROMPTS, [4] * 11], 0)
    seen = view(policy.model, wide, wide_mask, 1)
    wider, wider_entropy = seen.logp, seen.entropy
    torch.testing.assert_close(logp, wider[:3], atol=2e-5, rtol=0)
    torch.testing.assert_close(entropy, wider_entropy[:3], atol=2e-5, rtol=0)
    after = torch.nn.functional.pad(ids, (0, 2)), torch.nn.functional.pad(mask, (0, 2))
    torch.testing.assert_close(logp, view(policy.model, *after, 3).logp[:, :1], atol=2e-5, rtol=0)


def test_the_mode_of_the_model_is_put_back(policy):
    policy.model.train()
    sample(policy.model, PROMPTS, 2, DECODING)
    assert policy.model.training


def test_the_same_seed_gives_the_same_answers(policy):
    a, b = (sample(policy.model, PROMPTS, 4, DECODING, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a.completions, b.completions)
    assert torch.equal(a.logp, b.logp)


def test_sampling_follows_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(20_000, 1)
    numbers = torch.rand(len(logits), generator=torch.Generator().manual_seed(0))
    tokens, logp = pick(logits, dataclasses.replace(DECODING, temperature=0.5), numbers)
    wanted = torch.softmax(logits[0] / 0.5, 0)
    torch.testing.assert_close(torch.bincount(tokens, minlength=3) / 20_000, wanted, atol=0.01, rtol=0)
    torch.testing.assert_close(logp, wanted.log()[tokens])


def test_joined_samples_keep_their_logp(policy):
    a = sample(policy.model, PROMPTS[:1], 3, DECODING, torch.Generator().manual_seed(0))
    b = sample(
        policy.model, PROMPTS[1:], 3, dataclasses.replace(DECODING, max_new_tokens=5), torch.Generator().manual_seed(0)
    )
    both = join([a, b], 0)
    with torch.no_grad():
        logp = view(policy.model, both.ids, both.attention, both.mask.shape[1]).logp
    torch.testing.assert_close(logp * both.mask, both.logp, atol=2e-5, rtol=0)


def test_positions_start_with_the_first_token():
    assert positions_of(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]


LONG = dataclasses.replace(DECODING, max_new_tokens=40, temperature=1.5)  # some answers end long before others


def said(samples) -> list[list[int]]:
    lengths = samples.mask.sum(1).long().tolist()
    return [row[:n] for row, n in zip(samples.completions.tolist(), lengths, strict=True)]


def test_an_answer_depends_on_its_seed_and_on_no_other_row(policy):
    seeds = torch.arange(9) * 1234567
    together = sample(policy.model, PROMPTS, 3, LONG, seeds=seeds)
    answers = said(together)
    assert len({len(a) for a in answers}) > 3, "rows leave the batch at different times"
    for row, seed in enumerate(seeds):
        alone = sample(policy.model, [PROMPTS[row // 3]], 1, LONG, seeds=seed[None])
        assert said(alone) == [answers[row]]
        torch.testing.assert_close(alone.logp[0], together.logp[row, : alone.logp.shape[1]], atol=2e-5, rtol=0)
    backwards = sample(policy.model, [PROMPTS[2], EVEN[0], PROMPTS[0]], 3, LONG, seeds=seeds.flip(0))
    assert said(backwards)[:3] == answers[6:][::-1]
    assert said(backwards)[6:] == answers[:3][::-1]


def test_the_generator_draws_seeds_and_nothing_else(policy):
    generator = torch.Generator().manual_seed(4)
    drawn = sample(policy.model, PROMPTS, 2, LONG, generator)
    after = torch.Generator().manual_seed(4)
    seeds = torch.randint(0, 2**63 - 1, (6,), generator=after)
    assert torch.equal(drawn.completions, sample(policy.model, PROMPTS, 2, LONG, seeds=seeds).completions)
    assert torch.equal(generator.get_state(), after.get_state())


def test_the_lean_way_and_the_models_own_code_sample_the_same(policy, monkeypatch):
    seeds = torch.arange(12)
    lean = sample(policy.model, PROMPTS, 4, LONG, seeds=seeds)
    monkeypatch.setattr(decoders, "_fits", lambda *_: False)
    own = sample(policy.model, PROMPTS, 4, LONG, seeds=seeds)
    assert torch.equal(lean.completions, own.completions)
    assert torch.equal(lean.ended, own.ended)
    torch.testing.assert_close(lean.logp, own.logp, atol=1e-4, rtol=0)


STOPS = ("ab", "dc", "cca")  # one token for each character


@pytest.mark.parametrize("prompts", [PROMPTS, EVEN])
def test_answers_end_where_they_first_contain_a_stop_string(policy, prompts):
    seeds = torch.arange(20 * len(prompts))
    free = sample(policy.model, prompts, 20, LONG, seeds=seeds)
    stopping = dataclasses.replace(LONG, stop=STOPS)
    short = sample(policy.model, prompts, 20, stopping, seeds=seeds, tokenizer=policy.tokenizer)
    wanted, ended = [], []
    for row, whole in zip(said(free), free.ended.tolist(), strict=True):
        lengths = range(1, len(row) + 1)
        texts = [policy.tokenizer.decode(row[:n], skip_special_tokens=True) for n in lengths]
        stopped = [n for n, text in zip(lengths, texts, strict=True) if any(stop in text for stop in STOPS)]
        wanted.append(row[: stopped[0]] if stopped else row)
        ended.append(bool(stopped) or whole)
    assert said(short) == wanted
    assert short.ended.tolist() == ended
    assert said(short) != said(free)


def test_stop_strings_need_somebody_who_reads(policy):
    with pytest.raises(TightreinError, match="tokenizer"):
        sample(policy.model, PROMPTS, 1, dataclasses.replace(DECODING, stop=("a",)))


def test_what_a_partner_says_does_not_stop_the_answer(policy):
    """Every call is answered with what could end the stop string; only the model itself ends the answer with it."""
    decoding = dataclasses.replace(LONG, temperature=4.0, stop=("cd",))
    problems = [Problem("abcd", None, {})] * 120
    dialogue = Dialogue(lambda some, calls: [Reply("d")] * len(some), ("say",), Form("...b", "c..."), 20)
    s = sample(
        policy.model, policy.encode(problems[:1]), 120, decoding, torch.Generator().manual_seed(0),
        dialogue.open(policy.tokenizer, problems), tokenizer=policy.tokenizer,
    )  # fmt: skip
    heard = stopped = 0
    for tokens, mask, present, ended in zip(s.completions, s.mask, s.present, s.ended.tolist(), strict=True):
        length = int(present.sum())
        each = zip(tokens[:length].tolist(), mask.tolist(), strict=False)
        own = [policy.tokenizer.decode([i], skip_special_tokens=True) if m else "|" for i, m in each]
        text = "".join(own)
        heard += "|" in text
        stopped += text.endswith("cd")
        assert "cd" not in text[:-1]
        assert ended == (text.endswith("cd") or (bool(mask[length - 1]) and int(tokens[length - 1]) == 1))
    assert heard > 3
    assert stopped > 3
