from __future__ import annotations

import json

import pytest
import torch

import tightrein as tr
from tightrein.engines.language.answers import Answers, earned
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.models import Policy
from tightrein.engines.language.problems import Problem
from tightrein.engines.language.rewards import Ensemble, ensemble
from tightrein.engines.language.rollout import Collector
from tightrein.engines.language.sampling import Decoding, Samples
from tightrein.errors import TightreinError

PROBLEMS = [Problem("q", "1", {"target": "x"}), Problem("r", "2", {"target": "y"})]


def length(completions, **columns):
    return [float(len(text)) for text in completions]


def named(completions, target, **columns):
    return [float(text == wanted) for text, wanted in zip(completions, target, strict=True)]


def test_several_rewards_are_scores_and_a_weighted_sum():
    both = ensemble([length, named], [0.5, 2.0])
    assert isinstance(both, Ensemble)
    assert both.scores(PROBLEMS, ["x", "abc"]) == [[1.0, 1.0], [3.0, 0.0]]
    assert both(PROBLEMS, ["x", "abc"]) == [2.5, 1.5]
    samples = Samples(*(torch.ones(2, 1) for _ in range(5)), torch.ones(2, dtype=torch.bool))
    found = earned(Answers(samples, PROBLEMS, ["x", "abc"]), both)
    assert found.scores.tolist() == [[1.0, 1.0], [3.0, 0.0]]
    assert found.reward.tolist() == [2.5, 1.5]
    assert earned(Answers(samples, PROBLEMS, ["x", "abc"]), ensemble([length])).scores.tolist() == [[1.0], [3.0]]


def test_as_many_weights_as_functions():
    with pytest.raises(TightreinError, match="--reward-weights"):
        ensemble([length, named], [1.0])


def test_scores_reach_a_method_that_reads_them(policy: Policy):
    method = tr.method("rm_ensemble")
    collector = Collector(policy, ensemble([length, named]), method, Decoding(4, policy.eos_ids, 0), 2, 3)
    batch = collector.collect(lambda count: list(enumerate(PROBLEMS)), torch.Generator().manual_seed(0))
    assert batch.decisions.scores.shape == (6, 2)
    assert "scores" in method.prepare_needs
    assert (
        Collector(policy, ensemble([length]), tr.method("grpo"), Decoding(4, policy.eos_ids, 0), 2, 3)
        .collect(lambda count: list(enumerate(PROBLEMS)), torch.Generator().manual_seed(0))
        .decisions.scores
        is None
    )


def test_a_run_with_rewards_and_tools_that_are_given_as_functions(model_folder, jsonl, tmp_path):
    def shout(text):
        return text.upper()

    summary = tr.train(
        "language", method="grpo", model=str(model_folder), dataset=str(jsonl), reward=[length, named],
        reward_weights=(0.5, 1.0), tools=[shout], turns=2, call="a...b", reply="c...d", updates=2, prompts=4,
        group_size=4, minibatches=2, max_new_tokens=12, out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    assert summary["step"] == 2
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["logp_check"] < 1e-4
    assert json.loads((tmp_path / "run" / "config.json").read_text())["tools"] == ["shout"]


def test_one_name_needs_no_tuple():
    config = LanguageConfig(dataset="d", reward="rewards.py:exact", tools="python")
    assert (config.reward, config.tools) == (("rewards.py:exact",), ("python",))
