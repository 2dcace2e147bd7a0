"""Stop strings: an answer ends with the token with which its text first contains one of them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

LEAD = 4  # tokens before those that can hold a stop string, so that the first of these is read as in the whole text
SPARSE = 4  # special tokens, of which the text says nothing, may stand between; no more than 3 for each other token
BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer makes of a part of a character


class Stops:
    """Looks for stop strings in what the model wrote."""

    def __init__(self, tokenizer: Any, texts: tuple[str, ...]) -> None:
        self._tokenizer, self._texts = tokenizer, texts
        # A token holds a byte at least, so that this many can hold the longest of the texts.
        self._most = max(len(text.encode()) for text in texts) + LEAD
        self.width = SPARSE * self._most
        self._special = frozenset(tokenizer.all_special_ids)
        self._closers = _closers(tokenizer, frozenset(text[-1] for text in texts))

    def may_end(self, tokens: Tensor) -> Tensor:
        """Whether a stop string can end in each of these tokens: [B]."""
        return torch.isin(tokens, self._closers.to(tokens.device))

    def ends(self, tail: list[int]) -> bool:
        """Whether there is a stop string in the last `width` tokens of an answer."""
        text = self._tokenizer.decode([token for token in tail if token not in self._special][-self._most :])
        return any(stop in text for stop in self._texts)


@functools.lru_cache(maxsize=8)
def _closers(tokenizer: Any, characters: frozenset[str]) -> Tensor:
    """Tokens in which one of these characters may end."""
    # Twice each: some tokenizers leave the space out with which a text begins.
    texts = tokenizer.batch_decode([[token, token] for token in range(len(tokenizer))])
    wanted = characters if all(c.isascii() for c in characters) else characters | {BROKEN}
    return torch.tensor([i for i, text in enumerate(texts) if wanted & set(text)], dtype=torch.long)
