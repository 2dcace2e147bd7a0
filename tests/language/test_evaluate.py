"""Figures over several answers to each problem, and the table that a person reads."""

import json

import pytest

from tightrein.engines.language import train as training
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.evaluate import Evaluation, evaluate
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.tasks.problems import Problem

PROBLEMS = [Problem("1 + 1?", "2", {}), Problem("a | b <c>", "x\ny", {}), Problem("?", None, {})]
FOUND = Evaluation(
    PROBLEMS,
    [["2", "3", " 2 ", "4"], ["x", "y", "y", "x"], ["q", "r", "s", "t"]],
    [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.5, 1.0]],
)


def test_figures_of_several_answers():
    assert FOUND.accuracy == pytest.approx(5 / 12)
    assert FOUND.reward == pytest.approx(5.5 / 12)
    assert FOUND.passed == 1.0
    assert FOUND.majority == pytest.approx(1 / 3), "2 wins; x is as common as y and came first; nothing is common"


def test_the_table_holds_what_was_asked_said_and_expected():
    lines = FOUND.table().splitlines()
    assert lines[2] == "| 1 + 1? | 2 | 2 | 1 |"
    assert lines[3] == "| a \\| b &lt;c> | x | x<br>y | 0 |"
    assert lines[4] == "| ? | q |  | 0 |"


def test_what_is_too_long_is_cut_and_says_so():
    text = Evaluation([Problem("p", None, {})], [["z" * 1000]], [[0.0]]).table()
    assert "z ... (1000 characters)" in text
    assert len(text) < 600


def test_every_problem_gets_its_own_answers(policy, monkeypatch):
    problems = [Problem("ab", "ba", {}), Problem("cd", "dc", {}), Problem("bad", "dab", {})]

    def reward(asked, answers):
        return [float(len(problem.prompt)) for problem in asked]

    monkeypatch.setattr("tightrein.engines.language.evaluate.AT_ONCE", 4)
    found = evaluate(policy, problems, reward, Decoding(3, policy.eos_ids, policy.pad_id), samples=3)
    assert found.rewards == [[2.0] * 3, [2.0] * 3, [3.0] * 3]
    assert [len(texts) for texts in found.texts] == [3, 3, 3]


def test_a_run_logs_the_figures_and_keeps_the_answers(tmp_path):
    config = LanguageConfig(
        prompts=8, group_size=4, eval_problems=12, eval_samples=3, warmup_steps=20, updates=2, eval_every=1,
        out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    summary = training.train(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["eval_pass_1"] <= line["eval_pass_3"]
        assert 0 <= line["eval_majority"] <= line["eval_pass_3"]
    assert summary["eval_pass_3"] == lines[-1]["eval_pass_3"]
    tables = sorted(path.name for path in (tmp_path / "run" / "answers").iterdir())
    assert tables == ["000000.md", "000001.md", "000002.md"]
    text = (tmp_path / "run" / "answers" / "000002.md").read_text()
    assert text.startswith("# Answers after update 2")
    assert len(text.splitlines()) == 2 + 2 + 10
