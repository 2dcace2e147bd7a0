from __future__ import annotations

import math

import pytest

from tightrein.engines.language.compose import compose, with_length
from tightrein.engines.language.config import LanguageConfig, Plan
from tightrein.engines.language.models.policy import load_pretrained
from tightrein.engines.language.rewards.functions import as_reward, entry_reward
from tightrein.engines.language.tasks.columns import read_problems
from tightrein.engines.language.tasks.datasets import read_rows
from tightrein.engines.language.tasks.loading import Problem, load_task
from tightrein.engines.language.train import train
from tightrein.errors import TightreinError

PROBLEMS = [Problem("2 + 2", "4", {"target": 4}), Problem("1 + 1", "2", {"target": 2})]


def refused(*words: str):
    pattern = "(?s)" + ".*".join(words)
    return pytest.raises(TightreinError, match=pattern)


def raises(prompts, completions, **columns):
    raise KeyError("gold")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raises, ("raises", "KeyError", "gold", "test_bad_input.py line")),
        (lambda **_: [1.0], ("1 values for 2", "row 1")),
        (lambda **_: [1.0, 2.0, 3.0], ("3 values for 2",)),
        (lambda **_: [1.0, math.nan], ("nan for row 1",)),
        (lambda **_: [math.inf, 1.0], ("inf for row 0",)),
        (lambda **_: [None, 1.0], ("None for row 0",)),
        (lambda **_: [0.0, "good"], ("'good' for row 1",)),
        (lambda **_: None, ("NoneType", "list")),
        (lambda prompts: [1.0, 1.0], ("TypeError", r"\*\*columns")),
    ],
)
def test_a_reward_function_with_a_fault_is_named(function, words):
    with refused("reward function", *words):
        as_reward(function)(PROBLEMS, ["4", "3"])


def test_a_reward_function_gets_what_trl_gives():
    def reward(prompts, completions, target, **_):
        assert prompts == ["2 + 2", "1 + 1"]
        return [float(c == str(t)) for c, t in zip(completions, target, strict=True)]

    assert as_reward(reward)(PROBLEMS, ["4", "3"]) == [1.0, 0.0]


def test_conversations_get_messages():
    problem = Problem([{"role": "user", "content": "hi"}], None, {})
    as_reward(lambda completions, **_: [float(completions[0][0]["content"] == "yo")])([problem], ["yo"])


def test_a_scorer_that_raises_is_named():
    def score(answer, entry):
        raise ZeroDivisionError("x")

    with refused("score_answer of countdown", "ZeroDivisionError", "row 0"):
        entry_reward("countdown", score)([Problem("q", "a", {"entry": {}})], ["1/0"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.py:f", ("no file nowhere.py",)),
        ("math:sqr", ("unknown function", "sqrt")),
        ("no_such_module_here:f", ("cannot be imported",)),
        ("reward", ("module:function", "give --reward FILE.py:reward")),
        ("rewards.py", ("give --reward rewards.py:FUNCTION",)),
        ("rewards:", ("give --reward rewards:FUNCTION",)),
    ],
)
def test_a_reward_function_that_is_not_there(name, words):
    with refused(*words):
        as_reward(name)


def test_reward_from_a_file(tmp_path):
    path = tmp_path / "my_rewards.py"
    path.write_text("def length(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n")
    assert as_reward(f"{path}:length")(PROBLEMS, ["abc", ""]) == [3.0, 0.0]


def test_an_unknown_task_names_the_nearest():
    with refused("spel_backward", "spell_backward"):
        load_task(LanguageConfig(task="spel_backward"), 10)


def test_an_unknown_parameter_names_the_nearest():
    with refused("min_word_length", "min_word_len"):
        load_task(LanguageConfig(task_set=("min_word_length=3",)), 10)


@pytest.mark.parametrize("item", ["min_word_len=three", "min_word_len=9", "min_word_len"])
def test_a_bad_parameter_is_named(item):
    with refused("min_word_len"):
        load_task(LanguageConfig(task_set=(item, "max_word_len=4")), 10)


def test_parameters_of_all_kinds():
    config = LanguageConfig(
        task="simple_equations", task_set=("operators=+,-", "operators_weights=0.5,0.5", "max_value=9")
    )
    assert load_task(config, 50).train


def test_a_dataset_without_prompts_names_its_columns():
    with refused("sums", "no column 'prompt'", "question, answer", "rename"):
        read_problems("sums", [{"question": "1 + 1", "answer": "2"}], "rollouts")


def test_a_dataset_that_is_not_there():
    with refused("no/such/dataset", "jsonl"):
        read_rows("/no/such/dataset")


