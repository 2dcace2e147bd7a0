from __future__ import annotations

import time

import pytest

from tightrein.engines.language.rewards import functions as rewards
from tightrein.engines.language.rewards.functions import RowByRow, as_reward
from tightrein.engines.language.rewards.judging import Judge
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Transcript
from tightrein.errors import TightreinError

HANGS = "$" + "9" * 4 + "".join(["^{9999"] * 6) + "}" * 6 + "$"  # a power that nobody can write out


@pytest.fixture(scope="module")
def math():
    pytest.importorskip("math_verify")
    return as_reward("math")


def problems(*answers) -> list[Problem]:
    return [Problem("q", None, {"answer": answer}) for answer in answers]


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("42", "The answer is 42.", "The answer is 43."),
        ("7 + 5 makes 12, so\n#### 12", "Twelve is written 12", "#### 7"),
        (r"\frac{1}{2}", "It is 0.5", r"\boxed{\frac{1}{3}}"),
        ("$x^2 + 1$", "$1 + x^2$", "$x^2 - 1$"),
        ("1,000", "1000", "100"),
        ("2.5e3", "2500", "2.5"),
        ("(1, 2)", r"\boxed{(1, 2)}", r"\boxed{(2, 1)}"),
        (12, "12", "21"),
        ("14", "7 + 7 = 14", "The answer is 7 + 7."),
        ("14", "$7 + 7 = 14$", "$7 + 7$"),
        ("14", "-14 + 28 makes 14", r"\frac{28}{2}"),
        ("14", r"$1.4 \times 10^1$", "28/2"),
        ("-14", "-14", "7-21"),
        ("0.5", "1/2", "0.25+0.25"),
    ],
)
def test_results_are_compared_by_what_they_mean(math, answer, right, wrong):
    assert math(problems(answer, answer), [right, wrong]) == [1.0, 0.0]


def test_answers_that_nobody_can_read_are_wrong_and_take_nothing_with_them(math):
    odd = ["", "\\boxed{", "$$$$", "\x00\ud800", "}{" * 500, "(" * 3000, "\\frac{1}{0}", HANGS, "5"]
    began = time.monotonic()
    assert math(problems(*["5"] * len(odd)), odd) == [0.0] * 8 + [1.0]
    assert time.monotonic() - began < 30


def test_the_last_turn_of_an_answer_is_judged(math):
    said = Transcript(("<python>6*7</python>", "It is 42"), ("<output>3</output>",))
    conversation = [Problem([{"role": "user", "content": "q"}], None, {"answer": "42"})]
    assert math(conversation, [said]) == [1.0]
    assert math(conversation, ["41"]) == [0.0]


def test_rows_without_what_is_needed_are_named(math):
    with pytest.raises(TightreinError, match="row 1: reward math found a row without an answer"):
        math(problems("1", None), ["1", "1"])
    with pytest.raises(TightreinError, match="'answer'"):
        math([Problem("q", None, {})], ["1"])


def test_a_process_that_is_lost_over_an_answer_gives_it_zero_and_the_next_is_judged(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import os, time\n"
        "def score(completions, **columns):\n"
        "    {'die': lambda: os._exit(1), 'sleep': lambda: time.sleep(60)}.get(completions[0], str)()\n"
        "    return [1.0]\n"
    )
    score = RowByRow(Judge(f"{path}:score", limit=1.0))
    assert score(problems("", "", "", ""), ["a", "die", "sleep", "b"]) == [1.0, 0.0, 0.0, 1.0]


def test_a_scorer_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr(rewards.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("tightrein.errors.importlib.import_module", missing)
    with pytest.raises(TightreinError, match=r"tightrein\[language\]"):
        as_reward("math")


def missing(name):
    raise ModuleNotFoundError(name=name)


def test_rows_of_reasoning_gym_are_scored_by_the_tasks_that_made_them():
    gym = pytest.importorskip("reasoning_gym")
    rows = [gym.create_dataset(name, size=1, seed=3)[0] for name in ("gcd", "spell_backward")]
    asked = [Problem(row["question"], None, {"answer": row["answer"], "metadata": row["metadata"]}) for row in rows]
    score = as_reward("reasoning_gym")
    assert score(asked, [row["answer"] for row in rows]) == [1.0, 1.0]
    assert max(score(asked, ["no", ""])) < 0.1
    with pytest.raises(TightreinError, match=r"row 0: .*task 'nowhere'"):
        score([Problem("q", None, {"answer": "1", "metadata": '{"source_dataset": "nowhere"}'})], ["1"])
