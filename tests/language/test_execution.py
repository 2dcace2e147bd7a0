from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tightrein.engines.language.rewards.execution import Execution, program
from tightrein.engines.language.rewards.functions import as_reward
from tightrein.engines.language.tasks import confinement
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.tools import Limits
from tightrein.errors import TightreinError

FENCED = "Think.\n```python\nprint(1)\n```\nThen:\n```python\ndef f(x):\n    return 2 * x\n```\nDone."
ASSERTS = {"test_list": ["assert f(1) == 2", "assert f(0) == 0", "assert f(3) == 6", "assert f('a') == 'aa'"]}
WALLS = sys.platform == "linux" and confinement.platform.machine() == "x86_64"
FILES = sys.platform == "linux" and confinement._libc.syscall(confinement.CREATE, None, 0, confinement.VERSION) > 0
walled = pytest.mark.skipif(not WALLS, reason="the kernel's walls are for Linux on x86-64")


@pytest.fixture(scope="module")
def code():
    return Execution(Limits(seconds=0.5, megabytes=300, characters=20_000))


def share(code, answer: str, **columns) -> float:
    return code([Problem("q", None, columns)], [answer])[0]


def test_the_last_block_is_the_program_or_all_of_the_answer():
    assert program(FENCED) == "def f(x):\n    return 2 * x\n"
    assert program("def f(x): return x") == "def f(x): return x"
    assert program("```py\nx = 1") == "x = 1"
    assert program("``` \nx = 1\n```") == "x = 1\n"


def test_the_share_of_tests_that_pass(code):
    assert share(code, FENCED, **ASSERTS) == 1.0
    assert share(code, "def f(x): return x + x if x else 1", **ASSERTS) == 0.75
    assert share(code, "def f(x): return x", **ASSERTS) == 0.25
    assert share(code, "def f(:", **ASSERTS) == 0.0
    assert share(code, "", **ASSERTS) == 0.0


@pytest.mark.parametrize(
    "columns",
    [
        {"tests": ["assert f(2) == 4"]},
        {"tests": "assert f(2) == 4"},
        {"tests": '["assert f(2) == 4"]'},
        {"test_list": ["assert f(math.pi) > 6"], "test_imports": ["import math"]},
        {"test_list": ["assert f(k) == 6"], "test_setup_code": "k = 3"},
    ],
)
def test_forms_of_asserts(code, columns):
    assert share(code, FENCED, **columns) == 1.0
    assert share(code, "def f(x): return 0", **columns) == 0.0


SUM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"


@pytest.mark.parametrize(
    ("answer", "passed"),
    [
        (SUM, 1.0),
        ("print(sum(int(input()) for _ in range(2)))", 0.5),
        ("import sys\nsys.stdout.buffer.write(b'%d  \\n\\n' % sum(map(int, sys.stdin.buffer.read().split())))", 1.0),
        (SUM + "\nimport sys; sys.exit(0)", 1.0),
        (SUM + "\nimport sys; sys.exit(1)", 0.0),
        (SUM + "\n1/0", 0.0),
        ("def main():\n    print(3)\nif __name__ == '__main__':\n    main()", 0.5),
        ("print(4)\nprint(5)", 0.0),
    ],
)
def test_programs_that_read_and_print(code, answer, passed):
    assert share(code, answer, inputs=["1\n2\n", "4 5 6"], outputs=["3\n", "15"]) == passed
    listed = [{"input": "1\n2\n", "output": "3\n"}, {"input": "4 5 6", "output": "15"}]
    assert share(code, answer, tests=listed) == passed


@pytest.mark.parametrize(
    "columns", [{}, {"tests": []}, {"tests": [3]}, {"inputs": ["1"]}, {"inputs": [1], "outputs": [2]}]
)
def test_a_row_without_tests_that_can_be_run_is_named(code, columns):
    good, bad = Problem("q", None, ASSERTS), Problem("q", None, columns)
    with pytest.raises(TightreinError, match="row 1"):
        code([good, bad], [FENCED, FENCED])


def test_the_scorer_of_that_name():
    assert as_reward("code")([Problem("q", None, ASSERTS)], [FENCED]) == [1.0]


