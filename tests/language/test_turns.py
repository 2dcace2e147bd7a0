from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from tightrein.decisions import Decisions
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.models import embedded
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.passes.views import view_all
from tightrein.engines.language.rewards.answers import ask, earned
from tightrein.engines.language.rewards.functions import as_reward, entry_reward
from tightrein.engines.language.sampling.sampler import Decoding, sample
from tightrein.engines.language.tasks.loading import load_task
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.turns import Call, Dialogue, Form, Reply, Transcript
from tightrein.engines.language.train import train
from tightrein.errors import TightreinError

PROBLEMS = [Problem(text, None, {}) for text in ("abcd", "dab", "a")]
DECODING = Decoding(max_new_tokens=20, eos_ids=frozenset({1}), pad_id=0, temperature=4.0)


def echo(problems, calls):
    """Says the last call back, rewards it with its length, and has enough when it is empty."""
    return [Reply(made[-1].text + "a", float(len(made[-1].text)), done=not made[-1].text) for made in calls]


def dialogue(turns: int = 3) -> Dialogue:
    return Dialogue(echo, ("echo",), Form("...b", "c...d"), turns)


def asked(policy, turns: int = 3, group: int = 16, seed: int = 0):
    return ask(policy, PROBLEMS, group, DECODING, torch.Generator().manual_seed(seed), dialogue(turns))


def test_logp_is_that_of_a_fresh_forward_pass_over_tool_text(policy):
    s = asked(policy).samples
    assert ((s.present > 0) & (s.mask == 0)).any(), "there is tool text"
    assert (s.present >= s.mask).all()
    torch.testing.assert_close(view_all(policy.model, s, 4.0).logp * s.mask, s.logp, atol=1e-4, rtol=0)


def test_replies_stand_behind_their_calls_and_are_masked(policy):
    answers = asked(policy, group=48)
    called = 0
    for transcript in answers.texts:
        assert len(transcript.heard) in (len(transcript.said), len(transcript.said) - 1)
        for said, heard in zip(transcript.said, transcript.heard, strict=False):
            assert said.endswith("b")
            assert f"c{said[:-1]}ad".startswith(heard), "the length limit may cut a reply"
            assert "b" not in said[:-1], "the first b ends the call"
            called += 1
    assert called > 5


def test_turns_rewards_and_ends(policy):
    s = asked(policy, turns=2).samples
    assert int(s.turn.max()) == 1
    assert (s.turn.diff(dim=1) >= 0).all()
    text = asked(policy, turns=2).texts
    for row, transcript in enumerate(text):
        earned_here = [float(len(said) - 1) for said in transcript.said if said.endswith("b")]
        assert s.earned[row].sum() == sum(earned_here)
        assert ((s.earned[row] != 0) <= (s.mask[row] == 1)).all()
        last = transcript.said[-1]
        enough = last == "b"
        assert bool(s.ended[row]) == (enough or 1 in s.completions[row][s.mask[row] > 0].tolist())


def test_the_reward_of_the_whole_falls_on_the_last_decision(policy):
    answers = asked(policy)
    found = earned(answers, lambda problems, texts: [10.0] * len(problems))
    d = Decisions(mask=answers.samples.mask, reward=found.reward)
    torch.testing.assert_close(d.outcome(), answers.samples.earned.sum(1) + 10)
    torch.testing.assert_close(found.outcome, d.outcome())


def test_a_dialogue_does_not_change_answers_without_calls(policy):
    silent = Dialogue(echo, ("echo",), Form("<...>", "c...d"))
    prompts = policy.encode(PROBLEMS)
    plain = sample(policy.model, prompts, 4, DECODING, torch.Generator().manual_seed(5))
    partner = silent.open(policy.tokenizer, [p for p in PROBLEMS for _ in range(4)])
    spoken = sample(policy.model, prompts, 4, DECODING, torch.Generator().manual_seed(5), partner)
    assert torch.equal(plain.completions, spoken.completions)
    assert torch.equal(plain.logp, spoken.logp)
    assert torch.equal(spoken.present, spoken.mask)


