"""What the model wrote, read as text: which answers are the same, and which formulas they hold."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.sampling.sampler import Samples

NONE = -1  # in the place of a formula that is not there
_MARKED = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_TELLING = re.compile(r"[\d=<>]")  # "well-read" is none
_PLAIN = re.compile(r"[\w.()]+(?:\s*[-+*/^=<>]\s*[\w.()]+)+")


def written(policy: Policy, samples: Samples) -> list[str]:
    """The text of each answer, without what a partner said in between."""
    rows = zip(samples.completions.tolist(), samples.mask.tolist(), strict=True)
    own = [[token for token, mine in zip(ids, mask, strict=True) if mine] for ids, mask in rows]
    texts: list[str] = policy.tokenizer.batch_decode(own, skip_special_tokens=True)
    return texts


def signatures(policy: Policy, samples: Samples) -> Tensor:
    """A number for each answer of the batch, the same where what the model wrote reads the same: [B].

    White space at the ends, and how much of it stands between words, makes no difference.
    """
    texts = [" ".join(text.split()) for text in written(policy, samples)]
    number = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return torch.tensor([number[text] for text in texts], device=samples.mask.device)


def formulas(policy: Policy, samples: Samples) -> Tensor:
    """A number for each formula of each answer of the batch, the same where they read the same, NONE elsewhere: [B, F].

    F is the largest number of them in an answer, at least 1.
    """
    found = [formulas_in(text) for text in written(policy, samples)]
    number = {text: place for place, text in enumerate(dict.fromkeys(f for each in found for f in each))}
    width = max(1, *map(len, found))
    rows = [[number[f] for f in each] + [NONE] * (width - len(each)) for each in found]
    return torch.tensor(rows, device=samples.mask.device)


def formulas_in(text: str) -> list[str]:
    """The different formulas of a text, without white space.

    Those are what stands between marks of mathematics ($, \\( and \\[), and elsewhere terms that are joined by
    operators or comparisons, with a digit or a comparison among them.
    """
    marked = ["".join(groups) for groups in _MARKED.findall(text)]
    plain = [found for found in _PLAIN.findall(_MARKED.sub(" ", text)) if _TELLING.search(found)]
    return list(dict.fromkeys(_bare("".join(formula.split())) for formula in (*marked, *plain)))


def _bare(formula: str) -> str:
    """Without the full stop of its sentence, and brackets around it."""
    formula = formula.strip(".")
    return formula[1:-1] if formula[:1] == "(" and formula[-1:] == ")" else formula
