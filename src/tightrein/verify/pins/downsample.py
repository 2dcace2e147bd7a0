"""Exact properties of D3S."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ...arrays import Array
from ...catalogue import method
from ...decisions import Decisions
from ...selection import InformativeTokens, MaximumVariance, Ramp
from .. import batches
from ..checks import close
from ..pin import pin

FULL = {"selection.maximum_variance.share.start": 1.0, "selection.informative_tokens.share.start": 1.0}


def answers(advantage: Any, entropy: Any = None, group: Any = None) -> Decisions:
    """Answers of one decision each."""
    column = np.asarray(advantage, float)[:, None]
    rows = column.shape[0]
    return Decisions(
        advantage=column,
        mask=np.ones((rows, 1)),
        entropy_old=np.ones((rows, 1)) if entropy is None else np.asarray(entropy, float)[:, None],
        group=np.zeros(rows, int) if group is None else np.asarray(group),
    )


def kept(d: Decisions, share: float, within_groups: bool = False) -> Array:
    """Which answers stay: [B] booleans."""
    part = MaximumVariance(share=Ramp(start=share), within_groups=within_groups)
    return np.asarray(part(d).mask[:, 0] != 0)


def variance(advantage: Array, chosen: Array) -> float:
    """Variance of the advantages of the chosen answers."""
    return float(np.var(advantage[chosen]))


@pin("d3s")
def paper_example() -> None:
    """Of 0, .2, .5, .6, 1, .9 the four that vary most are 0, .2, .9, 1."""
    assert kept(answers([0, 0.2, 0.5, 0.6, 1, 0.9]), 4 / 6).tolist() == [True, True, False, False, True, True]


@pin("d3s")
def solver_is_exact() -> None:
    """The solver finds what brute force over all subsets finds, for pools of up to 12 answers."""
    rng = np.random.default_rng(0)
    for rows in (2, 3, 5, 8, 12):
        for wanted in range(2, rows + 1):
            advantage = rng.standard_normal(rows) if wanted % 2 else rng.integers(0, 3, rows).astype(float)
            chosen = kept(answers(advantage, rng.random(rows)), wanted / rows)
            best = max(np.var(advantage[list(s)]) for s in itertools.combinations(range(rows), wanted))
            assert chosen.sum() == wanted
            close(variance(advantage, chosen), best, 2e-6, f"{wanted} of {rows}")


@pin("d3s")
def groups_apart() -> None:
    """Within groups each one keeps what it would keep alone."""
    rng = np.random.default_rng(1)
    advantage, entropy, group = rng.standard_normal(15), rng.random(15), rng.permutation([7] * 6 + [2] * 5 + [9] * 4)
    chosen = kept(answers(advantage, entropy, group), 0.5, within_groups=True)
    for name in (7, 2, 9):
        own = group == name
        assert (chosen[own] == kept(answers(advantage[own], entropy[own]), 0.5)).all()


@pin("d3s")
def no_subset_varies_more() -> None:
    """The kept answers vary at least as much as any random ones of the same number."""
    rng = np.random.default_rng(2)
    advantage = rng.standard_normal(40)
    chosen = kept(answers(advantage), 0.3)
    for _ in range(200):
        other = rng.permutation(40) < 12
        assert variance(advantage, chosen) >= variance(advantage, other) - 1e-6


@pin("d3s")
def ties_by_entropy() -> None:
    """Of answers with the same advantage those with the highest entropy stay, whatever their order."""
    advantage, entropy = np.array([1.0, -1, 1, -1, -1, 1]), np.array([0.1, 0.9, 0.5, 0.2, 0.4, 0.3])
    assert np.flatnonzero(kept(answers(advantage, entropy), 4 / 6)).tolist() == [1, 2, 4, 5]


@pin("d3s")
def worthless_tokens_go_first() -> None:
    """Tokens of answers with advantage 0 stay only where all others do."""
    rng = np.random.default_rng(3)
    advantage = np.array([0.0, 0.7, 0.0, -0.2])[:, None] * np.ones((4, 10))
    d = Decisions(advantage=advantage, mask=np.ones((4, 10)), entropy_old=rng.random((4, 10)))
    for wanted in (1, 7, 20):
        mask = InformativeTokens(share=Ramp(start=wanted / 40))(d).mask
        score = np.abs(advantage) * d.entropy_old
        assert mask.sum() == wanted
        assert not mask[[0, 2]].any()
        assert score[mask == 1].min() >= score[mask == 0].max()


@pin("d3s")
def everything_kept() -> None:
    """With both shares 1 it is GRPO averaged over tokens; so it ends, after half of the training."""
    base = method("grpo").override({"objective.aggregate": "TokenMean", "reference.coef": 0.0})
    made = batches.fields(4, base)
    d = batches.decisions(made)
    expected = base.loss(base.prepare(d)).value
    open_wide = method("d3s").override(FULL)
    close(open_wide.loss(open_wide.prepare(d)).value, expected, 1e-12, "loss with shares 1")
    m = method("d3s")
    late = m.update(m.init(), d, 0.5)
    close(m.loss(m.prepare(d, late)).value, expected, 1e-12, "loss at half of the training")


@pin("d3s")
def schedule() -> None:
    """The share grows linearly from its start to its end, and stays there."""
    ramp = Ramp(0.2, 0.8, until=0.5)
    close([ramp(p, np.ones(())) for p in (0.0, 0.25, 0.5, 1.0)], [0.2, 0.5, 0.8, 0.8], 1e-12, "share")
