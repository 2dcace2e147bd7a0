"""The embedded model: small, character-level, made for the task at hand and first fine-tuned on worked examples.

It is an ordinary GPT-2 of two layers with an ordinary fast tokenizer of one token per character. So that the model
sees only what differs between problems, the tokenizer's chat template leaves out the words with which all questions
of the task begin and end ("Spell this word backward ...: "); the problem, its entry and its score stay the task's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.evaluate import evaluate
from tightrein.engines.language.models.policy import Policy, finished
from tightrein.engines.language.sampling.sampler import Decoding
from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.tasks.problems import Problem
from tightrein.errors import TightreinError, require

HIDDEN, LAYERS, HEADS = 64, 2, 4
PROBES, PROBES_IN_TURNS = 512, 128  # problems on which the warm-up is judged; a tool in between takes its time
BATCH, JUDGE_EVERY = 64, 5
STEP = tr.parts.Adam(learning_rate=2e-3, max_grad_norm=1.0, warmup=50)
IGNORED = -100  # label that cross_entropy leaves out
END = "\n"  # between a question and its answer
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}

# Jinja: the last message without the task's first and last words, then the end of the question.
TEMPLATE = """\
{%- set text = messages[-1]['content'] -%}
{%- if text.startswith(FIRST) and text.endswith(LAST) -%}
{%- set text = text[FIRST|length:text|length - LAST|length] -%}
{%- endif -%}
{{- text + END -}}"""


@dataclass(frozen=True)
class WarmUp:
    """What the fine-tuning did: gradient steps, and exact match on its own probe problems."""

    steps: int
    accuracy: float


def make(config: LanguageConfig, task: Task) -> Policy:
    """The embedded model for `task`, not yet trained; the same for the same task and seed.

    Raises:
        TightreinError: the task has no worked examples to learn from.
    """
    _require_answers(config, task)
    tokenizer = make_tokenizer([_question(p) for p in task.train], ["".join(p.shown) for p in task.train])
    longest = max(len(p.text) + len("".join(p.shown)) for p in (*task.train, *task.held))
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = make_model(tokenizer, max(256, 2 * (longest + (config.max_new_tokens or 0))))
    return finished(model, tokenizer, config)


def longest_answer(policy: Policy, task: Task) -> int:
    """Room for every worked answer, its end token, and 2 more."""
    return 3 + max(len(policy.tokenizer("".join(p.shown))["input_ids"]) for p in task.train)


def make_tokenizer(questions: Sequence[str], answers: Sequence[str]) -> Any:
    """A tokenizer of one token per character of these texts, whose chat template shortens questions like these."""
    tokenizers, transformers = require("tokenizers", "language"), require("transformers", "language")
    first, last = common_ends(questions)
    characters = sorted({*END, *"".join(answers), *"".join(_inner(q, first, last) for q in questions)})
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), *characters])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, padding_side="left", **SPECIAL)
    literals = {"FIRST": first, "LAST": last, "END": END}
    template = TEMPLATE
    for name, text in literals.items():
        template = template.replace(name, json.dumps(text))
    tokenizer.chat_template = template
    return tokenizer


def make_model(tokenizer: Any, positions: int) -> Any:
    """A GPT-2 of about a hundred thousand parameters, randomly initialised, for `positions` characters at most."""
    transformers = require("transformers", "language")
    shape = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=positions, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS,
        n_inner=2 * HIDDEN, activation_function="relu", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(shape)


def common_ends(questions: Sequence[str]) -> tuple[str, str]:
    """What all questions begin with, and what the rest of all of them ends with, both cut at a word's edge."""
    first = _common_start(questions)
    first = first[: max(first.rfind(" "), first.rfind("\n")) + 1]
    rests = [question[len(first) :] for question in questions]
    last = _common_start([rest[::-1] for rest in rests])[::-1]
    edge = min((at for at in (last.find(" "), last.find("\n")) if at >= 0), default=len(last))
    return first, last[edge:]


