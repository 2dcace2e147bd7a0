from __future__ import annotations

import pytest

from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.models import embedded
from tightrein.engines.language.tasks.loading import load_task

FOUR = ("spell_backward", "chain_sum", "simple_equations", "countdown")


@pytest.mark.parametrize("name", FOUR)
def test_tasks_score_their_own_answers_and_hold_problems_out(name):
    config = LanguageConfig(task=name, eval_problems=20)
    task = load_task(config, 150)
    assert len(task.held) == 20
    assert not {p.text for p in task.held} & {p.text for p in task.train}
    assert task.reward(task.held, [p.answer for p in task.held]) == [1.0] * 20
    assert max(task.reward(task.held, ["?"] * 20)) < 1.0


@pytest.mark.parametrize("name", FOUR)
def test_the_template_leaves_out_what_all_questions_share(name):
    task = load_task(LanguageConfig(task=name, eval_problems=20), 150)
    tokenizer = embedded.make_tokenizer([p.prompt for p in task.train], [p.answer for p in task.train])
    for problem in task.held:
        messages = [{"role": "user", "content": problem.prompt}]
        short = tokenizer.apply_chat_template(messages, tokenize=False)
        assert short.removesuffix("\n") in problem.prompt
        assert len(short) < len(problem.prompt) / 2 or name == "simple_equations"  # it has several wordings
        ids = tokenizer(short)["input_ids"]
        assert tokenizer.decode(ids) == short


def test_common_ends_are_cut_at_a_words_edge():
    assert embedded.common_ends(["Say 12 now", "Say 13 now"]) == ("Say ", " now")
    assert embedded.common_ends(["abc", "abd"]) == ("", "")
    assert embedded.common_ends(["same thing"]) == ("same ", "")


def test_other_texts_pass_the_template_whole():
    tokenizer = embedded.make_tokenizer(["Say 'a' \\ now", "Say 'b' \\ now"], ["a", "b"])
    for text, short in {"Say 'a' \\ now": "'a'\n", "ab": "ab\n"}.items():
        assert tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False) == short


def test_the_stream_of_prompts_passes_over_all_problems_and_is_the_same_from_any_point():
    task = load_task(LanguageConfig(eval_problems=5), 30)
    size = len(task.train)
    one = task.batch(0, 0, 2 * size)
    assert sorted(i for i, _ in one[:size]) == sorted(i for i, _ in one[size:]) == list(range(size))
    assert one[:size] != one[size:]
    assert task.batch(0, size - 3, 7) == one[size - 3 : size + 4]
    assert task.batch(1, 0, size) != one[:size]


def test_the_same_seed_gives_the_same_problems():
    config = LanguageConfig(eval_problems=5)
    a, b = load_task(config, 30), load_task(config, 30)
    assert [p.text for p in a.train] == [p.text for p in b.train]


@pytest.mark.parametrize(
    ("name", "given", "word"),
    [
        ("calendar_arithmetic", ("tasks=is_leap_year",), "leap year"),  # None by default: a list by its annotation
        ("aiw", ("task_types=siblings", "task_type_weights=1"), "sisters"),  # a list of an enumeration
    ],
)
def test_parameters_that_are_lists(name, given, word):
    task = load_task(LanguageConfig(task=name, task_set=given, eval_problems=4), 8)
    assert all(word in problem.text for problem in task.held)


def test_a_conversation_is_a_prompt():
    rows = [{"prompt": [{"role": "user", "content": str(i)}], "answer": i} for i in range(8)]
    task = load_task(LanguageConfig(dataset="d"), 8, rows, lambda **_: [])
    assert (len(task.held), len(task.train)) == (2, 6)
    assert task.train[0].columns["answer"] == int(task.train[0].answer)


def test_a_saved_dataset_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"prompt": str(i), "x": i} for i in range(8)]).save_to_disk(tmp_path / "d")
    task = load_task(LanguageConfig(dataset=str(tmp_path / "d")), 8, None, lambda **_: [])
    assert len(task.train) == 6
