from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.experience.rollout import Collector
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.rewards.answers import Answers, earned
from tightrein.engines.language.rewards.functions import Ensemble, as_reward, ensemble, unlimited
from tightrein.engines.language.rewards.judging import Judge
from tightrein.engines.language.sampling.sampler import Decoding, Samples
from tightrein.engines.language.tasks.problems import Problem
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


FUNCTIONS = """
import os, signal, sys, time

calls = 0

def length(completions, **columns):
    return [float(len(text)) for text in completions]

def named(completions, target, **columns):
    return [float(text == wanted) for text, wanted in zip(completions, target, strict=True)]

def count(completions, **columns):
    global calls
    calls += 1
    return [calls] * len(completions)

def whoami(completions, **columns):
    time.sleep(60 * (len(completions) - 1))
    return [os.getpid()] * len(completions)

def imported(completions, **columns):
    return [float("torch" in sys.modules or "jax" in sys.modules)] * len(completions)

def hang_at_x(completions, **columns):
    if "x" in completions:
        import subprocess
        subprocess.Popen(["sleep", "5432"])
        while True:
            pass
    return [0.0] * len(completions)

def slow(completions, **columns):
    time.sleep(1.0)
    return [1.0] * len(completions)

def stop():
    raise SystemExit("enough")

def wrong():
    raise KeyError("nope")

FAULTS = {
    "leave": lambda: os._exit(3),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "stop": stop,
    "wrong": wrong,
    "no_list": lambda: 3,
    "nothing": lambda: None,
    "a_none": lambda: [1.0, None],
    "a_nan": lambda: [1.0, float("nan")],
    "a_text": lambda: [1.0, "2"],
    "few": lambda: [1.0],
    "many": lambda: [1.0, 2.0, 3.0],
}

def fault(completions, **columns):
    return FAULTS[completions[0]]()

def chatter(completions, **columns):
    print("said by a reward function")
    return [1.0] * len(completions)
"""


@pytest.fixture
def mine(tmp_path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    return f"{path}:"


def test_named_functions_see_the_whole_batch_in_a_process_that_stays(mine):
    both = ensemble([f"{mine}length", f"{mine}named"], [0.5, 2.0])
    assert both.scores(PROBLEMS, ["x", "abc"]) == [[1.0, 1.0], [3.0, 0.0]]
    assert both(PROBLEMS, ["x", "abc"]) == [2.5, 1.5]
    count = as_reward(f"{mine}count")
    assert [count(PROBLEMS, ["", ""]) for _ in range(3)] == [[1.0] * 2, [2.0] * 2, [3.0] * 2]
    who = as_reward(f"{mine}whoami")
    assert who(PROBLEMS[:1], [""]) == who(PROBLEMS[:1], [""]) != [os.getpid()]


def test_processes_import_what_the_function_does_and_no_more(mine):
    assert as_reward(f"{mine}imported")(PROBLEMS, ["", ""]) == [0.0, 0.0]


def test_functions_work_side_by_side(mine):
    four = ensemble([f"{mine}slow"] * 4)
    began = time.monotonic()
    assert four(PROBLEMS, ["", ""]) == [4.0, 4.0]
    assert time.monotonic() - began < 3.0


def running(what: str) -> bool:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return what in shown


def test_a_call_that_hangs_is_one_clear_error_and_nothing_is_left_behind(mine):
    reward = ensemble([f"{mine}hang_at_x", f"{mine}length"], limit=1.0)
    began = time.monotonic()
    with pytest.raises(
        TightreinError, match=r"hang_at_x took more than 1 s.*rows 0 to 1(.|\n)*--reward-timeout.*--resume"
    ):
        reward(PROBLEMS, ["x", "y"])
    assert time.monotonic() - began < 5.0
    assert not running("sleep 5432")
    assert reward(PROBLEMS, ["ab", "a"]) == [2.0, 1.0]  # with a new process, and not the answers to the call before


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(FUNCTIONS)
    return as_reward(f"{path}:fault")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wrong", r"raised KeyError: 'nope' \(called with rows 0 to 1; mine.py line \d+\)"),
        ("stop", "raised SystemExit: enough"),
        ("no_list", "returned a int"),
        ("nothing", "returned a NoneType"),
        ("a_none", "gave None for row 1"),
        ("a_nan", "gave nan for row 1"),
        ("a_text", "gave '2' for row 1"),
        ("few", "returned 1 values for 2 completions; row 1 is the first without one"),
        ("many", "returned 3 values for 2 completions; row 2 does not exist"),
        ("leave", r"has ended its process: exit status 3 \(called with rows 0 to 1\)"),
        ("crash", r"has ended its process: signal SIGSEGV \(called with rows 0 to 1\)"),
    ],
)
def test_a_function_with_a_fault_is_named_with_the_row(faulty, kind, words):
    with pytest.raises(TightreinError, match=f"reward function .*mine.py:fault {words}"):
        faulty(PROBLEMS, [kind, ""])


