from __future__ import annotations

import pytest

from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.tasks.columns import read_problems
from tightrein.errors import TightreinError

ASKED = {"role": "user", "content": "2 + 2?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("4", "5"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "source": "x"},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD], "source": "x"},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "source": "x"},
        {"chosen": "Q: 2 + 2? A: 4", "rejected": "Q: 2 + 2? A: 5", "source": "x"},
    ],
)
def test_pairs_in_each_of_trls_forms(row):
    (problem,) = read_problems("sums", [row], "pairs")
    assert (problem.answer, problem.rejected) == ("4", "5")
    assert "2 + 2?" in problem.text
    assert problem.columns == {"source": "x"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "completion": "4"},
        {"prompt": [ASKED], "completion": [GOOD]},
        {"messages": [ASKED, GOOD]},
    ],
)
@pytest.mark.parametrize("experience", ["demonstrations", "mixed"])
def test_demonstrations_in_each_of_trls_forms(row, experience):
    (problem,) = read_problems("sums", [row], experience)
    assert problem.answer == "4"
    assert "2 + 2?" in problem.text


@pytest.mark.parametrize(
    ("experience", "row", "words"),
    [
        ("pairs", {"prompt": "a", "answer": "b"}, ("no column 'chosen' in row 1", "prompt, answer", "TRL")),
        ("pairs", {"prompt": "a", "chosen": "b"}, ("no column 'rejected'",)),
        (
            "pairs",
            {"prompt": "a", "chosen": "b", "rejected": "b"},
            (
                "row 1",
                "rejected is the chosen",
            ),
        ),
        ("pairs", {"chosen": "yes", "rejected": "no"}, ("rejected does not begin as chosen", "prompt")),
        ("pairs", {"prompt": "a", "chosen": 3, "rejected": "b"}, (r"row 1 of dataset sums: chosen is 3 \(int\)",)),
        ("pairs", {"chosen": [ASKED, GOOD], "rejected": [GOOD]}, ("rejected does not begin",)),
        ("demonstrations", {"prompt": "a", "answer": "b"}, ("no column 'completion'", "rename_column")),
        ("demonstrations", {"prompt": "a", "label": "b"}, (r"rename_column\('label', 'completion'\)",)),
        ("demonstrations", {"prompt": "a", "question": "b"}, ("add a column 'completion'",)),
        ("demonstrations", {"prompt": "a", "completion": None}, ("completion is null",)),
        ("demonstrations", {"completion": "b"}, ("no column 'prompt'", "add a column 'prompt'")),
        ("rollouts", {"answer": "b", "text": "a"}, (r"rename_column\('text', 'prompt'\)",)),
        ("rollouts", {"prompt": None}, ("prompt is null",)),
        ("demonstrations", {"prompt": "a", "completion": [ASKED, GOOD]}, ("one message of the assistant", "user")),
        ("demonstrations", {"messages": [GOOD]}, ("one message alone",)),
        ("demonstrations", {"messages": [ASKED, ASKED]}, ("messages should end",)),
        ("rollouts", {"prompt": ""}, ("row 1", "prompt is ''")),
    ],
)
def test_a_wrong_column_is_named_with_its_row(experience, row, words):
    good = {"prompt": "q", "completion": "a", "chosen": "a", "rejected": "b"}
    with pytest.raises(TightreinError, match="(?s)" + ".*".join(words)):
        read_problems("sums", [good, row], experience)


CHAT = (
    "{%- for m in messages -%}<{{ m['role'] }}>{{ m['content'] }}<eos>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<assistant>{%- endif -%}"
)


def test_an_answer_is_encoded_as_the_chat_template_writes_it(tokenizer, policy):
    """Up to its end token and no further; what the template puts before it belongs to the prompt."""
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = CHAT
    policy = Policy(policy.model, tokenizer)
    (eos,) = policy.eos_ids
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "dab"]
    assert policy.encode_answer([{"role": "user", "content": "bad"}], "dab") == [*letters, eos]
    assert policy.encode_answer("bad", "dab") == [*letters, eos]


def test_without_a_template_an_answer_is_its_text_and_the_end(policy):
    letters = [policy.tokenizer.convert_tokens_to_ids(letter) for letter in "dab"]
    assert policy.encode_answer("bad", "dab") == [*letters, policy.tokenizer.eos_token_id]
