"""The model that is trained, its tokenizer, and how a prompt becomes token ids."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tightrein.engines.language import processes
from tightrein.engines.language.config import LanguageConfig
from tightrein.engines.language.models.modes import recompute, with_precision
from tightrein.engines.language.models.pretrained import load_model
from tightrein.engines.language.sharding import state_of
from tightrein.engines.language.tasks.problems import Problem, Prompt
from tightrein.errors import TightreinError, require


@dataclass(frozen=True)
class Policy:
    """A causal language model with what is needed to prompt it and to read its answers."""

    model: Any
    tokenizer: Any
    lora: bool = False

    @property
    def device(self) -> torch.device:
        """Where its inputs go."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimizer moves."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def out_axes(self) -> list[int | None]:
        """Of each parameter in `trained`: the axis of its outputs if it is a hidden layer's matrix, else None."""
        transposed = require("transformers.pytorch_utils", "language").Conv1D
        head = self.model.get_output_embeddings()
        axes = {
            id(module.weight): int(isinstance(module, transposed))
            for module in self.model.modules()
            if isinstance(module, (torch.nn.Linear, transposed)) and module is not head
        }
        return [axes.get(id(p)) for p in self.trained]

    @property
    def room(self) -> int | None:
        """Tokens that the model has positions for; None where its configuration does not say."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def pad_id(self) -> int:
        """Token that fills rows; it is never attended to."""
        pad = self.tokenizer.pad_token_id
        return int(min(self.eos_ids) if pad is None else pad)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        told = getattr(self.model.generation_config, "eos_token_id", None)
        ids = {*(told if isinstance(told, list) else [told]), self.tokenizer.eos_token_id} - {None}
        return frozenset(ids)

    @property
    def end(self) -> int:
        """The end token where one is to be written."""
        own = self.tokenizer.eos_token_id
        return int(min(self.eos_ids) if own is None else own)

    def encode(self, problems: Sequence[Problem]) -> list[list[int]]:
        """Token ids of each prompt."""
        return [self._encode(problem.prompt) for problem in problems]

    def encode_answer(self, prompt: Prompt, answer: str) -> list[int]:
        """Token ids of an answer that somebody else wrote, as the model would write it: up to its end token."""
        text = answer
        if self._templated(prompt):
            said = [*self._messages(prompt), {"role": "assistant", "content": answer}]
            asked, whole = self._rendered(prompt), self.tokenizer.apply_chat_template(said, tokenize=False)
            # A template that shows a prompt otherwise once it is answered says nothing of how answers look.
            rest = whole.removeprefix(asked)
            text = rest if whole.startswith(asked) and answer.strip() in rest else answer
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        ends = [place for place, token in enumerate(ids) if token in self.eos_ids]
        return ids[: ends[-1] + 1] if ends else [*ids, self.end]

    def decode(self, completions: torch.Tensor, mask: torch.Tensor) -> list[str]:
        """Texts of completions [B, T] without their padding and special tokens."""
        lengths = mask.sum(1).long().tolist()
        rows = [row[:n] for row, n in zip(completions.tolist(), lengths, strict=True)]
        return list(self.tokenizer.batch_decode(rows, skip_special_tokens=True))

    def reference(self, *, follows: bool = False) -> Any:
        """A frozen copy of the model as it is now; with LoRA a view of it without its adapters, unless it `follows`."""
        if self.lora and not follows:
            return _WithoutAdapters(self.model)
        return copy.deepcopy(self.model).eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write the model (adapters merged) and the tokenizer as a Hugging Face folder; the first process does."""
        state = state_of(self.model)
        if processes.rank():
            return
        if self.lora:
            copy.deepcopy(self.model).merge_and_unload().save_pretrained(folder)
        else:
            self.model.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)

    def _encode(self, prompt: Prompt) -> list[int]:
        if not self._templated(prompt):
            return list(self.tokenizer(prompt)["input_ids"])
        return list(self.tokenizer(self._rendered(prompt), add_special_tokens=False)["input_ids"])

    def _templated(self, prompt: Prompt) -> bool:
        return not isinstance(prompt, str) or prompt_is_question(self.tokenizer)

    def _messages(self, prompt: Prompt) -> list[dict[str, str]]:
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

    def _rendered(self, prompt: Prompt) -> str:
        """The prompt as the chat template shows it, up to where the answer begins."""
        if self.tokenizer.chat_template is None:
            raise TightreinError(
                "the prompts are conversations, but the model's tokenizer has no chat template",
                "use an instruction-tuned model, or plain text prompts",
            )
        messages = self._messages(prompt)
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


class _WithoutAdapters:
    """Calls the model with its LoRA adapters switched off: the policy before training."""

    def __init__(self, model: Any) -> None:
        self._model, self.config = model, model.config

    def __call__(self, **inputs: Any) -> Any:
        with self._model.disable_adapter():
            return self._model(**inputs)

    def get_output_embeddings(self) -> Any:
        """The output layer, which has no adapter."""
        return self._model.get_output_embeddings()

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Those of the model, adapters included."""
        found: Iterator[torch.nn.Parameter] = self._model.parameters()
        return found

    def modules(self) -> Iterator[torch.nn.Module]:
        """Those of the model, whose modes are its own."""
        found: Iterator[torch.nn.Module] = self._model.modules()
        return found

    def eval(self) -> None:
        """Without dropout."""
        self._model.eval()

    @property
    def precision(self) -> torch.dtype:
        """That of the model's passes."""
        found: torch.dtype = self._model.precision
        return found


def prompt_is_question(tokenizer: Any) -> bool:
    """Whether a plain text should be put to this model as a user's message: it has been tuned on such."""
    return tokenizer.chat_template is not None


def load_pretrained(config: LanguageConfig) -> Policy:
    """The model of `config` with its tokenizer, in float32, on the GPU if there is one.

    Raises:
        TightreinError: the folder or name cannot be loaded, or lacks a tokenizer.
    """
    model, tokenizer = load_model(config.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = finished(model.to(device), tokenizer, config)
    if not policy.eos_ids:
        raise TightreinError(
            f"neither the model nor the tokenizer in {config.model} names an end token", "set eos_token"
        )
    return policy


def finished(model: Any, tokenizer: Any, config: LanguageConfig) -> Policy:
    """The policy, with LoRA adapters if `config` wants them, and run as it says."""
    if config.gradient_checkpointing:
        recompute(model)
    if not config.lora_rank:
        return Policy(with_precision(model, config.precision), tokenizer)
    peft = require("peft", "language")
    lora = peft.LoraConfig(
        r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        adapted = peft.get_peft_model(model, lora)
    return Policy(with_precision(adapted, config.precision), tokenizer, lora=True)
