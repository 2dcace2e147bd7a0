"""Completion tokens per second of the sampler against transformers' `generate`.

Both sample from the same model (the embedded one, and a wider one of random weights), for the same prompts, answers per
prompt and number of new tokens; no answer ends early, so both make the same number of tokens. `generate` gets the
prompts with `num_return_sequences`, its KV cache and no logits processors. The two take turns in one process; the
first turn of each is not counted. Prints the median and, in brackets, the smallest and the largest.

    python benchmarks/language_throughput.py [--repeats 7] [--threads 1] [--out benchmarks/results/language.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tightrein.engines.language import embedded
from tightrein.engines.language.sampling import Decoding, pad_left, sample

CASES = {  # prompts, answers to each, length of the longest prompt, new tokens
    "training batch of the default run": ("embedded", 128, 8, 6, 8),
    "one group of 16": ("embedded", 1, 16, 32, 64),
    "16 prompts": ("embedded", 16, 1, 32, 64),
    "one group of 16, 8 layers of 256": ("wide", 1, 16, 128, 64),
}


def models() -> dict[str, Any]:
    """By name: the embedded model's architecture and a larger one, with random weights."""
    tokenizer = embedded.make_tokenizer(["abcdefghijklmnopqrstuvwxyz"], ["ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    torch.manual_seed(0)
    wide = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=768, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return {"embedded": embedded.make_model(tokenizer, 256).eval(), "wide": transformers.LlamaForCausalLM(wide).eval()}


def turns(model: Any, prompts: int, answers: int, length: int, new: int) -> dict[str, Callable[[], int]]:
    """Ours and generate's, each a function that makes all tokens and says how many."""
    torch.manual_seed(1)
    rows = [torch.randint(3, 40, (max(1, length - i % 3),)).tolist() for i in range(prompts)]
    ids, mask = pad_left(rows, 0)
    decoding = Decoding(new, frozenset(), 0)

    def ours() -> int:
        return int(sample(model, rows, answers, decoding).mask.sum())

    def generate() -> int:
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
            max_new_tokens=new, min_new_tokens=None, num_return_sequences=answers, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        return int(out.shape[0] * (out.shape[1] - ids.shape[1]))

    return {"ours": ours, "generate": generate}


def measure(both: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Tokens per second of each turn, taken alternately."""
    speeds: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(repeats + 1):
        made = {}
        for name, run in both.items():
            began = time.perf_counter()
            made[name] = run()
            if turn:
                speeds[name].append(made[name] / (time.perf_counter() - began))
        if len(set(made.values())) > 1:
            raise RuntimeError(f"not the same number of tokens: {made}")
    return {**speeds, "ratio": [a / b for a, b in zip(speeds["ours"], speeds["generate"], strict=True)]}


def summary(values: list[float]) -> dict[str, float]:
    """Median, smallest, largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def processor() -> str:
    """Name of the processor, as the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Measure every case, print a line for each, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "language.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    known, results = models(), {}
    for name, (model, *shape) in CASES.items():
        figures = {k: summary(v) for k, v in measure(turns(known[model], *shape), given.repeats).items()}
        results[name] = {
            "model": model,
            **dict(zip(("prompts", "answers", "length", "new"), shape, strict=True)),
            **figures,
        }
        shown = (f"{who} {f['median']:,.{digits}f} [{f['min']:,.{digits}f}, {f['max']:,.{digits}f}]"
                 for who, digits, f in (("ours", 0, figures["ours"]), ("generate", 0, figures["generate"]),
                                        ("ratio", 2, figures["ratio"])))  # fmt: skip
        print(f"{name}: {'  '.join(shown)}", flush=True)
    machine = {"processor": processor(), "threads": given.threads, "system": platform.platform()}
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    document = {
        "unit": "completion tokens per second",
        "repeats": given.repeats,
        **machine,
        **versions,
        "cases": results,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