def test_what_a_function_prints_is_seen(mine, capfd):
    assert as_reward(f"{mine}chatter")(PROBLEMS, ["", ""]) == [1.0, 1.0]
    assert "said by a reward function" in capfd.readouterr().out


def test_a_column_that_cannot_be_sent_is_named(mine):
    with pytest.raises(TightreinError, match="column odd cannot be sent to reward function"):
        as_reward(f"{mine}length")([Problem("q", None, {"odd": lambda: 0})], ["a"])


def test_a_function_that_cannot_be_imported_is_told_at_once(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    judge = Judge(f"{tmp_path / 'broken.py'}:f")
    for _ in range(2):
        with pytest.raises(TightreinError, match=r"cannot be imported: .*no_such_module"):
            judge.ready()


def test_functions_given_as_such_run_here_and_a_note_says_so(mine):
    assert as_reward(lambda completions, **_: [os.getpid()] * 2)(PROBLEMS, ["", ""]) == [os.getpid()] * 2
    assert unlimited([f"{mine}length", "math"]) == ()
    assert "reward length: called in this process" in unlimited([length, f"{mine}named"])[0]


def test_processes_end_with_the_one_that_started_them(mine):
    code = (
        "import os\n"
        "from tightrein.engines.language.rewards.judging import Judge\n"
        f"judge = Judge({mine + 'whoami'!r})\n"
        "judge.ask({'completions': ['']}, 1)\n"
        "print(int(judge.answer()[0]), flush=True)\n"
        "judge.ask({'completions': ['', '']}, 2)  # sleeps\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        worker = Path(f"/proc/{int(starter.stdout.readline())}")
        assert starter.wait() == -9
    ended = time.monotonic() + 5.0
    while worker.exists() and time.monotonic() < ended:
        time.sleep(0.1)
    assert not worker.exists()


def test_a_run_whose_reward_crashes_goes_on_from_its_checkpoint(model_folder, jsonl, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import os\n"
        "calls = 0\n"
        "def score(completions, **columns):\n"
        "    global calls\n"
        "    calls += 1\n"
        f"    if calls == 3 and not os.path.exists({str(tmp_path / 'mended')!r}):\n"
        "        os._exit(1)\n"
        "    return [float(len(text)) for text in completions]\n"
    )
    given = {
        "method": "grpo", "model": str(model_folder), "dataset": str(jsonl), "reward": f"{path}:score", "updates": 2,
        "prompts": 4, "group_size": 4, "minibatches": 2, "max_new_tokens": 6, "eval_every": 1, "checkpoint_every": 1,
        "out": tmp_path / "run", "quiet": True,
    }  # fmt: skip
    with pytest.raises(TightreinError, match="has ended its process"):
        tr.train("language", **given)
    (tmp_path / "mended").touch()
    assert tr.train("language", resume=True, **given)["step"] == 2
