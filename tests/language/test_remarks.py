"""What is said before a run begins, and flags that are put right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tightrein as tr
from tightrein.engines.language.compose import compose
from tightrein.engines.language.config import HEAD, LanguageConfig, Plan
from tightrein.engines.language.remarks import on_length, remarks
from tightrein.engines.language.rewards.functions import ensemble, exact
from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.train import train
from tightrein.errors import TightreinError

WORDS = [a + b + c for a in "abcd" for b in "abcd" for c in "abcd"]
ASKED = [{"prompt": word} for word in WORDS]  # four tokens with the end of the question
SHORT = {"method": "grpo", "updates": 1, "prompts": 2, "group_size": 2, "minibatches": 1, "eval_problems": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def length(completions, **columns):
    return [float(len(text)) for text in completions]


def notes_of(**settings) -> str:
    config = LanguageConfig(**settings)
    method, _ = compose(config)
    return "; ".join(on_length(config, method, Plan.of(config, method)))


def remarks_of(reward=exact, **settings) -> str:
    config = LanguageConfig(**settings)
    return "; ".join(remarks(config, compose(config)[0], Task("t", [], [], reward)))


def test_answers_end_where_the_context_does(model_folder, tmp_path, capsys):
    config = LanguageConfig(**SHORT, model=str(model_folder), out=tmp_path / "run")
    train(config, dataset=ASKED, reward=length)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["max_new_tokens"] == 124
    assert "note: answers end at 124 tokens, not 256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("prompt", "more", "words"),
    [
        ("ab", {"max_new_tokens": 126}, "longest prompt has 4 tokens.*context 128.*--max-new-tokens 124"),
        ("ab" * 70, {}, "no room for an answer"),
    ],
)
def test_what_the_context_cannot_hold_is_refused_before_training(prompt, more, words, model_folder, tmp_path):
    config = LanguageConfig(**SHORT, **more, model=str(model_folder), out=tmp_path / "run")
    with pytest.raises(TightreinError, match="(?s)" + words):
        train(config, dataset=[*ASKED, {"prompt": prompt}], reward=length)
    assert not (tmp_path / "run").exists()


def test_a_folder_may_be_given_as_text(model_folder, tmp_path):
    out = str(tmp_path / "run")
    rows = [{"prompt": word, "completion": word} for word in WORDS]
    tr.train("language", method="sft", model=str(model_folder), dataset=rows, updates=1, out=out, quiet=True)
    assert (tmp_path / "run" / "model").is_dir()
    assert LanguageConfig(out=out).folder == Path(out)


def test_updates_of_the_value_head_are_announced():
    assert "10 updates of the value head first, then 30 of the policy" in notes_of(method="vapo", updates=30)
    assert not notes_of(method="grpo", updates=30)


def test_a_value_head_that_comes_with_the_model_has_no_head_start_unless_asked(tmp_path):
    def pretraining(*settings: str) -> int:
        return compose(LanguageConfig(method="vapo", model=str(tmp_path), set=settings))[0].training.value_pretraining

    assert pretraining() == 50
    (tmp_path / HEAD).touch()
    assert pretraining() == 0
    assert pretraining("value_pretraining=7") == 7
    assert any("value head" in note for note in compose(LanguageConfig(method="vapo", model=str(tmp_path)))[1])


def test_few_updates_at_the_presets_learning_rate_are_remarked_on():
    assert "--updates 100" in notes_of(updates=5)
    for more in ({"learning_rate": 1e-4}, {"set": ("step.learning_rate=1e-4",)}, {"updates": 20}, {"model": "some"}):
        assert not notes_of(**{"updates": 5, **more})


def test_flags_and_scores_without_an_effect_are_remarked_on():
    assert "--group-size has no effect" in remarks_of(method="dpo", group_size=4)
    assert not remarks_of(method="dpo") + remarks_of(method="grpo", group_size=4)
    assert "an ensemble of one" in remarks_of(method="rm_ensemble")
    assert not remarks_of(ensemble([length, length]), method="rm_ensemble")


def test_the_example_in_the_help_works_with_the_default_method():
    assert compose(LanguageConfig(set=("objective.surrogate.bounds.low=0.1",)))[0].objective.surrogate.bounds.low == 0.1


def test_training_a_reconstruction_says_so():
    assert compose(LanguageConfig(method="r2vpo"))[1][0].startswith("r2vpo is a reconstruction")
    assert not any("reconstruction" in note for note in compose(LanguageConfig(method="grpo"))[1])


def test_a_comparison_needs_more_than_one_answer():
    for changes in ({"method": "rloo"}, {"method": "grpo", "set": ("credit=LeaveOneOut",)}, {"method": "dapo"}):
        with pytest.raises(TightreinError, match="compares the answers to a prompt"):
            compose(LanguageConfig(group_size=1, **changes))
    compose(LanguageConfig(method="grpo", group_size=1))  # the reward itself is the advantage
