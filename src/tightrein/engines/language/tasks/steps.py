"""Where the reasoning steps of an answer end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tightrein.errors import TightreinError

# A step ends behind what these find; a space between sentences begins the next, as it does in most tokenizers.
SEPARATORS = {"newline": r"\n+", "sentence": r"(?<=[.!?])(?=[^\S\n])|\n+"}
DEFAULT, EMBEDDED = "newline", "2"  # the embedded model answers in a few characters


def check_rule(rule: str) -> None:
    """Raises TightreinError if `rule` is neither the name of a separator nor a number of tokens."""
    if rule not in SEPARATORS and not (rule.isdecimal() and int(rule)):
        raise TightreinError(
            f"steps is {rule!r}", f"give --steps {', '.join(SEPARATORS)}, or a number of tokens for each step"
        )


def steps_of(pieces: Sequence[str], rule: str) -> list[int]:
    """Index of the step of each token, given their texts; a token belongs where its first character is.

    rule: a name in SEPARATORS, or a number of tokens. What has no text behind the last separator, as the end token,
    belongs to the step before.
    """
    if rule.isdecimal():
        return [place // int(rule) for place in range(len(pieces))]
    text = "".join(pieces)
    edges = [match.end() for match in re.finditer(SEPARATORS[rule], text) if match.end() < len(text)]
    index, begins = [], 0
    for piece in pieces:
        index.append(sum(edge <= begins for edge in edges))
        begins += len(piece)
    return index
