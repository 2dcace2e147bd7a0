"""What each prompt was last answered, and how much the policy has changed its mind about that answer since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tightrein.engines.language.experience.batch import Batch
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.passes.views import view_all
from tightrein.engines.language.sampling.sampler import Samples, pad_left


@dataclass(frozen=True)
class _Answer:
    """Tokens of a prompt and of the answer to it (NumPy), its mask and its log-probabilities when it was given."""

    prompt: Any
    completion: Any
    mask: Any
    logp: Any


_LISTS = tuple(_Answer.__dataclass_fields__)


class Memory:
    """The last answer to each prompt, by the prompt's index."""

    def __init__(self) -> None:
        self._answers: dict[int, _Answer] = {}

    def drift(self, policy: Policy, prompts: Tensor, temperature: float, pad_id: int) -> Tensor:
        """Mean |change of log-probability| over the tokens of the last answer to each of `prompts` [B]; 0 at first.

        One forward pass of the present policy over those answers.
        """
        wanted = prompts.tolist()
        known = [index for index in dict.fromkeys(wanted) if index in self._answers]
        drift = torch.zeros(len(wanted), device=prompts.device)
        if not known:
            return drift
        samples = _rows([self._answers[index] for index in known], pad_id, prompts.device)
        now = view_all(policy.model, samples, temperature).logp
        change = ((now - samples.logp).abs() * samples.mask).sum(1) / samples.mask.sum(1).clamp(min=1)
        found = dict(zip(known, change.tolist(), strict=True))
        return torch.tensor([found.get(index, 0.0) for index in wanted], device=prompts.device)

    def keep(self, batch: Batch) -> None:
        """Remembers the answers of the batch, of several to one prompt the last."""
        s = batch.samples
        columns = (s.prompts, s.prompt_mask, s.completions, s.present, s.mask, s.logp)
        rows = zip(batch.decisions.prompt.tolist(), *(column.cpu().numpy() for column in columns), strict=True)
        for index, prompt, prompt_mask, completion, present, mask, logp in rows:
            there = present > 0
            self._answers[index] = _Answer(
                prompt[prompt_mask > 0], completion[there], mask[there], logp[there].astype(np.float32)
            )

    def arrays(self) -> dict[str, Any]:
        """All of it as a few long arrays."""
        known = list(self._answers)
        arrays: dict[str, Any] = {"known": np.asarray(known, dtype=np.int64)}
        for name in _LISTS if known else ():
            parts = [getattr(self._answers[index], name) for index in known]
            arrays[name] = np.concatenate(parts)
            arrays[f"{name}.ends"] = np.cumsum([len(part) for part in parts])
        return arrays

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Puts back what `arrays` gave."""
        known = arrays["known"].tolist()
        columns = [np.split(arrays[name], arrays[f"{name}.ends"][:-1]) for name in _LISTS] if known else []
        self._answers = {index: _Answer(*parts) for index, *parts in zip(known, *columns, strict=True)}


def _rows(answers: Sequence[_Answer], pad_id: int, device: torch.device) -> Samples:
    prompts, prompt_mask = pad_left([answer.prompt.tolist() for answer in answers], pad_id, device)
    width = max(len(answer.completion) for answer in answers)

    def padded(name: str, fill: float) -> Tensor:
        parts = [getattr(answer, name) for answer in answers]
        rows = [np.pad(part, (0, width - len(part)), constant_values=fill) for part in parts]
        return torch.from_numpy(np.stack(rows)).to(device)

    there = [np.arange(width) < len(answer.completion) for answer in answers]
    present = torch.from_numpy(np.stack(there)).to(device).float()
    ended = torch.ones(len(answers), dtype=torch.bool, device=device)
    return Samples(
        prompts, prompt_mask, padded("completion", pad_id), padded("mask", 0), padded("logp", 0), ended, present
    )
