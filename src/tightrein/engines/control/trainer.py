"""What a trainer is: all rows of a run, each a seed at a point of the grid, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from tightrein.engines.control.learner import Learner

Array = Any


@dataclass(frozen=True)
class Rows:
    """What trains side by side: of each row its seed, and its value of each setting that differs between them."""

    seeds: Sequence[int]
    values: dict[str, Array] = field(default_factory=dict)  # path of a setting -> [S]
    points: Sequence[Mapping[str, float]] = ()  # the same of each row, under short names; none without a grid

    def named(self, row: int) -> dict[str, Any]:
        """What tells a row from the others: its seed, and its point where there is a grid."""
        return {"seed": self.seeds[row], **({"point": dict(self.points[row])} if self.points else {})}

    @property
    def keys(self) -> Keys:
        """The random streams of all rows."""
        keys: Keys = jax.vmap(Keys.of)(jnp.asarray(self.seeds))
        return keys

    def networks(self, learner: Learner) -> Any:
        """What `learner.init` begins with, of all rows: stacked along a leading axis [S]."""
        each = {seed: learner.networks(seed) for seed in dict.fromkeys(self.seeds)}
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(each[seed] for seed in self.seeds))


class Keys(NamedTuple):
    """The independent random streams of a seed; iterations and evaluations fold their number into them."""

    train: Array
    envs: Array
    evaluation: Array

    @classmethod
    def of(cls, seed: Array) -> Keys:
        """The streams of one seed."""
        return cls(*jax.random.split(jax.random.key(seed), 3))


class Figures(NamedTuple):
    """What some iterations gave, one entry a row [S]: finished training episodes, and the last iteration's stats."""

    return_sum: Array
    length_sum: Array
    count: Array
    broken: Array  # the first iteration with a non-finite loss or parameter, -1 where all is well
    stats: dict[str, Array]


class Trainer(Protocol):
    """All rows of a run."""

    state: Any

    def run(self, first: int, count: int) -> Figures:
        """Iterations first ... first + count - 1."""

    def evaluate(self, iteration: int) -> Array:
        """Mean evaluation return of each row [S] after `iteration` iterations."""

    def cut(self, iteration: int) -> None:
        """Brings what a checkpoint cannot hold into a state that follows from `iteration` alone."""


def first_broken(broken: Array, stats: dict[str, Array], iteration: Array) -> Array:
    """The first iteration whose `finite` was 0, per row; -1 while there is none."""
    return jnp.where((broken < 0) & (stats["finite"] == 0), iteration, broken)
