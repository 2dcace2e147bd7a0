from __future__ import annotations

import json

import pytest
import torch

from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.experience.prefixes import Resets, steps
from tightrein.engines.language.rewards.answers import Answers, ask
from tightrein.engines.language.sampling.sampler import Decoding, Samples
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.steps import steps_of
from tightrein.engines.language.train import train
from tightrein.errors import TightreinError

PROBLEMS = [Problem(text, None, {}) for text in ("abcd", "dab", "a")]


@pytest.mark.parametrize(
    ("rule", "pieces", "index"),
    [
        ("newline", ["a", "b", "\n", "c", ""], [0, 0, 0, 1, 1]),
        ("newline", ["a\n", "\n", "b\nc", "d", "\n", ""], [0, 0, 1, 2, 2, 2]),
        ("newline", ["\n"], [0]),
        ("sentence", ["One", ".", " Two", "!", " ", "Three", ""], [0, 0, 1, 1, 2, 2, 2]),
        ("sentence", ["One. ", "Two"], [0, 1]),
        ("sentence", ["1.5", " x"], [0, 0]),
        ("2", ["a", "b", "c", "d", "e"], [0, 0, 1, 1, 2]),
    ],
)
def test_a_token_belongs_to_the_step_its_first_character_is_in(rule, pieces, index):
    assert steps_of(pieces, rule) == index


def test_a_rule_that_is_none():
    for rule in ("paragraph", "0", ""):
        with pytest.raises(TightreinError, match="--steps newline, sentence"):
            LanguageConfig(steps=rule)


def test_steps_of_a_batch_never_fall_and_end_with_the_last(policy):
    s = sampled(policy).samples
    index = steps(policy.tokenizer, s, "3")
    assert (index.diff(dim=1) >= 0).all()
    lengths = s.mask.sum(1).long()
    assert index.amax(1).tolist() == ((lengths - 1) // 3).tolist()


def sampled(policy, longest: int = 9) -> Answers:
    decoding = Decoding(longest, frozenset({1}), 0, temperature=3.0)
    return ask(policy, PROBLEMS, 6, decoding, torch.Generator().manual_seed(0))


def test_the_value_of_a_step_is_the_mean_reward_of_continuations_from_its_beginning(policy):
    """Many continuations against the same by hand, one prefix at a time."""
    answers = sampled(policy)
    decoding = Decoding(9, frozenset({1}), 0, temperature=3.0)

    def reward(problems, texts):
        return [text.count("a") / 4 for text in texts]

    step = steps(policy.tokenizer, answers.samples, "2")
    values, made = Resets(policy, reward, decoding, 200).values(answers, step, torch.Generator().manual_seed(1))
    s = answers.samples
    distinct = set()
    for row in range(s.mask.shape[0]):
        length = int(s.mask[row].sum())
        distinct |= {(row // 6, *s.completions[row, :at].tolist()) for at in range(0, length, 2)}
        for at in range(0, length, 2):
            block = values[row, at : min(at + 2, length)]
            assert (block == block[0]).all(), "one value for a step"
    assert made == 200 * len(distinct), "equal beginnings are continued once"
    assert (values[s.mask == 0] == 0).all()
    row = int(s.mask.sum(1).argmax())
    prompt = policy.encode([PROBLEMS[row // 6]])[0]
    begun = s.completions[row, :2].tolist()
    by_hand = []
    for seed in range(400):
        text = _continuation(policy, prompt, begun, decoding, seed)
        by_hand.append(0.0 if text is None else text.count("a") / 4)
    deviation = (torch.tensor(by_hand).var() / 400 + torch.tensor(by_hand).var() / 200).sqrt()
    assert abs(float(values[row, 2]) - sum(by_hand) / 400) < 4 * float(deviation) + 1e-6


def _continuation(policy, prompt, begun, decoding, seed) -> str | None:
    """The whole answer, token by token without a cache; None where the length limit cut it."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    answer = list(begun)
    while len(answer) < decoding.max_new_tokens:
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *answer]])).logits[0, -1] / decoding.temperature
        answer.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
        if answer[-1] == 1:
            return policy.tokenizer.decode(answer, skip_special_tokens=True)
    return None


def test_continuations_that_the_limit_cuts_are_worth_nothing(policy):
    answers = sampled(policy, longest=4)
    step = steps(policy.tokenizer, answers.samples, "1")
    endless = Decoding(4, frozenset(), 0, temperature=3.0)
    resets = Resets(policy, lambda problems, texts: [1.0] * len(texts), endless, 3)
    assert (resets.values(answers, step, torch.Generator().manual_seed(0))[0] == 0).all()


def test_a_run_with_values_by_sampling(tmp_path):
    summary = train(
        LanguageConfig(
            method="grpo",
            updates=2,
            prompts=8,
            group_size=4,
            eval_problems=20,
            warmup_steps=30,
            quiet=True,
            out=tmp_path / "run",
            set=("credit=TurnGAE", "credit.values=MonteCarloValues", "credit.gamma=1", "credit.lam=0"),
        )
    )
    assert summary["step"] == 2
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["continuations"] > 9 * 32


def test_samples_stand_for_their_own_tokens_where_nobody_else_speaks():
    s = Samples(*(torch.ones(1, 2) for _ in range(5)), torch.ones(1, dtype=torch.bool))
    assert s.present is s.mask
    assert s.earned.sum() == 0