def test_a_broken_line_is_numbered(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": \n')
    with refused("data.jsonl line 2", "not JSON"):
        read_rows(str(path))


def test_an_empty_dataset(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n")
    with refused("no rows"):
        read_rows(str(path))


def test_a_prompt_that_is_no_text():
    with refused("row 1", "prompt"):
        load_task(LanguageConfig(dataset="d"), 9, [{"prompt": "a"}, {"prompt": 3}], lambda **_: [])


def test_a_dataset_without_a_reward(jsonl):
    with refused("reward function", "--reward"):
        load_task(LanguageConfig(dataset=str(jsonl)), 9)


def test_the_embedded_model_needs_worked_examples(jsonl, tmp_path):
    with refused("answer", "--model"):
        train(LanguageConfig(dataset=str(jsonl), out=tmp_path / "run"), reward=lambda **_: [])
    assert not (tmp_path / "run").exists()


def test_a_model_folder_without_a_tokenizer(model_folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    with refused(str(tmp_path), "no tokenizer", "save_pretrained"):
        load_pretrained(LanguageConfig(model=str(tmp_path)))


def test_a_model_folder_without_a_model(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    with refused("model in the folder", str(tmp_path)):
        load_pretrained(LanguageConfig(model=str(tmp_path)))


def test_a_model_that_is_not_there():
    with refused("no folder", "no/such-model"):
        load_pretrained(LanguageConfig(model="no/such-model"))


def test_exact_divergence_names_the_sampled_one():
    with refused("dist_old", "objective.trust=SampledOldKL"):
        compose(LanguageConfig(method="ppo_kl", model="some/model"))
    method, _ = compose(LanguageConfig(method="ppo_kl", model="some/model", set=("objective.trust=SampledOldKL",)))
    assert method.stateful


@pytest.mark.parametrize(
    "change", [{"updates": 0}, {"top_p": 1.5}, {"temperature": 0.0}, {"reward": "a:b"}, {"seed": -1}]
)
def test_bad_numbers(change):
    with refused(next(iter(change))):
        LanguageConfig(**change)


def test_groups_of_one_and_too_many_minibatches():
    for change in ({"group_size": 1}, {"prompts": 1, "group_size": 2, "minibatches": 3}):
        config = LanguageConfig(**change)
        with pytest.raises(TightreinError):
            Plan.of(config, compose(config)[0])


def test_control_methods_get_group_credit_and_say_so():
    method, notes = compose(LanguageConfig(method="spo"))
    assert method.credit.label().startswith("GroupNormalised")
    assert method.objective.surrogate.label().startswith("SPO")
    assert any("GroupNormalised" in note for note in notes)


def test_control_methods_keep_their_critic_if_asked_to():
    method, notes = compose(LanguageConfig(method="ppo_clip", set=("credit=GAE",)))
    assert method.credit.label().startswith("GAE(gamma=1.0")
    assert {"value", "returns"} <= method.needs
    assert any("credit.gamma = 1" in note for note in notes)
    method, _ = compose(LanguageConfig(method="ppo_clip", set=("credit=GAE", "credit.gamma=0.9")))
    assert method.credit.gamma == 0.9


def test_values_that_nobody_trains_are_refused():
    with refused("value_old", "objective.value.coef=0.5"):
        compose(LanguageConfig(method="grpo", set=("credit=GAE",)))
    method, _ = compose(LanguageConfig(method="grpo", set=("credit=GAE", "objective.value.coef=0.5")))
    assert {"value", "returns"} <= method.needs
    with refused("no value estimate", "value_pretraining=0"):
        compose(LanguageConfig(set=("training.value_pretraining=3",)))


def test_a_method_from_written_answers_cannot_read_rewards():
    with refused("dpo needs reward", "written answers"):
        compose(LanguageConfig(method="dpo", set=("credit=GroupCentred",)))


@pytest.mark.parametrize(
    ("key", "size", "rows"), [("single_stream_spo", 1, 512), ("rebel", 2, 256), ("grpo", 8, 1024), ("gvpo", 4, 512)]
)
def test_the_embedded_preset_keeps_what_a_method_is_made_for(key, size, rows):
    config = LanguageConfig(method=key)
    plan = Plan.of(config, compose(config)[0])
    assert (plan.group_size, plan.prompts * plan.group_size) == (size, rows)


@pytest.mark.parametrize(("key", "step"), [("muon", "Muon"), ("ntr_momentum", "NTRMomentum"), ("zclip", "ZClip")])
def test_the_embedded_preset_keeps_the_step_that_a_method_is_about(key, step):
    assert step in compose(LanguageConfig(method=key))[0].step.label()


def test_pairs_are_not_parted_between_minibatches():
    config = LanguageConfig(method="dpo", prompts=3, minibatches=4)
    with refused("4 minibatches", "3 pairs"):
        Plan.of(config, compose(config)[0])


def test_a_real_model_gets_the_papers_values():
    method, _ = compose(LanguageConfig(method="grpo", model="some/model"))
    assert method.step.learning_rate == 1e-6
    assert method.training.group_size == 64
    method, _ = compose(LanguageConfig(method="grpo", model="some/model", learning_rate=3e-5, group_size=4))
    assert (method.step.learning_rate, method.training.group_size) == (3e-5, 4)


def test_an_unset_length_becomes_the_longest_answer():
    method, notes = with_length(compose(LanguageConfig(method="dr_grpo"))[0], 17)
    assert method.objective.aggregate.length == 17
    assert any("17" in note for note in notes)
    _, notes = with_length(compose(LanguageConfig(method="dapo"))[0], 17)
    assert any("never reached" in note for note in notes)
