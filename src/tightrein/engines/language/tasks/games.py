"""Tasks of the library's own, in which the model does not answer at once: it calls a tool, or plays."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tightrein.engines.language.rewards.functions import Reward
from tightrein.engines.language.tasks.problems import Problem
from tightrein.engines.language.tasks.tools import Limits, Python, dialogue
from tightrein.engines.language.tasks.turns import GAP, Answer, Call, Dialogue, Form, Reply, final
from tightrein.errors import TightreinError

MOVES = {"e": (1, 0), "w": (-1, 0), "n": (0, 1), "s": (0, -1)}


@dataclass(frozen=True)
class Game:
    """A task in turns: its problems, who replies, and what the answer as a whole earns."""

    problems: Callable[[random.Random], Problem]
    dialogue: Dialogue
    reward: Reward


@dataclass(frozen=True)
class Calculator:
    """Products and sums too hard to do in one's head, with Python as a tool: `[37*46]` is answered by `{1702}`.

    digits: of each number.
    """

    digits: int = 2

    def __post_init__(self) -> None:
        _within("calculator", "digits", self.digits, 1, 6)

    def game(self) -> Game:
        """See Game."""
        python = Python(Limits(seconds=0.1))  # long enough for sums, and short for 99**99999999
        return Game(self._problem, dialogue((python,), Form("[...]", "{...}"), turns=4), _exact)

    def _problem(self, numbers: random.Random) -> Problem:
        low, high = 10 ** (self.digits - 1), 10**self.digits - 1
        a, b, c = (numbers.randint(low, high) for _ in range(3))
        product, result = a * b, a * b + c
        worked = (f"[{a}*{b}]", f"{{{product}}}", f"[{product}+{c}]", f"{{{result}}}", str(result))
        return Problem(f"What is {a}*{b}+{c} ?", str(result), {}, worked)


@dataclass(frozen=True)
class KeyDoor:
    """A walk over a square of size x size fields: first to the key (reward 0.2), then with it to the door (0.8).

    The prompt names the fields of the player, the key and the door; a move is one of e, w, n, s and a full stop, and is
    answered by the field that it led to, with + once the key is held. `turns` moves at most, else 4 size.
    """

    size: int = 4
    turns: int = 0

    def __post_init__(self) -> None:
        _within("key_door", "size", self.size, 2, 9)
        _within("key_door", "turns", self.turns, 0, 999)

    def game(self) -> Game:
        """See Game."""
        form = Form(f"{GAP}.", f"{GAP};")
        return Game(self._problem, Dialogue(self._respond, ("move",), form, self.turns or 4 * self.size), _nothing)

    def _problem(self, numbers: random.Random) -> Problem:
        fields = [(x, y) for x in range(self.size) for y in range(self.size)]
        start, key, door = numbers.sample(fields, 3)
        moves = [*_way(start, key), *_way(key, door)]
        problem = Problem(
            f"Go {_field(start)} {_field(key)} {_field(door)} !", "".join(moves), {"fields": (start, key, door)}
        )
        worked: list[str] = []
        for taken in range(1, len(moves) + 1):
            worked += [moves[taken - 1] + ".", self._reply(problem, moves[:taken]).text + ";"]
        return Problem(problem.prompt, problem.answer, problem.columns, tuple(worked[:-1]))

    def _respond(self, problems: Sequence[Problem], calls: Sequence[Sequence[Call]]) -> list[Reply]:
        return [
            self._reply(problem, [call.text for call in made]) for problem, made in zip(problems, calls, strict=True)
        ]

    def _reply(self, problem: Problem, moves: Sequence[str]) -> Reply:
        """What comes of the last move; nobody remembers the others, so they are made again."""
        (x, y), key, door = problem.columns["fields"]
        held = reached = False
        reward = 0.0
        for move in moves:
            dx, dy = MOVES.get(move, (0, 0))
            x, y = min(max(x + dx, 0), self.size - 1), min(max(y + dy, 0), self.size - 1)
            found = (x, y) == key and not held
            held = held or found
            reached = held and (x, y) == door
            reward = 0.2 * found + 0.8 * reached
        return Reply(_field((x, y)) + "+" * held, reward, done=reached)


GAMES: dict[str, type[Any]] = {"calculator": Calculator, "key_door": KeyDoor}


def problems_of(game: Game, size: int, seed: int) -> Iterator[Problem]:
    """That many problems; the first ones do not depend on how many."""
    for index in range(size):
        yield game.problems(random.Random(f"{seed}-{index}"))


def _within(task: str, name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise TightreinError(f"{name} of {task} is {value}", f"give --task-set {name}= a number from {low} to {high}")


def _way(start: tuple[int, int], end: tuple[int, int]) -> list[str]:
    across, up = end[0] - start[0], end[1] - start[1]
    return ["e" if across > 0 else "w"] * abs(across) + ["n" if up > 0 else "s"] * abs(up)


def _field(place: tuple[int, int]) -> str:
    return f"{place[0]}{place[1]}"


def _exact(problems: Sequence[Problem], answers: Sequence[Answer]) -> list[float]:
    return [float(final(a).strip() == p.answer) for p, a in zip(problems, answers, strict=True)]


def _nothing(problems: Sequence[Problem], answers: Sequence[Answer]) -> list[float]:
    return [0.0] * len(problems)
