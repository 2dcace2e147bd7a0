"""Several turns: the model writes a call, generation waits, the reply is put into the answer, the model goes on.

A reply is context: its tokens are masked, and the cache goes on growing over them. All answers of a batch advance
together, one token at a time, whoever writes it, so that nothing is encoded twice and nothing is out of place.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tightrein.engines.language.sampling.sampler import Samples
from tightrein.engines.language.tasks.problems import Problem
from tightrein.errors import TightreinError

TURNS = 4  # calls in an answer at most, where nobody says otherwise
GAP = "..."  # what stands in a form for the call or for the reply
NAME = "{name}"


@dataclass(frozen=True)
class Call:
    """A call of the tool `name` with this text."""

    name: str
    text: str


@dataclass(frozen=True)
class Reply:
    """What is said back; `reward` of the turn that called; `done`: the answer ends here."""

    text: str
    reward: float = 0.0
    done: bool = False


class Respond(Protocol):
    """Replies to the last call of each answer, given all its calls so far. Nothing else is remembered."""

    def __call__(self, problems: Sequence[Problem], calls: Sequence[Sequence[Call]]) -> list[Reply]:
        """One reply for each answer."""
        raise NotImplementedError


@dataclass(frozen=True)
class Form:
    """How a call and a reply are written. "..." stands for their text, {name} for the name of the tool.

    A call may begin with "...": then all of the turn is the call.

    Raises:
        TightreinError: nothing to end a call with, or no place for the text.
    """

    call: str = "<{name}>...</{name}>"
    reply: str = "<output>...</output>"

    def __post_init__(self) -> None:
        for what, text in (("call", self.call), ("reply", self.reply)):
            if text.count(GAP) != 1:
                raise TightreinError(f"--{what} {text!r} has no place for the text", f'write "{GAP}" there, once')
        if not self.call.partition(GAP)[2]:
            raise TightreinError(f"--call {self.call!r} has no end", f'for example "<{NAME}>{GAP}</{NAME}>"')

    def ends(self, name: str) -> tuple[str, str]:
        """What a call of this tool begins and ends with."""
        before, _, after = self.call.replace(NAME, name).partition(GAP)
        return before, after

    def written(self, reply: str) -> str:
        """The reply as it is put into the answer."""
        return self.reply.replace(GAP, reply, 1)


@dataclass(frozen=True)
class Transcript:
    """An answer in turns: `said` by the model, `heard` by it in between (as many, or one less)."""

    said: tuple[str, ...]
    heard: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(a + b for a, b in zip(self.said, (*self.heard, ""), strict=False))

    @property
    def final(self) -> str:
        """What the model wrote last, behind every reply."""
        return self.said[-1] if len(self.said) > len(self.heard) else ""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as messages of a conversation."""
        turns = [{"role": "assistant", "content": text} for text in self.said]
        replies = [{"role": "tool", "content": text} for text in self.heard]
        both = [m for pair in zip(turns, replies, strict=False) for m in pair]
        return both + turns[len(replies) :]


Answer = str | Transcript


def final(answer: Answer) -> str:
    """The part of an answer that is judged as its result."""
    return answer if isinstance(answer, str) else answer.final


def text_of(answer: Answer) -> str:
    """All of an answer."""
    return answer if isinstance(answer, str) else answer.text


@dataclass(frozen=True)
class Dialogue:
    """Who replies to which calls, in which form, and for how many turns."""

    respond: Respond
    names: tuple[str, ...]
    form: Form = Form()
    turns: int = TURNS

    def __post_init__(self) -> None:
        if len(self.names) > 1 and NAME not in self.form.call:
            raise TightreinError(
                f"--call {self.form.call!r} does not tell {' and '.join(self.names)} apart", f"write {NAME} in it"
            )

    def open(self, tokenizer: Any, problems: Sequence[Problem]) -> Conversation:
        """The conversation of one batch of answers, the problem of each given."""
        return Conversation(self, tokenizer, problems)

    def call_in(self, text: str) -> Call | None:
        """The last call in this text, if there is one."""
        found: list[tuple[int, Call]] = []
        for name in self.names:
            before, after = self.form.ends(name)
            body, closed, _ = text.rpartition(after)
            _, opened, inside = body.rpartition(before) if before else ("", "opened", body)
            if closed and opened and after not in inside:
                found.append((len(body), Call(name, inside)))
        return max(found, key=lambda pair: pair[0])[1] if found else None


