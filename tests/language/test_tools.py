from __future__ import annotations

import time

import pytest

from tightrein.engines.language.tasks import tools
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.tools import Limits, Python, dialogue, wrapped
from tightrein.engines.language.tasks.turns import Call, Form, Reply
from tightrein.errors import TightreinError


@pytest.fixture(scope="module")
def python():
    return Python(Limits(seconds=0.5, megabytes=200, characters=60))


def said(python, code: str) -> str:
    return python([code])[0].text


@pytest.mark.parametrize(
    ("code", "reply"),
    [
        ("37*46", "1702"),
        ("x = 3\nx * 2", "6"),
        ("print('a')\nprint('b')", "a\nb"),
        ("import math\nmath.floor(2.5)", "2"),
        ("", ""),
        ("None", ""),
        ("'\u00fc'", "'\u00fc'"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", ""),
        ("while True: pass", "TimeoutError: stopped after 0.5 s"),
        ("import time; time.sleep(30)", "TimeoutError: stopped after 0.5 s"),
        ("x = [0] * 10**9", "MemoryError"),
        ("import os; os.kill(os.getpid(), 9)", "Error: killed by signal 9"),
        ("import os; len(os.environ)", "0"),
        ("input()", "EOFError: EOF when reading a line"),
    ],
)
def test_code_gets_its_value_its_output_or_its_error(python, code, reply):
    assert said(python, code) == reply


def test_a_syntax_error_and_long_output_are_told_in_one_short_line(python):
    assert said(python, "def f(:").startswith("SyntaxError")
    assert said(python, "print('a' * 10**6)") == "a" * 60 + " (cut)"
    assert "\n" not in said(python, "raise ValueError('x\\ny')")


def test_nothing_is_written_to_disk_and_nothing_remembered(python, tmp_path):
    assert "Error" in said(python, f"f = open({str(tmp_path / 'x')!r}, 'w'); f.write('y' * 100000); f.flush()")
    assert said(python, "z = 1") == ""
    assert said(python, "z").startswith("NameError")


def test_many_slow_calls_run_beside_each_other_and_equal_ones_once(python):
    began = time.monotonic()
    replies = python(["import time; time.sleep(30)"] * 50 + [f"{i}+1" for i in range(50)])
    assert [reply.text for reply in replies[50:]] == [str(i + 1) for i in range(50)]
    assert time.monotonic() - began < 60


def test_code_that_kills_the_process_behind_the_tool_is_told_and_the_others_are_answered(python):
    murder = "import os; os.kill(os.getppid(), 9)"
    assert [reply.text for reply in python(["1+1", murder, "2+2"])] == ["2", tools.KILLED, "4"]
    assert said(python, "3+3") == "6"


def test_a_system_without_fork_is_one_clear_error(monkeypatch, tmp_path):
    (tmp_path / "sandbox.py").write_text("raise SystemExit(1)\n")
    monkeypatch.setattr(tools.sandbox, "__file__", str(tmp_path / "sandbox.py"))
    with pytest.raises(TightreinError, match="ends at once"):
        Python()(["1"])


def test_functions_of_the_users_are_tools():
    def capital(text):
        return {"france": "Paris"}[text.strip().lower()]

    assert wrapped("capital", capital)(["France ", "x"]) == [Reply("Paris"), Reply("KeyError: 'x'")]
    assert wrapped("f", lambda text: (len(text), 0.5))(["abc"]) == [Reply("3", 0.5)]
    with pytest.raises(TightreinError, match="tool f gave the reward nan"):
        wrapped("f", lambda text: ("", float("nan")))(["abc"])


def test_calls_go_to_the_tool_of_their_name():
    def twice(text):
        return text * 2

    both = dialogue(["python", twice], Form(), 4)
    problem = Problem("q", None, {})
    calls = [[Call("python", "1+1")], [Call("twice", "a"), Call("twice", "b")], [Call("python", "2")]]
    assert [reply.text for reply in both.respond([problem] * 3, calls)] == ["2", "bb", "2"]
    with pytest.raises(TightreinError, match="two tools"):
        dialogue([twice, twice], Form(), 4)


def test_tools_by_name(tmp_path):
    (tmp_path / "mine.py").write_text("def shout(text):\n    return text.upper()\n")
    made = dialogue([f"{tmp_path / 'mine.py'}:shout"], Form(), 4)
    assert made.names == ("shout",)
    assert made.respond([Problem("q", None, {})], [[Call("shout", "a")]]) == [Reply("A")]
    with pytest.raises(TightreinError, match=r"no file nowhere\.py with a tool"):
        dialogue(["nowhere.py:f"], Form(), 4)