@pytest.mark.parametrize(
    ("form", "text", "call"),
    [
        (Form(), "so <python>1+1</python>", Call("python", "1+1")),
        (Form(), "<python>a</python> b <search>x y</search>", Call("search", "x y")),
        (Form(), "1+1</python>", None),
        (Form(), "<python>1+1", None),
        (Form("..."+";"), "e;", Call("python", "e")),
        (Form("[...]"), "[[2]", Call("python", "2")),
    ],
)  # fmt: skip
def test_calls_are_found(form, text, call):
    names = ("python", "search") if "{name}" in form.call else ("python",)
    assert Dialogue(echo, names, form).call_in(text) == call


def test_forms_that_cannot_work_are_refused():
    for form in ({"call": "<python>"}, {"reply": "none"}, {"call": "<..."}):
        with pytest.raises(TightreinError, match=r"--call|--reply"):
            Form(**form)
    with pytest.raises(TightreinError, match="apart"):
        Dialogue(echo, ("a", "b"), Form("[...]"))


def test_transcripts_reach_reward_functions():
    transcript = Transcript(("[1+1]", "2"), ("{2}",))
    assert (transcript.text, transcript.final) == ("[1+1]{2}2", "2")
    assert Transcript(("[1+1]",), ("{2}",)).final == ""
    roles = [message["role"] for message in transcript.messages]
    assert roles == ["assistant", "tool", "assistant"]
    seen = []
    reward = as_reward(lambda completions, **_: seen.append(completions) or [0.0])
    reward([Problem("q", None, {})], [transcript])
    reward([Problem([{"role": "user", "content": "q"}], None, {})], [transcript])
    assert seen == [[transcript.text], [transcript.messages]]
    scorer = entry_reward("task", lambda answer, entry: float(answer == "2"))
    assert scorer([Problem("q", "2", {"entry": {}})], [transcript]) == [1.0]


@pytest.mark.parametrize("task", ["calculator", "key_door"])
def test_worked_examples_of_the_games_are_what_a_perfect_model_would_say(task):
    loaded = load_task(LanguageConfig(task=task, eval_problems=10), 40)
    for problem in loaded.held:
        calls, heard, gained = [], [], 0.0
        for said in problem.worked[::2]:
            call = loaded.dialogue.call_in(said)
            if call is not None:
                calls.append(call)
                reply = loaded.dialogue.respond([problem], [calls])[0]
                gained += reply.reward
                if not reply.done:
                    heard.append(loaded.dialogue.form.written(reply.text))
        assert tuple(heard) == problem.worked[1::2]
        transcript = Transcript(problem.worked[::2], tuple(heard))
        assert gained + loaded.reward([problem], [transcript])[0] == pytest.approx(1.0)


def test_the_embedded_model_is_fine_tuned_on_its_own_turns_only():
    config = LanguageConfig(task="calculator", eval_problems=10)
    task = load_task(config, 40)
    policy: Policy = embedded.make(config, task)
    rows = embedded._Rows(policy, task.train[:5])
    for ids, labels, problem in zip(rows._ids.tolist(), rows._labels.tolist(), task.train[:5], strict=True):
        learned = policy.tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label >= 0])
        assert learned == "".join(problem.worked[::2]) + "<eos>"


def test_flags_change_the_dialogue_of_a_task():
    config = LanguageConfig(task="calculator", eval_problems=10, turns=2, reply="=...;")
    given = load_task(config, 40).dialogue
    assert (given.turns, given.form) == (2, Form("[...]", "=...;"))
    with pytest.raises(TightreinError, match="--tools"):
        load_task(LanguageConfig(turns=2, eval_problems=10), 40)
    with pytest.raises(TightreinError, match="size of key_door"):
        load_task(dataclasses.replace(config, task="key_door", task_set=("size=1",)), 40)


@pytest.mark.parametrize("task", ["calculator", "key_door"])
def test_a_run_in_turns(task, tmp_path):
    config = LanguageConfig(
        method="turn_ppo", task=task, updates=2, prompts=8, group_size=4, eval_problems=10, warmup_steps=15, quiet=True,
        out=tmp_path / "run",
    )  # fmt: skip
    assert train(config)["step"] == 2
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["logp_check"] < 1e-4
    assert last["turns_mean"] >= 1


def test_resets_do_not_go_with_tools(tmp_path):
    with pytest.raises(TightreinError, match="vineppo resets"):
        train(LanguageConfig(method="vineppo", task="calculator", eval_problems=10, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