class Conversation:
    """The running conversations of a batch of answers (a sampling.Partner)."""

    def __init__(self, dialogue: Dialogue, tokenizer: Any, problems: Sequence[Problem]) -> None:
        self._dialogue, self._tokenizer, self._problems = dialogue, tokenizer, problems
        size = len(problems)
        self._pending: list[deque[int]] = [deque() for _ in range(size)]  # tokens of a reply, not yet in the answer
        self._turn: list[list[int]] = [[] for _ in range(size)]  # what the model has written in this turn
        self._calls: list[list[Call]] = [[] for _ in range(size)]
        self._earned: list[tuple[int, int, float]] = []
        self._done: list[int] = []
        self._closers = _tokens_with(tokenizer, frozenset(dialogue.form.ends(name)[1][-1] for name in dialogue.names))

    def says(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See sampling.Partner."""
        queues = [self._pending[row] for row in rows.tolist()]
        tokens = [queue.popleft() if queue else -1 for queue in queues]
        said = torch.tensor(tokens, device=rows.device)
        return said, said >= 0

    def hears(self, rows: Tensor, tokens: Tensor, at: int) -> Tensor:
        """See sampling.Partner."""
        callers: list[int] = []
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            self._turn[row].append(token)
            if token in self._closers:
                call = self._dialogue.call_in(self._tokenizer.decode(self._turn[row], skip_special_tokens=True))
                if call is not None:
                    self._calls[row].append(call)
                    callers.append(row)
        closed = self._reply(callers, at) if callers else set()
        return torch.tensor([row in closed for row in rows.tolist()], dtype=torch.bool, device=rows.device)

    def verdict(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """See sampling.Partner."""
        earned = torch.zeros((len(self._problems), width), device=device)
        for row, at, reward in self._earned:
            earned[row, at] = reward
        done = torch.zeros(len(self._problems), dtype=torch.bool, device=device)
        done[self._done] = True
        return earned, done

    def _reply(self, rows: list[int], at: int) -> set[int]:
        """Gets the replies to the last calls of these answers; returns the answers that end here."""
        replies = self._dialogue.respond([self._problems[row] for row in rows], [self._calls[row] for row in rows])
        closed = set()
        for row, reply in zip(rows, replies, strict=True):
            self._earned.append((row, at, reply.reward))
            self._turn[row] = []
            if reply.done:
                self._done.append(row)
            if reply.done or len(self._calls[row]) >= self._dialogue.turns:
                closed.add(row)
            else:
                text = self._dialogue.form.written(reply.text)
                self._pending[row].extend(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return closed


def transcripts(tokenizer: Any, samples: Samples) -> list[Transcript]:
    """The answers in turns, without padding and special tokens."""
    rows = zip(samples.completions.tolist(), samples.mask.tolist(), samples.present.tolist(), strict=True)
    return [_transcript(tokenizer, *row) for row in rows]


def _transcript(tokenizer: Any, ids: list[int], mask: list[float], present: list[float]) -> Transcript:
    runs: list[tuple[bool, list[int]]] = []
    for token, own, there in zip(ids, mask, present, strict=True):
        if not there:
            break
        if not runs or runs[-1][0] != bool(own):
            runs.append((bool(own), []))
        runs[-1][1].append(token)
    texts = [(own, tokenizer.decode(run, skip_special_tokens=True)) for own, run in runs]
    return Transcript(tuple(t for own, t in texts if own), tuple(t for own, t in texts if not own))


@functools.lru_cache(maxsize=8)
def _tokens_with(tokenizer: Any, characters: frozenset[str]) -> frozenset[int]:
    """Tokens in whose text one of these characters is: only behind them a call can end."""
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return frozenset(i for i, text in enumerate(texts) if characters & set(text))
