"""One side of a language benchmark in a process of its own: `python language_sides.py NAME`.

Reads what is to be measured as a line of JSON, then answers every further line with one turn: its seconds, and by how
many megabytes memory at its peak exceeded what was there when the turn began.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tightrein as tr
from tightrein.engines.language.config import LanguageConfig, Plan
from tightrein.engines.language.experience import sources
from tightrein.engines.language.models import embedded
from tightrein.engines.language.models.policy import load_pretrained
from tightrein.engines.language.passes.views import view
from tightrein.engines.language.passes.vocabulary import OutputLayer, read
from tightrein.engines.language.sampling.sampler import Decoding, pad_left, sample
from tightrein.engines.language.setup import Setup
from tightrein.engines.language.tasks.loading import Task
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.training.learner import Learner

Setting = dict[str, Any]
Turn = Callable[[], Any]
PROMPTS = 64


def questions(setting: Setting, tokenizer: Any) -> list[list[dict[str, str]]]:
    """Conversations of about as many tokens as are asked for: a sum, and before it what has nothing to do with it."""
    filler = "The weather over the harbour was clear and the boats came in one after another. "
    found = []
    for i in range(PROMPTS):
        text = f"State the final answer to the following arithmetic problem: {17 + i} + {89 - i} ="
        while len(tokenizer(filler + text)["input_ids"]) < setting["prompt"] - 30:  # the template's own are about 30
            text = filler + text
        found.append([{"role": "user", "content": text}])
    return found


def letters(prompts: Any, completions: Any, **_: Any) -> list[float]:
    """A reward that differs from answer to answer."""
    return [min(1.0, completion[0]["content"].count("e") / 20) for completion in completions]


def our_step(setting: Setting) -> Turn:
    """Sampling and learning of our engine: one prompt, its answers, one gradient step."""
    config = LanguageConfig(
        method="dr_grpo", model=setting["model"], prompts=1, group_size=setting["answers"], epochs=1, minibatches=1,
        max_new_tokens=setting["new"], updates=1000, learning_rate=1e-6, quiet=True,
    )  # fmt: skip
    policy = load_pretrained(config)
    problems = [Problem(question, None, {}) for question in questions(setting, policy.tokenizer)]
    task = Task("sums", problems, problems[:1], lambda asked, said: letters(None, [[{"content": x}] for x in said]))
    method = tr.method("dr_grpo", length=setting["new"])
    method = dataclasses.replace(method, training=dataclasses.replace(method.training, group_size=setting["answers"]))
    plan = dataclasses.replace(Plan.of(config, method), epochs=1, minibatches=1, group_size=setting["answers"])
    decoding = Decoding(setting["new"], frozenset(), policy.pad_id)
    learner = Learner(policy, method, plan, 1.0, prompts=PROMPTS)
    experience = sources.experience(Setup(config, plan, task, policy, method, decoding))
    order, updates = torch.Generator().manual_seed(0), iter(range(10**6))

    def turn() -> None:
        batch = experience.next(next(updates), learner.state)
        assert int(batch.samples.mask.sum()) == setting["answers"] * setting["new"]
        learner.update(batch, order)

    return turn


def serve_trl(setting: Setting, answer: Callable[[float, float], None], lines: Any) -> None:
    """TRL's GRPOTrainer, held at the beginning of each step until its turn has come."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    policy = load_pretrained(LanguageConfig(model=setting["model"]))
    folder = tempfile.mkdtemp()

    class Turns(TrainerCallback):
        """Waits for a line, and answers when the step is done."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not lines.readline():
                os._exit(0)
            self.before = memory()
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            answer(time.perf_counter() - self.began, peak() - self.before)

    config = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=setting["answers"], num_generations=setting["answers"],
        max_completion_length=setting["new"], max_steps=1000, learning_rate=1e-6, use_cpu=True, bf16=False,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, loss_type="dr_grpo",
        scale_rewards=False, gradient_checkpointing=False, generation_kwargs={"min_new_tokens": setting["new"]},
    )  # fmt: skip
    asked = Dataset.from_list([{"prompt": question} for question in questions(setting, policy.tokenizer)])
    GRPOTrainer(
        policy.model, reward_funcs=letters, args=config, train_dataset=asked, processing_class=policy.tokenizer,
        callbacks=[Turns()],
    ).train()  # fmt: skip


def logp(setting: Setting, *, lean: bool) -> Turn:
    """Log-probabilities, entropies and the gradient of the former, from hidden states."""
    torch.manual_seed(0)
    shape = setting["tokens"], setting["hidden"]
    weight = torch.nn.Parameter(0.05 * torch.randn(setting["vocabulary"], shape[1]))
    states, chosen = torch.randn(shape, requires_grad=True), torch.randint(setting["vocabulary"], shape[:1])
    layer = OutputLayer(weight)

    def turn() -> None:
        states.grad = weight.grad = None
        if lean:
            found = read(states, layer, chosen[:, None])
            values = found.picked[:, 0] - found.normaliser[:, 0]
        else:
            everything = torch.log_softmax(layer.logits(states), -1)
            with torch.no_grad():
                -(everything.exp() * everything).sum(-1)
            values = everything.gather(1, chosen[:, None])[:, 0]
        values.mean().backward()

    return turn


def a_pass(setting: Setting, **how: Any) -> Turn:
    """Forward and backward over rows of tokens, as training makes them; how: see LanguageConfig."""
    model = load_pretrained(LanguageConfig(model=setting["model"], **how)).model
    torch.manual_seed(0)
    ids = torch.randint(5, 40_000, (setting["rows"], setting["prompt"] + setting["new"]))

    def turn() -> None:
        view(model, ids, torch.ones_like(ids), setting["new"]).logp.mean().backward()

    return turn


def sampling(setting: Setting, *, ours: bool) -> Turn:
    """Answers of the same lengths to the same prompts; none ends early."""
    if setting["model"] == "embedded":
        tokenizer = embedded.make_tokenizer(["abcdefghijklmnopqrstuvwxyz"], ["ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
        model = embedded.make_model(tokenizer, 256).eval()
    else:
        model = load_pretrained(LanguageConfig(model=setting["model"])).model.eval()
    torch.manual_seed(1)
    rows = [torch.randint(3, 40, (setting["prompt"] - i % 3,)).tolist() for i in range(setting["prompts"])]
    ids, mask = pad_left(rows, 0)
    decoding, count = Decoding(setting["new"], frozenset(), 0), setting["answers"]

    def generate() -> None:
        with torch.no_grad():
            made = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                max_new_tokens=setting["new"], num_return_sequences=count, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        assert made.shape == (len(rows) * count, ids.shape[1] + setting["new"])

    return (lambda: sample(model, rows, count, decoding)) if ours else generate


SIDES: dict[str, Callable[[Setting], Turn]] = {
    "step-tightrein": our_step,
    "logp-lean": lambda setting: logp(setting, lean=True),
    "logp-plain": lambda setting: logp(setting, lean=False),
    "pass": a_pass,
    "pass-bfloat16": lambda setting: a_pass(setting, precision="bfloat16"),
    "pass-recomputed": lambda setting: a_pass(setting, gradient_checkpointing=True),
    "sample-tightrein": lambda setting: sampling(setting, ours=True),
    "sample-generate": lambda setting: sampling(setting, ours=False),
}


def memory() -> float:
    """Megabytes now resident; from here on `peak` counts anew. What was freed is given back first, to count too."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """The most megabytes that have been resident since `memory`."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    """Answers until the input ends."""
    setting = json.loads(sys.stdin.readline())
    torch.set_num_threads(setting["threads"])
    out, sys.stdout = sys.stdout, sys.stderr  # libraries that print do not disturb the answers

    def answer(seconds: float, megabytes: float) -> None:
        out.write(json.dumps({"seconds": seconds, "megabytes": megabytes}) + "\n")
        out.flush()

    if sys.argv[1] == "step-trl":
        serve_trl(setting, answer, sys.stdin)
        return
    turn = SIDES[sys.argv[1]](setting)
    for _ in sys.stdin:
        before = memory()
        began = time.perf_counter()
        turn()
        answer(time.perf_counter() - began, peak() - before)


if __name__ == "__main__":
    main()