def _common_start(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)  # what these two share, all between them share
    same = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(same, min(len(low), len(high)))]


def warm_up(policy: Policy, task: Task, config: LanguageConfig, decoding: Decoding) -> WarmUp:
    """Fine-tune on worked examples until exact match reaches `config.warmup_accuracy`.

    Measured on probe problems. Neither these nor the worked examples are held out, and no probe is a worked example.
    """
    probes, worked = _apart(task.train, config.warmup_examples)
    probes = probes if task.dialogue is None else probes[:PROBES_IN_TURNS]
    optimizer, rise = STEP.torch(policy.trained, config.warmup_steps)
    generator = torch.Generator().manual_seed(config.seed)
    rows = _Rows(policy, worked)
    accuracy = 0.0
    for step in range(1, config.warmup_steps + 1):
        picked = torch.randperm(len(worked), generator=generator)[:BATCH]
        optimizer.zero_grad()
        rows.loss(picked).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rise.step()
        if step % JUDGE_EVERY == 0 or step == config.warmup_steps:
            accuracy = evaluate(policy, probes, task.reward, decoding.greedy, dialogue=task.dialogue).accuracy
            if accuracy >= config.warmup_accuracy:
                return WarmUp(step, accuracy)
    return WarmUp(config.warmup_steps, accuracy)


class _Rows:
    """Worked examples as token ids, question and answer in one row; only what the model is to write is learned."""

    def __init__(self, policy: Policy, problems: Sequence[Problem]) -> None:
        self._policy = policy
        rows, labels = [], []
        for prompt, problem in zip(policy.encode(problems), problems, strict=True):
            parts = [policy.tokenizer(text, add_special_tokens=False)["input_ids"] for text in problem.shown]
            parts[-1].append(policy.tokenizer.eos_token_id)
            rows.append(prompt + [i for part in parts for i in part])
            own = [i if place % 2 == 0 else IGNORED for place, part in enumerate(parts) for i in part]
            labels.append([IGNORED] * len(prompt) + own)
        width = max(map(len, rows))
        self._ids = torch.tensor([row + [policy.pad_id] * (width - len(row)) for row in rows])
        self._labels = torch.tensor([row + [IGNORED] * (width - len(row)) for row in labels])
        self._attention = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])

    def loss(self, picked: torch.Tensor) -> torch.Tensor:
        """Cross-entropy per answer token of these rows."""
        logits = self._policy.model(
            input_ids=self._ids[picked], attention_mask=self._attention[picked], use_cache=False
        ).logits
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1), self._labels[picked][:, 1:].flatten())


def _apart(problems: Sequence[Problem], wanted: int) -> tuple[Sequence[Problem], Sequence[Problem]]:
    """(probes, worked examples); of few problems a quarter are probes."""
    probes = min(PROBES, max(1, len(problems) // 4))
    return problems[:probes], showing_all(problems[probes:], wanted)


def showing_all(problems: Sequence[Problem], wanted: int) -> list[Problem]:
    """The first `wanted` problems, but those first whose answers show a character that none before has shown.

    A character that no worked example shows has a probability near 0, and reinforcement finds it too rarely.
    """
    seen: set[str] = set()
    first: list[Problem] = []
    rest: list[Problem] = []
    for problem in problems:
        new = set("".join(problem.shown)) - seen
        (first if new else rest).append(problem)
        seen |= new
    return [*first, *rest][:wanted]


def _question(problem: Problem) -> str:
    return problem.prompt if isinstance(problem.prompt, str) else str(problem.prompt[-1]["content"])


def _inner(question: str, first: str, last: str) -> str:
    return question[len(first) : len(question) - len(last)]


def _require_answers(config: LanguageConfig, task: Task) -> None:
    if any(problem.answer is None for problem in task.train) or len(task.train) < 2:
        raise TightreinError(
            f"the embedded model is first fine-tuned on worked examples, but {config.subject} has none: "
            "there is no column 'answer' in every row",
            "add a column 'answer', or train a real model with --model FOLDER_OR_NAME",
        )
