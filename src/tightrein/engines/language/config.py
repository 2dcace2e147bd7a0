"""What a language run is told, and the numbers it takes where it was told nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tightrein.engines.language.tasks.steps import check_rule
from tightrein.engines.settings import pairs
from tightrein.errors import TightreinError

EMBEDDED = "embedded"
HEAD = "value_head.safetensors"  # in a model folder, beside the model
ALONE = 4  # times as many prompts, where each is answered once


@dataclass(frozen=True)
class LanguageConfig:
    """Train a language model on a task with checkable answers. None means: as the method or the preset has it."""

    method: str = "grpo"
    """Method by its key (`tightrein methods` lists them)."""
    variant: str = "paper"
    """The method as the "paper" has it, or as the "released" code does where they differ."""
    model: str = EMBEDDED
    """Folder, Hugging Face name or .gguf file of a causal language model; "smollm2" is one that comes as a Python
    package, "embedded" a small one made on the spot."""
    lora_rank: int = 0
    """Rank of LoRA adapters (peft) on every linear layer; 0 trains all parameters."""
    task: str = "spell_backward"
    """Task of reasoning-gym by its name; or calculator, key_door: answers in turns."""
    task_set: tuple[str, ...] = ()
    """Parameters of the task as name=value, for example min_word_len=3."""
    dataset: str | None = None
    """Instead of a task: a .jsonl or .json file, a folder, or a Hub name of a dataset with a column `prompt`."""
    reward: tuple[str, ...] = ()
    """Rewards for the dataset: math, code, reasoning_gym, or functions of TRL's signature as module:function or
    file.py:function."""
    reward_weights: tuple[float, ...] = ()
    """What each of several reward functions counts (automatic: 1)."""
    reward_timeout: float = 60.0
    """Seconds that a call of a reward function may take; it sees all answers of an iteration, or all held-out ones."""
    problems: int | None = None
    """Distinct problems that training asks (automatic: all, 1000 for methods that remember each prompt)."""
    tools: tuple[str, ...] = ()
    """Tools that the model may call: "python", or functions of a text as module:function or file.py:function."""
    turns: int | None = None
    """Calls in an answer at most (automatic: 4, or as the task has it)."""
    call: str | None = None
    """How a call is written, ... standing for its text (automatic: <{name}>...</{name}>, or as the task has it)."""
    reply: str | None = None
    """How a tool's reply is written (automatic: <output>...</output>, or as the task has it)."""
    steps: str | None = None
    """Where a reasoning step ends: newline, sentence, or after so many tokens (automatic: embedded 2, else newline)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the passes that train; weights, sums and the optimizer stay in float32."""
    gradient_checkpointing: bool = False
    """Keep only what stands between the model's layers, and run each again for the gradient: less memory, more time."""
    shard: bool = False
    """Divide parameters, gradients and moments among the processes (FSDP2), where a launcher has started several."""
    lag: int = 0
    """Updates between sampling answers and learning from them; above 0 the two run side by side."""
    sampler: Literal["own", "vllm"] = "own"
    """What samples the answers that training learns from: the model's own code, or vLLM on a GPU."""
    sampler_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the sampler; below float32 it works on a copy of the weights, as fast inference engines do."""
    routing: Literal["free", "old", "sampler"] = "free"
    """Experts that a mixture of experts uses in training: its own, the old policy's (R2), or the sampler's (R3)."""
    seed: int = 0
    """Seed of everything random."""
    updates: int | None = None
    """Iterations of sampling and training (embedded: 200, else 100)."""
    prompts: int | None = None
    """Prompts in an iteration (embedded: 128, else 8)."""
    group_size: int | None = None
    """Answers to each prompt."""
    epochs: int | None = None
    """Passes over the answers of an iteration."""
    minibatches: int | None = None
    """Gradient steps in each pass."""
    learning_rate: float | None = None
    """Step size of the optimizer."""
    tokens_at_once: int = 8192
    """Tokens that training runs through the model at once; more are run in pieces, which gives the same gradient."""
    max_new_tokens: int | None = None
    """Longest answer in tokens (embedded: longest worked example and 2 more, else 256 or what fits the context)."""
    temperature: float = 1.0
    """Of the distribution that is sampled from and trained."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens with this probability; below 1 no longer what is trained."""
    top_k: int = 0
    """Sample from so many likeliest tokens (0: all)."""
    min_p: float = 0.0
    """Sample from tokens that are at least this share as likely as the likeliest (0: all)."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer when it contains them."""
    warmup_examples: int = 64
    """Worked examples that the embedded model is fine-tuned on first."""
    warmup_accuracy: float = 0.45
    """Exact match at which that ends early, on problems that are neither worked examples nor held out."""
    warmup_steps: int = 150
    """Steps after which it ends in any case."""
    eval_problems: int = 500
    """Held-out problems; they are never trained on."""
    eval_samples: int = 0
    """Answers sampled to each of them, for pass@1, pass@k and the majority (0: only the most probable answer)."""
    eval_every: int | None = None
    """Updates between evaluations (automatic: about ten in a run). Start and end are always evaluated."""
    checkpoint_every: int | None = None
    """Updates between checkpoints (automatic: about ten in a run)."""
    set: tuple[str, ...] = ()
    """Hyperparameters as path=value, for example objective.surrogate.bounds.low=0.1."""
    out: Path | None = None
    """Folder of the run (automatic: runs/METHOD-TASK-SEED)."""
    resume: bool = False
    """Go on with the run in this folder from its last checkpoint."""
    quiet: bool = False
    """Show neither progress nor notes (config.json holds the notes)."""

    def __post_init__(self) -> None:
        if self.out is not None:  # a str will do
            object.__setattr__(self, "out", Path(self.out))
        for name in ("reward", "tools", "stop"):  # one may be given without its tuple
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))
        counts = ("updates", "prompts", "group_size", "epochs", "minibatches", "max_new_tokens", "warmup_examples")
        others = (
            "problems",
            "turns",
            "learning_rate",
            "temperature",
            "eval_problems",
            "eval_every",
            "checkpoint_every",
            "tokens_at_once",
            "top_p",
            "reward_timeout",
        )
        for name in (*counts, *others):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise _bad(name, value, "a positive number")
        for name in ("lora_rank", "lag", "warmup_steps", "seed", "eval_samples", "top_k"):
            if not 0 <= getattr(self, name) < 2**31:
                raise _bad(name, getattr(self, name), "a whole number from 0 to 2147483647")
        if self.top_p > 1:
            raise _bad("top_p", self.top_p, "at most 1 (1 switches it off)")
        if not 0 <= self.min_p < 1:
            raise _bad("min_p", self.min_p, "from 0 to less than 1 (0 switches it off)")
        if not all(self.stop):
            raise TightreinError("--stop is given an empty text", "give the texts that end an answer")
        if self.gradient_checkpointing and self.routing != "free":
            raise TightreinError(
                "experts that are replayed would be free when a layer is run again",
                "leave out --gradient-checkpointing, or --routing",
            )
        if self.steps is not None:
            check_rule(self.steps)
        if self.reward and self.dataset is None:
            raise TightreinError("--reward is given without --dataset", "reasoning-gym tasks score answers themselves")

    @property
    def overrides(self) -> dict[str, str]:
        """`set` as path -> value."""
        return pairs("--set", self.set, "objective.surrogate.bounds.low=0.1")

    @property
    def embedded(self) -> bool:
        """Whether the small model of the library's own is trained."""
        return self.model == EMBEDDED

    @property
    def subject(self) -> str:
        """Short name of the task or dataset."""
        return self.task if self.dataset is None else Path(self.dataset).stem

    @property
    def named(self) -> str:
        """The method, and its variant where that is not the paper's."""
        return self.method if self.variant == "paper" else f"{self.method}-{self.variant}"

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs") / f"{self.named}-{self.subject}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The numbers of a run, all known.

    Raises:
        TightreinError: more minibatches than there is to part, or too few answers in a group to compare.
    """

    updates: int
    value_pretraining: int
    prompts: int
    group_size: int
    epochs: int
    minibatches: int
    eval_every: int
    checkpoint_every: int
    tokens_at_once: int = LanguageConfig.tokens_at_once

    @classmethod
    def of(cls, config: LanguageConfig, method: Any) -> Plan:
        """The plan for `config` with this method."""
        training, asks = method.training, method.experience in ("rollouts", "mixed")
        updates = config.updates or (200 if config.embedded else 100)
        usual = (128 if config.embedded else 8) * (ALONE if asks and training.group_size == 1 else 1)
        prompts = config.prompts or usual
        pieces = prompts if method.objective.whole_groups or not asks else prompts * training.group_size
        if training.minibatches > pieces:
            kind = method.experience if not asks else "answers" if pieces > prompts else "groups, which stay whole"
            raise TightreinError(
                f"{training.minibatches} minibatches are more than the {pieces} {kind} of an update",
                "lower --minibatches, or raise --prompts or --group-size",
            )
        if asks and training.group_size < 2 and "group" in method.needs | method.prepare_needs:
            raise TightreinError(
                f"{method.key} compares the answers to a prompt, and a group of one has nothing to be compared with",
                "give --group-size 2 or more",
            )
        tenth = max(1, updates // 10)
        return cls(
            updates, training.value_pretraining, prompts, training.group_size, training.epochs, training.minibatches,
            config.eval_every or tenth, config.checkpoint_every or tenth, config.tokens_at_once,
        )  # fmt: skip

    @property
    def total(self) -> int:
        """Updates of the critic alone and of the policy."""
        return self.value_pretraining + self.updates

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of the policy in the whole run."""
        return self.updates * self.epochs * self.minibatches


def _bad(name: str, value: Any, wanted: str) -> TightreinError:
    return TightreinError(f"{name} is {value}", f"give --{name.replace('_', '-')} {wanted}")