def harmless(code, body: str) -> None:
    """The program passes nothing, and a good one beside it passes everything."""
    bad = body + "\ndef f(x): return 2 * x"
    assert code([Problem("q", None, ASSERTS)] * 2, [bad, FENCED]) == [0.0, 1.0]


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "try:\n    while True: pass\nexcept BaseException:\n    pass\nwhile True: pass",
        "import signal\nfor s in {*range(1, 32)} - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "x = bytearray(10 * 2**30)",
        "x = []\nwhile True: x.append(' ' * 10**7)",
        "import sys\nsys.setrecursionlimit(10**9)\ndef g(): return g()\ng()",
        "import os; os._exit(0)",
        "import os\nwhile True: os.write(1, b'x' * 10**6)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "raise SystemExit(0)",
    ],
)
def test_programs_that_do_not_end_well_harm_nobody(code, body):
    began = time.monotonic()
    harmless(code, body)
    assert time.monotonic() - began < 10


@walled
def test_bombs_of_processes_are_no_bombs(code):
    once = "import os\ntry:\n    os.fork()\nexcept PermissionError:\n    refused = True"
    assert share(code, once, tests=["assert refused"]) == 1.0  # or else what follows would be one
    harmless(code, "import os\nwhile True: os.fork()")
    harmless(code, "import subprocess\nsubprocess.Popen(['sleep', '4321'])")
    assert "sleep 4321" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@walled
def test_nothing_is_written_made_or_removed(code, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("dear")
    before = victim.stat()
    for body in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(victim)!r}, 'w')",
        f"open({str(victim)!r}, 'r+')",
        f"import os; os.remove({str(victim)!r})",
        f"import os; os.truncate({str(victim)!r}, 0)",
        f"import os; os.rename({str(victim)!r}, {str(tmp_path / 'new')!r})",
        f"import os; os.chmod({str(victim)!r}, 0)",
        f"import os; os.utime({str(victim)!r}, (1, 1))",
        f"import os; os.mkdir({str(tmp_path / 'new')!r})",
        f"import os; os.symlink('a', {str(tmp_path / 'new')!r})",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        "open('here', 'w')",
    ):
        harmless(code, body)
    after = victim.stat()
    assert victim.read_text() == "dear"
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]


@walled
def test_no_connections(code):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        harmless(code, f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))")
        with pytest.raises(TimeoutError):
            server.accept()


@walled
def test_no_signals_to_others_and_no_larger_limits(code):
    with subprocess.Popen(["sleep", "30"]) as other:
        harmless(code, f"import os; os.kill({other.pid}, 9)")
        assert other.poll() is None
        other.kill()
    raised = "import resource as r; r.setrlimit(r.RLIMIT_AS, (r.RLIM_INFINITY, r.RLIM_INFINITY))"
    harmless(code, raised)


def test_the_environment_is_empty(code, monkeypatch):
    monkeypatch.setenv("A_SECRET", "opensesame")
    own = Execution(Limits(seconds=0.5, megabytes=300, characters=20_000))
    look = "import os\nfound = [*os.environ]\ndef f(x): return 2 * x"
    assert share(own, look, tests=["assert found == []"]) == 1.0


@pytest.mark.skipif(not FILES, reason="needs Landlock")
def test_files_of_others_and_of_the_system_cannot_be_read(code, tmp_path):
    (tmp_path / "secret").write_text("opensesame")
    for path in (f"/proc/{os.getpid()}/environ", "/proc/self/environ", "/etc/passwd", tmp_path / "secret", __file__):
        assert Path(path).exists()
        assert share(code, f"t = open({str(path)!r}).read()", tests=["assert 1"]) == 0.0
        assert share(code, f"import os\nt = os.listdir({str(Path(path).parent)!r})", tests=["assert 1"]) == 0.0


def test_what_programs_may_do(code):
    useful = (
        "import collections, decimal, hashlib, heapq, itertools, json, math, random, re, string, threading\nt = []\n"
    )
    useful += "worker = threading.Thread(target=t.append, args=(1,))\nworker.start()\nworker.join()\n"
    assert share(code, useful, tests=["assert t == [1]", "assert random.random() < 1"]) == 1.0
    typed = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 3\n"
    )
    assert share(code, typed, tests=["assert A().x == 3"]) == 1.0


def test_many_endless_programs_take_the_time_of_their_limits(code):
    began = time.monotonic()
    asked = [Problem("q", None, ASSERTS)] * 8
    assert code(asked, [f"while True: pass\n{row}" for row in range(7)] + [FENCED]) == [0.0] * 7 + [1.0]
    assert time.monotonic() - began < 20
