"""Wrong answers made from right ones, for a task that has only these."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from tightrein.engines.language.evaluate import CORRECT
from tightrein.engines.language.rewards.functions import Reward
from tightrein.engines.language.tasks.problems import Problem

TRIES = 8  # slips in an answer of which none is found to be wrong, after which the last is taken


def wrong_answers(problems: Sequence[Problem], reward: Reward) -> list[str]:
    """To each problem its answer (in turns: the last) with a slip, the same for the same problem.

    A slip: two neighbours exchanged, a character replaced, added or left out. reward: says whether it is still right.
    """
    slips = [_slips(problem) for problem in problems]
    found = [next(each) for each in slips]
    for _ in range(TRIES):
        scores = reward(problems, found)
        right = [place for place, score in enumerate(scores) if score >= CORRECT]
        for place in right:
            found[place] = next(slips[place])
        if not right:
            break
    return found


def _slips(problem: Problem) -> Iterator[str]:
    """Endless slips in the problem's answer, none of them the answer itself."""
    numbers = random.Random(f"slips in {problem.text}")
    answer = problem.shown[-1]
    letters = sorted({*answer, *problem.text})
    while True:
        slip = numbers.choice(SLIPS)(answer, numbers.randrange(max(1, len(answer))), numbers.choice(letters))
        if slip != answer:
            yield slip


def _exchange(text: str, at: int, letter: str) -> str:
    return text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :]


def _replace(text: str, at: int, letter: str) -> str:
    return text[:at] + letter + text[at + 1 :]


def _insert(text: str, at: int, letter: str) -> str:
    return text[:at] + letter + text[at:]


def _leave_out(text: str, at: int, letter: str) -> str:
    return text[:at] + text[at + 1 :]


SLIPS: tuple[Callable[[str, int, str], str], ...] = (_exchange, _exchange, _replace, _insert, _leave_out)
