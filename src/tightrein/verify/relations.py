"""What equals, bounds or tends to what, tested from the relations that the catalogue holds as data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arrays import Array, convert
from ..method import Method
from ..relations import Bound, Comparison, Equals, Limit, Relation, Stationary
from . import batches
from .checks import NotApplicable

TOLERANCE, LIMIT = 1e-9, 1e-4
NEAR = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # how near a setting comes to its limit
SCALES = {
    "(G-1)/G": lambda g: (g - 1) / g,
    "G/(G-1)": lambda g: g / (g - 1),
    "1/G": lambda g: 1 / g,
    "G": lambda g: g,
}


def relations(key: str) -> str:
    """Every relation of the method to others holds."""
    mine = batches.method(key)
    if not mine.relations:
        raise NotApplicable("none is written down")
    for relation in mine.relations:
        assert isinstance(relation, Relation), f"in words only: {relation}"
        for seed in (3, 4):
            holds(relation, mine, seed)
    return str(len(mine.relations))


def holds(relation: Relation, method: Method, seed: int) -> None:
    """Raise AssertionError where the relation does not hold on a random batch."""
    if isinstance(relation, Stationary):
        _stationary(relation, method)
        return
    assert isinstance(relation, Comparison)
    made = _batch(relation, method, seed)
    theirs = _measured(relation, batches.method(relation.other, **dict(relation.theirs)), made, method)
    if isinstance(relation, Limit):
        _tends(relation, method, made, theirs)
        return
    ours = _measured(relation, method.override(dict(relation.mine)), made, method)
    if isinstance(relation, Bound):
        assert np.all(ours >= theirs - TOLERANCE), f"{relation}: below by {float(np.max(theirs - ours)):.1e}"
    if isinstance(relation, Equals):
        assert np.any(theirs), f"{relation}: both are 0, which shows nothing"
        error = _distance(ours, _scale(relation, made) * theirs)
        assert error <= TOLERANCE, f"{relation}: off by {error:.1e}"


def _tends(relation: Limit, method: Method, made: batches.Fields, theirs: Array) -> None:
    def error(near: float) -> float:
        value = 1 / near if math.isinf(relation.to) else relation.to + near
        changed = method.override({**dict(relation.mine), relation.setting: value})
        return _distance(_measured(relation, changed, made, method), theirs)

    errors = [error(near) for near in NEAR]
    assert errors[-1] <= LIMIT, f"{relation}: off by {errors[-1]:.1e} at the end"
    assert errors[-1] < 0.5 * errors[0] or errors[0] <= TOLERANCE, f"{relation}: comes no nearer"


def _stationary(relation: Stationary, method: Method) -> None:
    width = method.settings()[relation.width]
    surrogate = method.objective.surrogate  # type: ignore[attr-defined]
    for advantage in (-2.0, -1.0, 0.5, 3.0):
        sign = 1 if advantage > 0 else -1
        before, at, beyond = (
            -sign * batches.slope(surrogate, 1 + sign * share * width, advantage) for share in (0.9, 1, 1.1)
        )
        assert abs(at) <= 1e-12, f"{relation}: {at:.1e} for A = {advantage}"
        assert beyond < 0 < before, f"{relation}: does not turn for A = {advantage}"


def _batch(relation: Comparison, like: Method, seed: int) -> batches.Fields:
    """Random fields on which the relation holds."""
    pairs = {"pairs", "groups of two"} & set(relation.on)
    like = like.replace(experience="pairs") if pairs else like
    made = batches.fields(seed, like, width=1 if "one decision per answer" in relation.on else batches.WIDTH)
    if "equal lengths" in relation.on:
        made["mask"] = np.ones_like(made["mask"])
    if "pairs" in relation.on:
        made["reward"] = made["chosen"]
    if {"the old policy", "the reference"} & set(relation.on):
        made |= {"logp": made["logp_old"].copy(), "dist": made["dist_old"], "entropy": made["entropy_old"].copy()}
    if "the old policy sampled" in relation.on:
        made["logp_behaviour"] = made["logp_old"].copy()
    if "the reference" in relation.on:
        made["logp_ref"] = made["logp_old"].copy()
    return made


def _scale(relation: Equals, made: batches.Fields) -> float:
    size = int(np.max(np.unique(made["group"], return_counts=True)[1]))
    return SCALES[relation.scale](size) if isinstance(relation.scale, str) else relation.scale


def _measured(relation: Comparison, method: Method, made: batches.Fields, mine: Method) -> Array:
    """What the relation compares, of one method, as a flat NumPy array."""
    maker = method if relation.whole or relation.what == "advantage" else mine.override(dict(relation.mine))
    d = maker.prepare(batches.decisions(made), batches.start(maker))
    if relation.what == "advantage":
        return np.ravel(d.advantage)
    state = batches.start(method)
    if relation.what == "gradient":
        found = batches.gradients(method, d, convert(state, batches.autodiff()))
        policy = [g for name, g in sorted(found.items()) if name == "logp" or name.startswith("dist.")]
        return np.concatenate([np.ravel(g) for g in policy])
    loss = method.loss(d, state)
    return np.ravel(np.asarray(loss.value if relation.what == "loss" else loss.per_decision))


def _distance(ours: Any, theirs: Any) -> float:
    return float(np.max(np.abs(ours - theirs), initial=0.0) / max(1.0, float(np.max(np.abs(theirs), initial=0.0))))
